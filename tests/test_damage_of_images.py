"""Damaged and hostile images: named, or provably without effect."""

import io
import os
import tarfile

import pytest
import tensorflow as tf

from pie_dataset_gen import (
  gallery_images,
)
from robustness_tests import (
  image_folders,
)
from save_checkpoint import build_image_data
from tests.damage import bomb, data_set, fuzz, mutated, outcomes, picture
from utils import image_records, preprocessing

BOMBS = (
  ('JPEG', 60_000, 60_000),
  ('JPEG', 11_600, 11_600),
  # The shorter side becomes resize_size, the longer one what it has to.
  ('JPEG', 8, 1025),
  ('PNG', 2**20, 1),
  ('PNG', 8, 0),
  ('PNG', 60_000, 60_000),
  ('PNG', 2**31, 1),
  ('PNG', 2**31, 2**31),
  ('PNG', 2**32 - 1, 2**32 - 1),
  ('PNG', 1, 2**27 + 1),
)


@pytest.mark.parametrize(('form', 'height', 'width'), BOMBS)
def test_absurd_sizes_of_images_are_refused_unread(form, height, width):
  """Eagerly and in a graph, of which pipelines consist."""
  encoded = tf.constant(bomb(form, height, width))
  for function in (preprocessing.decode, tf.function(preprocessing.decode)):
    with pytest.raises(
      tf.errors.InvalidArgumentError, match='too large|too narrow'
    ):
      function(encoded)


@pytest.mark.parametrize('archive', [False, True])
@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_the_builder_refuses_absurd_sizes(tmp_path, archive, form):
  folder = tmp_path / 'images'
  for name, data in (('a', picture(form)), ('b', bomb(form, 12_000, 12_000))):
    (folder / name).mkdir(parents=True)
    (folder / name / f'0.{form.lower()}').write_bytes(data)
  source = folder
  if archive:
    source = tmp_path / 'images.tar'
    with tarfile.open(source, 'w') as tar:
      tar.add(folder, arcname='.')
  with pytest.raises(ValueError, match=rf'b/0\.{form.lower()}.*too large'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(source)
    )
  assert not (tmp_path / 'out' / 'image_records.json').exists()


def test_the_builder_refuses_files_larger_than_memory(tmp_path):
  source = tmp_path / 'images'
  for name in 'ab':
    (source / name).mkdir(parents=True)
    (source / name / '0.png').write_bytes(picture('PNG'))
  os.truncate(
    source / 'a' / '0.png', 2**36
  )  # a hole, which takes no room on the disk
  with pytest.raises(ValueError, match=r'a/0\.png\) has 68719476736 bytes'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(source)
    )
  # A tar that only says so ends too soon.
  member = tarfile.TarInfo('a/0.png')
  member.size = 2**42
  path = tmp_path / 'images.tar'
  path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
  with pytest.raises(ValueError, match=r'images\.tar is .* unexpected end'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(path)
    )


def test_folders_of_images_name_an_absurd_size(tmp_path):
  for name, data in (('a', picture('PNG')), ('b', bomb('PNG', 2**31, 2**31))):
    (tmp_path / name).mkdir()
    (tmp_path / name / '0.png').write_bytes(data)
  records = image_records.ImageRecords(
    'pets', ('a', 'b'), class_keys=('a', 'b'), image_size=8, resize_size=8
  )
  reader = image_folders.FolderReader(records, 'legacy', 4)
  with pytest.raises(ValueError, match=r'b/0\.png is not .*too large'):
    list(reader.read(str(tmp_path), records))


def test_a_tar_writes_nothing_outside_of_the_output_folder(tmp_path):
  path = tmp_path / 'in' / 'images.tar'
  path.parent.mkdir()
  names = ('../../n01/0.png', '/n02/0.png', 'n02/../n01/1.png')
  with tarfile.open(path, 'w') as tar:
    for name in names:
      member = tarfile.TarInfo(name)
      member.size = len(picture('PNG'))
      tar.addfile(member, io.BytesIO(picture('PNG')))
  out = tmp_path / 'deep' / 'out'
  build_image_data.run('folders', str(out), train_directory=str(path))
  assert sorted(os.listdir(tmp_path)) == ['deep', 'in']
  assert os.listdir(tmp_path / 'deep') == ['out']
  assert image_records.read(str(out)).class_keys == ('n01', 'n02')
  for name in ('../0.png', '=1+1/0.png', 'n\n/0.png'):
    with tarfile.open(path, 'a') as tar:
      member = tarfile.TarInfo(name)
      member.size = len(picture('PNG'))
      tar.addfile(member, io.BytesIO(picture('PNG')))
    bad = str(tmp_path / 'deep' / 'bad')
    with pytest.raises(ValueError, match='class_'):
      build_image_data.run('folders', bad, train_directory=str(path))
    assert os.listdir(tmp_path / 'deep') == ['out']


@pytest.mark.parametrize(
  'encoded',
  [
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n',
    picture('GIF'),
    bomb('PNG', 60_000, 60_000),
    bomb('JPEG', 60_000, 60_000),
  ],
)
def test_the_gallery_opens_no_other_image(tmp_path, encoded):
  """Pillow hands an EPS to a program, which runs what it says."""
  (shard,) = data_set(str(tmp_path / 'data'), lambda i: encoded)
  records = image_records.read(str(tmp_path / 'data'))
  with pytest.raises(ValueError, match=f"{shard}, record 0, key 'k0'"):
    gallery_images.write_of_shard(
      shard, {'k0'}, records, str(tmp_path / 'page'), (32, 16)
    )
  assert not (tmp_path / 'page').exists()


def test_every_flip_of_a_png_is_noticed(tmp_path, long):
  path = tmp_path / '0.png'
  path.write_bytes(picture('PNG'))

  def read():
    return image_folders.read_image(str(path)).numpy().tolist()

  found = outcomes(path, 1 if long else 5, read)
  assert found['named'] and not found['other']


def test_flips_of_a_jpeg_that_decodes_cannot_be_noticed(tmp_path, long):
  """It has no checksum: in TFRecords it has theirs, in a folder none."""
  path = tmp_path / '0.jpg'
  path.write_bytes(picture('JPEG'))

  def read():
    return image_folders.read_image(str(path)).numpy().tolist()

  found = outcomes(path, 1 if long else 5, read)
  assert found['named'] > 0.1 * found.total()


def test_fuzzed_images(long):
  seeds = [picture('PNG'), picture('JPEG'), bomb('PNG', 2**31, 3)]

  def parse(data):
    try:
      preprocessing.decode(tf.constant(data))
    except tf.errors.OpError as error:
      raise ValueError from error

  fuzz(mutated(*seeds), parse, 10_000 if long else 150)
