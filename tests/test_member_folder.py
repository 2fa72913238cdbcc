"""A member's folder: going on, settings, what is kept."""

import dataclasses
import json

import pytest

from save_checkpoint import (
  member_folder,
  member_training,
  training_settings,
)
from tests.train_small import SETTINGS, assert_equal_networks, train
from utils import (
  data_input,
  digests,
  image_records,
  paths,
  shard_files,
  storage,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


@pytest.fixture(scope='module')
def population(tmp_path_factory, data):
  return train(tmp_path_factory.mktemp('population'), data)


class Killed(Exception):  # noqa: N818
  """Stands for a kill, at which nothing is tidied up."""


@pytest.mark.parametrize('when', [1, 2, 3])
def test_a_resumed_run_equals_one_that_never_stopped(
  population, data, tmp_path, monkeypatch, when
):
  output = training_settings.Output(
    steps_per_checkpoint=3, keep_checkpoints=2, steps_per_summary=5
  )
  options = {'fractions_pruned': (0.9,), 'output': output}
  saves = []
  save = member_folder.MemberFolder.save

  def killed_after_saving(*args):
    save(*args)
    saves.append(1)
    if len(saves) == when:
      raise Killed

  monkeypatch.setattr(member_folder.MemberFolder, 'save', killed_after_saving)
  with pytest.raises(Killed):
    train(tmp_path, data, **options)
  monkeypatch.undo()
  resumed = train(tmp_path, data, **options)
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])
  folder = tmp_path / member.folder
  names = sorted(path.name for path in folder.glob('model*.index'))
  assert names == ['model.ckpt-12.index', 'model.ckpt-9.index']
  assert not (folder / 'resume').exists()


def test_a_damaged_state_falls_back_to_the_one_before(
  population, data, tmp_path, monkeypatch, caplog
):
  output = training_settings.Output(steps_per_checkpoint=3)
  options = {'fractions_pruned': (0.9,), 'output': output}
  finish = member_training.MemberTrainer.train

  def killed(*args):
    finish(*args)
    raise Killed

  monkeypatch.setattr(member_training.MemberTrainer, 'train', killed)
  with pytest.raises(Killed):
    train(tmp_path, data, **options)
  monkeypatch.undo()
  states = sorted(tmp_path.rglob('state-*.data*'), reverse=True)
  assert [path.name.split('.')[0] for path in states] == ['state-9', 'state-6']
  states[0].write_bytes(states[0].read_bytes()[:1000])
  resumed = train(tmp_path, data, **options)
  assert 'falling back to the state before' in caplog.text
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])


def test_a_finished_population_is_left_alone(data, tmp_path):
  train(tmp_path, data, fractions_pruned=(0.9,))
  before = {
    path: path.stat().st_mtime_ns
    for path in tmp_path.rglob('*')
    if path.is_file()
  }
  train(tmp_path, data, fractions_pruned=(0.9,))
  after = {
    path: path.stat().st_mtime_ns
    for path in tmp_path.rglob('*')
    if path.is_file()
  }
  assert before == after


def test_other_settings_are_named_and_nothing_is_mixed(data, tmp_path):
  train(tmp_path, data, fractions_pruned=(0.0,))
  other = dataclasses.replace(SETTINGS, weight_decay=0.5)
  with pytest.raises(ValueError, match='weight_decay was 0.0001, is 0.5'):
    train(tmp_path, data, fractions_pruned=(0.0,), settings=other)


def test_data_of_another_content_are_named(tmp_path):
  """Their sizes are the same: the settings know digests, and so can a check."""
  folder = str(tmp_path / 'data')
  data_input.synthetic_data_set(folder)
  options = {'fractions_pruned': (0.0,), 'verify_data': True}
  train(tmp_path, folder, **options)
  (record,) = tmp_path.glob('exp/*/**/imagenet_train_eval.run.json')
  shard = image_records.read(folder).shard('train-00000-of-00001')
  shards = {'train-00000-of-00001': shard.sha256}
  known = json.loads(record.read_text())['settings']['data']
  assert known.pop('reading')['class_names'] == list(map(str, range(10)))
  assert known == {
    'name': 'synthetic',
    'num_images': 20,
    'digest': digests.of_json(shards),
    'shards': shards,
  }
  path = paths.shard(folder, 'train', 0, 1)
  swapped = list(shard_files.read_records(path))[::-1]
  other = shard_files.write(path, swapped)
  assert other.bytes == shard.bytes
  with pytest.raises(ValueError, match='train-00000.*another SHA-256'):
    train(tmp_path / 'other', folder, **options)
  assert not (tmp_path / 'other').exists()
  records = image_records.read(folder)
  splits = {**records.splits, 'train': {storage.name(path): other}}
  image_records.write(folder, dataclasses.replace(records, splits=splits))
  was = f'train-00000-of-00001 was {shard.sha256[:60]}, is '
  with pytest.raises(ValueError, match=was + other.sha256[:60]):
    train(tmp_path, folder, **options)


def test_the_command_as_a_whole_has_a_record(data, tmp_path, monkeypatch):
  path = tmp_path / 'exp' / 'imagenet_train_eval.run.json'
  finish, seen = member_folder.MemberFolder.finish, []

  def killed_after_the_last(self, *args, **facts):
    finish(self, *args, **facts)
    seen.append(json.loads(path.read_text())['finished'])
    if len(seen) == 2:
      raise Killed

  monkeypatch.setattr(
    member_folder.MemberFolder, 'finish', killed_after_the_last
  )
  with pytest.raises(Killed):
    train(tmp_path, data)
  assert seen == ['', '']
  monkeypatch.undo()
  train(tmp_path, data)
  assert json.loads(path.read_text())['finished']


def test_a_member_without_its_record_is_not_finished(data, tmp_path):
  train(tmp_path, data, fractions_pruned=(0.9,))
  (record,) = tmp_path.glob('exp/*/**/*.run.json')
  made = record.read_text()
  for change in ('checkpoint', 'record'):
    if change == 'checkpoint':
      next(tmp_path.rglob('model.ckpt-12.index')).unlink()
    else:
      record.unlink()
    train(tmp_path, data, fractions_pruned=(0.9,))
    assert list(tmp_path.rglob('model.ckpt-12.index'))
    again = json.loads(record.read_text())
    assert again['finished']
    assert again['settings'] == json.loads(made)['settings']


def test_other_shards_of_other_names_are_refused(data, tmp_path):
  """Of a mapping only what both have is compared: their digest tells."""
  train(tmp_path, data, fractions_pruned=(0.0,))
  records = image_records.read(data)
  (name,) = records.splits['train']
  other = paths.shard(str(tmp_path / 'other'), 'train', 1, 2)
  content = list(shard_files.read_records(paths.shard(data, 'train', 0, 1)))
  shards = {
    storage.name(path): shard_files.write(path, part)
    for path, part in (
      (paths.shard(str(tmp_path / 'other'), 'train', 0, 2), content[:10]),
      (other, content[10:]),
    )
  }
  assert name not in shards
  image_records.write(
    str(tmp_path / 'other'),
    dataclasses.replace(records, splits={'train': shards}),
  )
  with pytest.raises(ValueError, match='digest was [0-9a-f]*, is [0-9a-f]*'):
    train(tmp_path, str(tmp_path / 'other'), fractions_pruned=(0.0,))
