"""Worker processes work, and end without a word."""

import os
import signal

from utils import workers


def handler_and_level(_):
  return signal.getsignal(signal.SIGINT), os.environ['TF_CPP_MIN_LOG_LEVEL']


def test_workers_answer_in_order_and_end_at_ctrl_c():
  with workers.processes(2) as pool:
    assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]
    found = list(pool.map(handler_and_level, range(2)))
  assert {handler for handler, _ in found} == {signal.SIG_DFL}
  assert all(level for _, level in found)


def test_ctrl_c_is_not_blocked_afterwards():
  with workers.processes(1):
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
