r"""How often what compression costs is said to be beyond chance, and wrongly.

Simulates populations whose members differ in quality and in how sure they are,
on images that differ in difficulty, and puts them through the functions of the
product. Prints for each measure

- false positives at 5 %, nothing being changed: members on their own, and in
  pairs that two treatments of no effect made; and of the classes of a level,
  the share of studies in which any has q at or below 0.05;
- power, where compressed members are as right but surer, and where a tenth of
  the images are harder for them;
- coverage of the 95 % intervals of compressed members, the images being fixed,
  and their width over 3.92 standard deviations of the measure.

  python -m tests.benchmarks.costs

takes a few minutes; docs/statistics.md has its figures. The standard error of a
rate of 5 % is 0.01 in 400.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from absl import app, flags

from pie_dataset_gen import cost_rows, disagreement, shard_predictions
from utils import membership, populations, tables

NUM_CLASSES = 5
LEVEL = populations.Level('threshold', 0.9)
SIZES = (4, 6, 10, 30)
UNEQUAL = ((4, 30), (30, 10))


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('studies', 400, 'Studies of each kind.', lower_bound=2)
  flags.DEFINE_integer('images', 300, 'Images of a study.', lower_bound=1)


class Images(NamedTuple):
  """Images of a study, the same for all its members.

  Attributes:
    true_class: [images].
    logits: [images, classes] that all members share.
    change: [images] what compression takes from that of the true class.
  """

  true_class: np.ndarray
  logits: np.ndarray
  change: np.ndarray


def draw_images(
  random: np.random.Generator, number: int, changed: float = 0.0
) -> Images:
  """Draws images, of which a share loses 1.5 of its margin."""
  true_class = np.arange(number) % NUM_CLASSES
  logits = random.normal(0, 1, (number, NUM_CLASSES))
  logits[np.arange(number), true_class] += random.normal(3, 2, number)
  return Images(true_class, logits, 1.5 * (random.random(number) < changed))


def predict(
  random: np.random.Generator,
  images: Images,
  members: int,
  compressed: bool = False,
  surer: float = 0.0,
  shared: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Class ids and their probability, [images, members] each.

  Args:
    random: of members, whose quality and temperature differ.
    images: of the study.
    members: number.
    compressed: whether images change.
    surer: what is added to the logarithm of the scale of the logits.
    shared: [images, members, classes] what a pair has in common.
  """
  number = len(images.true_class)
  noise = random.normal(0, 1, (number, members, NUM_CLASSES))
  logits = images.logits[:, None] + (
    noise if shared is None else shared + 0.3 * noise
  )
  truth = logits[np.arange(number), :, images.true_class]
  truth = truth + random.normal(0, 0.3, members)
  if compressed:
    truth = truth - images.change[:, None]
  logits[np.arange(number), :, images.true_class] = truth
  label = logits.argmax(axis=2)
  scale = np.exp(random.normal(surer, 0.1, members))
  logits = logits * scale[:, None]
  power = np.exp(logits - logits.max(axis=2, keepdims=True))
  return label, (power.max(axis=2) / power.sum(axis=2)).astype('f4').astype(
    float
  )


class Study(NamedTuple):
  """What the product says of one simulated study.

  Attributes:
    rows: measure -> row of `tables.COSTS`.
    flip_qvalue: [classes].
  """

  rows: dict[str, dict]
  flip_qvalue: np.ndarray


def study(
  images: Images,
  dense: tuple[np.ndarray, np.ndarray],
  compressed: tuple[np.ndarray, np.ndarray],
  permutations: int,
  seed: int,
  paired: bool = False,
) -> Study:
  """Puts labels and probabilities through the functions of the product."""
  sizes = dense[0].shape[1], compressed[0].shape[1]
  label, probability = (
    np.concatenate(both, axis=1) for both in zip(dense, compressed, strict=True)
  )
  number = np.arange(len(label))
  members = [
    shard_predictions.Identity('', *level, 0, 0, 0, 0, replicate)
    for level, size in zip((populations.DENSE, LEVEL), sizes, strict=True)
    for replicate in range(size)
  ]
  predictions = shard_predictions.Predictions(
    members, number.astype(str), number, images.true_class, label, probability
  )
  drawn = None
  if permutations:
    drawn = membership.draw_memberships(*sizes, permutations, seed, paired)
  at = np.arange(sum(sizes))
  population = cost_rows.Population(
    LEVEL, at[: sizes[0]], at[sizes[0] :], paired, drawn
  )
  is_pie = np.zeros(len(label), bool)
  right = label == images.true_class[:, None]
  scores = {
    i: cost_rows.score(probability[:, i], right[:, i], {LEVEL: is_pie})
    for i in at
  }
  rows = cost_rows.rows_of_level(
    population, disagreement.count_pairs(label, images.true_class), scores
  )
  qvalue = np.full(NUM_CLASSES, np.nan)
  if drawn is not None:
    flips = disagreement.count_flips(
      predictions,
      population.dense,
      population.compressed,
      is_pie,
      drawn,
      paired,
    )
    qvalue = cost_rows.class_rows(population, flips, str)[
      'flip_qvalue'
    ].to_numpy()
  return Study({str(row['measure']): row for row in rows}, qvalue)


def simulate(
  random: np.random.Generator,
  images: Images,
  sizes: tuple[int, int],
  permutations: int,
  seed: int,
  paired: bool = False,
  surer: float = 0.0,
) -> Study:
  """Draws the members of a study; of pairs nothing is changed."""
  shared = None
  if paired:
    shape = (len(images.true_class), sizes[0], NUM_CLASSES)
    shared = random.normal(0, 1, shape)
  dense = predict(random, images, sizes[0], shared=shared)
  compressed = predict(
    random, images, sizes[1], not paired, surer, shared=shared
  )
  return study(images, dense, compressed, permutations, seed, paired)


def rates(
  sizes: tuple[int, int],
  studies: int,
  *,
  paired: bool = False,
  changed: float = 0.0,
  surer: float = 0.0,
  num_images: int = 300,
  permutations: int = 199,
) -> dict[str, float]:
  """Measure -> share of studies in which it is beyond chance.

  Those of too few members are left out, and count as never.
  """
  found = defaultdict(list)
  for seed in range(studies):
    random = np.random.default_rng([seed, *sizes, paired])
    images = draw_images(random, num_images, changed)
    of = simulate(random, images, sizes, permutations, seed, paired, surer)
    for measure, row in of.rows.items():
      if not np.isnan(row['pvalue']):
        found[measure].append(row['pvalue'] <= tables.SIGNIFICANCE)
    found['any class'].append(of.flip_qvalue.min() <= tables.SIGNIFICANCE)
  return {measure: float(np.mean(of)) for measure, of in found.items()}


def coverage(
  sizes: tuple[int, int],
  studies: int,
  *,
  paired: bool = False,
  changed: float = 0.1,
  num_images: int = 300,
) -> dict[str, tuple[float, float]]:
  """Measure -> share of intervals that cover its mean, and mean width."""
  random = np.random.default_rng([*sizes, paired])
  images = draw_images(random, num_images, changed)
  found = defaultdict(list)
  for seed in range(studies):
    of = simulate(random, images, sizes, 0, seed, paired)
    for measure, row in of.rows.items():
      found[measure].append((row['low'], row['value'], row['high']))
  result = {}
  for measure, ends in found.items():
    low, value, high = np.array(ends).T
    if not np.isnan(low).any():
      covered = (low <= value.mean()) & (value.mean() <= high)
      width = (high - low).mean() / (3.92 * value.std(ddof=1))
      result[measure] = float(covered.mean()), float(width)
  return result


def main(argv: list[str]) -> None:
  """Simulates and prints."""
  del argv
  f = flags.FLAGS
  for title, options in (
    ('nothing happens', {}),
    ('nothing happens, pairs', {'paired': True}),
    ('compressed members are surer', {'surer': 0.1}),
    ('a tenth of the images is harder', {'changed': 0.1}),
  ):
    of_sizes = [
      rates((size, size), f.studies, num_images=f.images, **options)
      for size in SIZES
    ]
    print(title + '\n' + ' ' * 36 + ''.join(f'{size:7d}' for size in SIZES))
    for measure in of_sizes[0]:
      cells = ''.join(f'{of[measure]:7.3f}' for of in of_sizes)
      print(f'{measure:36s}{cells}', flush=True)
  print('covered; width')
  designs = [
    *((f'{size}', (size, size), False) for size in SIZES),
    *(('{}, {}'.format(*sizes), sizes, False) for sizes in UNEQUAL),
    *((f'{size} pairs', (size, size), True) for size in (4, 10)),
  ]
  of_designs = [
    coverage(sizes, f.studies, paired=paired, num_images=f.images)
    for _, sizes, paired in designs
  ]
  print(' ' * 36 + ''.join(f'{name:>13}' for name, *_ in designs))
  for measure in of_designs[0]:
    cells = ''.join(
      '  {:5.3f} {:5.2f}'.format(*of[measure]) for of in of_designs
    )
    print(f'{measure:36s}{cells}', flush=True)


if __name__ == '__main__':
  define_flags()
  app.run(main)
