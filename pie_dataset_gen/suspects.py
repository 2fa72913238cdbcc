"""The order in which a person should look at labels.

A pure function on the modal labels of all levels.
"""

from collections.abc import Sequence

import pandas as pd

from utils import populations

_IMAGE = ['image_key', 'filename', 'image_index', 'true_class_label']
COLUMNS = (
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


def rank(
  labels: pd.DataFrame,
  names: Sequence[str],
  sort_by: str = SORTED_BY[0],
  max_qvalue: float = 1.0,
) -> pd.DataFrame:
  """Ranks images.

  Args:
    labels: rows of `tables.MODAL_LABELS` at all levels.
    names: [num_classes] of the classes; empty for the class ids.
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
  names = list(names) or [str(i) for i in range(largest + 1)]
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
