"""`--long`: the exhaustive version of what is sampled; the chain, run once."""

import collections
import os
import signal
import time
from unittest import mock

import pytest
from absl import logging

from tests.stages import STAGES, Runner
from utils import table_digests

# Those that take longest. First, so that no process is left with one of them
# when the others have ended.
_FIRST = (
  'test_imagenet_train_eval.py',
  'test_member_folder.py',
  'test_training.py',
  'test_imagenet_predictions.py',
  'test_interruption.py',
  'test_faults.py',
  'test_kills.py',
)


def pytest_addoption(parser):
  parser.addoption(
    '--long',
    action='store_true',
    help='more faults, flips and kills, most that there are; half an hour',
  )


def pytest_configure(config):
  config.tally = collections.Counter()
  # A job in the background of a shell ignores Ctrl-C, and so would all that the
  # tests start and interrupt.
  signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.name not in _FIRST)


def pytest_sessionfinish(session):
  # To the process that started this one, if tests are run by several.
  if hasattr(session.config, 'workeroutput'):
    session.config.workeroutput['tally'] = dict(session.config.tally)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  node.config.tally.update(getattr(node, 'workeroutput', {}).get('tally', {}))


def pytest_terminal_summary(terminalreporter, config):
  for what, number in sorted(config.tally.items()):
    terminalreporter.write_line(f'{what}: {number:,}')


@pytest.fixture(autouse=True)
def environment():
  """No test sees what another left in os.environ.

  Or what a library did: tensorflow_model_optimization writes
  TF_USE_LEGACY_KERAS as it is imported.
  """
  with mock.patch.dict(os.environ):
    yield


@pytest.fixture(autouse=True)
def all_is_logged():
  """No test hears less since a script of another one set absl's verbosity."""
  logging.get_absl_logger().setLevel(0)


@pytest.fixture
def unnoted(monkeypatch):
  """Tables of the test are as other programs write them: changed, unnoticed."""
  monkeypatch.setattr(table_digests, 'note', lambda path, data: None)


@pytest.fixture(scope='session')
def tally(request):
  """What was tried -> how often, printed at the end: `tally['kills'] += 1`."""
  return request.config.tally


@pytest.fixture(scope='session')
def long(request):
  """Whether to be exhaustive, `if long:` in a test."""
  return request.config.getoption('--long')


@pytest.fixture(scope='session')
def runner(tmp_path_factory):
  return Runner(tmp_path_factory.mktemp('kills'))


@pytest.fixture(scope='session')
def chain(runner):
  """For each stage the folder before it and after it, and its seconds."""
  folder = runner.scratch / 'chain'
  folder.mkdir()
  found = {}
  for stage in STAGES:
    before = runner.copy(folder)
    started = time.monotonic()
    touches = runner.finish(stage, folder)
    seconds = time.monotonic() - started
    found[str(stage)] = before, runner.copy(folder), touches, seconds
  return found
