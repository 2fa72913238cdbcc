"""Laws of pruning: exact fractions, nested masks, the cubic schedule."""

import numpy as np
import pytest

from save_checkpoint import pruning

SHAPE = (3, 3, 5, 7)


def make(method, weights, sparsity, seed=1, step=0, block_size=(1, 1)):
  maker = pruning.MaskMaker(method, 0, weights.shape, block_size)
  return maker.make(weights.astype(np.float32), sparsity, seed, step)


def weights(seed=0, shape=SHAPE):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('method', pruning.METHODS)
@pytest.mark.parametrize(
  'sparsity', [0, 0.1, 0.3, 0.45, 0.5, 0.7, 0.9, 0.99, 0.9999]
)
@pytest.mark.parametrize('shape', [SHAPE, (1, 1, 1, 1), (1, 1, 1, 3)])
def test_fractions_are_exact(method, sparsity, shape):
  size = int(np.prod(shape))
  _, mask = make(method, weights(shape=shape), sparsity)
  assert mask.shape == shape
  assert np.isin(mask, (0, 1)).all()
  assert mask.sum() == max(1, round(size * (1 - sparsity)))


def test_every_survivor_is_larger_than_every_victim():
  values = weights()
  threshold, mask = make('threshold', values, 0.7)
  kept, pruned = np.abs(values[mask == 1]), np.abs(values[mask == 0])
  assert kept.min() > pruned.max()
  assert threshold == kept.min()


def test_ties_do_not_add_survivors():
  values = np.array([1, 2, 2, 2, 3, 4, 5, 6, 7, 8], np.float32)
  _, mask = make('threshold', values.reshape(1, 1, 1, 10), 0.3)
  # The original keeps 9 of these; of equal weights the first are kept here.
  np.testing.assert_array_equal(mask.ravel(), [0, 1, 0, 0, 1, 1, 1, 1, 1, 1])
  _, mask = make('threshold', np.zeros(SHAPE), 0.5)
  assert mask.sum() == round(np.prod(SHAPE) * 0.5)


def test_magnitude_counts_and_a_weight_can_come_back():
  values = weights()
  _, first = make('threshold', values, 0.5)
  np.testing.assert_array_equal(first, make('threshold', -values, 0.5)[1])
  values[first == 0] *= 100
  _, second = make('threshold', values, 0.5)
  assert second[first == 0].any()


def test_cumulative_masks_are_subsets_of_one_another():
  before = np.ones(SHAPE)
  for step, sparsity in enumerate((0, 0.2, 0.5, 0.8, 0.9)):
    _, mask = make('random_cumulative', weights(step), sparsity, step=step)
    assert (mask <= before).all()
    before = mask


def test_random_masks_depend_on_seed_layer_and_step_but_not_on_weights():
  def mask(method, **options):
    return make(method, weights(), 0.5, **options)[1]

  for method in ('random_independent', 'random_cumulative'):
    one = mask(method, seed=1)
    np.testing.assert_array_equal(one, make(method, weights(9), 0.5)[1])
    assert (one != mask(method, seed=2)).any()
  assert (
    mask('random_independent', step=1) != mask('random_independent', step=2)
  ).any()
  other_layer = pruning.MaskMaker('random_cumulative', 1, SHAPE)
  other = other_layer.make(weights(), 0.5, seed=1, step=0)[1]
  assert (other != mask('random_cumulative')).any()


@pytest.mark.parametrize(
  'block_size', [(4, 3), (1, 6), (8, 1), (8, 6), (3, 4), (5, 5), (100, 2)]
)
@pytest.mark.parametrize('sparsity', [0.3, 0.5, 0.9])
def test_blocks_of_1x1_kernels_are_pruned_together(block_size, sparsity):
  """Against a plain loop, blocks at the edge and as large as all included."""
  values = weights(shape=(1, 1, 8, 6))
  threshold, mask = make('threshold', values, sparsity, block_size=block_size)
  height, width = block_size
  blocks = [
    (slice(i, i + height), slice(j, j + width))
    for i in range(0, 8, height)
    for j in range(0, 6, width)
  ]
  means = [np.abs(values[0, 0][block]).mean() for block in blocks]
  kept = max(1, round(len(blocks) * (1 - sparsity)))
  wanted = np.zeros((8, 6))
  for index in np.argsort(means)[-kept:]:
    wanted[blocks[index]] = 1
  np.testing.assert_array_equal(mask[0, 0], wanted)
  assert threshold == pytest.approx(sorted(means)[-kept])


def test_blocks_are_of_1x1_kernels_only():
  # Other kernels are pruned one weight at a time.
  _, single = make('threshold', weights(), 0.5, block_size=(4, 3))
  np.testing.assert_array_equal(single, make('threshold', weights(), 0.5)[1])


def test_the_schedule_is_cubic_and_ends_at_the_target():
  schedule = pruning.Schedule(0.9, 3, 9, 2)
  assert schedule.steps == [3, 5, 7, 9]
  # These four were seen in the original.
  assert [
    schedule.fraction_at(step) for step in schedule.steps
  ] == pytest.approx([0, 0.6333, 0.8667, 0.9], abs=1e-4)
  assert schedule.fraction_at(9) == 0.9
  original = pruning.Schedule(0.5, 5000, 8000, 500)
  assert original.steps == list(range(5000, 8001, 500))
  for step in original.steps:
    progress = (step - 5000) / 3000
    assert original.fraction_at(step) == pytest.approx(
      0.5 - 0.5 * (1 - progress) ** 3, abs=1e-6
    )


@pytest.mark.parametrize('frequency', [1, 2, 3, 4, 5, 100])
def test_the_target_is_reached_whatever_the_frequency(frequency):
  schedule = pruning.Schedule(0.7, 2, 9, frequency)
  assert schedule.steps[-1] == 9
  assert schedule.fraction_at(schedule.steps[-1]) == 0.7
  sparsities = [schedule.fraction_at(step) for step in schedule.steps]
  assert sparsities == sorted(sparsities)


@pytest.mark.parametrize(
  'arguments',
  [
    (1.0, 0, 9, 1),
    (-0.1, 0, 9, 1),
    (0.5, 9, 9, 1),
    (0.5, 9, 3, 1),
    (0.5, -1, 9, 1),
    (0.5, 0, 9, 0),
  ],
)
def test_impossible_schedules_are_refused(arguments):
  with pytest.raises(ValueError, match='wanted'):
    pruning.Schedule(*arguments)
