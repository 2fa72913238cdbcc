"""What a level costs groups of images: PIEs, false positives and negatives.

Where labels are 0 and 1, 1 is the positive one: the *false positive rate* is
the share of images of class 0 that a member calls 1, the *false negative rate*
the share of images of class 1 that it calls 0. *Equalised odds* ask that both
are alike in all groups (Hardt et al. 2016, "Equality of opportunity in
supervised learning"); the difference is the larger of the two ranges over the
groups. Hooker et al. 2020 (arXiv 2010.03058) look at CelebA so: "Blond", by sex
and age. A group, or a class in it, without images has no rate.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pie_dataset_gen import (
  comparisons,
  cost_rows,
  headline_rows,
  shard_predictions,
  verdicts,
)
from utils import csvs, populations, tables

ALL_GROUPS = 'all groups'
PIE_SHARE = 'share of PIEs'
ERROR = 'error'
FALSE_POSITIVE = 'false positive rate'
FALSE_NEGATIVE = 'false negative rate'
EQUALISED_ODDS = headline_rows.EQUALISED_ODDS
_NOT_BINARY = 'false positives are of labels that are 0 and 1'
_NO_IMAGES = 'the group has no such image'


class Counts(NamedTuple):
  """Images of groups; G groups, M members.

  Attributes:
    images: [G, 2] of the group, by label: class 0, any other.
    wrong: [G, M, 2] of these that the member has wrong.
    largest: class id of a label or prediction.
    pies: level -> [G] PIEs, and of all images their number.
    total: images, in groups or not.
  """

  images: np.ndarray
  wrong: np.ndarray
  largest: int
  pies: dict[populations.Level, np.ndarray]
  total: int

  def __add__(self, other):
    """Adds images."""
    return Counts(
      self.images + other.images,
      self.wrong + other.wrong,
      max(self.largest, other.largest),
      {level: of + other.pies[level] for level, of in self.pies.items()},
      self.total + other.total,
    )


def read_groups(path: str) -> dict[str, set[str]]:
  """Group -> keys of its images, sorted by name.

  Raises:
    ValueError: a row names no image.
  """
  groups = csvs.read(tables.GROUPS, path)
  if groups.empty or (groups['image_key'] == '').any():
    raise ValueError(
      f'{path} has rows without image_key, or none: wanted groups of images '
      '(those of classes are tested by gen_tstatistic)'
    )
  return {
    str(name): set(of) for name, of in groups.groupby('group')['image_key']
  }


def count(
  predictions: shard_predictions.Predictions,
  groups: dict[str, set[str]],
  pies: dict[populations.Level, np.ndarray],
) -> Counts:
  """Counts some images.

  Args:
    predictions: of all members.
    groups: as `read_groups` gives them.
    pies: level -> [images] whether it is one.
  """
  belongs = np.array(
    [[key in of for key in predictions.image_key] for of in groups.values()]
  ).astype(np.int64)
  true_class = predictions.true_class
  is_wrong = (predictions.label != true_class[:, None]).astype(np.int64)
  by_label = [true_class == 0, true_class != 0]
  return Counts(
    np.stack([belongs @ label for label in by_label], axis=1),
    np.stack([(belongs * label) @ is_wrong for label in by_label], axis=2),
    int(max(predictions.label.max(initial=0), true_class.max(initial=0))),
    {
      level: np.array([*(belongs @ is_pie), is_pie.sum()])
      for level, is_pie in pies.items()
    },
    len(true_class),
  )


def _rates(counts: Counts) -> dict[str, np.ndarray]:
  """Measure -> [G, M]; NaN where a group has no such image."""

  def over(wrong, images):
    return np.where(images > 0, wrong / np.maximum(images, 1), np.nan)

  rates = {
    ERROR: over(counts.wrong.sum(axis=2), counts.images.sum(axis=1)[:, None])
  }
  if counts.largest <= 1:
    for label, measure in enumerate((FALSE_POSITIVE, FALSE_NEGATIVE)):
      rates[measure] = over(
        counts.wrong[:, :, label], counts.images[:, label, None]
      )
  return rates


def rows_of_level(
  population: cost_rows.Population, counts: Counts, names: list[str]
) -> pd.DataFrame:
  """Rows of `tables.GROUP_COSTS` of a level.

  Args:
    population: the level.
    counts: of all images.
    names: [G] of the groups.
  """
  rates = _rates(counts)
  sizes = counts.images.sum(axis=1)
  rows = []

  def add(group, images, row):
    rows.append({'group': group, 'images': int(images), **row})

  def compare(measure, values):
    statistic = comparisons.mean_of_members(values[population.both])
    return population.compare(measure, statistic)

  for i, name in enumerate(names):
    add(name, sizes[i], _pie_share(population, counts, i))
    for measure, values in rates.items():
      row = compare(measure, values[i])
      if np.isnan(row['value']):
        row['not_available'] = _NO_IMAGES
      add(name, sizes[i], row)
  if FALSE_POSITIVE in rates:
    ranges = [
      np.ptp(rates[m], axis=0) for m in (FALSE_POSITIVE, FALSE_NEGATIVE)
    ]
    row = compare(EQUALISED_ODDS, np.max(ranges, axis=0))
    if np.isnan(row['value']):
      row['not_available'] = 'a group lacks images of a class'
  else:
    row = population.row(
      EQUALISED_ODDS, comparisons.Comparison(np.nan), _NOT_BINARY
    )
  # An image may be in several groups, or in none.
  add(ALL_GROUPS, counts.total, row)
  return pd.DataFrame(rows)


def _pie_share(
  population: cost_rows.Population, counts: Counts, group: int
) -> dict[str, object]:
  """A group's share of the PIEs beside its share of the images.

  p is two-sided: of numbers of PIEs that are no more likely than this one, if
  as many PIEs fell on images at random (hypergeometric; Fisher's exact test).
  """
  images = int(counts.images[group].sum())
  *of_groups, pies = counts.pies[population.level].tolist()
  if not pies or not images:
    reason = 'there is no PIE' if images else _NO_IMAGES
    return population.row(PIE_SHARE, comparisons.Comparison(np.nan), reason)
  inside = of_groups[group]
  pvalue = stats.fisher_exact(
    [
      [inside, pies - inside],
      [images - inside, counts.total - images - (pies - inside)],
    ]
  ).pvalue
  found = comparisons.Comparison(
    inside / pies, reference=images / counts.total, pvalue=float(pvalue)
  )
  row = population.row(PIE_SHARE, found)
  return row | {
    'verdict': verdicts.decide(found.pvalue, 0.0),
    'not_available': 'no interval: images are counted, not members',
  }
