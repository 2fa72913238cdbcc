"""Predictions of a population: many networks, each image decoded once.

Each shard is read, decoded and preprocessed once for a group of networks. The
batch normalisation is folded into the convolutions as a checkpoint is loaded,
so that dense and pruned networks of one architecture share one traced
function, into which their weights go as arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import tqdm
from absl import logging
from etils import epath, epy

from utils import (
  checkpoints,
  csvs,
  data_input,
  devices,
  image_records,
  member_paths,
  populations,
  preprocessing,
  resnet_model,
  storage,
  tables,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

PRECISIONS = ('float32', 'bfloat16')
# Networks in memory at a time; a folded ResNet-50 takes 100 MB.
_GROUP_SIZE = 8


@dataclasses.dataclass(eq=False)
class Classifier:
  """Traced functions of one architecture; weights are arguments.

  Attributes:
    architecture: which ResNet.
    image_size: height and width of the images, in pixels.
    channel_mean: [3] on the 0..255 scale.
    channel_std: [3] on the 0..255 scale.
    precision: 'float32' or 'bfloat16', of the convolutions.
    label_smoothing: share of the target spread over all classes, in [0, 1).
    class_subset: class ids that the restricted prediction is one of; empty for
      all classes.
    batch_size: images of a full batch.
    strategy: where it runs.
  """

  architecture: resnet_model.Architecture
  image_size: int
  channel_mean: tuple[float, ...]
  channel_std: tuple[float, ...]
  precision: str
  label_smoothing: float
  class_subset: tuple[int, ...]
  batch_size: int
  strategy: tf.distribute.Strategy

  def __post_init__(self):
    if not all(
      0 <= i < self.architecture.num_classes for i in self.class_subset
    ):
      raise ValueError(
        f'the classes to choose from reach from {min(self.class_subset)} to '
        f'{max(self.class_subset)}, the network has '
        f'{self.architecture.num_classes}'
      )
    if self.precision not in PRECISIONS:
      raise ValueError(
        f'precision is {self.precision!r}, wanted one of {PRECISIONS}'
      )
    check_label_smoothing(self.label_smoothing)
    if self._is_spread:

      @tf.function
      def on_replicas(*per_replica):
        return self.strategy.run(self._predict, args=per_replica)

      self._traced = on_replicas
      return
    size = self.image_size
    # One trace for batches of all sizes and for all networks.
    signature = [
      tf.TensorSpec((None, size, size, 3), tf.float32),
      tf.TensorSpec((None,), tf.int64),
      {
        name: tf.TensorSpec(shape, self._dtype(name))
        for name, shape in resnet_model.folded_shapes(self.architecture).items()
      },
    ]
    self._traced = tf.function(self._predict, input_signature=signature)

  @property
  def _is_spread(self) -> bool:
    return self.strategy.num_replicas_in_sync > 1 or isinstance(
      self.strategy, tf.distribute.TPUStrategy
    )

  def _dtype(self, name: str) -> tf.DType:
    is_dense = name.startswith('final_dense/')
    return tf.float32 if is_dense else tf.as_dtype(self.precision)

  def weights(self, network: checkpoints.Network) -> dict[str, tf.Tensor]:
    """Folds and converts a network's weights for `predict`."""
    folded = resnet_model.fold_batch_norm(network.values, self.architecture)
    return {
      name: self._per_replica(
        [tf.constant(value, self._dtype(name))]
        * self.strategy.num_replicas_in_sync
      )
      for name, value in folded.items()
    }

  def _per_replica(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
    """One value for each replica; the value itself where nothing is spread."""
    if not self._is_spread:
      return values[0]
    return self.strategy.experimental_distribute_values_from_function(
      lambda context: values[context.replica_id_in_sync_group]
    )

  def predict(
    self,
    images: tf.Tensor,
    labels: tf.Tensor,
    weights: dict[str, tf.Tensor],
  ) -> list[np.ndarray]:
    """Predicts a batch; the arguments and results are those of `_predict`.

    Several replicas take equal parts of the batch, filled up to one shape with
    images that do not count.
    """
    if not self._is_spread:
      return [t.numpy() for t in self._traced(images, labels, weights)]
    replicas = self.strategy.num_replicas_in_sync
    number = len(labels)
    padding = -(-self.batch_size // replicas) * replicas - number
    images = tf.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
    labels = tf.pad(labels, ((0, padding),))
    predicted = self._traced(
      self._per_replica(tf.split(images, replicas)),
      self._per_replica(tf.split(labels, replicas)),
      weights,
    )
    return [
      np.concatenate(self.strategy.experimental_local_results(part))[:number]
      for part in predicted
    ]

  def _predict(
    self,
    images: tf.Tensor,
    labels: tf.Tensor,
    weights: dict[str, tf.Tensor],
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Predicts a batch.

    Args:
      images: [n, size, size, 3] float32 on the 0..255 scale.
      labels: [n] int64 class ids.
      weights: as `weights` gives them.

    Returns:
      The class ids of the largest probabilities [n, 5] (fewer if there are
      fewer classes), the largest probability [n], the cross entropy [n] with
      label smoothing, in nats, and the likeliest class id of the subset [n].
    """
    x = resnet_model.normalise(images, self.channel_mean, self.channel_std)
    logits = resnet_model.folded_forward(
      tf.cast(x, self.precision), weights, self.architecture
    )
    _, top = tf.math.top_k(logits, k=min(5, self.architecture.num_classes))
    probability = tf.reduce_max(tf.nn.softmax(logits), axis=1)
    targets = smooth_labels(
      labels, self.architecture.num_classes, self.label_smoothing
    )
    loss = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    everything = tuple(range(self.architecture.num_classes))
    subset = tf.constant(self.class_subset or everything)
    restricted = tf.gather(
      subset, tf.argmax(tf.gather(logits, subset, axis=1), axis=1)
    )
    return top, probability, loss, restricted


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


@dataclasses.dataclass(frozen=True)
class DataSet:
  """Shards and their description.

  Attributes:
    records: description of the images.
    shards: paths of TFRecords.
    reader: for shards that are no TFRecords: reads them as a
      `data_input.OrderedReader` does.
  """

  records: image_records.ImageRecords
  shards: Sequence[str]
  reader: data_input.OrderedReader | None = None


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
      class_subset: class ids; frames have a further column, the likeliest of
        these, restricted_predictions. Empty for none.
      strategy: where networks run; None for the devices at hand.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, wanted 1 or more')
    self._batch_size = batch_size
    self._preprocessing_name = preprocessing_name
    self._version = preprocessing.version(preprocessing_name)
    self._precision = precision
    self._label_smoothing = label_smoothing
    self._class_subset = tuple(class_subset)
    self._strategy = strategy or devices.strategy()
    self._classifiers: dict = {}
    self._readers: dict = {}

  def predict(
    self,
    members: Sequence[member_paths.Checkpoint],
    data_sets: Sequence[DataSet],
    wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
    show_progress: bool = True,
  ) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
    """Predicts every image of every shard by every checkpoint.

    Args:
      members: the checkpoints.
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
      member: [s for s in shards if wanted is None or wanted(member, s)]
      for member in members
    }
    pending = [member for member, missing in to_do.items() if missing]
    if not pending:
      return
    readers = [self._reader(data_set) for data_set in data_sets]
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
          member: _read_network(member, [d.records for d in data_sets])
          for member in pending[start : start + _GROUP_SIZE]
        }
        weights = {}
        for data_set, reader in zip(data_sets, readers, strict=True):
          for shard in data_set.shards:
            chosen = {}
            for member, network in networks.items():
              if shard not in to_do[member]:
                continue
              classifier = self._classifier(network, data_set.records)
              if member not in weights:
                weights[member] = classifier.weights(network)
              chosen[member] = (classifier, weights[member])
            if not chosen:
              continue
            frames = _predict_shard(
              reader.read(shard, data_set.records), shard, chosen, progress
            )
            for member, frame in frames.items():
              frame['preprocessing'] = self._version
              frame['precision'] = self._precision
              if not self._class_subset:
                del frame['restricted_predictions']
              yield member, shard, frame

  def _classifier(
    self, network: checkpoints.Network, records: image_records.ImageRecords
  ) -> Classifier:
    key = (
      network.architecture,
      records.image_size,
      records.channel_mean,
      records.channel_std,
    )
    if key not in self._classifiers:
      self._classifiers[key] = Classifier(
        *key,
        self._precision,
        self._label_smoothing,
        self._class_subset,
        self._batch_size,
        self._strategy,
      )
    return self._classifiers[key]

  def _reader(self, data_set: DataSet) -> data_input.OrderedReader:
    if data_set.reader is not None:
      return data_set.reader
    dialect = tfrecords.detect(data_set.shards)
    tfrecords.check_shards(data_set.shards, data_set.records)
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
  members: Sequence[member_paths.Checkpoint],
  shards: Sequence[str],
  records: image_records.ImageRecords,
  wanted: Callable[[member_paths.Checkpoint, str], bool] | None = None,
  **options,
) -> Iterator[tuple[member_paths.Checkpoint, str, pd.DataFrame]]:
  """Predicts one data set once: see `Predictor` for the options."""
  return Predictor(**options).predict(
    members, [DataSet(records, shards)], wanted
  )


def _count(
  to_do: dict[member_paths.Checkpoint, list[str]], data_sets: Sequence[DataSet]
) -> int | None:
  """Number of images x models, or None where it is not declared."""
  declared = {
    shard: data_set.records.shard(storage.name(shard))
    for data_set in data_sets
    for shard in data_set.shards
  }
  if not all(declared.values()):
    return None
  return sum(
    found.examples
    for missing in to_do.values()
    for found in (declared[shard] for shard in missing)
    if found
  )


def _read_network(
  member: member_paths.Checkpoint,
  described: Sequence[image_records.ImageRecords],
) -> checkpoints.Network:
  """Reads a checkpoint and holds it against its path and the data sets."""
  network = checkpoints.read(member.prefix)
  for records in described:
    if network.architecture.num_classes != records.num_classes:
      raise ValueError(
        f'{member.prefix} has {network.architecture.num_classes} classes, the '
        f'data set {records.name} has {records.num_classes}'
      )
  if network.global_step != member.step:
    raise ValueError(
      f'{member.prefix} is named after step {member.step}, but its '
      f'global_step is {network.global_step}'
    )
  measured = resnet_model.total_sparsity(
    network.layer_sparsity(), network.architecture
  )
  if abs(measured - member.member.fraction_pruned) > 0.005:
    # Not an error: with the original's ties a layer can keep more.
    logging.warning(
      '%s: its path says that a fraction of %s is pruned, its weights have '
      '%.4f zeros',
      member.prefix,
      member.member.fraction_pruned,
      measured,
    )
  return network


def _predict_shard(
  batches: Iterator[tuple[list[str], np.ndarray, tf.Tensor]],
  shard: str,
  group: dict[member_paths.Checkpoint, tuple[Classifier, dict[str, tf.Tensor]]],
  progress: tqdm.tqdm,
) -> dict[member_paths.Checkpoint, pd.DataFrame]:
  keys, classes = [], []
  found: dict[member_paths.Checkpoint, list] = {member: [] for member in group}
  for batch_keys, labels, images in batches:
    keys += batch_keys
    classes.append(labels)
    labels = tf.constant(labels)
    for member, (classifier, weights) in group.items():
      found[member].append(classifier.predict(images, labels, weights))
    progress.update(len(batch_keys) * len(group))
  if not keys:
    # Declared so, or the reader would have complained: no image, no row.
    nothing = csvs.empty(tables.PREDICTIONS).assign(restricted_predictions=0)
    return {member: nothing.copy() for member in group}
  true_class = np.concatenate(classes)
  frames = {}
  for member, parts in found.items():
    top, probability, loss, restricted = map(
      np.concatenate, zip(*parts, strict=True)
    )
    _check_finite(member, shard, keys, loss)
    identity = member.member
    frames[member] = pd.DataFrame(
      {
        'predictions': top[:, 0].astype(np.int64),
        'true_class': true_class,
        'predicted_probability': probability,
        'top_5_indices': [
          '[' + ' '.join(map(str, row)) + ']' for row in top.tolist()
        ],
        'filename': storage.name(shard),
        'exp': identity.experiment,
        'pruning_method': identity.pruning_method,
        'fraction_pruned': identity.fraction_pruned,
        'start_pruning_step': identity.begin_step,
        'end_pruning_step': identity.end_step,
        'pruning_frequency': identity.pruning_frequency,
        'global_step': member.step,
        'replicate': identity.replicate,
        'image_key': keys,
        'image_index': np.arange(len(keys)),
        'cross_entropy': loss,
        'restricted_predictions': restricted.astype(np.int64),
      }
    )
  return frames


def _check_finite(
  member: member_paths.Checkpoint, shard: str, keys: list[str], loss: np.ndarray
) -> None:
  if not np.isfinite(loss).all():
    index = int(np.flatnonzero(~np.isfinite(loss))[0])
    raise ValueError(
      f'{member.prefix} gives a loss of {loss[index]} on record {index} '
      f'({keys[index]}) of {shard}'
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
  if not ckpt_dir:
    architecture = resnet_model.Architecture(18, 0.25, 10)
    values = resnet_model.initial_values(architecture, seed=0)
    for conv in resnet_model.conv_layers(architecture):
      prefix = f'{resnet_model.SCOPE}{conv.name}/'
      values[f'{prefix}kernel'] = values[f'{prefix}weights']
    wanted = resnet_model.variable_shapes(architecture, masked=False)
    member = member_paths.Member(
      'untrained', populations.BASELINE, 0.0, 0, 0, 0, 0
    )
    ckpt_dir = member_paths.prefix_in(
      str(epath.Path(folder) / member.folder), 0
    )
    checkpoints.write(
      ckpt_dir,
      checkpoints.Network(
        architecture, {name: values[name] for name in wanted}, 0
      ),
    )
  return ckpt_dir, data_input.synthetic_data_set(folder)
