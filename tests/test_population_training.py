"""A member that a cluster's worker trains is left, gone on with, done once.

On processes of a cluster the same is done by tests/test_cluster.py.
"""

import os
import re
import signal
import threading
import types

import pytest

from save_checkpoint import (
  imagenet_train_eval,
  member_folder,
  member_training,
  population_training,
  training,
  training_settings,
)
from tests.train_small import SCHEDULE, SETTINGS, assert_equal_networks, train
from utils import (
  checkpoints,
  cluster,
  command_line,
  data_input,
  devices,
  workers,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('data'))
  return data_input.synthetic_data_set(folder)


def trainer_of(data, **execution):
  return population_training.PopulationTrainer(
    'train',
    data,
    'threshold',
    SETTINGS,
    training_settings.Output(),
    training_settings.Execution(**execution),
  )


def test_a_member_that_is_left_goes_on_and_is_not_trained_twice(
  data, tmp_path, monkeypatch
):
  (member,) = imagenet_train_eval.population(
    'exp', 'threshold', [0.9], [0], SCHEDULE
  )
  trainer = trainer_of(data)

  def folder():
    return member_folder.MemberFolder(
      str(tmp_path / 'cluster' / 'exp'),
      member,
      'save_checkpoint.imagenet_train_eval',
      SETTINGS,
      trainer.data.identity,
    )

  reported = []
  monkeypatch.setattr(cluster, 'report', reported.append)
  monkeypatch.setattr(
    cluster, 'is_wanted', lambda: not reported or reported[-1] < 4
  )
  sent = folder()
  with pytest.raises(cluster.PieceLeftError, match=r'is saved at step \d+'):
    trainer.train_on_worker(sent)
  left_at = reported[-1]
  assert 4 <= left_at < SETTINGS.train_steps
  monkeypatch.setattr(cluster, 'is_wanted', lambda: True)
  trainer.train_on_worker(folder())
  assert reported == sorted(reported)
  assert reported.count(left_at) == 2  # where the second one went on
  assert reported[-1] == SETTINGS.train_steps
  checkpoint = folder().checkpoint(SETTINGS.train_steps)
  ((other, wanted),) = train(
    tmp_path / 'here', data, fractions_pruned=(0.9,)
  ).items()
  assert other == member
  assert_equal_networks(checkpoints.read(checkpoint.prefix), wanted)
  # Its worker died before it could say that the member is finished.
  reported.clear()
  (written,) = (tmp_path / 'cluster').rglob('*.index')
  at = written.stat().st_mtime_ns
  trainer.train_on_worker(sent)
  assert written.stat().st_mtime_ns == at
  assert reported == [SETTINGS.train_steps]


@pytest.mark.parametrize('mode', ['train', 'train_and_eval'])
def test_members_trained_at_the_same_time_are_those_trained_in_turn(
  data, tmp_path, mode
):
  wanted = train(tmp_path / 'in_turn', data, replicates=range(2))
  found = train(
    tmp_path / 'together',
    data,
    replicates=range(2),
    members_at_once=3,
    mode=mode,
  )
  assert len(found) == 4
  for member, network in found.items():
    assert_equal_networks(network, wanted[member])


def test_one_that_fails_ends_the_others_which_go_on_where_they_were(
  data, tmp_path, monkeypatch
):
  take_steps = member_training.MemberTrainer._take_steps
  fail = population_training._Together.fail
  begun, failed = threading.Event(), threading.Event()

  def failing_if_dense(self, boundary, batches, folder, *rest):
    if folder.member.level.is_dense:
      assert begun.wait(60)
      raise ValueError(f'{folder.path}: the loss is not finite')
    take_steps(self, boundary, batches, folder, *rest)
    begun.set()
    assert failed.wait(60)

  def failing(self):
    fail(self)
    failed.set()

  monkeypatch.setattr(
    member_training.MemberTrainer, '_take_steps', failing_if_dense
  )
  monkeypatch.setattr(population_training._Together, 'fail', failing)
  with pytest.raises(ValueError, match=r'baseline.* loss is not finite'):
    train(tmp_path, data, members_at_once=2)
  assert not list(tmp_path.rglob('model.ckpt-12.index'))
  (state,) = tmp_path.rglob('state-*.index')
  assert 'threshold' in str(state)
  monkeypatch.undo()
  found = train(tmp_path, data, members_at_once=2)
  wanted = train(tmp_path / 'in_turn', data)
  for member, network in wanted.items():
    assert_equal_networks(found[member], network)


def test_a_signal_saves_all_that_are_trained_at_the_same_time(
  data, tmp_path, monkeypatch
):
  taken = training.Trainer.train

  def told_at_the_third_step(self, batches, num_steps):
    if self.step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return taken(self, batches, num_steps)

  monkeypatch.setattr(training.Trainer, 'train', told_at_the_third_step)
  monkeypatch.setattr(member_training.Pace, 'measure', lambda *args: None)
  with pytest.raises(command_line.Interrupted) as error:
    train(tmp_path, data, replicates=range(3), members_at_once=2)
  said = re.findall(r'(\S+) is saved at step (\d+)', str(error.value))
  assert error.value.number == signal.SIGTERM
  assert 1 <= len(said) <= 2
  states = tmp_path.rglob('state-*.index')
  assert sorted(path.stem for path in states) == sorted(
    f'state-{step}' for _, step in said if step != '0'
  )
  monkeypatch.undo()
  found = train(tmp_path, data, replicates=range(3), members_at_once=2)
  wanted = train(tmp_path / 'in_turn', data, replicates=range(3))
  for member, network in wanted.items():
    assert_equal_networks(found[member], network)


def test_several_devices_train_one_member_at_a_time(
  data, tmp_path, monkeypatch
):
  two = types.SimpleNamespace(num_replicas_in_sync=2)
  monkeypatch.setattr(devices, 'strategy', lambda *_, **__: two)
  with pytest.raises(ValueError, match='members_at_once is 2, wanted 1 where'):
    train(tmp_path, data, members_at_once=2)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('split_over', 'wanted'), [('1', 5), ('3', 1), ('', 1), ('0', 1)]
)
def test_as_many_members_as_cores_without_work(
  data, monkeypatch, split_over, wanted
):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(4)))
  monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', split_over)
  trainer = trainer_of(data, members_at_once=0)
  assert trainer.members_at_once == wanted


def test_a_cluster_and_workers_of_one_member_are_two_things(
  data, tmp_path, monkeypatch
):
  monkeypatch.setenv(
    'TF_CONFIG',
    '{"cluster": {"worker": ["h0:2222", "h1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}',
  )
  with pytest.raises(ValueError, match=r'TF_CONFIG names.*--scheduler others'):
    imagenet_train_eval.run(
      'train',
      data,
      str(tmp_path / 'exp'),
      [],
      SETTINGS,
      training_settings.Output(),
      training_settings.Execution(),
      workers.Place(scheduler='127.0.0.1:1'),
    )
  assert not (tmp_path / 'exp').exists()
