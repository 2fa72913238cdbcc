"""A member that a cluster's worker trains is left, gone on with, done once.

On processes of a cluster the same is done by tests/test_cluster.py.
"""

import pytest

from save_checkpoint import (
  imagenet_train_eval,
  member_folder,
  population_training,
  training_settings,
)
from tests.train_small import SCHEDULE, SETTINGS, assert_equal_networks, train
from utils import checkpoints, cluster, data_input, workers


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('data'))
  return data_input.synthetic_data_set(folder)


def test_a_member_that_is_left_goes_on_and_is_not_trained_twice(
  data, tmp_path, monkeypatch
):
  (member,) = imagenet_train_eval.population(
    'exp', 'threshold', [0.9], [0], SCHEDULE
  )
  trainer = population_training.PopulationTrainer(
    'train',
    data,
    'threshold',
    SETTINGS,
    training_settings.Output(),
    training_settings.Execution(),
  )

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
