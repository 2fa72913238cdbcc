r"""Measures what compression buys: weights, multiply-adds, bytes, speed.

Reads the checkpoints of one member of each level, the one of the smallest
replicate (members of a level are made alike, to the number of zeros of each
layer), and the description of the data set, for the size of its images. Writes
in <results_directory>/<dataset_name>

  gains.csv         for each level parameters and multiply-adds, all and those
                    that are not zero, the ratios of ShrinkBench, and bytes
  layer_gains.csv   the same of each layer
  speed.csv         images a second of each level, with --rounds

  python -m pie_dataset_gen.measure_gains --study=runs/digits

takes seconds, and about a minute for ResNet-50. Bytes are those of the weights
in float32, masks and batch normalisation multiplied in; gzipped, runs of zeros
take little. Of a network in another format they are those of its files, and
its weights are counted in its graph (pie_dataset_gen/file_gains.py); what
cannot be is n/a, and why.

With --rounds=5 the networks are timed, too: in each round each level predicts
the same random images, in turn, so that what else the machine does hits all
alike. Here zeros are multiplied as any number: a pruned network is no faster
than a dense one, whatever its theoretical speed-up, unless whoever runs it has
kernels for such zeros. Times differ from run to run, unlike all else here.
"""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath

from pie_dataset_gen import file_gains, gains
from utils import (
  checkpoints,
  command_line,
  csvs,
  devices,
  image_records,
  inference,
  member_paths,
  network_files,
  paths,
  populations,
  provenance,
  tables,
)

_SCRIPT = 'pie_dataset_gen.measure_gains'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'ckpt_dir', '', 'Checkpoints, as for imagenet_predictions.'
  )
  flags.DEFINE_string(
    'data_directory', '', 'Folder of image_records.json, of the data set.'
  )
  flags.DEFINE_string(
    'results_directory', '', 'Folder of the results; the tables go there.'
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Folder of the results. Empty: the data set's own name.",
  )
  flags.DEFINE_integer(
    'rounds',
    0,
    'Rounds in which the levels take turns to be timed. 0: they are not.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'batch_size', 64, 'Images at once, in a round.', lower_bound=1
  )
  flags.DEFINE_integer(
    'batches', 10, 'Batches of each level in a round.', lower_bound=1
  )


def first_members(
  found: list[member_paths.Checkpoint],
) -> dict[populations.Level, member_paths.Checkpoint]:
  """The last checkpoint of the first replicate of each level."""
  chosen: dict[populations.Level, member_paths.Checkpoint] = {}
  for checkpoint in found:
    level = checkpoint.member.level
    former = chosen.setdefault(level, checkpoint)
    replicate = checkpoint.member.replicate
    if (replicate, -checkpoint.step) < (former.member.replicate, -former.step):
      chosen[level] = checkpoint
  return {level: chosen[level] for level in populations.sort_levels(chosen)}


def time_levels(
  members: Mapping[populations.Level, member_paths.Checkpoint],
  records: image_records.ImageRecords,
  *,
  rounds: int,
  batch_size: int,
  batches: int,
) -> pd.DataFrame:
  """Times all levels in turn: rows of `tables.SPEED`."""
  predictor = inference.Predictor(
    batch_size=batch_size,
    preprocessing_name='legacy',
    precision='float32',
    label_smoothing=0.0,
  )
  networks = {
    level: predictor.open(checkpoint, [records])
    for level, checkpoint in members.items()
  }
  shape = (batch_size, records.image_size, records.image_size, 3)
  images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
  speeds: dict[populations.Level, list[float]] = {
    level: [] for level in members
  }
  # The first round traces, and counts for nothing.
  for turn in range(rounds + 1):
    for level, network in networks.items():
      started = time.perf_counter()
      for _ in range(batches):
        np.asarray(network.scores(images, records))
      seconds = time.perf_counter() - started
      if turn:
        speeds[level].append(batches * batch_size / seconds)
  return pd.DataFrame(
    [
      {
        'pruning_method': level.pruning_method,
        'pruning_fraction': level.fraction_pruned,
        'images_per_second': float(np.median(of)),
        'slowest': min(of),
        'fastest': max(of),
        'rounds': rounds,
        'batch_size': batch_size,
        'device': devices.describe(),
      }
      for level, of in speeds.items()
    ]
  )


def run(
  ckpt_dir: str,
  data_directory: str,
  results_directory: str,
  *,
  dataset_name: str = '',
  rounds: int = 0,
  batch_size: int = 64,
  batches: int = 10,
) -> pd.DataFrame:
  """Measures and writes the tables; returns the rows of `tables.GAINS`.

  Raises:
    FileNotFoundError, ValueError: a checkpoint or the description is missing or
      damaged; names it.
  """
  records = image_records.read(data_directory)
  dataset = dataset_name or records.name
  members = first_members(member_paths.find(ckpt_dir))
  rows: list[dict[str, object]] = []
  by_layer = [csvs.empty(tables.LAYER_GAINS)]
  dense = None
  for level, checkpoint in members.items():
    network, layers, reason = None, None, ''
    if checkpoint.kind == 'bundle':
      network = checkpoints.read(checkpoint.prefix)
      layers = gains.count_layers(
        network.values, network.architecture, records.image_size
      )
    else:
      try:
        layers = file_gains.count_layers(checkpoint)
      except ValueError as error:
        reason = str(error)
    if layers is not None:
      by_layer.append(
        layers.assign(
          pruning_method=level.pruning_method,
          pruning_fraction=level.fraction_pruned,
        )
      )
    if level.is_dense:
      dense = layers
    stored = gains.stored_bytes(checkpoint, network)
    rows += gains.measure(level, layers, dense, stored, reason)
    logging.info('%s: %s', level.words, checkpoint.prefix)
  found = pd.DataFrame(rows)
  csvs.write(
    tables.LAYER_GAINS,
    pd.concat(by_layer, ignore_index=True),
    paths.layer_gains(results_directory, dataset),
  )
  if rounds:
    speed = time_levels(
      members, records, rounds=rounds, batch_size=batch_size, batches=batches
    )
    csvs.write(tables.SPEED, speed, paths.speed(results_directory, dataset))
  path = paths.gains(results_directory, dataset)
  csvs.write(tables.GAINS, found, path)
  logging.info('wrote %s', path)
  inputs = [checkpoint.completed_by for checkpoint in members.values()]
  provenance.write(
    str(epath.Path(path).parent),
    _SCRIPT,
    inputs,
    checkpoints=network_files.identities(members.values()),
  )
  return found


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {
      'ckpt_dir': 'checkpoints',
      'data_directory': 'data',
      'results_directory': 'results',
    },
  )
  run(
    f.ckpt_dir,
    f.data_directory,
    f.results_directory,
    dataset_name=f.dataset_name,
    rounds=f.rounds,
    batch_size=f.batch_size,
    batches=f.batches,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
