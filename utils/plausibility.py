"""Predictions that each can be read, and are not what they are taken for.

Some mistakes leave valid tables. Refused are a replicate that was copied under
another number, class ids that count from 1 on one side only, and classes in
another order in the predictions of a level. Warned about is what may be meant:
networks that guess, compressed ones that are better than dense ones (levels
swapped, or density in place of sparsity), levels that nothing but rounding
tells apart, one image under two keys, probabilities that are none of the
predicted class. `count` says what is needed to notice them of some images, and
`check` judges the sums over all of them. Of networks of which no more than
accuracy is known, `check_accuracies` judges that.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging

from utils import digests, populations

# Class ids are taken to be moved by one if the mean recall of the classes is so
# many times higher then, and so high, and so many images are right. That of a
# network which predicts two classes only cannot exceed two classes' worth.
_MOVED_RATIO, _MOVED_RECALL, _MOVED_CLASSES, _MOVED_IMAGES = 8, 0.1, 2, 20
_MOVES = (0, 1, -1)
# So many probabilities of different values do not agree by chance; two members
# that agree on all images are copies where others of their level disagree on so
# many: by chance that happens once in e^20.
_DIFFERENT_VALUES, DISAGREEMENTS = 10, 20
_LOOKED_AT = 100
# On so many no network is always right.
_MANY_IMAGES = 100
_NAMED = 3
# Of so many classes it is counted what they are taken for; the last are all
# others.
_COUNTED_CLASSES = 256
# Classes stand in another order if of so many images of one so large a share is
# taken for another, so small a one for what they are, and that in a circle.
_TAKEN_SHARE, _TAKEN_IMAGES, _KEPT_SHARE = 0.5, 10, 0.1
# Each member of a level is better by so much than any of another one.
_BETTER = 0.02
# Nobody prunes to levels that lie so close together.
_SAME_FRACTION = 0.005
# By which a mean probability is lower where members are right.
_STANDARD_ERRORS = 5


class Member(NamedTuple):
  """Who predicted.

  Attributes:
    level: which it is of.
    replicate: its number in that.
  """

  level: populations.Level
  replicate: int

  @property
  def words(self) -> str:
    """As people read it."""
    return f'{self.level.words} replicate {self.replicate}'


class Facts(NamedTuple):
  """What is counted.

  Attributes:
    content: [members] digest of what a member predicted.
    values: [members] different probabilities among the first hundred of some
      images, 0 where they are unknown.
    classes: [classes] class ids of the images, rising.
    support: [classes] images of them.
    right: [members, 3, classes] those on which a member is right: as it is, and
      if its class ids were smaller, or larger, by one.
    predicted: class ids that were predicted.
    only: [members] the one class id that a member predicts, None for many.
    taken: for each level [classes, classes] how often images of one class are
      taken for another one.
    sure: [members, 2, 3] of images on which a member is wrong, and right: how
      many, the sum of probabilities, and of their squares.
    least: [members] smallest probability, infinite where they are unknown.
    twins: images of which all members say what they say of another one.
    twin: the keys of two of these, or none.
  """

  content: list[str]
  values: np.ndarray
  classes: np.ndarray
  support: np.ndarray
  right: np.ndarray
  predicted: frozenset[int]
  only: list[int | None]
  taken: dict[populations.Level, np.ndarray]
  sure: np.ndarray
  least: np.ndarray
  twins: int
  twin: tuple[str, ...]

  @property
  def images(self) -> int:
    """How many."""
    return int(self.support.sum())

  @property
  def right_images(self) -> np.ndarray:
    """[members, 3] on which each is right, as of `right`."""
    return self.right.sum(axis=-1)

  @property
  def num_classes(self) -> int:
    """Classes that there are at least."""
    return 1 + max([*self.classes.tolist(), *self.predicted])


def together(one: Facts, other: Facts) -> Facts:
  """The facts of the images of both, which have the same members."""
  classes = np.union1d(one.classes, other.classes)

  def sum_of(name):
    shape = getattr(one, name).shape[:-1]
    total = np.zeros((*shape, len(classes)), np.int64)
    for facts in (one, other):
      places = np.searchsorted(classes, facts.classes)
      total[..., places] += getattr(facts, name)
    return total

  return Facts(
    [
      digests.of_bytes(a + b)
      for a, b in zip(one.content, other.content, strict=True)
    ],
    np.maximum(one.values, other.values),
    classes,
    sum_of('support'),
    sum_of('right'),
    one.predicted | other.predicted,
    [a if a == b else None for a, b in zip(one.only, other.only, strict=True)],
    {level: counts + other.taken[level] for level, counts in one.taken.items()},
    one.sure + other.sure,
    np.minimum(one.least, other.least),
    one.twins + other.twins,
    one.twin or other.twin,
  )


def count(
  levels: Sequence[populations.Level],
  image_key: np.ndarray,
  true_class: np.ndarray,
  label: np.ndarray,
  probability: np.ndarray,
) -> Facts:
  """The facts of some images, one or more.

  Args:
    levels: [members] that predicted.
    image_key: [images].
    true_class: [images] class ids.
    label: [images, members] predicted class ids.
    probability: [images, members] of these, NaN where they are unknown.
  """
  content, values, right, sure = [], [], [], []
  classes, place = np.unique(true_class, return_inverse=True)
  for of_member, sureness in zip(label.T, probability.T, strict=True):
    content.append(digests.of_bytes(of_member.tobytes() + sureness.tobytes()))
    is_known = ~np.isnan(sureness)
    values.append(len(np.unique(sureness[is_known][:_LOOKED_AT])))
    right.append(count_right(of_member - true_class, place))
    is_right = of_member == true_class
    sure.append(
      [
        [np.sum(sureness[some] ** power) for power in range(3)]
        for some in (is_known & ~is_right, is_known & is_right)
      ]
    )
  twins, twin = _twins(image_key, true_class, label, probability)
  return Facts(
    content,
    np.array(values),
    classes,
    np.bincount(place),
    np.array(right),
    frozenset(np.unique(label).tolist()),
    [
      int(of_member[0]) if (of_member == of_member[0]).all() else None
      for of_member in label.T
    ],
    {
      level: _taken(true_class, label[:, [of == level for of in levels]])
      for level in dict.fromkeys(levels)
    },
    np.array(sure),
    np.nan_to_num(probability, nan=np.inf).min(0, initial=np.inf),
    twins,
    twin,
  )


def count_right(moved: np.ndarray, place: np.ndarray) -> np.ndarray:
  """Images of each class that are right, as it is and moved by one.

  Args:
    moved: [images] predicted class id less the true one.
    place: [images] of the true class among those that there are.

  Returns:
    [3, classes]: as it is, and if ids were smaller, or larger, by one.
  """
  number = 1 + place.max()
  return np.array(
    [np.bincount(place[moved == by], minlength=number) for by in _MOVES]
  )


def moved_by(right: np.ndarray, support: np.ndarray) -> int:
  """By how much class ids are too large: 0, 1 or -1.

  What counts is the mean recall of the classes, which a network that predicts
  one class for all images cannot raise.

  Args:
    right: [3, classes] images, as of `count_right`.
    support: [classes] images.
  """
  recall = (right / support).mean(axis=-1)
  at = 1 + int(recall[1:].argmax())
  enough = max(_MOVED_RECALL, _MOVED_CLASSES / len(support))
  if (
    recall[at] > max(_MOVED_RATIO * recall[0], enough)
    and right[at].sum() >= _MOVED_IMAGES
  ):
    return _MOVES[at]
  return 0


def _taken(true_class: np.ndarray, label: np.ndarray) -> np.ndarray:
  true = np.broadcast_to(true_class[:, None], label.shape)
  # The last column is of all that is not counted.
  rest = _COUNTED_CLASSES - 1
  label = np.where((label >= 0) & (label < rest), label, rest)
  counted = true < rest
  places = true[counted] * _COUNTED_CLASSES + label[counted]
  counts = np.bincount(places, minlength=_COUNTED_CLASSES**2)
  return counts.reshape(_COUNTED_CLASSES, _COUNTED_CLASSES)


def _twins(
  image_key: np.ndarray,
  true_class: np.ndarray,
  label: np.ndarray,
  probability: np.ndarray,
) -> tuple[int, tuple[str, ...]]:
  """Images on which no member's label or probability differs from another's."""
  # Those that were rounded agree by chance.
  rounded = np.array_equal(probability, probability.round(3), equal_nan=True)
  if rounded or np.isnan(probability).any():
    return 0, ()
  # Of one image in two batches of another size the last digits differ.
  rows = pd.DataFrame(np.hstack([label, probability.round(5)])).assign(
    true_class=true_class
  )
  # All that a network is quite sure of has a probability of 1.
  unsure = (probability < 1 - 1e-3).any(axis=1)
  code = rows[unsure].groupby(list(rows), sort=False).ngroup().to_numpy()
  repeated = pd.Series(code).duplicated(keep=False).to_numpy()
  if not repeated.any():
    return 0, ()
  first = code[repeated][0]
  keys = image_key[unsure][code == first][:2]
  return int(repeated.sum() - len(np.unique(code[repeated]))), tuple(keys)


def check(
  members: Sequence[Member], facts: Facts, agreement: np.ndarray
) -> None:
  """Refuses copies and ids that are moved; warns of what is merely unlikely.

  Args:
    members: [members].
    facts: of all images.
    agreement: [members, members] images on which two members agree.

  Raises:
    ValueError: names the members.
  """
  _check_order(facts)
  _check_moved(members, facts)
  _check_copies(members, facts, agreement)
  is_stuck = _warn_of_one_class(members, facts)
  check_accuracies(
    [member.level for member in members],
    [member.words for member in members],
    facts.right_images[:, 0] / facts.images,
    facts.images,
    # Those that are stuck are named already.
    np.nan if is_stuck else 1 / len(facts.classes),
  )
  _warn_of_classes(facts)
  _warn_of_probabilities(members, facts)
  if facts.twins:
    logging.warning(
      'of %d images all members say, to the digit, what they say of another '
      'one, for example of %s: an image under two keys counts twice',
      facts.twins,
      ' and '.join(facts.twin),
    )


def check_accuracies(
  levels: Sequence[populations.Level],
  words: Sequence[str],
  accuracy: np.ndarray,
  images: float,
  chance: float,
) -> None:
  """Warns of accuracies that are not what they are taken for.

  Args:
    levels: [members] of each.
    words: [members] what to call each.
    accuracy: [members] share of images that are right, in [0, 1].
    images: how many there are, NaN where that is unknown.
    chance: accuracy of those that guess, NaN where that is unknown.
  """
  _warn_of_guesses(words, accuracy, images, chance)
  _warn_of_levels(levels, accuracy)


def _check_moved(members: Sequence[Member], facts: Facts) -> None:
  for member, right in zip(members, facts.right, strict=True):
    if by := moved_by(right, facts.support):
      raise ValueError(
        f'the predictions of {member.words} are right on {right[0].sum()} of '
        f'{facts.images} images, but on {right[_MOVES.index(by)].sum()} if '
        f'class ids were {"smaller" if by > 0 else "larger"} by one: ids count '
        'from 0, in predictions and in true_class; subtract one where they '
        'count from 1'
      )


def _check_copies(
  members: Sequence[Member], facts: Facts, agreement: np.ndarray
) -> None:
  of_level = collections.defaultdict(list)
  for i, member in enumerate(members):
    of_level[member.level].append(i)
  for population in of_level.values():
    # Those that agree with the first of them that agrees with any.
    agree = [
      [j for j in population if agreement[i, j] == facts.images]
      for i in population
    ]
    copies = max(agree, key=len)
    if len(copies) < 2:
      continue
    others = [
      facts.images - agreement[i, j]
      for i in population
      for j in population
      if i < j and not {i, j} <= set(copies)
    ]
    to_the_digit = len({facts.content[i] for i in copies}) == 1
    known = facts.values[copies[0]] * to_the_digit  # noqa: PD011
    said = (
      f'{" and ".join(members[i].words for i in copies[:_NAMED])} agree in '
      f'all predictions{" and probabilities" if known else ""} of '
      f'{facts.images} images'
    )
    if known >= _DIFFERENT_VALUES or (
      others and np.mean(others) >= DISAGREEMENTS
    ):
      raise ValueError(
        f'{said}: a copy is no independent replicate, and counted as one it '
        'makes chance look like an effect; remove the copies'
      )
    if not to_the_digit:
      continue  # By their probabilities they are two.
    logging.warning(
      '%s: with so few it may be chance; if one is a copy, remove it', said
    )
  for level, population in of_level.items():
    dense = of_level.get(populations.DENSE, ())
    found = {facts.content[i]: i for i in dense}
    same = [i for i in population if facts.content[i] in found]
    if (
      not level.is_dense
      and len(same) == len(population)
      and facts.values[same].min() >= _DIFFERENT_VALUES  # noqa: PD011
    ):
      logging.warning(
        'all %d members of %s say, to the digit, what a dense one does, for '
        'example %s and %s: were the compressed networks those that predicted?',
        len(same),
        level.words,
        members[same[0]].words,
        members[found[facts.content[same[0]]]].words,
      )


def _check_order(facts: Facts) -> None:
  """Refuses a level whose predictions name classes in another order."""
  for level, taken in facts.taken.items():
    share = taken / np.maximum(taken.sum(1, keepdims=True), 1)
    most = share.argmax(1)
    moved = {
      i: int(most[i])
      for i in range(len(most))
      if most[i] != i
      and taken[i].sum() >= _TAKEN_IMAGES
      and share[i].max() >= _TAKEN_SHARE
      and share[i, i] <= _KEPT_SHARE
    }
    # Only those that come back to where they began: a network may well take
    # all cats for dogs, but then not all dogs for cats.
    while moved and set(moved) != set(moved.values()):
      kept = set(moved) & set(moved.values())
      moved = {i: j for i, j in moved.items() if i in kept and j in kept}
    if len(moved) > 1:
      i, j = next(iter(moved.items()))
      raise ValueError(
        f'the predictions of {level.words} take {share[i, j]:.0%} of the '
        f'images of class {i} for class {j}, and {share[i, i]:.0%} for class '
        f'{i}; {len(moved)} classes changed places so: their order was another '
        'one where these networks were trained; give all the same'
      )


def _warn_of_levels(
  levels: Sequence[populations.Level], accuracies: np.ndarray
) -> None:
  accuracy = collections.defaultdict(list)
  for of, share in zip(levels, accuracies, strict=True):
    accuracy[of].append(share)
  there = populations.sort_levels(accuracy)
  for i, one in enumerate(there):
    for other in there[i + 1 :]:
      alike = one.pruning_method == other.pruning_method
      if (
        (one.is_dense or alike)
        and len(accuracy[one]) > 1
        and len(accuracy[other]) > 1
        and min(accuracy[other]) > max(accuracy[one]) + _BETTER
      ):
        logging.warning(
          'each member of %s is right on more images than any of %s (%.3f and '
          '%.3f on average): were they swapped, or is fraction_pruned the '
          'share of weights that is left?',
          other.words,
          one.words,
          np.mean(accuracy[other]),
          np.mean(accuracy[one]),
        )
      distance = abs(one.fraction_pruned - other.fraction_pruned)
      if alike and distance < _SAME_FRACTION:
        logging.warning(
          '%s has members at fraction_pruned %s and %s, which count as two '
          'levels: wanted one number for members that were made alike, as '
          'asked for, not as measured',
          one.pruning_method,
          one.fraction_pruned,
          other.fraction_pruned,
        )


def _warn_of_probabilities(members: Sequence[Member], facts: Facts) -> None:
  number = facts.num_classes
  for i, member in enumerate(members):
    # The largest of so many that add up to 1; more classes than were seen may
    # exist, so only of what is far below it something is said.
    if facts.least[i] < 0.5 / number:
      logging.warning(
        'the predicted_probability of %s is %.3g at least, of %d classes the '
        'likeliest has %.3g or more: wanted the probability of the predicted '
        'class, after the softmax over all classes',
        member.words,
        facts.least[i],
        number,
        1 / number,
      )
      return
    count, total, squares = facts.sure[i].T
    if count.min() < _TAKEN_IMAGES:
      continue
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    error = np.sqrt((variance / count).sum())
    if mean[1] < mean[0] - _STANDARD_ERRORS * error:
      logging.warning(
        'the predicted_probability of %s is lower where it is right (%.3f) '
        'than where it is wrong (%.3f): wanted the probability of the '
        'predicted class, not what is left of 1',
        member.words,
        mean[1],
        mean[0],
      )
      return


def _warn_of_guesses(
  words: Sequence[str], accuracy: np.ndarray, images: float, chance: float
) -> None:
  perfect = np.flatnonzero(accuracy == 1)
  if len(perfect) and images >= _MANY_IMAGES:
    logging.warning(
      '%d of %d members are right on all %d images, for example %s: are these '
      'labels, or images that they were trained on?',
      len(perfect),
      len(words),
      images,
      words[perfect[0]],
    )
  guess = np.flatnonzero(accuracy <= chance)
  if len(guess):
    logging.warning(
      '%d of %d members are right no more often than chance, %.3g of the '
      'images, for example %s on %.3g: were the classes in this order when '
      'they were trained, and the images prepared alike?',
      len(guess),
      len(words),
      chance,
      words[guess[0]],
      accuracy[guess[0]],
    )


def _warn_of_one_class(members: Sequence[Member], facts: Facts) -> bool:
  """Whether members predict one class for all images."""
  stuck = [i for i, label in enumerate(facts.only) if label is not None]
  if not stuck or len(facts.classes) < 2:
    return False
  logging.warning(
    '%d of %d members predict one class for all images, for example %s class '
    '%d: such a network did not learn, or its scores are not finite; leave it '
    'out, or say so',
    len(stuck),
    len(members),
    members[stuck[0]].words,
    facts.only[stuck[0]],
  )
  return True


def _warn_of_classes(facts: Facts) -> None:
  number, classes = facts.num_classes, frozenset(facts.classes.tolist())
  absent = sorted(set(range(1, number)) - classes)
  wrong = sorted(facts.predicted - classes)
  if wrong:
    logging.warning(
      '%d classes are predicted and no image is of them, for example class %d: '
      'of these nothing can be said, and every vote for them counts as wrong',
      len(wrong),
      wrong[0],
    )
  elif absent:
    logging.warning(
      'no image is of %d of %d classes, for example of class %d: nothing can '
      'be said of these',
      len(absent),
      number,
      absent[0],
    )
  if len(classes) > 1 and 0 not in classes | facts.predicted:
    logging.warning(
      'no image is of class 0, and none is predicted so: class ids count from '
      '0; where all count from 1, names of classes would be one off'
    )
