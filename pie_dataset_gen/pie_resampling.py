"""How many PIEs chance alone gives: halves, and resamples, of the members.

Two dense populations differ as well, since training is random. PIEs between
random halves of the dense members say how much; resamples of all members say
how far the count moves when other members had been trained.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from pie_dataset_gen import shard_predictions, votes
from utils import populations

# Fewer members have too few different halves (four have 3) or resamples for
# an interval to mean anything.
MIN_MEMBERS_INTERVAL = 4


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


@functools.lru_cache
def draw(num_dense: int, num_pruned: int, repeats: int, seed: int) -> Resamples:
  """Draws the halves and resamples of a level.

  They depend on nothing else, so all shards see the same ones (their counts
  add up) and a level's do not change when other levels come or go.
  """
  halves: list[np.ndarray | None] = [None] * 3
  half = populations.half_size(num_dense, num_pruned)
  if repeats and half:
    random = np.random.default_rng([seed, 0])
    order = random.random((num_dense, repeats)).argsort(axis=0)
    halves[0] = order < half
    halves[1] = (order >= half) & (order < 2 * half)
    halves[2] = random.random((num_pruned, repeats)).argsort(axis=0) < half
  drawn: list[np.ndarray | None] = [None] * 2
  if repeats and min(num_dense, num_pruned) >= MIN_MEMBERS_INTERVAL:
    random = np.random.default_rng([seed, 1])
    for i, size in enumerate((num_dense, num_pruned)):
      drawn[i] = random.multinomial(size, np.full(size, 1 / size), repeats).T
  return Resamples(*halves, *drawn)


def contested_ballots(
  predictions: shard_predictions.Predictions,
) -> votes.Ballots:
  """The votes for the images that may be PIEs in some subset of the members.

  Images on which all members agree are no PIEs in any.
  """
  label = predictions.label
  contested = (label != label[:, :1]).any(axis=1)
  return votes.collect_ballots(
    label[contested], predictions.probability[contested]
  )


def count_pies(
  ballots: votes.Ballots,
  dense: np.ndarray,
  compressed: np.ndarray,
  drawn: Resamples,
  tie_rule: str,
) -> dict[str, np.ndarray]:
  """PIEs between the random subsets of the members.

  Args:
    ballots: as `contested_ballots` gives them.
    dense: [dense] columns of the ballots.
    compressed: [compressed] likewise.
    drawn: the subsets.
    tie_rule: one of `votes.TIE_RULES`.

  Returns:
    Counts by name, [repeats] each; those that too few members give are absent.
  """

  def winners(members, weights):
    if not len(ballots.label):
      return np.zeros((0, weights.shape[1]))
    return votes.elect(ballots, weights, tie_rule, members).row

  counts = {}
  if drawn.first_half is not None:
    first = winners(dense, drawn.first_half)
    second = winners(dense, drawn.second_half)
    half_pruned = winners(compressed, drawn.pruned_half)
    counts['null'] = (first != second).sum(axis=0)
    counts['pruned_half'] = (first != half_pruned).sum(axis=0)
  if drawn.dense is not None:
    differ = winners(dense, drawn.dense) != winners(compressed, drawn.pruned)
    counts['resampled'] = differ.sum(axis=0)
  return counts


def summarise(
  level: populations.Level,
  num_dense: int,
  num_pruned: int,
  counts: dict[str, np.ndarray],
  repeats: int,
  tie_rule: str,
) -> dict[str, object]:
  """A level's row of `tables.PIE_NULL`.

  What too few members cannot give stays empty, and `not_available` says why.
  """
  row: dict[str, Any] = {
    'pruning_method': level.pruning_method,
    'pruning_fraction': level.fraction_pruned,
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
    row['half_number_observ'] = populations.half_size(num_dense, num_pruned)
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
