"""CIFAR-10 and CIFAR-100 from their archives in the binary form.

An image is a byte for its class (in CIFAR-100 one for its superclass before
it) and planes of 32x32 bytes of red, green and blue. The archives of pickles
hold the same images, but whoever opens a pickle runs what it says.
"""

import gzip
import hashlib
import io
import tarfile
import urllib.request
import zlib
from collections.abc import Mapping

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from save_checkpoint import image_sources, source_facts
from utils import storage


def fetch(archive: source_facts.Archive, folder: str) -> str:
  """Downloads an archive, unless it lies there; returns its path.

  Raises:
    ValueError: what came is another file.
    OSError: nothing came.
  """
  path = storage.within(folder, archive.name)
  if not storage.exists(path):
    logging.info('Fetching %s', archive.url)
    try:
      with urllib.request.urlopen(archive.url) as response:
        content = response.read()
    except OSError as error:
      raise OSError(
        f'{archive.url} cannot be fetched ({error}): name a copy by --archive'
      ) from None
    _check_md5(archive, content, archive.url)
    storage.write_complete(path, content)
  return path


def read(
  archive: source_facts.Archive, path: str
) -> dict[str, list[image_sources.Picture]]:
  """Lists the images of an archive by split.

  Args:
    archive: what it should be.
    path: the archive, or the folder that it unpacks to.

  Returns:
    Split -> images as PNGs. A key is the place in the archive: train/00000 is
    the first image of the first file, test/00000 that of the test file.

  Raises:
    FileNotFoundError: it, or one of its files, is missing.
    ValueError: it is of the other form, or damaged; names the file.
  """
  if not storage.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist (--archive){storage.nearest(path)}'
    )
  if epath.Path(path).is_dir():
    files = _files_of_folder(archive, path)
  else:
    files = _files_of_tar(archive, path)
  names = _class_names(files[archive.names], f'{path}, {archive.names}')
  pictures = {}
  for split, counts in archive.files.items():
    word = 'train' if split == 'train' else 'test'
    pictures[split] = [
      image_sources.Picture(
        f'{word}/{number:05d}',
        names[label],
        data=image_sources.encoded(Image.fromarray(pixels), 'PNG'),
      )
      for number, (label, pixels) in enumerate(
        image
        for file, count in counts.items()
        for image in zip(
          *_images(
            files[file],
            count,
            archive.label_bytes,
            len(names),
            f'{path}, {file}',
          ),
          strict=True,
        )
      )
    ]
  return pictures


def _wanted(archive: source_facts.Archive) -> list[str]:
  """The names of the files that are read."""
  return [name for of in archive.files.values() for name in of] + [
    archive.names
  ]


def _check_md5(
  archive: source_facts.Archive, content: bytes, where: str
) -> None:
  # It tells whether a file is whole; its authors publish no better one.
  found = hashlib.md5(content, usedforsecurity=False).hexdigest()
  if found != archive.md5:
    raise ValueError(
      f'{where} has {len(content)} bytes and the MD5 {found}, wanted '
      f'{archive.md5}: it is cut off, changed, or not {archive.name}'
    )


def _refuse_pickles(
  archive: source_facts.Archive, present: Mapping[str, object], path: str
) -> None:
  """Says of an archive of pickles why it is not read."""
  pickled = sorted(set(archive.pickles) & set(present))
  if pickled:
    raise ValueError(
      f'{path} holds {pickled[0]}, a pickle, and opening one runs whatever it '
      f'says: wanted the binary form, {archive.name}'
    )


def _files_of_folder(
  archive: source_facts.Archive, path: str
) -> dict[str, bytes]:
  folder = epath.Path(path)
  if (folder / archive.folder).is_dir():
    folder /= archive.folder
  present = {p.name: p for p in folder.iterdir() if not p.is_dir()}
  _refuse_pickles(archive, present, str(folder))
  missing = [name for name in _wanted(archive) if name not in present]
  if missing:
    raise FileNotFoundError(
      f'{folder} has no {missing[0]}, wanted the files of {archive.name}'
      f'{storage.nearest(str(folder))}'
    )
  return {name: present[name].read_bytes() for name in _wanted(archive)}


def _files_of_tar(archive: source_facts.Archive, path: str) -> dict[str, bytes]:
  content = epath.Path(path).read_bytes()
  files = {}
  try:
    with tarfile.open(fileobj=io.BytesIO(content), mode='r:gz') as tar:
      for member in tar:
        name = member.name.rsplit('/', 1)[-1]
        if not member.isfile():
          continue
        _refuse_pickles(archive, {name: member}, path)
        if name in _wanted(archive):
          file = tar.extractfile(member)
          assert file is not None  # as of any regular file
          files[name] = file.read()
  except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error):
    pass  # the checksum says so
  _check_md5(archive, content, path)
  return files


def _class_names(content: bytes, where: str) -> list[str]:
  names = content.decode(errors='replace').split()
  # So that the classes in sorted order, as all sources have them, are those of
  # the labels in the archive.
  if not names or names != sorted(set(names)):
    raise ValueError(
      f'{where}: the classes are {", ".join(names[:5])}..., wanted names in '
      'alphabetical order, as published'
    )
  return names


def _images(
  content: bytes, count: int, label_bytes: int, num_classes: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
  """Labels [count] and pixels [count, 32, 32, 3] uint8 of a file."""
  size = label_bytes + source_facts.PIXEL_BYTES
  if len(content) != count * size:
    raise ValueError(
      f'{where} has {len(content)} bytes, wanted {count} images of {size}'
    )
  rows = np.frombuffer(content, np.uint8).reshape(count, size)
  labels = rows[:, label_bytes - 1]
  if labels.max() >= num_classes:
    raise ValueError(
      f'{where}: image {int(labels.argmax())} has the label {labels.max()}, '
      f'wanted at most {num_classes - 1}'
    )
  planes = rows[:, label_bytes:].reshape(count, 3, 32, 32)
  return labels, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
