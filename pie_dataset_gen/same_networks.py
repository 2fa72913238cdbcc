"""Whether the parts of a table of findings are about the same networks.

They meet in one table though scripts made them at different times; whoever
trained again and repeated only some stages would see two populations as one.
"""

import numpy as np
import pandas as pd
from etils import epath

from utils import csvs, paths, populations, provenance, storage, tables

# Two ways to the same mean differ in their last digits only.
_ROUNDING = 1e-9


def check_labels(
  members: pd.DataFrame,
  labels: pd.DataFrame,
  metrics_folder: str,
  labels_folder: str,
) -> None:
  """Refuses modal labels of other networks than the class metrics'.

  Args:
    members: a row for each, with eval_accuracy and support, its images.
    labels: rows of `tables.MODAL_LABELS`, of all shards.
    metrics_folder: where the former lie.
    labels_folder: where the latter lie.

  Raises:
    ValueError: a level differs in its members, images or mean accuracy; says
      which command makes the older part again.
  """
  measured = populations.by_level(members)
  for level, rows in populations.by_level(labels).items():
    for who, of in (('baseline', populations.DENSE), ('variant', level)):
      if of not in measured:
        continue
      found = measured[of]
      for what, in_metrics, in_labels in (
        ('members', len(found), rows[f'{who}_number_observ'].iloc[0]),
        ('images', found['support'].iloc[0], len(rows)),
        (
          'mean top-1',
          found['eval_accuracy'].mean(),
          rows[f'{who}_correct_share'].mean(),
        ),
      ):
        if abs(in_metrics - in_labels) > _ROUNDING:
          outdated = _older(
            {
              tables.CLASS_METRICS: metrics_folder,
              tables.MODAL_LABELS: labels_folder,
            }
          )
          raise ValueError(
            f'{metrics_folder} and {labels_folder} are of different networks: '
            f'at {tuple(of)} the {what} are {in_metrics} in the class metrics '
            f'and {in_labels} in the modal labels; {outdated}'
          )


def check_costs(labels: pd.DataFrame, costs: pd.DataFrame, path: str) -> None:
  """Refuses costs of other networks than the modal labels'.

  Newly wrong less newly right is the accuracy that is lost.

  Args:
    labels: rows of `tables.MODAL_LABELS`, of all shards.
    costs: rows of `tables.COSTS`.
    path: where the latter lie.

  Raises:
    ValueError: it is not, at a level.
  """
  of_costs = populations.by_level(costs)
  for level, rows in populations.by_level(labels).items():
    value = of_costs.get(level, costs[:0]).set_index('measure')['value']
    lost = (
      rows['baseline_correct_share'] - rows['variant_correct_share']
    ).mean()
    found = value.get('newly wrong', np.nan) - value.get('newly right', np.nan)
    if not abs(found - lost) <= _ROUNDING:
      again = _command_of(path, tables.COSTS.written_by)
      raise ValueError(
        f'{path} and the modal labels are of different networks: at '
        f'{tuple(level)} {found} of top-1 is lost in the former and {lost} in '
        f'the latter; make the costs again: {again}'
      )


def check_inputs(script: str, path: str, metrics_folder: str) -> None:
  """Refuses a table, or a figure, whose inputs, or networks, are others by now.

  Args:
    script: the module's name, `room.script`, of what made it.
    path: where it lies.
    metrics_folder: where the class metrics lie, if there are some.

  Raises:
    ValueError: names an input, or a network, and the command that makes it
      again.
  """
  folder = str(epath.Path(path).parent)
  changed = provenance.changed_inputs(folder, script)
  if changed:
    raise ValueError(
      f'{path} was made from {changed[0]}'
      f'{f" and {len(changed) - 1} others" if changed[1:] else ""} as it was '
      f'before: make it again: {_command_of(path, script)}'
    )
  provenance.check_same_networks(
    (metrics_folder, tables.CLASS_METRICS.written_by),
    (path, script),
  )


def check_loss(
  members: pd.DataFrame,
  summary: pd.DataFrame,
  metrics_folder: str,
  summary_path: str,
) -> None:
  """Refuses a summary that saw other networks lose on clean images.

  Args:
    members: a row for each, with eval_accuracy and support, its images.
    summary: rows of `tables.ROBUSTNESS_SUMMARY`; those about fewer members, or
      others, have a loss of their own.
    metrics_folder: where the former lie.
    summary_path: where the latter lie.

  Raises:
    ValueError: the loss of a level is another; says which command makes the
      summary again.
  """
  of = {
    level: (len(rows), rows['eval_accuracy'].mean())
    for level, rows in populations.by_level(members).items()
  }
  number = {
    populations.level_of(row): row['num_models']
    for row in summary.to_dict('records')
  }
  dense = populations.DENSE
  if dense not in of or number.get(dense) != of[dense][0]:
    return
  for row in summary.to_dict('records'):
    level, loss = populations.level_of(row), row['clean_accuracy_loss']
    if level not in of or of[level][0] != row['num_models'] or np.isnan(loss):
      continue
    wanted = of[dense][1] - of[level][1]
    if abs(loss - wanted) > _ROUNDING:
      raise ValueError(
        f'{summary_path} and {metrics_folder} are of different networks: the '
        f'loss of {tuple(level)} on clean images is {loss} in the former, '
        f'{wanted} by the class metrics; make the summary again: '
        f'{_command_of(summary_path, tables.ROBUSTNESS_SUMMARY.written_by)}'
      )


def _older(folders: dict[csvs.Table, str]) -> str:
  """Says how the part is made again whose record is the oldest."""
  finished = {}
  for table, folder in folders.items():
    record = _record(folder, table.written_by)
    finished[table] = str(record.get('finished', ''))
  oldest = min(finished, key=lambda table: finished[table])
  return (
    f'make the older part again, the {oldest.name}: '
    f'{_command_of(folders[oldest], oldest.written_by)}'
  )


def _record(where: str, script: str) -> dict[str, object]:
  folder = epath.Path(where)
  folder = folder.parent if folder.suffix else folder
  path = paths.provenance(str(folder), script.split('.')[-1])
  return provenance.read(path) if storage.exists(path) else {}


def _command_of(where: str, script: str) -> str:
  return provenance.command(
    {'script': script, 'command': [''], **_record(where, script)}
  )
