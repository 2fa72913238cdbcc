"""Members of a population, trained here one after another, or on a cluster."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

import tqdm
from etils import epy

from save_checkpoint import (
  evaluation,
  interruption,
  member_folder,
  member_training,
  training,
  training_data,
  training_settings,
)
from utils import cluster, devices, member_paths, workers

with epy.lazy_imports():
  import tensorflow as tf


class PopulationTrainer:
  """Trains and evaluates members, with what is made once for all of them.

  That is made when it is first asked for: a cluster's workers are sent the
  arguments, and keep theirs from member to member.
  """

  def __init__(
    self,
    mode: str,
    data_directory: str,
    pruning_method: str,
    settings: training_settings.Settings,
    output: training_settings.Output,
    execution: training_settings.Execution,
  ):
    """Makes nothing yet; args are those of the script."""
    self._mode = mode
    self._data_directory = data_directory
    self._pruning_method = pruning_method
    self._settings = settings
    self._output = output
    self._execution = execution

  @functools.cached_property
  def strategy(self) -> tf.distribute.Strategy:
    """Where it runs; asked for before anything is computed in this process.

    Raises:
      ValueError: there is no such TPU, or the devices cannot share a batch.
    """
    execution = self._execution
    if execution.deterministic:
      tf.config.experimental.enable_op_determinism()
    strategy = devices.strategy(
      execution.tpu,
      execution.gcp_project,
      execution.tpu_zone,
      with_workers=self._mode != 'eval',
    )
    if self._mode != 'eval':
      training.check_batch_size(self._settings.train_batch_size, strategy)
    return strategy

  @functools.cached_property
  def data(self) -> training_data.TrainingData:
    """The images that members are trained on."""
    return training_data.find(self._data_directory, self._execution.verify_data)

  @functools.cached_property
  def _evaluator(self) -> evaluation.Evaluator | None:
    if self._mode == 'train':
      return None
    several = devices.num_workers() > 1
    return evaluation.Evaluator(
      self._data_directory,
      self._settings,
      self._execution.eval_batch_size,
      # The chief evaluates alone, while the others wait.
      devices.strategy() if several else self.strategy,
    )

  @functools.cached_property
  def _trainer(self) -> member_training.MemberTrainer:
    return member_training.MemberTrainer(
      self.strategy,
      self.data,
      self._settings,
      self._output,
      self._pruning_method,
      self._evaluator,
      self._execution.keep_data_in_memory,
    )

  def follow(self, folder: str) -> None:
    """Evaluates the checkpoints of a member, as `evaluation.Evaluator`."""
    assert self._evaluator is not None  # for the mode is not train
    self._evaluator.follow(
      folder, self._settings.train_steps, self._execution.eval_timeout_seconds
    )

  def train(
    self,
    folder: member_folder.MemberFolder,
    progress: tqdm.tqdm,
    told: interruption.Interruption | interruption.Leaving,
  ) -> None:
    """Trains a member to its end; args as of `MemberTrainer.train`."""
    trainer = self._trainer  # Not of the member's time.
    started = time.monotonic()
    final = trainer.train(folder, progress, told)
    folder.finish(
      self.data.described_in,
      member=dataclasses.asdict(folder.member),
      member_seed=member_training.member_seed(
        self._settings.seed, folder.member
      ),
      devices=devices.describe(),
      deterministic=self._execution.deterministic,
      training_seconds=round(time.monotonic() - started, 1),
      final_metrics=final,
    )
    devices.wait_for_workers(self.strategy)

  def train_on_worker(self, folder: member_folder.MemberFolder) -> None:
    """The same as a piece of a cluster's work.

    Raises:
      PieceLeftError: another worker has to go on; the state is saved.
    """
    if folder.is_finished_by_now():  # by a worker that then died
      cluster.report(self._settings.train_steps)
    else:
      self.train(folder, _Reported(disable=True), interruption.Leaving())


class _Reported(tqdm.tqdm):
  """Tells a bar that stands elsewhere."""

  def update(self, n: float | None = 1) -> None:
    self.n += n or 0
    cluster.report(self.n)


def train(
  trainer: PopulationTrainer,
  missing: Sequence[member_folder.MemberFolder],
  train_steps: int,
  place: workers.Place,
) -> None:
  """Trains members, with a bar that counts all their steps.

  Args:
    trainer: trains them.
    missing: the members.
    train_steps: of each.
    place: this machine, or a cluster whose workers train one at a time.
  """
  with tqdm.tqdm(
    desc='training',
    unit=' steps',
    total=len(missing) * train_steps,
    # Each update comes after about a second, and is to be seen.
    mininterval=0.5,
    miniters=1,
    dynamic_ncols=True,
  ) as progress:
    if place.scheduler:
      with workers.mapper(place, 1, progress=progress) as mapped:
        of = f'of {len(missing)}'
        for number, _ in enumerate(mapped(trainer.train_on_worker, missing), 1):
          progress.set_description(f'training, {number} {of} members are done')
    else:
      with interruption.Interruption(trainer.strategy) as told:
        _train_here(trainer, missing, progress, told)


def _train_here(trainer, missing, progress, told) -> None:
  for number, folder in enumerate(missing, 1):
    progress.set_description(f'training member {number} of {len(missing)}')
    trainer.train(folder, progress, told)
    if told.is_told():
      raise told.error(f'{folder.path} is finished')


def follow(
  trainer: PopulationTrainer,
  output_dir: str,
  members: Sequence[member_paths.Member],
  place: workers.Place,
) -> None:
  """Evaluates the checkpoints of members; args as of `train`."""
  folders = [member_paths.folder_of(output_dir, member) for member in members]
  with workers.mapper(place, 1) as mapped:
    for _ in mapped(trainer.follow, folders):
      pass
