"""How far apart two populations of networks vote.

The squared difference of the shares of votes, summed over labels and images
(energy). It sees changes that flip no majority, which the number of PIEs does
not, and needs nothing but on how many images each two members agree.
"""

import numpy as np


def energy(agreement: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """The energy distance of the votes, summed over images, as a whole number.

  For one image and label the difference of the shares of votes is sum_i w_i
  v_i, v_i being 1 where member i votes for it; its square, summed over labels
  and images, is w' K w, where K counts the images on which two members agree.
  A maximum mean discrepancy with agreement as its kernel (Gretton et al. 2012).

  Args:
    agreement: [members, members] K.
    weights: [members, ways] of `utils.membership.Memberships`.

  Returns:
    [ways], times the squared sizes of both groups.
  """
  return np.einsum('iw,iw->w', weights, agreement @ weights)
