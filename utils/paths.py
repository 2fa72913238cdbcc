"""Every file and folder name, and the one way to list, read and write files.

Scripts meet in files, so the names are an agreement: a writer and its readers
both call the function here. Local folders and buckets (`gs://...`) are reached
through `etils.epath`. Nothing here imports TensorFlow.

A trained network, a *member*, is identified by its path, read from the end:

  <root>/<experiment>/<pruning_method>/<fraction_pruned>/<begin_step>/
      <end_step>/<pruning_frequency>/<replicate>/model.ckpt-<step>
"""

import contextlib
import dataclasses
import fcntl
import glob
import os
import re
import uuid
from collections.abc import Iterable, Iterator

from etils import epath

BASELINE = 'baseline'
PRUNING_METHODS = ('threshold', 'random_independent', 'random_cumulative')

# The name of an exported checkpoint, before its step.
CHECKPOINT_NAME = 'model.ckpt-'
_CHECKPOINT = re.compile(rf'^{re.escape(CHECKPOINT_NAME)}(\d+)$')
_SHARD = re.compile(
  r'^(?:.*[-_.])?(train|training|validation|val|eval|test)'
  r'(?:\.tfrecord)?-(\d+)-of-(\d+)$'
)
# The `mode` flag of the scripts, and the words for it in the names of shards.
_SPLITS = {
  'train': ('train', 'training'),
  'eval': ('validation', 'val', 'eval', 'test'),
}


@dataclasses.dataclass(frozen=True, order=True)
class Member:
  """One trained network of a population.

  Attributes:
    experiment: name of the study; the same for all members of a population.
    pruning_method: 'baseline' or one of `PRUNING_METHODS`.
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
    check_component('experiment', self.experiment)
    if self.pruning_method not in (BASELINE, *PRUNING_METHODS):
      raise ValueError(
        f'pruning_method is {self.pruning_method!r}, wanted one of '
        f'{(BASELINE, *PRUNING_METHODS)}'
      )
    if not 0 <= self.fraction_pruned < 1:
      raise ValueError(
        f'fraction_pruned is {self.fraction_pruned}, wanted a number in [0, 1)'
      )
    if self.pruning_method == BASELINE and self.fraction_pruned:
      raise ValueError(
        f'a baseline member has fraction_pruned {self.fraction_pruned}, '
        'wanted 0'
      )
    for field in ('begin_step', 'end_step', 'pruning_frequency', 'replicate'):
      if getattr(self, field) < 0:
        raise ValueError(f'{field} is {getattr(self, field)}, wanted 0 or more')

  @property
  def folder(self) -> str:
    """Where the member lives below the root of all experiments."""
    return '/'.join(
      (
        self.experiment,
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
  """A checkpoint on disk: whose it is, after which step, and its prefix."""

  member: Member
  step: int
  prefix: str

  @property
  def file_stem(self) -> str:
    """The identity as one word, to name the files made from it."""
    return f'{self.member.folder.replace("/", "_")}_{self.step}'


def check_component(what: str, name: str) -> None:
  """Raises ValueError for a name that leads elsewhere than into a folder."""
  if not name or name in ('.', '..') or re.search(r'[/\\\0-\x1f\x7f]', name):
    raise ValueError(f'{what} is {name!r}, wanted the name of one folder')


def _below(folder: str, dataset: str, *names: str) -> epath.Path:
  """A path below a folder; tables and flags that name its parts stay in it."""
  check_component('dataset_name', dataset)
  for name in names:
    check_component('part of a path', name)
  return epath.Path(folder).joinpath(dataset, *names)


def _step_count(text: str) -> int:
  # The original writes a baseline's schedule as 0.0/0.0/0.0.
  if not re.fullmatch(r'\d+(\.0+)?', text, re.ASCII):
    raise ValueError(f'{text!r} is not a number of steps')
  return int(text.split('.')[0])


def parse_checkpoint(prefix: str) -> Checkpoint:
  """Reads the member and the step from a checkpoint's path.

  Args:
    prefix: `<...>/<experiment>/<...>/<replicate>/model.ckpt-<step>`.

  Raises:
    ValueError: the path does not end as a member's checkpoint does.
  """
  parts = str(prefix).rstrip('/').split('/')
  try:
    step = int(_CHECKPOINT.match(parts[-1])[1])
    experiment, method, fraction, *numbers = parts[-8:-1]
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
  return Checkpoint(member, step, str(prefix))


def find_checkpoints(patterns: str | Iterable[str]) -> list[Checkpoint]:
  """Lists the checkpoints that patterns name, each once, sorted by identity.

  Args:
    patterns: one or more of: a checkpoint's prefix (`.../model.ckpt-420`), a
      folder (the last checkpoint of each member at or below it), or a glob of
      either. One string may hold several, separated by commas.

  Raises:
    FileNotFoundError: a pattern names no checkpoint.
    ValueError: a checkpoint does not lie in a member's folder, or two
      checkpoints have the same identity.
  """
  found = {}
  for pattern in _split_list(patterns):
    prefixes = _checkpoint_prefixes(pattern)
    if not prefixes:
      raise FileNotFoundError(
        f'no checkpoint matches {pattern}: wanted .../model.ckpt-<step>, or a '
        'folder at or above members (an index file marks a complete '
        'checkpoint)'
      )
    for prefix in prefixes:
      checkpoint = parse_checkpoint(prefix)
      other = found.setdefault((checkpoint.member, checkpoint.step), checkpoint)
      if other.prefix != prefix:
        raise ValueError(
          f'two checkpoints have one identity: {other.prefix} and {prefix}'
        )
  return sorted(found.values())


def _split_list(patterns: str | Iterable[str]) -> list[str]:
  if isinstance(patterns, str):
    patterns = patterns.split(',')
  return [pattern.strip() for pattern in patterns if pattern.strip()]


def _checkpoint_prefixes(pattern: str) -> list[str]:
  pattern = pattern.removesuffix('.index')
  last = {}
  for path in _match(pattern + '.index'):
    last[path] = path
  for folder in _match(pattern):
    path = epath.Path(folder)
    if not path.is_dir():
      continue
    for index in _files_below(path):
      if index.suffix != '.index' or not _CHECKPOINT.match(index.stem):
        continue
      best = last.get(str(index.parent))
      if best is None or _step(best) < _step(str(index)):
        last[str(index.parent)] = str(index)
  return sorted(path.removesuffix('.index') for path in last.values())


def _step(index_path: str) -> int:
  return int(index_path.removesuffix('.index').rsplit('-', 1)[1])


def _match(pattern: str) -> list[str]:
  """Paths that exist under a pattern; a plain path matches itself."""
  path = epath.Path(pattern)
  if path.exists():
    return [str(path)]  # also one whose name holds a bracket
  if not glob.has_magic(pattern):
    return []
  # epath globs below a folder: cut the pattern at its first magic component.
  parts = path.parts
  first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
  base = epath.Path(*parts[:first]) if first else epath.Path('.')
  if not base.exists():
    return []
  return sorted(str(p) for p in base.glob('/'.join(parts[first:])))


def _files_below(folder: epath.Path) -> Iterator[epath.Path]:
  # epath globs no `**`, which is slow in a bucket.
  scheme = ''.join(str(folder).partition('://')[:2])
  for parent, _, names in folder.walk():
    if '://' in scheme and '://' not in str(parent):
      parent = epath.Path(scheme + str(parent))  # So it is without TensorFlow.
    for name in names:
      yield parent / name


def find_files(pattern: str, what: str = 'file') -> list[str]:
  """Lists the files that a path, a glob or a comma-separated list names.

  Args:
    pattern: what the user typed.
    what: the noun for the error message.

  Returns:
    Sorted paths, each once. Unfinished files (hidden names) are left out.

  Raises:
    FileNotFoundError: nothing matches; the message names the pattern.
  """
  found = set()
  for item in _split_list(pattern):
    matched = [
      path
      for path in _match(item)
      if not os.path.basename(path).startswith('.')
      and not epath.Path(path).is_dir()
    ]
    if not matched:
      raise FileNotFoundError(f'no {what} matches {item}')
    found.update(matched)
  if not found:
    raise FileNotFoundError(f'no {what} matches {pattern!r}')
  return sorted(found)


def find_csvs(directory: str, what: str) -> list[str]:
  """Lists the CSVs at or below a folder, or those that a pattern names.

  Raises:
    FileNotFoundError: there is none; the message names the folder.
  """
  if directory and epath.Path(directory).is_dir():
    found = sorted(
      str(path)
      for path in _files_below(epath.Path(directory))
      if path.suffix == '.csv' and not path.name.startswith('.')
    )
    if not found:
      raise FileNotFoundError(f'no CSV of {what} below {directory}')
    return found
  return find_files(directory, f'CSV of {what}')


def find_shards(data_directory: str, mode: str) -> list[str]:
  """Lists the TFRecord shards of a data set.

  Args:
    data_directory: a folder, of which the shards of one split are taken and
      have to be complete; or a path, glob or list of files, taken as it is.
    mode: 'train' or 'eval', the split that is taken from a folder.

  Raises:
    FileNotFoundError: nothing matches, or a shard of the split is missing.
  """
  folder = epath.Path(data_directory or '.')
  if not data_directory or not folder.is_dir():
    return find_files(data_directory, 'TFRecord file')
  shards = {}
  for path in sorted(folder.iterdir()):
    match = _SHARD.match(path.name)
    if match and match[1] in _SPLITS[mode]:
      name = path.name[: match.start(2)]
      shards.setdefault((name, int(match[3])), {})[int(match[2])] = str(path)
  if not shards:
    raise FileNotFoundError(
      f'no TFRecord shard of the {mode} split in {data_directory}, wanted '
      f'{_SPLITS[mode][0]}-00000-of-NNNNN or the like'
    )
  if len(shards) > 1:
    raise ValueError(
      f'{data_directory} holds more than one set of {mode} shards: '
      f'{sorted(f"{name}*-of-{n:05d}" for name, n in shards)}; name one by '
      'a pattern'
    )
  ((name, number),) = shards
  found = shards[name, number]
  missing = sorted(set(range(number)) - set(found))
  if missing:
    raise FileNotFoundError(
      f'{data_directory} has {len(found)} of {number} shards {name}*, '
      f'missing {missing[:10]}'
    )
  return [found[i] for i in range(number)]


@contextlib.contextmanager
def unfinished(path: str | os.PathLike) -> Iterator[str]:
  """Names the hidden file that a file is written as, and then renamed from.

  Locally it is locked while the block runs. Hidden files of the same name that
  nobody holds were left by killed processes, and are removed at the end: two
  copies of a command do not take each other's. Buckets know no locks; what is
  left there stays, and no reader lists it.

  Args:
    path: the file under its final name, or the prefix of several. Folders are
      made.

  Yields:
    The hidden name or prefix. What has it when the block ends is removed.

  Raises:
    OSError: it cannot be written; names the file.
  """
  folder, name = os.path.split(str(path))
  prefix = os.path.join(folder, f'.{name}.')
  if '://' in prefix:
    yield prefix + uuid.uuid4().hex[:8]
    return
  with cannot_be_written(path):
    os.makedirs(folder or '.', exist_ok=True)
    hidden, lock = _create_locked(prefix)
  try:
    yield hidden
  finally:
    _remove_all(hidden)
    os.close(lock)
    for other in glob.glob(glob.escape(prefix) + '[0-9a-f]' * 8):
      _remove_unless_locked(other)


@contextlib.contextmanager
def cannot_be_written(path: str | os.PathLike) -> Iterator[None]:
  """Says which file an error of the system is about, by its final name."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or error
    raise OSError(f'{path} cannot be written: {reason}') from None


def _create_locked(prefix: str) -> tuple[str, int]:
  while True:
    hidden = prefix + uuid.uuid4().hex[:8]
    lock = os.open(hidden, os.O_CREAT | os.O_RDWR, 0o666)
    # Some network file systems lock nothing: there nobody removes anything.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.exists(hidden):
      return hidden, lock
    os.close(lock)  # It was taken for abandoned before it was locked.


def _remove_unless_locked(hidden: str) -> None:
  with contextlib.suppress(OSError):
    lock = os.open(hidden, os.O_RDWR)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      _remove_all(hidden)
    finally:
      os.close(lock)


def _remove_all(hidden: str) -> None:
  # The locked file last: without it nobody would find the others.
  for path in sorted(glob.glob(glob.escape(hidden) + '*'), reverse=True):
    with contextlib.suppress(OSError):
      os.remove(path)


def write_complete(path: str | os.PathLike, data: bytes | str) -> None:
  """Writes a file so that its final name never shows a part of it.

  The bytes go to a hidden name beside it, which is renamed when they are on
  disk. A rename within a bucket is a copy, which shows nothing partial either.

  Raises:
    OSError: it cannot be written; names the file.
  """
  with unfinished(path) as hidden, cannot_be_written(path):
    hidden = epath.Path(hidden)
    try:
      with hidden.open('wb') as file:
        file.write(data.encode() if isinstance(data, str) else data)
      flush_to_disk(str(hidden))
      hidden.replace(path)
    except BaseException:
      hidden.unlink(missing_ok=True)
      raise


def flush_to_disk(path: str) -> None:
  """Waits until a local file is on disk, so that a rename cannot outrun it."""
  if '://' in path:
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def exists(path: str | os.PathLike) -> bool:
  """True when the file or folder is there."""
  return epath.Path(path).exists()


def name(path: str) -> str:
  """The last component of a path."""
  return epath.Path(path).name


def split_of_shard(shard_name: str) -> str:
  """The word for the split in the name of a shard, '' where there is none."""
  match = _SHARD.match(shard_name)
  return match[1] if match else ''


def image_records(folder: str | os.PathLike) -> str:
  """The description of a data set, beside its shards."""
  return str(epath.Path(folder) / 'image_records.json')


def shard(folder: str, split: str, index: int, count: int) -> str:
  """A TFRecord shard of a split ('train', 'validation')."""
  return str(epath.Path(folder) / f'{split}-{index:05d}-of-{count:05d}')


def shard_done(folder: str, shard_name: str) -> str:
  """What the builder of a data set notes of a finished shard."""
  return str(epath.Path(folder) / '.build' / f'{shard_name}.json')


def member_folder(output_dir: str, member: Member) -> str:
  """A member's folder; output_dir is `<root>/<experiment>`."""
  root = epath.Path(output_dir)
  if root.name != member.experiment:
    raise ValueError(f'{output_dir} does not end in {member.experiment!r}')
  return str(root.parent / member.folder)


def checkpoint_prefix(folder: str, step: int) -> str:
  """An exported checkpoint in a member's folder."""
  return str(epath.Path(folder) / f'{CHECKPOINT_NAME}{step}')


def summaries(folder: str) -> str:
  """The TensorBoard summaries of a member."""
  return str(epath.Path(folder) / 'summaries')


def resume_folder(folder: str) -> str:
  """What a member's training needs to go on; private to the training room."""
  return str(epath.Path(folder) / 'resume')


def provenance(folder: str, script: str) -> str:
  """The record of the command that wrote into a folder."""
  return str(epath.Path(folder) / f'{script}.run.json')


def predictions_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of all predictions for one split of a data set."""
  return str(_below(output_path, dataset, 'predictions_dataframe', mode))


def predictions(
  output_path: str, dataset: str, mode: str, shard_name: str, of: Checkpoint
) -> str:
  """The predictions of one member for one shard."""
  return str(
    _below(
      output_path,
      dataset,
      'predictions_dataframe',
      mode,
      shard_name,
      f'predictions_dataframe_{of.file_stem}.csv',
    )
  )


def modal_labels_folder(output_path: str, dataset: str, mode: str) -> str:
  """The folder of all modal labels for one split of a data set."""
  return str(_below(output_path, dataset, 'modal_labels', mode))


def modal_labels(
  output_path: str,
  dataset: str,
  mode: str,
  shard_name: str,
  method: str,
  fraction: float,
) -> str:
  """The modal labels of one shard at one level of sparsity."""
  name = f'{method}_{float(fraction)}.csv'
  return str(
    _below(output_path, dataset, 'modal_labels', mode, shard_name, name)
  )


def pie_null(
  output_path: str, dataset: str, mode: str, shard_name: str = ''
) -> str:
  """How many PIEs chance gives, per level; of all shards, or of one."""
  name = (
    f'{mode}_{shard_name}_pie_null.csv'
    if shard_name
    else (f'{mode}_pie_null.csv')
  )
  return str(_below(output_path, dataset, name))


def pie_records(
  output_file: str,
  dataset: str,
  mode: str,
  is_pie: str,
  method: str,
  fraction: float,
  shard_name: str,
) -> str:
  """PIE ('pie') or other ('non_pie') records of one shard at one level.

  Without the name of a shard, the folder of them all.
  """
  names = [mode, is_pie, method, str(float(fraction))]
  if shard_name:
    names.append(shard_name)
  return str(_below(output_file, dataset, *names))


def pie_statistics(
  output_file: str,
  dataset: str,
  mode: str,
  shard_name: str,
  method: str,
  fraction: float,
) -> str:
  """The counts of PIEs of one shard at one level."""
  name = f'{mode}_{shard_name}_{method}_{float(fraction)}.csv'
  return str(_below(output_file, dataset, 'stats', name))


def class_metrics(
  output_path: str, dataset: str, mode: str, of: Checkpoint
) -> str:
  """Per-class metrics of one member."""
  name = f'class_metrics_{of.file_stem}.csv'
  return str(_below(output_path, dataset, 'class_metrics', mode, name))


def group_metrics(
  output_path: str, dataset: str, mode: str, of: Checkpoint
) -> str:
  """Metrics of one member per group of classes or images."""
  name = f'class_metrics_{of.file_stem}.csv'
  return str(_below(output_path, dataset, 'group_metrics', mode, name))


def t_statistic(output_file: str, dataset: str, mode: str) -> str:
  """The t-test of each class at each level."""
  return str(_below(output_file, dataset, mode, 'recall_t_statistic.csv'))


def class_impact_summary(output_file: str, dataset: str, mode: str) -> str:
  """How many classes moved, per level."""
  return str(_below(output_file, dataset, mode, 'class_impact_summary.csv'))


def class_impact_figure(
  output_file: str, dataset: str, mode: str, name: str, suffix: str
) -> str:
  """A figure of class impact: name is a level or 'significant_classes'."""
  return str(
    _below(output_file, dataset, mode, f'class_impact_{name}.{suffix}')
  )


def within(folder: str, file_name: str) -> str:
  """A file that keeps its name in another folder."""
  return str(epath.Path(folder) / file_name)


def corrupted_folder(
  root: str, corruption: str, severity: int, version: str
) -> str:
  """A corrupted copy of a data set, in TFDS's layout of ImageNet-C."""
  return str(epath.Path(root) / f'{corruption}_{severity}' / version)


def robustness(dest_dir: str, dataset: str, name: str, of: Checkpoint) -> str:
  """The metrics of one member on one data set (`<corruption>_<severity>`)."""
  return str(_below(dest_dir, dataset, name, f'{of.file_stem}.csv'))


def robustness_summary(dest_dir: str) -> str:
  """What pruning costs off the clean distribution, per level."""
  return str(epath.Path(dest_dir) / 'robustness_summary.csv')


def robustness_figure(dest_dir: str, suffix: str) -> str:
  """The figure of the summary."""
  return str(epath.Path(dest_dir) / f'robustness_summary.{suffix}')


def headline_table(output_path: str) -> str:
  """The table at the end of a run."""
  return str(epath.Path(output_path) / 'headline_table.csv')


def gallery(output_path: str, dataset: str, mode: str) -> str:
  """The folder of the page that shows the PIEs; it opens at index.html."""
  return str(epath.Path(output_path) / dataset / 'gallery' / mode)


def suspects(output_path: str, dataset: str, mode: str) -> str:
  """Images whose label should be looked at, ranked."""
  return str(epath.Path(output_path) / dataset / f'{mode}_suspects.csv')


def annotation_summary(output_path: str, dataset: str, mode: str) -> str:
  """What people said of PIEs and of other images."""
  return str(
    epath.Path(output_path) / dataset / f'{mode}_annotation_summary.csv'
  )
