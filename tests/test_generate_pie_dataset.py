"""Laws of PIE records: every image once, its bytes and label as they were."""

import hashlib
import pathlib

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pie_dataset_gen import generate_pie_dataset
from utils import (
  csvs,
  image_records,
  paths,
  populations,
  shard_files,
  storage,
  tables,
  tfrecords,
  workers,
)

CLASSES = ('zero', 'one', 'two', 'three')
SHARDS = 3
IMAGES = 8
LEVELS = (
  populations.Level('threshold', 0.5),
  populations.Level('threshold', 0.9),
)


def encoded_image(shard, index):
  # Any bytes will do, also zeros and what looks like a record: none is decoded.
  return bytes([0, 255, shard, index]) * (index + 1) + b'\n\x0a\x05'


def true_class(shard, index):
  return (shard + index) % len(CLASSES)


def is_pie(shard, index, level):
  # The last shard has no PIE at the lower level.
  if level == LEVELS[0]:
    return shard < 2 and index % 4 == 1
  return index % 2 == 1


def write_data(folder, dialect=tfrecords.ORIGINAL):
  shards = {}
  for shard in range(SHARDS):
    path = paths.shard(str(folder), 'validation', shard, SHARDS)
    shards[storage.name(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(
          f'image {shard}/{i}',
          encoded_image(shard, i),
          true_class(shard, i),
          CLASSES[true_class(shard, i)],
          dialect=dialect,
        )
        for i in range(IMAGES)
      ],
    )
  image_records.write(
    str(folder),
    image_records.ImageRecords('shapes', CLASSES, splits={'eval': shards}),
  )


def write_labels(folder, change=lambda frame: frame):
  for shard in range(SHARDS):
    name = f'validation-{shard:05d}-of-{SHARDS:05d}'
    for level in LEVELS:
      index = np.arange(IMAGES)
      truth = np.array([true_class(shard, i) for i in index])
      pie = np.array([is_pie(shard, i, level) for i in index])
      frame = pd.DataFrame(
        {
          'pruning_fraction': level[1],
          'pruning_method': level[0],
          'image_index': index,
          'image_key': [f'image {shard}/{i}' for i in index],
          'true_class_label': truth,
          'baseline_modal_label': truth,
          'variant_modal_label': np.where(pie, (truth + 1) % 4, truth),
          'baseline_number_observ': 6,
          'variant_number_observ': 5,
          'filename': name,
          'baseline_vote_share': 1.0,
          'variant_vote_share': 0.6,
          'baseline_mean_probability': 0.5 + index / 100,
          'variant_mean_probability': 0.25,
          'baseline_tied': 0,
          'variant_tied': 0,
          'taxicab_distance': 4,
          'baseline_correct_share': 1.0,
          'variant_correct_share': 0.5,
        }
      )
      csvs.write(
        tables.MODAL_LABELS,
        change(frame.sample(frac=1, random_state=shard)),
        paths.modal_labels(
          str(folder), 'shapes', 'eval', name, populations.Level(*level)
        ),
      )


@pytest.fixture
def folders(tmp_path):
  write_data(tmp_path / 'data')
  write_labels(tmp_path / 'labels')
  return tmp_path


def run(folders, **options):
  generate_pie_dataset.run(
    str(folders / 'data'),
    str(folders / 'labels'),
    str(folders / 'out'),
    **{'mode': 'eval', 'is_pie': 'both', **options},
  )
  return folders / 'out' / 'shapes' / 'eval'


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file() and not path.name.endswith('.run.json')
  }


def test_both_kinds_together_are_the_data_set(folders):
  out = run(folders)
  data = image_records.read(str(folders / 'data'))
  for level in LEVELS:
    read = {}
    for kind in ('pie', 'non_pie'):
      folder = out / kind / level[0] / str(level[1])
      records = image_records.read(str(folder))
      assert records.class_names == data.class_names
      assert records.label_base == 0
      shards = image_records.find_shards(str(folder), 'eval')
      assert len(shards) == SHARDS
      for number, path in enumerate(shards):
        examples = [
          tfrecords.parse_example(serialized, tfrecords.PIE, records, path, i)
          for i, serialized in enumerate(shard_files.read_records(path))
        ]
        shard_files.check_count(path, len(examples), records)
        assert records.shard(storage.name(path)) == image_records.Shard(
          len(examples), pathlib.Path(path).stat().st_size
        )
        order = [int(e.key.split('/')[1]) for e in examples]
        assert order == sorted(order)
        for i, example in zip(order, examples, strict=True):
          assert example.key == f'image {number}/{i}'
          assert example.encoded == encoded_image(number, i)
          assert example.label == true_class(number, i)
          assert is_pie(number, i, level) == (kind == 'pie')
          read[example.key] = read.get(example.key, 0) + 1
    assert len(read) == SHARDS * IMAGES
    assert set(read.values()) == {1}


def test_the_project_reads_them_as_a_data_set(folders):
  out = run(folders, end_sparsity=[0.9])
  shards = image_records.find_shards(
    str(out / 'pie' / 'threshold' / '0.9'), 'eval'
  )
  records = tfrecords.describe(shards)
  assert tfrecords.detect(shards) == tfrecords.PIE
  assert records.num_examples('eval') == SHARDS * IMAGES // 2
  assert records.name == 'shapes_pie_threshold_0.9'


def test_a_shard_without_pies_is_read_as_one(folders):
  out = run(folders, end_sparsity=[0.5])
  shards = image_records.find_shards(
    str(out / 'pie' / 'threshold' / '0.5'), 'eval'
  )
  records = tfrecords.describe(shards)
  assert [records.shard(storage.name(s)).examples for s in shards] == [2, 2, 0]
  assert tfrecords.detect(shards) == tfrecords.PIE


def test_features_are_those_of_the_original(folders):
  out = run(folders, end_sparsity=[0.9], is_pie='pie')
  path = str(out / 'pie/threshold/0.9/validation-00001-of-00003')
  (first, *_) = shard_files.read_records(path)
  features = tf.train.Example.FromString(first).features.feature
  assert {
    name: list(getattr(f, f.WhichOneof('kind')).value)
    for name, f in features.items()
  } == {
    'key': [b'image 1/1'],
    'key_': [b'image 1/1'],
    'image/encoded': [encoded_image(1, 1)],
    'image/class/label': [2],
    'stored_class_label': [2],
    'image_index': [1],
    'baseline_n': [6],
    'variant_n': [5],
    'baseline_mode_label': [2],
    'variant_mode_label': [3],
    'pruning_fraction': [pytest.approx(0.9)],
    'baseline_mean_probability': [pytest.approx(0.51)],
    'variant_mean_probability': [0.25],
  }


def test_statistics_count_the_records(folders):
  run(folders)
  stats = csvs.read_all(
    tables.PIE_STATISTICS,
    csvs.find(tables.PIE_STATISTICS, str(folders / 'out/shapes/stats')),
  )
  assert len(stats) == SHARDS * len(LEVELS)
  for row in stats.to_dict('records'):
    shard = int(row['file'].split('-')[1])
    level = (row['pruning_method'], row['sparsity'])
    pies = sum(is_pie(shard, i, level) for i in range(IMAGES))
    assert row['pie_count'] == row['baseline_correct_count'] == pies
    assert row['pruned_correct_count'] == 0
    assert row['total_images_count'] == IMAGES


def test_kinds_and_shards_one_by_one_give_the_same_bytes(folders):
  run(folders)
  together = contents(folders / 'out')
  apart = folders / 'apart'
  for kind in ('non_pie', 'pie'):
    for shard in (2, 0, 1):
      generate_pie_dataset.run(
        str(folders / 'data'),
        str(folders / 'labels'),
        str(apart),
        mode='eval',
        is_pie=kind,
        subdirectory=f'validation-{shard:05d}-of-00003',
      )
  assert contents(apart) == together


def test_shards_at_once_give_the_same_bytes(folders):
  run(folders)
  one_by_one = contents(folders / 'out')
  (folders / 'out').rename(folders / 'first')
  run(folders, place=workers.Place(3))
  assert contents(folders / 'out') == one_by_one


def test_finished_work_is_skipped_and_outdated_work_is_not(folders):
  out = run(folders)
  before = contents(out)
  made = {path: path.stat().st_mtime_ns for path in out.rglob('valid*')}
  run(folders)
  assert made == {path: path.stat().st_mtime_ns for path in out.rglob('val*')}

  gone = next(iter(made))
  gone.unlink()
  run(folders)
  assert contents(out) == before

  def unite(frame):
    return frame.assign(variant_modal_label=frame['baseline_modal_label'])

  write_labels(folders / 'labels', unite)
  out = run(folders, is_pie='pie')
  # Records of the other kind from the former modal labels are gone too.
  assert not list(out.glob('non_pie/threshold/0.9/*'))
  counts = [
    list(shard_files.read_records(str(path)))
    for path in out.glob('pie/*/*/validation*')
  ]
  assert len(counts) == SHARDS * len(LEVELS)
  assert not any(counts)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda f: f.iloc[1:], 'lacks 1 of 8 images'),
    (
      lambda f: f.assign(image_key=f['image_key'] + 'x'),
      'has 8 that are not in it',
    ),
    (
      lambda f: f.assign(true_class_label=(f['true_class_label'] + 1) % 4),
      'disagree on the class of 8 images',
    ),
  ],
)
def test_labels_of_other_images_are_refused(folders, change, message):
  write_labels(folders / 'labels', change)
  with pytest.raises(ValueError, match=message):
    run(folders)
  assert not [p for p in (folders / 'out').rglob('*') if p.is_file()]


def test_a_missing_level_or_shard_is_refused(folders):
  with pytest.raises(ValueError, match=r'no modal labels at \[0.7\]'):
    run(folders, end_sparsity=[0.5, 0.7])
  with pytest.raises(FileNotFoundError, match='no shard nowhere'):
    run(folders, subdirectory='nowhere')
  folder = folders / 'labels/shapes/modal_labels/eval'
  for path in (folder / 'validation-00001-of-00003').iterdir():
    path.unlink()
  with pytest.raises(FileNotFoundError, match='validation-00001'):
    run(folders)


def test_results_under_another_name_are_named(folders):
  message = r'holds .*shapes.*pie_dataset_gen.aggregate_predictions writes it'
  with pytest.raises(FileNotFoundError, match=message):
    run(folders, dataset_name='flowers')


def test_a_repeated_key_is_refused(folders):
  path = paths.shard(str(folders / 'data'), 'validation', 0, SHARDS)
  twice = list(shard_files.read_records(path))[:1] * IMAGES
  shard = shard_files.write(path, twice)
  records = image_records.read(str(folders / 'data'))
  records.splits['eval'][storage.name(path)] = shard
  image_records.write(str(folders / 'data'), records)
  with pytest.raises(
    ValueError, match="records 0 and 1 have one .* 'image 0/0'"
  ):
    run(folders)


def test_pies_of_pies_keep_their_labels(folders):
  # PIE records are a data set like any other, also for this script.
  out = run(folders, end_sparsity=[0.9], is_pie='pie')
  data = out / 'pie/threshold/0.9'
  shards = image_records.find_shards(str(data), 'eval')
  for shard in shards:
    frame = csvs.read(
      tables.MODAL_LABELS,
      paths.modal_labels(
        str(folders / 'labels'),
        'shapes',
        'eval',
        storage.name(shard),
        LEVELS[1],
      ),
    )
    csvs.write(
      tables.MODAL_LABELS,
      frame[frame['image_index'] % 2 == 1],
      paths.modal_labels(
        str(folders / 'again'),
        'shapes_pie_threshold_0.9',
        'eval',
        storage.name(shard),
        LEVELS[1],
      ),
    )
  generate_pie_dataset.run(
    str(data), str(folders / 'again'), str(folders / 'out2'), mode='eval'
  )
  again = contents(folders / 'out2/shapes_pie_threshold_0.9/eval/pie')
  for shard in shards:
    name = f'threshold/0.9/{storage.name(shard)}'
    assert (
      hashlib.sha256(again[name]).digest()
      == hashlib.sha256(pathlib.Path(shard).read_bytes()).digest()
    )
