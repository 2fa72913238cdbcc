"""Laws of the exact test of an image: brute force, symmetry, calibration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pie_dataset_gen import image_test


def counts(labels, number):
  return np.bincount(labels, minlength=number)


def pvalue(dense, compressed, number=4):
  """The p-value and smallest of one image, from the labels of members."""
  found = image_test.pvalues(
    counts(dense, number), counts(compressed, number), np.array([0])
  )
  return found[0][0], found[1][0]


@pytest.mark.parametrize('sizes', [(3, 3), (3, 4), (5, 2), (1, 4)])
def test_p_equals_brute_force(sizes):
  random = np.random.default_rng(sizes)
  for _ in range(30):
    labels = random.integers(0, 3, sum(sizes))
    found = []
    for chosen in itertools.combinations(range(sum(sizes)), sizes[0]):
      one = counts(labels[list(chosen)], 4) / sizes[0]
      other = counts(np.delete(labels, chosen), 4) / sizes[1]
      found.append(((one - other) ** 2).sum())
    p, smallest = pvalue(labels[: sizes[0]], labels[sizes[0] :])
    as_large = np.array(found) >= found[0] - 1e-9
    assert p == pytest.approx(as_large.mean())
    largest = np.array(found) >= max(found) - 1e-9
    assert smallest == pytest.approx(largest.mean())


@pytest.mark.parametrize('sizes', [(10, 10), (30, 30)])
def test_two_labels_are_fishers_exact_test(sizes):
  random = np.random.default_rng(1)
  for _ in range(20):
    dense, compressed = (
      random.random(size) < random.random() for size in sizes
    )
    table = [counts(of.astype(int), 2) for of in (dense, compressed)]
    p, _ = pvalue(dense.astype(int), compressed.astype(int), 2)
    assert p == pytest.approx(stats.fisher_exact(table).pvalue)


def test_pairs_of_two_labels_are_the_sign_test():
  random = np.random.default_rng(2)
  dense, compressed = (random.random((2, 20, 30)) < 0.4).astype(int)
  found = image_test.paired_pvalues(dense, compressed)
  for image, (p, smallest) in enumerate(zip(*found, strict=True)):
    fell = int((dense[image] > compressed[image]).sum())
    rose = int((dense[image] < compressed[image]).sum())
    wanted = stats.binomtest(fell, fell + rose).pvalue
    assert p == pytest.approx(wanted)
    assert smallest == pytest.approx(2 * 0.5 ** (fell + rose))


def test_ways_of_pairs_are_drawn_where_they_are_too_many(monkeypatch):
  random = np.random.default_rng(3)
  dense, compressed = random.integers(0, 6, (2, 5, 14))
  exact = image_test.paired_pvalues(dense, compressed)[0]
  image_test._paired_distribution.cache_clear()
  monkeypatch.setattr(image_test, '_WAYS', 2_000)
  drawn = []
  calls = np.random.default_rng
  monkeypatch.setattr(
    np.random, 'default_rng', lambda seed: drawn.append(seed) or calls(seed)
  )
  again = image_test.paired_pvalues(dense, compressed)[0]
  image_test._paired_distribution.cache_clear()
  assert drawn
  assert again == pytest.approx(exact, abs=0.05)


def test_groups_of_unequal_size_are_compared_on_both_sides():
  """Too much agreement is as far away as too little."""
  dense = np.repeat([0, 1], 15)
  for compressed in ([0] * 10, [1] * 10):
    p, _ = pvalue(dense, np.array(compressed), 2)
    assert p == pytest.approx(
      stats.fisher_exact([[15, 15], [10, 0]]).pvalue, rel=0.2
    )


def test_a_unit_of_distance_that_is_too_coarse_to_be_exact_is_near():
  random = np.random.default_rng(6)
  sizes = 31, 29
  for _ in range(5):
    labels = random.integers(0, 3, sum(sizes))
    labels[: sizes[0]] = np.where(random.random(31) < 0.3, 0, labels[:31])
    orders = random.random((20_000, 60)).argsort(axis=1)
    votes = np.eye(3)[labels]
    apart = votes[:31].mean(axis=0) - votes[31:].mean(axis=0)
    drawn = votes[orders]
    others = drawn[:, :31].mean(axis=1) - drawn[:, 31:].mean(axis=1)
    wanted = ((others**2).sum(axis=1) >= (apart**2).sum() - 1e-9).mean()
    p, _ = pvalue(labels[:31], labels[31:], 3)
    assert p == pytest.approx(wanted, abs=0.05)


def test_images_do_not_touch_one_another():
  random = np.random.default_rng(3)
  dense = [counts(random.integers(0, 4, 6), 4) for _ in range(50)]
  compressed = [counts(random.integers(0, 4, 5), 4) for _ in range(50)]
  first = np.arange(0, 200, 4)
  together = image_test.pvalues(
    np.concatenate(dense), np.concatenate(compressed), first
  )
  for i, (one, other) in enumerate(zip(dense, compressed, strict=True)):
    alone = image_test.pvalues(one, other, np.array([0]))
    assert (together[0][i], together[1][i]) == (alone[0][0], alone[1][0])


def test_unanimous_images_are_no_tests():
  p, smallest = pvalue(np.zeros(10, int), np.zeros(10, int))
  assert p == smallest == 1
  assert np.isnan(image_test.to_be_corrected(np.array([smallest])))
  # A single vote among twenty can be no finding either.
  p, smallest = pvalue(np.zeros(10, int), np.array([1] + [0] * 9))
  assert p == smallest == 1


def test_many_members_neither_overflow_nor_lose_digits():
  dense, compressed = np.zeros(600, int), np.repeat([0, 1], 300)
  p, _ = pvalue(dense, compressed)
  assert p == pytest.approx(
    stats.fisher_exact([[600, 0], [300, 300]]).pvalue, rel=1e-9
  )


def test_nothing_is_found_where_nothing_happens():
  random = np.random.default_rng(4)
  labels = random.random((2000, 20)) < random.random((2000, 1))
  found = np.array([pvalue(row[:10] * 1, row[10:] * 1, 2) for row in labels])
  testable = found[:, 1] <= 0.05
  # Never more than claimed; how much less, so discrete votes decide.
  assert 0.005 < (found[testable, 0] <= 0.05).mean() < 0.05


def test_q_is_benjamini_hochberg_over_all_images():
  random = np.random.default_rng(5)
  each = np.round(random.random(200) ** 3, 2)
  values, number = np.unique(each, return_counts=True)
  found = image_test.qvalues(dict(zip(values.tolist(), number, strict=True)))
  wanted = stats.false_discovery_control(each)
  assert [found[p] for p in each.tolist()] == pytest.approx(wanted.tolist())
  assert image_test.qvalues({}) == {}
