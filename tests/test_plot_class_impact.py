"""Figures of class impact: drawn from the tables, the same bytes each time."""

import pathlib

import numpy as np
import pytest
from matplotlib import colors

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
  assert [axes.get_title() for axes in figure.axes] == ['int8', 'threshold']
  written = plot_class_impact.run(
    results_directory=str(tmp_path / 'out'), dataset_name='d', mode='eval'
  )
  names = {pathlib.Path(path).stem for path in written}
  assert names == {
    'class_impact_int8_0.0',
    'class_impact_threshold_0.9',
    'class_impact_significant_classes',
  }


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
