r"""Prints the table at the end of a run: what pruning cost, and whom.

Reads in --results_directory what the other scripts wrote there:

  class metrics   of per_class_accuracy.aggregate_ckpt_metrics: members, top-1,
                  top-5
  modal labels    of pie_dataset_gen.aggregate_predictions, with the PIE null:
                  PIEs, their number by chance, accuracy with and without them
  class impact    of per_class_accuracy.gen_tstatistic: classes that lost and
                  gained

and in --robustness_directory the summary of robustness_tests.summarize:
corrupted images. Writes <results_directory>/headline_table.csv, one row for
each measure and level of sparsity; in the terminal the levels stand side by
side. What is not there or cannot be computed is "n/a", with the reason below
the table and in the CSV. Parts that different networks made are refused.

  python -m pie_dataset_gen.headline_table --study=runs/digits

Expect the paper's findings: more PIEs at a higher sparsity, an accuracy on
PIEs far below that on all images, and one without PIEs above it.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import flags, logging

from pie_dataset_gen import same_networks
from utils import (
  command_line,
  csvs,
  paths,
  populations,
  provenance,
  storage,
  tables,
)

_LABEL_COLUMNS = (
  'pruning_method',
  'pruning_fraction',
  'image_key',
  'baseline_modal_label',
  'variant_modal_label',
  'baseline_number_observ',
  'variant_number_observ',
  'baseline_correct_share',
  'variant_correct_share',
)
_NO_PIES = 'the baseline is what the others are held against'

_TABLES = (
  tables.CLASS_METRICS,
  tables.PIE_NULL,
  tables.CLASS_IMPACT_SUMMARY,
  tables.ROBUSTNESS_SUMMARY,
)


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results; the table goes into it too.',
  )
  flags.DEFINE_string(
    'robustness_directory',
    '',
    'Folder of the summary of robustness: the --output_directory of '
    'robustness_tests.summarize. Empty: not available.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study, or '
    "'imagenet'.",
  )


class Cell(NamedTuple):
  """A value of the table, with its 95 % interval, or why there is none."""

  value: float = np.nan
  low: float = np.nan
  high: float = np.nan
  not_available: str = ''


class Row(NamedTuple):
  """A line of the table: what was measured, how to print it, the cells."""

  measure: str
  form: str
  cells: dict[populations.Level, Cell]
  has_interval: bool = False
  not_available: str = 'no data at this level'

  def cell(self, level: populations.Level) -> Cell:
    """The cell of a level, with a reason where there is none."""
    return self.cells.get(level, Cell(not_available=self.not_available))


def absent(measure: str, table: csvs.Table) -> list[Row]:
  """The line of a part that is not there."""
  return [Row(measure, '', {}, not_available=f'{table.written_by} makes it')]


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
    Row('members', '.0f', {}),
    Row('top-1', '.4f', {}),
    Row('top-1, sd over members', '.4f', {}),
    Row('top-5', '.4f', {}),
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
  counts = [
    Row('images', '.0f', {}),
    Row('PIEs', '.0f', {}, has_interval=True),
    Row('PIEs, share of images', '.4f', {}),
    Row('PIEs, dense half and pruned half', '.1f', {}, has_interval=True),
    Row('PIEs by chance, two dense halves', '.1f', {}, has_interval=True),
    Row('p, if it predicted like the dense', '.3g', {}),
  ]
  shares = [
    Row(f'top-1 of {who} on {images}', '.4f', {})
    for images in ('all images', 'PIEs', 'the others')
    for who in ('dense', 'pruned')
  ]
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
    reason = level['not_available']
    cells = [
      Cell(total),
      Cell(
        level['pie_count'],
        level['pie_count_low'],
        level['pie_count_high'],
        reason if np.isnan(level['pie_count_low']) else '',
      ),
      Cell(level['pie_count'] / total),
    ] + [
      Cell(
        level[f'{half}_mean'],
        level[f'{half}_low'],
        level[f'{half}_high'],
        reason if np.isnan(level[f'{half}_low']) else '',
      )
      for half in ('pruned_half', 'null')
    ]
    cells.append(_pvalue(level))
    for row, cell in zip(counts, cells, strict=True):
      row.cells[name] = cell
      row.cells[populations.DENSE] = Cell(not_available=_NO_PIES)
    counts[0].cells[populations.DENSE] = Cell(total)
    cells = [
      Cell(
        images.loc[chosen, f'{who}_correct_share'].mean(),
        not_available='' if chosen.any() else 'no such image',
      )
      for chosen in (pie | True, pie, ~pie)
      for who in ('baseline', 'variant')
    ]
    for row, cell in zip(shares, cells, strict=True):
      row.cells[name] = cell
      row.cells[populations.DENSE] = Cell(not_available=_NO_PIES)
  if groups:
    raise ValueError(
      f'there are modal labels at {[tuple(level) for level in groups]} that '
      'the PIE null does not count: wanted both from one run of '
      'aggregate_predictions'
    )
  return counts + shares


def _pvalue(level: dict) -> Cell:
  """The exact test of a level, where its members are enough for one."""
  if np.isnan(level['energy_pvalue']):
    return Cell(not_available='aggregate_predictions --num_permutations is 0')
  if level['energy_pvalue_smallest'] > tables.SIGNIFICANCE:
    return Cell(
      not_available='so few members cannot give a p of '
      f'{tables.SIGNIFICANCE:g} or less'
    )
  return Cell(level['energy_pvalue'])


def class_rows(summary: pd.DataFrame) -> list[Row]:
  """Classes that lost and gained, from `tables.CLASS_IMPACT_SUMMARY`."""
  columns = {
    'classes that lost more than the whole': ('lower_corrected', '.0f'),
    'lost more, by chance': ('lower_corrected_permuted', '.2f'),
    'classes that lost less than the whole': ('higher_corrected', '.0f'),
    'lost less, by chance': ('higher_corrected_permuted', '.2f'),
  }
  rows = []
  for measure, (column, form) in columns.items():
    cells = {}
    for level in summary.to_dict('records'):
      reason = '' if level['tested'] else 'no class could be tested'
      if not reason and np.isnan(level[column]):
        reason = 'gen_tstatistic --num_permutations is 0'
      cells[populations.level_of(level)] = Cell(
        np.nan if reason else level[column], not_available=reason
      )
    rows.append(
      Row(
        measure,
        form,
        {populations.DENSE: Cell(not_available=_NO_PIES), **cells},
      )
    )
  return rows


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
    accuracy = rows.setdefault(name, Row(f'top-1 on {name}', '.4f', {}))
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
      row = rows.setdefault(measure, Row(measure, '.3f', {}, has_interval=True))
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
    return _NO_PIES
  if np.isnan(level['clean_accuracy_loss']):
    return 'summarize had no --clean_directory'
  if np.isnan(level['relative_accuracy_loss']):
    return 'no loss on clean images'
  if np.isnan(level['relative_accuracy_loss_low']):
    return 'one model, or a loss on clean images that may be none'
  return ''


def write_rows(
  rows: list[Row], levels: list[populations.Level], path: str
) -> None:
  """Writes the table as `tables.HEADLINE`."""
  lines = [
    {
      'measure': row.measure,
      'pruning_method': level[0],
      'pruning_fraction': level[1],
      **row.cell(level)._asdict(),
    }
    for row in rows
    for level in levels
  ]
  csvs.write(tables.HEADLINE, pd.DataFrame(lines), path)


def render(rows: list[Row], levels: list[populations.Level]) -> str:
  """The table as aligned text: a line for each measure, levels side by side.

  A value that is not available is 'n/a' with the number of its reason, which
  stands below; '-' says that the baseline has no such value.
  """
  reasons: dict[str, int] = {}

  def text(cell, form, *numbers):
    if cell.not_available == _NO_PIES:
      return '-'
    if not np.isnan(numbers).any():
      return ' - '.join(format(number, form) for number in numbers)
    if not cell.not_available:
      return '-'
    return f'n/a ({reasons.setdefault(cell.not_available, len(reasons) + 1)})'

  lines = [
    ['', *(method for method, _ in levels)],
    ['', *(f'{fraction:g}' for _, fraction in levels)],
  ]
  for row in rows:
    cells = [row.cell(level) for level in levels]
    values = (text(cell, row.form, cell.value) for cell in cells)
    lines.append([row.measure, *values])
    if row.has_interval:
      ends = (text(cell, row.form, cell.low, cell.high) for cell in cells)
      lines.append(['  95 %', *ends])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  aligned = [
    '  '.join(
      [line[0].ljust(widths[0])]
      + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
    ).rstrip()
    for line in lines
  ]
  aligned.insert(2, '-' * max(map(len, aligned)))
  notes = [f'({number}) {reason}' for reason, number in reasons.items()]
  return '\n'.join([*aligned, *notes])


def _files(table: csvs.Table, folder: str) -> list[str]:
  """The CSVs of a table below a folder, none where there are none."""
  try:
    return csvs.find(table, folder)
  except FileNotFoundError:
    return []


def run(
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
  robustness_directory: str = '',
) -> str:
  """Makes the table of the parts that are there; returns it as text.

  Raises:
    FileNotFoundError: there is no part.
    ValueError: parts contradict themselves or one another.
  """
  rows, inputs = [], []
  members = labels = None
  metrics_folder = paths.class_metrics_folder(
    results_directory, dataset_name, mode
  )
  if files := _files(tables.CLASS_METRICS, metrics_folder):
    members = read_members(files, mode)
    rows += accuracy_rows(members)
    inputs += files
  else:
    rows += absent('members, top-1, top-5', tables.CLASS_METRICS)
  null = paths.pie_null(results_directory, dataset_name, mode)
  labels_folder = paths.modal_labels_folder(
    results_directory, dataset_name, mode
  )
  if storage.exists(null):
    files = csvs.find(tables.MODAL_LABELS, labels_folder)
    labels = csvs.read_all(tables.MODAL_LABELS, files, _LABEL_COLUMNS)
    rows += pie_rows(csvs.read(tables.PIE_NULL, null), labels)
    inputs += [null, *files]
  else:
    rows += absent('PIEs', tables.PIE_NULL)
  path = paths.class_impact_summary(results_directory, dataset_name, mode)
  if storage.exists(path):
    rows += class_rows(csvs.read(tables.CLASS_IMPACT_SUMMARY, path))
    inputs.append(path)
  else:
    rows += absent('classes that lost or gained', tables.CLASS_IMPACT_SUMMARY)
  if not inputs:
    folder = storage.within(results_directory, dataset_name)
    raise FileNotFoundError(
      f'there are no results of the split {mode} in {folder}'
      f'{storage.nearest(metrics_folder)}: wanted one or more parts that '
      f'{", ".join(table.written_by for table in _TABLES[:-1])} make'
    )
  if members is not None and labels is not None:
    same_networks.check_labels(members, labels, metrics_folder, labels_folder)
  if robustness_directory and not storage.exists(robustness_directory):
    raise FileNotFoundError(
      f'there is no {robustness_directory}'
      f'{storage.nearest(robustness_directory)} '
      f'({tables.ROBUSTNESS_SUMMARY.written_by} writes into it)'
    )
  path = paths.robustness_summary(robustness_directory)
  if robustness_directory and storage.exists(path):
    summary = csvs.read(tables.ROBUSTNESS_SUMMARY, path)
    # Of the other split, clean images have another loss.
    if members is not None and mode == 'eval':
      same_networks.check_loss(members, summary, metrics_folder, path)
    rows += robustness_rows(summary)
    inputs.append(path)
  else:
    rows += absent('top-1 on corrupted images', tables.ROBUSTNESS_SUMMARY)
  levels = populations.sort_levels(level for row in rows for level in row.cells)
  write_rows(rows, levels, paths.headline_table(results_directory))
  provenance.write(results_directory, 'pie_dataset_gen.headline_table', inputs)
  return render(rows, levels)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'results_directory': 'results'},
    {'robustness_directory': 'robustness'},
  )
  print(
    run(
      f.results_directory,
      mode=f.mode,
      dataset_name=f.dataset_name or 'imagenet',
      robustness_directory=f.robustness_directory,
    )
  )
  logging.info('wrote %s', paths.headline_table(f.results_directory))


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
