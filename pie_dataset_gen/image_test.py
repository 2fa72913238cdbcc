"""An exact test of one image: do dense and compressed members vote alike on it?

Given how many votes each label has from all members together, membership is a
matter of chance if compression changed nothing: each choice of the dense ones
is as likely as another. The statistic is the number of pairs, a dense and a
compressed member, that agree; p is the probability of as few. No memberships
are drawn: the probabilities are summed, so that a p-value may be as small as
the members allow, which a correction over thousands of images needs.

With groups of one size this is the squared distance of the votes (the more
pairs agree, the smaller it is), and with two labels Fisher's exact test.
"""

import functools
from collections.abc import Mapping

import numpy as np
from scipy import stats

from utils import tables

# Bounds the memory: distributions that may be continued by another label.
_KEPT = 2048


@functools.lru_cache(maxsize=_KEPT)
def _joint(totals: tuple[int, ...], num_dense: int) -> np.ndarray:
  """Weights of choosing dense voters among those of some labels.

  Args:
    totals: votes for each of these labels, from all members.
    num_dense: how many members are dense.

  Returns:
    [num_dense + 1, pairs + 1] for each number of dense voters that were chosen
    and of agreeing pairs; proportional to the number of choices.
  """
  if not totals:
    return np.eye(num_dense + 1, 1)
  before = _joint(totals[:-1], num_dense)
  weights, pairs = _one_label(totals[-1])
  after = np.zeros((num_dense + 1, before.shape[1] + pairs.max()))
  for chosen in range(min(totals[-1], num_dense) + 1):
    start = pairs[chosen]
    after[chosen:, start : start + before.shape[1]] += (
      weights[chosen] * before[: num_dense + 1 - chosen]
    )
  return after


@functools.cache
def _one_label(total: int) -> tuple[np.ndarray, np.ndarray]:
  """For each number of dense voters among all of a label: weight and pairs."""
  chosen = np.arange(total + 1)
  # Binomial coefficients over 2^total, so that no number of members overflows.
  factors = (total - chosen[1:] + 1) / chosen[1:]
  weights = np.cumprod(np.concatenate([[1.0], factors])) * 0.5**total
  return weights, chosen * (total - chosen)


@functools.lru_cache(maxsize=2**16)
def distribution(totals: tuple[int, ...], num_dense: int) -> np.ndarray:
  """Probability of as few agreeing pairs, for each number of them.

  Args:
    totals: votes for each label from all members, falling.
    num_dense: how many members are dense, at least 1.

  Returns:
    [pairs + 1], rising to 1.
  """
  before = _joint(totals[:-1], num_dense)
  weights, pairs = _one_label(totals[-1])
  found = np.zeros(before.shape[1] + pairs.max())
  for chosen in range(min(totals[-1], num_dense) + 1):
    start = pairs[chosen]
    found[start : start + before.shape[1]] += (
      weights[chosen] * before[num_dense - chosen]
    )
  cumulative = found.cumsum()
  return cumulative / cumulative[-1]


def pvalues(
  dense: np.ndarray, compressed: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The p-value of each image, and the smallest that its votes could give.

  Args:
    dense: [rows] votes of dense members, a row for each image and label.
    compressed: [rows] of compressed members.
    first: [images] an image's first row.

  Returns:
    p-values [images] and smallest p-values [images].
  """
  if not len(first):
    return np.ones(0), np.ones(0)
  num_dense = int(dense[first[0] : (*first, len(dense))[1]].sum())
  pairs = np.add.reduceat(dense * compressed, first)
  total = dense + compressed
  image = np.repeat(np.arange(len(first)), np.diff((*first, len(dense))))
  # Falling within each image; what is nobody's label is none.
  total = total[np.lexsort((-total, image))]
  ends = first + np.add.reduceat(total > 0, first)
  found = np.ones((2, len(first)))
  for i, (start, end) in enumerate(zip(first, ends, strict=True)):
    if end - start > 1:
      below = distribution(tuple(total[start:end].tolist()), num_dense)
      found[0, i] = below[pairs[i]]
      found[1, i] = below[np.flatnonzero(below)[0]]
  # Sums of products that would be 1 but for rounding.
  return np.minimum(found[0], 1.0), np.minimum(found[1], 1.0)


def to_be_corrected(smallest: np.ndarray) -> np.ndarray:
  """What stands for a q-value until all images are known: 1 or NaN.

  Images on which (nearly) all members agree cannot be significant, whoever is
  called dense; they are no tests that a correction would have to pay for
  (Tarone 1990; Gilbert 2005, false discovery rate of discrete data).

  Args:
    smallest: [images] p-value that an image's votes could give.
  """
  return np.where(smallest <= tables.SIGNIFICANCE, 1.0, np.nan)


def qvalues(pvalues: Mapping[float, int]) -> dict[float, float]:
  """Benjamini-Hochberg q-values of images that can be significant.

  Args:
    pvalues: how many images have a p-value.
  """
  each = sorted(pvalues)
  number = np.array([pvalues[p] for p in each])
  if not each:
    return {}
  corrected = stats.false_discovery_control(np.repeat(each, number))
  return dict(zip(each, corrected[number.cumsum() - 1].tolist(), strict=True))
