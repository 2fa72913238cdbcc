"""The learning rate against its closed form."""

import numpy as np
import pytest

from save_checkpoint import learning_rate


def test_the_originals_schedule():
  rates = learning_rate.learning_rates(32000, 4096, 1281167, 5, (30, 60, 80))
  assert rates.shape == (32000,)
  assert rates[0] == 0
  steps_per_epoch = 1281167 / 4096

  def closed_form(step):
    epoch = step / steps_per_epoch
    if epoch < 5:
      return 1.6 * epoch / 5
    return 1.6 * 0.1 ** sum(epoch >= boundary for boundary in (30, 60, 80))

  for step in [*range(0, 32000, 37), 1563, 1564, 9383, 9384, 25023, 25024]:
    assert rates[step] == pytest.approx(closed_form(step), rel=1e-6)


def test_the_rate_scales_with_the_batch():
  small, large = (
    learning_rate.learning_rates(50, batch, 10 * batch, 1, (3,))
    for batch in (64, 128)
  )
  np.testing.assert_allclose(2 * small, large, rtol=1e-6)


def test_without_warm_up_the_first_rate_is_the_full_one():
  rates = learning_rate.learning_rates(10, 256, 2560, 0, ())
  np.testing.assert_allclose(rates, 0.1, rtol=1e-6)


@pytest.mark.parametrize(
  ('warmup', 'decay', 'base'),
  [
    (5, (3,), 0.1),
    (0, (2, 2), 0.1),
    (0, (3, 2), 0.1),
    (-1, (), 0.1),
    (0, (), 0),
    (np.nan, (), 0.1),
    (0, (), np.nan),
    (0, (np.nan,), 0.1),
    (0, (2, np.inf), 0.1),
  ],
)
def test_impossible_schedules_are_refused(warmup, decay, base):
  with pytest.raises(ValueError, match='wanted'):
    learning_rate.learning_rates(10, 256, 2560, warmup, decay, base)


@pytest.mark.parametrize('warmup', [0, 1.5])
def test_a_linear_decay_ends_at_zero(warmup):
  """The original's decay_epochs, beyond the end, count for nothing."""
  rates = learning_rate.learning_rates(
    60, 128, 1280, warmup, (30, 60, 80), 0.4, 'linear'
  )
  for step in range(60):
    epoch = step / 10
    left = 0.2 * (6 - epoch) / (6 - warmup)
    wanted = 0.2 * epoch / warmup if epoch < warmup else left
    assert rates[step] == pytest.approx(wanted, rel=1e-6)
  assert rates.max() == pytest.approx(0.2)
  # The step after the last would have none.
  assert rates[-1] == pytest.approx(0.2 / (60 - 10 * warmup), rel=1e-5)


def test_a_linear_decay_after_the_end_is_refused():
  with pytest.raises(ValueError, match=r'warmup_epochs is 6 .* 6 epochs'):
    learning_rate.learning_rates(60, 128, 1280, 6, (), 0.4, 'linear')
