r"""Finds the most frequent prediction of each image, per level of sparsity.

Reads the predictions of all members (the CSVs of `imagenet_predictions`, or
any that have the required columns of `tables.PREDICTIONS`), one folder for
each shard of the data set, one file for each member. Members of one
`pruning_method` and `fraction_pruned` are a level; the level ('baseline', 0)
is the dense population that every other is held against. Writes

  <output_path>/<dataset_name>/modal_labels/<mode>/<shard>/<method>_<level>.csv
    for each image the modal label of the dense and of the pruned population,
    how many members voted for it, and how far apart the votes are;
  <output_path>/<dataset_name>/<mode>_pie_null.csv
    for each level the number of images whose modal labels differ (PIEs), how
    many of them hang on the rule for ties, how many chance alone would give,
    and how far the number moves when other members had been trained.

  python -m pie_dataset_gen.aggregate_predictions \
      --data_directory=runs/digits/results \
      --output_path=runs/digits/results --dataset_name=digits

takes seconds. Shards are independent and read --num_cores at a time, so memory
does not grow with the data set: 180 members x 50,000 images take about the time
in which pandas reads the files. No TensorFlow is needed. What is there, made
from the same predictions, is not made again.

How many PIEs would chance give? Two dense populations differ as well, since
training is random. The dense members are split at random into two halves,
many times, and PIEs are counted between the halves (null_mean); beside it
stands the count between a dense half and as many pruned members
(pruned_half_mean). Only these two are alike in all but the pruning: modal
labels of small populations are noisier, so neither compares to pie_count,
which all members give.
"""

import collections
import concurrent.futures
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import threadpoolctl
from absl import flags, logging
from etils import epath

from utils import (
  command_line,
  csvs,
  paths,
  populations,
  provenance,
  storage,
  tables,
  workers,
)

_SCRIPT = 'aggregate_predictions'
TIE_RULES = ('largest', 'smallest', 'probability')
# Fewer members have too few different halves (four have 3) or resamples for
# an interval to mean anything.
MIN_MEMBERS_INTERVAL = 4
# Whatever else changes predictions: populations that differ in it cannot be
# compared.
_CONDITIONS = ('preprocessing', 'precision')
COLUMNS = (
  'predictions',
  'true_class',
  'predicted_probability',
  'split',
  *_CONDITIONS,
  'image_key',
  'image_index',
  *tables.MEMBER_KEY,
)
# Bounds the memory: text that is parsed, and images that are counted, at once.
_BATCH_BYTES = 32 * 2**20
_BLOCK_IMAGES = 1024

Level = populations.Level
BASELINE = populations.DENSE


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'data_directory',
    None,
    'Folder of predictions: the --output_path of imagenet_predictions, or any '
    "folder or pattern of CSVs; a file's folder is named after its shard.",
    required=True,
  )
  flags.DEFINE_string(
    'output_path', None, 'Folder that results go into.', required=True
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that was predicted.'
  )
  flags.DEFINE_string(
    'dataset_name', 'imagenet', 'Name of the data set, a folder of the results.'
  )
  flags.DEFINE_string(
    'subdirectory',
    '',
    'Name of the one shard to aggregate. Empty: all shards that are there.',
  )
  flags.DEFINE_integer(
    'num_classes',
    0,
    'Classes of the data set: a class id of as many or more is an error. 0: '
    'unknown, nothing is checked.',
    lower_bound=0,
  )
  flags.DEFINE_list(
    'sparsity_fraction',
    [],
    'Levels to compare with the baseline, fractions in [0, 1), separated by '
    'commas. Empty: all levels that are there.',
  )
  flags.DEFINE_string(
    'pruning_method',
    '',
    'Pruning method of the levels to compare. Empty: all that are there.',
  )
  flags.DEFINE_enum(
    'tie_rule',
    'largest',
    TIE_RULES,
    'Which of several labels with as many votes is the modal one: the largest '
    'class id (as in the original), the smallest, or the one whose voters are '
    'surer (mean predicted probability, then the largest class id).',
  )
  flags.DEFINE_integer(
    'num_resamples',
    100,
    'Random halves, and resamples of the members, behind the null and the '
    'intervals of the PIE count. 0: neither is computed.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the random halves and resamples.')
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards aggregated at once, each in a process and memory of its own.',
    lower_bound=1,
  )


class Predictions(NamedTuple):
  """What all members predicted for the images of one shard.

  Attributes:
    members: [members] values of `tables.MEMBER_KEY`, sorted.
    image_key: [images] in the order of image_index.
    image_index: [images].
    true_class: [images].
    label: [images, members] predicted class ids.
    probability: [images, members] of the predicted class.
  """

  members: list[tuple]
  image_key: np.ndarray
  image_index: np.ndarray
  true_class: np.ndarray
  label: np.ndarray
  probability: np.ndarray

  def columns_of(self, level: Level) -> np.ndarray:
    """Columns of the matrices that hold a level's members."""
    return np.flatnonzero(
      [level_of(member) == level for member in self.members]
    )


class Ballots(NamedTuple):
  """The votes for some images: a row for each (image, label with a vote).

  Attributes:
    first: [images] an image's first row; its rows are sorted by label.
    image: [rows] position of the image.
    label: [rows] class id.
    voted: [rows, members] 1.0 where the member voted for the label.
    probability: [rows, members] how sure it was, 0.0 where it did not.
  """

  first: np.ndarray
  image: np.ndarray
  label: np.ndarray
  voted: np.ndarray
  probability: np.ndarray


class Election(NamedTuple):
  """Who won, for each image and each of several populations.

  Attributes:
    row: [images, populations] the modal label's row in the ballots.
    votes: [images, populations] its votes.
    counts: [rows, populations] votes of every label.
  """

  row: np.ndarray
  votes: np.ndarray
  counts: np.ndarray


class Resamples(NamedTuple):
  """Random subsets of one level's and of the dense members, as weights.

  Attributes:
    first_half: [dense, repeats] 1 for members of a dense half, or None.
    second_half: [dense, repeats] 1 for members of another, or None.
    pruned_half: [pruned, repeats] 1 for as many pruned members, or None.
    dense: [dense, repeats] how often a member was drawn, or None.
    pruned: [pruned, repeats] likewise, or None.
  """

  first_half: np.ndarray | None
  second_half: np.ndarray | None
  pruned_half: np.ndarray | None
  dense: np.ndarray | None
  pruned: np.ndarray | None


class ShardCounts(NamedTuple):
  """What a shard adds to the counts of the data set.

  Attributes:
    shard: its name.
    members: [members] values of `tables.MEMBER_KEY`, sorted.
    image_key: [images].
    counts: for each level counts by name; those over resamples are [repeats].
  """

  shard: str
  members: list[tuple]
  image_key: np.ndarray
  counts: dict[Level, dict[str, np.ndarray]]


def level_of(member: tuple) -> Level:
  """The (pruning_method, fraction_pruned) of a member."""
  return Level(member[1], member[2])


def find_shards(
  data_directory: str, dataset_name: str, mode: str, subdirectory: str
) -> dict[str, list[str]]:
  """Lists the files of predictions by the name of their shard.

  Raises:
    FileNotFoundError: there are none.
    ValueError: two folders are named after one shard.
  """
  folder = paths.predictions_folder(data_directory, dataset_name, mode)
  if storage.exists(folder):
    data_directory = folder
  shards = collections.defaultdict(list)
  folders = collections.defaultdict(set)
  for path in csvs.find(tables.PREDICTIONS, data_directory):
    folder = epath.Path(path).parent
    shards[folder.name].append(path)
    folders[folder.name].add(str(folder))
  for name, found in folders.items():
    if len(found) > 1:
      raise ValueError(
        f'shard {name} stands in {len(found)} folders, {sorted(found)[:3]}: '
        'wanted one; name it by a pattern'
      )
  if not subdirectory:
    return dict(sorted(shards.items()))
  if subdirectory not in shards:
    raise FileNotFoundError(
      f'no predictions for shard {subdirectory} in {data_directory}; there are '
      f'{sorted(shards)[:3]}...'
    )
  return {subdirectory: shards[subdirectory]}


def read_shard(
  files: Sequence[str], mode: str, num_classes: int = 0
) -> Predictions:
  """Reads what all members predicted for one shard.

  The files' order and that of their rows do not matter: rows are joined by
  image_key, members are sorted.

  Raises:
    ValueError: a file is no table of predictions, holds more than one member
      or another split; two files hold one member; members differ in their
      images, labels or the way they saw them.
  """
  source = {}
  columns = {}
  first = None
  for path, rows in _read_in_batches(files):
    member = _the_member(path, rows, mode)
    _check_class_ids(path, rows, num_classes)
    if member in source:
      raise ValueError(
        f'{path} and {source[member]} hold the same member '
        f'{dict(zip(tables.MEMBER_KEY, member, strict=True))}'
      )
    source[member] = path
    if first is None:
      by_position = np.lexsort((rows['image_key'], rows['image_index']))
      first = {
        name: rows[name][by_position]
        for name in ('image_key', 'image_index', 'true_class')
      }
      first |= {name: rows[name][:1] for name in _CONDITIONS}
      first |= {'path': path}
    order = _align(path, rows, first)
    # Taken, not sliced: a slice would keep its batch of files in memory.
    columns[member] = (
      rows['predictions'][order],
      rows['predicted_probability'][order],
    )
  members = sorted(columns)
  return Predictions(
    members,
    first['image_key'],
    first['image_index'],
    first['true_class'],
    np.stack([columns[member][0] for member in members], axis=1),
    np.stack([columns[member][1] for member in members], axis=1),
  )


def _read_in_batches(files):
  """Yields each file's path and its columns, a name and an array each."""
  batch, size = [], 0
  for path in files:
    batch.append(path)
    size += epath.Path(path).stat().length
    if size > _BATCH_BYTES or path == files[-1]:
      frame, ends = csvs.read_stacked(tables.PREDICTIONS, batch, COLUMNS)
      columns = {name: frame[name].to_numpy() for name in COLUMNS}
      for name, start, end in zip(batch, [0, *ends[:-1]], ends, strict=True):
        yield name, {c: values[start:end] for c, values in columns.items()}
      batch, size = [], 0


def _the_member(path: str, rows: dict, mode: str) -> tuple:
  """The one member whose predictions a file holds."""
  if not len(rows['image_key']):
    raise ValueError(f'{path} has no rows, wanted the predictions of a member')
  for name in (*tables.MEMBER_KEY, 'split', *_CONDITIONS):
    values = rows[name]
    if not (values == values[0]).all():
      raise ValueError(
        f'{path}: column {name!r} holds {sorted(set(values))[:3]}, wanted the '
        'predictions of one member in a file'
      )
  split = rows['split'][0]
  if split not in ('', mode):
    raise ValueError(f'{path} holds the {split} split, wanted --mode={mode}')
  member = tuple(rows[name][:1].tolist()[0] for name in tables.MEMBER_KEY)
  method, fraction = level_of(member)
  if (
    (method == populations.BASELINE and fraction) or not method or '/' in method
  ):
    raise ValueError(
      f'{path}: pruning_method {method!r} at fraction_pruned {fraction}, '
      "wanted 'baseline' at 0 or one word that names a method"
    )
  return member


def _check_class_ids(path: str, rows: dict, num_classes: int) -> None:
  for name in ('predictions', 'true_class'):
    line = rows[name].argmax()
    if num_classes and rows[name][line] >= num_classes:
      raise ValueError(
        f'{path}: column {name!r} holds {rows[name][line]} in line {line + 2}, '
        f'wanted a class id below --num_classes={num_classes}'
      )


def _align(path: str, rows: dict, first: dict) -> np.ndarray:
  """Order of a file's rows that puts its images in the order of the first."""
  keys, wanted = rows['image_key'], first['image_key']
  order = np.arange(len(keys))
  if len(keys) != len(wanted) or not (keys == wanted).all():
    order = pd.Index(keys).get_indexer(wanted)
    missing = wanted[order < 0]
    extra = np.setdiff1d(keys, wanted)
    if len(missing) or len(extra):
      raise ValueError(
        f'{path} and {first["path"]} hold different images: the former lacks '
        f'{len(missing)} {list(missing[:3])} of the latter and has '
        f'{len(extra)} others {list(extra[:3])}'
      )
  for name, what in (('true_class', 'class'), ('image_index', 'position')):
    values = rows[name][order]
    differs = values != first[name]
    if differs.any():
      i = np.flatnonzero(differs)[0]
      raise ValueError(
        f'{path} and {first["path"]} disagree on the {what} ({name}) of '
        f'{int(differs.sum())} images, for example {wanted[i]!r}: '
        f'{values[i]} and {first[name][i]}'
      )
  for name in _CONDITIONS:
    if rows[name][0] != first[name][0]:
      raise ValueError(
        f'{path} and {first["path"]} were predicted under different '
        f'conditions: {name} is {rows[name][0]!r} and {first[name][0]!r}'
      )
  return order


def collect_ballots(label: np.ndarray, probability: np.ndarray) -> Ballots:
  """Sorts votes by image and label.

  Args:
    label: [images, members] predicted class ids.
    probability: [images, members] of the predicted class.
  """
  images, members = label.shape
  num_labels = int(label.max(initial=0)) + 1
  flat = (np.arange(images)[:, None] * num_labels + label).ravel()
  pairs, row = np.unique(flat, return_inverse=True)
  voted = np.zeros((len(pairs), members), np.float32)
  sure = np.zeros((len(pairs), members))
  member = np.tile(np.arange(members), images)
  voted[row, member] = 1
  sure[row, member] = probability.ravel()
  image = pairs // num_labels
  return Ballots(
    np.searchsorted(image, np.arange(images)),
    image,
    pairs % num_labels,
    voted,
    sure,
  )


def elect(
  ballots: Ballots, weights: np.ndarray, tie_rule: str, columns=slice(None)
) -> Election:
  """The modal label of each image in each of several populations.

  Args:
    ballots: the votes.
    weights: [members, populations] how often a member is in a population;
      every population has at least one.
    tie_rule: one of `TIE_RULES`.
    columns: which members of the ballots the weights are for.
  """
  weights = np.asarray(weights, np.float32)
  counts = (ballots.voted[:, columns] @ weights).astype(np.int64)
  rows = len(ballots.label)
  # An image's rows are sorted by label, so a row's number ranks its label.
  by_label = np.arange(rows)[:, None]
  if tie_rule == 'largest':
    rank, row_of = by_label, None
  elif tie_rule == 'smallest':
    rank, row_of = by_label[::-1], by_label[::-1]
  else:
    sure = ballots.probability[:, columns] @ weights.astype(np.float64)
    # Rounded, so that the order of summation cannot decide.
    sure = np.round(sure / np.maximum(counts, 1), 9)
    row_of = np.argsort(sure, axis=0, kind='stable')
    rank = np.argsort(row_of, axis=0)
  # One number that falls first with the votes, then with the rank.
  best = np.maximum.reduceat(counts * rows + rank, ballots.first, axis=0)
  votes, row = best // rows, best % rows
  if row_of is not None:
    row = np.take_along_axis(np.broadcast_to(row_of, counts.shape), row, axis=0)
  return Election(row, votes, counts)


@functools.lru_cache
def draw_resamples(
  num_dense: int, num_pruned: int, repeats: int, seed: int
) -> Resamples:
  """Draws the halves and resamples of a level.

  They depend on nothing else, so all shards see the same ones (their counts
  add up) and a level's do not change when other levels come or go.
  """
  halves = [None] * 3
  half = _half(num_dense, num_pruned)
  if repeats and half:
    random = np.random.default_rng([seed, 0])
    order = random.random((num_dense, repeats)).argsort(axis=0)
    halves[0] = order < half
    halves[1] = (order >= half) & (order < 2 * half)
    halves[2] = random.random((num_pruned, repeats)).argsort(axis=0) < half
  drawn = [None] * 2
  if repeats and min(num_dense, num_pruned) >= MIN_MEMBERS_INTERVAL:
    random = np.random.default_rng([seed, 1])
    for i, size in enumerate((num_dense, num_pruned)):
      drawn[i] = random.multinomial(size, np.full(size, 1 / size), repeats).T
  return Resamples(*halves, *drawn)


def _half(num_dense: int, num_pruned: int) -> int:
  """Members in each half of the null."""
  return populations.half_size(num_dense, num_pruned)


def count_shard(
  predictions: Predictions,
  levels: Sequence[Level],
  resamples: dict[Level, Resamples],
  tie_rule: str,
) -> tuple[dict[Level, pd.DataFrame], dict[Level, dict[str, np.ndarray]]]:
  """The modal labels of a shard, and what its images add to the null.

  Args:
    predictions: what all members predicted.
    levels: those to hold against the baseline.
    resamples: random subsets of the members, for each level.
    tie_rule: one of `TIE_RULES`.

  Returns:
    For each level the rows of `tables.MODAL_LABELS` but the shard's name, and
    the counts by name; those over resamples have the shape [repeats].
  """
  frames = {level: [] for level in levels}
  counts = {level: collections.Counter() for level in levels}
  for start in range(0, len(predictions.image_key), _BLOCK_IMAGES):
    block = slice(start, start + _BLOCK_IMAGES)
    part = predictions._replace(
      **{
        name: getattr(predictions, name)[block]
        for name in Predictions._fields
        if name != 'members'
      }
    )
    for level, (frame, added) in _count_block(
      part, levels, resamples, tie_rule
    ).items():
      frames[level].append(frame)
      for name, count in added.items():
        counts[level][name] = counts[level][name] + count
  joined = {
    level: pd.concat(parts, ignore_index=True)
    for level, parts in frames.items()
  }
  return joined, counts


def _count_block(part, levels, resamples, tie_rule):
  ballots = collect_ballots(part.label, part.probability)
  columns = {level: part.columns_of(level) for level in (BASELINE, *levels)}
  weights = np.zeros((len(part.members), len(columns)))
  for i, members in enumerate(columns.values()):
    weights[members, i] = 1
  full = elect(ballots, weights, tie_rule)
  at_top = full.counts == full.votes[ballots.image]
  tied = np.add.reduceat(at_top, ballots.first, axis=0, dtype=int) > 1
  # Images on which all members agree are no PIEs in any subset of them.
  contested = np.diff([*ballots.first, len(ballots.label)]) > 1
  some = collect_ballots(part.label[contested], part.probability[contested])
  results = {}
  for i, level in enumerate(levels, 1):
    describe = {}
    for column, who, population in (
      (0, 'baseline', BASELINE),
      (i, 'variant', level),
    ):
      members = columns[population]
      label = part.label[:, members]
      describe |= {
        f'{who}_modal_label': ballots.label[full.row[:, column]],
        f'{who}_number_observ': len(members),
        f'{who}_vote_share': full.votes[:, column] / len(members),
        # Sorted, so that the order of the members cannot change a digit.
        f'{who}_mean_probability': np.sort(
          part.probability[:, members], axis=1
        ).mean(axis=1),
        f'{who}_tied': tied[:, column].astype(int),
        f'{who}_correct_share': (label == part.true_class[:, None]).mean(
          axis=1
        ),
      }
    distance = np.abs(full.counts[:, 0] - full.counts[:, i])
    frame = pd.DataFrame(
      {
        'pruning_method': level[0],
        'pruning_fraction': level[1],
        'image_key': part.image_key,
        'image_index': part.image_index,
        'true_class_label': part.true_class,
        'taxicab_distance': np.add.reduceat(distance, ballots.first),
        **describe,
      }
    )
    pie = full.row[:, 0] != full.row[:, i]
    either_tied = tied[:, 0] | tied[:, i]
    share_a_top_label = np.logical_or.reduceat(
      at_top[:, 0] & at_top[:, i], ballots.first
    )
    counts = {
      'total_images_count': len(pie),
      'pie_count': pie.sum(),
      'baseline_tied_count': tied[:, 0].sum(),
      'variant_tied_count': tied[:, i].sum(),
      'pie_by_tie_rule_count': (pie & share_a_top_label).sum(),
      'non_pie_by_tie_rule_count': (~pie & either_tied).sum(),
    }
    counts |= _count_resampled(
      some, columns[BASELINE], columns[level], resamples[level], tie_rule
    )
    results[level] = frame, counts
  return results


def _count_resampled(ballots, dense, pruned, drawn: Resamples, tie_rule):
  def winners(members, weights):
    if not len(ballots.label):
      return np.zeros((0, weights.shape[1]))
    return elect(ballots, weights, tie_rule, members).row

  counts = {}
  if drawn.first_half is not None:
    first = winners(dense, drawn.first_half)
    second = winners(dense, drawn.second_half)
    half_pruned = winners(pruned, drawn.pruned_half)
    counts['null'] = (first != second).sum(axis=0)
    counts['pruned_half'] = (first != half_pruned).sum(axis=0)
  if drawn.dense is not None:
    differ = winners(dense, drawn.dense) != winners(pruned, drawn.pruned)
    counts['resampled'] = differ.sum(axis=0)
  return counts


def summarise(
  level: Level,
  num_dense: int,
  num_pruned: int,
  counts: dict[str, np.ndarray],
  repeats: int,
  tie_rule: str,
) -> dict[str, object]:
  """A level's row of `tables.PIE_NULL`.

  What too few members cannot give stays empty, and `not_available` says why.
  """
  row = {
    'pruning_method': level[0],
    'pruning_fraction': level[1],
    'baseline_number_observ': num_dense,
    'variant_number_observ': num_pruned,
    'tie_rule': tie_rule,
    **{
      name: int(counts[name])
      for name in (
        'total_images_count',
        'pie_count',
        'baseline_tied_count',
        'variant_tied_count',
        'pie_by_tie_rule_count',
        'non_pie_by_tie_rule_count',
      )
    },
  }
  reasons = []
  if not repeats:
    reasons.append('neither null nor interval: num_resamples is 0')
  elif 'null' not in counts:
    reasons.append(
      f'no null: two halves need 2 dense members, there are {num_dense}'
    )
  else:
    row['half_number_observ'] = _half(num_dense, num_pruned)
    for name in ('null', 'pruned_half'):
      row[f'{name}_mean'] = counts[name].mean()
    if num_dense >= MIN_MEMBERS_INTERVAL:
      for name in ('null', 'pruned_half'):
        row[f'{name}_low'], row[f'{name}_high'] = np.percentile(
          counts[name], (2.5, 97.5)
        )
    else:
      reasons.append(
        f'no interval of the null: it needs {MIN_MEMBERS_INTERVAL} dense '
        f'members, there are {num_dense}'
      )
  if repeats and 'resampled' not in counts:
    reasons.append(
      f'no interval of pie_count: it needs {MIN_MEMBERS_INTERVAL} members of '
      f'each population, there are {num_dense} dense and {num_pruned} pruned'
    )
  elif repeats:
    # Around the count, since resamples hold fewer different members and so
    # disagree more often than the populations themselves. Simulated (400
    # images, 5 to 30 members): this covers the expected count in 93 to 100 %,
    # the resamples' own percentiles in 0 to 5 % where pruning changes little.
    spread = 1.96 * counts['resampled'].std(ddof=1)
    row['pie_count_low'] = max(0.0, row['pie_count'] - spread)
    row['pie_count_high'] = min(
      float(row['total_images_count']), row['pie_count'] + spread
    )
  return {'not_available': '; '.join(reasons), **row}


def aggregate_shard(
  shard: str,
  files: Sequence[str],
  *,
  output_path: str,
  mode: str,
  dataset_name: str,
  num_classes: int,
  sparsity_fraction: Sequence[float],
  pruning_method: str,
  tie_rule: str,
  num_resamples: int,
  seed: int,
) -> ShardCounts:
  """Writes the modal labels of one shard; returns what the null needs."""
  predictions = read_shard(files, mode, num_classes)
  identities = [
    dict(zip(tables.MEMBER_KEY, member, strict=True))
    for member in predictions.members
  ]
  populations.check_alike(identities)
  levels = populations.compressed_levels(
    map(level_of, predictions.members), sparsity_fraction, pruning_method
  )
  size = collections.Counter(map(level_of, predictions.members))
  resamples = {
    level: draw_resamples(size[BASELINE], size[level], num_resamples, seed)
    for level in levels
  }
  # The matrices are small: threads that share one cost more than they save.
  with threadpoolctl.threadpool_limits(1):
    frames, counts = count_shard(predictions, levels, resamples, tie_rule)
  for level, frame in frames.items():
    csvs.write(
      tables.MODAL_LABELS,
      frame.assign(filename=shard),
      paths.modal_labels(output_path, dataset_name, mode, shard, level),
    )
  return ShardCounts(shard, predictions.members, predictions.image_key, counts)


def _map(work, shards: dict[str, list[str]], num_cores: int):
  """Yields the results for all shards in order."""
  number = min(num_cores, len(shards))
  if number == 1:
    yield from map(work, shards, shards.values())
    return
  with workers.processes(number) as pool:
    yield from pool.map(work, shards, shards.values())


def add_up(results: Iterable[ShardCounts], number: int) -> ShardCounts:
  """Adds up the counts of all shards.

  Raises:
    ValueError: an image stands in two shards, or members differ.
  """
  total = None
  seen = {}
  for done, result in enumerate(results, 1):
    if total is None:
      total = result._replace(
        counts={level: collections.Counter() for level in result.counts}
      )
    if result.members != total.members:
      differ = sorted(set(result.members) ^ set(total.members))
      raise ValueError(
        f'shards {total.shard} and {result.shard} were predicted by different '
        f'members: {len(differ)} in one of them only, for example '
        f'{dict(zip(tables.MEMBER_KEY, differ[0], strict=True))}'
      )
    for key in result.image_key:
      if seen.setdefault(key, result.shard) != result.shard:
        raise ValueError(
          f'image {key!r} stands in two shards, {seen[key]} and {result.shard}'
        )
    for level, counts in result.counts.items():
      for name, count in counts.items():
        total.counts[level][name] = total.counts[level][name] + count
    logging.info(
      '%s: %d images, %d members (%d of %d shards)',
      result.shard,
      len(result.image_key),
      len(result.members),
      done,
      number,
    )
  return total


def run(
  data_directory: str,
  output_path: str,
  *,
  mode: str,
  dataset_name: str,
  subdirectory: str = '',
  num_classes: int = 0,
  sparsity_fraction: Sequence[float] = (),
  pruning_method: str = '',
  tie_rule: str = 'largest',
  num_resamples: int = 100,
  seed: int = 0,
  num_cores: int = 1,
) -> pd.DataFrame:
  """Aggregates the predictions of all shards.

  Returns:
    The rows of `tables.PIE_NULL`, which were written.
  """
  if num_resamples < 0 or num_resamples == 1:
    raise ValueError(
      f'num_resamples is {num_resamples}, wanted 2 or more, or 0 for none'
    )
  shards = find_shards(data_directory, dataset_name, mode, subdirectory)
  path = paths.pie_null(output_path, dataset_name, mode, subdirectory)
  folder = epath.Path(
    paths.modal_labels_folder(output_path, dataset_name, mode)
  )
  if subdirectory:
    folder = folder / subdirectory
  settings = {
    'mode': mode,
    'dataset_name': dataset_name,
    'num_classes': num_classes,
    'sparsity_fraction': sorted(sparsity_fraction),
    'pruning_method': pruning_method,
    'tie_rule': tie_rule,
    'num_resamples': num_resamples,
    'seed': seed,
  }
  digest = _digest([f for files in shards.values() for f in files], **settings)
  done = _finished(folder, digest, path)
  if done is not None and all(
    storage.exists(
      paths.modal_labels(output_path, dataset_name, mode, shard, level)
    )
    for shard in shards
    for level in populations.by_level(done)
  ):
    logging.info('%s is there, made from the same predictions', path)
    return done
  work = functools.partial(aggregate_shard, output_path=output_path, **settings)
  total = add_up(_map(work, shards, num_cores), len(shards))
  size = collections.Counter(map(level_of, total.members))
  null = pd.DataFrame(
    [
      summarise(
        level, size[BASELINE], size[level], counts, num_resamples, tie_rule
      )
      for level, counts in total.counts.items()
    ]
  )
  null = null.reindex(columns=[c.name for c in tables.PIE_NULL.columns])
  csvs.write(tables.PIE_NULL, null, path)
  for row in null.to_dict('records'):
    logging.info('%s', _sentence(row))
  logging.info('wrote %s', path)
  # Not the files one by one: there may be 23,040.
  provenance.write(
    str(folder),
    f'pie_dataset_gen.{_SCRIPT}',
    [],
    predictions={'files': sum(map(len, shards.values())), 'digest': digest},
  )
  return null


def _finished(
  folder: epath.Path, digest: str, path: str
) -> pd.DataFrame | None:
  """The null of a former run, if all it depends on is as it was."""
  record = paths.provenance(folder, _SCRIPT)
  if not (storage.exists(record) and storage.exists(path)):
    return None
  former = provenance.read(record).get('predictions')
  if not isinstance(former, dict) or former.get('digest') != digest:
    return None
  return csvs.read(tables.PIE_NULL, path)


def _sentence(row: dict) -> str:
  def number(name):
    return 'n/a' if pd.isna(row[name]) else f'{row[name]:.1f}'

  return (
    f'{row["pruning_method"]} {row["pruning_fraction"]}: {row["pie_count"]} '
    f'PIEs of {row["total_images_count"]} images '
    f'[{number("pie_count_low")}, {number("pie_count_high")}]; between halves: '
    f'{number("null_mean")} by chance, {number("pruned_half_mean")} dense '
    f'against pruned; ties: {row["baseline_tied_count"]} dense, '
    f'{row["variant_tied_count"]} pruned, {row["pie_by_tie_rule_count"]} PIEs '
    f'and {row["non_pie_by_tie_rule_count"]} others hang on the rule '
    f'{row["tie_rule"]!r}. {row["not_available"]}'
  ).rstrip()


def _digest(files: Sequence[str], **settings) -> str:
  """A checksum of all that the results depend on."""

  def checksum(path):
    return hashlib.sha256(epath.Path(path).read_bytes()).hexdigest()

  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for path, text in zip(files, pool.map(checksum, files), strict=True):
      digest.update(f'{path} {text}\n'.encode())
  return digest.hexdigest()


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  try:
    fractions = [float(text) for text in f.sparsity_fraction]
  except ValueError:
    raise ValueError(
      f'--sparsity_fraction={f.sparsity_fraction}, wanted numbers'
    ) from None
  run(
    f.data_directory,
    f.output_path,
    mode=f.mode,
    dataset_name=f.dataset_name,
    subdirectory=f.subdirectory,
    num_classes=f.num_classes,
    sparsity_fraction=fractions,
    pruning_method=f.pruning_method,
    tie_rule=f.tie_rule,
    num_resamples=f.num_resamples,
    seed=f.seed,
    num_cores=f.num_cores,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
