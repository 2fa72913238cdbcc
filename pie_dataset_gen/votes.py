"""The vote of populations about images: who won, and by how much."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pie_dataset_gen import image_test, shard_predictions
from utils import populations

TIE_RULES = ('largest', 'smallest', 'probability')


class Ballots(NamedTuple):
  """The votes for some images: a row for each (image, label with a vote).

  Attributes:
    first: [images] an image's first row; its rows are sorted by label.
    image: [rows] position of the image.
    label: [rows] class id.
    voted: [rows, members] 1.0 where the member voted for the label.
    probability: [rows, members] how sure it was, 0.0 where it did not.
  """

  first: np.ndarray
  image: np.ndarray
  label: np.ndarray
  voted: np.ndarray
  probability: np.ndarray


class Election(NamedTuple):
  """Who won, for each image and each of several populations.

  Attributes:
    row: [images, populations] the modal label's row in the ballots.
    votes: [images, populations] its votes.
    counts: [rows, populations] votes of every label, whole numbers.
  """

  row: np.ndarray
  votes: np.ndarray
  counts: np.ndarray


def collect_ballots(label: np.ndarray, probability: np.ndarray) -> Ballots:
  """Sorts votes by image and label.

  Args:
    label: [images, members] predicted class ids.
    probability: [images, members] of the predicted class.
  """
  images, members = label.shape
  num_labels = int(label.max(initial=0)) + 1
  flat = (np.arange(images)[:, None] * num_labels + label).ravel()
  pairs, row = np.unique(flat, return_inverse=True)
  voted = np.zeros((len(pairs), members), np.float32)
  sure = np.zeros((len(pairs), members))
  member = np.tile(np.arange(members), images)
  voted[row, member] = 1
  sure[row, member] = probability.ravel()
  image = pairs // num_labels
  return Ballots(
    np.searchsorted(image, np.arange(images)),
    image,
    pairs % num_labels,
    voted,
    sure,
  )


def elect(
  ballots: Ballots, weights: np.ndarray, tie_rule: str, columns=slice(None)
) -> Election:
  """The modal label of each image in each of several populations.

  Args:
    ballots: the votes.
    weights: [members, populations] how often a member is in a population;
      every population has at least one.
    tie_rule: one of `TIE_RULES`.
    columns: which members of the ballots the weights are for.
  """
  weights = np.asarray(weights, np.float32)
  counts = ballots.voted[:, columns] @ weights
  # An image's rows are sorted by label, so a row's place ranks its label.
  labels = np.diff(ballots.first, append=len(ballots.label))
  place = np.arange(len(ballots.label)) - ballots.first[ballots.image]
  rank, number, row_of = place[:, None], labels.max(initial=1), None
  if tie_rule == 'smallest':
    rank = (labels[ballots.image] - 1 - place)[:, None]
  elif tie_rule == 'probability':
    sure = ballots.probability[:, columns] @ weights.astype(np.float64)
    # Rounded, so that the order of summation cannot decide.
    sure = np.round(sure / np.maximum(counts, 1), 9)
    row_of = np.argsort(sure, axis=0, kind='stable')
    rank, number = np.argsort(row_of, axis=0), len(ballots.label)
  # One number that falls first with the votes, then with the rank. Small ones
  # are exact in float32, which is fastest.
  most = weights.sum(axis=0).max(initial=1) * number
  exact = np.float32 if most < 2**20 else np.float64
  key = counts * np.asarray(number, exact)
  key += rank.astype(exact)
  best = np.maximum.reduceat(key, ballots.first, axis=0)
  votes = np.floor(best / number)
  row = (best - votes * number).astype(np.intp)
  if row_of is not None:
    row = np.take_along_axis(row_of, row, axis=0)
  elif tie_rule == 'smallest':
    row = (ballots.first + labels - 1)[:, None] - row
  else:
    row += ballots.first[:, None]
  return Election(row, votes, counts)


def count_votes(
  predictions: shard_predictions.Predictions,
  levels: Sequence[populations.Level],
  tie_rule: str,
  paired: Collection[populations.Level] = (),
) -> dict[populations.Level, tuple[pd.DataFrame, dict[str, int]]]:
  """The modal labels of some images, at each level.

  Args:
    predictions: what all members predicted.
    levels: those to hold against the dense one.
    tie_rule: one of `TIE_RULES`.
    paired: levels whose i-th member and the i-th dense one belong together.

  Returns:
    For each level the rows of `tables.MODAL_LABELS` but the shard's name, and
    the counts that `tables.PIE_NULL` has of them, by name.
  """
  ballots = collect_ballots(predictions.label, predictions.probability)
  populated = (populations.DENSE, *levels)
  columns = {level: predictions.columns_of(level) for level in populated}
  weights = np.zeros((len(predictions.members), len(columns)))
  for i, members in enumerate(columns.values()):
    weights[members, i] = 1
  full = elect(ballots, weights, tie_rule)
  at_top = full.counts == full.votes[ballots.image]
  tied = np.add.reduceat(at_top, ballots.first, axis=0, dtype=int) > 1
  results = {}
  for i, level in enumerate(levels, 1):
    describe: dict[str, object] = {}
    for column, who, population in (
      (0, 'baseline', populations.DENSE),
      (i, 'variant', level),
    ):
      members = columns[population]
      label = predictions.label[:, members]
      describe |= {
        f'{who}_modal_label': ballots.label[full.row[:, column]],
        f'{who}_number_observ': len(members),
        f'{who}_vote_share': full.votes[:, column] / len(members),
        # Sorted, so that the order of the members cannot change a digit.
        f'{who}_mean_probability': np.sort(
          predictions.probability[:, members], axis=1
        ).mean(axis=1),
        f'{who}_tied': tied[:, column].astype(int),
        f'{who}_correct_share': (label == predictions.true_class[:, None]).mean(
          axis=1
        ),
      }
    cast = full.counts[:, [0, i]].astype(np.int64)
    if level in paired:
      pvalue, smallest = image_test.paired_pvalues(
        predictions.label[:, columns[populations.DENSE]],
        predictions.label[:, columns[level]],
      )
    else:
      pvalue, smallest = image_test.pvalues(
        cast[:, 0], cast[:, 1], ballots.first
      )
    distance = np.abs(cast[:, 0] - cast[:, 1])
    frame = pd.DataFrame(
      {
        'pruning_method': level.pruning_method,
        'pruning_fraction': level.fraction_pruned,
        'image_key': predictions.image_key,
        'image_index': predictions.image_index,
        'true_class_label': predictions.true_class,
        'taxicab_distance': np.add.reduceat(distance, ballots.first),
        **describe,
        'vote_pvalue': pvalue,
        'vote_qvalue': image_test.to_be_corrected(smallest),
      }
    )
    pie = populations.is_pie(frame).to_numpy()
    either_tied = tied[:, 0] | tied[:, i]
    share_a_top_label = np.logical_or.reduceat(
      at_top[:, 0] & at_top[:, i], ballots.first
    )
    counts = {
      'total_images_count': len(pie),
      'pie_count': pie.sum(),
      'baseline_tied_count': tied[:, 0].sum(),
      'variant_tied_count': tied[:, i].sum(),
      'pie_by_tie_rule_count': (pie & share_a_top_label).sum(),
      'non_pie_by_tie_rule_count': (~pie & either_tied).sum(),
    }
    results[level] = frame, counts
  return results
