r"""Tests, class by class, whether pruning cost it more than the whole.

A class's recall is *normalised* by subtracting the accuracy of the whole model,
its own, so that members that are better or worse as a whole do not count.
Welch's t-test then compares the dense models with the pruned models of each
level (pruning_method, fraction_pruned). A positive statistic says that the
class lost more than the model as a whole.

Reads, at or below --data_directory, the CSVs of aggregate_ckpt_metrics
(`tables.CLASS_METRICS`), of classes or of groups; or the original's CSVs, with
one row per checkpoint and the columns fraction_pruned, recall/<name>_<i> (i is
the class id) and, if there, pruning_method and eval_accuracy. Dense models are
those of the method baseline; where no method is named, those at fraction 0.

Writes, anew at every run,
  <output_file>/<dataset>/<mode>/recall_t_statistic.csv
      `tables.T_STATISTIC`: a row for each class and level.
  <output_file>/<dataset>/<mode>/class_impact_summary.csv
      `tables.CLASS_IMPACT_SUMMARY`: a row for each level: how many classes are
      significantly lower and higher, before (as the paper counts) and after
      correction for the number of tests, and how many chance alone gives: the
      same test between random halves of the dense models. Beside it stands the
      count between such halves of dense and pruned models, since the number of
      significant classes grows with the number of models.

  python -m per_class_accuracy.gen_tstatistic --study=runs/digits

Expect about a second for 1,000 classes and 180 models. Cells without an answer
are empty: fewer than four dense models have no halves to compare.
"""

import functools
from collections.abc import Mapping, Sequence

import pandas as pd
from absl import flags, logging
from etils import epath

from per_class_accuracy import class_tests, member_recall
from utils import command_line, csvs, paths, populations, provenance, tables


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder at or above the CSVs of one split, or a pattern of them.',
  )
  flags.DEFINE_string('output_file', '', 'Folder of results, above <dataset>.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Data set, in the names of results. Empty: the study's; without --study "
    'imagenet.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['train', 'eval'], 'Split that was measured.'
  )
  flags.DEFINE_list(
    'sparsity_fraction',
    [],
    'Levels to test: shares of weights that are zero, in [0, 1), '
    'comma-separated. Empty for all that are there.',
  )
  flags.DEFINE_enum(
    'normalisation',
    'model',
    ['model', 'population_mean', 'constants'],
    "What is subtracted from recall. model: each model's own accuracy. "
    "population_mean: the mean accuracy of the level's models, as the paper "
    'has it; the test then knows nothing of the error of that mean, and calls '
    'classes that member quality hardly touches far too often '
    '(docs/faithful.md). constants: --accuracy_constants.',
  )
  flags.DEFINE_list(
    'accuracy_constants',
    [],
    'Accuracy of each level, in [0, 1], for --normalisation=constants, as '
    '0:0.76675,0.9:0.72569. Empty for the other normalisations.',
  )
  flags.DEFINE_integer(
    'null_splits',
    50,
    'Random halves of the dense models, for the count that chance gives; 0 to '
    'leave it out.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the random halves.', lower_bound=0)


def run(
  *,
  data_directory: str,
  output_file: str,
  dataset_name: str,
  mode: str,
  fractions: Sequence[float] = (),
  normalisation: str = 'model',
  accuracy_constants: Mapping[float, float] | None = None,
  null_splits: int = 50,
  seed: int = 0,
) -> pd.DataFrame:
  """Tests every class at every level; arguments as the flags say.

  Returns:
    The rows of `tables.CLASS_IMPACT_SUMMARY`.

  Raises:
    ValueError: contradicting arguments, damaged input, a level that is not
      there, or results there of other settings.
    OSError: a file or folder is missing.
  """
  constants = accuracy_constants or {}
  if bool(constants) != (normalisation == 'constants'):
    raise ValueError(
      f'--normalisation is {normalisation} and --accuracy_constants '
      f'{constants or "empty"}: wanted both of them for constants'
    )
  path = paths.t_statistic(output_file, dataset_name, mode)
  record = provenance.Provenance(
    str(epath.Path(path).parent),
    'per_class_accuracy.gen_tstatistic',
    {
      'sparsity_fraction': sorted(fractions),
      'normalisation': normalisation,
      'accuracy_constants': sorted(constants.items()),
      'null_splits': null_splits,
      'seed': seed,
    },
  )
  models, inputs = member_recall.read(data_directory, mode)
  levels = populations.compressed_levels(
    models.level, fractions, source=data_directory
  )
  _check_constants(constants, levels)

  def normalised(positions):
    return class_tests.normalise(
      models.recall[positions],
      models.accuracy[positions],
      constants.get(models.level[positions[0]].fraction_pruned),
      own=normalisation == 'model',
    )

  def test(first, second):
    return class_tests.welch(normalised(first), normalised(second))

  def accuracy(level):
    mean = models.accuracy[models.positions(level)].mean()
    return constants.get(level.fraction_pruned, mean)

  def halves(other, size):
    if size < 2 or not null_splits:
      return None
    return class_tests.count_in_halves(
      baseline, other, size, null_splits, seed, test
    )

  # Levels of as many models share their null.
  null_of = functools.cache(lambda size: halves(None, size))
  tests, summaries = [], []
  baseline = models.positions(populations.DENSE)
  for level in levels:
    variant = models.positions(level)
    tested = class_tests.compare_level(models, baseline, variant, normalised)
    size = populations.half_size(len(baseline), len(variant))
    identity = {
      'pruning_method': level.pruning_method,
      'pruning_fraction': level.fraction_pruned,
    }
    tests.append(tested.assign(**identity))
    summaries.append(
      {
        **identity,
        'normalisation': normalisation,
        'baseline_models': len(baseline),
        'variant_models': len(variant),
        'baseline_accuracy': accuracy(populations.DENSE),
        'variant_accuracy': accuracy(level),
        **class_tests.summarise_level(tested),
        **class_tests.halves_row(null_of(size), halves(variant, size)),
      }
    )
  summary = pd.DataFrame(
    summaries, columns=[c.name for c in tables.CLASS_IMPACT_SUMMARY.columns]
  )
  record.start()
  csvs.write(tables.T_STATISTIC, pd.concat(tests, ignore_index=True), path)
  csvs.write(
    tables.CLASS_IMPACT_SUMMARY,
    summary,
    paths.class_impact_summary(output_file, dataset_name, mode),
  )
  record.finish(inputs)
  for row in summaries:
    logging.info('%s', _sentence(row))
  return summary


def _check_constants(
  constants: Mapping[float, float], levels: Sequence[populations.Level]
) -> None:
  wanted = {0.0, *(level.fraction_pruned for level in levels)}
  if constants and wanted - set(constants):
    raise ValueError(
      f'--accuracy_constants lacks {sorted(wanted - set(constants))}'
    )
  if constants and len(wanted) <= len(levels):
    raise ValueError(
      '--accuracy_constants has one accuracy for each fraction, but of '
      f'{[tuple(level) for level in (populations.DENSE, *levels)]} some share '
      'theirs'
    )


def _sentence(row: Mapping[str, object]) -> str:
  def number(name):
    return 'n/a' if pd.isna(row.get(name)) else f'{row[name]:.3g}'

  return (
    f'{row["pruning_method"]} {row["pruning_fraction"]:g}: after correction '
    f'{row["lower_corrected"]} classes lower and {row["higher_corrected"]} '
    f'higher of {row["tested"]}, where two dense halves give '
    f'{number("lower_corrected_null")} and {number("higher_corrected_null")}; '
    f'uncorrected {row["lower"]} and {row["higher"]}'
  )


def parse_constants(items: Sequence[str]) -> dict[float, float]:
  """Level -> accuracy from texts like 0.9:0.72569."""
  pairs = [item.split(':') for item in items]
  if any(len(pair) != 2 or not all(map(str.strip, pair)) for pair in pairs):
    raise ValueError(
      f'--accuracy_constants is {",".join(items)}, wanted '
      '<fraction>:<accuracy>,...'
    )
  fractions, accuracies = (
    command_line.fractions('accuracy_constants', [pair[i] for pair in pairs])
    for i in (0, 1)
  )
  return dict(zip(fractions, accuracies, strict=True))


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f, {'data_directory': 'class_metrics', 'output_file': 'results'}
  )
  run(
    data_directory=f.data_directory,
    output_file=f.output_file,
    dataset_name=f.dataset_name or 'imagenet',
    mode=f.mode,
    fractions=command_line.fractions('sparsity_fraction', f.sparsity_fraction),
    normalisation=f.normalisation,
    accuracy_constants=parse_constants(f.accuracy_constants),
    null_splits=f.null_splits,
    seed=f.seed,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
