"""The rows of the headline table: what each measures, and its cells by level.

Pure functions on frames of the other scripts' tables.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from utils import csvs, populations, tables

PIES = 'PIEs'
BY_CHANCE = 'PIEs by chance, memberships permuted'
PVALUE = 'p, if it predicted like the dense'
AGAINST_DENSE = 'churn against the dense'
BEYOND_NOISE = 'churn beyond noise'
NEWLY_WRONG = 'newly wrong'
NEWLY_RIGHT = 'newly right'
CALIBRATION_ERROR = 'ECE of the predicted class'
LOWEST_OF_GROUPS = 'lowest recall of a group'
EQUALISED_ODDS = 'equalised odds difference'
COMPRESSION = 'compression ratio'
SPEED_UP = 'theoretical speed-up'
GZIPPED = 'bytes, gzipped'
# The rows that are printed, and that a page shows first.
SHORT = (
  'members',
  'top-1',
  PIES,
  BY_CHANCE,
  PVALUE,
  'PIEs that are solid',
  'top-1 of compressed on PIEs',
  'classes that fell against the whole',
  'classes that rose against the whole',
  'p of so many classes, by chance',
  LOWEST_OF_GROUPS,
  EQUALISED_ODDS,
  AGAINST_DENSE,
  NEWLY_WRONG,
  NEWLY_RIGHT,
  CALIBRATION_ERROR,
  'overconfidence',
  COMPRESSION,
  SPEED_UP,
  GZIPPED,
  'top-1 on corrupted images',
  'error on corrupted images, dense = 1',
  f'{NEWLY_WRONG}, corrupted images',
  f'{CALIBRATION_ERROR}, corrupted images',
)
# Images that accuracies are of: all; PIEs, as in the paper; the rest; PIEs
# between two halves of the dense members, which chance made; and PIEs that
# other members chose than those that are scored.
_SCORED = (
  'all images',
  'PIEs',
  'the others',
  'chance PIEs',
  'PIEs chosen by other members',
)
_FEW = f'so few members cannot give a p of {tables.SIGNIFICANCE:g} or less'
NO_PIES = 'the baseline is what the others are held against'


class Cell(NamedTuple):
  """A value of the table, with its 95 % interval, or why there is none."""

  value: float = np.nan
  low: float = np.nan
  high: float = np.nan
  not_available: str = ''


class Row(NamedTuple):
  """A line of the table: what was measured, and the cells."""

  measure: str
  cells: dict[populations.Level, Cell]
  not_available: str = 'no data at this level'

  def cell(self, level: populations.Level) -> Cell:
    """The cell of a level, with a reason where there is none."""
    return self.cells.get(level, Cell(not_available=self.not_available))


def absent(measure: str, table: csvs.Table) -> list[Row]:
  """The line of a part that is not there."""
  return [Row(measure, {}, not_available=f'{table.written_by} makes it')]


def read_members(files: list[str], mode: str) -> pd.DataFrame:
  """Reads accuracies, a row for each member, from the class metrics of all.

  Returns:
    Identity, eval_accuracy, top_5_eval_accuracy and the number of images,
    support.

  Raises:
    ValueError: the rows of a member disagree about its accuracy, or members
      were measured on another split, or in different ways.
  """
  columns = (
    *tables.MEMBER_KEY,
    *('split', 'preprocessing', 'compute_precision'),
    'class_id',
    'support',
    'eval_accuracy',
    'top_5_eval_accuracy',
  )
  frame = csvs.read_all(tables.CLASS_METRICS, files, columns)
  populations.check_one_study(frame, mode, files[0])
  members = populations.one_row_per_member(
    frame, ('eval_accuracy', 'top_5_eval_accuracy')
  )
  key = list(tables.MEMBER_KEY)
  images = frame.groupby(key, as_index=False)['support'].sum()
  return members.merge(images, on=key)


def accuracy_rows(members: pd.DataFrame) -> list[Row]:
  """Members, top-1 and top-5, as `read_members` gives them."""
  rows = [
    Row('members', {}),
    Row('top-1', {}),
    Row('top-1, sd over members', {}),
    Row('top-5', {}),
  ]
  for level, of in populations.by_level(members).items():
    top_1, top_5 = of['eval_accuracy'], of['top_5_eval_accuracy']
    cells = (
      Cell(len(of)),
      Cell(top_1.mean()),
      Cell(top_1.std(), not_available='' if len(of) > 1 else 'one member'),
      Cell(
        top_5.mean(skipna=False),
        not_available='' if top_5.notna().all() else 'no top-5 in the CSVs',
      ),
    )
    for row, cell in zip(rows, cells, strict=True):
      row.cells[level] = cell
  return rows


def pie_rows(null: pd.DataFrame, labels: pd.DataFrame) -> list[Row]:
  """PIEs, their number by chance, and accuracies with and without them.

  Args:
    null: rows of `tables.PIE_NULL`.
    labels: rows of `tables.MODAL_LABELS`, of all shards.

  Raises:
    ValueError: the two do not come from one run.
  """
  rows = {
    measure: Row(measure, {})
    for measure in (
      'images',
      PIES,
      BY_CHANCE,
      'PIEs beyond chance',
      PVALUE,
      'PIEs that are solid',
      'PIEs that hang on the rule for ties',
      'PIEs, share of images',
      *(
        f'top-1 of {who} on {images}'
        for images in _SCORED
        for who in ('dense', 'compressed')
      ),
    )
  }
  groups = populations.by_level(labels)
  for level in null.to_dict('records'):
    name = populations.level_of(level)
    images = groups.pop(name, labels.iloc[:0])
    pie = populations.is_pie(images)
    total = level['total_images_count']
    if (len(images), pie.sum()) != (total, level['pie_count']):
      raise ValueError(
        f'at {tuple(name)} there are {pie.sum()} PIEs among {len(images)} '
        f'modal labels, but the PIE null counts {level["pie_count"]} among '
        f'{total}: wanted both from one run of aggregate_predictions over all '
        'shards'
      )
    for measure, cell in _pie_cells(level, images).items():
      rows[measure].cells[name] = cell
  for row in rows.values():
    row.cells[populations.DENSE] = Cell(not_available=NO_PIES)
  if not null.empty:
    total = null['total_images_count'].iloc[0]
    rows['images'].cells[populations.DENSE] = Cell(total)
  if groups:
    raise ValueError(
      f'there are modal labels at {[tuple(level) for level in groups]} that '
      'the PIE null does not count: wanted both from one run of '
      'aggregate_predictions'
    )
  return list(rows.values())


def _pie_cells(level: dict, images: pd.DataFrame) -> dict[str, Cell]:
  """Cells of `pie_rows` for one level, by measure.

  Args:
    level: row of `tables.PIE_NULL`.
    images: rows of `tables.MODAL_LABELS`.
  """
  pies, total = level['pie_count'], level['total_images_count']
  reason = level['not_available']
  few = ''
  if level['smallest_pvalue'] > tables.SIGNIFICANCE:
    few = _FEW

  def or_why(value: float, low: float = np.nan, high: float = np.nan) -> Cell:
    return Cell(value, low, high, reason if np.isnan(value) else '')

  p = level['energy_pvalue']
  cells = {
    'images': Cell(total),
    PIES: Cell(
      pies,
      level['pie_count_low'],
      level['pie_count_high'],
      reason if np.isnan(level['pie_count_low']) else '',
    ),
    BY_CHANCE: or_why(
      level['permuted_mean'], level['permuted_low'], level['permuted_high']
    ),
    'PIEs beyond chance': or_why(pies - level['permuted_mean'])
    if not level['pie_pvalue'] > tables.SIGNIFICANCE
    else Cell(not_available='no more PIEs than chance often gives'),
    PVALUE: Cell(not_available=few) if few else or_why(p),
    'PIEs that are solid': Cell(not_available=few)
    if few
    else or_why(level['solid_pie_count']),
    'PIEs that hang on the rule for ties': Cell(level['pie_by_tie_rule_count']),
    'PIEs, share of images': Cell(pies / total),
  }
  pie = populations.is_pie(images)
  for who, column in (('dense', 'baseline'), ('compressed', 'variant')):
    right = images[f'{column}_correct_share']
    for name, chosen in zip(_SCORED, (pie | True, pie, ~pie), strict=False):
      cells[f'top-1 of {who} on {name}'] = Cell(
        right[chosen].mean(),
        not_available='' if chosen.any() else 'no such image',
      )
    for name, of in zip(_SCORED[3:], ('chance', 'held_out'), strict=True):
      value = level[f'{of}_{column}_accuracy']
      why = reason or 'no such image'
      if of == 'chance' and level['is_paired']:
        why = 'two dense halves are not what pairs differ by'
      cells[f'top-1 of {who} on {name}'] = Cell(
        value, not_available=why if np.isnan(value) else ''
      )
  return cells


def class_rows(summary: pd.DataFrame) -> list[Row]:
  """Classes that moved against the whole: `tables.CLASS_IMPACT_SUMMARY`."""
  columns = {
    'classes that fell against the whole': 'lower_corrected',
    'fell, by chance': 'lower_corrected_permuted',
    'classes that rose against the whole': 'higher_corrected',
    'rose, by chance': 'higher_corrected_permuted',
    'p of so many classes, by chance': 'significant_pvalue',
    'lowest recall of a class': 'worst_recall',
  }
  rows = []
  for measure, column in columns.items():
    cells = {}
    for level in summary.to_dict('records'):
      reason = '' if level['tested'] else 'no class could be tested'
      if not reason and np.isnan(level[column]):
        reason = 'gen_tstatistic --num_permutations is 0'
      few = level['significant_pvalue_smallest'] > tables.SIGNIFICANCE
      if not reason and few and column == 'significant_pvalue':
        reason = _FEW
      cell = Cell(np.nan if reason else level[column], not_available=reason)
      if column == 'worst_recall' and not reason:
        cell = cell._replace(
          low=level['worst_recall_low'], high=level['worst_recall_high']
        )
      cells[populations.level_of(level)] = cell
    dense = Cell(not_available=NO_PIES)
    if column == 'worst_recall' and not summary.empty:
      dense = _lowest_of_dense(summary.iloc[0])
    rows.append(Row(measure, {populations.DENSE: dense, **cells}))
  return rows


def _lowest_of_dense(row: pd.Series) -> Cell:
  """Tables of former versions have none."""
  value, low, high = (
    row[f'baseline_worst_recall{end}'] for end in ('', '_low', '_high')
  )
  return Cell(value, low, high, NO_PIES if np.isnan(value) else '')


def group_rows(summary: pd.DataFrame) -> list[Row]:
  """The group that does worst: `tables.CLASS_IMPACT_SUMMARY` of groups."""
  row = class_rows(summary)[-1]
  return [row._replace(measure=LOWEST_OF_GROUPS)]


def odds_rows(costs: pd.DataFrame) -> list[Row]:
  """How far groups are apart: `tables.GROUP_COSTS`; none of other labels."""
  row = Row(EQUALISED_ODDS, {})
  for line in costs[costs['measure'] == EQUALISED_ODDS].to_dict('records'):
    reason = line['not_available'] if np.isnan(line['low']) else ''
    row.cells[populations.level_of(line)] = Cell(
      line['value'], line['low'], line['high'], reason
    )
    row.cells[populations.DENSE] = Cell(
      line['reference'],
      not_available=NO_PIES if np.isnan(line['reference']) else '',
    )
  is_known = any(not np.isnan(cell.value) for cell in row.cells.values())
  return [row] if is_known else []


def cost_rows(costs: pd.DataFrame) -> list[Row]:
  """What a level costs beside accuracy: `tables.COSTS`."""
  rows: dict[str, Row] = {}
  for line in costs.to_dict('records'):
    level, measure = populations.level_of(line), line['measure']
    row = rows.setdefault(measure, Row(measure, {}))
    ends = line['low'], line['high']
    complete = not np.isnan([line['value'], *ends]).any()
    reason = '' if complete else line['not_available']
    row.cells[level] = Cell(line['value'], *ends, reason)
  for row in rows.values():
    # As churn beyond noise, of which the dense have none.
    row.cells.setdefault(populations.DENSE, Cell(not_available=NO_PIES))
  return list(rows.values())


# What is said of corrupted images, too.
_CORRUPTED = (AGAINST_DENSE, NEWLY_WRONG, CALIBRATION_ERROR, 'overconfidence')


def corrupted_cost_rows(costs: pd.DataFrame) -> list[Row]:
  """The mean over sets of corrupted images: `tables.CORRUPTED_COSTS`."""
  rows = cost_rows(costs[costs['data_set'] == tables.MEAN_OF_SETS])
  return [
    row._replace(measure=f'{row.measure}, corrupted images')
    for row in rows
    if row.measure in _CORRUPTED
  ]


def gain_rows(gains: pd.DataFrame, speed: pd.DataFrame | None) -> list[Row]:
  """What a level buys.

  Args:
    gains: rows of `tables.GAINS`.
    speed: rows of `tables.SPEED`, or None where nothing was timed.
  """
  rows: dict[str, Row] = {}
  for line in gains.to_dict('records'):
    row = rows.setdefault(line['measure'], Row(line['measure'], {}))
    row.cells[populations.level_of(line)] = Cell(
      line['value'], not_available=line['not_available']
    )
  timed = Row('images a second', {}, 'measure_gains --rounds is 0')
  if speed is not None:
    for line in speed.to_dict('records'):
      timed.cells[populations.level_of(line)] = Cell(line['images_per_second'])
  return [*rows.values(), timed]


def robustness_rows(summary: pd.DataFrame) -> list[Row]:
  """Top-1 off the clean distribution, from `tables.ROBUSTNESS_SUMMARY`.

  A corruption's mean over its severities, and the mean over corruptions, that
  also against the dense population's and against the loss on clean images.
  """
  rows: dict[str, Row] = {}
  # Images that are hard by nature, ImageNet-A's, are their own mean.
  uncorrupted = set(summary['corruption']) <= {'', 'all'}
  for level in summary.to_dict('records'):
    corruption = level['corruption']
    if level['corruption_intensity'] or (corruption == 'all' and uncorrupted):
      continue
    names = {'': level['dataset_name'], 'all': 'corrupted images'}
    place = populations.level_of(level)
    name = names.get(corruption, corruption)
    accuracy = rows.setdefault(name, Row(f'top-1 on {name}', {}))
    accuracy.cells[place] = Cell(
      level['mean_accuracy'],
      level['mean_accuracy_low'],
      level['mean_accuracy_high'],
    )
    if corruption not in names:
      continue
    no_error = np.isnan(level['relative_error'])
    for measure, column, reason in (
      (
        'error on {}, dense = 1',
        'relative_error',
        'the dense models make no error' if no_error else '',
      ),
      ('loss on {}, clean = 1', 'relative_accuracy_loss', no_loss(level)),
    ):
      measure = measure.format(name)
      row = rows.setdefault(measure, Row(measure, {}))
      row.cells[place] = Cell(
        level[column],
        level[f'{column}_low'],
        level[f'{column}_high'],
        reason,
      )
  return list(rows.values())


def no_loss(level: dict) -> str:
  """Why a row of the summary has no relative loss, or no interval of it."""
  if populations.level_of(level).is_dense:
    return NO_PIES
  if np.isnan(level['clean_accuracy_loss']):
    return 'summarize had no --clean_directory'
  if np.isnan(level['relative_accuracy_loss']):
    return 'no loss on clean images'
  if np.isnan(level['relative_accuracy_loss_low']):
    return 'one model, or a loss on clean images that may be none'
  return ''
