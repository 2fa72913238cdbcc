"""An exact test of one image: do dense and compressed members vote alike on it?

Given how many votes each label has from all members together, membership is a
matter of chance if compression changed nothing: each choice of the dense ones
is as likely as another. The statistic is the squared distance between the
shares of votes; p is the probability of one as large. No memberships are drawn:
the probabilities are summed, so that a p-value may be as small as the members
allow, which a correction over thousands of images needs. With two labels and
groups of one size this is Fisher's exact test.

The distance is counted in units of an eight-thousandth of the largest, or
exactly where that needs no more: groups of one size up to 90 a side.

Of pairs, a dense member and one that was made from it, the two change places or
do not; pairs that agree say nothing. With two labels this is the sign test
(McNemar's).
"""

import functools
import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from utils import tables

# Bounds the memory: distances that are told apart, and what is kept of them,
# distributions that other labels continue and such as are complete.
_DISTANCES = 8192
_KEPT = 64
_KEPT_COMPLETE = 2048
# Ways of pairs to change places that are told apart; beyond, so many are drawn.
_WAYS = 2**18


@functools.cache
def _one_label(
  total: int, num_dense: int, num_compressed: int
) -> tuple[np.ndarray, np.ndarray]:
  """For each number of dense voters among all of a label: weight and distance.

  Binomial coefficients over 2^total, so that no number of members overflows;
  and the squared distance less its least value, in whole units.
  """
  chosen = np.arange(total + 1)
  factors = (total - chosen[1:] + 1) / chosen[1:]
  weights = np.cumprod(np.concatenate([[1.0], factors])) * 0.5**total
  apart = (chosen * num_compressed - (total - chosen) * num_dense) ** 2
  # Squares of multiples of this; groups of one size have every fourth of them.
  exact = math.gcd(num_dense, num_compressed) ** 2
  if num_dense == num_compressed:
    exact *= 4
  unit = max(exact, 2 * (num_dense * num_compressed) ** 2 / _DISTANCES)
  return weights, np.round((apart - apart.min()) / unit).astype(np.int64)


@functools.lru_cache(maxsize=_KEPT)
def _joint(
  totals: tuple[int, ...], num_dense: int, num_compressed: int
) -> np.ndarray:
  """Weights of choosing dense voters among those of some labels.

  Args:
    totals: votes for each of these labels, from all members.
    num_dense: how many members are dense.
    num_compressed: how many are not.

  Returns:
    [num_dense + 1, distances] for each number of dense voters that were chosen
    and each distance; proportional to the number of choices.
  """
  if not totals:
    return np.eye(num_dense + 1, 1)
  before = _joint(totals[:-1], num_dense, num_compressed)
  weights, apart = _one_label(totals[-1], num_dense, num_compressed)
  most = min(totals[-1], num_dense)
  after = np.zeros(
    (num_dense + 1, before.shape[1] + apart[: most + 1].max(initial=0))
  )
  for chosen in range(most + 1):
    start = apart[chosen]
    after[chosen:, start : start + before.shape[1]] += (
      weights[chosen] * before[: num_dense + 1 - chosen]
    )
  return after


@functools.lru_cache(maxsize=_KEPT_COMPLETE)
def distribution(
  totals: tuple[int, ...], num_dense: int, num_compressed: int
) -> np.ndarray:
  """Probability of as large a distance, for each distance.

  Args:
    totals: votes for each label from all members, falling.
    num_dense: how many members are dense, at least 1.
    num_compressed: how many are not, at least 1.

  Returns:
    [distances], falling from 1.
  """
  before = _joint(totals[:-1], num_dense, num_compressed)
  weights, apart = _one_label(totals[-1], num_dense, num_compressed)
  most = min(totals[-1], num_dense)
  found = np.zeros(before.shape[1] + apart[: most + 1].max())
  for chosen in range(most + 1):
    start = apart[chosen]
    found[start : start + before.shape[1]] += (
      weights[chosen] * before[num_dense - chosen]
    )
  as_large = found[::-1].cumsum()[::-1]
  return as_large / as_large[0]


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
  found = np.ones((2, len(first)))
  if not len(first):
    return found[0], found[1]
  bounds = [*first.tolist(), len(dense)]
  sizes = int(dense[: bounds[1]].sum()), int(compressed[: bounds[1]].sum())
  votes = dense + compressed
  # Falling within each image; what is nobody's label is none.
  image = np.repeat(np.arange(len(first)), np.diff(bounds))
  order = np.lexsort((-votes, image))
  order = order[votes[order] > 0]
  image, votes, dense = image[order], votes[order], dense[order]
  starts = np.searchsorted(image, np.arange(len(first) + 1))
  of_images = [
    (tuple(votes[start:end].tolist()), i)
    for i, (start, end) in enumerate(zip(starts, starts[1:], strict=False))
    if end - start > 1
  ]
  # Sorted, so that distributions which begin alike follow one another.
  for totals, i in sorted(of_images):
    as_large = distribution(totals, *sizes)
    apart = sum(
      int(_one_label(total, *sizes)[1][chosen])
      for total, chosen in zip(
        totals, dense[starts[i] : starts[i + 1]].tolist(), strict=True
      )
    )
    found[:, i] = as_large[apart], as_large[as_large > 0][-1]
  return found[0], found[1]


def paired_pvalues(
  dense: np.ndarray, compressed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The same of pairs.

  Args:
    dense: [images, pairs] labels by dense members.
    compressed: [images, pairs] labels by the members made from them.

  Returns:
    p-values [images] and smallest p-values [images].
  """
  found = np.ones((2, len(dense)))
  for i in np.flatnonzero((dense != compressed).any(axis=1)):
    apart = dense[i] != compressed[i]
    ends = np.stack([dense[i, apart], compressed[i, apart]], axis=1)
    labels, ends = np.unique(ends, return_inverse=True)
    ends = ends.reshape(-1, 2)
    net = np.bincount(ends[:, 0], minlength=len(labels)) - np.bincount(
      ends[:, 1], minlength=len(labels)
    )
    kinds, counts = np.unique(np.sort(ends, axis=1), axis=0, return_counts=True)
    distance, as_large = _paired_distribution(
      tuple(map(tuple, kinds.tolist())), tuple(counts.tolist())
    )
    at = np.searchsorted(distance, (net**2).sum())
    found[:, i] = as_large[at], as_large[-1]
  return found[0], found[1]


@functools.lru_cache(maxsize=_KEPT_COMPLETE)
def _paired_distribution(
  kinds: tuple[tuple[int, int], ...], counts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Distances that pairs may give, rising, and the probability of as large.

  Args:
    kinds: the two labels that pairs have, from 0 on.
    counts: how many pairs have them.
  """
  labels = max(map(max, kinds)) + 1
  # For each way how many more of the dense have a label than of the others.
  net, weight = np.zeros((1, labels), np.int64), np.ones(1)
  if math.prod(count + 1 for count in counts) <= _WAYS:
    for (one, other), count in zip(kinds, counts, strict=True):
      more = np.arange(-count, count + 1, 2)
      step = np.zeros((count + 1, labels), np.int64)
      step[:, one], step[:, other] = more, -more
      net = (net[:, None] + step).reshape(-1, labels)
      some = stats.binom.pmf(np.arange(count + 1), count, 0.5)
      weight = np.outer(weight, some).ravel()
  else:
    random = np.random.default_rng(0)
    net, weight = np.zeros((_WAYS, labels), np.int64), np.ones(_WAYS)
    for (one, other), count in zip(kinds, counts, strict=True):
      more = 2 * random.binomial(count, 0.5, _WAYS) - count
      net[:, one] += more
      net[:, other] -= more
  distance, place = np.unique((net**2).sum(axis=1), return_inverse=True)
  as_large = np.bincount(place, weight)[::-1].cumsum()[::-1]
  return distance, as_large / as_large[0]


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
