r"""Says how much more the compressed models lose off the clean distribution.

Reads, without TensorFlow,
  --robustness_directory   CSVs of imagenet_corruptions (utils/tables.py:
                           ROBUSTNESS)
  --clean_directory        CSVs of aggregate_ckpt_metrics on the clean images,
                           for the loss of accuracy relative to that on clean
                           images, and for the relative mean corruption error;
                           may be left out

Writes
  <output_directory>/robustness_summary.csv
      `tables.ROBUSTNESS_SUMMARY`
  <output_directory>/robustness_summary.{png,svg}
      top-1 and the error relative to the dense models', by corruption

For each level, corruption and severity: top-1 with a 95 % interval
over models, error relative to the dense models (1 is as good as they), loss of
accuracy against them, and that loss relative to the loss on clean images (1 is
as much as there). Severity 0 is the mean over severities, corruption 'all' the
mean over corruptions. For ImageNet-C (--dataset_name=imagenet_c) also the mean
corruption error, normalised by AlexNet's published errors, by name: of all 15
corruptions at 5 severities, or, with --allow_partial, of those that are there.
The four further ones that TFDS has are in rows of their own only.

Clean images are those of --clean_directory, as many as were corrupted. For
PIEs on corrupted images these are the clean PIEs: imagenet_corruptions on the
clean data set with the same --modal_labels measures them apart as well.

Models that measured other sets, sets with other numbers of images, models that
are not among the clean ones: each is an error, and nothing is averaged over it.

  python -m robustness_tests.summarize --study=runs/digits

takes seconds.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from absl import flags, logging
from scipy import stats

from robustness_tests import summary_figure
from utils import (
  command_line,
  csvs,
  paths,
  populations,
  provenance,
  storage,
  tables,
)

# Mean error of AlexNet over the five severities; it normalises the corruption
# error (arXiv 1903.12261; the six digits as augmix's imagenet.py has them).
ALEXNET_ERROR = {
  'gaussian_noise': 0.886428,
  'shot_noise': 0.894468,
  'impulse_noise': 0.922640,
  'defocus_blur': 0.819880,
  'glass_blur': 0.826268,
  'motion_blur': 0.785948,
  'zoom_blur': 0.798360,
  'snow': 0.866816,
  'frost': 0.826572,
  'fog': 0.819324,
  'brightness': 0.564592,
  'contrast': 0.853204,
  'elastic_transform': 0.646056,
  'pixelate': 0.717840,
  'jpeg_compression': 0.606500,
}
ALEXNET_CLEAN_ERROR = 0.4348
# Names that TFDS's first version used.
_SYNONYMS = {'frosted_glass_blur': 'glass_blur', 'elastic': 'elastic_transform'}
# Further ones, for validation, which are in no mean.
_EXTRA = ('gaussian_blur', 'saturate', 'spatter', 'speckle_noise')
_SEVERITIES = (1, 2, 3, 4, 5)
# 75 sets by 150 members are 11 million rows: not all in memory at once.
_FILES_AT_A_TIME = 256
_SET = ['corruption', 'corruption_intensity']
_MODEL = list(tables.MEMBER_KEY)
_COLUMNS = (
  'class_id',
  'eval_accuracy',
  'top_5_eval_accuracy',
  *tables.MEMBER_KEY,
  'split',
  'dataset_name',
  *_SET,
  'num_images',
  'preprocessing',
  'compute_precision',
  'made_from',
)
# Numbers are compared only where these agree.
_CONDITIONS = ('split', 'preprocessing', 'compute_precision')
ALL = summary_figure.ALL
IMAGENET_C = 'imagenet_c'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'robustness_directory',
    '',
    'Folder at or above the CSVs of imagenet_corruptions for one data set, or '
    'a pattern of them.',
  )
  flags.DEFINE_string(
    'clean_directory',
    '',
    'Folder or pattern of CSVs of aggregate_ckpt_metrics on clean images; '
    'empty: what needs them is not available.',
  )
  flags.DEFINE_string(
    'output_directory', '', 'Folder that the summary and its figure go into.'
  )
  flags.DEFINE_boolean(
    'allow_partial',
    False,
    'Write the mean corruption error of fewer than 15 corruptions at 5 '
    'severities; num_corruptions says of how many.',
  )


def read_models(files: Sequence[str]) -> pd.DataFrame:
  """Reads one row for each model and set.

  Raises:
    ValueError: the models have not measured the same sets of images in the
      same way, or the files hold several data sets.
  """
  # Of a file's rows, one for each class, all but the class is the same.
  frame = pd.concat(
    [
      csvs.read_all(
        tables.ROBUSTNESS, files[start : start + _FILES_AT_A_TIME], _COLUMNS
      )
      .drop(columns='class_id')
      .drop_duplicates()
      for start in range(0, len(files), _FILES_AT_A_TIME)
    ],
    ignore_index=True,
  )
  for name in ('dataset_name', *_CONDITIONS):
    values = sorted(set(frame[name]))
    if len(values) > 1:
      raise ValueError(
        f'column {name!r} holds {values} in different files, wanted one: name '
        'the folder or pattern of one'
      )
  is_corrupted = frame['corruption'] != ''
  at_fault = frame[is_corrupted != (frame['corruption_intensity'] > 0)]
  if len(at_fault):
    raise ValueError(
      f'the set {at_fault[_SET].iloc[0].to_dict()} is none: wanted a '
      'corruption with a severity of 1 to 5, or neither'
    )
  if frame['dataset_name'].iloc[0] == IMAGENET_C:
    frame['corruption'] = frame['corruption'].replace(_SYNONYMS)
  reserved = frame['corruption'] == ALL
  if reserved.any():
    raise ValueError(f'a corruption is called {ALL!r}, which means their mean')
  _check_repeated(frame, [*_MODEL, *_SET], 'was measured more than once')
  _check_repeated(
    frame,
    [name for name in _MODEL if name != 'global_step'] + _SET,
    'was measured at several steps',
  )
  sizes = frame.drop_duplicates('num_images').set_index(_SET)['num_images']
  if len(sizes) > 1:
    raise ValueError(
      'the sets have different numbers of images, wanted copies of the same '
      f'ones: {sizes.to_dict()}'
    )
  everything = set(map(tuple, frame[_SET].to_numpy()))
  for model, rows in frame.groupby(_MODEL):
    missing = everything - set(map(tuple, rows[_SET].to_numpy()))
    if missing:
      raise ValueError(
        f'the model {_named(model)} lacks {sorted(missing)[:4]}, which other '
        'models have'
      )
  severities = frame.groupby('corruption')['corruption_intensity'].agg(
    lambda values: tuple(sorted(set(values)))
  )
  if len(set(severities)) > 1:
    raise ValueError(
      'corruptions have different severities: '
      f'{severities.drop_duplicates().to_dict()}'
    )
  return frame.sort_values([*_MODEL, *_SET], ignore_index=True)


def _named(model: tuple) -> str:
  return ', '.join(f'{n} {v}' for n, v in zip(_MODEL, model, strict=True))


def _check_repeated(frame: pd.DataFrame, columns: list[str], what: str) -> None:
  repeated = frame.duplicated(columns)
  if repeated.any():
    row = frame[repeated].iloc[0]
    raise ValueError(
      f'{row["corruption"]}_{row["corruption_intensity"]} {what} by the model '
      f'{_named(row[_MODEL])}'
    )


def add_clean(models: pd.DataFrame, clean_files: Sequence[str]) -> pd.DataFrame:
  """Adds clean_accuracy, each model's top-1 on clean images.

  Args:
    models: as `read_models` gives them.
    clean_files: CSVs of `tables.CLASS_METRICS`; they may hold more models.

  Raises:
    ValueError: a model is not in them, or they are of other images than the
      corrupted ones are copies of, or were measured in another way.
  """
  clean = csvs.read_all(
    tables.CLASS_METRICS,
    clean_files,
    ('class_id', 'support', 'eval_accuracy', *_MODEL, *_CONDITIONS),
  )
  for name in _CONDITIONS:
    values = sorted({*clean[name], *models[name]} - {''})
    if len(values) > 1:
      raise ValueError(
        f'{clean_files[0]} and the like, and the corrupted images, hold '
        f'{values} in the column {name!r}, wanted one'
      )
  clean = clean.groupby(_MODEL).agg(
    accuracy=('eval_accuracy', 'first'), num_images=('support', 'sum')
  )
  found = clean.reindex(pd.MultiIndex.from_frame(models[_MODEL]))
  if found['accuracy'].isna().any():
    model = found.index[found['accuracy'].isna()][0]
    raise ValueError(f'no clean class metrics of the model {_named(model)}')
  found = found.set_index(models.index)
  differ = found['num_images'] != models['num_images']
  differ &= models['corruption'] != ''
  if differ.any():
    raise ValueError(
      f'{models["num_images"][differ].iloc[0]} images were corrupted, those of '
      f'--clean_directory are {found["num_images"][differ].iloc[0]:g}: wanted '
      'the same images (of PIEs, or of all others, measure the clean ones with '
      'the same --modal_labels)'
    )
  return models.assign(clean_accuracy=found['accuracy'])


def with_means(models: pd.DataFrame, averaged: Collection[str]) -> pd.DataFrame:
  """Adds rows for means over severities (0) and corruptions ('all').

  Args:
    models: as `read_models` gives them.
    averaged: the corruptions that 'all' is the mean of.
  """
  values = [
    name
    for name in ('eval_accuracy', 'top_5_eval_accuracy', 'clean_accuracy')
    if name in models
  ]
  over_severities = (
    models.groupby([*_MODEL, 'corruption'], as_index=False)[values]
    .mean()
    .assign(corruption_intensity=0)
  )
  together = pd.concat([models, over_severities], ignore_index=True)
  over_corruptions = (
    together[together['corruption'].isin(averaged)]
    .groupby([*_MODEL, 'corruption_intensity'], as_index=False)[values]
    .mean()
    .assign(corruption=ALL)
  )
  # A set that has no severities is its own mean.
  return pd.concat([together, over_corruptions], ignore_index=True)[
    [*_MODEL, *_SET, *values]
  ].drop_duplicates([*_MODEL, *_SET])


def mean_interval(values: np.ndarray) -> tuple[float, float]:
  """95 % interval of a mean, by Student's t; NaN for fewer than two values."""
  if len(values) < 2:
    return np.nan, np.nan
  half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return values.mean() - half, values.mean() + half


def ratio_interval(
  values: np.ndarray, reference: np.ndarray, paired: bool = False
) -> tuple[float, float]:
  """95 % interval of mean(values) / mean(reference), both of them samples.

  The logarithm of a mean has about the standard error sem / mean; the two add
  up as in Welch's test, or are those of one sample of pairs. NaN for fewer than
  two values or a mean of 0.
  """
  if min(len(values), len(reference)) < 2:
    return np.nan, np.nan
  means = np.array([values.mean(), reference.mean()])
  if not means.all():
    return np.nan, np.nan
  parts = [values / means[0], reference / means[1]]
  if paired:
    parts = [parts[0] - parts[1]]
  variances = np.array([stats.sem(part) for part in parts]) ** 2
  quantile = _welch_quantile(variances, *map(len, parts))
  half = quantile * np.sqrt(variances.sum())
  ratio = means[0] / means[1]
  return ratio * np.exp(-half), ratio * np.exp(half)


def _welch_quantile(variances: np.ndarray, *sizes: int) -> float:
  """97.5 % quantile of t for a sum of the variances of samples' means."""
  freedom = np.array(sizes) - 1
  if variances.any():
    freedom = variances.sum() ** 2 / (variances**2 / freedom).sum()
  return stats.t.ppf(0.975, freedom.sum())


def relative_loss(
  compressed: np.ndarray, dense: np.ndarray, paired: bool = False
) -> tuple[float, float, float]:
  """Loss of accuracy relative to that on clean images, with 95 % interval.

  The loss is mean(dense) - mean(compressed). The interval is Fieller's: the
  ratios r at which a t-test by Welch finds no difference between dense and
  compressed models in accuracy - r * clean accuracy.

  Args:
    compressed: [2, models] accuracy on the images, and on clean ones.
    dense: [2, models] the same of dense models.
    paired: whether each was made from the dense one in its place: then the test
      is that of pairs.

  Returns:
    The ratio, NaN where nothing is lost on clean images, and the ends of its
    interval, NaN for fewer than two models, or where the loss on clean images
    is not significant: no ratio is too large then.
  """
  loss, clean_loss = dense.mean(axis=1) - compressed.mean(axis=1)
  if clean_loss <= 0:
    return np.nan, np.nan, np.nan
  ratio = loss / clean_loss
  samples = [compressed - dense] if paired else [compressed, dense]
  sizes = [sample.shape[1] for sample in samples]
  if min(sizes) < 2:
    return ratio, np.nan, np.nan
  of_each = np.array([np.cov(sample) / sample.shape[1] for sample in samples])
  weights = np.array([1, -ratio])
  squared = _welch_quantile(weights @ of_each @ weights, *sizes) ** 2
  # The roots r of (loss - r * clean_loss) ** 2 = squared * its variance.
  of_means = squared * of_each.sum(axis=0)
  last = clean_loss**2 - of_means[1, 1]
  if last <= 0:
    return ratio, np.nan, np.nan
  middle = loss * clean_loss - of_means[0, 1]
  first = loss**2 - of_means[0, 0]
  half = np.sqrt(max(middle**2 - first * last, 0))
  return ratio, (middle - half) / last, (middle + half) / last


def mean_corruption_error(
  errors: Mapping[str, float], clean_error: float | None = None
) -> float:
  """Mean corruption error, as a fraction: 1 is as good as AlexNet.

  mCE = mean over corruptions c of E(c) / A(c), where E(c) is the error over
  the five severities and A(c) AlexNet's; the relative one takes E(c) - clean
  and A(c) - 0.4348 (arXiv 1903.12261).

  Args:
    errors: corruption -> mean error over severities, in [0, 1].
    clean_error: the model's error on clean images, for the relative one.

  Raises:
    ValueError: a corruption is not of ImageNet-C, or there is none.
  """
  unknown = sorted(set(errors) - set(ALEXNET_ERROR))
  if unknown or not errors:
    raise ValueError(
      f'{unknown or "nothing"}: not of the 15 corruptions of ImageNet-C, '
      f'wanted some of {sorted(ALEXNET_ERROR)}'
    )
  above, alexnet_above = 0.0, 0.0
  if clean_error is not None:
    above, alexnet_above = clean_error, ALEXNET_CLEAN_ERROR
  return float(
    np.mean(
      [
        (errors[name] - above) / (alexnet - alexnet_above)
        for name, alexnet in ALEXNET_ERROR.items()
        if name in errors
      ]
    )
  )


def is_partial(models: pd.DataFrame, allow_partial: bool) -> bool:
  """Says whether corruptions or severities of ImageNet-C are missing.

  Raises:
    ValueError: they are and that was not allowed, or a corruption is unknown.
      Names which.
  """
  found = set(models['corruption'])
  unknown = sorted(found - set(ALEXNET_ERROR) - set(_EXTRA))
  if unknown:
    raise ValueError(
      f'{unknown} are no corruptions of ImageNet-C, wanted '
      f'{sorted(ALEXNET_ERROR)}'
    )
  missing = sorted(set(ALEXNET_ERROR) - found)
  severities = sorted(set(models['corruption_intensity']))
  if not missing and severities == list(_SEVERITIES):
    return False
  lack = (
    'the mean corruption error is over 15 corruptions at 5 severities; '
    f'missing are {missing}, the severities are {severities}'
  )
  if not allow_partial:
    raise ValueError(
      f'{lack}: measure the rest, or ask for a partial one with --allow_partial'
    )
  logging.warning('Partial: %s', lack)
  return True


def corruption_errors(
  models: pd.DataFrame,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Mean corruption error of each model, and the relative one.

  Args:
    models: rows of `with_means`, of models of one level.
  """
  rows = models[
    (models['corruption_intensity'] == 0)
    & models['corruption'].isin(ALEXNET_ERROR)
  ]
  absolute, relative = [], []
  for _, model in rows.groupby(_MODEL):
    errors = dict(
      zip(model['corruption'], 1 - model['eval_accuracy'], strict=True)
    )
    absolute.append(mean_corruption_error(errors))
    if 'clean_accuracy' in model:
      clean_error = 1 - model['clean_accuracy'].iloc[0]
      relative.append(mean_corruption_error(errors, clean_error))
  return np.array(absolute), np.array(relative) if relative else None


def summarize(models: pd.DataFrame, partial: bool | None) -> pd.DataFrame:
  """The summary of one data set.

  Args:
    models: as `read_models` gives them, maybe with clean_accuracy.
    partial: whether the mean corruption error lacks corruptions or
      severities; None for data sets that AlexNet's errors are not of.

  Returns:
    Rows of `tables.ROBUSTNESS_SUMMARY`.

  Raises:
    ValueError: there is no dense model.
  """
  averaged = set(models['corruption'])
  if partial is not None:
    averaged &= set(ALEXNET_ERROR)
  frame = with_means(models, averaged)
  by_level = populations.by_level(frame)
  if populations.DENSE not in by_level:
    raise ValueError(
      'no dense model (pruning_method '
      f'{populations.BASELINE!r}, fraction_pruned 0) among the files, wanted '
      'some to compare with'
    )
  dense = dict(list(by_level[populations.DENSE].groupby(_SET)))
  members = models[[*_MODEL, 'made_from']].drop_duplicates(_MODEL)
  paired = populations.paired_levels(
    members.to_dict('records'),
    [level for level in by_level if not level.is_dense],
  )
  rows = []
  for level, of_level in by_level.items():
    for which, part in of_level.groupby(_SET):
      row = {
        'dataset_name': models['dataset_name'].iloc[0],
        'pruning_method': level.pruning_method,
        'fraction_pruned': level.fraction_pruned,
        'corruption': which[0],
        'corruption_intensity': which[1],
        'num_models': len(part),
        'num_corruptions': len(averaged) if which[0] == ALL else 1,
        'is_paired': int(level in paired),
        **_beside_dense(part, dense[which], level.is_dense, level in paired),
      }
      if which == (ALL, 0) and partial is not None:
        row |= {**_corruption_error_cells(of_level), 'is_partial': int(partial)}
      rows.append(row)
  columns = [column.name for column in tables.ROBUSTNESS_SUMMARY.columns]
  return pd.DataFrame(rows).reindex(columns=columns)


def _beside_dense(
  part: pd.DataFrame, dense: pd.DataFrame, is_dense: bool, paired: bool
) -> dict[str, float]:
  """What the models of a level lose on one set, beside the dense ones."""
  accuracy = part['eval_accuracy'].to_numpy()
  reference = dense['eval_accuracy'].to_numpy()
  low, high = np.clip(mean_interval(accuracy), 0, 1)
  row = {
    'mean_accuracy': accuracy.mean(),
    'mean_accuracy_low': low,
    'mean_accuracy_high': high,
    'mean_top_5_accuracy': part['top_5_eval_accuracy'].mean(),
    'accuracy_loss': reference.mean() - accuracy.mean(),
  }
  if reference.mean() < 1:
    error = 1 - accuracy, 1 - reference
    row['relative_error'] = error[0].mean() / error[1].mean()
    if not is_dense:
      low, high = ratio_interval(*error, paired)
      row |= {'relative_error_low': low, 'relative_error_high': high}
  if 'clean_accuracy' in part:
    row['clean_accuracy_loss'] = (
      dense['clean_accuracy'].mean() - part['clean_accuracy'].mean()
    )
    if not is_dense:
      pair = ['eval_accuracy', 'clean_accuracy']
      names = (f'relative_accuracy_loss{end}' for end in ('', '_low', '_high'))
      values = relative_loss(
        part[pair].to_numpy().T, dense[pair].to_numpy().T, paired
      )
      row |= dict(zip(names, values, strict=True))
  return row


def _corruption_error_cells(of_level: pd.DataFrame) -> dict[str, float]:
  """The mean corruption errors of a level, with their intervals."""
  cells: dict[str, float] = {}
  absolute, relative = corruption_errors(of_level)
  for name, values in (
    ('mean_corruption_error', absolute),
    ('relative_mean_corruption_error', relative),
  ):
    if values is not None:
      low, high = mean_interval(values)
      cells |= {name: values.mean(), f'{name}_low': low, f'{name}_high': high}
  return cells


def run(
  robustness_directory: str,
  clean_directory: str,
  output_directory: str,
  allow_partial: bool,
) -> None:
  """Writes the summary and its figure; the arguments are the flags."""
  summary_path = paths.robustness_summary(output_directory)
  inputs = [
    path
    for path in csvs.find(tables.ROBUSTNESS, robustness_directory)
    if storage.name(path) != storage.name(summary_path)
  ]
  if not inputs:
    raise FileNotFoundError(
      f'no CSV of robustness below {robustness_directory} '
      f'({tables.ROBUSTNESS.written_by} writes it)'
    )
  record = provenance.Provenance(
    output_directory,
    'robustness_tests.summarize',
    {'allow_partial': allow_partial},
  )
  models = read_models(inputs)
  partial = None
  if models['dataset_name'].iloc[0] == IMAGENET_C:
    partial = is_partial(models, allow_partial)
  if clean_directory:
    clean_files = csvs.find(tables.CLASS_METRICS, clean_directory)
    models = add_clean(models, clean_files)
    provenance.check_same_networks(
      *(
        (files[0], table.written_by)
        for files, table in (
          (inputs, tables.ROBUSTNESS),
          (clean_files, tables.CLASS_METRICS),
        )
      )
    )
    inputs += clean_files
  summary = summarize(models, partial)
  record.start()
  csvs.write(tables.ROBUSTNESS_SUMMARY, summary, summary_path)
  figures = {
    kind: paths.robustness_figure(output_directory, kind)
    for kind in ('png', 'svg')
  }
  summary_figure.draw(summary, figures)
  record.finish(
    inputs, outputs=provenance.outputs(output_directory, figures.values())
  )
  logging.info('wrote %s', summary_path)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'robustness_directory': 'robustness', 'output_directory': 'robustness'},
    {'clean_directory': 'class_metrics'},
  )
  run(
    f.robustness_directory,
    f.clean_directory,
    f.output_directory,
    f.allow_partial,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
