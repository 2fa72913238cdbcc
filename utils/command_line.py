"""How every script starts, fails, and records where its results came from.

A script ends in

  if __name__ == '__main__':
    command_line.run_script(main, define_flags)

so that its flags exist only when it is the program (two scripts may define
flags of one name), and bad input ends in one clear line and exit code 1.
"""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterable

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
      sys.exit(
        'interrupted: finished files are complete; run it again to go on'
      )

  app.run(guarded_main)


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
    'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(
      timespec='seconds'
    ),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'packages': _versions(),
    'inputs': [describe_file(path) for path in sorted(set(inputs))],
    **facts,
  }
  paths.write_complete(
    paths.provenance(folder, script.rsplit('.', 1)[-1]),
    json.dumps(record, indent=1, sort_keys=True, default=str) + '\n',
  )


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
