"""Ways to call the members of two populations dense, and p-values of them.

If compression changed nothing, which of the members are called compressed would
be a matter of chance. So membership is permuted, group sizes kept, all members
used, and a statistic of the two groups is computed again: p is the share of
memberships, the true one among them, that give one as large.

Members that were made from one another (a network and its quantised form) are
paired: then the two of a pair change places, or do not.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from utils import tables

# Of n permutations the smallest p is 1 / (n + 1).
FEWEST_PERMUTATIONS = round(1 / tables.SIGNIFICANCE) - 1


class Memberships(NamedTuple):
  """Ways to call some of the members dense; the true one comes first.

  Attributes:
    is_dense: [members, ways] whether the member counts as dense.
    paired: whether the i-th dense and the i-th compressed member belong
      together, and change places.
  """

  is_dense: np.ndarray
  paired: bool = False

  @property
  def smallest_pvalue(self) -> float:
    """The smallest p with so many members, at these ways."""
    num_dense = int(self.is_dense[:, 0].sum())
    members, ways = self.is_dense.shape
    return max(
      smallest_pvalue(num_dense, members - num_dense, self.paired), 1 / ways
    )

  @property
  def weights(self) -> np.ndarray:
    """[members, ways]: a mean over the dense minus one over the others.

    Times the sizes of both groups: whole numbers, so that no order of summation
    decides whether two statistics are equal.
    """
    num_dense = int(self.is_dense[:, 0].sum())
    return np.where(
      self.is_dense, float(len(self.is_dense) - num_dense), -float(num_dense)
    )


def check_permutations(number: int) -> None:
  """Raises ValueError for so few that no p-value could be 0.05."""
  if 0 < number < FEWEST_PERMUTATIONS:
    raise ValueError(
      f'num_permutations is {number}, wanted {FEWEST_PERMUTATIONS} or more, or '
      f'0 for none: fewer cannot give a p of {tables.SIGNIFICANCE:g}'
    )


def draw_memberships(
  num_dense: int,
  num_compressed: int,
  permutations: int,
  seed: int,
  paired: bool = False,
) -> Memberships:
  """Draws memberships, or lists all where they are no more than that.

  Args:
    num_dense: the first so many members are dense.
    num_compressed: those that follow; as many as dense ones if they are paired.
    permutations: how many to draw beside the true one.
    seed: of the draws.
    paired: whether the i-th dense and the i-th compressed member belong
      together.

  Raises:
    ValueError: a group is empty, or pairs are incomplete.
  """
  if min(num_dense, num_compressed) < 1:
    raise ValueError(
      f'there are {num_dense} dense and {num_compressed} compressed members, '
      'wanted one or more of each'
    )
  if paired and num_dense != num_compressed:
    raise ValueError(
      f'{num_dense} dense and {num_compressed} compressed members are no pairs'
    )
  members = num_dense + num_compressed
  ways = 2**num_dense if paired else math.comb(members, num_dense)
  true = np.arange(members) < num_dense
  if ways - 1 <= permutations:
    return Memberships(_all(num_dense, members, paired), paired)
  random = np.random.default_rng([seed, 2])
  if paired:
    stay = random.random((num_dense, permutations)) < 0.5
    drawn = np.concatenate([stay, ~stay])
  else:
    order = random.random((members, permutations)).argsort(axis=0)
    drawn = order < num_dense
  return Memberships(np.column_stack([true, drawn]), paired)


def _all(num_dense: int, members: int, paired: bool) -> np.ndarray:
  """All memberships [members, ways], the true one first."""
  if paired:
    stay = np.array(list(itertools.product([True, False], repeat=num_dense))).T
    return np.concatenate([stay, ~stay])
  # In lexical order the first choice is that of the first members.
  chosen = itertools.combinations(range(members), num_dense)
  listed = np.zeros((members, math.comb(members, num_dense)), bool)
  for way, dense in enumerate(chosen):
    listed[list(dense), way] = True
  return listed


def smallest_pvalue(
  num_dense: int, num_compressed: int, paired: bool = False
) -> float:
  """The smallest p that any predictions of so many members can give.

  Two groups of one size that change places are as far from each other, and so
  are pairs that all change.
  """
  if paired:
    return 2 / 2**num_dense
  ways = math.comb(num_dense + num_compressed, num_dense)
  return (1 + (num_dense == num_compressed)) / ways


def pvalue(statistics: np.ndarray) -> np.ndarray | float:
  """Share of memberships with as large a statistic as the true one.

  p = (1 + #{others as large}) / (1 + others), which is never below its level
  by more than chance (Phipson & Smyth 2010, "Permutation p-values should never
  be zero").

  Args:
    statistics: [..., ways] whole numbers, that of the true membership first.
  """
  return (statistics >= statistics[..., :1]).mean(axis=-1)
