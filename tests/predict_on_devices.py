"""Predicts a shard on logical devices and prints the rows as JSON.

python -m tests.predict_on_devices <number of devices> <checkpoint> <shard>. A
program of its own, since devices cannot change within a process.
"""

import sys

import tensorflow as tf

from utils import inference, member_paths, tfrecords


def main(number: int, prefix: str, shard: str) -> None:
  """Prints a frame of predictions."""
  (processor,) = tf.config.list_physical_devices('CPU')
  tf.config.set_logical_device_configuration(
    processor, [tf.config.LogicalDeviceConfiguration()] * number
  )
  ((_, _, frame),) = inference.predict(
    [member_paths.parse(prefix)],
    [shard],
    tfrecords.describe([shard]),
    batch_size=8,
    preprocessing_name='legacy',
    precision='float32',
    label_smoothing=0.1,
    strategy=lambda: tf.distribute.MirroredStrategy(
      [f'CPU:{i}' for i in range(number)]
    ),
  )
  print(frame.to_json(double_precision=15))


if __name__ == '__main__':
  main(int(sys.argv[1]), *sys.argv[2:])
