"""Laws of shards: complete or absent, and every damage noticed and named."""

import hashlib
import os
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

from utils import image_records, shard_files


def described(shards):
  return image_records.ImageRecords(
    'pets', ('cat', 'dog', 'newt'), splits={'validation': shards}
  )


def test_write_then_read_is_identity_also_in_a_bucket(tmp_path):
  records = [b'', b'one', b'two two', bytes(range(256)) * 999]
  for folder in (str(tmp_path / 'new' / 'folder'), 'ram://shards'):
    path = f'{folder}/train-00000-of-00001'
    shard = shard_files.write(path, iter(records))
    assert list(shard_files.read_records(path)) == records
    assert shard_files.first_record(path) == b''
    assert shard.examples == 4
    with tf.io.gfile.GFile(path, 'rb') as file:
      content = file.read()
    assert shard.bytes == len(content)
    assert shard.sha256 == hashlib.sha256(content).hexdigest()
    assert tf.io.gfile.listdir(folder) == ['train-00000-of-00001']


def test_a_shard_without_records_has_no_first_one(tmp_path):
  path = str(tmp_path / 'x')
  assert shard_files.write(path, []).examples == 0
  assert shard_files.first_record(path) is None
  assert not list(shard_files.read_records(path))


def test_a_record_that_no_reader_takes_is_not_written(tmp_path, monkeypatch):
  monkeypatch.setattr(shard_files, 'MAX_RECORD_BYTES', 5)
  path = str(tmp_path / 'x')
  shard_files.write(path, [b'12345'])
  with pytest.raises(ValueError, match='has 6 bytes, wanted at most 5'):
    shard_files.write(path, [b'12345', b'123456'])
  assert list(shard_files.read_records(path)) == [b'12345']
  monkeypatch.setattr(shard_files, 'MAX_RECORD_BYTES', 4)
  with pytest.raises(ValueError, match='record 0.* has 5 bytes, wanted at'):
    shard_files.check_lengths(path)


def test_what_is_absent_or_no_file_is_named(tmp_path):
  for read in (
    shard_files.check_lengths,
    shard_files.first_record,
    lambda path: list(shard_files.read_records(path)),
  ):
    with pytest.raises(FileNotFoundError, match='absent does not exist'):
      read(str(tmp_path / 'absent'))
    with pytest.raises(OSError, match=str(tmp_path)):
      read(str(tmp_path))


def test_interrupted_writing_leaves_nothing_under_the_name(tmp_path):
  path = str(tmp_path / 'train-00000-of-00001')
  shard_files.write(path, [b'old'])

  def failing():
    yield b'new'
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    shard_files.write(path, failing())
  assert list(shard_files.read_records(path)) == [b'old']
  assert os.listdir(tmp_path) == ['train-00000-of-00001']


def test_unwritable_folder_is_an_oserror(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    shard_files.write(str(tmp_path / 'file' / 'shard'), [b'x'])


def test_every_truncation_is_noticed(tmp_path):
  """Also the one between two records, which TFRecord does not notice."""
  path = str(tmp_path / 'validation-00000-of-00001')
  examples = [b'one', b'two two', b'three']
  shard = shard_files.write(path, examples)
  records = described({'validation-00000-of-00001': shard})
  whole = pathlib.Path(path).read_bytes()
  ends = np.cumsum([len(e) + 16 for e in examples])
  for size in range(len(whole)):
    pathlib.Path(path).write_bytes(whole[:size])
    with pytest.raises(ValueError, match=f'has {size} bytes'):
      shard_files.check_sizes([path], records)
    with pytest.raises(ValueError, match=path) as raised:
      shard_files.check_count(
        path, len(list(shard_files.read_records(path))), records
      )
    complete = int((ends <= size).sum())
    begin = int([0, *ends][complete])
    if size != begin:
      assert f'record {complete}, which begins at byte {begin},' in str(
        raised.value
      )


def test_every_flipped_byte_is_noticed(tmp_path):
  path = str(tmp_path / 'x')
  shard_files.write(path, [b'one', b'two two', b'three'])
  whole = pathlib.Path(path).read_bytes()
  for position in range(len(whole)):
    damaged = bytearray(whole)
    damaged[position] ^= 1 << position % 8
    pathlib.Path(path).write_bytes(damaged)
    with pytest.raises(ValueError, match=rf'{path} is damaged: record \d'):
      list(shard_files.read_records(path))


def test_digests_are_those_of_the_files_and_notice_a_swap(tmp_path):
  """One record with other pixels, as long as before, of valid checksums."""
  shards, written = [], {}
  for number in range(3):
    path = tmp_path / f'train-0000{number}-of-00003'
    example = f'k{number} pixels'.encode()
    shards.append(str(path))
    written[path.name] = shard_files.write(str(path), [example])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert written[path.name].sha256 == found
  records = image_records.ImageRecords(
    'x', ('a', 'b', 'c'), splits={'train': written}
  )
  shard_files.check_digests(shards, records)
  shard_files.write(shards[1], [b'k1 PIXELS'])
  shard_files.check_sizes(shards, records)
  with pytest.raises(ValueError, match='00001-of-00003 has another SHA-256'):
    shard_files.check_digests(shards, records)
  written['train-00002-of-00003'] = image_records.Shard(1, 1)
  with pytest.raises(ValueError, match='00002-of-00003: .*declares no sha256'):
    shard_files.check_digests(shards[2:], records)


def test_a_length_that_lies_does_not_fill_memory(tmp_path):
  """Ends of files: the length of a record is covered by its own checksum."""
  path = str(tmp_path / 'x')
  shard_files.write(path, [b'one'])
  whole = bytearray(pathlib.Path(path).read_bytes())
  whole[:8] = struct.pack('<Q', 2**40)
  pathlib.Path(path).write_bytes(whole)
  with pytest.raises(ValueError, match='record 0, which begins at byte 0'):
    list(shard_files.read_records(path))
