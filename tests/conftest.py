"""`--long`: the exhaustive version of what is sampled by default."""

import pytest


def pytest_addoption(parser):
  parser.addoption(
    '--long',
    action='store_true',
    help='try every fault, flip and kill instead of a sample; half an hour',
  )


@pytest.fixture(scope='session')
def long(request):
  """Whether to be exhaustive, `if long:` in a test."""
  return request.config.getoption('--long')
