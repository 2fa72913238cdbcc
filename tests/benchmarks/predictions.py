"""How fast predictions are, beside what this machine's processor can do.

  python -m tests.benchmarks.predictions [--images=256] [--checkpoints=8]

A ResNet-50 at 224x224 is 8.2 GFLOP an image. The limit is the rate of large
matrix products, measured in the same run, so that the figures compare between
machines and survive noise. Prints, for float32 and bfloat16,

  images/s, decoding included, as a share of that limit
  the same at batch size 1, as the original predicts
  the cost of the 2nd..8th checkpoint in a pass beside that of the first

on JPEGs of 500x375 pixels that are written on the spot.
"""

import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from tests import reference_values
from utils import (
  checkpoints,
  image_records,
  inference,
  member_paths,
  paths,
  resnet_model,
  shard_files,
)
from utils import tfrecords as records_of

FLAGS = flags.FLAGS
_FLOP_PER_IMAGE = 8.2e9
_MATRIX = 4096


def matrix_product_rate(dtype: str, repeats: int = 5) -> float:
  """FLOP/s of a large product of two matrices: the best of some repeats."""
  matrix = tf.cast(
    tf.random.stateless_normal((_MATRIX, _MATRIX), (1, 2)), dtype
  )
  product = tf.function(lambda x: tf.reduce_sum(tf.linalg.matmul(x, x)))
  product(matrix).numpy()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    product(matrix).numpy()
    times.append(time.perf_counter() - start)
  return 2 * _MATRIX**3 / min(times)


def write_data(folder: str, count: int) -> list[str]:
  """Writes a shard of real photographs, repeated."""
  photographs = [
    (reference_values.FOLDER / 'jpeg' / name).read_bytes()
    for name in ('img0_500x375.jpg', 'img1_375x500.jpg')
  ]
  path = paths.shard(folder, 'validation', 0, 1)
  shard_files.write(
    path,
    [
      records_of.encode(str(i), photographs[i % 2], i % 1000)
      for i in range(count)
    ],
  )
  return [path]


def write_members(folder: str, count: int) -> list[member_paths.Checkpoint]:
  """Writes ResNet-50s, half of them pruned."""
  architecture = resnet_model.Architecture(50, 1.0, 1000)
  members = []
  for i in range(count):
    values = resnet_model.initial_values(architecture, i)
    rng = np.random.default_rng(i)
    for name, value in values.items():
      if name.endswith('/mask'):
        values[name] = (rng.random(value.shape) < 0.1).astype(np.float32)
    member = member_paths.Member('bench', 'threshold', 0.9, 1, 2, 1, i)
    prefix = member_paths.prefix_in(f'{folder}/{member.folder}', 3)
    checkpoints.write(prefix, checkpoints.Network(architecture, values, 3))
    members.append(member_paths.parse(prefix))
  return members


def seconds(members, shards, precision: str, batch_size: int) -> float:
  """Shortest time of a pass, the trace apart."""
  predictor = inference.Predictor(
    batch_size=batch_size,
    preprocessing_name='legacy',
    precision=precision,
    label_smoothing=0.1,
  )
  data_set = inference.DataSet(image_records.imagenet(), shards)
  marks = []
  # The first pass traces; the best of the others counts.
  for _ in range(4):
    start = time.perf_counter()
    for _ in predictor.predict(members, [data_set], show_progress=False):
      pass
    marks.append(time.perf_counter() - start)
  return min(marks[1:])


def main(argv):
  """Prints the figures."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    shards = write_data(f'{folder}/data', FLAGS.images)
    few = write_data(f'{folder}/few', max(16, FLAGS.images // 8))
    members = write_members(folder, FLAGS.checkpoints)
    loading = statistics.median(_load_seconds(m) for m in members)
    print(
      f'loading and folding a checkpoint: {loading:.2f} s, not in the rates'
    )
    for precision in inference.PRECISIONS:
      before = matrix_product_rate(precision)
      one = seconds(members[:1], shards, precision, FLAGS.batch_size) - loading
      after = matrix_product_rate(precision)
      limit = (before + after) / 2
      rate = FLAGS.images / one
      print(
        f'{precision}: matrix products {limit / 1e9:.0f} GFLOP/s = '
        f'{limit / _FLOP_PER_IMAGE:.1f} images/s at most; '
        f'batch {FLAGS.batch_size}: {rate:.1f} images/s = '
        f'{rate * _FLOP_PER_IMAGE / limit:.0%} of it'
      )
      number = max(16, FLAGS.images // 8)
      single = seconds(members[:1], few, precision, 1) - loading
      print(
        f'{precision}: batch 1: {number / single:.1f} images/s; batch '
        f'{FLAGS.batch_size} is {rate * single / number:.2f}x as fast'
      )
      if len(members) > 1:
        everyone = seconds(members, shards, precision, FLAGS.batch_size)
        further = everyone - len(members) * loading - one
        further /= len(members) - 1
        print(
          f'{precision}: a further checkpoint in the pass costs '
          f'{further / one:.2f}x the first'
        )


def _load_seconds(member: member_paths.Checkpoint) -> float:
  start = time.perf_counter()
  network = checkpoints.read(member.prefix)
  resnet_model.fold_batch_norm(network.values, network.architecture)
  return time.perf_counter() - start


if __name__ == '__main__':
  flags.DEFINE_integer('images', 256, 'Images to predict.')
  flags.DEFINE_integer('batch_size', 64, 'Images a batch.')
  flags.DEFINE_integer('checkpoints', 4, 'Networks in a pass.')
  app.run(main)
