"""Laws of records: identity, one meaning in every dialect, faults named."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import image_records, paths, shard_files, tfrecords

CLASSES = ('cat', 'dog', 'newt')


def image(seed=0, form='JPEG'):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form)
  return file.getvalue()


def described(shards=None, classes=CLASSES, **options):
  splits = {'validation': shards} if shards else {}
  return image_records.ImageRecords('pets', classes, splits=splits, **options)


def serialize(**features):
  """An Example as another tool writes it, with features by plain values."""

  def feature(values):
    values = values if isinstance(values, list) else [values]
    if isinstance(values[0], bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  return tf.train.Example(
    features=tf.train.Features(
      feature={name: feature(value) for name, value in features.items()}
    )
  ).SerializeToString()


# What each tool writes for the second class, 'dog' (n02), and what to find.
FOREIGN = {
  'original': (
    {
      'key_': b'val/7',
      'image/class/label': [2],
      'image/class/text': b'dog',
    },
    'original',
    'val/7',
  ),
  'original without key': (
    {'image/class/label': [2], 'image/class/text': b'dog'},
    'original',
    'validation-00000-of-00001__0',
  ),
  'build_image_data': (
    {
      'image/height': 8,
      'image/colorspace': b'RGB',
      'image/class/label': 2,
      'image/class/text': b'dog',
      'image/filename': b'7.JPEG',
    },
    'inception',
    '7.JPEG',
  ),
  'build_imagenet_data': (
    {
      'image/class/label': 2,
      'image/class/synset': b'n02',
      'image/class/text': b'dog',
      'image/filename': b'7.JPEG',
      'image/object/bbox/xmin': [0.25, 0.5],
    },
    'inception',
    '7.JPEG',
  ),
  'imagenet_to_gcs': (
    {
      'image/class/label': 2,
      'image/class/synset': b'n02',
      'image/filename': b'7.JPEG',
    },
    'inception',
    '7.JPEG',
  ),
  'tfds': ({'label': 1, 'file_name': b'7.JPEG'}, 'tfds', '7.JPEG'),
  'pie of the original': (
    {
      'key': b'val/7',
      'image/class/label': 1,
      'stored_class_label': 1,
      'image_index': 0,
      'pruning_fraction': 0.5,
    },
    'pie',
    'val/7',
  ),
}


def parse_in_pipeline(path, dialect, records):
  pipeline = tf.data.TFRecordDataset(path).enumerate()
  pipeline = pipeline.map(
    lambda index, serialized: tfrecords.parse(
      serialized, dialect, records, path, index
    )
  )
  return [
    (
      tfrecords.key_text(e['image_key']),
      e['encoded'],
      int(e['label']),
    )
    for e in pipeline.as_numpy_iterator()
  ]


def parse_in_python(path, dialect, records):
  return [
    tfrecords.parse_example(serialized, dialect, records, path, index)[:3]
    for index, serialized in enumerate(shard_files.read_records(path))
  ]


@pytest.mark.parametrize('tool', FOREIGN)
def test_every_dialect_is_recognised_and_means_the_same(tool, tmp_path):
  features, dialect_name, key = FOREIGN[tool]
  picture = image()
  name = 'image' if dialect_name == 'tfds' else 'image/encoded'
  path = paths.shard(tmp_path, 'validation', 0, 1)
  shard_files.write(path, [serialize(**{name: picture}, **features)])
  dialect = tfrecords.detect([path])
  assert dialect.name == dialect_name
  records = described(
    label_base=dialect.label_base, class_keys=('n01', 'n02', 'n03')
  )
  expected = [(key, picture, 1)]
  assert parse_in_python(path, dialect, records) == expected
  assert parse_in_pipeline(path, dialect, records) == expected


keys = st.one_of(
  st.just(b''),
  st.binary(max_size=12),
  st.text(max_size=12).map(str.encode),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(keys, min_size=1, max_size=6), st.integers(0, 2))
def test_pipeline_and_python_agree_on_any_key(tmp_path_factory, found, label):
  path = paths.shard(tmp_path_factory.mktemp('data'), 'train', 0, 1)
  picture = image()
  shard_files.write(
    path, [tfrecords.encode(key, picture, label) for key in found]
  )
  dialect, records = tfrecords.ORIGINAL, described()
  parsed = parse_in_python(path, dialect, records)
  assert parsed == parse_in_pipeline(path, dialect, records)
  for index, (key, _, class_id) in enumerate(parsed):
    assert class_id == label
    assert key and key.isprintable()
    if not found[index]:
      assert key == f'train-00000-of-00001__{index}'


def test_write_then_read_is_identity_also_in_a_bucket(tmp_path):
  examples = [
    tfrecords.encode(f'pets/{i}', image(i), i % 3, CLASSES[i % 3])
    for i in range(5)
  ]
  for folder in (str(tmp_path / 'new' / 'folder'), 'ram://records'):
    path = f'{folder}/train-00000-of-00001'
    shard = shard_files.write(path, iter(examples))
    assert list(shard_files.read_records(path)) == examples
    assert shard.examples == 5
    assert shard.bytes == tf.io.gfile.stat(path).length
    assert tf.io.gfile.listdir(folder) == ['train-00000-of-00001']
    parsed = [
      tfrecords.parse_example(e, tfrecords.ORIGINAL, described(), path, i)
      for i, e in enumerate(examples)
    ]
    assert [p.key for p in parsed] == [f'pets/{i}' for i in range(5)]
    assert [p.encoded for p in parsed] == [image(i) for i in range(5)]
    assert [p.label for p in parsed] == [0, 1, 2, 0, 1]
    assert [p.text for p in parsed] == ['cat', 'dog', 'newt', 'cat', 'dog']


def test_labels_on_disk_are_the_originals():
  example = tf.train.Example.FromString(tfrecords.encode('k', b'x', 4))
  assert example.features.feature['image/class/label'].int64_list.value == [5]
  pie = tfrecords.encode(
    'k', b'x', 4, extra={'stored_class_label': 4}, dialect=tfrecords.PIE
  )
  feature = tf.train.Example.FromString(pie).features.feature
  assert feature['image/class/label'].int64_list.value == [4]
  assert feature['key'].bytes_list.value == [b'k']
  assert tfrecords.detect_dialect(pie, 'p') == tfrecords.PIE


@pytest.mark.parametrize(
  ('value', 'kind'),
  [
    (3, 'int64_list'),
    (np.int32(3), 'int64_list'),
    (3.0, 'float_list'),
    (np.float32(3), 'float_list'),
    ('3', 'bytes_list'),
    (b'3', 'bytes_list'),
  ],
)
def test_values_keep_their_kind(value, kind):
  example = tf.train.Example.FromString(
    tfrecords.encode('k', b'x', 0, extra={'value': value})
  )
  assert example.features.feature['value'].WhichOneof('kind') == kind


def test_equal_arguments_give_equal_bytes():
  extra = {'pruning_fraction': 0.5, 'image_index': 3, 'word': 'x'}
  backwards = dict(reversed(extra.items()))
  assert tfrecords.encode('k', b'x', 0, 't', extra) == tfrecords.encode(
    'k', b'x', 0, 't', backwards
  )


@pytest.mark.parametrize(
  ('features', 'found'),
  [({}, r'\[\]'), ({'image/encoded': b'x', 'height': 3}, 'height')],
)
def test_unknown_features_name_found_and_wanted(features, found):
  with pytest.raises(ValueError, match=found) as raised:
    tfrecords.detect_dialect(serialize(**features), 'some/shard')
  assert 'some/shard' in str(raised.value)
  assert 'image/class/label' in str(raised.value)


def test_detect_refuses_mixed_empty_foreign_and_absent_shards(tmp_path):
  def write(name, *examples):
    shard_files.write(str(tmp_path / name), examples)
    return str(tmp_path / name)

  ours = write('a', tfrecords.encode('k', image(), 0))
  other = write('b', serialize(image=image(), label=0))
  with pytest.raises(ValueError, match=r"'original'.*/b in 'tfds'"):
    tfrecords.detect([ours, other])
  with pytest.raises(ValueError, match='holds no record'):
    tfrecords.detect([ours, write('c')])
  with pytest.raises(ValueError, match=r'd, record 0 is not a tf.train'):
    tfrecords.detect([write('d', b'\xff\xff\xff')])
  with pytest.raises(FileNotFoundError, match='absent'):
    tfrecords.detect([str(tmp_path / 'absent')])
  with pytest.raises(OSError, match=str(tmp_path)):
    tfrecords.detect([str(tmp_path)])


GOOD = {
  'key_': b'pets/1',
  'image/encoded': image(),
  'image/class/label': 2,
  'image/class/text': b'dog',
}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'image/encoded': None}, "no feature 'image/encoded'"),
    ({'image/encoded': b''}, "'image/encoded' is empty"),
    ({'image/encoded': [b'a', b'b']}, "'image/encoded' holds 2 values"),
    ({'image/encoded': 3}, "'image/encoded' holds 0 values of type bytes"),
    ({'image/class/label': None}, "no feature 'image/class/label'"),
    ({'image/class/label': 0}, "'image/class/label' is 0, wanted 1 to 3"),
    ({'image/class/label': 4}, "'image/class/label' is 4, wanted 1 to 3"),
    ({'image/class/label': [1, 2]}, "'image/class/label' holds 2 values"),
    ({'image/class/label': 2.0}, "'image/class/label' holds 0 values of type"),
    ({'image/class/text': b'newt'}, "is 'newt', but .* calls class 1 'dog'"),
    ({'image/encoded': image()[:-40]}, "'image/encoded' .* is not a complete"),
    ({'image/encoded': b'no image'}, "'image/encoded' .* is not a complete"),
  ],
)
def test_faults_are_named_and_stop_the_pipeline(change, message, tmp_path):
  path = str(tmp_path / 'validation-00000-of-00001')
  bad = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
  shard = shard_files.write(
    path, [serialize(**GOOD), serialize(**bad), serialize(**GOOD)]
  )
  records = described({'validation-00000-of-00001': shard})
  with pytest.raises(ValueError, match=message) as raised:
    tfrecords.find_fault(path, tfrecords.ORIGINAL, records)
  assert f'{path}, record 1' in str(raised.value)
  if 'complete' not in message:  # decoding is not the parser's
    with pytest.raises(ValueError, match=message):
      parse_in_python(path, tfrecords.ORIGINAL, records)
    with pytest.raises(tf.errors.InvalidArgumentError):
      parse_in_pipeline(path, tfrecords.ORIGINAL, records)


def test_classes_are_compared_by_stable_name_first(tmp_path):
  path = str(tmp_path / 'x')
  shard_files.write(
    path,
    [tfrecords.encode('k', image(), 1, 'a dog', {'image/class/synset': 'n02'})],
  )
  right = described(class_keys=('n01', 'n02', 'n03'))
  wrong = described(class_keys=('n02', 'n01', 'n03'))
  assert parse_in_python(path, tfrecords.ORIGINAL, right)[0][2] == 1
  assert parse_in_pipeline(path, tfrecords.ORIGINAL, right)[0][2] == 1
  with pytest.raises(ValueError, match="'n02', but .* calls class 1 'n01'"):
    parse_in_python(path, tfrecords.ORIGINAL, wrong)
  with pytest.raises(tf.errors.InvalidArgumentError):
    parse_in_pipeline(path, tfrecords.ORIGINAL, wrong)


def test_find_fault_returns_when_there_is_none(tmp_path):
  path = str(tmp_path / 'x')
  shard_files.write(path, [serialize(**GOOD)])
  tfrecords.find_fault(path, tfrecords.ORIGINAL, described())


def data_set(folder, **options):
  shards, description = [], {}
  for i in range(2):
    path = paths.shard(folder, 'validation', i, 2)
    description[os.path.basename(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(f'{i}/{c}', image(), c, CLASSES[c])
        for c in range(3)
        for _ in range(1 + i)
      ],
    )
    shards.append(path)
  image_records.write(folder, described(description, **options))
  return shards


def test_describe_reads_and_checks_the_description(tmp_path):
  shards = data_set(tmp_path)
  records = tfrecords.describe(shards, num_classes=3)
  assert records.class_names == CLASSES
  with pytest.raises(ValueError, match='declares 3 classes, wanted 1000'):
    tfrecords.describe(shards, num_classes=1000)
  extra = str(tmp_path / 'validation-00000-of-00001')
  shutil.copy(shards[0], extra)
  with pytest.raises(ValueError, match='is not among the shards'):
    tfrecords.describe([*shards, extra])
  with pytest.raises(FileNotFoundError, match='absent'):
    shard_files.check_sizes([*shards, str(tmp_path / 'absent')], records)
  # Two shards that changed places hold other numbers of bytes.
  os.replace(shards[0], extra)
  os.replace(shards[1], shards[0])
  os.replace(extra, shards[1])
  with pytest.raises(ValueError, match=r'bytes, but image_records.json'):
    tfrecords.describe(shards)


def test_describe_refuses_another_label_base(tmp_path):
  shards = data_set(tmp_path, label_base=0)
  with pytest.raises(ValueError, match="label_base 0, but .* 'original'"):
    tfrecords.describe(shards)


def test_describe_takes_folders_without_description_for_imagenet(
  tmp_path, caplog
):
  path = str(tmp_path / 'imagenet2012-validation.tfrecord-00000-of-00001')
  shard_files.write(path, [serialize(image=image(), label=999)])
  records = tfrecords.describe([path])
  assert (records.name, records.num_classes) == ('imagenet', 1000)
  assert records.label_base == 0
  assert 'taken to be ImageNet' in caplog.text
  tfrecords.find_fault(path, tfrecords.TFDS, records)


def test_undescribed_imagenet_is_not_compared_with_class_names(tmp_path):
  path = str(tmp_path / 'validation-00000-of-00001')
  shard_files.write(path, [tfrecords.encode('k', image(), 999, 'toilet')])
  records = tfrecords.describe([path])
  expected = [('k', image(), 999)]
  assert parse_in_pipeline(path, tfrecords.ORIGINAL, records) == expected
  assert parse_in_python(path, tfrecords.ORIGINAL, records) == expected


def test_describe_refuses_shards_of_two_folders(tmp_path):
  shards = data_set(tmp_path / 'a') + data_set(tmp_path / 'b')
  with pytest.raises(ValueError, match='lie in 2 folders'):
    tfrecords.describe(shards)
