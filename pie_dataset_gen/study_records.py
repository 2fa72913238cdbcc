"""What the records in a study say: who made a file, from what, still so?

A record (`utils/provenance.py`) names inputs by the paths that its command was
given. A study may have been moved since, so an input is looked for by the end
of its path among the files of the study first, and where the path says only
then. Inputs that lie elsewhere and are not there say nothing.
"""

import collections
import dataclasses
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from pie_dataset_gen import shard_predictions
from utils import (
  compressed,
  csvs,
  image_records,
  member_paths,
  paths,
  provenance,
  table_digests,
  tables,
)

_TABLES = [of for of in vars(tables).values() if isinstance(of, csvs.Table)]
_FOLDERS = {'<study>': '.', '<results>': 'results', '<pie>': 'pie'}
_ROBUSTNESS = 'results/robustness'
_TRAINING = 'imagenet_train_eval'
_AGGREGATING = 'aggregate_predictions'
# What lies in their folders is theirs: shards and descriptions, summaries.
_DATA = (
  *('build_image_data', 'build_corruptions', 'generate_pie_dataset'),
  _TRAINING,
)


def table_of(file: str) -> csvs.Table | None:
  """The table that a CSV of a study is, by where it lies."""
  file = file.removesuffix(compressed.ENDING)
  return next((of for where, of in _PLACES if where.fullmatch(file)), None)


def _place(table: csvs.Table) -> re.Pattern[str]:
  where = table.file.split(',')[0].replace('<robustness>', _ROBUSTNESS)
  for name, folder in _FOLDERS.items():
    where = where.replace(name, folder)
  # A name, or the mode, stands for a part of one component.
  return re.compile(
    ''.join(
      '[^/]+' if part.startswith('<') else re.escape(part)
      for part in re.split('(<[^<>]*>)', where.removeprefix('./'))
    )
  )


# Of two that fit, the one that says more of the name.
_PLACES = sorted(
  ((_place(of), of) for of in _TABLES if '<' in of.file),
  key=lambda place: -len(re.sub('<[^<>]*>', '', place[1].file)),
)


@dataclasses.dataclass
class Record:
  """A record, and what has become of its inputs.

  Attributes:
    file: its path in the study.
    content: of the JSON.
    inputs: those that lie in the study, or where they were.
    changed: in words, what is not as it was when results were made.
    stems: names, in files, of the members that `changed` is about; empty where
      it is about all that the command made.
    gone: as `stems`, of members whose network is not there any more.
    inputs_elsewhere: how many are neither in the study nor where they were.
  """

  file: str
  content: Mapping[str, Any]
  inputs: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  changed: list[str] = dataclasses.field(default_factory=list)
  stems: set[str] = dataclasses.field(default_factory=set)
  gone: set[str] = dataclasses.field(default_factory=set)
  inputs_elsewhere: int = 0

  @property
  def folder(self) -> str:
    """Where it lies in the study, '' for the top."""
    return posixpath.dirname(self.file)

  @property
  def script(self) -> str:
    """The script's name without its room."""
    return posixpath.basename(self.file).removesuffix('.run.json')

  @property
  def finished(self) -> str:
    """When the command came to its end; '' if it did not."""
    return str(self.content.get('finished', ''))

  @property
  def command(self) -> str:
    """The command, as a person types it; '' where the record has none."""
    if {'script', 'command'} <= self.content.keys():
      return provenance.command(self.content)
    return ''

  @property
  def roots(self) -> list[str]:
    """Where the study lay, as its command called that and from the root."""
    named = str(self.content.get('flags', {}).get('study') or '')
    folder = str(self.content.get('folder') or '')
    end = f'/{self.folder}'
    root = folder.removesuffix(end) if folder.endswith(end) else ''
    return [place for place in (named, root) if place]

  @property
  def outputs(self) -> Mapping[str, str]:
    """Path in the study -> SHA-256 of files that the record itself notes."""
    noted = self.content.get('outputs', {})
    return {posixpath.join(self.folder, name): noted[name] for name in noted}


class Records:
  """All records of a study."""

  def __init__(self, study: str, files: Iterable[str]):
    """Reads them.

    Args:
      study: its folder.
      files: paths in it of all files that are there.
    """
    self._study = study
    self._files = frozenset(files)
    self._in: dict[str, list[str]] = collections.defaultdict(list)
    for file in self._files:
      if csvs.is_csv(posixpath.basename(file)):
        self._in[posixpath.dirname(file)].append(file)
    self._folders = {posixpath.dirname(file) for file in self._files}
    self.damaged: dict[str, str] = {}
    self.all: list[Record] = []
    for file in sorted(self._files):
      if not file.endswith('.run.json'):
        continue
      try:
        content = provenance.read(str(epath.Path(study) / file))
      except ValueError as error:
        self.damaged[file] = str(error)
        continue
      self.all.append(Record(file, content))
    self._at: dict[str, dict[str, Record]] = collections.defaultdict(dict)
    for record in self.all:
      self._at[record.folder][record.script] = record
    self._noted = {
      file: record for record in self.all for file in record.outputs
    }

  def of_file(self, file: str) -> Record | None:
    """The record of the command that made a file, or None."""
    if file in self._noted:
      return self._noted[file]
    name = posixpath.basename(file)
    if name.endswith('.run.json'):
      return self._at.get(posixpath.dirname(file), {}).get(
        name.removesuffix('.run.json')
      )
    if name == table_digests.FILE_NAME:
      return None
    table = table_of(file)
    if table:
      scripts = [table.written_by.split('.')[-1]]
    elif is_network(file):
      is_quantised = f'{stem(file)}.tflite' in self._files
      scripts = ['quantise_checkpoints' if is_quantised else _TRAINING]
    else:
      scripts = list(_DATA)
    folder = file
    while folder:
      folder = posixpath.dirname(folder)
      found = self._at.get(folder, {})
      for script in scripts:
        if script in found:
          return found[script]
    # Of the counts of all shards, the record lies beside the tables of each.
    below = [
      record
      for record in self.all
      if record.script in scripts
      and table
      and record.folder.startswith(posixpath.dirname(file))
      and name.startswith(posixpath.basename(record.folder))
    ]
    return below[0] if len(below) == 1 else None

  def find(self, path: str, roots: Iterable[str]) -> str | None:
    """An input's path in the study; None for one that lies elsewhere.

    Args:
      path: as the command was given it.
      roots: where the study lay then, if that is known.
    """
    path = _plain(path)
    for root in roots:
      if (inner := _inner(path, root)) is not None:
        return inner
    parts = path.split('/')
    ends = ('/'.join(parts[i:]) for i in range(len(parts)))
    return next((file for file in ends if file in self._files), None)

  def compare(
    self,
    digest_of: Callable[[str], Mapping[str, Any]],
    sha256_of: Callable[[str], str],
  ) -> None:
    """Finds what has changed, and is gone, of all inputs.

    Args:
      digest_of: `digests.describe_file` of a path.
      sha256_of: of all that a file holds, whatever its size.
    """
    for record in self.all:
      if record.script == _TRAINING:
        self._compare_images(record)
        continue
      for described in record.content.get('inputs', []):
        self._compare(record, described, digest_of)
      if record.script == _AGGREGATING and record.finished:
        self._compare_predictions(record, sha256_of)
    for record in self.all:
      if record.finished:
        self._find_later(record)

  def _compare(self, record, described, digest_of) -> None:
    path = str(described['path'])
    file = self.find(path, record.roots)
    if file is not None and file not in self._files:
      # Where its whole folder is not there, it lies elsewhere by now.
      siblings = posixpath.dirname(file) in self._folders
      if siblings or (is_network(file) and self._has_networks()):
        record.changed.append(f'{file} is gone')
        self._narrow(record, record.gone, file)
      else:
        record.inputs_elsewhere += 1
      return
    if file is not None:
      record.inputs[file] = described
    try:
      now = digest_of(path if file is None else self._path(file))
    except OSError:
      record.inputs_elsewhere += 1
      return
    names = [name for name in ('bytes', 'sha256') if name in described]
    if any(now[name] != described[name] for name in names if name in now):
      record.changed.append(f'{file or path} has changed since')
      self._narrow(record, record.stems, file or path)

  def _path(self, file: str) -> str:
    return str(epath.Path(self._study) / file)

  def _has_networks(self) -> bool:
    return any(map(is_network, self._files))

  def _narrow(self, record: Record, stems: set[str], file: str) -> None:
    """Notes the member that an input is, if results are about single ones."""
    try:
      stems.add(member_paths.parse(stem(file)).file_stem)
    except ValueError:
      record.stems.add('')  # All that the command made.

  def _compare_images(self, record: Record) -> None:
    """Of training, whose record has what was declared of each shard."""
    data = self._path('data')
    settings = record.content.get('settings', {})
    trained = settings.get('data', {}).get('shards', {})
    if not trained or paths.image_records('data') not in self._files:
      return
    try:
      declared = image_records.read(data)
    except ValueError:
      return  # Said of that file.
    for name, was in trained.items():
      shard = declared.shard(name)
      if shard is None or was not in (shard.sha256, shard.bytes):
        record.changed.append(f'data/{name} has changed since')
        record.stems.add('')

  def _compare_predictions(self, record, sha256_of) -> None:
    """Of an aggregation, whose record has a digest for each shard."""
    of_shards = record.content.get('made_from', {}).get('predictions', {})
    # <data set>/modal_labels/<mode>
    data_set, mode = (
      posixpath.dirname(posixpath.dirname(record.folder)),
      posixpath.basename(record.folder),
    )
    for shard, digest in of_shards.items():
      own = posixpath.join(data_set, paths.PREDICTIONS_NAME, mode, shard)
      found = self._in.get(own, [])
      if not found:
        continue  # They lie elsewhere.
      record.inputs |= {file: {} for file in found}
      now = shard_predictions.identity_of(
        sha256_of(self._path(file)) for file in found
      )
      if now != digest:
        record.changed.append(f'predictions in {own} are others since')
        record.stems.add('')

  def _find_later(self, record: Record) -> None:
    """Files beside the inputs, of the same kind, that came since."""
    kinds: dict[object, list[str]] = collections.defaultdict(list)
    for file in record.inputs:
      kinds[_kind(file)].append(file)
    for kind, files in kinds.items():
      if kind is None or len(files) < 2:
        continue
      within = posixpath.commonpath(files)
      later = [
        file
        for file in sorted(self._files - record.inputs.keys())
        if _kind(file) == kind
        and file.startswith(f'{within}/')
        and (made := self.of_file(file))
        and made.finished > record.finished
      ]
      if later:
        record.changed.append(f'{later[0]} came since ({len(later)} in all)')


def stem(file: str) -> str:
  """A network's path without what the kind of its file adds."""
  match = re.match(
    rf'(.*{re.escape(member_paths.CHECKPOINT_NAME)}\d+)', os.fspath(file)
  )
  return match[1] if match else file


def is_network(file: str) -> bool:
  """Whether a file is one of those of a member's network."""
  return stem(file) != file


def _kind(file: str) -> object:
  if file.endswith(('.index', '.tflite', '.keras', 'saved_model.pb')):
    return 'network'
  table = table_of(file)
  return table and table.name


def _plain(path: str) -> str:
  return path if '://' in path else posixpath.normpath(path)


def _inner(path: str, study: str) -> str | None:
  """What is left of a path below the study, None if it lies elsewhere."""
  study = _plain(study).rstrip('/')
  if study == '.':
    return None if path.startswith(('/', '..')) or '://' in path else path
  if not path.startswith(f'{study}/'):
    return None
  return path.removeprefix(f'{study}/')
