"""Laws of the joint tests: brute force, plain loops, constant classes."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from per_class_accuracy import class_permutation, class_tests
from utils import membership


def plain(centre, spread, dense):
  """A second implementation: scipy's t and p of each class at a membership."""
  others = [i for i in range(len(centre)) if i not in dense]
  dense = list(dense)
  found = []
  for i in range(centre.shape[1]):
    if np.ptp(spread[dense, i]) < 1e-12 and np.ptp(spread[others, i]) < 1e-12:
      difference = centre[dense, i].mean() - centre[others, i].mean()
      sign = np.sign(difference) if abs(difference) > 1e-12 else 0
      found.append((sign * np.inf if sign else 0.0, difference, np.nan))
      continue
    freedom = stats.ttest_ind(
      spread[dense, i], spread[others, i], equal_var=False
    ).df
    # Of the values whose means are compared, with the same standard error.
    error = (
      spread[dense, i].var(ddof=1) / len(dense)
      + spread[others, i].var(ddof=1) / len(others)
    ) ** 0.5
    difference = centre[dense, i].mean() - centre[others, i].mean()
    t = difference / error
    found.append((t, difference, 2 * stats.t.sf(abs(t), freedom)))
  return np.array(found).T


def plain_pairs(centre, spread, stays):
  """The same of pairs, of which some change places."""
  number = len(stays)
  sign = np.where(stays, 1, -1)[:, None]
  apart = sign * (centre[:number] - centre[number:])
  around = sign * (spread[:number] - spread[number:])
  found = []
  for i in range(centre.shape[1]):
    difference = apart[:, i].mean()
    if np.ptp(around[:, i]) < 1e-12:
      sign_of = np.sign(difference) if abs(difference) > 1e-12 else 0
      found.append((sign_of * np.inf if sign_of else 0.0, difference, np.nan))
      continue
    of = stats.ttest_1samp(around[:, i], 0)
    found.append((of.statistic, difference, of.pvalue))
  return np.array(found).T


def brute_force(centre, spread, num_dense, paired=False):
  """What `permute` gives, over all memberships, in loops."""
  if paired:
    ways = list(itertools.product([True, False], repeat=num_dense))
    of_way = plain_pairs
  else:
    ways = list(itertools.combinations(range(len(centre)), num_dense))
    of_way = plain
  t, difference, p = np.stack([of_way(centre, spread, way) for way in ways], 2)
  size = np.abs(t)
  for i, w in np.argwhere(np.isnan(p)):
    p[i, w] = 1.0
    if np.isinf(size[i, w]):
      as_far = np.abs(difference[i]) >= np.abs(difference[i, w]) - 1e-12
      p[i, w] = np.mean(np.isinf(size[i]) & as_far)
  pvalue, max_t = [], []
  always = np.isinf(size).all(axis=1)
  for i, of_class in enumerate(size):
    if np.isinf(of_class[0]):
      pvalue.append(p[i, 0])
    else:
      pvalue.append(np.mean(of_class >= of_class[0] - 1e-9))
    largest = size[~always].max(axis=0)
    max_t.append(
      np.nan if always[i] else np.mean(largest >= of_class[0] - 1e-9)
    )
  found = np.stack(
    [class_tests.false_discovery(p[:, w]) for w in range(len(ways))]
  )
  found = found.T <= 0.05
  return class_permutation.Permuted(
    np.array(pvalue),
    np.array(max_t),
    size[~always].max(axis=0),
    (p <= 0.05).sum(axis=0),
    (found & (t > 0)).sum(axis=0),
    (found & (t < 0)).sum(axis=0),
  )


def values(random, members, num_dense, classes=12):
  """Recall with effects, constant classes and coarse steps."""
  recall = np.round(random.normal(0.6, 0.1, (members, classes)), 2)
  recall[num_dense:, :3] -= 0.3
  recall[:, 3] = 1.0
  recall[:, 4] = np.where(np.arange(members) < num_dense, 0.9, 0.7)
  recall[:, 5] = np.where(np.arange(members) == 1, 0.3, 0.1 + 0.2 + 0.1)
  recall[:num_dense, 6] = 0.5
  return recall


def check_equal(found, wanted):
  for name, values in found._asdict().items():
    np.testing.assert_allclose(
      values, getattr(wanted, name), rtol=1e-8, err_msg=name
    )


@pytest.mark.parametrize('sizes', [(2, 3), (3, 3), (4, 4), (5, 3)])
@pytest.mark.parametrize('own', [True, False])
def test_all_memberships_are_tested_as_scipy_tests_them(sizes, own):
  random = np.random.default_rng([*sizes, own])
  recall = values(random, sum(sizes), sizes[0])
  centre = recall
  if not own:  # what is subtracted moves with the membership
    centre = recall - random.normal(0.6, 0.05, (sum(sizes), 1))
  drawn = membership.draw_memberships(*sizes, 999, 0)
  assert drawn.is_dense.shape == (sum(sizes), math.comb(sum(sizes), sizes[0]))
  found = class_permutation.permute(
    centre, recall if not own else centre, drawn
  )
  check_equal(found, brute_force(centre, recall, sizes[0]))
  assert found.pvalue.min() >= membership.smallest_pvalue(*sizes) - 1e-12
  # A class that is always right never has a statistic of its own.
  assert np.isnan(found.max_t[3]) == (not own)
  known = ~np.isnan(found.max_t)
  assert (found.max_t[known] >= found.pvalue[known] - 1e-12).all()


@pytest.mark.parametrize('number', [3, 5])
def test_pairs_are_tested_as_scipy_tests_them(number):
  random = np.random.default_rng(number)
  recall = values(random, 2 * number, number)
  # Pairs that are alike, and such as all differ by as much.
  recall[number:, 7] = recall[:number, 7]
  recall[number:, 8] = recall[:number, 8] - 0.1
  drawn = membership.draw_memberships(number, number, 999, 0, paired=True)
  found = class_permutation.permute(recall, recall, drawn)
  check_equal(found, brute_force(recall, recall, number, paired=True))
  assert np.isinf(found.largest).sum() == 2  # the true one and its mirror


def test_the_true_membership_gives_what_is_reported():
  random = np.random.default_rng(3)
  recall = random.normal(0.6, 0.05, (16, 200))
  recall[8:, :40] -= 0.08
  drawn = membership.draw_memberships(8, 8, 99, 0)
  found = class_permutation.permute(recall, recall, drawn)
  test = class_tests.welch(recall[:8], recall[8:])
  q = class_tests.false_discovery(test.pvalue)
  assert found.significant[0] == (test.pvalue <= 0.05).sum()
  assert found.lower[0] == ((q <= 0.05) & (test.statistic > 0)).sum() > 10
  assert found.higher[0] == ((q <= 0.05) & (test.statistic < 0)).sum()


def test_blocks_change_nothing(monkeypatch):
  recall = values(np.random.default_rng(4), 12, 6)
  drawn = membership.draw_memberships(6, 6, 300, 1)
  assert drawn.is_dense.shape == (12, 301)
  found = class_permutation.permute(recall, recall, drawn)
  monkeypatch.setattr(class_permutation, '_BLOCK', 12 * 7)
  check_equal(class_permutation.permute(recall, recall, drawn), found)


def test_equally_many_classes_are_told_apart_by_the_largest():
  found = class_permutation.Permuted(
    np.ones(2),
    np.ones(2),
    np.array([3.0, 2.0, 3.0, 9.0, 1.0]),
    np.array([1, 1, 1, 0, 2]),
    np.zeros(5),
    np.zeros(5),
  )
  assert found.number_pvalue == 3 / 5


def test_max_t_is_false_for_any_class_at_the_level():
  """500 populations of correlated classes: within 3 standard errors."""
  random = np.random.default_rng(5)
  false = 0
  for seed in range(500):
    quality = random.normal(0, 0.05, (12, 1))
    recall = quality + random.normal(0.6, 0.05, (12, 30))
    drawn = membership.draw_memberships(6, 6, 199, seed)
    found = class_permutation.permute(recall, recall, drawn)
    false += found.max_t.min() <= 0.05
  assert 0.02 < false / 500 < 0.08
