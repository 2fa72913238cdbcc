"""On which images members disagree, and which of them are right about them.

All that is counted is whole numbers, which add up over shards: of each two
members on how many images they agree, and are both right; of each level and
class how many images are newly wrong; and what those are taken for.

*Churn* is the share of images on which two networks answer otherwise (Milani
Fard et al. 2016, "Launch and iterate: reducing prediction churn"). An image is
*newly wrong* where the dense network of the two is right and the compressed one
wrong (a negative flip: Yan et al. 2021, "Positive-congruent training"), *newly
right* in the other case. Both together are the flips of Dutta et al. 2024,
"Accuracy is not all you need" (arXiv 2407.09141): accuracy may stay as it is
where many images flip.
"""

from typing import NamedTuple

import numpy as np

from pie_dataset_gen import shard_predictions
from utils import membership, populations

# Bounds the memory: images whose memberships are permuted at once.
_BLOCK_IMAGES = 256
# More classes than there are: (true class, predicted class) as one number.
_CLASSES = 1 << 31


class Pairs(NamedTuple):
  """Of each two members.

  Attributes:
    images: number of them.
    agree: [members, members] images that both give one answer to.
    both_right: [members, members] images about which both are right; on the
      diagonal those about which the member is.
  """

  images: int
  agree: np.ndarray
  both_right: np.ndarray

  def __add__(self, other):
    """Adds images."""
    return Pairs(*(a + b for a, b in zip(self, other, strict=True)))

  def of(self, members: np.ndarray) -> 'Pairs':
    """Those of some members."""
    both = np.ix_(members, members)
    return Pairs(self.images, self.agree[both], self.both_right[both])

  @property
  def churn(self) -> np.ndarray:
    """[members, members] share of images with two answers."""
    return 1 - self.agree / self.images

  @property
  def newly_wrong(self) -> np.ndarray:
    """[members, members] share that the first has right, the second wrong."""
    right = self.both_right.diagonal()
    return (right[:, None] - self.both_right) / self.images

  @property
  def newly_right(self) -> np.ndarray:
    """[members, members] share that the first has wrong, the second right."""
    return self.newly_wrong.T


def count_pairs(labels: np.ndarray, true_class: np.ndarray) -> Pairs:
  """Counts images that each two members agree about.

  Args:
    labels: [images, members] predicted class ids.
    true_class: [images].
  """
  # Whole numbers below 2^24 are exact in float32, which multiplies fastest.
  right = (labels == true_class[:, None]).astype(np.float32)
  both = np.zeros((labels.shape[1],) * 2, np.int64)
  for start in range(0, len(right), 1 << 20):
    block = right[start : start + (1 << 20)]
    both += (block.T @ block).astype(np.int64)
  return Pairs(len(labels), populations.agreement(labels), both)


class Flips(NamedTuple):
  """Flips of a level by class; C classes, W memberships, the true one first.

  Numbers of images are summed over pairs of a dense and a compressed member (or
  of two different dense ones, each as the first), over pairs only where members
  are pairs.

  Attributes:
    images: [C] of the class.
    pies: [C] of these PIEs.
    newly_wrong: [C] over dense and compressed members.
    newly_right: [C] likewise.
    dense: [C] newly wrong, and as many newly right, over two dense members.
    apart: [C, W] squared distance between the shares of members that are right,
      over the images, times the squared sizes of both groups.
    taken_for: (true class, predicted class) -> [2] images that are newly wrong,
      over dense and compressed members, and over two dense ones.
  """

  images: np.ndarray
  pies: np.ndarray
  newly_wrong: np.ndarray
  newly_right: np.ndarray
  dense: np.ndarray
  apart: np.ndarray
  taken_for: dict[tuple[int, int], np.ndarray]

  def __add__(self, other):
    """Adds images; classes that one of both lacks have none there."""
    taken_for = dict(self.taken_for)
    for pair, images in other.taken_for.items():
      taken_for[pair] = taken_for.get(pair, 0) + images
    arrays = zip(self[:-1], other[:-1], strict=True)
    return Flips._make([*(_add(*both) for both in arrays), taken_for])


def _add(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  total = np.zeros(max(first.shape, second.shape), first.dtype)
  total[: len(first)] += first
  total[: len(second)] += second
  return total


def count_flips(
  predictions: shard_predictions.Predictions,
  dense: np.ndarray,
  compressed: np.ndarray,
  is_pie: np.ndarray,
  drawn: membership.Memberships | None,
  paired: bool,
) -> Flips:
  """Counts flips of a level by class.

  Args:
    predictions: of some images.
    dense: [dense] columns of the dense members.
    compressed: [compressed] columns of the level's.
    is_pie: [images] at the level.
    drawn: memberships, or None.
    paired: whether the i-th dense and the i-th compressed member belong
      together.
  """
  true_class = predictions.true_class
  right = predictions.label == true_class[:, None]
  right_dense, right_level = right[:, dense], right[:, compressed]
  d, c = right_dense.sum(axis=1), right_level.sum(axis=1)

  def by_class(number):
    sums = np.bincount(true_class, number)
    return np.round(sums).astype(np.int64)

  if paired:
    newly_wrong = (right_dense & ~right_level).sum(axis=1)
    newly_right = (~right_dense & right_level).sum(axis=1)
    # How many dense members were right, for each compressed one that is wrong.
    before = right_dense.astype(np.int64)
  else:
    newly_wrong = d * (len(compressed) - c)
    newly_right = (len(dense) - d) * c
    before = np.repeat(d[:, None], len(compressed), axis=1)
  return Flips(
    by_class(np.ones(len(right))),
    by_class(is_pie),
    by_class(newly_wrong),
    by_class(newly_right),
    by_class(d * (len(dense) - d)),
    _apart(right[:, np.concatenate([dense, compressed])], true_class, drawn),
    _merge(
      _taken_for(predictions.label[:, compressed], true_class, before),
      _taken_for(
        predictions.label[:, dense],
        true_class,
        np.repeat(d[:, None], len(dense), axis=1),
      ),
    ),
  )


def _apart(
  right: np.ndarray,
  true_class: np.ndarray,
  drawn: membership.Memberships | None,
) -> np.ndarray:
  """`Flips.apart`, of images on which not all members are equally right."""
  ways = 0 if drawn is None else drawn.is_dense.shape[1]
  total = np.zeros((int(true_class.max(initial=-1)) + 1, ways))
  if drawn is None:
    return total
  contested = np.flatnonzero((right != right[:, :1]).any(axis=1))
  contested = contested[np.argsort(true_class[contested], kind='stable')]
  weights = drawn.weights.astype(np.float32)
  for start in range(0, len(contested), _BLOCK_IMAGES):
    block = contested[start : start + _BLOCK_IMAGES]
    square = (right[block].astype(np.float32) @ weights).astype(float) ** 2
    classes, first = np.unique(true_class[block], return_index=True)
    total[classes] += np.add.reduceat(square, first, axis=0)
  return total


def _taken_for(
  label: np.ndarray, true_class: np.ndarray, before: np.ndarray
) -> dict[tuple[int, int], int]:
  """(true class, predicted class) -> pairs of members and images.

  Args:
    label: [images, members] of the second of two members.
    true_class: [images].
    before: [images, members] how many first members were right.
  """
  wrong = (label != true_class[:, None]) & (before > 0)
  image, _ = np.nonzero(wrong)
  coded = true_class[image] * _CLASSES + label[wrong]
  codes, at = np.unique(coded, return_inverse=True)
  sums = np.bincount(at, before[wrong], len(codes))
  return {
    divmod(code, _CLASSES): round(images)
    for code, images in zip(codes.tolist(), sums.tolist(), strict=True)
  }


def _merge(
  first: dict[tuple[int, int], int], second: dict[tuple[int, int], int]
) -> dict[tuple[int, int], np.ndarray]:
  return {
    pair: np.array([first.get(pair, 0), second.get(pair, 0)])
    for pair in first.keys() | second.keys()
  }
