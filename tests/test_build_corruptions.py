"""Laws of corrupted copies: the same images, seeded by key, all or nothing."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from robustness_tests import build_corruptions, corruptions
from utils import (
  image_records,
  paths,
  preprocessing,
  shard_files,
  storage,
  tfrecords,
  workers,
)

CLASSES = ('cat', 'dog', 'owl')
SIZES = ((20, 30), (24, 24), (40, 18), (33, 17), (24, 30))


def picture(index):
  rng = np.random.default_rng(index)
  pixels = rng.integers(0, 256, (*SIZES[index % len(SIZES)], 3), np.uint8)
  return tf.io.encode_png(pixels).numpy()


def write_source(folder, shards=((0, 1, 2), (3, 4)), **more):
  written = {}
  for number, indices in enumerate(shards):
    path = paths.shard(str(folder), 'validation', number, len(shards))
    written[storage.name(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(
          f'image {i}',
          picture(i),
          i % 3,
          CLASSES[i % 3],
          {'image/class/synset': f'n{i % 3}'},
        )
        for i in indices
      ],
    )
  image_records.write(
    str(folder),
    image_records.ImageRecords(
      'animals',
      CLASSES,
      image_size=16,
      resize_size=18,
      splits={'validation': written},
      class_keys=('n0', 'n1', 'n2'),
      **more,
    ),
  )
  return str(folder)


def run(source, output, names=('gaussian_noise', 'contrast'), **more):
  options = {
    'mode': 'eval',
    'severities': (1, 4),
    'preprocessing_name': 'legacy',
    'image_format': 'png',
  } | more
  build_corruptions.run(source, str(output), names=names, **options)


def read(folder):
  shards = image_records.find_shards(str(folder), 'eval')
  records = tfrecords.describe(shards)
  dialect = tfrecords.detect(shards)
  return records, [
    tfrecords.parse_example(serialized, dialect, records, shard, index)
    for shard in shards
    for index, serialized in enumerate(shard_files.read_records(shard))
  ]


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and not path.name.endswith('.run.json')
  }


@pytest.fixture
def source(tmp_path):
  return write_source(tmp_path / 'source')


@pytest.mark.parametrize('name', ['legacy', 'modern'])
def test_copies_are_the_corrupted_pixels_of_evaluation(source, tmp_path, name):
  run(source, tmp_path / 'out', preprocessing_name=name)
  _, originals = read(source)
  for corruption in ('gaussian_noise', 'contrast'):
    for severity in (1, 4):
      records, copies = read(
        tmp_path / 'out' / f'{corruption}_{severity}' / '1.0.0'
      )
      assert records.num_examples('validation') == len(originals) == 5
      assert records.resize_size == records.image_size == 16
      assert records.class_names == CLASSES
      for copy, original in zip(copies, originals, strict=True):
        assert copy._replace(encoded=b'') == original._replace(encoded=b'')
        pixels = preprocessing.central_crop(
          preprocessing.decode(tf.constant(original.encoded)), 18, 16, name
        ).numpy()
        wanted = corruptions.corrupt(
          np.clip(pixels.round(), 0, 255).astype(np.uint8),
          corruption,
          severity,
          original.key,
        )
        found = np.asarray(Image.open(io.BytesIO(copy.encoded)))
        np.testing.assert_array_equal(found, wanted)


def test_order_and_shards_of_the_images_change_no_copy(source, tmp_path):
  other = write_source(tmp_path / 'other', ((4,), (2, 0), (3, 1)))
  copies = []
  for data, output in ((source, 'one'), (other, 'two')):
    run(data, tmp_path / output)
    _, found = read(tmp_path / output / 'gaussian_noise_4' / '1.0.0')
    copies.append({example.key: example for example in found})
  assert copies[0] == copies[1]
  assert len(copies[0]) == 5


def test_number_of_processes_changes_no_byte(source, tmp_path, monkeypatch):
  run(source, tmp_path / 'one')
  monkeypatch.setattr(build_corruptions, '_SECONDS_PER_WORKER', 1e-3)
  run(source, tmp_path / 'two', place=workers.Place(2))
  assert contents(tmp_path / 'one') == contents(tmp_path / 'two')


def test_jpeg_is_stored_at_the_official_quality(source, tmp_path):
  run(source, tmp_path / 'out', image_format='jpeg')
  _, copies = read(tmp_path / 'out' / 'contrast_1' / '1.0.0')
  with Image.open(io.BytesIO(copies[0].encoded)) as image:
    found = image.format, image.size, image.quantization
  stream = io.BytesIO()
  Image.new('RGB', (16, 16)).save(stream, 'JPEG', quality=85)
  wanted = Image.open(stream).quantization
  assert found == ('JPEG', (16, 16), wanted)


def test_a_killed_build_is_seen_as_unfinished_and_completed(
  source, tmp_path, monkeypatch
):
  run(source, tmp_path / 'whole')
  write_shard, calls = shard_files.write, []

  def killed(path, examples):
    calls.append(path)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return write_shard(path, examples)

  monkeypatch.setattr(shard_files, 'write', killed)
  with pytest.raises(KeyboardInterrupt):
    run(source, tmp_path / 'out')
  monkeypatch.undo()
  described = {
    path.parent.parent.name
    for path in (tmp_path / 'out').rglob('image_records.json')
  }
  # Two shards a set: the first set is complete, the second is not.
  assert described == {'gaussian_noise_1'}
  there = sorted((tmp_path / 'out').rglob('*-of-00002'))
  assert len(there) == 3
  # What the second set has already is held against itself.
  whole = there[-1].read_bytes()
  there[-1].write_bytes(whole[:-1])
  with pytest.raises(ValueError, match=f'{there[-1]} is damaged'):
    run(source, tmp_path / 'out')
  there[-1].write_bytes(whole)
  first = tmp_path / 'out' / 'gaussian_noise_1' / '1.0.0'
  kept = {p: p.stat().st_mtime_ns for p in (*there, *first.iterdir())}
  run(source, tmp_path / 'out')
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
  assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_finished_sets_are_left_alone(source, tmp_path, caplog):
  run(source, tmp_path / 'out')
  times = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*')}
  with caplog.at_level('INFO'):
    run(source, tmp_path / 'out')
  assert '4 of 4 data sets' in caplog.text
  assert times == {
    p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*')
  }


def test_pie_records_can_be_corrupted(tmp_path):
  """Their labels are 0-based, the copies' 1-based: the classes stay."""
  path = str(tmp_path / 'pie' / 'validation-00000-of-00001')
  shard = shard_files.write(
    path,
    [
      tfrecords.encode(
        f'image {i}',
        picture(i),
        i % 3,
        extra={'stored_class_label': 1 + i % 3},
        dialect=tfrecords.PIE,
      )
      for i in range(5)
    ],
  )
  image_records.write(
    str(tmp_path / 'pie'),
    image_records.ImageRecords(
      'animals',
      CLASSES,
      label_base=0,
      image_size=16,
      resize_size=18,
      splits={'eval': {storage.name(path): shard}},
    ),
  )
  run(str(tmp_path / 'pie'), tmp_path / 'out')
  records, copies = read(tmp_path / 'out' / 'contrast_1' / '1.0.0')
  assert records.label_base == 1
  assert [copy.label for copy in copies] == [0, 1, 2, 0, 1]
  # The same key, and so the same noise as of the whole data set's copy.
  run(write_source(tmp_path / 'source'), tmp_path / 'all')
  for name in ('contrast_1', 'gaussian_noise_4'):
    _, of_pie = read(tmp_path / 'out' / name / '1.0.0')
    _, of_all = read(tmp_path / 'all' / name / '1.0.0')
    assert [c.encoded for c in of_pie] == [c.encoded for c in of_all]


def test_bad_arguments_are_named_before_any_work(source, tmp_path):
  for options, match in (
    ({'names': ('frost',)}, "'frost' is not offered"),
    ({'severities': (0,)}, 'severity is 0, wanted 1, 2'),
    ({'severities': ()}, '--severities is empty'),
  ):
    with pytest.raises(ValueError, match=match):
      run(source, tmp_path / 'out', **options)
  with pytest.raises(FileNotFoundError):
    run(str(tmp_path / 'nowhere'), tmp_path / 'out')
  with pytest.raises(ValueError, match="'1,two', wanted some of 1,2,3"):
    build_corruptions.severities_of(['1', 'two'])
  assert not (tmp_path / 'out').exists()


def test_a_damaged_source_is_named_and_leaves_no_set(source, tmp_path):
  path = paths.shard(source, 'validation', 1, 2)
  shard = shard_files.write(
    path, [tfrecords.encode('image 3', picture(3)[:-40], 0, 'cat')]
  )
  with pytest.raises(ValueError, match='validation-00001.* declares'):
    run(source, tmp_path / 'out')
  records = image_records.read(source)
  shards = records.splits['validation'] | {storage.name(path): shard}
  image_records.write(
    source, dataclasses.replace(records, splits={'validation': shards})
  )
  with pytest.raises(
    ValueError, match="00001-of-00002, record 0, key 'image 3"
  ):
    run(source, tmp_path / 'out')
  assert not list((tmp_path / 'out').rglob('image_records.json'))
  assert not list((tmp_path / 'out').rglob('.*-of-*'))
