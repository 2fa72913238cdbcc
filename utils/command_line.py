"""How every script starts, fails, and records where its results came from.

A script ends in

  if __name__ == '__main__':
    command_line.run_script(main, define_flags)

so that its flags exist only when it is the program (two scripts may define
flags of one name), and bad input ends in one clear line and exit code 1.
"""

import concurrent.futures
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from absl import app, flags, logging
from etils import epath

from utils import paths

_PACKAGES = (
  'absl-py',
  'matplotlib',
  'numpy',
  'pandas',
  'pillow',
  'scikit-learn',
  'scipy',
  'tensorflow',
  'tensorflow-model-optimization',
  'tf_keras',
)
# What a shell reports of a process that Ctrl-C ended: 128 + SIGINT.
_INTERRUPTED = 130
# Larger inputs are named with their size only: reading ImageNet once more to
# print a checksum would double the time of some scripts.
_DIGEST_LIMIT_BYTES = 16 * 2**20


def run_script(
  main: Callable[[list[str]], None], define_flags: Callable[[], None]
) -> None:
  """Defines the flags and runs main; bad input exits with one clear line.

  ValueError and OSError are what input can cause: a wrong flag, a damaged or
  missing file, a full disk. Anything else is a fault of the program and shows
  its traceback.
  """
  define_flags()
  logging.set_verbosity(logging.INFO)

  def guarded_main(argv):
    if len(argv) > 1:
      sys.exit(f'error: unexpected arguments {argv[1:]}; flags start with --')
    try:
      main(argv)
    except (ValueError, OSError) as error:
      logging.debug('%s', error, exc_info=True)
      sys.exit(f'error: {error}')
    except KeyboardInterrupt:
      message = (
        'interrupted: finished files are complete; run it again to go on'
      )
      print(message, file=sys.stderr)
      sys.exit(_INTERRUPTED)

  app.run(guarded_main)


@contextlib.contextmanager
def processes(
  number: int,
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
  """Worker processes, which Ctrl-C ends at once and without a word.

  Whoever started them says what there is to say, once. They are no forks, which
  neither TensorFlow nor the clients of buckets survive.
  """
  pool = concurrent.futures.ProcessPoolExecutor(
    number, multiprocessing.get_context('spawn'), _end_on_interrupt
  )
  try:
    # While they start they wait with it: imports would show a traceback.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
      for _ in range(number):
        pool.submit(os.getpid)
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, former)
    yield pool
  finally:
    pool.shutdown(cancel_futures=True)


def _end_on_interrupt() -> None:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Provenance:
  """The record of a command that adds to the results it finds in a folder.

  It is written before the first result, so that a killed command has one, and
  again at the end. Whoever adds results with other settings is refused: a
  folder never holds a mixture that nothing in it tells apart.
  """

  def __init__(self, folder: str, script: str, settings: Mapping[str, object]):
    """Compares the settings with those of the results that are there.

    Args:
      folder: where the results lie.
      script: the module's name, `room.script`.
      settings: all that decides about the bytes of a result, as JSON. Of a
        mapping (shard -> digest, say) what both have is compared and what one
        has is added, since machines may share the work.

    Raises:
      ValueError: results there were made with other settings; names them.
    """
    self._folder, self._script = folder, script
    self._settings = json.loads(json.dumps(settings))
    self._started = ''
    self._former()

  def _former(self) -> dict[str, object]:
    path = paths.provenance(self._folder, self._script.rsplit('.', 1)[-1])
    if not paths.exists(path):
      return {}
    former = read_record(path)
    settings = former.get('settings', {})
    if not isinstance(settings, dict):
      raise ValueError(f'{path} is damaged: settings is no object')
    differ = []
    self._settings = _united(settings, self._settings, differ)
    if differ:
      raise ValueError(
        f'{self._folder} holds results that were made with other settings: '
        f'{"; ".join(differ[:4])}{"; ..." if len(differ) > 4 else ""}. Use the '
        'same to go on, or another folder; or remove the results and '
        f'{path} to have them made again'
      )
    return former

  def start(self) -> None:
    """Writes the record, before the first result; once."""
    if not self._started:
      self._former()
      self._started = _now()
      self._write('', [])

  def finish(self, inputs: Iterable[str], **facts) -> None:
    """Completes the record, unless there was nothing to do.

    Args:
      inputs: files that were read.
      **facts: as of `write_provenance`.

    Raises:
      ValueError: another process added results with other settings meanwhile.
    """
    former = self._former()
    if self._started or former.get('finished') == '':
      self._started = self._started or former['started']
      self._write(_now(), inputs, **facts)

  def _write(self, finished, inputs, **facts):
    write_provenance(
      self._folder,
      self._script,
      inputs,
      **{'started': self._started, 'finished': finished, **facts},
      settings=self._settings,
    )


def _united(before: dict, now: dict, differ: list[str], within: str = ''):
  united = {**before, **now}
  for name in sorted(before.keys() & now.keys()):
    if isinstance(before[name], dict) and isinstance(now[name], dict):
      united[name] = _united(before[name], now[name], differ, f'{name} ')
    elif before[name] != now[name]:
      was, is_now = (str(some[name])[:60] for some in (before, now))
      differ.append(f'{within}{name} was {was}, is {is_now}')
  return united


def read_record(path: str) -> dict[str, object]:
  """Reads a record, as `write_provenance` writes it.

  Raises:
    ValueError: it is no JSON object; names the file.
  """
  try:
    record = json.loads(epath.Path(path).read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is damaged, no JSON: {error}') from None
  if not isinstance(record, dict):
    raise ValueError(f'{path} is damaged: wanted a JSON object')
  return record


def write_provenance(
  folder: str, script: str, inputs: Iterable[str], **facts
) -> None:
  """Records beside the results which command made them.

  Args:
    folder: where the results lie.
    script: the module's name, `room.script`.
    inputs: files that were read.
    **facts: anything else a reader should know (seeds, device), as JSON.
  """
  record = {
    'script': script,
    'command': sys.argv,
    'flags': {
      flag.name: flag.value
      for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    },
    'finished': _now(),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'packages': _versions(),
    'inputs': _describe_files(inputs),
    **facts,
  }
  paths.write_complete(
    paths.provenance(folder, script.rsplit('.', 1)[-1]),
    json.dumps(record, indent=1, sort_keys=True, default=str) + '\n',
  )


def _now() -> str:
  return datetime.datetime.now(datetime.timezone.utc).isoformat(
    timespec='seconds'
  )


def digest(files: Iterable[str]) -> str:
  """A checksum of what files hold, wherever they lie: 16 hexadecimal digits.

  Of large files (`describe_file`) the size counts, not the content.
  """
  return _checksum(_describe_files(files))


def digests(files: Mapping[str, str]) -> dict[str, str]:
  """The `digest` of each of some files, by the name that stands for it."""
  described = {file['path']: file for file in _describe_files(files.values())}
  return {name: _checksum([described[path]]) for name, path in files.items()}


def _checksum(described: Iterable[Mapping[str, object]]) -> str:
  contents = [(file['bytes'], file.get('sha256')) for file in described]
  return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def _describe_files(files: Iterable[str]) -> list[dict[str, object]]:
  # A bucket answers slowly, and many questions at once.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(describe_file, sorted(set(files))))


def describe_file(path: str) -> dict[str, object]:
  """A file's path, size in bytes and, unless it is large, its SHA-256."""
  file = epath.Path(path)
  size = file.stat().length
  described = {'path': str(path), 'bytes': size}
  if size <= _DIGEST_LIMIT_BYTES:
    described['sha256'] = hashlib.sha256(file.read_bytes()).hexdigest()
  return described


def _versions() -> dict[str, str]:
  found = {}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
