"""Welch's t-test of every class: dense members against those of one level.

Pure functions on arrays and frames: no files, no flags, no TensorFlow. A class
is tested by its recall, *normalised* by subtracting the accuracy of the whole.
A positive statistic says that the class lost more than the whole did.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from per_class_accuracy import member_recall
from utils import tables

# Recall is a ratio of counts and accuracy a mean of such: values that truly
# differ do so by far more than this, and rounding by far less.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Welch:
  """Welch's t-test of C classes; NaN where it has no answer.

  Attributes:
    statistic: [C] t of dense minus pruned.
    error: [C] standard error of the difference of means; 0 where no model of
      either group differs from its group.
    freedom: [C] degrees of freedom.
    deviation: [C] root of the mean of both variances.
  """

  statistic: np.ndarray
  error: np.ndarray
  freedom: np.ndarray
  deviation: np.ndarray

  @property
  def pvalue(self) -> np.ndarray:
    """Of the two-sided test [C]."""
    return 2 * special.stdtr(self.freedom, -np.abs(self.statistic))

  @property
  def half_width(self) -> np.ndarray:
    """Of the 95 % interval of the difference of means [C]."""
    return self.error * special.stdtrit(self.freedom, 0.975)


def welch(baseline: np.ndarray, variant: np.ndarray) -> Welch:
  """Compares two groups of models, class by class.

  t = (m1 - m2) / sqrt(v1 / n1 + v2 / n2) with the variances' unbiased
  estimates, and the degrees of freedom of Welch (1947) and Satterthwaite:
  (v1 / n1 + v2 / n2)^2 / ((v1 / n1)^2 / (n1 - 1) + (v2 / n2)^2 / (n2 - 1)).
  Equal to `scipy.stats.ttest_ind(equal_var=False)`, but where both groups are
  constant: there scipy divides by what rounding left of a zero.

  Args:
    baseline: [n1, C].
    variant: [n2, C].
  """
  numbers, means, variances = [], [], []
  for group in (baseline, variant):
    numbers.append(len(group))
    means.append(group.mean(axis=0))
    if len(group) < 2:
      variances.append(np.full(group.shape[1], np.nan))
      continue
    deviation = group - means[-1]
    variance = np.einsum('ij,ij->j', deviation, deviation) / (len(group) - 1)
    # Of rounding alone, which is no more than this squared, nothing is left.
    variances.append(np.where(variance <= _ROUNDING**2, 0, variance))
  (n1, n2), (m1, m2), (v1, v2) = numbers, means, variances
  with np.errstate(invalid='ignore', divide='ignore'):
    error = np.sqrt(v1 / n1 + v2 / n2)
    freedom = error**4 / ((v1 / n1) ** 2 / (n1 - 1) + (v2 / n2) ** 2 / (n2 - 1))
    statistic = np.where(error == 0, np.nan, (m1 - m2) / error)
  return Welch(
    statistic=statistic,
    error=error,
    freedom=freedom,
    deviation=np.sqrt((v1 + v2) / 2),
  )


def false_discovery(pvalue: np.ndarray) -> np.ndarray:
  """Benjamini-Hochberg q-values [C]; NaN stays NaN and is no test."""
  qvalue = np.full(len(pvalue), np.nan)
  tested = ~np.isnan(pvalue)
  if tested.any():
    qvalue[tested] = stats.false_discovery_control(pvalue[tested])
  return qvalue


def normalise(
  recall: np.ndarray, accuracy: np.ndarray, constant: float | None, own: bool
) -> np.ndarray:
  """Subtracts from recall [n, C] the accuracy of the whole.

  Args:
    recall: of the models of one level.
    accuracy: [n] of these models.
    constant: subtracted instead, unless None.
    own: subtract each model's own accuracy instead of the mean.
  """
  if constant is not None:
    return recall - constant
  return recall - (accuracy[:, None] if own else accuracy.mean())


class HalfCounts(NamedTuple):
  """Significant classes between random groups of models, [splits] each.

  Attributes:
    size: models on either side.
    either: before correction, in either direction.
    lower: after correction, those that the second group has lower.
    higher: after correction, those that it has higher.
  """

  size: int
  either: np.ndarray
  lower: np.ndarray
  higher: np.ndarray


def count_in_halves(
  first: np.ndarray,
  second: np.ndarray | None,
  size: int,
  splits: int,
  seed: int,
  test: Callable[[np.ndarray, np.ndarray], Welch],
) -> HalfCounts:
  """Counts significant classes between random groups of models.

  Args:
    first: positions of the dense models, in an order that does not depend on
      the files'.
    second: positions of the pruned models, or None to compare the dense
      models with each other.
    size: models on either side.
    splits: number of random draws.
    seed: of the draws.
    test: compares the models at two lists of positions.
  """
  random = np.random.default_rng(seed)
  either, lower, higher = np.zeros((3, splits), np.int64)
  for i in range(splits):
    drawn = random.permutation(first)
    other = drawn[size:] if second is None else random.permutation(second)
    compared = test(drawn[:size], other[:size])
    # NaN is no discovery, nor is a t that would be none with any degrees of
    # freedom, which saves most of the p-values.
    extreme = np.abs(compared.statistic) >= special.ndtri(
      1 - tables.SIGNIFICANCE / 2
    )
    pvalue = np.where(np.isnan(compared.statistic), np.nan, 1.0)
    pvalue[extreme] = 2 * special.stdtr(
      compared.freedom[extreme], -np.abs(compared.statistic[extreme])
    )
    either[i] = (pvalue <= tables.SIGNIFICANCE).sum()
    if either[i]:
      # Which are found depends on the p-values at or below the level only.
      found = false_discovery(pvalue) <= tables.SIGNIFICANCE
      lower[i] = (found & (compared.statistic > 0)).sum()
      higher[i] = (found & (compared.statistic < 0)).sum()
  return HalfCounts(size, either, lower, higher)


def _reasons(
  baseline: np.ndarray, variant: np.ndarray, constant: np.ndarray
) -> np.ndarray:
  missing = np.isnan(np.concatenate([baseline, variant]))
  return np.select(
    [
      missing.all(axis=0),
      np.full(len(constant), min(len(baseline), len(variant)) < 2),
      missing.any(axis=0),
      constant,
    ],
    [
      'no image of the class',
      'fewer than two models in a group',
      'recall is missing for some models',
      'no variance in either group',
    ],
    '',
  )


def halves_row(
  null: HalfCounts | None, halves: HalfCounts | None
) -> dict[str, float]:
  """What chance gives, and what a level gives, between random halves.

  Args:
    null: of dense halves, or None where there are too few models.
    halves: of dense halves and as many models of the level, likewise.

  Returns:
    Cells of `tables.CLASS_IMPACT_SUMMARY`.
  """
  if null is None or halves is None:
    return {}
  row: dict[str, float] = {
    'half_models': null.size,
    'lower_corrected_null': null.lower.mean(),
    'higher_corrected_null': null.higher.mean(),
  }
  for name, counts in (('null', null.either), ('half', halves.either)):
    low, high = np.percentile(counts, [2.5, 97.5])
    row |= {
      f'{name}_mean': counts.mean(),
      f'{name}_low': low,
      f'{name}_high': high,
    }
  return row


def compare_level(
  models: member_recall.Models,
  baseline: np.ndarray,
  variant: np.ndarray,
  normalised: Callable[[np.ndarray], np.ndarray],
) -> pd.DataFrame:
  """Tests every class at one level.

  Args:
    models: all of them.
    baseline: positions of the dense models.
    variant: positions of the pruned models.
    normalised: gives the normalised recall of models of one level.

  Returns:
    [C] rows of `tables.T_STATISTIC` without the level's columns.
  """
  before, after = models.recall[baseline], models.recall[variant]
  raw = welch(before, after)
  before_norm, after_norm = normalised(baseline), normalised(variant)
  test = welch(before_norm, after_norm)
  change = member_recall.mean_of_known(after) - member_recall.mean_of_known(
    before
  )
  normalised_change = member_recall.mean_of_known(
    after_norm
  ) - member_recall.mean_of_known(before_norm)
  with np.errstate(invalid='ignore', divide='ignore'):
    effect_size = np.where(
      test.error == 0, np.nan, normalised_change / test.deviation
    )
  answered = ~np.isnan(test.statistic)
  raw_half_width = np.where(raw.error == 0, 0, raw.half_width)
  return pd.DataFrame(
    {
      'class': models.class_name,
      'baseline_mean_recall': member_recall.mean_of_known(before),
      'variant_mean_recall': member_recall.mean_of_known(after),
      'pvalue_recall_norm': test.pvalue,
      'statistic_recall_norm': test.statistic,
      'class_id': models.class_id,
      'support': models.support,
      'recall_change': change,
      'recall_change_low': np.where(answered, change - raw_half_width, np.nan),
      'recall_change_high': np.where(answered, change + raw_half_width, np.nan),
      'normalised_recall_change': normalised_change,
      'normalised_recall_change_low': normalised_change - test.half_width,
      'normalised_recall_change_high': normalised_change + test.half_width,
      'effect_size': effect_size,
      'qvalue_recall_norm': false_discovery(test.pvalue),
      'direction': np.select(
        [normalised_change < -_ROUNDING, normalised_change > _ROUNDING],
        ['lower', 'higher'],
        '',
      ),
      'reason': _reasons(before, after, test.error == 0),
    }
  )


def summarise_level(tested: pd.DataFrame) -> dict[str, object]:
  """Counts the rows of one level by direction and significance."""
  pvalue = tested['pvalue_recall_norm'].to_numpy()
  qvalue = tested['qvalue_recall_norm'].to_numpy()
  direction = tested['direction'].to_numpy()
  number = int((~np.isnan(pvalue)).sum())
  row: dict[str, object] = {
    'classes': len(tested),
    'tested': number,
    'expected_by_chance': number * tables.SIGNIFICANCE,
  }
  for side in ('lower', 'higher'):
    significant = (direction == side) & (pvalue <= tables.SIGNIFICANCE)
    corrected = (direction == side) & (qvalue <= tables.SIGNIFICANCE)
    of_side = tested[significant]
    row[side] = int(significant.sum())
    row[f'{side}_corrected'] = int(corrected.sum())
    row[f'{side}_mean_recall_change'] = of_side['recall_change'].mean()
    row[f'{side}_mean_normalised_change'] = of_side[
      'normalised_recall_change'
    ].mean()
  before = tested['baseline_mean_recall']
  after = tested['variant_mean_recall']
  if after.notna().any():
    row['worst_class'] = tested['class'][after.idxmin()]
    row['worst_recall'] = after.min()
  for name, recall in (
    ('worst_to_best', after),
    ('baseline_worst_to_best', before),
  ):
    row[name] = recall.min() / recall.max() if recall.max() > 0 else np.nan
  return row
