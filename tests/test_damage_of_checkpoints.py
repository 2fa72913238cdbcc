"""Damaged and hostile checkpoints: named, or provably without effect."""

import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from tests.damage import fuzz, mutated, outcomes
from utils import checkpoints, shard_files


def checksum(data, folder):
  """TensorFlow's, of any bytes: a record of them ends in it."""
  shard_files.write(str(folder / 'checksum'), [data])
  return (folder / 'checksum').read_bytes()[-4:]


def varint(number):
  parts = b''
  while number > 127:
    parts += bytes([number & 127 | 128])
    number >>= 7
  return parts + bytes([number])


def table_list(entries, searched=None):
  """A list of a table in LevelDB's format, no key shared."""
  content, starts = b'', []
  for key, value in entries:
    starts.append(len(content))
    content += b''.join(map(varint, (0, len(key), len(value)))) + key + value
  starts = starts or [0] if searched is None else searched
  return content + struct.pack(f'<{len(starts) + 1}I', *starts, len(starts))


def write_index(path, lists, folder):
  """An index of the given lists, in which only the checksums are right."""
  whole, places = b'', []
  for content in (*lists, table_list([])):
    places.append(varint(len(whole)) + varint(len(content)))
    whole += content + b'\0' + checksum(content + b'\0', folder)
  top = table_list((b'~%d' % i, p) for i, p in enumerate(places[:-1]))
  places.append(varint(len(whole)) + varint(len(top)))
  whole += top + b'\0' + checksum(top + b'\0', folder)
  footer = (places[-2] + places[-1]).ljust(40, b'\0')
  path.write_bytes(whole + footer + bytes.fromhex('57fb808b247547db'))


def entry(dims=(2,), **fields):
  proto = tensor_bundle_pb2.BundleEntryProto(
    **{'dtype': tf.float32.as_datatype_enum, 'size': 8, **fields}
  )
  for size in dims:
    proto.shape.dim.add(size=size)
  return proto.SerializeToString()


def write_bundle(folder, value, **options):
  header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1)
  header.version.producer = 1
  content = table_list([(b'', header.SerializeToString()), (b'x', value)])
  data = np.float32([1, 2]).tobytes()
  (folder / 'c.data-00000-of-00001').write_bytes(data)
  lists = [options.get('content', content)]
  write_index(folder / 'c.index', lists, folder)
  return str(folder / 'c')


def test_an_index_of_our_own_is_read(tmp_path):
  """Or the next test would show nothing."""
  crc = struct.unpack('<I', checksum(np.float32([1, 2]).tobytes(), tmp_path))[0]
  prefix = write_bundle(tmp_path, entry(crc32c=crc))
  assert checkpoints.read_bundle(prefix)['x'].tolist() == [1, 2]


@pytest.mark.parametrize(
  'value',
  [
    entry((2**40,), size=2**42),
    entry((2**33,)),
    entry((2**62, 2**62)),
    entry((-1,)),
    entry((-5, 2)),
    entry((2, *[1] * 300)),
    entry(dtype=77),
    entry(dtype=tf.resource.as_datatype_enum),
    entry(dtype=tf.variant.as_datatype_enum),
    entry((2**33,), dtype=tf.string.as_datatype_enum),
    entry(offset=2**50),
    entry(offset=-5),
    entry(shard_id=-3),
    entry(shard_id=2**30),
    b'\xff\xff\xff',
  ],
)
def test_an_index_that_lies_is_named(tmp_path, value):
  """TensorFlow would end the process at half of them."""
  prefix = write_bundle(tmp_path, value)
  with pytest.raises(ValueError, match=prefix):
    checkpoints.read_bundle(prefix)


@pytest.mark.parametrize(
  'content',
  [
    table_list([(b'x', b'y')], [3]),
    table_list([(b'x', b'y')], [2**31] * 3),
    table_list([(b'x' * 5000, b'y')]),
    b'\xff' * 20 + struct.pack('<2I', 0, 1),
    struct.pack('<I', 2**31),
    b'',
  ],
)
def test_lists_of_an_index_that_lie_are_named(tmp_path, content):
  prefix = write_bundle(tmp_path, b'', content=content)
  with pytest.raises(ValueError, match=f'{prefix}.index is damaged'):
    checkpoints.read_bundle(prefix)


def test_every_flip_of_a_checkpoint_is_noticed(tmp_path, long):
  """Or falls on bytes that mean nothing."""
  prefix = str(tmp_path / 'model.ckpt-7')
  checkpoints.write_bundle(
    prefix,
    {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'step': np.int64(7)},
  )

  def read():
    return [
      (name, value.dtype, value.tolist())
      for name, value in sorted(checkpoints.read_bundle(prefix).items())
    ]

  for suffix in ('.index', '.data-00000-of-00001'):
    path = pathlib.Path(prefix + suffix)
    found = outcomes(path, 1 if long else 5, read)
    assert found['named'] and not found['other']
    assert suffix == '.index' or not found['same']


def test_fuzzed_checkpoints(tmp_path, long):
  """Lists of the index with anything in them, under right checksums."""
  prefix = write_bundle(tmp_path, entry())
  index = tmp_path / 'c.index'
  whole = index.read_bytes()

  def parse(data):
    index.write_bytes(data)
    checkpoints.read_bundle(prefix)

  fuzz(mutated(whole), parse, 10_000 if long else 100)
  proto = entry((3, 4))

  def parse_entry(value):
    checkpoints.read_bundle(write_bundle(tmp_path, value))

  fuzz(mutated(proto, entry((2**40,))), parse_entry, 1000 if long else 30)
  content = table_list([(b'', b'\x08\x01'), (b'x', proto), (b'y', proto)])

  def parse_content(value):
    checkpoints.read_bundle(write_bundle(tmp_path, b'', content=value))

  fuzz(mutated(content), parse_content, 1000 if long else 30)
