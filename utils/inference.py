"""Predictions of a population: many networks, each image decoded once.

Each shard is read, decoded and preprocessed once for a group of networks. What
predicts is a `Network`: images in, scores out. Which kinds of network there
are, and how one is opened, is in `_OPENERS`; all that follows from scores (the
likeliest classes, probabilities, the cross entropy) is common to all kinds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

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
  plausibility,
  preprocessing,
  quantised,
  shard_files,
  storage,
  tables,
  tfrecords,
  workers,
)

with epy.lazy_imports():
  import tensorflow as tf

PRECISIONS = ('float32', 'bfloat16')
# Networks in memory at a time: a folded ResNet-50 takes 100 MB. More of small
# ones, though what they predict takes memory, too.
_GROUP_SIZE, _LARGEST_GROUP, _GROUP_BYTES = 8, 32, 2**30
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


class Piece(NamedTuple):
  """What is predicted at once: each image is decoded once.

  Attributes:
    checkpoints: the networks, so many that they fit into memory together.
    data_set: number of the data set, as `Predictor.plan` was given them.
    shards: of the data set.
  """

  checkpoints: tuple[member_paths.Checkpoint, ...]
  data_set: int
  shards: tuple[str, ...]


class Predictor:
  """Predicts by many networks; what is traced once serves all calls.

  Sent to another process, it opens networks and traces anew there, once.
  """

  def __init__(
    self,
    *,
    batch_size: int,
    preprocessing_name: str,
    precision: str,
    label_smoothing: float,
    class_subset: Sequence[int] = (),
    strategy: Callable[[], tf.distribute.Strategy] | None = None,
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
      strategy: gives, where networks run, the strategy; None for the devices at
        hand.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, wanted 1 or more')
    if precision not in PRECISIONS:
      raise ValueError(
        f'precision is {precision!r}, wanted one of {PRECISIONS}'
      )
    check_label_smoothing(label_smoothing)
    self._given = {
      'batch_size': batch_size,
      'preprocessing_name': preprocessing_name,
      'precision': precision,
      'label_smoothing': label_smoothing,
      'class_subset': tuple(class_subset),
      'strategy': strategy,
    }
    self._batch_size = batch_size
    self._preprocessing_name = preprocessing_name
    self._version = preprocessing.version(preprocessing_name)
    self._precision = precision
    self._label_smoothing = label_smoothing
    self._class_subset = tuple(class_subset)
    self._find_strategy = strategy or devices.strategy
    self._openers: dict[str, Opener] = {}
    self._networks: dict[member_paths.Checkpoint, Network] = {}
    self._made_from: dict[member_paths.Checkpoint, str] = {}
    self._outcomes: dict[int, Callable] = {}
    self._data_sets: Sequence[DataSet] = ()
    self._dialects: dict[int, tfrecords.Dialect] = {}
    self._readers: dict = {}
    self._compared: set[str] = set()

  def __getstate__(self) -> tuple:
    planned = self._data_sets, self._dialects, self._made_from
    return self._given, planned

  def __setstate__(self, state: tuple) -> None:
    given, planned = state
    self.__init__(**given)  # type: ignore[misc]
    self._data_sets, self._dialects, self._made_from = planned
    # Others work beside it there.
    self._threads = workers.HERE

  @functools.cached_property
  def _strategy(self) -> tf.distribute.Strategy:
    """Found by who predicts: finding it takes the memory of GPUs."""
    return self._find_strategy()

  @functools.cached_property
  def _threads(self) -> workers.Place:
    """That predict by a network each; found by who predicts, too."""
    return workers.Place(processes=devices.idle_cores())

  def plan(
    self,
    checkpoints: Sequence[member_paths.Checkpoint],
    data_sets: Sequence[DataSet],
    wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
    whole: bool = False,
  ) -> list[Piece]:
    """What is to be predicted, by one group of networks after the other.

    Args:
      checkpoints: the networks.
      data_sets: what to predict.
      wanted: says of a checkpoint and a shard whether it is still to be done.
      whole: whether a piece is a data set, not a shard.

    Raises:
      FileNotFoundError, ValueError: a checkpoint or a shard is missing,
        damaged or does not fit its description; names it.
    """
    cut = [
      (number, shards)
      for number, data_set in enumerate(data_sets)
      for shards in (
        [tuple(data_set.shards)]
        if whole
        else [(shard,) for shard in data_set.shards]
      )
    ]
    to_do = {
      checkpoint: {
        shards
        for _, shards in cut
        if wanted is None or any(wanted(checkpoint, s) for s in shards)
      }
      for checkpoint in checkpoints
    }
    pending = [checkpoint for checkpoint, missing in to_do.items() if missing]
    if not pending:
      return []
    trained = member_checks.read(checkpoints)
    member_checks.check_together(trained)
    quantised.check_alike(checkpoints)
    self._made_from = {
      checkpoint: quantised.check(checkpoint) for checkpoint in pending
    }
    self._data_sets = data_sets
    self._dialects = {}
    self._compared.clear()
    for number, data_set in enumerate(data_sets):
      if data_set.reader is None:
        self._dialects[number] = tfrecords.detect(data_set.shards)
        shard_files.check_sizes(data_set.shards, data_set.records)
    member_checks.check_data(trained, [of.records for of in data_sets])
    pieces = []
    group_size = _group_size(pending[0])
    for start in range(0, len(pending), group_size):
      for number, shards in cut:
        chosen = tuple(
          checkpoint
          for checkpoint in pending[start : start + group_size]
          if shards in to_do[checkpoint]
        )
        if chosen:
          pieces.append(Piece(chosen, number, shards))
    return pieces

  def count(self, piece: Piece) -> int:
    """Number of images x networks; 0 where it is not declared."""
    records = self._data_sets[piece.data_set].records
    of_shards = [records.shard(storage.name(path)) for path in piece.shards]
    images = sum(shard.examples for shard in of_shards if shard)
    return images * len(piece.checkpoints)

  def predict_piece(
    self, piece: Piece, progress: Callable[[int], object] = int
  ) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
    """Predicts what was planned: see `predict`.

    Args:
      piece: one of `plan`.
      progress: told after each batch how many images x networks it was.
    """
    data_set = self._data_sets[piece.data_set]
    described = [of.records for of in self._data_sets]
    if missing := set(piece.checkpoints) - set(self._networks):
      most = max(_GROUP_SIZE, len(piece.checkpoints))
      if len(self._networks) + len(missing) > most:
        self._networks.clear()
      for checkpoint in piece.checkpoints:
        if checkpoint not in self._networks:
          self._networks[checkpoint] = self.open(checkpoint, described)
    reader = self._reader(data_set, self._dialects.get(piece.data_set))
    for shard in piece.shards:
      if not data_set.reader and shard not in self._compared:
        # Two shards of one size may have been swapped.
        shard_files.check_digest(shard, data_set.records)
        self._compared.add(shard)
      frames = self._predict_shard(
        reader.read(shard, data_set.records),
        shard,
        data_set.records,
        {checkpoint: self._networks[checkpoint] for checkpoint in piece[0]},
        progress,
      )
      for checkpoint, frame in frames.items():
        frame['preprocessing'] = self._version
        frame['precision'] = self._precision
        frame['made_from'] = self._made_from[checkpoint]
        if not self._class_subset:
          frame = frame.drop(columns=list(_RESTRICTED))
        yield checkpoint, shard, frame

  def predict_whole(
    self, piece: Piece
  ) -> dict[member_paths.Checkpoint, pd.DataFrame]:
    """The rows of all shards of a piece, by checkpoint."""
    parts: dict[member_paths.Checkpoint, list[pd.DataFrame]] = {}
    for checkpoint, _, frame in self.predict_piece(piece):
      parts.setdefault(checkpoint, []).append(frame)
    return {
      checkpoint: pd.concat(frames, ignore_index=True)
      for checkpoint, frames in parts.items()
    }

  def progress(self, pieces: Iterable[Piece], **options) -> tqdm.tqdm:
    """A bar that counts images x networks."""
    return tqdm.tqdm(
      desc='predicting',
      unit=' images x models',
      total=sum(map(self.count, pieces)) or None,
      mininterval=1.0,
      dynamic_ncols=True,
      **options,
    )

  def predict(
    self,
    checkpoints: Sequence[member_paths.Checkpoint],
    data_sets: Sequence[DataSet],
    wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
    show_progress: bool = True,
  ) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
    """Predicts every image of every shard by every checkpoint, here.

    Args:
      checkpoints: as of `plan`.
      data_sets: likewise.
      wanted: likewise.
      show_progress: whether to draw a progress bar.

    Yields:
      Checkpoint, shard, and the columns of `tables.PREDICTIONS` but `split`, a
      row for each image in the order of the records.

    Raises:
      FileNotFoundError, ValueError: as `plan`.
    """
    pieces = self.plan(checkpoints, data_sets, wanted)
    # Files may have changed since the last call.
    self._networks.clear()
    with self.progress(pieces, disable=not show_progress) as bar:
      for piece in pieces:
        yield from self.predict_piece(piece, bar.update)

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
    progress: Callable[[int], object],
  ) -> dict[member_paths.Checkpoint, pd.DataFrame]:
    read_scores = self._traced_outcomes(records.num_classes)
    keys, classes = [], []
    found: dict = {checkpoint: [] for checkpoint in group}

    def predicted(network, images, labels):
      scores = network.scores(images, records)
      return [part.numpy() for part in read_scores(scores, labels)]

    with workers.mapper(self._threads, len(group), in_threads=True) as mapped:
      for batch_keys, labels, images in batches:
        keys += batch_keys
        classes.append(labels)
        predict_batch = functools.partial(
          predicted, images=images, labels=tf.constant(labels)
        )
        of_all = mapped(predict_batch, group.values())
        for checkpoint, parts in zip(group, of_all, strict=True):
          found[checkpoint].append(parts)
        progress(len(batch_keys) * len(group))
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
      is_described = bool(group[checkpoint].description)
      _check_moved(checkpoint, is_described, shard, frame)
    return frames

  def _reader(
    self, data_set: DataSet, dialect: tfrecords.Dialect | None
  ) -> Reader:
    if data_set.reader is not None:
      return data_set.reader
    assert dialect is not None
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


def _group_size(checkpoint: member_paths.Checkpoint) -> int:
  """How many networks like this one are in memory at a time."""
  files = network_files.files(checkpoint)
  values = tf.io.gfile.glob(f'{checkpoint.prefix}.data-*')  # Of a bundle.
  size = sum(tf.io.gfile.stat(path).length for path in [*files, *values])
  return min(_LARGEST_GROUP, max(_GROUP_SIZE, _GROUP_BYTES // max(1, size)))


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


def _check_moved(
  checkpoint: member_paths.Checkpoint,
  is_described: bool,
  shard: str,
  frame: pd.DataFrame,
) -> None:
  """Refuses a network that is right only where its classes are moved by one."""
  moved = (frame['predictions'] - frame['true_class']).to_numpy()
  _, place, support = np.unique(
    frame['true_class'], return_inverse=True, return_counts=True
  )
  right = plausibility.count_right(moved, place)
  if by := plausibility.moved_by(right, support):
    wanted = 'the order of classes that it was trained with'
    if is_described:
      wanted = f'label_offset in {checkpoint.described_by}, or {wanted}'
    raise ValueError(
      f'{checkpoint.completed_by} is right on {right[0].sum()} of {len(frame)} '
      f'images of {shard}, but on {(moved == by).sum()} if the score of class '
      f'0 stood one place {"later" if by > 0 else "earlier"}: correct {wanted}'
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
