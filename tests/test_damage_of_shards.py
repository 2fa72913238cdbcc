"""Damaged and hostile shards: named, or provably without effect."""

import dataclasses
import os
import pathlib
import struct

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from per_class_accuracy import aggregate_ckpt_metrics
from pie_dataset_gen import (
  generate_pie_dataset,
  imagenet_predictions,
)
from robustness_tests import (
  build_corruptions,
  imagenet_corruptions,
)
from tests.damage import (
  CLASSES,
  FORMULAS,
  bomb,
  data_set,
  described,
  fuzz,
  mutated,
  outcomes,
  picture,
  png,
)
from utils import (
  csvs,
  data_input,
  image_records,
  inference,
  paths,
  provenance,
  shard_files,
  storage,
  tables,
  tfrecords,
)


def read_ordered(path, records):
  reader = data_input.OrderedReader(records, tfrecords.ORIGINAL, 'legacy', 4)
  return [keys for keys, _, _ in reader.read(path, records)]


def read_for_training(path, records):
  reader = data_input.TrainingReader(
    [path], 6, records, tfrecords.ORIGINAL, 'legacy', 4
  )
  try:
    return list(reader.read(0).take(2))
  except tf.errors.OpError:
    # As imagenet_train_eval does.
    reader.find_fault()
    raise


def read_for_pie(path, records):
  folder = os.path.dirname(path)
  record = provenance.Provenance(folder, 'room.script', {})
  generate_pie_dataset.write_records(path, records, [], [], record)


def read_for_corruptions(path, records):
  return list(
    build_corruptions.corrupted_records(
      path, tfrecords.ORIGINAL, records, 'contrast', 1, 'legacy', 'png'
    )
  )


def find_fault(path, records):
  tfrecords.find_fault(path, tfrecords.ORIGINAL, records)


READERS = (
  read_ordered,
  read_for_training,
  read_for_pie,
  read_for_corruptions,
  find_fault,
)


def with_length(shard, record, length, folder):
  """Makes a record declare another length, under the right checksum."""
  # A record whose data are the length holds what we need: their checksum.
  other = str(folder / 'length')
  number = struct.pack('<Q', length)
  shard_files.write(other, [number])
  checksum = pathlib.Path(other).read_bytes()[-4:]
  whole = bytearray(pathlib.Path(shard).read_bytes())
  begin = 0
  for _ in range(record):
    begin += 16 + struct.unpack_from('<Q', whole, begin)[0]
  whole[begin : begin + 12] = number + checksum
  pathlib.Path(shard).write_bytes(whole)
  return begin


@pytest.mark.parametrize('read', READERS)
@pytest.mark.parametrize('length', [2**16, 2**64 - 4])
def test_a_length_that_lies_is_named_by_every_reader(tmp_path, read, length):
  """TensorFlow would ask for that much memory, and the process would end."""
  (path,) = data_set(str(tmp_path))
  records = image_records.read(str(tmp_path))
  begin = with_length(path, 3, length, tmp_path)
  with pytest.raises(ValueError, match='is damaged') as raised:
    read(path, records)
  assert f'{path} is damaged: record 3, which begins at byte {begin},' in str(
    raised.value
  )


def test_a_record_larger_than_any_image_is_named(tmp_path):
  path = str(tmp_path / 'validation-00000-of-00001')
  with_length_of_file = struct.pack('<Q', 2**30)
  with open(path, 'wb') as file:
    file.write(with_length_of_file)
    file.truncate(2**30 + 16)  # a hole, which takes no room on the disk
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    tfrecords.detect([path])
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    list(shard_files.read_records(path))


@pytest.mark.parametrize(
  ('read', 'crop_area_min'),
  [
    (read_ordered, 1.0),
    (read_for_training, 1.0),
    (read_for_training, 0.5),
    (read_for_corruptions, 1.0),
    (find_fault, 1.0),
  ],
)
@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (bomb('JPEG', 60_000, 60_000), 'too large'),
    (bomb('PNG', 2**32 - 1, 2**32 - 1), 'too large'),
    (picture('GIF'), 'neither a JPEG nor a PNG'),
    (b'\x89PNG', 'neither a JPEG nor a PNG'),
  ],
)
def test_records_of_such_images_are_named_by_every_reader(
  tmp_path, read, crop_area_min, bad, message
):
  (path,) = data_set(str(tmp_path), lambda i: bad if i == 3 else png(i))
  records = dataclasses.replace(
    image_records.read(str(tmp_path)), crop_area_min=crop_area_min
  )
  with pytest.raises(ValueError, match=message) as raised:
    read(path, records)
  assert f"{path}, record 3, key 'k3': the feature 'image/encoded'" in str(
    raised.value
  )


@settings(max_examples=300, deadline=None)
@given(
  st.binary(max_size=20)
  | st.text(max_size=20).map(lambda t: t.encode('utf-8', 'surrogatepass'))
  | st.sampled_from(FORMULAS).map(str.encode)
)
def test_every_key_may_stand_in_a_table(key):
  """And stays what it is when it is read from there and stored again."""
  text = tfrecords.key_text(key)
  assert not csvs.fault_of_text(text)
  assert tfrecords.key_text(text.encode()) == text


def test_every_flip_of_a_shard_is_noticed(tmp_path, long):
  """Without a look at the size of the file, which is declared as well."""
  path = tmp_path / 'validation-00000-of-00001'
  examples = [tfrecords.encode(f'k{i}', png(i), i, CLASSES[i]) for i in (0, 1)]
  shard_files.write(str(path), examples)

  def read():
    found = list(shard_files.read_records(str(path)))
    if len(found) < len(examples):
      # A cut between records; `check_count` tells the reader.
      raise ValueError(f'{path} holds {len(found)} records')
    return found

  assert set(outcomes(path, 1 if long else 31, read)) == {'named'}


def test_every_flip_of_a_shard_is_noticed_by_the_pipeline(tmp_path, long):
  (path,) = data_set(str(tmp_path))
  records = image_records.read(str(tmp_path))
  reader = data_input.OrderedReader(records, tfrecords.ORIGINAL, 'legacy', 4)

  def read():
    return [
      (keys, labels.tolist(), images.numpy().tolist())
      for keys, labels, images in reader.read(path, records)
    ]

  found = outcomes(pathlib.Path(path), 101 if long else 1009, read)
  assert set(found) == {'named'}


@pytest.fixture(scope='module')
def population(tmp_path_factory):
  """The prefix of an untrained network of 10 classes."""
  folder = tmp_path_factory.mktemp('population')
  return inference.small_sample(str(folder))[0]


def digits(folder, keys):
  """A data set of 10 classes, of which each list of keys is a shard."""
  found = {}
  for number, of_shard in enumerate(keys):
    path = paths.shard(folder, 'validation', number, len(keys))
    found[storage.name(path)] = shard_files.write(
      path,
      [tfrecords.encode(key, png(0), 3, '3') for key in of_shard],
    )
  image_records.write(
    folder,
    image_records.ImageRecords(
      'digits',
      tuple('0123456789'),
      image_size=8,
      resize_size=8,
      splits={'validation': found},
    ),
  )
  return folder


def predict(population, data, out, batch_size=4):
  imagenet_predictions.run(
    population, data, out, 'eval', 'digits', batch_size, 'legacy', 'float32', 0
  )
  return csvs.find(
    tables.PREDICTIONS, paths.predictions_folder(out, 'digits', 'eval')
  )


@pytest.mark.parametrize(
  ('num_shards', 'batch_size'), [(1, 64), (1, 1), (3, 4), (5, 3)]
)
def test_keys_in_equal_keys_out(tmp_path, population, num_shards, batch_size):
  keys = [[f'{s}/{i}' for i in range(s + 4)] for s in range(num_shards)]
  data = digits(str(tmp_path / 'data'), keys)
  files = predict(population, data, str(tmp_path / 'out'), batch_size)
  rows = csvs.read_all(tables.PREDICTIONS, files)
  assert sorted(rows['image_key']) == sorted(sum(keys, []))
  (metrics,) = aggregate_ckpt_metrics.run(
    **{
      'ckpt_dir': [population],
      'predictions_directory': '',
      'data_directory': data,
      'output_path': str(tmp_path / 'metrics'),
      'batch_size': batch_size,
      **MEASURED,
    }
  )
  support = csvs.read(tables.CLASS_METRICS, metrics)['support']
  assert support.sum() == len(rows)


MEASURED = {
  'mode': 'eval',
  'dataset_name': 'digits',
  'num_classes': None,
  'groups_file': '',
  'preprocessing': 'legacy',
  'compute_precision': 'float32',
  'label_smoothing': 0.0,
}


@pytest.mark.parametrize(
  'keys', [[['a', 'b', 'a'], ['c']], [['a', 'b'], ['c', 'a']]]
)
def test_an_image_that_stands_twice_is_refused(tmp_path, population, keys):
  """In one shard or in two, by each script before it says a number."""
  data = digits(str(tmp_path / 'data'), keys)
  out = str(tmp_path / 'out')
  if keys[0].count('a') == 2:
    with pytest.raises(ValueError, match=r"share their identity.*'a'"):
      predict(population, data, out)
  else:
    files = predict(population, data, out)
    with pytest.raises(ValueError, match="'a'"):
      csvs.read_all(tables.PREDICTIONS, files)
  measured = {'output_path': out, 'batch_size': 4, **MEASURED}
  with pytest.raises(ValueError, match="'a'"):
    aggregate_ckpt_metrics.run(
      ckpt_dir=[population],
      predictions_directory='',
      data_directory=data,
      **measured,
    )
  assert not list(tmp_path.rglob('class_metrics_*.csv'))
  with pytest.raises(ValueError, match="'a'"):
    imagenet_corruptions.run(
      population,
      data,
      out,
      'digits',
      [],
      'eval',
      batch_size=4,
      preprocessing_name='legacy',
      compute_precision='float32',
      label_smoothing=0.0,
    )
  assert not list(tmp_path.rglob('digits/digits/*.csv'))


def test_fuzzed_records(tmp_path, long):
  """The serialised record: its framing has checksums, its content none."""
  records = described({})
  good = tfrecords.encode('k0', picture('JPEG'), 1, 'dog')

  def parse(data):
    dialect = tfrecords.detect_dialect(data, 'shard')
    example = tfrecords.parse_example(data, dialect, records, 'shard', 0)
    assert example.key and not csvs.fault_of_text(example.key)
    assert 0 <= example.label < len(CLASSES)

  fuzz(mutated(good), parse, 10_000 if long else 150)
  path = str(tmp_path / 'validation-00000-of-00001')

  def search(data):
    shard_files.write(path, [good, data])
    tfrecords.find_fault(path, tfrecords.ORIGINAL, records)

  fuzz(mutated(good), search, 1000 if long else 30)


def test_fuzzed_shards(tmp_path, long):
  path = tmp_path / 'validation-00000-of-00001'
  shard_files.write(str(path), [b'one', b'two two'])

  def parse(data):
    path.write_bytes(data)
    list(shard_files.read_records(str(path)))

  fuzz(mutated(path.read_bytes()), parse, 2000 if long else 60)
