"""The learning rate of every step: linear warm-up, then down by a choice."""

import math
from collections.abc import Sequence

import numpy as np

# Base rate of the original, for a batch of 256 images.
BASE_LEARNING_RATE = 0.1
_BASE_BATCH_SIZE = 256
_DECAY = 0.1
DECAYS = ('steps', 'linear')


def learning_rates(
  train_steps: int,
  batch_size: int,
  num_images: int,
  warmup_epochs: float,
  decay_epochs: Sequence[float],
  base_learning_rate: float = BASE_LEARNING_RATE,
  decay: str = 'steps',
) -> np.ndarray:
  """The learning rate at each optimiser step.

  With scaled = base * batch_size / 256 and epoch = step * batch_size /
  num_images, the rate is scaled * epoch / warmup_epochs below warmup_epochs,
  then scaled * 0.1 ** (number of decay_epochs that have passed). The first
  step has rate 0 when there is a warm-up. (Goyal et al., arXiv 1706.02677;
  the original warms up for 5 epochs and steps down at 30, 60 and 80.) A linear
  decay goes from scaled at warmup_epochs to 0 at train_steps in place of the
  steps: of a few epochs it makes more.

  Args:
    train_steps: number of optimiser steps.
    batch_size: global batch size, in images.
    num_images: images an epoch.
    warmup_epochs: length of the warm-up, in epochs; 0 is none.
    decay_epochs: epochs at which the rate is divided by ten, rising.
    base_learning_rate: the rate for a batch of 256 images.
    decay: 'steps', or 'linear', which does not look at decay_epochs.

  Returns:
    [train_steps] float32.

  Raises:
    ValueError: decay_epochs do not rise, or lie in the warm-up, or a number
      is not finite, or a linear decay begins after the end.
  """
  if not (0 <= warmup_epochs < math.inf and 0 < base_learning_rate < math.inf):
    raise ValueError(
      f'warmup_epochs is {warmup_epochs} and base_learning_rate '
      f'{base_learning_rate}, wanted 0 or more and more than 0'
    )
  scaled = base_learning_rate * batch_size / _BASE_BATCH_SIZE
  epoch = np.arange(train_steps) * batch_size / num_images
  rates: np.ndarray
  if decay == 'linear':
    end = train_steps * batch_size / num_images
    if warmup_epochs >= end:
      raise ValueError(
        f'warmup_epochs is {warmup_epochs} and the training {end:.4g} epochs, '
        'wanted a linear decay after the warm-up'
      )
    rates = scaled * (end - epoch) / (end - warmup_epochs)
  else:
    boundaries = _rising(decay_epochs, warmup_epochs)
    passed = np.searchsorted(boundaries, epoch, side='right')
    rates = scaled * _DECAY**passed
  if warmup_epochs:
    rates = np.where(
      epoch < warmup_epochs, scaled * epoch / warmup_epochs, rates
    )
  return rates.astype(np.float32)


def _rising(
  decay_epochs: Sequence[float], warmup_epochs: float
) -> Sequence[float]:
  boundaries = list(decay_epochs)
  # Comparisons with what is not a number are false.
  if not all(warmup_epochs <= one < math.inf for one in boundaries) or (
    boundaries != sorted(set(boundaries))
  ):
    raise ValueError(
      f'decay_epochs are {boundaries}, wanted rising numbers from '
      f'warmup_epochs={warmup_epochs} on'
    )
  return boundaries
