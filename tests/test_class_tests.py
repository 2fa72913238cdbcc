"""Laws of the test of a class: the rate it claims, and its correction."""

import numpy as np
import pytest

from per_class_accuracy import class_tests


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


def test_corrected_counts_of_halves_are_those_of_the_q_values():
  """A second implementation, over all p-values."""
  random = np.random.default_rng(1)
  values = random.normal(0, 1, (16, 30))
  values[8:, :4] -= 4

  def test(first, second):
    return class_tests.welch(values[first], values[second])

  first, second = np.arange(8), np.arange(8, 16)
  counts = class_tests.count_in_halves(first, second, 4, 20, 5, test)
  again = np.random.default_rng(5)
  for i in range(20):
    drawn, other = again.permutation(first), again.permutation(second)
    compared = test(drawn[:4], other[:4])
    found = class_tests.false_discovery(compared.pvalue) <= 0.05
    assert counts.either[i] == (compared.pvalue <= 0.05).sum()
    assert counts.lower[i] == (found & (compared.statistic > 0)).sum()
    assert counts.higher[i] == (found & (compared.statistic < 0)).sum()
  assert counts.lower.sum() > 20 > counts.higher.sum()
