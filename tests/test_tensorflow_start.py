"""TensorFlow starts quietly, and loads Keras when it is used."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SHOUT = """
import os, sys
from utils import tensorflow_start
try:
  with tensorflow_start.without_lines('to no use'):
    os.write(2, b'first\\nsaid to no use\\nsecond\\n')
    %s
finally:
  print('after', file=sys.stderr)
"""


def run(script, **environ):
  # The latter another test's toolkit of pruning may have left.
  left_out = ('TF_CPP_MIN_LOG_LEVEL', 'TF_USE_LEGACY_KERAS')
  without = {k: v for k, v in os.environ.items() if k not in left_out}
  return subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    env={**without, **environ},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize('ending', ['pass', 'raise ValueError(1)'])
def test_all_other_lines_come_out_in_their_order(ending):
  process = run(SHOUT % ending)
  assert process.stderr.startswith('first\nsecond\nafter\n')
  assert ('ValueError' in process.stderr) == (ending != 'pass')


def test_last_words_of_a_process_that_is_aborted_come_out():
  process = run(SHOUT % 'os.write(2, b"why"); os.abort()')
  assert process.returncode < 0
  assert process.stderr == 'first\nsecond\nwhy'


def test_a_process_without_stderr_is_no_fault():
  process = run(
    'import os\n'
    'from utils import tensorflow_start\n'
    'os.close(2)\n'
    "with tensorflow_start.without_lines('to no use'):\n"
    "  print('done', flush=True)\n"
  )
  assert process.stdout == 'done\n'


def test_the_import_of_tensorflow_is_short_and_hushed_unless_a_user_wants_all():
  script = (
    'import importlib.util\n'
    'from utils import tensorflow_start\n'
    'tensorflow_start.hush()\n'
    "importlib.util.find_spec('tensorflow')\n"  # which imports nothing
    'import tensorflow as tf\n'
    "tf.config.list_physical_devices('GPU')\n"
    'print(tf.constant(1) + 1)\n'
    'import sys\n'
    "assert not {'keras', 'pandas', 'sklearn'} & set(sys.modules)\n"
    'assert tf.keras.layers.Dense(2)(tf.zeros((3, 4))).shape == (3, 2)\n'
    'import keras\n'
    'assert tf.keras.layers.Dense is keras.layers.Dense\n'
  )
  hushed = run(script)
  assert hushed.returncode == 0
  assert not hushed.stderr
  assert 'absl::InitializeLog' in run(script, TF_CPP_MIN_LOG_LEVEL='0').stderr


def test_the_toolkit_of_pruning_loads_the_one_keras_that_it_uses():
  process = run(
    'import sys\n'
    'from utils import tensorflow_start\n'
    'tensorflow_start.hush()\n'
    'import tensorflow_model_optimization as tfmot\n'
    "assert not {'keras', 'sklearn'} & set(sys.modules)\n"
    'decay = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.9, 2, 8, power=3)\n'
    'print(round(float(decay(5)[1]), 4))\n'
  )
  assert process.stdout == '0.7875\n', process.stderr
