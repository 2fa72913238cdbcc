"""Recall and precision of classes and groups, from one confusion count.

Pure functions on arrays and frames: no files, no flags, no TensorFlow.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils import tables


def class_counts(
  true_class: np.ndarray, predicted_class: np.ndarray, num_classes: int
) -> pd.DataFrame:
  """Counts what per-class metrics are made of.

  Args:
    true_class: [n] class ids of the labels, in 0..num_classes-1.
    predicted_class: [n] class ids of the predictions, likewise.
    num_classes: number of classes.

  Returns:
    [num_classes] rows with support (images of the class), predicted_count
    (images predicted to be of it), correct_count (both), recall =
    correct_count / support and precision = correct_count / predicted_count.
    0/0 is NaN: a class that is absent has no recall, one that is never
    predicted has no precision.

  Raises:
    ValueError: a class id is outside the classes.
  """
  for what, ids in (('label', true_class), ('prediction', predicted_class)):
    outside = (np.asarray(ids) < 0) | (np.asarray(ids) >= num_classes)
    if outside.any():
      raise ValueError(
        f'{what} {np.asarray(ids)[outside][0]} is outside the {num_classes} '
        'classes'
      )
  true_class = np.asarray(true_class, np.int64)
  predicted_class = np.asarray(predicted_class, np.int64)
  support = np.bincount(true_class, minlength=num_classes)
  predicted = np.bincount(predicted_class, minlength=num_classes)
  correct = np.bincount(
    true_class[true_class == predicted_class], minlength=num_classes
  )
  with np.errstate(invalid='ignore'):
    recall, precision = correct / support, correct / predicted
  return pd.DataFrame(
    {
      'class_id': np.arange(num_classes),
      'support': support,
      'predicted_count': predicted,
      'correct_count': correct,
      'recall': recall,
      'precision': precision,
    }
  )


def group_counts(
  predictions: pd.DataFrame, groups: pd.DataFrame
) -> pd.DataFrame:
  """Counts as `class_counts` does, over groups of classes or of images.

  Args:
    predictions: [n] rows with true_class, predictions and, for groups of
      images, image_key.
    groups: rows of group (text) beside class_id or image_key: who belongs to
      which group. A class or image may be in several groups, or in none.

  Returns:
    One row per group in the order of their names; class_id is the group's
    position and class its name. correct_count counts images whose class is
    predicted right. predicted_count and precision are empty for groups of
    images, since a prediction names a class.
  """
  names, group = np.unique(groups['group'].to_numpy(str), return_inverse=True)
  of_classes = 'class_id' in groups
  membership = pd.DataFrame(
    {'unit': groups['class_id' if of_classes else 'image_key'], 'group': group}
  )

  def count(units: pd.Series) -> np.ndarray:
    # A merge, not a look-up: one image may count in several groups.
    found = membership.merge(units.rename('unit').to_frame(), on='unit')
    return np.bincount(found['group'], minlength=len(names))

  label = predictions['true_class' if of_classes else 'image_key']
  correct = predictions['true_class'] == predictions['predictions']
  support, correct_count = count(label), count(label[correct])
  with np.errstate(invalid='ignore'):
    counts = pd.DataFrame(
      {
        'class_id': np.arange(len(names)),
        'class': names,
        'support': support,
        'predicted_count': np.nan,
        'correct_count': correct_count,
        'recall': correct_count / support,
        'precision': np.nan,
      }
    )
    if of_classes:
      counts['predicted_count'] = count(predictions['predictions'])
      counts['precision'] = correct_count / counts['predicted_count']
  return counts


def member_metrics(
  predictions: pd.DataFrame,
  class_names: Sequence[str],
  groups: pd.DataFrame | None = None,
) -> pd.DataFrame:
  """Turns the predictions of one member into its rows of class metrics.

  The result depends on the images and what was predicted for them, not on the
  order of the rows. Losses count with the precision they are computed in
  (float32), so that they are the same before and after a CSV.

  Args:
    predictions: rows of `tables.PREDICTIONS`, one per image, of one member.
    class_names: [num_classes] in the order of the class ids.
    groups: as in `group_counts`, to have rows of groups instead of classes.

  Returns:
    Rows of `tables.CLASS_METRICS` without split and ckpt. eval_accuracy,
    top_5_eval_accuracy and loss are over all images; the latter two are NaN
    where the predictions lack them.

  Raises:
    ValueError: no rows, several members, an image twice, an unknown class, or
      top-5 or loss known for some images only.
  """
  if predictions.empty:
    raise ValueError('no predictions, wanted one row per image')
  first = predictions.iloc[0]
  for name in tables.MEMBER_KEY:
    if (predictions[name] != first[name]).any():
      raise ValueError(
        f'column {name!r} holds {sorted(set(predictions[name]))[:4]}, wanted '
        'the predictions of one member'
      )
  repeated = predictions['image_key'].duplicated()
  if repeated.any():
    raise ValueError(
      f'{int(repeated.sum())} images are predicted more than once by one '
      f'member, for example {predictions.loc[repeated, "image_key"].iloc[0]!r}'
    )
  true_class = predictions['true_class'].to_numpy()
  predicted = predictions['predictions'].to_numpy()
  counts = class_counts(true_class, predicted, len(class_names))
  counts['class'] = list(class_names)
  if groups is not None:
    counts = group_counts(predictions, groups)
  counts['eval_accuracy'] = float((true_class == predicted).mean())
  counts['top_5_eval_accuracy'] = _top_5_accuracy(predictions)
  counts['loss'] = _mean_cross_entropy(predictions['cross_entropy'])
  for name in tables.MEMBER_KEY:
    counts[name] = first[name]
  return counts


def _top_5_accuracy(predictions: pd.DataFrame) -> float:
  cells = predictions['top_5_indices'].tolist()
  empty = sum(not cell for cell in cells)
  if empty == len(cells):
    return math.nan
  ids = [cell.strip('[]').split() for cell in cells]
  lengths = {len(row) for row in ids}
  if len(lengths) > 1:
    raise ValueError(
      f'top_5_indices holds {sorted(lengths)} class ids in different rows, '
      'wanted the same number in each'
    )
  try:
    top = np.array([[int(i) for i in row] for row in ids])
  except ValueError as error:
    raise ValueError(
      f'top_5_indices holds {cells[0]!r}, wanted "[682 141 933 ...]" ({error})'
    ) from None
  return float((top == predictions[['true_class']].to_numpy()).any(1).mean())


def _mean_cross_entropy(cross_entropy: pd.Series) -> float:
  losses = cross_entropy.to_numpy(np.float32).astype(np.float64)
  empty = int(np.isnan(losses).sum())
  if empty == len(losses):
    return math.nan
  if empty:
    raise ValueError(
      f'cross_entropy is empty for {empty} of {len(losses)} images, wanted it '
      'for all or for none'
    )
  # Rounded once, at the end: the order of the images does not matter.
  return math.fsum(losses) / len(losses)
