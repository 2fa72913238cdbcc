r"""Measures what compression costs beside accuracy on corrupted images.

Reads the predictions that imagenet_corruptions kept
(--predictions_directory), and the PIE null of aggregate_predictions on the
clean images, which says what the levels are and which are pairs. Writes

  <results_directory>/<dataset_name>/<mode>_corrupted_costs.csv

the rows of measure_costs (churn, flips, calibration; not those of PIEs) for
each set of corrupted images, and for their mean: of each member or two members
the mean over the sets, whose interval and p-value are then found as on one set.

  python -m pie_dataset_gen.measure_corrupted_costs --study=runs/digits

takes a few seconds for each set of small size, and for a set of many images
about as long as measure_costs on the clean ones.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from pie_dataset_gen import cost_rows, disagreement, shard_predictions
from utils import (
  command_line,
  csvs,
  membership,
  paths,
  prediction_files,
  provenance,
  storage,
  tables,
  workers,
)

_SCRIPT = 'pie_dataset_gen.measure_corrupted_costs'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'predictions_directory',
    '',
    'Folder of the kept predictions: the --predictions_directory of '
    'imagenet_corruptions.',
  )
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: the --output_path of aggregate_predictions on the '
    'clean images; the table goes into it too.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that was predicted.'
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the clean data set, a folder of the results. Empty: that of '
    "--study, or 'imagenet'.",
  )
  flags.DEFINE_string(
    'corrupted_name',
    '',
    'The --dataset_name of imagenet_corruptions. Empty: --dataset_name with '
    '_c.',
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships behind the p-values; fewer where there are no more. '
    '0: no tests.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the permutations.')
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Sets measured at once, each in a process and memory of its own; '
    'few rows use fewer.',
    lower_bound=1,
  )
  command_line.define_scheduler()


class Measured(NamedTuple):
  """What one set gives, or all together.

  Attributes:
    members: [members] sorted.
    pairs: of each two members.
    scores: [members].
  """

  members: list[shard_predictions.Identity]
  pairs: disagreement.Pairs
  scores: list[cost_rows.Scores]


def measure_set(files: Sequence[str], *, mode: str) -> Measured:
  """Measures all members on one set."""
  predictions = shard_predictions.read_shard(files, mode)
  # The matrices are small: threads that share one cost more than they save.
  with threadpoolctl.threadpool_limits(1):
    pairs = disagreement.count_pairs(predictions.label, predictions.true_class)
  right = predictions.label == predictions.true_class[:, None]
  scores = [
    cost_rows.score(predictions.probability[:, i], right[:, i], {})
    for i in range(len(predictions.members))
  ]
  return Measured(predictions.members, pairs, scores)


def rows_of(
  measured: Measured, compared: Sequence[cost_rows.Population]
) -> list[dict[str, object]]:
  """Rows of `tables.COSTS`, of the dense members and of each level."""
  scores = dict(enumerate(measured.scores))
  rows = cost_rows.rows_of_dense(compared[0].dense, measured.pairs, scores)
  for of in compared:
    rows += cost_rows.rows_of_level(of, measured.pairs, scores, of_pies=False)
  return rows


def mean(sets: Sequence[Measured]) -> Measured:
  """The mean over sets of each member, and of each two.

  Sets of more images count for more in what two members disagree about; those
  of corrupted images have the same number.
  """
  pairs = sets[0].pairs
  for other in sets[1:]:
    pairs += other.pairs
  scores = [
    cost_rows.mean_score(of)
    for of in zip(*(s.scores for s in sets), strict=True)
  ]
  return Measured(sets[0].members, pairs, scores)


def run(
  predictions_directory: str,
  results_directory: str,
  *,
  mode: str,
  dataset_name: str,
  corrupted_name: str,
  num_permutations: int = 999,
  seed: int = 0,
  place: workers.Place = workers.HERE,
) -> pd.DataFrame:
  """Measures and writes the table; returns its rows.

  Raises:
    FileNotFoundError: predictions or the PIE null are missing.
    ValueError: they are damaged, or do not belong together.
  """
  membership.check_permutations(num_permutations)
  null_path = paths.pie_null(results_directory, dataset_name, mode)
  null = csvs.read(tables.PIE_NULL, null_path)
  paired = cost_rows.paired_levels(null)
  folder = paths.predictions_folder(predictions_directory, corrupted_name, mode)
  if not storage.exists(folder):
    raise FileNotFoundError(
      f'there is no {folder}{storage.nearest(folder)} (imagenet_corruptions '
      '--predictions_directory makes it)'
    )
  sets = prediction_files.find(folder)
  measure = functools.partial(measure_set, mode=mode)
  with workers.mapper(place, prediction_files.processes_worth(sets)) as mapped:
    found: Mapping[str, Measured] = dict(
      zip(sets, mapped(measure, sets.values()), strict=True)
    )
  members = next(iter(found.values())).members
  for name, measured in found.items():
    if measured.members != members:
      differ = set(members) ^ set(measured.members)
      raise ValueError(
        f'{folder}: the set {name} has predictions of other members than '
        f'{next(iter(found))}, for example {min(differ)}'
      )
    logging.info('%s: %d images', name, measured.pairs.images)
  compared = cost_rows.compared(
    members, paired, num_permutations, seed, null_path
  )
  found = {tables.MEAN_OF_SETS: mean(list(found.values())), **found}
  frame = pd.concat(
    [
      pd.DataFrame(rows_of(measured, compared)).assign(
        data_set=name, images=measured.pairs.images
      )
      for name, measured in found.items()
    ],
    ignore_index=True,
  )
  path = paths.corrupted_costs(results_directory, dataset_name, mode)
  csvs.write(tables.CORRUPTED_COSTS, frame, path)
  logging.info('wrote %s', path)
  provenance.write(
    str(epath.Path(path).parent),
    _SCRIPT,
    [null_path],
    checkpoints=provenance.networks(folder, tables.ROBUSTNESS.written_by),
  )
  return frame


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f, {'predictions_directory': 'results', 'results_directory': 'results'}
  )
  dataset_name = f.dataset_name or 'imagenet'
  run(
    f.predictions_directory,
    f.results_directory,
    mode=f.mode,
    dataset_name=dataset_name,
    corrupted_name=f.corrupted_name or f'{dataset_name}_c',
    num_permutations=f.num_permutations,
    seed=f.seed,
    place=workers.Place(f.num_cores, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
