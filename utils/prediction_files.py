"""Where predictions lie, and how those of the original are read as ours.

A CSV of predictions holds what one member says of the images of one shard, and
lies in a folder that is named after the shard; it may be compressed (.csv.gz).
There are two forms:

  ours (`tables.PREDICTIONS`), of imagenet_predictions or of any framework: each
  row names its image (image_key) and each file its replicate;
  the original's (`tables.ORIGINAL_PREDICTIONS`), known by a first column
  without a name beside neither image_key nor replicate. It is read by rule:
    row n of a shard is the image `<shard>__n`, the key that records without
      one have here, too; the first column has to count the rows;
    the members of a level are numbered from 0 on, within each shard, in the
      order of exp, then of steps, then of the file's name, which is a time;
    split names the data set and filename a path, so both are left out, and so
      is exp, which may differ between the members of a level.
  `say_what_is_assumed` logs this. That counts and labels of all members are the
  same, their readers check, as they do for ours.

Nothing here imports TensorFlow.
"""

import collections
import concurrent.futures
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from absl import logging
from etils import epath

from utils import csvs, digests, storage, tables

# A shard without a name: files that lie in one of several listed folders.
UNNAMED_SHARD = 'all'
# What orders the members of a level, before the file's name.
_ORDER = (
  'exp',
  'start_pruning_step',
  'end_pruning_step',
  'pruning_frequency',
  'global_step',
)
_LEVEL = ('pruning_method', 'fraction_pruned')
# Read in about the time that a process takes to start.
_BYTES_PER_PROCESS = 2**25


def find(where: str) -> dict[str, list[str]]:
  """Lists the files of predictions by the name of their shard.

  Args:
    where: a folder at or above the folders of shards; a pattern of files; or
      several of either, with commas between. Files that lie in one of several
      folders, and in none of a shard, are of the shard 'all'.

  Raises:
    FileNotFoundError: there are none.
    ValueError: below one folder, two are named after one shard; or a file is
      there compressed and not.
  """
  listed = [where]
  if not where or not epath.Path(where).is_dir():
    listed = storage.split_list(where) or [where]
  shards: dict[str, list[str]] = collections.defaultdict(list)
  for item in listed:
    folders = collections.defaultdict(set)
    for path in csvs.find(tables.PREDICTIONS, item):
      folder = epath.Path(path).parent
      is_shard = len(listed) == 1 or folder != epath.Path(item)
      name = folder.name if is_shard else UNNAMED_SHARD
      if path not in shards[name]:
        shards[name].append(path)
      folders[name].add(str(folder))
    for name, found in folders.items():
      if len(found) > 1:
        raise ValueError(
          f'shard {name} stands in {len(found)} folders, {sorted(found)[:3]}: '
          'wanted one; list the folders above them with commas between, if '
          'they hold different members, or name one by a pattern'
        )
  return dict(sorted(shards.items()))


def processes_worth(shards: Mapping[str, Sequence[str]]) -> float:
  """Processes that are worth their start where each reads whole shards.

  Args:
    shards: as `find` lists them; the first file tells how large all are.
  """
  files = [path for of_shard in shards.values() for path in of_shard]
  size = epath.Path(files[0]).stat().length * len(files)
  return min(len(shards), size / _BYTES_PER_PROCESS)


def identities(files: Sequence[str]) -> pd.DataFrame:
  """Whose predictions files hold, as their first rows say.

  Returns:
    The columns `tables.MEMBER`, a row for each file, by its path. Members of
    the original's form have the numbers that the module's docstring says, and
    no exp.

  Raises:
    ValueError: a file is no table of predictions, or forms are mixed.
  """
  stated, is_original = _stated(files)
  return stated.assign(exp='') if is_original else stated


def replicates(files: Sequence[str]) -> dict[str, int]:
  """Numbers of the members of files of the original's form; none of ours.

  Args:
    files: of one shard, or of all.

  Raises:
    ValueError: as `identities`.
  """
  if not _is_original(csvs.read_head(files[0])[0]):
    return {}
  return identities(files)['replicate'].to_dict()


def read_stacked(
  files: Sequence[str], columns: Sequence[str], numbers: Mapping[str, int]
) -> tuple[pd.DataFrame, np.ndarray]:
  """Reads predictions of either form as `tables.PREDICTIONS`.

  Args:
    files: their paths.
    columns: names of columns of that table.
    numbers: as `replicates` gives them.

  Returns:
    The rows, file after file, and [files] the row at which each file ends.

  Raises:
    ValueError: a file is no such table; names it.
  """
  if not numbers:
    return csvs.read_stacked(tables.PREDICTIONS, files, columns)
  known = {column.name for column in tables.ORIGINAL_PREDICTIONS.columns}
  stored = [name for name in columns if name in known]
  frame, ends = csvs.read_stacked(
    tables.ORIGINAL_PREDICTIONS, files, [tables.ROW, *stored]
  )
  sizes = np.diff([0, *ends])
  place = np.concatenate([np.arange(size) for size in sizes])
  wrong = np.flatnonzero(frame[tables.ROW].to_numpy() != place)
  if len(wrong):
    at = wrong[0]
    path = files[int(np.searchsorted(ends, at, side='right'))]
    raise ValueError(
      f'{path} calls its row {place[at]} (line {place[at] + 2}) '
      f'{frame[tables.ROW].iloc[at]}: wanted rows that count from 0, as the '
      'original writes them; they were put in another order, or some are gone'
    )
  shard = np.repeat([_shard_of(path) for path in files], sizes).astype(object)
  added = {
    'image_key': shard + '__' + place.astype(str).astype(object),
    'image_index': place,
    'replicate': np.repeat([numbers[path] for path in files], sizes),
    'filename': shard,
    'split': '',
    'exp': '',
  }
  for name, values in added.items():
    if name in columns:
      frame[name] = values
  return frame[list(columns)], ends


def read_member(
  files: Sequence[str], columns: Sequence[str], numbers: Mapping[str, int]
) -> pd.DataFrame:
  """Reads the predictions of one member, of all shards; as `read_stacked`.

  Raises:
    ValueError: a file is no table of predictions, or an image stands twice.
  """
  if not numbers:
    return csvs.read_all(tables.PREDICTIONS, files, columns)
  # Names of shards and places in them tell the images apart.
  return read_stacked(files, columns, numbers)[0]


def say_what_is_assumed(files: Sequence[str], mode: str) -> None:
  """Logs how files of the original's form are read; says nothing of ours.

  Args:
    files: of all shards.
    mode: the split that the rows are taken to be of.

  Raises:
    ValueError: as `identities`; or shards differ in their members, or two
      shards or two members hold the same predictions.
  """
  if not _is_original(csvs.read_head(files[0])[0]):
    return
  stated, _ = _stated(files)
  shards = {
    shard: rows.sort_values([*_LEVEL, 'replicate'])
    for shard, rows in stated.groupby(list(map(_shard_of, stated.index)))
  }
  _check_same_members(shards)
  _check_no_copies(next(iter(shards.values())).index)
  _check_different_rows([rows.index[0] for rows in shards.values()])
  numbered = [
    f'{method} {fraction:g}: '
    + ', '.join(f'{i} is {exp!r}' for i, exp in enumerate(rows['exp'].head(3)))
    + (', ...' if len(rows) > 3 else '')
    for (method, fraction), rows in next(iter(shards.values())).groupby(
      [*_LEVEL]
    )
  ]
  logging.info(
    '%d files name neither images nor replicates, as the original writes them. '
    'Row n in the folder <shard> is taken to be the image <shard>__n, split to '
    'name the data set, and all to be of --mode=%s. The replicates of a level '
    'are numbered from 0 on by exp, then by steps, then by the name of the '
    'file: %s',
    len(files),
    mode,
    '; '.join(numbered),
  )


def _check_same_members(shards: Mapping[str, pd.DataFrame]) -> None:
  """Refuses shards whose members cannot be told to be the same."""
  names = [*_LEVEL, *_ORDER]
  first = next(iter(shards))
  for shard, rows in shards.items():
    theirs, wanted = (
      collections.Counter(of[names].itertuples(index=False, name=None))
      for of in (rows, shards[first])
    )
    if theirs != wanted:
      member = next(iter((theirs - wanted) + (wanted - theirs)))
      raise ValueError(
        f'shards {first} and {shard} were predicted by different members: '
        f'{dict(zip(names, member, strict=True))} has '
        f'{wanted[member]} files in the former and {theirs[member]} in the '
        'latter'
      )


def _check_no_copies(files: Iterable[str]) -> None:
  """Refuses one member's predictions in two files of a shard."""
  seen: dict[str, str] = {}
  for path in files:
    other = seen.setdefault(digests.of_bytes(csvs.read_text(path)), path)
    if other != path:
      raise ValueError(
        f'{other} and {path} are equal: the original, run twice on one '
        'network, writes a second file; wanted one for each member'
      )


def _check_different_rows(files: Sequence[str]) -> None:
  """Refuses shards that hold the same predictions, by a file of each."""
  seen: dict[str, str] = {}
  for path in files:
    rows = csvs.read(
      tables.ORIGINAL_PREDICTIONS,
      path,
      ['predictions', 'true_class', 'predicted_probability'],
    )
    other = seen.setdefault(digests.of_bytes(rows.to_csv(index=False)), path)
    if other != path:
      raise ValueError(
        f'{other} and {path} hold the same {len(rows)} predictions: the '
        'original, given several shards, writes all of them into the folder of '
        'each; wanted each image in one folder, so leave one of these'
      )


def _stated(files: Sequence[str]) -> tuple[pd.DataFrame, bool]:
  """The columns `tables.MEMBER` by path, and whether the original wrote them.

  Then the replicates are those of the rule; exp is as the files have it.
  """
  heads = _heads(files)
  form = {path: _is_original(header) for path, (header, _) in heads.items()}
  if len(set(form.values())) > 1:
    ours, theirs = (
      next(path for path in files if form[path] == which)
      for which in (False, True)
    )
    raise ValueError(
      f'{theirs} has neither image_key nor replicate, as the original writes '
      f'predictions, {ours} has: wanted all of one form'
    )
  is_original = any(form.values())
  table = tables.ORIGINAL_PREDICTIONS if is_original else tables.PREDICTIONS
  rows = [
    _member(table, path, header, first)
    for path, (header, first) in heads.items()
  ]
  found = pd.DataFrame(rows, index=list(heads))
  if is_original:
    shard = [_shard_of(path) for path in found.index]
    name = [storage.name(path) for path in found.index]
    found = found.assign(shard=shard, name=name)
    found = found.sort_values(['shard', *_LEVEL, *_ORDER, 'name'])
    found['replicate'] = found.groupby(['shard', *_LEVEL]).cumcount()
  return found[list(tables.MEMBER_KEY)].loc[list(files)], is_original


def _member(
  table: csvs.Table, path: str, header: list[str], first: list[str]
) -> dict[str, object]:
  """The columns of `tables.MEMBER` that a table has, in its first row."""
  if not first:
    raise ValueError(f'{path} holds no predictions')
  cells = dict(zip(header, first, strict=False))
  row = {}
  for column in tables.MEMBER:
    if column not in table.columns:
      continue
    if column.name not in cells and column.default is None:
      raise ValueError(
        f'{path} is not a table of {table.name}: it lacks the column '
        f'{column.name!r}, it has {header}'
      )
    row[column.name] = cells.get(column.name, column.default)
  return csvs.check(table, pd.DataFrame([row]), path).iloc[0].to_dict()


def _shard_of(path: str) -> str:
  return epath.Path(path).parent.name


def _is_original(header: Sequence[str]) -> bool:
  named = {'image_key', 'replicate'} & set(header)
  return tables.ROW in header[:1] and not named


def _heads(files: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(files, pool.map(csvs.read_head, files), strict=True))
