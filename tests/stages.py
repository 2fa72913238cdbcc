"""The chain at a tiny size, each stage in a process that is forked and struck.

Forked after the imports, a stage takes less than a second, not eight. It can be
struck before the n-th thing it does to a file.
"""

import builtins
import dataclasses
import errno
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
# What makes a stage of run.sh take a second; of a flag that is given twice, the
# last one counts.
_TINY = {
  'build_image_data': ('--test_small_sample', '--validation_shards=2'),
  'imagenet_train_eval': (
    '--end_sparsity=0,0.9',
    '--num_replicates=2',
    '--train_batch_size=8',
    '--train_steps=4',
    '--steps_per_checkpoint=2',
    '--keep_checkpoints=1',
    '--sparsity_begin_step=0',
    '--sparsity_end_step=2',
    '--pruning_frequency=1',
    '--warmup_epochs=0',
    '--decay_epochs=1',
    '--base_learning_rate=0.1',
  ),
  'quantise_checkpoints': ('--calibration_images=8', '--num_processes=1'),
  'aggregate_predictions': ('--num_cores=1',),
  'generate_pie_dataset': ('--num_cores=1',),
  'measure_costs': ('--num_cores=1',),
  'measure_corrupted_costs': ('--num_cores=1',),
  'build_corruptions': ('--corruptions=brightness', '--severities=1,3'),
  'gallery': ('--others_per_class=1',),
}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A script with its flags; the study is the folder that it runs in."""

  script: str
  flags: tuple[str, ...]

  def __str__(self):
    return self.script.split('.')[-1]

  def but(self, *flags: str) -> 'Stage':
    """The stage with further flags, which win over its own."""
    return Stage(self.script, (*self.flags, *flags))


def commands(**variables: str) -> list[list[str]]:
  """The words of each command that run.sh would run, from its module on."""
  printed = subprocess.run(
    [str(ROOT / 'run.sh'), '--dry_run'],
    env={**os.environ, **variables},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  return [shlex.split(line)[2:] for line in printed.splitlines()]


def _stages() -> tuple[Stage, ...]:
  stages = (
    Stage(script, tuple(flags)) for script, *flags in commands(STUDY='.')
  )
  return tuple(stage.but(*_TINY.get(str(stage), ())) for stage in stages)


STAGES = _stages()
# What scripts import only when they need it; every fork would do it anew.
_IMPORTED_LATE = (
  'tensorflow',
  'tensorflow_model_optimization',
  'matplotlib.backends.backend_svg',
  'sklearn.datasets',
)
COSTLY = (
  'imagenet_train_eval',
  'quantise_checkpoints',
  'imagenet_predictions',
  'imagenet_corruptions',
)


class Faults:
  """Counts what this process does to files, and strikes before the n-th."""

  def __init__(self, strike, at: int):
    """Takes the place of what opens, writes, renames and removes.

    Args:
      strike: called with the name of what would happen.
      at: how many things go well before it; strikes at all that follow, too.
    """
    import tensorflow as tf

    self.seen = 0
    self._strike, self._at = strike, at
    self._root = os.getcwd()
    for name in ('mkdir', 'open', 'remove', 'rename', 'replace', 'unlink'):
      setattr(os, name, self._watched(getattr(os, name)))
    os.fsync = self._watched(os.fsync)
    builtins.open = functools.partial(self._open, builtins.open)
    for name in ('makedirs', 'remove', 'rename'):
      function = getattr(tf.io.gfile, name)
      setattr(tf.io.gfile, name, self._watched(function, 'TF '))
    tf.raw_ops.SaveV2 = self._watched(tf.raw_ops.SaveV2, 'TF ')
    tf.io.TFRecordWriter = functools.partial(self._writer, tf.io.TFRecordWriter)

  def _before(self, what):
    if self.seen >= self._at:
      self._strike(what)
    self.seen += 1

  def _watched(self, function, of=''):
    @functools.wraps(function)
    def watched(*args, **kwargs):
      # Absolute paths are others' (caches of fonts, shared memory).
      if not (args and os.path.isabs(str(args[0]))):
        self._before(of + function.__name__)
      return function(*args, **kwargs)

    return watched

  def _open(self, function, path, mode='r', *args, **kwargs):
    if isinstance(path, int) or os.path.isabs(path) or mode in ('r', 'rb'):
      return function(path, mode, *args, **kwargs)
    self._before('open')
    return WatchedFile(function(path, mode, *args, **kwargs), self._before)

  def _writer(self, function, path):
    self._before('TF open')
    return WatchedFile(function(path), self._before, 'TF ')


class WatchedFile:
  """A file that is struck before, and in the middle of, what it writes."""

  def __init__(self, file, before, of=''):
    self._file, self._before, self._of = file, before, of

  def __getattr__(self, name):
    return getattr(self._file, name)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._file.close()

  def write(self, data):
    self._before(f'{self._of}write')
    if self._of:
      return self._file.write(data)
    half = len(data) // 2
    self._file.write(data[:half])
    self._file.flush()
    self._before('rest of write')
    return half + self._file.write(data[half:])

  def close(self):
    self._before(f'{self._of}close')
    self._file.close()


def kill(what):
  """Nothing is tidied up."""
  del what
  os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(what):
  """Nothing more can be written; removing goes on."""
  import tensorflow as tf

  message = os.strerror(errno.ENOSPC)
  if what.startswith('TF ') and what != 'TF remove':
    raise tf.errors.ResourceExhaustedError(None, None, message)
  if what not in ('TF remove', 'close', 'remove', 'unlink'):
    raise OSError(errno.ENOSPC, message)


_interrupted = []


def interrupt(what):
  """Ctrl-C, once, by whichever thread."""
  if not _interrupted:
    _interrupted.append(what)
    os.kill(os.getpid(), signal.SIGINT)


def _child(stage, folder, log, strike, at, note, environment):
  os.chdir(folder)
  os.environ.update(environment)
  # TensorFlow's temporary files go when a process ends well, and few do.
  tempfile.tempdir = os.path.dirname(log)
  for descriptor in (1, 2):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
  assert 'tensorflow' in sys.modules, 'imported anew by every stage'
  faults = Faults(strike, at)
  sys.argv = [stage.script, *stage.flags]
  script = importlib.import_module(stage.script)
  from utils import command_line

  try:
    command_line.run_script(script.main, script.define_flags)
  finally:
    pathlib.Path(note).write_text(str(faults.seen))


class Runner:
  """Runs stages in processes that are forked after the imports."""

  def __init__(self, scratch: pathlib.Path):
    self.scratch = scratch
    self._context = multiprocessing.get_context('forkserver')
    self._context.set_forkserver_preload(
      [*_IMPORTED_LATE, *(s.script for s in STAGES)]
    )
    self._numbers = itertools.count()
    # Its own start is no part of the first stage's time.
    first = self._context.Process(target=int)
    first.start()
    first.join()

  def start(self, stage, folder, at=sys.maxsize, strike=kill, environment=None):
    number = next(self._numbers)
    log, note = (str(self.scratch / f'{x}-{number}') for x in ('log', 'note'))
    process = self._context.Process(
      target=_child,
      args=(
        *(stage, str(folder), log, strike, at, note),
        environment or {},
      ),
    )
    process.start()
    process.log, process.note = pathlib.Path(log), pathlib.Path(note)
    return process

  def run(self, stage, folder, at=sys.maxsize, strike=kill):
    process = self.start(stage, folder, at, strike)
    process.join()
    return process

  def finish(self, stage, folder):
    """Runs a stage to its end; returns how often it touched a file."""
    process = self.run(stage, folder)
    assert process.exitcode == 0, process.log.read_text()[-3000:]
    return int(process.note.read_text())

  def copy(self, folder):
    new = self.scratch / f'folder-{next(self._numbers)}'
    # Nothing that is there may be written to, so links are copies.
    shutil.copytree(folder, new, copy_function=os.link)
    return new


def points(seed, touches, number):
  """A random choice of the numbers of touches after which to strike."""
  return random.Random(seed).sample(range(touches), min(number, touches))


def strike_each(runner, stage, chain, tried, strike, check):
  """Strikes a stage before each of some touches of a file, and recovers.

  Args:
    runner: runs it.
    stage: which.
    chain: the `chain` fixture: what stands before and after each stage.
    tried: numbers of touches.
    strike: as of `Faults`.
    check: called with the process that was struck.
  """
  before, after, *_ = chain[str(stage)]
  for at in tried:
    folder = runner.copy(before)
    check(runner.run(stage, folder, at, strike))
    assert_nothing_partial(folder, after)
    runner.finish(stage, folder)
    assert_same(folder, after)
    shutil.rmtree(folder)


def files(folder):
  """Name -> path, unfinished files included."""
  return {
    str(path.relative_to(folder)): path
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def content(path):
  """Bytes; of what holds times, that it can be read."""
  if path.name.endswith('.run.json'):
    record = json.loads(path.read_bytes())
    return sorted(record), record.get('settings'), record.get('made_from')
  return b'' if 'tfevents' in path.name else path.read_bytes()


def remove_page(study):
  """Removes index.html, which lists when each command ended."""
  next(pathlib.Path(study).rglob('index.html')).unlink()


def assert_same(folder, whole):
  """All files are the same ones: nothing is lost, nothing is left over."""
  found, wanted = files(folder), files(whole)
  # Each start of a training has a file of events of its own.
  found, wanted = (
    {n: p for n, p in some.items() if 'tfevents' not in n}
    for some in (found, wanted)
  )
  assert sorted(found) == sorted(wanted)
  for name, path in wanted.items():
    assert content(found[name]) == content(path), name


def assert_nothing_partial(folder, whole):
  """What has its final name is complete."""
  from utils import checkpoints, table_digests

  wanted = files(whole)
  found = files(folder)
  for name, path in found.items():
    if path.name.startswith('.') or 'tfevents' in name:
      continue
    if path.name.endswith('.run.json'):
      json.loads(path.read_bytes())
    elif path.name == table_digests.FILE_NAME:
      # Of the tables that are written by now, and of the next one.
      noted, later = (
        json.loads(some.read_bytes()) for some in (path, wanted[name])
      )
      assert noted == {table: later[table] for table in noted}
    elif '.index' in name or '.data-' in name:
      if name.endswith('.index'):
        # All of it, by checksums; where no index is, is no checkpoint.
        checkpoints.read_bundle(str(path.with_suffix('')))
    else:
      assert path.read_bytes() == wanted[name].read_bytes(), name
