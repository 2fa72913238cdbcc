"""The measures of what a level costs beside accuracy, and their rows.

Pure functions on what was counted: no files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pie_dataset_gen import (
  calibration,
  comparisons,
  disagreement,
  headline_rows,
  pie_resampling,
  shard_predictions,
  verdicts,
)
from utils import membership, populations, tables

_ON_PIES = ('confidence on PIEs', 'confidence on the others')
# Of one member's confidence [images] and whether it is right [images].
_SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'NLL of the predicted class': calibration.log_loss,
  'Brier score of the predicted class': calibration.brier_score,
  headline_rows.CALIBRATION_ERROR: lambda confidence, right: (
    calibration.expected_error(calibration.bins_of(confidence, right))
  ),
  'squared calibration error, debiased': lambda confidence, right: (
    calibration.debiased_square(calibration.bins_of(confidence, right))
  ),
  'mean confidence': lambda confidence, right: float(confidence.mean()),
  'overconfidence': lambda confidence, right: float(
    confidence.mean() - right.mean()
  ),
}
_BOUNDS = {
  'NLL of the predicted class': (0.0, np.inf),
  'squared calibration error, debiased': (-1.0, 1.0),
  'overconfidence': (-1.0, 1.0),
  headline_rows.BEYOND_NOISE: (-1.0, 1.0),
}
NO_PROBABILITY = 'members whose predictions have no predicted_probability'
_OF_PAIRS = (
  'within pairs nothing is left to chance: two copies of a network agree'
)
_OF_PIES = 'PIEs are chosen for these very votes'
_FEW = 'too few members'


class Scores(NamedTuple):
  """How sure one member is, and how often it is right.

  Attributes:
    of: measure -> value; NaN where no probability is known.
    bins: of its images, or None.
    on_pies: level -> mean confidence on its PIEs, on its other images.
  """

  of: dict[str, float]
  bins: calibration.Bins | None
  on_pies: dict[populations.Level, tuple[float, float]]


def score(
  confidence: np.ndarray,
  right: np.ndarray,
  is_pie: Mapping[populations.Level, np.ndarray],
) -> Scores:
  """Scores one member.

  Args:
    confidence: [images] predicted_probability.
    right: [images] whether the prediction is right.
    is_pie: level -> [images].
  """

  def mean(chosen):
    return float(confidence[chosen].mean()) if chosen.any() else np.nan

  if np.isnan(confidence).any():
    unknown = np.nan, np.nan
    return Scores(
      dict.fromkeys(_SCORES, np.nan), None, dict.fromkeys(is_pie, unknown)
    )
  return Scores(
    {name: of(confidence, right) for name, of in _SCORES.items()},
    calibration.bins_of(confidence, right),
    {level: (mean(pies), mean(~pies)) for level, pies in is_pie.items()},
  )


def mean_score(of: Sequence[Scores]) -> Scores:
  """The mean over data sets of one member's scores; of PIEs nothing."""
  unknown = any(score.bins is None for score in of)
  return Scores(
    {
      name: float(np.mean([score.of[name] for score in of])) for name in _SCORES
    },
    None if unknown else of[0].bins,
    {},
  )


class Population(NamedTuple):
  """A compressed level beside the dense members.

  Attributes:
    level: its name.
    dense: [dense] positions of the dense members.
    compressed: [compressed] positions of the level's.
    paired: whether the i-th of both belong together.
    drawn: memberships, or None for no test.
  """

  level: populations.Level
  dense: np.ndarray
  compressed: np.ndarray
  paired: bool
  drawn: membership.Memberships | None

  @property
  def both(self) -> np.ndarray:
    """Positions, the dense first."""
    return np.concatenate([self.dense, self.compressed])

  @property
  def sizes(self) -> tuple[int, int]:
    """Dense and compressed members."""
    return len(self.dense), len(self.compressed)

  def row(
    self,
    measure: str,
    found: comparisons.Comparison,
    reason: str = '',
  ) -> dict[str, object]:
    """A row of `tables.COSTS`."""
    smallest = np.nan
    if self.drawn is None:
      reason = reason or 'no test: num_permutations is 0'
    else:
      smallest = self.drawn.smallest_pvalue
    if np.isnan(found.low) and not np.isnan(found.value):
      few = f'no interval: {_FEW}'
      reason = f'{reason}; {few}' if reason else few
    elif np.isnan(found.value):
      reason = reason or _FEW
    return {
      'pruning_method': self.level.pruning_method,
      'pruning_fraction': self.level.fraction_pruned,
      'measure': measure,
      **found._asdict(),
      'verdict': verdicts.decide(found.pvalue, smallest),
      'is_paired': int(self.paired),
      'not_available': reason,
    }

  def compare(
    self, measure: str, statistic: comparisons.Statistic, **options
  ) -> dict[str, object]:
    """A measure of the level: a row of `tables.COSTS`."""
    found = comparisons.compare(
      statistic,
      self.sizes,
      self.drawn,
      paired=self.paired,
      bounds=_BOUNDS.get(measure, (0.0, 1.0)),
      **options,
    )
    return self.row(measure, found)


def paired_levels(null: pd.DataFrame) -> dict[populations.Level, bool]:
  """Level -> whether its members are pairs.

  Args:
    null: rows of `tables.PIE_NULL`.
  """
  return {
    populations.level_of(row): bool(row['is_paired'])
    for row in null.to_dict('records')
  }


def compared(
  members: Sequence[shard_predictions.Identity],
  paired: Mapping[populations.Level, bool],
  permutations: int,
  seed: int,
  source: str,
) -> list[Population]:
  """Each level beside the dense members.

  Args:
    members: of the predictions, sorted.
    paired: level -> whether its members are pairs, of all levels.
    permutations: memberships beside the true one.
    seed: of the draws.
    source: what names the levels, for the message.

  Raises:
    ValueError: a level has no members.
  """
  level_of = list(map(shard_predictions.level_of, members))

  def positions(level):
    return np.flatnonzero([other == level for other in level_of])

  dense = positions(populations.DENSE)
  found = []
  for level, is_paired in paired.items():
    compressed = positions(level)
    if not len(compressed):
      raise ValueError(
        f'there are no predictions of {tuple(level)}, a level of {source}: '
        'wanted those of the members that aggregate_predictions read'
      )
    drawn = pie_resampling.draw(
      len(dense), len(compressed), 0, permutations, seed, is_paired
    ).memberships
    found.append(Population(level, dense, compressed, is_paired, drawn))
  return found


def rows_of_level(
  population: Population,
  pairs: disagreement.Pairs,
  scores: Mapping[int, Scores],
  of_pies: bool = True,
) -> list[dict[str, object]]:
  """All measures of a compressed level: rows of `tables.COSTS`.

  Args:
    population: the level.
    pairs: of all members.
    scores: of all members, by position.
    of_pies: whether to say how sure they are on PIEs and on other images.
  """
  pairs = pairs.of(population.both)
  churn, paired = pairs.churn, population.paired
  against = population.compare(
    headline_rows.AGAINST_DENSE, comparisons.between(churn, paired)
  )
  if paired:
    against |= {
      'reference': 0.0,
      'pvalue': np.nan,
      'verdict': 'not tested',
      'not_available': _OF_PAIRS,
    }
  rows = [
    against,
    population.compare('churn among themselves', comparisons.among(churn)),
    population.compare(
      headline_rows.BEYOND_NOISE,
      comparisons.excess(churn, paired),
      is_excess=True,
    ),
    population.compare(
      headline_rows.NEWLY_WRONG, comparisons.between(pairs.newly_wrong, paired)
    ),
    population.compare(
      headline_rows.NEWLY_RIGHT, comparisons.between(pairs.newly_right, paired)
    ),
  ]
  unknown = sum(scores[i].bins is None for i in population.both)
  for measure in _SCORES:
    values = np.array([scores[i].of[measure] for i in population.both])
    row = population.compare(measure, comparisons.mean_of_members(values))
    rows.append(_or_why(row, unknown))
  for at, measure in enumerate(_ON_PIES if of_pies else ()):
    values = np.array(
      [scores[i].on_pies[population.level][at] for i in population.both]
    )
    found = comparisons.compare(
      comparisons.mean_of_members(values),
      population.sizes,
      paired=paired,
    )
    reason = _OF_PIES if not np.isnan(found.value) else 'no such image'
    rows.append(_or_why(population.row(measure, found, reason), unknown))
  return rows


def _or_why(row: dict[str, object], unknown: int) -> dict[str, object]:
  """Says that it is for want of probabilities where it is."""
  if unknown:
    row['not_available'] = f'{unknown} {NO_PROBABILITY}'
  return row


def rows_of_dense(
  dense: np.ndarray, pairs: disagreement.Pairs, scores: Mapping[int, Scores]
) -> list[dict[str, object]]:
  """The measures that dense members have by themselves.

  Args:
    dense: their positions.
    pairs: of all members.
    scores: of all members, by position.
  """
  population = Population(populations.DENSE, dense, dense[:0], False, None)
  pairs = pairs.of(dense)
  rows = []
  unknown = sum(scores[i].bins is None for i in dense)

  def add(measure, statistic, unknown=0):
    found = comparisons.compare(
      comparisons.of_dense(statistic),
      (len(dense), 0),
      bounds=_BOUNDS.get(measure, (0.0, 1.0)),
    )
    row = population.row(measure, found, 'all others are held against it')
    rows.append(_or_why(row, unknown))

  add(headline_rows.AGAINST_DENSE, comparisons.among(pairs.churn))
  add(headline_rows.NEWLY_WRONG, comparisons.among(pairs.newly_wrong))
  add(headline_rows.NEWLY_RIGHT, comparisons.among(pairs.newly_right))
  for measure in _SCORES:
    values = np.array([scores[i].of[measure] for i in dense])
    add(measure, comparisons.mean_of_members(values), unknown)
  return rows


def class_rows(
  population: Population,
  flips: disagreement.Flips,
  names: Callable[[int], str],
) -> pd.DataFrame:
  """PIEs and flips of each class of a level: rows of `tables.CLASS_COSTS`.

  Args:
    population: the level.
    flips: of its classes.
    names: of a class id.
  """
  there = np.flatnonzero(flips.images)
  images, pies = flips.images[there], flips.pies[there]
  num_dense, num_level = population.sizes
  of_two = num_dense if population.paired else num_dense * num_level
  of_dense = num_dense * (num_dense - 1)
  frame = pd.DataFrame(
    {
      'pruning_method': population.level.pruning_method,
      'pruning_fraction': population.level.fraction_pruned,
      'class_id': there,
      'class': [names(i) for i in there.tolist()],
      'images': images,
      'image_share': images / images.sum(),
      'pie_count': pies,
      'pie_share': np.nan,
      'pie_pvalue': np.nan,
      'pie_qvalue': np.nan,
      'newly_wrong': flips.newly_wrong[there] / (images * of_two),
      'newly_right': flips.newly_right[there] / (images * of_two),
      'dense_newly_wrong': np.nan,
      'flip_pvalue': np.nan,
      'flip_qvalue': np.nan,
    }
  )
  if of_dense:
    frame['dense_newly_wrong'] = flips.dense[there] / (images * of_dense)
  if pies.sum():
    frame['pie_share'] = pies / pies.sum()
    at_random = stats.hypergeom(images.sum(), images, pies.sum())
    frame['pie_pvalue'] = np.clip(at_random.sf(pies - 1), 0, 1)
    frame['pie_qvalue'] = stats.false_discovery_control(frame['pie_pvalue'])
  if population.drawn is not None:
    frame['flip_pvalue'] = membership.pvalue(flips.apart[there])
    frame['flip_qvalue'] = stats.false_discovery_control(frame['flip_pvalue'])
  return frame


def newly_wrong_rows(
  population: Population,
  flips: disagreement.Flips,
  names: Callable[[int], str],
) -> pd.DataFrame:
  """What newly wrong images are taken for: rows of `tables.NEWLY_WRONG`.

  Those of a level by falling number.

  Args:
    population: the level.
    flips: of its classes.
    names: of a class id.
  """
  num_dense, num_level = population.sizes
  of_two = num_dense if population.paired else num_dense * num_level
  of_dense = num_dense * (num_dense - 1)
  columns = [column.name for column in tables.NEWLY_WRONG.columns]
  rows = [
    (
      *population.level,
      true,
      names(true),
      taken_for,
      names(taken_for),
      number / of_two,
      of_two_dense / of_dense if of_dense else np.nan,
    )
    for (true, taken_for), (number, of_two_dense) in flips.taken_for.items()
  ]
  return pd.DataFrame(rows, columns=columns).sort_values(
    ['images', 'dense_images', 'class_id', 'predicted_class_id'],
    ascending=[False, False, True, True],
  )


def reliability_rows(
  level: populations.Level, scores: list[Scores]
) -> pd.DataFrame:
  """How right members are by how sure they are: rows of `tables.RELIABILITY`.

  None where members are without probabilities.

  Args:
    level: of the members.
    scores: of each.
  """
  columns = [column.name for column in tables.RELIABILITY.columns]
  bins = [of.bins for of in scores if of.bins is not None]
  if len(bins) < len(scores) or not bins:
    return pd.DataFrame([], columns=columns)
  accuracy = np.array([of.accuracy for of in bins])
  rows = []
  for i, of_bin in enumerate(accuracy.T):
    found = comparisons.compare(
      comparisons.of_dense(comparisons.mean_of_members(of_bin)),
      (len(of_bin), 0),
    )
    confidence = float(np.mean([of.confidence[i] for of in bins]))
    rows.append((*level, i, confidence, found.value, found.low, found.high))
  return pd.DataFrame(rows, columns=columns)
