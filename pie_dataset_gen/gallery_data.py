"""What the page of PIEs shows: which images, and who says what of them."""

import json
from collections.abc import Mapping

import pandas as pd
from etils import epath

from pie_dataset_gen import gallery_images
from utils import csvs, digests, image_records, populations, tables

LABEL_COLUMNS = (
  'pruning_method',
  'pruning_fraction',
  'filename',
  'image_key',
  'true_class_label',
  'baseline_modal_label',
  'baseline_number_observ',
  'baseline_vote_share',
  'variant_modal_label',
  'variant_number_observ',
  'variant_vote_share',
  'taxicab_distance',
)
_VOTE_COLUMNS = (*tables.MEMBER_KEY, 'image_key', 'predictions')


def choose_images(labels: pd.DataFrame, others_per_class: int) -> pd.DataFrame:
  """The images to show: all PIEs, and others of their classes.

  Args:
    labels: rows of `tables.MODAL_LABELS` at all levels.
    others_per_class: how many that are a PIE at no level, for each class that
      has PIEs.

  Returns:
    The rows of the chosen images, with the further columns is_pie and
    taxicab_rank: 1 for the image of a level on which the votes differ most;
    images that differ as much share the better rank.

  Raises:
    ValueError: the levels do not have the same images, classes and dense
      modal labels.
  """
  of_level = populations.level_columns(labels)
  labels = labels.sort_values([*of_level, 'image_key'], kind='stable')
  shared = [
    'image_key',
    'filename',
    'true_class_label',
    'baseline_modal_label',
    'baseline_number_observ',
    'baseline_vote_share',
  ]
  of_levels = [
    (level, rows[shared].reset_index(drop=True))
    for level, rows in populations.by_level(labels).items()
  ]
  first_level, others = of_levels[0]
  for level, rows in of_levels[1:]:
    if not rows.equals(others):
      raise ValueError(
        f'the modal labels at {tuple(first_level)} and {tuple(level)} differ '
        'in their images, classes or dense modal labels: wanted all levels '
        'from one run of aggregate_predictions'
      )
  labels = labels.assign(
    is_pie=populations.is_pie(labels),
    taxicab_rank=labels.groupby(of_level)['taxicab_distance']
    .rank(method='min', ascending=False)
    .astype(int),
  )
  pies = labels.loc[labels['is_pie'], ['image_key', 'true_class_label']]
  others = others[
    ~others['image_key'].isin(pies['image_key'])
    & others['true_class_label'].isin(pies['true_class_label'])
  ]
  # A random choice that depends on nothing but the keys.
  by_chance = others['image_key'].map(digests.of_bytes)
  others = (
    others.assign(by_chance=by_chance)
    .sort_values('by_chance')
    .groupby('true_class_label')
    .head(others_per_class)
  )
  chosen = {*pies['image_key'], *others['image_key']}
  return labels[labels['image_key'].isin(chosen)]


def count_votes(
  predictions_directory: str, chosen: pd.DataFrame
) -> dict[tuple[str, populations.Level], dict[int, int]]:
  """How many members predict which class, for the chosen images.

  Args:
    predictions_directory: one folder for each shard, one CSV for each member.
    chosen: as `choose_images` gives them.

  Returns:
    (image key, level) -> class id -> members.

  Raises:
    ValueError: predictions and modal labels are not of the same population.
  """
  votes: dict[tuple[str, populations.Level], dict[int, int]] = {}
  for shard, rows in chosen.groupby('filename'):
    files = csvs.find(
      tables.PREDICTIONS, str(epath.Path(predictions_directory) / shard)
    )
    keys = set(rows['image_key'])
    found = pd.concat(
      [
        frame[frame['image_key'].isin(keys)]
        for frame in (
          csvs.read(tables.PREDICTIONS, path, _VOTE_COLUMNS) for path in files
        )
      ]
    )
    counts = found.groupby(
      ['image_key', 'pruning_method', 'fraction_pruned', 'predictions']
    ).size()
    for (key, method, fraction, label), number in counts.items():
      votes.setdefault((key, populations.Level(method, fraction)), {})[
        label
      ] = number
  for row in chosen.itertuples(index=False):
    level = populations.Level(row.pruning_method, row.pruning_fraction)
    for who, population in (
      ('baseline', populations.DENSE),
      ('variant', level),
    ):
      cast = votes.get((row.image_key, population), {})
      number = getattr(row, f'{who}_number_observ')
      label = getattr(row, f'{who}_modal_label')
      agree = round(getattr(row, f'{who}_vote_share') * number)
      if sum(cast.values()) != number or cast.get(label, 0) != agree:
        raise ValueError(
          f'the modal labels of {row.image_key!r} at {tuple(population)} count '
          f'{agree} of {number} votes for class {label}, the predictions in '
          f'{predictions_directory} {cast.get(label, 0)} of '
          f'{sum(cast.values())}: wanted the predictions that '
          'aggregate_predictions read'
        )
  return votes


def page_data(
  chosen: pd.DataFrame,
  totals: Mapping[populations.Level, tuple[int, int]],
  pictures: Mapping[str, gallery_images.Picture],
  votes: Mapping[tuple[str, populations.Level], Mapping[int, int]],
  records: image_records.ImageRecords,
  dataset_name: str,
  mode: str,
) -> dict[str, object]:
  """What the page's scripts read; the numbers are those of the CSVs.

  Args:
    chosen: as `choose_images` gives them.
    totals: level -> PIEs and images.
    pictures: by image key.
    votes: as `count_votes` gives them; empty where they are not known.
    records: for the names of the classes.
    dataset_name: of the results.
    mode: split.
  """

  def cast(key, level):
    found = votes.get((key, level), {})
    return sorted(found.items(), key=lambda vote: (-vote[1], vote[0]))

  levels = list(totals)
  images = []
  for key, rows in chosen.groupby('image_key'):
    picture = pictures[key]
    rows = {
      populations.Level(row.pruning_method, row.pruning_fraction): row
      for row in rows.itertuples(index=False)
    }
    first = rows[levels[0]]
    images.append(
      {
        'key': key,
        'shard': first.filename,
        'label': first.true_class_label,
        'large': picture.large,
        'small': picture.small,
        'size': [picture.width, picture.height],
        'dense': {
          'label': first.baseline_modal_label,
          'share': first.baseline_vote_share,
          'members': first.baseline_number_observ,
          'votes': cast(key, populations.DENSE),
        },
        'pruned': [
          {
            'label': rows[level].variant_modal_label,
            'share': rows[level].variant_vote_share,
            'members': rows[level].variant_number_observ,
            'votes': cast(key, level),
            'taxicab': rows[level].taxicab_distance,
            'rank': rows[level].taxicab_rank,
          }
          for level in levels
        ],
      }
    )
  data: dict[str, object] = {
    'dataset': dataset_name,
    'mode': mode,
    'classes': records.class_names,
    'levels': [
      {
        'method': level.pruning_method,
        'fraction': level.fraction_pruned,
        'pies': totals[level][0],
        'images': totals[level][1],
      }
      for level in levels
    ],
    'images': images,
  }
  # Answers that a browser keeps belong to this population and these images.
  data['digest'] = digests.of_bytes(to_json(data))[:16]
  return data


def pies_of(chosen: pd.DataFrame) -> list[list[int]]:
  """For each level and each image, in the order of `page_data`, 1 for a PIE.

  Args:
    chosen: as `choose_images` gives them.
  """
  return [
    rows.sort_values('image_key')['is_pie'].astype(int).tolist()
    for rows in populations.by_level(chosen).values()
  ]


def to_json(data: object) -> str:
  """JSON without spaces."""
  # Numbers of numpy and pandas know their Python value.
  return json.dumps(
    data, separators=(',', ':'), default=lambda value: value.item()
  )
