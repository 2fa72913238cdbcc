"""The one checksum: SHA-256 of text, of JSON and of files."""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import IO

from etils import epath

_BLOCK_BYTES = 2**22
# Of larger inputs the size stands for the content: reading ImageNet once more
# to print a checksum would double the time of some scripts.
_LIMIT_BYTES = 16 * 2**20


def of_bytes(data: bytes | str) -> str:
  """64 hexadecimal digits, as sha256sum prints them; text is UTF-8."""
  return hashlib.sha256(
    data.encode() if isinstance(data, str) else data
  ).hexdigest()


def of_json(data: object, **options) -> str:
  """Of the JSON of some data; the options are those of `json.dumps`."""
  return of_bytes(json.dumps(data, **options))


def of_file(path: str) -> str:
  """Of all that a file holds, a block at a time."""
  with epath.Path(path).open('rb') as file:
    return of_open(file)


def of_open(file: IO[bytes]) -> str:
  """Of what is left of an open file, whoever opened it."""
  digest = hashlib.sha256()
  while block := file.read(_BLOCK_BYTES):
    digest.update(block)
  return digest.hexdigest()


def describe_file(path: str) -> dict[str, object]:
  """A file's path, size in bytes and, unless it is large, its SHA-256."""
  size = epath.Path(path).stat().length
  described = {'path': str(path), 'bytes': size}
  if size <= _LIMIT_BYTES:
    described['sha256'] = of_file(path)
  return described


def describe_files(paths: Iterable[str]) -> list[dict[str, object]]:
  """`describe_file` of each of some files, sorted, each once."""
  # A bucket answers slowly, and many questions at once.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(describe_file, sorted(set(paths))))


def of_files(paths: Iterable[str]) -> str:
  """Of what files hold, wherever they lie: 16 hexadecimal digits.

  Of large files (`describe_file`) the size counts, not the content.
  """
  return _short(describe_files(paths))


def of_each(paths: Mapping[str, str]) -> dict[str, str]:
  """The `of_files` of each of some files, by the name that stands for it."""
  described = {file['path']: file for file in describe_files(paths.values())}
  return {name: _short([described[path]]) for name, path in paths.items()}


def _short(described: Iterable[Mapping[str, object]]) -> str:
  return of_json([(file['bytes'], file.get('sha256')) for file in described])[
    :16
  ]
