"""Members of a population, trained here or on a cluster.

Here it is one after another, or a few at the same time, each by a thread of its
own: TensorFlow computes without holding Python up.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import queue
import threading
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
from utils import (
  cluster,
  data_input,
  devices,
  member_paths,
  tfrecords,
  workers,
)

with epy.lazy_imports():
  import tensorflow as tf

# With more the memory of their activations comes before the cores.
_MOST_AT_ONCE = 8


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
    if execution.members_at_once > 1 and _is_shared(strategy):
      raise ValueError(
        f'members_at_once is {execution.members_at_once}, wanted 1 where '
        'several devices or workers train a member together'
      )
    return strategy

  @property
  def members_at_once(self) -> int:
    """How many are trained at the same time in this process."""
    chosen = self._execution.members_at_once
    if chosen or _is_shared(self.strategy):
      return chosen or 1
    cores = devices.idle_cores()
    # One more, since each waits at times, for images, files or Python's lock:
    # a tenth of the time on two cores.
    return 1 if cores == 1 else min(_MOST_AT_ONCE, cores + 1)

  def beside(self) -> PopulationTrainer:
    """One that trains other members at the same time, from the same images."""
    self._reader  # noqa: B018, which the copy is to have
    other = copy.copy(self)
    for own in ('_trainer', '_evaluator'):
      vars(other).pop(own, None)
    return other

  @functools.cached_property
  def data(self) -> training_data.TrainingData:
    """The images that members are trained on."""
    return training_data.find(self._data_directory, self._execution.verify_data)

  @functools.cached_property
  def _reader(self) -> data_input.TrainingReader:
    data = self.data
    return data_input.TrainingReader(
      data.shards,
      data.num_images,
      data.records,
      tfrecords.detect(data.shards),
      self._settings.preprocessing,
      self._settings.train_batch_size,
      self._execution.keep_data_in_memory,
    )

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
      self._reader,
      self._settings,
      self._output,
      self._pruning_method,
      self._evaluator,
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
    told: interruption.Told,
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


def _is_shared(strategy: tf.distribute.Strategy) -> bool:
  return devices.num_workers() > 1 or strategy.num_replicas_in_sync > 1


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
  with _Bar(
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
        for number, _ in enumerate(mapped(trainer.train_on_worker, missing), 1):
          _say_done(progress, number, len(missing))
      return
    at_once = min(trainer.members_at_once, len(missing))
    with interruption.Interruption(trainer.strategy) as told:
      if at_once > 1:
        _train_together(trainer, missing, progress, told, at_once)
      else:
        _train_in_turn(trainer, missing, progress, told)


def _say_done(progress: tqdm.tqdm, number: int, of: int) -> None:
  progress.set_description(f'training, {number} of {of} members are done')


def _train_in_turn(trainer, missing, progress, told) -> None:
  for number, folder in enumerate(missing, 1):
    progress.set_description(f'training member {number} of {len(missing)}')
    trainer.train(folder, progress, told)
    if told.is_told():
      raise told.error(f'{folder.path} is finished')


class _Bar(tqdm.tqdm):
  """Counts what several threads have done."""

  def update(self, n: float | None = 1) -> bool | None:
    with self.get_lock():
      return super().update(n)


class _Together:
  """Whether to end, for one of several members that are trained here.

  It ends where the process has been told to, or another has failed.
  """

  at_once = contextlib.nullcontext  # Others may have something to save.

  def __init__(self, told: interruption.Interruption):
    self._told = told
    self._has_failed = threading.Event()
    self.saved: list[str] = []

  def is_told(self) -> bool:
    return self._told.is_told() or self._has_failed.is_set()

  def error(self, what_is_saved: str) -> _EndedError:
    self.saved.append(what_is_saved)
    return _EndedError(what_is_saved)

  def fail(self) -> None:
    self._has_failed.set()


class _EndedError(Exception):
  """A member was left, because it was to end."""


def _train_together(trainer, missing, progress, told, at_once) -> None:
  """Trains so many at a time; a failure of one ends all, which are saved."""
  together = _Together(told)
  free: queue.SimpleQueue[PopulationTrainer] = queue.SimpleQueue()
  for _ in range(at_once):
    free.put(trainer.beside())

  def train_one(folder: member_folder.MemberFolder) -> bool:
    if together.is_told():
      return False
    own = free.get()
    try:
      own.train(folder, progress, together)
    except _EndedError:
      return False
    except BaseException:
      together.fail()
      raise
    finally:
      free.put(own)
    return True

  done = 0
  place = workers.Place(processes=at_once)
  with workers.mapper(place, at_once, in_threads=True) as mapped:
    for is_finished in mapped(train_one, missing):
      done += is_finished
      _say_done(progress, done, len(missing))
  if done < len(missing):
    saved = together.saved or ['all that was begun is finished']
    raise told.error(', '.join(saved))


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
