r"""Writes corrupted copies of a data set, after ImageNet-C.

Reads TFRecord shards (--data_directory), brings each image to the network's
input size as evaluation does, and corrupts it. Of ImageNet-C's 15 corruptions
14 are offered (robustness_tests/corruptions.py says after whose formulas);
frost needs the authors' photographs.

Writes, for each corruption and severity, a data set of the same shards
  <output_path>/<corruption>_<severity>/<version>/<shard>
  <output_path>/<corruption>_<severity>/<version>/image_records.json
with the keys and labels of the source. Images are stored as PNG, so that what
is measured is the corruption alone; --image_format=jpeg stores them as the
official set does, at quality 85. They have the network's input size and are
not cropped again. Sets that are complete are skipped. The random numbers of an
image follow from corruption, severity and image key.

  python -m robustness_tests.build_corruptions \
      --data_directory=runs/digits/data --output_path=runs/digits/corrupted \
      --corruptions=gaussian_noise,contrast --severities=1,3,5

A thousand images of 32x32 pixels take about a second for each corruption and
severity, one of 224x224 from 0.01 to 0.5 seconds.
"""

import dataclasses
import io
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tqdm
from absl import flags, logging
from PIL import Image

from robustness_tests import corruptions
from utils import (
  command_line,
  image_records,
  paths,
  preprocessing,
  tfrecords,
)

FLAGS = flags.FLAGS
VERSION = '1.0.0'
_JPEG_QUALITY = 85


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'data_directory', '', 'TFRecord shards: folder, glob, or a list of files.'
  )
  flags.DEFINE_string('output_path', '', 'Folder of the corrupted data sets.')
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
    'image_format', 'png', ['png', 'jpeg'], 'png: lossless. jpeg: quality 85.'
  )


def encode_image(image: np.ndarray, image_format: str) -> bytes:
  """Encodes [size, size, 3] uint8 as 'png' or 'jpeg'."""
  stream = io.BytesIO()
  options = {'quality': _JPEG_QUALITY} if image_format == 'jpeg' else {}
  Image.fromarray(image).save(stream, image_format, **options)
  return stream.getvalue()


def read_images(
  path: str, records: image_records.ImageRecords, dialect: tfrecords.Dialect
) -> list[tuple[tfrecords.ParsedExample, np.ndarray]]:
  """The records of a shard and their pixels at the network's input size.

  Raises:
    ValueError: the shard is damaged; names file, record and field.
  """
  found = []
  for index, serialized in enumerate(tfrecords.read_records(path)):
    example = tfrecords.parse_example(serialized, dialect, records, path, index)
    try:
      image = preprocessing.central_crop(
        preprocessing.decode(tf.constant(example.encoded)),
        records.resize_size,
        records.image_size,
        'modern',
      )
    except tf.errors.OpError as error:
      tfrecords.find_fault(path, dialect, records)
      raise ValueError(f'{path}, record {index}: {error.message}') from None
    pixels = np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8)
    found.append((example, pixels))
  tfrecords.check_count(path, len(found), records)
  return found


def corrupted_records(
  images: Sequence[tuple[tfrecords.ParsedExample, np.ndarray]],
  corruption: str,
  severity: int,
  image_format: str,
) -> Iterator[bytes]:
  """The serialised records of a corrupted shard, in the order of the source."""
  for example, pixels in images:
    corrupted = corruptions.corrupt(pixels, corruption, severity, example.key)
    extra = (
      {'image/class/synset': example.class_key} if example.class_key else None
    )
    yield tfrecords.encode(
      example.key,
      encode_image(corrupted, image_format),
      example.label,
      example.text,
      extra,
    )


def run(
  data_directory: str,
  output_path: str,
  mode: str,
  names: Sequence[str],
  severities: Sequence[int],
  image_format: str,
) -> None:
  """Writes the data sets that are missing; the arguments are the flags."""
  if not output_path:
    raise ValueError('--output_path is empty, wanted a folder')
  names = list(names) or list(corruptions.CORRUPTIONS)
  for name in names:
    for severity in severities:
      corruptions.check(name, severity)
  if not severities:
    raise ValueError('--severities is empty, wanted some of 1,2,3,4,5')
  folders = {
    (name, severity): paths.corrupted_folder(
      output_path, name, severity, VERSION
    )
    for name in names
    for severity in severities
  }
  missing = {
    which: folder
    for which, folder in folders.items()
    if not paths.exists(paths.image_records(folder))
  }
  logging.info(
    '%d of %d data sets are complete', len(folders) - len(missing), len(folders)
  )
  if not missing:
    return
  shards = paths.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)
  dialect = tfrecords.detect(shards)
  made = {folder: {} for folder in missing.values()}
  progress = tqdm.tqdm(
    desc='corrupting',
    unit=' shards',
    total=len(shards) * len(missing),
    dynamic_ncols=True,
  )
  with progress:
    for shard in shards:
      images = read_images(shard, records, dialect)
      for (name, severity), folder in missing.items():
        path = paths.within(folder, paths.name(shard))
        made[folder][paths.name(shard)] = tfrecords.write_shard(
          path, corrupted_records(images, name, severity, image_format)
        )
        progress.update()
  split = {'eval': 'validation', 'train': 'train'}[mode]
  for folder, counts in made.items():
    # The images have the network's size: nothing is cropped again.
    image_records.write(
      folder,
      dataclasses.replace(
        records,
        label_base=tfrecords.ORIGINAL.label_base,
        resize_size=records.image_size,
        splits={split: counts},
      ),
    )
  command_line.write_provenance(
    output_path, 'robustness_tests.build_corruptions', shards
  )


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
  run(
    FLAGS.data_directory,
    FLAGS.output_path,
    FLAGS.mode,
    FLAGS.corruptions,
    severities_of(FLAGS.severities),
    FLAGS.image_format,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
