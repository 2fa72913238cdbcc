"""Corrupted images as arrays, as CIFAR-10-C and CIFAR-100-C come.

The authors' archives unpack to `<corruption>.npy`, uint8 of [5 * n, 32, 32, 3],
of which the first n images have severity 1 and the last n severity 5, and
`labels.npy`, [5 * n] class ids. The images are those of the test split in the
order of its archive, so that they are called as the clean ones of
`build_image_data --source=cifar10`. A part of an array is named like a folder:
`<corruption>.npy/<severity>`.
"""

from __future__ import annotations

import tokenize
from collections.abc import Iterator

import numpy as np
from etils import epath, epy

from utils import data_input, image_records

with epy.lazy_imports():
  import tensorflow as tf

SEVERITIES = (1, 2, 3, 4, 5)
_LABELS = 'labels.npy'
_SUFFIX = '.npy'
# A header is Python, of which the parser's own errors come through.
_OF_HEADERS = (OverflowError, SyntaxError, TypeError, tokenize.TokenError)


def find(folder: epath.Path) -> list[epath.Path]:
  """The arrays of images in a folder, sorted.

  Raises:
    FileNotFoundError: there are some, and no labels beside them.
  """
  found = sorted(
    path
    for path in folder.iterdir()
    if path.suffix == _SUFFIX and not path.name.startswith('.')
  )
  images = [path for path in found if path.name != _LABELS]
  if images and len(images) == len(found):
    raise FileNotFoundError(
      f'no {_LABELS} in {folder}, which holds {images[0].name}'
    )
  return images


def is_array(name: str) -> bool:
  """Whether a set is a part of an array."""
  return epath.Path(name).parent.suffix == _SUFFIX


def load(name: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Reads a part of an array.

  Args:
    name: `<corruption>.npy/<severity>`.
    num_classes: that the labels are of.

  Returns:
    Images [n, height, width, 3] uint8 and class ids [n] int64.

  Raises:
    ValueError: a file is no such array; names it.
  """
  path = epath.Path(name).parent
  images = _read(path)
  labels_path = path.parent / _LABELS
  labels = _read(labels_path)
  parts = len(SEVERITIES)
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
    raise ValueError(
      f'{path} is {images.dtype} of {images.shape}, wanted uint8 of '
      '(images, height, width, 3)'
    )
  if len(images) % parts or not len(images):
    raise ValueError(
      f'{path} has {len(images)} images, wanted {parts} severities of as many'
    )
  if labels.dtype.kind not in 'iu' or labels.shape != (len(images),):
    raise ValueError(
      f'{labels_path} is {labels.dtype} of {labels.shape}, wanted a whole '
      f'number for each of the {len(images)} images of {path.name}'
    )
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f'{labels_path} has labels from {labels.min()} to {labels.max()}, wanted '
      f'0 to {num_classes - 1}'
    )
  number = len(images) // parts
  begin = (int(epath.Path(name).name) - 1) * number
  own = slice(begin, begin + number)
  return np.array(images[own]), labels[own].astype(np.int64)


def _read(path: epath.Path) -> np.ndarray:
  """An array; a large local one stays on disk until it is looked at.

  NumPy opens no pickle unless it is told to.
  """
  try:
    if '://' not in str(path):
      return np.load(str(path), mmap_mode='r')
    with path.open('rb') as file:
      return np.load(file)
  except (EOFError, ValueError, *_OF_HEADERS) as error:
    raise ValueError(
      f'{path} is no complete array of numbers (pickles are not opened): '
      f'{error}'
    ) from None


class ArrayReader:
  """Reads parts of arrays, as `data_input.OrderedReader` reads shards."""

  def __init__(
    self,
    records: image_records.ImageRecords,
    preprocessing_name: str,
    batch_size: int,
  ):
    """Keeps how images are prepared.

    Args:
      records: the description of the images.
      preprocessing_name: 'legacy' or 'modern'.
      batch_size: images a batch.
    """
    self._preprocessing = preprocessing_name
    self._batch_size = batch_size
    self._records = records

  def read(
    self, path: str, records: image_records.ImageRecords
  ) -> Iterator[tuple[list[str], np.ndarray, tf.Tensor]]:
    """The batches of a part, as `data_input.read_ordered` yields them.

    Raises:
      ValueError: as `load`.
    """
    images, labels = load(path, records.num_classes)
    keys = [f'test/{number:05d}' for number in range(len(images))]
    batches = data_input.ordered_batches(
      tf.data.Dataset.from_tensor_slices((keys, images, labels)),
      # All that is read is an encoded image; this form loses nothing.
      lambda key, image, label: (key, tf.io.encode_png(image), label),
      self._records,
      self._preprocessing,
      self._batch_size,
    )
    return data_input.read_ordered(batches, path, records, lambda: None)
