"""Worker processes, which end when their script is interrupted."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from utils import tensorflow_start


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


@contextlib.contextmanager
def mapper(number: int) -> Iterator[Callable[..., Iterable]]:
  """A function like `map`, in so many processes; 1 is this one alone."""
  if number == 1:
    yield map
    return
  with processes(number) as pool:
    yield pool.map


def _start() -> None:
  tensorflow_start.hush()
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
