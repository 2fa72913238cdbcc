"""Pipelines: every record once, in an order that only seed and epoch decide."""

import collections
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from utils import (
  data_input,
  image_records,
  paths,
  shard_files,
  storage,
  tfrecords,
)

NUM_IMAGES = 23


def png(value):
  return tf.io.encode_png(np.full((8, 8, 3), value, np.uint8)).numpy()


def data_set(folder, num_shards=3, crop_area_min=0.5):
  """Images of one grey each, which tells which record a pixel came from."""
  shards = {}
  for shard in range(num_shards):
    path = paths.shard(str(folder), 'train', shard, num_shards)
    shards[storage.name(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(f'k{i}', png(10 * i), i % 5, str(i % 5))
        for i in range(shard, NUM_IMAGES, num_shards)
      ],
    )
  records = image_records.ImageRecords(
    'greys',
    tuple('01234'),
    image_size=8,
    resize_size=8,
    crop_area_min=crop_area_min,
    splits={'train': shards},
  )
  image_records.write(str(folder), records)
  return image_records.find_shards(str(folder), 'train'), records


def ordered(shards, records, batch_size):
  reader = data_input.OrderedReader(
    records, tfrecords.detect(shards), 'legacy', batch_size
  )
  return [batch for shard in shards for batch in reader.read(shard, records)]


@pytest.mark.parametrize('batch_size', [1, 3, 7, 8, 9, 100])
@pytest.mark.parametrize('num_shards', [1, 3])
def test_every_record_once_and_in_order(tmp_path, batch_size, num_shards):
  shards, records = data_set(tmp_path, num_shards)
  batches = ordered(shards, records, batch_size)
  keys = [key for keys, _, _ in batches for key in keys]
  assert keys == [
    f'k{i}'
    for shard in range(num_shards)
    for i in range(shard, NUM_IMAGES, num_shards)
  ]
  labels = np.concatenate([labels for _, labels, _ in batches])
  np.testing.assert_array_equal(labels, [int(key[1:]) % 5 for key in keys])
  pixels = np.concatenate([images for _, _, images in batches])[:, 4, 4, 0]
  np.testing.assert_allclose(pixels, [10 * int(key[1:]) for key in keys])


def test_a_damaged_image_is_named(tmp_path):
  shards, records = data_set(tmp_path, 1)
  examples = list(shard_files.read_records(shards[0]))
  examples[5] = tfrecords.encode('k5', png(3)[:20], 0, '0')
  shard = shard_files.write(shards[0], examples)
  records.splits['train'][storage.name(shards[0])] = shard
  with pytest.raises(ValueError, match="record 5, key 'k5'.*image/encoded"):
    ordered(shards, records, 4)


def test_a_label_outside_the_classes_is_named(tmp_path):
  shards, records = data_set(tmp_path, 1)
  examples = list(shard_files.read_records(shards[0]))
  examples[7] = tfrecords.encode('k7', png(3), 5)
  shard = shard_files.write(shards[0], examples)
  records.splits['train'][storage.name(shards[0])] = shard
  with pytest.raises(ValueError, match='record 7.*is 6, wanted 1 to 5'):
    ordered(shards, records, 4)


def test_a_shard_cut_between_records_is_noticed(tmp_path):
  shards, records = data_set(tmp_path, 1)
  examples = list(shard_files.read_records(shards[0]))[:-1]
  shard_files.write(shards[0], examples)
  with pytest.raises(ValueError, match='holds 22 records.*declares 23'):
    ordered(shards, records, 4)


def training_reader(shards, records, keep_in_memory=False):
  return data_input.TrainingReader(
    shards,
    NUM_IMAGES,
    records,
    tfrecords.detect(shards),
    'legacy',
    5,
    keep_in_memory,
  )


def stream(shards, records, seed, batches, skipped=0):
  reader = training_reader(shards, records)
  return [
    (images.numpy(), labels.numpy())
    for images, labels in reader.read(seed, skipped).take(batches)
  ]


def records_of(batches):
  return [
    round(float(image.mean()) / 10) for images, _ in batches for image in images
  ]


def test_an_epoch_is_every_record_once(tmp_path):
  shards, records = data_set(tmp_path)
  seen = records_of(stream(shards, records, seed=1, batches=NUM_IMAGES))
  epochs = [seen[i * NUM_IMAGES : (i + 1) * NUM_IMAGES] for i in range(5)]
  for epoch in epochs:
    assert collections.Counter(epoch) == collections.Counter(range(NUM_IMAGES))
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_stream_is_a_function_of_the_seed(tmp_path):
  shards, records = data_set(tmp_path)

  def flat(seed):
    return [
      part.tobytes()
      for batch in stream(shards, records, seed, batches=8)
      for part in batch
    ]

  assert flat(1) == flat(1)
  assert flat(1) != flat(2)


@pytest.mark.parametrize('skipped', [1, 4, 5, 9])
def test_the_stream_goes_on_where_it_stopped(tmp_path, skipped):
  shards, records = data_set(tmp_path)
  whole = stream(shards, records, seed=3, batches=12)
  rest = stream(shards, records, 3, batches=12 - skipped, skipped=skipped)
  for (images, labels), (images_after, labels_after) in zip(
    whole[skipped:], rest, strict=True
  ):
    np.testing.assert_array_equal(images, images_after)
    np.testing.assert_array_equal(labels, labels_after)


def test_epochs_that_are_skipped_are_not_read(tmp_path, monkeypatch):
  shards, records = data_set(tmp_path)
  opened = []
  monkeypatch.setattr(shard_files, 'check_lengths', opened.append)
  stream(shards, records, seed=3, batches=1, skipped=100 * NUM_IMAGES)
  # The epoch that it starts in; its end may reach into the next.
  assert len(shards) <= len(opened) <= 2 * len(shards)


@pytest.mark.parametrize('skipped', [0, 7])
@pytest.mark.parametrize('decoded', [True, False])
def test_data_kept_in_memory_are_the_same_and_read_once(
  tmp_path, monkeypatch, skipped, decoded
):
  shards, records = data_set(tmp_path)
  few_and_small = data_input._KEPT_BYTES
  monkeypatch.setattr(data_input, '_KEPT_BYTES', 0)
  wanted = stream(shards, records, seed=3, batches=12, skipped=skipped)
  if decoded:
    monkeypatch.setattr(data_input, '_KEPT_BYTES', few_and_small)
  reader = training_reader(shards, records, keep_in_memory=not decoded)
  assert list(reader.read(0).take(2))  # Leaves off within an epoch.
  assert list(reader.read(1).take(NUM_IMAGES))
  for path in shards:
    pathlib.Path(path).unlink()
  found = reader.read(3, skipped).take(12).as_numpy_iterator()
  for batch, wanted_batch in zip(found, wanted, strict=True):
    for part, wanted_part in zip(batch, wanted_batch, strict=True):
      np.testing.assert_array_equal(part, wanted_part)


def test_the_synthetic_data_set_reads_like_any_other(tmp_path):
  folder = data_input.synthetic_data_set(str(tmp_path / 'data'))
  assert data_input.synthetic_data_set(folder) == folder
  for mode in ('train', 'eval'):
    shards = image_records.find_shards(folder, mode)
    batches = ordered(shards, tfrecords.describe(shards), 8)
    assert sum(len(keys) for keys, _, _ in batches) == 20
