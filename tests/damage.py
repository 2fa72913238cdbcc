"""What the tests of damaged inputs share: flips, cuts, fuzzing, small data."""

import collections
import io
import os
import resource
import struct
import zlib

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import csvs, image_records, paths, shard_files, tables, tfrecords

CLASSES = ('cat', 'dog', 'newt')


def picture(form, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form)
  return file.getvalue()


def png(seed):
  return picture('PNG', seed)


def described(shards, **options):
  options = {'image_size': 8, 'resize_size': 8, **options}
  return image_records.ImageRecords(
    'pets', CLASSES, splits={'validation': shards}, **options
  )


def data_set(folder, encoded=png, num_shards=1):
  """Six images in shards, described."""
  written, found = [], {}
  for shard in range(num_shards):
    path = paths.shard(folder, 'validation', shard, num_shards)
    found[os.path.basename(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(f'k{i}', encoded(i), i % 3, CLASSES[i % 3])
        for i in range(shard, 6, num_shards)
      ],
    )
    written.append(path)
  image_records.write(folder, described(found))
  return written


def bomb(form, height, width):
  """A small file whose header declares another size, right in all else."""
  whole = bytearray(picture(form))
  if form == 'PNG':
    whole[16:24] = struct.pack('>II', width, height)
    whole[29:33] = struct.pack('>I', zlib.crc32(whole[12:29]))
  else:
    # Marker, length, bits a sample; then height and width.
    begin = whole.index(b'\xff\xc0') + 5
    whole[begin : begin + 4] = struct.pack('>HH', height, width)
  return bytes(whole)


FORMULAS = (
  '=1+1',
  "=cmd|' /C calc'!A0",
  ' =HYPERLINK("http://x")',
  '+SUM(A1)',
  "-2+3+cmd|' /C calc'!A0",
  '@SUM(1)',
  '\uff1d1+1',
)


def flips_and_cuts(whole, every):
  """Yields the bytes with one bit changed, or cut short.

  Args:
    whole: the bytes.
    every: 1 for all, else one of so many.
  """
  tried = 0
  for bit in range(0, 8 * len(whole), every):
    tried += 1
    yield with_flip(whole, bit)
  for size in range(0, len(whole), every):
    tried += 1
    yield whole[:size]
  report(f'{tried} flips and cuts of {len(whole)} bytes')


def with_flip(whole, bit):
  damaged = bytearray(whole)
  damaged[bit // 8] ^= 1 << bit % 8
  return bytes(damaged)


def report(text):
  """A figure of what was tried; `pytest -s` shows it."""
  print(f'\n  {text}', end='')


def outcomes(path, every, read):
  """Counts what becomes of a file's damage: 'named', 'same', 'other'.

  Args:
    path: the file, which is put right in the end.
    every: as of `flips_and_cuts`.
    read: gives what is compared. ValueError and OSError may leave it, and have
      to name the file.
  """
  whole = path.read_bytes()
  right = read()
  found = collections.Counter()
  for damaged in flips_and_cuts(whole, every):
    path.write_bytes(damaged)
    try:
      found['same' if read() == right else 'other'] += 1
    except (ValueError, OSError) as error:
      assert path.name.split('.')[0] in str(error), error
      found['named'] += 1
  path.write_bytes(whole)
  report(f'{path.name}: {dict(found)}')
  return found


def predictions(folder, member, labels=(0, 1, 2, 1), keys=None):
  number = len(labels)
  frame = pd.DataFrame(
    {
      'predictions': labels,
      'true_class': [0, 1, 2, 0],
      'predicted_probability': [0.5, 0.25, 0.75, 1.0],
      'split': 'eval',
      'filename': 'validation-00000-of-00001',
      'exp': 'e',
      'pruning_method': 'threshold' if member[0] else 'baseline',
      'fraction_pruned': member[0],
      'replicate': member[1],
      'image_key': keys or [f'k{i}' for i in range(number)],
      'image_index': range(number),
    }
  )
  path = folder / 'validation-00000-of-00001' / f'{member[0]}_{member[1]}.csv'
  csvs.write(tables.PREDICTIONS, frame, str(path))
  return path


def fuzz(inputs, parse, number):
  """Feeds a parser; only ValueError and OSError may leave it.

  Args:
    inputs: strategy.
    parse: takes one.
    number: how many.
  """
  found = collections.Counter()

  @settings(
    max_examples=number,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
  )
  @given(inputs)
  def feed(value):
    try:
      parse(value)
      found['taken'] += 1
    except (ValueError, OSError):
      found['refused'] += 1

  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  feed()
  # In KB; hypothesis itself remembers some of what it tried.
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  report(f'{dict(found)}, memory grew by {grown >> 10} MB')
  assert grown < 400 * 2**10
  assert found['refused']


def mutated(*seeds):
  """Bytes near good ones: parts cut out, doubled, replaced, or anything."""

  @st.composite
  def draw(choose):
    data = choose(st.sampled_from(seeds))
    for _ in range(choose(st.integers(1, 4))):
      begin, end = sorted(choose(st.tuples(*[st.integers(0, len(data))] * 2)))
      part = choose(
        st.sampled_from([b'', data[begin:end] * 2, b'\xff' * 8, b'\0', b'-'])
        | st.sampled_from([b'1e999', b'"', b'\n', b'[' * 20_000, b'9' * 5000])
        | st.binary(max_size=12)
      )
      data = data[:begin] + part + data[end:]
    return data

  return draw() | st.binary(max_size=200)
