"""A tiny population, as the tests of training make it."""

import os
import subprocess
import sys

import tensorflow as tf

from save_checkpoint import imagenet_train_eval, training_settings
from utils import checkpoints, member_paths, shard_files

SETTINGS = training_settings.Settings(
  resnet_depth=18,
  width=0.125,
  train_steps=12,
  train_batch_size=4,
  warmup_epochs=0,
  decay_epochs=(1, 2),
)
SCHEDULE = (2, 8, 3)


def train(folder, data, **options):
  """Runs the script's `run`, and reads all it has made.

  Args:
    folder: under which the experiment is.
    data: folder of the shards.
    **options: arguments of `run`, of `population` and of `Execution`, in place
      of those of a tiny population.

  Returns:
    Member -> its network.
  """
  options = {
    'mode': 'train',
    'pruning_method': 'threshold',
    'fractions_pruned': (0.0, 0.9),
    'replicates': [0],
    'schedule': SCHEDULE,
    'settings': SETTINGS,
    'output': training_settings.Output(),
    'eval_batch_size': 8,
  } | options
  members = imagenet_train_eval.population(
    'exp',
    *(
      options.pop(name)
      for name in (
        'pruning_method',
        'fractions_pruned',
        'replicates',
        'schedule',
      )
    ),
  )
  imagenet_train_eval.run(
    options.pop('mode'),
    data,
    str(folder / 'exp'),
    members,
    options.pop('settings'),
    options.pop('output'),
    training_settings.Execution(**options),
  )
  return {
    checkpoint.member: checkpoints.read(checkpoint.prefix)
    for checkpoint in member_paths.find(str(folder))
  }


def assert_equal_networks(one, other):
  assert one.global_step == other.global_step
  assert list(one.values) == list(other.values)
  for name, value in one.values.items():
    assert value.tobytes() == other.values[name].tobytes(), name


def summaries(folder):
  """Scalars by tag and step, of all the event files at or below a folder."""
  found = {}
  for path in folder.rglob('events.out.tfevents*'):
    for serialized in shard_files.read_records(str(path)):
      event = tf.compat.v1.Event.FromString(serialized)
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = float(
          tf.make_ndarray(value.tensor)
        )
  return found


def as_process(folder, data, options=(), tf_config='', killed_at=''):
  """Training as `train` does it, in a process of its own."""
  program = ['save_checkpoint.imagenet_train_eval']
  if killed_at:
    program = ['tests.train_until_killed', killed_at]
  return subprocess.Popen(
    [
      *(sys.executable, '-m', *program),
      f'--data_directory={data}',
      f'--output_dir={folder}/exp',
      '--pruning_method=threshold',
      '--end_sparsity=0.9',
      '--resnet_depth=18',
      '--width=0.125',
      '--train_steps=60',
      '--train_batch_size=4',
      '--warmup_epochs=0',
      '--decay_epochs=4,8',
      '--sparsity_begin_step=2',
      '--sparsity_end_step=50',
      '--pruning_frequency=1',
      '--steps_per_checkpoint=2',
      '--keep_checkpoints=2',
      *options,
    ],
    env={**os.environ, 'TF_CONFIG': tf_config},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, log = process.communicate()
  assert process.returncode == 0, log
  return log
