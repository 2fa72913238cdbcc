"""What counts of the predictions for a set, under which name.

PIEs are measured apart from the other images, and ImageNet-A on its 200 classes
apart from all 1,000.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils import csvs, populations, tables

IMAGENET_A = 'imagenet_a'
# Class ids, from 0, of the 200 classes that ImageNet-A has images of (as
# robustness_metrics' datasets/tfds.py and the authors' eval.py have them).
# fmt: off
IMAGENET_A_CLASSES = (
  6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79,
  89, 90, 94, 96, 97, 99, 105, 107, 108, 110, 113, 124, 125, 130, 132, 143,
  144, 150, 151, 207, 234, 235, 254, 277, 283, 287, 291, 295, 298, 301, 306,
  307, 308, 309, 310, 311, 313, 314, 315, 317, 319, 323, 324, 326, 327, 330,
  334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400, 401, 402, 404, 407,
  411, 416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470,
  472, 483, 486, 488, 492, 496, 514, 516, 528, 530, 539, 542, 543, 549, 552,
  557, 561, 562, 569, 572, 573, 575, 579, 589, 606, 607, 609, 614, 626, 627,
  640, 641, 642, 643, 658, 668, 677, 682, 684, 687, 701, 704, 719, 736, 746,
  749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786, 792, 797, 802,
  803, 804, 813, 815, 820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862,
  870, 879, 880, 888, 890, 897, 900, 907, 913, 924, 932, 933, 934, 937, 943,
  945, 947, 951, 954, 956, 957, 959, 971, 972, 980, 981, 984, 986, 987, 988,
)
# fmt: on


def read_pies(files: Sequence[str]) -> pd.Series:
  """Image key -> whether it is a PIE.

  Raises:
    ValueError: the files hold several levels, or no PIE, or nothing else.
  """
  labels = csvs.read_all(
    tables.MODAL_LABELS,
    files,
    (
      *tables.MODAL_LABELS.key,
      'variant_modal_label',
      'baseline_modal_label',
    ),
  )
  levels = labels[['pruning_method', 'pruning_fraction']].drop_duplicates()
  if len(levels) > 1:
    raise ValueError(
      f'--modal_labels holds the levels {levels.to_numpy().tolist()}, wanted '
      'one: name it by a pattern such as .../modal_labels/eval/*/threshold_0.9'
      '.csv'
    )
  is_pie = populations.is_pie(labels)
  if is_pie.all() or not is_pie.any():
    raise ValueError(
      f'{int(is_pie.sum())} of {len(is_pie)} images of --modal_labels are '
      'PIEs: nothing to tell apart'
    )
  return pd.Series(is_pie.to_numpy(), labels['image_key'])


def are_pies(predictions: pd.DataFrame, is_pie: pd.Series) -> np.ndarray:
  """Which rows are of PIEs, found by image key.

  Tools call an image of ImageNet by its file name, or by its class's folder
  and its file name; where the keys differ the file names are compared.

  Raises:
    ValueError: the images are not the same; names one.
  """
  keys, known = predictions['image_key'], is_pie.index
  if not keys.isin(known).all():
    keys, known = (part.str.rsplit('/', n=1).str[-1] for part in (keys, known))
  where = pd.Index(known).get_indexer(keys) if known.is_unique else None
  if where is None or (where < 0).any() or len(keys) != len(known):
    only = sorted(set(keys) ^ set(known))
    raise ValueError(
      f'{len(keys)} images were predicted, --modal_labels has {len(known)}; '
      f'in one of them only: {len(only)}, such as {only[:1]}'
    )
  return is_pie.to_numpy()[where]


def views_of(
  predictions: pd.DataFrame, dataset_name: str, is_pie: pd.Series | None
) -> dict[str, pd.DataFrame]:
  """Name in the results -> the predictions that count under it.

  Args:
    predictions: of one member for all images of a set.
    dataset_name: what was measured.
    is_pie: as `read_pies` gives it, or None.

  Raises:
    ValueError: what is called ImageNet-A does not show its 200 classes, or the
      images are not those of is_pie.
  """
  found = {dataset_name: predictions}
  if dataset_name == IMAGENET_A:
    classes = set(predictions['true_class'])
    if classes != set(IMAGENET_A_CLASSES):
      differ = sorted(classes ^ set(IMAGENET_A_CLASSES))
      raise ValueError(
        f'the images have {len(classes)} classes, wanted the 200 of ImageNet-A;'
        f' {len(differ)} are in one of them only, such as {differ[:5]}'
      )
    found = {
      # Top-5 and loss are known over all classes only. The probability of the
      # label is the one among these classes: over all, it is of another label.
      dataset_name: predictions.assign(
        predictions=predictions['restricted_predictions'],
        predicted_probability=predictions['restricted_probability'],
        top_5_indices='',
        cross_entropy=np.nan,
      ),
      f'{dataset_name}_all_classes': predictions,
    }
  if is_pie is not None:
    rows = are_pies(predictions, is_pie)
    for name, frame in list(found.items()):
      found |= {f'{name}_pie': frame[rows], f'{name}_non_pie': frame[~rows]}
  return found


def class_subset(dataset_name: str) -> tuple[int, ...]:
  """The classes that networks choose among; empty for all."""
  return IMAGENET_A_CLASSES if dataset_name == IMAGENET_A else ()


def view_names(dataset_name: str, has_pies: bool) -> list[str]:
  """The names that `views_of` gives."""
  names = [dataset_name]
  if dataset_name == IMAGENET_A:
    names.append(f'{dataset_name}_all_classes')
  if has_pies:
    names += [f'{n}_{kind}' for n in names for kind in ('pie', 'non_pie')]
  return names
