"""The exact test of a level on random subsets of its members.

How small would p have been with fewer members? The exact test is made
again on n dense and n compressed members out of all, many times. Subsets share
members, the more the larger they are: those of nearly all members say the same
thing, and their number is no number of independent studies.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from pie_dataset_gen import vote_distance
from utils import membership


class SubsetTests(NamedTuple):
  """What tests of n dense and n compressed members say.

  Attributes:
    smallest: the smallest p that any predictions of so many can give.
    pvalues: [subsets] empty where there are not so many members.
  """

  smallest: float
  pvalues: np.ndarray


def draw_subsets(
  num_dense: int,
  num_compressed: int,
  size: int,
  number: int,
  seed: int,
  paired: bool = False,
) -> np.ndarray:
  """Positions of the members of random subsets, all where they are no more.

  Args:
    num_dense: the first so many members are dense.
    num_compressed: those that follow.
    size: members of either kind in a subset.
    number: subsets to draw.
    seed: of the draws.
    paired: whether the i-th dense and the i-th compressed member belong
      together, and are in a subset together.

  Returns:
    [subsets, 2 size] the dense ones first, each in rising order.
  """
  groups = [np.arange(num_dense)]
  if not paired:
    groups.append(num_dense + np.arange(num_compressed))
  if math.prod(math.comb(len(group), size) for group in groups) <= number:
    chosen = itertools.product(
      *(itertools.combinations(group, size) for group in groups)
    )
    found = np.array([np.concatenate(parts) for parts in chosen])
    return np.hstack([found, num_dense + found]) if paired else found
  random = np.random.default_rng([seed, size])
  drawn = [
    group[random.random((number, len(group))).argsort(axis=1)[:, :size]]
    for group in groups
  ]
  found = np.concatenate([np.sort(part, axis=1) for part in drawn], axis=1)
  return np.hstack([found, num_dense + found]) if paired else found


def compare_subsets(
  agreement: np.ndarray,
  num_dense: int,
  size: int,
  *,
  subsets: int,
  permutations: int,
  seed: int,
  paired: bool = False,
) -> SubsetTests:
  """Tests subsets of the members of a level and of the dense ones.

  Args:
    agreement: [members, members] on how many images two members agree, the
      dense ones first.
    num_dense: how many of them are dense.
    size: members of either kind in a subset.
    subsets: how many to draw.
    permutations: memberships to draw for each; the same for all.
    seed: of both.
    paired: whether the members are pairs.
  """
  drawn = membership.draw_memberships(size, size, permutations, seed, paired)
  num_compressed = len(agreement) - num_dense
  if size > min(num_dense, num_compressed):
    return SubsetTests(drawn.smallest_pvalue, np.empty(0))
  weights = drawn.weights
  found = [
    membership.pvalue(
      vote_distance.energy(agreement[np.ix_(part, part)], weights)
    )
    for part in draw_subsets(
      num_dense, num_compressed, size, subsets, seed, paired
    )
  ]
  return SubsetTests(drawn.smallest_pvalue, np.array(found, np.float64))
