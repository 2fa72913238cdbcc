"""How a script starts, finds its study, and ends.

A script ends in

  if __name__ == '__main__':
    command_line.run_script(main, define_flags)

so that its flags exist only when it is the program (two scripts may define
flags of one name), and bad input ends in one clear line and exit code 1. What
--study says of its paths it takes from `with_study`.
"""

import dataclasses
import importlib
import logging as python_logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from etils import epath

from utils import image_records, paths, storage, tensorflow_start


class Interrupted(KeyboardInterrupt):
  """The end that a signal asked for, when a script has saved its work."""

  def __init__(self, message: str, number: int):
    """Takes what the script says at its end.

    Args:
      message: where its work stands.
      number: of the signal.
    """
    super().__init__(message)
    self.number = number


def say_interrupted(
  message: str = 'finished files are complete; run it again to go on',
  number: int = signal.SIGINT,
) -> int:
  """Says it in one line; returns the exit code, a shell's for the signal."""
  print(f'interrupted: {message}', file=sys.stderr, flush=True)
  return 128 + number


def run_script(
  main: Callable[[list[str]], None], define_flags: Callable[[], None]
) -> None:
  """Defines the flags and runs main; bad input exits with one clear line.

  ValueError and OSError are what input can cause: a wrong flag, a damaged or
  missing file, a full disk; a bucket that gave no answer, errors of its client.
  Anything else is a fault of the program and shows its traceback.
  """
  tensorflow_start.hush()
  # It shows a traceback whenever it gives up, and names each cache of a file.
  for name in ('gcsfs', 'fsspec'):
    python_logging.getLogger(name).setLevel(python_logging.CRITICAL)
  module = sys.modules['__main__'].__spec__
  if main.__module__ == '__main__' and module:
    # What a cluster's workers are sent has the name by which they import it.
    main = importlib.import_module(module.name).main
  define_flags()
  logging.set_verbosity(logging.INFO)

  def guarded_main(argv):
    if len(argv) > 1:
      sys.exit(f'error: unexpected arguments {argv[1:]}; flags start with --')
    try:
      main(argv)
    except ValueError as error:
      logging.debug('%s', error, exc_info=True)
      sys.exit(f'error: {error}')
    except OSError as error:
      logging.debug('%s', error, exc_info=True)
      # A bucket's answer may have many lines.
      sys.exit(f'error: {" ".join(str(error).splitlines())}')
    except Interrupted as error:
      sys.exit(say_interrupted(str(error), error.number))
    except KeyboardInterrupt:
      sys.exit(say_interrupted())
    except Exception as error:
      if not storage.is_of_bucket(error):
        raise
      logging.debug('%s', error, exc_info=True)
      sys.exit(f'error: {storage.say_of_bucket(error)}')

  app.run(guarded_main)


def define_study() -> None:
  """Defines --study, which `with_study` reads."""
  flags.DEFINE_string(
    'study',
    '',
    'Folder of the study: the default of every path that this command reads or '
    "writes, and of the data set's name. Empty: each is given by its own flag.",
  )


def define_scheduler(with_resource: bool = False) -> None:
  """Defines --scheduler, which `workers.mapper` takes.

  Args:
    with_resource: whether --worker_resource, too, for what wants a GPU.
  """
  flags.DEFINE_string(
    'scheduler',
    '',
    'Scheduler of a Dask cluster whose workers do the work (docs/cluster.md): '
    'its address, tcp://10.0.0.1:8786, or the file that dask scheduler '
    '--scheduler-file writes. Empty: this machine does it.',
  )
  if with_resource:
    flags.DEFINE_string(
      'worker_resource',
      '',
      'With --scheduler: resource of Dask that a worker needs, such as GPU for '
      'those that were started with --resources GPU=1. Empty: any worker.',
    )


def define_compression() -> None:
  """Defines --compress_predictions, which `paths.predictions` takes."""
  flags.DEFINE_boolean(
    'compress_predictions',
    False,
    'Whether predictions are written as .csv.gz, a sixth of the bytes of .csv. '
    'All that reads predictions reads both; those that are there stay.',
  )


def with_study(
  f: flags.FlagValues,
  required: Mapping[str, str],
  optional: Mapping[str, str] | None = None,
  name: str = 'name',
) -> None:
  """Gives flags that were not given the value that --study has for them.

  Args:
    f: the flags.
    required: flag of a path -> attribute of `paths.Study`. Without a study such
      a flag has to be given.
    optional: the same of what is left out where it does not lie in the study.
    name: the attribute that --dataset_name is, if the script has that flag.

  Raises:
    ValueError: a required flag is missing; names it.
  """
  study = _study(f) if f.study else None
  for names, may_lack in ((required, False), (optional or {}, True)):
    for flag, attribute in names.items():
      if f[flag].value:
        continue
      if study:
        value = getattr(study, attribute)
        if not may_lack or storage.exists(value):
          is_list = isinstance(f[flag].value, list)
          f[flag].value = [value] if is_list else value
      elif not may_lack:
        raise ValueError(f'--{flag} is missing: wanted it, or --study')
  if study and 'dataset_name' in f and not f.dataset_name:
    f['dataset_name'].value = getattr(study, name)


def _study(f: flags.FlagValues) -> paths.Study:
  """The study, which has its data set's name where nobody says otherwise."""
  data = paths.Study(f.study, '').data
  name = 'dataset_name' in f and f.dataset_name
  if not name and storage.exists(paths.image_records(data)):
    name = image_records.read(data).name
  mode = f['mode'].value if 'mode' in f else 'eval'
  return paths.Study(f.study, name or epath.Path(f.study).name, mode)


def options(f: flags.FlagValues, of: type[Any], **given) -> Any:
  """A dataclass whose fields are called as flags are.

  Args:
    f: the flags.
    of: the dataclass.
    **given: fields that have another value than their flag.
  """
  names = {field.name for field in dataclasses.fields(of)} - set(given)
  return of(**{name: f[name].value for name in names}, **given)


def numbers(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
  """The numbers in a flag that is a list.

  Raises:
    ValueError: one is none; names the flag.
  """
  try:
    return tuple(float(text) for text in texts if text.strip())
  except ValueError:
    raise ValueError(
      f'--{flag} is {",".join(texts)!r}, wanted numbers separated by commas'
    ) from None


def fractions(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
  """The fractions in a flag that is a list, as `numbers`.

  Raises:
    ValueError: one is outside [0, 1]; names the flag.
  """
  found = numbers(flag, texts)
  if not all(0 <= number <= 1 for number in found):
    raise ValueError(
      f'--{flag} is {",".join(texts)!r}, wanted fractions in [0, 1]'
    )
  return found
