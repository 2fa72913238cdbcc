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
from unittest import mock

import dask
import distributed  # noqa: F401, defines the options that are set below
import psutil
import pytest
import tqdm

from tests.dask_cluster import Cluster
from tests.stages import STAGES, assert_same, remove_page
from utils import cluster, workers

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


def work_until_unwanted(folder, number):
  """Notes that it was begun, and left; done when nobody says to wait."""
  path = pathlib.Path(folder)
  (path / f'begun.{os.getpid()}').touch()
  done = 0
  while (path / 'wait').exists():
    if not cluster.is_wanted():
      (path / f'left.{os.getpid()}').touch()
      raise cluster.PieceLeftError('step 7 is saved')
    done += 1
    cluster.report(done)
    time.sleep(0.02)
  return number


def await_files(folder, pattern, number=1):
  while len(found := sorted(folder.glob(pattern))) < number:
    time.sleep(0.02)
  return found


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """Two workers, which are started anew when they die."""
  running = Cluster(tmp_path_factory.mktemp('cluster'))
  running.start_workers()
  yield running
  running.stop()


@pytest.mark.parametrize(
  'name',
  [
    'build_image_data',
    'imagenet_train_eval',
    'quantise_checkpoints',
    'imagenet_predictions',
    'aggregate_predictions',
    'measure_costs',
    'generate_pie_dataset',
    'aggregate_ckpt_metrics',
    'build_corruptions',
    'imagenet_corruptions',
    'gallery',
  ],
)
def test_a_cluster_writes_what_this_machine_writes(runner, chain, two, name):
  before, after, *_ = chain[name]
  folder = runner.copy(before)
  stage = next(stage for stage in STAGES if str(stage) == name)
  process = runner.run(stage.but(f'--scheduler={two.file}'), folder)
  log = process.log.read_text()
  assert process.exitcode == 0, log[-3000:]
  # Or the same bytes were made here.
  assert ' workers' in log
  if name == 'gallery':
    after = runner.copy(after)
    remove_page(folder)
    remove_page(after)
  assert_same(folder, after)


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


def test_a_piece_that_kills_its_workers_is_named(two):
  with pytest.raises(OSError, match=r'4 workers died.*die.*their own logs'):
    mapped(two, die, range(1))


def test_no_scheduler_is_said_in_one_line(tmp_path):
  for where, what in (
    (str(tmp_path / 'scheduler.json'), 'there is no file'),
    ('127.0.0.1:1', 'no scheduler answers at --scheduler=127.0.0.1:1'),
  ):
    place = workers.Place(scheduler=where)
    with (
      dask.config.set({'distributed.comm.timeouts.connect': '1s'}),
      pytest.raises(OSError, match=what),
      workers.mapper(place, 1),
    ):
      pass


def test_without_dask_the_file_of_requirements_is_named():
  script = """if True:
    import sys
    from utils import command_line, workers
    sys.modules['distributed'] = None
    def main(argv):
      with workers.mapper(workers.Place(scheduler='127.0.0.1:1'), 1):
        pass
    command_line.run_script(main, lambda: None)
  """
  process = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 1
  assert process.stderr.startswith('error: --scheduler asks for Dask (')
  assert 'pip install -r requirements-cluster.txt' in process.stderr
  assert len(process.stderr.splitlines()) == 1


def test_a_worker_that_is_not_like_the_command_is_refused(tmp_path):
  other = Cluster(tmp_path)
  try:
    other.start_workers(1, '--no-nanny', TF_ENABLE_ONEDNN_OPTS='0')
    with (
      mock.patch.object(cluster, '_ROOT', tmp_path),
      pytest.raises(ValueError, match=f'import what is in {tmp_path}'),
    ):
      mapped(other, abs, range(3))
    with pytest.raises(ValueError, match='has TF_ENABLE_ONEDNN_OPTS 0, the'):
      mapped(other, abs, range(3))
  finally:
    other.stop()


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


def test_a_worker_that_is_told_to_end_leaves_its_piece_to_others(tmp_path):
  """As a member in training does, whose state is then saved."""
  (tmp_path / 'wait').touch()
  other = Cluster(tmp_path)
  watchers = [other.start_workers(1) for _ in range(2)]
  try:
    with (
      tqdm.tqdm(disable=False, total=1000) as progress,
      workers.mapper(
        workers.Place(scheduler=other.file), 1, progress=progress
      ) as spread,
    ):
      results = spread(work_until_unwanted, [str(tmp_path)], [5])
      found = []
      thread = threading.Thread(target=lambda: found.extend(results))
      thread.start()
      (begun,) = await_files(tmp_path, 'begun.*')
      while not progress.n:
        time.sleep(0.02)
      parent = psutil.Process(int(begun.suffix[1:])).parents()
      (watcher,) = (w for w in watchers if w.pid in [p.pid for p in parent])
      watcher.terminate()
      left = await_files(tmp_path, 'left.*')
      assert [path.suffix for path in left] == [begun.suffix]
      await_files(tmp_path, 'begun.*', 2)
      (tmp_path / 'wait').unlink()
      thread.join()
  finally:
    other.stop()
  assert found == [5]


def test_ctrl_c_is_noticed_by_the_pieces(two, tmp_path):
  (tmp_path / 'wait').touch()

  def strike():
    await_files(tmp_path, 'begun.*', 2)
    os.kill(os.getpid(), signal.SIGINT)

  with (
    pytest.raises(KeyboardInterrupt),
    workers.mapper(workers.Place(1, two.file), 1) as spread,
  ):
    results = spread(work_until_unwanted, [str(tmp_path)] * 2, range(2))
    threading.Thread(target=strike).start()
    next(results)
  assert len(await_files(tmp_path, 'left.*', 2)) == 2


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_scheduler_that_ends_ends_the_command_in_one_line(tmp_path, number):
  (tmp_path / 'wait').touch()
  other = Cluster(tmp_path)
  other.start_workers(1, '--no-nanny')
  try:
    with (
      mock.patch.object(cluster, '_SECONDS_FOR_ANOTHER', 0.5),
      pytest.raises(OSError, match='is gone; finished files are complete'),
      workers.mapper(workers.Place(scheduler=other.file), 1) as spread,
    ):
      results = spread(pid_once, [str(tmp_path)] * 3, range(3))

      def strike():
        await_files(tmp_path, '0.*')
        other.scheduler.send_signal(number)

      threading.Thread(target=strike).start()
      next(results)
  finally:
    other.stop()


def test_a_scheduler_that_is_started_again_gets_the_rest(tmp_path):
  (tmp_path / 'wait').touch()
  other = Cluster(tmp_path)
  other.start_workers(1)
  try:
    with workers.mapper(workers.Place(scheduler=other.file), 1) as spread:

      def strike():
        await_files(tmp_path, '0.*')
        other.scheduler.kill()
        (tmp_path / 'wait').unlink()
        other.start_scheduler()
        other.start_workers(1)

      threading.Thread(target=strike).start()
      found = list(spread(pid_once, [str(tmp_path)] * 200, range(200)))
  finally:
    other.stop()
  assert found == list(range(200))


def test_a_resource_is_of_workers_that_have_it(two, tmp_path):
  with pytest.raises(ValueError, match='wanted its --scheduler'):
    workers.Place(resource='GPU')
  watcher = two.start_workers(1, '--resources', 'GPU=1')
  try:
    place = workers.Place(scheduler=two.file, resource='GPU')
    with workers.mapper(place, 1) as spread:
      folders = [str(tmp_path)] * 20
      assert list(spread(pid_once, folders, range(20))) == list(range(20))
  finally:
    watcher.terminate()
  (pid,) = {path.suffix[1:] for path in tmp_path.glob('*.*')}
  assert watcher.pid in [p.pid for p in psutil.Process(int(pid)).parents()]
