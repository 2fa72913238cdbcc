"""Which weights are zero: schedule and masks.

The schedule is tensorflow-model-optimization's; this is the only file that
imports it. There is always an update at `end_step`, so the target is reached
whatever the frequency. The masks are ours, for three reasons. The number of
survivors is exact: k = round(size * (1 - fraction)) for every layer, where the
toolkit (as the original) keeps every weight that ties with the k-th. The
toolkit sorts, which takes several times as long. And its masks of blocks fail
where a block is as high or as wide as the kernel, and are moved against the
blocks that they were made from where blocks do not divide the kernel. They are
made by the host, between two steps: an update is rare, and has nothing to
trace.

Methods, per layer (there is no ranking across layers):

  threshold           keeps the k largest weights by magnitude, ranked anew
                      among all weights at each update: a weight can come back
  random_independent  keeps k weights drawn anew at each update
  random_cumulative   keeps the k first of one random order: what is once
                      pruned stays pruned
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from etils import epy

with epy.lazy_imports():
  import tensorflow as tf
  import tensorflow_model_optimization as tfmot

METHODS = ('threshold', 'random_independent', 'random_cumulative')
# Cubic, as in Zhu & Gupta (arXiv 1710.01878) and the original.
_EXPONENT = 3


class Schedule:
  """When masks are updated, and to which sparsity."""

  def __init__(
    self,
    fraction_pruned: float,
    begin_step: int,
    end_step: int,
    frequency: int,
  ):
    """Checks and keeps the schedule.

    Args:
      fraction_pruned: share of weights that is zero from end_step on, in
        [0, 1).
      begin_step: first step after whose weight update masks are updated.
      end_step: last such step.
      frequency: steps between two updates.

    Raises:
      ValueError: one of them is out of range, or begin_step >= end_step.
    """
    if not 0 <= fraction_pruned < 1:
      raise ValueError(
        f'end_sparsity is {fraction_pruned}, wanted a number in [0, 1)'
      )
    if frequency < 1:
      raise ValueError(f'pruning_frequency is {frequency}, wanted 1 or more')
    if not 0 <= begin_step < end_step:
      raise ValueError(
        f'sparsity_begin_step is {begin_step} and sparsity_end_step '
        f'{end_step}, wanted 0 <= begin < end'
      )
    self.fraction_pruned = fraction_pruned
    self.end_step = end_step
    self.steps = sorted({*range(begin_step, end_step, frequency), end_step})
    self._decay = tfmot.sparsity.keras.PolynomialDecay(
      initial_sparsity=0.0,
      final_sparsity=fraction_pruned,
      begin_step=begin_step,
      end_step=end_step,
      power=_EXPONENT,
      frequency=frequency,
    )

  def fraction_at(self, step: int) -> float:
    """Share of weights that is zero after the update at a step.

    fraction_pruned * (1 - (1 - p)^3) with p = (step - begin) / (end - begin)
    in [0, 1].
    """
    if step >= self.end_step:
      # Not through float32: the number of survivors is counted from it.
      return self.fraction_pruned
    return float(self._decay(step)[1])


def survivors(size: int, fraction_pruned: float) -> int:
  """Weights a layer keeps: round(size * (1 - fraction_pruned)), at least 1.

  A layer without weights would cut the network in two.
  """
  return max(1, round(size * (1 - fraction_pruned)))


def _keep_largest(scores: np.ndarray, k: int) -> tuple[np.float32, np.ndarray]:
  """The k-th largest of the scores, and the 0/1 mask, float32."""
  kth = np.partition(scores, -k, axis=None)[-k]
  mask = (scores > kth).astype(np.float32)
  # Of equal scores, those with the lower indices survive.
  tied = np.flatnonzero(scores == kth)
  mask.flat[tied[: k - np.count_nonzero(mask)]] = 1
  return kth, mask


class MaskMaker:
  """Masks of one layer by one method."""

  def __init__(
    self,
    method: str,
    layer: int,
    shape: Sequence[int],
    block_size: Sequence[int] = (1, 1),
  ):
    """Keeps what does not change between updates.

    Args:
      method: 'threshold', 'random_independent' or 'random_cumulative'.
      layer: index of the layer, a part of the seed of random masks.
      shape: [height, width, in, out] of the kernel.
      block_size: height and width of the blocks that are pruned together, of
        kernels that are 1x1; others are pruned one weight at a time.
    """
    self._method = method
    self._layer = layer
    self._shape = tuple(shape)
    is_matrix = self._shape[:2] == (1, 1)
    # A block is no larger than the kernel.
    self._block_size = (
      tuple(map(min, block_size, self._shape[2:])) if is_matrix else (1, 1)
    )

  def make(
    self, weights: np.ndarray, fraction_pruned: float, seed: int, step: int
  ) -> tuple[np.float32, np.ndarray]:
    """Makes a mask.

    Args:
      weights: [height, width, in, out] float32, of which the magnitude counts.
      fraction_pruned: share of the blocks, or weights, that does not survive,
        in [0, 1): see `survivors`.
      seed: the member's.
      step: the optimiser step.

    Returns:
      The smallest score that survives, and the 0/1 mask [height, width, in,
      out], both float32.
    """
    scores = weights
    if self._method != 'threshold':
      draw = step if self._method == 'random_independent' else 0
      with tf.device('CPU'):
        scores = tf.random.stateless_uniform(
          self._shape, seed=tf.constant([seed + draw, self._layer], tf.int64)
        ).numpy()
    scores = np.abs(scores)
    if self._block_size == (1, 1):
      return _keep_largest(scores, survivors(scores.size, fraction_pruned))
    height, width = self._block_size
    _, _, rows, columns = self._shape
    down, across = -(-rows // height), -(-columns // width)
    filled = np.pad(
      scores.reshape(rows, columns),
      ((0, down * height - rows), (0, across * width - columns)),
    )
    sums = filled.reshape(down, height, across, width).sum((1, 3))
    # Blocks at the edge hold fewer weights.
    heights = np.minimum(height, rows - height * np.arange(down))
    widths = np.minimum(width, columns - width * np.arange(across))
    means = sums / np.outer(heights, widths).astype(np.float32)
    kept = survivors(means.size, fraction_pruned)
    threshold, mask = _keep_largest(means, kept)
    mask = mask.repeat(height, 0).repeat(width, 1)[:rows, :columns]
    return threshold, mask.reshape(self._shape)
