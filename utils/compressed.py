"""CSVs that are kept compressed, under names that end in .csv.gz.

Predictions take a sixth of their bytes so, which is less than as Parquet, and
are read in a tenth more time (tests/benchmarks/forms.py).
"""

import gzip
import io
import os
import zlib
from typing import IO

ENDING = '.gz'
# Text for each byte of a file, at most: predictions of scores have 6, of labels
# alone 20, and what says nothing at all, by which memory is filled, 1,000.
_MOST_TEXT, _ALWAYS_BYTES = 200, 2**20
_USUAL_TEXT = 6
_BLOCK_BYTES = 2**20
# One more takes half as much time again for a hundredth of the bytes.
_LEVEL = 6
_DAMAGES = (EOFError, gzip.BadGzipFile, zlib.error)


def is_compressed(path: str | os.PathLike) -> bool:
  """Whether a file is, by its name."""
  return str(path).endswith(ENDING)


def other_form(path: str) -> str:
  """The path of the same table, not compressed, or compressed."""
  return path.removesuffix(ENDING) if is_compressed(path) else path + ENDING


def text_bytes(path: str, length: int) -> int:
  """About how much text a file of a length holds."""
  return length * (_USUAL_TEXT if is_compressed(path) else 1)


def pack(text: bytes) -> bytes:
  """Compresses; equal text gives equal bytes, by one version of zlib."""
  packed = io.BytesIO()
  # Without a name and a time, which differ, and with Python's header, which
  # does not differ between its versions.
  with gzip.GzipFile('', 'wb', _LEVEL, packed, mtime=0) as file:
    file.write(text)
  return packed.getvalue()


def unpack(path: str, data: bytes) -> bytes:
  """The text of a file that may be compressed.

  Raises:
    ValueError: it is damaged, or would fill the memory; names it.
  """
  if not is_compressed(path):
    return data
  text = io.BytesIO()
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
      while block := file.read(_BLOCK_BYTES):
        text.write(block)
        if text.tell() > _MOST_TEXT * len(data) + _ALWAYS_BYTES:
          raise ValueError(
            f'{path} is refused: of {len(data)} bytes it makes more than '
            f'{text.tell()}, which would fill the memory'
          )
  except _DAMAGES as error:
    raise _damaged(path, error) from None
  return text.getvalue()


def first_lines(path: str, file: IO[bytes], number: int) -> list[bytes]:
  """The first lines of an open file that may be compressed.

  Raises:
    ValueError: it is damaged before their end; names it.
  """
  if not is_compressed(path):
    return [file.readline() for _ in range(number)]
  try:
    with gzip.GzipFile(fileobj=file) as text:
      return [text.readline(_ALWAYS_BYTES) for _ in range(number)]
  except _DAMAGES as error:
    raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> ValueError:
  said = str(error).splitlines()[0]
  return ValueError(f'{path} is damaged, or no gzip: {said}')
