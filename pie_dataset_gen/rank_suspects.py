r"""Ranks images by how much their label should be looked at.

Reads the modal labels of all levels, as aggregate_predictions wrote them, and
writes <results_directory>/<dataset_name>/<mode>_suspects.csv (utils/tables.py:
SUSPECTS), a row for each image. First come the labels that fewest members of
the populations agree with, dense and compressed ones counting alike; among
equals those for which most members suggest one and the same other label. A
threshold on correct_share, or the first rows, are the images for a person to
look at; gallery shows the first ones.

  python -m pie_dataset_gen.rank_suspects --study=runs/digits

With --sort_by=vote_qvalue those images come first on which dense and compressed
members differ most surely (pie_dataset_gen/solidity.py), and --max_qvalue=0.05
leaves only those where that is more than chance: what compression changed, be
the label right or wrong. An image's q-value is its smallest over levels times
the number of levels, at most 1: with many levels one is small by chance.

Does it find errors? Of labels that were made wrong on purpose, nearly all
(tests/benchmarks/label_errors.py; docs/label_errors.md has the figures). Being
a PIE hardly says more about that than chance, which is why it does not decide
the rank.
"""

from collections.abc import Sequence

import pandas as pd
from absl import flags, logging
from etils import epath

from utils import (
  command_line,
  csvs,
  image_records,
  paths,
  populations,
  provenance,
  tables,
)

_IMAGE = ['image_key', 'filename', 'image_index', 'true_class_label']
_COLUMNS = (
  *_IMAGE,
  'pruning_method',
  'pruning_fraction',
  'baseline_modal_label',
  'baseline_number_observ',
  'baseline_vote_share',
  'baseline_correct_share',
  'variant_modal_label',
  'variant_number_observ',
  'variant_vote_share',
  'variant_correct_share',
  'taxicab_distance',
  'vote_pvalue',
  'vote_qvalue',
  'pie_frequency',
)
SORTED_BY = ('correct_share', 'vote_qvalue')


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: modal labels are read there, and this goes there.',
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of image_records.json, for the names of the classes. Empty: their '
    'ids.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study or '
    "of --data_directory, or 'imagenet'.",
  )
  flags.DEFINE_enum(
    'sort_by',
    SORTED_BY[0],
    SORTED_BY,
    'What decides about the rank: how few members agree with the label, or how '
    'surely dense and compressed members differ.',
  )
  flags.DEFINE_float(
    'max_qvalue',
    1.0,
    'Leaves out images whose smallest q-value over levels, times the number of '
    'levels, is larger, or that have none; 0.05 leaves those that are solid. '
    '1: none is left out.',
    lower_bound=0.0,
    upper_bound=1.0,
  )


def rank(
  labels: pd.DataFrame,
  class_names: Sequence[str],
  sort_by: str = SORTED_BY[0],
  max_qvalue: float = 1.0,
) -> pd.DataFrame:
  """Ranks images.

  Args:
    labels: rows of `tables.MODAL_LABELS` at all levels.
    class_names: [num_classes]; empty for the class ids.
    sort_by: one of `SORTED_BY`; the other order decides among equals.
    max_qvalue: images with a larger q-value, corrected for the number of
      levels, or none, are left out if it is less than 1.

  Returns:
    Rows of `tables.SUSPECTS`.

  Raises:
    ValueError: levels differ in their images or classes, or a class has no
      name.
  """
  levels = labels.groupby(populations.level_columns(labels))
  sizes = levels.size()
  described = labels[_IMAGE].drop_duplicates()
  if (sizes != len(described)).any():
    raise ValueError(
      f'the levels have {sizes.to_dict()} images, {len(described)} different '
      'ones in all: wanted the same images, in their places and classes, at '
      'all levels'
    )
  ids = ['true_class_label', 'baseline_modal_label', 'variant_modal_label']
  largest = int(labels[ids].max().max())
  names = list(class_names) or [str(i) for i in range(largest + 1)]
  if largest >= len(names):
    raise ValueError(
      f'the modal labels name class {largest}, the data set has classes 0 to '
      f'{len(names) - 1}'
    )
  compressed = labels.set_index('image_key')
  dense = compressed[~compressed.index.duplicated()]
  votes = (
    compressed['baseline_number_observ'] + compressed['variant_number_observ']
  )
  pies = populations.is_pie(compressed)
  # A row for each image and population.
  of_populations = pd.concat(
    [
      of[['true_class_label']].assign(
        modal=of[f'{who}_modal_label'],
        vote_share=of[f'{who}_vote_share'],
        correct_share=of[f'{who}_correct_share'],
      )
      for of, who in ((dense, 'baseline'), (compressed, 'variant'))
    ]
  )
  others = of_populations.query('modal != true_class_label')
  suggested = (
    (_sum(others, ['image_key', 'modal'], 'vote_share') / (len(sizes) + 1))
    .reset_index()
    # Of labels that as many suggest, the smallest.
    .sort_values(['vote_share', 'modal'], ascending=[False, True])
    .drop_duplicates('image_key')
    .set_index('image_key')
  )
  correct = _sum(of_populations, ['image_key'], 'correct_share')
  taxicab = compressed.assign(share=compressed['taxicab_distance'] / votes)
  frame = described.set_index('image_key').assign(
    correct_share=correct / (len(sizes) + 1),
    pie_levels=pies.groupby('image_key').sum(),
    taxicab_share=_sum(taxicab, ['image_key'], 'share') / len(sizes),
    suggested_label=suggested['modal'].astype('Int64'),
    suggested_share=suggested['vote_share'],
    pie_frequency=_sum(compressed, ['image_key'], 'pie_frequency')
    / compressed.groupby('image_key')['pie_frequency'].count(),
    **_smallest_qvalue(compressed, len(sizes)),
  )
  frame['suggested_share'] = frame['suggested_share'].fillna(0.0)
  frame['vote_qvalue_level'] = frame['vote_qvalue_level'].fillna('')
  by_agreement = ['correct_share', 'suggested_share', 'image_key']
  first = [] if sort_by == by_agreement[0] else [sort_by]
  # Images without a q-value come last.
  frame = frame.reset_index().sort_values(
    [*first, *by_agreement],
    ascending=[*(True for _ in first), True, False, True],
  )
  if max_qvalue < 1:
    frame = frame[frame['vote_qvalue'] <= max_qvalue]
  return frame.assign(
    rank=range(1, len(frame) + 1),
    **{
      'class': [names[i] for i in frame['true_class_label']],
      'suggested_class': [
        '' if pd.isna(i) else names[i] for i in frame['suggested_label']
      ],
    },
  )


def _smallest_qvalue(
  labels: pd.DataFrame, num_levels: int
) -> dict[str, pd.Series]:
  """By image key the smallest q-value over levels, and the level.

  Each level's q-values are corrected for its images. That the smallest was
  chosen is corrected by the number of levels (Bonferroni).

  Args:
    labels: rows of `tables.MODAL_LABELS`, by image key.
    num_levels: levels that it was chosen from.
  """
  levels = populations.level_columns(labels)
  first = (
    labels.dropna(subset='vote_qvalue')
    .reset_index()
    .sort_values(['vote_qvalue', *levels])
    .drop_duplicates('image_key')
    .set_index('image_key')
  )
  return {
    'vote_qvalue': (num_levels * first['vote_qvalue']).clip(upper=1),
    'vote_qvalue_level': pd.Series(
      [populations.level_of(row).words for row in first.to_dict('records')],
      first.index,
      str,
    ),
  }


def _sum(frame: pd.DataFrame, by: list[str], column: str) -> pd.Series:
  """Sums by group, sorted first: no order of the rows changes a digit.

  Of numbers that there are; NaN where there are none.
  """
  sums = frame.sort_values(column).groupby(by)[column].sum(min_count=1)
  # Rounded: equal shares are equal, whatever the last digit of the sum.
  return sums.round(12)


def run(
  results_directory: str,
  *,
  mode: str,
  dataset_name: str = '',
  data_directory: str = '',
  sort_by: str = SORTED_BY[0],
  max_qvalue: float = 1.0,
) -> pd.DataFrame:
  """Writes the ranking; returns its rows.

  Raises:
    FileNotFoundError: there are no modal labels.
    ValueError: they are damaged, or without q-values that were asked for.
  """
  names: tuple[str, ...] = ()
  if data_directory:
    records = image_records.read(data_directory)
    names = records.class_names
    dataset_name = dataset_name or records.name
  dataset_name = dataset_name or 'imagenet'
  files = csvs.find(
    tables.MODAL_LABELS,
    paths.modal_labels_folder(results_directory, dataset_name, mode),
  )
  labels = csvs.read_all(tables.MODAL_LABELS, files, _COLUMNS)
  wants_q = sort_by == 'vote_qvalue' or max_qvalue < 1
  if wants_q and labels['vote_pvalue'].isna().all():
    raise ValueError(
      f'the modal labels in {files[0]} and the like have no p-values of '
      'images, which --sort_by=vote_qvalue and --max_qvalue go by: wanted '
      'those that aggregate_predictions makes with --num_permutations'
    )
  ranked = rank(labels, names, sort_by, max_qvalue)
  path = paths.suspects(results_directory, dataset_name, mode)
  csvs.write(tables.SUSPECTS, ranked, path)
  wrong = (ranked['correct_share'] < 0.5).sum()
  logging.info(
    'wrote %s: fewer than half of the members agree with %d of %d labels',
    path,
    wrong,
    len(ranked),
  )
  provenance.write(
    str(epath.Path(path).parent), 'pie_dataset_gen.rank_suspects', files
  )
  return ranked


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f, {'results_directory': 'results'}, {'data_directory': 'data'}
  )
  run(
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name,
    data_directory=f.data_directory,
    sort_by=f.sort_by,
    max_qvalue=f.max_qvalue,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
