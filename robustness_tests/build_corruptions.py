r"""Writes corrupted copies of a data set, after ImageNet-C.

Reads TFRecord shards (--data_directory), brings each image to the network's
input size as evaluation does, and corrupts it. Of ImageNet-C's 15 corruptions
14 are offered (robustness_tests/corruptions.py says after whose formulas);
frost needs the authors' photographs.

Writes, for each corruption and severity, a data set of the same shards
  <output_directory>/<corruption>_<severity>/<version>/<shard>
  <output_directory>/<corruption>_<severity>/<version>/image_records.json
with the keys and labels of the source. Images are stored as PNG, so that what
is measured is the corruption alone; --image_format=jpeg stores them as the
official set does, at quality 85. They have the network's input size and are
not cropped again. A set is complete when it has its image_records.json, and is
skipped then; of one that was interrupted the shards that are there stay. The
random numbers of an image follow from corruption, severity and image key, so
processes (--num_workers) and a cluster (--scheduler) share the shards, and
machines may share the corruptions, without a trace in the bytes.

  python -m robustness_tests.build_corruptions --study=runs/digits \
      --corruptions=gaussian_noise,contrast --severities=1,3,5

A thousand images of 32x32 pixels take a core half a second or more for each
corruption and severity; one of 224x224 takes a hundredth of a second,
elastic_transform, motion, glass and defocus blur two or three.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from absl import flags, logging
from etils import epy
from PIL import Image

from robustness_tests import corruptions
from utils import (
  command_line,
  data_input,
  digests,
  image_records,
  paths,
  preprocessing,
  provenance,
  shard_files,
  storage,
  tfrecords,
  workers,
)

with epy.lazy_imports():
  import tensorflow as tf

VERSION = '1.0.0'
_JPEG_QUALITY = 85
# Images that are decoded together.
_AT_A_TIME = 16
# Below this a process would spend longer importing TensorFlow than working.
_SECONDS_PER_WORKER = 10
# What an image takes a core, about, and what each of its pixels adds.
_SECONDS_PER_IMAGE, _SECONDS_PER_PIXEL = 6e-4, 2e-7


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory', '', 'TFRecord shards: folder, glob, or a list of files.'
  )
  flags.DEFINE_string(
    'output_directory', '', 'Folder of the corrupted data sets.'
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that a folder is read for.'
  )
  flags.DEFINE_list(
    'corruptions',
    '',
    'Names as in ImageNet-C, separated by commas; empty for all: '
    + ', '.join(corruptions.CORRUPTIONS)
    + '.',
  )
  flags.DEFINE_list(
    'severities', '1,2,3,4,5', 'Strengths, each of 1 to 5, by commas.'
  )
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'How images come to their size; legacy: the grid of TensorFlow 1, as the '
    'original; modern: half-pixel centres.',
  )
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Take 20 synthetic images instead of --data_directory: runs in seconds.',
  )
  flags.DEFINE_enum(
    'image_format', 'png', ['png', 'jpeg'], 'png: lossless. jpeg: quality 85.'
  )
  flags.DEFINE_integer(
    'num_workers',
    os.cpu_count(),
    'Processes, each of which corrupts a shard at a time; few images use '
    'fewer. Default: one for each core.',
    lower_bound=1,
  )
  command_line.define_scheduler()


def encode_image(image: np.ndarray, image_format: str) -> bytes:
  """Encodes [size, size, 3] uint8 as 'png' or 'jpeg'."""
  stream = io.BytesIO()
  options = {'quality': _JPEG_QUALITY} if image_format == 'jpeg' else {}
  Image.fromarray(image).save(stream, image_format, **options)
  return stream.getvalue()


@functools.cache
def _cropper(
  resize_size: int, image_size: int, preprocessing_name: str
) -> tf.types.experimental.GenericFunction:
  """Encoded images [n] -> the pixels that evaluation sees.

  Traced, once a process: of small images, one by one, this took a third of all
  the time.
  """
  pixels = tf.TensorSpec((image_size, image_size, 3), tf.float32)

  @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
  def cropped(encoded):
    return tf.map_fn(
      lambda image: preprocessing.central_crop(
        preprocessing.decode(image),
        resize_size,
        image_size,
        preprocessing_name,
      ),
      encoded,
      fn_output_signature=pixels,
    )

  return cropped


def _cropped(
  path: str,
  dialect: tfrecords.Dialect,
  records: image_records.ImageRecords,
  preprocessing_name: str,
) -> Iterator[tuple[tfrecords.ParsedExample, np.ndarray]]:
  """The examples of a shard and their pixels [size, size, 3] uint8."""
  crop = _cropper(records.resize_size, records.image_size, preprocessing_name)
  examples = (
    tfrecords.parse_example(serialized, dialect, records, path, index)
    for index, serialized in enumerate(shard_files.read_records(path))
  )
  while some := list(itertools.islice(examples, _AT_A_TIME)):
    try:
      images = crop(tf.constant([example.encoded for example in some]))
    except tf.errors.OpError as error:
      tfrecords.find_fault(path, dialect, records)
      raise ValueError(f'{path}: {error.message}') from None
    pixels = np.clip(np.rint(images.numpy()), 0, 255).astype(np.uint8)
    yield from zip(some, pixels, strict=True)


def corrupted_records(
  path: str,
  dialect: tfrecords.Dialect,
  records: image_records.ImageRecords,
  corruption: str,
  severity: int,
  preprocessing_name: str,
  image_format: str,
) -> Iterator[bytes]:
  """The serialised records of a shard's corrupted copy, in the same order.

  Raises:
    ValueError: the shard is damaged; names file, record and field.
  """
  seen = 0
  for example, pixels in _cropped(path, dialect, records, preprocessing_name):
    corrupted = corruptions.corrupt(pixels, corruption, severity, example.key)
    yield tfrecords.encode(
      example.key,
      encode_image(corrupted, image_format),
      example.label,
      example.text,
      {'image/class/synset': example.class_key} if example.class_key else None,
    )
    seen += 1
  shard_files.check_count(path, seen, records)


def write_copy(
  job: tuple[tuple[str, int], str],
  folders: dict[tuple[str, int], str],
  dialect: tfrecords.Dialect,
  records: image_records.ImageRecords,
  preprocessing_name: str,
  image_format: str,
) -> image_records.Shard:
  """Writes a corrupted copy of a shard, unless it is there.

  Args:
    job: corruption and severity, and the path of the shard.
    folders: corruption and severity -> where the copy goes.
    dialect: as `corrupted_records` takes it, like all that follow.
    records: likewise.
    preprocessing_name: likewise.
    image_format: likewise.
  """
  (corruption, severity), shard = job
  path = storage.within(folders[corruption, severity], storage.name(shard))
  if storage.exists(path):
    # Of a run with the same settings, or `Provenance` would have refused.
    return shard_files.describe(path)
  return shard_files.write(
    path,
    corrupted_records(
      shard,
      dialect,
      records,
      corruption,
      severity,
      preprocessing_name,
      image_format,
    ),
  )


def run(
  data_directory: str,
  output_directory: str,
  mode: str,
  names: Sequence[str],
  severities: Sequence[int],
  preprocessing_name: str,
  image_format: str,
  place: workers.Place = workers.HERE,
) -> None:
  """Writes the data sets that are missing; the arguments are the flags."""
  if not severities:
    raise ValueError('--severities is empty, wanted some of 1,2,3,4,5')
  folders = {}
  for name in names or corruptions.CORRUPTIONS:
    for severity in severities:
      corruptions.check(name, severity)
      folders[name, severity] = paths.corrupted_folder(
        output_directory, name, severity, VERSION
      )
  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)
  record = provenance.Provenance(
    output_directory,
    'robustness_tests.build_corruptions',
    {
      'preprocessing': preprocessing_name,
      'image_format': image_format,
      'data set': records.reading,
      'shards': digests.of_each({storage.name(s): s for s in shards}),
    },
  )
  missing = {
    which: folder
    for which, folder in folders.items()
    if not storage.exists(paths.image_records(folder))
  }
  logging.info(
    '%d of %d data sets below %s are complete',
    len(folders) - len(missing),
    len(folders),
    output_directory,
  )
  if not missing:
    record.finish(shards)
    return
  record.start()
  dialect = tfrecords.detect(shards)
  split = {'eval': 'validation', 'train': 'train'}[mode]
  jobs = [(which, shard) for which in missing for shard in shards]
  copy = functools.partial(
    write_copy,
    folders=missing,
    dialect=dialect,
    records=records,
    preprocessing_name=preprocessing_name,
    image_format=image_format,
  )
  declared = (records.shard(storage.name(shard)) for shard in shards)
  images = sum(shard.examples if shard else math.inf for shard in declared)
  seconds = _SECONDS_PER_IMAGE + _SECONDS_PER_PIXEL * records.image_size**2
  wanted = images * len(missing) * seconds / _SECONDS_PER_WORKER
  with (
    tqdm.tqdm(
      desc='corrupting',
      unit=' shards',
      total=len(jobs),
      mininterval=1.0,
      dynamic_ncols=True,
    ) as progress,
    workers.mapper(place, min(len(jobs), wanted), progress=progress) as mapped,
  ):
    written = {}
    for (which, shard), counts in zip(jobs, mapped(copy, jobs), strict=True):
      progress.update()
      written[storage.name(shard)] = counts
      if shard != shards[-1]:
        continue
      # Last, since it marks the set as complete. The images have the network's
      # size and are not cropped again.
      image_records.write(
        missing[which],
        dataclasses.replace(
          records,
          label_base=tfrecords.ORIGINAL.label_base,
          resize_size=records.image_size,
          splits={split: written},
        ),
      )
      written = {}
  record.finish(shards)


def severities_of(texts: Sequence[str]) -> list[int]:
  """Reads severities from text.

  Raises:
    ValueError: one is not a whole number.
  """
  try:
    return [int(text) for text in texts if text.strip()]
  except ValueError:
    raise ValueError(
      f'--severities is {",".join(texts)!r}, wanted some of 1,2,3,4,5'
    ) from None


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(f, {'output_directory': 'corrupted'})
  if f.test_small_sample:
    f.data_directory = data_input.synthetic_data_set(
      storage.within(f.output_directory, 'test_small_sample')
    )
  command_line.with_study(f, {'data_directory': 'data'})
  run(
    f.data_directory,
    f.output_directory,
    f.mode,
    f.corruptions,
    severities_of(f.severities),
    f.preprocessing,
    f.image_format,
    workers.Place(f.num_workers, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
