"""SIGTERM and Ctrl-C: training ends between two steps, and says where."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from save_checkpoint import training, training_settings
from tests.train_small import assert_equal_networks, summaries, train
from utils import command_line, data_input

ROOT = pathlib.Path(__file__).parent.parent
OPTIONS = {
  'fractions_pruned': (0.9,),
  'output': training_settings.Output(steps_per_summary=1),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


@pytest.fixture(scope='module')
def population(tmp_path_factory, data):
  return train(tmp_path_factory.mktemp('population'), data, **OPTIONS)


@pytest.mark.parametrize(
  ('stretch', 'number'),
  [(1, signal.SIGINT), (3, signal.SIGTERM)],
)
def test_no_step_is_lost(
  population, data, tmp_path, monkeypatch, stretch, number
):
  """The first while it is traced; at the third, masks are due after it."""
  take, done = training.Trainer.train, []

  def told(self, batches, steps):
    done.append(steps)
    if len(done) == stretch:
      os.kill(os.getpid(), number)
    return take(self, batches, steps)

  with monkeypatch.context() as patch:
    patch.setattr(training.Trainer, 'train', told)
    with pytest.raises(command_line.Interrupted) as error:
      train(tmp_path, data, **OPTIONS)
  assert len(done) == stretch
  step = sum(done)
  assert error.value.number == number
  assert str(error.value).endswith(
    f'/0 is saved at step {step}; run the same command again to go on'
  )
  (state,) = tmp_path.rglob('state-*.index')
  assert state.stem == f'state-{step}'
  assert not list(tmp_path.rglob('model.ckpt*'))
  assert sorted(summaries(tmp_path)['loss']) == list(range(1, step + 1))
  # What took the signals before takes them again.
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  ((member, network),) = train(tmp_path, data, **OPTIONS).items()
  assert_equal_networks(network, population[member])
  assert sorted(summaries(tmp_path)['loss']) == list(range(1, 13))


SCRIPT = """
import os, signal, time
from save_checkpoint import interruption
from utils import command_line

def send(name):
  os.kill(os.getpid(), getattr(signal, name))

def until_told(told):
  while not told.is_told():
    time.sleep(0.01)

def main(argv):
  %s
  with interruption.Interruption(None) as told:
    %s
    raise told.error('x is saved')

command_line.run_script(main, lambda: None)
"""
SAVED = 'interrupted: x is saved; run the same command again to go on'
AT_ONCE = 'interrupted: finished files are complete; run it again to go on'
LONG = 'time.sleep(600)'


@pytest.mark.parametrize(
  ('before', 'body', 'code', 'message'),
  [
    ('pass', 'send("SIGTERM"); until_told(told)', 143, SAVED),
    ('pass', 'send("SIGINT"); until_told(told)', 130, SAVED),
    # What a scheduler sends twice is one signal.
    (
      'pass',
      'send("SIGTERM"); send("SIGTERM"); until_told(told); time.sleep(0.2)',
      143,
      SAVED,
    ),
    # A second one ends what never asks.
    (
      'interruption._BURST_SECONDS = 0',
      f'send("SIGTERM"); time.sleep(0.2); send("SIGINT"); {LONG}',
      130,
      AT_ONCE,
    ),
    # As does the first, while nothing is to be saved.
    (
      'pass',
      f'with told.at_once(): send("SIGTERM"); {LONG}',
      143,
      AT_ONCE,
    ),
    # A job in the background of a shell ignores Ctrl-C.
    (
      'signal.signal(signal.SIGINT, signal.SIG_IGN)',
      'send("SIGINT"); time.sleep(0.2); assert not told.is_told(); '
      'send("SIGTERM"); until_told(told)',
      143,
      SAVED,
    ),
  ],
)
def test_signals_and_exit_codes(before, body, code, message):
  process = subprocess.run(
    [sys.executable, '-c', SCRIPT % (before, body)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert process.returncode == code, process.stderr
  assert 'Traceback' not in process.stderr
  assert process.stderr.splitlines()[-1] == message
