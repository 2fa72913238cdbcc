"""The sets of images that robustness is measured on, wherever they come from.

A set is a folder of TFRecord shards, as `build_corruptions`, TFDS or
`generate_pie_dataset` write them, one of folders of images, as the authors of
ImageNet-C and -A have them, or a part of an array, as those of CIFAR-10-C do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import logging
from etils import epath, epy

from robustness_tests import image_arrays, image_folders
from utils import (
  image_records,
  inference,
  paths,
  preprocessing,
  shard_files,
  storage,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

_CORRUPTED = re.compile(r'(.+)_([0-9]+)')
_VERSION = re.compile(r'[0-9]+\.[0-9]+\.[0-9]+')
# Images whose sizes say whether a set is cropped.
_LOOKED_AT = 8


@dataclasses.dataclass(frozen=True)
class CorruptedSet:
  """A data set to measure.

  Attributes:
    corruption: its name, or '' for a set that is not of ImageNet-C's kind.
    severity: 1 to 5, or 0 for such a set.
    folder: where its shards are, or its folders of images; of an array
      `<corruption>.npy/<severity>`, which is only a name.
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
    raise FileNotFoundError(
      f'no folder {data_directory!r} (--data_directory, as build_corruptions '
      f'makes it){storage.nearest(data_directory)}'
    )
  found, others = _list_sets(root)
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


def _list_sets(root: epath.Path) -> tuple[list[CorruptedSet], list[str]]:
  """The sets in a folder, and the names of what else there is."""
  found = [
    CorruptedSet(path.stem, severity, str(path / str(severity)))
    for path in image_arrays.find(root)
    for severity in image_arrays.SEVERITIES
  ]
  others = []
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
  return found, others


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
  array_reader: Callable[
    [image_records.ImageRecords], image_arrays.ArrayReader
  ],
) -> inference.DataSet:
  """Finds the images of a set and how to preprocess them.

  Args:
    one: the set.
    mode: 'train' or 'eval', the split of shards.
    num_classes: of the networks.
    clean: the description of the clean images, if that was given.
    folder_reader: gives the reader of folders with such images.
    array_reader: that of arrays.

  Raises:
    FileNotFoundError, ValueError: there are no images, or they contradict
      their description; names what.
  """
  if image_arrays.is_array(one.folder):
    return _open_array(one, mode, clean, array_reader)
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
    some = (
      image_folders.read_image(file)
      for _, file, _ in images[:: max(1, len(images) // _LOOKED_AT)]
    )
    records = without_second_crop(records, some, one.folder)
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
    records = without_second_crop(
      records, first_images(shards[0], dialect, records), one.folder
    )
  return inference.DataSet(records, shards)


def _open_array(
  one: CorruptedSet,
  mode: str,
  clean: image_records.ImageRecords | None,
  array_reader: Callable[
    [image_records.ImageRecords], image_arrays.ArrayReader
  ],
) -> inference.DataSet:
  """A severity of an array, which only the clean images describe."""
  if clean is None:
    raise ValueError(
      f'{one.folder}: arrays have no description, wanted '
      '--clean_data_directory with an image_records.json'
    )
  images, _ = image_arrays.load(one.folder, clean.num_classes)
  count = image_records.Shard(len(images), 0)
  records = dataclasses.replace(
    clean, splits={mode: {storage.name(one.folder): count}}
  )
  records = without_second_crop(records, images[:_LOOKED_AT], one.folder)
  return inference.DataSet(records, [one.folder], array_reader(records))


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
