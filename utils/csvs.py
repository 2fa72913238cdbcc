"""The one way to read, check and write a CSV.

What a table holds is a `Table` (`tables` has them all); it is checked both when
it is written and when it is read. A table that was written by hand or by
another framework is as good as ours when it passes `read`.

Missing, misspelled, out-of-range or duplicate content is a `ValueError` that
names the file, the column and the first rows at fault (1-based, the header
being line 1). Nothing here imports TensorFlow.

Text is never changed: what is written is what is read. So text that would harm
where a person opens the file is refused: control characters, line breaks among
them, and what a spreadsheet would take for a formula (`=1+1`, `@SUM(A1)`; not
`-` or `-1.jpg`). Keys of records meet this before they come here
(`tfrecords.key_text`), names of classes in `image_records`.
"""

import codecs
import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from utils import compressed, storage, table_digests

# As half of Europe writes a fraction.
_DECIMAL_COMMA = r'\s*[+-]?\d*,\d+\s*'
_MAX = np.finfo('float64').max
# Half a character (a surrogate) has no bytes in UTF-8.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
# What a spreadsheet that opens a CSV would run, with any width of sign; a name
# such as '-', or a number, is none.
_FORMULA = re.compile(r'\s*([=\uff1d].|[+@\uff0b\uff20\uff0d-].*[(|!\[])')
# Before 3.1 the default of pandas may miss a float's last digit.
_EXACT: dict[str, Any] = (
  {'float_precision': 'round_trip'}
  if tuple(map(int, pd.__version__.split('.')[:2])) < (3, 1)
  else {}
)
_DTYPES = {'int': 'int64', 'float': 'float64', 'text': 'str'}


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of a table.

  Attributes:
    name: the header.
    kind: 'int', 'float' or 'text'.
    meaning: what the values say, with the unit.
    low: smallest value allowed.
    high: largest value allowed.
    nullable: whether cells may be empty.
    default: value for tables that lack the column; None makes it required.
  """

  name: str
  kind: str
  meaning: str
  low: float | None = None
  high: float | None = None
  nullable: bool = False
  default: object = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A kind of CSV.

  Attributes:
    name: for messages.
    row: what a row is about.
    written_by: the script that writes it, or who does.
    file: where it lies, below the folders of a study.
    columns: in the order of the file.
    key: names of the columns that identify a row.
    sort_by: names of the columns that order the rows of a file; none where
      the writer's order counts.
  """

  name: str
  row: str
  written_by: str
  file: str
  columns: tuple[Column, ...]
  key: tuple[str, ...]
  sort_by: tuple[str, ...]

  def column(self, name: str) -> Column:
    """The column of a name."""
    return next(column for column in self.columns if column.name == name)


def check(table: Table, frame: pd.DataFrame, source: str) -> pd.DataFrame:
  """Checks a frame against a table, at the door.

  Args:
    table: what is wanted.
    frame: what was got; columns in any order, unknown ones are left out.
    source: file name or description, for the message.

  Returns:
    The table's columns that the frame has, in the table's order, typed.

  Raises:
    ValueError: names the source, the column and the first rows at fault.
  """
  checked = {}
  for column in table.columns:
    if column.name in frame:
      checked[column.name] = _check_column(column, frame[column.name], source)
  result = pd.DataFrame(checked, index=frame.index)
  key = _identity(table, result)
  if key:
    # Constant columns (the member, in a file of one member) tell no rows apart.
    varying = [name for name in key if not _is_constant(result[name])] or key[
      -1:
    ]
    repeated = result.duplicated(varying, keep=False)
    if repeated.any():
      first = result.loc[repeated, varying].head(4)
      raise ValueError(
        f'{source}: {int(repeated.sum())} rows of the table of {table.name} '
        f'share their identity {tuple(table.key)}, for example lines '
        f'{_lines(repeated)}: {first.to_dict("records")}'
        f'{_rounded(result.loc[repeated, key[-1]])}'
      )
  return result


def _rounded(names: pd.Series) -> str:
  """Says so if names are numbers that a spreadsheet rounded."""
  if names.astype('str').str.fullmatch(r'\d(\.\d+)?[Ee]\+\d+').all():
    return ' (a spreadsheet rounded them: wanted text, as it was before)'
  return ''


def _identity(table: Table, frame: pd.DataFrame) -> list[str]:
  """The key of a frame's rows, empty where what is left tells no rows apart."""
  missing = [name for name in table.key if name not in frame]
  if any(table.column(name).default is None for name in missing):
    return []
  return [name for name in table.key if name in frame]


def _is_constant(values: pd.Series) -> bool:
  # An array of text compares faster than a series of it, by identity first.
  cells = values.to_numpy()
  return len(cells) == 0 or bool((cells == cells[0]).all())


def _lines(at_fault: pd.Series) -> str:
  return ', '.join(str(i + 2) for i in np.flatnonzero(at_fault)[:5])


def _check_column(column: Column, values: pd.Series, source: str) -> pd.Series:
  def refuse(at_fault, wanted):
    got = values[at_fault].tolist()[0]
    raise ValueError(
      f'{source}: column {column.name!r} holds {got!r} in line '
      f'{_lines(at_fault)}, wanted {wanted} ({column.meaning})'
    )

  if column.kind == 'text':
    empty = values.isna()
    text = values if values.dtype == 'str' else values.astype('str')
    return text.where(~empty, '') if empty.any() else text
  whole = column.kind == 'int'
  if len(values) and values.dtype.kind in ('iu' if whole else 'iuf'):
    # Nearly every column is as it should be, which two numbers show; NaN and
    # infinity are within no bounds.
    low, high = values.to_numpy().min(), values.to_numpy().max()
    above = -_MAX if column.low is None else column.low
    below = _MAX if column.high is None else column.high
    if above <= low and high <= below:
      dtype = 'int64' if whole else 'float64'
      return values if values.dtype == dtype else values.astype(dtype)
  empty = values.isna()
  numbers = pd.to_numeric(values, errors='coerce')
  unreadable = numbers.isna() & ~empty
  if unreadable.any():
    commas = values[unreadable].astype('str').str.fullmatch(_DECIMAL_COMMA)
    refuse(
      unreadable,
      'a number with a decimal point, no comma' if commas.all() else 'a number',
    )
  if empty.any() and not column.nullable:
    refuse(empty, 'a number, not an empty cell')
  infinite = np.isinf(numbers.astype('float64'))
  if infinite.any():
    refuse(infinite, 'a finite number')
  if column.low is not None and (numbers < column.low).any():
    refuse(numbers < column.low, f'at least {column.low}')
  if column.high is not None and (numbers > column.high).any():
    refuse(numbers > column.high, f'at most {column.high}')
  if column.kind == 'int':
    broken = (numbers % 1).fillna(0) != 0
    if broken.any():
      refuse(broken, 'a whole number')
    return numbers.astype('Int64' if empty.any() else 'int64')
  return numbers.astype('float64')


def fault_of_text(text: str) -> str:
  """Why a text may not stand in a cell; '' if it may."""
  formula = 'what a spreadsheet would take for a formula'
  return _control_of(text) or (formula if _FORMULA.match(text) else '')


def _control_of(text: str) -> str:
  found = _CONTROL.search(text)
  return 'a control character, such as a line break' if found else ''


def _check_texts(
  table: Table, frame: pd.DataFrame, source: str, fault_of: Callable[[str], str]
) -> None:
  for column in table.columns:
    if column.kind != 'text' or column.name not in frame:
      continue
    for text in frame[column.name].unique():
      if fault := fault_of(text):
        raise ValueError(
          f'{source}: column {column.name!r} holds {text!r}, which is or holds '
          f'{fault}'
        )


def empty(table: Table) -> pd.DataFrame:
  """A frame of the table's columns and types without a row."""
  return pd.DataFrame(
    {c.name: pd.Series(dtype=_DTYPES[c.kind]) for c in table.columns}
  )


def write(table: Table, frame: pd.DataFrame, path: str) -> None:
  """Checks, sorts and writes a table; the file appears complete or not at all.

  Equal frames give equal bytes: floats are written as the shortest decimal
  that reads back to the same value, lines end in one newline.

  Raises:
    ValueError: the frame does not pass `check`, lacks a column that has no
      default, or holds a text of which `fault_of_text` complains.
  """
  absent = [c for c in table.columns if c.name not in frame]
  frame = frame.assign(**{c.name: c.default for c in absent})
  missing = [c.name for c in absent if c.default is None]
  if missing:
    raise ValueError(f'{path}: the frame lacks the columns {missing}')
  frame = check(table, frame, path)
  _check_texts(table, frame, path, fault_of_text)
  if table.sort_by:
    frame = frame.sort_values(list(table.sort_by), kind='stable')
  data = frame.to_csv(index=False, lineterminator='\n').encode()
  if compressed.is_compressed(path):
    data = compressed.pack(data)
  table_digests.note(path, data)
  storage.write_complete(path, data)


def find(table: Table, where: str) -> list[str]:
  """Lists the CSVs at or below a folder, or those that a pattern names.

  Raises:
    FileNotFoundError: there is none; says what is there, and who writes them.
    ValueError: one is there in two forms, compressed and not.
  """
  if where and epath.Path(where).is_dir():
    found = sorted(
      str(path)
      for path in storage.below(epath.Path(where))
      if is_csv(path.name)
    )
    if not found:
      raise FileNotFoundError(
        f'no CSV of {table.name} below {where} ({_written_by(table)})'
        f'{storage.nearest(where)}'
      )
  else:
    try:
      found = storage.find_files(where, f'CSV of {table.name}')
    except FileNotFoundError as error:
      raise FileNotFoundError(f'{error} ({_written_by(table)})') from None
  there = set(found)
  for path in found:
    if compressed.is_compressed(path):
      other = compressed.other_form(path)
      if other in there:
        raise ValueError(
          f'{path} and {other} are one table in two forms: wanted one of them, '
          'so remove the other'
        )
  return found


def is_csv(name: str) -> bool:
  """Whether a file is a CSV, compressed or not, that is complete."""
  return name.removesuffix(compressed.ENDING).endswith(
    '.csv'
  ) and not name.startswith('.')


def either_form(path: str) -> str:
  """Where a table lies already, compressed or not; else the path."""
  if not storage.exists(path):
    other = compressed.other_form(path)
    if storage.exists(other):
      return other
  return path


def _written_by(table: Table) -> str:
  return f'{table.written_by} writes it'


def read(
  table: Table, path: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
  """Reads and checks a table.

  Args:
    table: what is wanted.
    path: the CSV.
    columns: names of the columns to read, or None for all of the table. A
      column with a default is filled in where the file lacks it.

  Raises:
    FileNotFoundError: it is not there; says what is, and who writes it.
    ValueError: the file is no such table; names file, column and line.
  """
  try:
    text = read_text(path)
  except FileNotFoundError:
    raise FileNotFoundError(
      f'there is no {path} ({_written_by(table)}){storage.nearest(path)}'
    ) from None
  return _parse(table, text, path, columns)


def read_text(path: str) -> bytes:
  """What a CSV holds, in either form, as it was written.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is damaged; names it.
  """
  data = epath.Path(path).read_bytes()
  table_digests.check(path, data)
  return compressed.unpack(path, data)


def read_head(path: str) -> tuple[list[str], list[str]]:
  """Names and cells of a CSV's first row, as text; no cells where it has none.

  Raises:
    ValueError: it is no CSV.
  """
  with epath.Path(path).open('rb') as file:
    header, first = compressed.first_lines(path, file, 2)
  try:
    return _header(header), _first_cells(first)
  except (ValueError, csv.Error) as error:
    raise _no_csv(path, error) from None


def _parse(table, text, path, columns) -> pd.DataFrame:
  wanted = [
    column
    for column in table.columns
    if columns is None or column.name in columns
  ]
  try:
    header = _header(text)
  except (ValueError, csv.Error) as error:
    raise _no_csv(path, error) from None
  if b'\0' in text:
    raise ValueError(f'{path} is not a CSV: it holds a NUL')
  missing = [c.name for c in wanted if c.name not in header]
  required = [name for name in missing if table.column(name).default is None]
  if required:
    raise ValueError(
      f'{path} is not a table of {table.name}: '
      + (
        _other_separator(header, required)
        or f'it lacks the columns {required}, it has {header}'
      )
    )
  names = [c.name for c in wanted if c.name in header]
  if not text.endswith(b'\n'):
    # Half of a number is a number, half of a name a name.
    raise ValueError(
      f'{path} does not end in a line break: it is cut short (or add one)'
    )
  twice = [name for name in names if header.count(name) > 1]
  if twice:
    raise ValueError(f'{path} has the columns {twice} more than once')
  # Only empty cells are missing values: a class may be called "None" or "NA".
  options = {
    **_EXACT,
    'usecols': names,
    'index_col': False,
    'keep_default_na': False,
    'na_values': {
      c.name: ['', 'nan', 'NaN'] for c in wanted if c.kind != 'text'
    },
    'encoding': 'utf-8',
  }
  try:
    try:
      with np.errstate(invalid='ignore'):
        frame = pd.read_csv(
          io.BytesIO(text),
          dtype={
            c.name: 'float64'
            if c.nullable and c.kind == 'int'
            else _DTYPES[c.kind]
            for c in wanted
            if c.name in names
          },
          **options,
        )
    except (ValueError, OverflowError):
      # Slower, without types, so that the check can name the cell at fault.
      frame = pd.read_csv(io.BytesIO(text), dtype='object', **options)
  except ValueError as error:
    raise _no_csv(path, error) from None
  for column in wanted:
    if column.name not in header:
      frame[column.name] = column.default
  frame = check(table, frame, path)
  if b'"' in text:
    # Only between quotes may a cell hold a line break.
    _check_texts(table, frame, path, _control_of)
  return frame


def _no_csv(path: str, error: Exception) -> ValueError:
  """Says what a person can do about a file that is no CSV."""
  remedy = ''
  if isinstance(error, UnicodeDecodeError) or 'UTF-16' in str(error):
    remedy = ' (save it as UTF-8, which spreadsheets call CSV UTF-8)'
  return ValueError(f'{path} is not a CSV: {error}{remedy}')


def _header(text: bytes) -> list[str]:
  """The names in the first line, without the price of a reader of tables."""
  # As pandas calls columns without a name.
  names = _first_cells(text)
  return [name or f'Unnamed: {i}' for i, name in enumerate(names)]


def _first_cells(text: bytes) -> list[str]:
  """The cells of the first line."""
  if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise ValueError('it is UTF-16 text, wanted UTF-8')
  line = text[: text.find(b'\n') + 1] or text
  if line.rstrip(b'\r\n').count(b'\r'):
    raise ValueError(
      'its lines end in carriage returns alone, wanted line feeds'
    )
  return next(csv.reader([line.decode('utf-8-sig')]), [])


def _other_separator(header: list[str], required: list[str]) -> str:
  """Says what is wrong with a header that is right but for its signs."""
  stripped = [name.strip() for name in header]
  for names, wanted in (
    (stripped, 'no spaces around them'),
    ([name.lower() for name in stripped], 'small letters'),
  ):
    if set(required) <= set(names):
      return f'its columns are called {header}, wanted {wanted}'
  for sign, name in ((';', 'semicolons'), ('\t', 'tabs'), ('|', 'bars')):
    names = [part.strip('"\' ') for part in sign.join(header).split(sign)]
    if set(required) <= set(names):
      return (
        f'its columns are separated by {name}, wanted commas (and numbers with '
        'a decimal point)'
      )
  return ''


def read_stacked(
  table: Table, paths: Iterable[str], columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
  """Reads several files of one table, as `read` reads each, into one frame.

  Many small files of one layout are parsed as one text, since opening a parser
  costs more than the few hundred rows of a shard. All of them are in memory at
  once.

  Returns:
    The rows, file after file, and [files] the row at which each file ends.

  Raises:
    ValueError: as `read`, for the first file that is no such table.
  """
  paths = list(paths)
  texts = [read_text(path) for path in paths]
  starts = [text.find(b'\n') + 1 for text in texts]
  layouts = {text[:start] for text, start in zip(texts, starts, strict=True)}
  # A quote that is not closed would swallow the next file.
  plain = all(b'"' not in text and text.endswith(b'\n') for text in texts)
  if plain and len(paths) > 1 and len(layouts) == 1:
    bodies = [text[start:] for text, start in zip(texts, starts, strict=True)]
    ends = np.cumsum([body.count(b'\n') for body in bodies])
    try:
      together = _parse(table, b''.join([*layouts, *bodies]), '', columns)
    except ValueError:
      # Some file is at fault, or rows of two share their identity.
      together = None
    if together is not None and len(together) == ends[-1]:
      return together, ends
  frames = [
    _parse(table, text, path, columns)
    for path, text in zip(paths, texts, strict=True)
  ]
  together = pd.concat(frames, ignore_index=True)
  return together, np.cumsum([len(frame) for frame in frames])


def read_all(
  table: Table, paths: Iterable[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
  """Reads several files of one table and checks identities across them.

  Raises:
    ValueError: as `read`, or a row stands in two files.
  """
  paths = list(paths)
  together, ends = read_stacked(table, paths, columns)
  key = _identity(table, together)
  repeated = together.duplicated(key, keep=False) if key else np.array([False])
  if repeated.any():
    source = np.repeat(paths, np.diff([0, *ends]))
    first = together.loc[repeated, key].iloc[0]
    same = repeated & (together[key] == first).all(axis=1)
    raise ValueError(
      f'{int(repeated.sum())} rows of {table.name} stand more than once, for '
      f'example {first.to_dict()} in {sorted(map(str, set(source[same])))}'
    )
  return together
