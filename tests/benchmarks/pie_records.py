r"""How fast PIE records are written, beside a plain copy of the same records.

Makes shards of records as large as ImageNet's in a temporary folder, and
prints MB/s of

- a plain copy: TFRecordDataset into TFRecordWriter, nothing looked at, but
  waited for until it is on disk, as PIE records are;
- generate_pie_dataset --is_pie=both, which writes every record once too, with
  all its checks: wanted at least 0.8 of the copy.

  python -m tests.benchmarks.pie_records --images=500

makes a smaller set. The machine should be idle.
"""

import os
import pathlib
import tempfile
import time

import numpy as np
import pandas as pd
import tensorflow as tf
from absl import app, flags, logging

from pie_dataset_gen import generate_pie_dataset
from utils import (
  csvs,
  image_records,
  paths,
  populations,
  shard_files,
  storage,
  tables,
  tfrecords,
  workers,
)

# The mean of ImageNet's validation images.
IMAGE_BYTES = 133_000
NUM_CLASSES = 1000
LEVEL = populations.Level('threshold', 0.9)


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('images', 3128, 'Images in all.', lower_bound=8)
  flags.DEFINE_integer('shards', 8, 'Shards.', lower_bound=1)
  flags.DEFINE_integer('num_cores', 2, 'Shards at once.', lower_bound=1)
  flags.DEFINE_integer('repeats', 3, 'The best of as many.', lower_bound=1)


def write_data(root: str, images: int, shards: int) -> list[str]:
  """Writes records of random bytes and their modal labels, a tenth PIEs."""
  random = np.random.default_rng(0)
  written = {}
  files = []
  for number in range(shards):
    path = paths.shard(f'{root}/data', 'validation', number, shards)
    rows = np.arange(images // shards)
    label = random.integers(0, NUM_CLASSES, len(rows))
    key = [f'ILSVRC2012_val_{number}_{i:08d}.JPEG' for i in rows]
    sizes = random.gamma(4, IMAGE_BYTES / 4, len(rows)).astype(int) + 1
    written[storage.name(path)] = shard_files.write(
      path,
      (
        tfrecords.encode(key[i], random.bytes(sizes[i]), int(label[i]))
        for i in rows
      ),
    )
    files.append(path)
    pie = random.random(len(rows)) < 0.1
    frame = pd.DataFrame(
      {
        column.name: 0
        for column in tables.MODAL_LABELS.columns
        if column.name != 'image_key'
      }
      | {
        'image_key': key,
        'image_index': rows,
        'true_class_label': label,
        'baseline_modal_label': label,
        'variant_modal_label': np.where(pie, (label + 1) % NUM_CLASSES, label),
        'pruning_method': LEVEL.pruning_method,
        'pruning_fraction': LEVEL.fraction_pruned,
        'filename': storage.name(path),
      }
    )
    csvs.write(
      tables.MODAL_LABELS,
      frame,
      paths.modal_labels(root, 'bench', 'eval', storage.name(path), LEVEL),
    )
  image_records.write(
    f'{root}/data',
    image_records.ImageRecords(
      'bench',
      tuple(f'class {i}' for i in range(NUM_CLASSES)),
      splits={'eval': written},
    ),
  )
  return files


def copy(files: list[str], folder: str) -> None:
  """Copies records through TensorFlow, one by one, unparsed."""
  pathlib.Path(folder).mkdir()
  for path in files:
    with tf.io.TFRecordWriter(f'{folder}/{storage.name(path)}') as writer:
      for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
        writer.write(serialized)
    storage.flush_to_disk(f'{folder}/{storage.name(path)}')


def main(argv: list[str]) -> None:
  """Makes the data, runs both in turn, prints."""
  del argv
  f = flags.FLAGS
  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as root:
    files = write_data(root, f.images, f.shards)
    megabytes = sum(pathlib.Path(path).stat().st_size for path in files) / 1e6
    seconds = {'copy': [], 'PIE records': []}
    for repeat in range(f.repeats):
      # What others have not written yet would be paid for by the next.
      os.sync()
      start = time.perf_counter()
      copy(files, f'{root}/copy_{repeat}')
      seconds['copy'].append(time.perf_counter() - start)
      os.sync()
      start = time.perf_counter()
      generate_pie_dataset.run(
        f'{root}/data',
        root,
        f'{root}/pie_{repeat}',
        mode='eval',
        is_pie='both',
        place=workers.Place(f.num_cores),
      )
      seconds['PIE records'].append(time.perf_counter() - start)
    rate = {what: megabytes / min(times) for what, times in seconds.items()}
    print(f'{megabytes:,.0f} MB in {len(files)} shards, {f.images} images')
    for what, value in rate.items():
      print(f'{what:12} {value:7.0f} MB/s')
    print(f'ratio        {rate["PIE records"] / rate["copy"]:7.2f}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
