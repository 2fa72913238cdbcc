"""What members have in common: levels, halves, PIEs, and one study's rows.

Pure functions on members, arrays and frames: no files, no flags, no TensorFlow.
A *level* is what was made alike (`Level`); the level `DENSE` is
what all others are held against. Tables call a level's fraction either
fraction_pruned, in rows about members, or pruning_fraction, in rows about
levels, as the original does; here both are one.
"""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from utils import member_paths, tables
from utils.member_paths import BASELINE as BASELINE
from utils.member_paths import DENSE, Level
from utils.member_paths import Member as Member

_FRACTIONS = ('fraction_pruned', 'pruning_fraction')
# Bounds the memory: images that are compared at once.
_BLOCK_IMAGES = 256


def level_columns(frame: pd.DataFrame) -> list[str]:
  """The two columns that name the level of a row."""
  return ['pruning_method', *(name for name in _FRACTIONS if name in frame)]


def sort_levels(levels: Iterable[Level]) -> list[Level]:
  """Dense first, then by method and fraction; each once."""
  return sorted(set(levels), key=lambda level: (level != DENSE, level))


def by_level(frame: pd.DataFrame) -> dict[Level, pd.DataFrame]:
  """The rows of each level, the levels in the order of `sort_levels`."""
  found = {
    Level(*key): rows for key, rows in frame.groupby(level_columns(frame))
  }
  return {level: found[level] for level in sort_levels(found)}


def level_of(row: Mapping[str, Any]) -> Level:
  """The level that a row is about."""
  fraction = next(row[name] for name in _FRACTIONS if name in row)
  return Level(row['pruning_method'], fraction)


def compressed_levels(
  levels: Iterable[Level],
  fractions: Sequence[float] = (),
  method: str = '',
  source: str = 'the members',
) -> list[Level]:
  """The levels to hold against the dense one, sorted.

  Args:
    levels: those that there are.
    fractions: those that are wanted, or empty for all.
    method: the method that is wanted, or empty for all.
    source: what holds them, for the message.

  Raises:
    ValueError: there is no dense level, or none of those that are wanted.
  """
  there = sort_levels(levels)
  if DENSE not in there:
    raise ValueError(
      f'{source}: no member of the baseline (pruning_method '
      f'{DENSE.pruning_method!r}, fraction_pruned 0), there are '
      f'{[tuple(level) for level in there]}'
    )
  found = [
    level
    for level in there
    if not level.is_dense and method in ('', level.pruning_method)
  ]
  missing = set(fractions) - {level.fraction_pruned for level in found}
  if missing or not found:
    raise ValueError(
      f'{source}: no compressed members at {sorted(missing) or "any level"}'
      f'{f" by {method}" if method else ""}, there are '
      f'{[tuple(level) for level in there]}'
    )
  return [
    level
    for level in found
    if not fractions or level.fraction_pruned in fractions
  ]


def paired_levels(
  identities: Iterable[Mapping[str, Any]],
  levels: Collection[Level],
  paired_methods: Collection[str] = (),
) -> set[Level]:
  """Levels whose members were each made from the dense member of its number.

  Which they are is read from what members say they were made from. Networks
  that were made from others than the dense ones that they are compared with,
  are independent of these, and no pairs.

  Args:
    identities: columns `tables.MEMBER` and `made_from` of each member, sorted.
    levels: those that are compared with the dense one.
    paired_methods: methods whose members are pairs though they do not say so,
      as predictions from elsewhere may.

  Raises:
    ValueError: members are partly pairs, or are none and should be; names
      them.
  """
  by_level = collections.defaultdict(list)
  for identity in identities:
    by_level[level_of(identity)].append(identity)
  _check_replicates(
    {
      level: [int(of['replicate']) for of in rows]
      for level, rows in by_level.items()
    },
    levels,
    paired_methods,
  )
  # The step is left out: networks of one training depend on one another.
  dense = [member_paths.from_row(of).member.folder for of in by_level[DENSE]]
  paired = set()
  for level in levels:
    sources = [of['made_from'].rpartition('/')[0] for of in by_level[level]]
    from_dense = len(set(sources) & set(dense))
    if sources == dense:
      paired.add(level)
    elif from_dense:
      raise ValueError(
        f'{level.words}: {from_dense} of {len(sources)} members were made from '
        f'dense ones, of which there are {len(dense)}: wanted each from the '
        'dense member of its number, or none from any of them'
      )
    elif level.pruning_method in paired_methods and any(sources):
      raise ValueError(
        f'--paired_methods names {level.pruning_method}, but its members were '
        f'made from others than the dense ones, such as {sources[0]}'
      )
    elif level.pruning_method in paired_methods:
      paired.add(level)
  return paired


def _check_replicates(
  replicates: Mapping[Level, Sequence[int]],
  levels: Collection[Level],
  paired_methods: Collection[str],
) -> None:
  """Refuses `--paired_methods` whose members are no pairs.

  Args:
    replicates: of the members of each level, the dense one among them, sorted.
    levels: those that are compared with the dense one.
    paired_methods: methods whose members were each made from the dense member
      of its replicate.

  Raises:
    ValueError: there are no members of a method, or of other replicates.
  """
  methods = {level.pruning_method for level in levels}
  if strange := set(paired_methods) - methods:
    raise ValueError(
      f'--paired_methods names {sorted(strange)}, there are members of '
      f'{sorted(methods)}'
    )
  dense = list(replicates[DENSE])
  for level in levels:
    found = list(replicates[level])
    if level.pruning_method in paired_methods and found != dense:
      raise ValueError(
        f'{tuple(level)} has the replicates {found}, the baseline {dense}: '
        'wanted the same, since --paired_methods says that each was made from '
        'the dense member of its number'
      )


def check_alike(identities: Iterable[Mapping[str, object]]) -> None:
  """Refuses levels whose members were not made alike.

  Args:
    identities: columns `tables.MEMBER` of each member.

  Raises:
    ValueError: names the level, two replicates and what differs.
  """
  populations = collections.defaultdict(list)
  for identity in identities:
    populations[level_of(identity)].append(identity)
  for level, population in populations.items():
    first = population[0]
    for member in population[1:]:
      for name in tables.MEMBER_KEY[:-1]:
        if first[name] != member[name]:
          raise ValueError(
            f'members of the level {tuple(level)} were not trained alike: '
            f'{name} is {first[name]!r} for replicate {first["replicate"]} and '
            f'{member[name]!r} for replicate {member["replicate"]}'
          )


def agreement(labels: np.ndarray) -> np.ndarray:
  """On how many images each two members agree.

  Args:
    labels: [images, members] predicted class ids.

  Returns:
    [members, members].
  """
  members = labels.shape[1]
  total = np.zeros((members, members), np.int64)
  for start in range(0, len(labels), _BLOCK_IMAGES):
    block = labels[start : start + _BLOCK_IMAGES]
    total += (block[:, :, None] == block[:, None, :]).sum(axis=0)
  return total


def is_pie(labels: pd.DataFrame) -> pd.Series:
  """Which rows of `tables.MODAL_LABELS` are PIEs: the populations differ."""
  return labels['baseline_modal_label'] != labels['variant_modal_label']


def one_row_per_member(
  rows: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
  """What class metrics say of whole members, sorted by identity.

  Args:
    rows: of `tables.CLASS_METRICS`, a row for each class of each member.
    columns: names of columns that are the same in all rows of a member.

  Raises:
    ValueError: they are not; names the member.
  """
  key = list(tables.MEMBER_KEY)
  # NaN counts as a value: top-5 is absent in all of a member's rows, or none.
  members = rows[[*key, *columns]].drop_duplicates()
  repeated = members.duplicated(key)
  if repeated.any():
    raise ValueError(
      f'the class metrics hold more than one of {list(columns)} of the member '
      f'{members.loc[repeated, key].iloc[0].to_dict()}'
    )
  return members.sort_values(key, ignore_index=True)


def check_one_study(rows: pd.DataFrame, mode: str, source: str) -> None:
  """Refuses class metrics that cannot be compared with one another.

  Args:
    rows: of `tables.CLASS_METRICS`, with `exp`, `split`, `preprocessing` and
      `compute_precision`.
    mode: the split that is wanted; rows that name none are taken to be of it.
    source: file name, for the message.

  Raises:
    ValueError: rows are of another split, of several experiments, or were
      measured in different ways.
  """
  for name in ('split', 'exp', 'preprocessing', 'compute_precision'):
    wanted = mode if name == 'split' else None
    found = set(rows[name].unique())
    if wanted:
      found -= {'', wanted}
    if len(found) > (0 if wanted else 1):
      raise ValueError(
        f'{source} and the like hold the {name} {sorted(found)}, wanted '
        f'{wanted or "one study"}: name a folder that holds no other'
      )
