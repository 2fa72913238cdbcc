"""Planned shards of a data set, each written once."""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tqdm
from absl import logging
from etils import epath, epy
from PIL import Image, UnidentifiedImageError

from save_checkpoint import image_sources
from utils import (
  digests,
  paths,
  preprocessing,
  shard_files,
  storage,
  tfrecords,
  workers,
)

with epy.lazy_imports():
  import tensorflow as tf

# Below this a process would spend longer importing TensorFlow than working.
_IMAGES_PER_WORKER = 10_000
# Of the digest of an image: two of ImageNet's differ, but for one chance in
# ten million.
_DIGEST_LENGTH = 16


def stored_bytes(picture: image_sources.Picture) -> tuple[bytes, str]:
  """An image's bytes as they go into the record, and what was converted.

  Returns:
    The bytes, and '' or what they were before ('PNG', 'CMYK JPEG').

  Raises:
    ValueError: it is no complete JPEG or PNG; names the file.
  """
  if picture.size > shard_files.MAX_RECORD_BYTES:
    raise ValueError(
      f'{picture.where} has {picture.size} bytes, wanted at most '
      f'{shard_files.MAX_RECORD_BYTES}'
    )
  data = picture.read()
  try:
    with Image.open(io.BytesIO(data), formats=('JPEG', 'PNG')) as image:
      converted = ''
      if image.format == 'PNG' and picture.path:
        if not picture.key.lower().endswith('.png'):
          converted = 'PNG'
      elif image.format == 'JPEG' and image.mode not in ('RGB', 'L'):
        converted = f'{image.mode} JPEG'
      if converted:
        # As little is lost as JPEG can lose: a converted image should not
        # be an easier or a harder one than it was.
        data = image_sources.encoded(
          image.convert('RGB'), 'JPEG', quality=100, subsampling=0
        )
  except UnidentifiedImageError:
    raise ValueError(
      f'{picture.where} is not a JPEG or PNG image, whatever its name says: it '
      f'begins with {data[:8]!r}'
    ) from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise ValueError(
      f'{picture.where} is not a JPEG or PNG image: {e}'
    ) from None
  return data, converted


@dataclasses.dataclass(frozen=True)
class ShardPlan:
  """A shard that is to be written.

  Attributes:
    path: where.
    pictures: its images, in order.
    labels: [n] class ids, from 0.
    texts: [n] the classes in words.
    keyed: whether records hold the class's stable name as well.
    measured: whether the channels' statistics are wanted.
  """

  path: str
  pictures: tuple[image_sources.Picture, ...]
  labels: tuple[int, ...]
  texts: tuple[str, ...]
  keyed: bool
  measured: bool

  @property
  def done_path(self) -> str:
    """Where it is written down that the shard is finished."""
    path = epath.Path(self.path)
    return paths.shard_done(str(path.parent), path.name)

  def digest(self) -> str:
    """Changes when anything does that the shard is made from."""
    content = [
      (p.key, p.class_key, p.size, digests.of_bytes(p.data.hex()))
      for p in self.pictures
    ]
    return digests.of_json(
      [content, self.labels, self.texts, self.keyed, self.measured]
    )


def read_finished(plan: ShardPlan) -> dict[str, Any] | None:
  """What `write_shard` returned when it finished this very shard, or None."""
  if not (storage.exists(plan.done_path) and storage.exists(plan.path)):
    return None
  try:
    done = json.loads(epath.Path(plan.done_path).read_text())
  except ValueError:
    return None
  size = epath.Path(plan.path).stat().length
  same = isinstance(done, dict) and (
    done.get('digest') == plan.digest() and done.get('bytes') == size
  )
  return done if same else None


def write_shard(plan: ShardPlan) -> dict[str, Any]:
  """Writes a shard, and then that it is finished.

  Returns:
    digest: the plan's.
    examples, bytes, sha256: as in `image_records.Shard`.
    converted: kind of image -> number of images converted to RGB JPEG.
    pixels, sums, square_sums: number of pixels, and [3] exact sums over them
      of the values on the 0..255 scale and of their squares; 0 if unmeasured.
    images: [examples] digests of the images' bytes, as they are in the record.
    shorter_side: median over the images, in pixels.
  """
  converted: collections.Counter[str] = collections.Counter()
  sums, square_sums = np.zeros((2, 3), np.uint64)
  pixels = 0
  images: list[str] = []
  shorter_sides: list[int] = []

  def examples():
    nonlocal pixels
    for picture, label, text in zip(
      plan.pictures, plan.labels, plan.texts, strict=True
    ):
      data, kind = stored_bytes(picture)
      if kind:
        converted[kind] += 1
      image = _decode(data, picture)
      images.append(digests.of_bytes(data)[:_DIGEST_LENGTH])
      shorter_sides.append(min(image.shape[:2]))
      if plan.measured:
        pixels += image.shape[0] * image.shape[1]
        values = image.astype(np.uint64)
        sums[:] += values.sum((0, 1))
        square_sums[:] += (values * values).sum((0, 1))
      extra = {'image/class/synset': picture.class_key} if plan.keyed else {}
      yield tfrecords.encode(picture.key, data, label, text, extra)

  shard = shard_files.write(plan.path, examples())
  done = {
    'digest': plan.digest(),
    **dataclasses.asdict(shard),
    'converted': dict(sorted(converted.items())),
    'pixels': pixels,
    'sums': sums.tolist(),
    'square_sums': square_sums.tolist(),
    'images': images,
    'shorter_side': float(np.median(shorter_sides)),
  }
  storage.write_complete(plan.done_path, json.dumps(done) + '\n')
  return done


def _decode(data: bytes, picture: image_sources.Picture) -> np.ndarray:
  """The pixels, as every reader of the records will see them."""
  try:
    return preprocessing.decode_alone(data)
  except tf.errors.OpError as error:
    raise ValueError(f'{picture.where} is damaged: {error.message}') from None


def hash_of_key(picture: image_sources.Picture) -> str:
  """What mixes images in an order that never changes.

  Not a random generator, whose stream a library's version may change.
  """
  return digests.of_bytes(f'order/{picture.key}')


def plan_shards(
  output_dir: str,
  pictures: dict[str, list[image_sources.Picture]],
  classes: dict[str, str],
  num_shards: dict[str, int],
  keyed: bool,
  measured: bool,
) -> dict[str, list[ShardPlan]]:
  """Divides every split among its shards, as evenly as can be.

  Args:
    output_dir: where the shards go.
    pictures: split -> images, in any order.
    classes: folder's name -> the class in words, in order.
    num_shards: split -> number of shards.
    keyed: as in `ShardPlan`.
    measured: likewise, of the train split.

  Raises:
    ValueError: a split has fewer images than shards, or an image key twice.
  """
  ids = {name: i for i, name in enumerate(classes)}
  plans: dict[str, list[ShardPlan]] = {}
  for split, images in pictures.items():
    count = num_shards[split]
    if not 0 < count <= len(images):
      raise ValueError(
        f'the {split} split has {len(images)} images for {count} shards, '
        'wanted at least one image for each'
      )
    images = sorted(images, key=lambda picture: picture.key)
    for one, other in itertools.pairwise(images):
      if one.key == other.key:
        raise ValueError(
          f'two images of the {split} split are called {one.key}: '
          f'{one.where} and {other.where}'
        )
    if split == 'train':
      images.sort(key=hash_of_key)
    plans[split] = []
    for i in range(count):
      own = images[i * len(images) // count : (i + 1) * len(images) // count]
      plans[split].append(
        ShardPlan(
          paths.shard(output_dir, split, i, count),
          tuple(own),
          tuple(ids[picture.class_key] for picture in own),
          tuple(classes[picture.class_key] for picture in own),
          keyed,
          measured and split == 'train',
        )
      )
  return plans


def write_shards(
  plans: list[ShardPlan], place: workers.Place
) -> dict[str, dict[str, Any]]:
  """Writes the unfinished shards in parallel.

  Args:
    plans: all shards.
    place: where.

  Returns:
    Path -> what `write_shard` returns.
  """
  finished = {plan.path: read_finished(plan) for plan in plans}
  results = {path: done for path, done in finished.items() if done is not None}
  left = [plan for plan in plans if plan.path not in results]
  logging.info('%d of %d shards are to be written', len(left), len(plans))
  if not left:
    return results
  number = sum(len(plan.pictures) for plan in left)
  with (
    tqdm.tqdm(total=number, unit=' images', desc='records') as progress,
    workers.mapper(
      place, min(len(left), number / _IMAGES_PER_WORKER), progress=progress
    ) as mapped,
  ):
    for plan, done in zip(left, mapped(write_shard, left), strict=True):
      results[plan.path] = done
      progress.update(len(plan.pictures))
  return results


def channel_statistics(
  results: Iterable[dict[str, Any]],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation, [3] each, over all pixels of the shards."""
  results = list(results)
  pixels = sum(result['pixels'] for result in results)
  mean, std = [], []
  for channel in range(3):
    total = sum(result['sums'][channel] for result in results)
    squares = sum(result['square_sums'][channel] for result in results)
    mean.append(total / pixels)
    # In whole numbers: the difference of two large squares loses no digit.
    std.append(math.sqrt((squares * pixels - total * total) / pixels**2))
  return tuple(mean), tuple(std)
