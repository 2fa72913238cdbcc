"""Damaged and hostile inputs: named, or provably without effect."""

import os
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf

from pie_dataset_gen import generate_pie_dataset
from robustness_tests import build_corruptions
from utils import data_input, image_records, paths, tfrecords

CLASSES = ('cat', 'dog', 'newt')


def png(seed=0, size=8):
  pixels = np.random.default_rng(seed).integers(
    0, 256, (size, size, 3), np.uint8
  )
  return tf.io.encode_png(pixels).numpy()


def described(shards, **options):
  options = {'image_size': 8, 'resize_size': 8, **options}
  return image_records.ImageRecords(
    'pets', CLASSES, splits={'validation': shards}, **options
  )


def data_set(folder, encoded=png, num_shards=1):
  """Six images in shards, described."""
  written, found = [], {}
  for shard in range(num_shards):
    path = paths.shard(folder, 'validation', shard, num_shards)
    found[os.path.basename(path)] = tfrecords.write_shard(
      path,
      [
        tfrecords.encode(f'k{i}', encoded(i), i % 3, CLASSES[i % 3])
        for i in range(shard, 6, num_shards)
      ],
    )
    written.append(path)
  image_records.write(folder, described(found))
  return written


def read_ordered(path, records):
  reader = data_input.OrderedReader(records, tfrecords.ORIGINAL, 'legacy', 4)
  return [keys for keys, _, _ in reader.read(path, records)]


def read_for_training(path, records):
  reader = data_input.TrainingReader(
    [path], records, tfrecords.ORIGINAL, 'legacy', 4
  )
  try:
    return list(reader.read(0).take(2))
  except tf.errors.OpError:
    # As imagenet_train_eval does.
    reader.find_fault()
    raise


def read_for_pie(path, records):
  generate_pie_dataset.write_records(path, records, [], [])


def read_for_corruptions(path, records):
  return list(
    build_corruptions.corrupted_records(
      path, tfrecords.ORIGINAL, records, 'contrast', 1, 'legacy', 'png'
    )
  )


def find_fault(path, records):
  tfrecords.find_fault(path, tfrecords.ORIGINAL, records)


READERS = (
  read_ordered,
  read_for_training,
  read_for_pie,
  read_for_corruptions,
  find_fault,
)


def with_length(shard, record, length, folder):
  """Makes a record declare another length, under the right checksum."""
  # A record whose data are the length holds what we need: their checksum.
  other = str(folder / 'length')
  number = struct.pack('<Q', length)
  tfrecords.write_shard(other, [number])
  checksum = pathlib.Path(other).read_bytes()[-4:]
  whole = bytearray(pathlib.Path(shard).read_bytes())
  begin = 0
  for _ in range(record):
    begin += 16 + struct.unpack_from('<Q', whole, begin)[0]
  whole[begin : begin + 12] = number + checksum
  pathlib.Path(shard).write_bytes(whole)
  return begin


@pytest.mark.parametrize('read', READERS)
@pytest.mark.parametrize('length', [2**16, 2**64 - 4])
def test_a_length_that_lies_is_named_by_every_reader(tmp_path, read, length):
  """TensorFlow would ask for that much memory, and the process would end."""
  (path,) = data_set(str(tmp_path))
  records = image_records.read(str(tmp_path))
  begin = with_length(path, 3, length, tmp_path)
  with pytest.raises(ValueError, match='is damaged') as raised:
    read(path, records)
  assert f'{path} is damaged: record 3, which begins at byte {begin},' in str(
    raised.value
  )


def test_a_record_larger_than_any_image_is_named(tmp_path):
  path = str(tmp_path / 'validation-00000-of-00001')
  with_length_of_file = struct.pack('<Q', 2**30)
  with open(path, 'wb') as file:
    file.write(with_length_of_file)
    file.truncate(2**30 + 16)  # a hole, which takes no room on the disk
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    tfrecords.detect([path])
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    list(tfrecords.read_records(path))
