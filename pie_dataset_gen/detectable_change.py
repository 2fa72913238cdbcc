"""The smallest change that Welch's test of so many members would find.

Pure functions on arrays. A pilot gives the variances of two populations; what
is asked is how far their means must lie apart for a two-sided test of n members
a side to find it, in the right direction, in a given share of studies.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import special, stats

# Share of studies that find a change of the size that is given: 8 of 10.
POWER = 0.8
# Of the quadrature: errors of the power are below 1e-4 from 3 members on.
_NODES = 32
# Dense share of the summed variances; by symmetry the half is enough. Closer
# where one variance vanishes, where few members make the curve bend.
_SHARES = 0.5 * np.linspace(0, 1, 17) ** 2
# Standard errors; a change of more is none that anybody looks for.
_LARGEST = 4 * 2.0**8
_BISECTIONS = 20
# What recall and accuracy, ratios of counts, never truly differ by so little.
_ROUNDING = 1e-12


class Spread(NamedTuple):
  """How much the members of two populations differ among themselves.

  Attributes:
    dense: [C] variances, unbiased.
    compressed: [C] variances.
    freedom: [C] degrees of freedom of their sum (Satterthwaite); NaN where both
      are 0.
  """

  dense: np.ndarray
  compressed: np.ndarray
  freedom: np.ndarray

  @property
  def deviation(self) -> np.ndarray:
    """Root of the mean of both variances [C]."""
    return np.sqrt((self.dense + self.compressed) / 2)

  @property
  def uncertainty(self) -> tuple[np.ndarray, np.ndarray]:
    """By what the deviation is multiplied at the ends of its 95 % interval.

    freedom x variance / true variance is about chi-square, exactly so for one
    population of normal values.
    """
    low, high = (
      np.sqrt(self.freedom / stats.chi2.ppf(p, self.freedom))
      for p in (0.975, 0.025)
    )
    return low, high


def spread(dense: np.ndarray, compressed: np.ndarray) -> Spread:
  """The spread of two populations.

  Args:
    dense: [members, C] two or more.
    compressed: [members, C] two or more.
  """
  variances = []
  for group in (dense, compressed):
    variance = group.var(axis=0, ddof=1)
    variances.append(np.where(variance <= _ROUNDING**2, 0, variance))
  v1, v2 = variances
  with np.errstate(invalid='ignore'):
    freedom = (v1 + v2) ** 2 / (
      v1**2 / (len(dense) - 1) + v2**2 / (len(compressed) - 1)
    )
  return Spread(v1, v2, freedom)


def spread_of_pairs(dense: np.ndarray, compressed: np.ndarray) -> Spread:
  """The same of pairs: all of it is the variance of their differences.

  Of one population with the other constant, Welch's test is Student's of one
  sample, which the test of pairs is, of their differences.

  Args:
    dense: [pairs, C] two or more.
    compressed: [pairs, C] each made from the dense one in its place.
  """
  return spread(dense - compressed, np.zeros_like(dense))


def power(
  noncentrality: np.ndarray, share: np.ndarray, members: int, level: float
) -> np.ndarray:
  """The share of studies in which Welch's test finds a change.

  Of two samples of n normal values with the chi-squares c1 and c2, c1 + c2 has
  2 (n - 1) degrees of freedom and is independent of b = c1 / (c1 + c2), which
  is Beta((n - 1) / 2, (n - 1) / 2). Given b, the degrees of freedom that Welch
  and Satterthwaite estimate are fixed, and the statistic is a noncentral t
  times a number; the mean over b is the power. (The short way, one noncentral t
  with the degrees of freedom of the true variances, is 0.84 instead of 0.51 for
  2 members, equal variances and a noncentrality of 6.)

  Args:
    noncentrality: [...] difference of the true means over the standard error
      sqrt((v1 + v2) / n).
    share: [...] v1 / (v1 + v2).
    members: n a side, two or more.
    level: two-sided level of the test; what is found in the wrong direction
      does not count.

  Returns:
    [...] in [0, 1].
  """
  half = (members - 1) / 2
  x, weights = special.roots_jacobi(_NODES, half - 1, half - 1)
  b = (1 + x) / 2
  share, noncentrality = (
    np.asarray(v, np.float64)[..., None] for v in (share, noncentrality)
  )
  first, second = share * b, (1 - share) * (1 - b)
  ratio = first / (first + second)
  freedom = (members - 1) / (ratio**2 + (1 - ratio) ** 2)
  critical = special.stdtrit(freedom, 1 - level / 2)
  found = _exceeds(
    critical * np.sqrt(2 * (first + second)), noncentrality, members
  )
  return found @ (weights / weights.sum())


def _exceeds(
  bound: np.ndarray, noncentrality: np.ndarray, members: int
) -> np.ndarray:
  """The chance that a noncentral t exceeds a bound above 0.

  (z + noncentrality) / sqrt(c / freedom) does where the chi-square c is small
  enough; its mean over the normal z. `scipy.special.nctdtr` is NaN far from
  its middle, and slow there.
  """
  z = np.arange(-6, 6.01, min(0.25, 1 / np.sqrt(members)))
  weights = np.exp(-(z**2) / 2)
  half = members - 1.0
  largest = (
    half * (np.maximum(noncentrality[..., None] + z, 0) / bound[..., None]) ** 2
  )
  return special.gammainc(half, largest) @ (weights / weights.sum())


@functools.lru_cache(maxsize=256)
def _noncentralities(members: int, level: float) -> np.ndarray:
  """What `POWER` takes, at each of `_SHARES`; NaN above `_LARGEST`."""

  def enough(values):
    return power(values, _SHARES, members, level) >= POWER

  high = np.full(len(_SHARES), 4.0)
  while (short := ~enough(high) & (high < _LARGEST)).any():
    high = np.where(short, 2 * high, high)
  reached = enough(high)
  low = high / 2
  for _ in range(_BISECTIONS):
    middle = (low + high) / 2
    found = enough(middle)
    low, high = np.where(found, low, middle), np.where(found, middle, high)
  return np.where(reached, high, np.nan)


def smallest_change(
  populations: Spread, members: int, level: float
) -> np.ndarray:
  """The smallest difference of means that is found with a power of `POWER`.

  Args:
    populations: their variances, taken as true.
    members: n a side, two or more.
    level: two-sided level of the test.

  Returns:
    [C]; NaN where no member differs from its population, or where so few
    members find nothing that is below a thousand standard errors.
  """
  total = populations.dense + populations.compressed
  with np.errstate(invalid='ignore'):
    share = populations.dense / total
  needed = np.interp(
    np.minimum(share, 1 - share), _SHARES, _noncentralities(members, level)
  )
  return needed * np.sqrt(total / members)
