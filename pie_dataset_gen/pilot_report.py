"""What a pilot says about the number of members, in a table and in words."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pie_dataset_gen import detectable_change, pilot
from utils import populations, tables

_LEVEL = tables.SIGNIFICANCE
_FOUND = f'{10 * detectable_change.POWER:.0f} of 10'
_COLUMNS = 96
# Groups that are named, the noisiest first.
_GROUPS = 8


def _number(value: float) -> str:
  if np.isnan(value):
    return '-'
  # Of a recall, or an accuracy.
  return '> 1' if value > 1 else f'{value:.3f}'


def _share(row: Mapping[str, Any]) -> str:
  return f'{row["share_found"] * row["subsets"]:.0f} of {row["subsets"]:.0f}'


# Columns of the table: title, rows of `tables.MEMBERS_NEEDED`, their cell.
_CHANGES: tuple[tuple[str, str, str], ...] = (
  ('accuracy', 'accuracy', 'smallest_change'),
  ('typical class', 'typical class', 'smallest_change'),
  ('corrected', 'typical class', 'smallest_change_corrected'),
  ('noisiest class', 'noisiest class', 'smallest_change'),
  ('corrected', 'noisiest class', 'smallest_change_corrected'),
)
# And of `tables.SUBSET_TESTS`.
_TESTS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
  ('smallest p', lambda row: _number(row['smallest_pvalue'])),
  ('median p', lambda row: _number(row['median_pvalue'])),
  (f'p <= {_LEVEL:g}', lambda row: _share(row) if row['subsets'] else '-'),
)


def side_by_side(needed: pd.DataFrame, tests: pd.DataFrame) -> str:
  """What a level's rows say, a line for each number of members."""
  sizes = sorted({*needed['num_members'], *tests['num_members']})
  columns = [('members', [f'{size}' for size in sizes])]
  for title, what, name in _CHANGES:
    rows = needed[needed['what'] == what]
    cells = dict(zip(rows['num_members'], rows[name], strict=True))
    if cells:
      columns.append((title, [_number(cells[size]) for size in sizes]))
  for title, cell in _TESTS if len(tests) else ():
    of_size = tests.set_index('num_members').to_dict('index')
    columns.append((title, [cell(of_size[size]) for size in sizes]))
  widths = [max(map(len, [title, *cells])) for title, cells in columns]
  lines = [
    [title for title, _ in columns],
    *zip(*(cells for _, cells in columns), strict=True),
  ]
  return '\n'.join(
    '  '.join(f'{c:>{w}}' for c, w in zip(line, widths, strict=True))
    for line in lines
  )


def say_changes(needed: pd.DataFrame, size: int) -> list[str]:
  """What a level's rows of `tables.MEMBERS_NEEDED` say, in words.

  Args:
    needed: rows of the level.
    size: members a side to speak of.
  """
  needed = needed[needed['num_members'] == size]
  said = []
  for row in needed.to_dict('records'):
    if row['what'] in ('class', 'group'):
      continue
    subject = f'the {row["what"]} {row["class"]!r}'.removesuffix(" ''")
    sentence = (
      f'with {size} members a side {subject} must move by {_changes_of(row)} '
      f'to be found in {_FOUND} studies'
    )
    if row['class']:
      number = needed.loc[needed['what'] == 'class', 'deviation'].count()
      sentence += (
        f', and by {_number(row["smallest_change_corrected"])} if it is one of '
        f'{number} that are corrected for'
      )
    elif not row['smallest_change'] > 0:
      alike = 'all members of the pilot have one accuracy'
      if row['is_paired']:
        alike = 'the accuracy differs by as much in all pairs of the pilot'
      sentence = f'{alike}: it says nothing'
    said.append(sentence)
  groups = needed[(needed['what'] == 'group') & (needed['deviation'] > 0)]
  noisiest = groups.sort_values(['deviation', 'class_id'], ascending=False)
  if len(groups):
    each = ', '.join(
      f'{row["class"]!r} by {_changes_of(row)}'
      for row in noisiest.head(_GROUPS).to_dict('records')
    )
    more = len(groups) - _GROUPS
    said.append(
      f'with {size} members a side groups must move: {each}'
      + (f', and {more} others by less' if more > 0 else '')
    )
  return said


def _changes_of(row: Mapping[str, Any]) -> str:
  low, high = (row[f'smallest_change_{end}'] for end in ('low', 'high'))
  return f'{_number(row["smallest_change"])} [{_number(low)}, {_number(high)}]'


def say_tests(tests: pd.DataFrame) -> str:
  """What a level's rows of `tables.SUBSET_TESTS` say, in words."""
  rows = tests[tests['subsets'] > 0].sort_values('num_members')
  found = rows['share_found'] >= detectable_change.POWER
  # From this number on all numbers find it.
  enough = rows[found[::-1].cummin()[::-1]]
  row = (rows.tail(1) if enough.empty else enough).to_dict('records')[0]
  number, median = row['num_members'], f'median p {row["median_pvalue"]:.3f}'
  if enough.empty:
    return (
      f'at no number of members do {_FOUND} subsets show a difference (with '
      f'{number} a side {_share(row)}, {median}): they are too few, or there '
      'is nothing to find'
    )
  if row['subsets'] == 1:
    return (
      f'all {number} members a side show a difference (p '
      f'{row["median_pvalue"]:.3f}), fewer do not in {_FOUND} subsets: another '
      f'study of {number} may miss it'
    )
  return (
    f'the exact test finds that predictions differ in {_share(row)} subsets of '
    f'{number} members a side ({median})'
  )


def say_too_few(tests: pd.DataFrame) -> list[str]:
  """Which numbers of members cannot reach significance at all."""
  rows = tests.drop_duplicates(['num_members', 'is_paired']).sort_values(
    ['is_paired', 'num_members']
  )
  return [
    f'{row["num_members"]} {"pairs" if row["is_paired"] else "members a side"} '
    f'cannot reach {_LEVEL:g}, whatever '
    f'they predict: the smallest p of the exact test is '
    f'{row["smallest_pvalue"]:.3f}'
    for row in rows[rows['smallest_pvalue'] > _LEVEL].to_dict('records')
  ]


def _in_pairs(*tables_of_level: pd.DataFrame) -> str:
  """Says whether a level was compared in pairs."""
  paired = any(rows['is_paired'].any() for rows in tables_of_level)
  return ', in pairs' if paired else ''


def _wrap(text: str, indent: str = '') -> str:
  return textwrap.fill(
    text,
    _COLUMNS,
    initial_indent=indent,
    subsequent_indent=' ' * len(indent),
    break_long_words=False,
    break_on_hyphens=False,
  )


def report(
  needed: pd.DataFrame,
  tests: pd.DataFrame,
  members: pilot.Members,
  levels: Iterable[populations.Level],
) -> str:
  """All that is printed.

  Args:
    needed: rows of `tables.MEMBERS_NEEDED`.
    tests: rows of `tables.SUBSET_TESTS`.
    members: of the pilot.
    levels: those to speak of.
  """
  parts = []
  for level in levels:
    of_needed, of_tests = (
      frame[
        (frame['pruning_method'] == level.pruning_method)
        & (frame['pruning_fraction'] == level.fraction_pruned)
      ]
      for frame in (needed, tests)
    )
    said = say_changes(of_needed, members.a_side(level))
    if len(of_tests):
      said.append(say_tests(of_tests))
    parts += [
      f'{level.words}, from a pilot of '
      f'{members.sizes[populations.DENSE]} dense and {members.sizes[level]} '
      f'compressed members{_in_pairs(of_needed, of_tests)}:',
      side_by_side(of_needed, of_tests),
      '\n'.join(_wrap(sentence, '- ') for sentence in said),
    ]
  if len(needed):
    parts.append(
      _wrap(
        'Changes are the smallest that the two-sided test of Welch, or of '
        f'pairs, at {_LEVEL:g} finds in {_FOUND} studies; of classes and '
        'groups, beyond that of the accuracy. [From, to] is their 95 % '
        'interval, since the deviation of a few members is known badly: plan '
        f'for the upper end. Corrected is {_LEVEL:g} over the number of '
        'classes or groups (Bonferroni), more than the false discovery rate '
        'asks for.'
      )
    )
  if len(tests):
    parts.append(
      _wrap(
        'p is that of the exact test of all predictions, over random subsets '
        'of the pilot. Subsets share members: those of nearly all members are '
        'nearly the same, and no evidence about another study.'
      )
    )
    if too_few := say_too_few(tests):
      parts.append('\n'.join(_wrap(sentence, '- ') for sentence in too_few))
  return '\n\n'.join(parts)
