"""Chain after chain, each stage killed again and again: what is left of it?

  python -m tests.benchmarks.long_run --minutes=60

Runs the chain of the tests in a new folder each time. A stage is killed at
random moments, one kill after the other, and then finished; the results have to
be those of a chain that nobody killed. After each chain a line says how many
kills there were so far and what there is of what should not grow:

- processes that this one has started, open files and memory of all of them;
- hidden files among the results;
- files that kills left in the folder of temporary files, which nobody removes
  but the machine: TensorFlow's, mostly.

It ends with exit code 1 where processes, open files or hidden files grew since
the first chain, or memory by more than 100 MB. A chain with four kills a stage
takes about two minutes on two free cores.
"""

import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from absl import app, flags

from tests import stages

FLAGS = flags.FLAGS
_MAY_GROW = {'MB': 100, 'temporary files': sys.maxsize}


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_float('minutes', 60, 'No chain is begun later.', lower_bound=0)
  flags.DEFINE_integer('kills', 4, 'Of a stage, in a chain.', lower_bound=1)


def started_here(marker: str) -> list[pathlib.Path]:
  """Folders in /proc of the processes that were started with a variable.

  Also of those whose parent was killed.
  """
  found = []
  for process in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if marker.encode() in (process / 'environ').read_bytes().split(b'\0'):
        found.append(process)
    except OSError:
      continue  # It ended, or is another user's.
  return found


def measure(scratch: pathlib.Path, study: pathlib.Path) -> dict[str, int]:
  """What should not grow, by its name."""
  processes = started_here(f'TMPDIR={scratch}')
  status = [(process / 'status').read_text() for process in processes]
  kilobytes = [int(text.partition('VmRSS:')[2].split()[0]) for text in status]
  return {
    'processes': len(processes),
    'open files': sum(len(os.listdir(one / 'fd')) for one in processes),
    'MB': sum(kilobytes) >> 10,
    'hidden files': sum(path.name[0] == '.' for path in study.rglob('*')),
    'temporary files': sum(
      not path.name.startswith(('log-', 'note-', 'folder-'))
      for path in scratch.iterdir()
    ),
  }


def run_chain(runner, kills, moments, seconds) -> tuple[pathlib.Path, int]:
  """Runs all stages in a new folder; returns it and how many were killed.

  Args:
    runner: of the stages.
    kills: how often each stage is struck.
    moments: random numbers.
    seconds: stage -> how long it takes; filled where it lacks one.
  """
  study = runner.scratch / f'folder-{moments.getrandbits(32):08x}'
  study.mkdir()
  killed = 0
  for stage in stages.STAGES:
    for _ in range(kills if str(stage) in seconds else 0):
      process = runner.start(stage, study)
      process.join(moments.uniform(0, seconds[str(stage)]))
      process.kill()
      process.join()
      killed += process.exitcode == -signal.SIGKILL
      process.close()
    begun = time.monotonic()
    runner.finish(stage, study)
    seconds.setdefault(str(stage), time.monotonic() - begun)
  stages.remove_page(study)
  return study, killed


def main(argv: list[str]) -> None:
  """Runs chains until the time is over."""
  del argv
  end = time.monotonic() + 60 * FLAGS.minutes
  with tempfile.TemporaryDirectory() as folder:
    scratch = pathlib.Path(folder)
    os.environ['TMPDIR'] = folder
    runner = stages.Runner(scratch)
    moments, seconds = random.Random(0), {}
    whole, _ = run_chain(runner, 0, moments, seconds)
    killed, first, chains = 0, None, 0
    while first is None or time.monotonic() < end:
      study, number = run_chain(runner, FLAGS.kills, moments, seconds)
      stages.assert_same(study, whole)
      found = measure(scratch, study)
      shutil.rmtree(study)
      killed, chains, first = killed + number, chains + 1, first or found
      said = ', '.join(f'{number} {name}' for name, number in found.items())
      print(f'{chains} chains, {killed} kills: {said}', flush=True)
    grown = [
      name
      for name, number in found.items()
      if number > first[name] + _MAY_GROW.get(name, 0)
    ]
  if grown:
    sys.exit(f'error: these grew since the first chain: {", ".join(grown)}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
