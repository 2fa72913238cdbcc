"""What all members predicted for the images of one shard.

A shard's predictions lie in a folder of its own, one CSV for each member; here
they become matrices whose rows are the images and whose columns the members.
"""

import collections
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from etils import epath

from utils import (
  compressed,
  digests,
  member_paths,
  paths,
  populations,
  prediction_files,
  storage,
  tables,
)

# Whatever else changes predictions: populations that differ in it cannot be
# compared.
_CONDITIONS = ('preprocessing', 'precision')
_IDENTITY = (*tables.MEMBER_KEY, 'made_from')
COLUMNS = (
  'predictions',
  'true_class',
  'predicted_probability',
  'split',
  *_CONDITIONS,
  'image_key',
  'image_index',
  *_IDENTITY,
)
# More than anybody writes.
_SHARDS = 10_000
# Bounds the memory: text that is parsed at once.
_BATCH_BYTES = 32 * 2**20

# A member, as the rows about it name it, and what it was made from. Not a
# `populations.Member`: of tables that were written by hand, most of this is
# empty.
Identity = collections.namedtuple(  # type: ignore[misc]
  'Identity', _IDENTITY, defaults=('',)
)


def level_of(identity: Identity) -> populations.Level:
  """The level that a member is of."""
  return populations.level_of(identity._asdict())


class Predictions(NamedTuple):
  """What all members predicted for the images of one shard.

  Attributes:
    members: [members] sorted.
    image_key: [images] in the order of image_index.
    image_index: [images].
    true_class: [images].
    label: [images, members] predicted class ids.
    probability: [images, members] of the predicted class.
  """

  members: list[Identity]
  image_key: np.ndarray
  image_index: np.ndarray
  true_class: np.ndarray
  label: np.ndarray
  probability: np.ndarray

  def columns_of(self, level: populations.Level) -> np.ndarray:
    """Columns of the matrices that hold a level's members."""
    return np.flatnonzero(
      [level_of(member) == level for member in self.members]
    )


def find_shards(
  data_directory: str, dataset_name: str, mode: str, subdirectory: str
) -> dict[str, list[str]]:
  """Lists the files of predictions by the name of their shard.

  Raises:
    FileNotFoundError: there are none.
    ValueError: below one folder, two are named after one shard.
  """
  folder = paths.predictions_folder(data_directory, dataset_name, mode)
  if storage.exists(folder):
    data_directory = folder
  else:
    _check_name(data_directory, dataset_name, mode)
  shards = prediction_files.find(data_directory)
  if subdirectory and subdirectory not in shards:
    raise FileNotFoundError(
      f'no predictions for shard {subdirectory} in {data_directory}; there are '
      f'{sorted(shards)[:3]}...'
    )
  if subdirectory:
    shards = {subdirectory: shards[subdirectory]}
  else:
    _warn_of_gaps(shards, data_directory)
  prediction_files.say_what_is_assumed(
    [path for files in shards.values() for path in files], mode
  )
  return shards


def identity_of(sha256: Iterable[str]) -> str:
  """What tells a shard's predictions from others: all they hold, in any order.

  Args:
    sha256: of each of its files.
  """
  return digests.of_json(sorted(sha256))[:16]


def _warn_of_gaps(shards: Collection[str], folder: str) -> None:
  """Says which shards the names of the others promise, and are not there."""
  promised = set()
  for name in shards:
    if match := paths.SHARD.match(name):
      stem = name[: match.start(2)]
      of = match[3]
      # A number in a name from elsewhere may be any.
      for index in range(min(int(of), _SHARDS)):
        promised.add(f'{stem}{index:0{len(match[2])}d}-of-{of}')
  absent = sorted(promised - set(shards))
  if absent:
    logging.warning(
      '%s holds predictions of %d shards, but not of %d others, for example '
      '%s: the results are of these images only',
      folder,
      len(shards),
      len(absent),
      absent[0],
    )


def _check_name(data_directory: str, dataset_name: str, mode: str) -> None:
  """Refuses a folder of results that has no predictions of a data set."""
  if not data_directory or not epath.Path(data_directory).is_dir():
    return
  there = [
    f'{data_set.name}/{of_mode.name}'
    for data_set in sorted(epath.Path(data_directory).iterdir())
    if (folder := data_set / paths.PREDICTIONS_NAME).is_dir()
    for of_mode in sorted(folder.iterdir())
  ]
  if there:
    raise FileNotFoundError(
      f'{data_directory} holds no predictions of the data set {dataset_name!r} '
      f'for --mode={mode}, there are (data set/mode) {", ".join(there)}: give '
      '--dataset_name'
    )


def read_shard(
  files: Sequence[str], mode: str, num_classes: int = 0
) -> Predictions:
  """Reads what all members predicted for one shard.

  The files' order and that of their rows do not matter: rows are joined by
  image_key, members are sorted.

  Raises:
    ValueError: a file is no table of predictions, holds more than one member
      or another split; two files hold one member; members differ in their
      images, labels or the way they saw them.
  """
  source: dict[tuple, str] = {}
  columns = {}
  first: dict = {}
  for path, rows in _read_in_batches(files):
    member = _the_member(path, rows, mode)
    _check_class_ids(path, rows, num_classes)
    other = source.setdefault(member[:-1], path)
    if other != path:
      raise ValueError(
        f'{path} and {other} hold the same member {member._asdict()}'
      )
    if not first:
      by_position = np.lexsort((rows['image_key'], rows['image_index']))
      first = {
        name: rows[name][by_position]
        for name in ('image_key', 'image_index', 'true_class')
      }
      first |= {name: rows[name][:1] for name in _CONDITIONS}
      first |= {'path': path}
    order = _align(path, rows, first)
    # Taken, not sliced: a slice would keep its batch of files in memory.
    columns[member] = (
      rows['predictions'][order],
      rows['predicted_probability'][order],
    )
  members = sorted(columns)
  return Predictions(
    members,
    first['image_key'],
    first['image_index'],
    first['true_class'],
    np.stack([columns[member][0] for member in members], axis=1),
    np.stack([columns[member][1] for member in members], axis=1),
  )


class SameMembers:
  """Refuses shards of other members, and images that stand in two shards."""

  def __init__(self, source: str = ''):
    """What holds the predictions, for messages; nothing if it is empty."""
    self._of = f'{source}: ' if source else ''
    self._first: tuple[str, list[Identity]] | None = None
    self._shard_of: dict[str, str] = {}

  @property
  def num_images(self) -> int:
    """Images of the shards so far."""
    return len(self._shard_of)

  @property
  def image_keys(self) -> Collection[str]:
    """The keys of these images."""
    return self._shard_of.keys()

  def check(
    self, shard: str, members: list[Identity], image_key: np.ndarray
  ) -> None:
    """Checks one more shard.

    Raises:
      ValueError: its members are not those of the first one, or an image
        stands in another, too.
    """
    self._first = self._first or (shard, members)
    if members != self._first[1]:
      differ = sorted(set(members) ^ set(self._first[1]))
      raise ValueError(
        f'{self._of}shards {self._first[0]} and {shard} were predicted by '
        f'different members: {len(differ)} in one of them only, for example '
        f'{differ[0]._asdict()} (each folder is taken for a shard; folders of '
        'different members are listed with commas between)'
      )
    for key in image_key:
      if self._shard_of.setdefault(key, shard) != shard:
        raise ValueError(
          f'{self._of}image {key!r} stands in two shards, '
          f'{self._shard_of[key]} and {shard}'
        )


def _read_in_batches(files):
  """Yields each file's path and its columns, a name and an array each."""
  batch, size = [], 0
  numbers = prediction_files.replicates(files)
  for path in files:
    batch.append(path)
    size += compressed.text_bytes(path, epath.Path(path).stat().length)
    if size > _BATCH_BYTES or path == files[-1]:
      frame, ends = prediction_files.read_stacked(batch, COLUMNS, numbers)
      columns = {name: frame[name].to_numpy() for name in COLUMNS}
      for name, start, end in zip(batch, [0, *ends[:-1]], ends, strict=True):
        yield name, {c: values[start:end] for c, values in columns.items()}
      batch, size = [], 0


def _the_member(path: str, rows: dict, mode: str) -> Identity:
  """The one member whose predictions a file holds."""
  if not len(rows['image_key']):
    raise ValueError(f'{path} has no rows, wanted the predictions of a member')
  for name in (*_IDENTITY, 'split', *_CONDITIONS):
    values = rows[name]
    if not (values == values[0]).all():
      raise ValueError(
        f'{path}: column {name!r} holds {sorted(set(values))[:3]}, wanted the '
        'predictions of one member in a file'
      )
  empty = int(np.isnan(rows['predicted_probability']).sum())
  if 0 < empty < len(rows['image_key']):
    raise ValueError(
      f'{path}: predicted_probability is empty or no number for {empty} of '
      f'{len(rows["image_key"])} images, wanted it for all, or for none where '
      'only classes are known'
    )
  split = rows['split'][0]
  if split not in ('', mode):
    raise ValueError(f'{path} holds the {split} split, wanted --mode={mode}')
  member = Identity(*(rows[name][:1].tolist()[0] for name in _IDENTITY))
  try:
    member_paths.check_level(level_of(member))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  return member


def _check_class_ids(path: str, rows: dict, num_classes: int) -> None:
  for name in ('predictions', 'true_class'):
    line = rows[name].argmax()
    if num_classes and rows[name][line] >= num_classes:
      raise ValueError(
        f'{path}: column {name!r} holds {rows[name][line]} in line {line + 2}, '
        f'wanted a class id below --num_classes={num_classes}'
      )


def _align(path: str, rows: dict, first: dict) -> np.ndarray:
  """Order of a file's rows that puts its images in the order of the first."""
  keys, wanted = rows['image_key'], first['image_key']
  order = np.arange(len(keys))
  if len(keys) != len(wanted) or not (keys == wanted).all():
    order = pd.Index(keys).get_indexer(wanted)
    missing = wanted[order < 0]
    extra = np.setdiff1d(keys, wanted)
    if len(missing) or len(extra):
      raise ValueError(
        f'{path} and {first["path"]} hold different images: the former lacks '
        f'{len(missing)} {list(missing[:3])} of the latter and has '
        f'{len(extra)} others {list(extra[:3])}'
      )
  for name, what in (('true_class', 'class'), ('image_index', 'position')):
    values = rows[name][order]
    differs = values != first[name]
    if differs.any():
      i = np.flatnonzero(differs)[0]
      raise ValueError(
        f'{path} and {first["path"]} disagree on the {what} ({name}) of '
        f'{int(differs.sum())} images, for example {wanted[i]!r}: '
        f'{values[i]} and {first[name][i]}'
      )
  for name in _CONDITIONS:
    if rows[name][0] != first[name][0]:
      raise ValueError(
        f'{path} and {first["path"]} were predicted under different '
        f'conditions: {name} is {rows[name][0]!r} and {first[name][0]!r}'
      )
  return order


def joined(parts: Sequence[Predictions]) -> Predictions:
  """The predictions of the same members for the images of several shards."""
  columns = zip(*(part[1:] for part in parts), strict=True)
  return Predictions(parts[0].members, *map(np.concatenate, columns))


def part_of(
  predictions: Predictions, images: slice | np.ndarray
) -> Predictions:
  """The predictions for some of the images, a slice, places or a mask."""
  return predictions._replace(
    **{
      name: getattr(predictions, name)[images]
      for name in Predictions._fields
      if name != 'members'
    }
  )
