"""Images in folders, one for each class, as ImageNet-C and -A come.

The authors' archives unpack to <wnid>/<image>. A folder's class is that of the
wnid in the description of the clean data set, whatever the order of the
folders, and however few of the classes there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath, epy

from utils import data_input, digests, image_records, paths, preprocessing

with epy.lazy_imports():
  import tensorflow as tf

_SUFFIXES = ('.jpeg', '.jpg', '.png')


def has_class_folders(folder: str) -> bool:
  """Whether there are folders, and no shard of TFRecords beside them."""
  found = [
    path
    for path in epath.Path(folder).iterdir()
    if not path.name.startswith('.')
  ]
  return not any(paths.split_of_shard(path.name) for path in found) and any(
    path.is_dir() for path in found
  )


def digest(folder: str) -> str:
  """Of the names and sizes of all images in the folders of classes.

  Of what they hold it would take as long as reading them; an image that was
  encoded anew has another size.
  """
  return digests.of_json(
    sorted(
      [path.parent.name, path.name, path.stat().length]
      for of_class in epath.Path(folder).iterdir()
      if of_class.is_dir()
      for path in of_class.iterdir()
      if path.suffix.lower() in _SUFFIXES and not path.name.startswith('.')
    )
  )


def list_images(
  folder: str, class_keys: Sequence[str]
) -> list[tuple[str, str, int]]:
  """Lists the images, sorted by key.

  Args:
    folder: holds one folder for each of some classes.
    class_keys: [num_classes] names of such folders, in order of the class ids.

  Returns:
    Image key (<class key>/<file name>), path and class id of each.

  Raises:
    ValueError: a folder is not of the classes or empty, or there is a file
      that is no image, or one in no folder. Names it.
  """
  class_ids = {key: number for number, key in enumerate(class_keys)}
  images: list[tuple[str, str, int]] = []
  for path in epath.Path(folder).iterdir():
    if path.name.startswith('.'):
      continue
    if not path.is_dir():
      if path.suffix.lower() in _SUFFIXES:
        raise ValueError(f'{path} lies in no folder of a class')
      continue  # a README
    if path.name not in class_ids:
      raise ValueError(
        f'{path} is the folder of no class, wanted one of '
        f'{len(class_ids)} such as {", ".join(class_keys[:3])}'
      )
    number = len(images)
    for file in path.iterdir():
      if file.name.startswith('.'):
        continue
      if file.suffix.lower() not in _SUFFIXES:
        raise ValueError(f'{file} is no image, wanted *{", *".join(_SUFFIXES)}')
      images.append(
        (f'{path.name}/{file.name}', str(file), class_ids[path.name])
      )
    if len(images) == number:
      raise ValueError(f'{path} holds no image')
  if not images:
    raise ValueError(f'{folder} holds no image')
  return sorted(images)


class FolderReader:
  """Reads folders of images, as `data_input.OrderedReader` reads shards."""

  def __init__(
    self,
    records: image_records.ImageRecords,
    preprocessing_name: str,
    batch_size: int,
  ):
    """Keeps what all folders share.

    Args:
      records: the description of the images.
      preprocessing_name: 'legacy' or 'modern'.
      batch_size: images a batch.
    """
    text = tf.TensorSpec((None,), tf.string)

    @tf.function(input_signature=[text, text, tf.TensorSpec((None,), tf.int64)])
    def dataset(keys, files, labels):
      return data_input.ordered_batches(
        tf.data.Dataset.from_tensor_slices((keys, files, labels)),
        lambda key, file, label: (key, tf.io.read_file(file), label),
        records,
        preprocessing_name,
        batch_size,
      )

    self._dataset = dataset
    self._given = records, preprocessing_name, batch_size

  def __reduce__(self) -> tuple:
    return FolderReader, self._given  # Other processes trace anew.

  def read(
    self, path: str, records: image_records.ImageRecords
  ) -> Iterator[tuple[list[str], np.ndarray, tf.Tensor]]:
    """The batches of a folder.

    Args:
      path: the folder.
      records: the description of its images.

    Returns:
      As `data_input.read_ordered` yields them.

    Raises:
      ValueError: as `list_images`, or an image cannot be decoded; names it.
    """
    images = list_images(path, records.class_keys)
    keys, files, labels = zip(*images, strict=True)

    def find_fault():
      for file in files:
        read_image(file)

    batches = self._dataset(
      tf.constant(keys), tf.constant(files), tf.constant(labels, tf.int64)
    )
    return data_input.read_ordered(batches, path, records, find_fault)


def read_image(file: str) -> tf.Tensor:
  """Reads [height, width, 3] uint8.

  Raises:
    ValueError: the file is no complete JPEG or PNG; names it.
  """
  try:
    return preprocessing.decode(tf.io.read_file(file))
  except tf.errors.OpError as error:
    raise ValueError(
      f'{file} is not a complete JPEG or PNG: {error.message}'
    ) from None
