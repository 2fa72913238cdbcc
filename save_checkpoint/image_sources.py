"""Where the images of a data set come from: digits, folders, tars.

Archives of CIFAR are read by cifar_archives.

Lists images without reading them: an image is a piece of a file, so one in a
tar in a tar costs no more than one in a folder, and nothing is unpacked.
"""

import dataclasses
import io
import math
import statistics
import tarfile
from collections.abc import Hashable, Iterator, Sequence
from typing import IO, TypeVar

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from save_checkpoint import source_facts
from utils import digests, storage

SPLITS = ('train', 'validation')
# What systems put into folders of images.
_SYSTEM_FILES = ('thumbs.db', 'desktop.ini', 'icon\r')
DIGITS_TRAIN = 900
# What folders of evaluation images are called.
_VALIDATION = ('test', 'val', 'validation')
# Images whose sizes are looked at.
_LOOKED_AT = 100
_Thing = TypeVar('_Thing', bound=Hashable)


@dataclasses.dataclass(frozen=True, slots=True)  # a million of them
class Picture:
  """An image that is going to be a record.

  Attributes:
    key: its identity in all tables.
    class_key: the name of its class's folder.
    path: the file that holds it; a tar, maybe.
    offset: where it begins in that file, in bytes.
    size: its length in bytes.
    data: its bytes, for an image that comes from no file.
  """

  key: str
  class_key: str
  path: str = ''
  offset: int = 0
  size: int = 0
  data: bytes = b''

  @property
  def where(self) -> str:
    """Its place, for messages."""
    return f'{self.path} ({self.key})' if self.path else self.key

  def read(self) -> bytes:
    """Its bytes."""
    if self.data:
      return self.data
    with epath.Path(self.path).open('rb') as file:
      file.seek(self.offset)
      return file.read(self.size)


def digits() -> dict[str, list[Picture]]:
  """Scikit-learn's digits as 32x32 RGB PNGs: 900 train, 897 validation."""
  from sklearn import datasets  # a second, which only this source pays

  bunch = datasets.load_digits()
  order = sorted(
    range(len(bunch.target)),
    key=lambda i: (int(bunch.target[i]), digests.of_bytes(f'digits/{i:04d}')),
  )
  train = _evenly(order, DIGITS_TRAIN)
  pictures: dict[str, list[Picture]] = {name: [] for name in SPLITS}
  for i, (pixels, label) in enumerate(
    zip(bunch.images, bunch.target, strict=True)
  ):
    # Ink is 0..16, of which 16 is white on the 0..255 scale.
    grey = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
    large = grey.resize((32, 32), Image.Resampling.BICUBIC).convert('RGB')
    pictures['train' if i in train else 'validation'].append(
      Picture(f'digits/{i:04d}', str(label), data=encoded(large, 'PNG'))
    )
  return pictures


def _evenly(order: Sequence[_Thing], number: int) -> set[_Thing]:
  """Some of a sequence, evenly along it.

  In the order of classes, each is then split in the same proportion.
  """
  return {
    one
    for rank, one in enumerate(order)
    if rank * number // len(order) < (rank + 1) * number // len(order)
  }


def split_off(
  pictures: Sequence[Picture], fraction: float
) -> dict[str, list[Picture]]:
  """Splits images into those for training and a fraction for evaluation.

  Of every class about the same fraction, chosen by a hash of the keys.

  Raises:
    ValueError: the fraction leaves one of the splits empty.
  """
  order = sorted(
    (picture.class_key, digests.of_bytes(f'split/{picture.key}'), picture.key)
    for picture in pictures
  )
  number = round(fraction * len(order))
  if not 0 < number < len(order):
    raise ValueError(
      f'--validation_fraction={fraction} of {len(order)} images are {number}, '
      'wanted some of them, and some for training'
    )
  chosen = {key for _, _, key in _evenly(order, number)}
  splits: dict[str, list[Picture]] = {name: [] for name in SPLITS}
  for picture in pictures:
    splits['validation' if picture.key in chosen else 'train'].append(picture)
  return splits


def survey(folder: str) -> tuple[str, str, int, int]:
  """What run.sh needs to know of a folder of images to choose a recipe.

  Args:
    folder: holds train and test (or val, validation), each of them as
      `find_pictures` reads it, or is itself one of these.

  Returns:
    The folder of the training images, that of the evaluation images or '', the
    number of the former, and the median of their shorter sides in pixels.

  Raises:
    FileNotFoundError, ValueError: as `find_pictures`; an image cannot be read.
  """
  train, validation = folder, ''
  for name in _VALIDATION:
    paths = [epath.Path(folder) / one for one in ('train', name)]
    if all(path.is_dir() for path in paths):
      train, validation = map(str, paths)
      break
  pictures = find_pictures(train)
  sides = []
  for picture in pictures[:: math.ceil(len(pictures) / _LOOKED_AT)]:
    try:
      with Image.open(io.BytesIO(picture.read())) as image:
        sides.append(min(image.size))
    except (OSError, SyntaxError, ValueError) as error:
      raise ValueError(f'{picture.where} is no image: {error}') from None
  return train, validation, len(pictures), round(statistics.median(sides))


def encoded(picture: Image.Image, form: str, **options) -> bytes:
  """An image's bytes in a format ('PNG', 'JPEG')."""
  file = io.BytesIO()
  picture.save(file, form, **options)
  return file.getvalue()


def list_pictures(source: str) -> list[Picture]:
  """Lists all images of a folder or tar, in folders or not, sorted by key.

  Raises:
    ValueError: it holds no image.
    FileNotFoundError: it is not there.
  """
  if not storage.exists(source):
    raise FileNotFoundError(f'{source} does not exist')
  found = list(_walk(epath.Path(source)))
  if not found:
    raise ValueError(f'{source} holds no image')
  for picture in found:
    try:
      picture.key.encode()
    except UnicodeEncodeError:
      raise ValueError(
        f'{source} holds {picture.key!r}, whose name is not UTF-8'
      ) from None
  return sorted(found, key=lambda picture: picture.key)


def find_pictures(source: str, labels: str = '') -> list[Picture]:
  """Lists the images of a split, sorted by key.

  Args:
    source: a folder or a tar, as in this file's docstring.
    labels: a list of classes for images that lie in no class's folder: one
      class a line in the order of file names, or `<file name> <class>`.

  Raises:
    ValueError: it holds no image, or files where only folders are wanted.
    FileNotFoundError: it is not there.
  """
  found = list_pictures(source)
  loose = [picture for picture in found if not picture.class_key]
  if labels:
    if len(loose) < len(found):
      raise ValueError(
        f'{source} has folders of classes, so {labels} is not wanted'
      )
    return _label(found, labels)
  if loose:
    raise ValueError(
      f'{source} holds {loose[0].key}, which lies in no folder of a class: '
      'wanted <class>/<image>, or a list of labels'
    )
  return found


def _is_hidden(name: str) -> bool:
  hidden = name.startswith('.') or name.lower() in _SYSTEM_FILES
  if hidden:
    logging.warning('Left out, of the system or hidden: %s', name)
  return hidden


def _walk(source: epath.Path) -> Iterator[Picture]:
  """Yields every file below a folder or in a tar, in any order."""
  if not source.is_dir():
    with source.open('rb') as file:
      yield from _walk_tar(str(source), file, 0, '')
    return
  for entry in source.iterdir():
    if _is_hidden(entry.name):
      continue
    if entry.is_dir():
      for path in entry.iterdir():
        if _is_hidden(path.name):
          continue
        if path.is_dir():
          raise ValueError(f'{path} is a folder in the folder of a class')
        yield Picture(
          f'{entry.name}/{path.name}',
          entry.name,
          str(path),
          size=path.stat().length,
        )
    elif entry.suffix == '.tar':
      with entry.open('rb') as file:
        yield from _walk_tar(str(entry), file, 0, entry.stem)
    else:
      yield Picture(entry.name, '', str(entry), size=entry.stat().length)


def _walk_tar(
  path: str, file: IO[bytes], begin: int, class_key: str
) -> Iterator[Picture]:
  """Yields the files in a tar, and in the tars in it.

  Args:
    path: the outermost tar.
    file: the tar to read.
    begin: where that begins in the outermost one, in bytes.
    class_key: what all images in it are, or '' to go by their folders.
  """
  try:
    with tarfile.open(fileobj=file, mode='r:') as tar:
      for member in tar:
        *folders, name = member.name.removeprefix('./').split('/')
        offset = begin + member.offset_data
        if member.isdir() or _is_hidden(name):
          continue
        if not member.isfile():
          raise ValueError(f'{path}: {member.name} is a link, wanted images')
        if name.endswith('.tar') and not class_key:
          inner = tar.extractfile(member)
          assert inner is not None  # as of any regular file
          yield from _walk_tar(path, inner, offset, name.removesuffix('.tar'))
          continue
        of_class = class_key or (folders[-1] if folders else '')
        key = f'{of_class}/{name}' if of_class else name
        yield Picture(key, of_class, path, offset, member.size)
  except tarfile.TarError as error:
    raise ValueError(f'{path} is not an uncompressed tar: {error}') from None


def _read_lines(path: str) -> list[str]:
  try:
    text = epath.Path(path).read_text()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not text: {error}') from None
  return [line.strip() for line in text.splitlines() if line.strip()]


def _label(pictures: list[Picture], labels: str) -> list[Picture]:
  lines = _read_lines(labels)
  if len(lines) != len(pictures):
    raise ValueError(
      f'{labels} has {len(lines)} labels, wanted one for each of '
      f'{len(pictures)} images'
    )
  rows = [line.split() for line in lines]
  if all(len(row) == 1 for row in rows):
    classes = {p.key: row[0] for p, row in zip(pictures, rows, strict=True)}
  elif all(len(row) == 2 for row in rows):
    classes = dict(rows)
  else:
    raise ValueError(
      f'{labels}: wanted <class>, or <file name> <class>, in every line'
    )
  missing = [p.key for p in pictures if p.key not in classes]
  if missing:
    raise ValueError(
      f'{labels} has no label for {len(missing)} images, for example '
      f'{missing[0]}'
    )
  return [dataclasses.replace(p, class_key=classes[p.key]) for p in pictures]


def find_classes(
  pictures: dict[str, list[Picture]], labels_file: str = ''
) -> dict[str, str]:
  """Orders the classes.

  Args:
    pictures: split -> images.
    labels_file: the classes in their order, a line each: the folder's name and
      after a tab or space the class in words (or nothing); '' to take the
      folders of the first split, sorted.

  Returns:
    Folder's name -> the class in words, in order.

  Raises:
    ValueError: an image is of a class that is not among them, or the file
      names a class twice.
  """
  present = {
    split: {picture.class_key for picture in images}
    for split, images in pictures.items()
  }
  first = next(iter(present))
  everything = set().union(*present.values())
  classes = {}
  if labels_file:
    for line in _read_lines(labels_file):
      # A folder's name may hold spaces; then a tab ends it.
      name, words = line, ''
      if line not in everything:
        name, _, words = line.partition('\t' if '\t' in line else ' ')
      if name in classes:
        raise ValueError(f'{labels_file} names the class {name!r} twice')
      classes[name] = words.strip() or name
  else:
    classes = {name: name for name in sorted(present[first])}
  for split, names in present.items():
    unknown = sorted(names - set(classes))
    if unknown:
      raise ValueError(
        f'the {split} split has images of {len(unknown)} classes that '
        f'{labels_file or f"the {first} split"} does not have, for example '
        f'{unknown[0]!r}'
      )
    absent = sorted(set(classes) - names)
    if absent:
      logging.warning(
        'The %s split has no image of %d of %d classes, for example %r',
        split,
        len(absent),
        len(classes),
        absent[0],
      )
  return classes


def find_source(
  source: str,
  train_directory: str = '',
  validation_directory: str = '',
  validation_labels: str = '',
  validation_fraction: float = 0.0,
) -> dict[str, list[Picture]]:
  """Lists the images of a source by split; see build_image_data's docstring."""
  directories = {'train': train_directory, 'validation': validation_directory}
  if not source_facts.SOURCES[source].reads_directories:
    raise_unless_empty(source, *directories.values(), validation_labels)
    return digits()
  if validation_labels and not validation_directory:
    raise ValueError('--validation_labels without --validation_directory')
  check_directories(
    source, train_directory, validation_directory, validation_fraction
  )
  pictures = {}
  for split, directory in directories.items():
    if directory:
      labels = validation_labels if split == 'validation' else ''
      pictures[split] = find_pictures(directory, labels)
      logging.info('%s: %d images', directory, len(pictures[split]))
  if validation_fraction:
    return split_off(pictures['train'], validation_fraction)
  return pictures


def check_directories(
  source: str,
  train_directory: str,
  validation_directory: str,
  validation_fraction: float,
) -> None:
  """Raises ValueError for folders and a fraction that make no splits."""
  if train_directory and train_directory.rstrip('/') == (
    validation_directory.rstrip('/')
  ):
    raise ValueError(
      f'--train_directory and --validation_directory are both '
      f'{train_directory}: networks would be evaluated on the images that they '
      'were trained on; wanted two folders without a common image'
    )
  if validation_fraction and (validation_directory or not train_directory):
    raise ValueError(
      '--validation_fraction is of the images of --train_directory, without '
      '--validation_directory'
    )
  if not train_directory and not validation_directory:
    raise ValueError(
      f'--source={source} wants --train_directory, --validation_directory or '
      'both'
    )


def raise_unless_empty(source: str, *directories: str) -> None:
  """Raises ValueError for folders that a source does not read."""
  if any(directories):
    raise ValueError(
      f'--source={source} reads no directory, got '
      f'{list(filter(None, directories))}'
    )
