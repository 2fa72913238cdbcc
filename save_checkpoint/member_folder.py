"""The folder of one member in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from absl import logging
from etils import epath, epy

from save_checkpoint import training, training_settings
from utils import checkpoints, devices, member_paths, paths, provenance, storage

with epy.lazy_imports():
  import tensorflow as tf

# Where a run goes on: the latest state, and the one before, should the latest
# have been damaged.
_STATES_KEPT = 2
_STATE_NAME = 'state-'


class MemberFolder:
  """What is in it: a record, checkpoints, and states to go on from."""

  def __init__(
    self,
    output_dir: str,
    member: member_paths.Member,
    script: str,
    settings: training_settings.Settings,
    data: dict[str, object],
  ):
    """Opens a member's folder.

    Args:
      output_dir: folder of the experiment.
      member: whose.
      script: the module that trains, as of `provenance.Provenance`.
      settings: as this run has them.
      data: what identifies the training data.

    Raises:
      ValueError: the folder holds a run with other settings; names them.
    """
    self.member = member
    self.path = member_paths.folder_of(output_dir, member)
    self._record = provenance.Provenance(
      self.path, script, {**dataclasses.asdict(settings), 'data': data}
    )
    self._last = self.checkpoint(settings.train_steps).completed_by
    self.is_finished = self._record.is_finished and storage.exists(self._last)
    self._saved_step = 0  # That of a new network needs no file.

  def checkpoint(self, step: int) -> member_paths.Checkpoint:
    """The member's network after a step, whether it is there or not."""
    return member_paths.Checkpoint(
      self.member, step, member_paths.prefix_in(self.path, step)
    )

  def is_finished_by_now(self) -> bool:
    """As `is_finished` was when this was made, whoever finished it since."""
    return self._record.is_finished_by_now() and storage.exists(self._last)

  def start(self) -> None:
    """Records the settings, before the first file that depends on them."""
    if devices.is_chief():
      self._record.start()

  def _states(self) -> list[tuple[int, str]]:
    return _bundles(paths.resume_folder(self.path), _STATE_NAME)

  def last_good(self, step: int) -> str:
    """Says which checkpoint is the last one before a step."""
    before = [p for s, p in checkpoints_in(self.path) if s < step]
    if not before:
      return 'no checkpoint was written before'
    return f'the last good checkpoint is {before[-1]}'

  def save(
    self, trainer: training.Trainer, keep_checkpoints: int, is_last: bool
  ) -> None:
    """Writes a checkpoint and, unless it is the last, what goes on from it.

    Raises:
      ValueError: a value is not finite, which the next loss would show.
    """
    step = trainer.step
    network = trainer.network(masked=not self.member.level.is_dense)
    for name, value in network.values.items():  # noqa: PD011
      if not np.isfinite(value).all():
        raise ValueError(
          f'{self.path}: {name} is not finite after step {step}; '
          f'{self.last_good(step)}'
        )
    if devices.is_chief():
      checkpoints.write(self.checkpoint(step).prefix, network)
    if not is_last:
      self.save_state(trainer)
    if devices.is_chief():
      for _, prefix in checkpoints_in(self.path)[:-keep_checkpoints]:
        _remove_bundle(prefix)

  def save_state(self, trainer: training.Trainer) -> None:
    """Writes what goes on from here, unless this run has done so already."""
    step = trainer.step
    if step == self._saved_step:
      return
    self._saved_step = step
    state = trainer.state()  # All workers read, for moving averages are means.
    if not devices.is_chief():
      return
    folder = epath.Path(paths.resume_folder(self.path))
    checkpoints.write_bundle(str(folder / f'{_STATE_NAME}{step}'), state)
    for _, prefix in self._states()[:-_STATES_KEPT]:
      _remove_bundle(prefix)

  def restore(self, trainer: training.Trainer) -> bool:
    """Goes on from the latest state that can be read; False if none is there.

    Raises:
      ValueError: there are states, but none can be read.
    """
    states = self._states()
    for step, prefix in reversed(states):
      try:
        trainer.restore(checkpoints.read_bundle(prefix))
      except ValueError as error:
        logging.error('%s; falling back to the state before', error)
        continue
      self._saved_step = step
      logging.info('%s goes on from step %d', self.path, step)
      return True
    if states:
      raise ValueError(
        f'{paths.resume_folder(self.path)}: none of {len(states)} states can '
        'be read; remove the folder to train the member from the start'
      )
    return False

  def finish(self, inputs: Iterable[str], **facts) -> None:
    """Completes the record; arguments as of `provenance.Provenance.finish`."""
    if devices.is_chief():
      self._record.finish(inputs, **facts)
      self.tidy()

  def tidy(self) -> None:
    """Removes what only an unfinished member needs."""
    folder = epath.Path(paths.resume_folder(self.path))
    if folder.exists():
      folder.rmtree()


def checkpoints_in(folder: str) -> list[tuple[int, str]]:
  """Step and prefix of each checkpoint in a member's folder, by step."""
  return _bundles(folder, member_paths.CHECKPOINT_NAME)


def _bundles(folder: str, stem: str) -> list[tuple[int, str]]:
  """Step and prefix of each bundle <stem><step> in a folder, by step."""
  if not epath.Path(folder).exists():
    return []
  return sorted(
    (int(index.stem.removeprefix(stem)), str(index.with_suffix('')))
    for index in epath.Path(folder).glob(f'{stem}*.index')
  )


def _remove_bundle(prefix: str) -> None:
  # The index first: without it the rest is not taken for a checkpoint.
  for path in [f'{prefix}.index', *tf.io.gfile.glob(f'{prefix}.data-*')]:
    tf.io.gfile.remove(path)
