"""Figures of class impact: drawn from the tables, the same bytes each time."""

import pathlib

import numpy as np
import pytest
from matplotlib import colors, text

from per_class_accuracy import plot_class_impact
from tests import test_gen_tstatistic
from utils import csvs, paths, populations, tables


@pytest.mark.parametrize('classes', [10, 60])
def test_equal_tables_give_equal_figures(tmp_path, classes):
  rng = np.random.default_rng(0)
  names = ['$x^2$ <b>', '-a, "b"', *(f'class {i}' for i in range(classes - 2))]
  recall = test_gen_tstatistic.make_recall(
    rng, models=6, classes=classes, effect=0.1
  )
  recall[0.9][:, 1] = recall[0.0][:, 1] = recall[0.5][:, 1] = 1.0
  test_gen_tstatistic.write_long(tmp_path / 'in', recall, names)
  test_gen_tstatistic.run(tmp_path / 'in', tmp_path / 'out')

  def draw():
    written = plot_class_impact.run(
      results_directory=str(tmp_path / 'out'), dataset_name='d', mode='eval'
    )
    return {path: pathlib.Path(path).read_bytes() for path in written}

  one = draw()
  assert len(one) == 6
  assert {path.rsplit('.', 1)[1] for path in one} == {'png', 'svg'}
  assert one == draw()
  svg = next(v for k, v in one.items() if k.endswith('0.9.svg')).decode()
  assert '<b>' not in svg


def test_a_missing_table_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='gen_tstatistic writes it'):
    plot_class_impact.run(
      results_directory=str(tmp_path), dataset_name='d', mode='eval'
    )


def drawn(tmp_path, recall, names=test_gen_tstatistic.NAMES):
  """The tables of some models, and the figure of each level."""
  (tmp_path / 'in').mkdir()
  test_gen_tstatistic.write_wide(tmp_path / 'in' / 'wide.csv', recall, names)
  tested, summary = test_gen_tstatistic.run(tmp_path / 'in', tmp_path / 'out')
  return tested, {
    level: plot_class_impact.draw_level(
      populations.by_level(tested)[level], rows.iloc[0]
    )
    for level, rows in populations.by_level(summary).items()
  }


def test_only_significant_classes_are_coloured(tmp_path):
  recall = test_gen_tstatistic.make_recall(
    np.random.default_rng(1), models=10, effect=0.06
  )
  tested, figures = drawn(tmp_path, recall)
  coloured = set()
  for level, figure in figures.items():
    rows = populations.by_level(tested)[level]
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    rows = rows.set_index(rows['class'].map(plot_class_impact._label))
    assert sorted(labels) == sorted(rows.index)
    for label, bar in zip(labels, axes.patches, strict=True):
      significant = rows.loc[label, 'qvalue_recall_norm'] <= 0.05
      grey = colors.to_hex(bar.get_facecolor()).upper() == '#BBBBBB'
      assert grey != significant
      assert bar.get_width() == pytest.approx(rows.loc[label, 'recall_change'])
      coloured.add(grey)
  assert coloured == {True, False}


def test_a_class_without_recall_is_counted_as_left_out(tmp_path):
  recall = test_gen_tstatistic.make_recall(np.random.default_rng(2))
  for values in recall.values():
    values[:, 0] = np.nan
  _, figures = drawn(tmp_path, recall)
  for figure in figures.values():
    assert '1 without recall left out' in figure.get_suptitle()
    assert len(figure.axes[0].patches) == len(test_gen_tstatistic.NAMES) - 1


def test_a_long_name_keeps_to_its_line(tmp_path):
  names = ['a' * 500, *test_gen_tstatistic.NAMES[1:]]
  recall = test_gen_tstatistic.make_recall(np.random.default_rng(3))
  _, figures = drawn(tmp_path, recall, names)
  for figure in figures.values():
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert max(map(len, labels)) == 30


def test_one_level_and_several_methods_have_a_panel_each(tmp_path):
  recall = test_gen_tstatistic.make_recall(
    np.random.default_rng(4), levels=(0.0, 0.9)
  )
  test_gen_tstatistic.add_int8(tmp_path / 'in', recall)
  _, summary = test_gen_tstatistic.run(tmp_path / 'in', tmp_path / 'out')
  figure = plot_class_impact.draw_counts(summary)
  titles = [axes.get_title() for axes in figure.axes]
  assert [title.partition(':')[0] for title in titles] == ['int8', 'threshold']
  written = plot_class_impact.run(
    results_directory=str(tmp_path / 'out'), dataset_name='d', mode='eval'
  )
  names = {pathlib.Path(path).stem for path in written}
  assert names == {
    'class_impact_int8_0.0',
    'class_impact_threshold_0.9',
    'class_impact_significant_classes',
  }


def test_a_level_of_its_own_is_not_at_the_edge(tmp_path):
  """int8 at 0 alone, no class found: points stand inside wide axes."""
  recall = test_gen_tstatistic.make_recall(
    np.random.default_rng(6), levels=(0.0, 0.9)
  )
  recall[0.9] = recall[0.0]
  test_gen_tstatistic.write_wide(tmp_path / 'in.csv', recall)
  _, summary = test_gen_tstatistic.run(tmp_path / 'in.csv', tmp_path / 'out')
  for permutations in (True, False):
    if not permutations:
      summary = summary.assign(
        **{n: np.nan for n in summary if 'permut' in n or 'pvalue' in n}
      )
    axes = plot_class_impact.draw_counts(summary).axes[0]
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 1
    low, high = axes.get_xlim()
    assert low < 0.88 < 0.92 < high
    assert not any(line.get_clip_on() for line in axes.lines[:3])


@pytest.mark.parametrize('after', [0.6, 0.8])
def test_a_class_is_not_said_to_gain_unless_the_whole_does(tmp_path, after):
  random = np.random.default_rng(7)
  recall = {
    fraction: np.round(random.normal(mean, 0.01, (8, 10)), 4)
    for fraction, mean in ((0.0, 0.7), (0.9, after))
  }
  recall[0.9][:, :3] += 0.1
  _, figures = drawn(tmp_path, recall)
  ((level, figure),) = figures.items()
  texts = [
    figure.get_suptitle(),
    *(found.get_text() for found in figure.legends[0].get_texts()),
  ]
  assert f'{level.pruning_method or "compressed"} 0.9' in texts[0]
  assert any('gained' in found for found in texts) == (after > 0.7)
  assert any('lost less than' in found for found in texts) == (after < 0.7)


def test_figures_say_int8_and_not_pruned(tmp_path):
  recall = test_gen_tstatistic.make_recall(
    np.random.default_rng(8), levels=(0.0, 0.9)
  )
  test_gen_tstatistic.add_int8(tmp_path / 'in', recall)
  tested, summary = test_gen_tstatistic.run(tmp_path / 'in', tmp_path / 'out')
  level = populations.Level('int8', 0.0)
  figure = plot_class_impact.draw_level(
    populations.by_level(tested)[level],
    populations.by_level(summary)[level].iloc[0],
  )
  title = figure.get_suptitle()
  assert title.startswith('int8: 6 models against 6 dense')
  words = [title, *(found.get_text() for found in figure.findobj(text.Text))]
  assert not any('prun' in word for word in words)


def test_figures_of_levels_that_have_gone_are_removed(tmp_path):
  recall = test_gen_tstatistic.make_recall(np.random.default_rng(9))
  test_gen_tstatistic.write_wide(tmp_path / 'in.csv', recall)
  out = tmp_path / 'out'

  def draw():
    plot_class_impact.run(
      results_directory=str(out), dataset_name='d', mode='eval'
    )
    return {path.stem for path in (out / 'd' / 'eval').glob('*.svg')}

  test_gen_tstatistic.run(tmp_path / 'in.csv', out)
  (out / 'd' / 'eval' / 'mine.svg').write_text('')
  before = draw()
  for of, table in (
    (paths.t_statistic, tables.T_STATISTIC),
    (paths.class_impact_summary, tables.CLASS_IMPACT_SUMMARY),
  ):
    rows = csvs.read(table, of(str(out), 'd', 'eval'))
    rows = rows[rows['pruning_fraction'] == 0.9]
    csvs.write(table, rows, of(str(out), 'd', 'eval'))
  gone = before - draw()
  assert len(gone) == 1
  assert gone.pop().endswith('0.5')
  assert 'mine' in before
  assert (out / 'd' / 'eval' / 'mine.svg').exists()


def test_tables_of_two_runs_are_refused(tmp_path):
  recall = test_gen_tstatistic.make_recall(np.random.default_rng(5))
  test_gen_tstatistic.write_long(tmp_path / 'in', recall)
  test_gen_tstatistic.run(tmp_path / 'in', tmp_path / 'out')
  path = paths.class_impact_summary(str(tmp_path / 'out'), 'd', 'eval')
  summary = csvs.read(tables.CLASS_IMPACT_SUMMARY, path)
  csvs.write(tables.CLASS_IMPACT_SUMMARY, summary.iloc[:1], path)
  with pytest.raises(ValueError, match='hold different levels'):
    plot_class_impact.run(
      results_directory=str(tmp_path / 'out'), dataset_name='d', mode='eval'
    )
