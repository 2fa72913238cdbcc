"""Tests of all classes of a level at once, by permuted membership.

Pure functions on arrays. If compression changed nothing, which of the models
are called compressed would be a matter of chance, whatever their quality and
however classes depend on one another. So membership is permuted
(`utils.membership`), and Welch's t of every class computed again: what is as
extreme in few memberships only is no chance.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from utils import membership, tables

# Recall is a ratio of counts and accuracy a mean of such: values that truly
# differ do so by far more than this, and rounding by far less.
ROUNDING = 1e-12
# Statistics that differ by no more than rounding, as those of two groups that
# change places, are equal. Relative.
_TIES = 1e-9
# No t below this is significant, whatever its degrees of freedom, which saves
# most of the p-values.
_LEAST = special.ndtri(1 - tables.SIGNIFICANCE / 2)
# Bounds the memory: classes times memberships that are computed at once.
_BLOCK = 1 << 18


class Permuted(NamedTuple):
  """What C classes give at W memberships, the true one first.

  Attributes:
    pvalue: [C] share of memberships with a |t| as large as the true one.
    max_t: [C] share of memberships in which any class has one as large: p,
      adjusted for the number of classes (Westfall & Young 1993, single step).
      NaN where t is infinite at every membership.
    largest: [W] the largest |t| of a class; of classes whose t is infinite at
      every membership none.
    significant: [W] classes significant before correction, in any direction.
    lower: [W] those significant after correction, lower in the second group.
    higher: [W] likewise, higher.
  """

  pvalue: np.ndarray
  max_t: np.ndarray
  largest: np.ndarray
  significant: np.ndarray
  lower: np.ndarray
  higher: np.ndarray

  @property
  def number_pvalue(self) -> float:
    """Share of memberships with as many significant classes as the true one.

    Of those with equally many, which are a large share where classes (or
    groups) are few, the ones with as large a |t|: else p would jump over 0.05.
    """
    number = self.significant[0]
    as_large = self.largest >= self.largest[0] * (1 - _TIES)
    return float(
      (
        (self.significant > number) | ((self.significant == number) & as_large)
      ).mean()
    )


class _Constant(NamedTuple):
  """Where one class is constant in both groups.

  Attributes:
    ways: positions of these memberships.
    statistic: 0, or infinite with the sign of the difference of means.
    pvalue: share of all memberships with one as large; of the infinite ones
      that of the larger difference is the larger.
  """

  ways: np.ndarray
  statistic: np.ndarray
  pvalue: np.ndarray


def permute(
  centre: np.ndarray,
  spread: np.ndarray,
  drawn: membership.Memberships,
) -> Permuted:
  """The t of every class at every membership, and what follows from it.

  t is infinite where both groups are constant and their means differ, and 0
  where they do not. p of such a class, at a membership, is its share of
  memberships as extreme; of all other classes that of Welch's test, or of the
  t-test of pairs.

  Args:
    centre: [models, C] values whose means are compared; no NaN.
    spread: [models, C] values whose variances give the standard error: the
      same but where what is subtracted counts as known.
    drawn: memberships of the models, in the same order; two or more a group.
      Of pairs the first half of the models, then theirs.
  """
  compare = _paired if drawn.paired else _welch
  centre = centre - centre.mean(axis=0)
  spread = centre if centre is spread else spread - spread.mean(axis=0)
  classes, ways = centre.shape[1], drawn.is_dense.shape[1]
  constant = dict(_constant_classes(centre, spread, drawn))
  always = np.zeros(classes, bool)
  for i, of_class in constant.items():
    always[i] = np.isinf(of_class.statistic).sum() == ways
  exceed = np.zeros(classes, np.int64)
  largest = np.zeros(ways)
  significant, lower, higher = np.zeros((3, ways), np.int64)
  true = np.zeros(classes)
  step = max(1, _BLOCK // max(classes, 1))
  for start in range(0, ways, step):
    block = slice(start, min(start + step, ways))
    statistic, pvalue = compare(centre, spread, drawn.is_dense[:, block])
    for i, of_class in constant.items():
      inside = (of_class.ways >= block.start) & (of_class.ways < block.stop)
      at = of_class.ways[inside] - block.start
      statistic[i, at] = of_class.statistic[inside]
      pvalue[i, at] = of_class.pvalue[inside]
    size = np.abs(statistic)
    if not start:
      true = size[:, 0] * (1 - _TIES)
    exceed += (size >= true[:, None]).sum(axis=1)
    largest[block] = size[~always].max(axis=0, initial=0)
    significant[block] = (pvalue <= tables.SIGNIFICANCE).sum(axis=0)
    found = _discoveries(pvalue)
    lower[block] = (found & (statistic > 0)).sum(axis=0)
    higher[block] = (found & (statistic < 0)).sum(axis=0)
  of_any = np.sort(largest)
  share = exceed / ways
  for i, of_class in constant.items():
    if of_class.ways[:1].tolist() == [0]:
      share[i] = of_class.pvalue[0]
  return Permuted(
    pvalue=share,
    max_t=np.where(
      always, np.nan, (ways - np.searchsorted(of_any, true)) / ways
    ),
    largest=largest,
    significant=significant,
    lower=lower,
    higher=higher,
  )


def _welch(
  centre: np.ndarray, spread: np.ndarray, is_dense: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Gives t and p [C, W] at some memberships; p is 1 where t is small.

  Sums and sums of squares of the dense are products of matrices; those of the
  others are what is left of the sums over all.
  """
  dense = is_dense.astype(np.float64)
  n1 = float(is_dense[:, 0].sum())
  n2 = len(is_dense) - n1
  sums = centre.T @ dense
  # The values were centred: nothing is the sum over all.
  difference = sums * (1 / n1 + 1 / n2)
  if spread is not centre:
    sums = spread.T @ dense
  squares = (spread**2).T @ dense
  v1 = _variance_of_mean(sums, squares, n1)
  squares = (spread**2).sum(axis=0)[:, None] - squares
  v2 = _variance_of_mean(sums, squares, n2)
  variance = v1 + v2
  # Where there is none, `_constant_classes` has the answer.
  with np.errstate(divide='ignore', invalid='ignore'):
    statistic = difference / np.sqrt(variance)
  pvalue = np.ones_like(statistic)
  large = np.abs(statistic) >= _LEAST
  v1, v2 = v1[large], v2[large]
  with np.errstate(divide='ignore', invalid='ignore'):
    freedom = (v1 + v2) ** 2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))
  pvalue[large] = 2 * special.stdtr(freedom, -np.abs(statistic[large]))
  return statistic, pvalue


def _paired(
  centre: np.ndarray, spread: np.ndarray, is_dense: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The same of pairs: t of the differences, whose signs the pairs decide."""
  number = len(is_dense) // 2
  stays = np.where(is_dense[:number], 1.0, -1.0)
  apart, around = (
    values[:number] - values[number:] for values in (centre, spread)
  )
  difference = apart.T @ stays / number
  squares = (around**2).sum(axis=0)[:, None]
  variance = _variance_of_mean(around.T @ stays, squares, number)
  # Where there is none, `_constant_classes` has the answer.
  with np.errstate(divide='ignore', invalid='ignore'):
    statistic = difference / np.sqrt(variance)
  pvalue = np.ones_like(statistic)
  large = np.abs(statistic) >= _LEAST
  pvalue[large] = 2 * special.stdtr(number - 1, -np.abs(statistic[large]))
  return statistic, pvalue


def _variance_of_mean(
  sums: np.ndarray, squares: np.ndarray, number: float
) -> np.ndarray:
  centred = squares - sums**2 / number
  return np.maximum(centred, 0) / (number * (number - 1))


def _discoveries(pvalue: np.ndarray) -> np.ndarray:
  """Which of the classes [C, W] Benjamini & Hochberg (1995) find, each W."""
  ranked = np.sort(pvalue, axis=0)
  classes = len(ranked)
  factor = classes / np.arange(1, classes + 1)
  passes = ranked * factor[:, None] <= tables.SIGNIFICANCE
  # Up to the last that passes all are found.
  last = np.where(passes, ranked, -1.0).max(axis=0, initial=-1.0)
  return pvalue <= last


def _constant_classes(
  centre: np.ndarray, spread: np.ndarray, drawn: membership.Memberships
) -> Iterator[tuple[int, _Constant]]:
  """Classes without variance at one membership or more.

  They are told by counting: a difference of sums of squares leaves rounding
  where nothing should be.
  """
  is_dense = drawn.is_dense
  n1 = int(is_dense[:, 0].sum())
  n2 = len(is_dense) - n1
  found = (_equal_pairs if drawn.paired else _two_values)(spread, is_dense)
  for i, ways in found:
    difference = (centre[:, i] @ is_dense[:, ways]) * (1 / n1 + 1 / n2)
    size = np.abs(difference)
    size[size <= ROUNDING] = 0
    ordered = np.sort(size)
    larger = len(size) - np.searchsorted(ordered, size * (1 - _TIES))
    yield (
      i,
      _Constant(
        ways,
        np.where(size > 0, np.copysign(np.inf, difference), 0.0),
        np.where(size > 0, larger / is_dense.shape[1], 1.0),
      ),
    )


def _two_values(
  spread: np.ndarray, is_dense: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
  """Classes that are constant in both groups, and at which memberships.

  Such a class takes two values at most.
  """
  n1 = int(is_dense[:, 0].sum())
  n2 = len(is_dense) - n1
  gaps = np.diff(np.sort(spread, axis=0), axis=0) > ROUNDING
  for i in np.flatnonzero(gaps.sum(axis=0) <= 1):
    values = spread[:, i]
    low, high = values.min(), values.max()
    is_high = (values > (low + high) / 2) & (high - low > ROUNDING)
    of_dense = is_dense[is_high].sum(axis=0)
    of_others = is_high.sum() - of_dense
    ways = np.flatnonzero(
      ((of_dense == 0) | (of_dense == n1))
      & ((of_others == 0) | (of_others == n2))
    )
    if len(ways):
      yield int(i), ways


def _equal_pairs(
  spread: np.ndarray, is_dense: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
  """Classes in which all pairs differ by as much, and at which memberships."""
  number = len(spread) // 2
  apart = spread[:number] - spread[number:]
  for i in np.flatnonzero(np.ptp(np.abs(apart), axis=0) <= ROUNDING):
    # Signs that are all equal; of no difference there are none.
    up = (apart[:, i] > ROUNDING)[:, None] == is_dense[:number]
    alike = up.all(axis=0) | ~up.any(axis=0)
    if np.abs(apart[:, i]).max() <= ROUNDING:
      alike[:] = True
    ways = np.flatnonzero(alike)
    if len(ways):
      yield int(i), ways
