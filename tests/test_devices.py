"""Which devices are chosen, and who of several workers writes."""

import json
import signal

import pytest
import tensorflow as tf

from utils import devices

HOSTS = ['h0:2222', 'h1:2222', 'h2:2222']


@pytest.fixture(autouse=True)
def alone(monkeypatch):
  monkeypatch.delenv('TF_CONFIG', raising=False)


def tell(monkeypatch, cluster, **task):
  config = {'cluster': cluster, 'task': task}
  monkeypatch.setenv('TF_CONFIG', json.dumps(config))


def with_gpus(monkeypatch, number):
  """As TensorFlow lists devices where there are so many GPUs."""
  named = {
    'CPU': [tf.config.LogicalDevice('/device:CPU:0', 'CPU')],
    'GPU': [
      tf.config.LogicalDevice(f'/device:GPU:{i}', 'GPU') for i in range(number)
    ],
  }
  monkeypatch.setattr(
    tf.config, 'list_logical_devices', lambda kind: named.get(kind, [])
  )


@pytest.mark.parametrize(
  ('gpus', 'device', 'described'),
  [(0, '/CPU:0', '1x CPU'), (1, '/device:GPU:0', '1x GPU')],
)
def test_one_device_is_taken_alone(monkeypatch, gpus, device, described):
  with_gpus(monkeypatch, gpus)
  monkeypatch.setattr(tf.distribute, 'OneDeviceStrategy', lambda name: name)
  assert devices.strategy() == device
  assert devices.describe() == described


def test_several_gpus_share_the_work(monkeypatch):
  with_gpus(monkeypatch, 3)
  monkeypatch.setattr(tf.distribute, 'MirroredStrategy', lambda: 'mirrored')
  assert devices.strategy() == 'mirrored'
  assert devices.describe() == '3x GPU'


def test_the_processor_computes():
  strategy = devices.strategy()
  assert strategy.num_replicas_in_sync == 1
  assert float(strategy.run(lambda: tf.constant(2.0) + 1)) == 3


def test_nothing_is_described_as_nothing(monkeypatch):
  monkeypatch.setattr(tf.config, 'list_logical_devices', lambda kind: [])
  assert devices.describe() == 'none'


def test_a_tpu_that_is_not_there_is_named():
  with pytest.raises(ValueError, match="^TPU 'local' does not answer, wanted"):
    devices.strategy('local')


@pytest.mark.parametrize(
  ('cluster', 'number'),
  [
    ({}, 1),
    ({'worker': HOSTS[:1]}, 1),
    ({'chief': HOSTS[:1]}, 1),
    ({'worker': HOSTS}, 3),
    ({'chief': HOSTS[:1], 'worker': HOSTS[1:]}, 3),
    ({'worker': HOSTS[:2], 'ps': HOSTS[2:], 'evaluator': HOSTS}, 2),
  ],
)
def test_workers_are_the_chief_and_the_workers(monkeypatch, cluster, number):
  tell(monkeypatch, cluster, type='worker', index=0)
  assert devices.num_workers() == number


def test_without_a_cluster_there_is_one_worker_and_it_writes(monkeypatch):
  for text in (None, '', '{}'):
    if text is not None:
      monkeypatch.setenv('TF_CONFIG', text)
    assert devices.num_workers() == 1
    assert devices.is_chief()


@pytest.mark.parametrize(
  'cluster',
  [{'worker': HOSTS}, {'chief': HOSTS[:1], 'worker': HOSTS[1:]}],
)
def test_one_worker_writes(monkeypatch, cluster):
  writers = []
  for kind, hosts in cluster.items():
    for index in range(len(hosts)):
      tell(monkeypatch, cluster, type=kind, index=index)
      if devices.is_chief():
        writers.append((kind, index))
  assert writers == [(next(iter(cluster)), 0)]


@pytest.mark.parametrize(
  'text', ['{', '[]', '3', '{"cluster": 3}', '{"cluster": ["h0:2222"]}']
)
def test_a_cluster_that_makes_no_sense_is_named(monkeypatch, text):
  monkeypatch.setenv('TF_CONFIG', text)
  for ask in (
    devices.num_workers,
    devices.is_chief,
    lambda: devices.strategy(with_workers=True),
  ):
    with pytest.raises(ValueError, match='TF_CONFIG is .*wanted JSON such as'):
      ask()
  devices.strategy()  # Which asks for no workers.


@pytest.mark.parametrize(
  'task', [{}, {'type': 'worker'}, {'type': 'worker', 'index': 'first'}]
)
def test_a_worker_that_does_not_know_which_it_is_is_named(monkeypatch, task):
  tell(monkeypatch, {'worker': HOSTS}, **task)
  with pytest.raises(ValueError, match='TF_CONFIG has the task .*wanted which'):
    devices.is_chief()


def test_workers_compute_together_only_where_they_are_asked_to(monkeypatch):
  handlers = {
    number: signal.getsignal(number)
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  seen = []

  def workers():
    seen.append(signal.getsignal(signal.SIGINT))
    # As TensorFlow does.
    signal.signal(signal.SIGTERM, lambda *_: None)
    return 'workers'

  monkeypatch.setattr(tf.distribute, 'MultiWorkerMirroredStrategy', workers)
  tell(monkeypatch, {'worker': HOSTS}, type='worker', index=1)
  try:
    assert devices.strategy() != 'workers'
    assert devices.strategy(with_workers=True) == 'workers'
    # Ctrl-C ends the wait, and then is Python's again; kill kills.
    assert seen == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
