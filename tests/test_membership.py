"""Laws of the exact test: brute force, calibration, what few can say."""

import itertools
import math

import numpy as np
import pytest

from pie_dataset_gen import vote_distance
from utils import membership, populations


def predict(random, images, members, spread=0.7):
  """Class ids [images, members] of members of one population.

  Images differ in difficulty and members in quality, as real ones do.
  """
  difficulty = random.normal(-1.5, 1.5, (images, 1))
  quality = random.normal(0, spread, (1, members))
  right = random.random((images, members)) < 1 / (
    1 + np.exp(difficulty - quality)
  )
  return np.where(right, 0, random.integers(1, 4, (images, members)))


def energy(labels, drawn):
  return vote_distance.energy(populations.agreement(labels), drawn.weights)


def distance(labels, dense, power):
  """A second implementation: votes counted label by label, in a loop."""
  others = [i for i in range(labels.shape[1]) if i not in dense]
  total = 0.0
  for row in labels:
    for label in set(row):
      one = np.mean([row[i] == label for i in dense])
      other = np.mean([row[i] == label for i in others])
      total += abs(one - other) ** power
  return total


@pytest.mark.parametrize(('dense', 'compressed'), [(2, 2), (3, 2), (3, 4)])
def test_p_equals_brute_force(dense, compressed):
  random = np.random.default_rng(dense)
  labels = predict(random, 30, dense + compressed)
  drawn = membership.draw_memberships(dense, compressed, 999, 0)
  members = dense + compressed
  assert drawn.is_dense.shape == (members, math.comb(members, dense))
  found = energy(labels, drawn)
  wanted = [
    distance(labels, chosen, 2)
    for chosen in itertools.combinations(range(dense + compressed), dense)
  ]
  found = found / (dense * compressed) ** 2
  assert sorted(found) == pytest.approx(sorted(wanted))
  assert found[0] == pytest.approx(wanted[0])
  assert membership.pvalue(found) == pytest.approx(
    np.mean(np.array(wanted) >= wanted[0] - 1e-9)
  )


def test_p_of_pairs_equals_brute_force():
  random = np.random.default_rng(1)
  labels = predict(random, 30, 8)
  drawn = membership.draw_memberships(4, 4, 999, 0, paired=True)
  found = energy(labels, drawn)
  wanted = [
    distance(labels, [i if stays else i + 4 for i, stays in enumerate(way)], 2)
    for way in itertools.product([True, False], repeat=4)
  ]
  assert found / 4**4 == pytest.approx(wanted)
  assert drawn.is_dense.shape == (8, 2**4)


def test_copies_give_p_one():
  labels = predict(np.random.default_rng(2), 50, 5)
  both = np.concatenate([labels, labels], axis=1)
  drawn = membership.draw_memberships(5, 5, 999, 0, paired=True)
  found = energy(both, drawn)
  assert not found.any()
  assert membership.pvalue(found) == 1


@pytest.mark.parametrize('paired', [False, True])
def test_group_sizes_are_kept_and_the_true_membership_is_first(paired):
  drawn = membership.draw_memberships(12, 12, 50, 3, paired)
  assert drawn.is_dense.shape == (24, 51)
  assert (drawn.is_dense.sum(axis=0) == 12).all()
  assert drawn.is_dense[:12, 0].all()
  if paired:
    assert (drawn.is_dense[:12] != drawn.is_dense[12:]).all()
  again = membership.draw_memberships(12, 12, 50, 3, paired)
  np.testing.assert_array_equal(drawn.is_dense, again.is_dense)


@pytest.mark.parametrize('paired', [False, True])
@pytest.mark.parametrize('members', [1, 2, 3, 4])
def test_the_smallest_p_is_reached_and_no_smaller_one(members, paired):
  # Populations that agree on nothing with each other, and on all within.
  labels = np.repeat([[0, 1]], members, axis=1).repeat(20, axis=0)
  drawn = membership.draw_memberships(members, members, 9999, 0, paired)
  found = energy(labels, drawn)
  assert membership.pvalue(found) == pytest.approx(
    membership.smallest_pvalue(members, members, paired)
  )


def test_three_a_side_cannot_reach_five_percent():
  assert membership.smallest_pvalue(3, 3) == pytest.approx(0.1)
  assert membership.smallest_pvalue(4, 4) == pytest.approx(2 / math.comb(8, 4))
  assert membership.smallest_pvalue(3, 4) == pytest.approx(1 / math.comb(7, 3))


@pytest.mark.parametrize('sizes', [(4, 4), (6, 10)])
def test_nothing_is_found_where_nothing_happens(sizes):
  """At the rate that is claimed; members differ in quality."""
  random = np.random.default_rng(4)
  found = []
  for seed in range(400):
    labels = predict(random, 60, sum(sizes))
    drawn = membership.draw_memberships(*sizes, 99, seed)
    found.append(membership.pvalue(energy(labels, drawn)))
  # 0.05, less what discreteness takes at four a side, within 3 standard errors.
  assert 0.005 < np.mean(np.array(found) <= 0.05) < 0.083


def test_a_change_is_found():
  random = np.random.default_rng(5)
  labels = predict(random, 200, 20)
  labels[:20, 10:] = 1
  drawn = membership.draw_memberships(10, 10, 999, 0)
  found = energy(labels, drawn)
  assert membership.pvalue(found) == pytest.approx(1 / 1000)


def test_what_cannot_be_tested_is_refused():
  with pytest.raises(ValueError, match='0 dense and 3 compressed'):
    membership.draw_memberships(0, 3, 9, 0)
  with pytest.raises(ValueError, match='are no pairs'):
    membership.draw_memberships(2, 3, 9, 0, paired=True)
