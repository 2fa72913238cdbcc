"""A member: who it is, the path that says so, and where its network lies.

A trained network, a *member*, is identified by its path, read from the end:

  <root>/<experiment>/<pruning_method>/<fraction_pruned>/<begin_step>/
      <end_step>/<pruning_frequency>/<replicate>/model.ckpt-<step>

and the same identity stands in every row about it. What lies under that path is
one of several kinds of network (`KINDS`), told apart by the file that completes
it. Files that lie elsewhere are named by a CSV, with the identity of each
(`tables.MEMBER_FILES`). Nothing here imports TensorFlow.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from utils import csvs, storage, tables

BASELINE = 'baseline'
# The name of an exported network, before its step.
CHECKPOINT_NAME = 'model.ckpt-'
# Kind of network -> what the file is called, after the member's path, that is
# there when the network is complete.
KINDS = {
  'bundle': '.index',
  'saved_model': '/saved_model.pb',
  'keras': '.keras',
  'tflite': '.tflite',
}


class Level(NamedTuple):
  """Members that were made alike: a method and its fraction.

  Attributes:
    pruning_method: 'baseline', or the word for a way to compress.
    fraction_pruned: share of weights that is zero, in [0, 1); 0 for methods
      that prune nothing, such as quantisation.
  """

  pruning_method: str
  fraction_pruned: float

  @property
  def is_dense(self) -> bool:
    """Whether these are the members that all others are held against."""
    return self.pruning_method == BASELINE

  @property
  def words(self) -> str:
    """As people read it: 'dense', 'threshold 0.9', or 'int8' without a zero."""
    if self.is_dense:
      return 'dense'
    if not self.fraction_pruned:
      return self.pruning_method
    return f'{self.pruning_method} {self.fraction_pruned:g}'


DENSE = Level(BASELINE, 0.0)


def check_level(level: Level) -> None:
  """Raises ValueError for a level that cannot be."""
  method, fraction = level
  storage.check_component('pruning_method', method)
  if not 0 <= fraction < 1:
    raise ValueError(
      f'fraction_pruned is {fraction}, wanted a number in [0, 1)'
    )
  if level.is_dense and fraction:
    raise ValueError(
      f'a baseline member has fraction_pruned {fraction}, wanted 0'
    )


@dataclasses.dataclass(frozen=True, order=True)
class Member:
  """One trained network of a population.

  Attributes:
    experiment: name of the study; the same for all members of a population.
      Empty for predictions from elsewhere that name none.
    pruning_method: 'baseline', or the word for a way to compress.
    fraction_pruned: share of the weights that is zero at the end, in [0, 1).
    begin_step: first optimiser step after which masks are updated.
    end_step: last such step; from there on the sparsity is fraction_pruned.
    pruning_frequency: optimiser steps between two mask updates.
    replicate: index of the independent training run, from 0.
  """

  experiment: str
  pruning_method: str
  fraction_pruned: float
  begin_step: int
  end_step: int
  pruning_frequency: int
  replicate: int

  def __post_init__(self):
    if self.experiment:
      storage.check_component('experiment', self.experiment)
    check_level(self.level)
    for field in ('begin_step', 'end_step', 'pruning_frequency', 'replicate'):
      if getattr(self, field) < 0:
        raise ValueError(f'{field} is {getattr(self, field)}, wanted 0 or more')

  @property
  def level(self) -> Level:
    """The members that it was made like."""
    return Level(self.pruning_method, self.fraction_pruned)

  @property
  def folder(self) -> str:
    """Where the member lives below the root of all experiments."""
    return '/'.join(
      (
        *([self.experiment] if self.experiment else []),
        self.pruning_method,
        str(float(self.fraction_pruned)),
        str(self.begin_step),
        str(self.end_step),
        str(self.pruning_frequency),
        str(self.replicate),
      )
    )


@dataclasses.dataclass(frozen=True, order=True)
class Checkpoint:
  """A network on disk: whose it is, after which step, and where.

  Attributes:
    member: whose.
    step: optimiser steps behind it.
    prefix: its path, without what its kind adds; '' where only its predictions
      are at hand.
    kind: one of `KINDS`.
    description: of a network that is no bundle, a file; '' where it lies beside
      it.
  """

  member: Member
  step: int
  prefix: str
  kind: str = 'bundle'
  description: str = ''

  @property
  def file_stem(self) -> str:
    """The identity as one word, to name the files made from it."""
    return f'{self.member.folder.replace("/", "_")}_{self.step}'

  @property
  def path_in_study(self) -> str:
    """Its path from the root of all experiments: the same on every machine."""
    return f'{self.member.folder}/{CHECKPOINT_NAME}{self.step}'

  @property
  def completed_by(self) -> str:
    """The file that is there when it is complete, and tells what it holds.

    The index of a bundle has the checksums of all tensors.
    """
    return self.prefix + KINDS[self.kind]

  @property
  def described_by(self) -> str:
    """The description of a network that is no bundle (`network_files`)."""
    return self.description or f'{self.prefix}.json'

  @property
  def row(self) -> dict[str, str | int | float]:
    """The identity as the columns `tables.MEMBER` hold it."""
    return {
      'exp': self.member.experiment,
      'pruning_method': self.member.pruning_method,
      'fraction_pruned': self.member.fraction_pruned,
      'start_pruning_step': self.member.begin_step,
      'end_pruning_step': self.member.end_step,
      'pruning_frequency': self.member.pruning_frequency,
      'global_step': self.step,
      'replicate': self.member.replicate,
    }


def from_row(
  row: Mapping[str, Any],
  prefix: str = '',
  kind: str = 'bundle',
  description: str = '',
) -> Checkpoint:
  """The checkpoint that the columns `tables.MEMBER` name: `row`, read back.

  Args:
    row: the columns.
    prefix: as of `Checkpoint`, where more than its predictions is at hand.
    kind: as of `Checkpoint`.
    description: as of `Checkpoint`.

  Raises:
    ValueError: they name none.
  """
  member = Member(
    str(row['exp']),
    str(row['pruning_method']),
    float(row['fraction_pruned']),
    int(row['start_pruning_step']),
    int(row['end_pruning_step']),
    int(row['pruning_frequency']),
    int(row['replicate']),
  )
  return Checkpoint(member, int(row['global_step']), prefix, kind, description)


def folder_of(output_dir: str, member: Member) -> str:
  """A member's folder; output_dir is `<root>/<experiment>`."""
  root = epath.Path(output_dir)
  if root.name != member.experiment:
    raise ValueError(f'{output_dir} does not end in {member.experiment!r}')
  return str(root.parent / member.folder)


def prefix_in(folder: str, step: int) -> str:
  """The path of a network in a member's folder, without what its kind adds."""
  return str(epath.Path(folder) / f'{CHECKPOINT_NAME}{step}')


def _step_count(text: str) -> int:
  # The original writes a baseline's schedule as 0.0/0.0/0.0.
  if not re.fullmatch(r'\d+(\.0+)?', text, re.ASCII):
    raise ValueError(f'{text!r} is not a number of steps')
  return int(text.split('.')[0])


def parse(prefix: str, kind: str = 'bundle') -> Checkpoint:
  """Reads the member and the step from a network's path.

  Args:
    prefix: `<...>/<experiment>/<...>/<replicate>/model.ckpt-<step>`.
    kind: one of `KINDS`.

  Raises:
    ValueError: the path does not end as a member's does.
  """
  parts = str(prefix).rstrip('/').split('/')
  try:
    if not re.fullmatch(rf'{re.escape(CHECKPOINT_NAME)}\d+', parts[-1]):
      raise ValueError(f'{parts[-1]!r} is no {CHECKPOINT_NAME}<step>')
    step = int(parts[-1].removeprefix(CHECKPOINT_NAME))
    experiment, method, fraction, *numbers = parts[-8:-1]
    storage.check_component('experiment', experiment)
    begin, end, frequency, replicate = map(_step_count, numbers)
    member = Member(
      experiment, method, float(fraction), begin, end, frequency, replicate
    )
  except (TypeError, ValueError, IndexError) as error:
    raise ValueError(
      f'{prefix} is not the checkpoint of a member, wanted '
      '<root>/<experiment>/<pruning_method>/<fraction_pruned>/<begin_step>/'
      '<end_step>/<pruning_frequency>/<replicate>/model.ckpt-<step>'
      f' ({error})'
    ) from None
  return Checkpoint(member, step, str(prefix), kind)


def find(patterns: str | Iterable[str]) -> list[Checkpoint]:
  """Lists the networks that patterns name, each once, sorted by identity.

  Args:
    patterns: one or more of: a network's path (`.../model.ckpt-420`), a folder
      (the last one of each member at or below it), or a glob of either; or a
      CSV that lists files (`tables.MEMBER_FILES`). One string may hold several,
      separated by commas.

  Raises:
    FileNotFoundError: a pattern names none.
    ValueError: one does not lie in a member's folder, or two have the same
      identity.
  """
  found: dict[tuple[Member, int], Checkpoint] = {}
  for pattern in storage.split_list(patterns):
    named = (
      [listed for path in storage.match(pattern) for listed in read_list(path)]
      if pattern.endswith('.csv')
      else [
        parse(path.removesuffix(KINDS[kind]), kind)
        for path, kind in _complete(pattern)
      ]
    )
    if not named:
      raise FileNotFoundError(
        f'no checkpoint matches {pattern}: wanted .../model.ckpt-<step>, a '
        f'folder at or above members (a file {" or ".join(KINDS.values())} '
        'marks a complete checkpoint), or a CSV that lists files; '
        'save_checkpoint.imagenet_train_eval writes them'
        f'{storage.nearest(pattern)}'
      )
    for checkpoint in named:
      other = found.setdefault((checkpoint.member, checkpoint.step), checkpoint)
      if other.completed_by != checkpoint.completed_by:
        raise ValueError(
          f'two checkpoints have one identity: {other.prefix} and '
          f'{checkpoint.prefix}'
        )
  return sorted(found.values())


def read_list(path: str) -> list[Checkpoint]:
  """The networks that a CSV names, in its order.

  Args:
    path: of a CSV (`tables.MEMBER_FILES`).

  Raises:
    FileNotFoundError: a file that it names is not there.
    ValueError: it is damaged, or a file is of no known kind; names both.
  """
  folder = epath.Path(path).parent
  found = []
  for row in csvs.read(tables.MEMBER_FILES, path).to_dict('records'):
    # A path that is absolute stays so.
    file = str(folder / row['file']).rstrip('/')
    if epath.Path(file).is_dir():
      file += KINDS['saved_model']
    kind = next((k for k, end in KINDS.items() if file.endswith(end)), None)
    if kind is None:
      raise ValueError(
        f'{path} names {row["file"]}, wanted a file that ends in '
        f'{", ".join(KINDS.values())}, or the folder of a SavedModel'
      )
    if not storage.exists(file):
      raise FileNotFoundError(f'{path} names {file}, which is not there')
    described = row['description'] and str(folder / row['description'])
    prefix = file.removesuffix(KINDS[kind])
    try:
      found.append(from_row(row, prefix, kind, described))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
  return found


def _complete(pattern: str) -> list[tuple[str, str]]:
  """The files that complete the networks a pattern names, and their kinds."""
  last: dict[str, tuple[str, str]] = {}
  best: dict[str, int] = {}
  for kind, suffix in KINDS.items():
    for path in storage.match(pattern.removesuffix(suffix) + suffix):
      last[path] = path, kind
  for folder in storage.match(pattern):
    if not epath.Path(folder).is_dir():
      continue
    for path in map(str, storage.below(epath.Path(folder))):
      for kind, suffix in KINDS.items():
        step = _step_of(path, suffix)
        if step is None:
          continue
        parent = str(epath.Path(path.removesuffix(suffix)).parent)
        former = best.get(parent, -1)
        if former < step:
          best[parent], last[parent] = step, (path, kind)
        elif former == step:
          # Of two kinds at one path: `find` refuses them.
          last[path] = path, kind
  return sorted(last.values())


def _step_of(path: str, suffix: str) -> int | None:
  """The step in the name of a file that completes a network, or None."""
  match = re.search(
    rf'(?:^|/){re.escape(CHECKPOINT_NAME)}(\d+){re.escape(suffix)}$', path
  )
  return int(match[1]) if match else None
