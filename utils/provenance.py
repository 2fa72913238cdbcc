"""Where results came from, and whether they are finished: one record a folder.

Beside results lies `<script>.run.json`: the command that made them, its flags,
the versions, the files it read. Scripts whose results others read compare it
with what they are asked for now (`Provenance`), so that finished work is
skipped and results of other settings or inputs are never mixed or replaced
without a word.
"""

import concurrent.futures
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags
from etils import epath

from utils import digests, paths, storage

_PACKAGES = (
  'absl-py',
  'ai-edge-litert',
  'keras',
  'litert-quantizer',
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
# Variables of the environment that decide how numbers are computed. By name:
# what else begins with TF_ may be another program's, and secret.
VARIABLES = (
  'CUDA_VISIBLE_DEVICES',
  'EPATH_USE_TF',
  'NVIDIA_TF32_OVERRIDE',
  'OMP_NUM_THREADS',
  'TF_CUDNN_DETERMINISTIC',
  'TF_DETERMINISTIC_OPS',
  'TF_ENABLE_ONEDNN_OPTS',
  'TF_NUM_INTEROP_THREADS',
  'TF_NUM_INTRAOP_THREADS',
  'TF_USE_LEGACY_KERAS',
  'TF_XLA_FLAGS',
  'XLA_FLAGS',
)


# A record lies so many folders above a file of results at most.
_ABOVE = 3


class Provenance:
  """The record of a command that adds to the results it finds in a folder.

  It is written before the first result, so that a killed command has one, and
  again at the end. Whoever adds results with other settings is refused: a
  folder never holds a mixture that nothing in it tells apart.
  """

  def __init__(
    self,
    folder: str,
    script: str,
    settings: Mapping[str, object],
    made_from: Mapping[str, Mapping[str, str]] | None = None,
  ):
    """Compares settings and inputs with those of the results that are there.

    Args:
      folder: where the results lie.
      script: the module's name, `room.script`.
      settings: all that decides about the bytes of a result, as JSON. Of a
        mapping (shard -> digest, say) what both have is compared and what one
        has is added, since machines may share the work.
      made_from: inputs that may change, for results that are made again then:
        kind of input -> name -> digest.

    Raises:
      ValueError: results there were made with other settings; names them.
    """
    self._folder, self._script = folder, script
    # Workers that write the record do so of this command, not of themselves.
    self._command = of_this_process(script)
    self._settings = json.loads(json.dumps(settings))
    self._made_from = json.loads(json.dumps(made_from or {}))
    self._started = ''
    former = self._former()
    before = former.get('made_from', {})
    if not isinstance(before, dict):
      raise ValueError(f'{self._path} is damaged: made_from is no object')
    changed: list[str] = []
    united = _united(before, self._made_from, changed)
    # In words, which inputs are not what they were when results were made.
    self.changed = changed
    self.is_finished = (
      bool(former.get('finished')) and not changed and united == before
    )
    self._made_from = united | self._made_from if changed else united
    if not self.is_finished:
      storage.check_writable(folder)

  @property
  def _path(self) -> str:
    return paths.provenance(self._folder, self._script.rsplit('.', 1)[-1])

  def _former(self) -> dict[str, Any]:
    path = self._path
    if not storage.exists(path):
      return {}
    former = read(path)
    settings = former.get('settings', {})
    if not isinstance(settings, dict):
      raise ValueError(f'{path} is damaged: settings is no object')
    differ: list[str] = []
    self._settings = _united(settings, self._settings, differ)
    if differ:
      raise ValueError(
        f'{self._folder} holds results that were made with other settings: '
        f'{"; ".join(differ[:4])}{"; ..." if len(differ) > 4 else ""}. Use the '
        'same to go on, or another folder; or remove the results and '
        f'{path} to have them made again'
      )
    return former

  def is_finished_by_now(self) -> bool:
    """Whether another process has completed the record meanwhile."""
    return bool(self._former().get('finished'))

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
      **facts: as of `write`.

    Raises:
      ValueError: another process added results with other settings meanwhile.
    """
    former = self._former()
    if self._started or former.get('finished') == '':
      self._started = self._started or former['started']
      self._write(_now(), inputs, **facts)

  def _write(self, finished, inputs, **facts):
    if self._made_from:
      facts['made_from'] = self._made_from
    _write_record(
      self._folder,
      self._command,
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


def read(path: str) -> dict[str, Any]:
  """Reads a record, as `write` writes it.

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


def command(record: Mapping[str, Any]) -> str:
  """The command of a record, as a person types it."""
  return shlex.join(['python', '-m', record['script'], *record['command'][1:]])


def networks(path: str, script: str) -> dict[str, Any]:
  """The networks that results were made of, as the script recorded them.

  Args:
    path: of results, a file or a folder; the record lies in it or above it.
    script: the module's name, `room.script`.

  Returns:
    The stem of the files made from a network -> what tells it from others;
    empty where nobody recorded that.

  Raises:
    ValueError: the record is damaged; names it.
  """
  path = _record_above(path, script)
  if not path:
    return {}
  record = read(path)
  settings = record.get('settings', {})
  found = record.get('checkpoints')
  if not found and isinstance(settings, dict):
    found = settings.get('checkpoints')
  found = found or {}
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: checkpoints is no object')
  return found


def check_same_networks(one: tuple[str, str], other: tuple[str, str]) -> None:
  """Refuses results of networks that were made anew between the two.

  Nothing is said of what nobody recorded.

  Args:
    one: where results lie, and their script, as of `networks`.
    other: likewise.

  Raises:
    ValueError: a network is another one in the two; names it, and the command
      that makes the older part again.
  """
  known, others = networks(*one), networks(*other)
  changed = sorted(
    stem for stem in known.keys() & others.keys() if known[stem] != others[stem]
  )
  if changed:
    records = [read(_record_above(*of)) for of in (one, other)]
    older = min(records, key=lambda record: str(record.get('finished', '')))
    raise ValueError(
      f'{one[0]} and {other[0]} are of different networks: of {changed[0]}'
      f'{f" and {len(changed) - 1} others" if changed[1:] else ""} one has '
      'another content than the other; make the older part again, or remove '
      f'it: {command(older)}'
    )


def _record_above(path: str, script: str) -> str:
  """The record in a folder or in one above it, or empty."""
  name = script.rsplit('.', 1)[-1]
  place = epath.Path(path)
  for above in (place, *list(place.parents)[:_ABOVE]):
    if storage.exists(record := paths.provenance(str(above), name)):
      return record
  return ''


def environment() -> dict[str, str]:
  """The variables that decide how numbers are computed, of this process."""
  return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def of_this_process(script: str) -> dict[str, Any]:
  """What a record says of the command itself, but for when it finished.

  Args:
    script: the module's name, `room.script`.
  """
  return {
    'script': script,
    'command': sys.argv,
    'flags': {
      flag.name: flag.value
      for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    },
    'python': platform.python_version(),
    'platform': platform.platform(),
    'packages': versions(),
    'environment': environment(),
  }


def changed_inputs(folder: str, script: str) -> list[str]:
  """Files that are others by now than when a command read them.

  Nothing is said of files that are gone, and of a folder that was moved: what
  lies where its inputs lay may be another's.

  Args:
    folder: of the record.
    script: the module's name, `room.script`.
  """
  path = paths.provenance(folder, script.rsplit('.', 1)[-1])
  if not storage.exists(path):
    return []
  record = read(path)
  if record.get('folder') != _absolute(folder):
    return []
  before = {
    file['path']: file
    for file in record.get('inputs', [])
    if storage.exists(file['path'])
  }
  return [
    str(file['path'])
    for file in digests.describe_files(before)
    if file != before[file['path']]
  ]


def _absolute(folder: str) -> str:
  folder = str(folder)
  return folder if '://' in folder else os.path.abspath(folder)


def outputs(folder: str, files: Iterable[str]) -> dict[str, str]:
  """What a record says of figures and the like: SHA-256 by their paths in it.

  Tables, shards and networks have checksums of their own.

  Args:
    folder: of the record.
    files: below it.
  """
  files = list(files)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.map(digests.of_file, files)
    return {
      str(epath.Path(path).relative_to(folder)): digest
      for path, digest in zip(files, found, strict=True)
    }


def write(folder: str, script: str, inputs: Iterable[str], **facts) -> None:
  """Records beside the results which command made them.

  Args:
    folder: where the results lie.
    script: the module's name, `room.script`.
    inputs: files that were read.
    **facts: anything else a reader should know (seeds, device), as JSON.
  """
  _write_record(folder, of_this_process(script), inputs, **facts)


def _write_record(
  folder: str, command: Mapping[str, Any], inputs: Iterable[str], **facts
) -> None:
  record = {
    **command,
    'finished': _now(),
    'folder': _absolute(folder),
    'inputs': digests.describe_files(inputs),
    **facts,
  }
  storage.write_complete(
    paths.provenance(folder, command['script'].rsplit('.', 1)[-1]),
    json.dumps(record, indent=1, sort_keys=True, default=str) + '\n',
  )


def _now() -> str:
  return datetime.datetime.now(datetime.timezone.utc).isoformat(
    timespec='seconds'
  )


def versions() -> dict[str, str]:
  """Those of the packages that decide about results, as they are installed."""
  found = {}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
