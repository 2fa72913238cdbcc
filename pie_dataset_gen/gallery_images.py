"""The images of the gallery: as stored where a browser can show them, small.

Files are named by a checksum of the image key, so that no key, whatever it
holds, decides about a path. A record at a time is in memory for each thread.
"""

import concurrent.futures
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import PIL
from PIL import Image, ImageDraw

from utils import digests, image_records, storage, tfrecords

# What every browser shows as it is.
_SUFFIXES = {'JPEG': 'jpg', 'PNG': 'png', 'GIF': 'gif', 'WEBP': 'webp'}
_MODES = ('1', 'L', 'P', 'RGB', 'RGBA')
_ORIENTATION = 0x0112
_CHUNK = 64


class Example(NamedTuple):
  """An image as it is stored.

  Attributes:
    key: of the image.
    encoded: JPEG or PNG.
    label: class id, from 0, where what holds the image says it.
    where: what holds it, for messages.
  """

  key: str
  encoded: bytes
  label: int | None
  where: str


class Picture(NamedTuple):
  """An image of the page.

  Attributes:
    label: class id where the image is stored, from 0, if it says it.
    large: path from the page's folder.
    small: path of the thumbnail; that of the large image where it is small.
    width: of the image as stored, in pixels.
    height: likewise.
  """

  label: int | None
  large: str
  small: str
  width: int
  height: int


def write_pictures(
  examples: Iterable[Example],
  folder: str,
  large_size: int,
  small_size: int,
) -> dict[str, Picture]:
  """Writes images.

  Args:
    examples: the images, in any order.
    folder: of the page.
    large_size: longest side in pixels; larger images are scaled down to it.
    small_size: the same for thumbnails.

  Returns:
    The pictures by image key.

  Raises:
    ValueError: an image cannot be decoded; names it.
  """
  pictures: dict[str, Picture] = {}

  def write(example):
    key, encoded, label, where = example
    try:
      return key, _write(key, encoded, label, folder, large_size, small_size)
    except (
      PIL.UnidentifiedImageError,
      Image.DecompressionBombError,
      OSError,
      SyntaxError,
      ValueError,
    ) as error:
      raise ValueError(f'{where}, key {key!r}: {error}') from None

  examples = iter(examples)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    # Not all at once: the encoded images of a shard may be gigabytes.
    while chunk := list(itertools.islice(examples, _CHUNK)):
      pictures.update(pool.map(write, chunk))
  return pictures


def write_of_shard(
  shard: str,
  keys: set[str],
  records: image_records.ImageRecords,
  folder: str,
  sizes: tuple[int, int],
) -> dict[str, Picture]:
  """Writes images of a shard of TFRecords.

  Args:
    shard: its path.
    keys: of the images.
    records: the shard's description.
    folder: as of `write_pictures`.
    sizes: large and small, likewise.

  Raises:
    ValueError: the shard is damaged, lacks an image or has one twice, or an
      image cannot be decoded; names it.
  """
  return write_pictures(read_shard(shard, records, keys), folder, *sizes)


def read_shard(
  shard: str, records: image_records.ImageRecords, keys: set[str]
) -> Iterator[Example]:
  """Yields images of a shard; as of `write_of_shard`."""
  seen: set[str] = set()
  for index, example in enumerate(tfrecords.read_examples(shard, records)):
    if example.key in seen:
      raise ValueError(f'{shard} holds the image {example.key!r} twice')
    if example.key in keys:
      seen.add(example.key)
      where = f'{shard}, record {index}'
      yield Example(example.key, example.encoded, example.label, where)
  missing = sorted(keys - seen)
  if missing:
    raise ValueError(
      f'{shard} lacks {len(missing)} images that the modal labels have, '
      f'for example {missing[:3]}'
    )


def write_stand_in(folder: str, size: int) -> Picture:
  """Writes a picture for images that are missing: a crossed square."""
  image = Image.new('L', (size, size), 224)
  draw = ImageDraw.Draw(image)
  for ends in ((0, 0, size, size), (0, size, size, 0)):
    draw.line(ends, fill=128, width=2)
  data = io.BytesIO()
  image.save(data, 'PNG')
  path = 'images/missing.png'
  storage.write_complete(storage.within(folder, path), data.getvalue())
  return Picture(None, path, path, size, size)


def _write(key, encoded, label, folder, large_size, small_size) -> Picture:
  digest = digests.of_bytes(key)
  # Folders stay small, however many images there are.
  stem = f'{digest[:2]}/{digest[2:16]}'
  # Others of Pillow's formats start programs.
  opened = Image.open(io.BytesIO(encoded), formats=('JPEG', 'PNG'))
  image: Image.Image = opened
  width, height = image.size
  suffix = _SUFFIXES.get(opened.format or '')
  as_stored = (
    suffix
    and image.mode in _MODES
    and max(image.size) <= large_size
    # A browser would turn what the networks saw unturned.
    and image.getexif().get(_ORIENTATION, 1) == 1
  )
  if as_stored:
    image.load()  # whole, or an error
    large = f'images/{stem}.{suffix}'
    storage.write_complete(storage.within(folder, large), encoded)
  else:
    large = f'images/{stem}.jpg'
    image = _scaled(image, large_size)
    storage.write_complete(storage.within(folder, large), _jpeg(image, 90))
  small = large
  if max(image.size) > small_size:
    small = f'thumbnails/{stem}.jpg'
    storage.write_complete(
      storage.within(folder, small), _jpeg(_scaled(image, small_size), 80)
    )
  return Picture(label, large, small, width, height)


def _scaled(image: Image.Image, size: int) -> Image.Image:
  # JPEGs are decoded at a fraction of their size where that is enough.
  image.draft('RGB', (2 * size, 2 * size))
  scaled = image.convert('RGB')
  scaled.thumbnail((size, size), Image.Resampling.LANCZOS)
  return scaled


def _jpeg(image: Image.Image, quality: int) -> bytes:
  data = io.BytesIO()
  image.save(data, 'JPEG', quality=quality)
  return data.getvalue()
