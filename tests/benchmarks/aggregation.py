r"""How long aggregating takes, beside what pandas needs to read the same files.

Makes predictions at the size of the paper (180 members x 50,000 images in 128
shards, 1.8 GB) in a temporary folder, and prints

- aggregate_predictions beside pandas.read_csv of the needed columns of the
  same files, one by one: wanted at most 2;
- the same at four sizes, or those of --sizes: time by row, and memory, should
  be flat;
- beside a row-by-row version, pandas' mode of each image, on one shard;
- measure_costs on the same files: wanted at most as long as aggregating;
- the largest memory of a process of either: wanted below 1.5 GB.

  python -m tests.benchmarks.aggregation --shards=8
  python -m tests.benchmarks.aggregation --sizes=128,288 --compress

makes a sixteenth of it; and that beside 20 million rows, as .csv.gz. The
machine should be idle.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from absl import app, flags, logging

from pie_dataset_gen import shard_predictions
from utils import compressed, csvs, tables

LEVELS = (
  ('baseline', 0.0),
  *(('threshold', level) for level in (0.1, 0.3, 0.5, 0.7, 0.9)),
)
NUM_CLASSES = 1000
# Shards that differ; others have the same rows about images of other keys.
_DRAWN = 16


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('shards', 128, 'Shards.', lower_bound=8)
  flags.DEFINE_list('sizes', [], 'Numbers of shards instead.')
  flags.DEFINE_boolean('compress', False, 'Whether CSVs are compressed.')
  flags.DEFINE_integer('images', 391, 'Images in a shard.', lower_bound=1)
  flags.DEFINE_integer('replicates', 30, 'Members at a level.', lower_bound=1)


def write_shard(
  folder: pathlib.Path, images: int, replicates: int, ending: str = '.csv'
) -> None:
  """Writes one shard's predictions by all members.

  Every image has a few plausible labels and a hardness; pruned members err
  more often.
  """
  random = np.random.default_rng(int(folder.name.split('-')[1]))
  folder.mkdir(parents=True)
  true_class = random.integers(0, NUM_CLASSES, images)
  wrong = random.integers(0, NUM_CLASSES, (images, 4))
  hardness = random.random(images) ** 3
  key = [f'ILSVRC2012_{folder.name}_{i:08d}.JPEG' for i in range(images)]
  for method, fraction in LEVELS:
    for replicate in range(replicates):
      errs = random.random(images) < hardness * (0.5 + fraction / 2)
      choice = wrong[np.arange(images), random.integers(0, 4, images)]
      label = np.where(errs, choice, true_class)
      frame = pd.DataFrame(
        {
          'predictions': label,
          'true_class': true_class,
          'predicted_probability': random.random(images, np.float32),
          'top_5_indices': [
            f'[{" ".join(map(str, row))}]' for row in np.c_[label, wrong]
          ],
          'split': 'eval',
          'filename': folder.name,
          'exp': 'imagenet',
          'pruning_method': method,
          'fraction_pruned': fraction,
          'start_pruning_step': 5000 if fraction else 0,
          'end_pruning_step': 8000 if fraction else 0,
          'pruning_frequency': 500 if fraction else 0,
          'global_step': 32000,
          'replicate': replicate,
          'image_key': key,
          'image_index': np.arange(images),
          'cross_entropy': random.random(images, np.float32),
          'preprocessing': 'legacy',
          'precision': 'float32',
          'made_from': '',
        }
      )
      frame.to_csv(
        folder
        / f'predictions_dataframe_{method}_{fraction}_{replicate}{ending}',
        index=False,
      )


def copy_shard(drawn: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the rows of a shard under other keys."""
  folder.mkdir(parents=True)
  for path in drawn.iterdir():
    is_packed = compressed.is_compressed(path)
    text = csvs.read_text(str(path)).replace(
      drawn.name.encode(), folder.name.encode()
    )
    data = compressed.pack(text) if is_packed else text
    (folder / path.name).write_bytes(data)


def parse(files: list[pathlib.Path]) -> float:
  """Seconds in which pandas reads the columns that aggregation needs."""
  columns = list(shard_predictions.COLUMNS)
  start = time.perf_counter()
  for path in files:
    pd.read_csv(path, usecols=columns)
  return time.perf_counter() - start


def run_script(script: str, *arguments: str) -> tuple[float, float]:
  """Seconds, and GB of the largest process, of a script as a program."""
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, '-m', f'pie_dataset_gen.{script}', *arguments],
    stderr=subprocess.DEVNULL,
  )
  # Of this one and of its workers, not of all programs so far.
  _, status, used = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, script)
  return time.perf_counter() - start, used.ru_maxrss * 1024 / 1e9


def aggregate(pattern: str, output: str) -> tuple[float, float]:
  """Seconds and peak GB."""
  return run_script(
    'aggregate_predictions',
    f'--data_directory={pattern}',
    f'--output_path={output}',
  )


def row_by_row(files: list[pathlib.Path]) -> float:
  """Seconds of the plain version: an image at a time, for each level."""
  start = time.perf_counter()
  frame = pd.concat(map(pd.read_csv, files))
  labels = collections.defaultdict(dict)
  for key in frame['image_key'].unique():
    image = frame[frame['image_key'] == key]
    for _, fraction in LEVELS:
      votes = image[image['fraction_pruned'] == fraction]
      labels[key][fraction] = votes['predictions'].mode().max()
  return time.perf_counter() - start


def main(argv: list[str]) -> None:
  """Makes the data, runs, prints."""
  del argv
  f = flags.FLAGS
  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as root:
    data = pathlib.Path(root) / 'data'
    sizes = list(map(int, f.sizes)) or [f.shards // i for i in (8, 4, 2, 1)]
    number = max(sizes)
    shards = [
      data / f'validation-{i:05d}-of-{number:05d}' for i in range(number)
    ]
    ending = '.csv.gz' if f.compress else '.csv'
    for shard in shards[:_DRAWN]:
      write_shard(shard, f.images, f.replicates, ending)
    for i, shard in enumerate(shards[_DRAWN:]):
      copy_shard(shards[i % _DRAWN], shard)
    members = len(LEVELS) * f.replicates
    print(
      'rows        aggregate  peak GB  pandas alone  ratio  us/row  '
      'costs      peak GB'
    )
    for size in sizes:
      chosen = shards[:size]
      files = sorted(path for shard in chosen for path in shard.iterdir())
      alone = parse(files)
      pattern = ','.join(f'{shard}/*' for shard in chosen)
      seconds, peak = aggregate(pattern, f'{root}/out_{size}')
      of_costs, peak_costs = run_script(
        'measure_costs',
        f'--data_directory={pattern}',
        f'--results_directory={root}/out_{size}',
      )
      rows = len(chosen) * f.images * members
      print(
        f'{rows:10,d}  {seconds:7.2f} s  {peak:7.2f}  {alone:10.2f} s  '
        f'{seconds / alone:5.2f}  {seconds / rows * 1e6:6.2f}  '
        f'{of_costs:7.2f} s  {peak_costs:7.2f}',
        flush=True,
      )
    plain = row_by_row(sorted(shards[0].iterdir()))
    one, _ = aggregate(f'{shards[0]}/*', f'{root}/one')
    print(
      f'one shard ({f.images * members:,d} rows): {one:.2f} s, nulls and the '
      f'start of Python included; row by row {plain:.2f} s, '
      f'{plain / one:.1f} times as long'
    )
    csvs.read(
      tables.PIE_NULL, f'{root}/out_{sizes[-1]}/imagenet/eval_pie_null.csv'
    )


if __name__ == '__main__':
  define_flags()
  app.run(main)
