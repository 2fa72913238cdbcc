"""Lists, reads and writes files: local ones and those in buckets (`gs://...`)."""

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator

from etils import epath

# What its client of buckets ends with, after all its attempts.
_ERRORS_OF_TENSORFLOW = (
  'AbortedError',
  'DeadlineExceededError',
  'PermissionDeniedError',
  'UnauthenticatedError',
  'UnavailableError',
)
# What it says where there is no network, with an error that may be about files.
_NO_NETWORK = 'libcurl code'
# Of what lies in a folder, in a message.
_NAMED = 8
# What `unfinished` calls a file, and what TensorFlow adds to it.
_HIDDEN = re.compile(r'(\..+\.[0-9a-f]{8})(\..*)?')
# In a bucket, where nothing is locked, a write that began so long ago is over.
_OVER_SECONDS = 24 * 3600
_SCRATCH = 'scratch'


def check_component(what: str, name: str) -> None:
  """Raises ValueError for a name that leads elsewhere than into a folder."""
  if not name or name in ('.', '..') or re.search(r'[/\\\0-\x1f\x7f]', name):
    raise ValueError(f'{what} is {name!r}, wanted the name of one folder')


def split_list(patterns: str | Iterable[str]) -> list[str]:
  """Patterns, as a list or as one text with commas, without empty ones."""
  if isinstance(patterns, str):
    patterns = patterns.split(',')
  return [pattern.strip() for pattern in patterns if pattern.strip()]


def check_writable(folder: str) -> None:
  """Raises OSError if nothing can be written below a local folder.

  Asked before hours of work. The folder may not be there yet; a bucket answers
  when it is written to.
  """
  if '://' in folder:
    return
  there = epath.Path(folder or '.')
  while not there.exists() and there != there.parent:
    there = there.parent
  if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
    locked = os.statvfs(there).f_flag & os.ST_RDONLY
    reason = os.strerror(errno.EROFS if locked else errno.EACCES)
    raise OSError(f'{folder} cannot be written: {reason}')


def match(pattern: str) -> list[str]:
  """Paths that exist under a pattern; a plain path matches itself."""
  path = epath.Path(pattern)
  if path.exists():
    return [str(path)]  # also one whose name holds a bracket
  if not glob.has_magic(pattern):
    return []
  # epath globs below a folder: cut the pattern at its first magic component.
  parts = path.parts
  first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
  base = epath.Path(*parts[:first]) if first else epath.Path('.')
  if not base.exists():
    return []
  return sorted(str(p) for p in base.glob('/'.join(parts[first:])))


def below(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields the files at and below a folder."""
  # epath globs no `**`, which is slow in a bucket.
  scheme = ''.join(str(folder).partition('://')[:2])
  for parent, _, names in folder.walk():
    if '://' in scheme and '://' not in str(parent):
      parent = epath.Path(scheme + str(parent))  # So it is without TensorFlow.
    for name in names:
      yield parent / name


def find_files(pattern: str, what: str = 'file') -> list[str]:
  """Lists the files that a path, a glob or a comma-separated list names.

  Args:
    pattern: what the user typed.
    what: the noun for the error message.

  Returns:
    Sorted paths, each once. Unfinished files (hidden names) are left out.

  Raises:
    FileNotFoundError: nothing matches; the message names the pattern.
  """
  found = set()
  for item in split_list(pattern):
    matched = [
      path
      for path in match(item)
      if not os.path.basename(path).startswith('.')
      and not epath.Path(path).is_dir()
    ]
    if not matched:
      raise FileNotFoundError(f'no {what} matches {item}{nearest(item)}')
    found.update(matched)
  if not found:
    raise FileNotFoundError(f'no {what} matches {pattern!r}')
  return sorted(found)


def nearest(path: str) -> str:
  """Says, for a message, what there is where a path should have been."""
  folder = epath.Path(str(path).split(',')[0])
  while glob.has_magic(str(folder)) or not folder.is_dir():
    if folder == folder.parent:
      return ''
    if str(folder.parent).endswith('://'):
      # Its client says of both that nothing is there.
      return f'; {folder} is not there either, or cannot be reached'
    folder = folder.parent
  names = sorted(p.name for p in folder.iterdir() if not p.name.startswith('.'))
  some = ', '.join(names[:_NAMED]) + (', ...' if names[_NAMED:] else '')
  return f'; {folder} holds {some or "nothing"}'


@contextlib.contextmanager
def unfinished(path: str | os.PathLike) -> Iterator[str]:
  """Names the hidden file that a file is written as, and then renamed from.

  Locally it is locked while the block runs. Hidden files of the same name that
  nobody holds were left by killed processes, and are removed at the end: two
  copies of a command do not take each other's. Buckets know no locks; what is
  left there stays, and no reader lists it.

  Args:
    path: the file under its final name, or the prefix of several. Folders are
      made.

  Yields:
    The hidden name or prefix. What has it when the block ends is removed.

  Raises:
    OSError: it cannot be written; names the file.
  """
  folder, name = os.path.split(str(path))
  prefix = os.path.join(folder, f'.{name}.')
  if '://' in prefix:
    yield prefix + uuid.uuid4().hex[:8]
    return
  with cannot_be_written(path):
    os.makedirs(folder or '.', exist_ok=True)
    hidden, lock = _create_locked(prefix)
  try:
    yield hidden
  finally:
    _remove_all(hidden)
    os.close(lock)
    for other in glob.glob(glob.escape(prefix) + '[0-9a-f]' * 8):
      _remove_unless_locked(other)


def is_unfinished(path: str | os.PathLike) -> bool:
  """Whether a file has a hidden name of `unfinished`."""
  return bool(_HIDDEN.fullmatch(os.path.basename(str(path))))


def is_being_written(path: str | os.PathLike) -> bool:
  """Whether a running process may hold a file of a hidden name.

  In a bucket, for want of locks, whether it is younger than a day.
  """
  folder, name = os.path.split(str(path))
  if '://' in folder:
    age = time.time() - epath.Path(path).stat().mtime
    return age < _OVER_SECONDS
  match = _HIDDEN.fullmatch(name)
  locked = os.path.join(folder, match[1] if match else name)
  try:
    lock = os.open(locked, os.O_RDWR)
  except OSError:
    return False  # Gone by now, or never there: what is left has no owner.
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return True
  finally:
    os.close(lock)
  return False


@contextlib.contextmanager
def cannot_be_written(path: str | os.PathLike) -> Iterator[None]:
  """Says which file an error of the system is about, by its final name."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or ' '.join(str(error).split())
    raise OSError(f'{path} cannot be written: {reason}') from None
  except Exception as error:
    if not is_of_bucket(error):
      raise
    raise OSError(f'{path} cannot be written: {say_of_bucket(error)}') from None


def is_of_bucket(error: Exception) -> bool:
  """Whether a client of buckets gave up, whose errors are no OSError.

  By name, since only what uses a client imports it. Clients try again for
  half a minute (gcsfs) or longer (TensorFlow).
  """
  kind = type(error)
  package = kind.__module__.partition('.')[0]
  return package in ('aiohttp', 'gcsfs', 'google') or (
    package == 'tensorflow'
    and (kind.__name__ in _ERRORS_OF_TENSORFLOW or _NO_NETWORK in str(error))
  )


def say_of_bucket(error: Exception) -> str:
  """One line of such an error."""
  said = ' '.join(str(error).split())
  return f'the bucket does not do it: {type(error).__name__}, {said}'


def _create_locked(prefix: str) -> tuple[str, int]:
  while True:
    hidden = prefix + uuid.uuid4().hex[:8]
    lock = os.open(hidden, os.O_CREAT | os.O_RDWR, 0o666)
    # Some network file systems lock nothing: there nobody removes anything.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.exists(hidden):
      return hidden, lock
    os.close(lock)  # It was taken for abandoned before it was locked.


def _remove_unless_locked(hidden: str) -> None:
  with contextlib.suppress(OSError):
    lock = os.open(hidden, os.O_RDWR)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      _remove_all(hidden)
    finally:
      os.close(lock)


def _remove_all(hidden: str) -> None:
  # The locked file last: without it nobody would find the others.
  for path in sorted(glob.glob(glob.escape(hidden) + '*'), reverse=True):
    with contextlib.suppress(OSError):
      os.remove(path)


def write_complete(path: str | os.PathLike, data: bytes | str) -> None:
  """Writes a file so that its final name never shows a part of it.

  The bytes go to a hidden name beside it, which is renamed when they are on
  disk. An object of a bucket needs none: it appears when all of it has arrived,
  and a writer that is killed leaves nothing.

  Raises:
    OSError: it cannot be written; names the file.
  """
  data = data.encode() if isinstance(data, str) else data
  if '://' in str(path):
    with cannot_be_written(path):
      _upload(path, data)
    return
  with unfinished(path) as hidden, cannot_be_written(path):
    hidden = epath.Path(hidden)
    try:
      with hidden.open('wb') as file:
        file.write(data)
      flush_to_disk(str(hidden))
      hidden.replace(path)
    except BaseException:
      hidden.unlink(missing_ok=True)
      raise


def _upload(path: str | os.PathLike, data: bytes) -> None:
  """Writes an object, from the beginning if need be.

  Clients repeat a request that failed. Where the answer to an upload's last one
  was lost, it may meet a session that has ended, for which none has a remedy.
  """
  for is_last in (False, False, True):
    try:
      epath.Path(path).write_bytes(data)
      return
    except Exception:
      if is_last:
        raise


def flush_to_disk(path: str) -> None:
  """Waits until a local file is on disk, so that a rename cannot outrun it."""
  if '://' in path:
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def exists(path: str | os.PathLike) -> bool:
  """True when the file or folder is there."""
  return epath.Path(path).exists()


def name(path: str) -> str:
  """The last component of a path."""
  return epath.Path(path).name


def within(folder: str, file_name: str) -> str:
  """A file that keeps its name in another folder."""
  return str(epath.Path(folder) / file_name)


@contextlib.contextmanager
def scratch_folder(within: str = '') -> Iterator[str]:
  """A folder for what is read once and by nobody else; gone afterwards.

  Args:
    within: the local folder that it is made in, without those that killed
      processes left there; empty for where this machine keeps such.
  """
  if not within:
    with tempfile.TemporaryDirectory() as folder:
      yield folder
    return
  with unfinished(os.path.join(within, _SCRATCH)) as hidden:
    folder = hidden + '.files'
    with cannot_be_written(folder):
      os.mkdir(folder)
    try:
      yield folder
    finally:
      shutil.rmtree(folder, ignore_errors=True)
  pattern = os.path.join(glob.escape(within), f'.{_SCRATCH}.*.files')
  for other in glob.glob(pattern):
    # In use while there is the file that its name begins with.
    if not os.path.exists(other.removesuffix('.files')):
      shutil.rmtree(other, ignore_errors=True)
