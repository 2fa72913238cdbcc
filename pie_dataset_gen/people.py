"""Scores that people gave images, held against what networks make of them.

A population is compared with people image by image: are PIEs the images on
which people disagree, more than the PIEs that chance gives? Chance PIEs come
from the same networks, their membership permuted, and lie on images of the same
kind: an image on which networks are torn is one on which two groups of them
easily differ, whatever compression does.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics

from pie_dataset_gen import shard_predictions, votes
from utils import membership

# Memberships at a time, which bounds the memory.
_BLOCK_WAYS = 100
# Rounding's share of what is 0 where each stratum is all PIEs, or none.
_NO_WEIGHT = 1e-6


class Estimate(NamedTuple):
  """A number and its 95 % interval over images.

  Attributes:
    value: the estimate; NaN where it is not defined.
    low: lower end of the interval.
    high: upper end.
  """

  value: float
  low: float = np.nan
  high: float = np.nan


class Groups(NamedTuple):
  """What some memberships make of the images.

  Attributes:
    pie: [images, ways] whether the modal labels of both groups differ.
    stratum: [images, ways] images with as many votes of the dense group for its
      modal label, and for the true class, share a number.
    distance_rank: [images, ways] ranks of the distances between the shares of
      votes, summed over labels.
  """

  pie: np.ndarray
  stratum: np.ndarray
  distance_rank: np.ndarray


def scores_of_counts(
  counts: np.ndarray, true_class: np.ndarray
) -> dict[str, np.ndarray]:
  """What people's choices say of images.

  Args:
    counts: [images, classes] how many people chose the class.
    true_class: [images] class ids.

  Returns:
    [images] each: the entropy of the shares, in nats; the share of people who
    did not choose the true class; and 1 where another class has more votes.
  """
  share = counts / counts.sum(axis=1, keepdims=True)
  label = share[np.arange(len(share)), true_class]
  return {
    'entropy': stats.entropy(share, axis=1),
    'disagreement': 1 - label,
    'another_class': (share.max(axis=1) > label).astype(float),
  }


def groups(
  predictions: shard_predictions.Predictions,
  dense: np.ndarray,
  compressed: np.ndarray,
  memberships: membership.Memberships,
  tie_rule: str,
) -> Iterator[Groups]:
  """Yields what the memberships make of the images, the true one first.

  Args:
    predictions: of the images.
    dense: [dense] columns of the dense members.
    compressed: [compressed] columns of a level's.
    memberships: of both, the dense first.
    tie_rule: one of `votes.TIE_RULES`.
  """
  both = np.concatenate([dense, compressed])
  label = predictions.label[:, both]
  # Images on which all agree are a PIE between no groups.
  contested = np.flatnonzero((label != label[:, :1]).any(axis=1))
  ballots = votes.collect_ballots(
    label[contested], predictions.probability[np.ix_(contested, both)]
  )
  right = ballots.label == predictions.true_class[contested][ballots.image]
  agreed_right = label[:, :1] == predictions.true_class[:, None]
  ways = memberships.is_dense.shape[1]
  for start in range(0, ways, _BLOCK_WAYS):
    block = slice(start, start + _BLOCK_WAYS)
    is_dense = memberships.is_dense[:, block]
    weights = memberships.weights[:, block].astype('f4')
    first = votes.elect(ballots, is_dense, tie_rule)
    second = votes.elect(ballots, ~is_dense, tie_rule)
    true = np.where(right[:, None], first.counts, 0)
    apart = np.abs(ballots.voted @ weights).astype(np.float64)

    # Where all agree: no PIE, no distance, all votes of the dense group.
    pie, stratum, distance = (
      np.tile(agreed, (1, is_dense.shape[1]))
      for agreed in (
        np.zeros((len(label), 1), bool),
        len(dense) * (len(both) + 1) + len(dense) * agreed_right,
        np.zeros((len(label), 1)),
      )
    )
    pie[contested] = first.row != second.row
    stratum[contested] = first.votes * (len(both) + 1)
    stratum[contested] += np.add.reduceat(
      true.astype(int), ballots.first, axis=0
    )
    distance[contested] = np.add.reduceat(apart, ballots.first, axis=0)
    yield Groups(pie, stratum, stats.rankdata(distance, axis=0))


def statistics(score: np.ndarray, of: Groups) -> dict[str, np.ndarray]:
  """How a score goes with what memberships make of the images.

  Args:
    score: [images].
    of: the memberships' groups.

  Returns:
    [ways] each, NaN where there are no PIEs or nothing but PIEs:
    `difference`, mean score of PIEs less that of other images; `auc`, the
    chance that a PIE has the higher score of the two (Mann-Whitney);
    `matched_difference`, the difference within images on which the dense group
    votes alike; `spearman`, rank correlation with the distance of the votes.
  """
  pies = of.pie.sum(axis=0)
  others = len(score) - pies
  rank = stats.rankdata(score)
  on_pies = score @ of.pie
  with np.errstate(invalid='ignore', divide='ignore'):
    found = {
      'difference': on_pies / pies - (score.sum() - on_pies) / others,
      'auc': (rank @ of.pie / pies - (pies + 1) / 2) / others,
      'matched_difference': _matched_differences(score, of),
      'spearman': _correlation(rank, of.distance_rank),
    }
  # Rounded: equal statistics are equal, whatever the last digit of a sum.
  return {name: values.round(9) for name, values in found.items()}


def _matched_differences(score: np.ndarray, of: Groups) -> np.ndarray:
  """[ways] `matched_difference` of the scores."""
  ways = of.pie.shape[1]
  strata = int(of.stratum.max(initial=0)) + 1
  cell = (of.stratum + strata * np.arange(ways)).ravel()
  pie = of.pie.ravel()
  scores = np.repeat(score, ways)

  def count(cells, weights=None):
    return np.bincount(cells, weights, strata * ways).reshape(ways, strata)

  size, total = count(cell), count(cell, scores)
  pies, on_pies = count(cell[pie]), count(cell[pie], scores[pie])
  share = pies / np.maximum(size, 1)
  weight = (pies - pies * share).sum(axis=1)
  found = (on_pies - total * share).sum(axis=1)
  return np.where(weight > _NO_WEIGHT, found / weight, np.nan)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Pearson's, of [images] and each column of [images, ways]."""
  x = x - x.mean()
  y = y - y.mean(axis=0)
  return x @ y / np.sqrt((x**2).sum() * (y**2).sum(axis=0))


def matched_difference(
  score: np.ndarray, pie: np.ndarray, stratum: np.ndarray
) -> Estimate:
  """Mean score of PIEs less that of others within strata of like images.

  The coefficient of being a PIE in a regression of the score on it and on the
  strata, its variance by White's estimator (HC1).

  Args:
    score: [images].
    pie: [images] whether the image is a PIE.
    stratum: [images] whole numbers from 0 on.
  """
  _, stratum = np.unique(stratum, return_inverse=True)
  size = np.bincount(stratum)

  def within(values):
    return values - (np.bincount(stratum, values) / size)[stratum]

  at = within(pie.astype(float))
  weight = (at**2).sum()
  if weight < _NO_WEIGHT:
    return Estimate(np.nan)
  residual = within(score.astype(float))
  value = float(at @ residual / weight)
  residual = residual - value * at
  # Strata of one kind only say nothing, and cost no degree of freedom.
  mixed = np.bincount(stratum, np.abs(at)) > 0
  freedom = size[mixed].sum() - mixed.sum() - 1
  if freedom < 1:
    return Estimate(value)
  variance = (at**2 * residual**2).sum() / weight**2
  variance *= size[mixed].sum() / freedom
  return _around(value, variance, freedom)


def difference(score: np.ndarray, pie: np.ndarray) -> Estimate:
  """Mean score of PIEs less that of other images, by Welch's interval."""
  if min(pie.sum(), (~pie).sum()) < 2:
    return Estimate(np.nan)
  test = stats.ttest_ind(score[pie], score[~pie], equal_var=False)
  low, high = test.confidence_interval()
  return Estimate(
    float(score[pie].mean() - score[~pie].mean()), float(low), float(high)
  )


def auc(score: np.ndarray, positive: np.ndarray) -> Estimate:
  """Chance that a positive image has the higher score, ties counting half.

  Its variance is DeLong's (1988, "Comparing the areas under two or more
  correlated receiver operating characteristic curves").

  Args:
    score: [images].
    positive: [images] bool.
  """
  m, n = int(positive.sum()), int((~positive).sum())
  if min(m, n) < 2:
    return Estimate(np.nan)
  rank = stats.rankdata(score)
  above = (rank[positive] - stats.rankdata(score[positive])) / n
  below = 1 - (rank[~positive] - stats.rankdata(score[~positive])) / m
  variance = above.var(ddof=1) / m + below.var(ddof=1) / n
  low, high = above.mean() + stats.norm.ppf([0.025, 0.975]) * variance**0.5
  return Estimate(float(above.mean()), max(0.0, low), min(1.0, high))


def spearman(x: np.ndarray, y: np.ndarray) -> Estimate:
  """Rank correlation; its variance from what each image adds to it.

  That of Pearson's correlation by its influence function (Devlin et al. 1975),
  the ranks taken as given. Simulated coverage on votes and counts, most of
  which are 0, is 0.93 to 0.96, that of Fisher's transformation 0.86 to 0.97.
  """
  x, y = stats.rankdata(x), stats.rankdata(y)
  if not (np.ptp(x) and np.ptp(y)):
    return Estimate(np.nan)
  x, y = stats.zscore(x), stats.zscore(y)
  value = float((x * y).mean())
  adds = x * y - value * (x * x + y * y) / 2
  return _around(value, adds.var(ddof=1) / len(x), len(x) - 1)


def _around(value: float, variance: float, freedom: float) -> Estimate:
  half = stats.t.ppf(0.975, freedom) * variance**0.5
  return Estimate(value, float(value - half), float(value + half))


def found_first(
  suspicion: np.ndarray, positive: np.ndarray
) -> Mapping[str, float]:
  """How well a ranking finds the positive images.

  Args:
    suspicion: [images] first are the largest.
    positive: [images] bool.

  Returns:
    `average_precision` (scikit-learn's), and `precision_at_k`, the share that
    is positive of the first k images, k being their number; of images that
    rank alike as many as chance puts there.
  """
  k = int(positive.sum())
  if not k:
    return {'average_precision': np.nan, 'precision_at_k': np.nan}
  last = np.sort(suspicion)[-k]
  above, at = suspicion > last, suspicion == last
  left = k - above.sum()
  hits = positive[above].sum() + left * positive[at].mean()
  return {
    'average_precision': float(
      metrics.average_precision_score(positive, suspicion)
    ),
    'precision_at_k': float(hits / k),
  }
