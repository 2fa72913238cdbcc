"""The records of images: how they are spelled, encoded and parsed.

Records are `tf.train.Example`s in one of the dialects in which ImageNet is
found. The dialect is recognised from the features of the first record of each
shard, never guessed: a set of features that no dialect has is an error, and so
is a data set whose shards disagree. What this project writes is the original's
dialect (`encode`), PIE records apart.

The usual way to read a data set:

  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)       # image_records.json, checked
  dialect = tfrecords.detect(shards)

and then, either in plain Python,

  for index, example in enumerate(tfrecords.read_examples(path, records)):
    ...
  shard_files.check_count(path, index + 1, records)

or within tf.data, `parse` in a map over an enumerated `TFRecordDataset`, after
`shard_files.check_lengths`. The two give the same keys and labels. When a
pipeline fails with a `tf.errors` exception, which names neither file nor
record, call `find_fault`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from absl import logging
from etils import epy
from google.protobuf import message

from utils import (
  csvs,
  image_records,
  paths,
  preprocessing,
  shard_files,
  storage,
)

with epy.lazy_imports():
  import tensorflow as tf

# At a time: to a bucket, 1,024 shards cost the time of answers, not of bytes.
_REQUESTS = 16
_TEXT = 'image/class/text'
_CLASS_KEY = 'image/class/synset'


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How a tool writes an image and its label.

  Attributes:
    name: for messages.
    label_base: what the first class is called in the records, 0 or 1.
    keys: features that may hold the image's key, best first.
    image: feature that holds the JPEG or PNG.
    label: feature that holds the label.
    mark: further features that tell this dialect from others.
  """

  name: str
  label_base: int
  keys: tuple[str, ...]
  image: str = 'image/encoded'
  label: str = 'image/class/label'
  mark: tuple[str, ...] = ()

  @property
  def required(self) -> tuple[str, ...]:
    """The features that a record of this dialect has to have."""
    return (self.image, self.label, *self.mark)


ORIGINAL = Dialect('original', 1, ('key_',))
# generate_pie_dataset, the original's and ours: labels are 0-based, and the
# original's key has no underscore.
PIE = Dialect('pie', 0, ('key_', 'key'), mark=('stored_class_label',))
# build_image_data and build_imagenet_data of tensorflow/models, imagenet_to_gcs
# of tensorflow/tpu; the original's key goes first where someone added it.
INCEPTION = Dialect(
  'inception', 1, ('key_', 'image/filename'), mark=('image/filename',)
)
TFDS = Dialect('tfds', 0, ('file_name',), image='image', label='label')
# In the order of recognition: the most particular first. The key of an original
# record may be absent.
_DIALECTS = (PIE, INCEPTION, ORIGINAL, TFDS)


class ParsedExample(NamedTuple):
  """A record, read.

  Attributes:
    key: the image's identity, as in every table.
    encoded: the image's JPEG or PNG, as it was stored.
    label: class id, from 0.
    text: the class in words, '' where the record has none.
    class_key: the class's stable name (wnid), '' where the record has none.
  """

  key: str
  encoded: bytes
  label: int
  text: str
  class_key: str


def encode(
  key: str,
  encoded: bytes,
  label: int,
  text: str = '',
  extra: Mapping[str, bytes | str | int | float] | None = None,
  dialect: Dialect = ORIGINAL,
) -> bytes:
  """Serialises a record; equal arguments give equal bytes.

  Args:
    key: the image's identity; stored under every key of the dialect.
    encoded: the JPEG or PNG.
    label: class id, from 0; stored with the dialect's label base.
    text: the class in words.
    extra: further features, by name.
    dialect: `ORIGINAL`, or `PIE` (which wants 'stored_class_label' in extra).
  """
  features = {
    dialect.image: encoded,
    dialect.label: label + dialect.label_base,
    **dict.fromkeys(dialect.keys, key),
    **({_TEXT: text} if text else {}),
    **(extra or {}),
  }
  example = tf.train.Example()
  # Filled in place: a Feature that is built apart is copied, image and all.
  feature = example.features.feature
  for name, value in features.items():
    if isinstance(value, str):
      value = value.encode()
    if isinstance(value, bytes):
      feature[name].bytes_list.value.append(value)
    elif isinstance(value, numbers.Integral):
      feature[name].int64_list.value.append(value)
    else:
      feature[name].float_list.value.append(value)
  return example.SerializeToString(deterministic=True)


def detect_dialect(serialized: bytes, path: str) -> Dialect:
  """Recognises the dialect of a record.

  Raises:
    ValueError: no dialect has its features; names found and wanted.
  """
  found = _features(serialized, f'{path}, record 0')
  for dialect in _DIALECTS:
    if all(name in found for name in dialect.required):
      return dialect
  wanted = '; '.join(f'{d.name}: {", ".join(d.required)}' for d in _DIALECTS)
  raise ValueError(
    f'{path}: its first record has the features {sorted(found)}, wanted those '
    f'of one of the known dialects ({wanted})'
  )


def detect(shards: Iterable[str]) -> Dialect:
  """Recognises the dialect of a data set from each shard's first record.

  Raises:
    ValueError: a shard is empty (and not declared so) or of no known dialect,
      or two disagree.
  """

  def first(path):
    record = shard_files.first_record(path)
    if record is not None:
      return detect_dialect(record, path)
    if not _is_declared_empty(path):
      raise ValueError(f'{path} holds no record')
    return None

  shards = list(shards)
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
    dialects = list(pool.map(first, shards))
  found = [(p, d) for p, d in zip(shards, dialects, strict=True) if d]
  if not found:
    raise ValueError(
      f'none of {len(shards)} shards holds a record: {shards[:3]}'
    )
  for path, dialect in found:
    if dialect != found[0][1]:
      raise ValueError(
        f'{found[0][0]} is in the dialect {found[0][1].name!r}, but {path} in '
        f'{dialect.name!r}: wanted shards of one data set'
      )
  return found[0][1]


def _is_declared_empty(path: str) -> bool:
  """Whether the description says so: a shard need not have a PIE, say."""
  folder, name = os.path.split(path)
  if not storage.exists(paths.image_records(folder)):
    return False
  declared = image_records.read(folder).shard(name)
  return declared is not None and not declared.examples


def describe(
  shards: Iterable[str], num_classes: int | None = None
) -> image_records.ImageRecords:
  """Reads and checks the description of a data set.

  Where no image_records.json lies beside the shards they are taken to be
  ImageNet's, and the log says so.

  Args:
    shards: the files that will be read.
    num_classes: the classes that the network has, where that is known.

  Raises:
    ValueError: description and shards contradict each other, or num_classes.
  """
  shards = list(shards)
  dialect = detect(shards)
  folders = sorted({os.path.dirname(path) for path in shards})
  if len(folders) > 1:
    raise ValueError(
      f'the shards lie in {len(folders)} folders ({folders[0]}, {folders[1]}), '
      'wanted those of one data set'
    )
  path = paths.image_records(folders[0])
  if not storage.exists(path):
    records = image_records.imagenet(num_classes or 1000, dialect.label_base)
    logging.warning(
      'There is no %s: the records (dialect %r, labels from %d) are taken to '
      "be ImageNet's, with %d classes, %d pixels and ImageNet's mean and "
      'standard deviation; counts of examples cannot be checked.',
      path,
      dialect.name,
      dialect.label_base,
      records.num_classes,
      records.image_size,
    )
    return records
  records = image_records.read(folders[0])
  if records.label_base != dialect.label_base:
    raise ValueError(
      f'{path} declares label_base {records.label_base}, but the records are '
      f'in the dialect {dialect.name!r}, whose labels start at '
      f'{dialect.label_base}'
    )
  if num_classes not in (None, records.num_classes):
    raise ValueError(
      f'{path} declares {records.num_classes} classes, wanted {num_classes}'
    )
  shard_files.check_sizes(shards, records)
  return records


def _features(serialized: bytes, where: str) -> Mapping[str, tf.train.Feature]:
  try:
    return tf.train.Example.FromString(serialized).features.feature
  except message.DecodeError:
    raise ValueError(f'{where} is not a tf.train.Example') from None


def key_text(key: bytes) -> str:
  """A key as text, as it stands in tables: printable, on one line.

  What would be a formula to a spreadsheet has its first character escaped as
  well. Text that has been through here stays as it is.
  """
  text = key.decode('utf-8', 'backslashreplace')
  if not text.isprintable():
    text = text.encode('unicode_escape').decode()
  if csvs.fault_of_text(text):
    sign = len(text) - len(text.lstrip())
    text = f'{text[:sign]}\\u{ord(text[sign]):04x}{text[sign + 1 :]}'
  return text


def image_key(key: bytes, path: str, index: int) -> str:
  """An image's identity: its stored key, or its place where it has none.

  Args:
    key: as stored, maybe empty.
    path: the shard; only the file's name counts.
    index: the record's position in the shard, from 0.
  """
  return key_text(key) or f'{os.path.basename(path)}__{index}'


def parse_example(
  serialized: bytes,
  dialect: Dialect,
  records: image_records.ImageRecords,
  path: str,
  index: int,
) -> ParsedExample:
  """Reads a record in plain Python and checks all but the image's pixels.

  Args:
    serialized: the record.
    dialect: as `detect` found it.
    records: the data set's description.
    path: the record's file.
    index: the record's position in the file, from 0.

  Raises:
    ValueError: a feature is missing or of another type, the image is empty,
      the label is outside the classes, or the record and the description
      disagree about the class. Names file, record, key and field.
  """
  where = f'{path}, record {index}'
  features = _features(serialized, where)

  def value(name, kind, default=None):
    if name not in features and default is not None:
      return default
    if name not in features:
      raise ValueError(
        f'{where} has no feature {name!r}, it has {sorted(features)}'
      )
    values = getattr(features[name], kind).value
    if not values and default is not None:
      return default
    if len(values) != 1:
      raise ValueError(
        f'{where}: the feature {name!r} holds {len(values)} values of type '
        f'{kind}, wanted 1'
      )
    return values[0]

  stored = (value(name, 'bytes_list', b'') for name in dialect.keys)
  key = image_key(next(filter(None, stored), b''), path, index)
  where = f'{where}, key {key!r}'
  encoded = value(dialect.image, 'bytes_list')
  if not encoded:
    raise ValueError(f'{where}: the feature {dialect.image!r} is empty')
  label = value(dialect.label, 'int64_list') - dialect.label_base
  if not 0 <= label < records.num_classes:
    raise ValueError(
      f'{where}: the feature {dialect.label!r} is '
      f'{label + dialect.label_base}, wanted {dialect.label_base} to '
      f'{records.num_classes - 1 + dialect.label_base}'
    )
  names = {
    name: value(name, 'bytes_list', b'').decode('utf-8', 'backslashreplace')
    for name in (_TEXT, _CLASS_KEY)
  }
  for name, declared in _declared_classes(records).items():
    if names[name] not in ('', declared[label]):
      raise ValueError(
        f'{where}: the feature {name!r} is {names[name]!r}, but '
        f'image_records.json calls class {label} {declared[label]!r}'
      )
  return ParsedExample(key, encoded, label, names[_TEXT], names[_CLASS_KEY])


def read_examples(
  path: str, records: image_records.ImageRecords
) -> Iterator[ParsedExample]:
  """Yields the examples of a file in order; its first record tells the dialect.

  Raises:
    ValueError, OSError: as `shard_files.read_records`, `detect_dialect`,
      `parse_example`.
  """
  for index, serialized in enumerate(shard_files.read_records(path)):
    if not index:
      dialect = detect_dialect(serialized, path)
    yield parse_example(serialized, dialect, records, path, index)


def _declared_classes(
  records: image_records.ImageRecords,
) -> dict[str, tuple[str, ...]]:
  """What the description says that records call their classes.

  Stable names come before words; a description of ImageNet that was not read
  from a file numbers its classes only, which says nothing.
  """
  if records.class_keys:
    return {_CLASS_KEY: records.class_keys}
  if not records.splits and _are_numbers(records.class_names):
    return {}
  return {_TEXT: records.class_names}


# For each record anew it would take as long as to read the record.
@functools.lru_cache
def _are_numbers(class_names: tuple[str, ...]) -> bool:
  return class_names == tuple(str(i) for i in range(len(class_names)))


def parse(
  serialized: tf.Tensor,
  dialect: Dialect,
  records: image_records.ImageRecords,
  path: tf.Tensor | str,
  index: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Reads a record within a tf.data pipeline, as `parse_example` does.

  Args:
    serialized: [] string.
    dialect: as `detect` found it.
    records: the data set's description.
    path: [] string, the record's file.
    index: [] int64, the record's position in the file, from 0.

  Returns:
    image_key: [] string, not empty; `key_text` makes it a table's text.
    encoded: [] string, the JPEG or PNG.
    label: [] int64, class id, from 0.
    What is at fault stops the pipeline with a tf.errors exception.
  """
  text = tf.io.FixedLenFeature((), tf.string, '')
  features = tf.io.parse_single_example(
    serialized,
    {
      dialect.image: tf.io.FixedLenFeature((), tf.string),
      dialect.label: tf.io.FixedLenFeature((), tf.int64),
      **dict.fromkeys((*dialect.keys, _TEXT, _CLASS_KEY), text),
    },
  )
  key = tf.strings.join(
    [
      tf.strings.split([path], '/').values[-1],
      '__',
      tf.strings.as_string(index),
    ]
  )
  for name in reversed(dialect.keys):
    key = tf.where(tf.strings.length(features[name]) > 0, features[name], key)
  label = features[dialect.label] - dialect.label_base
  # Plain ops: those of tf.debugging branch, which takes longer than to parse.
  image_size = tf.strings.length(features[dialect.image])
  checks = [
    tf.raw_ops.Assert(condition=image_size > 0, data=[key, image_size]),
    tf.raw_ops.Assert(
      condition=(label >= 0) & (label < records.num_classes), data=[key, label]
    ),
  ]
  for name, declared in _declared_classes(records).items():
    expected = tf.gather(tf.constant(declared), label)
    checks.append(
      tf.raw_ops.Assert(
        condition=(features[name] == '') | (features[name] == expected),
        data=[features[name], expected],
      )
    )
  with tf.control_dependencies(checks):
    return {
      'image_key': tf.identity(key),
      'encoded': tf.identity(features[dialect.image]),
      'label': tf.identity(label),
    }


def find_fault(
  path: str, dialect: Dialect, records: image_records.ImageRecords
) -> None:
  """Reads a shard slowly, to name what made a pipeline fail.

  Returns only if nothing is wrong with the shard.

  Raises:
    ValueError: names file, record, key and field of the first fault.
  """
  index = -1
  for index, serialized in enumerate(shard_files.read_records(path)):
    example = parse_example(serialized, dialect, records, path, index)
    try:
      preprocessing.decode_alone(example.encoded)
    except tf.errors.OpError as error:
      raise ValueError(
        f'{path}, record {index}, key {example.key!r}: the feature '
        f'{dialect.image!r} ({len(example.encoded)} bytes) is not a complete '
        f'JPEG or PNG: {error.message}'
      ) from None
  shard_files.check_count(path, index + 1, records)
