"""Figures of class impact: drawn from the tables, the same bytes each time."""

import pathlib

import numpy as np
import pytest

from per_class_accuracy import plot_class_impact
from tests import test_gen_tstatistic


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
      output_file=str(tmp_path / 'out'), dataset_name='d', mode='eval'
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
      output_file=str(tmp_path), dataset_name='d', mode='eval'
    )
