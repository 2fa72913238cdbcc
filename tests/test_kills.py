"""Killed anywhere, every stage ends with the bytes of one that was not.

Each stage of the chain is run on what stood before it, and dies before the
n-th thing it does to a file (open, write, flush to disk, rename, remove), or at
random moments. Whatever is visible then has the bytes of the undisturbed run,
and the same command finishes it. --long tries most n, and more moments.
"""

import random
import signal

import pytest

from tests.stages import (
  COSTLY,
  STAGES,
  assert_nothing_partial,
  assert_same,
  kill,
  points,
  strike_each,
)


def number_of_kills(stage, long):
  is_training = 'train_eval' in stage.script
  # Of training, test_training.py has a sample.
  number = 0 if is_training else 1 if str(stage) in COSTLY else 3
  if long:
    number = 10 if is_training else 30 if str(stage) in COSTLY else 60
  return number


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_killed_before_any_touch_of_a_file(runner, chain, stage, long, tally):
  def was_killed(process):
    assert process.exitcode == -signal.SIGKILL, process.log.read_text()
    tally['kills before a touch of a file'] += 1

  _, _, touches, _ = chain[str(stage)]
  tried = points(str(stage), touches, number_of_kills(stage, long))
  if not tried:
    pytest.skip('with --long')
  strike_each(runner, stage, chain, tried, kill, was_killed)


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_killed_at_random_moments_one_after_the_other(
  runner, chain, stage, long, tally
):
  """Also while what is left of the kill before is taken up."""
  before, after, _, seconds = chain[str(stage)]
  if not long and str(stage) in COSTLY:
    pytest.skip('with --long')
  folder = runner.copy(before)
  random_numbers = random.Random(str(stage))
  number = 10 if long else 1
  for _ in range(number):
    process = runner.start(stage, folder)
    process.join(random_numbers.uniform(0, seconds))
    process.kill()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)
    tally['kills at random moments'] += process.exitcode != 0
    assert_nothing_partial(folder, after)
  runner.finish(stage, folder)
  assert_same(folder, after)


@pytest.mark.parametrize('stage', STAGES, ids=str)
def test_two_copies_at_once(runner, chain, stage, long, tally):
  """Both end well, or one of them says why not, and the bytes are the same."""
  before, after, _, _ = chain[str(stage)]
  if not long and str(stage) in COSTLY:
    pytest.skip('with --long')
  for _ in range(3 if long else 1):
    folder = runner.copy(before)
    copies = [runner.start(stage, folder) for _ in range(2)]
    for copy in copies:
      copy.join()
    logs = [copy.log.read_text() for copy in copies]
    assert [copy.exitcode for copy in copies] == [0, 0], logs
    assert_same(folder, after)
    tally['pairs of copies at once'] += 1
