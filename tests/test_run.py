"""run.sh's own part: what it prints, what it runs again, and what it skips.

The scripts are played by one that makes a file and a record, so that a chain
takes a second; test_chain.py has the real ones.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

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


@pytest.mark.parametrize('name', ['REPLICATES', 'EPOCHS'])
def test_wrong_variables_are_named(name):
  done = dry_run('--dry_run', **{name: 'x'})
  assert done.returncode == 1
  assert f"{name} is 'x', wanted a whole number" in done.stderr


@pytest.mark.parametrize('arguments', [('--dryrun',), ('--dry_run', 'x')])
def test_unknown_arguments_are_named(arguments):
  done = dry_run(*arguments)
  assert done.returncode == 1
  assert 'wanted none or --dry_run' in done.stderr
