"""Where pieces of work are done: here, in processes, or on a cluster.

A script says what its pieces are and what is done with one; `mapper` takes them
to where they are worked on. So do pieces of which each writes files of its own,
complete or not at all, and is safe to do twice.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator

import tqdm

from utils import cluster, storage, tensorflow_start


@contextlib.contextmanager
def processes(
  number: int,
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
  """Worker processes, which Ctrl-C ends at once and without a word.

  Whoever started them says what there is to say, once. They are no forks, which
  neither TensorFlow nor the clients of buckets survive.
  """
  pool = concurrent.futures.ProcessPoolExecutor(
    number, multiprocessing.get_context('spawn'), _start
  )
  try:
    # While they start they wait with it: imports would show a traceback.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
      for _ in range(number):
        pool.submit(os.getpid)
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, former)
    yield pool
  finally:
    pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where pieces are worked on.

  Attributes:
    processes: of this machine; 1 is this one alone.
    scheduler: of a cluster whose workers do all instead, as the flag; empty for
      none.
    resource: of Dask, of which a piece takes one there; empty for none.
  """

  processes: int = 1
  scheduler: str = ''
  resource: str = ''

  def __post_init__(self):
    if self.resource and not self.scheduler:
      raise ValueError(
        f'--worker_resource={self.resource} is of workers of a cluster, wanted '
        'its --scheduler'
      )


HERE = Place()


@contextlib.contextmanager
def mapper(
  place: Place,
  at_most: float,
  in_threads: bool = False,
  progress: tqdm.tqdm | None = None,
) -> Iterator[Callable[..., Iterable]]:
  """A function like `map`; results come in the order of the pieces.

  Args:
    place: where they are worked on.
    at_most: processes that are worth their start, rounded up. A cluster's have
      started.
    in_threads: whether threads of this process do as well as others here.
    progress: a bar, for what a cluster says of itself.
  """
  number = math.ceil(min(place.processes, at_most))
  if place.scheduler:
    with cluster.mapper(place.scheduler, place.resource, progress) as mapped:
      yield mapped
  elif number <= 1:
    yield map
  elif in_threads:
    with concurrent.futures.ThreadPoolExecutor(number) as threads:
      yield threads.map
  else:
    with processes(number) as pool:
      yield pool.map


@contextlib.contextmanager
def beside(place: Place) -> Iterator[Callable[..., None]]:
  """What a piece ends with, done while the next piece begins.

  The function that it yields calls another with arguments: in a thread, when
  what it was given before is done, or at once for a piece of a cluster, which
  has ended when its files are there. Errors are raised by the call after it,
  or at the end.

  Args:
    place: where pieces are worked on.
  """
  if place.scheduler:
    yield _call
    return
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    last = thread.submit(int)

    def call(function, *args):
      nonlocal last
      last.result()
      last = thread.submit(function, *args)

    yield call
    last.result()


def _call(function: Callable[..., object], *args: object) -> None:
  function(*args)


@contextlib.contextmanager
def scratch_folder(place: Place, shared: str) -> Iterator[str]:
  """A folder for what pieces leave each other; gone afterwards.

  Args:
    place: where pieces are worked on.
    shared: a folder that all machines see, which it lies in if several do.

  Raises:
    ValueError: several do, and that is in a bucket.
  """
  if place.scheduler and '://' in shared:
    raise ValueError(
      f'--scheduler with {shared}: the workers leave each other files that are '
      'read in place, wanted a folder of a file system that they share'
    )
  with storage.scratch_folder(shared if place.scheduler else '') as folder:
    yield folder


def _start() -> None:
  tensorflow_start.hush()
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
