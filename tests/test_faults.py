"""Full disks, forbidden folders, Ctrl-C: one clear line, and nothing is lost.

Faults come before the n-th touch of a file, as in test_kills.py, and for real:
on small file systems in memory, where the tests may mount them, and by signals
to processes with workers of their own.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.stages import (
  COSTLY,
  STAGES,
  assert_nothing_partial,
  assert_same,
  files,
  fill_disk,
  interrupt,
  points,
  strike_each,
)

ROOT = pathlib.Path(__file__).parent.parent


def strike_some(runner, chain, stage, long, strike, check):
  """Strikes before some touches of a file; skips where there are none."""
  sampled, many = (0, 4) if str(stage) in COSTLY else (1, 15)
  _, _, touches, _ = chain[str(stage)]
  tried = points(f'faults {stage}', touches, many if long else sampled)
  if not tried:
    pytest.skip('with --long')
  strike_each(runner, stage, chain, tried, strike, check)


def assert_one_clear_line(process, start, code):
  """The exit code, and a last line in place of a traceback."""
  log = process.log.read_text()
  assert process.exitcode == code, log[-3000:]
  assert 'Traceback' not in log, log[-3000:]
  last = log.strip().splitlines()[-1]
  assert last.startswith(start), log[-3000:]
  return last


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_a_disk_that_is_full_from_any_touch_on(
  runner, chain, stage, long, tally
):
  def names_the_file(process):
    last = assert_one_clear_line(process, 'error: ', 1)
    assert 'No space left on device' in last
    # The file by its final name, or the folder it should lie in.
    named = last.removeprefix('error: ').split(' cannot be written')[0]
    assert not os.path.basename(named).startswith('.'), last
    tally['disks full from a touch of a file on'] += 1

  strike_some(runner, chain, stage, long, fill_disk, names_the_file)


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_interrupted_before_any_touch(runner, chain, stage, long, tally):
  def says_so(process):
    assert_one_clear_line(process, 'interrupted: ', 130)
    tally['interrupts before a touch of a file'] += 1

  strike_some(runner, chain, stage, long, interrupt, says_so)


@pytest.fixture
def disk(tmp_path):
  """A function that makes a file system of its own with so much left to use."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=256m', 'none', str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('mounting a file system needs root')

  def remount(options):
    subprocess.run(['mount', '-o', f'remount,{options}', folder], check=True)

  yield folder, remount
  subprocess.run(['umount', '--lazy', folder], check=True)


def used_bytes(folder):
  state = os.statvfs(folder)
  return (state.f_blocks - state.f_bfree) * state.f_frsize


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_a_disk_that_is_really_full(runner, chain, stage, long, disk, tally):
  """TensorFlow's own writes fail as well: of checkpoints, say."""
  before, after, *_ = chain[str(stage)]
  folder, remount = disk
  sizes = [
    sum(-(-path.stat().st_size // 4096) * 4096 for path in files(each).values())
    for each in (before, after)
  ]
  added = sizes[1] - sizes[0]
  for share in (0.1, 0.5, 0.9) if long else (0.5,):
    shutil.copytree(before, folder / 'run')
    room = int(share * added) // 4096 * 4096
    remount(f'size={used_bytes(folder) + room}')
    process = runner.run(stage, folder / 'run')
    last = assert_one_clear_line(process, 'error: ', 1)
    assert 'No space left on device' in last
    assert ' cannot be written' in last
    assert_nothing_partial(folder / 'run', after)
    remount('size=256m')
    runner.finish(stage, folder / 'run')
    assert_same(folder / 'run', after)
    shutil.rmtree(folder / 'run')
    tally['disks really full'] += 1


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_a_folder_that_cannot_be_written_to(runner, chain, stage, disk):
  before, _, *_ = chain[str(stage)]
  folder, remount = disk
  shutil.copytree(before, folder / 'run')
  remount('ro')
  process = runner.run(stage, folder / 'run')
  last = assert_one_clear_line(process, 'error: ', 1)
  assert 'Read-only file system' in last
  assert_same(folder / 'run', before)


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_a_file_where_a_folder_should_be(runner, chain, stage):
  """Or the other way round, for what lies in a folder that is there."""
  before, after, *_ = chain[str(stage)]
  folder = runner.copy(before)
  new = [p for n, p in sorted(files(after).items()) if n not in files(before)]
  relative = next(p for p in new if '.run.json' not in p.name).relative_to(
    after
  )
  missing = next(
    parent
    for parent in reversed([relative, *relative.parents])
    if not (folder / parent).exists()
  )
  if missing == relative:
    (folder / missing).mkdir()
    (folder / missing / 'something').write_text('')
  else:
    (folder / missing).write_text('')
  process = runner.run(stage, folder)
  last = assert_one_clear_line(process, 'error: ', 1)
  assert str(missing.name) in last


WITH_WORKERS = {
  'aggregate_predictions': '--num_cores=2',
  'generate_pie_dataset': '--num_cores=2',
}


@pytest.mark.parametrize('name', list(WITH_WORKERS))
def test_ctrl_c_ends_a_script_and_its_workers(runner, chain, name, long, tally):
  """As a terminal sends it: to the script and to its workers."""
  stage = next(stage for stage in STAGES if str(stage) == name)
  before, after, *_ = chain[name]
  random_numbers = random.Random(name)
  moments = 10 if long else 2
  interrupted = 0
  for _ in range(moments):
    folder = runner.copy(before)
    written = folder / (
      'pie' if 'pie' in name else 'results/digits/modal_labels'
    )
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'tests.run_in_processes', stage.script),
        *(*stage.flags, WITH_WORKERS[name]),
      ],
      cwd=folder,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    while process.poll() is None and not written.exists():
      time.sleep(0.001)
    time.sleep(random_numbers.uniform(0, 0.02))
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGINT)
    _, log = process.communicate(timeout=60)
    # What a shell calls 130 is a death by the signal while Python ends itself.
    assert process.returncode in (0, 130, -signal.SIGINT), log
    if process.returncode == 130:
      interrupted += 1
      tally['interrupts at random moments'] += 1
      # Said before all else; a worker that was only being started finds its
      # parent gone, and may say so after it.
      before_it, said, _ = log.partition('interrupted: ')
      assert said, log
      assert 'Traceback' not in before_it
    assert_nothing_partial(folder, after)
    runner.finish(stage, folder)
    assert_same(folder, after)
  assert interrupted


@pytest.mark.parametrize('seconds', [0.05, 2])
def test_workers_end_at_once_and_in_silence(seconds):
  """Whether they are at work or still being started."""
  script = """if True:
    import time
    from utils import command_line, workers
    if __name__ == '__main__':
      def main(argv):
        with workers.processes(2) as pool:
          print(flush=True)
          list(pool.map(time.sleep, [60, 60, 60]))
      command_line.run_script(main, lambda: None)
  """
  process = subprocess.Popen(
    [sys.executable, '-c', script],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  process.stdout.readline()
  time.sleep(seconds)
  os.killpg(process.pid, signal.SIGINT)
  _, log = process.communicate(timeout=20)
  assert process.returncode == 130
  assert log.startswith('interrupted: '), log
  assert len(log.splitlines()) == 1
