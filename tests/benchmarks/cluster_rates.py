"""What a second worker gives to commands, each worker on a core of its own.

  python -m tests.benchmarks.cluster_rates [--commands=corruptions] [--shards=8]

Calls `run` of imagenet_predictions (16 small networks), build_corruptions
(three corruptions) and aggregate_predictions (60 networks) with one worker and
with two, by turns, on data made here, and prints the seconds from the call to
its end, the best of some rounds: wanted 1.8 times the rate. This process shares
the cores. Neither the start of Python and its imports are counted, nor that of
the workers, who have done a few pieces of the command before. Takes ten
minutes; the machine should be idle.
"""

import collections
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags, logging

from pie_dataset_gen import aggregate_predictions, imagenet_predictions
from robustness_tests import build_corruptions
from tests.benchmarks import aggregation, cluster
from utils import (
  checkpoints,
  image_records,
  member_paths,
  paths,
  resnet_model,
  shard_files,
  storage,
  tfrecords,
  workers,
)

_FEW = 4
_IMAGES = 250
_CORRUPTIONS = ('gaussian_noise', 'fog', 'jpeg_compression')


def write_images(folder: str, shards: int) -> None:
  """A data set of noise of 32 x 32 pixels."""
  random = np.random.default_rng(0)
  found = {}
  for shard in range(shards):
    path = paths.shard(folder, 'validation', shard, shards)
    pixels = random.integers(0, 256, (_IMAGES, 32, 32, 3), np.uint8)
    found[storage.name(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(
          f'{shard}/{i}', build_corruptions.encode_image(image, 'png'), i % 10
        )
        for i, image in enumerate(pixels)
      ],
    )
  image_records.write(
    folder,
    image_records.ImageRecords(
      'bench',
      tuple('abcdefghij'),
      image_size=32,
      resize_size=32,
      splits={'validation': found},
    ),
  )


def write_networks(folder: str) -> None:
  """Two pieces of networks."""
  architecture = resnet_model.Architecture(18, 0.25, 10, '3x3_stride_2')
  for replicate in range(16):
    member = member_paths.Member('bench', 'baseline', 0.0, 0, 0, 0, replicate)
    values = resnet_model.initial_values(architecture, replicate)
    checkpoints.write(
      member_paths.prefix_in(storage.within(folder, member.folder), 1),
      checkpoints.Network(architecture, values, 1),
    )


def write_predictions(folder: pathlib.Path, shards: int) -> None:
  """By 60 networks."""
  for i in range(shards):
    aggregation.write_shard(
      folder / f'validation-{i:05d}-of-{shards:05d}', _IMAGES, 10
    )


def commands(
  root: str,
) -> dict[str, Callable[[str, str, workers.Place], object]]:
  """What is timed: takes the shards, a folder, and where pieces are done."""
  return {
    'predictions': lambda data, out, place: imagenet_predictions.run(
      f'{root}/networks',
      f'{root}/data/{data}',
      out,
      'eval',
      'bench',
      64,
      'legacy',
      'float32',
      0.1,
      place=place,
    ),
    'corruptions': lambda data, out, place: build_corruptions.run(
      f'{root}/data/{data}',
      out,
      'eval',
      _CORRUPTIONS,
      [3],
      'legacy',
      'png',
      place,
    ),
    'aggregation': lambda data, out, place: aggregate_predictions.run(
      f'{root}/predictions/{data}/*.csv',
      out,
      mode='eval',
      dataset_name='bench',
      place=place,
    ),
  }


def main(argv: list[str]) -> None:
  """Makes the data, and prints."""
  del argv
  f = flags.FLAGS
  logging.set_verbosity(logging.ERROR)
  os.environ['TF_NUM_INTRAOP_THREADS'] = '1'
  with tempfile.TemporaryDirectory() as root:
    write_images(f'{root}/data', f.shards)
    write_networks(f'{root}/networks')
    write_predictions(pathlib.Path(root) / 'predictions', f.shards)
    seconds: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    for turn in range(f.rounds):
      for many in (1, 2):
        with cluster.cluster(many) as (file, _):
          place = workers.Place(scheduler=file)
          cluster.time_pieces(file, cluster.nothing, 100)
          for name, run in commands(root).items():
            if name not in f.commands:
              continue
            out = f'{root}/out/{name}/{turn}/{many}'
            run(f'validation-0000[0-{_FEW - 1}]*', f'{out}/few', place)
            start = time.perf_counter()
            run('validation-*', f'{out}/all', place)
            seconds[name, many].append(time.perf_counter() - start)
    for name in f.commands:
      one, two = (min(seconds[name, many]) for many in (1, 2))
      print(
        f'{name}: {one:.1f} s by a worker, {two:.1f} s by two, '
        f'{one / two:.2f} times the rate'
      )


if __name__ == '__main__':
  flags.DEFINE_list('commands', list(commands('')), 'Those that are timed.')
  flags.DEFINE_integer('shards', 16, 'Shards.', lower_bound=_FEW)
  flags.DEFINE_integer('rounds', 2, 'Turns of one worker and of two.')
  app.run(main)
