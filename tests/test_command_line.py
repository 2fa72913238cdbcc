"""How scripts start, take a study's defaults, and end."""

import pathlib
import subprocess
import sys

import pytest
from absl import flags

from tests.test_imports import files, is_script, module
from utils import command_line, image_records, paths, storage

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = [module(file) for file in files() if is_script(file)]
HELP = """
import runpy, sys
sys.argv = [%r, '--help']
try:
  runpy.run_module(%r, run_name='__main__', alter_sys=True)
except SystemExit:
  pass
sys.stdout.flush()
assert not {'tensorflow', 'tf_keras'} & sys.modules.keys()
"""


def run(script, *arguments):
  return subprocess.run(
    [sys.executable, '-c', script, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_needs_no_tensorflow(script):
  process = run(HELP % (script, script))
  assert process.returncode == 0, process.stderr
  assert not process.stderr
  assert '\n  --' in process.stdout


def test_importing_a_script_imports_no_tensorflow():
  process = run(
    f'import sys, {", ".join(SCRIPTS)}\n'
    "assert not {'tensorflow', 'tf_keras'} & sys.modules.keys()\n"
  )
  assert process.returncode == 0, process.stderr


STARTED = """
from utils import command_line
def main(argv):
  %s
command_line.run_script(main, lambda: None)
"""


@pytest.mark.parametrize(
  ('body', 'arguments', 'code', 'message'),
  [
    ('pass', (), 0, ''),
    ("raise ValueError('a is 1, wanted 2')", (), 1, 'error: a is 1, wanted 2'),
    ("raise OSError('full')", (), 1, 'error: full'),
    ('raise KeyboardInterrupt', (), 130, 'interrupted: finished files are'),
    ('pass', ('x',), 1, "error: unexpected arguments ['x']; flags start"),
    ('raise KeyError(3)', (), 1, 'Traceback'),
  ],
)
def test_a_script_ends_in_one_clear_line(body, arguments, code, message):
  process = run(STARTED % body, *arguments)
  assert process.returncode == code
  assert message in process.stderr
  if message != 'Traceback':
    assert process.stderr.count('\n') == (1 if message else 0)


def values(*arguments, defined=('data', 'out'), names=True):
  """Flags as a script has them, parsed."""
  found = flags.FlagValues()
  flags.DEFINE_string('study', '', 'help', flag_values=found)
  for name in defined:
    flags.DEFINE_string(name, '', 'help', flag_values=found)
  flags.DEFINE_list('ckpt_dir', [], 'help', flag_values=found)
  if names:
    flags.DEFINE_string('dataset_name', '', 'help', flag_values=found)
  found(['script', *arguments])
  return found


REQUIRED = {'data': 'data', 'out': 'results'}


def test_a_study_gives_what_no_flag_says(tmp_path):
  f = values(f'--study={tmp_path}/pets', '--out=elsewhere')
  command_line.with_study(f, {**REQUIRED, 'ckpt_dir': 'checkpoints'})
  study = paths.Study(f'{tmp_path}/pets', 'pets')
  assert (f.data, f.out) == (study.data, 'elsewhere')
  assert f.ckpt_dir == [study.checkpoints]
  assert f.dataset_name == 'pets'


def test_without_a_study_a_missing_flag_is_named():
  with pytest.raises(ValueError, match='--out is missing: wanted it, or --st'):
    command_line.with_study(values('--data=x'), REQUIRED)
  f = values('--data=x', '--out=y')
  command_line.with_study(f, REQUIRED, {'ckpt_dir': 'checkpoints'})
  assert (f.data, f.out, f.ckpt_dir, f.dataset_name) == ('x', 'y', [], '')


def test_what_may_lack_is_taken_where_it_lies(tmp_path):
  for there in (False, True):
    f = values(f'--study={tmp_path}')
    study = paths.Study(str(tmp_path), tmp_path.name)
    if there:
      storage.write_complete(study.data + '/x', '')
    command_line.with_study(f, {'out': 'results'}, {'data': 'data'})
    assert f.data == (study.data if there else '')


def test_the_name_is_the_flags_the_descriptions_or_the_folders(tmp_path):
  def name(*more, attribute='name'):
    f = values(f'--study={tmp_path}', *more)
    command_line.with_study(f, {'ckpt_dir': 'checkpoints'}, name=attribute)
    (folder,) = f.ckpt_dir
    return f.dataset_name, storage.name(folder)

  assert name() == (tmp_path.name, tmp_path.name)
  image_records.write(
    str(tmp_path / 'data'), image_records.ImageRecords('pets', ('a', 'b'))
  )
  assert name() == ('pets', 'pets')
  assert name(attribute='corrupted_name') == ('pets_c', 'pets')
  assert name('--dataset_name=other') == ('other', 'other')


def test_numbers_and_fractions():
  assert command_line.numbers('a', ['1', ' 2.5', '']) == (1, 2.5)
  assert command_line.fractions('a', ['0', '1', '0.5']) == (0, 1, 0.5)
  assert command_line.numbers('a', []) == ()
  with pytest.raises(ValueError, match="--a is '1,x', wanted numbers"):
    command_line.numbers('a', ['1', 'x'])
  for bad in ('-0.1', '1.5', 'nan', 'inf'):
    with pytest.raises(ValueError, match=r'--a is .*wanted fractions in'):
      command_line.fractions('a', [bad])
