"""Predictions of a population: many networks, each image decoded once.

Each shard is read, decoded and preprocessed once for a group of networks. What
predicts is a `Network`: images in, scores out. Which kinds of network there
are, and how one is opened, is in `_OPENERS`; all that follows from scores (the
likeliest classes, probabilities, the cross entropy) is common to all kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import tqdm
from etils import epath, epy

from utils import (
  csvs,
  data_input,
  devices,
  folded_resnet,
  framework_networks,
  image_records,
  member_checks,
  member_paths,
  network_files,
  preprocessing,
  quantised,
  shard_files,
  storage,
  tables,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

PRECISIONS = ('float32', 'bfloat16')
# A network is taken to have its classes one off if its recall is so many times
# larger then, and it is right so on so many images at least.
_OFFSET_RATIO = 8
_OFFSET_IMAGES = 20
# Networks in memory at a time; a folded ResNet-50 takes 100 MB.
_GROUP_SIZE = 8
# Columns that frames have where the classes to choose from are a subset.
_RESTRICTED = ('restricted_predictions', 'restricted_probability')


class Network(Protocol):
  """What predicts."""

  @property
  def num_classes(self) -> int:
    """Number of scores of an image."""

  @property
  def description(self) -> network_files.Description | None:
    """How it takes images, if not as any data set has them."""

  def scores(
    self, images: tf.Tensor, records: image_records.ImageRecords
  ) -> tf.Tensor:
    """Scores images.

    Args:
      images: [n, size, size, 3] float32 on the 0..255 scale.
      records: their description, which has the channels' statistics.

    Returns:
      Scores [n, num_classes] float32, whose softmax are the probabilities.
    """


class Opener(Protocol):
  """What makes networks of one kind; it keeps what they share."""

  def __init__(
    self, precision: str, batch_size: int, strategy: tf.distribute.Strategy
  ):
    """Takes what `Predictor` was told of how networks run."""

  @staticmethod
  def num_classes(checkpoint: member_paths.Checkpoint) -> int:
    """Number of classes, read without the values."""

  def open(self, checkpoint: member_paths.Checkpoint) -> Network:
    """Reads a network, and refuses one that is not what its path says."""


# Kind of `member_paths.KINDS` -> what opens it.
_OPENERS: dict[str, type[Opener]] = {
  'bundle': folded_resnet.Opener,
  'saved_model': framework_networks.SavedModelOpener,
  'keras': framework_networks.KerasOpener,
  'tflite': framework_networks.TfliteOpener,
}


def num_classes(checkpoint: member_paths.Checkpoint) -> int:
  """The number of classes that a network tells apart.

  Raises:
    FileNotFoundError, ValueError: it is missing or damaged; names it.
  """
  return _OPENERS[checkpoint.kind].num_classes(checkpoint)


def outcomes(
  scores: tf.Tensor,
  labels: tf.Tensor,
  label_smoothing: float,
  class_subset: Sequence[int] = (),
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """What a batch's scores say.

  Args:
    scores: [n, num_classes] float32, of a `Network`.
    labels: [n] int64 class ids.
    label_smoothing: share of the target spread over all classes, in [0, 1).
    class_subset: class ids that the restricted prediction is one of; empty for
      all classes.

  Returns:
    The class ids of the largest probabilities [n, 5] (fewer if there are
    fewer classes), the largest probability [n], the cross entropy [n] with
    label smoothing, in nats, the likeliest class id of the subset [n], and its
    probability [n] if the class is known to be one of the subset.
  """
  number = scores.shape[1]
  _, top = tf.math.top_k(scores, k=min(5, number))
  probability = tf.reduce_max(tf.nn.softmax(scores), axis=1)
  targets = smooth_labels(labels, number, label_smoothing)
  loss = tf.nn.softmax_cross_entropy_with_logits(targets, scores)
  subset = tf.constant(tuple(class_subset) or tuple(range(number)))
  among = tf.gather(scores, subset, axis=1)
  restricted = tf.gather(subset, tf.argmax(among, axis=1))
  sure = tf.reduce_max(tf.nn.softmax(among), axis=1)
  return top, probability, loss, restricted, sure


def check_label_smoothing(label_smoothing: float) -> None:
  """Raises ValueError where `smooth_labels` would make no targets."""
  if not 0 <= label_smoothing < 1:
    raise ValueError(
      f'label_smoothing is {label_smoothing}, wanted a number in [0, 1)'
    )


def smooth_labels(
  labels: tf.Tensor, num_classes: int, label_smoothing: float
) -> tf.Tensor:
  """Targets [n, num_classes]: 1 - s + s / num_classes, and s / num_classes."""
  off = label_smoothing / num_classes
  return tf.one_hot(
    labels, num_classes, on_value=1 - label_smoothing + off, off_value=off
  )


class Reader(Protocol):
  """What reads a shard as `data_input.OrderedReader` does."""

  def read(
    self, path: str, records: image_records.ImageRecords
  ) -> Iterator[tuple[list[str], np.ndarray, tf.Tensor]]:
    """Yields keys, class ids and images of each batch, in order."""


@dataclasses.dataclass(frozen=True)
class DataSet:
  """Shards and their description.

  Attributes:
    records: description of the images.
    shards: paths of TFRecords.
    reader: for shards that are no TFRecords.
  """

  records: image_records.ImageRecords
  shards: Sequence[str]
  reader: Reader | None = None


class Predictor:
  """Predicts by many networks; what is traced once serves all calls."""

  def __init__(
    self,
    *,
    batch_size: int,
    preprocessing_name: str,
    precision: str,
    label_smoothing: float,
    class_subset: Sequence[int] = (),
    strategy: tf.distribute.Strategy | None = None,
  ):
    """Keeps what all predictions share.

    Args:
      batch_size: images a batch; changes the last digits of probabilities.
      preprocessing_name: 'legacy' or 'modern'.
      precision: 'float32' or 'bfloat16'.
      label_smoothing: of the cross entropy, in [0, 1).
      class_subset: class ids; frames have two further columns, the likeliest of
        these, restricted_predictions, and its probability among them,
        restricted_probability. Empty for none.
      strategy: where networks run; None for the devices at hand.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, wanted 1 or more')
    if precision not in PRECISIONS:
      raise ValueError(
        f'precision is {precision!r}, wanted one of {PRECISIONS}'
      )
    check_label_smoothing(label_smoothing)
    self._batch_size = batch_size
    self._preprocessing_name = preprocessing_name
    self._version = preprocessing.version(preprocessing_name)
    self._precision = precision
    self._label_smoothing = label_smoothing
    self._class_subset = tuple(class_subset)
    self._strategy = strategy or devices.strategy()
    self._openers: dict[str, Opener] = {}
    self._outcomes: dict[int, Callable] = {}
    self._readers: dict = {}

  def predict(
    self,
    checkpoints: Sequence[member_paths.Checkpoint],
    data_sets: Sequence[DataSet],
    wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
    show_progress: bool = True,
  ) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
    """Predicts every image of every shard by every checkpoint.

    Args:
      checkpoints: the networks.
      data_sets: what to predict.
      wanted: says of a checkpoint and a shard whether it is still to be done.
      show_progress: whether to draw a progress bar.

    Yields:
      Checkpoint, shard, and the columns of `tables.PREDICTIONS` but `split`, a
      row for each image in the order of the records.

    Raises:
      FileNotFoundError, ValueError: a checkpoint or a shard is missing,
        damaged or does not fit its description; names it.
    """
    shards = [shard for data_set in data_sets for shard in data_set.shards]
    to_do = {
      checkpoint: [s for s in shards if wanted is None or wanted(checkpoint, s)]
      for checkpoint in checkpoints
    }
    pending = [checkpoint for checkpoint, missing in to_do.items() if missing]
    if not pending:
      return
    member_checks.check_together(checkpoints)
    quantised.check_alike(checkpoints)
    made_from = {
      checkpoint: quantised.check(checkpoint) for checkpoint in pending
    }
    readers = [self._reader(data_set) for data_set in data_sets]
    compared = set()
    described = [data_set.records for data_set in data_sets]
    member_checks.check_data(checkpoints, described)
    progress = tqdm.tqdm(
      desc='predicting',
      unit=' images x models',
      total=_count(to_do, data_sets),
      mininterval=1.0,
      dynamic_ncols=True,
      disable=not show_progress,
    )
    with progress:
      for start in range(0, len(pending), _GROUP_SIZE):
        networks = {
          checkpoint: self.open(checkpoint, described)
          for checkpoint in pending[start : start + _GROUP_SIZE]
        }
        for data_set, reader in zip(data_sets, readers, strict=True):
          for shard in data_set.shards:
            chosen = {
              checkpoint: network
              for checkpoint, network in networks.items()
              if shard in to_do[checkpoint]
            }
            if not chosen:
              continue
            if not data_set.reader and shard not in compared:
              # Two shards of one size may have been swapped.
              shard_files.check_digest(shard, data_set.records)
              compared.add(shard)
            frames = self._predict_shard(
              reader.read(shard, data_set.records),
              shard,
              data_set.records,
              chosen,
              progress,
            )
            for checkpoint, frame in frames.items():
              frame['preprocessing'] = self._version
              frame['precision'] = self._precision
              frame['made_from'] = made_from[checkpoint]
              if not self._class_subset:
                frame = frame.drop(columns=list(_RESTRICTED))
              yield checkpoint, shard, frame

  def open(
    self,
    checkpoint: member_paths.Checkpoint,
    described: Sequence[image_records.ImageRecords],
  ) -> Network:
    """Opens a network and holds it against the data sets."""
    kind = checkpoint.kind
    if kind not in self._openers:
      self._openers[kind] = _OPENERS[kind](
        self._precision, self._batch_size, self._strategy
      )
    network = self._openers[kind].open(checkpoint)
    for records in described:
      if network.num_classes != records.num_classes:
        raise ValueError(
          f'{checkpoint.prefix} has {network.num_classes} classes, the data '
          f'set {records.name} has {records.num_classes}'
        )
      if network.description:
        try:
          network.description.check_fits(records, self._preprocessing_name)
        except ValueError as error:
          raise ValueError(f'{checkpoint.described_by}: {error}') from None
    if not all(0 <= i < network.num_classes for i in self._class_subset):
      raise ValueError(
        f'the classes to choose from reach from {min(self._class_subset)} to '
        f'{max(self._class_subset)}, the network has {network.num_classes}'
      )
    return network

  def _traced_outcomes(self, number: int) -> Callable:
    """`outcomes` for a number of classes: traced once, for all networks."""
    if number not in self._outcomes:

      @tf.function(
        input_signature=[
          tf.TensorSpec((None, number), tf.float32),
          tf.TensorSpec((None,), tf.int64),
        ]
      )
      def traced(scores, labels):
        return outcomes(
          scores, labels, self._label_smoothing, self._class_subset
        )

      self._outcomes[number] = traced
    return self._outcomes[number]

  def _predict_shard(
    self,
    batches: Iterator[tuple[list[str], np.ndarray, tf.Tensor]],
    shard: str,
    records: image_records.ImageRecords,
    group: dict[member_paths.Checkpoint, Network],
    progress: tqdm.tqdm,
  ) -> dict[member_paths.Checkpoint, pd.DataFrame]:
    read_scores = self._traced_outcomes(records.num_classes)
    keys, classes = [], []
    found: dict = {checkpoint: [] for checkpoint in group}
    for batch_keys, labels, images in batches:
      keys += batch_keys
      classes.append(labels)
      labels = tf.constant(labels)
      for checkpoint, network in group.items():
        scores = network.scores(images, records)
        found[checkpoint].append(
          [part.numpy() for part in read_scores(scores, labels)]
        )
      progress.update(len(batch_keys) * len(group))
    if not keys:
      # Declared so, or the reader would have complained: no image, no row.
      nothing = csvs.empty(tables.PREDICTIONS).assign(
        **dict.fromkeys(_RESTRICTED, 0)
      )
      return {checkpoint: nothing.copy() for checkpoint in group}
    true_class = np.concatenate(classes)
    frames = {
      checkpoint: _frame(checkpoint, shard, keys, true_class, parts)
      for checkpoint, parts in found.items()
    }
    for checkpoint, frame in frames.items():
      if group[checkpoint].description:
        _check_offset(checkpoint, shard, frame)
    return frames

  def _reader(self, data_set: DataSet) -> Reader:
    if data_set.reader is not None:
      return data_set.reader
    dialect = tfrecords.detect(data_set.shards)
    shard_files.check_sizes(data_set.shards, data_set.records)
    # Sets that differ in their shards only, as corrupted copies do, share one
    # traced pipeline.
    records = data_set.records
    key = (
      dialect,
      bool(records.splits),
      repr(dataclasses.replace(records, splits={})),
    )
    if key not in self._readers:
      self._readers[key] = data_input.OrderedReader(
        records, dialect, self._preprocessing_name, self._batch_size
      )
    return self._readers[key]


def predict(
  checkpoints: Sequence[member_paths.Checkpoint],
  shards: Sequence[str],
  records: image_records.ImageRecords,
  wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
  **options,
) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
  """Predicts one data set once: see `Predictor` for the options."""
  return Predictor(**options).predict(
    checkpoints, [DataSet(records, shards)], wanted
  )


def _count(
  to_do: dict[member_paths.Checkpoint, list[str]], data_sets: Sequence[DataSet]
) -> int | None:
  """Number of images x models, or None where it is not declared."""
  examples = {}
  for data_set in data_sets:
    for path in data_set.shards:
      shard = data_set.records.shard(storage.name(path))
      if shard is None:
        return None
      examples[path] = shard.examples
  return sum(examples[path] for missing in to_do.values() for path in missing)


def _frame(
  checkpoint: member_paths.Checkpoint,
  shard: str,
  keys: list[str],
  true_class: np.ndarray,
  parts: list[list[np.ndarray]],
) -> pd.DataFrame:
  """The rows of a shard from the `outcomes` of its batches."""
  top, probability, loss, restricted, sure = map(
    np.concatenate, zip(*parts, strict=True)
  )
  _check_finite(checkpoint, shard, keys, loss)
  return pd.DataFrame(
    {
      'predictions': top[:, 0].astype(np.int64),
      'true_class': true_class,
      'predicted_probability': probability,
      'top_5_indices': [
        '[' + ' '.join(map(str, row)) + ']' for row in top.tolist()
      ],
      'filename': storage.name(shard),
      **checkpoint.row,
      'image_key': keys,
      'image_index': np.arange(len(keys)),
      'cross_entropy': loss,
      'restricted_predictions': restricted.astype(np.int64),
      'restricted_probability': sure,
    }
  )


def _check_finite(
  checkpoint: member_paths.Checkpoint,
  shard: str,
  keys: list[str],
  loss: np.ndarray,
) -> None:
  if not np.isfinite(loss).all():
    index = int(np.flatnonzero(~np.isfinite(loss))[0])
    raise ValueError(
      f'{checkpoint.prefix} gives a loss of {loss[index]} on record {index} '
      f'({keys[index]}) of {shard}'
    )


def _check_offset(
  checkpoint: member_paths.Checkpoint, shard: str, frame: pd.DataFrame
) -> None:
  """Refuses a network that is right only where its classes are moved by one.

  What counts is the mean recall of the classes in a shard, which a network that
  predicts one class for all images cannot raise.
  """
  moved = frame['predictions'] - frame['true_class']
  recall = {
    by: float((moved == by).groupby(frame['true_class']).mean().mean())
    for by in (0, 1, -1)
  }
  by = max((1, -1), key=recall.__getitem__)
  present = frame['true_class'].nunique()
  if (
    recall[by] > _OFFSET_RATIO * recall[0]
    and recall[by] >= max(0.1, 3 / present)
    and (moved == by).sum() >= _OFFSET_IMAGES
  ):
    raise ValueError(
      f'{checkpoint.completed_by} has a mean recall of {recall[0]:.3f} on '
      f'{shard}, but of {recall[by]:.3f} if the score of class 0 stands one '
      f'place {"later" if by > 0 else "earlier"} than label_offset in '
      f'{checkpoint.described_by} says: correct that, or the order of classes'
    )


def small_sample(folder: str, ckpt_dir: str = '') -> tuple[str, str]:
  """What --test_small_sample reads: synthetic images, an untrained network.

  Args:
    folder: where they are written, below test_small_sample.
    ckpt_dir: checkpoints to use in place of the untrained network.

  Returns:
    ckpt_dir and data_directory.
  """
  folder = str(epath.Path(folder) / 'test_small_sample')
  return (
    ckpt_dir or folded_resnet.write_untrained(folder),
    data_input.synthetic_data_set(folder),
  )
