"""Class metrics: the two ways in agree, and what does not fit is named."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from per_class_accuracy import (
  aggregate_ckpt_metrics,
  gen_tstatistic,
  plot_class_impact,
)
from pie_dataset_gen import imagenet_predictions
from tests import test_inference
from utils import csvs, data_input, paths, populations, tables


@pytest.fixture(scope='module')
def population(tmp_path_factory):
  root = tmp_path_factory.mktemp('population')
  for replicate in range(2):
    test_inference.write_member(root, populations.BASELINE, 0.0, replicate)
    test_inference.write_member(root, 'threshold', 0.9, replicate)
  data = data_input.synthetic_data_set(str(root / 'data'))
  imagenet_predictions.run(
    str(root),
    data,
    str(root / 'results'),
    'eval',
    '',
    8,
    'legacy',
    'float32',
    0.1,
  )
  return root, data


def run(output_path, **options):
  arguments = {
    'ckpt_dir': [],
    'predictions_directory': '',
    'data_directory': '',
    'output_path': str(output_path),
    'mode': 'eval',
    'dataset_name': '',
    'num_classes': None,
    'groups_file': '',
    'batch_size': 8,
    'preprocessing': 'legacy',
    'compute_precision': 'float32',
    'label_smoothing': 0.1,
  }
  aggregate_ckpt_metrics.run(**arguments | options)
  return {path.name: path.read_bytes() for path in output_path.rglob('*.csv')}


def predictions_folder(root):
  return str(root / 'results' / 'synthetic' / 'predictions_dataframe')


def test_checkpoints_and_predictions_give_the_same_bytes(population, tmp_path):
  root, data = population
  one = run(tmp_path / 'one', ckpt_dir=[str(root / 'exp')], data_directory=data)
  other = run(
    tmp_path / 'other',
    predictions_directory=predictions_folder(root),
    data_directory=data,
  )
  assert len(one) == 4
  assert one == other


def test_rows_agree_with_the_predictions(population, tmp_path):
  root, data = population
  run(
    tmp_path,
    predictions_directory=predictions_folder(root),
    data_directory=data,
  )
  metrics = csvs.read_all(
    tables.CLASS_METRICS, csvs.find(tables.CLASS_METRICS, str(tmp_path))
  )
  predictions = pd.concat(
    pd.read_csv(path)
    for path in csvs.find(tables.PREDICTIONS, predictions_folder(root))
  )
  key = ['pruning_method', 'replicate']
  for member, rows in metrics.groupby(key):
    of_member = predictions[(predictions[key] == list(member)).all(axis=1)]
    right = of_member['predictions'] == of_member['true_class']
    assert rows['support'].sum() == len(of_member) == 20
    assert set(rows['eval_accuracy']) == {right.mean()}
    assert rows['loss'].iloc[0] == pytest.approx(
      of_member['cross_entropy'].mean(), rel=1e-6
    )


def test_finished_members_are_left_alone(population, tmp_path):
  root, data = population
  options = {
    'predictions_directory': predictions_folder(root),
    'data_directory': data,
  }
  before = run(tmp_path, **options)
  stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*.csv')}
  assert run(tmp_path, **options) == before
  assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_groups_take_the_place_of_classes(population, tmp_path):
  root, data = population
  groups = tmp_path / 'groups.csv'
  groups.write_text('group,class_id\n"even, so",0\n"even, so",2\nodd,1\n')
  run(
    tmp_path / 'out',
    predictions_directory=predictions_folder(root),
    data_directory=data,
    groups_file=str(groups),
  )
  files = csvs.find(tables.CLASS_METRICS, str(tmp_path / 'out'))
  frame = csvs.read(tables.CLASS_METRICS, files[0])
  assert list(frame['class']) == ['even, so', 'odd']
  assert list(frame['support']) == [4, 2]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('group,class_id\na,99\n', 'class_id 99 is outside the 10 classes'),
    ('group,image_key\na,nothing\n', "not among the predictions.*'nothing'"),
    ('group,class\na,x\n', "0 classes are called 'x'"),
    ('group,class_id,image_key\na,1,k\n', 'wanted one of'),
    ('name,class_id\na,1\n', "lacks the columns \\['group'\\]"),
  ],
)
def test_groups_that_do_not_fit_are_named(population, tmp_path, text, message):
  root, data = population
  groups = tmp_path / 'groups.csv'
  groups.write_text(text)
  with pytest.raises(ValueError, match=message):
    run(
      tmp_path / 'out',
      predictions_directory=predictions_folder(root),
      data_directory=data,
      groups_file=str(groups),
    )


@pytest.fixture
def written(population, tmp_path):
  """A copy of the predictions that a test may damage."""
  root, data = population
  folder = tmp_path / 'predictions' / 'shard'
  folder.mkdir(parents=True)
  for path in csvs.find(tables.PREDICTIONS, predictions_folder(root)):
    shutil.copy(path, folder)
  return sorted(folder.iterdir()), str(tmp_path / 'predictions'), data


def change(path, function):
  frame = pd.read_csv(path)
  function(frame).to_csv(path, index=False)


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    (lambda f: f[:-1], 'has 19 images, wanted 20'),
    (lambda f: pd.concat([f, f[:1]]), 'share their identity'),
    (
      lambda f: f.assign(predictions=f['predictions'] + 90),
      'wanted a class id below 10',
    ),
    (lambda f: f.drop(columns='true_class'), "lacks the columns.*'true_class'"),
    (
      lambda f: f.assign(image_key=f['image_key'].replace('validation/3', 'x')),
      '2 images are predicted for it or for the networks',
    ),
    (
      lambda f: f.assign(true_class=np.roll(f['true_class'], 1)),
      'has the label',
    ),
    (
      lambda f: f.assign(precision=['float32'] * 19 + ['bfloat16']),
      'predictions that were made alike',
    ),
    (
      lambda f: f.assign(split='train'),
      "hold the split 'train', wanted 'eval'",
    ),
    (lambda f: f.assign(fraction_pruned=1.5), 'at most 1.0|wanted a number in'),
  ],
)
def test_damaged_predictions_are_named(written, tmp_path, function, message):
  files, folder, data = written
  change(files[1], function)
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'out', predictions_directory=folder, data_directory=data)


def test_one_way_in_is_wanted(population, tmp_path):
  root, data = population
  with pytest.raises(ValueError, match='got none'):
    run(tmp_path)
  with pytest.raises(ValueError, match='got both'):
    run(tmp_path, ckpt_dir=[str(root)], predictions_directory=str(root))
  with pytest.raises(FileNotFoundError, match='nowhere'):
    run(tmp_path, predictions_directory='/nowhere', data_directory=data)


def test_predictions_need_no_tensorflow_and_no_description(
  population, tmp_path
):
  root, _ = population
  program = (
    'import sys, pathlib\n'
    'from per_class_accuracy import aggregate_ckpt_metrics as script\n'
    'script.define_flags()\n'
    'from absl import flags\n'
    'flags.FLAGS(["script", *sys.argv[1:]])\n'
    'script.main([])\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  subprocess.run(
    [
      sys.executable,
      '-c',
      program,
      f'--predictions_directory={predictions_folder(root)}',
      f'--output_path={tmp_path}',
      '--dataset_name=d',
    ],
    check=True,
    capture_output=True,
  )
  frame = csvs.read(
    tables.CLASS_METRICS,
    csvs.find(tables.CLASS_METRICS, str(tmp_path / 'd'))[0],
  )
  assert list(frame['class']) == [str(i) for i in range(10)]


def test_the_small_sample_needs_nothing(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'per_class_accuracy.aggregate_ckpt_metrics',
      '--test_small_sample',
      f'--output_path={tmp_path}',
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert len(list((tmp_path / 'synthetic').rglob('*.csv'))) == 1


def test_predictions_from_elsewhere_go_all_the_way(tmp_path):
  """README's columns only: no experiment, no steps, any word for a method."""
  random = np.random.default_rng(0)
  labels = random.integers(0, 3, 40)
  for method in ('baseline', 'int8'):
    for replicate in range(2):
      wrong = random.random(40) < 0.2
      frame = pd.DataFrame(
        {
          'image_key': [f'{i}.jpg' for i in range(40)],
          'image_index': range(40),
          'true_class': labels,
          'predictions': np.where(wrong, (labels + 1) % 3, labels),
          'predicted_probability': 0.9,
          'pruning_method': method,
          'fraction_pruned': 0.0,
          'replicate': replicate,
        }
      )
      folder = tmp_path / 'predictions' / 'all'
      folder.mkdir(parents=True, exist_ok=True)
      frame.to_csv(folder / f'{method}_{replicate}.csv', index=False)
  results = tmp_path / 'results'
  written = run(
    results,
    predictions_directory=str(tmp_path / 'predictions'),
    dataset_name='own',
  )
  assert len(written) == 4
  summary = gen_tstatistic.run(
    data_directory=paths.class_metrics_folder(str(results), 'own', 'eval'),
    output_file=str(results),
    dataset_name='own',
    mode='eval',
  )
  assert summary['pruning_method'].tolist() == ['int8']
  assert summary['baseline_models'].tolist() == [2]
  assert plot_class_impact.run(
    results_directory=str(results), dataset_name='own', mode='eval'
  )


def write_foreign(folder, *, replicates=3, changed=()):
  """Predictions of networks that are right on most of 200 images.

  Args:
    folder: where they are written, in one of a shard.
    replicates: of two levels, dense and int8.
    changed: (method, replicate) -> what is done to these predictions.
  """
  random = np.random.default_rng(0)
  labels = random.permutation(np.arange(200) % 5)
  (folder / 'all').mkdir(parents=True, exist_ok=True)
  for method in ('baseline', 'int8'):
    for replicate in range(replicates):
      wrong = random.random(200) < 0.2
      frame = pd.DataFrame(
        {
          'image_key': [f'{i}.jpg' for i in range(200)],
          'image_index': range(200),
          'true_class': labels,
          'predictions': np.where(wrong, random.integers(0, 5, 200), labels),
          'predicted_probability': random.uniform(0.3, 1, 200),
          'pruning_method': method,
          'fraction_pruned': 0.0,
          'replicate': replicate,
        }
      )
      change_it = dict(changed).get((method, replicate), lambda one: one)
      path = folder / 'all' / f'{method}_{replicate}.csv'
      change_it(frame).to_csv(path, index=False)


def moved(frame):
  return frame.assign(predictions=frame['predictions'] + 1)


def reordered(frame):
  order = np.array([0, 2, 1, 3, 4])
  return frame.assign(predictions=order[frame['predictions']])


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    (moved, 'int8 replicate 0 .* if class ids were smaller by one'),
    (reordered, 'int8 take .* changed places so'),
  ],
)
def test_predictions_that_mean_something_else_are_refused(
  tmp_path, function, message
):
  changed = {('int8', replicate): function for replicate in range(3)}
  write_foreign(tmp_path / 'in', changed=changed)
  where = {'predictions_directory': str(tmp_path / 'in'), 'dataset_name': 'd'}
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'out', **where)
  assert not (tmp_path / 'out').exists()


def test_a_copy_that_is_added_later_is_refused(tmp_path):
  write_foreign(tmp_path / 'in')
  where = {'predictions_directory': str(tmp_path / 'in'), 'dataset_name': 'd'}
  before = run(tmp_path / 'out', **where)
  assert len(before) == 6
  frame = pd.read_csv(tmp_path / 'in' / 'all' / 'int8_1.csv')
  frame.assign(replicate=3).to_csv(
    tmp_path / 'in' / 'all' / 'int8_3.csv', index=False
  )
  with pytest.raises(ValueError, match='int8 replicate 1 and int8 replicate 3'):
    run(tmp_path / 'out', **where)
  assert set(before) == {path.name for path in tmp_path.rglob('class_*.csv')}


def test_classes_and_groups_are_predicted_once(
  population, tmp_path, monkeypatch
):
  root, data = population
  groups = tmp_path / 'groups.csv'
  groups.write_text('group,class_id\neven,0\neven,2\nodd,1\n')
  given = {
    'ckpt_dir': [str(root / 'exp')],
    'data_directory': data,
    'groups_file': str(groups),
  }
  predicted = []
  predict = aggregate_ckpt_metrics._predict_members

  def counted(predictor, piece):
    predicted.extend(piece.checkpoints)
    return predict(predictor, piece)

  monkeypatch.setattr(aggregate_ckpt_metrics, '_predict_members', counted)
  run(tmp_path / 'both', and_classes=True, **given)
  assert len(predicted) == 4
  run(tmp_path / 'each', ckpt_dir=given['ckpt_dir'], data_directory=data)
  run(tmp_path / 'each', **given)
  assert len(predicted) == 12
  both, each = (
    {
      str(path.relative_to(folder)): path.read_bytes()
      for path in folder.rglob('*.csv')
    }
    for folder in (tmp_path / 'both', tmp_path / 'each')
  )
  assert both == each and len(both) == 8
  # Only what is missing is written again.
  next((tmp_path / 'both').rglob('group_metrics/*/*.csv')).unlink()
  run(tmp_path / 'both', and_classes=True, **given)
  assert len(predicted) == 13
  assert len(list((tmp_path / 'both').rglob('*.csv'))) == 8
