"""Predictions that each can be read, and are not what they are taken for.

Three mistakes leave valid tables: a replicate that was copied under another
number, class ids that count from 1 on one side only, and networks that guess.
`count` says what is needed to notice them of one shard, and `check` judges the
sums over all of them.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from pie_dataset_gen import shard_predictions
from utils import digests

# Labels are taken to be moved by one if so many times more predictions are
# right then, on so many images at least, and of so many classes.
_MOVED_RATIO, _MOVED_IMAGES, _MOVED_CLASSES = 8, 20, 3
_MOVES = (0, 1, -1)
# So many probabilities of different values do not agree by chance; two members
# that agree on all images are copies where others of their level disagree on so
# many: by chance that happens once in e^20.
_DIFFERENT_VALUES, _DISAGREEMENTS = 10, 20
_LOOKED_AT = 100
_NAMED = 3


class Facts(NamedTuple):
  """What is counted.

  Attributes:
    images: how many.
    content: [members] digest of what a member predicted.
    values: [members] different probabilities among the first hundred of a
      shard, 0 where they are unknown.
    right: [members, 3] images on which it is right: as it is, and if its class
      ids were smaller, or larger, by one.
    right_classes: [members, 3] the classes of these images.
    classes: class ids of the images.
    predicted: class ids that were predicted.
  """

  images: int
  content: list[str]
  values: np.ndarray
  right: np.ndarray
  right_classes: list[list[frozenset[int]]]
  classes: frozenset[int]
  predicted: frozenset[int]


def together(one: Facts, other: Facts) -> Facts:
  """The facts of the images of both, which have the same members."""
  return Facts(
    one.images + other.images,
    [
      digests.of_bytes(a + b)
      for a, b in zip(one.content, other.content, strict=True)
    ],
    np.maximum(one.values, other.values),
    one.right + other.right,
    [
      [a | b for a, b in zip(some, more, strict=True)]
      for some, more in zip(one.right_classes, other.right_classes, strict=True)
    ],
    one.classes | other.classes,
    one.predicted | other.predicted,
  )


def count(predictions: shard_predictions.Predictions) -> Facts:
  """The facts of one shard."""
  content, values, right, right_classes = [], [], [], []
  for label, probability in zip(
    predictions.label.T, predictions.probability.T, strict=True
  ):
    content.append(digests.of_bytes(label.tobytes() + probability.tobytes()))
    known = probability[~np.isnan(probability)]
    values.append(len(np.unique(known[:_LOOKED_AT])))
    moved = label - predictions.true_class
    are_right = [moved == by for by in _MOVES]
    right.append([some.sum() for some in are_right])
    right_classes.append(
      [frozenset(predictions.true_class[some].tolist()) for some in are_right]
    )
  return Facts(
    len(predictions.image_key),
    content,
    np.array(values),
    np.array(right),
    right_classes,
    frozenset(np.unique(predictions.true_class).tolist()),
    frozenset(np.unique(predictions.label).tolist()),
  )


def check(
  members: Sequence[shard_predictions.Identity],
  facts: Facts,
  agreement: np.ndarray,
) -> None:
  """Refuses copies and ids that are moved; warns of what is merely unlikely.

  Args:
    members: [members].
    facts: of all images.
    agreement: [members, members] images on which two members agree.

  Raises:
    ValueError: names the members.
  """
  _check_moved(members, facts)
  _check_copies(members, facts, agreement)
  _warn_of_guesses(members, facts)
  _warn_of_classes(facts)


def _words(member: shard_predictions.Identity) -> str:
  level = shard_predictions.level_of(member)
  return f'{level.words} replicate {member._asdict()["replicate"]}'


def _check_moved(members, facts: Facts) -> None:
  for i, member in enumerate(members):
    for place, by in enumerate(_MOVES[1:], 1):
      as_it_is, if_moved = facts.right[i, 0], facts.right[i, place]
      classes = facts.right_classes[i][place]
      if (
        if_moved > _MOVED_RATIO * as_it_is
        and if_moved >= _MOVED_IMAGES
        and len(classes) >= _MOVED_CLASSES
      ):
        raise ValueError(
          f'the predictions of {_words(member)} are right on {as_it_is} of '
          f'{facts.images} images, but on {if_moved} if class ids were '
          f'{"smaller" if by > 0 else "larger"} by one: ids count from 0, in '
          'predictions and in true_class; subtract one where they count from 1'
        )


def _check_copies(members, facts: Facts, agreement: np.ndarray) -> None:
  alike = collections.defaultdict(list)
  for i, member in enumerate(members):
    alike[shard_predictions.level_of(member), facts.content[i]].append(i)
  for (level, _), copies in alike.items():
    if len(copies) < 2:
      continue
    population = [
      i
      for i, member in enumerate(members)
      if shard_predictions.level_of(member) == level
    ]
    others = [
      facts.images - agreement[i, j]
      for i in population
      for j in population
      if i < j and not {i, j} <= set(copies)
    ]
    known = facts.values[copies[0]]
    said = (
      f'{" and ".join(_words(members[i]) for i in copies[:_NAMED])} agree in '
      f'all predictions{" and probabilities" if known else ""} of '
      f'{facts.images} images'
    )
    if known >= _DIFFERENT_VALUES or (
      others and np.mean(others) >= _DISAGREEMENTS
    ):
      raise ValueError(
        f'{said}: a copy is no independent replicate, and counted as one it '
        'makes chance look like an effect; remove the copies'
      )
    logging.warning(
      '%s: with so few it may be chance; if one is a copy, remove it', said
    )


def _warn_of_guesses(members, facts: Facts) -> None:
  chance = facts.images / len(facts.classes)
  guess = [
    (member, right)
    for member, right in zip(members, facts.right[:, 0], strict=True)
    if right <= chance
  ]
  if guess:
    logging.warning(
      '%d of %d members are right no more often than chance, %.0f of %d '
      'images, for example %s on %d: were the classes in this order when they '
      'were trained, and the images prepared alike?',
      len(guess),
      len(members),
      chance,
      facts.images,
      _words(guess[0][0]),
      guess[0][1],
    )


def _warn_of_classes(facts: Facts) -> None:
  absent = sorted(facts.predicted - facts.classes)
  if absent:
    logging.warning(
      '%d classes are predicted and no image is of them, for example class %d: '
      'of these nothing can be said, and every vote for them counts as wrong',
      len(absent),
      absent[0],
    )
  if len(facts.classes) > 1 and 0 not in facts.classes | facts.predicted:
    logging.warning(
      'no image is of class 0, and none is predicted so: class ids count from '
      '0; where all count from 1, names of classes would be one off'
    )
