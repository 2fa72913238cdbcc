"""Shards: TFRecord files, read, checked and written whole.

A shard is a row of records, each framed by its length and two checksums. What
a record holds is the matter of `tfrecords`; here it is bytes. Everything that
can be wrong with a file is noticed and named with the record and its first
byte, also what TensorFlow does not notice: a file that ends between two
records, and a length that lies. What the description of a data set
(`image_records`) declares of its shards is compared with them: size, number of
records, SHA-256.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator

from etils import epy

from utils import digests, image_records, storage

with epy.lazy_imports():
  import tensorflow as tf

# A record is framed by its length (8 bytes) and two checksums (4 bytes each).
_FRAME_BYTES = 16
_HEADER_BYTES = 12
# More than an image takes, and than memory should for one.
MAX_RECORD_BYTES = 2**29
_AT_A_TIME = 16
# At a time: to a bucket, 1,024 shards cost the time of answers, not of bytes.
_REQUESTS = 16


def read_records(path: str) -> Generator[bytes, None, None]:
  """Yields the serialised records of a file, in order.

  Raises:
    ValueError: the file is damaged; names it, the record's number (from 0) and
      the byte at which that record begins.
    OSError: the file cannot be opened.
  """
  check_lengths(path)
  index, offset = 0, 0
  with _reading(path):
    # Several at a time, which takes a third of the time of one by one; then
    # those before a damaged one.
    for at_a_time in (_AT_A_TIME, 1):
      try:
        records = tf.data.TFRecordDataset(path).skip(index).batch(at_a_time)
        for batch in records.as_numpy_iterator():
          for serialized in batch:
            yield serialized
            index += 1
            offset += len(serialized) + _FRAME_BYTES
      except tf.errors.DataLossError:
        continue
      return
    raise _damaged(path, index, offset)


def first_record(path: str) -> bytes | None:
  """The first record, unchecked but for its length; None for an empty file.

  A pipeline of its own for one record would take longer than many a shard.
  """
  with _reading(path):
    size = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, 'rb') as file:
      for length in _lengths(file, path, size):
        return file.read(length)
  return None


def check_lengths(path: str) -> int:
  """Holds the lengths that records declare against the size of their file.

  TensorFlow takes memory for whatever length a record declares, and ends the
  process, without a name, where there is not so much. The checksum of a length
  is no help against one who wrote both. It also takes a file that ends within
  a record's header for a complete one.

  Returns:
    The number of records.

  Raises:
    ValueError: the file is damaged; names it, the record and its first byte.
    OSError: the file cannot be read.
  """
  with _reading(path):
    size = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, 'rb') as file:
      return sum(1 for _ in _lengths(file, path, size))


def _lengths(file: tf.io.gfile.GFile, path: str, size: int) -> Iterator[int]:
  """Yields the length of each record, with the file at its first byte.

  Raises:
    ValueError: a record is longer than what is left of the file.
  """
  index, offset = 0, 0
  while offset < size:
    file.seek(offset)
    # 8 bytes of length, little endian, and its checksum.
    header = file.read(_HEADER_BYTES)
    length = int.from_bytes(header[:8], 'little')
    left = size - offset - _FRAME_BYTES
    if len(header) < _HEADER_BYTES or length > left:
      raise _damaged(path, index, offset)
    if length > MAX_RECORD_BYTES:
      raise ValueError(
        f'{path}: record {index}, which begins at byte {offset}, has {length} '
        f'bytes, wanted at most {MAX_RECORD_BYTES}'
      )
    yield length
    index += 1
    offset += length + _FRAME_BYTES


def _damaged(path: str, index: int, offset: int) -> ValueError:
  return ValueError(
    f'{path} is damaged: record {index}, which begins at byte {offset}, is '
    'truncated, fails its checksum or is no TFRecord'
  )


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
  """Turns what TensorFlow raises into an OSError that names the file."""
  try:
    yield
  except tf.errors.NotFoundError:
    raise FileNotFoundError(f'{path} does not exist') from None
  except tf.errors.OpError as error:
    raise OSError(f'{path} cannot be read: {error.message}') from None


def check_sizes(
  shards: Iterable[str], records: image_records.ImageRecords
) -> None:
  """Compares the sizes of shards with the declared ones, reading no content.

  A description without any shard declares nothing, and nothing is checked.

  Raises:
    ValueError: a size differs, or a shard is not in the description.
  """
  if not any(records.splits.values()):
    return

  def size(path):
    try:
      return tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
      raise FileNotFoundError(f'{path} does not exist') from None

  shards = list(shards)
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
    sizes = list(pool.map(size, shards))
  for path, found in zip(shards, sizes, strict=True):
    declared = records.shard(os.path.basename(path))
    if declared is None:
      raise ValueError(
        f'{path} is not among the shards that image_records.json declares'
      )
    if found != declared.bytes:
      raise ValueError(
        f'{path} has {found} bytes, but image_records.json declares '
        f"{declared.bytes}: it is damaged, incomplete or another data set's"
      )


def _sha256(path: str) -> str:
  # Opened by TensorFlow, which knows more file systems than others do.
  with tf.io.gfile.GFile(path, 'rb') as file:
    return digests.of_open(file)


def check_digest(path: str, records: image_records.ImageRecords) -> None:
  """Compares the SHA-256 of a shard with the declared one, if there is one.

  Raises:
    ValueError: it differs; names the shard.
  """
  declared = records.shard(os.path.basename(path))
  if declared and declared.sha256 and _sha256(path) != declared.sha256:
    raise ValueError(
      f'{path} has another SHA-256 than image_records.json declares: it is '
      "damaged, or another data set's"
    )


def check_digests(
  shards: Iterable[str], records: image_records.ImageRecords
) -> None:
  """Compares the SHA-256 of shards with the declared ones, reading all of them.

  Raises:
    ValueError: one differs, or none is declared; names the shard.
  """

  def check(path):
    declared = records.shard(os.path.basename(path))
    if declared is None or not declared.sha256:
      raise ValueError(
        f'{path}: image_records.json declares no sha256 to compare with'
      )
    check_digest(path, records)

  # As many as there are cores: hashing leaves Python's lock.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for _ in pool.map(check, shards):
      pass


def check_count(
  path: str, seen: int, records: image_records.ImageRecords
) -> None:
  """Compares the number of records read with the declared one.

  A file that ends between two records is a valid TFRecord file, so nothing
  else notices that its end is missing.

  Raises:
    ValueError: the numbers differ.
  """
  declared = records.shard(os.path.basename(path))
  if declared is not None and seen != declared.examples:
    raise ValueError(
      f'{path} holds {seen} records, but image_records.json declares '
      f'{declared.examples}'
    )


def write(path: str, examples: Iterable[bytes]) -> image_records.Shard:
  """Writes a shard; it appears complete under its name, or not at all.

  Args:
    path: the file, local or in a bucket. Folders are made.
    examples: serialised records, consumed once.

  Returns:
    The number of records, the size in bytes and the SHA-256.
  """
  count = 0
  with open_new(path) as append:
    for serialized in examples:
      append(serialized)
      count += 1
  return _described(path, count)


def describe(path: str) -> image_records.Shard:
  """What `write` returned of a shard that is there.

  Raises:
    ValueError, OSError: as `check_lengths`.
  """
  return _described(path, check_lengths(path))


def _described(path: str, count: int) -> image_records.Shard:
  return image_records.Shard(
    count, tf.io.gfile.stat(path).length, _sha256(path)
  )


@contextlib.contextmanager
def open_new(path: str) -> Iterator[Callable[[bytes], None]]:
  """Opens a shard, which appears under its name when the block ends well.

  Args:
    path: the file, local or in a bucket. Folders are made.

  Yields:
    The function that writes a serialised record.

  Raises:
    OSError: it cannot be written; names the file.
    ValueError: a record is larger than any reader takes.
  """

  def append(serialized):
    if len(serialized) > MAX_RECORD_BYTES:
      raise ValueError(
        f'{path}: a record has {len(serialized)} bytes, wanted at most '
        f'{MAX_RECORD_BYTES}'
      )
    # Named here: in the block, other shards may be open as well.
    with _named(path):
      writer.write(serialized)

  with storage.unfinished(path) as hidden:
    try:
      with _named(path):
        tf.io.gfile.makedirs(os.path.dirname(path) or '.')
        writer = tf.io.TFRecordWriter(hidden)
      try:
        yield append
      finally:
        with _named(path):
          writer.close()
      with _named(path):
        # Without it a power cut may leave a file's name without its bytes.
        storage.flush_to_disk(hidden)
        tf.io.gfile.rename(hidden, path, overwrite=True)
    except BaseException:
      _remove(hidden)
      raise


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
  try:
    with storage.cannot_be_written(path):
      yield
  except tf.errors.OpError as error:
    raise OSError(f'{path} cannot be written: {error.message}') from None


def _remove(path: str) -> None:
  with contextlib.suppress(tf.errors.OpError):
    tf.io.gfile.remove(path)
