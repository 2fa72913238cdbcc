"""Writes one member's predictions from arrays, the way in for any framework.

  from pie_dataset_gen import write_predictions

  write_predictions.write(
    'my_predictions', true_class, image_keys, logits=logits,
    pruning_method='int8', replicate=3)

after the evaluation of each model makes a folder that `aggregate_predictions`,
`aggregate_ckpt_metrics` and what follows them read (docs/your_data.md). Needs
numpy and pandas only.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from utils import compressed, csvs, member_paths, storage, tables

# Probabilities of float16 miss a sum of 1 by less.
_SUM_TOLERANCE = 0.01
_TOP = 5


def write(
  folder: str,
  true_class: npt.ArrayLike,
  image_keys: Sequence[str],
  *,
  logits: npt.ArrayLike | None = None,
  probabilities: npt.ArrayLike | None = None,
  labels: npt.ArrayLike | None = None,
  pruning_method: str = 'baseline',
  fraction_pruned: float = 0.0,
  replicate: int = 0,
  shard: str = 'all',
  compress: bool = False,
) -> str:
  """Writes the CSV of one member (`tables.PREDICTIONS`); returns its path.

  One of `logits`, `probabilities` and `labels` is given. With labels alone it
  is not known how sure a model is, nor what else it thinks of.

  Args:
    folder: of all predictions; the file lies in its folder <shard>.
    true_class: [images] class ids from 0 on.
    image_keys: [images] the image's identity, the same for all members.
    logits: [images, classes], of which softmax gives probabilities.
    probabilities: [images, classes], of each image 1 in all.
    labels: [images] predicted class ids.
    pruning_method: 'baseline' for dense models, else a word for the way to
      compress, as 'int8'.
    fraction_pruned: share of weights that are zero, in [0, 1); 0 where nothing
      is pruned.
    replicate: number of the model among those that were made alike; of a model
      made from a dense one, that of the dense one.
    shard: name of a part of the images, where one file would be too large.
    compress: whether it is a .csv.gz, a sixth of the bytes.

  Raises:
    ValueError: shapes that do not fit, scores that are no finite numbers or no
      probabilities, class ids that cannot be, keys that repeat; or the file is
      there in its other form.
  """
  level = member_paths.Level(pruning_method, float(fraction_pruned))
  member_paths.check_level(level)
  storage.check_component('shard', shard)
  name = f'predictions_dataframe_{level[0]}_{level[1]}_{replicate}.csv'
  path = storage.within(storage.within(folder, shard), name)
  if compress:
    path = compressed.other_form(path)
  if (other := csvs.either_form(path)) != path:
    raise ValueError(
      f'{other} is there, the same predictions in another form than {path}: '
      'remove it'
    )
  given = {
    what: np.asarray(values)
    for what, values in (
      ('logits', logits),
      ('probabilities', probabilities),
      ('labels', labels),
    )
    if values is not None
  }
  if len(given) != 1:
    raise ValueError(
      f'{path}: {sorted(given) or "no predictions"} are given, wanted one of '
      'logits, probabilities and labels'
    )
  ((what, values),) = given.items()
  true = _class_ids(path, 'true_class', np.asarray(true_class))
  if len(true) != len(image_keys) or len(true) != len(values):
    raise ValueError(
      f'{path}: there are {len(values)} {what}, {len(true)} true classes and '
      f'{len(image_keys)} image keys, wanted as many of each'
    )
  frame = pd.DataFrame(
    {
      'image_key': list(image_keys),
      'image_index': np.arange(len(true)),
      'true_class': true,
      'pruning_method': level.pruning_method,
      'fraction_pruned': level.fraction_pruned,
      'replicate': replicate,
      'filename': shard,
    }
  )
  if what == 'labels':
    columns: dict[str, object] = {
      'predictions': _class_ids(path, what, values),
      'predicted_probability': np.nan,
    }
  else:
    columns = _of_scores(path, what, values, true)
  csvs.write(tables.PREDICTIONS, frame.assign(**columns), path)
  return path


def _class_ids(path: str, what: str, values: np.ndarray) -> np.ndarray:
  if values.ndim != 1 or (values.size and values.dtype.kind not in 'iu'):
    raise ValueError(
      f'{path}: {what} have the shape {values.shape} and the type '
      f'{values.dtype}, wanted one whole number for each image'
    )
  return values


def _of_scores(
  path: str, what: str, scores: np.ndarray, true: np.ndarray
) -> dict[str, object]:
  """What scores [images, classes] say of each image."""
  if scores.ndim != 2 or not scores.shape[1]:
    raise ValueError(
      f'{path}: {what} have the shape {scores.shape}, wanted [images, classes]'
    )
  scores = scores.astype(np.float64)
  classes = scores.shape[1]
  wrong = ~np.isfinite(scores).all(axis=1)
  wanted = 'finite numbers'
  if what == 'probabilities' and not wrong.any():
    away = np.abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE
    wrong = away | (scores < 0).any(axis=1)
    wanted = 'numbers from 0 on that are 1 in all; are these logits?'
  if wrong.any():
    image = int(np.flatnonzero(wrong)[0])
    raise ValueError(
      f'{path}: {what} of image {image} are {scores[image, :4]}..., wanted '
      f'{wanted}'
    )
  if len(true) and true.max() >= classes:
    raise ValueError(
      f'{path}: true_class holds {true.max()}, but {what} are of {classes} '
      'classes, 0 to {}'.format(classes - 1)
    )
  # Of equal scores the first class is taken.
  ranked = np.argsort(-scores, axis=1, kind='stable')[:, :_TOP]
  if what == 'logits':
    scores = special.softmax(scores, axis=1)
  first = np.take_along_axis(scores, ranked[:, :1], axis=1)[:, 0]
  columns = {
    'predictions': ranked[:, 0],
    # What is above 1 by rounding is 1.
    'predicted_probability': np.minimum(first, 1.0),
  }
  if classes >= _TOP:
    columns['top_5_indices'] = [
      f'[{" ".join(map(str, row))}]' for row in ranked.tolist()
    ]
  return columns
