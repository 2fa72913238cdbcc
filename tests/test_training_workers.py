"""Several workers that train together."""

import contextlib
import json
import signal
import socket
import time

import numpy as np
import pytest

from tests.train_small import (
  as_process,
  finish,
  summaries,
)
from utils import checkpoints, data_input, devices, member_paths


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


def free_ports(number):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def start_workers(data):
  """A function that starts the last ones of two workers.

  None outlives the test, whatever becomes of it: they wait for each other.
  """
  started = []

  def start(folder, options, number=2):
    workers = [f'127.0.0.1:{port}' for port in free_ports(2)]
    tasks = [{'type': 'worker', 'index': index} for index in range(2)]
    for task in tasks[-number:]:
      config = json.dumps({'cluster': {'worker': workers}, 'task': task})
      started.append(as_process(folder, data, options, config))
    return started[-number:]

  yield start
  for process in started:
    process.kill()


def test_workers_that_wait_say_so_and_can_be_interrupted(
  start_workers, tmp_path
):
  (process,) = start_workers(tmp_path, [], number=1)
  with process:
    for line in process.stderr:
      if 'waiting for the 2 workers' in line:
        break
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT


@pytest.mark.parametrize('text', ['{', '[]', '3'])
def test_a_cluster_that_makes_no_sense_is_named(monkeypatch, text):
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(ValueError, match='TF_CONFIG is .*wanted JSON such as'):
    devices.strategy(with_workers=True)


def test_two_workers_train_what_one_process_trains(
  start_workers, data, tmp_path
):
  """Even when one is told to end on the way: both do, at the same step."""

  def options(steps):
    return [
      '--mode=train_and_eval',
      '--train_steps=6',
      '--sparsity_end_step=4',
      '--steps_per_summary=1',
      '--train_batch_size=8',
      f'--steps_per_checkpoint={steps}',
    ]

  one = as_process(tmp_path / 'one', data, options(6))
  of_two = [*options(1), '--keep_data_in_memory']
  two = start_workers(tmp_path / 'two', of_two)
  while not list((tmp_path / 'two').rglob('state-*.index')):
    assert [process.poll() for process in two] == [None, None]
    time.sleep(0.01)
  # As schedulers do, and as TensorFlow would ignore; to one of them.
  two[1].terminate()
  logs = [process.communicate(timeout=60)[1] for process in two]
  assert [process.returncode for process in two] == [143, 143], logs
  # TensorFlow may add lines of its own: to whom ends last, its peer is gone.
  said = [
    [line for line in log.splitlines() if 'is saved at step' in line]
    for log in logs
  ]
  assert [len(lines) for lines in said] == [1, 1], logs
  assert said[0] == said[1]
  two = start_workers(tmp_path / 'two', of_two)
  logs = [finish(process) for process in two]
  assert all('goes on from step' in log for log in logs)
  finish(one)
  # Of the workers, one writes: a file more, since it was started twice.
  files = [
    len(list((tmp_path / name).rglob('events.out.tfevents*')))
    for name in ('one', 'two')
  ]
  assert files[1] == files[0] + 1
  ones, twos = (
    member_paths.find(str(tmp_path / name)) for name in ('one', 'two')
  )
  assert [c.member for c in ones] == [c.member for c in twos]
  for alone, together in zip(ones, twos, strict=True):
    expected = checkpoints.read(alone.prefix).values  # noqa: PD011
    got = checkpoints.read(together.prefix).values  # noqa: PD011
    assert list(expected) == list(got)
    for name, value in expected.items():
      if name.endswith('/mask'):
        np.testing.assert_array_equal(got[name], value)
      else:
        tolerance = 1e-3 * np.abs(value).max() + 1e-6
        np.testing.assert_allclose(got[name], value, atol=tolerance)
    folder = str(alone.member.folder)
    expected = summaries(tmp_path / 'one' / folder)
    got = summaries(tmp_path / 'two' / folder)
    assert sorted(got['loss']) == list(range(1, 7))
    for tag in ('loss', 'accuracy', 'sparsity', 'eval_loss'):
      alike = {step: got[tag][step] for step in expected[tag]}
      assert alike == pytest.approx(expected[tag], rel=1e-5)
