"""Networks that lie in bundles, as predictors: ResNets, folded.

The batch normalisation is folded into the convolutions as a network is opened,
so that dense and pruned networks of one architecture share one traced
function, into which their weights go as arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath, epy

from utils import checkpoints, image_records, member_paths, resnet_model

with epy.lazy_imports():
  import tensorflow as tf


class Opener:
  """Opens networks; what it traces for one serves all of its architecture."""

  def __init__(
    self, precision: str, batch_size: int, strategy: tf.distribute.Strategy
  ):
    """Keeps what all networks share.

    Args:
      precision: 'float32' or 'bfloat16', of the convolutions.
      batch_size: images of a full batch.
      strategy: where networks run.
    """
    self._precision = precision
    self._batch_size = batch_size
    self._strategy = strategy
    self._forwards: dict[tuple, Forward] = {}

  @staticmethod
  def num_classes(checkpoint: member_paths.Checkpoint) -> int:
    """Classes of a network, without reading its values."""
    return checkpoints.read_architecture(checkpoint.prefix).num_classes

  def open(self, checkpoint: member_paths.Checkpoint) -> FoldedResNet:
    """Reads a network and holds it against its path.

    Raises:
      FileNotFoundError, ValueError: it is missing or damaged, or of another
        step than its name says; names it.
    """
    network = checkpoints.read(checkpoint.prefix)
    if network.global_step != checkpoint.step:
      raise ValueError(
        f'{checkpoint.prefix} is named after step {checkpoint.step}, but its '
        f'global_step is {network.global_step}'
      )
    _report_sparsity(checkpoint, network)
    folded = resnet_model.fold_batch_norm(network.values, network.architecture)
    weights = {
      name: _per_replica(
        self._strategy,
        [tf.constant(value, _dtype(name, self._precision))]
        * self._strategy.num_replicas_in_sync,
      )
      for name, value in folded.items()
    }
    return FoldedResNet(self, network.architecture, weights)

  def forward(
    self,
    architecture: resnet_model.Architecture,
    records: image_records.ImageRecords,
  ) -> Forward:
    """The traced function for networks of one shape and images of one kind."""
    key = (
      architecture,
      records.image_size,
      records.channel_mean,
      records.channel_std,
    )
    if key not in self._forwards:
      made = Forward(*key, self._precision, self._batch_size, self._strategy)
      # Threads may ask at once, and get one that is traced once.
      self._forwards.setdefault(key, made)
    return self._forwards[key]


@dataclasses.dataclass(frozen=True, eq=False)
class FoldedResNet:
  """A network that predicts: images in, scores out.

  Attributes:
    opener: has the traced functions.
    architecture: which ResNet.
    weights: as `resnet_model.fold_batch_norm` names them, on the devices.
  """

  opener: Opener
  architecture: resnet_model.Architecture
  weights: dict[str, tf.Tensor]

  @property
  def num_classes(self) -> int:
    """Number of scores of an image."""
    return self.architecture.num_classes

  @property
  def description(self) -> None:
    """None: it takes images of any data set."""

  def scores(
    self, images: tf.Tensor, records: image_records.ImageRecords
  ) -> tf.Tensor:
    """Scores [n, num_classes] of images [n, size, size, 3], on 0..255."""
    return self.opener.forward(self.architecture, records)(images, self.weights)


@dataclasses.dataclass(eq=False)
class Forward:
  """The traced function of one architecture; weights are arguments.

  Attributes:
    architecture: which ResNet.
    image_size: height and width of the images, in pixels.
    channel_mean: [3] on the 0..255 scale.
    channel_std: [3] on the 0..255 scale.
    precision: 'float32' or 'bfloat16', of the convolutions.
    batch_size: images of a full batch.
    strategy: where it runs.
  """

  architecture: resnet_model.Architecture
  image_size: int
  channel_mean: tuple[float, ...]
  channel_std: tuple[float, ...]
  precision: str
  batch_size: int
  strategy: tf.distribute.Strategy

  def __post_init__(self):
    if _is_spread(self.strategy):

      @tf.function
      def on_replicas(*per_replica):
        return self.strategy.run(self.untraced, args=per_replica)

      self.traced = on_replicas
      return
    size = self.image_size
    # One trace for batches of all sizes and for all networks.
    signature = [
      tf.TensorSpec((None, size, size, 3), tf.float32),
      {
        name: tf.TensorSpec(shape, _dtype(name, self.precision))
        for name, shape in resnet_model.folded_shapes(self.architecture).items()
      },
    ]
    self.traced = tf.function(self.untraced, input_signature=signature)

  def __call__(
    self, images: tf.Tensor, weights: dict[str, tf.Tensor]
  ) -> tf.Tensor:
    """The scores of a batch, as `untraced`.

    Several replicas take equal parts of the batch, filled up to one shape with
    images that do not count.
    """
    if not _is_spread(self.strategy):
      return self.traced(images, weights)
    replicas = self.strategy.num_replicas_in_sync
    number = len(images)
    padding = -(-self.batch_size // replicas) * replicas - number
    images = tf.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
    parts = self.traced(
      _per_replica(self.strategy, tf.split(images, replicas)), weights
    )
    # By way of the host: the replicas' devices differ.
    parts = self.strategy.experimental_local_results(parts)
    return tf.constant(
      np.concatenate([part.numpy() for part in parts])[:number]
    )

  def untraced(
    self, images: tf.Tensor, weights: dict[str, tf.Tensor]
  ) -> tf.Tensor:
    """Scores a batch.

    Args:
      images: [n, size, size, 3] float32 on the 0..255 scale.
      weights: of a `FoldedResNet`.

    Returns:
      Logits [n, num_classes] float32.
    """
    x = resnet_model.normalise(images, self.channel_mean, self.channel_std)
    return resnet_model.folded_forward(
      tf.cast(x, self.precision), weights, self.architecture
    )


def _is_spread(strategy: tf.distribute.Strategy) -> bool:
  return strategy.num_replicas_in_sync > 1 or isinstance(
    strategy, tf.distribute.TPUStrategy
  )


def _per_replica(
  strategy: tf.distribute.Strategy, values: Sequence[tf.Tensor]
) -> tf.Tensor:
  """One value for each replica; the value itself where nothing is spread."""
  if not _is_spread(strategy):
    return values[0]
  return strategy.experimental_distribute_values_from_function(
    lambda context: values[context.replica_id_in_sync_group]
  )


def _dtype(name: str, precision: str) -> tf.DType:
  is_dense = name.startswith('final_dense/')
  return tf.float32 if is_dense else tf.as_dtype(precision)


def _report_sparsity(
  checkpoint: member_paths.Checkpoint, network: checkpoints.Network
) -> None:
  measured = resnet_model.total_sparsity(
    network.layer_sparsity(), network.architecture
  )
  if abs(measured - checkpoint.member.fraction_pruned) > 0.005:
    # Not an error: with the original's ties a layer can keep more.
    logging.warning(
      '%s: its path says that a fraction of %s is pruned, its weights have '
      '%.4f zeros',
      checkpoint.prefix,
      checkpoint.member.fraction_pruned,
      measured,
    )


def write_untrained(root: str) -> str:
  """Writes a small network of ten classes as it is before any training.

  Args:
    root: of the experiments.

  Returns:
    Its path, as `member_paths.find` takes it.
  """
  architecture = resnet_model.Architecture(18, 0.25, 10)
  values = resnet_model.initial_values(architecture, seed=0)
  for conv in resnet_model.conv_layers(architecture):
    name = f'{resnet_model.SCOPE}{conv.name}/'
    values[f'{name}kernel'] = values[f'{name}weights']
  wanted = resnet_model.variable_shapes(architecture, masked=False)
  member = member_paths.Member(
    'untrained', member_paths.BASELINE, 0.0, 0, 0, 0, 0
  )
  prefix = member_paths.prefix_in(str(epath.Path(root) / member.folder), 0)
  checkpoints.write(
    prefix,
    checkpoints.Network(
      architecture, {name: values[name] for name in wanted}, 0
    ),
  )
  return prefix
