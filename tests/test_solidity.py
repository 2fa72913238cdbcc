"""What is said of an image's difference of votes follows from its p and q."""

import numpy as np
import pandas as pd

from pie_dataset_gen import solidity


def test_a_word_for_every_case():
  rows = pd.DataFrame(
    {
      'vote_pvalue': [0.001, 0.04, 0.04, 0.05, 0.051, 1.0, np.nan],
      'vote_qvalue': [0.05, 0.051, np.nan, 0.2, 0.051, np.nan, np.nan],
    },
    index=list('abcdefg'),
  )
  words = solidity.of_rows(rows)
  assert words.to_dict() == {
    'a': solidity.SOLID,
    'b': solidity.UNCERTAIN,
    'c': solidity.UNCERTAIN,
    'd': solidity.UNCERTAIN,
    'e': solidity.MAY_BE_CHANCE,
    'f': solidity.MAY_BE_CHANCE,
    'g': solidity.NOT_TESTED,
  }
  assert set(words) == set(solidity.MEANINGS)
