r"""Trains a population of ResNets, dense and pruned, and evaluates them.

Reads
  --data_directory  TFRecord shards: a folder with image_records.json (see
                    save_checkpoint.build_image_data), or ImageNet's.

Writes, for each member of the population, a folder
  <output_dir>/<pruning_method>/<fraction_pruned>/<begin>/<end>/<frequency>/
      <replicate>/
  model.ckpt-<step>.{index,data-...}  every --steps_per_checkpoint and at the
                                      end, under the original's variable names,
                                      with masks; masked weights are 0
  summaries/                          TensorBoard: loss, accuracy, learning
                                      rate, sparsity of each layer, images/s
  imagenet_train_eval.run.json        settings, seeds, versions, digests of the
                                      data, times, final metrics
  resume/                             what an interrupted run goes on from

One process trains the missing members one after another and traces the
training step once. A member that is finished is skipped; one that was
interrupted goes on from its last checkpoint, with the same flags only. A
member trained alone equals one trained among others: its seed is a function of
--seed, method, sparsity and replicate.

Thirty digit classifiers (dense, half and nine tenths pruned; 2 to 3 minutes on
two cores):

  python -m save_checkpoint.imagenet_train_eval \
      --data_directory=runs/digits/data \
      --output_dir=runs/digits/checkpoints/digits \
      --pruning_method=threshold --end_sparsity=0,0.5,0.9 --num_replicates=10 \
      --resnet_depth=18 --width=0.125 --train_batch_size=64 --train_steps=168 \
      --base_learning_rate=0.4 --warmup_epochs=1 --decay_epochs=8,11 \
      --sparsity_begin_step=28 --sparsity_end_step=147 --pruning_frequency=12

ImageNet as in the paper is the default: depth 50, 32,000 steps of 4,096
images, rate 1.6, cubic pruning from step 5,000 to 8,000 every 500.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tqdm
from absl import flags, logging
from etils import epath, epy

from save_checkpoint import learning_rate, pruning, training
from utils import (
  checkpoints,
  class_level_metrics,
  command_line,
  data_input,
  devices,
  image_records,
  inference,
  member_paths,
  paths,
  populations,
  preprocessing,
  provenance,
  resnet_model,
  shard_files,
  storage,
  tfrecords,
)

with epy.lazy_imports():
  import tensorflow as tf

FLAGS = flags.FLAGS
_SCRIPT = 'save_checkpoint.imagenet_train_eval'
# Where a run goes on: the latest state, and the one before, should the latest
# have been damaged.
_STATES_KEPT = 2
_POLL_SECONDS = 10
# All 1,024 shards differ where the data set is another.
_DIFFERENCES_NAMED = 8


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'eval', 'train_and_eval'],
    'train: make the missing members. eval: evaluate the checkpoints of '
    'finished and unfinished members. train_and_eval: train, and evaluate '
    'each checkpoint when it is written.',
  )
  flags.DEFINE_string(
    'data_directory', '', 'TFRecord shards: folder, glob, or a list of files.'
  )
  flags.DEFINE_string(
    'output_dir', '', 'Folder of the experiment; its name is the experiment.'
  )
  # The population.
  flags.DEFINE_enum(
    'pruning_method',
    populations.BASELINE,
    [populations.BASELINE, *pruning.METHODS],
    'How weights are pruned; baseline prunes none.',
  )
  flags.DEFINE_list(
    'end_sparsity',
    '0.1',
    'Fractions of the weights of each convolution that are zero at the end, '
    'each in [0, 1); 0 is a baseline member.',
  )
  flags.DEFINE_integer(
    'num_replicates', 1, 'Members for each sparsity.', lower_bound=1
  )
  flags.DEFINE_integer(
    'first_replicate',
    0,
    'Index of the first of them, to spread members over machines.',
    lower_bound=0,
  )
  flags.DEFINE_integer('seed', 0, 'Of the whole population.', lower_bound=0)
  # The network.
  flags.DEFINE_enum(
    'resnet_depth',
    '50',
    [str(depth) for depth in resnet_model.DEPTHS],
    'Number of layers.',
  )
  flags.DEFINE_float('width', 1.0, 'Factor on the number of filters.')
  # Optimisation.
  flags.DEFINE_integer(
    'train_steps', 32000, 'Optimiser steps of each member.', lower_bound=1
  )
  flags.DEFINE_integer(
    'train_batch_size',
    4096,
    'Images a step, over all devices. The learning rate scales with it.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'eval_batch_size', 1024, 'Images a batch in evaluation.', lower_bound=1
  )
  flags.DEFINE_float(
    'base_learning_rate',
    learning_rate.BASE_LEARNING_RATE,
    'Learning rate for a batch of 256 images, after the warm-up.',
  )
  flags.DEFINE_float(
    'warmup_epochs', 5, 'Epochs of linear warm-up from 0; 0 is off.'
  )
  flags.DEFINE_list(
    'decay_epochs', '30,60,80', 'Epochs at which the rate falls to a tenth.'
  )
  flags.DEFINE_float(
    'label_smoothing',
    0.1,
    'Share of the target spread over all classes, in [0, 1); 0 is off.',
  )
  flags.DEFINE_float(
    'weight_decay',
    1e-4,
    'Factor on sum(v^2) / 2 over the weights that are not batch '
    "normalisation's; 0 is off.",
  )
  flags.DEFINE_enum(
    'precision',
    'float32',
    inference.PRECISIONS,
    'Of the convolutions; variables are float32.',
  )
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'legacy: the grid of TensorFlow 1, as the original; modern: '
    'half-pixel centres.',
  )
  flags.DEFINE_boolean(
    'deterministic',
    False,
    'Ask TensorFlow for deterministic operations; slower on GPUs.',
  )
  # Pruning.
  flags.DEFINE_integer(
    'sparsity_begin_step', 5000, 'Optimiser step of the first mask update.'
  )
  flags.DEFINE_integer(
    'sparsity_end_step',
    8000,
    'Optimiser step of the last mask update, which reaches end_sparsity; '
    'below train_steps.',
  )
  flags.DEFINE_integer(
    'pruning_frequency', 500, 'Optimiser steps between mask updates.'
  )
  flags.DEFINE_integer(
    'block_height',
    1,
    'Height of the blocks of 1x1 kernels that threshold prunes together; '
    '1 is single weights.',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'block_width', 1, 'Width of these blocks.', lower_bound=1
  )
  # Files.
  flags.DEFINE_integer(
    'steps_per_checkpoint', 1000, 'Optimiser steps between checkpoints.'
  )
  flags.DEFINE_integer(
    'keep_checkpoints', 5, 'Latest checkpoints of a member that are kept.'
  )
  flags.DEFINE_integer(
    'steps_per_summary', 300, 'Optimiser steps between summaries.'
  )
  flags.DEFINE_integer(
    'eval_timeout_seconds',
    0,
    'In mode eval, how long to wait for a new checkpoint of an unfinished '
    'member; 0 evaluates what is there.',
  )
  flags.DEFINE_boolean(
    'verify_data',
    False,
    'Read all shards before training and compare their SHA-256 with those in '
    'image_records.json. Off: their sizes are compared, and the checksums of '
    'records as they are read.',
  )
  flags.DEFINE_boolean(
    'keep_data_in_memory',
    False,
    'Read the training data once and keep the encoded images in memory (138 '
    'GB for ImageNet), which spares a bucket all epochs but the first.',
  )
  # Devices.
  flags.DEFINE_string(
    'tpu', '', "Name of a Cloud TPU, or 'local' on a TPU VM; '' for none."
  )
  flags.DEFINE_string(
    'gcp_project', '', "Project of a named TPU; '' for the environment's."
  )
  flags.DEFINE_string(
    'tpu_zone', '', "Zone of a named TPU; '' for the environment's."
  )
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Train a small network for a few steps on synthetic images instead of '
    '--data_directory: runs in seconds.',
  )


@dataclasses.dataclass(frozen=True)
class Settings:
  """All that decides what a member's numbers are, beside its identity.

  Attributes carry the names and the units of the flags.
  """

  resnet_depth: int = 50
  width: float = 1.0
  train_steps: int = 32000
  train_batch_size: int = 4096
  base_learning_rate: float = learning_rate.BASE_LEARNING_RATE
  warmup_epochs: float = 5
  decay_epochs: tuple[float, ...] = (30, 60, 80)
  label_smoothing: float = 0.1
  weight_decay: float = 1e-4
  precision: str = 'float32'
  preprocessing: str = 'legacy'
  block_height: int = 1
  block_width: int = 1
  seed: int = 0

  def __post_init__(self):
    inference.check_label_smoothing(self.label_smoothing)
    if not 0 <= self.weight_decay < math.inf:
      raise ValueError(f'weight_decay is {self.weight_decay}, wanted 0 or more')


@dataclasses.dataclass(frozen=True)
class Output:
  """Which files training writes, and when; changes no number.

  Attributes carry the names and the units of the flags.
  """

  steps_per_checkpoint: int = 1000
  keep_checkpoints: int = 5
  steps_per_summary: int = 300

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 1:
        raise ValueError(
          f'{field.name} is {getattr(self, field.name)}, wanted 1 or more'
        )


def population(
  experiment: str,
  pruning_method: str,
  end_sparsity: Sequence[float],
  replicates: Sequence[int],
  begin_step: int,
  end_step: int,
  frequency: int,
) -> list[member_paths.Member]:
  """The members to train, replicate by replicate.

  Raises:
    ValueError: a sparsity is outside [0, 1), or repeated, or not 0 for a
      baseline.
  """
  if not end_sparsity or len(set(end_sparsity)) < len(end_sparsity):
    raise ValueError(
      f'end_sparsity is {list(end_sparsity)}, wanted different numbers'
    )
  members = []
  for replicate in replicates:
    for fraction in end_sparsity:
      if pruning_method == populations.BASELINE and fraction:
        raise ValueError(
          f'pruning_method is {populations.BASELINE} and end_sparsity '
          f'{fraction}, wanted 0, or another method'
        )
      if not 0 <= fraction < 1:
        raise ValueError(
          f'end_sparsity is {fraction}, wanted a number in [0, 1)'
        )
      pruned = (pruning_method, fraction, begin_step, end_step, frequency)
      dense = (populations.BASELINE, 0.0, 0, 0, 0)
      members.append(
        member_paths.Member(
          experiment, *(pruned if fraction else dense), replicate
        )
      )
  return members


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
  return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:5], 'big')


class MemberRun:
  """The files of a member in training."""

  def __init__(
    self,
    output_dir: str,
    member: member_paths.Member,
    settings: Settings,
    data: dict[str, object],
  ):
    """Opens a member's folder.

    Args:
      output_dir: folder of the experiment.
      member: whose.
      settings: as this run has them.
      data: what identifies the training data.

    Raises:
      ValueError: the folder holds a run with other settings; names them.
    """
    self.member = member
    self.folder = member_paths.folder_of(output_dir, member)
    self._settings = {
      **dataclasses.asdict(settings),
      'decay_epochs': list(settings.decay_epochs),
      'data': data,
    }
    self._file = paths.provenance(self.folder, 'settings')
    if storage.exists(self._file):
      before = provenance.read(self._file)
      differ = _differences(before, self._settings)
      if len(differ) > _DIFFERENCES_NAMED:
        differ[_DIFFERENCES_NAMED:] = [
          f'and {len(differ) - _DIFFERENCES_NAMED} more'
        ]
      if differ:
        raise ValueError(
          f'{self.folder} was made with other settings: {"; ".join(differ)}. '
          'Use the same flags to go on, or another --output_dir.'
        )

  def start(self) -> None:
    """Records the settings, before the first file that depends on them."""
    if not devices.is_chief():
      return
    text = json.dumps(self._settings, indent=1, sort_keys=True)
    storage.write_complete(self._file, text + '\n')

  def is_finished(self, train_steps: int) -> bool:
    """Whether the last checkpoint is there, and the record of its making."""
    prefix = member_paths.prefix_in(self.folder, train_steps)
    record = paths.provenance(self.folder, _SCRIPT.rsplit('.', 1)[-1])
    return storage.exists(f'{prefix}.index') and storage.exists(record)

  def _states(self) -> list[tuple[int, str]]:
    return _bundles(paths.resume_folder(self.folder), 'state-')

  def last_good(self, step: int) -> str:
    """Says which checkpoint is the last one before a step."""
    before = [
      p
      for s, p in _bundles(self.folder, member_paths.CHECKPOINT_NAME)
      if s < step
    ]
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
    network = trainer.network(
      self.member.pruning_method != populations.BASELINE
    )
    for name, value in network.values.items():  # noqa: PD011
      if not np.isfinite(value).all():
        raise ValueError(
          f'{self.folder}: {name} is not finite after step {step}; '
          f'{self.last_good(step)}'
        )
    state = trainer.state()  # All workers read, for moving averages are means.
    if not devices.is_chief():
      return
    checkpoints.write(member_paths.prefix_in(self.folder, step), network)
    if not is_last:
      folder = epath.Path(paths.resume_folder(self.folder))
      checkpoints.write_bundle(str(folder / f'state-{step}'), state)
    for _, prefix in self._states()[:-_STATES_KEPT]:
      _remove_bundle(prefix)
    for _, prefix in _bundles(self.folder, member_paths.CHECKPOINT_NAME)[
      :-keep_checkpoints
    ]:
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
      logging.info('%s goes on from step %d', self.folder, step)
      return True
    if states:
      raise ValueError(
        f'{paths.resume_folder(self.folder)}: none of {len(states)} states can '
        'be read; remove the folder to train the member from the start'
      )
    return False

  def finish(self) -> None:
    """Removes what only an unfinished member needs."""
    folder = epath.Path(paths.resume_folder(self.folder))
    if folder.exists():
      folder.rmtree()


def _differences(
  before: dict[str, object], now: dict[str, object], prefix: str = ''
) -> list[str]:
  """Says of each setting that differs what it was and what it is."""
  found = []
  for name in sorted({*before, *now}):
    one, other = before.get(name), now.get(name)
    if isinstance(one, dict) and isinstance(other, dict):
      found += _differences(one, other, f'{prefix}{name} ')
    elif one != other:
      found.append(f'{prefix}{name} was {one!r} and is {other!r}')
  return found


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


def _boundaries(
  start: int, settings: Settings, output: Output, update_steps: Sequence[int]
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


def train_member(
  trainer: training.Trainer,
  reader: data_input.TrainingReader,
  run_files: MemberRun,
  settings: Settings,
  output: Output,
  rates: np.ndarray,
  steps_per_epoch: float,
  strategy: tf.distribute.Strategy,
  evaluator: Evaluator | None,
  progress: tqdm.tqdm,
) -> dict[str, float]:
  """Trains one member to its end.

  Args:
    trainer: the network; reset or restored here.
    reader: its images.
    run_files: its folder.
    settings: what decides its numbers.
    output: which files are written.
    rates: [train_steps] learning rate.
    steps_per_epoch: optimiser steps an epoch.
    strategy: where it runs.
    evaluator: evaluates each checkpoint, unless it is None.
    progress: bar that counts steps.

  Returns:
    The last summaries, by name, and the last evaluation's.

  Raises:
    ValueError: the loss is not finite, or a layer has missed its sparsity.
  """
  member = run_files.member
  seed = member_seed(settings.seed, member)
  run_files.start()
  if not run_files.restore(trainer):
    trainer.reset(seed)
  schedule = None
  if member.pruning_method != populations.BASELINE:
    schedule = pruning.Schedule(
      member.fraction_pruned,
      member.begin_step,
      member.end_step,
      member.pruning_frequency,
    )
  updates = set(schedule.steps if schedule else ())
  start = trainer.step
  progress.update(start)
  batches = iter(
    strategy.distribute_datasets_from_function(
      lambda context: reader.read(seed, start, context)
    )
  )
  writer = (
    tf.summary.create_file_writer(paths.summaries(run_files.folder))
    if devices.is_chief()
    else tf.summary.create_noop_writer()
  )
  done, summaries, sums, counted, seconds = start, {}, np.zeros(2), 0, 0.0
  with writer.as_default():
    for boundary in _boundaries(start, settings, output, sorted(updates)):
      steps = boundary - done
      since = time.monotonic()
      loss, accuracy, finite = trainer.train(batches, steps)
      seconds += time.monotonic() - since
      if finite < steps:
        raise ValueError(
          f'{run_files.folder}: the loss is not finite at step '
          f'{done + finite + 1}; {run_files.last_good(done + finite)}'
        )
      sums += np.multiply((loss, accuracy), steps)
      counted += steps
      done = boundary
      progress.update(steps)
      if done - 1 in updates:
        trainer.update_masks(schedule.sparsity(done - 1), seed)
      is_last = done == settings.train_steps
      if done % output.steps_per_summary == 0 or is_last:
        loss, accuracy = sums / counted
        summaries = {
          'loss': loss,
          'accuracy': accuracy,
          'learning_rate': float(rates[done - 1]),
          'current_epoch': done / steps_per_epoch,
          'images_per_second': counted * settings.train_batch_size / seconds,
        }
        sparsity, layers = trainer.sparsity()
        _write_scalars({**summaries, 'sparsity': sparsity}, done)
        _write_scalars({f'sparsity/{n}': v for n, v in layers.items()}, done)
        progress.set_postfix(
          loss=f'{loss:.3f}', accuracy=f'{accuracy:.3f}', refresh=False
        )
        sums, counted, seconds = np.zeros(2), 0, 0.0
      if is_last:
        _check_sparsity(trainer, member, settings, run_files.folder)
      if done % output.steps_per_checkpoint == 0 or is_last:
        writer.flush()  # A later run goes on from here.
        run_files.save(trainer, output.keep_checkpoints, is_last)
        if evaluator and devices.is_chief():
          prefix = member_paths.prefix_in(run_files.folder, done)
          evaluated = evaluator.evaluate(prefix)
          _write_scalars(evaluated, done)
          summaries.update(evaluated)
  writer.close()
  return {name: float(value) for name, value in summaries.items()}


def _write_scalars(scalars: dict[str, float], step: int) -> None:
  for name, value in scalars.items():
    tf.summary.scalar(name, value, step=step)


def _check_sparsity(
  trainer: training.Trainer,
  member: member_paths.Member,
  settings: Settings,
  folder: str,
) -> None:
  """Counts the survivors of every layer before they are exported."""
  if (settings.block_height, settings.block_width) != (1, 1):
    return  # Blocks at the edge of a kernel hold fewer weights.
  network = trainer.network(
    masked=member.pruning_method != populations.BASELINE
  )
  if not network.is_masked:
    return
  for conv in resnet_model.conv_layers(network.architecture):
    name = f'{resnet_model.SCOPE}{conv.name}/mask'
    mask = network.values[name]  # noqa: PD011
    wanted = pruning.survivors(conv.size, member.fraction_pruned)
    if np.count_nonzero(mask) != wanted:
      raise ValueError(
        f'{folder}: {conv.name} keeps {np.count_nonzero(mask)} of {conv.size} '
        f'weights, wanted {wanted}'
      )


def run(
  mode: str,
  data_directory: str,
  output_dir: str,
  pruning_method: str,
  end_sparsity: Sequence[float],
  replicates: Sequence[int],
  schedule: tuple[int, int, int],
  settings: Settings,
  output: Output,
  eval_batch_size: int,
  deterministic: bool,
  tpu: tuple[str, str, str],
  eval_timeout_seconds: int,
  verify_data: bool = False,
  keep_data_in_memory: bool = False,
) -> None:
  """Trains and evaluates a population.

  Args:
    mode: 'train', 'eval' or 'train_and_eval'.
    data_directory: TFRecord shards.
    output_dir: folder of the experiment.
    pruning_method: of the members with a sparsity above 0.
    end_sparsity: fractions, one level each.
    replicates: indices of the members of each level.
    schedule: first and last step of mask updates, and steps between.
    settings: what decides the members' numbers.
    output: which files are written.
    eval_batch_size: images a batch in evaluation.
    deterministic: whether TensorFlow's operations are to be deterministic.
    tpu: name, project and zone of a TPU, or empty.
    eval_timeout_seconds: how long mode eval waits for a new checkpoint.
    verify_data: whether the digests of the training data are compared.
    keep_data_in_memory: whether the training data are read once only.
  """
  if not output_dir:
    raise ValueError('--output_dir is empty, wanted a folder')
  members = population(
    epath.Path(output_dir).name,
    pruning_method,
    end_sparsity,
    replicates,
    *schedule,
  )
  if any(member.fraction_pruned for member in members):
    pruning.Schedule(max(end_sparsity), *schedule)
    if schedule[1] >= settings.train_steps:
      raise ValueError(
        f'sparsity_end_step is {schedule[1]}, wanted below train_steps='
        f'{settings.train_steps}: the target would not be reached'
      )
  _refuse_local_paths(tpu[0], data_directory, output_dir)
  if deterministic:
    tf.config.experimental.enable_op_determinism()
  # Before anything is computed, as workers that find each other must be.
  strategy = devices.strategy(*tpu, with_workers=mode != 'eval')
  evaluator = None
  if mode != 'train':
    # The chief evaluates alone, while the others wait.
    place = devices.strategy() if devices.num_workers() > 1 else strategy
    evaluator = Evaluator(data_directory, settings, eval_batch_size, place)
  if mode == 'eval':
    for member in members:
      folder = member_paths.folder_of(output_dir, member)
      evaluator.follow(folder, settings.train_steps, eval_timeout_seconds)
    return
  if settings.train_batch_size % strategy.num_replicas_in_sync:
    raise ValueError(
      f'train_batch_size is {settings.train_batch_size}, wanted a multiple of '
      f'the {strategy.num_replicas_in_sync} devices'
    )
  shards = image_records.find_shards(data_directory, 'train')
  records = tfrecords.describe(shards)
  if verify_data:
    logging.info('comparing the SHA-256 of %d shards', len(shards))
    shard_files.check_digests(shards, records)
  num_images = _num_images(shards, records)
  data = {
    'name': records.name,
    'num_images': num_images,
    'shards': {
      storage.name(shard): _identity(shard, records) for shard in shards
    },
  }
  runs = [MemberRun(output_dir, member, settings, data) for member in members]
  missing = [r for r in runs if not r.is_finished(settings.train_steps)]
  logging.info(
    '%d of %d members are finished', len(runs) - len(missing), len(runs)
  )
  for run_files in runs:
    if run_files not in missing and devices.is_chief():
      run_files.finish()  # A kill may have come before it.
  if not missing:
    return
  rates = learning_rate.learning_rates(
    settings.train_steps,
    settings.train_batch_size,
    num_images,
    settings.warmup_epochs,
    settings.decay_epochs,
    settings.base_learning_rate,
  )
  trainer = training.Trainer(
    strategy,
    resnet_model.Architecture(
      settings.resnet_depth, settings.width, records.num_classes
    ),
    records,
    rates,
    batch_size=settings.train_batch_size,
    label_smoothing=settings.label_smoothing,
    weight_decay=settings.weight_decay,
    precision=settings.precision,
    pruning_method=pruning_method,
    block_size=(settings.block_height, settings.block_width),
  )
  reader = data_input.TrainingReader(
    shards,
    num_images,
    records,
    tfrecords.detect(shards),
    settings.preprocessing,
    settings.train_batch_size,
    keep_data_in_memory,
  )
  with tqdm.tqdm(
    desc='training',
    unit=' steps',
    total=len(missing) * settings.train_steps,
    mininterval=1.0,
    dynamic_ncols=True,
  ) as progress:
    for number, run_files in enumerate(missing, 1):
      started = time.monotonic()
      progress.set_description(f'training member {number} of {len(missing)}')
      try:
        final = train_member(
          trainer,
          reader,
          run_files,
          settings,
          output,
          rates,
          num_images / settings.train_batch_size,
          strategy,
          evaluator,
          progress,
        )
      except tf.errors.ResourceExhaustedError as error:
        raise OSError(f'{run_files.folder}: {error.message}') from None
      except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise OSError(
          f'{run_files.folder}: another worker stopped; the same command on '
          f'all of them goes on: {error.message}'
        ) from None
      except tf.errors.OpError:
        reader.find_fault()
        raise
      if not devices.is_chief():
        devices.wait_for_workers(strategy)
        continue
      provenance.write(
        run_files.folder,
        _SCRIPT,
        [paths.image_records(epath.Path(shards[0]).parent)]
        if records.splits
        else [],
        member=dataclasses.asdict(run_files.member),
        member_seed=member_seed(settings.seed, run_files.member),
        devices=devices.describe(),
        data=data,
        deterministic=deterministic,
        training_seconds=round(time.monotonic() - started, 1),
        final_metrics=final,
      )
      run_files.finish()
      devices.wait_for_workers(strategy)


def _refuse_local_paths(tpu: str, *folders: str) -> None:
  for folder in folders:
    if tpu not in ('', 'local') and not folder.startswith('gs://'):
      raise ValueError(
        f'{folder} is a local path, which the TPU {tpu} cannot reach: copy it '
        'to a bucket (gs://...), or run on the TPU VM with --tpu=local'
      )


def _identity(path: str, records: image_records.ImageRecords) -> str | int:
  """The declared SHA-256 of a shard, or its size where none is declared."""
  declared = records.shard(storage.name(path))
  return (declared and declared.sha256) or tf.io.gfile.stat(path).length


def _num_images(
  shards: Sequence[str], records: image_records.ImageRecords
) -> int:
  declared = [records.shard(storage.name(shard)) for shard in shards]
  if all(declared):
    return sum(shard.examples for shard in declared)
  logging.warning(
    'no declared counts: counting the records of %d shards', len(shards)
  )
  return sum(1 for shard in shards for _ in shard_files.read_records(shard))


class Evaluator:
  """Evaluates checkpoints on the evaluation split; traced once."""

  def __init__(
    self,
    data_directory: str,
    settings: Settings,
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
      strategy=strategy,
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
      for step, prefix in _bundles(folder, member_paths.CHECKPOINT_NAME):
        if step in seen:
          continue
        seen.add(step)
        try:
          scalars = self.evaluate(prefix)
        except (OSError, ValueError):
          if storage.exists(f'{prefix}.index'):
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
          _write_scalars(scalars, step)
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


def _numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
  try:
    return tuple(float(text) for text in texts if text.strip())
  except ValueError:
    raise ValueError(
      f'--{name} is {",".join(texts)!r}, wanted numbers separated by commas'
    ) from None


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  settings = Settings(
    resnet_depth=int(FLAGS.resnet_depth),
    decay_epochs=_numbers('decay_epochs', FLAGS.decay_epochs),
    **{
      field.name: FLAGS[field.name].value
      for field in dataclasses.fields(Settings)
      if field.name not in ('resnet_depth', 'decay_epochs')
    },
  )
  end_sparsity = _numbers('end_sparsity', FLAGS.end_sparsity)
  if FLAGS['end_sparsity'].using_default_value and (
    FLAGS.pruning_method == populations.BASELINE
  ):
    end_sparsity = (0.0,)
  schedule = (
    FLAGS.sparsity_begin_step,
    FLAGS.sparsity_end_step,
    FLAGS.pruning_frequency,
  )
  data_directory = FLAGS.data_directory
  if FLAGS.test_small_sample:
    data_directory = data_input.synthetic_data_set(
      str(epath.Path(FLAGS.output_dir).parent / 'test_small_sample')
    )
    settings = dataclasses.replace(
      settings,
      resnet_depth=18,
      width=0.25,
      train_steps=10,
      train_batch_size=4,
    )
    schedule = (2, 8, 2)
  run(
    FLAGS.mode,
    data_directory,
    FLAGS.output_dir,
    FLAGS.pruning_method,
    end_sparsity,
    range(FLAGS.first_replicate, FLAGS.first_replicate + FLAGS.num_replicates),
    schedule,
    settings,
    Output(
      FLAGS.steps_per_checkpoint,
      FLAGS.keep_checkpoints,
      FLAGS.steps_per_summary,
    ),
    FLAGS.eval_batch_size,
    FLAGS.deterministic,
    (FLAGS.tpu, FLAGS.gcp_project, FLAGS.tpu_zone),
    FLAGS.eval_timeout_seconds,
    FLAGS.verify_data,
    FLAGS.keep_data_in_memory,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
