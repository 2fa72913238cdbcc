"""How far an image's difference of votes stands above chance, in words.

The one place that says it: the page and the ranking of suspects both ask here.
A PIE is what two populations happen to disagree about; the p-value and the
q-value of its votes (`tables.MODAL_LABELS`) say whether chance would do.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from utils import tables

SOLID = 'solid'
UNCERTAIN = 'uncertain'
MAY_BE_CHANCE = 'may be chance'
NOT_TESTED = 'not tested'

# What each word means, from the strongest on.
MEANINGS: Mapping[str, str] = {
  SOLID: (
    'More than chance, with allowance made for all images of the level that '
    f'were looked at: q is at most {tables.SIGNIFICANCE:g}.'
  ),
  UNCERTAIN: (
    f'p is at most {tables.SIGNIFICANCE:g} before correction; of PIEs that are '
    'chance more than one in twenty are so, since PIEs are chosen for their '
    'votes.'
  ),
  MAY_BE_CHANCE: (
    f'Chance would do: p is above {tables.SIGNIFICANCE:g}. Other members of '
    'the same making may well agree about this image.'
  ),
  NOT_TESTED: 'No permutation of memberships was asked for or can be made.',
}


def of_rows(labels: pd.DataFrame) -> pd.Series:
  """The word for each row of `tables.MODAL_LABELS`.

  Args:
    labels: with vote_pvalue and vote_qvalue, NaN where there is none. An image
      whose votes can give no small p-value has no q-value.
  """
  words = np.select(
    [
      labels['vote_qvalue'] <= tables.SIGNIFICANCE,
      labels['vote_pvalue'] <= tables.SIGNIFICANCE,
      labels['vote_pvalue'].notna(),
    ],
    [SOLID, UNCERTAIN, MAY_BE_CHANCE],
    NOT_TESTED,
  )
  return pd.Series(words, labels.index)
