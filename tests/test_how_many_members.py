"""Laws of the number of members: power, subsets, what is refused and said."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from pie_dataset_gen import (
  detectable_change,
  how_many_members,
  member_subsets,
  pilot_report,
)
from utils import csvs, paths, provenance, tables, workers

LEVELS = (('baseline', 0.0), ('threshold', 0.5), ('threshold', 0.9))
CLASSES = ('a', 'b', 'c, d', 'crane', 'crane')
IMAGES = 200


def predict(random, members, shift=0.0):
  """Class ids [images, members]; images differ in difficulty."""
  true = np.arange(IMAGES) % len(CLASSES)
  difficulty = np.random.default_rng(7).normal(-1.5, 1.5, (IMAGES, 1))
  # What compression makes harder is every tenth image.
  difficulty[::10] += shift
  quality = random.normal(0, 0.3, (1, members))
  right = random.random((IMAGES, members)) < special.expit(quality - difficulty)
  wrong = (true[:, None] + random.integers(1, 5, (IMAGES, members))) % 5
  return np.where(right, true[:, None], wrong)


def identity(method, fraction, replicate):
  return {
    'exp': 'e',
    'pruning_method': method,
    'fraction_pruned': fraction,
    'start_pruning_step': 0,
    'end_pruning_step': 0,
    'pruning_frequency': 0,
    'global_step': 9,
    'replicate': replicate,
  }


def write_study(folder, members=6, shifts=(0, 0, 6), order=None, groups=False):
  """Predictions in two shards, class metrics and, if asked, group metrics."""
  random = np.random.default_rng(0)
  true = np.arange(IMAGES) % len(CLASSES)
  todo = []
  for (method, fraction), shift in zip(LEVELS, shifts, strict=True):
    said = predict(random, members, shift)
    todo += [(method, fraction, i, said[:, i]) for i in range(members)]
  results = folder / 'results' / 'toy'
  for number in order or range(len(todo)):
    method, fraction, replicate, said = todo[number]
    member = identity(method, fraction, replicate)
    for shard in range(2):
      index = np.arange(shard, IMAGES, 2)
      path = (
        results / 'predictions_dataframe' / 'eval' / f'shard-{shard}'
      ) / f'{number}.csv'
      path.parent.mkdir(parents=True, exist_ok=True)
      pd.DataFrame(
        {
          'image_key': [f'image {i:03d}' for i in index],
          'image_index': np.arange(len(index)),
          'true_class': true[index],
          'predictions': said[index],
          'predicted_probability': 0.5,
          **member,
        }
      ).to_csv(path, index=False)
    right = said == true
    for kind, names, label in (
      ('class_metrics', CLASSES, true),
      ('group_metrics', ('even', 'odd'), np.arange(IMAGES) // 5 % 2),
    ):
      if kind == 'group_metrics' and not groups:
        continue
      frame = pd.DataFrame(
        {
          'class_id': range(len(names)),
          'class': names,
          'support': 1,
          'predicted_count': 1,
          'correct_count': 1,
          'recall': [right[label == i].mean() for i in range(len(names))],
          'precision': np.nan,
          'eval_accuracy': right.mean(),
          'top_5_eval_accuracy': np.nan,
          'loss': np.nan,
          **member,
        }
      )
      path = results / kind / 'eval' / f'{number}.csv'
      csvs.write(tables.CLASS_METRICS, frame, str(path))
  return folder


def run(
  folder, kinds=('predictions', 'class_metrics'), place=workers.HERE, **options
):
  study = paths.Study(str(folder), 'toy')
  asked = how_many_members.Asked(
    **{'num_members': (2, 3, 4, 10), 'permutations': 99, **options}
  )
  said = how_many_members.run(
    study.results,
    mode='eval',
    dataset_name='toy',
    asked=asked,
    place=place,
    **{f'{kind}_directory': getattr(study, kind) for kind in kinds},
  )
  return said, study


def tables_of(study):
  return (
    csvs.read(
      tables.MEMBERS_NEEDED, paths.members_needed(study.results, 'toy', 'eval')
    ),
    csvs.read(
      tables.SUBSET_TESTS, paths.subset_tests(study.results, 'toy', 'eval')
    ),
  )


def simulated_power(noncentrality, share, members, level, studies=100_000):
  """A second implementation: Welch's test of drawn members."""
  random = np.random.default_rng(members)
  shape = (members, studies)
  dense = random.normal(0, np.sqrt(share), shape)
  change = noncentrality / np.sqrt(members)
  compressed = random.normal(change, np.sqrt(1 - share), shape)
  found = stats.ttest_ind(compressed, dense, equal_var=False)
  return ((found.pvalue <= level) & (found.statistic > 0)).mean()


@pytest.mark.parametrize('members', [2, 3, 4, 10, 30])
@pytest.mark.parametrize('share', [0.05, 0.5, 0.8])
def test_power_equals_simulation(members, share):
  for noncentrality, level in ((0, 0.05), (3, 0.05), (6, 0.05), (6, 0.001)):
    power = detectable_change.power(noncentrality, share, members, level)
    wanted = simulated_power(noncentrality, share, members, level)
    # Four standard errors of 100,000 studies, and of the quadrature.
    assert power == pytest.approx(wanted, abs=0.0075)


@pytest.mark.parametrize('members', [2, 4, 20])
def test_power_where_one_population_is_constant_is_the_noncentral_t(members):
  freedom = members - 1
  critical = stats.t.ppf(0.975, freedom)
  for noncentrality in (1, 3, 5):
    assert detectable_change.power(
      noncentrality, 0.0, members, 0.05
    ) == pytest.approx(stats.nct.sf(critical, freedom, noncentrality), abs=2e-3)


def spread_of(dense, compressed, freedom=18.0):
  return detectable_change.Spread(
    np.array(dense), np.array(compressed), np.full(len(dense), freedom)
  )


@pytest.mark.parametrize('members', [2, 3, 4, 10, 60])
def test_the_smallest_change_is_found_in_eight_of_ten_studies(members):
  """Simulated with the members' own deviations."""
  variances = np.array([0.04, 0.01, 0.0, 0.002]), np.array([0.01] * 4)
  change = detectable_change.smallest_change(
    spread_of(*variances), members, 0.05
  )
  for i in range(4):
    v1, v2 = variances[0][i], variances[1][i]
    found = simulated_power(
      change[i] / np.sqrt((v1 + v2) / members), v1 / (v1 + v2), members, 0.05
    )
    assert found == pytest.approx(0.8, abs=0.008)


def test_more_members_find_less_and_correction_asks_for_more():
  spread = spread_of([0.01], [0.02])
  changes = [
    detectable_change.smallest_change(spread, members, level)[0]
    for level in (0.05, 0.005)
    for members in (3, 4, 10, 60)
  ]
  assert changes[:4] == sorted(changes[:4], reverse=True)
  assert all(a < b for a, b in zip(changes[:4], changes[4:], strict=True))
  # The normal limit: (z_0.975 + z_0.8) standard errors.
  wanted = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(0.03 / 1000)
  found = detectable_change.smallest_change(spread, 1000, 0.05)[0]
  assert found == pytest.approx(wanted, rel=0.01)


def test_constant_classes_have_no_answer():
  constant = np.full((5, 2), 0.1 + 0.2)
  constant[:, 1] = [0, 1, 0, 1, 1]
  spread = detectable_change.spread(constant, constant)
  change = detectable_change.smallest_change(spread, 5, 0.05)
  assert np.isnan(change[0])
  assert change[1] > 0


def test_the_interval_of_the_deviation_covers():
  """Of normal members, equal variances and unequal ones."""
  random = np.random.default_rng(1)
  for scale in (1, 3):
    dense = random.normal(0, 1, (5, 4000))
    compressed = random.normal(0, scale, (7, 4000))
    spread = detectable_change.spread(dense, compressed)
    low, high = (spread.deviation * by for by in spread.uncertainty)
    true = np.sqrt((1 + scale**2) / 2)
    assert 0.93 < ((low <= true) & (true <= high)).mean() < 0.97


def test_subsets_are_different_members_of_each_side():
  drawn = member_subsets.draw_subsets(7, 9, 4, 50, 0)
  assert drawn.shape == (50, 8)
  for part in drawn:
    assert len(set(part)) == 8
    assert (part[:4] < 7).all()
    assert (part[4:] >= 7).all()
  again = member_subsets.draw_subsets(7, 9, 4, 50, 0)
  np.testing.assert_array_equal(drawn, again)


def test_all_subsets_are_taken_where_they_are_few():
  drawn = member_subsets.draw_subsets(3, 4, 3, 100, 0)
  assert sorted(map(tuple, drawn)) == sorted(
    (0, 1, 2, *rest) for rest in ((3, 4, 5), (3, 4, 6), (3, 5, 6), (4, 5, 6))
  )
  assert len(member_subsets.draw_subsets(4, 4, 4, 100, 0)) == 1


def test_pairs_are_drawn_together():
  drawn = member_subsets.draw_subsets(7, 7, 4, 20, 0, paired=True)
  assert drawn.shape == (20, 8)
  assert (drawn[:, 4:] == 7 + drawn[:, :4]).all()
  assert len(set(map(tuple, drawn))) > 10
  every = member_subsets.draw_subsets(4, 4, 2, 100, 0, paired=True)
  assert len({tuple(part) for part in every}) == len(every) == 6
  tested = member_subsets.compare_subsets(
    np.full((8, 8), 9), 4, 4, subsets=9, permutations=99, seed=0, paired=True
  )
  assert tested.smallest == 2 / 2**4
  assert tested.pvalues.tolist() == [1.0]


def test_the_change_of_pairs_is_that_of_their_differences():
  """The power of Student's test of one sample, by its noncentral t."""
  random = np.random.default_rng(6)
  shared = random.normal(0, 5, (9, 1))
  dense, other = (shared + random.normal(0, 0.1, (9, 1)) for _ in range(2))
  spread = detectable_change.spread_of_pairs(dense, other)
  assert spread.freedom == pytest.approx(8)
  (change,) = detectable_change.smallest_change(spread, 9, 0.05)
  noncentrality = change / ((dense - other).std(ddof=1) / 3)
  critical = stats.t.ppf(0.975, 8)
  power = stats.nct.sf(critical, 8, noncentrality)
  assert power == pytest.approx(0.8, abs=2e-3)
  assert change < 0.5


def agree(labels):
  return (labels[:, :, None] == labels[:, None, :]).sum(axis=0)


@pytest.mark.parametrize('shift', [0.0, 5.0])
def test_subsets_find_what_is_there_and_not_what_is_not(shift):
  """Over populations, since subsets of one share members."""
  random = np.random.default_rng(2)
  found, median = [], []
  for seed in range(40):
    both = np.hstack([predict(random, 10), predict(random, 10, shift)])
    tested = [
      member_subsets.compare_subsets(
        agree(both), 10, n, subsets=20, permutations=99, seed=seed
      ).pvalues
      for n in (3, 5, 10)
    ]
    found.append([(p <= 0.05).mean() for p in tested])
    median.append([np.median(p) for p in tested])
  found, median = np.mean(found, axis=0), np.mean(median, axis=0)
  # Three a side have 20 memberships, and two are as far apart: 0.1.
  assert found[0] == 0
  if shift:
    assert found[1] < found[2]
    assert found[2] > 0.9
    assert median[0] > median[1] > median[2]
  else:
    assert (found < 0.15).all()
    assert ((median > 0.35) & (median < 0.7)).all()


def test_numbers_that_are_not_there_have_the_smallest_p_only():
  random = np.random.default_rng(3)
  labels = predict(random, 8)
  tested = member_subsets.compare_subsets(
    agree(labels), 4, 5, subsets=20, permutations=999, seed=0
  )
  assert tested.smallest == pytest.approx(2 / special.comb(10, 5))
  assert not len(tested.pvalues)


def test_a_study_end_to_end(tmp_path):
  said, study = run(write_study(tmp_path), num_members=(2, 3, 4, 10))
  needed, tests = tables_of(study)
  # Numbers that were asked for and the pilot's, at two levels; three rows of
  # the whole, and one for each class.
  assert len(needed) == 5 * 2 * (3 + len(CLASSES))
  assert len(tests) == 5 * 2
  at_nine = tests[tests['pruning_fraction'] == 0.9].set_index('num_members')
  assert at_nine.loc[6, 'share_found'] == 1
  assert at_nine.loc[10, 'subsets'] == 0
  assert np.isnan(at_nine.loc[10, 'median_pvalue'])
  assert 'threshold 0.9, from a pilot of 6 dense and 6 compressed' in said
  assert 'with 6 members a side the accuracy must move by 0.' in said
  assert '- 3 members a side cannot reach 0.05, whatever they predict' in said
  # The same numbers from the files, by hand.
  files = csvs.find(tables.CLASS_METRICS, study.class_metrics)
  rows = csvs.read_all(tables.CLASS_METRICS, files)
  rows['value'] = rows['recall'] - rows['eval_accuracy']
  sd = rows.groupby(['pruning_method', 'fraction_pruned', 'class_id'])[
    'value'
  ].std()
  row = needed.query(
    'what == "class" and class_id == 3 and num_members == 6 '
    'and pruning_fraction == 0.9'
  ).iloc[0]
  v1, v2 = sd['baseline', 0.0, 3] ** 2, sd['threshold', 0.9, 3] ** 2
  assert row['deviation'] == pytest.approx(np.sqrt((v1 + v2) / 2))
  standard_error = np.sqrt((v1 + v2) / 6)
  for name, level in (('', 0.05), ('_corrected', 0.05 / len(CLASSES))):
    assert detectable_change.power(
      row[f'smallest_change{name}'] / standard_error, v1 / (v1 + v2), 6, level
    ) == pytest.approx(0.8, abs=1e-3)
  assert row['smallest_change_low'] < row['smallest_change']
  assert row['smallest_change'] < row['smallest_change_high']
  typical, noisiest = (
    needed.query(
      f'what == "{what} class" and num_members == 6 and pruning_fraction == 0.9'
    )['deviation'].item()
    for what in ('typical', 'noisiest')
  )
  classes = needed.query(
    'what == "class" and num_members == 6 and pruning_fraction == 0.9'
  )['deviation']
  assert (typical, noisiest) == (classes.median(), classes.max())


def test_groups_are_corrected_for_their_own_number(tmp_path):
  folder = write_study(tmp_path, groups=True)
  said, study = run(folder, ('class_metrics', 'group_metrics'))
  needed = csvs.read(
    tables.MEMBERS_NEEDED, paths.members_needed(study.results, 'toy', 'eval')
  )
  assert set(needed.query('what == "group"')['class']) == {'even', 'odd'}
  assert "with 6 members a side groups must move: '" in said
  at = '(what == "group" or what == "class") and class_id == 0'
  for row in needed.query(at).to_dict('records'):
    # Of two groups, or of five classes.
    number = {'group': 2, 'class': 5}[row['what']]
    by = [
      detectable_change.smallest_change(
        spread_of([1.0], [1.0]), row['num_members'], level
      )[0]
      for level in (0.05, 0.05 / number)
    ]
    # Which variance is the larger one matters little.
    if row['num_members'] == 10:
      assert row['smallest_change_corrected'] == pytest.approx(
        row['smallest_change'] * by[1] / by[0], rel=0.1
      )
  assert 'exact test' not in said


def test_predictions_alone_are_enough(tmp_path):
  said, study = run(write_study(tmp_path), ('predictions',))
  assert 'median p' in said
  assert 'Welch' not in said
  path = paths.members_needed(study.results, 'toy', 'eval')
  with pytest.raises(FileNotFoundError, match='how_many_members writes it'):
    csvs.read(tables.MEMBERS_NEEDED, path)


def test_a_table_that_is_not_made_again_is_removed(tmp_path):
  folder = write_study(tmp_path)
  _, study = run(folder)
  of = {
    kind: pathlib.Path(path_of(study.results, 'toy', 'eval'))
    for kind, path_of in (
      ('class_metrics', paths.members_needed),
      ('predictions', paths.subset_tests),
    )
  }
  for kind in of:
    run(folder)
    assert all(path.exists() for path in of.values())
    # Other numbers may be asked for.
    run(folder, (kind,), num_members=(5,))
    assert [other for other in of if of[other].exists()] == [kind]


def test_the_record_is_there_before_the_tables(tmp_path, monkeypatch):
  folder = write_study(tmp_path)
  finished = []

  def write(*arguments):
    path = folder / 'results/toy/how_many_members.run.json'
    finished.append(provenance.read(str(path))['finished'])
    written(*arguments)

  written = csvs.write
  monkeypatch.setattr(csvs, 'write', write)
  _, study = run(folder)
  assert finished == ['', '']
  path = f'{study.results}/toy/how_many_members.run.json'
  record = provenance.read(path)
  assert record['finished']
  assert record['predictions'] == {'files': 36}


@pytest.mark.usefixtures('unnoted')
def test_constant_classes_are_corrected_for_and_unknown_ones_are_not(tmp_path):
  folder = write_study(tmp_path)
  for path in (folder / 'results/toy/class_metrics/eval').iterdir():
    frame = csvs.read(tables.CLASS_METRICS, str(path))
    # The first class is as good as its member, of the second nothing is known.
    frame.loc[0, 'recall'] = frame.loc[0, 'eval_accuracy']
    frame.loc[1, 'recall'] = np.nan
    csvs.write(tables.CLASS_METRICS, frame, str(path))
  said, study = run(folder, ('class_metrics',), num_members=(30,))
  assert 'if it is one of 4 that are corrected for' in ' '.join(said.split())
  needed = csvs.read(
    tables.MEMBERS_NEEDED, paths.members_needed(study.results, 'toy', 'eval')
  )
  at_30 = needed.query('what == "class" and num_members == 30')
  answered = at_30['class_id'][at_30['smallest_change'].notna()]
  assert set(answered) == {2, 3, 4}
  # Of 30 a side Welch's test is nearly that of normal values.
  ratio = at_30['smallest_change_corrected'] / at_30['smallest_change']
  z = stats.norm.ppf(0.8)
  wanted = (stats.norm.isf(0.025 / 4) + z) / (stats.norm.isf(0.025) + z)
  assert ratio.dropna().tolist() == pytest.approx([wanted] * 6, rel=0.03)


def test_too_few_permutations_are_refused(tmp_path):
  folder = write_study(tmp_path)
  message = r'is 18, .*: fewer than 19 cannot give a p of 0.05'
  with pytest.raises(ValueError, match=message):
    run(folder, permutations=18)
  run(folder, ('predictions',), permutations=19)


def test_any_order_of_files_and_workers_gives_the_same_bytes(tmp_path):
  written = []
  for num_cores, order in ((1, range(12)), (2, reversed(range(12)))):
    folder = write_study(tmp_path / str(num_cores), 4, order=list(order))
    said, study = run(folder, place=workers.Place(num_cores))
    written.append([said])
    for of in (paths.members_needed, paths.subset_tests):
      path = pathlib.Path(of(study.results, 'toy', 'eval'))
      written[-1].append(path.read_bytes())
  assert written[0] == written[1]


def test_levels_can_be_chosen(tmp_path):
  said, study = run(write_study(tmp_path), fractions=(0.5,))
  assert 'threshold 0.5' in said
  assert 'threshold 0.9' not in said
  with pytest.raises(ValueError, match=r'no compressed members at \[0.7\]'):
    run(tmp_path, fractions=(0.7,))


def test_too_few_members_are_refused(tmp_path):
  folder = write_study(tmp_path, 1)
  message = r"class_metrics.*level \('baseline', 0.0\) has 1 members, wanted 2"
  with pytest.raises(ValueError, match=message):
    run(folder)
  with pytest.raises(ValueError, match='predictions_dataframe.* has 1 members'):
    run(folder, ('predictions',))


def test_no_pilot_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='neither predictions nor class'):
    run(tmp_path, ())
  with pytest.raises(FileNotFoundError, match='imagenet_predictions writes it'):
    run(tmp_path, ('predictions',))


def test_parts_of_other_networks_are_refused(tmp_path):
  folder = write_study(tmp_path)
  study = paths.Study(str(folder), 'toy')
  (tmp_path / 'results/toy/class_metrics/eval/3.csv').unlink()
  with pytest.raises(ValueError, match='1 stand in one of them only'):
    run(folder)
  path = tmp_path / 'results/toy/class_metrics/eval/4.csv'
  frame = csvs.read(tables.CLASS_METRICS, str(path))
  csvs.write(tables.CLASS_METRICS, frame[1:], str(path))
  with pytest.raises(ValueError, match="the class 0, 'a', wanted all 17"):
    run(folder)
  with pytest.raises(FileNotFoundError):
    csvs.read(
      tables.SUBSET_TESTS, paths.subset_tests(study.results, 'toy', 'eval')
    )


def test_an_image_in_two_shards_is_refused(tmp_path):
  folder = write_study(tmp_path)
  for path in (tmp_path / 'results/toy').glob('predictions*/eval/shard-1/*'):
    text = path.read_text()
    path.write_text(text.replace('image 001', 'image 000'))
  with pytest.raises(ValueError, match="'image 000' stands in two shards"):
    run(folder)


@pytest.mark.parametrize('text', ['1', '2.5', '4,x', ''])
def test_numbers_of_members_are_whole_and_two_or_more(text):
  with pytest.raises(ValueError, match='--num_members is'):
    how_many_members.parse_sizes(text.split(','))


def test_numbers_of_members():
  assert how_many_members.parse_sizes(['4', ' 10']) == (4, 10)


def rows_of_tests(*rows):
  return pd.DataFrame(
    rows,
    columns=[
      'num_members',
      'smallest_pvalue',
      'subsets',
      'median_pvalue',
      'share_found',
    ],
  ).assign(is_paired=0)


def test_what_is_said_of_tests():
  found = rows_of_tests(
    (2, 1 / 3, 100, 0.4, 0.0),
    (4, 0.0286, 100, 0.2, 0.3),
    (6, 0.002, 100, 0.03, 0.86),
    (8, 0.001, 1, 0.01, 1.0),
    (10, 0.001, 0, np.nan, np.nan),
  )
  assert '86 of 100 subsets of 6 members a side' in pilot_report.say_tests(
    found
  )
  assert pilot_report.say_too_few(found) == [
    '2 members a side cannot reach 0.05, whatever they predict: the smallest p '
    'of the exact test is 0.333'
  ]
  found.loc[2, 'share_found'] = 0.7
  assert 'all 8 members a side show a difference (p 0.010), fewer' in (
    pilot_report.say_tests(found)
  )
  found.loc[2, 'share_found'] = 0.86
  # What more members lose again was not found.
  found.loc[3, 'share_found'] = 0.0
  assert '(with 8 a side 0 of 1, ' in pilot_report.say_tests(found)
