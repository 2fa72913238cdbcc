"""A cluster does what this machine does, whatever becomes of its workers.

The scheduler and its two workers are processes of this machine. Most pieces
here need no TensorFlow, which would take five seconds in each worker.
"""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from utils import workers

ROOT = pathlib.Path(__file__).parent.parent


def pid_once(folder, number):
  """Notes that the piece was begun, and waits until nobody says to wait."""
  path = pathlib.Path(folder)
  (path / f'{number}.{os.getpid()}').write_text('')
  while (path / 'wait').exists():
    time.sleep(0.01)
  return number


def bad(number):
  if number == 3:
    raise ValueError('piece 3 is damaged')
  return number


def die(number):
  os.kill(os.getpid(), signal.SIGKILL)


class Cluster:
  """Processes of a scheduler and of workers."""

  def __init__(self, folder):
    self.file = str(folder / 'scheduler.json')
    self._folder = folder
    self._processes = []
    self.start('scheduler', '--port=0', '--host=127.0.0.1', '--no-dashboard')
    while not os.path.exists(self.file):
      time.sleep(0.05)

  def start(self, what, *flags, cwd=ROOT, **variables):
    log = self._folder / f'{what}-{len(self._processes)}'
    file = f'--scheduler-file={self.file}'
    self._processes.append(
      subprocess.Popen(
        [sys.executable, '-m', 'dask', what, file, *flags],
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=log.open('w'),
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    )
    return self._processes[-1]

  def stop(self):
    for process in self._processes:
      process.poll() is None and os.killpg(process.pid, signal.SIGKILL)
      process.wait()


WORKERS = ('--nthreads=1', '--nworkers=2', '--no-dashboard')


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """Two workers, which are started anew when they die."""
  running = Cluster(tmp_path_factory.mktemp('cluster'))
  running.start('worker', *WORKERS)
  yield running
  running.stop()


def mapped(of, work, *pieces):
  with workers.mapper(workers.Place(1, of.file), 1) as spread:
    return list(spread(work, *pieces))


def test_results_come_in_order_and_pieces_of_no_end_take_no_memory(two):
  left = iter(range(200))
  with workers.mapper(workers.Place(1, two.file), 1) as spread:
    results = spread(abs, left)
    assert next(results) == 0
    assert 50 < next(left) < 100
    assert len(list(results)) == 198


def test_what_is_wrong_with_a_piece_ends_all_in_its_words(two):
  with pytest.raises(ValueError, match='piece 3 is damaged'):
    mapped(two, bad, range(100))


def test_a_dead_workers_pieces_are_done_by_others(two, tmp_path):
  (tmp_path / 'wait').touch()
  with workers.mapper(workers.Place(1, two.file), 1) as spread:
    results = spread(pid_once, [str(tmp_path)] * 6, range(6))
    first = iter(results)
    found = []
    thread = threading.Thread(target=lambda: found.extend(first))
    thread.start()
    while not (begun := list(tmp_path.glob('*.*'))):
      time.sleep(0.01)
    victim = int(begun[0].suffix[1:])
    os.kill(victim, signal.SIGKILL)
    while all(path.suffix == f'.{victim}' for path in tmp_path.glob('*.*')):
      time.sleep(0.01)
    (tmp_path / 'wait').unlink()
    thread.join()
  assert found == list(range(6))
  begun = [path.stem for path in tmp_path.glob('*.*')]
  assert len(begun) > len(set(begun))
