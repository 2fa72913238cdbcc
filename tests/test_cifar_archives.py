"""Laws of CIFAR's archives, on small ones made to their format."""

import dataclasses
import hashlib
import io
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from save_checkpoint import build_image_data, cifar_archives, source_facts
from utils import image_records, paths, shard_files, tfrecords

NAMES = {'cifar10': ('bee', 'cat', 'dog'), 'cifar100': ('ape', 'bat', 'cow')}
IMAGES = 4


def contents(source):
  """Name -> bytes of the files; labels and pixels of each by split."""
  archive = source_facts.SOURCES[source].archive
  rng = np.random.default_rng(0)
  files, truth = {}, {}
  for split, names in archive.files.items():
    truth[split] = []
    for name in names:
      files[name] = b''
      for number in range(IMAGES):
        label = (2 * number + 1) % len(NAMES[source])
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        truth[split].append((label, pixels))
        # A superclass, of another range, stands before CIFAR-100's label.
        files[name] += bytes([200] * (archive.label_bytes - 1) + [label])
        for channel in range(3):
          files[name] += pixels[..., channel].tobytes()
  files[archive.names] = ('\n'.join(NAMES[source]) + '\n\n').encode()
  return files, truth


def tar_gz(files, folder):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w:gz') as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(f'{folder}/{name}')
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return file.getvalue()


@pytest.fixture(params=['cifar10', 'cifar100'])
def small(request, monkeypatch, tmp_path):
  """A source whose archive is small; its path, files and truth."""
  source = request.param
  row = source_facts.SOURCES[source]
  files, truth = contents(source)
  content = tar_gz(files, row.archive.folder)
  path = tmp_path / row.archive.name
  path.write_bytes(content)
  archive = dataclasses.replace(
    row.archive,
    url=f'file://{path}',
    md5=hashlib.md5(content).hexdigest(),
    files={
      split: dict.fromkeys(names, IMAGES)
      for split, names in row.archive.files.items()
    },
  )
  row = dataclasses.replace(row, archive=archive)
  monkeypatch.setitem(source_facts.SOURCES, source, row)
  return source, archive, path, files, truth


def read(folder, mode):
  shards = image_records.find_shards(folder, mode)
  dialect = tfrecords.detect(shards)
  records = tfrecords.describe(shards)
  return {
    example.key: example
    for path in shards
    for index, serialized in enumerate(shard_files.read_records(path))
    for example in [
      tfrecords.parse_example(serialized, dialect, records, path, index)
    ]
  }


def test_every_image_is_recorded_with_its_pixels_and_label(small, tmp_path):
  source, _, path, _, truth = small
  out = str(tmp_path / 'out')
  records = build_image_data.run(source, out, archive=str(path))
  assert records.class_names == records.class_keys == NAMES[source]
  assert (records.name, records.image_size, records.crop_padding) == (
    source,
    32,
    4,
  )
  for mode, split, word in (
    ('train', 'train', 'train'),
    ('eval', 'validation', 'test'),
  ):
    found = read(out, mode)
    assert sorted(found) == [
      f'{word}/{i:05d}' for i in range(len(truth[split]))
    ]
    for number, (label, pixels) in enumerate(truth[split]):
      example = found[f'{word}/{number:05d}']
      assert example.label == label
      with Image.open(io.BytesIO(example.encoded)) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_the_archive_is_fetched_once_and_gives_the_same_files(small, tmp_path):
  source, archive, path, files, _ = small
  folder = tmp_path / 'unpacked' / archive.folder
  folder.mkdir(parents=True)
  for name, data in files.items():
    (folder / name).write_bytes(data)
  for name, given in (
    ('given', path),
    ('fetched', ''),
    ('folder', folder),
    ('above', folder.parent),
  ):
    out = tmp_path / name / 'data'
    build_image_data.run(source, str(out), archive=str(given))
    shards = {p.name: p.read_bytes() for p in out.glob('*-of-*')}
    if name == 'given':
      wanted = shards
    assert shards == wanted
  path.unlink()
  build_image_data.run(source, str(tmp_path / 'fetched' / 'data'))


def test_what_was_fetched_is_checked_before_it_is_kept(small, tmp_path):
  source, archive, path, _, _ = small
  out = tmp_path / 'out'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'file://.*wanted {archive.md5}'):
    build_image_data.run(source, str(out))
  path.unlink()
  with pytest.raises(OSError, match='cannot be fetched .*--archive'):
    build_image_data.run(source, str(out))
  assert not out.exists()


@pytest.mark.parametrize('kept', [0, 100, 0.5, -1])
def test_an_archive_that_is_not_whole_is_named(small, tmp_path, kept):
  source, archive, path, _, _ = small
  content = path.read_bytes()
  if isinstance(kept, float):
    kept = int(len(content) * kept)
  path.write_bytes(content[:kept])
  with pytest.raises(ValueError, match=f'{path} has .*wanted {archive.md5}'):
    build_image_data.run(source, str(tmp_path / 'out'), archive=str(path))
  assert not (tmp_path / 'out').exists()


def test_pickles_are_refused_unopened(small, tmp_path):
  source, archive, _, _, _ = small
  bomb = pickle.dumps({'data': 0})
  files = dict.fromkeys(archive.pickles, bomb)
  path = tmp_path / 'python.tar.gz'
  path.write_bytes(tar_gz(files, 'x'))
  folder = tmp_path / 'folder'
  folder.mkdir()
  for name, data in files.items():
    (folder / name).write_bytes(data)
  for given in (path, folder):
    with pytest.raises(ValueError, match=f'{given} holds .*, a pickle, .*runs'):
      build_image_data.run(source, str(tmp_path / 'out'), archive=str(given))


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    (lambda data: data[:-1], r'bytes, wanted 4 images of 307[34]'),
    (lambda data: data + b'\0', r'bytes, wanted 4 images of 307[34]'),
    (lambda data: b'\3' * len(data), 'image 0 has the label 3, wanted at most'),
  ],
)
def test_wrong_files_are_named(small, tmp_path, fault, message):
  source, archive, _, files, _ = small
  folder = tmp_path / 'folder'
  folder.mkdir()
  name = list(archive.files['validation'])[0]
  for each, data in files.items():
    (folder / each).write_bytes(fault(data) if each == name else data)
  with pytest.raises(ValueError, match=f'{folder}, {name}.*{message}'):
    build_image_data.run(source, str(tmp_path / 'out'), archive=str(folder))
  (folder / name).write_bytes(files[name])
  (folder / archive.names).write_text('b\na\nc\n')
  with pytest.raises(ValueError, match=f'{archive.names}: .*b, a, c'):
    build_image_data.run(source, str(tmp_path / 'out'), archive=str(folder))
  (folder / archive.names).unlink()
  with pytest.raises(FileNotFoundError, match=f'has no {archive.names}'):
    build_image_data.run(source, str(tmp_path / 'out'), archive=str(folder))
  assert not pathlib.Path(paths.image_records(tmp_path / 'out')).exists()


@pytest.mark.parametrize(
  ('source', 'options', 'message'),
  [
    ('digits', {'archive': 'x'}, "source=digits reads no archive, got 'x'"),
    ('cifar10', {'train_directory': 'x'}, 'source=cifar10 reads no directory'),
    ('cifar10', {'validation_fraction': 0.5}, 'wanted folders'),
  ],
)
def test_flags_of_other_sources_are_refused(source, options, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    build_image_data.run(source, str(tmp_path / 'out'), **options)


def test_an_absent_archive_is_named(tmp_path):
  archive = source_facts.SOURCES['cifar10'].archive
  with pytest.raises(FileNotFoundError, match='absent does not exist'):
    cifar_archives.read(archive, str(tmp_path / 'absent'))
