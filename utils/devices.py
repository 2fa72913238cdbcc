"""The one place that chooses devices."""

import tensorflow as tf


def strategy(
  tpu: str = '', gcp_project: str = '', tpu_zone: str = ''
) -> tf.distribute.Strategy:
  """The distribution strategy for the devices at hand.

  Args:
    tpu: name of a Cloud TPU, or 'local' on a TPU VM; '' for none.
    gcp_project: project of a named TPU; '' for the environment's.
    tpu_zone: zone of a named TPU; '' for the environment's.

  Returns:
    TPUStrategy for a TPU; else MirroredStrategy over several GPUs; else
    OneDeviceStrategy on the GPU, or on the processor where there is none.
  """
  if tpu:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=tpu, project=gcp_project or None, zone=tpu_zone or None
    )
    if tpu != 'local':
      tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)
  gpus = tf.config.list_logical_devices('GPU')
  if len(gpus) > 1:
    return tf.distribute.MirroredStrategy()
  return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else '/CPU:0')


def describe() -> str:
  """The devices as outputs record them, such as '2x GPU' or '1x CPU'."""
  for kind in ('TPU', 'GPU', 'CPU'):
    found = tf.config.list_logical_devices(kind)
    if found:
      return f'{len(found)}x {kind}'
  return 'none'
