"""Numbers for people: no digit that says nothing, none that says wrongly."""

import numpy as np
import pytest

from pie_dataset_gen import rounding


@pytest.mark.parametrize(
  ('measure', 'value', 'low', 'high', 'text'),
  [
    ('PIEs', 12, 5.862, 18.138, '12 [6, 18]'),
    ('PIEs', 7, 2.31, 11.69, '7 [2.3, 11.7]'),
    ('PIEs', 0, 0, 3.2, '0 [0, 3.2]'),
    ('PIEs by chance, memberships permuted', 14.44, 10, 18, '14 [10, 18]'),
    ('PIEs', 1181.0, 929.4, 1432.6, '1181 [929, 1433]'),
    ('PIEs beyond chance', -3.26, -8.1, 1.44, '-3.3 [-8.1, 1.4]'),
    ('lost more, by chance, two dense halves', 0.45, 0.05, 1, '0.45 [0.05, 1]'),
    ('top-1', 0.96869, 0.9612, 1.0, '0.969 [0.961, 1.000]'),
    (
      'loss on corrupted images, clean = 1',
      4.7778,
      1,
      12.34,
      '4.78 [1.00, 12.34]',
    ),
    ('churn beyond noise, share', 0.0, -0.0001, 0.0004, '0.000 [0.000, 0.000]'),
    ('PIEs, share of images', 0.0134, 0.0063, 0.0206, '0.013 [0.006, 0.021]'),
    (
      'p, if it predicted like the dense',
      0.003,
      0.0004,
      1,
      '0.003 [0.0004, 1]',
    ),
    (
      'p, if it predicted like the dense',
      0.05,
      0.0456,
      0.45,
      '0.05 [0.046, 0.45]',
    ),
  ],
)
def test_a_number_with_its_interval(measure, value, low, high, text):
  low, high = (rounding.number(end, measure, value) for end in (low, high))
  assert f'{rounding.number(value, measure)} [{low}, {high}]' == text


@pytest.mark.parametrize('measure', ['PIEs', 'top-1', 'p, of chance'])
def test_rounding_stays_near(measure):
  values = np.random.default_rng(0).random(200)
  if measure == 'PIEs':
    values *= 10.0 ** np.arange(200).clip(max=4)
  for value in values:
    shown = float(rounding.number(value, measure))
    assert shown == pytest.approx(value, abs=0.0005, rel=0.05)
