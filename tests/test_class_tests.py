"""Laws of the test of a class: the rate it claims, and its correction."""

import numpy as np
import pytest
from scipy import stats

from per_class_accuracy import class_tests
from tests.benchmarks import class_verdicts


@pytest.mark.parametrize('models', [3, 30])
def test_null_classes_are_called_at_the_nominal_rate(models):
  rng = np.random.default_rng(models)
  before = rng.normal(0.7, 0.05, (models, 4000))
  after = rng.normal(0.6, 0.08, (models, 4000)) + 0.1
  pvalue = class_tests.welch(before, after).pvalue
  rate = (pvalue <= 0.05).mean()
  # Welch's test is conservative for very small groups, never liberal.
  assert 0.03 < rate < 0.06
  assert (class_tests.false_discovery(pvalue) <= 0.05).sum() <= 1


def test_pairs_are_tested_as_scipy_tests_them():
  random = np.random.default_rng(9)
  before = random.normal(0.7, 0.05, (6, 20))
  after = before + random.normal(-0.01, 0.005, (6, 20))
  found = class_tests.of_pairs(before, after)
  wanted = stats.ttest_rel(before, after)
  np.testing.assert_allclose(found.statistic, wanted.statistic)
  np.testing.assert_allclose(found.pvalue, wanted.pvalue)
  low, high = wanted.confidence_interval()
  np.testing.assert_allclose(2 * found.half_width, high - low)
  # What is equal in all pairs has no statistic, as what is constant has none.
  assert np.isnan(class_tests.of_pairs(before, before).statistic).all()


def test_corrected_discoveries_are_false_at_their_level_at_most():
  rng = np.random.default_rng(0)
  shares = []
  for _ in range(40):
    before = rng.normal(0.7, 0.05, (30, 1000))
    after = rng.normal(0.7, 0.05, (30, 1000))
    after[:, :200] -= 0.05
    pvalue = class_tests.welch(before, after).pvalue
    found = class_tests.false_discovery(pvalue) <= 0.05
    assert found[:200].mean() > 0.8
    shares.append(found[200:].sum() / found.sum())
  assert np.mean(shares) < 0.055


def members(random, number):
  """Recall [number, 3] and accuracy [number] of members of unequal quality.

  Of an ordinary class, of an easy one, and of one that quality hardly touches:
  what the accuracy of the whole moves by is noise to the last two.
  """
  quality = random.normal(0, 0.03, number)
  ordinary = 0.7 + quality + random.normal(0, 0.02, number)
  easy = 0.97 + 0.1 * quality + random.normal(0, 0.004, number)
  untouched = 0.8 + random.normal(0, 0.004, number)
  accuracy = 0.75 + quality + random.normal(0, 0.002, number)
  return np.stack([ordinary, easy, untouched], axis=1), accuracy


def false_positive_rates(number, own):
  """Share of 1,000 pairs of dense populations with p <= 0.05, by class."""
  random = np.random.default_rng(number)
  found = []
  for _ in range(1000):
    groups = [
      class_tests.normalise(*members(random, number), None, own)
      for _ in range(2)
    ]
    found.append(class_tests.welch(*groups).pvalue <= 0.05)
  return np.mean(found, axis=0)


@pytest.mark.parametrize('number', [4, 6, 10, 30])
def test_own_accuracy_is_calibrated_for_members_of_unequal_quality(number):
  rates = false_positive_rates(number, own=True)
  assert (rates > 0.03).all(), rates
  assert (rates < 0.07).all(), rates


def test_the_papers_normalisation_is_not():
  """Why it is not the default: it ignores the error of what it subtracts."""
  ordinary, easy, untouched = false_positive_rates(10, own=False)
  assert ordinary < 0.02
  assert min(easy, untouched) > 0.3


@pytest.mark.parametrize('number', [4, 6, 10, 30])
def test_the_lowest_recall_is_covered(number):
  """500 populations each: 3 standard errors of 0.007 at 0.975."""
  for gap in (0.0, 0.02, 0.06):
    found = class_verdicts.lowest_covered(number, 500, gap)
    assert found['covered'] > 0.954, gap
    assert found[class_verdicts.WIDTH] < 1.8, gap


def test_the_interval_of_one_class_is_students():
  recall = np.random.default_rng(2).normal(0.6, 0.1, (7, 1))
  found = class_tests.worst_interval(recall, np.array([np.nan]))
  wanted = stats.ttest_1samp(recall[:, 0], 0).confidence_interval(0.95)
  assert found == pytest.approx(wanted)


def test_equal_recalls_are_not_taken_for_certain():
  recall = np.full((4, 3), 0.5)
  low, high = class_tests.worst_interval(recall, np.full(3, 20.0))
  assert low < 0.49
  assert high > 0.51
  assert np.isnan(class_tests.worst_interval(recall[:1], np.ones(3))).all()


@pytest.mark.parametrize('number', [4, 6, 10])
def test_verdicts_are_false_at_the_rate_they_claim(number):
  """400 pairs of dense populations, so within 3 standard errors of 0.011.

  Four a side have 70 memberships, and reach 0.05 at 2 / 70 only.
  """
  rates = class_verdicts.rates(number, 400)
  for name in ('any class, q-values', 'any class, max-T', 'number of classes'):
    assert (0 if number == 4 else 0.017) <= rates[name] < 0.083, name
  for name in ('a class, Welch', 'a class, permutation'):
    assert 0.02 < rates[name] < 0.06, name
  for name in ('change of recall', 'normalised change'):
    assert 0.94 < rates[f'covered: {name}'] < 0.98, name
  assert rates['covered: lowest recall'] > 0.94


def test_classes_that_lose_are_found():
  rates = class_verdicts.rates(10, 100, shift=(1.0, 0.8, 0.6))
  assert rates['any class, max-T'] > 0.7
  assert rates['number of classes'] > 0.7
