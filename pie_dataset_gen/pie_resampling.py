"""How far the number of PIEs moves, and what chance makes of it.

Two kinds of random groups answer. *Permuted memberships* (`utils/membership`)
call any of the members dense: the PIEs between such groups are what chance
gives if compression changed nothing. Random *halves* of both populations say
how far the count moves when other members had been trained, how often an image
is a PIE, and what accuracy on PIEs is worth: PIEs that one half of the members
chose are scored by the other, and PIEs between two dense halves show how much
of a low accuracy is selection.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

from pie_dataset_gen import (
  shard_predictions,
  vote_distance,
  votes,
)
from utils import membership

# Fewer members have too few different halves for an interval.
MIN_MEMBERS_INTERVAL = 4


class Draws(NamedTuple):
  """Random groups of one level's and of the dense members.

  Attributes:
    dense_half: [dense, repeats] whether a member is in the half, or None.
    compressed_half: [compressed, repeats] likewise, or None.
    memberships: the permuted ones, the true one first, or None.
    paired: whether the i-th dense and the i-th compressed member belong
      together.
  """

  dense_half: np.ndarray | None
  compressed_half: np.ndarray | None
  memberships: membership.Memberships | None
  paired: bool


@functools.lru_cache
def draw(
  num_dense: int,
  num_compressed: int,
  repeats: int,
  permutations: int,
  seed: int,
  paired: bool = False,
) -> Draws:
  """Draws the halves and memberships of a level.

  They depend on nothing else, so all shards see the same ones (their counts
  add up) and a level's do not change when other levels come or go.

  Args:
    num_dense: dense members.
    num_compressed: members of the level.
    repeats: halves to draw; 0 for none.
    permutations: memberships to draw beside the true one; 0 for none.
    seed: of both.
    paired: whether the i-th dense and the i-th compressed member belong
      together: pairs are never torn apart.
  """
  halves: list[np.ndarray | None] = [None, None]
  if repeats and min(num_dense, num_compressed) > 1:
    for i, size in enumerate((num_dense, num_compressed)):
      random = np.random.default_rng([seed, 0, 0 if paired else i])
      order = random.random((size, repeats)).argsort(axis=0)
      halves[i] = order < size // 2
  memberships = None
  if permutations:
    memberships = membership.draw_memberships(
      num_dense, num_compressed, permutations, seed, paired
    )
  return Draws(halves[0], halves[1], memberships, paired)


def count_pies(
  predictions: shard_predictions.Predictions,
  dense: np.ndarray,
  compressed: np.ndarray,
  drawn: Draws,
  tie_rule: str,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """PIEs between random groups of the members.

  Args:
    predictions: of some images.
    dense: [dense] columns of the dense members.
    compressed: [compressed] columns of a level's.
    drawn: the groups.
    tie_rule: one of `votes.TIE_RULES`.

  Returns:
    Columns of `tables.MODAL_LABELS` by name, [images] each: how often an image
    is a PIE between halves. And sums over the images by name: of PIEs, and of
    shares of members that are right about PIEs, [repeats] or [ways] each.
  """
  both = np.concatenate([dense, compressed])
  label = predictions.label[:, both]
  # Images on which all agree are a PIE between no groups.
  contested = np.flatnonzero((label != label[:, :1]).any(axis=1))
  images: dict[str, np.ndarray] = {}
  label = label[contested]
  ballots = votes.collect_ballots(
    label, predictions.probability[np.ix_(contested, both)]
  )
  right = label == predictions.true_class[contested, None]

  def winners(weights, columns=slice(None)):
    if not len(contested):
      return np.zeros((0, weights.shape[1]))
    return votes.elect(ballots, weights, tie_rule, columns).row

  sums: dict[str, np.ndarray] = {}
  if drawn.dense_half is not None and drawn.compressed_half is not None:
    half, other = drawn.dense_half, ~drawn.dense_half
    of_dense, of_level = slice(len(dense)), slice(len(dense), None)
    won = winners(half, of_dense)
    pie = won != winners(drawn.compressed_half, of_level)
    chance = won != winners(other, of_dense)
    images['pie_frequency'] = np.zeros(len(predictions.label))
    images['pie_frequency'][contested] = pie.mean(axis=1)
    sums['half_pies'] = pie.sum(axis=0)
    sums['chance_pies'] = chance.sum(axis=0)
    for who, of, others in (
      ('baseline', of_dense, other),
      ('variant', of_level, ~drawn.compressed_half),
    ):
      share = right[:, of].mean(axis=1, keepdims=True)
      held_out = right[:, of].astype(np.float32) @ others / others.sum(axis=0)
      sums[f'chance_{who}'] = (share * chance).sum(axis=0)
      sums[f'held_out_{who}'] = (held_out * pie).sum(axis=0)
  if drawn.memberships is not None:
    is_dense = drawn.memberships.is_dense
    first, second = winners(is_dense), winners(~is_dense)
    sums['permuted_pies'] = (first != second).sum(axis=0)
    # |share of dense votes - share of compressed ones|, in whole numbers.
    distance = np.abs(ballots.voted @ drawn.memberships.weights.astype('f4'))
    sums['permuted_taxicab'] = distance.sum(axis=0, dtype=np.float64)
  return images, sums


def interval(
  half_pies: np.ndarray, num_dense: int, num_compressed: int, paired: bool
) -> float:
  """Half the width of the 95 % interval of the number of PIEs.

  By half-sampling: between random halves, drawn without replacement, the count
  varies as much as between populations of the full size, since half of the
  members are left out each time (times h / (n - h) where n is odd; Shao & Wu
  1989, "A general theory for jackknife variance estimation": deleting many
  members serves statistics that are not smooth, as a mode is not). Their mean
  is another: fewer members disagree more. Resampling with replacement doubles
  the width, and deleting one member does for many.

  Args:
    half_pies: [repeats] counts between halves.
    num_dense: dense members.
    num_compressed: members of the level.
    paired: whether they are pairs, of which halves were drawn.
  """
  sizes = np.array([num_dense, num_compressed])
  kept = (sizes // 2) / (sizes - sizes // 2)
  # Satterthwaite's, of two means of members that vary alike.
  freedom = (1 / sizes).sum() ** 2 / (1 / sizes**2 / (sizes - 1)).sum()
  if paired:
    freedom = num_dense - 1
  return float(
    stats.t.ppf(0.975, freedom) * half_pies.std(ddof=1) * np.mean(kept) ** 0.5
  )


def summarise(
  sums: dict[str, np.ndarray],
  agreement: np.ndarray,
  num_dense: int,
  num_compressed: int,
  drawn: Draws,
) -> dict[str, object]:
  """What the sums over all images say: cells of `tables.PIE_NULL`.

  What too few members cannot give stays empty, and `not_available` says why.

  Args:
    sums: of `count_pies`, with `pie_count` and `total_images_count`.
    agreement: [members, members] images on which two agree, the dense first.
    num_dense: dense members.
    num_compressed: members of the level.
    drawn: the groups.
  """
  row: dict[str, object] = {}
  reasons = []
  members = f'there are {num_dense} dense and {num_compressed} compressed'
  if drawn.dense_half is None:
    reasons.append(
      f'no halves: they need 2 members of each population, {members}'
      if min(num_dense, num_compressed) < 2
      else 'no halves: num_resamples is 0'
    )
  else:
    # Of pairs, dense halves are no chance: they differ in all that training
    # leaves to it, the two of a pair do not.
    for chosen in ('held_out',) if drawn.paired else ('chance', 'held_out'):
      pies = sums['chance_pies' if chosen == 'chance' else 'half_pies'].sum()
      for who in ('baseline', 'variant'):
        if pies:
          right = sums[f'{chosen}_{who}'].sum() / pies
          row[f'{chosen}_{who}_accuracy'] = round(min(1.0, float(right)), 12)
    if min(num_dense, num_compressed) < MIN_MEMBERS_INTERVAL:
      reasons.append(
        f'no interval of pie_count: it needs {MIN_MEMBERS_INTERVAL} members of '
        f'each population, {members}'
      )
    else:
      width = interval(
        sums['half_pies'], num_dense, num_compressed, drawn.paired
      )
      row['pie_count_low'] = max(0.0, sums['pie_count'] - width)
      row['pie_count_high'] = min(
        float(sums['total_images_count']), sums['pie_count'] + width
      )
  if drawn.memberships is None:
    reasons.append('no test: num_permutations is 0')
  else:
    pies = sums['permuted_pies']
    others = pies[1:]
    row['permutations'] = len(others)
    row['permuted_mean'] = float(others.mean())
    low, high = np.percentile(others, (2.5, 97.5))
    row['permuted_low'], row['permuted_high'] = low, high
    row['pie_pvalue'] = float(membership.pvalue(pies))
    row['taxicab_pvalue'] = float(membership.pvalue(sums['permuted_taxicab']))
    row['energy_pvalue'] = float(
      membership.pvalue(
        vote_distance.energy(agreement, drawn.memberships.weights)
      )
    )
    row['smallest_pvalue'] = drawn.memberships.smallest_pvalue
  return {**row, 'not_available': '; '.join(reasons)}
