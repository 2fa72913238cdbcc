"""What predictions cost as .csv, as .csv.gz and as Parquet.

  python -m tests.benchmarks.forms [--images=50000] [--networks=4]

Prints for each form the bytes of a row, and the seconds in which the CSVs of
the networks are written and read; then the same where shards of 391 images lie
in files of their own. The CSVs go through utils/csvs.py, with all its checks;
Parquet, which takes `pip install pyarrow` (170 MB), is only what pandas does,
without any. CPU time, the best of three.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable

import pandas as pd
from absl import app, flags, logging

from pie_dataset_gen import shard_predictions
from tests.benchmarks import aggregation
from utils import csvs, tables

_SHARD = 391
FLAGS = flags.FLAGS


def seconds(work: Callable[[], object]) -> float:
  """The best of three."""
  times = []
  for _ in range(3):
    start = time.process_time()
    work()
    times.append(time.process_time() - start)
  return min(times)


def measure(
  name: str,
  frames: list[pd.DataFrame],
  folder: pathlib.Path,
  write: Callable[[pd.DataFrame, str], object],
  read: Callable[[str], object],
) -> tuple[str, float, float, float]:
  """Bytes a row, and seconds of writing and reading all frames."""
  files = [str(folder / f'{number}{name}') for number in range(len(frames))]
  writing = seconds(
    lambda: [write(*pair) for pair in zip(frames, files, strict=True)]
  )
  reading = seconds(lambda: [read(file) for file in files])
  size = sum(pathlib.Path(file).stat().st_size for file in files)
  return name, size / sum(map(len, frames)), writing, reading


def compare(frames: list[pd.DataFrame], folder: pathlib.Path) -> None:
  """Prints a line for each form."""
  needed = list(shard_predictions.COLUMNS)

  def write(frame, path):
    csvs.write(tables.PREDICTIONS, frame, path)

  def read(path):
    csvs.read(tables.PREDICTIONS, path, needed)

  rows = [
    measure(name, frames, folder, write, read) for name in ('.csv', '.csv.gz')
  ]
  for kind in ('snappy', 'zstd'):
    try:
      row = measure(
        f'.{kind}.parquet',
        frames,
        folder,
        lambda frame, path, kind=kind: frame.to_parquet(
          path, index=False, compression=kind
        ),
        lambda path: pd.read_parquet(path, columns=needed),
      )
    except ImportError:
      print('no Parquet: pip install pyarrow')
      break
    rows.append(row)
  _, size, writing, reading = rows[0]
  print('form             bytes a row         write          read')
  for name, of_size, of_writing, of_reading in rows:
    print(
      f'{name:15} {of_size:6.1f} {of_size / size:5.2f}  {of_writing:6.2f} s '
      f'{of_writing / writing:5.2f} {of_reading:6.2f} s '
      f'{of_reading / reading:5.2f}'
    )


def main(argv: list[str]) -> None:
  """Makes predictions, and prints."""
  del argv
  logging.set_verbosity(logging.ERROR)
  with tempfile.TemporaryDirectory() as root:
    shard = pathlib.Path(root) / 'validation-00000-of-00001'
    replicates = -(-FLAGS.networks // len(aggregation.LEVELS))
    aggregation.write_shard(shard, FLAGS.images, replicates)
    frames = [
      csvs.read(tables.PREDICTIONS, str(path))
      for path in sorted(shard.iterdir())[: FLAGS.networks]
    ]
    print(f'{len(frames)} networks, {FLAGS.images} images in one file each')
    compare(frames, pathlib.Path(root))
    print(f'the same images in files of {_SHARD}')
    compare(
      [
        frame[start : start + _SHARD]
        for frame in frames[:1]
        for start in range(0, len(frame), _SHARD)
      ],
      pathlib.Path(root),
    )


if __name__ == '__main__':
  flags.DEFINE_integer('images', 50_000, 'Images.', lower_bound=1)
  flags.DEFINE_integer('networks', 4, 'Networks.', lower_bound=1)
  app.run(main)
