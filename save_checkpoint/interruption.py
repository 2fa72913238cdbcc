"""SIGTERM and Ctrl-C in training, which ends between two steps.

A scheduler that wants its machine back sends SIGTERM, and SIGKILL some seconds
later; a terminal sends SIGINT. Either is noted, and read by training after each
stretch of steps, so that no step is lost. A second one ends the process at
once, and so does the first where nothing is left to be saved.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from absl import logging
from etils import epy

from utils import cluster, command_line, devices

with epy.lazy_imports():
  import tensorflow as tf

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals within this time are one: `timeout` and some schedulers send theirs to
# the process and to its group.
_BURST_SECONDS = 1.0


class Told(Protocol):
  """Whether training is to end, asked between two steps."""

  def is_told(self) -> bool:
    """Whether to end."""

  def error(self, what_is_saved: str) -> BaseException:
    """What to raise then, when all is saved.

    Args:
      what_is_saved: a sentence without its end.
    """

  def at_once(self) -> contextlib.AbstractContextManager:
    """While this member has nothing to save."""


class Interruption:
  """Whether training has been told to end; a context, of the main thread.

  Python's handlers, which note the first signal, wait for TensorFlow to return,
  which may wait for another worker. So a thread of its own looks for a second.
  """

  def __init__(self, strategy: tf.distribute.Strategy):
    """Takes no signal yet.

    Args:
      strategy: where training runs.
    """
    self._strategy = strategy
    self._number = 0  # Of the first signal.
    self._since = 0.0
    self._is_saved = False

  def __enter__(self) -> Interruption:
    receiver, self._sender = socket.socketpair()
    self._sender.setblocking(False)
    self._former_descriptor = signal.set_wakeup_fd(self._sender.fileno())
    # What is ignored, such as Ctrl-C by a job in the background, stays so.
    self._former = {
      number: signal.signal(number, self._note) or signal.SIG_DFL
      for number in _SIGNALS
      if signal.getsignal(number) != signal.SIG_IGN
    }
    self._thread = threading.Thread(
      target=self._watch, args=(receiver,), daemon=True
    )
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._former_descriptor)
    self._sender.close()
    self._thread.join()  # Its line comes before the script's last one.

  def is_told(self) -> bool:
    """Whether a signal has come; of several workers, to any of them.

    All workers must ask at the same step, and get the same answer.
    """
    if devices.num_workers() == 1:
      return bool(self._number)
    return bool(self._sum(tf.constant(int(self._number > 0))) > 0)

  def error(self, what_is_saved: str) -> command_line.Interrupted:
    """What to raise when all is saved.

    Args:
      what_is_saved: a sentence without its end.
    """
    # Where another worker got the signal it was a scheduler's.
    return command_line.Interrupted(
      f'{what_is_saved}; run the same command again to go on',
      self._number or signal.SIGTERM,
    )

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """While all is saved: a signal ends the process without delay."""
    self._is_saved = True
    try:
      yield
    finally:
      self._is_saved = False

  @functools.cached_property
  def _sum(self):
    @tf.function
    def add_up(value):
      return self._strategy.reduce(
        tf.distribute.ReduceOp.SUM,
        self._strategy.run(tf.identity, args=(value,)),
        axis=None,
      )

    return add_up

  def _note(self, number: int, _) -> None:
    self._number = self._number or number

  def _watch(self, receiver: socket.socket) -> None:
    with receiver:
      while received := receiver.recv(1):
        self._receive(received[0])

  def _receive(self, number: int) -> None:
    if number not in self._former:
      return
    now = time.monotonic()
    if self._is_saved or (self._since and now > self._since + _BURST_SECONDS):
      os._exit(command_line.say_interrupted(number=number))
    if not self._since:
      self._since = now
      logging.info(
        '%s: training ends after this step; a second one ends it unsaved',
        signal.Signals(number).name,
      )


class Leaving:
  """The same of a member that a cluster's worker trains.

  It ends where the command has ended, or the worker is told to end.
  """

  at_once = contextlib.nullcontext

  def is_told(self) -> bool:
    """Whether to end."""
    return not cluster.is_wanted()

  def error(self, what_is_saved: str) -> cluster.PieceLeftError:
    """As of `Interruption`."""
    logging.info('%s, and left', what_is_saved)
    return cluster.PieceLeftError(what_is_saved)
