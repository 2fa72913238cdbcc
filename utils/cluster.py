"""Pieces of work, spread over the workers of a Dask cluster.

A piece has to be safe to do twice: it writes files that appear complete or not
at all, or nothing. Of a worker that dies the pieces are done by others. Workers
run this very code, in the same folder of a file system that all machines share;
each looks before a piece. How a cluster is started: docs/cluster.md.
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
from collections.abc import Callable, Iterator
from typing import Any

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
# Of the variables that decide about numbers those in which machines may differ:
# they say where is computed.
_OF_THE_MACHINE = {
  'CUDA_VISIBLE_DEVICES',
  'OMP_NUM_THREADS',
  'TF_NUM_INTEROP_THREADS',
  'TF_NUM_INTRAOP_THREADS',
}
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def mapper(scheduler: str) -> Iterator[Callable[..., Iterator[Any]]]:
  """A function like `map`, whose calls are made by a cluster's workers.

  Results come in order. What a piece raises is raised here. The scheduler
  forgets the pieces that are left at the end, whatever ends it.

  Args:
    scheduler: its address, or the file that it writes of itself.

  Raises:
    OSError: there is no such scheduler, or no more, or its workers die.
    ValueError: Dask is not installed, or a worker is not like this process.
  """
  try:
    client = _connect(scheduler)
  except ImportError as error:
    raise ValueError(
      f'--scheduler asks for Dask ({error}): pip install -r '
      'requirements-cluster.txt'
    ) from None
  try:
    yield functools.partial(_map, client, scheduler)
  finally:
    client.close()


def _connect(scheduler: str) -> distributed.Client:
  is_file = ':' not in scheduler
  if is_file and not storage.exists(scheduler):
    raise FileNotFoundError(
      f'there is no file {scheduler}: --scheduler is an address, such as '
      'tcp://10.0.0.1:8786, or the --scheduler-file of dask scheduler'
    )
  # It says in several lines, and a traceback, what is said here in one.
  for name in ('client', 'core', 'comm'):
    logger = python_logging.getLogger(f'distributed.{name}')
    logger.setLevel(python_logging.CRITICAL)
  where = {'scheduler_file' if is_file else 'address': scheduler}
  try:
    client = distributed.Client(**where)
  except (OSError, ValueError) as error:
    raise OSError(
      f'no scheduler answers at --scheduler={scheduler}: {error}'
    ) from None
  logging.info('%s: its dashboard is %s', scheduler, client.dashboard_link)
  return client


def _map(
  client: distributed.Client,
  scheduler: str,
  work: Callable[..., Any],
  *pieces,
) -> Iterator[Any]:
  """The results of pieces, of which a few for each worker are under way."""
  try:
    yield from _in_order(client, work, *pieces)
  except distributed.scheduler.KilledWorker as error:
    raise OSError(
      f'{error.allowed_failures + 1} workers died, one after the other, while '
      f'they had {error.task}, the last of them {error.last_worker.address}: '
      'their own logs say why (too little memory?)'
    ) from None
  except (
    distributed.client.FutureCancelledError,
    distributed.comm.CommClosedError,
  ):
    raise OSError(
      f'the scheduler {scheduler} is gone; finished files are complete: run '
      'the same command again to go on'
    ) from None


def _in_order(client, work, *pieces) -> Iterator[Any]:
  name = getattr(work, 'func', work).__name__
  run = uuid.uuid4().hex
  # Sent once, and from worker to worker, not with each piece. As bytes: a
  # worker looks before it imports anything.
  shared = client.submit(
    bytes, messages.dumps(work), key=(f'settings of {name}-{run}', 0)
  )
  wanted, folder = _this_process(), os.getcwd()
  left = enumerate(zip(*pieces, strict=True))
  waiting: collections.deque[distributed.Future] = collections.deque()
  workers = _Workers(client)
  while True:
    # Many at once, in one group that the dashboard shows by its name.
    ahead = workers.number() * _AHEAD + _MORE_AHEAD
    if len(waiting) <= ahead // 2 and (
      batch := list(itertools.islice(left, ahead - len(waiting)))
    ):
      waiting += client.map(
        _work_on,
        [messages.dumps(piece) for _, piece in batch],
        key=[(f'{name}-{run}', number) for number, _ in batch],
        retries=0,
        wanted=wanted,
        folder=folder,
        work=shared,
      )
    if not waiting:
      return
    if not waiting[0].done():
      with contextlib.suppress(TimeoutError, distributed.TimeoutError):
        distributed.wait(waiting[0], timeout=_SECONDS_BETWEEN_COUNTS)
      continue
    done = []
    while waiting and waiting[0].status == 'finished':
      done.append(waiting.popleft())
    yield from client.gather(done) or [waiting.popleft().result()]


class _Workers:
  """How many there are, asked for now and then."""

  def __init__(self, client: distributed.Client):
    self._client = client
    self._counted = -_SECONDS_BETWEEN_COUNTS
    self._threads: list[int] | None = None

  def number(self) -> int:
    """The number of workers; 1 while there are none."""
    now = time.monotonic()
    if now >= self._counted + _SECONDS_BETWEEN_COUNTS:
      self._counted = now
      threads = list(self._client.nthreads().values())
      if threads != self._threads:
        logging.info('%d workers', len(threads))
        if any(number > 1 for number in threads):
          logging.warning(
            'some have several threads, which work on one piece at a time: '
            'start them with --nthreads=1'
          )
      self._threads = threads
    return max(1, len(self._threads or ()))


def _work_on(
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
          f'command has {value}: start workers in {_ROOT}, with the same '
          'environment, after every change'
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
    return _loaded(work)(*messages.loads(piece))


@functools.lru_cache(maxsize=1)
def _loaded(work: bytes) -> Callable[..., Any]:
  return messages.loads(work)


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
