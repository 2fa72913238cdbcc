"""Every file of a study: whether it is complete, and still what was written.

What a file is compared with: a table with the digests.json beside it, a shard
and a description with image_records.json, a network with the checksums of its
own index or description, figures and pages with the record of the command that
wrote them. Of what has none of these it can be said only that it is there.
"""

import collections
import concurrent.futures
import functools
import posixpath
from collections.abc import Mapping
from typing import Any

import pandas as pd
from etils import epath, epy

from pie_dataset_gen import study_records
from utils import (
  csvs,
  digests,
  image_records,
  network_files,
  paths,
  storage,
  table_digests,
  tables,
)

with epy.lazy_imports():
  from utils import checkpoints, shard_files

# What can be said of a file. The first two are well.
UNCHANGED, UNVERIFIED = 'unchanged', 'unverified'
BEING_WRITTEN = 'being written'
DAMAGED, STALE, UNFINISHED = 'damaged', 'stale', 'unfinished'
LEFTOVER, ORPHAN = 'leftover', 'orphan'
WELL = (UNCHANGED, UNVERIFIED, BEING_WRITTEN)
WRONG = (DAMAGED, STALE, UNFINISHED, LEFTOVER, ORPHAN)
REMOVABLE = (LEFTOVER, ORPHAN, STALE)
# Nothing that costs hours is stale enough to be removed.
_KEPT = ('data', 'checkpoints')


class Study:
  """The files of a study, looked at once."""

  def __init__(self, folder: str, quick: bool = False):
    """Lists the files, and reads the records.

    Args:
      folder: of the study.
      quick: whether networks and shards are left unread.

    Raises:
      FileNotFoundError: there is no such folder, or it is empty.
    """
    if not epath.Path(folder).is_dir():
      raise FileNotFoundError(
        f'there is no folder {folder}{storage.nearest(folder)}'
      )
    self.folder, self._quick = folder, quick
    self.files = sorted(
      str(path.relative_to(epath.Path(folder)))
      for path in storage.below(epath.Path(folder))
    )
    if not self.files:
      raise FileNotFoundError(f'{folder} holds no file')
    self._names = frozenset(self.files)
    self._described = functools.cache(digests.describe_file)
    self.records = study_records.Records(folder, self.files)
    self._shards = self._declared()

  def path(self, file: str) -> str:
    """Where a file of the study lies."""
    return str(epath.Path(self.folder) / file)

  def _declared(self) -> dict[str, Mapping[str, image_records.Shard]]:
    """Folder -> shards that its description declares."""
    found: dict[str, Mapping[str, image_records.Shard]] = {}
    for file in self.files:
      if posixpath.basename(file) == 'image_records.json':
        folder = posixpath.dirname(file)
        try:
          splits = image_records.read(self.path(folder)).splits
        except ValueError:
          continue  # Said of the file itself.
        found[folder] = {n: s for of in splits.values() for n, s in of.items()}
    return found

  def look(self) -> pd.DataFrame:
    """What can be said of each file: the rows of `tables.STUDY_FILES`."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
      rows = list(pool.map(self._row, self.files))
    rows += [
      self._described_row(posixpath.join(folder, name), DAMAGED, 'is missing')
      for folder, shards in self._shards.items()
      for name in shards
      if posixpath.join(folder, name) not in self._names
    ]
    self.records.compare(self._described, self._sha256)
    made: dict[str, list[dict]] = collections.defaultdict(list)
    for row in rows:
      if record := self.records.of_file(row['file']):
        row['record'], row['command'] = record.file, record.command
        made[record.file].append(row)
    of_file = {row['file']: row for row in rows}
    for record in self.records.all:
      _judge(record, of_file[record.file], made[record.file])
    return csvs.check(tables.STUDY_FILES, pd.DataFrame(rows), self.folder)

  def _described_row(self, file: str, state: str, remark: str) -> dict:
    is_there = file in self._names
    size = epath.Path(self.path(file)).stat().length if is_there else 0
    return {
      'file': file,
      'kind': self._kind(file),
      'state': state,
      'remark': remark,
      'bytes': size,
      'record': '',
      'command': '',
    }

  def _row(self, file: str) -> dict:
    try:
      state, remark = self._state(file)
    except (ValueError, OSError) as error:
      state, remark = DAMAGED, str(error).replace('\n', ' ')
    return self._described_row(file, state, remark)

  def _kind(self, file: str) -> str:
    name = posixpath.basename(file)
    if table := study_records.table_of(file):
      return table.name
    if file.endswith('.run.json'):
      return 'record'
    if name in (table_digests.FILE_NAME, 'image_records.json'):
      return 'description'
    if study_records.is_network(file):
      return 'network'
    if posixpath.dirname(file) in self._shards and paths.SHARD.match(name):
      return 'shard'
    if 'tfevents' in name:
      return 'summary'
    if posixpath.basename(posixpath.dirname(file)) == '.build':
      return 'note of a shard'
    return posixpath.splitext(name)[1].removeprefix('.') or 'other'

  def _state(self, file: str) -> tuple[str, str]:
    name, folder = posixpath.basename(file), posixpath.dirname(file)
    path = self.path(file)
    if hidden := _hidden(file):
      if storage.is_being_written(self.path(hidden)):
        return BEING_WRITTEN, 'by a process that runs'
      return LEFTOVER, 'of a process that was killed'
    if file.endswith('.run.json'):
      wrong = self.records.damaged.get(file)
      return (DAMAGED, wrong) if wrong else (UNVERIFIED, 'JSON')
    if name == 'image_records.json':
      image_records.read(self.path(folder))
      return UNCHANGED, ''
    if name == table_digests.FILE_NAME:
      table_digests.noted(self.path(posixpath.join(folder, 'any')))
      return UNVERIFIED, 'JSON'
    if study_records.is_network(file):
      return self._state_of_network(file)
    if folder in self._shards and paths.SHARD.match(name):
      return self._state_of_shard(file)
    record = self.records.of_file(file)
    noted = table_digests.noted(path) or []
    if record and file in record.outputs:
      noted = [record.outputs[file]]
    if not noted:
      return UNVERIFIED, 'nothing to compare with'
    if self._sha256(path) not in noted:
      return DAMAGED, 'has another SHA-256 than it was written with'
    return UNCHANGED, ''

  def _sha256(self, path: str) -> str:
    return str(self._described(path).get('sha256') or digests.of_file(path))

  def _state_of_shard(self, file: str) -> tuple[str, str]:
    declared = self._shards[posixpath.dirname(file)]
    shard = declared.get(posixpath.basename(file))
    if not declared:
      return UNVERIFIED, 'nothing is declared of shards'
    if shard is None:
      return ORPHAN, 'image_records.json declares no such shard'
    path = self.path(file)
    if epath.Path(path).stat().length != shard.bytes:
      return DAMAGED, f'image_records.json declares {shard.bytes} bytes'
    if self._quick:
      return UNVERIFIED, 'only its size was compared'
    if not shard.sha256:
      # By the checksums of its own.
      count = sum(1 for _ in shard_files.read_records(path))
      if count != shard.examples:
        return DAMAGED, f'holds {count} records, not {shard.examples}'
    elif self._sha256(path) != shard.sha256:
      return DAMAGED, 'has another SHA-256 than image_records.json declares'
    return UNCHANGED, ''

  def _state_of_network(self, file: str) -> tuple[str, str]:
    stem = study_records.stem(file)
    path = self.path(stem)
    if '.data-' in file and f'{stem}.index' not in self._names:
      return LEFTOVER, 'of a checkpoint without an index'
    described_by = f'{stem}.json'
    if file.endswith('.json'):
      network_files.read(self.path(file))
      return UNVERIFIED, 'JSON'
    if file.endswith('.tflite') and described_by in self._names:
      made_from = network_files.read(self.path(described_by)).made_from
      if digest := made_from.get('network_sha256'):
        if self._sha256(self.path(file)) != digest:
          return DAMAGED, 'is not the file that its description describes'
        return UNCHANGED, ''
    if self._quick or file.endswith(('.tflite', '.keras')):
      return UNVERIFIED, 'was not opened'
    if file.endswith('.index'):
      checkpoints.read_bundle(path)  # With its data, by their checksums.
      return UNCHANGED, ''
    if '.data-' in file:
      return UNCHANGED, 'as its index says'
    return UNVERIFIED, 'nothing to compare with'


def _hidden(file: str) -> str:
  """The path of the hidden file or folder that a file is, or lies in, or ''."""
  parts = file.split('/')
  for i, part in enumerate(parts, 1):
    if storage.is_unfinished(part):
      return '/'.join(parts[:i])
  return ''


def _judge(record: study_records.Record, own: dict, made: list[dict]) -> None:
  """Says of a record, and of what its command made, what is out of date."""
  if (
    own['state'] in WELL
    and not record.finished
    and 'finished' in record.content
  ):
    own.update(state=UNFINISHED, remark='the command did not come to its end')
  if not record.changed:
    return
  why = '; '.join(record.changed[:2]) + '; ...' * (len(record.changed) > 2)
  whole = '' in record.stems or not (record.stems | record.gone)
  for row in made:
    name = posixpath.basename(row['file'])
    is_gone = any(stem in name for stem in record.gone)
    if row['state'] not in WELL:
      continue
    if is_gone and not whole:
      row.update(state=ORPHAN, remark=f'of a network that is gone: {why}')
    elif whole or any(stem in name for stem in record.stems):
      row.update(state=STALE, remark=why)
  if own['state'] in WELL:
    own.update(state=STALE, remark=why)


def may_be_removed(row: Mapping[str, Any]) -> bool:
  """Whether a file that is wrong can be done without, and costs little.

  Args:
    row: of `tables.STUDY_FILES`.
  """
  costly = row['file'].split('/')[0] in _KEPT
  return row['state'] == LEFTOVER or (
    row['state'] in (ORPHAN, STALE) and not costly
  )
