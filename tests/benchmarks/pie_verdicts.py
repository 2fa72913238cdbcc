r"""How often the tests of PIEs are wrong, and how often they find a change.

Simulates populations whose members differ in quality on images that differ in
difficulty, and puts them through the functions of the product. Prints

- false positives at 5 %, nothing being changed: of the level's tests (energy,
  Taxicab, number of PIEs; members on their own and in pairs), of single images
  that can be significant, and of studies in which any image has q <= 0.05;
- power, a tenth of the images being harder for compressed members;
- coverage of the 95 % interval of the number of PIEs, and its width over that
  which is needed (3.92 standard deviations of the count).

  python -m tests.benchmarks.pie_verdicts

takes about ten minutes; docs/statistics.md has its figures. More --studies give
more digits: the standard error of a rate of 5 % is 0.01 in 400.
"""

from typing import NamedTuple

import numpy as np
from absl import app, flags

from pie_dataset_gen import (
  aggregate_predictions,
  image_test,
  pie_resampling,
  shard_predictions,
)
from utils import populations, tables

NUM_CLASSES = 5
LEVEL = populations.Level('threshold', 0.9)
SIZES = (4, 6, 10, 30)
# Of the interval, too: pairs, and groups of unequal size.
PAIRS = (4, 10)
UNEQUAL = ((4, 30), (30, 10))
STATISTICS = ('energy', 'taxicab', 'pie')


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('studies', 400, 'Studies of each kind.', lower_bound=2)
  flags.DEFINE_integer('images', 300, 'Images of a study.', lower_bound=1)


class Images(NamedTuple):
  """Images of a study, the same for all its members.

  Attributes:
    margin: [images] how much surer of the true class 0 than of others.
    other: [images] the class that it is taken for.
    change: [images] what compression takes from the margin.
  """

  margin: np.ndarray
  other: np.ndarray
  change: np.ndarray


def draw_images(
  random: np.random.Generator, number: int, changed: float = 0.0
) -> Images:
  """Draws images, of which a share loses 1.5 of its margin."""
  return Images(
    random.normal(3, 2, number),
    random.integers(1, NUM_CLASSES, number),
    1.5 * (random.random(number) < changed),
  )


def predict(
  random: np.random.Generator,
  images: Images,
  members: int,
  spread: float,
  compressed: bool,
) -> np.ndarray:
  """Class ids [images, members] of members that differ in quality."""
  logits = random.gumbel(size=(len(images.margin), members, NUM_CLASSES))
  logits[:, :, 0] += images.margin[:, None] + random.normal(0, spread, members)
  logits[np.arange(len(logits)), :, images.other] += 1
  if compressed:
    logits[:, :, 0] -= images.change[:, None]
  return logits.argmax(axis=2)


def make_pairs(
  random: np.random.Generator, images: Images, members: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
  """Networks that two treatments of no effect were made from, each its own."""
  shared = predict(random, images, members, spread, False)
  return tuple(
    np.where(
      random.random(shared.shape) < 0.9,
      shared,
      predict(random, images, members, spread, False),
    )
    for _ in range(2)
  )


class Study(NamedTuple):
  """What the product says of one simulated study.

  Attributes:
    row: cells of `tables.PIE_NULL`.
    pvalue: [images] of images.
    qvalue: [images] of images; NaN where none can be small.
  """

  row: dict
  pvalue: np.ndarray
  qvalue: np.ndarray


def study(
  dense: np.ndarray,
  compressed: np.ndarray,
  permutations: int,
  repeats: int,
  seed: int,
  paired: bool = False,
) -> Study:
  """Puts predictions [images, members] through the functions of the product."""
  sizes = dense.shape[1], compressed.shape[1]
  label = np.concatenate([dense, compressed], axis=1)
  images = np.arange(len(label))
  members = [
    shard_predictions.Identity('', *level, 0, 0, 0, 0, replicate)
    for level, size in zip((populations.DENSE, LEVEL), sizes, strict=True)
    for replicate in range(size)
  ]
  predictions = shard_predictions.Predictions(
    members, images.astype(str), images, images * 0, label, label * 0.0
  )
  drawn = pie_resampling.draw(*sizes, repeats, permutations, seed, paired)
  frames, sums = aggregate_predictions.count_shard(
    predictions, {LEVEL: drawn}, 'largest'
  )
  row = pie_resampling.summarise(
    sums[LEVEL], populations.agreement(label), *sizes, drawn
  )
  pvalue = frames[LEVEL]['vote_pvalue'].to_numpy()
  testable = frames[LEVEL]['vote_qvalue'].notna().to_numpy()
  each, number = np.unique(pvalue[testable], return_counts=True)
  of = image_test.qvalues(dict(zip(each.tolist(), number, strict=True)))
  qvalue = np.full(len(pvalue), np.nan)
  qvalue[testable] = [of[p] for p in pvalue[testable].tolist()]
  return Study({**sums[LEVEL], **row}, pvalue, qvalue)


def rates(
  members: int,
  spread: float,
  studies: int,
  changed: float = 0.0,
  paired: bool = False,
  num_images: int = 300,
  permutations: int = 199,
) -> dict[str, float]:
  """Share of studies in which each test is significant, and of images.

  Args:
    members: on either side.
    spread: standard deviation of their quality.
    studies: to simulate.
    changed: share of the images that compression makes harder.
    paired: whether members are pairs (then nothing is changed).
    num_images: of a study.
    permutations: of a test.
  """
  found: dict[str, list[float]] = {name: [] for name in STATISTICS}
  found |= {'an image': [], 'any image': []}
  for seed in range(studies):
    random = np.random.default_rng([seed, members, int(10 * spread), paired])
    images = draw_images(random, num_images, changed)
    if paired:
      both = make_pairs(random, images, members, spread)
    else:
      both = tuple(
        predict(random, images, members, spread, compressed)
        for compressed in (False, True)
      )
    of = study(*both, permutations, 0, seed, paired)
    for name in STATISTICS:
      small = of.row[f'{name}_pvalue'] <= tables.SIGNIFICANCE
      found[name].append(small)
    testable = ~np.isnan(of.qvalue)
    if testable.any():
      small = of.pvalue[testable] <= tables.SIGNIFICANCE
      found['an image'].append(small.mean())
    found['any image'].append(np.nanmin([1.0, *of.qvalue]) <= 0.05)
  # Of few members no image can be significant, and there is no rate.
  return {name: float(np.mean(of or [np.nan])) for name, of in found.items()}


class Coverage(NamedTuple):
  """How often intervals hold the expected count, and how wide they are.

  Attributes:
    coverage: share of studies.
    width: mean width over 3.92 standard deviations of the count.
    count: mean number of PIEs.
  """

  coverage: float
  width: float
  count: float


def interval_coverage(
  sizes: tuple[int, int],
  spread: float,
  studies: int,
  paired: bool = False,
  changed: float = 0.1,
  num_images: int = 300,
) -> Coverage:
  """The interval of the number of PIEs: the images are fixed, members vary."""
  random = np.random.default_rng([*sizes, int(10 * spread)])
  images = draw_images(random, num_images, changed)
  rows = []
  for seed in range(studies):
    if paired:
      both = make_pairs(random, images, sizes[0], spread)
    else:
      both = tuple(
        predict(random, images, members, spread, compressed)
        for members, compressed in zip(sizes, (False, True), strict=True)
      )
    rows.append(study(*both, 0, 100, seed, paired).row)
  low, count, high = (
    np.array([row[name] for row in rows])
    for name in ('pie_count_low', 'pie_count', 'pie_count_high')
  )
  expected = count.mean()
  return Coverage(
    float(((low <= expected) & (expected <= high)).mean()),
    float((high - low).mean() / (3.92 * count.std(ddof=1))),
    float(expected),
  )


def main(argv: list[str]) -> None:
  """Simulates and prints."""
  del argv
  f = flags.FLAGS
  names = (*STATISTICS, 'an image', 'any image')
  for title, options in (
    ('false positives', {}),
    ('false positives, pairs', {'paired': True}),
    ('power, a tenth of the images changed', {'changed': 0.1}),
  ):
    print(f'{title}\nmembers  quality  ' + '  '.join(names))
    for members in SIZES:
      for spread in (0.0, 0.4):
        of = rates(members, spread, f.studies, num_images=f.images, **options)
        cells = (f'{of[name]:{len(name)}.3f}' for name in names)
        print(f'{members:7d}  {spread:7.1f}  ' + '  '.join(cells), flush=True)
  print('interval of the number of PIEs')
  print('members   quality  covers  width  PIEs')
  for sizes, paired in (
    *(((members, members), False) for members in SIZES),
    *((sizes, False) for sizes in UNEQUAL),
    *(((members, members), True) for members in PAIRS),
  ):
    for spread in (0.0, 0.4):
      of = interval_coverage(
        sizes, spread, f.studies, paired, num_images=f.images
      )
      name = f'{sizes[0]} pairs' if paired else '{}, {}'.format(*sizes)
      print(
        f'{name:>8}  {spread:7.1f}  {of.coverage:6.3f}  {of.width:5.2f}  '
        f'{of.count:4.1f}',
        flush=True,
      )


if __name__ == '__main__':
  define_flags()
  app.run(main)
