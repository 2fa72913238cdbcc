"""Costs on corrupted images: of each set as if alone, and their mean."""

import json
import shutil

import numpy as np
import pytest

from pie_dataset_gen import headline_rows, measure_corrupted_costs
from tests import test_measure_costs
from tests.test_measure_costs import LEVELS, SHARDS, aggregate, exact
from utils import csvs, paths, populations, prediction_files, tables, workers

# The shards of the other tests are the sets here.
SETS = dict(zip(SHARDS, ('fog_1', 'fog_3'), strict=True))
NAME = 'toy'


def run(folder, **options):
  given = {'mode': 'eval', 'dataset_name': NAME, 'corrupted_name': 'toy_c'}
  return measure_corrupted_costs.run(
    str(folder / 'results'), str(folder / 'results'), **given | options
  )


def keep(folder, predictions):
  for shard, name in SETS.items():
    to = paths.predictions_folder(str(folder / 'results'), 'toy_c', 'eval')
    shutil.copytree(predictions / shard, f'{to}/{name}')


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  folder = tmp_path_factory.mktemp('corrupted')
  predictions = test_measure_costs.write_predictions(folder / 'predictions')
  aggregate(predictions, folder / 'results')
  keep(folder, predictions)
  return folder, predictions, run(folder)


def of_set(rows, name):
  return rows[rows['data_set'] == name].set_index(
    ['pruning_method', 'pruning_fraction', 'measure']
  )


def test_a_set_costs_what_it_would_alone(study, tmp_path):
  _, predictions, rows = study
  for shard, name in SETS.items():
    alone = tmp_path / shard / 'predictions' / shard
    shutil.copytree(predictions / shard, alone)
    aggregate(alone.parent, tmp_path / shard / 'results')
    wanted = test_measure_costs.run(alone.parent, tmp_path / shard / 'results')
    wanted = wanted[~wanted['measure'].str.startswith('confidence on')]
    found = of_set(rows, name)
    assert set(found['images']) == {SHARDS[shard]}
    wanted = wanted.set_index(found.index.names)
    assert list(found.index) == list(wanted.index)
    for column in ('value', 'low', 'high', 'reference', 'pvalue'):
      np.testing.assert_allclose(found[column], wanted[column], atol=1e-12)
    assert found['verdict'].tolist() == wanted['verdict'].tolist()


def test_the_mean_is_over_images_of_answers_and_over_sets_of_scores(study):
  rows = study[2]
  first, second = (of_set(rows, name)['value'] for name in SETS.values())
  found = of_set(rows, tables.MEAN_OF_SETS)
  assert set(found['images']) == {sum(SHARDS.values())}
  share = np.array(list(SHARDS.values())) / sum(SHARDS.values())
  for index, value in found['value'].items():
    weights = (
      share if 'churn' in index[2] or 'newly' in index[2] else (0.5, 0.5)
    )
    assert value == exact(
      first[index] * weights[0] + second[index] * weights[1]
    )
  assert found['low'].notna().all() and found['pvalue'].notna().any()


def test_order_and_processes_do_not_matter(study, tmp_path, monkeypatch):
  again = shutil.copytree(study[0], tmp_path / 'again')
  path = paths.corrupted_costs(str(again / 'results'), NAME, 'eval')
  with open(path, 'rb') as file:
    before = file.read()
  monkeypatch.setattr(prediction_files, '_BYTES_PER_PROCESS', 1)
  run(again, place=workers.Place(2))
  with open(path, 'rb') as file:
    assert file.read() == before


def test_the_mean_stands_in_the_headline_table(study):
  rows = headline_rows.corrupted_cost_rows(study[2])
  newly = next(row for row in rows if row.measure.startswith('newly wrong'))
  assert newly.measure in headline_rows.SHORT
  found = of_set(study[2], tables.MEAN_OF_SETS).loc[(*LEVELS[1], 'newly wrong')]
  cell = newly.cell(LEVELS[1])
  assert (cell.value, cell.low, cell.high) == tuple(
    found[['value', 'low', 'high']]
  )
  assert newly.cell(populations.DENSE).value == found['reference']


def test_other_members_and_what_is_not_kept_are_named(study, tmp_path):
  changed = shutil.copytree(study[0], tmp_path / 'changed')
  kept = changed / 'results/toy_c/predictions_dataframe/eval/fog_3'
  next(kept.glob('*threshold*_3.csv')).unlink()
  with pytest.raises(
    ValueError, match='fog_3 has predictions of other members'
  ):
    run(changed)
  shutil.rmtree(kept.parents[2])
  with pytest.raises(FileNotFoundError, match='--predictions_directory makes'):
    run(changed)


def test_it_leaves_a_table_and_a_record(study):
  results = str(study[0] / 'results')
  path = paths.corrupted_costs(results, NAME, 'eval')
  assert len(csvs.read(tables.CORRUPTED_COSTS, path)) == len(study[2])
  path = paths.provenance(f'{results}/{NAME}', 'measure_corrupted_costs')
  with open(path, encoding='utf-8') as file:
    assert json.load(file)['finished']
