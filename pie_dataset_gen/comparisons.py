"""A measure of a level beside what training's randomness alone gives.

Two kinds of measures are compared. One belongs to each member (a calibration
error): its mean over the level's members stands beside that over the dense
ones. The other belongs to each two members (churn): that between dense and
compressed members stands beside that between dense ones. Of pairs, compressed
members that were made from the dense ones, each is held against its own twin.

The interval says how far the measure moves had other members been trained: by
the delete-one jackknife (Efron & Stein 1981, "The jackknife estimate of
variance"), of both populations (Arvesen 1969, "Jackknifing U-statistics"); of
pairs a pair is deleted. For a mean that is Student's. p is the share of
memberships (`utils/membership`) that set the measure as far from what it stands
beside.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from utils import membership

# Of numbers of the size of 1; they truly differ by far more, and rounding by
# far less.
_TIES = 1e-12

# [members, ways] whether a member is in the group; the measure, and what it
# stands beside, [ways] each. NaN where a group has too few members.
Statistic = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Comparison(NamedTuple):
  """A measure of a level; NaN is not known.

  Attributes:
    value: of the level.
    low: lower end of its 95 % interval.
    high: upper end.
    reference: what it stands beside.
    pvalue: share of memberships that set them as far apart.
  """

  value: float
  low: float = np.nan
  high: float = np.nan
  reference: float = np.nan
  pvalue: float = np.nan


def mean_of_members(values: np.ndarray) -> Statistic:
  """The mean over compressed members beside that over dense ones.

  Args:
    values: [members].
  """

  def statistic(dense, compressed):
    return _mean(values, compressed), _mean(values, dense)

  return statistic


def between(of_two: np.ndarray, paired: bool = False) -> Statistic:
  """The mean over a dense and a compressed member, beside two dense ones.

  Of pairs it is the mean over the pairs; beside it stands the mean over both
  directions, what a pair gives when which of the two is dense is unknown.

  Args:
    of_two: [members, members] of the first, as dense, and the second.
    paired: whether the i-th dense and the i-th compressed member belong
      together.
  """

  def statistic(dense, compressed):
    if paired:
      value = _within_pairs(of_two, dense, compressed)
      back = _within_pairs(of_two.T, dense, compressed)
      return value, (value + back) / 2
    return _across(of_two, dense, compressed), _among(of_two, dense)

  return statistic


def among(of_two: np.ndarray) -> Statistic:
  """The mean over two compressed members, beside that over two dense ones."""

  def statistic(dense, compressed):
    return _among(of_two, compressed), _among(of_two, dense)

  return statistic


def excess(of_two: np.ndarray, paired: bool = False) -> Statistic:
  """How much more dense and compressed members differ than their likes do.

  mean_{d,c} X(d, c) - (mean_{d,d'} X(d, d') + mean_{c,c'} X(c, c')) / 2, each
  over different members, is 0 on average where both populations predict alike,
  however noisy they are. It is half the energy distance of the votes (Szekely &
  Rizzo 2013, "Energy statistics"), without its bias: between populations of one
  size its p-value is energy_pvalue of `tables.PIE_NULL`. Of pairs no network is
  held against its own twin.

  Args:
    of_two: [members, members] symmetric.
    paired: as in `between`.
  """

  def statistic(dense, compressed):
    within = (_among(of_two, dense) + _among(of_two, compressed)) / 2
    apart = _across(of_two, dense, compressed, paired)
    return apart - within, 0 * within

  return statistic


def _mean(values: np.ndarray, group: np.ndarray) -> np.ndarray:
  size = group.sum(axis=0)
  return _over(values @ group, size)


def _over(total: np.ndarray, number: np.ndarray) -> np.ndarray:
  """A mean; NaN of nothing."""
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _among(of_two: np.ndarray, group: np.ndarray) -> np.ndarray:
  """Mean over two different members of a group, in both directions."""
  size = group.sum(axis=0)
  total = np.einsum('iw,iw->w', group, of_two @ group)
  total -= np.diagonal(of_two) @ group
  return _over(total, size * (size - 1))


def _across(
  of_two: np.ndarray,
  dense: np.ndarray,
  compressed: np.ndarray,
  without_pairs: bool = False,
) -> np.ndarray:
  total = np.einsum('iw,iw->w', dense, of_two @ compressed)
  number = dense.sum(axis=0) * compressed.sum(axis=0)
  if without_pairs:
    pairs = dense.sum(axis=0)
    total = total - pairs * _within_pairs(of_two, dense, compressed)
    number = number - pairs
  return _over(total, number)


def _within_pairs(
  of_two: np.ndarray, dense: np.ndarray, compressed: np.ndarray
) -> np.ndarray:
  """Mean over pairs: of the dense one's place, first half or second."""
  half = len(of_two) // 2
  there, back = of_two.diagonal(half), of_two.diagonal(-half)
  total = there @ (dense[:half] * compressed[half:])
  total += back @ (dense[half:] * compressed[:half])
  return _over(total, dense.sum(axis=0))


def of_dense(statistic: Statistic) -> Statistic:
  """What the dense population gives by itself, beside nothing."""

  def swapped(dense, compressed):
    _, reference = statistic(dense, compressed)
    return reference, np.full(dense.shape[1], np.nan)

  return swapped


def compare(
  statistic: Statistic,
  sizes: tuple[int, int],
  drawn: membership.Memberships | None = None,
  *,
  paired: bool = False,
  is_excess: bool = False,
  bounds: tuple[float, float] = (0.0, 1.0),
) -> Comparison:
  """Compares a measure of a level.

  Args:
    statistic: of the members of both populations, the dense first.
    sizes: dense and compressed members.
    drawn: memberships, the true one first; None for no test.
    paired: whether members are pairs.
    is_excess: whether only more than what is beside it counts.
    bounds: what the measure can be; intervals end there.
  """
  dense = (np.arange(sum(sizes)) < sizes[0])[:, None].astype(float)
  value, reference = (of[0] for of in statistic(dense, 1 - dense))
  pvalue = np.nan
  if drawn is not None and not np.isnan([value, reference]).any():
    is_dense = drawn.is_dense.astype(float)
    apart = np.subtract(*statistic(is_dense, 1 - is_dense))
    apart = apart if is_excess else np.abs(apart)
    pvalue = float((apart >= apart[0] - _TIES).mean())
  width = _half_width(statistic, sizes, paired)
  return Comparison(
    float(value),
    float(np.maximum(value - width, bounds[0])),
    float(np.minimum(value + width, bounds[1])),
    float(reference),
    pvalue,
  )


def _half_width(
  statistic: Statistic, sizes: tuple[int, int], paired: bool
) -> float:
  """Half of the 95 % interval; NaN of too few members."""
  members = np.arange(sum(sizes))
  is_dense = members < sizes[0]
  units: list[list[tuple[int, ...]]]
  if paired:
    units = [[(i, sizes[0] + i) for i in range(sizes[0])]]
  else:
    units = [
      [(i,) for i in np.flatnonzero(group).tolist()]
      for group in (is_dense, ~is_dense)
      if group.any()
    ]
  variances, freedom = [], []
  for unit in units:
    kept = np.ones((len(members), len(unit)))
    for i, deleted in enumerate(unit):
      kept[list(deleted), i] = 0
    found, _ = statistic(is_dense[:, None] * kept, ~is_dense[:, None] * kept)
    if len(unit) < 2 or np.isnan(found).any():
      return np.nan
    variances.append((len(unit) - 1) * found.var())
    freedom.append(len(unit) - 1)
  total = sum(variances)
  if total <= 0:
    return 0.0
  # Satterthwaite's.
  of_total = total**2 / sum(
    v**2 / n for v, n in zip(variances, freedom, strict=True)
  )
  return float(stats.t.ppf(0.975, of_total) * total**0.5)
