"""A t-test of every class: dense members against those of one level.

Pure functions on arrays and frames: no files, no flags, no TensorFlow. A class
is tested by its recall, *normalised* by subtracting the accuracy of the whole.
A positive statistic says that the class lost more than the whole did.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import special, stats

from per_class_accuracy import class_permutation, member_recall
from utils import membership, tables


@dataclasses.dataclass(frozen=True)
class TTest:
  """A t-test of C classes, Welch's or of pairs; NaN where it has no answer.

  Attributes:
    statistic: [C] t of dense minus compressed.
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


def welch(baseline: np.ndarray, variant: np.ndarray) -> TTest:
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
    variances.append(
      np.where(variance <= class_permutation.ROUNDING**2, 0, variance)
    )
  (n1, n2), (m1, m2), (v1, v2) = numbers, means, variances
  with np.errstate(invalid='ignore', divide='ignore'):
    error = np.sqrt(v1 / n1 + v2 / n2)
    freedom = error**4 / ((v1 / n1) ** 2 / (n1 - 1) + (v2 / n2) ** 2 / (n2 - 1))
    statistic = np.where(error == 0, np.nan, (m1 - m2) / error)
  return TTest(
    statistic=statistic,
    error=error,
    freedom=freedom,
    deviation=np.sqrt((v1 + v2) / 2),
  )


def of_pairs(baseline: np.ndarray, variant: np.ndarray) -> TTest:
  """Compares models with those that were made from them, class by class.

  The t-test of one sample, the n differences, against 0; equal to
  `scipy.stats.ttest_rel`, but where all differences are equal.

  Args:
    baseline: [n, C].
    variant: [n, C], each made from the model of the same row.
  """
  number = len(baseline)
  # Welch's test against a group that does not vary is that of one sample.
  alone = welch(baseline - variant, np.zeros_like(variant))
  deviation = welch(baseline, variant).deviation
  return TTest(
    statistic=alone.statistic,
    error=alone.error,
    freedom=np.full(baseline.shape[1], number - 1.0),
    deviation=deviation,
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


def draw_permuted(
  models: member_recall.Models,
  baseline: np.ndarray,
  variant: np.ndarray,
  normalised: Callable[[np.ndarray], np.ndarray],
  drawn: membership.Memberships | None,
  recomputed: bool,
) -> class_permutation.Permuted | None:
  """Tests all classes whose recall is known of all models by permutation.

  Args:
    models: all of them.
    baseline: positions of the dense models.
    variant: positions of the compressed models.
    normalised: gives the normalised recall of models of one level.
    drawn: memberships of the dense, then the compressed models, or None.
    recomputed: whether what is subtracted is the mean accuracy of a group, so
      that it changes with the membership.

  Returns:
    None without memberships, without classes, or with fewer than two models
    in a group; otherwise classes as in `models`, NaN where recall is missing.
  """
  both = np.concatenate([baseline, variant])
  recall = models.recall[both]
  known = ~np.isnan(recall).any(axis=0)
  if drawn is None or min(len(baseline), len(variant)) < 2 or not known.any():
    return None
  if recomputed:
    spread = recall[:, known]
    centre = spread - models.accuracy[both][:, None]
  else:
    centre = spread = np.concatenate(
      [normalised(baseline), normalised(variant)]
    )[:, known]
  found = class_permutation.permute(centre, spread, drawn)
  pvalue, max_t = np.full((2, len(known)), np.nan)
  pvalue[known], max_t[known] = found.pvalue, found.max_t
  return found._replace(pvalue=pvalue, max_t=max_t)


def worst_interval(
  recall: np.ndarray, support: np.ndarray
) -> tuple[float, float]:
  """A 95 % interval of the lowest of the true recalls of C classes.

  The class that did worst was chosen for it, so its own interval is too low.
  min_c (m_c - t s_c) to min_c (m_c + t' s_c), s_c being the standard error of
  the mean m_c, covers min_c of the true means: its lower end is above that if
  the lower end of the truly worst class is, in 2.5 % of the cases; its upper
  end is below only if that of some class is below its own mean, which t', with
  0.025 / C instead of 0.025 (Bonferroni), allows in 2.5 % at most. Where one
  class is far below the others, or all are equal, about 97.5 % is covered.

  Recall moves in steps of one image. Of many classes some give all of four
  models the same recall by chance, and no error; so the standard deviation is
  taken to be no less than that of rounding to a step, 1 / sqrt(12) of it.

  Args:
    recall: [models, C], NaN where it is not known; such classes are left out.
    support: [C] images of the class, NaN where unknown: no least deviation.

  Returns:
    NaN with fewer than two models.
  """
  at = ~np.isnan(recall).any(axis=0)
  known = recall[:, at]
  number, classes = known.shape
  if number < 2 or not classes:
    return np.nan, np.nan
  mean = known.mean(axis=0)
  with np.errstate(divide='ignore'):
    step = np.nan_to_num(1 / support[at])
  deviation = np.maximum(known.std(axis=0, ddof=1), step / np.sqrt(12))
  error = deviation / np.sqrt(number)
  low, high = special.stdtrit(
    number - 1, [tables.SIGNIFICANCE / 2, 1 - tables.SIGNIFICANCE / 2 / classes]
  )
  ends = (mean + low * error).min(), (mean + high * error).min()
  return max(float(ends[0]), 0.0), min(float(ends[1]), 1.0)


def _reasons(
  baseline: np.ndarray,
  variant: np.ndarray,
  constant: np.ndarray,
  has_permuted: bool,
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
      'no variance in either group'
      + (': p of the permutation' if has_permuted else ''),
    ],
    '',
  )


def permuted_row(
  permuted: class_permutation.Permuted | None,
  drawn: membership.Memberships | None,
) -> dict[str, float]:
  """What chance gives: cells of `tables.CLASS_IMPACT_SUMMARY`.

  Args:
    permuted: all classes at all memberships, or None where there is no test.
    drawn: the memberships, or None.
  """
  if permuted is None or drawn is None:
    return {}
  others = permuted.significant[1:]
  low, high = np.percentile(others, [2.5, 97.5])
  return {
    'permutations': len(others),
    'significant_permuted_mean': others.mean(),
    'significant_permuted_low': low,
    'significant_permuted_high': high,
    'significant_pvalue': permuted.number_pvalue,
    'significant_pvalue_smallest': drawn.smallest_pvalue,
    'lower_corrected_permuted': permuted.lower[1:].mean(),
    'higher_corrected_permuted': permuted.higher[1:].mean(),
  }


def compare_level(
  models: member_recall.Models,
  baseline: np.ndarray,
  variant: np.ndarray,
  normalised: Callable[[np.ndarray], np.ndarray],
  permuted: class_permutation.Permuted | None = None,
  paired: bool = False,
) -> pd.DataFrame:
  """Tests every class at one level.

  A class that no model of either group differs in from its group has no
  standard error, and no statistic: its p is that of the permutation.

  Args:
    models: all of them.
    baseline: positions of the dense models.
    variant: positions of the compressed models.
    normalised: gives the normalised recall of models of one level.
    permuted: the classes at permuted memberships, if there are any.
    paired: whether each of `variant` was made from that of `baseline`.

  Returns:
    [C] rows of `tables.T_STATISTIC` without the level's columns.
  """
  before, after = models.recall[baseline], models.recall[variant]
  compare = of_pairs if paired else welch
  raw = compare(before, after)
  before_norm, after_norm = normalised(baseline), normalised(variant)
  test = compare(before_norm, after_norm)
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
  by_permutation = max_t = np.full(len(answered), np.nan)
  if permuted is not None:
    by_permutation, max_t = permuted.pvalue, permuted.max_t
  constant = test.error == 0
  pvalue = np.where(constant, by_permutation, test.pvalue)
  raw_half_width = np.where(raw.error == 0, 0, raw.half_width)
  return pd.DataFrame(
    {
      'class': models.class_name,
      'baseline_mean_recall': member_recall.mean_of_known(before),
      'variant_mean_recall': member_recall.mean_of_known(after),
      'pvalue_recall_norm': pvalue,
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
      'qvalue_recall_norm': false_discovery(pvalue),
      'pvalue_permutation': by_permutation,
      'pvalue_max_t': max_t,
      'direction': np.select(
        [
          normalised_change < -class_permutation.ROUNDING,
          normalised_change > class_permutation.ROUNDING,
        ],
        ['lower', 'higher'],
        '',
      ),
      'reason': _reasons(before, after, constant, permuted is not None),
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
  if before.notna().any():
    row['baseline_worst_class'] = tested['class'][before.idxmin()]
    row['baseline_worst_recall'] = before.min()
  for name, recall in (
    ('worst_to_best', after),
    ('baseline_worst_to_best', before),
  ):
    row[name] = recall.min() / recall.max() if recall.max() > 0 else np.nan
  return row
