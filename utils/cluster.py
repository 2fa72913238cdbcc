"""Pieces of work, spread over the workers of a Dask cluster.

A piece has to be safe to do twice: it writes files that appear complete or not
at all, or nothing. Of a worker that dies the pieces are done by others. Workers
run this very code, from its folder on a file system that all machines share,
and look before each piece. How a cluster is started: docs/cluster.md.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging as python_logging
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import tqdm
from absl import logging
from etils import epath, epy

from utils import digests, provenance, storage, tensorflow_start

with epy.lazy_imports():
  import distributed
  from distributed.protocol import pickle as messages

_ROOT = epath.Path(__file__).parent.parent
# Pieces that are under way for each worker: a next one is there when one is
# done, and however many follow take no memory.
_AHEAD, _MORE_AHEAD = 2, 64
_SECONDS_BETWEEN_COUNTS = 2.0
# How long a scheduler that was lost is waited for, and may be said goodbye to.
_SECONDS_FOR_ANOTHER, _SECONDS_TO_CLOSE = 60.0, 5.0
# Of the variables that decide about numbers those in which machines may differ:
# they say where is computed.
_OF_THE_MACHINE = {
  'CUDA_VISIBLE_DEVICES',
  'OMP_NUM_THREADS',
  'TF_NUM_INTEROP_THREADS',
  'TF_NUM_INTRAOP_THREADS',
  # Written by a library as it is imported.
  'TF_USE_LEGACY_KERAS',
}
_one_at_a_time = threading.Lock()


class PieceLeftError(Exception):
  """What a piece raises that was broken off because it is not wanted here."""


class _SchedulerLostError(Exception):
  """Whatever Dask says of it; pieces that had no result have none."""


@contextlib.contextmanager
def mapper(
  scheduler: str, resource: str = '', progress: tqdm.tqdm | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
  """A function like `map`, whose calls are made by a cluster's workers.

  Results come in order. What a piece raises is raised here. The scheduler
  forgets the pieces that are left at the end, whatever ends it; one that is
  started anew gets those again that had no result.

  Args:
    scheduler: its address, or the file that it writes of itself.
    resource: of Dask, that workers have and a piece takes one of; empty for
      none.
    progress: a bar that says how many workers there are, and counts what
      pieces `report`.

  Raises:
    OSError: there is no such scheduler, or no more, or its workers die.
    ValueError: Dask is not installed, or a worker is not like this process.
  """
  try:
    connection = _Connection(scheduler)
  except ImportError as error:
    raise ValueError(
      f'--scheduler asks for Dask ({error}): pip install -r '
      'requirements-cluster.txt'
    ) from None
  try:
    yield lambda work, *pieces: _Pieces(
      connection, resource, progress, work, pieces
    ).results()
  finally:
    connection.close()


class _Connection:
  """To a scheduler; made again when it was lost."""

  def __init__(self, scheduler: str):
    self._scheduler = scheduler
    # It says in several lines, and a traceback, what is said here in one.
    for name in ('batched', 'client', 'core', 'comm', 'utils'):
      logger = python_logging.getLogger(f'distributed.{name}')
      logger.setLevel(python_logging.CRITICAL)
    self.client = self._connect()

  def _connect(self, **options) -> distributed.Client:
    scheduler = self._scheduler
    is_file = ':' not in scheduler
    if is_file and not storage.exists(scheduler):
      raise FileNotFoundError(
        f'there is no file {scheduler}: --scheduler is an address, such as '
        'tcp://10.0.0.1:8786, or the --scheduler-file of dask scheduler'
      )
    where = {'scheduler_file' if is_file else 'address': scheduler}
    try:
      client = distributed.Client(**where, **options)
    except (OSError, ValueError) as error:
      raise OSError(
        f'no scheduler answers at --scheduler={scheduler}: {error}'
      ) from None
    logging.info('%s: its dashboard is %s', scheduler, client.dashboard_link)
    return client

  def check(self) -> None:
    """Raises _SchedulerLostError where no word can come any more."""
    comm = self.client.scheduler_comm
    if self.client.status != 'running' or comm is None or comm.closed():
      raise _SchedulerLostError

  def renew(self) -> None:
    """Waits for a scheduler that was started again.

    Raises:
      OSError: none was.
    """
    self.close()
    logging.warning(
      'the scheduler %s is gone; waiting %.0f s for another in its place',
      self._scheduler,
      _SECONDS_FOR_ANOTHER,
    )
    until = time.monotonic() + _SECONDS_FOR_ANOTHER
    while True:
      try:
        self.client = self._connect(timeout=2)
      except OSError:
        if time.monotonic() > until:
          raise OSError(
            f'the scheduler {self._scheduler} is gone; finished files are '
            'complete: run the same command again to go on'
          ) from None
        time.sleep(0.5)
      else:
        return

  def close(self) -> None:
    with contextlib.suppress(OSError, TimeoutError, distributed.TimeoutError):
      self.client.close(timeout=_SECONDS_TO_CLOSE)


class _Pieces:
  """Those of one call, of which a few for each worker are under way."""

  def __init__(
    self,
    connection: _Connection,
    resource: str,
    progress: tqdm.tqdm | None,
    work: Callable[..., Any],
    pieces: tuple[Iterable[Any], ...],
  ):
    self._connection = connection
    self._resource, self._progress = resource, progress
    self._work = work
    # Of this call: what a worker has opened for another one may have changed.
    self._run = f'{getattr(work, "func", work).__name__}-{uuid.uuid4().hex}'
    self._left = enumerate(zip(*pieces, strict=True))
    self._waiting: collections.deque[tuple[int, bytes]] = collections.deque()
    self._reported: dict[int, float] = {}
    # How often a piece was left by a worker: what failed keeps its key.
    self._times_left: collections.Counter[int] = collections.Counter()
    self._send, self._folder = _sent(), os.getcwd()
    self._begin()

  def _begin(self) -> None:
    """Starts with a scheduler that knows of nothing yet."""
    client = self._connection.client
    self._workers = _Workers(self._connection, self._resource, self._progress)
    self._futures: dict[int, distributed.Future] = {}
    # Sent once, and from worker to worker, not with each piece. As bytes: a
    # worker looks before it imports anything.
    self._shared = client.submit(
      bytes,
      messages.dumps((self._run, self._work)),
      key=(f'settings of {self._run}', 0),
    )
    if self._progress is not None:
      client.subscribe_topic(self._run, self._hear)

  def _hear(self, event: tuple[float, dict[str, float]]) -> None:
    """Notes what a piece reports, which may have been begun anew."""
    progress, (_, said) = self._progress, event
    assert progress is not None  # or nothing is heard
    number = int(said['number'])
    progress.update(said['done'] - self._reported.get(number, 0))
    self._reported[number] = said['done']

  def results(self) -> Iterator[Any]:
    """In order.

    Raises:
      OSError: as of `mapper`.
    """
    lost = (
      _SchedulerLostError,
      distributed.client.ClosedClientError,
      distributed.comm.CommClosedError,
    )
    while True:
      try:
        self._connection.check()
        self._submit()
        if not self._waiting:
          return
        done = self._done()
      except distributed.scheduler.KilledWorker as error:
        raise OSError(
          f'{error.allowed_failures + 1} workers died, one after the other, '
          f'while they had {error.task}, the last of them '
          f'{error.last_worker.address}: their own logs say why (too little '
          'memory?)'
        ) from None
      except lost:
        self._connection.renew()
        self._begin()
        continue
      yield from done

  def _submit(self) -> None:
    """Sends what is to be under way and is not."""
    ahead = self._workers.number() * _AHEAD + _MORE_AHEAD
    if len(self._waiting) <= ahead // 2:
      self._waiting += (
        (number, messages.dumps(piece))
        for number, piece in itertools.islice(
          self._left, ahead - len(self._waiting)
        )
      )
    batch = [one for one in self._waiting if one[0] not in self._futures]
    if batch:
      # Many at once, in one group that the dashboard shows by its name.
      futures = self._connection.client.map(
        self._send,
        [piece for _, piece in batch],
        key=[(self._run, n, self._times_left[n]) for n, _ in batch],
        retries=0,
        resources={self._resource: 1} if self._resource else None,
        wanted=_this_process(),
        folder=self._folder,
        root=str(_ROOT),
        work=self._shared,
      )
      numbers = (number for number, _ in batch)
      self._futures |= dict(zip(numbers, futures, strict=True))

  def _done(self) -> list[Any]:
    """The results that are there by now, or soon; none where none comes."""
    first, _ = self._waiting[0]
    future = self._futures[first]
    if not future.done():
      with contextlib.suppress(
        TimeoutError,
        distributed.TimeoutError,
        distributed.client.FuturesCancelledError,
      ):
        distributed.wait(future, timeout=_SECONDS_BETWEEN_COUNTS)
      return []
    if future.cancelled():
      raise _SchedulerLostError
    if future.status == 'error':
      return self._failed(first, future)
    finished = [
      self._futures[number]
      for number, _ in itertools.takewhile(
        lambda one: self._futures[one[0]].status == 'finished', self._waiting
      )
    ]
    try:
      results = self._connection.client.gather(finished)
    except (OSError, TimeoutError, distributed.client.FutureCancelledError):
      # Of pieces that went well.
      raise _SchedulerLostError from None
    for _ in results:
      del self._futures[self._waiting.popleft()[0]]
    return results

  def _failed(self, number: int, future: distributed.Future) -> list[Any]:
    """Raises what a piece raised, unless its worker had to leave."""
    try:
      return [future.result()]
    except PieceLeftError:
      self._times_left[number] += 1
      del self._futures[number]
      return []


class _Workers:
  """How many there are, asked for now and then."""

  def __init__(
    self,
    connection: _Connection,
    resource: str,
    progress: tqdm.tqdm | None,
  ):
    self._connection = connection
    self._resource, self._progress = resource, progress
    self._counted = -_SECONDS_BETWEEN_COUNTS
    self._threads: list[int] | None = None

  def number(self) -> int:
    """The number of workers; 1 while there are none."""
    now = time.monotonic()
    if now >= self._counted + _SECONDS_BETWEEN_COUNTS:
      self._counted = now
      threads = self._find()
      if threads != self._threads:
        self._say(threads)
      self._threads = threads
    return max(1, len(self._threads or ()))

  def _find(self) -> list[int]:
    """Threads of each worker that can have pieces."""
    client = self._connection.client
    if not self._resource:
      return sorted(client.nthreads().values())  # Little is sent.
    found = client.scheduler_info(n_workers=-1).get('workers', {})
    return [
      worker['nthreads']
      for worker in found.values()
      if worker['resources'].get(self._resource)
    ]

  def _say(self, threads: Sequence[int]) -> None:
    number = f'{len(threads)} worker{"s"[: len(threads) != 1]}'
    if self._resource:
      number += f' with {self._resource}'
    logging.info('%s', number)
    if self._progress is not None:
      self._progress.set_postfix_str(number)
    if any(each > 1 for each in threads):
      logging.warning(
        'some have several threads, which work on one piece at a time: '
        'start them with --nthreads=1'
      )


def report(done: float) -> None:
  """Tells the command's bar where the piece of this thread stands.

  Args:
    done: of it, in the unit of the bar.
  """
  worker = distributed.get_worker()
  run, number, _ = cast(tuple, worker.get_current_task())
  worker.log_event(run, {'number': number, 'done': done})


def is_wanted() -> bool:
  """Whether the piece of this thread is still to be done, and here.

  It is not where the command has ended, or this worker is told to end.
  """
  worker = distributed.get_worker()
  task = worker.state.tasks.get(worker.get_current_task())
  return (
    worker.status in (distributed.Status.running, distributed.Status.paused)
    and task is not None
    and task.state == 'executing'
  )


def _sent() -> Callable[..., Any]:
  """`work_on` for processes that may not know this code.

  What is defined in a function is sent as it is, not by its name: a worker that
  cannot read a name dies of it.
  """

  def import_and_work(piece, *, root, **given):
    import importlib
    import socket
    import sys

    if root not in sys.path:
      sys.path.insert(0, root)
    try:
      module = importlib.import_module('utils.cluster')
    except ImportError as error:
      raise ValueError(
        f'a worker on {socket.gethostname()} cannot import what is in {root} '
        f'({error}): wanted a file system that all machines share, and the '
        'environment of the command'
      ) from None
    return module.work_on(piece, **given)

  return import_and_work


def work_on(
  piece: bytes, *, work: bytes, folder: str, wanted: dict[str, str]
) -> Any:
  """What a worker does: a piece, if it is like the command's process.

  Args:
    piece: the arguments.
    work: the function.
    folder: where the command runs, which paths may be relative to.
    wanted: of its process, as `_this_process`.
  """
  with _one_at_a_time:
    own = _this_process()
    for what, value in wanted.items():
      if own.get(what) != value:
        raise ValueError(
          f'a worker on {socket.gethostname()} has {what} {own.get(what)}, the '
          f'command has {value}: start workers with its environment, '
          'and anew after every change'
        )
    try:
      os.chdir(folder)
    except OSError as error:
      raise OSError(
        f'a worker on {socket.gethostname()} cannot go to {folder}, where the '
        f'command runs ({error.strerror}): wanted a file system that all '
        'machines share'
      ) from None
    tensorflow_start.hush()
    # What it does stands in its own log.
    logging.set_verbosity(logging.INFO)
    return _loaded(work)(*messages.loads(piece))


@functools.lru_cache(maxsize=1)
def _loaded(work: bytes) -> Callable[..., Any]:
  return messages.loads(work)[1]


@functools.cache
def _this_process() -> dict[str, str]:
  """What decides about results, by name, as it was at the first question."""
  code = sorted(
    (f'{path.parent.name}/{path.name}', path.read_text())
    for path in _ROOT.glob('*/*.py')
    if path.parent.name != 'tests'
  )
  decisive = sorted(set(provenance.VARIABLES) - _OF_THE_MACHINE)
  return {
    'the code': digests.of_json(code)[:12],
    'Python': '.'.join(platform.python_version_tuple()[:2]),
    **provenance.versions(),
    # Those that are not set, too: the other process may have set them.
    **{name: os.environ.get(name, 'nothing') for name in decisive},
  }
