"""One network in training: its variables, an optimiser step, its masks.

Every network is trained as a masked one; a dense member's masks stay 1, which
changes no bit. So one traced step serves all members of a population, one
after another: `reset` gives the variables their first values.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from etils import epy

from save_checkpoint import pruning, training_settings
from utils import checkpoints, image_records, inference, resnet_model

with epy.lazy_imports():
  import tensorflow as tf

MOMENTUM = 0.9
_SCOPE = resnet_model.SCOPE
_SLOT = 'Momentum'


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
  """Raises ValueError for a batch that the devices cannot share evenly."""
  if batch_size % strategy.num_replicas_in_sync:
    raise ValueError(
      f'train_batch_size is {batch_size}, wanted a multiple of the '
      f'{strategy.num_replicas_in_sync} devices'
    )


class Trainer:
  """The variables of one network and the functions that change them."""

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    records: image_records.ImageRecords,
    learning_rates: np.ndarray,
    settings: training_settings.Settings,
    pruning_method: str,
  ):
    """Makes the variables; their values come from `reset` or `restore`.

    Args:
      strategy: where the variables live and steps run.
      records: description of the images.
      learning_rates: [train_steps] float32, the rate at each step.
      settings: which ResNet, and how a step is taken.
      pruning_method: how masks are made, unless they stay 1.
    """
    self._strategy = strategy
    self._architecture = architecture = resnet_model.Architecture(
      settings.resnet_depth,
      settings.width,
      records.num_classes,
      settings.stem,
    )
    self._records = records
    self._settings = settings
    self._precision = tf.as_dtype(settings.precision)
    self._layers = resnet_model.conv_layers(architecture)
    block_size = (settings.block_height, settings.block_width)
    self._mask_makers = [
      pruning.MaskMaker(pruning_method, i, conv.kernel_shape, block_size)
      for i, conv in enumerate(self._layers)
    ]
    with strategy.scope():
      self._step = tf.Variable(
        0,
        dtype=tf.int64,
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
      )
      self._variables = {
        name: _variable(name, shape)
        for name, shape in resnet_model.variable_shapes(
          architecture, masked=True
        ).items()
      }
      rates = tf.constant(learning_rates)
      # TensorFlow's own form: acc = 0.9 acc + g; v -= rate (g + 0.9 acc). The
      # rate is outside acc, which matters at every step of the schedule.
      self._optimizer = tf.compat.v1.train.MomentumOptimizer(
        lambda: rates[tf.cast(self._step, tf.int32)],
        MOMENTUM,
        use_nesterov=True,
      )
      self._trained = [v for v in self._variables.values() if v.trainable]
      self._create_slots()

  def _create_slots(self) -> None:
    # The optimiser makes its slots when it first applies gradients: apply
    # none that counts, so that they exist before any state is read or written.
    @tf.function
    def apply_nothing():
      def replica_fn():
        self._optimizer.apply_gradients(
          [(tf.zeros_like(v), v) for v in self._trained]
        )

      self._strategy.run(replica_fn)

    apply_nothing()
    self._slots = {
      f'{name}/{_SLOT}': self._optimizer.get_slot(variable, 'momentum')
      for name, variable in self._variables.items()
      if variable.trainable
    }

  @property
  def step(self) -> int:
    """Optimiser steps done."""
    return int(self._step.numpy())

  def reset(self, seed: int) -> None:
    """Starts a new network.

    Args:
      seed: decides the first values of the weights.
    """
    for name, value in resnet_model.initial_values(
      self._architecture, seed
    ).items():
      self._variables[name].assign(value)
    for slot in self._slots.values():
      slot.assign(tf.zeros_like(slot))
    self._step.assign(0)

  def state(self) -> dict[str, np.ndarray]:
    """All that a later run needs to go on, by name."""
    return {
      'global_step': self._step.numpy(),
      **{n: v.numpy() for n, v in self._variables.items()},
      **{n: v.numpy() for n, v in self._slots.items()},
    }

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Goes on from `state`."""
    self._step.assign(state['global_step'])
    for name, variable in {**self._variables, **self._slots}.items():
      variable.assign(state[name])

  def network(self, masked: bool) -> checkpoints.Network:
    """The network as it is exported.

    Args:
      masked: False for a dense member, exported with `kernel`s.

    Returns:
      Weights of which those that are masked are 0, so that the values carry
      the sparsity with or without the masks.
    """
    values = {name: v.numpy() for name, v in self._variables.items()}
    for conv in self._layers:
      prefix = f'{_SCOPE}{conv.name}/'
      values[f'{prefix}weights'] = np.where(
        values[f'{prefix}mask'] == 1, values[f'{prefix}weights'], 0
      ).astype(np.float32)
      if not masked:
        values[f'{prefix}kernel'] = values.pop(f'{prefix}weights')
    wanted = resnet_model.variable_shapes(self._architecture, masked)
    return checkpoints.Network(
      self._architecture, {name: values[name] for name in wanted}, self.step
    )

  def sparsity(self) -> tuple[float, dict[str, float]]:
    """Share of masked weights of all convolutions together, and of each."""
    layers = {
      conv.name: 1
      - float(np.mean(self._variables[f'{_SCOPE}{conv.name}/mask'].numpy()))
      for conv in self._layers
    }
    return resnet_model.total_sparsity(layers, self._architecture), layers

  def update_masks(self, fraction_pruned: float, seed: int) -> None:
    """Makes the masks anew from the weights as they are.

    Args:
      fraction_pruned: share of weights of each layer that is masked, in
        [0, 1).
      seed: of the random methods.
    """
    step = self.step
    for conv, maker in zip(self._layers, self._mask_makers, strict=True):
      prefix = f'{_SCOPE}{conv.name}/'
      weights = self._variables[f'{prefix}weights'].numpy()
      threshold, mask = maker.make(weights, fraction_pruned, seed, step)
      self._variables[f'{prefix}mask'].assign(mask)
      self._variables[f'{prefix}threshold'].assign(threshold)

  def train(self, batches, num_steps: int) -> tuple[float, float, int]:
    """Takes optimiser steps.

    Args:
      batches: iterator over (images [n, size, size, 3] float32 on the 0..255
        scale, class ids [n] int64), n images of the global batch a replica.
      num_steps: how many, 1 or more.

    Returns:
      Mean over the steps of the loss (cross entropy with label smoothing plus
      weight decay, in nats) and of the accuracy on the batches, and the number
      of steps whose loss is finite.
    """
    loss, accuracy, finite = self._train(
      batches, tf.constant(num_steps, tf.int64)
    )
    return float(loss), float(accuracy), int(finite)

  @functools.cached_property
  def _train(self):
    @tf.function
    def train(batches, num_steps):
      loss, accuracy, finite = tf.constant(0.0), tf.constant(0.0), 0
      for _ in tf.range(num_steps):
        step_loss, step_accuracy = self._strategy.run(
          self._train_step, args=(next(batches),)
        )
        add_up = functools.partial(
          self._strategy.reduce, tf.distribute.ReduceOp.SUM, axis=None
        )
        step_loss = add_up(step_loss)
        loss += step_loss
        accuracy += add_up(step_accuracy)
        finite += tf.cast(tf.math.is_finite(step_loss), tf.int32)
        self._step.assign_add(1)
      steps = tf.cast(num_steps, tf.float32)
      return loss / steps, accuracy / steps, finite

    return train

  def _train_step(self, batch) -> tuple[tf.Tensor, tf.Tensor]:
    """One step on a replica; what it returns adds up over replicas."""
    images, labels = batch
    moments: dict[str, tf.Tensor] = {}
    with tf.GradientTape() as tape:
      logits = self._forward(images, moments)
      targets = inference.smooth_labels(
        labels, self._architecture.num_classes, self._settings.label_smoothing
      )
      cross_entropy = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
      # Means over the global batch and sums over replicas: the gradient does
      # not depend on the number of replicas.
      loss = tf.reduce_sum(cross_entropy) / self._settings.train_batch_size
      loss += self._decay() / self._strategy.num_replicas_in_sync
    gradients = tape.gradient(loss, self._trained)
    self._optimizer.apply_gradients(zip(gradients, self._trained, strict=True))
    for name, value in moments.items():
      moving = self._variables[name]
      moving.assign_sub(
        (moving - value) * (1 - resnet_model.BATCH_NORM_MOMENTUM)
      )
    correct = tf.equal(tf.argmax(logits, axis=1), labels)
    accuracy = (
      tf.reduce_sum(tf.cast(correct, tf.float32))
      / self._settings.train_batch_size
    )
    return loss, accuracy

  def _forward(self, images: tf.Tensor, moments: dict) -> tf.Tensor:
    """Logits with batch statistics, which are put into moments by name."""
    read = self._variables

    def conv_batch_norm(x, conv):
      prefix = f'{_SCOPE}{conv.name}/'
      kernel = read[f'{prefix}weights'] * read[f'{prefix}mask']
      x = _conv2d(x, tf.cast(kernel, self._precision), conv)
      norm = f'{_SCOPE}{conv.batch_norm}/'
      x, mean, variance = self._batch_norm(
        x, read[f'{norm}gamma'], read[f'{norm}beta']
      )
      moments[f'{norm}moving_mean'] = mean
      moments[f'{norm}moving_variance'] = variance
      return x

    def dense(x):
      x = tf.cast(x, tf.float32)
      x = tf.linalg.matmul(x, read[f'{_SCOPE}final_dense/kernel'])
      return tf.nn.bias_add(x, read[f'{_SCOPE}final_dense/bias'])

    x = resnet_model.normalise(
      images, self._records.channel_mean, self._records.channel_std
    )
    return resnet_model.forward(
      tf.cast(x, self._precision), self._architecture, conv_batch_norm, dense
    )

  def _batch_norm(
    self, x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the moments of the global batch.

    Args:
      x: [n, height, width, channels], a replica's images.
      gamma: [channels] scale.
      beta: [channels] offset.

    Returns:
      Normalised x, the mean, and the unbiased variance, n / (n - 1), which
      the original has in its moving average; the one that divides is not.
    """
    replicas = self._strategy.num_replicas_in_sync
    if replicas == 1:
      return tf.compat.v1.nn.fused_batch_norm(
        x,
        gamma,
        beta,
        epsilon=resnet_model.BATCH_NORM_EPSILON,
        is_training=True,
      )
    # Moments of a replica's share would make the network depend on the number
    # of replicas.
    wide = tf.cast(x, tf.float32)
    mean, square = tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.MEAN,
      [tf.reduce_mean(wide, (0, 1, 2)), tf.reduce_mean(wide**2, (0, 1, 2))],
    )
    variance = tf.maximum(square - mean**2, 0.0)
    normalised = tf.nn.batch_normalization(
      wide, mean, variance, beta, gamma, resnet_model.BATCH_NORM_EPSILON
    )
    count = tf.cast(tf.size(x[..., 0]) * replicas, tf.float32)
    return tf.cast(normalised, x.dtype), mean, variance * count / (count - 1)

  def _decay(self) -> tf.Tensor:
    """Weight decay; masked weights and the dense bias count, as originally."""
    return self._settings.weight_decay * tf.add_n(
      [
        tf.nn.l2_loss(variable)
        for name, variable in self._variables.items()
        if variable.trainable and 'batch_normalization' not in name
      ]
    )


def _conv2d(
  x: tf.Tensor, kernel: tf.Tensor, conv: resnet_model.ConvLayer
) -> tf.Tensor:
  """resnet_model.conv2d, padded beforehand where strides need it.

  The gradients of a convolution that pads by itself, other than 'SAME', have
  no fast kernels on processors: in bfloat16 four of them took three quarters of
  a step.
  """
  if conv.stride == 1 or conv.kernel_size == 1:
    return resnet_model.conv2d(x, kernel, conv)
  before = (conv.kernel_size - 1) // 2
  pad = (before, conv.kernel_size - 1 - before)
  return tf.nn.conv2d(
    tf.pad(x, ((0, 0), pad, pad, (0, 0))), kernel, conv.stride, 'VALID'
  )


def _variable(name: str, shape: tuple[int, ...]) -> tf.Variable:
  leaf = name.rsplit('/', 1)[1]
  options = {
    'trainable': leaf in ('weights', 'kernel', 'bias', 'gamma', 'beta')
  }
  if leaf in ('moving_mean', 'moving_variance'):
    # Replicas see different images: each keeps its own average, and reading
    # gives the mean of them.
    options['synchronization'] = tf.VariableSynchronization.ON_READ
    options['aggregation'] = tf.VariableAggregation.MEAN
  elif leaf in ('mask', 'threshold'):
    options['aggregation'] = tf.VariableAggregation.ONLY_FIRST_REPLICA
  return tf.Variable(
    tf.zeros(shape), name=name.replace('/', '_'), dtype=tf.float32, **options
  )
