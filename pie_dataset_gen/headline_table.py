r"""Prints the table at the end of a run: what pruning cost, and whom.

Reads what the other scripts wrote, each part if its flag is given:

  --class_metrics_directory  CSVs of per_class_accuracy.aggregate_ckpt_metrics:
                             members, top-1, top-5
  --predictions_file         --output_path of aggregate_predictions: PIEs, their
                             number by chance, accuracy with and without them
  --t_statistic_file         --output_file of per_class_accuracy.gen_tstatistic:
                             classes that lost and gained
  --robustness_directory     --dest_dir of robustness_tests: corrupted images

and writes <output_path>/headline_table.csv, one row for each measure and level
of sparsity; in the terminal the levels stand side by side. What was not given
or cannot be computed is "n/a", with the reason below the table and in the CSV.

  python -m pie_dataset_gen.headline_table --dataset_name=digits \
      --predictions_file=runs/digits/results \
      --class_metrics_directory=runs/digits/results/digits/class_metrics/eval \
      --t_statistic_file=runs/digits/results \
      --robustness_directory=runs/digits/results/robustness \
      --output_path=runs/digits/results

Expect the paper's findings: more PIEs at a higher sparsity, an accuracy on
PIEs far below that on all images, and one without PIEs above it.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import flags, logging

from utils import command_line, csvs, paths, populations, provenance, tables

_LEVEL = ['pruning_method', 'pruning_fraction']
_LABEL_COLUMNS = (
  *_LEVEL,
  'image_key',
  'baseline_modal_label',
  'variant_modal_label',
  'baseline_correct_share',
  'variant_correct_share',
)
_NO_PIES = 'the baseline is what the others are held against'

Level = tuple[str, float]
BASELINE: Level = (populations.BASELINE, 0.0)


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'output_path', None, 'Folder that the table goes into.', required=True
  )
  flags.DEFINE_string(
    'class_metrics_directory',
    '',
    'Folder or pattern of CSVs of class metrics. Empty: not available.',
  )
  flags.DEFINE_string(
    'predictions_file',
    '',
    'Folder of modal labels: the --output_path of aggregate_predictions. '
    'Empty: not available.',
  )
  flags.DEFINE_string(
    't_statistic_file',
    '',
    'Folder of t-tests: the --output_file of gen_tstatistic. Empty: not '
    'available.',
  )
  flags.DEFINE_string(
    'robustness_directory',
    '',
    'Folder of the robustness summary: the --dest_dir of '
    'imagenet_corruptions. Empty: not available.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name', 'imagenet', 'Name of the data set, a folder of the results.'
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
  cells: dict[Level, Cell]
  has_interval: bool = False
  not_available: str = 'no data at this level'

  def cell(self, level: Level) -> Cell:
    """The cell of a level, with a reason where there is none."""
    return self.cells.get(level, Cell(not_available=self.not_available))


def absent(measure: str, flag: str) -> list[Row]:
  """The line of a part that was not given."""
  return [Row(measure, '', {}, not_available=f'--{flag} was not given')]


def accuracy_rows(files: list[str], mode: str) -> list[Row]:
  """Members, top-1 and top-5, from the class metrics of all members.

  Raises:
    ValueError: the rows of a member disagree about its accuracy, or members
      were measured on another split, or in different ways.
  """
  columns = (
    *tables.MEMBER_KEY,
    *('split', 'preprocessing', 'compute_precision'),
    'class_id',
    'eval_accuracy',
    'top_5_eval_accuracy',
  )
  frame = csvs.read_all(tables.CLASS_METRICS, files, columns)
  populations.check_one_study(frame, mode, files[0])
  key = list(tables.MEMBER_KEY)
  # NaN counts as a value: top-5 is absent in all of a member's rows, or none.
  members = frame[[*key, 'eval_accuracy', 'top_5_eval_accuracy']]
  members = members.drop_duplicates().sort_values(key)
  repeated = members.duplicated(key)
  if repeated.any():
    raise ValueError(
      'the class metrics hold more than one accuracy of the member '
      f'{members.loc[repeated, key].iloc[0].to_dict()}'
    )
  rows = [
    Row('members', '.0f', {}),
    Row('top-1', '.4f', {}),
    Row('top-1, sd over members', '.4f', {}),
    Row('top-5', '.4f', {}),
  ]
  for level, of in members.groupby(['pruning_method', 'fraction_pruned']):
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
  ]
  shares = [
    Row(f'top-1 of {who} on {images}', '.4f', {})
    for images in ('all images', 'PIEs', 'the others')
    for who in ('dense', 'pruned')
  ]
  groups = dict(list(labels.groupby(_LEVEL)))
  for level in null.to_dict('records'):
    name = (level['pruning_method'], level['pruning_fraction'])
    images = groups.pop(name, labels.iloc[:0])
    pie = populations.is_pie(images)
    total = level['total_images_count']
    if (len(images), pie.sum()) != (total, level['pie_count']):
      raise ValueError(
        f'at {name} there are {pie.sum()} PIEs among {len(images)} modal '
        f'labels, but the PIE null counts {level["pie_count"]} among {total}: '
        'wanted both from one run of aggregate_predictions over all shards'
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
    for row, cell in zip(counts, cells, strict=True):
      row.cells[name] = cell
      row.cells[BASELINE] = Cell(not_available=_NO_PIES)
    counts[0].cells[BASELINE] = Cell(total)
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
      row.cells[BASELINE] = Cell(not_available=_NO_PIES)
  if groups:
    raise ValueError(
      f'there are modal labels at {sorted(groups)} that the PIE null does not '
      'count: wanted both from one run of aggregate_predictions'
    )
  return counts + shares


def class_rows(summary: pd.DataFrame) -> list[Row]:
  """Classes that lost and gained, from `tables.CLASS_IMPACT_SUMMARY`."""
  columns = {
    'classes that lost significantly': ('lower', '.0f'),
    'classes that gained significantly': ('higher', '.0f'),
    'such classes by chance': ('expected_by_chance', '.1f'),
  }
  rows = []
  for measure, (column, form) in columns.items():
    cells = {
      (level['pruning_method'], level['pruning_fraction']): Cell(
        level[column] if level['tested'] else np.nan,
        not_available='' if level['tested'] else 'no class could be tested',
      )
      for level in summary.to_dict('records')
    }
    rows.append(
      Row(measure, form, {BASELINE: Cell(not_available=_NO_PIES), **cells})
    )
  return rows


def robustness_rows(summary: pd.DataFrame) -> list[Row]:
  """Top-1 off the clean distribution, from `tables.ROBUSTNESS_SUMMARY`.

  A corruption's mean over its severities, and the mean over corruptions, that
  also against the dense population's and against the loss on clean images.
  """
  rows = {}
  # Images that are hard by nature, ImageNet-A's, are their own mean.
  uncorrupted = set(summary['corruption']) <= {'', 'all'}
  for level in summary.to_dict('records'):
    corruption = level['corruption']
    if level['corruption_intensity'] or (corruption == 'all' and uncorrupted):
      continue
    names = {'': level['dataset_name'], 'all': 'corrupted images'}
    place = level['pruning_method'], level['fraction_pruned']
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
  if level['pruning_method'] == populations.BASELINE:
    return _NO_PIES
  if np.isnan(level['clean_accuracy_loss']):
    return 'summarize had no --clean_directory'
  if np.isnan(level['relative_accuracy_loss']):
    return 'no loss on clean images'
  if np.isnan(level['relative_accuracy_loss_low']):
    return 'one model, or a loss on clean images that may be none'
  return ''


def write_rows(rows: list[Row], levels: list[Level], path: str) -> None:
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


def render(rows: list[Row], levels: list[Level]) -> str:
  """The table as aligned text: a line for each measure, levels side by side.

  A value that is not available is 'n/a' with the number of its reason, which
  stands below; '-' says that the baseline has no such value.
  """
  reasons = {}

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


def run(
  output_path: str,
  *,
  mode: str,
  dataset_name: str,
  class_metrics_directory: str = '',
  predictions_file: str = '',
  t_statistic_file: str = '',
  robustness_directory: str = '',
) -> str:
  """Makes the table of the parts that are given; returns it as text.

  Raises:
    FileNotFoundError: a part was given, but its files are not there.
    ValueError: no part was given, or one contradicts itself.
  """
  rows, inputs = [], []
  if class_metrics_directory:
    files = csvs.find(tables.CLASS_METRICS, class_metrics_directory)
    rows += accuracy_rows(files, mode)
    inputs += files
  else:
    rows += absent('members, top-1, top-5', 'class_metrics_directory')
  if predictions_file:
    null = paths.pie_null(predictions_file, dataset_name, mode)
    files = csvs.find(
      tables.MODAL_LABELS,
      paths.modal_labels_folder(predictions_file, dataset_name, mode),
    )
    rows += pie_rows(
      csvs.read(tables.PIE_NULL, null),
      csvs.read_all(tables.MODAL_LABELS, files, _LABEL_COLUMNS),
    )
    inputs += [null, *files]
  else:
    rows += absent('PIEs', 'predictions_file')
  if t_statistic_file:
    path = paths.class_impact_summary(t_statistic_file, dataset_name, mode)
    rows += class_rows(csvs.read(tables.CLASS_IMPACT_SUMMARY, path))
    inputs.append(path)
  else:
    rows += absent('classes that lost or gained', 't_statistic_file')
  if robustness_directory:
    path = paths.robustness_summary(robustness_directory)
    rows += robustness_rows(csvs.read(tables.ROBUSTNESS_SUMMARY, path))
    inputs.append(path)
  else:
    rows += absent('top-1 on corrupted images', 'robustness_directory')
  if not inputs:
    raise ValueError(
      'no part was given, wanted one or more of --class_metrics_directory, '
      '--predictions_file, --t_statistic_file and --robustness_directory'
    )
  levels = sorted({level for row in rows for level in row.cells})
  levels.sort(key=lambda level: level != BASELINE)
  write_rows(rows, levels, paths.headline_table(output_path))
  provenance.write(output_path, 'pie_dataset_gen.headline_table', inputs)
  return render(rows, levels)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  print(
    run(
      f.output_path,
      mode=f.mode,
      dataset_name=f.dataset_name,
      class_metrics_directory=f.class_metrics_directory,
      predictions_file=f.predictions_file,
      t_statistic_file=f.t_statistic_file,
      robustness_directory=f.robustness_directory,
    )
  )
  logging.info('wrote %s', paths.headline_table(f.output_path))


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
