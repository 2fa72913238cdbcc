"""Trains until it kills itself at a moment that no kill from outside can hit.

python -m tests.train_until_killed <moment> <flags of imagenet_train_eval>. The
moments, each when it comes for the second time in the process:

  state_index   the data of a state are there, its index is not
  export_index  likewise of an exported checkpoint
  masks         the masks have changed, and nothing has been written since
"""

import os
import signal
import sys

import tensorflow as tf

from save_checkpoint import imagenet_train_eval, training
from utils import command_line, storage

_COMES = {'left': 2}


def come() -> None:
  """Counts a moment, and dies at the last of them as a power cut would."""
  _COMES['left'] -= 1
  if not _COMES['left']:
    os.kill(os.getpid(), signal.SIGKILL)


def main(moment: str) -> None:
  """Aims, and trains."""
  rename, update = tf.io.gfile.rename, training.Trainer.update_masks
  start = {'state_index': 'state-', 'export_index': 'model.ckpt-'}.get(moment)

  def watched_rename(source, target, overwrite=False):
    name = storage.name(target)
    if start and name.startswith(start) and name.endswith('.index'):
      come()
    rename(source, target, overwrite=overwrite)

  def watched_update(*args):
    update(*args)
    if moment == 'masks':
      come()

  tf.io.gfile.rename = watched_rename
  training.Trainer.update_masks = watched_update
  command_line.run_script(
    imagenet_train_eval.main, imagenet_train_eval.define_flags
  )


if __name__ == '__main__':
  main(sys.argv.pop(1))
