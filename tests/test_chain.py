"""The whole chain by run.sh: twice the same bytes, and finished work stays."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from pie_dataset_gen import check_study, headline_rows
from utils import csvs, paths, tables

ROOT = pathlib.Path(__file__).parent.parent


def run_chain(folder, **variables):
  done = subprocess.run(
    [str(ROOT / 'run.sh')],
    env={
      **os.environ,
      'VENV': sys.prefix,
      'STUDY': str(folder),
      'REPLICATES': '4',
      'SPARSITIES': '0,0.9',
      'EPOCHS': '2',
      **variables,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def contents(folder, pattern):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob(pattern))
    if path.is_file()
  }


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
  folder = tmp_path_factory.mktemp('chain')
  return folder, run_chain(folder)


def test_the_chain_ends_in_the_table(chain):
  folder, printed = chain
  headline = csvs.read(
    tables.HEADLINE, paths.headline_table(str(folder / 'results'))
  )
  assert set(headline['pruning_fraction']) == {0.0, 0.9}
  measures = set(headline['measure'])
  # The digits have no groups.
  of_groups = {headline_rows.LOWEST_OF_GROUPS, headline_rows.EQUALISED_ODDS}
  short = set(headline_rows.SHORT) - of_groups
  assert short < measures and not of_groups & measures
  for measure in short:
    assert measure in printed
  said = csvs.read(
    tables.VERDICTS, paths.verdicts(str(folder / 'results'), 'digits', 'eval')
  )
  assert set(said['about']) == {
    *('costs', 'images', 'PIEs', 'classes', 'flips', 'calibration')
  }
  for sentence in said['sentence']:
    assert sentence in printed
  members = headline[headline['measure'] == 'members']
  assert list(members['value']) == [4, 4, 4]
  page = folder / 'results/digits/gallery/eval/index.html'
  assert str(page) in printed
  for script in (
    'save_checkpoint.imagenet_train_eval',
    'save_checkpoint.quantise_checkpoints',
    'robustness_tests.imagenet_corruptions',
    'robustness_tests.summarize',
  ):
    assert f'python -m {script} ' in page.read_text()
  for figure in (
    'findings',
    'class_impact_int8_0.0',
    'class_impact_threshold_0.9',
    'robustness_summary',
  ):
    assert (page.parent / f'figures/{figure}.svg').stat().st_size > 1000


def test_the_parts_agree_with_one_another(chain):
  folder, _ = chain
  results = folder / 'results'
  predictions = pd.concat(
    pd.read_csv(path)
    for path in (results / 'digits/predictions_dataframe').rglob('*.csv')
  )
  assert len(predictions) == 12 * 897
  assert predictions.groupby('image_key').size().eq(12).all()
  statistics = pd.concat(
    pd.read_csv(path) for path in (folder / 'pie/digits/stats').glob('*.csv')
  )
  labels = pd.concat(
    pd.read_csv(path)
    for path in (results / 'digits/modal_labels').rglob('*.csv')
  )
  differ = labels['baseline_modal_label'] != labels['variant_modal_label']
  assert statistics['pie_count'].sum() == differ.sum()
  assert statistics['total_images_count'].sum() == len(labels) == 2 * 897
  metrics = pd.concat(
    pd.read_csv(path)
    for path in (results / 'digits/class_metrics').rglob('*.csv')
  )
  right = predictions['predictions'] == predictions['true_class']
  assert metrics['correct_count'].sum() == right.sum()


def test_a_second_run_does_nothing_again(chain):
  folder, _ = chain
  kept = [
    path
    for path in folder.rglob('*')
    # The table is printed each time, and the verdicts with it.
    if path.is_file() and not re.search('headline|verdicts', path.name)
  ]
  before = {path: path.stat().st_mtime_ns for path in kept}
  printed = run_chain(folder)
  assert printed.count('finished before') >= 11
  assert before == {path: path.stat().st_mtime_ns for path in kept}


def test_the_check_finds_nothing_wrong(chain, tmp_path, capsys):
  folder, _ = chain
  assert check_study.run(str(folder), quick=True), capsys.readouterr().out
  # Nor where it was moved to, with and without its data.
  moved = shutil.copytree(folder, tmp_path / 'moved', copy_function=os.link)
  assert check_study.run(str(moved), quick=True), capsys.readouterr().out
  for name in ('data', 'checkpoints'):
    shutil.rmtree(moved / name)
  assert check_study.run(str(moved), quick=True), capsys.readouterr().out


def test_two_chains_give_the_same_bytes(chain, tmp_path):
  folder, _ = chain
  run_chain(tmp_path)
  for pattern in ('*.csv', '*.data-*', '*.tflite', '*.svg', 'validation-*'):
    one, other = contents(folder, pattern), contents(tmp_path, pattern)
    assert one and list(one) == list(other)
    for name, content in one.items():
      assert content == other[name], name


def test_wrong_variables_are_named(tmp_path):
  for name in ('REPLICATES', 'EPOCHS'):
    done = subprocess.run(
      [str(ROOT / 'run.sh')],
      env={**os.environ, 'VENV': sys.prefix, 'STUDY': str(tmp_path), name: 'x'},
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 1
    assert f"{name} is 'x', wanted a whole number" in done.stderr
