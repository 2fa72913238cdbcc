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
