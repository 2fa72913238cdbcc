"""Members that each can be read, and together or on these data say nothing."""

import dataclasses
import json
import pathlib
import re

import pytest

from tests.test_inference import ARCHITECTURE, OPTIONS, write_member
from utils import (
  data_input,
  image_records,
  inference,
  member_checks,
  member_paths,
  network_files,
  quantised,
  shard_files,
  tfrecords,
)

RECORDS = image_records.ImageRecords('pets', ('cat', 'dog', 'emu'))
LEVELS = (('baseline', 0.0), ('threshold', 0.5))


def member(root, level=LEVELS[0], replicate=0, step=8, content='', **record):
  """A member's folder with an index of some content, and maybe its record."""
  identity = member_paths.Member('exp', *level, 0, 0, 0, replicate)
  prefix = member_paths.prefix_in(str(root / identity.folder), step)
  index = pathlib.Path(f'{prefix}.index')
  index.parent.mkdir(parents=True, exist_ok=True)
  index.write_text(content or f'{level} {replicate} {step}')
  if record:
    path = index.parent / 'imagenet_train_eval.run.json'
    path.write_text(json.dumps({'settings': record}))
  return member_paths.parse(prefix)


def trained_on(records=RECORDS, digest='1'):
  return {'data': {'digest': digest, 'reading': records.reading}}


def check_together(checkpoints):
  member_checks.check_together(member_checks.read(checkpoints))


def check_data(checkpoints, described):
  member_checks.check_data(member_checks.read(checkpoints), described)


def test_a_copy_under_another_number_is_refused_by_name(tmp_path):
  two = [member(tmp_path, replicate=r, content='same') for r in (0, 3)]
  with pytest.raises(ValueError, match='hold the same network') as raised:
    check_together(two)
  for copy in two:
    assert copy.prefix in str(raised.value)


def test_networks_of_two_levels_may_be_the_same(tmp_path):
  """As is a quantised network of which nothing could be quantised."""
  check_together([member(tmp_path, level, content='same') for level in LEVELS])


def test_half_trained_members_are_refused_among_finished_ones(tmp_path):
  done = member(tmp_path, replicate=0, train_steps=8)
  half = member(tmp_path, replicate=1, step=4, train_steps=8)
  with pytest.raises(ValueError, match=r'model.ckpt-4 \(step 4 of 8\)'):
    check_together([done, half])
  # Each alone, or all of them half-trained, may be meant.
  check_together([half])
  check_together([half, member(tmp_path, LEVELS[1], step=4, train_steps=8)])
  # A dense member needs fewer steps than a pruned one.
  check_together([done, member(tmp_path, LEVELS[1], step=16, train_steps=16)])


def test_members_of_two_data_sets_are_refused(tmp_path):
  one = member(tmp_path, replicate=0, **trained_on(digest='1'))
  other = member(tmp_path, replicate=1, **trained_on(digest='2'))
  with pytest.raises(ValueError, match='were trained on different images'):
    check_together([one, other])
  check_together([one, member(tmp_path, LEVELS[1])])


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    # A class was renamed so that it sorts first.
    (('a_dog', 'cat', 'emu'), "'cat' as class 0, in the data set pets it is"),
    (('dog', 'cat', 'emu'), r'class 1 \(2 of 3 classes'),
    (('ant', 'bee', 'fly'), 'other classes than the data set pets'),
  ],
)
def test_another_order_of_classes_is_refused(tmp_path, names, message):
  one = member(tmp_path, **trained_on())
  other = dataclasses.replace(RECORDS, class_names=names)
  with pytest.raises(ValueError, match=message) as raised:
    check_data([one], [RECORDS, other])
  assert one.prefix in str(raised.value)


def test_stable_names_win_over_words(tmp_path):
  keyed = dataclasses.replace(RECORDS, class_keys=('n1', 'n2', 'n3'))
  one = member(tmp_path, **trained_on(keyed))
  worded = dataclasses.replace(keyed, class_names=('dog', 'cat', 'emu'))
  check_data([one], [worded])
  moved = dataclasses.replace(keyed, class_keys=('n2', 'n1', 'n3'))
  with pytest.raises(ValueError, match="'n1' as class 0"):
    check_data([one], [moved])


def test_what_may_be_meant_is_warned_about_once(tmp_path, caplog):
  members = [member(tmp_path, replicate=r, **trained_on()) for r in (0, 1)]
  for change, said in (
    ({'class_names': ('cat', 'hound', 'emu')}, "'hound' for 'dog'"),
    ({'image_size': 32, 'resize_size': 32}, 'image_size 224, .*has 32'),
    ({'channel_mean': (1.0, 2.0, 3.0)}, 'see other pixels than they know'),
  ):
    caplog.clear()
    other = dataclasses.replace(RECORDS, **change)
    check_data(members, [RECORDS, other, other])
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == 'WARNING'
    assert re.search(said, caplog.text)


def test_what_is_legitimate_raises_no_alarm(tmp_path, caplog):
  """Other images, another crop, another label base; names that nobody gave."""
  one = member(tmp_path, **trained_on())
  for change in (
    {'name': 'other', 'label_base': 0, 'resize_size': 224},
    {'class_names': ('0', '1', '2')},
    {'channel_mean': tuple(m + 0.1 for m in RECORDS.channel_mean)},
  ):
    check_data([one], [dataclasses.replace(RECORDS, **change)])
  assert not caplog.records
  with caplog.at_level('INFO', 'absl'):
    check_data([member(tmp_path, LEVELS[1])], [RECORDS])
  assert 'is taken for granted' in caplog.text
  assert all(record.levelname == 'INFO' for record in caplog.records)


def test_a_record_that_is_none_is_named(tmp_path):
  for settings in ([], {'data': 3}):
    one = member(tmp_path, train_steps=8)
    record = pathlib.Path(one.prefix).parent / 'imagenet_train_eval.run.json'
    record.write_text(json.dumps({'settings': settings}))
    with pytest.raises(ValueError, match='is damaged') as raised:
      check_data([one], [RECORDS])
    assert str(record) in str(raised.value)


def test_whoever_predicts_is_told(tmp_path):
  """Networks are read, and no image is."""
  folder = data_input.synthetic_data_set(str(tmp_path / 'data'))
  shards = image_records.find_shards(folder, 'eval')
  records = tfrecords.describe(shards)
  architecture = dataclasses.replace(
    ARCHITECTURE, num_classes=records.num_classes
  )
  one = write_member(tmp_path, 'baseline', 0.0, 0, architecture)
  other = dataclasses.replace(
    records, class_names=records.class_names[::-1]
  ).reading
  path = pathlib.Path(one.prefix).parent / 'imagenet_train_eval.run.json'
  path.write_text(json.dumps({'settings': {'data': {'reading': other}}}))
  with pytest.raises(ValueError, match='was trained'):
    list(inference.predict([one], shards, records, **OPTIONS))


def test_another_shard_of_the_same_size_is_refused(tmp_path):
  """Swapped ones, say, which have the right names and numbers of records."""
  folder = data_input.synthetic_data_set(str(tmp_path / 'data'))
  shards = image_records.find_shards(folder, 'eval')
  records = tfrecords.describe(shards)
  one = write_member(
    tmp_path,
    'baseline',
    0.0,
    0,
    dataclasses.replace(ARCHITECTURE, num_classes=records.num_classes),
  )
  examples = list(shard_files.read_records(shards[0]))
  shard_files.write(shards[0], examples[::-1])
  shard_files.check_sizes(shards, records)
  with pytest.raises(ValueError, match='another SHA-256 than') as raised:
    list(inference.predict([one], shards, records, **OPTIONS))
  assert shards[0] in str(raised.value)


def quantised_of(source):
  """A network that says it was quantised from another; of other bytes."""
  prefix = source.prefix.replace('baseline', 'int8')
  index = pathlib.Path(f'{prefix}.tflite')
  index.parent.mkdir(parents=True)
  index.write_text(prefix)
  made = member_paths.parse(prefix, 'tflite')
  made_from = quantised.made_from(
    source, index.read_bytes(), {}, member_checks.training_of(source).data
  )
  network_files.write(
    made.described_by,
    network_files.Description(
      image_size=8,
      scale=1.0,
      mean=(0.0, 0.0, 0.0),
      deviation=(1.0, 1.0, 1.0),
      channels='RGB',
      output='logits',
      num_classes=3,
      made_from=made_from,
    ),
  )
  return made


def test_quantised_members_know_what_their_source_was_trained_on(tmp_path):
  one = member(tmp_path, **trained_on(digest='1'))
  made = quantised_of(one)
  assert (
    member_checks.training_of(made).data == member_checks.training_of(one).data
  )
  other = dataclasses.replace(RECORDS, class_names=('dog', 'cat', 'emu'))
  with pytest.raises(ValueError, match="'cat' as class 0, in the data set"):
    check_data([made], [other])
  elsewhere = member(tmp_path / 'b', replicate=1, **trained_on(digest='2'))
  with pytest.raises(ValueError, match='were trained on different images'):
    check_together([made, elsewhere])
  description = pathlib.Path(made.described_by)
  fields = json.loads(description.read_text())
  fields['made_from']['trained_on'] = 3
  description.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match='trained_on is no object'):
    check_together([made])


def test_each_record_is_read_once(tmp_path, monkeypatch):
  members = [member(tmp_path, replicate=r, **trained_on()) for r in range(3)]
  opened = []
  read = member_checks.provenance.read

  def counted(path):
    opened.append(path)
    return read(path)

  monkeypatch.setattr(member_checks.provenance, 'read', counted)
  trained = member_checks.read(members)
  member_checks.check_together(trained)
  member_checks.check_data(trained, [RECORDS])
  assert len(opened) == len(set(opened)) == 3
