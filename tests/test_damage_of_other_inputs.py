"""Damage of the inputs that are neither shards nor tables of our own.

A study also reads arrays of corrupted images, archives, and short files that
people write by hand. What has a checksum, or something to be compared with, is
named whatever bit of it changes; of the others it is counted what passes.
"""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from robustness_tests import image_arrays
from save_checkpoint import build_image_data, source_facts
from tests.damage import described, outcomes
from tests.test_cifar_archives import contents, tar_gz
from tests.test_network_files import GOOD
from utils import (
  class_names,
  csvs,
  member_paths,
  network_files,
  provenance,
  table_digests,
  tables,
)

SETTINGS = {'batch_size': 4, 'dataset_name': 'pets'}
INPUTS = {'inputs': {'a.csv': 'sha256 ab12'}}


def groups(path):
  return csvs.read(tables.GROUPS, str(path)).to_dict('list')


def test_notes_of_digests(tmp_path, tally, long):
  """What they say of a table is not believed where the table says otherwise.

  A flip in a table's name, or in the digest before the last one, leaves the
  table unnoted or noted as it is: it is read as it stands, which is right.
  """
  table = tmp_path / 'a.csv'
  for text in ('group,class_id\na,1\n', 'group,class_id\na,2\n'):
    table_digests.note(str(table), text.encode())
    table.write_text(text)
  notes = tmp_path / table_digests.FILE_NAME

  def read():
    try:
      return groups(table)
    except ValueError as error:
      # It says where it was noted, which may be what is damaged.
      raise ValueError(f'{notes}: {error}') from None

  found = outcomes(notes, 1 if long else 7, read)
  assert not found['other']
  assert found['named'] > found['same']
  tally['flips and cuts of digests.json'] += found.total()


def test_records_of_commands(tmp_path, tally, long):
  """Another setting or no JSON is named; with other inputs all is made anew.

  What is the same to a reader are the texts for people: times, versions.
  """
  record = provenance.Provenance(str(tmp_path), 'room.stage', SETTINGS, INPUTS)
  record.start()
  record.finish([])
  path = tmp_path / 'stage.run.json'
  text = path.read_text()

  def read():
    found = provenance.Provenance(str(tmp_path), 'room.stage', SETTINGS, INPUTS)
    return found.is_finished

  for setting in (': 4', 'pets"'):
    path.write_text(text.replace(setting, setting.swapcase() + '0'))
    with pytest.raises(ValueError, match='stage.run.json'):
      read()
  path.write_text(text.replace('ab12', 'ab13'))
  assert not read()
  path.write_text(text)
  found = outcomes(path, 1 if long else 17, read)
  assert found['named'] and found['same']
  tally['flips and cuts of records of commands'] += found.total()


@pytest.mark.parametrize('name', ['fog', 'labels'])
def test_arrays_of_corrupted_images(tmp_path, tally, long, name):
  """NumPy's files have no checksum: pixels change, all else is named.

  Labels that differ from those of the clean images are refused later, when all
  are known: `test_imagenet_corruptions.py`.
  """
  pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
  np.save(tmp_path / 'fog.npy', pixels)
  np.save(tmp_path / 'labels.npy', np.tile(np.uint8([0, 1]), 5))
  path = tmp_path / f'{name}.npy'
  shapes = set()

  def read():
    images, labels = image_arrays.load(str(tmp_path / 'fog.npy' / '3'), 3)
    shapes.add((images.shape, labels.shape))
    return images.tolist(), labels.tolist()

  found = outcomes(path, 1 if long else 11, read)
  assert found['named']
  assert shapes == {((2, 4, 4, 3), (2,))}
  tally['flips and cuts of .npy files'] += found.total()
  tally['of which pixels or labels of the set that is read'] += found['other']


def test_archives_of_cifar(tmp_path, monkeypatch, tally, long):
  row = source_facts.SOURCES['cifar10']
  content = tar_gz(contents('cifar10')[0], row.archive.folder)
  path = tmp_path / row.archive.name
  path.write_bytes(content)
  archive = dataclasses.replace(
    row.archive, md5=hashlib.md5(content).hexdigest()
  )
  monkeypatch.setitem(
    source_facts.SOURCES, 'cifar10', dataclasses.replace(row, archive=archive)
  )

  def read():
    # Whole, it is an archive of too few images, which is said of a file in it.
    with pytest.raises(ValueError, match='wanted 10000 images') as raised:
      build_image_data.run('cifar10', str(tmp_path / 'out'), archive=str(path))
    return str(raised.value)

  def read_damaged():
    try:
      return read()
    except AssertionError as error:
      raise ValueError(str(error)) from None

  found = outcomes(path, 97 if long else 4999, read_damaged)
  assert set(found) == {'named'}
  tally['flips and cuts of archives'] += found.total()


def annotations(folder):
  row = dict.fromkeys((column.name for column in tables.QUESTIONS), 0)
  lines = [
    {
      **row,
      'annotator': 'Ann',
      'image_key': key,
      'pruning_method': 'threshold',
      'pruning_fraction': 0.9,
      'is_blind': 1,
    }
    for key in ('k0', 'k1')
  ]
  names = tables.ANNOTATIONS.columns
  return '\n'.join(
    [
      ','.join(column.name for column in names),
      *(','.join(str(line[c.name]) for c in names) for line in lines),
      '',
    ]
  )


def networks(folder):
  for name in ('a.tflite', 'b.tflite'):
    (folder / name).touch()
  return (
    'file,pruning_method,fraction_pruned,replicate\n'
    'a.tflite,int8,0.0,0\nb.tflite,int8,0.0,1\n'
  )


BY_HAND = {
  'answers': (
    annotations,
    lambda path: csvs.read(tables.ANNOTATIONS, path).to_dict('list'),
  ),
  'groups': (
    lambda folder: 'image_key,group\nk0,a\nk1,b\n',
    lambda path: csvs.read(tables.GROUPS, path).to_dict('list'),
  ),
  'classes': (
    lambda folder: 'class_id,class_name\n0,cat\n1,dog\n2,newt\n',
    lambda path: class_names.read(path, described({})),
  ),
  'networks': (networks, member_paths.read_list),
  'network': (
    lambda folder: json.dumps({'format': 1, **GOOD}),
    network_files.read,
  ),
}
# Of these a flip changes nothing unnoticed: the data set says the same.
COMPARED = ('classes',)


@pytest.mark.parametrize('kind', BY_HAND)
def test_what_people_write_by_hand(tmp_path, tally, long, kind):
  """It has no checksum: a letter or digit that becomes another one passes.

  Unless it is compared with something, or leads nowhere: no flip passes for
  another number of rows, and none ends in anything but a sentence.
  """
  write, read_file = BY_HAND[kind]
  path = tmp_path / f'{kind}.csv'
  path.write_text(write(tmp_path))
  found = outcomes(path, 1 if long else 9, lambda: read_file(str(path)))
  assert found['named'] > 0.3 * found.total(), found
  if kind in COMPARED:
    assert not found['other']
  tally['flips and cuts of files written by hand'] += found.total()
  tally['of which pass for another letter or digit'] += found['other']
