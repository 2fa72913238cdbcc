"""What compression costs: as a second implementation says; silent by chance."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from pie_dataset_gen import (
  aggregate_predictions,
  calibration,
  comparisons,
  disagreement,
  headline_rows,
  measure_costs,
)
from tests.benchmarks import costs as simulated
from utils import (
  csvs,
  membership,
  paths,
  populations,
  prediction_files,
  tables,
  workers,
)

LEVELS = (
  populations.DENSE,
  populations.Level('threshold', 0.9),
  populations.Level('int8', 0.0),
)
SHARDS = {'shard-0': 40, 'shard-1': 23}
CLASSES = 4


def exact(value):
  return pytest.approx(value, abs=1e-12, rel=1e-12)


def draw_confidence(seed, number=400, off=0.0):
  random = np.random.default_rng(seed)
  confidence = random.uniform(0.3, 0.99, number)
  return confidence, random.random(number) < confidence - off


# Calibration.


def test_scores_are_those_of_scikit_learn():
  confidence, right = draw_confidence(0)
  assert calibration.log_loss(confidence, right) == exact(
    metrics.log_loss(right, confidence)
  )
  assert calibration.brier_score(confidence, right) == exact(
    metrics.brier_score_loss(right, confidence)
  )


def test_who_is_wholly_sure_and_wrong_pays_a_finite_price():
  sure = np.array([1.0, 1.0]), np.array([True, False])
  assert calibration.log_loss(*sure) == pytest.approx(12 * np.log(2), rel=1e-6)


@pytest.mark.parametrize('number', [400, 47, 31, 9, 2])
def test_calibration_errors_are_those_of_sorted_and_split_images(number):
  confidence, right = draw_confidence(1, number)
  order = np.argsort(confidence)
  bins = min(15, number // 2)
  error = square = 0.0
  for i in range(bins):
    part = order[i * number // bins : (i + 1) * number // bins]
    off = right[part].mean() - confidence[part].mean()
    noise = right[part].var(ddof=1) / len(part)
    error += len(part) / number * abs(off)
    square += len(part) / number * (off**2 - noise)
  found = calibration.bins_of(confidence, right)
  assert found.number.sum() == number
  assert np.ptp(found.number) <= 1
  assert calibration.expected_error(found) == exact(error)
  assert calibration.debiased_square(found) == exact(square)


def test_the_order_of_images_that_are_equally_sure_does_not_matter():
  confidence, right = draw_confidence(2)
  confidence = np.round(confidence, 1)
  expected = calibration.bins_of(confidence, right)
  # The mean over all orders is what a bin of a random order holds.
  random = np.random.default_rng(0)
  drawn = []
  for _ in range(2000):
    order = random.permutation(len(right))
    found = calibration.bins_of(confidence[order], right[order])
    for of, wanted in zip(found, expected, strict=True):
      np.testing.assert_allclose(of, wanted, atol=1e-12)
    by_confidence = order[np.argsort(confidence[order], kind='stable')]
    drawn.append(
      [part.mean() for part in np.array_split(right[by_confidence], 16)]
    )
  fewer = calibration.bins_of(confidence, right, 16)
  np.testing.assert_allclose(np.mean(drawn, axis=0), fewer.accuracy, atol=0.01)


def test_the_debiased_error_of_calibrated_members_is_zero_on_average():
  off = {0.0: [], 0.1: []}
  for how_far, of in off.items():
    for seed in range(400):
      bins = calibration.bins_of(*draw_confidence(seed, 200, how_far))
      of.append(
        (calibration.debiased_square(bins), calibration.expected_error(bins))
      )
  (square, error), (square_off, _) = (
    np.mean(of, axis=0) for of in off.values()
  )
  spread = np.std(off[0.0], axis=0)[0] / 20
  assert abs(square) < 4 * spread
  # Of a calibrated member, too, this is far above 0.
  assert error > 0.05
  assert square_off == pytest.approx(0.01, abs=0.002)


# Comparisons.


def brute_force(of_two, dense, compressed, paired):
  """The statistics of members, pair by pair, in plain loops."""

  def mean(pairs):
    return np.mean([of_two[i, j] for i, j in pairs])

  def within(group):
    return mean(itertools.permutations(group, 2))

  twins = list(zip(dense, compressed, strict=True)) if paired else []
  all_pairs = list(itertools.product(dense, compressed))
  against = mean(twins or all_pairs)
  reference = within(dense)
  if paired:
    reference = (against + mean((j, i) for i, j in twins)) / 2
  cross = mean(pair for pair in all_pairs if pair not in twins)
  return {
    'between': (against, reference),
    'among': (within(compressed), within(dense)),
    'excess': (cross - (within(dense) + within(compressed)) / 2, 0.0),
  }


def all_memberships(sizes, paired):
  """Dense and compressed members at each membership, the true one first."""
  number = sum(sizes)
  if paired:
    for swapped in itertools.product([False, True], repeat=sizes[0]):
      first = [i + sizes[0] * swap for i, swap in enumerate(swapped)]
      yield first, [(i + sizes[0]) % number for i in first]
    return
  for dense in itertools.combinations(range(number), sizes[0]):
    yield dense, [i for i in range(number) if i not in dense]


@pytest.mark.parametrize(
  ('sizes', 'paired'), [((3, 4), False), ((4, 4), False), ((5, 5), True)]
)
def test_comparisons_are_those_of_plain_loops(sizes, paired):
  random = np.random.default_rng(5)
  of_two = random.random((sum(sizes),) * 2)
  of_two = of_two * ~np.eye(len(of_two), dtype=bool)
  symmetric = of_two + of_two.T
  drawn = membership.draw_memberships(*sizes, 999, 0, paired)
  for name, statistic, matrix in (
    ('between', comparisons.between(of_two, paired), of_two),
    ('among', comparisons.among(of_two), of_two),
    ('excess', comparisons.excess(symmetric, paired), symmetric),
  ):
    found = comparisons.compare(
      statistic,
      sizes,
      drawn,
      paired=paired,
      is_excess=name == 'excess',
      bounds=(-9, 9),
    )
    apart = []
    for dense, compressed in all_memberships(sizes, paired):
      value, reference = brute_force(matrix, dense, compressed, paired)[name]
      if not apart:
        assert (found.value, found.reference) == exact((value, reference))
      apart.append(
        value - reference if name == 'excess' else abs(value - reference)
      )
    pvalue = np.mean(np.array(apart) >= apart[0] - 1e-12)
    assert found.pvalue == exact(pvalue)
    # The jackknife, from its definition.
    units = [[(i,) for i in range(sizes[0])]]
    units.append([(i,) for i in range(sizes[0], sum(sizes))])
    if paired:
      units = [[(i, i + sizes[0]) for i in range(sizes[0])]]
    parts = []
    for unit in units:
      left = [
        brute_force(
          matrix,
          [i for i in range(sizes[0]) if i not in out],
          [i for i in range(sizes[0], sum(sizes)) if i not in out],
          paired,
        )[name][0]
        for out in unit
      ]
      n = len(unit)
      parts.append(((n - 1) / n * np.sum((left - np.mean(left)) ** 2), n - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    width = stats.t.ppf(0.975, freedom) * variance**0.5
    assert found.high - found.value == exact(width)
    assert found.value - found.low == exact(width)


def test_the_interval_of_a_mean_is_students():
  values = np.random.default_rng(1).random(11)
  found = comparisons.compare(comparisons.mean_of_members(values), (4, 7))
  wanted = stats.t.interval(0.95, 6, values[4:].mean(), stats.sem(values[4:]))
  assert (found.low, found.high) == exact(wanted)
  assert found.reference == exact(values[:4].mean())


def test_intervals_end_at_what_can_be_and_need_two_members():
  compare = comparisons.compare
  wide = compare(comparisons.mean_of_members(np.array([0, 0, 0.0, 1])), (2, 2))
  assert (wide.low, wide.high) == (0.0, 1.0)
  one = compare(comparisons.mean_of_members(np.array([0, 0, 0.5])), (2, 1))
  assert one.value == 0.5
  assert np.isnan(one.low)
  # Of two members there is one pair: nothing to vary.
  two = compare(comparisons.among(1 - np.eye(4)), (2, 2))
  assert two.value == 1
  assert np.isnan(two.low)
  alike = compare(comparisons.mean_of_members(np.full(6, 0.25)), (3, 3))
  assert (alike.low, alike.high) == (0.25, 0.25)


# Disagreement.


def test_pairs_are_those_of_plain_counting():
  random = np.random.default_rng(3)
  labels = random.integers(0, 3, (50, 5))
  truth = random.integers(0, 3, 50)
  pairs = sum(
    (disagreement.count_pairs(labels[a:b], truth[a:b]) for a, b in ((7, 50),)),
    disagreement.count_pairs(labels[:7], truth[:7]),
  )
  for i, j in itertools.product(range(5), repeat=2):
    first, second = labels[:, i], labels[:, j]
    assert pairs.churn[i, j] == exact(np.mean(first != second))
    wrong = (first == truth) & (second != truth)
    assert pairs.newly_wrong[i, j] == exact(wrong.mean())
    assert pairs.newly_right[j, i] == exact(wrong.mean())


# The script.


def labels_of(shard, level, replicate):
  """True classes and predictions of one member; int8 follows its twin."""
  number = SHARDS[shard]
  at = list(SHARDS).index(shard)
  truth = np.random.default_rng([at]).integers(0, CLASSES, number)

  def member(*seed):
    random = np.random.default_rng([at, *seed])
    wrong = random.random(number) < 0.15 + 0.25 * (seed[0] == 1)
    return np.where(wrong, random.integers(0, CLASSES, number), truth), random

  which = LEVELS.index(level)
  label, random = member(which if which == 1 else 0, replicate)
  confidence = np.round(random.uniform(0.4, 1, number), 3)
  if which == 2:
    random = np.random.default_rng([at, 2, replicate])
    other = random.random(number) < 0.1
    label = np.where(other, random.integers(0, CLASSES, number), label)
    confidence = np.round(random.uniform(0.4, 1, number), 3)
  return truth, label, confidence


def write_predictions(folder, members=6, probability=True):
  for shard, number in SHARDS.items():
    for level in LEVELS:
      for replicate in range(members):
        truth, label, confidence = labels_of(shard, level, replicate)
        path = folder / shard / f'{tuple(level)}_{replicate}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(
          {
            'image_key': [f'{shard}/{i}' for i in range(number)],
            'image_index': range(number),
            'true_class': truth,
            'predictions': label,
            'predicted_probability': confidence if probability else np.nan,
            'pruning_method': level[0],
            'fraction_pruned': level[1],
            'replicate': replicate,
          }
        ).to_csv(path, index=False)
  return folder


def aggregate(folder, out, **options):
  return aggregate_predictions.run(
    str(folder),
    str(out),
    **{
      'mode': 'eval',
      'dataset_name': 'toy',
      'num_resamples': 0,
      'paired_methods': ['int8'],
      **options,
    },
  )


def run(folder, out, **options):
  return measure_costs.run(
    str(folder),
    str(out),
    **{'mode': 'eval', 'dataset_name': 'toy', **options},
  )


def read(table, out):
  path = {
    tables.COSTS: paths.costs,
    tables.CLASS_COSTS: paths.class_costs,
    tables.NEWLY_WRONG: paths.newly_wrong,
    tables.RELIABILITY: paths.reliability,
  }[table]
  return csvs.read(table, path(str(out), 'toy', 'eval'))


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  folder = tmp_path_factory.mktemp('study')
  predictions = write_predictions(folder / 'predictions')
  null = aggregate(predictions, folder / 'results')
  costs = run(predictions, folder / 'results')
  return folder, null, costs


def cells(costs, level):
  return populations.by_level(costs)[level].set_index('measure')


def arrays(level, members=6):
  """True class [images], labels and confidence [images, members]."""
  truth, label, confidence = zip(
    *(
      map(
        np.concatenate,
        zip(*(labels_of(shard, level, r) for shard in SHARDS), strict=True),
      )
      for r in range(members)
    ),
    strict=True,
  )
  return truth[0], np.stack(label, axis=1), np.stack(confidence, axis=1)


def test_the_table_is_that_of_plain_arrays(study):
  costs = study[2]
  truth, dense, _ = arrays(LEVELS[0])
  right = dense == truth[:, None]
  for level in LEVELS[1:]:
    of = cells(costs, level)
    _, label, confidence = arrays(level)
    is_right = label == truth[:, None]
    pairs = list(itertools.product(range(6), repeat=2))
    if level == LEVELS[2]:
      pairs = [(i, i) for i in range(6)]
    for measure, wanted in (
      (
        'churn against the dense',
        [(dense[:, i] != label[:, j]).mean() for i, j in pairs],
      ),
      (
        'newly wrong',
        [(right[:, i] & ~is_right[:, j]).mean() for i, j in pairs],
      ),
      (
        'newly right',
        [(~right[:, i] & is_right[:, j]).mean() for i, j in pairs],
      ),
      ('mean confidence', confidence.mean()),
      ('overconfidence', confidence.mean() - is_right.mean()),
      (
        'Brier score of the predicted class',
        [
          metrics.brier_score_loss(is_right[:, i], confidence[:, i])
          for i in range(6)
        ],
      ),
    ):
      assert of.loc[measure, 'value'] == exact(np.mean(wanted)), measure
    # Newly wrong less newly right is the accuracy that is lost.
    lost = of.loc['newly wrong', 'value'] - of.loc['newly right', 'value']
    assert lost == exact(right.mean() - is_right.mean())
  of = cells(costs, LEVELS[0])
  wanted = np.mean(
    [
      (dense[:, i] != dense[:, j]).mean()
      for i, j in itertools.combinations(range(6), 2)
    ]
  )
  assert of.loc['churn against the dense', 'value'] == exact(wanted)
  pruned = cells(costs, LEVELS[1])
  assert pruned.loc['churn against the dense', 'reference'] == exact(wanted)


def test_what_is_worse_is_beyond_chance_and_what_is_not_is_not(study):
  pruned = cells(study[2], LEVELS[1])['verdict']
  assert pruned['newly wrong'] == pruned['churn beyond noise'] == 'differs'
  assert pruned['mean confidence'] == 'not shown'
  assert pruned['confidence on PIEs'] == 'not tested'
  quantised = cells(study[2], LEVELS[2])
  assert quantised['is_paired'].all()
  # A network and its copy agree by themselves.
  churn = quantised.loc['churn against the dense']
  assert churn['reference'] == 0
  assert churn['verdict'] == 'not tested'
  assert 'within pairs' in churn['not_available']


def test_excess_and_the_distance_of_the_votes_are_one_test(study):
  _, null, costs = study
  for row in null.to_dict('records'):
    level = populations.level_of(row)
    if level == LEVELS[1]:
      excess = cells(costs, level).loc['churn beyond noise']
      assert excess['pvalue'] == row['energy_pvalue']


def test_classes_and_what_they_are_taken_for_add_up(study):
  folder, null, costs = study
  by_class = populations.by_level(read(tables.CLASS_COSTS, folder / 'results'))
  flows = populations.by_level(read(tables.NEWLY_WRONG, folder / 'results'))
  pies = dict(
    zip(
      map(populations.level_of, null.to_dict('records')),
      null['pie_count'],
      strict=True,
    )
  )
  truth, dense, _ = arrays(LEVELS[0])
  right = dense == truth[:, None]
  for level in LEVELS[1:]:
    rows, of = by_class[level], cells(costs, level)
    assert rows['images'].tolist() == np.bincount(truth).tolist()
    assert rows['pie_count'].sum() == pies[level]
    assert rows['image_share'].sum() == exact(1.0)
    assert rows['pie_share'].isna().all() == (pies[level] == 0)
    assert rows['pie_share'].sum() == exact(float(pies[level] > 0))
    for measure in ('newly_wrong', 'newly_right'):
      mean = (rows[measure] * rows['images']).sum() / len(truth)
      assert of.loc[measure.replace('_', ' '), 'value'] == exact(mean)
    total = of.loc['newly wrong', 'value'] * len(truth)
    assert flows[level]['images'].sum() == exact(total)
    assert flows[level]['images'].is_monotonic_decreasing
    between_dense = cells(costs, LEVELS[0]).loc['newly wrong', 'value']
    assert flows[level]['dense_images'].sum() == exact(
      between_dense * len(truth)
    )
    # One cell by hand.
    first = flows[level].iloc[0]
    label = arrays(level)[1]
    pairs = list(itertools.product(range(6), repeat=2))
    if level == LEVELS[2]:
      pairs = [(i, i) for i in range(6)]
    seen = [
      (
        right[:, i]
        & (truth == first['class_id'])
        & (label[:, j] == first['predicted_class_id'])
      ).sum()
      for i, j in pairs
    ]
    assert first['images'] == exact(np.mean(seen))
    if not pies[level]:
      continue
    # PIEs of a class, as balls of an urn.
    row = rows.iloc[1]
    number, urn = pies[level], len(truth)
    at_least = stats.hypergeom(urn, number, row['images']).pmf(
      range(int(row['pie_count']), urn + 1)
    )
    assert row['pie_pvalue'] == pytest.approx(at_least.sum(), abs=1e-9)


def test_the_test_of_a_class_is_that_of_plain_loops(study):
  truth, dense, _ = arrays(LEVELS[0])
  rows = read(tables.CLASS_COSTS, study[0] / 'results')
  for level, drawn in (
    (LEVELS[1], membership.draw_memberships(6, 6, 999, 0)),
    (LEVELS[2], membership.draw_memberships(6, 6, 999, 0, True)),
  ):
    label = arrays(level)[1]
    right = np.concatenate([dense, label], axis=1) == truth[:, None]
    for class_id, pvalue in populations.by_level(rows)[level][
      ['class_id', 'flip_pvalue']
    ].to_numpy():
      of_class = right[truth == class_id]
      apart = [
        (
          (of_class[:, is_dense].mean(1) - of_class[:, ~is_dense].mean(1)) ** 2
        ).sum()
        for is_dense in drawn.is_dense.T
      ]
      assert pvalue == exact(np.mean(np.array(apart) >= apart[0] - 1e-9))


def test_reliability_is_of_each_members_own_bins(study):
  rows = populations.by_level(read(tables.RELIABILITY, study[0] / 'results'))
  for level in LEVELS:
    truth, label, confidence = arrays(level)
    accuracy = [
      calibration.bins_of(confidence[:, i], label[:, i] == truth).accuracy
      for i in range(6)
    ]
    np.testing.assert_allclose(
      rows[level]['accuracy'], np.mean(accuracy, axis=0)
    )
    assert rows[level]['confidence'].is_monotonic_increasing


def test_shards_and_processes_do_not_matter(study, tmp_path, monkeypatch):
  folder = study[0]
  shutil.copytree(folder / 'results', tmp_path / 'results')
  monkeypatch.setattr(prediction_files, '_BYTES_PER_PROCESS', 1)
  run(folder / 'predictions', tmp_path / 'results', place=workers.Place(2))
  # The same images, the other way round in one file each.
  together = tmp_path / 'together' / 'shard'
  together.mkdir(parents=True)
  for path in (folder / 'predictions' / 'shard-0').iterdir():
    both = pd.concat(
      pd.read_csv(folder / 'predictions' / shard / path.name)
      for shard in SHARDS
    )
    both['image_index'] = range(len(both))
    both[::-1].to_csv(together / path.name, index=False)
  aggregate(tmp_path / 'together', tmp_path / 'other')
  run(tmp_path / 'together', tmp_path / 'other')
  for table in (
    tables.COSTS,
    tables.CLASS_COSTS,
    tables.NEWLY_WRONG,
    tables.RELIABILITY,
  ):
    pd.testing.assert_frame_equal(
      read(table, tmp_path / 'results'), read(table, folder / 'results')
    )
    pd.testing.assert_frame_equal(
      read(table, tmp_path / 'other'), read(table, folder / 'results')
    )


def test_labels_alone_have_no_calibration_and_say_so(study, tmp_path):
  predictions = write_predictions(tmp_path / 'predictions', probability=False)
  aggregate(predictions, tmp_path / 'results')
  costs = run(predictions, tmp_path / 'results')
  with_it = study[2].set_index(['pruning_method', 'measure'])
  for row in costs.to_dict('records'):
    other = with_it.loc[(row['pruning_method'], row['measure'])]
    if 'churn' in row['measure'] or 'newly' in row['measure']:
      assert row['value'] == other['value']
    else:
      assert np.isnan(row['value'])
      assert 'no predicted_probability' in row['not_available']
  assert read(tables.RELIABILITY, tmp_path / 'results').empty


def test_few_members_and_no_permutations_say_so(tmp_path):
  predictions = write_predictions(tmp_path / 'predictions', members=2)
  aggregate(predictions, tmp_path / 'results')
  pruned = cells(run(predictions, tmp_path / 'results'), LEVELS[1])
  assert set(pruned['verdict']) == {'too few members', 'not tested'}
  assert not pruned['value'].isna().any()
  assert (
    'too few members' in pruned.loc['churn among themselves', 'not_available']
  )
  pruned = cells(
    run(predictions, tmp_path / 'results', num_permutations=0), LEVELS[1]
  )
  assert set(pruned['verdict']) == {'not tested'}
  with pytest.raises(ValueError, match='num_permutations is 5'):
    run(predictions, tmp_path / 'results', num_permutations=5)


def test_predictions_of_other_networks_are_refused(study, tmp_path):
  folder = study[0]
  shutil.copytree(folder, tmp_path / 'study')
  predictions = tmp_path / 'study' / 'predictions'
  path = next((predictions / 'shard-1').glob('*threshold*_3.csv'))
  changed = pd.read_csv(path)
  changed['predictions'] = (changed['predictions'] + 1) % CLASSES
  changed.to_csv(path, index=False)
  with pytest.raises(ValueError, match='run aggregate_predictions again'):
    run(predictions, tmp_path / 'study' / 'results')
  shutil.rmtree(predictions / 'shard-1')
  with pytest.raises(ValueError, match=r'40 images, .* counts 63'):
    run(predictions, tmp_path / 'study' / 'results')
  for path in predictions.rglob('*int8*'):
    path.unlink()
  with pytest.raises(ValueError, match='no predictions of .*int8'):
    run(predictions, tmp_path / 'study' / 'results')
  with pytest.raises(FileNotFoundError, match='aggregate_predictions writes'):
    run(predictions, tmp_path / 'nothing')


def test_it_leaves_a_record(study):
  path = paths.provenance(str(study[0] / 'results' / 'toy'), 'measure_costs')
  with open(path, encoding='utf-8') as file:
    assert json.load(file)['finished']


# Nothing happens.


@pytest.mark.parametrize('paired', [False, True])
def test_by_chance_nothing_is_beyond_chance(paired):
  found = simulated.rates((6, 6), 120, paired=paired, num_images=100)
  # 0.05 + 4 standard errors of 120 studies.
  assert max(found.values()) <= 0.13
  assert set(found) >= {
    'newly wrong',
    headline_rows.CALIBRATION_ERROR,
    'any class',
  }


def test_what_is_surer_and_what_is_harder_is_found():
  surer = simulated.rates((8, 8), 20, surer=0.5, num_images=200)
  assert surer['overconfidence'] > 0.9 > 0.3 > surer['newly wrong']
  harder = simulated.rates((8, 8), 20, changed=0.6, num_images=200)
  assert harder['churn beyond noise'] > 0.9


def test_intervals_cover():
  for sizes, paired in (((6, 6), False), ((4, 9), False), ((6, 6), True)):
    found = simulated.coverage(sizes, 60, paired=paired, num_images=60)
    for measure, (covered, width) in found.items():
      assert covered > 0.82, measure
      assert width < 2.5, measure
