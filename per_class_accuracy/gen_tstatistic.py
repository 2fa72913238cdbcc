r"""Tests, class by class, whether compression cost it more than the whole.

A class's recall is *normalised* by subtracting the accuracy of the whole model,
its own, so that members that are better or worse as a whole do not count.
Welch's t-test then compares the dense models with the compressed ones of each
level (pruning_method, fraction_pruned). A positive statistic says that the
class fell against the whole: it lost more, or gained less.

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
      correction for the number of tests; the lowest recall, with an interval
      that knows it was chosen.

Classes depend on one another, as networks that are good at one are good at
others. So the models are also called dense and compressed at random, all of
them, --num_permutations times, and every class is tested again each time. That
gives the number of significant classes by chance and the p-value of the true
number; for each class a p-value that assumes no distribution, one adjusted for
the number of classes (max-T, Westfall & Young), and the only one where no model
differs from its group. Few models have few memberships: three a side cannot
reach p = 0.05 (significant_pvalue_smallest). Where each model was made from the
dense one of its number (the column made_from says so), the t-test is that of
pairs, and the two of a pair change places; is_paired says where.

  python -m per_class_accuracy.gen_tstatistic --study=runs/digits

A study that has metrics of groups has these tested, too, below results/groups.

Expect a second for each level of 1,000 classes and 30 models beside 30 dense
ones. Cells without an answer are empty.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from absl import flags, logging
from etils import epath

from per_class_accuracy import class_tests, member_recall, recall_checks
from utils import (
  command_line,
  csvs,
  membership,
  paths,
  populations,
  provenance,
  storage,
  tables,
)


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
  flags.DEFINE_list(
    'paired_methods',
    [],
    'Methods whose models were made from the dense ones, each from the dense '
    'one of its replicate. Needed only where the class metrics do not say so '
    'in the column made_from.',
  )
  flags.DEFINE_enum(
    'normalisation',
    'model',
    ['model', 'population_mean', 'constants'],
    "What is subtracted from recall. model: each model's own accuracy. "
    "population_mean: the mean accuracy of the level's models, as the paper "
    'has it; the test then knows nothing of the error of that mean, and calls '
    'classes that member quality hardly touches far too often '
    '(docs/faithful.md). constants: --accuracy_constants; no permutation, '
    'which accuracies of other models cannot follow.',
  )
  flags.DEFINE_list(
    'accuracy_constants',
    [],
    'Accuracy of each level, in [0, 1], for --normalisation=constants, as '
    '0:0.76675,0.9:0.72569. Empty for the other normalisations.',
  )
  flags.DEFINE_integer(
    'num_permutations',
    999,
    'Permuted memberships of the models of each level, for p-values and for '
    'what chance gives; fewer where there are no more. 0: none.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the permutations.', lower_bound=0)


def run(
  *,
  data_directory: str,
  output_file: str,
  dataset_name: str,
  mode: str,
  fractions: Sequence[float] = (),
  paired_methods: Sequence[str] = (),
  normalisation: str = 'model',
  accuracy_constants: Mapping[float, float] | None = None,
  num_permutations: int = 999,
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
  membership.check_permutations(num_permutations)
  path = paths.t_statistic(output_file, dataset_name, mode)
  record = provenance.Provenance(
    str(epath.Path(path).parent),
    'per_class_accuracy.gen_tstatistic',
    {
      'sparsity_fraction': sorted(fractions),
      'paired_methods': sorted(paired_methods),
      'normalisation': normalisation,
      'accuracy_constants': sorted(constants.items()),
      'num_permutations': num_permutations,
      'seed': seed,
    },
  )
  models, inputs = member_recall.read(data_directory, mode)
  recall_checks.check(models, paths.is_of_groups(inputs[0]))
  levels = populations.compressed_levels(
    models.level, fractions, source=data_directory
  )
  _check_constants(constants, levels)
  pairs = _paired_levels(models, levels, paired_methods, normalisation)

  def normalised(positions):
    return class_tests.normalise(
      models.recall[positions],
      models.accuracy[positions],
      constants.get(models.level[positions[0]].fraction_pruned),
      own=normalisation == 'model',
    )

  def accuracy(level):
    mean = models.accuracy[models.positions(level)].mean()
    return constants.get(level.fraction_pruned, mean)

  tests, summaries = [], []
  baseline = models.positions(populations.DENSE)
  for level in levels:
    variant = models.positions(level)
    sizes = (len(baseline), len(variant))
    paired = level in pairs
    drawn = None
    if num_permutations and normalisation != 'constants':
      drawn = membership.draw_memberships(
        *sizes, num_permutations, seed, paired
      )
    permuted = class_tests.draw_permuted(
      models,
      baseline,
      variant,
      normalised,
      drawn,
      recomputed=normalisation == 'population_mean',
    )
    tested = class_tests.compare_level(
      models, baseline, variant, normalised, permuted, paired
    )
    identity = {
      'pruning_method': level.pruning_method,
      'pruning_fraction': level.fraction_pruned,
    }
    low, high = class_tests.worst_interval(
      models.recall[variant], models.support
    )
    before = class_tests.worst_interval(models.recall[baseline], models.support)
    tests.append(tested.assign(**identity))
    summaries.append(
      {
        **identity,
        'normalisation': normalisation,
        'baseline_models': len(baseline),
        'variant_models': len(variant),
        'is_paired': int(paired),
        'baseline_accuracy': accuracy(populations.DENSE),
        'variant_accuracy': accuracy(level),
        **class_tests.summarise_level(tested),
        **class_tests.permuted_row(permuted, drawn),
        'worst_recall_low': low,
        'worst_recall_high': high,
        'baseline_worst_recall_low': before[0],
        'baseline_worst_recall_high': before[1],
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


def _paired_levels(
  models: member_recall.Models,
  levels: Sequence[populations.Level],
  paired_methods: Sequence[str],
  normalisation: str,
) -> set[populations.Level]:
  """Levels whose models were each made from the dense one of its number."""
  if models.identity is None:
    if paired_methods:
      raise ValueError(
        'a table of one row for each checkpoint numbers no replicates, which '
        '--paired_methods needs'
      )
    return set()
  paired = populations.paired_levels(models.identity, levels, paired_methods)
  if paired and normalisation != 'model':
    raise ValueError(
      f'--normalisation is {normalisation}, but models of '
      f'{", ".join(level.words for level in sorted(paired))} were made from '
      'the dense ones, wanted model: pairs are compared by their own accuracies'
    )
  return paired


def _sentence(row: Mapping[str, Any]) -> str:
  def number(name):
    return 'n/a' if pd.isna(row.get(name)) else f'{row[name]:.3g}'

  level = populations.level_of(row).words
  level += ', in pairs' if row['is_paired'] else ''
  if not row['tested']:
    return (
      f'{level}: no class could be tested, with {row["baseline_models"]} dense '
      f'and {row["variant_models"]} compressed models; that takes two of each'
    )
  text = (
    f'{level}: of {row["tested"]} classes, after correction '
    f'{row["lower_corrected"]} fell against the whole and '
    f'{row["higher_corrected"]} rose (by chance '
    f'{number("lower_corrected_permuted")} and '
    f'{number("higher_corrected_permuted")}); uncorrected '
    f'{row["lower"] + row["higher"]} (by chance '
    f'{number("significant_permuted_mean")}, p = '
    f'{number("significant_pvalue")}'
  )
  if row.get('significant_pvalue_smallest', 0) > tables.SIGNIFICANCE:
    text += (
      f'; so few models cannot give less than '
      f'{number("significant_pvalue_smallest")}'
    )
  return text + ')'


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
  is_given = f.data_directory or f.output_file
  command_line.with_study(
    f, {'data_directory': 'class_metrics', 'output_file': 'results'}
  )
  tested = [(f.data_directory, f.output_file)]
  if not is_given:
    groups = paths.group_metrics_folder(f.output_file, f.dataset_name, f.mode)
    if storage.exists(groups):
      tested.append((groups, paths.group_tests(f.output_file)))
  for data_directory, output_file in tested:
    run(
      data_directory=data_directory,
      output_file=output_file,
      dataset_name=f.dataset_name or 'imagenet',
      mode=f.mode,
      fractions=command_line.fractions(
        'sparsity_fraction', f.sparsity_fraction
      ),
      paired_methods=f.paired_methods,
      normalisation=f.normalisation,
      accuracy_constants=parse_constants(f.accuracy_constants),
      num_permutations=f.num_permutations,
      seed=f.seed,
    )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
