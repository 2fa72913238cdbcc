"""An exact test whether two populations of networks predict alike.

If compression changed nothing, which of the members are called compressed would
be a matter of chance. So membership is permuted, group sizes kept, all members
used, and the distance between the two groups is computed again: p is the share
of memberships, the true one among them, that give as large a distance.

The distance is the squared difference of the shares of votes, summed over
labels and images (energy). It sees changes that flip no majority, which the
number of PIEs does not, and needs nothing but on how many images each two
members agree.

Members that were made from one another (a network and its quantised form) are
paired: then the two of a pair change places, or do not.
"""

import numpy as np

from utils import membership

# Bounds the memory: images that are compared at once.
_BLOCK_IMAGES = 256


def energy(agreement: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The energy distance of the votes, summed over images, as a whole number.

  For one image and label the difference of the shares of votes is sum_i w_i
  v_i, v_i being 1 where member i votes for it; its square, summed over labels
  and images, is w' K w, where K counts the images on which two members agree.
  A maximum mean discrepancy with agreement as its kernel (Gretton et al. 2012).

  Args:
    agreement: [members, members] K.
    weights: [members, ways] as of `membership.Memberships`.

  Returns:
    [ways], times the squared sizes of both groups.
  """
  return np.einsum('iw,iw->w', weights, agreement @ weights)


def agreement(labels: np.ndarray) -> np.ndarray:
  """On how many images each two members agree.

  Args:
    labels: [images, members] predicted class ids.

  Returns:
    [members, members].
  """
  members = labels.shape[1]
  total = np.zeros((members, members), np.int64)
  for start in range(0, len(labels), _BLOCK_IMAGES):
    block = labels[start : start + _BLOCK_IMAGES]
    total += (block[:, :, None] == block[:, None, :]).sum(axis=0)
  return total


def verdict(
  agreement: np.ndarray,
  num_dense: int,
  permutations: int,
  seed: int,
) -> dict[str, float]:
  """Whether a level predicts like the dense members: cells of the PIE null.

  Args:
    agreement: [members, members] of the dense members, then the level's.
    num_dense: how many of them are dense.
    permutations: memberships to draw; 0 for no test.
    seed: of the draws.
  """
  num_compressed = len(agreement) - num_dense
  if not permutations:
    return {}
  drawn = membership.draw_memberships(
    num_dense, num_compressed, permutations, seed
  )
  return {
    'permutations': drawn.is_dense.shape[1] - 1,
    'energy_pvalue': float(membership.pvalue(energy(agreement, drawn.weights))),
    'energy_pvalue_smallest': max(
      membership.smallest_pvalue(num_dense, num_compressed),
      1 / drawn.is_dense.shape[1],
    ),
  }
