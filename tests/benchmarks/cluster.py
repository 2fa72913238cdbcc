r"""What a cluster costs, and what it gives, on this machine.

Starts a scheduler and workers, and prints

- the time of a piece that does nothing, over --pieces of them (180 members x
  128 shards), and the CPU time of it, of this process and of the scheduler:
  wanted below 5 ms;
- the memory of this process before and after them, which should not grow;
- the time of pieces of a second of CPU time by one worker, and by two, each
  held on a core of its own: wanted 1.8 times the rate.

  python -m tests.benchmarks.cluster --pieces=2000
  python -m tests.benchmarks.cluster --simulated=1000

takes a minute or two. The second has 1,000 workers instead, which live in four
processes, as threads: what the scheduler, which has a process of its own, takes
for an empty piece with so many, and without any. The machine should be idle.
"""

import asyncio
import contextlib
import math
import multiprocessing
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator

import dask
import distributed
from absl import app, flags, logging

from tests import dask_cluster
from utils import workers

# That simulated workers live in.
_PROCESSES = 4


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_integer('pieces', 23_040, 'Empty pieces.', lower_bound=1)
  flags.DEFINE_integer(
    'busy', 20, 'Pieces that take a second of CPU time.', lower_bound=2
  )
  flags.DEFINE_integer('rounds', 3, 'Turns of one worker and of two.')
  flags.DEFINE_integer(
    'simulated',
    0,
    'Workers that live in a few processes; 0 is two, each in its own.',
  )


def nothing(number: int) -> int:
  """An empty piece."""
  return number


def busy(number: int) -> int:
  """A piece that takes a second of CPU time."""
  until = time.process_time() + 1
  while time.process_time() < until:
    pass
  return number


@contextlib.contextmanager
def cluster(number: int) -> Iterator[tuple[str, int]]:
  """A scheduler's file and process id, with so many workers, a core each."""
  with tempfile.TemporaryDirectory() as folder:
    running = dask_cluster.Cluster(pathlib.Path(folder))
    try:
      for core in range(number):
        worker = running.start_workers(1, '--no-nanny')
        os.sched_setaffinity(worker.pid, {core % (os.cpu_count() or 1)})
      yield running.file, running.scheduler.pid
    finally:
      running.stop()


def cpu_seconds(pid: int) -> float:
  """CPU time of a process so far."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')')[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def megabytes() -> float:
  """The largest memory of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_pieces(file: str, work, number: int) -> float:
  """Seconds of pieces, once all workers are there."""
  with workers.mapper(workers.Place(scheduler=file), 1) as mapped:
    list(mapped(time.sleep, [0.1] * 100))
    started = time.perf_counter()
    for result, wanted in zip(
      mapped(work, range(number)), range(number), strict=True
    ):
      assert result == wanted
    return time.perf_counter() - started


def live_in_process(scheduler_file: str, number: int) -> None:
  """Runs so many workers in this process until it is ended."""
  # Nothing that a machine of its own would do beside its pieces.
  dask.config.set(
    {
      'distributed.worker.profile.enabled': False,
      'distributed.admin.system-monitor.interval': '60s',
    }
  )

  async def live():
    begun = [
      distributed.Worker(
        scheduler_file=scheduler_file,
        nthreads=1,
        dashboard=False,
        memory_limit=0,
        silence_logs='error',
      )
      for _ in range(number)
    ]
    await asyncio.gather(*begun)
    await asyncio.gather(*(worker.finished() for worker in begun))

  asyncio.run(live())


def simulate(number: int, pieces: int) -> None:
  """Prints what many workers, in a few processes, cost the scheduler."""
  spawn = multiprocessing.get_context('spawn')
  share = math.ceil(number / _PROCESSES)
  with cluster(0) as (file, scheduler):
    start, own = time.perf_counter(), cpu_seconds(scheduler)
    processes = [
      spawn.Process(
        target=live_in_process,
        args=(file, min(share, number - share * i)),
        daemon=True,
      )
      for i in range(math.ceil(number / share))
    ]
    for process in processes:
      process.start()
    with distributed.Client(scheduler_file=file) as client:
      client.wait_for_workers(number)
    seconds = time.perf_counter() - start
    print(
      f'{number} workers in {len(processes)} processes: started in '
      f'{seconds:.1f} s; CPU {cpu_seconds(scheduler) - own:.1f} s of the '
      'scheduler',
      flush=True,
    )
    time_empty_pieces(file, scheduler, pieces)
    idle = cpu_seconds(scheduler)
    time.sleep(10)
    print(
      'without pieces the scheduler takes '
      f'{(cpu_seconds(scheduler) - idle) / 10:.2f} of a core',
      flush=True,
    )
    for process in processes:
      process.kill()


def time_empty_pieces(file: str, scheduler: int, number: int) -> None:
  """Prints what they take."""
  time_pieces(file, nothing, 100)
  before = megabytes()
  own, of_scheduler = time.process_time(), cpu_seconds(scheduler)
  seconds = time_pieces(file, nothing, number)
  print(
    f'{number} empty pieces: {1e3 * seconds / number:.2f} ms each; CPU '
    f'{1e3 * (time.process_time() - own) / number:.2f} ms here, '
    f'{1e3 * (cpu_seconds(scheduler) - of_scheduler) / number:.2f} ms of the '
    f'scheduler; memory {before:.0f} MB before, {megabytes():.0f} MB after',
    flush=True,
  )


def main(argv: list[str]) -> None:
  """Prints the figures."""
  del argv
  logging.set_verbosity(logging.WARNING)
  number = flags.FLAGS.pieces
  if flags.FLAGS.simulated:
    simulate(flags.FLAGS.simulated, number)
    return
  with cluster(2) as (file, scheduler):
    time_empty_pieces(file, scheduler, number)
  seconds: dict[int, list[float]] = {1: [], 2: []}
  # By turns: what else the machine does changes.
  for _ in range(flags.FLAGS.rounds):
    for many, of in seconds.items():
      with cluster(many) as (file, _):
        of.append(time_pieces(file, busy, flags.FLAGS.busy))
  one, two = map(min, seconds.values())
  print(
    f'{flags.FLAGS.busy} pieces of a second: {one:.1f} s by a worker, '
    f'{two:.1f} s by two, {one / two:.2f} times the rate (fastest of '
    f'{flags.FLAGS.rounds})'
  )


if __name__ == '__main__':
  define_flags()
  app.run(main)
