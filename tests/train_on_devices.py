"""Trains a few steps on logical devices and prints losses and masks as JSON.

python -m tests.train_on_devices <number of devices>. A program of its own,
since devices cannot change within a process.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from save_checkpoint import training, training_settings
from utils import devices, digests, image_records


def main(number: int) -> None:
  """Prints {'losses': [...], 'masks': <digest>}."""
  (processor,) = tf.config.list_physical_devices('CPU')
  tf.config.set_logical_device_configuration(
    processor, [tf.config.LogicalDeviceConfiguration()] * number
  )
  strategy = devices.strategy()
  if number > 1:
    names = [f'CPU:{i}' for i in range(number)]
    strategy = tf.distribute.MirroredStrategy(names)
  records = image_records.ImageRecords(
    'test', tuple('0123456789'), image_size=32, resize_size=32
  )
  trainer = training.Trainer(
    strategy,
    records,
    np.full(6, 0.1, np.float32),
    training_settings.Settings(
      resnet_depth=18, width=0.125, train_batch_size=8
    ),
    'threshold',
  )
  trainer.reset(seed=0)
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 255, (48, 32, 32, 3)).astype(np.float32)
  labels = rng.integers(0, 10, 48)
  batches = iter(
    strategy.experimental_distribute_dataset(
      tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    )
  )
  losses = [trainer.train(batches, 1)[0] for _ in range(3)]
  trainer.update_masks(0.9, seed=1)
  losses += [trainer.train(batches, 1)[0] for _ in range(3)]
  masks = [v for n, v in trainer.state().items() if n.endswith('/mask')]
  digest = digests.of_bytes(b''.join(mask.tobytes() for mask in masks))
  print(json.dumps({'losses': losses, 'masks': digest}))


if __name__ == '__main__':
  main(int(sys.argv[1]))
