"""Pipelines from TFRecord shards to batches of pixels.

Two of them. `OrderedReader` gives every record of a shard once, in order, with
its image key, for evaluation; the last partial batch counts. `TrainingReader`
gives an endless, shuffled, randomly cropped stream whose order and pixels are
a function of (seed, epoch) alone, so that training can go on where it stopped.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epy

from utils import (
  image_records,
  paths,
  preprocessing,
  shard_files,
  storage,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

# Records in flight between reading and cropping, as the original has it.
_SHUFFLE_BUFFER = 1024
_CYCLE_LENGTH = 8
# Training images that take no more than this once they are decoded stay in
# memory so: to decode a small one takes twice as long as to crop it.
_KEPT_BYTES = 2**28


def ordered_batches(
  elements: tf.data.Dataset,
  load: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
  records: image_records.ImageRecords,
  preprocessing_name: str,
  batch_size: int,
) -> tf.data.Dataset:
  """The pipeline of evaluation: every image once, in order.

  Args:
    elements: what stands for the images.
    load: element -> image key, encoded image, class id from 0.
    records: the description of the data set.
    preprocessing_name: 'legacy' or 'modern'.
    batch_size: images a batch.

  Returns:
    Batches of image keys, class ids and images, for `read_ordered`.
  """

  def example(*element):
    key, encoded, label = load(*element)
    image = preprocessing.central_crop(
      preprocessing.decode(encoded),
      records.resize_size,
      records.image_size,
      preprocessing_name,
    )
    return key, label, image

  # One thread decodes: the model beside it fills the other cores, and more
  # decoders would only take them away from it.
  on_accelerator = bool(tf.config.list_logical_devices('GPU'))
  threads = tf.data.AUTOTUNE if on_accelerator else 1
  options = tf.data.Options()
  options.autotune.enabled = on_accelerator
  return (
    elements.map(example, num_parallel_calls=threads, deterministic=True)
    .batch(batch_size)
    .prefetch(2)
    .with_options(options)
  )


def read_ordered(
  batches: tf.data.Dataset,
  path: str,
  records: image_records.ImageRecords,
  find_fault: Callable[[], None],
) -> Iterator[tuple[list[str], np.ndarray, tf.Tensor]]:
  """Yields batches and counts the images.

  Args:
    batches: as `ordered_batches` makes them.
    path: the shard or folder, for messages.
    records: its description.
    find_fault: raises a ValueError that names what made the pipeline fail.

  Yields:
    Image keys [n], class ids [n] int64 from 0, images [n, image_size,
    image_size, 3] float32 on the 0..255 scale.

  Raises:
    ValueError: the images are damaged, fewer or more than declared.
  """
  seen = 0
  try:
    for keys, labels, images in batches:
      seen += len(labels)
      yield (
        [tfrecords.key_text(key) for key in keys.numpy()],
        labels.numpy(),
        images,
      )
  except tf.errors.OpError as error:
    find_fault()
    raise ValueError(f'{path}: {error.message}') from None
  shard_files.check_count(path, seen, records)


class OrderedReader:
  """Reads shards in order, for evaluation.

  The graph of the pipeline is traced once, for all shards.
  """

  def __init__(
    self,
    records: image_records.ImageRecords,
    dialect: tfrecords.Dialect,
    preprocessing_name: str,
    batch_size: int,
  ):
    """Keeps what all shards share.

    Args:
      records: the description of the data set.
      dialect: how the records are spelled.
      preprocessing_name: 'legacy' or 'modern'.
      batch_size: images a batch.
    """
    self._dialect = dialect

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def dataset(path):
      def parse(index, serialized):
        example = tfrecords.parse(serialized, dialect, records, path, index)
        return example['image_key'], example['encoded'], example['label']

      return ordered_batches(
        tf.data.TFRecordDataset(path).enumerate(),
        parse,
        records,
        preprocessing_name,
        batch_size,
      )

    self._dataset = dataset

  def read(
    self, path: str, records: image_records.ImageRecords
  ) -> Iterator[tuple[list[str], np.ndarray, tf.Tensor]]:
    """The batches of a shard.

    Args:
      path: the shard.
      records: the description of its data set, which may count other shards
        than the one that the reader was made for.

    Returns:
      As `read_ordered` yields them.

    Raises:
      ValueError: the shard is damaged, holds fewer or more records than the
        description says, or a label outside the classes; names the record.
    """
    shard_files.check_lengths(path)
    return read_ordered(
      self._dataset(path),
      path,
      records,
      lambda: tfrecords.find_fault(path, self._dialect, records),
    )


def _open_checked(path: tf.Tensor) -> tf.data.Dataset:
  """The records of a shard of this machine.

  A TPU on another machine runs no Python, and reads buckets only: there a
  length that lies ends the process, without the name of the record.
  """

  def checked(path):
    shard_files.check_lengths(path.decode())
    return path

  return tf.data.TFRecordDataset(
    tf.numpy_function(checked, [path], tf.string, stateful=False)
  )


class _Decoded(NamedTuple):
  """Training images in memory, one after another.

  Attributes:
    pixels: [all bytes] uint8.
    starts: [number] int64, of each image in pixels.
    shapes: [number, 3] int32, of each: height, width, 3.
    labels: [number] int64 class ids.
    first_of: [shards + 1] int64, the first image of each shard, and their
      number.
  """

  pixels: tf.Tensor
  starts: tf.Tensor
  shapes: tf.Tensor
  labels: tf.Tensor
  first_of: tf.Tensor

  def image(self, place: tf.Tensor) -> tf.Tensor:
    """The image at a place, [height, width, 3] uint8."""
    shape = self.shapes[place]
    start = self.starts[place]
    size = tf.cast(tf.reduce_prod(shape), tf.int64)
    return tf.reshape(
      tf.slice(self.pixels, [start], [size]), tf.ensure_shape(shape, (3,))
    )


class TrainingReader:
  """Reads shuffled, randomly cropped batches without end.

  An epoch is every record once. Its order is a function of the seed and the
  epoch's number, an image's crop of both and its place in the epoch.
  """

  def __init__(
    self,
    shards: Sequence[str],
    num_images: int,
    records: image_records.ImageRecords,
    dialect: tfrecords.Dialect,
    preprocessing_name: str,
    batch_size: int,
    keep_in_memory: bool = False,
  ):
    """Keeps what all members share; the graph is traced once, for all.

    Args:
      shards: paths of the TFRecords.
      num_images: number of their records, an epoch.
      records: the description of the data set.
      dialect: how the records are spelled.
      preprocessing_name: 'legacy' or 'modern'.
      batch_size: images a batch; batches run across the ends of epochs.
      keep_in_memory: whether records, still encoded, are read once only. Few
        and small images are kept in any case, decoded, which changes no bit.
    """
    self._shards = list(shards)
    self._num_images = num_images
    self._records = records
    self._dialect = dialect
    self._is_local = is_local = not any('://' in path for path in self._shards)
    open_shard = _open_checked if is_local else tf.data.TFRecordDataset
    spec = tf.TensorSpec((), tf.string)

    @tf.function(input_signature=[spec])
    def keep_shard(path):
      dataset = tf.data.Dataset.from_tensors(path).flat_map(open_shard).cache()
      return tf.data.experimental.to_variant(dataset)

    @functools.cache
    def kept_shards():
      # Made once, for what a data set has cached goes with it.
      with tf.init_scope():
        return tf.stack([keep_shard(path) for path in self._shards])

    def read_shard(number):
      if self._decoded:
        first_of = self._decoded.first_of
        return tf.data.Dataset.range(first_of[number], first_of[number + 1])
      if keep_in_memory:
        return tf.data.experimental.from_variant(kept_shards()[number], spec)
      return open_shard(tf.constant(self._shards)[number])

    def image_and_label(index, record, seed):
      if self._decoded:
        image = self._decoded.image(record)
        label = self._decoded.labels[record]
      else:
        example = tfrecords.parse(record, dialect, records, '', index)
        image, label = example['encoded'], example['label']
      image = preprocessing.random_crop(
        image,
        seed,
        records.image_size,
        records.crop_area_min,
        records.horizontal_flip,
        preprocessing_name,
        records.crop_padding,
      )
      return image, label

    def epoch(number, seed):
      # Shuffled before it is repeated: an epoch is every record once.
      # fold_in gives a number that the seed decides, and the epoch's.
      epoch_seed = tf.random.fold_in(seed, number)
      order = tf.random.experimental.stateless_shuffle(
        tf.range(len(self._shards)), seed=epoch_seed
      )
      in_order = tf.data.Dataset.from_tensor_slices(order).interleave(
        read_shard,
        cycle_length=_CYCLE_LENGTH,
        block_length=1,
        num_parallel_calls=min(_CYCLE_LENGTH, len(self._shards)),
        deterministic=True,
      )
      shuffled = in_order.shuffle(
        _SHUFFLE_BUFFER,
        seed=tf.random.stateless_uniform(
          (), epoch_seed, minval=None, maxval=None, dtype=tf.int64
        ),
        reshuffle_each_iteration=False,
      )
      return shuffled.enumerate().map(
        lambda index, record: (
          index,
          record,
          tf.random.fold_in(epoch_seed, index),
        )
      )

    # What chooses the number of threads while images are read makes whoever
    # leaves off wait for up to seconds. Here all processors are right.
    options = tf.data.Options()
    options.autotune.enabled = not is_local
    threads = os.cpu_count() if is_local else tf.data.AUTOTUNE

    @tf.function
    def dataset(seed, epochs, images, workers, worker, replica_batch_size):
      seed = tf.stack([seed, 0])
      return (
        tf.data.Dataset.range(epochs, tf.int64.max)
        .flat_map(lambda number: epoch(number, seed))
        # Skipped, and left to other workers, before they are decoded.
        .skip(images)
        .shard(workers, worker)
        .map(image_and_label, num_parallel_calls=threads, deterministic=True)
        .batch(replica_batch_size, drop_remainder=True)
        .prefetch(2 if is_local else tf.data.AUTOTUNE)
        .with_options(options)
      )

    self._batch_size = batch_size
    self._dataset = dataset
    self._lock = threading.Lock()

  def read(
    self,
    seed: int,
    skipped_batches: int = 0,
    context: tf.distribute.InputContext | None = None,
  ) -> tf.data.Dataset:
    """The stream of one member.

    Args:
      seed: decides order, crops and mirrors.
      skipped_batches: batches that a run before this one has used.
      context: which of several workers reads, and for how many replicas: the
        batches that the replicas take make up the same global batch, whatever
        their number. None is one.

    Returns:
      Batches of images [n, image_size, image_size, 3] float32 on the 0..255
      scale and class ids [n] int64 from 0; n is a replica's share of
      batch_size.

    Raises:
      ValueError: the lengths in a shard lie; names the record.
      tf.errors.OpError: an image that is kept in memory is damaged.
    """
    with self._lock:
      # Read before the graph that holds it is traced.
      self._decoded  # noqa: B018
    context = context or tf.distribute.InputContext()
    # Of whole epochs that are skipped, nothing is read.
    epochs, images = divmod(
      skipped_batches * self._batch_size, self._num_images
    )
    return self._dataset(
      tf.constant(seed, tf.int64),
      tf.constant(epochs, tf.int64),
      tf.constant(images, tf.int64),
      context.num_input_pipelines,
      context.input_pipeline_id,
      context.get_per_replica_batch_size(self._batch_size),
    )

  @functools.cached_property
  def _decoded(self) -> _Decoded | None:
    """All images, unless they are many or large or lie elsewhere."""
    if not self._is_local or (
      sum(tf.io.gfile.stat(path).length for path in self._shards) > _KEPT_BYTES
    ):
      return None

    def decode(index, serialized):
      example = tfrecords.parse(
        serialized, self._dialect, self._records, '', index
      )
      image = preprocessing.decode(example['encoded'])
      return tf.reshape(image, [-1]), tf.shape(image), example['label']

    pixels, shapes, labels, first_of, size = [], [], [], [0], 0
    for path in self._shards:
      shard_files.check_lengths(path)
      for flat, shape, label in (
        tf.data.TFRecordDataset(path)
        .enumerate()
        .map(decode, num_parallel_calls=os.cpu_count(), deterministic=True)
        .as_numpy_iterator()
      ):
        pixels.append(flat)
        shapes.append(shape)
        labels.append(label)
        size += len(flat)
        if size > _KEPT_BYTES:
          return None
      first_of.append(len(labels))
    if not labels:
      return None
    ends = np.cumsum([len(flat) for flat in pixels])
    with tf.device('CPU'):
      return _Decoded(
        tf.constant(np.concatenate(pixels)),
        tf.constant(np.concatenate([[0], ends[:-1]]), tf.int64),
        tf.constant(np.stack(shapes), tf.int32),
        tf.constant(np.array(labels), tf.int64),
        tf.constant(first_of, tf.int64),
      )

  def find_fault(self) -> None:
    """Names the damaged record after a pipeline failed.

    Raises:
      ValueError: a shard is damaged.
    """
    for path in self._shards:
      tfrecords.find_fault(path, self._dialect, self._records)


def synthetic_data_set(folder: str) -> str:
  """Writes a tiny data set of synthetic images, unless it is there.

  Ten classes, 20 images of 32x32 pixels in each of the splits train and
  validation: bars whose place tells the class, under noise. They are not
  cropped in training, which would move the bars.

  Args:
    folder: where the shards and the description go.

  Returns:
    The folder.
  """
  if storage.exists(paths.image_records(folder)):
    return folder
  splits = {}
  for number, split in enumerate(('train', 'validation')):
    rng = np.random.default_rng(number)
    examples = []
    for index in range(20):
      image = rng.integers(0, 64, size=(32, 32, 3), dtype=np.uint8)
      label = index % 10
      image[3 * label : 3 * label + 3] += 160
      examples.append(
        tfrecords.encode(
          f'{split}/{index}', tf.io.encode_png(image).numpy(), label, str(label)
        )
      )
    path = paths.shard(folder, split, 0, 1)
    splits[split] = {storage.name(path): shard_files.write(path, examples)}
  image_records.write(
    folder,
    image_records.ImageRecords(
      name='synthetic',
      class_names=tuple(map(str, range(10))),
      image_size=32,
      resize_size=32,
      crop_area_min=1.0,
      horizontal_flip=False,
      splits=splits,
    ),
  )
  return folder
