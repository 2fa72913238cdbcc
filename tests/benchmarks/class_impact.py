"""How fast classes are tested, beside reading the files and beside scipy.

  python -m tests.benchmarks.class_impact [--classes=1000] [--models=30]

Writes class metrics of --models networks at each of six levels and prints how
long gen_tstatistic takes from the files to its output, as a multiple of the
time in which pandas parses the same files, how long one scipy call for each
class and level takes beside our statistics, and how long permuted membership
takes at one level.
"""

import pathlib
import tempfile
import time

import numpy as np
import pandas as pd
from absl import app, flags
from scipy import stats

from per_class_accuracy import class_permutation, class_tests
from tests import test_gen_tstatistic
from utils import membership

FLAGS = flags.FLAGS
LEVELS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)


def best(function, repeats=3):
  """Shortest time of some repeats, in seconds."""
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times)


def main(argv):
  """Prints the figures."""
  del argv
  rng = np.random.default_rng(0)
  recall = test_gen_tstatistic.make_recall(
    rng, FLAGS.models, FLAGS.classes, LEVELS
  )
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    names = [f'class {i}' for i in range(FLAGS.classes)]
    test_gen_tstatistic.write_long(folder / 'in', recall, names)
    files = sorted((folder / 'in').glob('*.csv'))

    def parse():
      for path in files:
        pd.read_csv(path)

    parsing = best(parse)
    whole = best(lambda: test_gen_tstatistic.run(folder / 'in', folder / 'out'))
  print(
    f'{len(files)} models x {FLAGS.classes} classes: pandas parses the files '
    f'in {parsing:.2f} s; from files to output {whole:.2f} s = '
    f'{whole / parsing:.2f}x'
  )
  few = min(FLAGS.classes, 100)

  def scipy_calls():
    for fraction in LEVELS[1:]:
      for i in range(few):
        stats.ttest_ind(
          recall[0.0][:, i], recall[fraction][:, i], equal_var=False
        )

  def ours():
    for fraction in LEVELS[1:]:
      test = class_tests.welch(recall[0.0], recall[fraction])
      assert len(test.pvalue) == FLAGS.classes

  ours_time = best(ours)
  scipy_time = best(scipy_calls) * FLAGS.classes / few
  print(
    f'the statistics alone: {1000 * ours_time:.1f} ms; a scipy call for each '
    f'class and level: {scipy_time:.2f} s = {scipy_time / ours_time:.0f}x'
  )
  both = np.concatenate([recall[0.0], recall[0.9]])
  drawn = membership.draw_memberships(FLAGS.models, FLAGS.models, 999, 0)
  permuting = best(lambda: class_permutation.permute(both, both, drawn))
  print(
    f'999 permutations of {len(both)} models at one level: {permuting:.2f} s'
  )


if __name__ == '__main__':
  flags.DEFINE_integer('classes', 1000, 'Number of classes.')
  flags.DEFINE_integer('models', 30, 'Models at each of six levels.')
  app.run(main)
