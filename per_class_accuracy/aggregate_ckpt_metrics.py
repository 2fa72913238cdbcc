r"""Measures recall and precision of every class, for each trained network.

Reads, one of
  --ckpt_dir                checkpoints, which are evaluated on the TFRecords of
                            --data_directory; or
  --predictions_directory   the CSVs of predictions that imagenet_predictions
                            (or another framework) has written. No network runs
                            and TensorFlow is not loaded.
The two give equal numbers for equal predictions.

Writes one CSV per network, `tables.CLASS_METRICS`:
  <output_path>/<dataset>/class_metrics/<mode>/class_metrics_<network>.csv
with support, recall and precision of every class, and top-1, top-5 and mean
loss over all images in every row. A network whose file exists is skipped. With
--groups_file the rows are groups instead of classes, the folder is
group_metrics, and gen_tstatistic reads it as it reads classes. A study whose
data has groups (build_image_data --group_columns) has both measured, at once.
Predictions of which something shows that they are not what they are taken for
(copies of members, class ids from 1, ...: `utils/plausibility.py`) are refused
before any CSV is written.

  python -m per_class_accuracy.aggregate_ckpt_metrics --study=runs/digits

Expect about a second per network and 50,000 predictions. Every network must
cover the same images; those of a data set whose image_records.json counts them
must be complete.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath

from utils import (
  class_level_metrics,
  class_names,
  command_line,
  csvs,
  digests,
  image_records,
  inference,
  member_paths,
  network_files,
  paths,
  plausibility,
  populations,
  prediction_files,
  provenance,
  storage,
  tables,
  tfrecords,
  workers,
)

_COLUMNS = (
  'predictions',
  'true_class',
  'predicted_probability',
  'top_5_indices',
  'filename',
  *tables.MEMBER_KEY,
  'image_key',
  'cross_entropy',
  'preprocessing',
  'precision',
  'made_from',
)
# Bounds the memory: images whose predictions are compared at once.
_BLOCK_IMAGES = 10_000


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_list(
    'ckpt_dir',
    [],
    'Checkpoints to evaluate: prefixes (.../model.ckpt-420), folders at or '
    'above members (the last checkpoint of each), globs of either, or CSVs of '
    'files, comma-separated. Empty to read --predictions_directory instead.',
  )
  flags.DEFINE_string(
    'predictions_directory',
    '',
    'Folder at or above the CSVs of predictions of one split, a pattern of '
    'them, or several of either, separated by commas. Empty to evaluate '
    '--ckpt_dir instead.',
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Data set. With --ckpt_dir: folder, path or pattern of its TFRecord '
    'shards. With --predictions_directory: folder of its image_records.json, '
    'for the names of the classes and the number of images; empty to name '
    'classes by their ids.',
  )
  flags.DEFINE_string(
    'output_path', '', 'Folder of results, above <dataset>/class_metrics.'
  )
  flags.DEFINE_enum('mode', 'eval', ['train', 'eval'], 'Split to measure.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Data set in the names of results; empty for the name in '
    'image_records.json.',
  )
  flags.DEFINE_integer(
    'num_classes',
    None,
    'Number of classes, for --predictions_directory without --data_directory; '
    'unset for the largest class id there plus 1.',
    lower_bound=2,
  )
  flags.DEFINE_string(
    'classes_file',
    '',
    'CSV with the columns class_id and class_name, for the names of the '
    'classes; has to agree with those of --data_directory. Empty: those, or '
    'the class ids.',
  )
  flags.DEFINE_string(
    'groups_file',
    '',
    'CSV with a column group beside one of class_id, class or image_key: '
    'measure these groups instead of classes. Empty for classes; where the '
    'data of --study has groups, for both.',
  )
  flags.DEFINE_integer(
    'batch_size', 64, 'Images per step, with --ckpt_dir.', lower_bound=1
  )
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    ['legacy', 'modern'],
    'With --ckpt_dir: resize as TF1 did (the original) or as TF2 does.',
  )
  flags.DEFINE_enum(
    'precision',
    'float32',
    ['float32', 'bfloat16'],
    'With --ckpt_dir: number format of the forward pass.',
  )
  flags.DEFINE_float(
    'label_smoothing',
    0.1,
    'With --ckpt_dir: share of the target that is spread evenly over all '
    'classes in the loss, in [0, 1); 0 is none.',
    lower_bound=0,
    upper_bound=1,
  )
  command_line.define_scheduler()
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Take a few synthetic images instead of --data_directory and, without '
    '--ckpt_dir, an untrained network: runs in seconds.',
  )


def run(
  *,
  ckpt_dir: Sequence[str],
  predictions_directory: str,
  data_directory: str,
  output_path: str,
  mode: str,
  dataset_name: str,
  num_classes: int | None,
  groups_file: str,
  and_classes: bool = False,
  classes_file: str = '',
  place: workers.Place = workers.HERE,
  **options: Any,
) -> list[str]:
  """Measures every network; arguments as the flags say.

  With and_classes both classes and the groups are measured. Of the flags the
  options are batch_size, preprocessing, compute_precision and label_smoothing.

  Returns:
    The files of all networks, those that were skipped included.

  Raises:
    ValueError: contradicting arguments, damaged input, or networks that cover
      different images.
    OSError: a file or folder is missing.
  """
  source = _source(
    ckpt_dir,
    predictions_directory,
    data_directory,
    mode,
    num_classes,
    classes_file,
    options,
  )
  dataset_name = dataset_name or (source.records.name if source.records else '')
  if not dataset_name:
    raise ValueError(
      '--dataset_name is empty, and there is no --data_directory to take it '
      'from'
    )
  settings = {'class_names': list(source.class_names), **source.settings}
  of_results = output_path, dataset_name, mode
  targets = []
  if and_classes or not groups_file:
    targets.append(_target(source, settings, paths.class_metrics, of_results))
  if groups_file:
    settings['groups'] = digests.of_files([groups_file])
    targets.append(
      _target(source, settings, paths.group_metrics, of_results, groups_file)
    )
  for one in _measured(source, targets, mode, place):
    for target, metrics in zip(targets, one.metrics, strict=True):
      target.write(one, metrics)
  for target in targets:
    given = [path for path in (classes_file, target.groups_file) if path]
    target.record.finish([*source.inputs, *given], checkpoints=source.networks)
  return [path for target in targets for path in target.outputs.values()]


def _source(
  ckpt_dir: Sequence[str],
  predictions_directory: str,
  data_directory: str,
  mode: str,
  num_classes: int | None,
  classes_file: str,
  options: Mapping[str, Any],
) -> 'Source':
  """The one source of predictions that flags name."""
  if bool(ckpt_dir) == bool(predictions_directory):
    raise ValueError(
      'wanted one of --ckpt_dir and --predictions_directory, got '
      + ('both' if ckpt_dir else 'none')
    )
  if not ckpt_dir:
    return _from_csvs(
      predictions_directory, data_directory, mode, num_classes, classes_file
    )
  if num_classes is not None:
    raise ValueError('--num_classes goes with --predictions_directory')
  source = _by_networks(
    ckpt_dir,
    data_directory,
    mode,
    batch_size=options['batch_size'],
    preprocessing_name=options['preprocessing'],
    precision=options['compute_precision'],
    label_smoothing=options['label_smoothing'],
  )
  if classes_file:
    names = class_names.read(classes_file, source.records)
    source = source._replace(class_names=names)
  return source


class Target(NamedTuple):
  """What is measured: the classes, or groups.

  Attributes:
    groups: as of `class_level_metrics.group_counts`, or None for the classes.
    groups_file: what says who is of which group, or empty.
    outputs: the file of each network.
    record: of these.
  """

  groups: pd.DataFrame | None
  groups_file: str
  outputs: Mapping[member_paths.Checkpoint, str]
  record: provenance.Provenance

  def lacks(self, checkpoint: member_paths.Checkpoint) -> bool:
    """Whether the network is still to be measured."""
    return not storage.exists(self.outputs[checkpoint])

  def write(self, measured: 'Measured', metrics: pd.DataFrame) -> None:
    """Writes what was measured of a network, unless it is there."""
    if not self.lacks(measured.checkpoint):
      return
    self.record.start()
    path = self.outputs[measured.checkpoint]
    csvs.write(tables.CLASS_METRICS, metrics, path)
    logging.info(
      '%s: top-1 %.4f over %d images',
      path,
      metrics['eval_accuracy'].iloc[0],
      len(measured.label),
    )


def _target(
  source: 'Source',
  settings: Mapping[str, object],
  path_of: Callable[..., str],
  of_results: tuple[str, str, str],
  groups_file: str = '',
) -> Target:
  groups = None
  if groups_file:
    groups = _read_groups(groups_file, source.class_names)
  outputs = {
    checkpoint: path_of(*of_results, checkpoint)
    for checkpoint in source.checkpoints
  }
  record = provenance.Provenance(
    str(epath.Path(outputs[source.checkpoints[0]]).parent),
    'per_class_accuracy.aggregate_ckpt_metrics',
    settings,
  )
  return Target(groups, groups_file, outputs, record)


class Measured(NamedTuple):
  """A network that was measured.

  Attributes:
    checkpoint: which.
    metrics: the rows of `tables.CLASS_METRICS`, for each target.
    images: digest of the images' keys and classes.
    label: [images] predicted class ids, in the order of the images' keys.
    probability: [images] of these.
  """

  checkpoint: member_paths.Checkpoint
  metrics: Sequence[pd.DataFrame]
  images: str
  label: np.ndarray
  probability: np.ndarray


def _measured(
  source: 'Source', targets: Sequence[Target], mode: str, place: workers.Place
) -> Iterator[Measured]:
  """Measures the networks that a target lacks.

  Predictions are all judged before the first network is yielded.
  """
  todo = [
    checkpoint
    for checkpoint in source.checkpoints
    if any(target.lacks(checkpoint) for target in targets)
  ]
  done = len(source.checkpoints) - len(todo)
  if done:
    logging.info(
      '%d of %d networks are measured already', done, len(source.checkpoints)
    )
  if todo and source.is_read:
    # Those that are measured already may be copies of others.
    todo = list(source.checkpoints)
  measure = functools.partial(
    _measure,
    predict=source.predict,
    records=source.records,
    class_names=source.class_names,
    groups=[(target.groups, target.groups_file) for target in targets],
    mode=mode,
  )
  with workers.mapper(place, 1) as mapped:
    measured: Iterable[Measured] = _of_same_images(
      source, itertools.chain.from_iterable(mapped(measure, source.plan(todo)))
    )
    if todo and source.is_read:
      measured = list(measured)
      _check_plausible(source, measured)
    yield from measured


def _measure(
  piece: Any,
  *,
  predict: Callable[
    ..., Iterator[tuple[member_paths.Checkpoint, pd.DataFrame]]
  ],
  records: image_records.ImageRecords | None,
  class_names: Sequence[str],
  groups: Sequence[tuple[pd.DataFrame | None, str]],
  mode: str,
) -> list[Measured]:
  """Measures the networks of a piece, as `Source.plan` gives it."""
  measured = []
  for checkpoint, predictions in predict(piece):
    _check_complete(predictions, records, checkpoint)
    # The same words on both ways, and on every machine.
    words = {
      'ckpt': checkpoint.path_in_study,
      'split': mode,
      'preprocessing': _only(predictions, 'preprocessing', checkpoint),
      'compute_precision': _only(predictions, 'precision', checkpoint),
      'made_from': _only(predictions, 'made_from', checkpoint),
    }
    metrics = []
    for of_images, path in groups:
      if of_images is not None:
        _check_group_members(of_images, predictions, path)
      found = class_level_metrics.member_metrics(
        predictions, class_names, of_images
      )
      metrics.append(found.assign(**words))
    by_key = predictions.sort_values('image_key')
    measured.append(
      Measured(
        checkpoint,
        metrics,
        digests.of_json(
          [by_key['image_key'].tolist(), by_key['true_class'].tolist()]
        ),
        by_key['predictions'].to_numpy(np.int32),
        by_key['predicted_probability'].to_numpy(),
      )
    )
  return measured


def _of_same_images(
  source: 'Source', measured: Iterable[Measured]
) -> Iterator[Measured]:
  """Refuses networks that cover other images than the first."""
  first: Measured | None = None
  for one in measured:
    first = first or one
    if one.images != first.images:
      _refuse_other_images(
        _images_of(source, one.checkpoint),
        _images_of(source, first.checkpoint),
        one.checkpoint,
      )
    yield one


def _check_plausible(source: 'Source', measured: Sequence[Measured]) -> None:
  """Refuses predictions that are not what they are taken for."""
  identities = [one.checkpoint.member for one in measured]
  members = [plausibility.Member(of.level, of.replicate) for of in identities]
  images = _images_of(source, measured[0].checkpoint)
  levels = [member.level for member in members]
  counted, agreement = [], np.zeros((len(members), len(members)), np.int64)
  for start in range(0, len(images), _BLOCK_IMAGES):
    block = slice(start, start + _BLOCK_IMAGES)
    label = np.stack([one.label[block] for one in measured], axis=1)
    agreement += populations.agreement(label)
    counted.append(
      plausibility.count(
        levels,
        images.index[block].to_numpy(),
        images.to_numpy()[block],
        label,
        np.stack([one.probability[block] for one in measured], axis=1),
      )
    )
  facts = functools.reduce(plausibility.together, counted)
  plausibility.check(members, facts, agreement)


class Source(NamedTuple):
  """Where the predictions of all networks come from.

  Attributes:
    checkpoints: the networks, sorted.
    records: description of the data set, or None where it is not known.
    class_names: [num_classes].
    inputs: files that are read.
    settings: all that decides about the predictions, for the record.
    is_read: whether somebody has made them already.
    networks: what tells the networks from others, where that is known.
    plan: cuts some of the networks into pieces.
    predict: yields the networks of a piece, each with its predictions.
  """

  checkpoints: Sequence[member_paths.Checkpoint]
  records: image_records.ImageRecords | None
  class_names: Sequence[str]
  inputs: Sequence[str]
  settings: Mapping[str, object]
  is_read: bool
  networks: Mapping[str, object]
  plan: Callable[[Sequence[member_paths.Checkpoint]], Sequence[Any]]
  predict: Callable[
    [Any], Iterator[tuple[member_paths.Checkpoint, pd.DataFrame]]
  ]


def _by_networks(
  ckpt_dir: Sequence[str], data_directory: str, mode: str, **options
) -> Source:
  """Networks that are evaluated; options are those of `Predictor`."""
  checkpoints = member_paths.find(ckpt_dir)
  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)

  predictor = inference.Predictor(**options)
  data_set = inference.DataSet(records, shards)
  identities = network_files.identities(checkpoints)
  return Source(
    checkpoints,
    records,
    records.class_names,
    shards,
    {
      'preprocessing': options['preprocessing_name'],
      'precision': options['precision'],
      'label_smoothing': options['label_smoothing'],
      'data set': records.reading,
      'shards': digests.of_each({storage.name(s): s for s in shards}),
      'checkpoints': identities,
    },
    False,
    identities,
    lambda todo: predictor.plan(todo, [data_set], whole=True),
    functools.partial(_predict_members, predictor),
  )


def _from_csvs(
  predictions_directory: str,
  data_directory: str,
  mode: str,
  num_classes: int | None,
  classes_file: str,
) -> Source:
  """Predictions that somebody has made already."""
  records = image_records.read(data_directory) if data_directory else None
  shards = prediction_files.find(predictions_directory)
  inputs = [path for files in shards.values() for path in files]
  prediction_files.say_what_is_assumed(inputs, mode)
  numbers = prediction_files.replicates(inputs)
  files_of = _files_by_checkpoint(inputs)

  names = _class_names(
    class_names.read(classes_file, records),
    classes_file or data_directory,
    num_classes,
    inputs,
  )

  return Source(
    sorted(files_of),
    records,
    names,
    inputs,
    {
      'predictions': {
        c.file_stem: digests.of_files(files_of[c]) for c in sorted(files_of)
      }
    },
    True,
    provenance.networks(inputs[0], tables.PREDICTIONS.written_by),
    lambda todo: [(checkpoint, files_of[checkpoint]) for checkpoint in todo],
    functools.partial(
      _read_member, mode=mode, numbers=numbers, num_classes=len(names)
    ),
  )


def _read_member(
  piece: tuple[member_paths.Checkpoint, Sequence[str]],
  *,
  mode: str,
  numbers: Mapping[str, int],
  num_classes: int,
) -> Iterator[tuple[member_paths.Checkpoint, pd.DataFrame]]:
  """The predictions of a network that lie in these files."""
  checkpoint, files = piece
  predictions = _read_predictions(files, mode, numbers)
  _check_class_ids(predictions, num_classes, files)
  yield checkpoint, predictions


def _only(
  predictions: pd.DataFrame, name: str, checkpoint: member_paths.Checkpoint
) -> str:
  """The one value of a column, in all shards of a network."""
  values = sorted(predictions[name].unique())
  if len(values) > 1:
    raise ValueError(
      f'{checkpoint.file_stem}: column {name!r} holds {values}, wanted '
      'predictions that were made alike'
    )
  return values[0]


def _files_by_checkpoint(
  inputs: Sequence[str],
) -> dict[member_paths.Checkpoint, list[str]]:
  """Sorts files by the network that their first row is about."""
  found: dict[member_paths.Checkpoint, list[str]] = {}
  identities = prediction_files.identities(inputs).to_dict('index')
  for path, identity in identities.items():
    try:
      checkpoint = member_paths.from_row(identity)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    found.setdefault(checkpoint, []).append(str(path))
  return found


def _class_names(
  names: tuple[str, ...],
  source: str,
  num_classes: int | None,
  files: Sequence[str],
) -> tuple[str, ...]:
  """The names that a source gives, else the class ids."""
  if names:
    if num_classes not in (None, len(names)):
      raise ValueError(
        f'--num_classes is {num_classes}, but {source} has {len(names)} classes'
      )
    return names
  if num_classes is None:
    ids = ['predictions', 'true_class']
    num_classes = 1 + max(
      int(csvs.read(tables.PREDICTIONS, path, ids).max().max())
      for path in files
    )
    logging.info('the largest class id gives %d classes', num_classes)
  return tuple(str(i) for i in range(num_classes))


def _read_predictions(
  files: Sequence[str], mode: str, numbers: Mapping[str, int]
) -> pd.DataFrame:
  predictions = prediction_files.read_member(
    files, [*_COLUMNS, 'split'], numbers
  )
  other = sorted(set(predictions['split']) - {mode, ''})
  if other:
    raise ValueError(
      f'{files[0]} and the like hold the split {other[0]!r}, wanted {mode!r}: '
      'name the folder of one split'
    )
  return predictions


def _check_class_ids(
  predictions: pd.DataFrame, num_classes: int, files: Sequence[str]
) -> None:
  for name in ('predictions', 'true_class'):
    largest = predictions[name].max()
    if largest >= num_classes:
      more = ' and the like' if files[1:] else ''
      raise ValueError(
        f'{files[0]}{more}: column {name!r} holds {largest}, wanted a class id '
        f'below {num_classes}, the number of classes'
      )


def _predict_members(
  predictor: inference.Predictor, piece: inference.Piece
) -> Iterator[tuple[member_paths.Checkpoint, pd.DataFrame]]:
  """Predicts all shards by the networks of a piece."""
  parts: dict[member_paths.Checkpoint, list[pd.DataFrame]] = {}
  for checkpoint, shard, frame in predictor.predict_piece(piece):
    checked = csvs.check(tables.PREDICTIONS, frame, shard)
    parts.setdefault(checkpoint, []).append(checked[list(_COLUMNS)])
  for checkpoint in piece.checkpoints:
    yield checkpoint, pd.concat(parts.pop(checkpoint), ignore_index=True)


def _check_complete(
  predictions: pd.DataFrame,
  records: image_records.ImageRecords | None,
  checkpoint: member_paths.Checkpoint,
) -> None:
  """Compares the images of each shard with the data set's description."""
  counts = predictions.groupby('filename').size()
  names = [name for name in counts.index if name]
  if not records or not names or not any(records.splits.values()):
    return
  declared = next(
    (shards for shards in records.splits.values() if names[0] in shards), None
  )
  if declared is None:
    raise ValueError(
      f'{checkpoint.file_stem}: the shard {names[0]} is none of {records.name}'
    )
  wanted = {name: shard.examples for name, shard in declared.items()}
  got = counts.to_dict()
  if got != wanted:
    wrong = sorted(n for n in {*got, *wanted} if got.get(n) != wanted.get(n))
    raise ValueError(
      f'{checkpoint.file_stem}: predictions are not those of the split: '
      + '; '.join(
        f'{name or "(no shard)"} has {got.get(name, 0)} images, wanted '
        f'{wanted.get(name, 0)}'
        for name in wrong[:4]
      )
    )


def _classes_by_image(predictions: pd.DataFrame) -> pd.Series:
  """The class ids by image key, which all networks must share."""
  return pd.Series(
    predictions['true_class'].to_numpy(), predictions['image_key']
  ).sort_index()


def _images_of(
  source: Source, checkpoint: member_paths.Checkpoint
) -> pd.Series:
  (piece,) = source.plan([checkpoint])
  ((_, predictions),) = source.predict(piece)
  return _classes_by_image(predictions)


def _refuse_other_images(
  own: pd.Series, images: pd.Series, checkpoint: member_paths.Checkpoint
) -> None:
  """Says in what a network's images differ from those before it."""
  differing = own.index.symmetric_difference(images.index)
  if len(differing):
    problem = (
      f'{len(differing)} images are predicted for it or for the networks '
      f'before it only, for example {list(differing[:4])}'
    )
  else:
    key = own.index[own.to_numpy() != images.to_numpy()][0]
    problem = (
      f'image {key!r} has the label {own[key]}, {images[key]} for the '
      'networks before it'
    )
  raise ValueError(f'{checkpoint.file_stem}: {problem}')


def _read_groups(path: str, class_names: Sequence[str]) -> pd.DataFrame:
  """Reads who belongs to which group: group, and class_id or image_key."""
  groups = csvs.read(tables.GROUPS, path)
  # The names of classes may stand in the same file, those in no group, too.
  groups = groups[groups['group'] != ''].reset_index(drop=True)
  used = [
    name
    for name in ('class_id', 'class', 'image_key')
    if groups[name].replace('', np.nan).notna().any()
  ]
  if len(used) != 1 or groups[used].replace('', np.nan).isna().any(axis=None):
    raise ValueError(
      f'{path} fills the columns {used}, wanted one of class_id, class and '
      'image_key in every row'
    )
  if used == ['image_key']:
    return groups[['group', 'image_key']]
  if used == ['class']:
    ids: dict[str, list[int]] = {}
    for i, name in enumerate(class_names):
      ids.setdefault(name, []).append(i)
    for name in groups['class']:
      if len(ids.get(name, ())) != 1:
        raise ValueError(
          f'{path}: {len(ids.get(name, ()))} classes are called {name!r}, '
          'wanted one; class_id tells classes of one name apart'
        )
    groups['class_id'] = [ids[name][0] for name in groups['class']]
  outside = groups['class_id'] >= len(class_names)
  if outside.any():
    raise ValueError(
      f'{path}: class_id {groups.loc[outside, "class_id"].iloc[0]} is outside '
      f'the {len(class_names)} classes'
    )
  return groups[['group', 'class_id']].astype({'class_id': 'int64'})


def _check_group_members(
  groups: pd.DataFrame, predictions: pd.DataFrame, path: str
) -> None:
  if 'image_key' not in groups:
    return
  unknown = ~groups['image_key'].isin(predictions['image_key'])
  if unknown.any():
    raise ValueError(
      f'{path}: {int(unknown.sum())} images are not among the predictions, '
      f'for example {groups.loc[unknown, "image_key"].iloc[0]!r}'
    )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  required = {'output_path': 'results'}
  command_line.with_study(f, required)
  if f.test_small_sample:
    folder, f.data_directory = inference.small_sample(
      f.output_path, ','.join(f.ckpt_dir)
    )
    f.ckpt_dir = [folder]
  if f.study and not f.ckpt_dir:
    required |= {'predictions_directory': 'predictions'}
  is_given = bool(f.groups_file)
  command_line.with_study(
    f,
    required,
    {'data_directory': 'data', 'classes_file': 'classes'}
    | ({} if f.test_small_sample else {'groups_file': 'groups'}),
  )
  run(
    ckpt_dir=f.ckpt_dir,
    predictions_directory=f.predictions_directory,
    data_directory=f.data_directory,
    output_path=f.output_path,
    mode=f.mode,
    dataset_name=f.dataset_name,
    num_classes=f.num_classes,
    groups_file=f.groups_file,
    and_classes=not is_given,
    classes_file=f.classes_file,
    place=workers.Place(scheduler=f.scheduler),
    batch_size=f.batch_size,
    preprocessing=f.preprocessing,
    compute_precision=f.precision,
    label_smoothing=f.label_smoothing,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
