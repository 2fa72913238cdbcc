"""Results say what made them, and are not mixed with others."""

import json
import os
import shutil

import pytest

from tests.stages import STAGES, Stage, assert_same, files
from utils import digests, provenance, storage


def record(folder):
  return json.loads((folder / 'script.run.json').read_text())


def open_record(folder, **settings):
  return provenance.Provenance(str(folder), 'room.script', settings)


def test_a_record_stands_from_the_first_result_on(tmp_path):
  opened = open_record(tmp_path, precision='float32')
  assert not os.listdir(tmp_path)
  opened.start()
  assert record(tmp_path)['finished'] == ''
  assert record(tmp_path)['settings'] == {'precision': 'float32'}
  # Killed here. The same command, which finds all results there, completes it.
  started = record(tmp_path)['started']
  (tmp_path / 'input').write_text('x')
  open_record(tmp_path, precision='float32').finish([tmp_path / 'input'], a=1)
  done = record(tmp_path)
  assert done['finished'] >= done['started'] == started
  assert done['a'] == 1
  assert done['inputs'][0]['bytes'] == 1
  before = (tmp_path / 'script.run.json').stat().st_mtime_ns
  open_record(tmp_path, precision='float32').finish([])
  assert (tmp_path / 'script.run.json').stat().st_mtime_ns == before


def test_the_environment_is_recorded_and_no_secret(tmp_path, monkeypatch):
  monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '1')
  monkeypatch.setenv('XLA_FLAGS', '--x')
  # Of other programs, whose names begin alike.
  monkeypatch.setenv('TF_VAR_password', 'secret')
  monkeypatch.setenv('TF_TOKEN_host', 'secret')
  provenance.write(str(tmp_path), 'room.script', [])
  found = record(tmp_path)['environment']
  assert found['TF_NUM_INTRAOP_THREADS'] == '1'
  assert found['XLA_FLAGS'] == '--x'
  assert 'secret' not in (tmp_path / 'script.run.json').read_text()


def test_nothing_is_recorded_where_nothing_is_done(tmp_path):
  open_record(tmp_path, precision='float32').finish([])
  assert not os.listdir(tmp_path)


def test_other_settings_are_named_and_other_shards_are_added(tmp_path):
  one = {'precision': 'float32', 'shards': {'a': '1', 'b': '2'}}
  opened = open_record(tmp_path, **one)
  opened.start()
  opened.finish([])
  other = open_record(tmp_path, precision='float32', shards={'c': '3'})
  other.start()
  other.finish([])
  assert record(tmp_path)['settings']['shards'] == {
    'a': '1',
    'b': '2',
    'c': '3',
  }
  for settings, match in (
    ({'precision': 'bfloat16'}, 'precision was float32, is bfloat16'),
    ({'shards': {'d': '4', 'b': '5'}}, 'shards b was 2, is 5'),
  ):
    with pytest.raises(ValueError, match=match):
      open_record(tmp_path, **settings)


def test_of_two_that_start_at_once_the_second_notices(tmp_path):
  one, two = (open_record(tmp_path, precision=p) for p in ('float32', 'half'))
  one.start()
  with pytest.raises(ValueError, match='precision was float32, is half'):
    two.start()


def test_a_digest_is_of_what_files_hold(tmp_path):
  for name, text in (('a', 'x'), ('b', 'x'), ('c', 'y')):
    (tmp_path / name).write_text(text)
  one, same, other = (
    digests.of_files([str(tmp_path / name)]) for name in 'abc'
  )
  assert one == same != other


def stage(name):
  return next(stage for stage in STAGES if str(stage) == name)


def with_flags(name, *flags):
  return stage(name).but(*flags)


@pytest.mark.parametrize(
  ('name', 'flag', 'named'),
  [
    ('imagenet_predictions', '--preprocessing=modern', 'preprocessing was'),
    ('imagenet_predictions', '--label_smoothing=0', 'label_smoothing was 0.1'),
    ('build_corruptions', '--image_format=jpeg', 'image_format was png'),
    ('build_corruptions', '--preprocessing=modern', 'preprocessing was'),
    ('imagenet_corruptions', '--precision=bfloat16', 'precision was float32'),
    ('imagenet_corruptions', '--label_smoothing=0', 'label_smoothing was 0.1'),
    ('imagenet_train_eval', '--base_learning_rate=1', 'base_learning_rate was'),
    ('build_image_data', '--image_size=16', 'other flags'),
  ],
)
def test_other_flags_are_refused_where_results_are(
  runner, chain, name, flag, named
):
  whole = chain[name][1]
  folder = runner.copy(whole)
  process = runner.run(with_flags(name, flag), folder)
  log = process.log.read_text()
  assert process.exitcode == 1
  last = log.strip().splitlines()[-1]
  assert last.startswith('error: ')
  assert named in last
  assert 'Traceback' not in log
  assert_same(folder, whole)


@pytest.mark.parametrize(
  ('name', 'flag'),
  [
    ('imagenet_predictions', '--batch_size=5'),
    ('imagenet_corruptions', '--batch_size=5'),
    ('build_corruptions', '--num_workers=2'),
  ],
)
def test_flags_that_decide_nothing_are_free(runner, chain, name, flag):
  whole = chain[name][1]
  folder = runner.copy(whole)
  runner.finish(with_flags(name, flag), folder)
  assert_same(folder, whole)


def exchange(folder, pattern, suffixes=('',)):
  """Two files of equal kind change places, with new inodes."""
  one, other = sorted(folder.glob(pattern))[:2]
  for suffix in suffixes:
    a, b = (path.with_name(path.stem + suffix) for path in (one, other))
    contents = a.read_bytes(), b.read_bytes()
    for path, content in zip((b, a), contents, strict=True):
      path.unlink()
      path.write_bytes(content)


def exchange_checkpoints(folder):
  exchange(
    folder,
    'checkpoints/digits/baseline/**/model.ckpt-4.index',
    ('.index', '.data-00000-of-00001'),
  )


def exchange_shards(folder):
  exchange(folder, 'data/validation-*')


def change_predictions(folder):
  path = next(folder.glob('results/**/predictions_dataframe_*baseline*.csv'))
  lines = path.read_text().splitlines()
  path.unlink()
  path.write_text('\n'.join([lines[0], lines[2], lines[1], *lines[3:], '']))


@pytest.mark.parametrize(
  ('name', 'change', 'named'),
  [
    ('imagenet_predictions', exchange_checkpoints, 'checkpoints digits_base'),
    ('imagenet_corruptions', exchange_checkpoints, 'checkpoints digits_base'),
    ('imagenet_predictions', exchange_shards, 'shards validation-0000'),
    ('build_corruptions', exchange_shards, 'shards validation-0000'),
    ('generate_pie_dataset', exchange_shards, 'eval shards validation-0000'),
    ('aggregate_ckpt_metrics', change_predictions, 'predictions digits_base'),
  ],
)
def test_inputs_that_are_not_what_they_were_are_noticed(
  runner, chain, name, change, named
):
  """A network trained again, say: results of the former are not its own."""
  folder = runner.copy(chain[name][1])
  change(folder)
  process = runner.run(stage(name), folder)
  last = process.log.read_text().strip().splitlines()[-1]
  assert process.exitcode == 1, last
  assert 'error: ' in last
  assert named in last or 'bytes' in last, last


def test_results_move_with_their_inputs(runner, chain, tmp_path):
  """Paths are no settings."""
  whole = chain['imagenet_predictions'][1]
  folder = tmp_path / 'elsewhere'
  shutil.copytree(whole, folder)
  before = {
    name: path.stat().st_mtime_ns for name, path in files(folder).items()
  }
  moved = with_flags('imagenet_predictions', f'--study={folder}')
  runner.finish(moved, tmp_path)
  assert before == {
    name: path.stat().st_mtime_ns for name, path in files(folder).items()
  }


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_every_stage_leaves_a_record(chain, stage):
  """Script, command, versions, inputs: beside what it wrote."""
  before, after, *_ = chain[str(stage)]
  added = [
    path
    for name, path in files(after).items()
    if name not in files(before) and path.name == f'{stage}.run.json'
  ]
  assert added
  for path in added:
    found = json.loads(path.read_text())
    assert found['script'] == stage.script
    assert found['command'] == [stage.script, *stage.flags]
    assert found['finished']
    assert {'python', 'packages', 'inputs'} <= set(found)
    for described in found['inputs']:
      assert described['bytes'] == (after / described['path']).stat().st_size
      assert storage.name(described['path'])


def trained_anew(record):
  """As a record is where another network had its name."""
  known = record.get('checkpoints') or record['settings']['checkpoints']
  stem = next(stem for stem in sorted(known) if 'baseline' in stem)
  known[stem] = 'another'


METRICS = 'results/digits/class_metrics/eval/aggregate_ckpt_metrics.run.json'
MEMBERS_NEEDED = Stage(
  'pie_dataset_gen.how_many_members', ('--study=.', '--num_cores=1')
)


@pytest.mark.parametrize(
  ('record', 'joined_by', 'named'),
  [
    (METRICS, stage('summarize'), 'brightness_1/digits_baseline'),
    (METRICS, MEMBERS_NEEDED, 'predictions_dataframe/eval'),
    (METRICS, stage('headline_table'), 'eval_corrupted_costs.csv'),
    (
      'results/robustness/digits_c/imagenet_corruptions.run.json',
      stage('summarize'),
      'class_metrics/eval',
    ),
    (
      'results/digits/measure_gains.run.json',
      stage('headline_table'),
      'gains.csv',
    ),
    (
      'results/digits/measure_corrupted_costs.run.json',
      stage('gallery'),
      'eval_corrupted_costs.csv',
    ),
  ],
  ids=str,
)
def test_results_of_different_networks_are_not_joined(
  runner, chain, record, joined_by, named
):
  """Some stages were repeated after a training, others were not."""
  folder = runner.copy(chain['gallery'][1])
  path = folder / record
  changed = json.loads(path.read_text())
  trained_anew(changed)
  path.unlink()
  path.write_text(json.dumps(changed))
  process = runner.run(joined_by, folder)
  last = process.log.read_text().strip().splitlines()[-1]
  assert process.exitcode == 1, last
  assert last.startswith('error: ')
  assert 'are of different networks: of digits_baseline_0.0' in last
  assert named in last
  assert 'make the older part again, or remove it: python -m' in last


@pytest.mark.parametrize(
  ('record', 'figure'),
  [
    ('results/robustness/summarize.run.json', 'robustness_summary.svg'),
    ('results/digits/eval/plot_class_impact.run.json', 'class_impact_'),
  ],
)
def test_a_figure_of_former_results_is_not_shown(runner, chain, record, figure):
  folder = runner.copy(chain['gallery'][1])
  path = folder / record
  changed = json.loads(path.read_text())
  changed['folder'] = str(path.parent)
  changed['inputs'][0]['sha256'] = 'another'
  path.unlink()
  path.write_text(json.dumps(changed))
  process = runner.run(stage('gallery'), folder)
  last = process.log.read_text().strip().splitlines()[-1]
  assert process.exitcode == 1, last
  assert figure in last and 'as it was before: make it again' in last
