"""What checkpoints score on the evaluation split."""

from __future__ import annotations

import time

import pandas as pd
from absl import logging
from etils import epy

from save_checkpoint import member_folder, training_settings
from utils import (
  class_level_metrics,
  image_records,
  inference,
  member_paths,
  paths,
  storage,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

_POLL_SECONDS = 10


def write_scalars(scalars: dict[str, float], step: int) -> None:
  """Writes TensorBoard summaries, to the writer that is the default."""
  for name, value in scalars.items():
    tf.summary.scalar(name, value, step=step)


class Evaluator:
  """Evaluates checkpoints on the evaluation split; traced once."""

  def __init__(
    self,
    data_directory: str,
    settings: training_settings.Settings,
    batch_size: int,
    strategy: tf.distribute.Strategy,
  ):
    """Opens the evaluation split.

    Args:
      data_directory: TFRecord shards.
      settings: preprocessing, precision and label smoothing of the members.
      batch_size: images a batch.
      strategy: where it runs.
    """
    shards = image_records.find_shards(data_directory, 'eval')
    self._data_set = inference.DataSet(tfrecords.describe(shards), shards)
    self._predictor = inference.Predictor(
      batch_size=batch_size,
      preprocessing_name=settings.preprocessing,
      precision=settings.precision,
      label_smoothing=settings.label_smoothing,
      strategy=lambda: strategy,
    )

  def evaluate(self, prefix: str) -> dict[str, float]:
    """Evaluates a checkpoint.

    Returns:
      eval_accuracy, top_5_eval_accuracy and eval_loss (cross entropy with
      label smoothing, in nats).
    """
    checkpoint = member_paths.parse(prefix)
    frames = [
      frame
      for _, _, frame in self._predictor.predict(
        [checkpoint], [self._data_set], show_progress=False
      )
    ]
    metrics = class_level_metrics.member_metrics(
      pd.concat(frames), self._data_set.records.class_names
    ).iloc[0]
    return {
      'eval_accuracy': float(metrics['eval_accuracy']),
      'top_5_eval_accuracy': float(metrics['top_5_eval_accuracy']),
      'eval_loss': float(metrics['loss']),
    }

  def follow(
    self, folder: str, train_steps: int, timeout_seconds: float
  ) -> None:
    """Evaluates each checkpoint of a member, waiting for new ones.

    Summaries go to the member's folder.

    Raises:
      FileNotFoundError: the member has none in time.
    """
    seen, waited_since, writer = set(), time.monotonic(), None
    while True:
      for step, prefix in member_folder.checkpoints_in(folder):
        if step in seen:
          continue
        seen.add(step)
        try:
          scalars = self.evaluate(prefix)
        except (OSError, ValueError):
          if storage.exists(member_paths.parse(prefix).completed_by):
            raise
          logging.warning('%s was removed before it was evaluated', prefix)
          continue
        logging.info(
          '%s: %s',
          prefix,
          ', '.join(f'{k} {v:.4f}' for k, v in scalars.items()),
        )
        writer = writer or tf.summary.create_file_writer(
          paths.summaries(folder)
        )
        with writer.as_default():
          write_scalars(scalars, step)
        writer.flush()
        waited_since = time.monotonic()
      if train_steps in seen:
        return
      if time.monotonic() - waited_since >= timeout_seconds:
        break
      time.sleep(min(_POLL_SECONDS, timeout_seconds))
    if not seen:
      raise FileNotFoundError(
        f'no checkpoint in {folder} after {timeout_seconds} s, wanted '
        f'model.ckpt-<step> up to step {train_steps}'
      )
