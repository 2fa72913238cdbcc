"""The images that quantisation is calibrated on: a fixed sample of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from etils import epy

from utils import data_input, image_records, shard_files, storage, tfrecords

with epy.lazy_imports():
  import tensorflow as tf

# Of more shards, only so many are read: ImageNet has 1,024 of 140 MB.
_MOST_SHARDS = 16


def choose_shards(shards: Sequence[str], seed: int) -> list[str]:
  """The shards that the sample is drawn from, in their order."""
  random = np.random.default_rng([seed, 0])
  chosen = random.permutation(len(shards))[:_MOST_SHARDS]
  return [shards[i] for i in sorted(chosen)]


def read(
  shards: Sequence[str], number: int, seed: int, preprocessing_name: str
) -> np.ndarray:
  """Draws images, all that there are where they are no more.

  They are cropped as for evaluation. Which they are is decided by the seed and
  by the number of records in the shards.

  Args:
    shards: as of `choose_shards`.
    number: of images.
    seed: of the draw.
    preprocessing_name: 'legacy' or 'modern'.

  Returns:
    [images, image_size, image_size, 3] float32 on the 0..255 scale, in the
    order of their records.

  Raises:
    ValueError: a shard is damaged, or they hold no images; names it.
  """
  records = tfrecords.describe(shards)
  dialect = tfrecords.detect(shards)
  sizes = [_size(path, records) for path in shards]
  drawn = np.random.default_rng([seed, 1]).permutation(sum(sizes))[:number]
  if not len(drawn):
    raise ValueError(f'{shards[0]} and the like hold no images')
  starts = np.cumsum([0, *sizes[:-1]])
  found = []
  for path, start, size in zip(shards, starts, sizes, strict=True):
    wanted = drawn[(drawn >= start) & (drawn < start + size)] - start
    if len(wanted):
      found.append(
        _images_of(path, wanted, records, dialect, preprocessing_name)
      )
  return np.concatenate(found)


def _size(path: str, records: image_records.ImageRecords) -> int:
  declared = records.shard(storage.name(path))
  if declared:
    return declared.examples
  return sum(1 for _ in shard_files.read_records(path))


def _images_of(
  path: str,
  wanted: np.ndarray,
  records: image_records.ImageRecords,
  dialect: tfrecords.Dialect,
  preprocessing_name: str,
) -> np.ndarray:
  """The images at some places of a shard; the others are not decoded."""
  shard_files.check_lengths(path)

  def load(index, serialized):
    example = tfrecords.parse(serialized, dialect, records, path, index)
    return example['image_key'], example['encoded'], example['label']

  elements = tf.data.TFRecordDataset(path).enumerate()
  batches = data_input.ordered_batches(
    elements.filter(
      lambda index, _: tf.reduce_any(index == tf.constant(wanted, tf.int64))
    ),
    load,
    records,
    preprocessing_name,
    batch_size=len(wanted),
  )
  try:
    (images,) = [images.numpy() for _, _, images in batches]
  except tf.errors.OpError as error:
    tfrecords.find_fault(path, dialect, records)
    raise ValueError(f'{path}: {error.message}') from None
  except ValueError:
    raise ValueError(f'{path} holds fewer records than declared') from None
  if len(images) < len(wanted):
    raise ValueError(f'{path} holds fewer records than declared')
  return images
