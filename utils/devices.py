"""The one place that chooses devices."""

from __future__ import annotations

import json
import os
import signal

from absl import logging
from etils import epy

with epy.lazy_imports():
  import tensorflow as tf


def strategy(
  tpu: str = '',
  gcp_project: str = '',
  tpu_zone: str = '',
  *,
  with_workers: bool = False,
) -> tf.distribute.Strategy:
  """The distribution strategy for the devices at hand.

  Args:
    tpu: name of a Cloud TPU, or 'local' on a TPU VM; '' for none.
    gcp_project: project of a named TPU; '' for the environment's.
    tpu_zone: zone of a named TPU; '' for the environment's.
    with_workers: whether the workers that TF_CONFIG names, if it names any,
      compute together; all of them must call this before anything else.

  Returns:
    TPUStrategy for a TPU; else MultiWorkerMirroredStrategy for several workers;
    else MirroredStrategy over several GPUs; else OneDeviceStrategy on the GPU,
    or on the processor where there is none.

  Raises:
    ValueError: the TPU does not answer, or TF_CONFIG makes no sense.
  """
  if tpu:
    try:
      resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
        tpu=tpu, project=gcp_project or None, zone=tpu_zone or None
      )
      if tpu != 'local':
        tf.config.experimental_connect_to_cluster(resolver)
      tf.tpu.experimental.initialize_tpu_system(resolver)
    except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
      raise ValueError(
        f'TPU {tpu!r} does not answer, wanted the name of a TPU in this '
        "project and zone, or 'local' on a TPU VM with tensorflow-tpu: "
        f'{" ".join(str(error).split())[:300]}'
      ) from None
    return tf.distribute.TPUStrategy(resolver)
  if with_workers and num_workers() > 1:
    # TensorFlow waits where Python's Ctrl-C does not reach it, for an hour.
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.info('waiting for the %d workers of TF_CONFIG', num_workers())
    try:
      return tf.distribute.MultiWorkerMirroredStrategy()
    finally:
      signal.signal(signal.SIGINT, former)
      # Which TensorFlow has taken, so that kill would do nothing.
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
  gpus = tf.config.list_logical_devices('GPU')
  if len(gpus) > 1:
    return tf.distribute.MirroredStrategy()
  return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else '/CPU:0')


def idle_cores() -> int:
  """Operations of small networks that this process may run at once.

  1 unless TF_NUM_INTRAOP_THREADS leaves cores without work: TensorFlow then
  splits no operation over all of them. Also 1 with an accelerator.
  """
  # Linux knows which of them this process may use.
  affinity = getattr(os, 'sched_getaffinity', None)
  cores = len(affinity(0)) if affinity else os.cpu_count() or 1
  split_over = os.environ.get('TF_NUM_INTRAOP_THREADS', '')
  if not split_over.isdecimal() or not int(split_over):
    return 1
  if any(tf.config.list_physical_devices(kind) for kind in ('GPU', 'TPU')):
    return 1
  return max(1, cores // int(split_over))


def num_workers() -> int:
  """Processes that train together, as TF_CONFIG names them; 1 without it."""
  cluster = _tf_config().get('cluster', {})
  return max(1, sum(len(cluster.get(job, ())) for job in ('chief', 'worker')))


def _tf_config() -> dict[str, dict]:
  text = os.environ.get('TF_CONFIG') or '{}'
  try:
    config = json.loads(text)
  except ValueError:
    config = None
  cluster = config.get('cluster', {}) if isinstance(config, dict) else None
  if not isinstance(cluster, dict):
    raise ValueError(
      f'TF_CONFIG is {text!r}, wanted JSON such as {{"cluster": {{"worker": '
      '["h0:2222", "h1:2222"]}, "task": {"type": "worker", "index": 0}}'
    )
  return config


def is_chief() -> bool:
  """Whether this process writes files; of several workers, one does.

  Raises:
    ValueError: TF_CONFIG does not say which of the workers this is.
  """
  if num_workers() == 1:
    return True
  config = _tf_config()
  first = 'chief' if config['cluster'].get('chief') else 'worker'
  try:
    task = config['task']
    return (task['type'], int(task['index'])) == (first, 0)
  except (KeyError, TypeError, ValueError):
    raise ValueError(
      f'TF_CONFIG has the task {config.get("task")!r}, wanted which of the '
      'workers this is, such as {"type": "worker", "index": 0}'
    ) from None


def wait_for_workers(workers: tf.distribute.Strategy) -> None:
  """Waits until all workers are here: one that leaves would stop the others."""
  if num_workers() > 1:
    one = tf.function(lambda: workers.run(lambda: tf.constant(1)))
    workers.reduce(tf.distribute.ReduceOp.SUM, one(), axis=None)


def describe() -> str:
  """The devices as outputs record them, such as '2x GPU' or '1x CPU'."""
  for kind in ('TPU', 'GPU', 'CPU'):
    found = tf.config.list_logical_devices(kind)
    if found:
      return f'{len(found)}x {kind}'
  return 'none'
