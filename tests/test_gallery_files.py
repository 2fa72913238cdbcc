"""Images of the page by key, from a folder or a tar."""

import io
import tarfile

import pytest
from PIL import Image

from pie_dataset_gen import gallery_files, gallery_images

SIZE = (20, 10)


def encoded(name):
  data = io.BytesIO()
  form = 'PNG' if name.lower().endswith('png') else 'JPEG'
  Image.new('RGB', SIZE, (len(name), 0, 0)).save(data, form)
  return data.getvalue()


def write(folder, names, *, as_tar):
  """A folder or a tar of images; returns its path."""
  if as_tar:
    path = folder / 'images.tar'
    with tarfile.open(path, 'w') as tar:
      for name in names:
        info = tarfile.TarInfo(f'./{name}')
        info.size = len(encoded(name))
        tar.addfile(info, io.BytesIO(encoded(name)))
    return str(path)
  for name in names:
    path = folder / 'images' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(name))
  return str(folder / 'images')


@pytest.mark.parametrize('as_tar', [False, True])
def test_an_image_lies_at_its_key_with_or_without_ending(tmp_path, as_tar):
  names = ['cat/1.png', 'cat/2.JPEG', 'dog/1.jpg', 'dog/1.txt', 'a.b.jpg']
  source = write(tmp_path, names, as_tar=as_tar)
  keys = {'cat/1', 'cat/2.JPEG', 'dog/1', 'a.b', 'dog/3', '../cat/1', '/etc'}
  found = {e.key: e for e in gallery_files.read(source, keys)}
  assert {key: e.encoded for key, e in found.items()} == {
    'cat/1': encoded('cat/1.png'),
    'cat/2.JPEG': encoded('cat/2.JPEG'),
    'dog/1': encoded('dog/1.jpg'),
    'a.b': encoded('a.b.jpg'),
  }
  assert all(e.label is None for e in found.values())
  pictures = gallery_images.write_pictures(
    found.values(), str(tmp_path / 'page'), large_size=64, small_size=16
  )
  for picture in pictures.values():
    assert (picture.width, picture.height) == SIZE
    assert (tmp_path / 'page' / picture.small).exists()


@pytest.mark.parametrize('as_tar', [False, True])
def test_what_is_not_there_is_named(tmp_path, as_tar):
  names = ['a/1.png', 'a/1.jpg']
  source = write(tmp_path, names, as_tar=as_tar)
  with pytest.raises(ValueError, match=r"'a/1.jpg', 'a/1.png'.*one file .*a/1"):
    list(gallery_files.read(source, {'a/1'}))
  with pytest.raises(FileNotFoundError, match=r"none of the 2 .* 'b'.*a/1.jpg"):
    list(gallery_files.read(source, {'b', 'c'}))
  with pytest.raises(FileNotFoundError, match='no folder or tar .*; .* holds'):
    list(gallery_files.read(f'{source}-other', {'b'}))


def test_no_tar_and_no_image_are_named(tmp_path):
  (tmp_path / 'x.tar').write_bytes(encoded('a.png'))
  with pytest.raises(ValueError, match='is not an uncompressed tar'):
    list(gallery_files.read(str(tmp_path / 'x.tar'), {'a'}))
  (tmp_path / 'a.png').write_bytes(b'%!PS')
  with pytest.raises(ValueError, match="a.png, key 'a': cannot identify"):
    gallery_images.write_pictures(
      gallery_files.read(str(tmp_path), {'a'}), str(tmp_path / 'page'), 64, 16
    )
