r"""Measures what compression costs beside accuracy.

Reads the predictions of all members, as aggregate_predictions does, and what
that made of them: the PIE null, which says what the levels are and which are
pairs, and the modal labels. Writes in <results_directory>/<dataset_name>

  <mode>_costs.csv        for each level and measure the value, its interval,
                          what training's randomness alone gives, and whether
                          it is beyond that
  <mode>_class_costs.csv  for each level and class: PIEs beside the share of
                          images, and flips
  <mode>_group_costs.csv  of groups of images, if there are any, for each level
                          and group PIEs beside the share of images, error, and
                          of labels 0 and 1 false positives and negatives,
                          equalised odds
  <mode>_newly_wrong.csv  what the images that became wrong are taken for
  <mode>_reliability.csv  how often members are right, by how sure they are

  python -m pie_dataset_gen.measure_costs --study=runs/digits

takes seconds, and of many images about as long as aggregate_predictions. The
measures:

  churn             the share of images on which two networks answer otherwise:
                    against the dense (a dense and a compressed one, beside two
                    dense ones), among themselves (two compressed ones), and
                    beyond noise: what is left of the first when both
                    populations' own churn is taken off
  newly wrong       the share of images that a dense network has right and a
                    compressed one wrong, beside two dense ones; newly right is
                    the other way round
  calibration       of the predicted class, since of the others no probability
                    is in the predictions (pie_dataset_gen/calibration.py):
                    negative log-likelihood, Brier score, expected calibration
                    error, the squared one without bias, mean confidence, and
                    how far that is above accuracy
  confidence        on PIEs and on the other images

Members that were made from dense ones (pairs) are held against their own twin.
Without predicted_probability there is no calibration, and the table says so.
"""

import functools
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import (
  cost_rows,
  disagreement,
  group_costs,
  shard_predictions,
)
from utils import (
  command_line,
  csvs,
  image_records,
  membership,
  paths,
  populations,
  prediction_files,
  provenance,
  storage,
  tables,
  workers,
)

_SCRIPT = 'pie_dataset_gen.measure_costs'
_LABEL_COLUMNS = (
  'image_key',
  'baseline_modal_label',
  'variant_modal_label',
  'baseline_correct_share',
  'variant_correct_share',
)
# Shares of one count over one number differ in their last digits only.
_ROUNDING = 1e-9


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of predictions, as for aggregate_predictions.',
  )
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: the --output_path of aggregate_predictions; the '
    'tables go into it too.',
  )
  flags.DEFINE_string(
    'records_directory',
    '',
    'Folder of image_records.json, for the names of the classes. Empty: their '
    'ids.',
  )
  flags.DEFINE_string(
    'groups_file',
    '',
    'CSV of groups of images: columns group and image_key. Empty: those of the '
    'data of --study (build_image_data --group_columns), if it has any.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that was predicted.'
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind the p-values; fewer where there are no more. '
    '0: no tests.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the permutations.')
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards counted at once, each in a process and memory of its own; '
    'few rows use fewer.',
    lower_bound=1,
  )
  command_line.define_scheduler()


class Settings(NamedTuple):
  """What decides the results, beside the predictions.

  Attributes:
    results: folder of the results.
    dataset: name of the data set.
    mode: split.
    paired: level -> whether its members are pairs, of all levels.
    permutations: memberships beside the true one.
    seed: of the draws.
    groups: group -> keys of its images.
  """

  results: str
  dataset: str
  mode: str
  paired: Mapping[populations.Level, bool]
  permutations: int
  seed: int
  groups: dict[str, set[str]]

  def populations(
    self, members: Sequence[shard_predictions.Identity]
  ) -> list[cost_rows.Population]:
    """Each level beside the dense members."""
    return cost_rows.compared(
      members,
      self.paired,
      self.permutations,
      self.seed,
      paths.pie_null(self.results, self.dataset, self.mode),
    )


class ShardCounts(NamedTuple):
  """What a shard adds.

  Attributes:
    shard: its name.
    members: [members] sorted.
    image_key: [images].
    pairs: of each two members.
    flips: of each level.
    groups: counts of groups, or None where there are none.
  """

  shard: str
  members: list[shard_predictions.Identity]
  image_key: np.ndarray
  pairs: disagreement.Pairs
  flips: dict[populations.Level, disagreement.Flips]
  groups: group_costs.Counts | None


def count_shard(
  shard: str, files: Sequence[str], *, settings: Settings, aside: str
) -> ShardCounts:
  """Counts the images of one shard; leaves how sure members are aside.

  Args:
    shard: its name.
    files: the predictions of all members.
    settings: of the run.
    aside: folder of this machine for them.
  """
  predictions = shard_predictions.read_shard(files, settings.mode)
  flips, are_pies = {}, {}
  # The matrices are small: threads that share one cost more than they save.
  with threadpoolctl.threadpool_limits(1):
    for of in settings.populations(predictions.members):
      is_pie = _read_pies(predictions, shard, of, settings)
      are_pies[of.level] = is_pie
      flips[of.level] = disagreement.count_flips(
        predictions, of.dense, of.compressed, is_pie, of.drawn, of.paired
      )
    pairs = disagreement.count_pairs(predictions.label, predictions.true_class)
  right = predictions.label == predictions.true_class[:, None]
  # A row for each member, which is then read by itself.
  for name, values in (
    ('confidence', predictions.probability.T),
    ('right', right.T),
    ('pie', np.array(list(are_pies.values()))),
  ):
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(values))
    storage.write_complete(_aside(aside, shard, name), data.getvalue())
  groups = None
  if settings.groups:
    groups = group_costs.count(predictions, settings.groups, are_pies)
  return ShardCounts(
    shard, predictions.members, predictions.image_key, pairs, flips, groups
  )


def _aside(aside: str, shard: str, name: str) -> str:
  return storage.within(aside, f'{shard} {name}.npy')


def _read_pies(
  predictions: shard_predictions.Predictions,
  shard: str,
  of: cost_rows.Population,
  settings: Settings,
) -> np.ndarray:
  """[images] which are PIEs, by the modal labels of these predictions."""
  path = paths.modal_labels(
    settings.results, settings.dataset, settings.mode, shard, of.level
  )
  labels = csvs.read(tables.MODAL_LABELS, path, _LABEL_COLUMNS)
  labels = labels.set_index('image_key').reindex(predictions.image_key)
  right = predictions.label == predictions.true_class[:, None]
  for who, members in (('baseline', of.dense), ('variant', of.compressed)):
    share = labels[f'{who}_correct_share'].to_numpy()
    apart = np.abs(share - right[:, members].mean(axis=1))
    # Not a number where an image lacks.
    if not (apart <= _ROUNDING).all():
      at = int(np.flatnonzero(~(apart <= _ROUNDING))[0])
      raise ValueError(
        f'{path} was made of other predictions than those of the shard: of '
        f'{predictions.image_key[at]!r} {who}_correct_share is {share[at]}, by '
        f'the predictions {right[at, members].mean()}: run '
        'aggregate_predictions again'
      )
  return populations.is_pie(labels).to_numpy()


def _scores(
  aside: str,
  shards: Sequence[str],
  number: int,
  levels: Sequence[populations.Level],
) -> dict[int, cost_rows.Scores]:
  """Of each member, read one at a time: memory knows no number of members."""

  def of_shards(name):
    return [
      np.load(_aside(aside, shard, name), mmap_mode='r') for shard in shards
    ]

  confidence, right, pie = map(of_shards, ('confidence', 'right', 'pie'))
  is_pie = dict(zip(levels, np.concatenate(pie, axis=1), strict=True))
  return {
    member: cost_rows.score(
      np.concatenate([part[member] for part in confidence]),
      np.concatenate([part[member] for part in right]),
      is_pie,
    )
    for member in range(number)
  }


def run(
  data_directory: str,
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
  records_directory: str = '',
  groups_file: str = '',
  num_permutations: int = 999,
  seed: int = 0,
  place: workers.Place = workers.HERE,
) -> pd.DataFrame:
  """Measures and writes the tables; returns the rows of `tables.COSTS`.

  Raises:
    FileNotFoundError: predictions or modal labels are missing.
    ValueError: they are damaged, or do not belong together.
  """
  membership.check_permutations(num_permutations)
  of_results = results_directory, dataset_name, mode
  null_path = paths.pie_null(*of_results)
  null = csvs.read(tables.PIE_NULL, null_path)
  paired = cost_rows.paired_levels(null)
  of_groups = group_costs.read_groups(groups_file) if groups_file else {}
  settings = Settings(*of_results, paired, num_permutations, seed, of_groups)
  shards = shard_predictions.find_shards(data_directory, dataset_name, mode, '')
  flips: dict[populations.Level, disagreement.Flips] = {}
  pairs: Any = None
  groups: Any = None
  members: list[shard_predictions.Identity] = []
  same = shard_predictions.SameMembers()
  with workers.scratch_folder(place, results_directory) as aside:
    with workers.mapper(
      place, prediction_files.processes_worth(shards)
    ) as mapped:
      count = functools.partial(count_shard, settings=settings, aside=aside)
      for found in mapped(count, shards, shards.values()):
        same.check(found.shard, found.members, found.image_key)
        members = found.members
        pairs = found.pairs if pairs is None else pairs + found.pairs
        groups = found.groups if groups is None else groups + found.groups
        for level, of in found.flips.items():
          flips[level] = flips[level] + of if level in flips else of
        logging.info('%s: %d images', found.shard, len(found.image_key))
    scores = _scores(aside, list(shards), len(members), list(paired))
  if same.num_images != null['total_images_count'].iloc[0]:
    raise ValueError(
      f'{data_directory} has predictions of {same.num_images} images, '
      f'{null_path} counts {null["total_images_count"].iloc[0]}: wanted those '
      'that aggregate_predictions read'
    )
  if groups is not None:
    _check_groups(of_groups, same.image_keys, groups_file)
    found_of = [
      group_costs.rows_of_level(of, groups, list(of_groups))
      for of in settings.populations(members)
    ]
    csvs.write(
      tables.GROUP_COSTS, pd.concat(found_of), paths.group_costs(*of_results)
    )
  costs = _write(settings, members, pairs, flips, scores, records_directory)
  provenance.write(str(epath.Path(null_path).parent), _SCRIPT, [null_path])
  return costs


def _check_groups(
  groups: Mapping[str, set[str]], keys: Collection[str], path: str
) -> None:
  for name, of in groups.items():
    if unknown := of.difference(keys):
      raise ValueError(
        f'{path}: {len(unknown)} images of the group {name!r} are not among '
        f'the predictions, for example {min(unknown)!r}'
      )


def _write(
  settings: Settings,
  members: Sequence[shard_predictions.Identity],
  pairs: disagreement.Pairs,
  flips: Mapping[populations.Level, disagreement.Flips],
  scores: Mapping[int, cost_rows.Scores],
  records_directory: str,
) -> pd.DataFrame:
  """Writes all tables, the costs, which the others belong to, last."""
  known: Sequence[str] = ()
  if records_directory:
    known = image_records.read(records_directory).class_names

  def names(class_id):
    if class_id < len(known):
      return known[class_id]
    return str(class_id)

  compressed = settings.populations(members)
  dense = compressed[0].dense
  by_class, wrong = [], []
  rows = cost_rows.rows_of_dense(dense, pairs, scores)
  reliability = [
    cost_rows.reliability_rows(populations.DENSE, [scores[i] for i in dense])
  ]
  for of in compressed:
    rows += cost_rows.rows_of_level(of, pairs, scores)
    by_class.append(cost_rows.class_rows(of, flips[of.level], names))
    wrong.append(cost_rows.newly_wrong_rows(of, flips[of.level], names))
    reliability.append(
      cost_rows.reliability_rows(of.level, [scores[i] for i in of.compressed])
    )
  costs = pd.DataFrame(rows)
  of_results = settings.results, settings.dataset, settings.mode
  for table, frame, path in (
    (tables.CLASS_COSTS, pd.concat(by_class), paths.class_costs(*of_results)),
    (tables.NEWLY_WRONG, pd.concat(wrong), paths.newly_wrong(*of_results)),
    (
      tables.RELIABILITY,
      pd.concat(reliability),
      paths.reliability(*of_results),
    ),
    (tables.COSTS, costs, paths.costs(*of_results)),
  ):
    csvs.write(table, frame.reset_index(drop=True), path)
    logging.info('wrote %s', path)
  return costs


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'data_directory': 'predictions', 'results_directory': 'results'},
    {'records_directory': 'data', 'groups_file': 'groups'},
  )
  run(
    f.data_directory,
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name or 'imagenet',
    records_directory=f.records_directory,
    groups_file=f.groups_file,
    num_permutations=f.num_permutations,
    seed=f.seed,
    place=workers.Place(f.num_cores, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
