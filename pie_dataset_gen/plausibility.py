"""Predictions that each can be read, and are not what they are taken for.

Some mistakes leave valid tables. Refused are a replicate that was copied under
another number, class ids that count from 1 on one side only, and classes in
another order in the predictions of a level. Warned about is what may be meant:
networks that guess, compressed ones that are better than dense ones (levels
swapped, or density in place of sparsity), levels that nothing but rounding
tells apart, one image under two keys, probabilities that are none of the
predicted class. `count` says what is needed to notice them of one shard, and
`check` judges the sums over all of them.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging

from pie_dataset_gen import shard_predictions
from utils import digests, populations

# Labels are taken to be moved by one if so many times more predictions are
# right then, on so many images at least, and of so many classes.
_MOVED_RATIO, _MOVED_IMAGES, _MOVED_CLASSES = 8, 20, 3
# Of the classes; of fewer, they are in another order.
_MOVED_SHARE = 0.4
_MOVES = (0, 1, -1)
# So many probabilities of different values do not agree by chance; two members
# that agree on all images are copies where others of their level disagree on so
# many: by chance that happens once in e^20.
_DIFFERENT_VALUES, _DISAGREEMENTS = 10, 20
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
    only: [members] the one class id that a member predicts, None for many.
    taken: for each level [classes, classes] how often images of one class are
      taken for another one.
    sure: [members, 2, 3] of images on which a member is wrong, and right: how
      many, the sum of probabilities, and of their squares.
    least: [members] smallest probability, infinite where they are unknown.
    twins: images of which all members say what they say of another one.
    twin: the keys of two of these, or none.
  """

  images: int
  content: list[str]
  values: np.ndarray
  right: np.ndarray
  right_classes: list[list[frozenset[int]]]
  classes: frozenset[int]
  predicted: frozenset[int]
  only: list[int | None]
  taken: dict[populations.Level, np.ndarray]
  sure: np.ndarray
  least: np.ndarray
  twins: int
  twin: tuple[str, ...]


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
    [a if a == b else None for a, b in zip(one.only, other.only, strict=True)],
    {level: counts + other.taken[level] for level, counts in one.taken.items()},
    one.sure + other.sure,
    np.minimum(one.least, other.least),
    one.twins + other.twins,
    one.twin or other.twin,
  )


def count(predictions: shard_predictions.Predictions) -> Facts:
  """The facts of one shard."""
  content, values, right, right_classes, sure = [], [], [], [], []
  for label, probability in zip(
    predictions.label.T, predictions.probability.T, strict=True
  ):
    content.append(digests.of_bytes(label.tobytes() + probability.tobytes()))
    is_known = ~np.isnan(probability)
    values.append(len(np.unique(probability[is_known][:_LOOKED_AT])))
    moved = label - predictions.true_class
    sure.append(
      [
        [np.sum(probability[some] ** power) for power in range(3)]
        for some in (is_known & (moved != 0), is_known & (moved == 0))
      ]
    )
    are_right = [moved == by for by in _MOVES]
    right.append([some.sum() for some in are_right])
    right_classes.append(
      [frozenset(predictions.true_class[some].tolist()) for some in are_right]
    )
  twins, twin = _twins(predictions)
  return Facts(
    len(predictions.image_key),
    content,
    np.array(values),
    np.array(right),
    right_classes,
    frozenset(np.unique(predictions.true_class).tolist()),
    frozenset(np.unique(predictions.label).tolist()),
    [
      int(label[0]) if len(label) and (label == label[0]).all() else None
      for label in predictions.label.T
    ],
    {
      level: _taken(predictions, predictions.columns_of(level))
      for level in dict.fromkeys(
        map(shard_predictions.level_of, predictions.members)
      )
    },
    np.array(sure),
    np.nan_to_num(predictions.probability, nan=np.inf).min(0, initial=np.inf),
    twins,
    twin,
  )


def _taken(
  predictions: shard_predictions.Predictions, members: np.ndarray
) -> np.ndarray:
  label = predictions.label[:, members]
  true = np.broadcast_to(predictions.true_class[:, None], label.shape)
  # The last column is of all that is not counted.
  rest = _COUNTED_CLASSES - 1
  label = np.where((label >= 0) & (label < rest), label, rest)
  counted = true < rest
  places = true[counted] * _COUNTED_CLASSES + label[counted]
  counts = np.bincount(places, minlength=_COUNTED_CLASSES**2)
  return counts.reshape(_COUNTED_CLASSES, _COUNTED_CLASSES)


def _twins(
  predictions: shard_predictions.Predictions,
) -> tuple[int, tuple[str, ...]]:
  """Images on which no member's label or probability differs from another's."""
  probability = predictions.probability
  # Those that were rounded agree by chance.
  rounded = np.array_equal(probability, probability.round(3), equal_nan=True)
  if rounded or np.isnan(probability).any():
    return 0, ()
  # Of one image in two batches of another size the last digits differ.
  rows = pd.DataFrame(
    np.hstack([predictions.label, probability.round(5)])
  ).assign(true_class=predictions.true_class)
  # All that a network is quite sure of has a probability of 1.
  unsure = (probability < 1 - 1e-3).any(axis=1)
  code = rows[unsure].groupby(list(rows), sort=False).ngroup().to_numpy()
  repeated = pd.Series(code).duplicated(keep=False).to_numpy()
  if not repeated.any():
    return 0, ()
  first = code[repeated][0]
  keys = predictions.image_key[unsure][code == first][:2]
  return int(repeated.sum() - len(np.unique(code[repeated]))), tuple(keys)


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
  _check_order(facts)
  _check_moved(members, facts)
  _check_copies(members, facts, agreement)
  _warn_of_guesses(members, facts)
  _warn_of_classes(facts)
  _warn_of_levels(members, facts)
  _warn_of_probabilities(members, facts)
  if facts.twins:
    logging.warning(
      'of %d images all members say, to the digit, what they say of another '
      'one, for example of %s: an image under two keys counts twice',
      facts.twins,
      ' and '.join(facts.twin),
    )


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
        and len(classes) >= _MOVED_SHARE * len(facts.classes)
      ):
        raise ValueError(
          f'the predictions of {_words(member)} are right on {as_it_is} of '
          f'{facts.images} images, but on {if_moved} if class ids were '
          f'{"smaller" if by > 0 else "larger"} by one: ids count from 0, in '
          'predictions and in true_class; subtract one where they count from 1'
        )


def _check_copies(members, facts: Facts, agreement: np.ndarray) -> None:
  of_level = collections.defaultdict(list)
  for i, member in enumerate(members):
    of_level[shard_predictions.level_of(member)].append(i)
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
        _words(members[same[0]]),
        _words(members[found[facts.content[same[0]]]]),
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


def _warn_of_levels(members, facts: Facts) -> None:
  accuracy: dict[populations.Level, list[float]] = collections.defaultdict(list)
  for member, right in zip(members, facts.right[:, 0], strict=True):
    level = shard_predictions.level_of(member)
    accuracy[level].append(right / facts.images)
  levels = populations.sort_levels(accuracy)
  for i, one in enumerate(levels):
    for other in levels[i + 1 :]:
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


def _warn_of_probabilities(members, facts: Facts) -> None:
  number = 1 + max(facts.classes | facts.predicted)
  for i, member in enumerate(members):
    # The largest of so many that add up to 1; more classes than were seen may
    # exist, so only of what is far below it something is said.
    if facts.least[i] < 0.5 / number:
      logging.warning(
        'the predicted_probability of %s is %.3g at least, of %d classes the '
        'likeliest has %.3g or more: wanted the probability of the predicted '
        'class, after the softmax over all classes',
        _words(member),
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
        _words(member),
        mean[1],
        mean[0],
      )
      return


def _warn_of_guesses(members, facts: Facts) -> None:
  chance = facts.images / len(facts.classes)
  guess = [
    (member, right)
    for member, right in zip(members, facts.right[:, 0], strict=True)
    if right <= chance
  ]
  perfect = np.flatnonzero(facts.right[:, 0] == facts.images)
  if len(perfect) and facts.images >= _MANY_IMAGES:
    logging.warning(
      '%d of %d members are right on all %d images, for example %s: are these '
      'labels, or images that they were trained on?',
      len(perfect),
      len(members),
      facts.images,
      _words(members[perfect[0]]),
    )
  stuck = [i for i, label in enumerate(facts.only) if label is not None]
  if stuck and len(facts.classes) > 1:
    logging.warning(
      '%d of %d members predict one class for all images, for example %s class '
      '%d: such a network did not learn, or its scores are not finite; leave '
      'it out, or say so',
      len(stuck),
      len(members),
      _words(members[stuck[0]]),
      facts.only[stuck[0]],
    )
  elif guess:
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
  number = 1 + max(facts.classes | facts.predicted)
  absent = sorted(set(range(number)) - facts.classes - {0})
  wrong = sorted(facts.predicted - facts.classes)
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
  if len(facts.classes) > 1 and 0 not in facts.classes | facts.predicted:
    logging.warning(
      'no image is of class 0, and none is predicted so: class ids count from '
      '0; where all count from 1, names of classes would be one off'
    )
