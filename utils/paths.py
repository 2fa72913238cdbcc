"""Every file and folder name.

Scripts meet in files, so the names are an agreement: a writer and its readers
both call the function here. A member's own path is in `member_paths`.
Nothing here imports TensorFlow.
"""

import dataclasses
import re

from etils import epath

from utils import compressed, storage
from utils.member_paths import Checkpoint, Level

# The name of a shard: any prefix, a word for the split, index and count.
SHARD = re.compile(
  r'^(?:.*[-_.])?(train|training|validation|val|eval|test)'
  r'(?:\.tfrecord)?-(\d+)-of-(\d+)$'
)
# The folder of predictions in that of a data set's results.
PREDICTIONS_NAME = 'predictions_dataframe'
_GROUP_METRICS_NAME = 'group_metrics'
# The `mode` flag of the scripts, and the words for it in the names of shards.
SPLITS = {
  'train': ('train', 'training'),
  'eval': ('validation', 'val', 'eval', 'test'),
}


@dataclasses.dataclass(frozen=True)
class Study:
  """One folder with all that is made from one data set and one population.

  Attributes:
    folder: of the study.
    name: of the data set.
    mode: split.
  """

  folder: str
  name: str
  mode: str = 'eval'

  def _in(self, *names: str) -> str:
    return str(epath.Path(self.folder).joinpath(*names))

  @property
  def data(self) -> str:
    """Shards and their description."""
    return self._in('data')

  @property
  def groups(self) -> str:
    """Which image is of which group, where the data has groups."""
    return image_groups(self.data, self.mode)

  @property
  def classes(self) -> str:
    """Names of the classes of data from elsewhere."""
    return self._in('classes.csv')

  @property
  def checkpoints(self) -> str:
    """The members; the folder's name is that of the experiment."""
    return self._in('checkpoints', self.name)

  @property
  def results(self) -> str:
    """Tables, figures and the page."""
    return self._in('results')

  @property
  def predictions(self) -> str:
    """The predictions of one split."""
    return predictions_folder(self.results, self.name, self.mode)

  @property
  def class_metrics(self) -> str:
    """The class metrics of one split."""
    return class_metrics_folder(self.results, self.name, self.mode)

  @property
  def group_metrics(self) -> str:
    """The metrics of groups of one split."""
    return group_metrics_folder(self.results, self.name, self.mode)

  @property
  def pie(self) -> str:
    """PIE records and their statistics."""
    return self._in('pie')

  @property
  def corrupted(self) -> str:
    """Corrupted copies of the data."""
    return self._in('corrupted')

  @property
  def corrupted_name(self) -> str:
    """What the corrupted copies are called in the results."""
    return f'{self.name}_c'

  @property
  def robustness(self) -> str:
    """What was measured on unusual images, and its summary."""
    return self._in('results', 'robustness')


def _below(folder: str, dataset: str, *names: str) -> epath.Path:
  """A path below a folder; tables and flags that name its parts stay in it."""
  storage.check_component('dataset_name', dataset)
  for name in names:
    storage.check_component('part of a path', name)
  return epath.Path(folder).joinpath(dataset, *names)


def split_of_shard(shard_name: str) -> str:
  """The word for the split in the name of a shard, '' where there is none."""
  match = SHARD.match(shard_name)
  return match[1] if match else ''


def image_records(folder: str) -> str:
  """The description of a data set, beside its shards."""
  return str(epath.Path(folder) / 'image_records.json')


def image_groups(folder: str, mode: str) -> str:
  """Which image of a split is of which group, beside its records."""
  return str(epath.Path(folder) / f'groups_{mode}.csv')


def shard(folder: str, split: str, index: int, count: int) -> str:
  """A TFRecord shard of a split ('train', 'validation')."""
  return str(epath.Path(folder) / f'{split}-{index:05d}-of-{count:05d}')


def shard_done(folder: str, shard_name: str) -> str:
  """What the builder of a data set notes of a finished shard."""
  return str(epath.Path(folder) / '.build' / f'{shard_name}.json')


def summaries(folder: str) -> str:
  """The TensorBoard summaries of a member."""
  return str(epath.Path(folder) / 'summaries')


def resume_folder(folder: str) -> str:
  """What a member's training needs to go on; private to the training room."""
  return str(epath.Path(folder) / 'resume')


def provenance(folder: str, script: str) -> str:
  """The record of the command that wrote into a folder."""
  return str(epath.Path(folder) / f'{script}.run.json')


def level_name(level: Level) -> str:
  """A level as one word, in the names of files."""
  return f'{level.pruning_method}_{float(level.fraction_pruned)}'


def predictions_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of all predictions for one split of a data set."""
  return str(_below(output_path, dataset, PREDICTIONS_NAME, mode))


def predictions(
  output_path: str,
  dataset: str,
  mode: str,
  shard_name: str,
  of: Checkpoint,
  compress: bool = False,
) -> str:
  """The predictions of one member for one shard."""
  name = f'predictions_dataframe_{of.file_stem}.csv'
  if compress:
    name = compressed.other_form(name)
  return str(
    _below(output_path, dataset, PREDICTIONS_NAME, mode, shard_name, name)
  )


def modal_labels_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of all modal labels for one split of a data set."""
  return str(_below(output_path, dataset, 'modal_labels', mode))


def modal_labels(
  output_path: str,
  dataset: str,
  mode: str,
  shard_name: str,
  level: Level,
) -> str:
  """The modal labels of one shard at one level of sparsity."""
  name = f'{level_name(level)}.csv'
  return str(
    _below(output_path, dataset, 'modal_labels', mode, shard_name, name)
  )


def pie_null(
  output_path: str, dataset: str, mode: str, shard_name: str = ''
) -> str:
  """How many PIEs chance gives, per level; of all shards, or of one."""
  name = (
    f'{mode}_{shard_name}_pie_null.csv'
    if shard_name
    else (f'{mode}_pie_null.csv')
  )
  return str(_below(output_path, dataset, name))


def verdicts(output_path: str, dataset: str, mode: str) -> str:
  """What can be said of each level, in words."""
  return str(_below(output_path, dataset, f'{mode}_verdicts.csv'))


def costs(output_path: str, dataset: str, mode: str) -> str:
  """What each level costs beside accuracy."""
  return str(_below(output_path, dataset, f'{mode}_costs.csv'))


def corrupted_costs(output_path: str, dataset: str, mode: str) -> str:
  """The same on corrupted images."""
  return str(_below(output_path, dataset, f'{mode}_corrupted_costs.csv'))


def class_costs(output_path: str, dataset: str, mode: str) -> str:
  """PIEs and flips of each class at each level."""
  return str(_below(output_path, dataset, f'{mode}_class_costs.csv'))


def group_costs(output_path: str, dataset: str, mode: str) -> str:
  """PIEs and errors of each group of images at each level."""
  return str(_below(output_path, dataset, f'{mode}_group_costs.csv'))


def newly_wrong(output_path: str, dataset: str, mode: str) -> str:
  """What newly wrong images are taken for."""
  return str(_below(output_path, dataset, f'{mode}_newly_wrong.csv'))


def reliability(output_path: str, dataset: str, mode: str) -> str:
  """How often members are right, by how sure they are."""
  return str(_below(output_path, dataset, f'{mode}_reliability.csv'))


def gains(output_path: str, dataset: str) -> str:
  """What each level gains: sizes and operations."""
  return str(_below(output_path, dataset, 'gains.csv'))


def layer_gains(output_path: str, dataset: str) -> str:
  """The same of each layer."""
  return str(_below(output_path, dataset, 'layer_gains.csv'))


def speed(output_path: str, dataset: str) -> str:
  """Images a second of each level, on one machine."""
  return str(_below(output_path, dataset, 'speed.csv'))


def pie_records(
  output_file: str,
  dataset: str,
  mode: str,
  is_pie: str,
  level: Level,
  shard_name: str,
) -> str:
  """PIE ('pie') or other ('non_pie') records of one shard at one level.

  Without the name of a shard, the folder of them all.
  """
  names = [
    mode,
    is_pie,
    level.pruning_method,
    str(float(level.fraction_pruned)),
  ]
  if shard_name:
    names.append(shard_name)
  return str(_below(output_file, dataset, *names))


def pie_statistics(
  output_file: str,
  dataset: str,
  mode: str,
  shard_name: str,
  level: Level,
) -> str:
  """The counts of PIEs of one shard at one level."""
  name = f'{mode}_{shard_name}_{level_name(level)}.csv'
  return str(_below(output_file, dataset, 'stats', name))


def class_metrics_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of the per-class metrics of all members."""
  return str(_below(output_path, dataset, 'class_metrics', mode))


def class_metrics(
  output_path: str, dataset: str, mode: str, of: Checkpoint
) -> str:
  """Per-class metrics of one member."""
  name = f'class_metrics_{of.file_stem}.csv'
  return str(_below(output_path, dataset, 'class_metrics', mode, name))


def group_metrics_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of the metrics of groups of all members."""
  return str(_below(output_path, dataset, _GROUP_METRICS_NAME, mode))


def group_metrics(
  output_path: str, dataset: str, mode: str, of: Checkpoint
) -> str:
  """Metrics of one member per group of classes or images."""
  name = f'class_metrics_{of.file_stem}.csv'
  return str(_below(output_path, dataset, _GROUP_METRICS_NAME, mode, name))


def is_of_groups(path: str) -> bool:
  """Whether a file of metrics is of groups, not of classes, by its folder."""
  return _GROUP_METRICS_NAME in epath.Path(path).parts


def t_statistic(output_file: str, dataset: str, mode: str) -> str:
  """The t-test of each class at each level."""
  return str(_below(output_file, dataset, mode, 'recall_t_statistic.csv'))


def class_impact_summary(output_file: str, dataset: str, mode: str) -> str:
  """How many classes moved, per level."""
  return str(_below(output_file, dataset, mode, 'class_impact_summary.csv'))


def group_tests(results: str) -> str:
  """The folder for results of `gen_tstatistic` about groups, not classes."""
  return str(_below(results, 'groups'))


def class_impact_figure(
  output_file: str, dataset: str, mode: str, name: str, suffix: str
) -> str:
  """A figure of class impact: name is a level or 'significant_classes'."""
  return str(
    _below(output_file, dataset, mode, f'class_impact_{name}.{suffix}')
  )


def corrupted_folder(
  root: str, corruption: str, severity: int, version: str
) -> str:
  """A corrupted copy of a data set, in TFDS's layout of ImageNet-C."""
  return str(epath.Path(root) / f'{corruption}_{severity}' / version)


def robustness(dest_dir: str, dataset: str, name: str, of: Checkpoint) -> str:
  """The metrics of one member on one data set (`<corruption>_<severity>`)."""
  return str(_below(dest_dir, dataset, name, f'{of.file_stem}.csv'))


def robustness_summary(dest_dir: str) -> str:
  """What pruning costs off the clean distribution, per level."""
  return str(epath.Path(dest_dir) / 'robustness_summary.csv')


def robustness_figure(dest_dir: str, suffix: str) -> str:
  """The figure of the summary."""
  return str(epath.Path(dest_dir) / f'robustness_summary.{suffix}')


def headline_table(output_path: str) -> str:
  """The table at the end of a run."""
  return str(epath.Path(output_path) / 'headline_table.csv')


def gallery(output_path: str, dataset: str, mode: str) -> str:
  """The folder of the page that shows the PIEs; it opens at index.html."""
  return str(epath.Path(output_path) / dataset / 'gallery' / mode)


def suspects(output_path: str, dataset: str, mode: str) -> str:
  """Images whose label should be looked at, ranked."""
  return str(epath.Path(output_path) / dataset / f'{mode}_suspects.csv')


def people(output_path: str, dataset: str, mode: str, name: str) -> str:
  """What people say of images, held against a study (`tables.PEOPLE`)."""
  return str(_below(output_path, dataset, f'{mode}_people_{name}.csv'))


def members_needed(output_path: str, dataset: str, mode: str) -> str:
  """The smallest changes that populations of some sizes would show."""
  return str(_below(output_path, dataset, f'{mode}_members_needed.csv'))


def subset_tests(output_path: str, dataset: str, mode: str) -> str:
  """The exact test of each level with fewer members."""
  return str(_below(output_path, dataset, f'{mode}_subset_tests.csv'))


def annotation_summary(output_path: str, dataset: str, mode: str) -> str:
  """What people said of PIEs and of other images."""
  return str(
    epath.Path(output_path) / dataset / f'{mode}_annotation_summary.csv'
  )
