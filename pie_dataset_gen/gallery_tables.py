"""The tables of the page of PIEs: verdicts, PIEs, findings, costs."""

import numpy as np
import pandas as pd

from pie_dataset_gen import headline_rows, rounding, solidity
from utils import populations


def headline(rows: pd.DataFrame) -> dict[str, list]:
  """The table of findings, a line for each measure, levels side by side.

  Args:
    rows: of `tables.HEADLINE`.

  Returns:
    Names of the levels; the lines; and the notes, caveats and reasons why
    numbers have no interval, which cells name by their place, from 1 on.
  """
  by_level = populations.by_level(rows)
  lines: dict[str, dict] = {}
  for level, of_level in by_level.items():
    for row in of_level.to_dict('records'):
      lines.setdefault(row['measure'], {})[level] = row
  notes: dict[str, int] = {}

  def note(text):
    return notes.setdefault(text, len(notes) + 1)

  def cell(measure, level, row):
    if row is None:
      return {'not_available': 'no data', 'note': 0}
    value, low, high = (row[name] for name in ('value', 'low', 'high'))
    reason = row['not_available']
    found: dict[str, object] = {'not_available': reason, 'note': 0}
    if np.isnan(value):
      # What all others are held against has no such value: that needs no word.
      if reason and not level.is_dense:
        found['note'] = note(f'not available: {reason}')
      return found
    found |= {'exact': value, 'text': rounding.number(value, measure)}
    if not np.isnan([low, high]).any():
      found['ends'] = [
        (end, rounding.number(end, measure, value)) for end in (low, high)
      ]
    # A number without an interval that says why has a caveat.
    if reason:
      found['note'] = note(f'no interval: {reason}')
    return found

  is_known = any(measure in headline_rows.SHORT for measure in lines)
  shown = [
    {
      'measure': measure,
      # A table of none of the measures is shown as it is.
      'is_short': measure in headline_rows.SHORT or not is_known,
      'cells': [cell(measure, level, cells.get(level)) for level in by_level],
    }
    for measure, cells in lines.items()
  ]
  return {
    'levels': [level.words for level in by_level],
    'rows': shown,
    'notes': list(notes),
  }


def levels(labels: pd.DataFrame, null: pd.DataFrame) -> list[dict[str, object]]:
  """PIEs of each level by what they are worth beside chance, and by ties.

  Args:
    labels: rows of `tables.MODAL_LABELS`.
    null: rows of `tables.PIE_NULL`, or of none of the levels.

  Raises:
    ValueError: the two are not of one run.
  """
  of_null = {populations.level_of(row): row for row in null.to_dict('records')}
  lines = []
  for level, rows in populations.by_level(labels).items():
    pies = rows[populations.is_pie(rows)]
    row = of_null.get(level, {})
    if row and row['pie_count'] != len(pies):
      raise ValueError(
        f'at {tuple(level)} there are {len(pies)} PIEs among the modal labels, '
        f'but the PIE null counts {row["pie_count"]}: wanted both from one run '
        'of aggregate_predictions'
      )
    words = solidity.of_rows(pies).value_counts()
    lines.append(
      {
        'name': level.words,
        'pies': len(pies),
        'images': len(rows),
        'words': [int(words.get(word, 0)) for word in solidity.MEANINGS],
        'by_ties': row.get('pie_by_tie_rule_count'),
        'tie_rule': row.get('tie_rule'),
      }
    )
  return lines


def costs(rows: pd.DataFrame) -> dict[str, list]:
  """What each compressed level costs, beside what training alone gives.

  Args:
    rows: of `tables.COSTS`.

  Returns:
    Names of the compressed levels, and the lines: a measure and its cells.
  """
  by_level = {
    level: of.set_index('measure').to_dict('index')
    for level, of in populations.by_level(rows).items()
    if not level.is_dense
  }

  def cell(measure, row):
    if np.isnan(row['value']):
      return {'not_available': row['not_available']}

    def text(value):
      if np.isnan(value):
        return None
      return value, rounding.number(value, measure, row['value'])

    return {
      'not_available': row['not_available'],
      'value': text(row['value']),
      'ends': text(row['low']) and [text(row['low']), text(row['high'])],
      'reference': text(row['reference']),
      'p': None
      if np.isnan(row['pvalue'])
      else (row['pvalue'], rounding.p_value(row['pvalue'])),
      'verdict': row['verdict'],
    }

  measures = dict.fromkeys(m for of in by_level.values() for m in of)
  return {
    'levels': [level.words for level in by_level],
    'rows': [
      {
        'measure': measure,
        'cells': [cell(measure, of[measure]) for of in by_level.values()],
      }
      for measure in measures
    ],
  }


def costs_by(rows: pd.DataFrame, column: str) -> dict[str, list]:
  """The same of each group or set of images, whose lines follow one another.

  Args:
    rows: of `tables.GROUP_COSTS` or `tables.CORRUPTED_COSTS`.
    column: which names the group or set.
  """
  found: dict[str, list] = {'levels': [], 'rows': []}
  for group, of in rows.groupby(column, sort=False):
    part = costs(of)
    found['levels'] = part['levels']
    found['rows'] += [{'group': group, **row} for row in part['rows']]
  return found


def verdicts(found: pd.DataFrame) -> list[dict[str, object]]:
  """The sentences of each level, in the order of `tables.VERDICTS`.

  They stand below the level's name, and do not repeat it.
  """
  return [
    {
      'level': level.words,
      'rows': [
        {
          **row,
          # Of pairs '<level>, in pairs: ...'.
          'sentence': row['sentence'].removeprefix(level.words).lstrip(':, '),
        }
        for row in rows[['about', 'verdict', 'sentence']].to_dict('records')
      ],
    }
    for level, rows in populations.by_level(found).items()
  ]
