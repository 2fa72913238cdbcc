"""The recall of every class by every member, as class tests compare it.

It is read from the CSVs of aggregate_ckpt_metrics (`tables.CLASS_METRICS`), a
row for each class (*long*), or from the original's, a row for each checkpoint
with a column recall/<name>_<i> for each class id i (*wide*).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from absl import logging
from etils import epath

from utils import csvs, paths, populations, tables

_WIDE_RECALL = re.compile(r'recall/(.*)_(\d+)', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Models:
  """What was measured of all models; M models, C classes.

  Attributes:
    level: [M] which each is of.
    recall: [M, C], NaN where a class has no images.
    accuracy: [M] of the whole.
    class_id: [C] rising.
    class_name: [C] free text.
    support: [C] images of the class, NaN where unknown.
    loss: [M] mean cross entropy, NaN where unknown.
    identity: [M] columns `tables.MEMBER` and `made_from` of each, or None
      where unknown.
  """

  level: tuple[populations.Level, ...]
  recall: np.ndarray
  accuracy: np.ndarray
  class_id: np.ndarray
  class_name: np.ndarray
  support: np.ndarray
  loss: np.ndarray
  identity: tuple[Mapping[str, Any], ...] | None = None

  def positions(self, level: populations.Level) -> np.ndarray:
    """Positions of the models of a level."""
    return np.flatnonzero([other == level for other in self.level])


def read(data_directory: str, mode: str) -> tuple[Models, list[str]]:
  """Reads what was measured of all models, and names the files.

  Raises:
    ValueError: damaged, mixed or unequal inputs; names files and rows.
    FileNotFoundError: no CSV.
  """
  files = [
    path
    for path in csvs.find(tables.CLASS_METRICS, data_directory)
    # What an earlier run has written below the same folder.
    if epath.Path(path).name
    not in {
      epath.Path(of('', 'any', mode)).name
      for of in (paths.t_statistic, paths.class_impact_summary)
    }
  ]
  if not files:
    raise FileNotFoundError(
      f'no CSV of class metrics below {data_directory} '
      f'({tables.CLASS_METRICS.written_by} writes it)'
    )
  wide = []
  for path in files:
    with epath.Path(path).open('rb') as file:
      wide.append(b'recall/' in file.readline())
  if any(wide) and not all(wide):
    raise ValueError(
      f'{files[wide.index(True)]} has a row for each checkpoint, but '
      f'{files[wide.index(False)]} a row for each class: wanted one kind'
    )
  models = _read_wide(files) if any(wide) else _read_long(files, mode)
  for level in set(models.level):
    if level.is_dense and level != populations.DENSE:
      raise ValueError(
        f'{data_directory} has models of the baseline with fraction_pruned '
        f'{level.fraction_pruned}, wanted 0'
      )
  return models, files


def _read_long(files: Sequence[str], mode: str) -> Models:
  rows = csvs.read_all(
    tables.CLASS_METRICS,
    files,
    [
      *('class_id', 'class', 'support', 'recall', 'eval_accuracy', 'split'),
      *('preprocessing', 'compute_precision', 'made_from', 'loss'),
      *tables.MEMBER_KEY,
    ],
  )
  populations.check_one_study(rows, mode, files[0])
  key = list(tables.MEMBER_KEY)
  # Any order of files and rows gives one order of models and classes.
  rows['model'] = rows.groupby(key, sort=True).ngroup()
  rows = rows.sort_values(['model', 'class_id'], kind='stable')
  members = rows.drop_duplicates('model').reset_index(drop=True)
  number = int((rows['model'] == 0).sum())
  if len(rows) != len(members) * number:
    counts = rows.groupby('model').size()
    other = counts.index[counts != number][0]
    raise ValueError(
      f'the model {members.loc[0, key].to_dict()} has {number} classes, '
      f'{members.loc[other, key].to_dict()} has {counts[other]}'
    )
  shape = (len(members), number)
  for name in ('class_id', 'class', 'support'):
    values = rows[name].to_numpy().reshape(shape)
    differs = (values != values[0]).any(axis=1)
    if differs.any():
      model = int(np.flatnonzero(differs)[0])
      at = int(np.flatnonzero(values[model] != values[0])[0])
      raise ValueError(
        f'{name} differs between models: {values[0, at]!r} in '
        f'{members.loc[0, key].to_dict()}, {values[model, at]!r} in '
        f'{members.loc[model, key].to_dict()}'
      )
  replicate = ['pruning_method', 'fraction_pruned', 'replicate']
  repeated = members.duplicated(replicate, keep=False)
  if repeated.any():
    raise ValueError(
      'a replicate counts once, but these are one: '
      f'{members.loc[repeated, key].head(2).to_dict("records")}; name one '
      'step and one schedule'
    )
  first = rows.iloc[:number]
  return Models(
    level=tuple(map(populations.level_of, members.to_dict('records'))),
    recall=rows['recall'].to_numpy().reshape(shape),
    accuracy=members['eval_accuracy'].to_numpy(),
    class_id=first['class_id'].to_numpy(),
    class_name=first['class'].to_numpy(object),
    support=first['support'].to_numpy(np.float64),
    loss=members['loss'].to_numpy(),
    identity=tuple(members[[*key, 'made_from']].to_dict('records')),
  )


def _read_wide(files: Sequence[str]) -> Models:
  """Reads the original's tables, of one row per checkpoint."""
  frames: list[pd.DataFrame] = []
  for path in files:
    try:
      frame = pd.read_csv(path if '://' not in path else epath.Path(path))
    except (ValueError, UnicodeDecodeError) as error:
      raise ValueError(f'{path} is not a CSV: {error}') from None
    if frames and set(frame) - {'Unnamed: 0'} != set(frames[0]) - {
      'Unnamed: 0'
    }:
      differing = sorted((set(frame) ^ set(frames[0])) - {'Unnamed: 0'})
      raise ValueError(
        f'{path} and {files[0]} differ in the columns {differing[:4]}'
      )
    frames.append(frame)
  rows = pd.concat(frames, ignore_index=True)
  names: dict[int, tuple[str, str]] = {}
  for column in rows:
    if not column.startswith('recall/'):
      continue
    match = _WIDE_RECALL.fullmatch(column)
    if not match:
      raise ValueError(
        f'{files[0]}: column {column!r} has no class id, wanted '
        'recall/<name>_<i>'
      )
    if int(match[2]) in names:
      raise ValueError(
        f'{files[0]}: {names[int(match[2])][0]!r} and {column!r} are of one '
        'class id'
      )
    names[int(match[2])] = (column, match[1])
  if 'fraction_pruned' not in rows:
    raise ValueError(f'{files[0]} lacks the column fraction_pruned')
  class_id = np.array(sorted(names))
  columns = [names[i][0] for i in class_id]
  recall = _fractions(rows[columns], files)
  fraction = _fractions(rows[['fraction_pruned']], files, complete=True)[:, 0]
  method = np.full(len(rows), '', object)
  if 'pruning_method' in rows:
    method = np.array(rows['pruning_method'].fillna(''), object)
  # Where no method is named, what is not pruned is the baseline.
  method[(method == '') & (fraction == 0)] = populations.BASELINE
  if 'eval_accuracy' in rows:
    accuracy = _fractions(rows[['eval_accuracy']], files, complete=True)[:, 0]
  else:
    accuracy = mean_of_known(recall.T)
    logging.info(
      'no column eval_accuracy: the unweighted mean of recall over the classes '
      'stands for it, equal where all classes have as many images'
    )
  # Rows without identity are put in order by what they hold.
  order = sorted(
    range(len(rows)),
    key=lambda i: (method[i], fraction[i], recall[i].tobytes()),
  )
  return Models(
    level=tuple(populations.Level(method[i], fraction[i]) for i in order),
    recall=recall[order],
    accuracy=accuracy[order],
    class_id=class_id,
    class_name=np.array([names[i][1] for i in class_id], object),
    support=np.full(len(class_id), np.nan),
    loss=np.full(len(order), np.nan),
  )


def mean_of_known(values: np.ndarray) -> np.ndarray:
  """Mean over models [C] that skips NaN, as the original's does."""
  present = ~np.isnan(values)
  with np.errstate(invalid='ignore'):
    return np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)


def _fractions(
  cells: pd.DataFrame, files: Sequence[str], complete: bool = False
) -> np.ndarray:
  """Numbers in [0, 1] as an array; empty cells are NaN unless complete."""
  numbers = cells.apply(pd.to_numeric, errors='coerce').to_numpy(np.float64)
  wrong = np.isnan(numbers) & (complete | cells.notna().to_numpy())
  wrong |= (numbers < 0) | (numbers > 1)
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    raise ValueError(
      f'{files[0]} or the like: column {cells.columns[column]!r} holds '
      f'{cells.iloc[row, column]!r}, wanted a number in [0, 1]'
    )
  return numbers
