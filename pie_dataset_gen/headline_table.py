r"""Prints the table at the end of a run, and what it allows to say.

Reads in --results_directory what the other scripts wrote there:

  class metrics   of per_class_accuracy.aggregate_ckpt_metrics: members, top-1,
                  top-5
  modal labels    of pie_dataset_gen.aggregate_predictions, with the PIE null:
                  PIEs, their number by chance, accuracy with and without them
  class tests     of per_class_accuracy.gen_tstatistic: classes that moved
                  against the whole; and of groups, if its --output_file was
                  <results_directory>/groups

  costs           of pie_dataset_gen.measure_costs: churn, flips, calibration,
                  and equalised odds of groups; of measure_corrupted_costs
                  the same on corrupted images
  gains           of pie_dataset_gen.measure_gains: weights, operations, bytes

and in --robustness_directory the summary of robustness_tests.summarize:
corrupted images. Writes <results_directory>/headline_table.csv, one row for
each measure and level, and <results_directory>/<dataset_name>/
<mode>_verdicts.csv, what can be said of each level in words. In the terminal
the levels stand side by side, numbers are rounded, and only the rows that
matter most are printed (--all_rows prints every one); the verdicts follow. What
is not there or cannot be computed is "n/a", with the reason below the table and
in the CSV. Parts that different networks made are refused.

  python -m pie_dataset_gen.headline_table --study=runs/digits

In brackets stands the 95 % interval; of PIEs by chance the range that holds
95 % of the permuted memberships. Each verdict answers one question of one level
at 5 %; levels and questions are not corrected for (docs/statistics.md).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import flags, logging

from pie_dataset_gen import headline_rows, rounding, same_networks, verdicts
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
_TABLES = (
  tables.CLASS_METRICS,
  tables.PIE_NULL,
  tables.CLASS_IMPACT_SUMMARY,
  tables.COSTS,
  tables.GAINS,
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
  flags.DEFINE_bool(
    'all_rows', False, 'Print every row, not only those that matter most.'
  )


def write_rows(
  rows: list[headline_rows.Row], levels: list[populations.Level], path: str
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


def render(
  rows: list[headline_rows.Row], levels: list[populations.Level]
) -> str:
  """The table as aligned text: a line for each measure, levels side by side.

  A value that is not available is 'n/a' with the number of its reason, which
  stands below; where only its interval is not, the number follows the value.
  A dash says that the baseline has no such value.
  """
  reasons: dict[str, int] = {}

  def text(row, cell):
    if cell.not_available == headline_rows.NO_PIES:
      return '-'
    shown = ''
    if not np.isnan(cell.value):
      shown = rounding.number(cell.value, row.measure)
    if not np.isnan([cell.low, cell.high]).any():
      ends = (
        rounding.number(end, row.measure, cell.value)
        for end in (cell.low, cell.high)
      )
      shown += ' [{}, {}]'.format(*ends)
    if cell.not_available:
      number = reasons.setdefault(cell.not_available, len(reasons) + 1)
      shown += f' ({number})' if shown else f'n/a ({number})'
    return shown or '-'

  lines = [['', *(level.words for level in levels)]]
  for row in rows:
    cells = (text(row, row.cell(level)) for level in levels)
    lines.append([row.measure, *cells])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  aligned = [
    '  '.join(
      [line[0].ljust(widths[0])]
      + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
    ).rstrip()
    for line in lines
  ]
  aligned.insert(1, '-' * max(map(len, aligned)))
  notes = [f'({number}) {reason}' for reason, number in reasons.items()]
  return '\n'.join([*aligned, *notes])


def _files(table: csvs.Table, folder: str) -> list[str]:
  """The CSVs of a table below a folder, none where there are none."""
  try:
    return csvs.find(table, folder)
  except FileNotFoundError:
    return []


class _Parts(NamedTuple):
  """What the other scripts wrote; None is not there.

  Attributes:
    members: as `headline_rows.read_members` gives them.
    labels: rows of `tables.MODAL_LABELS`.
    null: rows of `tables.PIE_NULL`.
    impacts: what gen_tstatistic wrote of classes, and of groups.
    costs: rows of `tables.COSTS`.
    group_costs: rows of `tables.GROUP_COSTS`.
    corrupted_costs: rows of `tables.CORRUPTED_COSTS`.
    gains: rows of `tables.GAINS`.
    speed: rows of `tables.SPEED`.
    metrics: folder of the class metrics.
    inputs: files that were read.
  """

  members: pd.DataFrame | None
  labels: pd.DataFrame | None
  null: pd.DataFrame | None
  impacts: list[verdicts.Impact]
  costs: pd.DataFrame | None
  group_costs: pd.DataFrame | None
  corrupted_costs: pd.DataFrame | None
  gains: pd.DataFrame | None
  speed: pd.DataFrame | None
  metrics: str
  inputs: list[str]


def _read_parts(results_directory: str, dataset_name: str, mode: str) -> _Parts:
  """Reads what there is; refuses what different networks made."""
  members = labels = null = None
  place = results_directory, dataset_name, mode
  metrics = paths.class_metrics_folder(*place)
  inputs = _files(tables.CLASS_METRICS, metrics)
  if inputs:
    members = headline_rows.read_members(inputs, mode)
  path = paths.pie_null(*place)
  labels_folder = paths.modal_labels_folder(*place)
  if storage.exists(path):
    files = csvs.find(tables.MODAL_LABELS, labels_folder)
    labels = csvs.read_all(tables.MODAL_LABELS, files, _LABEL_COLUMNS)
    null = csvs.read(tables.PIE_NULL, path)
    inputs = [*inputs, path, *files]
  impacts, files = verdicts.read_impacts(*place)
  for path in files:
    same_networks.check_inputs(
      tables.CLASS_IMPACT_SUMMARY.written_by, path, metrics
    )
  inputs = [*inputs, *files]
  if members is not None and labels is not None:
    same_networks.check_labels(members, labels, metrics, labels_folder)
  path = paths.costs(*place)
  costs = _read_if_there(tables.COSTS, path, inputs, metrics)
  if costs is not None and labels is not None:
    same_networks.check_costs(labels, costs, path)
  of_networks = results_directory, dataset_name
  return _Parts(
    members,
    labels,
    null,
    impacts,
    costs,
    _read_if_there(
      tables.GROUP_COSTS, paths.group_costs(*place), inputs, metrics
    ),
    _read_if_there(
      tables.CORRUPTED_COSTS, paths.corrupted_costs(*place), inputs, metrics
    ),
    _read_if_there(tables.GAINS, paths.gains(*of_networks), inputs, metrics),
    _read_if_there(tables.SPEED, paths.speed(*of_networks), inputs, metrics),
    metrics,
    inputs,
  )


def _read_if_there(
  table: csvs.Table, path: str, inputs: list[str], metrics: str
) -> pd.DataFrame | None:
  """The table, which then is one of the inputs, or None."""
  if not storage.exists(path):
    return None
  inputs.append(path)
  same_networks.check_inputs(table.written_by, path, metrics)
  return csvs.read(table, path)


def _rows_of_groups(parts: _Parts) -> list[headline_rows.Row]:
  """The rows of groups; none where nobody asked for them."""
  rows: list[headline_rows.Row] = []
  for of in parts.impacts:
    if of.about == 'groups':
      rows += headline_rows.group_rows(of.summary)
  if parts.group_costs is not None:
    rows += headline_rows.odds_rows(parts.group_costs)
  return rows


def _rows_of(parts: _Parts) -> list[headline_rows.Row]:
  """The rows of all parts but robustness."""
  rows: list[headline_rows.Row] = []
  if parts.members is not None:
    rows += headline_rows.accuracy_rows(parts.members)
  else:
    rows += headline_rows.absent('members, top-1, top-5', tables.CLASS_METRICS)
  if parts.null is not None and parts.labels is not None:
    rows += headline_rows.pie_rows(parts.null, parts.labels)
  else:
    rows += headline_rows.absent('PIEs', tables.PIE_NULL)
  classes = [of.summary for of in parts.impacts if of.about == 'classes']
  if classes:
    rows += headline_rows.class_rows(classes[0])
  else:
    rows += headline_rows.absent(
      'classes that fell against the whole', tables.CLASS_IMPACT_SUMMARY
    )
  rows += _rows_of_groups(parts)
  if parts.costs is not None:
    rows += headline_rows.cost_rows(parts.costs)
  else:
    rows += headline_rows.absent('churn, newly wrong, ECE', tables.COSTS)
  if parts.gains is not None:
    rows += headline_rows.gain_rows(parts.gains, parts.speed)
  else:
    rows += headline_rows.absent('parameters, multiply-adds', tables.GAINS)
  return rows


def run(
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
  robustness_directory: str = '',
  all_rows: bool = False,
) -> str:
  """Makes the table of the parts that are there; returns it as text.

  The text holds the rows of `SHORT`, or all, and the verdicts.

  Raises:
    FileNotFoundError: there is no part.
    ValueError: parts contradict themselves or one another.
  """
  parts = _read_parts(results_directory, dataset_name, mode)
  if not parts.inputs:
    folder = storage.within(results_directory, dataset_name)
    raise FileNotFoundError(
      f'there are no results of the split {mode} in {folder}'
      f'{storage.nearest(parts.metrics)}: wanted one or more parts that '
      f'{", ".join(table.written_by for table in _TABLES[:-1])} make'
    )
  rows, inputs = _rows_of(parts), parts.inputs
  if robustness_directory and not storage.exists(robustness_directory):
    raise FileNotFoundError(
      f'there is no {robustness_directory}'
      f'{storage.nearest(robustness_directory)} '
      f'({tables.ROBUSTNESS_SUMMARY.written_by} writes into it)'
    )
  path = paths.robustness_summary(robustness_directory)
  if robustness_directory and storage.exists(path):
    same_networks.check_inputs(
      tables.ROBUSTNESS_SUMMARY.written_by, path, parts.metrics
    )
    summary = csvs.read(tables.ROBUSTNESS_SUMMARY, path)
    # Of the other split, clean images have another loss.
    if parts.members is not None and mode == 'eval':
      same_networks.check_loss(parts.members, summary, parts.metrics, path)
    rows += headline_rows.robustness_rows(summary)
    inputs = [*inputs, path]
  else:
    rows += headline_rows.absent(
      'top-1 on corrupted images', tables.ROBUSTNESS_SUMMARY
    )
  if parts.corrupted_costs is not None:
    rows += headline_rows.corrupted_cost_rows(parts.corrupted_costs)
  levels = populations.sort_levels(level for row in rows for level in row.cells)
  write_rows(rows, levels, paths.headline_table(results_directory))
  said = verdicts.of_levels(
    parts.null, parts.impacts, parts.costs, parts.group_costs, parts.gains
  )
  csvs.write(
    tables.VERDICTS,
    said,
    paths.verdicts(results_directory, dataset_name, mode),
  )
  provenance.write(results_directory, 'pie_dataset_gen.headline_table', inputs)
  printed = [
    row
    for row in rows
    if all_rows or row.measure in headline_rows.SHORT or not row.cells
  ]
  return '\n'.join([render(printed, levels), '', *said['sentence']])


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
      all_rows=f.all_rows,
    )
  )
  logging.info('wrote %s', paths.headline_table(f.results_directory))


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
