"""run.sh's own part: what it prints, what it runs again, and what it skips.

The scripts are played by one that makes a file and a record, so that a chain
takes a second; test_chain.py has the real ones.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = 'results/digits'
# Of each script in its order: where its record lies, and what it makes.
MADE = {
  'build_image_data': ('data', 'data/image_records.json'),
  'imagenet_train_eval': ('checkpoints/digits', 'checkpoints/digits/x'),
  'quantise_checkpoints': ('checkpoints/digits', 'checkpoints/digits/int8/x'),
  'imagenet_predictions': (
    f'{RESULTS}/predictions_dataframe/eval',
    f'{RESULTS}/predictions_dataframe/eval/x',
  ),
  'aggregate_predictions': (
    f'{RESULTS}/modal_labels/eval',
    f'{RESULTS}/modal_labels/eval/x',
  ),
  'generate_pie_dataset': ('pie/digits', 'pie/digits/x'),
  'measure_costs': (RESULTS, f'{RESULTS}/eval_costs.csv'),
  'aggregate_ckpt_metrics': (
    f'{RESULTS}/class_metrics/eval',
    f'{RESULTS}/class_metrics/eval/x',
  ),
  'gen_tstatistic': (
    f'{RESULTS}/eval',
    f'{RESULTS}/eval/recall_t_statistic.csv',
  ),
  'plot_class_impact': (
    f'{RESULTS}/eval',
    f'{RESULTS}/eval/class_impact_significant_classes.png',
  ),
  'build_corruptions': ('corrupted', 'corrupted/x'),
  'imagenet_corruptions': (
    'results/robustness/digits_c',
    'results/robustness/digits_c/x',
  ),
  'summarize': (
    'results/robustness',
    'results/robustness/robustness_summary.csv',
  ),
  'measure_corrupted_costs': (RESULTS, f'{RESULTS}/eval_corrupted_costs.csv'),
  'measure_gains': (RESULTS, f'{RESULTS}/gains.csv'),
  'rank_suspects': (RESULTS, f'{RESULTS}/eval_suspects.csv'),
  'headline_table': ('results', 'results/headline_table.csv'),
  'gallery': (
    f'{RESULTS}/gallery/eval',
    f'{RESULTS}/gallery/eval/index.html',
  ),
}
SCRIPTS = list(MADE)


class Chain:
  """run.sh with an environment whose scripts only note that they ran."""

  def __init__(self, folder):
    self.study = folder / 'study'
    self._environment = folder / 'environment'
    self._ran = folder / 'ran'
    self.printed = ''
    player = folder / 'player.py'
    player.write_text(
      textwrap.dedent(f"""
        import datetime, json, os, pathlib, sys
        script = sys.argv[1]
        name = script.split('.')[1]
        folder, made = {MADE!r}[name]
        with open({str(self._ran)!r}, 'a') as ran:
          ran.write(name + chr(10))
        if name == os.environ.get('FAILS'):
          sys.exit(1)
        study = pathlib.Path({str(self.study)!r})
        record = study / folder / (name + '.run.json')
        record.parent.mkdir(parents=True, exist_ok=True)
        (study / made).parent.mkdir(parents=True, exist_ok=True)
        (study / made).write_text('x')
        if name in os.environ.get('IDLE', '').split() and record.exists():
          sys.exit()
        record.write_text(json.dumps({{
          'script': script,
          'command': ['/where/it/lies.py', *sys.argv[2:]],
          'finished': datetime.datetime.now().isoformat(),
        }}))
      """)
    )
    python = self._environment / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(
      '#!/usr/bin/env bash\n'
      f'if [[ $1 == -m ]]; then exec {sys.executable} {player} "${{@:2}}"; fi\n'
      f'exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)

  def run(self, code=0, **variables):
    """Runs the chain; returns the names of the scripts that ran."""
    self._ran.write_text('')
    done = subprocess.run(
      [str(ROOT / 'run.sh')],
      env={
        **os.environ,
        'VENV': str(self._environment),
        'STUDY': str(self.study),
        **variables,
      },
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    self.printed = done.stdout
    return self._ran.read_text().split()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  chain = Chain(folder)
  assert chain.run() == SCRIPTS
  return folder, chain


@pytest.fixture
def chain(finished):
  """A chain that has run, put back afterwards."""
  folder, chain = finished
  # Copies keep the times, which decide.
  shutil.copytree(chain.study, folder / 'kept', copy_function=shutil.copy2)
  yield chain
  shutil.rmtree(chain.study)
  (folder / 'kept').rename(chain.study)


def test_what_is_finished_is_skipped_but_the_table_is_printed(chain):
  for _ in range(2):
    assert chain.run() == ['headline_table']


@pytest.mark.parametrize(
  'name',
  ['build_image_data', 'gen_tstatistic', 'rank_suspects', 'gallery'],
)
def test_what_is_missing_is_made_again_and_all_that_follows(chain, name):
  (chain.study / MADE[name][1]).unlink()
  at = SCRIPTS.index(name)
  ran = SCRIPTS[at:]
  if name == 'gallery':
    ran = ['headline_table', 'gallery']
  assert chain.run() == ran
  assert chain.run() == ['headline_table']


def test_another_command_is_run_and_all_that_follows(chain):
  assert chain.run(REPLICATES='11') == SCRIPTS[1:]
  assert chain.run(REPLICATES='11') == ['headline_table']


@pytest.mark.parametrize('name', ['aggregate_predictions', 'gallery'])
def test_an_interrupted_chain_goes_on(chain, name):
  """What was made before from former results counts for nothing."""
  at = SCRIPTS.index(name)
  assert chain.run(1, REPLICATES='11', FAILS=name) == SCRIPTS[1 : at + 1]
  again = chain.run(REPLICATES='11')
  # The table is printed each time.
  assert [n for n in again if n != 'headline_table'] == [
    n for n in SCRIPTS[at:] if n != 'headline_table'
  ]
  assert chain.run(REPLICATES='11') == ['headline_table']


def test_a_script_that_has_nothing_to_do_is_not_run_for_ever(chain):
  idle = 'build_corruptions imagenet_corruptions'
  assert chain.run(REPLICATES='11', IDLE=idle) == SCRIPTS[1:]
  assert chain.run(REPLICATES='11', IDLE=idle) == ['headline_table']


def test_nothing_follows_from_a_script_that_has_nothing_to_do(chain):
  """Fewer members are all there: the command is new, its results are not."""
  ran = chain.run(REPLICATES='9', IDLE='imagenet_train_eval')
  assert ran == ['imagenet_train_eval', 'headline_table']


@pytest.mark.parametrize('content', ['{', '[]', '{"finished": ""}'])
def test_a_record_that_says_nothing_counts_as_none(chain, content):
  record = chain.study / MADE['rank_suspects'][0] / 'rank_suspects.run.json'
  record.write_text(content)
  assert chain.run() == SCRIPTS[SCRIPTS.index('rank_suspects') :]


def test_the_record_of_a_member_says_nothing_of_the_population(chain):
  record = chain.study / 'checkpoints/digits/imagenet_train_eval.run.json'
  member = record.parent / 'threshold/0.9/28/147/12/0'
  member.mkdir(parents=True)
  record.rename(member / record.name)
  assert chain.run() == SCRIPTS[1:]


def dry_run(*arguments, **variables):
  return subprocess.run(
    [str(ROOT / 'run.sh'), *arguments],
    env={**os.environ, **variables},
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_dry_run_prints_the_commands_and_does_nothing_else(tmp_path):
  study = tmp_path / 'my "study"'
  done = dry_run('--dry_run', STUDY=str(study), VENV=str(tmp_path / 'none'))
  assert done.returncode == 0
  commands = [shlex.split(line) for line in done.stdout.splitlines()]
  assert [command[2].split('.')[1] for command in commands] == SCRIPTS
  assert all(
    command[:2] == ['python', '-m'] and command[3] == f'--study={study}'
    for command in commands
  )
  assert not os.listdir(tmp_path)


def test_only_the_first_two_commands_know_the_digits():
  """So that the others serve any study, as README says."""
  lines = dry_run('--dry_run', STUDY='elsewhere').stdout.splitlines()
  assert 'digits' in lines[0]
  assert not any('digits' in line for line in lines[2:])


@pytest.mark.parametrize('name', ['REPLICATES', 'EPOCHS', 'STEPS'])
def test_wrong_variables_are_named(name):
  done = dry_run('--dry_run', **{name: 'x'})
  assert done.returncode == 1
  assert f"{name} is 'x', wanted a whole number" in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--dryrun',), 'wanted at most cifar10 or a folder'),
    (('',), 'wanted at most cifar10 or a folder'),
    (('cifar10', 'cifar10'), 'wanted at most cifar10 or a folder'),
    (('--dry_run', 'absent'), 'there is no folder absent'),
  ],
)
def test_unknown_arguments_are_named(arguments, message):
  done = dry_run(*arguments)
  assert done.returncode == 1
  assert message in done.stderr


def flags_of(done):
  """Flags of the first two commands, name -> value."""
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == len(SCRIPTS)
  return [
    dict(flag[2:].partition('=')[::2] for flag in shlex.split(line)[3:])
    for line in lines[:2]
  ]


def test_cifar10_has_its_recipe():
  data, training = flags_of(dry_run('cifar10', '--dry_run'))
  assert data == {'study': 'runs/cifar10', 'source': 'cifar10'}
  wanted = {
    'end_sparsity': '0,0.3,0.5,0.7,0.9',
    'num_replicates': '10',
    'width': '0.25',
    'stem': '3x3_stride_2',
    'train_batch_size': '128',
    'train_steps': '5500',
    'decay': 'linear',
    'weight_decay': '0.0005',
  }
  assert wanted.items() <= training.items()
  assert 'decay_epochs' not in training
  _, training = flags_of(dry_run('--dry_run', 'cifar10', EPOCHS='2'))
  assert training['train_steps'] == '780'


def test_cifar10_is_read_from_an_archive_or_from_folders(tmp_path):
  archive = tmp_path / 'a copy.tar.gz'
  data, _ = flags_of(dry_run('cifar10', '--dry_run', CIFAR10=str(archive)))
  assert data == {
    'study': 'runs/cifar10',
    'source': 'cifar10',
    'archive': str(archive),
  }
  (tmp_path / 'train').mkdir()
  data, _ = flags_of(dry_run('cifar10', '--dry_run', CIFAR10=str(tmp_path)))
  wanted = {
    'source': 'folders',
    'dataset_name': 'cifar10',
    'train_directory': f'{tmp_path}/train',
    'validation_directory': f'{tmp_path}/test',
    'crop_padding': '4',
  }
  assert wanted.items() <= data.items()


@pytest.fixture
def surveyed(tmp_path):
  """Dry runs on a folder of which something is known."""

  def run(train, validation, number, side, folder='', **variables):
    python = tmp_path / 'environment' / 'bin' / 'python'
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(
      f"#!/bin/sh\nprintf '%s\\n' '{train}' '{validation}' {number} {side}\n"
    )
    python.chmod(0o755)
    photos = tmp_path / 'my photos'
    photos.mkdir(exist_ok=True)
    environment = str(tmp_path / 'environment')
    return flags_of(
      dry_run(
        '--dry_run', folder or f'{photos}/', VENV=environment, **variables
      )
    )

  return run


@pytest.mark.parametrize(
  ('number', 'batch', 'width', 'steps'),
  [
    (20, 32, '0.125', 400),
    (500, 32, '0.125', 32 * 15),
    (501, 64, '0.125', 400),
    (2000, 64, '0.125', 32 * 31),
    (2001, 64, '0.25', 20 * 31),
    (10000, 64, '0.25', 20 * 156),
    (10001, 128, '0.25', 10 * 78),
  ],
)
def test_the_recipe_follows_from_the_number_of_images(
  surveyed, number, batch, width, steps
):
  data, training = surveyed('a/train', 'a/test', number, 32)
  assert data['study'] == 'runs/my_photos'
  assert data['dataset_name'] == 'my_photos'
  assert data['train_directory'] == 'a/train'
  assert data['validation_directory'] == 'a/test'
  assert 'validation_fraction' not in data
  assert training['train_batch_size'] == str(batch)
  assert training['width'] == width
  assert training['train_steps'] == str(steps)
  assert int(training['sparsity_begin_step']) == steps // 6
  assert int(training['sparsity_end_step']) == steps * 7 // 8
  # A twelfth of the training, in epochs.
  epochs = steps / max(1, number // batch)
  assert abs(float(training['warmup_epochs']) - 0.08 * epochs) < 0.01


@pytest.mark.parametrize(
  ('side', 'size', 'resize', 'stem'),
  [
    (32, '32', '32', '3x3_stride_2'),
    (48, '32', '32', '3x3_stride_2'),
    (49, '64', '73', None),
    (96, '64', '73', None),
    (97, '128', '146', None),
  ],
)
def test_sizes_follow_from_the_images(surveyed, side, size, resize, stem):
  data, training = surveyed('a', '', 1200, side, STEPS='50')
  assert (data['image_size'], data['resize_size']) == (size, resize)
  assert ('crop_padding' in data) == (size == '32')
  assert ('crop_area_min' in data) == (size != '32')
  assert training.get('stem') == stem
  assert data['validation_fraction'] == '0.33'
  assert training['train_steps'] == '50'


def test_a_folder_is_looked_at(tmp_path):
  for name in ('train/a/1.png', 'train/b/2.png', 'val/a/3.png'):
    path = tmp_path / 'pets' / name
    path.parent.mkdir(parents=True)
    Image.new('RGB', (70, 60)).save(path)
  variables = {'VENV': sys.prefix}
  data, training = flags_of(
    dry_run('--dry_run', str(tmp_path / 'pets'), **variables)
  )
  assert data['validation_directory'] == f'{tmp_path}/pets/val'
  assert data['image_size'] == '64'
  assert training['train_batch_size'] == '32'
  (tmp_path / 'pets/train/a/1.png').write_bytes(b'x')
  done = dry_run('--dry_run', str(tmp_path / 'pets'), **variables)
  assert done.returncode == 1
  assert '1.png' in done.stderr and 'Traceback' not in done.stderr


def test_stages_are_counted_from_one(chain):
  chain.run()
  for number, name in enumerate(SCRIPTS, 1):
    assert re.search(rf'\[{number}\] python -m \w+\.{name}\b', chain.printed)


def test_a_folder_is_one_wherever_it_lies(surveyed):
  data, training = surveyed('docs', '', 20, 32, folder='docs')
  assert data['study'] == 'runs/docs'
  assert data['source'] == 'folders'
  assert training['train_steps'] == '400'
