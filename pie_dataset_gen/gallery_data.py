"""What the page of PIEs shows: which images, and who says what of them."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import pandas as pd

from pie_dataset_gen import gallery_images, glossary, solidity
from utils import digests, populations, prediction_files, tables

_VOTE_COLUMNS = (*tables.MEMBER_KEY, 'image_key', 'predictions')


def choose_images(
  labels: pd.DataFrame, others_per_class: int, also: Collection[str] = ()
) -> pd.DataFrame:
  """The images to show: all PIEs, and others of their classes.

  Args:
    labels: rows of `tables.MODAL_LABELS` at all levels.
    others_per_class: how many that are a PIE at no level, for each class that
      has PIEs.
    also: keys of further images.

  Returns:
    The rows of the chosen images, with the further columns is_pie;
    taxicab_rank: 1 for the image of a level on which the votes differ most;
    images that differ as much share the better rank; solidity; and is_drawn:
    whether the image is among the others, which were drawn at random.

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
    solidity=solidity.of_rows(labels),
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
  chosen = {*pies['image_key'], *others['image_key'], *also}
  labels = labels[labels['image_key'].isin(chosen)]
  return labels.assign(is_drawn=labels['image_key'].isin(others['image_key']))


def first_suspects(
  suspects: pd.DataFrame, number: int, labels: pd.DataFrame, source: str
) -> pd.DataFrame:
  """The first rows of `tables.SUSPECTS`.

  Args:
    suspects: all rows.
    number: how many, at most.
    labels: rows of `tables.MODAL_LABELS`.
    source: the file, for the message.

  Raises:
    ValueError: they are not of these images.
  """
  first = suspects.sort_values('rank')[:number]
  labels = labels.drop_duplicates('image_key').set_index('image_key')
  known = labels['true_class_label'].reindex(first['image_key']).to_numpy()
  strange = first.loc[known != first['true_class_label'].to_numpy()]
  if len(strange):
    raise ValueError(
      f'{source} ranks the image {strange["image_key"].iloc[0]!r} of class '
      f'{strange["true_class_label"].iloc[0]}, which the modal labels do not '
      f'have: wanted the suspects of this study ({tables.SUSPECTS.written_by})'
    )
  return first


def count_votes(
  predictions_directory: str,
  chosen: pd.DataFrame,
  mapped: Callable[..., Iterable] = map,
) -> dict[tuple[str, populations.Level], dict[int, int]]:
  """How many members predict which class, for the chosen images.

  Args:
    predictions_directory: one folder for each shard, one CSV for each member.
    chosen: as `choose_images` gives them.
    mapped: as of `workers.mapper`; a shard is a piece.

  Returns:
    (image key, level) -> class id -> members.

  Raises:
    ValueError: predictions and modal labels are not of the same population.
  """
  votes: dict[tuple[str, populations.Level], dict[int, int]] = {}
  shards = prediction_files.find(predictions_directory)
  keys = chosen.groupby('filename')['image_key'].agg(set)
  for shard in keys.index:
    if shard not in shards:
      raise FileNotFoundError(
        f'{predictions_directory} has no predictions for the shard {shard}, of '
        f'which there are modal labels; it has {sorted(shards)[:3]}...'
      )
  of_shards = [shards[shard] for shard in keys.index]
  for counts in mapped(_count_of_shard, of_shards, keys):
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


def _count_of_shard(files: Sequence[str], keys: set[str]) -> pd.Series:
  """How many members predict which class, for the images with these keys."""
  numbers = prediction_files.replicates(files)
  found = pd.concat(
    [
      frame[frame['image_key'].isin(keys)]
      for frame in (
        prediction_files.read_member([path], _VOTE_COLUMNS, numbers)
        for path in files
      )
    ]
  )
  return found.groupby(
    ['image_key', 'pruning_method', 'fraction_pruned', 'predictions']
  ).size()


def check_names(
  names: Sequence[str],
  labels: pd.DataFrame,
  votes: Mapping[tuple[str, populations.Level], Mapping[int, int]],
) -> Sequence[str]:
  """The names of the classes, or their ids where there are none.

  Raises:
    ValueError: a label or prediction is of a class without a name.
  """
  ids = ['true_class_label', 'baseline_modal_label', 'variant_modal_label']
  largest = max(int(labels[ids].max().max()), *map(max, votes.values()), 0)
  if names and largest >= len(names):
    raise ValueError(
      f'labels or predictions are of class {largest}, but {len(names)} classes '
      f'have names, 0 to {len(names) - 1}'
    )
  return names or [str(i) for i in range(largest + 1)]


def page_data(
  chosen: pd.DataFrame,
  totals: Mapping[populations.Level, tuple[int, int]],
  pictures: Mapping[str, gallery_images.Picture],
  votes: Mapping[tuple[str, populations.Level], Mapping[int, int]],
  suspects: pd.DataFrame,
  classes: Sequence[str],
  dataset_name: str,
  mode: str,
  groups: Mapping[str, Collection[str]],
) -> dict[str, object]:
  """What the page's scripts read; the numbers are those of the CSVs.

  Chances (p, q, PIE frequency) have four digits.

  Args:
    chosen: as `choose_images` gives them.
    totals: level -> PIEs and images.
    pictures: by image key.
    votes: as `count_votes` gives them; empty where they are not known.
    suspects: as `first_suspects` gives them.
    classes: [num_classes] their names.
    dataset_name: of the results.
    mode: split.
    groups: group -> keys of its images; empty where there are none.
  """

  def cast(key, level):
    found = votes.get((key, level), {})
    return sorted(found.items(), key=lambda vote: (-vote[1], vote[0]))

  levels = list(totals)
  words = list(solidity.MEANINGS)
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
        'drawn': int(first.is_drawn),
        'compressed': [
          {
            'label': rows[level].variant_modal_label,
            'share': rows[level].variant_vote_share,
            'members': rows[level].variant_number_observ,
            'votes': cast(key, level),
            'taxicab': rows[level].taxicab_distance,
            'rank': rows[level].taxicab_rank,
            'p': _known(rows[level].vote_pvalue),
            'q': _known(rows[level].vote_qvalue),
            'frequency': _known(rows[level].pie_frequency),
            'solidity': words.index(rows[level].solidity),
          }
          for level in levels
        ],
      }
    )
  data: dict[str, object] = {
    'dataset': dataset_name,
    'mode': mode,
    'classes': list(classes),
    'solidity': words,
    'terms': dict(glossary.TERMS),
    'significance': tables.SIGNIFICANCE,
    'levels': [
      {
        'name': level.words,
        'method': level.pruning_method,
        'fraction': level.fraction_pruned,
        'pies': totals[level][0],
        'images': totals[level][1],
      }
      for level in levels
    ],
    'images': images,
  }
  # Answers that a browser keeps belong to this population and to the images
  # that a study draws from, whatever is suspected.
  studied = set(chosen.loc[chosen['is_pie'] | chosen['is_drawn'], 'image_key'])
  drawn_from = [image for image in images if image['key'] in studied]
  about = {key: data[key] for key in ('dataset', 'mode', 'classes', 'levels')}
  data['digest'] = digests.of_bytes(to_json({**about, 'images': drawn_from}))[
    :16
  ]
  data['groups'] = list(groups)
  for image in images:
    image['groups'] = [
      i for i, of in enumerate(groups.values()) if image['key'] in of
    ]
  data['suspects'] = [
    {
      'key': row.image_key,
      'rank': row.rank,
      'agree': row.correct_share,
      'suggested': None
      if pd.isna(row.suggested_label)
      else row.suggested_label,
      'suggesting': row.suggested_share,
      'pies': row.pie_levels,
      'q': _known(row.vote_qvalue),
      'level': row.vote_qvalue_level,
    }
    for row in suspects.itertuples(index=False)
  ]
  return data


def _known(value: float) -> float | None:
  """A chance, to four digits: more are not shown, and weigh megabytes."""
  return None if pd.isna(value) else float(f'{value:.4g}')


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
