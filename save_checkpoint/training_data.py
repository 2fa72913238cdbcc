"""The shards that members are trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import logging
from etils import epath, epy

from utils import digests, image_records, paths, shard_files, storage, tfrecords

with epy.lazy_imports():
  import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The train split of a data set.

  Attributes:
    shards: paths, in order.
    records: the description.
    num_images: number of examples in the shards.
  """

  shards: tuple[str, ...]
  records: image_records.ImageRecords
  num_images: int

  @property
  def identity(self) -> dict[str, object]:
    """What tells these data from others, as JSON.

    The digest is of all shards: of another data set no shard may be there
    whose name is the same and whose content could differ.
    """
    shards = {
      storage.name(shard): _identity(shard, self.records)
      for shard in self.shards
    }
    return {
      'name': self.records.name,
      'num_images': self.num_images,
      'digest': digests.of_json(shards, sort_keys=True),
      'shards': shards,
      # Whoever predicts holds a data set against it (`member_checks`).
      'reading': self.records.reading,
    }

  @property
  def described_in(self) -> list[str]:
    """The file with the description; none where nobody wrote one."""
    folder = epath.Path(self.shards[0]).parent
    return [paths.image_records(str(folder))] if self.records.splits else []


def find(data_directory: str, verify: bool = False) -> TrainingData:
  """Finds and counts the train split.

  Args:
    data_directory: folder, glob, or a list of files.
    verify: whether all shards are read, and their SHA-256 compared.

  Raises:
    FileNotFoundError: there are no shards, or some are missing.
    ValueError: a shard is not what the description says.
  """
  shards = image_records.find_shards(data_directory, 'train')
  records = tfrecords.describe(shards)
  if verify:
    logging.info('comparing the SHA-256 of %d shards', len(shards))
    shard_files.check_digests(shards, records)
  return TrainingData(tuple(shards), records, _num_images(shards, records))


def _identity(path: str, records: image_records.ImageRecords) -> str | int:
  """The declared SHA-256 of a shard, or its size where none is declared."""
  declared = records.shard(storage.name(path))
  return (declared and declared.sha256) or tf.io.gfile.stat(path).length


def _num_images(
  shards: Sequence[str], records: image_records.ImageRecords
) -> int:
  found = (records.shard(storage.name(shard)) for shard in shards)
  declared = [shard.examples for shard in found if shard]
  if len(declared) == len(shards):
    return sum(declared)
  logging.warning(
    'no declared counts: counting the records of %d shards', len(shards)
  )
  return sum(1 for shard in shards for _ in shard_files.read_records(shard))
