"""Whether the index of a bundle can be true, before TensorFlow reads it.

The index of a TensorFlow V2 bundle (`<prefix>.index`) is a table in LevelDB's
format: for each tensor its type, shape, and place in the data files. Its
checksums show damage; one who forges an index writes right ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

from etils import epy
from google.protobuf import message

with epy.lazy_imports():
  import tensorflow as tf
  from tensorflow.core.protobuf import tensor_bundle_pb2

# Of ResNet-200: 60 KB.
_MAX_INDEX_BYTES = 2**24
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAX_RANK = 8
_MAX_KEY_BYTES = 4096


def check(path: str, data: Iterable[str]) -> None:
  """Holds the shapes that an index declares against the files of data.

  TensorFlow ends the process, without a word, where an index under right
  checksums declares a shape or a type that cannot be.

  Raises:
    ValueError, IndexError: it is no index, or declares what cannot be.
  """
  largest = max(tf.io.gfile.stat(file).length for file in data)
  if tf.io.gfile.stat(path).length > _MAX_INDEX_BYTES:
    raise ValueError(f'it has more than {_MAX_INDEX_BYTES} bytes')
  with tf.io.gfile.GFile(path, 'rb') as file:
    table = file.read()
  # LevelDB's format: the footer says where the list of lists begins.
  footer = table[-_FOOTER_BYTES:]
  _, at = _varint(footer, 0)
  _, at = _varint(footer, at)
  for _, place in _entries(table, footer[at:]):
    for key, value in _entries(table, place):
      if not key:
        continue  # the header
      try:
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
      except message.DecodeError:
        raise ValueError(f'the entry of {key!r} cannot be read') from None
      shape = [dim.size for dim in entry.shape.dim]
      dtype = _dtypes().get(entry.dtype)
      if (
        dtype is None
        or entry.slices
        or entry.shape.unknown_rank
        or len(shape) > _MAX_RANK
        or min(shape, default=0) < 0
        or min(entry.offset, entry.size) < 0
        or entry.offset + entry.size > largest
        # A text takes a byte for its length.
        or math.prod(shape) * max(dtype.size, 1) > entry.size
      ):
        raise ValueError(
          f'it declares {key!r} as {shape}, type {entry.dtype}, '
          f'{entry.size} bytes from {entry.offset} of at most {largest}'
        )


@functools.cache
def _dtypes() -> dict[int, tf.DType]:
  """The types that a bundle may hold, by their number in its index."""
  known = (
    *(tf.float16, tf.bfloat16, tf.float32, tf.float64),
    *(tf.int8, tf.int16, tf.int32, tf.int64),
    *(tf.uint8, tf.uint16, tf.uint32, tf.uint64),
    *(tf.bool, tf.string),
  )
  return {dtype.as_datatype_enum: dtype for dtype in known}


def _entries(table: bytes, place: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields the keys and values of the list at a place of a table."""
  begin, at = _varint(place, 0)
  size, _ = _varint(place, at)
  block = table[begin : begin + size]
  if len(table) < begin + size + _TRAILER_BYTES or table[begin + size]:
    raise ValueError(f'the list at byte {begin} is cut short or compressed')
  # At the end, where to start a search; it has to start at entries.
  number = int.from_bytes(block[-4:], 'little')
  end = len(block) - 4 - 4 * number
  searched = {
    int.from_bytes(block[i : i + 4], 'little')
    for i in range(max(end, 0), len(block) - 4, 4)
  }
  at, key = 0, b''
  while at < end:
    searched.discard(at)
    shared, at = _varint(block, at)
    own, at = _varint(block, at)
    length, at = _varint(block, at)
    key = key[:shared] + block[at : at + own]
    at += own
    if len(key) > _MAX_KEY_BYTES:
      raise ValueError('a name is too long')
    yield key, block[at : at + length]
    at += length
  if at != max(end, 0) or searched - {0}:
    raise ValueError(f'the list at byte {begin} does not end where it says')


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """A whole number, low 7 bits first, and where it ends."""
  number = 0
  for shift in range(0, 70, 7):
    number |= (data[at] & 127) << shift
    at += 1
    if data[at - 1] < 128:
      return number, at
  raise ValueError('a number has no end')
