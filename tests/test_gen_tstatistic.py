"""The t-tests of classes: scipy's numbers, the original's, and calibration."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from per_class_accuracy import class_tests, gen_tstatistic
from utils import csvs, paths, tables

LEVELS = (0.0, 0.5, 0.9)
NAMES = [
  'tench, Tinca tinca',
  'great white shark, "white death"',
  "carpenter's kit",
  'Händler-Straße',
  '日本 name',
  'a_b_3',
  ' space ',
  '=',
  'None',
  'nan',
]


def make_recall(rng, models=6, classes=10, levels=LEVELS, effect=0.0):
  """Fraction -> recall [models, classes]."""
  recall = {}
  for fraction in levels:
    shift = effect * (np.arange(classes) % 2) * (fraction > 0)
    noise = rng.normal(0.7 - 0.1 * fraction, 0.05, (models, classes))
    recall[fraction] = np.clip(noise - shift, 0, 1)
  return recall


def write_long(folder, recall, names=NAMES, support=None, order=None):
  """One CSV of class metrics per model, as aggregate_ckpt_metrics does."""
  classes = next(iter(recall.values())).shape[1]
  support = np.full(classes, 50) if support is None else support
  todo = [
    (fraction, replicate)
    for fraction, values in recall.items()
    for replicate in range(len(values))
  ]
  for index in order if order is not None else range(len(todo)):
    fraction, replicate = todo[index]
    values = recall[fraction][replicate]
    method = 'threshold' if fraction else 'baseline'
    frame = pd.DataFrame(
      {
        'class_id': np.arange(classes),
        'class': names[:classes],
        'support': support,
        'predicted_count': 1,
        'correct_count': 1,
        'recall': values,
        'precision': 0.5,
        'eval_accuracy': np.average(values, weights=support),
        'top_5_eval_accuracy': np.nan,
        'loss': np.nan,
        'exp': 'e',
        'pruning_method': method,
        'fraction_pruned': fraction,
        'start_pruning_step': 0,
        'end_pruning_step': 0,
        'pruning_frequency': 0,
        'global_step': 9,
        'replicate': replicate,
        'split': 'eval',
        'ckpt': '',
        'preprocessing': 'legacy-1',
        'compute_precision': 'float32',
      }
    )
    path = folder / f'{index}_{method}_{fraction}_{replicate}.csv'
    csvs.write(tables.CLASS_METRICS, frame, str(path))


def write_wide(path, recall, names=NAMES):
  rows = []
  for fraction, values in recall.items():
    for row in values:
      cells = {'fraction_pruned': fraction}
      for i, (name, value) in enumerate(zip(names, row, strict=True)):
        cells[f'precision/{name}_{i}'] = 0.5
        cells[f'recall/{name}_{i}'] = value
      rows.append(cells)
  pd.DataFrame(rows).to_csv(path)


def run(data_directory, output, **options):
  summary = gen_tstatistic.run(
    data_directory=str(data_directory),
    output_file=str(output),
    dataset_name='d',
    mode='eval',
    **options,
  )
  path = paths.t_statistic(str(output), 'd', 'eval')
  return csvs.read(tables.T_STATISTIC, path), summary


def in_order(names, recall, tested, levels):
  """Class by class and, within, level by level, as the original."""
  assert list(tested['class']) == [n for n in names for _ in levels]
  assert list(tested['pruning_fraction']) == list(levels) * len(names)


@pytest.mark.parametrize('kind', ['long', 'wide'])
@pytest.mark.parametrize('normalisation', ['population_mean', 'constants'])
def test_statistics_equal_scipys(tmp_path, kind, normalisation):
  recall = make_recall(np.random.default_rng(0))
  accuracy = {f: values.mean() for f, values in recall.items()}
  options = {'normalisation': normalisation}
  if normalisation == 'constants':
    accuracy = {0.0: 0.76675, 0.5: 0.75874, 0.9: 0.72569}
    options = {
      'normalisation': 'constants',
      'accuracy_constants': accuracy,
    }
  (tmp_path / 'in').mkdir()
  if kind == 'long':
    write_long(tmp_path / 'in', recall)
  else:
    write_wide(tmp_path / 'in' / 'wide.csv', recall)
  tested, _ = run(tmp_path / 'in', tmp_path / 'out', **options)
  in_order(NAMES, recall, tested, (0.5, 0.9))
  for row in tested.to_dict('records'):
    p, i = row['pruning_fraction'], row['class_id']
    before, after = recall[0.0][:, i], recall[p][:, i]
    # The original's formula (its gen_tstatistic).
    expected = stats.ttest_ind(
      before - accuracy[0.0], after - accuracy[p], equal_var=False
    )
    assert row['statistic_recall_norm'] == pytest.approx(
      expected.statistic, abs=1e-12, rel=1e-12
    )
    assert row['pvalue_recall_norm'] == pytest.approx(
      expected.pvalue, abs=1e-12, rel=1e-10
    )
    assert row['baseline_mean_recall'] == pytest.approx(before.mean())
    assert row['variant_mean_recall'] == pytest.approx(after.mean())
    interval = expected.confidence_interval(0.95)
    assert -row['normalised_recall_change_high'] == pytest.approx(interval.low)
    assert -row['normalised_recall_change_low'] == pytest.approx(interval.high)
    assert row['recall_change'] == pytest.approx(after.mean() - before.mean())
    assert row['reason'] == ''
  for _, level in tested.groupby('pruning_fraction'):
    np.testing.assert_allclose(
      level['qvalue_recall_norm'],
      stats.false_discovery_control(level['pvalue_recall_norm']),
    )


def test_each_models_own_accuracy_is_the_default(tmp_path):
  recall = make_recall(np.random.default_rng(1))
  write_long(tmp_path / 'in', recall)
  tested, _ = run(tmp_path / 'in', tmp_path / 'out')
  own = {f: values.mean(axis=1, keepdims=True) for f, values in recall.items()}
  for row in tested.to_dict('records'):
    p, i = row['pruning_fraction'], row['class_id']
    expected = stats.ttest_ind(
      (recall[0.0] - own[0.0])[:, i],
      (recall[p] - own[p])[:, i],
      equal_var=False,
    )
    assert row['statistic_recall_norm'] == pytest.approx(expected.statistic)


def test_a_positive_statistic_is_a_class_that_lost_more(tmp_path):
  rng = np.random.default_rng(2)
  recall = make_recall(rng, models=10, effect=0.2)
  write_long(tmp_path / 'in', recall)
  tested, summary = run(tmp_path / 'in', tmp_path / 'out')
  odd = tested['class_id'] % 2 == 1
  assert (tested.loc[odd, 'statistic_recall_norm'] > 2).all()
  assert set(tested.loc[odd, 'direction']) == {'lower'}
  assert (tested.loc[~odd, 'statistic_recall_norm'] < -2).all()
  assert set(tested.loc[~odd, 'direction']) == {'higher'}
  assert list(summary['lower']) == list(summary['higher']) == [5, 5]
  assert list(summary['lower_corrected']) == [5, 5]
  # With membership permuted next to nothing is found.
  assert (summary['significant_permuted_mean'] < 2).all()
  assert (summary['lower_corrected_permuted'] < 0.5).all()
  assert (summary['significant_pvalue'] == 0.001).all()
  assert (tested['pvalue_max_t'] >= tested['pvalue_permutation']).all()
  assert (tested['pvalue_max_t'] < 0.05).sum() > 10


@pytest.mark.usefixtures('unnoted')
def test_the_order_of_files_changes_no_byte(tmp_path):
  recall = make_recall(np.random.default_rng(3))
  written = []
  for number, order in enumerate(
    (range(18), np.random.default_rng(1).permutation(18))
  ):
    folder = tmp_path / str(number)
    write_long(folder / 'in', recall, order=order)
    # Another order of files on disk, too.
    for index, path in enumerate(sorted((folder / 'in').glob('*'))):
      path.rename(path.with_name(f'{(index * 7 + number) % 18:02d}.csv'))
    run(folder / 'in', folder / 'out')
    written.append(
      [path.read_bytes() for path in sorted((folder / 'out').rglob('*.csv'))]
    )
  assert len(written[0]) == 2
  assert written[0] == written[1]


def test_a_population_against_itself_has_no_significant_class(tmp_path):
  recall = make_recall(np.random.default_rng(4), levels=(0.0,))
  recall[0.5] = recall[0.0]
  write_long(tmp_path / 'in', recall)
  tested, summary = run(tmp_path / 'in', tmp_path / 'out')
  np.testing.assert_allclose(tested['statistic_recall_norm'], 0, atol=1e-9)
  assert summary.loc[0, ['lower', 'higher']].tolist() == [0, 0]


def test_degenerate_classes_stay_and_say_why(tmp_path):
  recall = make_recall(np.random.default_rng(5))
  support = np.full(len(NAMES), 50)
  for values in recall.values():
    values[:, 0] = np.nan  # A class without images.
    values[:, 1] = 1.0  # Always right.
    values[:, 2] = 0.1 + 0.2  # Constant, and not a number of binary digits.
  recall[0.0][:, 3] = 0.5  # Constant in one group only: a test all the same.
  support[0] = 0
  recall[0.5][2, 4] = np.nan  # Missing for one model.
  folder = tmp_path / 'in'
  folder.mkdir()
  write_wide(folder / 'wide.csv', recall)
  options = {'normalisation': 'population_mean'}
  tested, summary = run(folder, tmp_path / 'out', **options)
  assert len(tested) == 2 * len(NAMES)
  tested = tested.set_index(['class_id', 'pruning_fraction'])
  reasons = tested['reason'].to_dict()
  for fraction in (0.5, 0.9):
    assert reasons[0, fraction] == 'no image of the class'
    for constant in (1, 2):
      assert reasons[constant, fraction] == (
        'no variance in either group: p of the permutation'
      )
    assert reasons[3, fraction] == reasons[5, fraction] == ''
  assert reasons[4, 0.5] == 'recall is missing for some models'
  assert reasons[4, 0.9] == ''
  without = tested['reason'] != ''
  # Classes that moved and have no variance have a p all the same.
  unanswered = without & ~tested['reason'].str.startswith('no variance')
  for empty, columns in (
    (without, ['statistic_recall_norm', 'effect_size']),
    (
      unanswered,
      [
        'pvalue_recall_norm',
        'qvalue_recall_norm',
        'pvalue_permutation',
      ],
    ),
  ):
    for column in columns:
      assert tested.loc[empty, column].isna().all(), column
      assert tested.loc[~empty, column].notna().all(), column
  # Of 924 memberships of twelve, only the true one and its mirror set them
  # apart.
  moved = tested.loc[[(1, 0.9), (2, 0.9)]]
  np.testing.assert_allclose(moved['pvalue_permutation'], 2 / 924)
  np.testing.assert_allclose(moved['pvalue_recall_norm'], 2 / 924)
  # Means skip what is missing, as the original's do.
  assert tested.loc[(4, 0.5), 'variant_mean_recall'] == pytest.approx(
    np.nanmean(recall[0.5][:, 4])
  )
  of_whole = summary['variant_accuracy'] - summary['baseline_accuracy']
  assert tested.loc[(1, 0.9), 'normalised_recall_change'] == pytest.approx(
    -of_whole[1]
  )
  assert list(summary['tested']) == [8, 9]
  # Accuracies of other models cannot be permuted.
  options = {
    'normalisation': 'constants',
    'accuracy_constants': {0.0: 0.7, 0.5: 0.6, 0.9: 0.5},
  }
  tested, summary = run(folder, tmp_path / 'constants', **options)
  assert 'no variance in either group' in set(tested['reason'])
  assert summary['significant_pvalue'].isna().all()


def test_one_model_in_a_group_has_no_test_and_no_permutations(tmp_path):
  recall = make_recall(np.random.default_rng(6), models=1)
  write_long(tmp_path / 'in', recall)
  tested, summary = run(tmp_path / 'in', tmp_path / 'out')
  assert set(tested['reason']) == {'fewer than two models in a group'}
  assert tested['statistic_recall_norm'].isna().all()
  assert summary['significant_permuted_mean'].isna().all()
  assert summary['significant_pvalue'].isna().all()
  assert summary['worst_recall_low'].isna().all()
  assert list(summary['tested']) == [0, 0]


def test_without_permutations_the_tests_of_classes_are_the_same(tmp_path):
  recall = make_recall(np.random.default_rng(16), effect=0.05)
  for values in recall.values():
    values[:, 1] = 1.0
  write_long(tmp_path / 'in', recall)
  options = {'normalisation': 'population_mean'}
  tested, summary = run(tmp_path / 'in', tmp_path / 'out', **options)
  plain, without = run(
    tmp_path / 'in', tmp_path / 'plain', num_permutations=0, **options
  )
  assert plain[['pvalue_permutation', 'pvalue_max_t']].isna().all(axis=None)
  permuted = [name for name in summary if 'permut' in name]
  assert len(permuted) == 6
  assert without[permuted].isna().all(axis=None)
  # The class that is always right is left out, and all others are as before.
  reason = 'no variance in either group'
  assert (plain.loc[plain['class_id'] == 1, 'reason'] == reason).all()
  others = tested['class_id'] != 1
  for name in ('statistic_recall_norm', 'pvalue_recall_norm', 'direction'):
    pd.testing.assert_series_equal(
      plain.loc[others, name], tested.loc[others, name]
    )
  assert (without['tested'] == summary['tested'] - 1).all()


def test_a_class_that_is_always_right_is_no_finding_of_its_own(tmp_path):
  """population_mean: what moved is what is subtracted, whoever is dense."""
  recall = make_recall(np.random.default_rng(17), models=5, effect=0.0)
  for values in recall.values():
    values[:, 1] = 1.0
  write_long(tmp_path / 'in', recall)
  tested, _ = run(
    tmp_path / 'in', tmp_path / 'out', normalisation='population_mean'
  )
  accuracy = {f: values.mean(axis=1) for f, values in recall.items()}
  for row in tested[tested['class_id'] == 1].to_dict('records'):
    both = np.concatenate([accuracy[0.0], accuracy[row['pruning_fraction']]])
    moved = [
      abs(both[list(at)].mean() - np.delete(both, at).mean())
      for at in itertools.combinations(range(10), 5)
    ]
    wanted = np.mean(np.array(moved) >= moved[0] - 1e-12)
    assert row['pvalue_permutation'] == pytest.approx(wanted)
    assert row['pvalue_recall_norm'] == row['pvalue_permutation']
    # Its statistic is infinite at every membership, and says nothing of others.
    assert np.isnan(row['pvalue_max_t'])
  assert tested.loc[tested['class_id'] != 1, 'pvalue_max_t'].notna().all()


def test_too_few_models_say_so(tmp_path, caplog):
  recall = make_recall(np.random.default_rng(18), models=3, effect=0.4)
  write_long(tmp_path / 'in', recall)
  with caplog.at_level('INFO'):
    tested, summary = run(tmp_path / 'in', tmp_path / 'out')
  assert list(summary['permutations']) == [19, 19]
  np.testing.assert_allclose(summary['significant_pvalue_smallest'], 0.1)
  assert tested['pvalue_permutation'].min() >= 0.1
  assert summary['significant_pvalue'].min() >= 0.1
  assert 'so few models cannot give less than 0.1' in caplog.text
  recall = make_recall(np.random.default_rng(18), models=1, effect=0.4)
  write_long(tmp_path / 'one', recall)
  with caplog.at_level('INFO'):
    run(tmp_path / 'one', tmp_path / 'out of one')
  assert 'no class could be tested, with 1 dense and 1 compr' in caplog.text


def test_groups_are_tested_as_classes_are(tmp_path):
  """Two groups; the worst has an interval that knows it was chosen."""
  recall = make_recall(
    np.random.default_rng(19), models=8, classes=2, levels=(0.0, 0.9)
  )
  recall[0.9][:, 1] -= 0.2
  names = ['easy', 'hard']
  write_long(tmp_path / 'in', recall, names, support=np.array([90, 30]))
  tested, summary = run(tmp_path / 'in', tmp_path / 'out')
  row = summary.iloc[0]
  assert row['worst_class'] == 'hard'
  assert row['worst_recall'] == pytest.approx(recall[0.9][:, 1].mean())
  assert (
    row['worst_recall_low'] < row['worst_recall'] < row['worst_recall_high']
  )
  before = recall[0.0].mean(axis=0)
  assert row['baseline_worst_class'] == names[before.argmin()]
  assert row['baseline_worst_recall'] == pytest.approx(before.min())
  ends = row['baseline_worst_recall_low'], row['baseline_worst_recall_high']
  wanted = class_tests.worst_interval(recall[0.0], np.array([90, 30]))
  assert ends == pytest.approx(wanted)
  # The membership that swaps all is among those that were drawn.
  assert row['significant_pvalue'] == 0.002
  assert tested['pvalue_max_t'].tolist() == [0.002, 0.002]


def test_what_chance_gives_agrees_with_the_nominal_rate(tmp_path):
  rng = np.random.default_rng(7)
  names = [str(i) for i in range(400)]
  recall = make_recall(rng, models=12, classes=400, levels=(0.0, 0.5))
  write_long(tmp_path / 'in', recall, names)
  _, summary = run(tmp_path / 'in', tmp_path / 'out')
  row = summary.iloc[0]
  assert row['permutations'] == 999
  assert row['expected_by_chance'] == 20
  assert 18 < row['significant_permuted_mean'] < 22
  assert 5 < row['significant_permuted_low'] < 18
  assert 22 < row['significant_permuted_high'] < 40
  assert row['significant_pvalue'] > 0.05


def test_levels_can_be_chosen(tmp_path):
  write_long(tmp_path / 'in', make_recall(np.random.default_rng(8)))
  tested, _ = run(tmp_path / 'in', tmp_path / 'out', fractions=[0.9])
  assert set(tested['pruning_fraction']) == {0.9}


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'fractions': [0.3]}, r'no compressed members at \[0.3\], there are'),
    ({'normalisation': 'constants'}, 'wanted both of them'),
    ({'accuracy_constants': {0.0: 0.7}}, 'wanted both of them'),
    (
      {'normalisation': 'constants', 'accuracy_constants': {0.0: 0.7}},
      r'lacks \[0.5, 0.9\]',
    ),
  ],
)
def test_contradictions_are_refused(tmp_path, options, message):
  write_long(tmp_path / 'in', make_recall(np.random.default_rng(9)))
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'in', tmp_path / 'out', **options)
  assert not (tmp_path / 'out').exists()


@pytest.mark.usefixtures('unnoted')
def test_damaged_inputs_are_named(tmp_path):
  recall = make_recall(np.random.default_rng(10))
  write_long(tmp_path, recall)
  victim = tmp_path / '3_baseline_0.0_3.csv'
  content = victim.read_text()

  def refused(text, message):
    victim.write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
      run(tmp_path, tmp_path / 'out')
    victim.write_text(content)

  lines = content.splitlines(keepends=True)
  refused(content.replace('recall,', 'rcall,'), "lacks the columns.*'recall'")
  refused(''.join(lines[:-1]), 'has 9 classes|has 10 classes')
  refused(content + lines[-1], 'share their identity')
  refused(content.replace(NAMES[2], 'other'), 'class differs between models')
  refused(content.replace(',50,', ',51,'), 'support differs')
  refused(content.replace(',3,eval', ',2,eval'), 'more than once')
  refused(content.replace('legacy-1', 'modern-1'), 'hold the preprocessing')
  with pytest.raises(FileNotFoundError, match='nowhere'):
    run(tmp_path / 'nowhere', tmp_path / 'out')
  (tmp_path / 'wide').mkdir()
  write_wide(tmp_path / 'wide' / 'w.csv', recall)
  with pytest.raises(ValueError, match='wanted one kind'):
    run(tmp_path, tmp_path / 'out')
  text = (tmp_path / 'wide' / 'w.csv').read_text()
  for wrong, message in (
    (text.replace('fraction_pruned', 'other'), 'lacks the column'),
    (text.replace('0.5,', '1.5,'), r'wanted a number in \[0, 1\]'),
    (text.replace('recall/a_b_3_5', 'recall/plain'), 'has no class id'),
    (text.replace('recall/a_b_3_5', 'recall/a_b_3_4'), 'of one class id'),
  ):
    (tmp_path / 'wide' / 'w.csv').write_text(wrong)
    with pytest.raises(ValueError, match=message):
      run(tmp_path / 'wide', tmp_path / 'out')


def test_flags_are_parsed_or_refused():
  assert gen_tstatistic.parse_constants(['0:0.7', '0.9:0.5']) == {
    0.0: 0.7,
    0.9: 0.5,
  }
  for wrong in (['0.9'], ['0.9:'], ['a:b'], ['0.9:1.5']):
    with pytest.raises(ValueError):
      gen_tstatistic.parse_constants(wrong)


def level_of_int8(recall):
  """The same models as int8 at fraction 0, far worse at one class."""
  worse = recall[0.0].copy()
  worse[:, 3] -= 0.3
  return worse.clip(0, 1)


def add_int8(folder, recall):
  """Writes what write_long writes, and a level int8 at fraction 0."""
  write_long(folder, recall)
  write_long(folder / 'int8', {0.0: level_of_int8(recall)})
  for path in (folder / 'int8').glob('*_baseline_*.csv'):
    text = path.read_text().replace(',baseline,', ',int8,')
    path.with_name(path.name.replace('baseline', 'int8')).write_text(text)
    path.unlink()


def test_a_compressed_level_at_fraction_0_is_no_baseline(tmp_path):
  recall = make_recall(np.random.default_rng(11), levels=(0.0, 0.9))
  write_long(tmp_path / 'without', recall)
  add_int8(tmp_path / 'with', recall)
  without, _ = run(tmp_path / 'without', tmp_path / 'out')
  tested, summary = run(tmp_path / 'with', tmp_path / 'int8')
  levels = summary[['pruning_method', 'pruning_fraction']]
  assert levels.to_numpy().tolist() == [['int8', 0.0], ['threshold', 0.9]]
  assert len(set(summary['baseline_models'])) == 1
  # What was there before is as it was, and int8 is tested like any level.
  pruned = tested[tested['pruning_method'] == 'threshold']
  pd.testing.assert_frame_equal(pruned.reset_index(drop=True), without)
  int8 = tested[tested['pruning_method'] == 'int8'].set_index('class_id')
  assert int8.loc[3, 'direction'] == 'lower'
  assert int8.loc[3, 'recall_change'] < -0.2
  assert int8.loc[0, 'recall_change'] == 0


def test_models_that_were_made_from_one_another_are_compared_in_pairs(tmp_path):
  """A change that is far smaller than models differ is found in pairs only."""
  random = np.random.default_rng(13)
  recall = make_recall(random, models=8, levels=(0.0, 0.9))
  recall[0.9] = recall[0.0] + random.normal(0, 0.002, (8, 10))
  recall[0.9][:, 2] -= 0.02
  recall[0.9] = recall[0.9].clip(0, 1)
  write_long(tmp_path / 'in', recall)
  alone, of_alone = run(tmp_path / 'in', tmp_path / 'alone')
  tested, summary = run(
    tmp_path / 'in', tmp_path / 'pairs', paired_methods=['threshold']
  )
  assert of_alone.loc[0, 'lower_corrected'] == 0
  assert summary.loc[0, 'lower_corrected'] == 1
  assert (
    tested.loc[2, 'qvalue_recall_norm'] < 0.01 < alone.loc[2, 'pvalue_max_t']
  )
  assert tested.loc[2, 'pvalue_permutation'] == pytest.approx(2 / 256)
  assert summary.loc[0, 'significant_pvalue_smallest'] == pytest.approx(2 / 256)
  accuracy = {level: values.mean(axis=1) for level, values in recall.items()}
  wanted = stats.ttest_rel(
    recall[0.0] - accuracy[0.0][:, None], recall[0.9] - accuracy[0.9][:, None]
  )
  np.testing.assert_allclose(tested['pvalue_recall_norm'], wanted.pvalue)
  np.testing.assert_allclose(tested['statistic_recall_norm'], wanted.statistic)


def test_pairs_that_are_none_are_refused(tmp_path):
  recall = make_recall(np.random.default_rng(14), levels=(0.0, 0.9))
  write_long(tmp_path / 'in', recall)
  for options, message in (
    ({'paired_methods': ['int8']}, r"names \['int8'\], there are .*threshold"),
    (
      {'paired_methods': ['threshold'], 'normalisation': 'population_mean'},
      'is population_mean, but models of threshold 0.9 were made from',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      run(tmp_path / 'in', tmp_path / 'out', **options)
  next((tmp_path / 'in').glob('*_0.9_0.csv')).unlink()
  with pytest.raises(ValueError, match=r'replicates \[1, 2, .*wanted the same'):
    run(tmp_path / 'in', tmp_path / 'out', paired_methods=['threshold'])
  (tmp_path / 'wide').mkdir()
  write_wide(tmp_path / 'wide' / 'wide.csv', recall)
  with pytest.raises(ValueError, match='numbers no replicates'):
    run(
      tmp_path / 'wide',
      tmp_path / 'out',
      paired_methods=[''],
    )


def test_other_settings_are_refused_and_other_inputs_are_tested_anew(tmp_path):
  recall = make_recall(np.random.default_rng(12))
  write_long(tmp_path / 'in', recall)
  run(tmp_path / 'in', tmp_path / 'out')

  def written():
    return {p: p.read_bytes() for p in (tmp_path / 'out').rglob('*.csv')}

  before = written()
  with pytest.raises(
    ValueError, match='normalisation was model, is population_mean'
  ):
    run(tmp_path / 'in', tmp_path / 'out', normalisation='population_mean')
  assert before == {
    p: p.read_bytes() for p in (tmp_path / 'out').rglob('*.csv')
  }
  recall[0.9] = recall[0.9] * 0.9
  write_long(tmp_path / 'in', recall)
  run(tmp_path / 'in', tmp_path / 'out')
  assert before != {
    p: p.read_bytes() for p in (tmp_path / 'out').rglob('*.csv')
  }


def test_what_is_missing_is_named_with_its_script_and_its_neighbours(tmp_path):
  folder = tmp_path / 'results' / 'flowers' / 'class_metrics' / 'eval'
  write_long(folder, make_recall(np.random.default_rng(13)))
  asked = tmp_path / 'results' / 'imagenet' / 'class_metrics' / 'eval'
  with pytest.raises(FileNotFoundError) as raised:
    run(asked, tmp_path / 'out')
  for words in (str(asked), 'aggregate_ckpt_metrics', 'results holds flowers'):
    assert words in str(raised.value)


@pytest.mark.usefixtures('unnoted')
def test_a_baseline_with_zeros_is_refused(tmp_path):
  recall = make_recall(np.random.default_rng(14))
  write_long(tmp_path / 'in', recall)
  for path in (tmp_path / 'in').glob('*_threshold_0.5_*.csv'):
    path.write_text(path.read_text().replace(',threshold,', ',baseline,'))
  with pytest.raises(ValueError, match='baseline with fraction_pruned 0.5'):
    run(tmp_path / 'in', tmp_path / 'out')


def test_constants_of_levels_that_share_a_fraction_are_refused(tmp_path):
  """The dense accuracy is not int8's."""
  recall = make_recall(np.random.default_rng(15), levels=(0.0, 0.9))
  add_int8(tmp_path / 'in', recall)
  with pytest.raises(ValueError, match='some share theirs'):
    run(
      tmp_path / 'in',
      tmp_path / 'out',
      normalisation='constants',
      accuracy_constants={0.0: 0.7, 0.9: 0.6},
    )
