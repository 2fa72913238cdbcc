"""What tables were written as: `digests.json` beside them.

A digit of a CSV that turns into another digit leaves a valid table. So whoever
writes one notes its SHA-256 first, in one file for each folder, and whoever
reads it compares. Tables without a note (made by hand, by other programs,
copied elsewhere) are read as they are, and the log says so once. Whoever
changes a table by hand removes its line, or the file: nothing is compared then.

Buckets compare checksums of their own whenever an object is read or written,
and know no locks: in them nothing is noted.
"""

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Iterator

from absl import logging
from etils import epath

from utils import digests, storage

FILE_NAME = 'digests.json'


def _place(path: str) -> tuple[str, str]:
  """The file of digests that a table's stands in, and the table's name."""
  table = epath.Path(path)
  return str(table.parent / FILE_NAME), table.name


def note(path: str, data: bytes) -> None:
  """Notes the digest of a table that is about to be written.

  The one before it stays valid, should the table not be written after all.

  Raises:
    OSError: the note cannot be written; names its file.
    ValueError: the file of notes is damaged; names it.
  """
  if '://' in str(path):
    return
  notes, name = _place(path)
  with _locked(notes):
    known = dict(_read(notes))
    digest = digests.of_bytes(data)
    former = known.get(name, [])
    if former[:1] == [digest]:
      return
    known[name] = [digest, *former[:1]]
    text = json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False)
    storage.write_complete(notes, text + '\n')


def check(path: str, data: bytes) -> None:
  """Compares what was read of a table with what was noted, if anything was.

  Raises:
    ValueError: it is another; names the table.
  """
  if '://' in str(path):
    return
  notes, _ = _place(path)
  digest = noted(path)
  if digest is None:
    logging.log_first_n(
      logging.INFO,
      '%s is not verified, and maybe others: %s says nothing of it',
      1,
      path,
      notes,
    )
  elif digests.of_bytes(data) not in digest:
    raise ValueError(
      f'{path} has another SHA-256 than it was written with ({notes}): it is '
      'damaged, or was changed by hand (then remove its line there, or that '
      'file)'
    )


def noted(path: str) -> list[str] | None:
  """The SHA-256 that a table may have; None where nobody noted any.

  Raises:
    ValueError: the file of notes is damaged; names it.
  """
  if '://' in str(path):
    return None
  notes, name = _place(path)
  return _read(notes).get(name)


@contextlib.contextmanager
def _locked(notes: str) -> Iterator[None]:
  """Keeps other processes from adding a note meanwhile."""
  folder = epath.Path(notes).parent
  with storage.cannot_be_written(notes):
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
  try:
    # Some network file systems lock nothing.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield
  finally:
    os.close(lock)


def _read(notes: str) -> dict[str, list[str]]:
  try:
    state = os.stat(notes)
  except OSError:
    return {}
  return _parsed(notes, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=256)
def _parsed(notes: str, changed: int, size: int) -> dict[str, list[str]]:
  """What a file holds that was last changed then."""
  del changed, size
  try:
    known = json.loads(epath.Path(notes).read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{notes} is damaged, no JSON: {error}') from None
  if not isinstance(known, dict) or not all(
    isinstance(digest, list) for digest in known.values()
  ):
    raise ValueError(
      f'{notes} is damaged: wanted a JSON object of names and lists'
    )
  return known
