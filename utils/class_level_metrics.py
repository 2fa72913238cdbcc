"""Per-class recall and precision from one confusion count.

Pure functions on arrays: no files, no flags, no TensorFlow.
"""

import numpy as np
import pandas as pd


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
