r"""The chain on a cluster whose workers die, and its scheduler: the same bytes?

  python -m tests.benchmarks.cluster_chain --workers=2 --kills=50
  python -m tests.benchmarks.cluster_chain --workers=4 --kills=0 --restarts=10

Runs the chain of the tests on this machine alone, and then with each stage that
knows --scheduler on a cluster of processes here, again and again until so many
workers were killed (SIGKILL) at random moments, and so many schedulers were
killed and started again, with new workers. After each chain all files have to
be those of the machine alone; a line says how many there were of each. Killed
workers are replaced, as people's are. A chain without kills takes about two
minutes on two free cores.
"""

import contextlib
import importlib
import inspect
import os
import pathlib
import random
import shutil
import tempfile
import time

import psutil
from absl import app, flags

from tests import dask_cluster, stages

FLAGS = flags.FLAGS
_BLOWS = 8  # At most, that a stage is struck in a chain.


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('workers', 2, 'Of the cluster.', lower_bound=1)
  flags.DEFINE_integer('kills', 50, 'Of workers, at least.', lower_bound=0)
  flags.DEFINE_integer('restarts', 0, 'Of schedulers, at least.', lower_bound=0)
  flags.DEFINE_integer('seed', 0, 'Of the moments.')


def knows_clusters(stage: stages.Stage) -> bool:
  """Whether the stage's script has the flag --scheduler."""
  script = inspect.getsource(importlib.import_module(stage.script))
  return 'define_scheduler(' in script


class Striker:
  """Kills what a cluster consists of."""

  def __init__(self, cluster: dask_cluster.Cluster, workers: int, seed: int):
    self._cluster, self._workers = cluster, workers
    self._watcher = cluster.start_workers(workers)
    self._moments = random.Random(seed)
    self.kills = self.restarts = 0

  def is_done(self) -> bool:
    """Whether all blows are struck."""
    return self.kills >= FLAGS.kills and self.restarts >= FLAGS.restarts

  def wait(self, process, longest: float) -> None:
    """Until a stage has ended, or for a random time."""
    process.join(self._moments.uniform(0, longest))

  def kill_worker(self) -> None:
    """Kills one of them, as far as any is running."""
    workers = []
    for one in psutil.Process(self._watcher.pid).children(recursive=True):
      with contextlib.suppress(psutil.NoSuchProcess):  # Gone by now.
        # The other children track what the workers leave.
        if 'spawn_main' in str(one.cmdline()):
          workers.append(one)
    if workers:
      with contextlib.suppress(psutil.NoSuchProcess):
        self._moments.choice(workers).kill()
        self.kills += 1

  def restart_scheduler(self) -> None:
    """Workers of the former one end by themselves."""
    self._cluster.scheduler.kill()
    self._cluster.scheduler.wait()
    self._cluster.start_scheduler()
    self._watcher = self._cluster.start_workers(self._workers)
    self.restarts += 1


def run_stage(runner, stage, study, file, striker, seconds) -> None:
  """Runs a stage on the cluster and strikes meanwhile.

  Args:
    runner: of the stages.
    stage: which.
    study: the folder.
    file: of the scheduler.
    striker: kills.
    seconds: what the stage takes on this machine alone.
  """
  process = runner.start(stage.but(f'--scheduler={file}'), study)
  for _ in range(_BLOWS):
    striker.wait(process, seconds + 3)
    if not process.is_alive():
      break
    if striker.kills < FLAGS.kills:
      striker.kill_worker()
    elif striker.restarts < FLAGS.restarts:
      striker.restart_scheduler()
  process.join()
  assert process.exitcode == 0, process.log.read_text()[-3000:]


def run_chain(runner, study, cluster, striker, seconds) -> None:
  """Runs all stages in a new folder; args as of `run_stage`."""
  study.mkdir()
  for stage in stages.STAGES:
    if knows_clusters(stage):
      run_stage(runner, stage, study, cluster.file, striker, seconds[stage])
    else:
      runner.finish(stage, study)
  stages.remove_page(study)


def main(argv: list[str]) -> None:
  """Runs chains until all blows are struck."""
  del argv
  # Who kills so often has to allow it.
  os.environ['DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES'] = '1000'
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    scratch = pathlib.Path(folder)
    os.environ['TMPDIR'] = folder
    runner = stages.Runner(scratch)
    alone, seconds = scratch / 'alone', {}
    alone.mkdir()
    for stage in stages.STAGES:
      begun = time.monotonic()
      runner.finish(stage, alone)
      seconds[stage] = time.monotonic() - begun
    stages.remove_page(alone)
    print(f'{sum(seconds.values()):.0f} s on this machine alone', flush=True)
    cluster = dask_cluster.Cluster(scratch)
    stack.callback(cluster.stop)
    striker, chains = Striker(cluster, FLAGS.workers, FLAGS.seed), 0
    while not chains or not striker.is_done():
      study, begun = scratch / f'folder-{chains}', time.monotonic()
      run_chain(runner, study, cluster, striker, seconds)
      stages.assert_same(study, alone)
      shutil.rmtree(study)
      chains += 1
      print(
        f'{chains} chains, {striker.kills} workers killed, '
        f'{striker.restarts} schedulers started again: the same bytes; the '
        f'last chain took {time.monotonic() - begun:.0f} s',
        flush=True,
      )


if __name__ == '__main__':
  define_flags()
  app.run(main)
