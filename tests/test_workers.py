"""Workers do what they are given, in order, and end without a word."""

import os
import pickle
import signal
import threading

import pytest

from utils import prediction_files, workers


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


def test_what_is_done_beside_comes_in_order_and_is_done_at_the_end():
  done, first_may_end = [], threading.Event()

  def slow():
    first_may_end.wait(60)
    done.append('slow')

  with workers.beside(workers.HERE) as beside:
    beside(slow)  # Returns before it is done.
    assert not done
    first_may_end.set()
    beside(done.append, 'next')
  assert done == ['slow', 'next']
  # A piece of a cluster has ended when its files are there.
  with workers.beside(workers.Place(scheduler='of none')) as beside:
    pickle.loads(pickle.dumps(beside))(done.append, 'at once')
    assert done[-1] == 'at once'


@pytest.mark.parametrize('others', [0, 1])
def test_no_error_beside_is_lost(others):
  with (
    pytest.raises(OSError, match='the disk is full'),
    workers.beside(workers.HERE) as beside,
  ):
    beside(fail)
    for _ in range(others):
      beside(int)
      pytest.fail('the call after it raised nothing')


def fail():
  raise OSError('the disk is full')


def test_few_rows_are_read_in_this_process(tmp_path):
  def worth(size):
    (tmp_path / 'a.csv').write_bytes(bytes(size))
    files = [str(tmp_path / 'a.csv')] * 8
    return prediction_files.processes_worth(
      {'one': files[:4], 'two': files[4:]}
    )

  assert 0 < worth(1000) < 1
  assert worth(2**23) == 2  # At most one a shard.
