"""How one member is trained to its end."""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from etils import epy

from save_checkpoint import (
  evaluation,
  interruption,
  learning_rate,
  member_folder,
  pruning,
  training,
  training_data,
  training_settings,
)
from utils import (
  data_input,
  devices,
  digests,
  member_paths,
  paths,
  resnet_model,
)

with epy.lazy_imports():
  import tensorflow as tf

# How long TensorFlow trains at a stretch: the bar of progress stands still
# meanwhile.
_CALL_SECONDS = 1.0
# Bound on how much longer the next stretch is: one measurement may be off.
_GROWTH = 4


def member_seed(seed: int, member: member_paths.Member) -> int:
  """The seed of all the randomness in a member's training.

  It differs between sparsities too: the statistics compare independent groups
  of networks, and runs that share their first weights and their images are
  not independent.
  """
  identity = (
    f'{seed}/{member.pruning_method}/{member.fraction_pruned}/'
    f'{member.replicate}'
  )
  # 40 bits: steps are added to it.
  return int(digests.of_bytes(identity)[:10], 16)


class Pace:
  """How many steps take about a second, the same number on all workers."""

  def __init__(self, strategy: tf.distribute.Strategy):
    """Begins with one step.

    Args:
      strategy: where the steps run.
    """
    self._strategy = strategy
    self.steps = 1

  def measure(self, steps: int, seconds: float) -> None:
    """Chooses `steps` anew.

    Args:
      steps: that were taken at a stretch.
      seconds: what they took.
    """
    if devices.num_workers() > 1:
      # Workers that take different numbers of steps would wait for each other
      # forever: they count the steps of a stretch together.
      seconds = float(self._mean(tf.constant(seconds)))
    wanted = round(steps * _CALL_SECONDS / max(seconds, 1e-6))
    self.steps = max(1, min(wanted, _GROWTH * self.steps))

  @functools.cached_property
  def _mean(self):
    @tf.function
    def mean(seconds):
      return self._strategy.reduce(
        tf.distribute.ReduceOp.MEAN,
        self._strategy.run(tf.identity, args=(seconds,)),
        axis=None,
      )

    return mean


class _Means:
  """Loss and accuracy over the steps since the last summary."""

  def __init__(self):
    self.steps, self.seconds = 0, 0.0
    self._sums = np.zeros(2)

  def add(
    self, loss: float, accuracy: float, steps: int, seconds: float
  ) -> None:
    self._sums += np.multiply((loss, accuracy), steps)
    self.steps += steps
    self.seconds += seconds

  def named(self) -> dict[str, float]:
    loss, accuracy = self._sums / self.steps
    return {'loss': loss, 'accuracy': accuracy}


class MemberTrainer:
  """Trains members one after another, with one network traced for all."""

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    data: training_data.TrainingData,
    reader: data_input.TrainingReader,
    settings: training_settings.Settings,
    output: training_settings.Output,
    pruning_method: str,
    evaluator: evaluation.Evaluator | None = None,
  ):
    """Makes the network.

    Args:
      strategy: where it runs.
      data: the images.
      reader: reads them.
      settings: what decides the members' numbers.
      output: which files are written.
      pruning_method: of the members that are pruned.
      evaluator: evaluates each checkpoint, unless it is None.

    Raises:
      ValueError: the devices cannot share a batch, or a setting cannot be.
    """
    self._strategy = strategy
    self._settings = settings
    self._output = output
    self._evaluator = evaluator
    self._steps_per_epoch = data.num_images / settings.train_batch_size
    self._rates = learning_rate.learning_rates(
      settings.train_steps,
      settings.train_batch_size,
      data.num_images,
      settings.warmup_epochs,
      settings.decay_epochs,
      settings.base_learning_rate,
      settings.decay,
    )
    self._trainer = training.Trainer(
      strategy, data.records, self._rates, settings, pruning_method
    )
    self._reader = reader
    self._pace = Pace(strategy)

  def train(
    self,
    folder: member_folder.MemberFolder,
    progress: tqdm.tqdm,
    told: interruption.Told,
  ) -> dict[str, float]:
    """Trains one member to its end.

    Args:
      folder: the member's; a state in it is where training goes on.
      progress: bar that counts steps.
      told: whether to end before the member's end.

    Returns:
      The last summaries, by name, and the last evaluation's.

    Raises:
      ValueError: the loss is not finite, or a layer has missed its sparsity,
        or the data are damaged.
      OSError: the disk is full, or another worker stopped.
      Interrupted: training was told to end; the state is saved.
      PieceLeftError: the same on a cluster's worker.
    """
    try:
      with self._explained(folder.path):
        return self._train(folder, progress, told)
    except BaseException as error:
      # Its frames hold readers of images, for which Python's end would wait.
      traceback.clear_frames(error.__traceback__)
      raise

  @contextlib.contextmanager
  def _explained(self, path: str) -> Iterator[None]:
    """Says in one line what TensorFlow's errors mean."""
    try:
      yield
    except tf.errors.ResourceExhaustedError as error:
      raise OSError(f'{path}: {error.message}') from None
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
      raise OSError(
        f'{path}: another worker stopped; the same command on all of them '
        f'goes on: {error.message}'
      ) from None
    except tf.errors.OpError:
      self._reader.find_fault()
      raise

  def _train(self, folder, progress, told):
    settings, output, trainer = self._settings, self._output, self._trainer
    seed = member_seed(settings.seed, folder.member)
    folder.start()
    if not folder.restore(trainer):
      trainer.reset(seed)
    schedule = _schedule(folder.member)
    updates = set(schedule.steps if schedule else ())
    start = trainer.step
    progress.update(start)
    batches = iter(
      self._strategy.distribute_datasets_from_function(
        lambda context: self._reader.read(seed, start, context)
      )
    )
    writer = (
      tf.summary.create_file_writer(paths.summaries(folder.path))
      if devices.is_chief()
      else tf.summary.create_noop_writer()
    )
    summaries, means = {}, _Means()
    with writer.as_default():
      for boundary in _boundaries(start, settings, output, sorted(updates)):
        self._take_steps(boundary, batches, folder, means, progress, told)
        if schedule and boundary - 1 in updates:
          trainer.update_masks(schedule.fraction_at(boundary - 1), seed)
        is_last = boundary == settings.train_steps
        if boundary % output.steps_per_summary == 0 or is_last:
          summaries = self._summarize(boundary, means, progress)
          means = _Means()
        if is_last:
          self._check_survivors(folder)
        if boundary % output.steps_per_checkpoint == 0 or is_last:
          writer.flush()  # A later run goes on from here.
          folder.save(trainer, output.keep_checkpoints, is_last)
          if not is_last:
            self._end_if_told(told, folder)
          if self._evaluator and devices.is_chief():
            prefix = folder.checkpoint(boundary).prefix
            with told.at_once() if not is_last else contextlib.nullcontext():
              evaluated = self._evaluator.evaluate(prefix)
            evaluation.write_scalars(evaluated, boundary)
            summaries.update(evaluated)
    writer.close()
    return {name: float(value) for name, value in summaries.items()}

  def _end_if_told(self, told, folder):
    """Ends between two steps, when all that the last one asked for is done."""
    if told.is_told():
      tf.summary.flush()
      folder.save_state(self._trainer)
      # One that leaves would stop the one that writes.
      devices.wait_for_workers(self._strategy)
      raise told.error(f'{folder.path} is saved at step {self._trainer.step}')

  def _take_steps(self, boundary, batches, folder, means, progress, told):
    """Trains until so many steps are done, about a second at a time."""
    done = self._trainer.step
    while done < boundary:
      self._end_if_told(told, folder)
      steps = min(self._pace.steps, boundary - done)
      since = time.monotonic()
      loss, accuracy, finite = self._trainer.train(batches, steps)
      seconds = time.monotonic() - since
      if finite < steps:
        raise ValueError(
          f'{folder.path}: the loss is not finite at step '
          f'{done + finite + 1}; {folder.last_good(done + finite)}'
        )
      self._pace.measure(steps, seconds)
      means.add(loss, accuracy, steps, seconds)
      done += steps
      progress.update(steps)

  def _summarize(self, done, means, progress) -> dict[str, float]:
    images = means.steps * self._settings.train_batch_size
    summaries = {
      **means.named(),
      'learning_rate': float(self._rates[done - 1]),
      'current_epoch': done / self._steps_per_epoch,
      'images_per_second': images / means.seconds,
    }
    sparsity, layers = self._trainer.sparsity()
    evaluation.write_scalars({**summaries, 'sparsity': sparsity}, done)
    evaluation.write_scalars(
      {f'sparsity/{name}': value for name, value in layers.items()}, done
    )
    progress.set_postfix(
      {name: f'{value:.3f}' for name, value in means.named().items()},
      refresh=False,
    )
    return summaries

  def _check_survivors(self, folder: member_folder.MemberFolder) -> None:
    """Counts the survivors of every layer before they are exported."""
    settings, member = self._settings, folder.member
    if (settings.block_height, settings.block_width) != (1, 1):
      return  # Blocks at the edge of a kernel hold fewer weights.
    if member.level.is_dense:
      return
    network = self._trainer.network(masked=True)
    for conv in resnet_model.conv_layers(network.architecture):
      name = f'{resnet_model.SCOPE}{conv.name}/mask'
      mask = network.values[name]  # noqa: PD011
      wanted = pruning.survivors(conv.size, member.fraction_pruned)
      if np.count_nonzero(mask) != wanted:
        raise ValueError(
          f'{folder.path}: {conv.name} keeps {np.count_nonzero(mask)} of '
          f'{conv.size} weights, wanted {wanted}'
        )


def _schedule(member: member_paths.Member) -> pruning.Schedule | None:
  if member.level.is_dense:
    return None
  return pruning.Schedule(
    member.fraction_pruned,
    member.begin_step,
    member.end_step,
    member.pruning_frequency,
  )


def _boundaries(
  start: int,
  settings: training_settings.Settings,
  output: training_settings.Output,
  update_steps: Sequence[int],
) -> list[int]:
  """Numbers of steps done at which something happens beside training."""
  end = settings.train_steps
  return sorted(
    {
      *range(output.steps_per_checkpoint, end, output.steps_per_checkpoint),
      *range(output.steps_per_summary, end, output.steps_per_summary),
      *(step + 1 for step in update_steps),
      end,
    }
    - set(range(start + 1))
  )
