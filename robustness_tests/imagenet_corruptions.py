r"""Measures a population on corrupted or otherwise unusual images.

Reads
  --ckpt_dir        checkpoints: prefix, folder, glob, or a list of these
  --data_directory  one of
      <corruption>_<severity>/ folders of TFRecord shards, or of a version
        each (<corruption>_<severity>/3.1.0/), as build_corruptions and TFDS's
        imagenet2012_corrupted have them
      <corruption>/<severity>/<wnid>/*.JPEG, as the authors of ImageNet-C have
        them; all sets that are found are measured, or --corruption_type
      a data set of TFRecord shards, such as the PIE records of
        generate_pie_dataset, or TFDS's imagenet_a
      <wnid>/*.jpg, as the authors of ImageNet-A have them
  --modal_labels    optional: CSVs of aggregate_predictions, to measure PIEs
                    apart; image keys, or file names, join them to the images

An image_records.json beside the shards describes them. Sets without it are
described by that of the clean data (--clean_data_directory), which folders
need: a folder's class is that of its wnid. Records of TFDS are taken to be
ImageNet's without it. Such a set, and any corrupted one, is not cropped when
its images have the network's input size, as ImageNet-C's usually have.

Writes, for each member and set, one CSV (utils/tables.py: ROBUSTNESS)
  <dest_dir>/<dataset_name>/<corruption>_<severity>/<member>.csv
with support, recall and precision of every class, top-1, top-5 and loss. Each
image is decoded once for a group of members. Finished files are skipped.
--dataset_name=imagenet_a gives two data sets: imagenet_a, where networks choose
among its 200 classes, which is its official score, and imagenet_a_all_classes.
--modal_labels adds <dataset_name>_pie and <dataset_name>_non_pie.

  python -m robustness_tests.imagenet_corruptions \
      --ckpt_dir=runs/digits/checkpoints/digits \
      --data_directory=runs/digits/corrupted --dataset_name=digits_c \
      --dest_dir=runs/digits/results/robustness

Twelve sets of 897 digits by 30 members take about a minute on two cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath, epy

from robustness_tests import image_folders
from utils import (
  class_level_metrics,
  command_line,
  csvs,
  digests,
  image_records,
  inference,
  member_paths,
  paths,
  populations,
  preprocessing,
  provenance,
  shard_files,
  storage,
  tables,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

FLAGS = flags.FLAGS
_CORRUPTED = re.compile(r'(.+)_([0-9]+)')
_VERSION = re.compile(r'[0-9]+\.[0-9]+\.[0-9]+')
# Images whose sizes say whether a set is cropped.
_LOOKED_AT = 8
IMAGENET_A = 'imagenet_a'
# Class ids, from 0, of the 200 classes that ImageNet-A has images of (as
# robustness_metrics' datasets/tfds.py and the authors' eval.py have them).
# fmt: off
IMAGENET_A_CLASSES = (
  6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79,
  89, 90, 94, 96, 97, 99, 105, 107, 108, 110, 113, 124, 125, 130, 132, 143,
  144, 150, 151, 207, 234, 235, 254, 277, 283, 287, 291, 295, 298, 301, 306,
  307, 308, 309, 310, 311, 313, 314, 315, 317, 319, 323, 324, 326, 327, 330,
  334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400, 401, 402, 404, 407,
  411, 416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470,
  472, 483, 486, 488, 492, 496, 514, 516, 528, 530, 539, 542, 543, 549, 552,
  557, 561, 562, 569, 572, 573, 575, 579, 589, 606, 607, 609, 614, 626, 627,
  640, 641, 642, 643, 658, 668, 677, 682, 684, 687, 701, 704, 719, 736, 746,
  749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786, 792, 797, 802,
  803, 804, 813, 815, 820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862,
  870, 879, 880, 888, 890, 897, 900, 907, 913, 924, 932, 933, 934, 937, 943,
  945, 947, 951, 954, 956, 957, 959, 971, 972, 980, 981, 984, 986, 987, 988,
)
# fmt: on


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'ckpt_dir', '', 'Checkpoints: prefix, folder, glob, or a list of these.'
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of <corruption>_<severity> or <corruption>/<severity> folders, of '
    'TFRecord shards, or of folders of images.',
  )
  flags.DEFINE_string(
    'clean_data_directory',
    '',
    'Folder of the clean data set, whose image_records.json describes sets '
    'that have none: which class a folder (wnid) is, sizes, mean. Empty: these '
    "are TFRecords, and ImageNet's.",
  )
  flags.DEFINE_string(
    'modal_labels',
    '',
    'CSVs of aggregate_predictions of one level (folder or pattern): measures '
    'its PIEs, and the other images, apart as well. Empty: all together only.',
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
    folder: where its shards are, or its folders of images.
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
    ValueError: a severity is outside 1..5, or a set is there twice.
  """
  root = epath.Path(data_directory)
  if not data_directory or not root.is_dir():
    raise FileNotFoundError(f'no folder {data_directory!r} (--data_directory)')
  found, others = [], []
  for folder in sorted(root.iterdir()):
    if folder.name.startswith('.') or not folder.is_dir():
      continue
    match = _CORRUPTED.fullmatch(folder.name)
    if match:
      found.append(CorruptedSet(match[1], int(match[2]), data_folder(folder)))
      continue
    severities = [path for path in folder.iterdir() if path.name.isdecimal()]
    found += [
      CorruptedSet(folder.name, int(path.name), str(path))
      for path in severities
    ]
    if not severities:
      others.append(folder.name)
  for one in found:
    if not 1 <= one.severity <= 5:
      raise ValueError(
        f'{one.folder} has severity {one.severity}, wanted 1, 2, 3, 4 or 5'
      )
  found.sort(key=lambda one: (one.corruption, one.severity))
  for one, other in itertools.pairwise(found):
    if one.name == other.name:
      raise ValueError(f'{one.folder} and {other.folder} are both {one.name}')
  if found and others:
    logging.warning(
      '%s also holds %s, which are not called <corruption>_<severity> and are '
      'not measured',
      data_directory,
      others,
    )
  if not found:
    if corruption_type:
      raise FileNotFoundError(
        f'no folder <corruption>_<severity> in {data_directory}'
      )
    return [CorruptedSet('', 0, data_folder(root))]
  if not corruption_type:
    return found
  for wanted in corruption_type:
    if not any(wanted in (one.name, one.corruption) for one in found):
      raise FileNotFoundError(
        f'no set {wanted!r} in {data_directory}, which has '
        f'{[one.name for one in found]}'
      )
  return [
    one
    for one in found
    if one.name in corruption_type or one.corruption in corruption_type
  ]


def data_folder(folder: epath.Path) -> str:
  """The folder itself, or that of the version in it, as TFDS has it.

  Raises:
    ValueError: there are several versions.
  """
  versions = [
    path for path in folder.iterdir() if _VERSION.fullmatch(path.name)
  ]
  if len(versions) > 1:
    raise ValueError(
      f'{folder} holds {len(versions)} versions '
      f'({", ".join(sorted(path.name for path in versions))}), wanted one'
    )
  return str(versions[0] if versions else folder)


def open_set(
  one: CorruptedSet,
  mode: str,
  num_classes: int,
  clean: image_records.ImageRecords | None,
  folder_reader: Callable[
    [image_records.ImageRecords], image_folders.FolderReader
  ],
) -> inference.DataSet:
  """Finds the images of a set and how to preprocess them.

  Args:
    one: the set.
    mode: 'train' or 'eval', the split of shards.
    num_classes: of the networks.
    clean: the description of the clean images, if that was given.
    folder_reader: gives the reader of folders with such images.

  Raises:
    FileNotFoundError, ValueError: there are no images, or they contradict
      their description; names what.
  """
  if image_folders.has_class_folders(one.folder):
    if clean is None or not clean.class_keys:
      raise ValueError(
        f'{one.folder} holds folders and no TFRecord shard: wanted a data set, '
        'or, for folders of images, --clean_data_directory with an '
        'image_records.json that has class_keys, which says what class each is'
      )
    images = image_folders.list_images(one.folder, clean.class_keys)
    count = image_records.Shard(len(images), 0)
    records = dataclasses.replace(
      clean, splits={mode: {storage.name(one.folder): count}}
    )
    first = (
      image_folders.read_image(file)
      for _, file, _ in images[:: max(1, len(images) // _LOOKED_AT)]
    )
    records = without_second_crop(records, first, one.folder)
    return inference.DataSet(records, [one.folder], folder_reader(records))
  shards = image_records.find_shards(one.folder, mode)
  dialect = tfrecords.detect(shards)
  described = storage.exists(paths.image_records(one.folder))
  if described or clean is None:
    records = tfrecords.describe(shards, num_classes)
    if described and clean is not None:
      check_classes(records, clean, one.folder)
  else:
    records = dataclasses.replace(clean, label_base=dialect.label_base)
  if not described:
    if one.corruption and dialect != tfrecords.TFDS:
      raise ValueError(
        f'{one.folder} has no image_records.json: it is not complete, run '
        'build_corruptions again'
      )
    counts = counts_of_tfds(one.folder, mode, shards)
    records = dataclasses.replace(records, splits=counts)
  # What a description says of sets that are not corrupted is their business:
  # PIEs are cropped like the images they were taken from.
  if one.corruption or not described:
    images = first_images(shards[0], dialect, records)
    records = without_second_crop(records, images, one.folder)
  return inference.DataSet(records, shards)


def check_classes(
  records: image_records.ImageRecords,
  clean: image_records.ImageRecords,
  folder: str,
) -> None:
  """Refuses a set whose class ids mean other classes than the clean images'.

  Raises:
    ValueError: names the first class that differs.
  """
  for field in ('class_keys', 'class_names'):
    found, wanted = getattr(records, field), getattr(clean, field)
    if not found or not wanted or found == wanted:
      continue
    pairs = itertools.zip_longest(found, wanted)
    number = next(i for i, (one, other) in enumerate(pairs) if one != other)
    names = [of[number] if number < len(of) else '' for of in (found, wanted)]
    raise ValueError(
      f'{paths.image_records(folder)} calls class {number} {names[0]!r}, that '
      f'of --clean_data_directory {names[1]!r}: {field} differ'
    )


def first_images(
  shard: str, dialect: tfrecords.Dialect, records: image_records.ImageRecords
) -> Iterator[tf.Tensor]:
  """Decodes the first few images of a shard."""
  with contextlib.closing(shard_files.read_records(shard)) as serialized:
    for index, record in enumerate(itertools.islice(serialized, _LOOKED_AT)):
      example = tfrecords.parse_example(record, dialect, records, shard, index)
      try:
        yield preprocessing.decode(tf.constant(example.encoded))
      except tf.errors.OpError as error:
        tfrecords.find_fault(shard, dialect, records)
        raise ValueError(f'{shard}, record {index}: {error.message}') from None


def without_second_crop(
  records: image_records.ImageRecords, images: Iterable[tf.Tensor], folder: str
) -> image_records.ImageRecords:
  """The description, without a crop where the images are cropped already.

  ImageNet-C comes both ways (TFDS's 3.1.0 and the authors' folders cropped,
  TFDS's 3.0.1 whole). The images' sizes tell, whatever a folder is called.
  """
  size = records.image_size
  if records.resize_size == size:
    return records
  if any(tuple(image.shape[:2]) != (size, size) for image in images):
    return records
  logging.info(
    '%s: the images have %d x %d pixels and are not cropped again',
    folder,
    size,
    size,
  )
  return dataclasses.replace(records, resize_size=size)


def counts_of_tfds(
  folder: str, mode: str, shards: Sequence[str]
) -> dict[str, dict[str, image_records.Shard]]:
  """How many examples TFDS says that each shard has; empty if it does not.

  Raises:
    ValueError: dataset_info.json is damaged or declares other shards.
  """
  path = epath.Path(folder) / 'dataset_info.json'
  if not path.exists():
    return {}
  wanted = {paths.split_of_shard(storage.name(shard)) for shard in shards}
  try:
    splits = json.loads(path.read_text())['splits']
    lengths = [
      int(length)
      for split in splits
      if split['name'] in wanted
      for length in split.get('shardLengths', [])
    ]
  except (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(
      f'{path}: wanted splits with name and shardLengths ({error!r})'
    ) from None
  if not lengths:
    return {}  # as the first versions of TFDS have it
  if len(lengths) != len(shards):
    raise ValueError(
      f'{path} declares {len(lengths)} shards of {sorted(wanted)}, there are '
      f'{len(shards)}'
    )
  return {
    mode: {
      storage.name(shard): image_records.Shard(
        length, epath.Path(shard).stat().length
      )
      for shard, length in zip(shards, lengths, strict=True)
    }
  }


def read_pies(files: Sequence[str]) -> pd.Series:
  """Image key -> whether it is a PIE.

  Raises:
    ValueError: the files hold several levels, or no PIE, or nothing else.
  """
  labels = csvs.read_all(
    tables.MODAL_LABELS,
    files,
    (
      *tables.MODAL_LABELS.key,
      'variant_modal_label',
      'baseline_modal_label',
    ),
  )
  levels = labels[['pruning_method', 'pruning_fraction']].drop_duplicates()
  if len(levels) > 1:
    raise ValueError(
      f'--modal_labels holds the levels {levels.to_numpy().tolist()}, wanted '
      'one: name it by a pattern such as .../modal_labels/eval/*/threshold_0.9'
      '.csv'
    )
  is_pie = populations.is_pie(labels)
  if is_pie.all() or not is_pie.any():
    raise ValueError(
      f'{int(is_pie.sum())} of {len(is_pie)} images of --modal_labels are '
      'PIEs: nothing to tell apart'
    )
  return pd.Series(is_pie.to_numpy(), labels['image_key'])


def are_pies(predictions: pd.DataFrame, is_pie: pd.Series) -> np.ndarray:
  """Which rows are of PIEs, found by image key.

  Tools call an image of ImageNet by its file name, or by its class's folder
  and its file name; where the keys differ the file names are compared.

  Raises:
    ValueError: the images are not the same; names one.
  """
  keys, known = predictions['image_key'], is_pie.index
  if not keys.isin(known).all():
    keys, known = (part.str.rsplit('/', n=1).str[-1] for part in (keys, known))
  where = pd.Index(known).get_indexer(keys) if known.is_unique else None
  if where is None or (where < 0).any() or len(keys) != len(known):
    only = sorted(set(keys) ^ set(known))
    raise ValueError(
      f'{len(keys)} images were predicted, --modal_labels has {len(known)}; '
      f'in one of them only: {len(only)}, such as {only[:1]}'
    )
  return is_pie.to_numpy()[where]


def views(
  predictions: pd.DataFrame, dataset_name: str, is_pie: pd.Series | None
) -> dict[str, pd.DataFrame]:
  """Name in the results -> the predictions that count under it.

  Args:
    predictions: of one member for all images of a set.
    dataset_name: what was measured.
    is_pie: as `read_pies` gives it, or None.

  Raises:
    ValueError: what is called ImageNet-A does not show its 200 classes, or the
      images are not those of is_pie.
  """
  found = {dataset_name: predictions}
  if dataset_name == IMAGENET_A:
    classes = set(predictions['true_class'])
    if classes != set(IMAGENET_A_CLASSES):
      differ = sorted(classes ^ set(IMAGENET_A_CLASSES))
      raise ValueError(
        f'the images have {len(classes)} classes, wanted the 200 of ImageNet-A;'
        f' {len(differ)} are in one of them only, such as {differ[:5]}'
      )
    restricted = predictions['restricted_predictions']
    found = {
      # Top-5 and loss are known over all classes only.
      dataset_name: predictions.assign(
        predictions=restricted, top_5_indices='', cross_entropy=np.nan
      ),
      f'{dataset_name}_all_classes': predictions,
    }
  if is_pie is not None:
    rows = are_pies(predictions, is_pie)
    for name, frame in list(found.items()):
      found |= {f'{name}_pie': frame[rows], f'{name}_non_pie': frame[~rows]}
  return found


def view_names(dataset_name: str, has_pies: bool) -> list[str]:
  """The names that `views` gives."""
  names = [dataset_name]
  if dataset_name == IMAGENET_A:
    names.append(f'{dataset_name}_all_classes')
  if has_pies:
    names += [f'{n}_{kind}' for n in names for kind in ('pie', 'non_pie')]
  return names


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
  clean_data_directory: str = '',
  modal_labels: str = '',
) -> None:
  """Measures what is missing; the arguments are the flags."""
  if not dest_dir:
    raise ValueError('--dest_dir is empty, wanted a folder')
  members = member_paths.find(ckpt_dir)
  sets = find_sets(data_directory, corruption_type)
  names = view_names(dataset_name, bool(modal_labels))
  outputs = {
    (member, one, name): paths.robustness(dest_dir, name, one.name, member)
    for member in members
    for one in sets
    for name in names
  }
  label_files = (
    csvs.find(tables.MODAL_LABELS, modal_labels) if modal_labels else []
  )
  indices = [member.completed_by for member in members]
  described = {
    folder: path
    for folder in (*(one.folder for one in sets), clean_data_directory)
    if folder and storage.exists(path := paths.image_records(folder))
  }
  record = provenance.Provenance(
    storage.within(dest_dir, dataset_name),
    'robustness_tests.imagenet_corruptions',
    {
      'preprocessing': preprocessing_name,
      'precision': precision,
      'label_smoothing': label_smoothing,
      'mode': mode,
      'modal_labels': {
        name: digests.of_files(label_files)
        for name in set(names) - set(view_names(dataset_name, False))
      },
      'sets': digests.of_each(
        {
          one.name: described[one.folder]
          for one in sets
          if one.folder in described
        }
      ),
      'checkpoints': digests.of_each(
        {member.file_stem: member.completed_by for member in members}
      ),
    },
  )
  missing = {
    which for which, path in outputs.items() if not storage.exists(path)
  }
  logging.info(
    '%d of %d files below %s are finished',
    len(outputs) - len(missing),
    len(outputs),
    dest_dir,
  )
  inputs = [*indices, *described.values(), *label_files]
  if not missing:
    record.finish(inputs)
    return
  to_do = {(member, one) for member, one, _ in missing}
  clean = (
    image_records.read(clean_data_directory) if clean_data_directory else None
  )
  is_pie = read_pies(label_files) if modal_labels else None

  @functools.cache
  def folder_reader(resize_size):
    return image_folders.FolderReader(
      dataclasses.replace(clean, resize_size=resize_size),
      preprocessing_name,
      batch_size,
    )

  num_classes = inference.num_classes(members[0])
  data_sets = {
    one: open_set(
      one,
      mode,
      num_classes,
      clean,
      lambda records: folder_reader(records.resize_size),
    )
    for one in sets
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
    class_subset=IMAGENET_A_CLASSES if dataset_name == IMAGENET_A else (),
  )
  parts = {}
  for member, shard, frame in predictor.predict(
    members,
    list(data_sets.values()),
    wanted=lambda member, shard: (member, set_of[shard]) in to_do,
  ):
    one = set_of[shard]
    frames = parts.setdefault((member, one), [])
    frames.append(frame)
    if len(frames) < len(data_sets[one].shards):
      continue
    predictions = pd.concat(parts.pop((member, one)), ignore_index=True)
    for name, rows in views(predictions, dataset_name, is_pie).items():
      record.start()
      write_metrics(
        member,
        one,
        rows,
        data_sets[one].records.class_names,
        name,
        mode,
        outputs[member, one, name],
      )
  record.finish(inputs)


def write_metrics(
  member: member_paths.Checkpoint,
  one: CorruptedSet,
  predictions: pd.DataFrame,
  class_names: Sequence[str],
  dataset_name: str,
  mode: str,
  path: str,
) -> None:
  """Writes the metrics of a member on a set as `tables.ROBUSTNESS`."""
  metrics = class_level_metrics.member_metrics(predictions, class_names)
  csvs.write(
    tables.ROBUSTNESS,
    metrics.assign(
      split=mode,
      ckpt=member_paths.prefix_in(member.member.folder, member.step),
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
    if not FLAGS.dest_dir:
      raise ValueError('--dest_dir is empty, wanted a folder')
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
    FLAGS.clean_data_directory,
    FLAGS.modal_labels,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
