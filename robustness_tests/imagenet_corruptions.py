r"""Measures a population on corrupted or otherwise unusual images.

Reads
  --ckpt_dir        checkpoints: prefix, folder, glob, or a list of these
  --data_directory  one of
      <corruption>_<severity>/ folders of TFRecord shards, or of a version
        each (<corruption>_<severity>/3.1.0/), as build_corruptions and TFDS's
        imagenet2012_corrupted have them; all that are found are measured,
        or those of --corruption_type
      a data set of TFRecord shards, such as the PIE records of
        generate_pie_dataset

An image_records.json beside the shards describes them. Without it they are
ImageNet's: TFDS's version 3.1.0 holds images that are cropped already and are
not cropped again, earlier ones hold whole images.

Writes, for each member and set, one CSV (utils/tables.py: ROBUSTNESS)
  <dest_dir>/<dataset_name>/<corruption>_<severity>/<member>.csv
with support, recall and precision of every class, top-1, top-5 and loss. Each
image is decoded once for a group of members. Finished files are skipped.

  python -m robustness_tests.imagenet_corruptions \
      --ckpt_dir=runs/digits/checkpoints/digits \
      --data_directory=runs/digits/corrupted --dataset_name=digits_c \
      --dest_dir=runs/digits/results/robustness

Twelve sets of 897 digits by 30 members take about a minute on two cores.
"""

import dataclasses
import re
from collections.abc import Sequence

import pandas as pd
from absl import flags, logging
from etils import epath

from utils import (
  checkpoints,
  class_level_metrics,
  command_line,
  inference,
  paths,
  preprocessing,
  tables,
  tfrecords,
)

FLAGS = flags.FLAGS
_CORRUPTED = re.compile(r'(.+)_(\d+)')
# From this version on TFDS stores images of 224x224 pixels.
_TFDS_CROPPED = (3, 1, 0)


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'ckpt_dir', '', 'Checkpoints: prefix, folder, glob, or a list of these.'
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of <corruption>_<severity> folders, or of TFRecord shards.',
  )
  flags.DEFINE_string('dest_dir', '', 'Folder of the results.')
  flags.DEFINE_string(
    'dataset_name', 'imagenet_c', 'Name of what is measured, in the results.'
  )
  flags.DEFINE_list(
    'corruption_type',
    '',
    'Sets to measure, such as gaussian_noise_3, or all severities of a '
    'corruption, such as gaussian_noise; empty for all that are found.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that folders are read for.'
  )
  flags.DEFINE_integer('batch_size', 64, 'Images a batch.', lower_bound=1)
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'legacy: the grid of TensorFlow 1, as the original; modern: '
    'half-pixel centres.',
  )
  flags.DEFINE_enum(
    'precision', 'float32', inference.PRECISIONS, 'Of the convolutions.'
  )
  flags.DEFINE_float(
    'label_smoothing',
    0.1,
    'Share of the target spread over all classes in the loss, in [0, 1); '
    '0 is off.',
  )
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Take a few synthetic images instead of --data_directory and, without '
    '--ckpt_dir, an untrained network: runs in seconds.',
  )


@dataclasses.dataclass(frozen=True)
class CorruptedSet:
  """A data set to measure.

  Attributes:
    corruption: its name, or '' for a set that is not of ImageNet-C's kind.
    severity: 1 to 5, or 0 for such a set.
    folder: where its shards are.
  """

  corruption: str
  severity: int
  folder: str

  @property
  def name(self) -> str:
    """The folder of its results."""
    if self.corruption:
      return f'{self.corruption}_{self.severity}'
    return 'all'


def find_sets(
  data_directory: str, corruption_type: Sequence[str]
) -> list[CorruptedSet]:
  """Lists the sets to measure, sorted by corruption and severity.

  Raises:
    FileNotFoundError: the folder is missing, or a set that was asked for.
    ValueError: a severity is outside 1..5, or a set has several versions.
  """
  root = epath.Path(data_directory)
  if not data_directory or not root.is_dir():
    raise FileNotFoundError(f'no folder {data_directory!r} (--data_directory)')
  found = []
  for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    match = _CORRUPTED.fullmatch(folder.name)
    if not match:
      continue
    severity = int(match[2])
    if not 1 <= severity <= 5:
      raise ValueError(
        f'{folder} has severity {severity}, wanted 1, 2, 3, 4 or 5'
      )
    versions = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    if len(versions) > 1:
      raise ValueError(
        f'{folder} holds {len(versions)} versions '
        f'({", ".join(p.name for p in versions)}), wanted one'
      )
    data = str(versions[0] if versions else folder)
    found.append(CorruptedSet(match[1], severity, data))
  if not found:
    if corruption_type:
      raise FileNotFoundError(
        f'no folder <corruption>_<severity> in {data_directory}'
      )
    return [CorruptedSet('', 0, data_directory)]
  if not corruption_type:
    return found
  chosen = [
    one
    for one in found
    if one.name in corruption_type or one.corruption in corruption_type
  ]
  for wanted in corruption_type:
    if not any(wanted in (one.name, one.corruption) for one in chosen):
      raise FileNotFoundError(
        f'no set {wanted!r} in {data_directory}, which has '
        f'{sorted(one.name for one in found)}'
      )
  return chosen


def open_set(
  one: CorruptedSet, mode: str, num_classes: int
) -> inference.DataSet:
  """Finds the shards of a set and how to preprocess them."""
  shards = paths.find_shards(one.folder, mode)
  records = tfrecords.describe(shards, num_classes)
  version = re.fullmatch(r'(\d+)\.(\d+)\.(\d+)', epath.Path(one.folder).name)
  is_cropped = version and tuple(map(int, version.groups())) >= _TFDS_CROPPED
  has_description = paths.exists(paths.image_records(one.folder))
  if one.corruption and not has_description and is_cropped:
    records = dataclasses.replace(records, resize_size=records.image_size)
  return inference.DataSet(records, shards)


def run(
  ckpt_dir: str,
  data_directory: str,
  dest_dir: str,
  dataset_name: str,
  corruption_type: Sequence[str],
  mode: str,
  batch_size: int,
  preprocessing_name: str,
  precision: str,
  label_smoothing: float,
) -> None:
  """Measures what is missing; the arguments are the flags."""
  if not dest_dir:
    raise ValueError('--dest_dir is empty, wanted a folder')
  members = paths.find_checkpoints(ckpt_dir)
  sets = find_sets(data_directory, corruption_type)
  outputs = {
    (member, one): paths.robustness(dest_dir, dataset_name, one.name, member)
    for member in members
    for one in sets
  }
  missing = {which for which, path in outputs.items() if not paths.exists(path)}
  logging.info(
    '%d of %d files below %s are finished',
    len(outputs) - len(missing),
    len(outputs),
    dest_dir,
  )
  if not missing:
    return
  architecture = checkpoints.read_architecture(members[0].prefix)
  data_sets = {
    one: open_set(one, mode, architecture.num_classes) for one in sets
  }
  set_of = {
    shard: one
    for one, data_set in data_sets.items()
    for shard in data_set.shards
  }
  predictor = inference.Predictor(
    batch_size=batch_size,
    preprocessing_name=preprocessing_name,
    precision=precision,
    label_smoothing=label_smoothing,
  )
  parts = {}
  for member, shard, frame in predictor.predict(
    members,
    list(data_sets.values()),
    wanted=lambda member, shard: (member, set_of[shard]) in missing,
  ):
    one = set_of[shard]
    frames = parts.setdefault((member, one), [])
    frames.append(frame)
    if len(frames) < len(data_sets[one].shards):
      continue
    predictions = pd.concat(parts.pop((member, one)), ignore_index=True)
    write_metrics(
      member,
      one,
      predictions,
      data_sets[one].records.class_names,
      dataset_name,
      mode,
      outputs[member, one],
    )
  command_line.write_provenance(
    dest_dir,
    'robustness_tests.imagenet_corruptions',
    [f'{member.prefix}.index' for member in members]
    + [
      path
      for one in sets
      if paths.exists(path := paths.image_records(one.folder))
    ],
  )


def write_metrics(
  member: paths.Checkpoint,
  one: CorruptedSet,
  predictions: pd.DataFrame,
  class_names: Sequence[str],
  dataset_name: str,
  mode: str,
  path: str,
) -> None:
  """Writes the metrics of a member on a set as `tables.ROBUSTNESS`."""
  metrics = class_level_metrics.member_metrics(predictions, class_names)
  tables.write(
    tables.ROBUSTNESS,
    metrics.assign(
      split=mode,
      ckpt=paths.checkpoint_prefix(member.member.folder, member.step),
      dataset_name=dataset_name,
      corruption=one.corruption,
      corruption_intensity=one.severity,
      num_images=len(predictions),
      preprocessing=predictions['preprocessing'].iloc[0],
      compute_precision=predictions['precision'].iloc[0],
    ),
    path,
  )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  ckpt_dir, data_directory = FLAGS.ckpt_dir, FLAGS.data_directory
  dataset_name = FLAGS.dataset_name
  if FLAGS.test_small_sample:
    ckpt_dir, data_directory = inference.small_sample(FLAGS.dest_dir, ckpt_dir)
    dataset_name = 'synthetic'
  run(
    ckpt_dir,
    data_directory,
    FLAGS.dest_dir,
    dataset_name,
    FLAGS.corruption_type,
    FLAGS.mode,
    FLAGS.batch_size,
    FLAGS.preprocessing,
    FLAGS.precision,
    FLAGS.label_smoothing,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
