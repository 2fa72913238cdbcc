r"""Tests, class by class, whether pruning cost it more than the whole.

A class's recall is *normalised* by subtracting the accuracy of the whole model.
Welch's t-test then compares the dense models with the pruned models of each
level (pruning_method, fraction_pruned). A positive statistic says that the
class lost more than the model as a whole.

Reads, at or below --data_directory, the CSVs of aggregate_ckpt_metrics
(`tables.CLASS_METRICS`), of classes or of groups; or the original's CSVs, with
one row per checkpoint and the columns fraction_pruned, recall/<name>_<i> (i is
the class id) and, if there, pruning_method and eval_accuracy. Dense models are
those with fraction_pruned 0.

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

  python -m per_class_accuracy.gen_tstatistic \
      --data_directory=runs/digits/class_metrics/eval --output_file=runs \
      --dataset_name=digits

Expect about a second for 1,000 classes and 180 models. Cells without an answer
are empty: fewer than four dense models have no halves to compare.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath
from scipy import special, stats

from utils import command_line, csvs, paths, populations, provenance, tables

_WIDE_RECALL = re.compile(r'recall/(.*)_(\d+)', re.DOTALL)
# Recall is a ratio of counts and accuracy a mean of such: values that truly
# differ do so by far more than this, and rounding by far less.
_ROUNDING = 1e-12


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder at or above the CSVs of one split, or a pattern of them.',
  )
  flags.DEFINE_string('output_file', '', 'Folder of results, above <dataset>.')
  flags.DEFINE_string(
    'dataset_name', 'imagenet', 'Data set, in the names of results.'
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['train', 'eval'], 'Split that was measured.'
  )
  flags.DEFINE_list(
    'sparsity_fraction',
    [],
    'Levels to test: shares of weights that are zero, in (0, 1), '
    'comma-separated. Empty for all that are there.',
  )
  flags.DEFINE_enum(
    'normalisation',
    'population_mean',
    ['population_mean', 'model', 'constants'],
    'What is subtracted from recall: the mean accuracy of the models of the '
    "level; each model's own accuracy; or --accuracy_constants.",
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


@dataclasses.dataclass(frozen=True)
class Models:
  """What was measured of all models; M models, C classes.

  Attributes:
    method: [M] how each was pruned.
    fraction: [M] share of weights that is zero; 0 is dense.
    recall: [M, C], NaN where a class has no images.
    accuracy: [M] of the whole.
    class_id: [C] rising.
    class_name: [C] free text.
    support: [C] images of the class, NaN where unknown.
  """

  method: np.ndarray
  fraction: np.ndarray
  recall: np.ndarray
  accuracy: np.ndarray
  class_id: np.ndarray
  class_name: np.ndarray
  support: np.ndarray

  def level(self, method: str | None, fraction: float) -> np.ndarray:
    """Positions of the models of a level; any method for the dense ones."""
    at_level = self.fraction == fraction
    if method is not None:
      at_level &= self.method == method
    return np.flatnonzero(at_level)


@dataclasses.dataclass(frozen=True)
class Welch:
  """Welch's t-test of C classes; NaN where it has no answer.

  Attributes:
    statistic: [C] t of dense minus pruned.
    error: [C] standard error of the difference of means; 0 where no model of
      either group differs from its group.
    freedom: [C] degrees of freedom.
    deviation: [C] root of the mean of both variances.
  """

  statistic: np.ndarray
  error: np.ndarray
  freedom: np.ndarray
  deviation: np.ndarray

  @property
  def pvalue(self) -> np.ndarray:
    """Of the two-sided test [C]."""
    return 2 * special.stdtr(self.freedom, -np.abs(self.statistic))

  @property
  def half_width(self) -> np.ndarray:
    """Of the 95 % interval of the difference of means [C]."""
    return self.error * special.stdtrit(self.freedom, 0.975)


def welch(baseline: np.ndarray, variant: np.ndarray) -> Welch:
  """Compares two groups of models, class by class.

  t = (m1 - m2) / sqrt(v1 / n1 + v2 / n2) with the variances' unbiased
  estimates, and the degrees of freedom of Welch (1947) and Satterthwaite:
  (v1 / n1 + v2 / n2)^2 / ((v1 / n1)^2 / (n1 - 1) + (v2 / n2)^2 / (n2 - 1)).
  Equal to `scipy.stats.ttest_ind(equal_var=False)`, but where both groups are
  constant: there scipy divides by what rounding left of a zero.

  Args:
    baseline: [n1, C].
    variant: [n2, C].
  """
  numbers, means, variances = [], [], []
  for group in (baseline, variant):
    numbers.append(len(group))
    means.append(group.mean(axis=0))
    if len(group) < 2:
      variances.append(np.full(group.shape[1], np.nan))
      continue
    deviation = group - means[-1]
    variance = np.einsum('ij,ij->j', deviation, deviation) / (len(group) - 1)
    # Of rounding alone, which is no more than this squared, nothing is left.
    variances.append(np.where(variance <= _ROUNDING**2, 0, variance))
  (n1, n2), (m1, m2), (v1, v2) = numbers, means, variances
  with np.errstate(invalid='ignore', divide='ignore'):
    error = np.sqrt(v1 / n1 + v2 / n2)
    freedom = error**4 / ((v1 / n1) ** 2 / (n1 - 1) + (v2 / n2) ** 2 / (n2 - 1))
    statistic = np.where(error == 0, np.nan, (m1 - m2) / error)
  return Welch(
    statistic=statistic,
    error=error,
    freedom=freedom,
    deviation=np.sqrt((v1 + v2) / 2),
  )


def false_discovery(pvalue: np.ndarray) -> np.ndarray:
  """Benjamini-Hochberg q-values [C]; NaN stays NaN and is no test."""
  qvalue = np.full(len(pvalue), np.nan)
  tested = ~np.isnan(pvalue)
  if tested.any():
    qvalue[tested] = stats.false_discovery_control(pvalue[tested])
  return qvalue


def normalise(
  recall: np.ndarray, accuracy: np.ndarray, constant: float | None, own: bool
) -> np.ndarray:
  """Subtracts from recall [n, C] the accuracy of the whole.

  Args:
    recall: of the models of one level.
    accuracy: [n] of these models.
    constant: subtracted instead, unless None.
    own: subtract each model's own accuracy instead of the mean.
  """
  if constant is not None:
    return recall - constant
  return recall - (accuracy[:, None] if own else accuracy.mean())


def count_in_halves(
  first: np.ndarray,
  second: np.ndarray | None,
  size: int,
  splits: int,
  seed: int,
  test: Callable[[np.ndarray, np.ndarray], Welch],
) -> np.ndarray:
  """Counts significant classes between random groups of models.

  Args:
    first: positions of the dense models, in an order that does not depend on
      the files'.
    second: positions of the pruned models, or None to compare the dense
      models with each other.
    size: models on either side.
    splits: number of random draws.
    seed: of the draws.
    test: compares the models at two lists of positions.

  Returns:
    [splits] counts.
  """
  random = np.random.default_rng(seed)
  counts = np.empty(splits, np.int64)
  for i in range(splits):
    drawn = random.permutation(first)
    other = drawn[size:] if second is None else random.permutation(second)
    compared = test(drawn[:size], other[:size])
    # NaN is no discovery, nor is a t that would be none with any degrees of
    # freedom, which saves most of the p-values.
    extreme = np.abs(compared.statistic) >= special.ndtri(
      1 - tables.SIGNIFICANCE / 2
    )
    pvalue = 2 * special.stdtr(
      compared.freedom[extreme], -np.abs(compared.statistic[extreme])
    )
    counts[i] = (pvalue <= tables.SIGNIFICANCE).sum()
  return counts


def _mean(values: np.ndarray) -> np.ndarray:
  """Mean over models [C] that skips NaN, as the original's does."""
  present = ~np.isnan(values)
  with np.errstate(invalid='ignore'):
    return np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)


def _reasons(
  baseline: np.ndarray, variant: np.ndarray, constant: np.ndarray
) -> np.ndarray:
  missing = np.isnan(np.concatenate([baseline, variant]))
  return np.select(
    [
      missing.all(axis=0),
      np.full(len(constant), min(len(baseline), len(variant)) < 2),
      missing.any(axis=0),
      constant,
    ],
    [
      'no image of the class',
      'fewer than two models in a group',
      'recall is missing for some models',
      'no variance in either group',
    ],
    '',
  )


def test_level(
  models: Models,
  baseline: np.ndarray,
  variant: np.ndarray,
  normalised: Callable[[np.ndarray], np.ndarray],
) -> pd.DataFrame:
  """Tests every class at one level.

  Args:
    models: all of them.
    baseline: positions of the dense models.
    variant: positions of the pruned models.
    normalised: gives the normalised recall of models of one level.

  Returns:
    [C] rows of `tables.T_STATISTIC` without the level's columns.
  """
  before, after = models.recall[baseline], models.recall[variant]
  raw = welch(before, after)
  before_norm, after_norm = normalised(baseline), normalised(variant)
  test = welch(before_norm, after_norm)
  change = _mean(after) - _mean(before)
  normalised_change = _mean(after_norm) - _mean(before_norm)
  with np.errstate(invalid='ignore', divide='ignore'):
    effect_size = np.where(
      test.error == 0, np.nan, normalised_change / test.deviation
    )
  answered = ~np.isnan(test.statistic)
  raw_half_width = np.where(raw.error == 0, 0, raw.half_width)
  return pd.DataFrame(
    {
      'class': models.class_name,
      'baseline_mean_recall': _mean(before),
      'variant_mean_recall': _mean(after),
      'pvalue_recall_norm': test.pvalue,
      'statistic_recall_norm': test.statistic,
      'class_id': models.class_id,
      'support': models.support,
      'recall_change': change,
      'recall_change_low': np.where(answered, change - raw_half_width, np.nan),
      'recall_change_high': np.where(answered, change + raw_half_width, np.nan),
      'normalised_recall_change': normalised_change,
      'normalised_recall_change_low': normalised_change - test.half_width,
      'normalised_recall_change_high': normalised_change + test.half_width,
      'effect_size': effect_size,
      'qvalue_recall_norm': false_discovery(test.pvalue),
      'direction': np.select(
        [normalised_change < -_ROUNDING, normalised_change > _ROUNDING],
        ['lower', 'higher'],
        '',
      ),
      'reason': _reasons(before, after, test.error == 0),
    }
  )


def summarise_level(tested: pd.DataFrame) -> dict[str, object]:
  """Counts the rows of one level by direction and significance."""
  pvalue = tested['pvalue_recall_norm'].to_numpy()
  qvalue = tested['qvalue_recall_norm'].to_numpy()
  direction = tested['direction'].to_numpy()
  number = int((~np.isnan(pvalue)).sum())
  row = {
    'classes': len(tested),
    'tested': number,
    'expected_by_chance': number * tables.SIGNIFICANCE,
  }
  for side in ('lower', 'higher'):
    significant = (direction == side) & (pvalue <= tables.SIGNIFICANCE)
    corrected = (direction == side) & (qvalue <= tables.SIGNIFICANCE)
    of_side = tested[significant]
    row[side] = int(significant.sum())
    row[f'{side}_corrected'] = int(corrected.sum())
    row[f'{side}_mean_recall_change'] = of_side['recall_change'].mean()
    row[f'{side}_mean_normalised_change'] = of_side[
      'normalised_recall_change'
    ].mean()
  before = tested['baseline_mean_recall']
  after = tested['variant_mean_recall']
  if after.notna().any():
    row['worst_class'] = tested['class'][after.idxmin()]
    row['worst_recall'] = after.min()
  for name, recall in (
    ('worst_to_best', after),
    ('baseline_worst_to_best', before),
  ):
    row[name] = recall.min() / recall.max() if recall.max() > 0 else np.nan
  return row


def read_models(data_directory: str, mode: str) -> tuple[Models, list[str]]:
  """Reads what was measured of all models, and names the files.

  Raises:
    ValueError: damaged, mixed or unequal inputs; names files and rows.
    FileNotFoundError: no CSV.
  """
  files = [
    path
    for path in csvs.find(tables.CLASS_METRICS, data_directory)
    # What an earlier run has written below the same folder.
    if epath.Path(path).name
    not in {
      epath.Path(of('', 'any', mode)).name
      for of in (paths.t_statistic, paths.class_impact_summary)
    }
  ]
  if not files:
    raise FileNotFoundError(f'no CSV of class metrics below {data_directory}')
  wide = []
  for path in files:
    with epath.Path(path).open('rb') as file:
      wide.append(b'recall/' in file.readline())
  if any(wide) and not all(wide):
    raise ValueError(
      f'{files[wide.index(True)]} has a row for each checkpoint, but '
      f'{files[wide.index(False)]} a row for each class: wanted one kind'
    )
  models = _read_wide(files) if any(wide) else _read_long(files, mode)
  return models, files


def _read_long(files: Sequence[str], mode: str) -> Models:
  rows = csvs.read_all(
    tables.CLASS_METRICS,
    files,
    [
      *('class_id', 'class', 'support', 'recall', 'eval_accuracy', 'split'),
      *('preprocessing', 'compute_precision'),
      *tables.MEMBER_KEY,
    ],
  )
  populations.check_one_study(rows, mode, files[0])
  key = list(tables.MEMBER_KEY)
  # Any order of files and rows gives one order of models and classes.
  rows['model'] = rows.groupby(key, sort=True).ngroup()
  rows = rows.sort_values(['model', 'class_id'], kind='stable')
  members = rows.drop_duplicates('model').reset_index(drop=True)
  number = int((rows['model'] == 0).sum())
  if len(rows) != len(members) * number:
    counts = rows.groupby('model').size()
    other = counts.index[counts != number][0]
    raise ValueError(
      f'the model {members.loc[0, key].to_dict()} has {number} classes, '
      f'{members.loc[other, key].to_dict()} has {counts[other]}'
    )
  shape = (len(members), number)
  for name in ('class_id', 'class', 'support'):
    values = rows[name].to_numpy().reshape(shape)
    differs = (values != values[0]).any(axis=1)
    if differs.any():
      model = int(np.flatnonzero(differs)[0])
      at = int(np.flatnonzero(values[model] != values[0])[0])
      raise ValueError(
        f'{name} differs between models: {values[0, at]!r} in '
        f'{members.loc[0, key].to_dict()}, {values[model, at]!r} in '
        f'{members.loc[model, key].to_dict()}'
      )
  replicate = ['pruning_method', 'fraction_pruned', 'replicate']
  repeated = members.duplicated(replicate, keep=False)
  if repeated.any():
    raise ValueError(
      'a replicate counts once, but these are one: '
      f'{members.loc[repeated, key].head(2).to_dict("records")}; name one '
      'step and one schedule'
    )
  first = rows.iloc[:number]
  return Models(
    method=members['pruning_method'].to_numpy(object),
    fraction=members['fraction_pruned'].to_numpy(),
    recall=rows['recall'].to_numpy().reshape(shape),
    accuracy=members['eval_accuracy'].to_numpy(),
    class_id=first['class_id'].to_numpy(),
    class_name=first['class'].to_numpy(object),
    support=first['support'].to_numpy(np.float64),
  )


def _read_wide(files: Sequence[str]) -> Models:
  """Reads the original's tables, of one row per checkpoint."""
  frames = []
  for path in files:
    try:
      frame = pd.read_csv(path if '://' not in path else epath.Path(path))
    except (ValueError, UnicodeDecodeError) as error:
      raise ValueError(f'{path} is not a CSV: {error}') from None
    if frames and set(frame) - {'Unnamed: 0'} != set(frames[0]) - {
      'Unnamed: 0'
    }:
      differing = sorted((set(frame) ^ set(frames[0])) - {'Unnamed: 0'})
      raise ValueError(
        f'{path} and {files[0]} differ in the columns {differing[:4]}'
      )
    frames.append(frame)
  rows = pd.concat(frames, ignore_index=True)
  names = {}
  for column in rows:
    if not column.startswith('recall/'):
      continue
    match = _WIDE_RECALL.fullmatch(column)
    if not match:
      raise ValueError(
        f'{files[0]}: column {column!r} has no class id, wanted '
        'recall/<name>_<i>'
      )
    if int(match[2]) in names:
      raise ValueError(
        f'{files[0]}: {names[int(match[2])][0]!r} and {column!r} are of one '
        'class id'
      )
    names[int(match[2])] = (column, match[1])
  if 'fraction_pruned' not in rows:
    raise ValueError(f'{files[0]} lacks the column fraction_pruned')
  class_id = np.array(sorted(names))
  columns = [names[i][0] for i in class_id]
  recall = _fractions(rows[columns], files)
  fraction = _fractions(rows[['fraction_pruned']], files, complete=True)[:, 0]
  method = np.full(len(rows), '', object)
  if 'pruning_method' in rows:
    method = rows['pruning_method'].fillna('').to_numpy(object)
  if 'eval_accuracy' in rows:
    accuracy = _fractions(rows[['eval_accuracy']], files, complete=True)[:, 0]
  else:
    accuracy = _mean(recall.T)
    logging.info(
      'no column eval_accuracy: the unweighted mean of recall over the classes '
      'stands for it, equal where all classes have as many images'
    )
  # Rows without identity are put in order by what they hold.
  order = sorted(
    range(len(rows)),
    key=lambda i: (method[i], fraction[i], recall[i].tobytes()),
  )
  return Models(
    method=method[order],
    fraction=fraction[order],
    recall=recall[order],
    accuracy=accuracy[order],
    class_id=class_id,
    class_name=np.array([names[i][1] for i in class_id], object),
    support=np.full(len(class_id), np.nan),
  )


def _fractions(
  cells: pd.DataFrame, files: Sequence[str], complete: bool = False
) -> np.ndarray:
  """Numbers in [0, 1] as an array; empty cells are NaN unless complete."""
  numbers = cells.apply(pd.to_numeric, errors='coerce').to_numpy(np.float64)
  wrong = np.isnan(numbers) & (complete | cells.notna().to_numpy())
  wrong |= (numbers < 0) | (numbers > 1)
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    raise ValueError(
      f'{files[0]} or the like: column {cells.columns[column]!r} holds '
      f'{cells.iloc[row, column]!r}, wanted a number in [0, 1]'
    )
  return numbers


def run(
  *,
  data_directory: str,
  output_file: str,
  dataset_name: str,
  mode: str,
  sparsity_fraction: Sequence[float] = (),
  normalisation: str = 'population_mean',
  accuracy_constants: Mapping[float, float] | None = None,
  null_splits: int = 50,
  seed: int = 0,
) -> pd.DataFrame:
  """Tests every class at every level; arguments as the flags say.

  Returns:
    The rows of `tables.CLASS_IMPACT_SUMMARY`.

  Raises:
    ValueError: contradicting arguments, damaged input, or a level that is not
      there.
    OSError: a file or folder is missing.
  """
  constants = accuracy_constants or {}
  if bool(constants) != (normalisation == 'constants'):
    raise ValueError(
      f'--normalisation is {normalisation} and --accuracy_constants '
      f'{constants or "empty"}: wanted both of them for constants'
    )
  if not output_file:
    raise ValueError('--output_file is empty, wanted the folder of results')
  models, files = read_models(data_directory, mode)
  there = sorted(set(models.fraction.tolist()))
  baseline = models.level(None, 0)
  if not len(baseline):
    raise ValueError(
      f'{data_directory} holds no dense model (fraction_pruned 0), it holds '
      f'{there}'
    )
  levels = sorted(
    {
      (method, fraction)
      for method, fraction in zip(
        models.method, models.fraction.tolist(), strict=True
      )
      if fraction > 0
      and (not sparsity_fraction or fraction in sparsity_fraction)
    }
  )
  missing = set(sparsity_fraction) - {fraction for _, fraction in levels}
  if missing or not levels:
    raise ValueError(
      f'{data_directory} holds no pruned model of the levels '
      f'{sorted(missing) or "above 0"}, it holds {there}'
    )
  if constants:
    unknown = {0.0, *(fraction for _, fraction in levels)} - set(constants)
    if unknown:
      raise ValueError(f'--accuracy_constants lacks {sorted(unknown)}')

  def normalised(positions):
    return normalise(
      models.recall[positions],
      models.accuracy[positions],
      constants.get(models.fraction[positions[0]]),
      own=normalisation == 'model',
    )

  def test(first, second):
    return welch(normalised(first), normalised(second))

  def spread(counts, name):
    low, high = np.percentile(counts, [2.5, 97.5])
    return {
      f'{name}_mean': counts.mean(),
      f'{name}_low': low,
      f'{name}_high': high,
    }

  tests, summaries, nulls = [], [], {}
  for method, fraction in levels:
    variant = models.level(method, fraction)
    tested = test_level(models, baseline, variant, normalised)
    level = {'pruning_method': method, 'pruning_fraction': fraction}
    tests.append(tested.assign(**level))
    row = {
      **level,
      'normalisation': normalisation,
      'baseline_models': len(baseline),
      'variant_models': len(variant),
      'baseline_accuracy': constants.get(0.0, models.accuracy[baseline].mean()),
      'variant_accuracy': constants.get(
        fraction, models.accuracy[variant].mean()
      ),
      **summarise_level(tested),
    }
    size = min(len(baseline) // 2, len(variant))
    if size >= 2 and null_splits:
      if size not in nulls:
        nulls[size] = count_in_halves(
          baseline, None, size, null_splits, seed, test
        )
      halves = count_in_halves(baseline, variant, size, null_splits, seed, test)
      row['half_models'] = size
      row |= spread(nulls[size], 'null') | spread(halves, 'half')
    summaries.append(row)
  path = paths.t_statistic(output_file, dataset_name, mode)
  csvs.write(tables.T_STATISTIC, pd.concat(tests, ignore_index=True), path)
  summary = pd.DataFrame(
    summaries, columns=[c.name for c in tables.CLASS_IMPACT_SUMMARY.columns]
  )
  csvs.write(
    tables.CLASS_IMPACT_SUMMARY,
    summary,
    paths.class_impact_summary(output_file, dataset_name, mode),
  )
  provenance.write(
    str(epath.Path(path).parent), 'per_class_accuracy.gen_tstatistic', files
  )
  for row in summaries:
    logging.info(
      '%s %s: %d classes lower and %d higher of %d; %d and %d after '
      'correction; chance gives %s in halves where pruning gives %s',
      row['pruning_method'],
      row['pruning_fraction'],
      row['lower'],
      row['higher'],
      row['tested'],
      row['lower_corrected'],
      row['higher_corrected'],
      row.get('null_mean', '(not available)'),
      row.get('half_mean', '(not available)'),
    )
  return summary


def parse_fractions(items: Sequence[str], flag: str) -> list[float]:
  """Numbers in [0, 1] from text.

  Raises:
    ValueError: something else; names the flag.
  """
  try:
    numbers = [float(item) for item in items]
  except ValueError as error:
    raise ValueError(f'--{flag}: {error}') from None
  if not all(0 <= number <= 1 for number in numbers):
    raise ValueError(f'--{flag} is {numbers}, wanted fractions in [0, 1]')
  return numbers


def parse_constants(items: Sequence[str]) -> dict[float, float]:
  """Level -> accuracy from texts like 0.9:0.72569."""
  pairs = [item.split(':') for item in items]
  if any(len(pair) != 2 for pair in pairs):
    raise ValueError(
      f'--accuracy_constants is {",".join(items)}, wanted '
      '<fraction>:<accuracy>,...'
    )
  fractions, accuracies = (
    parse_fractions([pair[i] for pair in pairs], 'accuracy_constants')
    for i in (0, 1)
  )
  return dict(zip(fractions, accuracies, strict=True))


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  run(
    data_directory=f.data_directory,
    output_file=f.output_file,
    dataset_name=f.dataset_name,
    mode=f.mode,
    sparsity_fraction=parse_fractions(f.sparsity_fraction, 'sparsity_fraction'),
    normalisation=f.normalisation,
    accuracy_constants=parse_constants(f.accuracy_constants),
    null_splits=f.null_splits,
    seed=f.seed,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
