"""How fast the page of PIEs opens, and what it weighs, with thousands of them.

  python -m tests.benchmarks.gallery [--images=5000]

Makes a data set of as many photographs of 375x500 pixels, all of them PIEs at
five levels, and the page. Prints the time in which the page is made, beside the
time in which Pillow alone decodes and scales the same photographs; its size in
files and bytes; and, in a headless Chromium, the time until it is loaded and
shows images, until a filter has acted and until an image is open large. Two
seconds is what a person waits without thinking of something else.
"""

import io
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from absl import app, flags
from PIL import Image

from pie_dataset_gen import gallery, rank_suspects
from tests import reference_values
from utils import (
  csvs,
  image_records,
  paths,
  populations,
  shard_files,
  storage,
  tables,
  tfrecords,
)

FLAGS = flags.FLAGS
_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9)
_CLASSES = 1000


def write_run(folder: str, number: int, photograph: bytes) -> None:
  """Writes a shard of photographs and their modal labels."""
  keys = [f'validation/{i:08d}' for i in range(number)]
  true = np.arange(number) % _CLASSES
  # As many digits as real ones have.
  chance = np.random.default_rng(0).random(number)
  path = paths.shard(f'{folder}/data', 'validation', 0, 1)
  shard = shard_files.write(
    path,
    (
      tfrecords.encode(key, photograph, int(label))
      for key, label in zip(keys, true, strict=True)
    ),
  )
  records = image_records.ImageRecords(
    name='photographs',
    class_names=tuple(f'class {i}' for i in range(_CLASSES)),
    splits={'validation': {storage.name(path): shard}},
  )
  image_records.write(f'{folder}/data', records)
  for fraction in _LEVELS:
    csvs.write(
      tables.MODAL_LABELS,
      pd.DataFrame(
        {
          'pruning_method': 'threshold',
          'pruning_fraction': fraction,
          'image_index': range(number),
          'true_class_label': true,
          'baseline_modal_label': true,
          'variant_modal_label': (true + 1) % _CLASSES,
          'baseline_number_observ': 30,
          'variant_number_observ': 30,
          'filename': storage.name(path),
          'image_key': keys,
          'baseline_vote_share': 0.9,
          'variant_vote_share': 0.5,
          'baseline_mean_probability': 0.5,
          'variant_mean_probability': 0.5,
          'baseline_tied': 0,
          'variant_tied': 0,
          'taxicab_distance': np.arange(number) % 60,
          'baseline_correct_share': 0.9,
          'variant_correct_share': 0.1,
          'vote_pvalue': chance,
          'vote_qvalue': np.sqrt(chance),
          'pie_frequency': 1 - chance,
        }
      ),
      paths.modal_labels(
        folder,
        'photographs',
        'eval',
        storage.name(path),
        populations.Level('threshold', fraction),
      ),
    )


def pillow_seconds(photograph: bytes, number: int) -> float:
  """Time in which Pillow makes as many thumbnails, on one core."""
  start = time.perf_counter()
  for _ in range(number):
    image = Image.open(io.BytesIO(photograph))
    image.draft('RGB', (320, 320))
    image.thumbnail((160, 160))
    image.save(io.BytesIO(), 'JPEG', quality=80)
  return time.perf_counter() - start


def open_page(path: str) -> None:
  """Prints the times of a browser."""
  found = shutil.which('chromium') or shutil.which('google-chrome')
  if not found:
    sys.exit('no Chromium here (on Debian: apt install chromium)')
  from playwright import sync_api

  with sync_api.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=found, args=['--no-sandbox']
    )
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    start = time.perf_counter()
    page.goto(pathlib.Path(path).as_uri())
    page.wait_for_selector('#grid li')
    page.evaluate(
      "document.querySelector('#grid').scrollIntoView();"
      "document.querySelector('#grid img').decode()"
    )
    print(f'opens and shows images in {time.perf_counter() - start:.2f} s')
    start = time.perf_counter()
    page.select_option('#sort', 'class')
    page.evaluate("document.querySelector('#grid img').decode()")
    print(f'sorted otherwise in {time.perf_counter() - start:.2f} s')
    start = time.perf_counter()
    page.click('#grid button >> nth=0')
    page.evaluate("document.querySelector('#large-image').decode()")
    print(f'an image opens large in {time.perf_counter() - start:.2f} s')
    browser.close()


def main(argv):
  """Prints the figures."""
  del argv
  photograph = (
    reference_values.FOLDER / 'jpeg' / 'img1_375x500.jpg'
  ).read_bytes()
  with tempfile.TemporaryDirectory() as folder:
    write_run(folder, FLAGS.images, photograph)
    rank_suspects.run(folder, mode='eval', dataset_name='photographs')
    start = time.perf_counter()
    page = gallery.run(f'{folder}/data', folder, mode='eval')
    made = time.perf_counter() - start
    bare = pillow_seconds(photograph, FLAGS.images)
    print(
      f'{FLAGS.images} images: page made in {made:.1f} s, '
      f'{made / bare:.2f}x the {bare:.1f} s of Pillow alone on one core'
    )
    root = pathlib.Path(page).parent
    files = [p.relative_to(root) for p in root.rglob('*') if p.is_file()]
    for name in ('images', 'thumbnails', ''):
      chosen = [p for p in files if name in ('', p.parts[0])]
      size = sum((root / p).stat().st_size for p in chosen)
      print(f'{name or "all"}: {len(chosen)} files, {size / 2**20:.1f} MiB')
    open_page(page)


if __name__ == '__main__':
  flags.DEFINE_integer('images', 5000, 'PIEs on the page.')
  app.run(main)
