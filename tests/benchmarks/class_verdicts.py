"""How often the verdicts on classes are wrong, and how often they are found.

  python -m tests.benchmarks.class_verdicts [--repeats=1000]

Compares simulated populations of networks of unequal quality, 4, 6, 10 and 30 a
side, on 20 classes or 4 groups of 50 images: first dense against dense, where
every finding is false, then with three classes that lose. Prints the share of
populations in which each test says p <= 0.05, and how often each interval
covers the truth; that of the lowest recall for classes that are equal, near and
apart.
Takes about three minutes; docs/statistics.md has its figures.
"""

import numpy as np
from absl import app, flags
from scipy import stats

from per_class_accuracy import class_tests, member_recall
from utils import membership, populations

FLAGS = flags.FLAGS
SIZES = (4, 6, 10, 30)
LEVEL = populations.Level('threshold', 0.5)
SUPPORT = 50
# Of the interval of the lowest recall, over that of the class that is truly
# lowest, which only somebody who knew it could take.
WIDTH = 'width: lowest recall'
# Rates that have their meaning where no class loses.
OF_A_CLASS = (
  'a class, Welch',
  'a class, permutation',
  'a kind of class, Welch',
  'covered: change of recall',
  'covered: normalised change',
)


def true_logits(classes):
  """Log odds of a class [C], and how much of members' quality it has [C]."""
  of_class = np.linspace(0.2, 3.0, classes)
  # From a class that the quality of a member leaves alone to one that it moves
  # more than the others.
  sensitivity = np.resize([1.0, 0.0, 1.5, 0.5], classes)
  return of_class, sensitivity


def probabilities(random, number, classes, shift, spread=0.4):
  """Probability [number, C] that members are right on an image of a class.

  Members differ in quality, and each has classes that it is better at.
  """
  of_class, sensitivity = true_logits(classes)
  quality = random.normal(0, spread, (number, 1))
  own = random.normal(0, 0.2, (number, classes))
  logits = of_class + sensitivity * quality + own
  logits[:, : len(shift)] -= shift
  return 1 / (1 + np.exp(-logits))


def population(random, number, classes, shift):
  """Recall [number, C] of some members."""
  right = probabilities(random, number, classes, shift)
  return random.binomial(SUPPORT, right) / SUPPORT


def lowest_recall(classes, shift):
  """The class of the lowest mean recall over all members there could be."""
  random = np.random.default_rng(0)
  mean = probabilities(random, 200_000, classes, shift).mean(axis=0)
  return int(mean.argmin()), float(mean.min())


def interval_of(recall):
  """Half the width of Student's 95 % interval of a mean."""
  error = recall.std(ddof=1) / np.sqrt(len(recall))
  return stats.t.ppf(0.975, len(recall) - 1) * error


def models_of(before, after):
  """Two populations as what gen_tstatistic reads."""
  recall = np.concatenate([before, after])
  classes = recall.shape[1]
  levels = [populations.DENSE] * len(before) + [LEVEL] * len(after)
  return member_recall.Models(
    level=tuple(levels),
    recall=recall,
    accuracy=recall.mean(axis=1),
    class_id=np.arange(classes),
    class_name=np.array([f'class {i}' for i in range(classes)], object),
    support=np.full(classes, float(SUPPORT)),
    loss=np.full(len(recall), np.nan),
  )


def verdict(before, after, permutations, seed, own=True):
  """What the tests say of two populations.

  Returns:
    The rows of all classes, and the cells of the summary.
  """
  models = models_of(before, after)
  baseline, variant = (models.positions(x) for x in (populations.DENSE, LEVEL))

  def normalised(at):
    return class_tests.normalise(
      models.recall[at], models.accuracy[at], None, own
    )

  drawn = membership.draw_memberships(
    len(baseline), len(variant), permutations, seed
  )
  permuted = class_tests.draw_permuted(
    models, baseline, variant, normalised, drawn, recomputed=not own
  )
  rows = class_tests.compare_level(
    models, baseline, variant, normalised, permuted
  )
  low, high = class_tests.worst_interval(after, models.support)
  return rows, {
    **class_tests.summarise_level(rows),
    **class_tests.permuted_row(permuted, drawn),
    'worst_recall_low': low,
    'worst_recall_high': high,
  }


def rates(
  number,
  repeats,
  classes=20,
  shift=(),
  permutations=199,
  own=True,
):
  """Share of pairs of populations in which each test finds something.

  Args:
    number: members a side.
    repeats: pairs.
    classes: how many.
    shift: log odds that the first classes lose.
    permutations: memberships.
    own: whether recall is held against a member's own accuracy.
  """
  random = np.random.default_rng([number, classes, len(shift)])
  at, lowest = lowest_recall(classes, shift)
  own_width = 0.0
  names = (
    *OF_A_CLASS[:3],
    'any class, q-values',
    'any class, max-T',
    'number of classes',
    *OF_A_CLASS[3:],
    'covered: lowest recall',
    WIDTH,
  )
  found = np.zeros(len(names))
  of_class = np.zeros(classes)
  for seed in range(repeats):
    before = population(random, number, classes, ())
    after = population(random, number, classes, shift)
    rows, summary = verdict(before, after, permutations, seed, own)
    within = [
      ((rows[f'{x}_low'] <= 0) & (rows[f'{x}_high'] >= 0)).mean()
      for x in ('recall_change', 'normalised_recall_change')
    ]
    false = (rows['pvalue_recall_norm'] <= 0.05).to_numpy()
    of_class += false
    found += (
      false.mean(),
      (rows['pvalue_permutation'] <= 0.05).mean(),
      0.0,
      (rows['qvalue_recall_norm'] <= 0.05).any(),
      (rows['pvalue_max_t'] <= 0.05).any(),
      summary['significant_pvalue'] <= 0.05,
      *within,
      summary['worst_recall_low'] <= lowest <= summary['worst_recall_high'],
      summary['worst_recall_high'] - summary['worst_recall_low'],
    )
    own_width += 2 * interval_of(after[:, at])
  found /= repeats
  found[-1] *= repeats / own_width
  kinds = true_logits(classes)[1]
  found[names.index('a kind of class, Welch')] = max(
    of_class[kinds == kind].mean() / repeats for kind in kinds
  )
  return dict(zip(names, found, strict=True))


def lowest_covered(number, repeats, gap, classes=10):
  """How often the lowest of some recalls is covered, and at what width.

  Args:
    number: members, which differ in quality.
    repeats: populations.
    gap: between the true recalls of neighbouring classes.
    classes: how many.
  """
  random = np.random.default_rng([number, int(1000 * gap)])
  true = 0.4 + gap * np.arange(classes)
  covered = width = own_width = 0.0
  for _ in range(repeats):
    quality = random.normal(0, 0.02, (number, 1))
    recall = true + quality + random.normal(0, 0.03, (number, classes))
    recall = np.round(recall.clip(0, 1) * SUPPORT) / SUPPORT
    low, high = class_tests.worst_interval(
      recall, np.full(classes, float(SUPPORT))
    )
    covered += low <= true[0] <= high
    width += high - low
    own_width += 2 * interval_of(recall[:, 0])
  return {'covered': covered / repeats, WIDTH: width / own_width}


def show(title, columns, names):
  """Prints some rates, a column for each number of members."""
  print(f'\n{title}')
  print(f'{"members a side":28}' + ''.join(f'{n:>8}' for n in columns))
  for name in names:
    cells = ''.join(f'{column[name]:8.3f}' for column in columns.values())
    print(f'{name:28}{cells}')


def main(argv):
  """Prints the figures."""
  del argv
  for title, options in (
    ('dense against dense, 20 classes', {}),
    ('dense against dense, 4 groups', {'classes': 4}),
    ("dense against dense, the paper's normalisation", {'own': False}),
    ('three of 20 classes lose', {'shift': (0.6, 0.5, 0.4)}),
  ):
    columns = {n: rates(n, FLAGS.repeats, **options) for n in SIZES}
    shift = options.get('shift', ())
    # Where some classes lose, all do against the whole.
    names = [n for n in columns[SIZES[0]] if not shift or n not in OF_A_CLASS]
    show(title, columns, names)
  for title, gap in (('equal', 0.0), ('0.02 apart', 0.02), ('0.06', 0.06)):
    columns = {n: lowest_covered(n, 4 * FLAGS.repeats, gap) for n in SIZES}
    show(f'lowest recall of 10 classes, {title}', columns, columns[SIZES[0]])


if __name__ == '__main__':
  flags.DEFINE_integer('repeats', 1000, 'Pairs of populations of each size.')
  app.run(main)
