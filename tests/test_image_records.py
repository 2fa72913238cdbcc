"""Laws of a data set's description: identity, and no contradiction passes."""

import dataclasses
import json
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import csvs, image_records, paths


def described(**changes):
  fields = {
    'name': 'pets',
    'class_names': ('cat', 'dog, "hot"', 'newt <b>', 'Zürich'),
    'label_base': 1,
    'image_size': 32,
    'resize_size': 36,
    'channel_mean': (1.5, 0.1 + 0.2, 1 / 3),
    'channel_std': (1.0, 2.0, 3.0),
    'crop_area_min': 0.6,
    'horizontal_flip': False,
    'splits': {
      'train': {'train-00000-of-00001': image_records.Shard(7, 900)},
      'validation': {
        'validation-00000-of-00002': image_records.Shard(2, 300),
        'validation-00001-of-00002': image_records.Shard(3, 400),
      },
    },
    'class_keys': ('n1', 'n2', 'n3', 'n4'),
  }
  return image_records.ImageRecords(**{**fields, **changes})


def test_write_then_read_is_identity(tmp_path):
  for records in (described(), image_records.imagenet(), described(splits={})):
    image_records.write(tmp_path, records)
    assert image_records.read(tmp_path) == records


names = st.text(
  st.characters(codec='utf-8', exclude_categories=('Cc',)),
  min_size=1,
  max_size=9,
).filter(lambda name: not csvs.fault_of_text(name))


@given(st.lists(names, min_size=2, max_size=5), st.floats(1e-300, 1e300))
def test_any_class_name_and_float_survives(tmp_path_factory, class_names, std):
  folder = tmp_path_factory.mktemp('records')
  records = described(
    class_names=class_names, class_keys=(), channel_std=(std,) * 3
  )
  image_records.write(folder, records)
  assert image_records.read(folder) == records


def test_equal_descriptions_give_equal_bytes(tmp_path):
  image_records.write(tmp_path / 'a', described())
  image_records.write(tmp_path / 'b', described())
  one, other = (
    pathlib.Path(paths.image_records(tmp_path / name)).read_bytes()
    for name in 'ab'
  )
  assert one == other


def test_how_training_moves_images_is_kept_and_changes_no_evaluation(tmp_path):
  moved = described(crop_area_min=1.0, crop_padding=4)
  image_records.write(tmp_path, moved)
  assert image_records.read(tmp_path) == moved
  assert moved.reading == described().reading


def test_descriptions_from_before_images_were_moved_are_read(tmp_path):
  image_records.write(tmp_path, described())
  path = pathlib.Path(paths.image_records(tmp_path))
  fields = json.loads(path.read_text())
  assert fields.pop('crop_padding') == 0
  del fields['sha256']
  fields['sha256'] = image_records._digest(fields)
  path.write_text(json.dumps(fields))
  assert image_records.read(tmp_path) == described()


def test_counts_and_shards():
  records = described()
  assert records.num_classes == 4
  assert records.num_examples('train') == 7
  assert records.num_examples('validation') == 5
  assert records.num_examples('test') == 0
  assert records.shard('validation-00001-of-00002').examples == 3
  assert records.shard('train-00000-of-00009') is None


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'name': ''}, 'name'),
    ({'name': 'a/b'}, 'name'),
    ({'name': '..'}, 'name'),
    ({'class_names': ('one',), 'class_keys': ()}, '1 entries'),
    ({'class_names': (1, 2), 'class_keys': ()}, 'not text'),
    ({'class_keys': ('n1', 'n1', 'n3', 'n4')}, '3 different entries'),
    ({'class_keys': ('n1',)}, '1 different entries'),
    ({'label_base': 2}, 'label_base is 2'),
    ({'label_base': True}, 'label_base is True'),
    ({'image_size': 0}, 'image_size is 0'),
    ({'image_size': 31.5}, 'image_size is 31.5'),
    ({'resize_size': 31}, 'resize_size 31'),
    ({'channel_mean': (1.0, 2.0)}, 'channel_mean'),
    ({'channel_mean': (1.0, 2.0, float('nan'))}, 'channel_mean'),
    ({'channel_std': (1.0, 2.0, 0.0)}, 'channel_std'),
    ({'channel_std': (1.0, 2.0, float('inf'))}, 'channel_std'),
    ({'crop_area_min': 0.0}, 'crop_area_min'),
    ({'crop_area_min': 1.5}, 'crop_area_min'),
    ({'horizontal_flip': 'no'}, 'horizontal_flip'),
    ({'crop_area_min': 1.0, 'crop_padding': 32}, 'crop_padding is 32'),
    ({'crop_area_min': 1.0, 'crop_padding': -1}, 'crop_padding is -1'),
    ({'crop_area_min': 1.0, 'crop_padding': 4.0}, 'crop_padding is 4.0'),
    ({'crop_padding': 4}, 'crop_padding is 4 and crop_area_min 0.6'),
    (
      {
        'splits': {
          'train': {'x': image_records.Shard(1, 1)},
          'validation': {'x': image_records.Shard(1, 1)},
        }
      },
      'two splits',
    ),
  ],
)
def test_contradictions_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    described(**change)


@pytest.mark.parametrize(('examples', 'size'), [(-1, 5), (1, -5), (1.5, 5)])
def test_shards_count_in_whole_numbers(examples, size):
  with pytest.raises(ValueError, match='whole number'):
    image_records.Shard(examples, size)


def damaged(change):
  """JSON of a good description with one thing changed in place."""
  fields = json.loads(
    json.dumps(
      {
        'format': image_records.FORMAT,
        'num_classes': 4,
        **dataclasses.asdict(described()),
      }
    )
  )
  change(fields)
  return json.dumps(fields)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'not JSON'),
    ('[1]', 'wanted a JSON object'),
    (damaged(lambda f: f.pop('format')), 'format'),
    (damaged(lambda f: f.update(format=99)), 'format'),
    (damaged(lambda f: f.pop('name')), "'name'"),
    (damaged(lambda f: f.pop('class_names')), "'class_names'"),
    (damaged(lambda f: f.update(num_clases=4)), 'num_clases'),
    (damaged(lambda f: f.update(num_classes=5)), 'num_classes is 5'),
    (damaged(lambda f: f.update(image_size='32')), 'image_size'),
    (damaged(lambda f: f.update(channel_mean='grey')), 'channel_mean is one'),
    (damaged(lambda f: f.update(class_names='0123')), 'class_names is one'),
    (damaged(lambda f: f['splits']['train'].update(x=3)), 'x|mapping'),
    (
      damaged(lambda f: f['splits']['train'].update(x={'examples': 3})),
      'bytes',
    ),
    (
      damaged(
        lambda f: f['splits']['train'].update(x={'examples': 3, 'bytes': '9'})
      ),
      "bytes is '9'",
    ),
    *(
      (
        damaged(
          lambda f, digest=digest: f['splits']['train'].update(
            x={'examples': 3, 'bytes': 9, 'sha256': digest}
          )
        ),
        f"sha256 is '?{digest}'?, wanted 64 hexadecimal digits",
      )
      for digest in ('0' * 63, 'g' * 64, 7)
    ),
    (damaged(lambda f: f.update(splits=[1])), 'items'),
  ],
)
def test_damaged_files_are_named(text, message, tmp_path):
  path = pathlib.Path(paths.image_records(tmp_path))
  path.write_text(text)
  with pytest.raises(ValueError, match=message) as raised:
    image_records.read(tmp_path)
  assert str(path) in str(raised.value)


def test_every_truncation_is_noticed(tmp_path):
  image_records.write(tmp_path, described())
  path = pathlib.Path(paths.image_records(tmp_path))
  whole = path.read_bytes()
  for size in range(len(whole) - 1):  # the last byte is a newline
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match='not JSON'):
      image_records.read(tmp_path)


def test_digests_may_be_absent(tmp_path):
  """As in descriptions that were written before there were any."""
  image_records.write(tmp_path, described())
  path = pathlib.Path(paths.image_records(tmp_path))
  fields = json.loads(path.read_text())
  del fields['sha256']
  for shards in fields['splits'].values():
    for shard in shards.values():
      del shard['sha256']
  path.write_text(json.dumps(fields))
  assert image_records.read(tmp_path) == described()


def test_absent_description_is_told_from_a_damaged_one(tmp_path):
  with pytest.raises(FileNotFoundError):
    image_records.read(tmp_path)


def touch(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).touch()
  return str(folder)


NAMING = {
  'ours': ('train-{:05d}-of-{:05d}', 'validation-{:05d}-of-{:05d}'),
  'the original': (
    'imagenet-with-bbox-training-{:05d}-of-{:05d}',
    'imagenet-with-bbox-validation-{:05d}-of-{:05d}',
  ),
  'tfds': (
    'imagenet2012-train.tfrecord-{:05d}-of-{:05d}',
    'imagenet2012-validation.tfrecord-{:05d}-of-{:05d}',
  ),
  'tfds imagenet_a': (
    'imagenet_a-train.tfrecord-{:05d}-of-{:05d}',
    'imagenet_a-test.tfrecord-{:05d}-of-{:05d}',
  ),
}


@pytest.mark.parametrize('tool', NAMING)
def test_a_folder_gives_the_shards_of_one_split(tool, tmp_path):
  train, evaluation = NAMING[tool]
  folder = touch(
    tmp_path,
    *(train.format(i, 12) for i in range(12)),
    *(evaluation.format(i, 2) for i in range(2)),
    'image_records.json',
    'dataset_info.json',
    f'.{train.format(0, 12)}.1a2b',
    f'{train.format(0, 12)}.tar',
  )
  found = [
    os.path.basename(p) for p in image_records.find_shards(folder, 'train')
  ]
  assert found == [train.format(i, 12) for i in range(12)]
  found = [
    os.path.basename(p) for p in image_records.find_shards(folder, 'eval')
  ]
  assert found == [evaluation.format(i, 2) for i in range(2)]


def test_missing_and_mixed_shards_are_named(tmp_path):
  some = touch(
    tmp_path / 'some', 'train-00000-of-00003', 'train-00002-of-00003'
  )
  with pytest.raises(FileNotFoundError, match=r'2 of 3 .*missing \[1\]'):
    image_records.find_shards(some, 'train')
  mixed = touch(
    tmp_path / 'mixed', 'train-00000-of-00001', 'train-00000-of-00002'
  )
  with pytest.raises(ValueError, match='more than one set of train shards'):
    image_records.find_shards(mixed, 'train')
  with pytest.raises(FileNotFoundError, match=r'eval split in .*mixed'):
    image_records.find_shards(mixed, 'eval')
  with pytest.raises(FileNotFoundError, match='no TFRecord file matches'):
    image_records.find_shards(str(tmp_path / 'nothing*'), 'eval')
  with pytest.raises(FileNotFoundError):
    image_records.find_shards('', 'eval')
