"""The population of a pilot: what its members measure, and where they agree.

Reads the class metrics of members (`tables.CLASS_METRICS`, of classes or of
groups), and their predictions, of which only the number of images on which two
members agree is kept: shards add up, and memory does not grow with the images.
"""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from pie_dataset_gen import shard_predictions
from utils import csvs, populations, prediction_files, tables, workers

_KEY = list(tables.MEMBER_KEY)


class Members(NamedTuple):
  """The members of a pilot, sorted, and where they were read.

  Attributes:
    identity: [M] columns `tables.MEMBER_KEY` of each.
    source: folder or pattern of the files.
  """

  identity: tuple[shard_predictions.Identity, ...]
  source: str

  @property
  def sizes(self) -> dict[populations.Level, int]:
    """How many members each level has."""
    return collections.Counter(map(shard_predictions.level_of, self.identity))

  def positions(self, level: populations.Level) -> np.ndarray:
    """Positions of the members of a level."""
    return np.flatnonzero(
      [shard_predictions.level_of(of) == level for of in self.identity]
    )

  def a_side(self, level: populations.Level) -> int:
    """How many members a side a level and the dense one have."""
    return min(self.sizes[populations.DENSE], self.sizes[level])

  def check(self, levels: Sequence[populations.Level], smallest: int) -> None:
    """Refuses levels of too few members.

    Raises:
      ValueError: names the level and the source.
    """
    for level in (populations.DENSE, *levels):
      if self.sizes[level] < smallest:
        raise ValueError(
          f'{self.source}: the level {tuple(level)} has {self.sizes[level]} '
          f'members, wanted {smallest} or more: a variance needs 2'
        )


class Recall(NamedTuple):
  """What the members measure, of classes or of groups.

  Attributes:
    members: [M].
    files: that were read.
    class_id: [C] rising.
    class_name: [C].
    recall: [M, C] NaN where a class has no images.
    accuracy: [M] of the whole.
  """

  members: Members
  files: list[str]
  class_id: np.ndarray
  class_name: np.ndarray
  recall: np.ndarray
  accuracy: np.ndarray


def read_recall(directory: str, mode: str) -> Recall:
  """Reads class metrics.

  Raises:
    FileNotFoundError: there are none.
    ValueError: they are damaged, of several studies, or members differ in their
      classes; names what was got and wanted.
  """
  files = csvs.find(tables.CLASS_METRICS, directory)
  rows = csvs.read_all(
    tables.CLASS_METRICS,
    files,
    [
      *('class_id', 'class', 'recall', 'eval_accuracy', 'split'),
      *('preprocessing', 'compute_precision', 'made_from'),
      *_KEY,
    ],
  )
  populations.check_one_study(rows, mode, files[0])
  members = populations.one_row_per_member(rows, ['eval_accuracy', 'made_from'])
  populations.check_alike(members.to_dict('records'))
  classes = rows.groupby(['class_id', 'class']).size()
  if (classes != len(members)).any():
    (number, name), count = next(
      item for item in classes.items() if item[1] != len(members)
    )
    raise ValueError(
      f'{directory}: {count} members have the class {number}, {name!r}, wanted '
      f'all {len(members)}: they were measured on different classes'
    )
  # Sorted, so that no order of files or rows changes a digit.
  recall = rows.sort_values([*_KEY, 'class_id'])['recall'].to_numpy()
  return Recall(
    members=Members(
      tuple(
        shard_predictions.Identity(*row)
        for row in members[[*_KEY, 'made_from']].itertuples(index=False)
      ),
      directory,
    ),
    files=files,
    class_id=classes.index.get_level_values(0).to_numpy(),
    class_name=classes.index.get_level_values(1).to_numpy(object),
    recall=recall.reshape(len(members), len(classes)),
    accuracy=members['eval_accuracy'].to_numpy(),
  )


class Agreement(NamedTuple):
  """On how many images each two members predict the same class.

  Attributes:
    members: [M].
    images: number of images.
    matrix: [M, M].
  """

  members: Members
  images: int
  matrix: np.ndarray


def read_agreement(
  shards: Mapping[str, Sequence[str]],
  source: str,
  mode: str,
  place: workers.Place,
) -> Agreement:
  """Reads predictions, as `shard_predictions.find_shards` lists them.

  Args:
    shards: name -> files.
    source: what holds them, for messages.
    mode: split.
    place: where shards are read.

  Raises:
    ValueError: they are damaged, shards differ in their members, or an image
      stands in two of them.
  """
  work = functools.partial(_read_shard, mode=mode)
  with workers.mapper(
    place, prediction_files.processes_worth(shards)
  ) as mapped:
    return _add_up(shards, mapped(work, shards.values()), source)


def _read_shard(files: Sequence[str], mode: str):
  """Members, image keys and agreement of a shard."""
  read = shard_predictions.read_shard(files, mode)
  return read.members, read.image_key, populations.agreement(read.label)


def _add_up(shards, results, source: str) -> Agreement:
  same = shard_predictions.SameMembers(source)
  members: list[shard_predictions.Identity] = []
  total: Any = 0
  for name, (members, image_key, matrix) in zip(shards, results, strict=True):
    same.check(name, members, image_key)
    total = total + matrix
    logging.info(
      '%s: %d images, %d members', name, len(image_key), len(members)
    )
  populations.check_alike(member._asdict() for member in members)
  return Agreement(Members(tuple(members), source), same.num_images, total)
