r"""Trains a population of ResNets, dense and pruned, evaluated as it goes.

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

and in <output_dir> an imagenet_train_eval.run.json of the command as a whole,
which says whether it has finished.

One process trains the missing members one after another and traces the
training step once (--members_at_once: so many at a time). A member that is
finished is skipped; one that was interrupted goes on from its last state, with
the same flags only: the last checkpoint's, or, after SIGTERM (exit code 143) or
Ctrl-C (130), that of the last step, saved before the process ends. A second
signal ends it at once. A member trained alone equals one trained among others:
its seed is a function of --seed, method, fraction pruned and replicate.

With --scheduler the workers of a Dask cluster train a member each, at the same
time; one that is told to end saves the member's last step, and others go on
there (docs/cluster.md).

Thirty digit classifiers (dense, half and nine tenths pruned; 1.2 minutes on
two cores):

  python -m save_checkpoint.imagenet_train_eval \
      --study=runs/digits --pruning_method=threshold \
      --end_sparsity=0,0.5,0.9 --num_replicates=10 \
      --resnet_depth=18 --width=0.125 --train_batch_size=64 --train_steps=168 \
      --members_at_once=3 --base_learning_rate=0.4 --warmup_epochs=1 \
      --decay_epochs=8,11 \
      --sparsity_begin_step=28 --sparsity_end_step=147 --pruning_frequency=12

ImageNet as in the paper is the default: depth 50, 32,000 steps of 4,096
images, rate 1.6, cubic pruning from step 5,000 to 8,000 every 500.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags, logging
from etils import epath

from save_checkpoint import (
  learning_rate,
  member_folder,
  population_training,
  pruning,
  training_settings,
)
from utils import (
  command_line,
  data_input,
  devices,
  inference,
  member_paths,
  populations,
  preprocessing,
  provenance,
  resnet_model,
  workers,
)

FLAGS = flags.FLAGS
_SCRIPT = 'save_checkpoint.imagenet_train_eval'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
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
  flags.DEFINE_enum(
    'stem',
    'imagenet',
    resnet_model.STEMS,
    'What stands before the residual blocks. imagenet: a 7x7 convolution of '
    'stride 2 and a pool, a quarter of the pixels in each direction; for '
    'images of 32 pixels and about, a 3x3 convolution without a pool.',
  )
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
  flags.DEFINE_enum(
    'decay',
    'steps',
    learning_rate.DECAYS,
    'How the rate falls after the warm-up. steps: at --decay_epochs; linear: '
    'to 0 at the end of training.',
  )
  flags.DEFINE_list(
    'decay_epochs',
    '30,60,80',
    'Epochs at which the rate falls to a tenth; of no effect with '
    '--decay=linear.',
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
    'GB for ImageNet), which spares a bucket all epochs but the first. On '
    'this machine they are kept in any case, decoded, where that takes 256 MB '
    'or less.',
  )
  # Devices.
  flags.DEFINE_integer(
    'members_at_once',
    1,
    'Members trained at the same time in this process, on one device; changes '
    'no bit. 0 is one more than the cores that TF_NUM_INTRAOP_THREADS, over '
    'how many an operation is split, leaves idle, and at most 8.',
    lower_bound=0,
  )
  flags.DEFINE_string(
    'tpu', '', "Name of a Cloud TPU, or 'local' on a TPU VM; '' for none."
  )
  flags.DEFINE_string(
    'gcp_project', '', "Project of a named TPU; '' for the environment's."
  )
  flags.DEFINE_string(
    'tpu_zone', '', "Zone of a named TPU; '' for the environment's."
  )
  command_line.define_scheduler(with_resource=True)
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Train a small network for a few steps on synthetic images instead of '
    '--data_directory: runs in seconds.',
  )


def population(
  experiment: str,
  pruning_method: str,
  fractions_pruned: Sequence[float],
  replicates: Sequence[int],
  schedule: tuple[int, int, int],
) -> list[member_paths.Member]:
  """The members to train, replicate by replicate.

  Args:
    experiment: the name of the study.
    pruning_method: of the members that are pruned.
    fractions_pruned: of their weights, a level each; 0 is a baseline.
    replicates: indices of the members of each level.
    schedule: first and last step of mask updates, and steps between.

  Raises:
    ValueError: a sparsity is outside [0, 1), or repeated, or not 0 for a
      baseline.
  """
  if not 0 < len(set(fractions_pruned)) == len(fractions_pruned):
    raise ValueError(
      f'end_sparsity is {list(fractions_pruned)}, wanted different numbers'
    )
  members = []
  for replicate in replicates:
    for fraction in fractions_pruned:
      if pruning_method == populations.BASELINE and fraction:
        raise ValueError(
          f'pruning_method is {populations.BASELINE} and end_sparsity '
          f'{fraction}, wanted 0, or another method'
        )
      if not 0 <= fraction < 1:
        raise ValueError(
          f'end_sparsity is {fraction}, wanted a number in [0, 1)'
        )
      identity = (
        (pruning_method, fraction, *schedule)
        if fraction
        else (*populations.DENSE, 0, 0, 0)
      )
      members.append(member_paths.Member(experiment, *identity, replicate))
  return members


def run(
  mode: str,
  data_directory: str,
  output_dir: str,
  members: Sequence[member_paths.Member],
  settings: training_settings.Settings,
  output: training_settings.Output,
  execution: training_settings.Execution,
  place: workers.Place = workers.HERE,
) -> None:
  """Trains and evaluates a population.

  Args:
    mode: 'train', 'eval' or 'train_and_eval'.
    data_directory: TFRecord shards.
    output_dir: folder of the experiment.
    members: the population, or the part of it that is trained here.
    settings: what decides the members' numbers.
    output: which files are written.
    execution: where and how the work is done.
    place: where members are trained: here, or a cluster's workers one each.
  """
  _check_schedules(members, settings.train_steps)
  _refuse_local_paths(execution.tpu, data_directory, output_dir)
  trainer = population_training.PopulationTrainer(
    mode,
    data_directory,
    next(
      (m.pruning_method for m in members if not m.level.is_dense),
      populations.BASELINE,
    ),
    settings,
    output,
    execution,
  )
  if not place.scheduler:
    # Before anything is computed, as workers that find each other must be.
    trainer.strategy  # noqa: B018
  elif devices.num_workers() > 1:
    raise ValueError(
      'TF_CONFIG names workers that train one member together, and --scheduler '
      'others that train one each: wanted one of the two'
    )
  if mode == 'eval':
    population_training.follow(trainer, output_dir, members, place)
    return
  identity = trainer.data.identity
  folders = [
    member_folder.MemberFolder(output_dir, member, _SCRIPT, settings, identity)
    for member in members
  ]
  missing = [folder for folder in folders if not folder.is_finished]
  number = len(folders) - len(missing)
  logging.info('%d of %d members are finished', number, len(folders))
  # Of the command; each member has a record of its own settings.
  record = provenance.Provenance(output_dir, _SCRIPT, {})
  if devices.is_chief():
    for folder in folders:
      if folder.is_finished:
        folder.tidy()  # A kill may have come before it.
    if missing or not record.is_finished:
      record.start()
  if missing:
    population_training.train(trainer, missing, settings.train_steps, place)
  if devices.is_chief():
    record.finish([])


def _check_schedules(
  members: Sequence[member_paths.Member], train_steps: int
) -> None:
  for member in members:
    if member.level.is_dense:
      continue
    pruning.Schedule(
      member.fraction_pruned,
      member.begin_step,
      member.end_step,
      member.pruning_frequency,
    )
    if member.end_step >= train_steps:
      raise ValueError(
        f'sparsity_end_step is {member.end_step}, wanted below train_steps='
        f'{train_steps}: the target would not be reached'
      )


def _refuse_local_paths(tpu: str, *folders: str) -> None:
  for folder in folders:
    if tpu not in ('', 'local') and not folder.startswith('gs://'):
      raise ValueError(
        f'{folder} is a local path, which the TPU {tpu} cannot reach: copy it '
        'to a bucket (gs://...), or run on the TPU VM with --tpu=local'
      )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  required = {'output_dir': 'checkpoints'}
  if not FLAGS.test_small_sample:
    required['data_directory'] = 'data'
  command_line.with_study(FLAGS, required)
  settings = command_line.options(
    FLAGS,
    training_settings.Settings,
    resnet_depth=int(FLAGS.resnet_depth),
    decay_epochs=command_line.numbers('decay_epochs', FLAGS.decay_epochs),
  )
  fractions_pruned = command_line.numbers('end_sparsity', FLAGS.end_sparsity)
  if FLAGS['end_sparsity'].using_default_value and (
    FLAGS.pruning_method == populations.BASELINE
  ):
    fractions_pruned = (0.0,)
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
  members = population(
    epath.Path(FLAGS.output_dir).name,
    FLAGS.pruning_method,
    fractions_pruned,
    range(FLAGS.first_replicate, FLAGS.first_replicate + FLAGS.num_replicates),
    schedule,
  )
  run(
    FLAGS.mode,
    data_directory,
    FLAGS.output_dir,
    members,
    settings,
    command_line.options(FLAGS, training_settings.Output),
    command_line.options(FLAGS, training_settings.Execution),
    workers.Place(scheduler=FLAGS.scheduler, resource=FLAGS.worker_resource),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
