"""Whether members are right as often as they are sure.

Of a prediction the class and its probability are known, not the probabilities
of the other classes. So all measures are of the *top label*: of the event that
the prediction is right, which the network gave its probability, its
*confidence*. A network that is right about 80 % of the images of which it is
80 % sure is calibrated in this sense, whatever it says of the other classes
(Guo et al. 2017, "On calibration of modern neural networks"; Gupta & Ramdas
2022, "Top-label calibration").
"""

from typing import NamedTuple

import numpy as np

NUM_BINS = 15
# A float32 this near to 1 is 1: a network cannot say that it is surer, and what
# it says then costs at most 16.6 nats.
SUREST = 2.0**-24


class Bins(NamedTuple):
  """Images in the order of confidence, cut into bins of equal number.

  Attributes:
    number: [bins] images.
    confidence: [bins] mean.
    accuracy: [bins] share that is predicted rightly.
  """

  number: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray


def log_loss(confidence: np.ndarray, right: np.ndarray) -> float:
  """Mean negative log-likelihood of being right, in nats.

  -log(c) where the prediction is right, -log(1 - c) where it is wrong.

  Args:
    confidence: [images] in [0, 1].
    right: [images] whether the prediction is right.
  """
  sure = np.clip(confidence, SUREST, 1 - SUREST)
  return float(-np.log(np.where(right, sure, 1 - sure)).mean())


def brier_score(confidence: np.ndarray, right: np.ndarray) -> float:
  """Mean of (confidence - right)^2 (Brier 1950), of the top label.

  Args:
    confidence: [images] in [0, 1].
    right: [images] whether the prediction is right.
  """
  return float(((confidence - right) ** 2).mean())


def bins_of(
  confidence: np.ndarray, right: np.ndarray, number: int = NUM_BINS
) -> Bins:
  """Cuts images into bins of equal mass.

  Sizes differ by at most 1. Of images that are equally sure, which fall on one
  side of a cut is a matter of their order, so each counts as right as they are
  on average.

  Args:
    confidence: [images] in [0, 1].
    right: [images] whether the prediction is right.
    number: of bins; fewer where some would hold less than two images.
  """
  order = np.argsort(confidence, kind='stable')
  sure, correct = confidence[order], right[order].astype(np.float64)
  first = np.flatnonzero(np.diff(sure, prepend=-1.0))
  alike = np.diff(first, append=len(sure))
  correct = np.repeat(np.add.reduceat(correct, first) / alike, alike)
  number = max(1, min(number, len(sure) // 2))
  cuts = np.arange(number) * len(sure) // number
  size = np.diff(cuts, append=len(sure))
  return Bins(
    size,
    np.add.reduceat(sure, cuts) / size,
    np.add.reduceat(correct, cuts) / size,
  )


def expected_error(bins: Bins) -> float:
  """Expected calibration error: mean |accuracy - confidence| over images.

  sum_b n_b / n |acc_b - conf_b| (Naeini et al. 2015), here over bins of equal
  mass. It is above 0 of a calibrated network, too: the fewer the images, the
  more (Roelofs et al. 2022, "Mitigating bias in calibration error estimation").
  """
  return float(
    np.average(np.abs(bins.accuracy - bins.confidence), weights=bins.number)
  )


def debiased_square(bins: Bins) -> float:
  """Squared calibration error without the bias, which may fall below 0.

  sum_b n_b / n ((acc_b - conf_b)^2 - acc_b (1 - acc_b) / (n_b - 1)) (Kumar,
  Liang & Ma 2019, "Verified uncertainty calibration"): what a mean over so few
  images varies by is taken off. NaN where a bin holds one image.
  """
  if bins.number.min() < 2:
    return np.nan
  noise = bins.accuracy * (1 - bins.accuracy) / (bins.number - 1)
  square = (bins.accuracy - bins.confidence) ** 2
  return float(np.average(square - noise, weights=bins.number))
