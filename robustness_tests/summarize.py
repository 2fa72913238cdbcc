r"""Says how much more the pruned models lose off the clean distribution.

Reads, without TensorFlow,
  --data_directory   CSVs of imagenet_corruptions (utils/tables.py: ROBUSTNESS)
  --clean_directory  CSVs of aggregate_ckpt_metrics on the clean images, for
                     the loss of accuracy beside that on clean images, and for
                     the relative mean corruption error; may be left out

Writes
  <dest_dir>/robustness_summary.csv        (utils/tables.py: ROBUSTNESS_SUMMARY)
  <dest_dir>/robustness_summary.{png,svg}  top-1 and the error relative to the
                                           dense models', by corruption

For each level of sparsity, corruption and severity: top-1 with a 95 % interval
over models, error relative to the dense models (1 is as good as they), loss of
accuracy against them. Severity 0 is the mean over severities, corruption 'all'
the mean over corruptions. For ImageNet-C (--dataset_name=imagenet_c) also the
mean corruption error, normalised by AlexNet's published errors, by name: of all
15 corruptions at 5 severities, or, with --allow_partial, of those that are
there.

  python -m robustness_tests.summarize \
      --data_directory=runs/digits/results/robustness/digits_c \
      --clean_directory=runs/digits/results/digits/class_metrics/eval \
      --dest_dir=runs/digits/results/robustness

takes seconds.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from absl import flags, logging
from matplotlib import figure as mpl_figure
from scipy import stats

from utils import command_line, paths, tables

FLAGS = flags.FLAGS
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
_SEVERITIES = (1, 2, 3, 4, 5)
_LEVEL = ['pruning_method', 'fraction_pruned']
_SET = ['corruption', 'corruption_intensity']
_MODEL = list(tables.MEMBER_KEY)
_COLUMNS = (
  'class_id',
  'eval_accuracy',
  'top_5_eval_accuracy',
  *tables.MEMBER_KEY,
  'dataset_name',
  *_SET,
  'num_images',
)
ALL = 'all'


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'data_directory', '', 'Folder or pattern of CSVs of imagenet_corruptions.'
  )
  flags.DEFINE_string(
    'clean_directory',
    '',
    'Folder or pattern of CSVs of aggregate_ckpt_metrics on clean images; '
    'empty: what needs them is not available.',
  )
  flags.DEFINE_string('dest_dir', '', 'Folder of the results.')
  flags.DEFINE_boolean(
    'allow_partial',
    False,
    'Write the mean corruption error of fewer than 15 corruptions at 5 '
    'severities; num_corruptions says of how many.',
  )


def read_models(files: Sequence[str]) -> pd.DataFrame:
  """Reads one row for each model and set.

  Raises:
    ValueError: the models have not measured the same sets of images, or the
      files hold several data sets.
  """
  frame = tables.read_all(tables.ROBUSTNESS, files, _COLUMNS)
  frame = frame.drop_duplicates([*_MODEL, 'dataset_name', *_SET])
  frame = frame.drop(columns='class_id')
  frame['corruption'] = frame['corruption'].replace(_SYNONYMS)
  names = sorted(set(frame['dataset_name']))
  if len(names) > 1:
    raise ValueError(
      f'the files hold the data sets {names}, wanted one: name its folder'
    )
  sizes = frame.groupby(_SET)['num_images'].nunique()
  if (sizes > 1).any():
    raise ValueError(
      f'models have seen different numbers of images of {sizes.idxmax()}'
    )
  everything = set(map(tuple, frame[_SET].to_numpy()))
  for model, rows in frame.groupby(_MODEL):
    missing = everything - set(map(tuple, rows[_SET].to_numpy()))
    if missing:
      raise ValueError(
        f'the model {dict(zip(_MODEL, model, strict=True))} lacks '
        f'{sorted(missing)[:4]}, which other models have'
      )
  severities = frame.groupby('corruption')['corruption_intensity'].agg(
    lambda values: tuple(sorted(set(values)))
  )
  if len(set(severities)) > 1:
    raise ValueError(
      'corruptions have different severities: '
      f'{severities.drop_duplicates().to_dict()}'
    )
  return frame


def with_means(models: pd.DataFrame) -> pd.DataFrame:
  """Adds rows for means over severities (0) and corruptions ('all')."""
  values = ['eval_accuracy', 'top_5_eval_accuracy']
  over_severities = (
    models.groupby([*_MODEL, 'corruption'], as_index=False)[values]
    .mean()
    .assign(corruption_intensity=0)
  )
  by_severity = (
    models.groupby([*_MODEL, 'corruption_intensity'], as_index=False)[values]
    .mean()
    .assign(corruption=ALL)
  )
  overall = (
    over_severities.groupby(_MODEL, as_index=False)[values]
    .mean()
    .assign(corruption=ALL, corruption_intensity=0)
  )
  columns = [*_MODEL, *_SET, *values]
  together = pd.concat(
    [models[columns], over_severities, by_severity, overall], ignore_index=True
  )
  # A set that has no severities is its own mean.
  return together.drop_duplicates([*_MODEL, *_SET])


def mean_interval(values: np.ndarray) -> tuple[float, float]:
  """95 % interval of a mean, by Student's t; NaN for fewer than two values."""
  if len(values) < 2:
    return np.nan, np.nan
  half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return max(0.0, values.mean() - half), min(1.0, values.mean() + half)


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
    ValueError: a corruption is not of ImageNet-C.
  """
  unknown = sorted(set(errors) - set(ALEXNET_ERROR))
  if unknown:
    raise ValueError(
      f'{unknown} are no corruptions of ImageNet-C, wanted some of '
      f'{sorted(ALEXNET_ERROR)}'
    )
  above, alexnet_above = clean_error or 0.0, 0.0
  if clean_error is not None:
    alexnet_above = ALEXNET_CLEAN_ERROR
  return float(
    np.mean(
      [
        (error - above) / (ALEXNET_ERROR[name] - alexnet_above)
        for name, error in errors.items()
      ]
    )
  )


def check_complete(models: pd.DataFrame, allow_partial: bool) -> None:
  """Refuses the mean corruption error of an incomplete set.

  Raises:
    ValueError: names what is missing or unknown.
  """
  found = set(models['corruption'])
  unknown = sorted(found - set(ALEXNET_ERROR))
  if unknown:
    raise ValueError(
      f'{unknown} are no corruptions of ImageNet-C, wanted '
      f'{sorted(ALEXNET_ERROR)}'
    )
  missing = sorted(set(ALEXNET_ERROR) - found)
  severities = sorted(set(models['corruption_intensity']))
  if not allow_partial and (missing or severities != list(_SEVERITIES)):
    raise ValueError(
      'the mean corruption error is over 15 corruptions at 5 severities; '
      f'missing are {missing}, the severities are {severities}: measure the '
      'rest, or ask for a partial one with --allow_partial'
    )


def summarize(
  models: pd.DataFrame,
  clean: Mapping[tuple[str, float], float] | None,
  has_corruption_error: bool,
) -> pd.DataFrame:
  """The summary of one data set.

  Args:
    models: as `read_models` gives them.
    clean: (pruning_method, fraction_pruned) -> mean top-1 on clean images.
    has_corruption_error: whether AlexNet's errors are those of this data set.

  Returns:
    Rows of `tables.ROBUSTNESS_SUMMARY`.

  Raises:
    ValueError: there is no dense model, or no clean accuracy for a level.
  """
  frame = with_means(models)
  rows = []
  for (method, fraction, corruption, severity), part in frame.groupby(
    [*_LEVEL, *_SET]
  ):
    accuracy = part['eval_accuracy'].to_numpy()
    low, high = mean_interval(accuracy)
    rows.append(
      {
        'pruning_method': method,
        'fraction_pruned': fraction,
        'corruption': corruption,
        'corruption_intensity': severity,
        'num_models': len(part),
        'mean_accuracy': accuracy.mean(),
        'mean_accuracy_low': low,
        'mean_accuracy_high': high,
        'mean_top_5_accuracy': part['top_5_eval_accuracy'].mean(),
      }
    )
  summary = pd.DataFrame(rows)
  dense = summary[summary['fraction_pruned'] == 0].set_index(_SET)
  if dense.empty:
    raise ValueError(
      'no dense model (fraction_pruned 0) among the files, wanted some to '
      'compare with'
    )
  dense = dense['mean_accuracy']
  reference = dense.reindex(pd.MultiIndex.from_frame(summary[_SET])).to_numpy()
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = (1 - summary['mean_accuracy']) / (1 - reference)
  summary['relative_error'] = ratio.where(np.isfinite(ratio))
  summary['accuracy_loss'] = reference - summary['mean_accuracy']
  summary['clean_accuracy_loss'] = np.nan
  summary['mean_corruption_error'] = np.nan
  summary['relative_mean_corruption_error'] = np.nan
  is_all = summary['corruption'] == ALL
  number = models['corruption'].nunique()
  summary['num_corruptions'] = np.where(is_all, number, 1)
  for level, part in summary.groupby(_LEVEL):
    if clean is not None:
      for wanted in (level, ('baseline', 0.0)):
        if wanted not in clean:
          raise ValueError(
            f'no clean class metrics of {wanted}, there are {sorted(clean)}'
          )
      summary.loc[part.index, 'clean_accuracy_loss'] = (
        clean['baseline', 0.0] - clean[level]
      )
    if not has_corruption_error:
      continue
    by_corruption = part[
      (part['corruption'] != ALL) & (part['corruption_intensity'] == 0)
    ]
    errors = dict(
      zip(
        by_corruption['corruption'],
        1 - by_corruption['mean_accuracy'],
        strict=True,
      )
    )
    where = part.index[
      (part['corruption'] == ALL) & (part['corruption_intensity'] == 0)
    ]
    summary.loc[where, 'mean_corruption_error'] = mean_corruption_error(errors)
    if clean is not None:
      summary.loc[where, 'relative_mean_corruption_error'] = (
        mean_corruption_error(errors, 1 - clean[level])
      )
  return summary.assign(dataset_name=models['dataset_name'].iloc[0])


def read_clean(files: Sequence[str]) -> dict[tuple[str, float], float]:
  """(pruning_method, fraction_pruned) -> mean top-1 over models."""
  frame = tables.read_all(
    tables.CLASS_METRICS, files, ('class_id', 'eval_accuracy', *_MODEL)
  ).drop_duplicates(_MODEL)
  return frame.groupby(_LEVEL)['eval_accuracy'].mean().to_dict()


def draw(summary: pd.DataFrame, write: Mapping[str, str]) -> None:
  """Draws top-1 and relative error by corruption and level.

  Args:
    summary: rows of `tables.ROBUSTNESS_SUMMARY`.
    write: file format -> path.
  """
  means = summary[summary['corruption_intensity'] == 0]
  corruptions = [
    *sorted(set(means['corruption']) - {ALL}),
    *([ALL] if ALL in set(means['corruption']) else []),
  ]
  levels = sorted(
    {tuple(level) for level in means[_LEVEL].to_numpy()},
    key=lambda level: (level[1], level[0]),
  )
  colours = mpl.colormaps['viridis'](np.linspace(0, 0.85, len(levels)))
  figure = mpl_figure.Figure(
    figsize=(max(6, 1.1 * len(corruptions) + 2), 6.5), layout='constrained'
  )
  axes = figure.subplots(2, 1, sharex=True)
  width = 0.8 / len(levels)
  for number, (level, colour) in enumerate(zip(levels, colours, strict=True)):
    part = means[(means[_LEVEL] == list(level)).all(axis=1)]
    part = part.set_index('corruption').loc[corruptions]
    place = (
      np.arange(len(corruptions)) + (number - (len(levels) - 1) / 2) * width
    )
    bars = part['mean_accuracy'].to_numpy()
    ends = part[['mean_accuracy_low', 'mean_accuracy_high']].to_numpy().T
    label = 'dense' if level[1] == 0 else f'{level[0]}, {level[1]:g} pruned'
    axes[0].bar(
      place,
      bars,
      width * 0.9,
      yerr=np.abs(np.nan_to_num(ends, nan=0) - bars)
      if np.isfinite(ends).all()
      else None,
      color=colour,
      error_kw={'elinewidth': 1, 'capsize': 2, 'ecolor': '0.3'},
      label=label,
    )
    axes[1].bar(
      place, part['relative_error'].to_numpy(), width * 0.9, color=colour
    )
  axes[0].set_ylabel('top-1')
  axes[0].set_ylim(0, 1)
  axes[0].legend(
    frameon=False, ncols=len(levels), loc='lower left', bbox_to_anchor=(0, 1)
  )
  axes[1].axhline(1, color='0.3', linewidth=1)
  axes[1].set_ylabel('error / error of dense')
  axes[1].set_xticks(
    range(len(corruptions)),
    [name.replace('_', ' ') or 'images' for name in corruptions],
    rotation=30,
    ha='right',
  )
  for axis in axes:
    axis.spines[['top', 'right']].set_visible(False)
  # Without date and version, so that equal tables give equal files.
  metadata = {'svg': {'Date': None, 'Creator': None}, 'png': {'Software': None}}
  for kind, path in write.items():
    data = io.BytesIO()
    with mpl.rc_context({'svg.hashsalt': 'robustness'}):
      figure.savefig(data, format=kind, dpi=150, metadata=metadata[kind])
    paths.write_complete(path, data.getvalue())


def run(
  data_directory: str,
  clean_directory: str,
  dest_dir: str,
  allow_partial: bool,
) -> None:
  """Writes the summary and its figure; the arguments are the flags."""
  if not dest_dir:
    raise ValueError('--dest_dir is empty, wanted a folder')
  summary_path = paths.robustness_summary(dest_dir)
  files = [
    path
    for path in paths.find_csvs(data_directory, 'robustness')
    if path != summary_path
  ]
  if not files:
    raise FileNotFoundError(f'no CSV of robustness below {data_directory}')
  models = read_models(files)
  is_imagenet_c = set(models['dataset_name']) == {'imagenet_c'}
  if is_imagenet_c:
    check_complete(models, allow_partial)
  clean, clean_files = None, []
  if clean_directory:
    clean_files = paths.find_csvs(clean_directory, 'class metrics')
    clean = read_clean(clean_files)
  summary = summarize(models, clean, is_imagenet_c)
  tables.write(tables.ROBUSTNESS_SUMMARY, summary, summary_path)
  draw(
    summary,
    {kind: paths.robustness_figure(dest_dir, kind) for kind in ('png', 'svg')},
  )
  command_line.write_provenance(
    dest_dir, 'robustness_tests.summarize', [*files, *clean_files]
  )
  logging.info('wrote %s', summary_path)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  run(
    FLAGS.data_directory,
    FLAGS.clean_directory,
    FLAGS.dest_dir,
    FLAGS.allow_partial,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
