"""Class metrics that can be read, and are not what they are taken for.

As `utils/plausibility.py`, of tables that no longer say which image was taken
for what. Refused is a model that was measured, or copied, twice; warned about
are models that guess or predict one class, levels that look swapped, and an
accuracy that is not that of the same images.
"""

import itertools

import numpy as np
from absl import logging

from per_class_accuracy import member_recall
from utils import plausibility, populations

# Losses with more digits are equal by no chance.
_DIGITS = 4
# By which accuracy may differ from the recalls of all images, by rounding.
_ROUNDING = 0.005


def check(models: member_recall.Models, of_groups: bool) -> None:
  """Refuses copies; warns of what is merely unlikely.

  Args:
    models: what was measured.
    of_groups: whether what is called classes are groups, which need not hold
      each image once.

  Raises:
    ValueError: names the copies.
  """
  words = _words(models)
  is_stuck = (models.recall > 0).sum(axis=1) <= 1
  _check_copies(models, words, is_stuck)
  chance = np.nan
  images = np.nansum(models.support)
  if not of_groups:
    present = ~np.isnan(models.recall).all(axis=0)
    chance = 1 / max(int(present.sum()), 1)
    if present.sum() > 1 and is_stuck.any():
      logging.warning(
        '%d of %d models have a recall above 0 in one class at most, for '
        'example %s: such a network did not learn, or its classes stand in '
        'another order; leave it out, or say so',
        int(is_stuck.sum()),
        len(words),
        words[int(is_stuck.argmax())],
      )
      chance = np.nan
    _warn_of_other_images(models, words)
  plausibility.check_accuracies(
    models.level, words, models.accuracy, images, chance
  )


def _words(models: member_recall.Models) -> list[str]:
  if models.identity is None:
    return [f'a model of {level.words}' for level in models.level]
  return [
    plausibility.Member(level, of['replicate']).words
    for level, of in zip(models.level, models.identity, strict=True)
  ]


def _check_copies(
  models: member_recall.Models, words: list[str], is_stuck: np.ndarray
) -> None:
  number = models.recall.shape[1]
  recall = np.nan_to_num(models.recall, nan=-1)
  agree, differ = [], []
  for level in populations.sort_levels(models.level):
    for i, j in itertools.combinations(models.positions(level), 2):
      same = int((recall[i] == recall[j]).sum())
      if same < number:
        differ.append(same)
      elif not abs(models.loss[i] - models.loss[j]) > 0:
        # Else by their losses they are two; of NaN nothing is known.
        agree.append((i, j))
  # The share of classes in which two that are none agree; of all by chance.
  share = (sum(differ) + 1) / (len(differ) * number + 1)
  is_no_chance = number * np.log(share) <= -plausibility.DISAGREEMENTS
  # Those that are wrong, or right, on everything are alike and no copies.
  is_alike = is_stuck | (models.accuracy == 1)
  for i, j in agree:
    loss = models.loss[i]
    if loss == models.loss[j] and loss != round(loss, _DIGITS):
      what = ' and in loss'
    elif is_no_chance and not is_alike[i]:
      what = ''
    else:
      continue
    raise ValueError(
      f'{words[i]} and {words[j]} agree in the recall of all classes{what}: a '
      'copy is no independent replicate, and counted as one it makes chance '
      'look like an effect; remove the copies'
    )
  if agree:
    logging.warning(
      '%s agree in the recall of all classes: with so few images it may be '
      'chance; if one is a copy, remove it',
      ' and '.join(words[i] for i in agree[0]),
    )


def _warn_of_other_images(
  models: member_recall.Models, words: list[str]
) -> None:
  if np.isnan(models.support).any() or not models.support.sum():
    return
  right = np.nansum(models.recall * models.support, axis=1)
  accuracy = right / models.support.sum()
  differs = np.flatnonzero(np.abs(accuracy - models.accuracy) > _ROUNDING)
  if len(differs):
    at = differs[0]
    logging.warning(
      'eval_accuracy of %d of %d models is none of their recall, for example '
      '%s %.4g and %.4g: wanted the top-1 of the same images, which is taken '
      'from the recall of each class',
      len(differs),
      len(words),
      words[at],
      models.accuracy[at],
      accuracy[at],
    )
