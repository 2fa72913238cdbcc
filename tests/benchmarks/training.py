"""How fast a training step is, beside tf_keras's ResNet-50 in `fit`.

  python -m tests.benchmarks.training [--batch_size=16] [--rounds=7]

Both train a ResNet-50 at 224x224 with Nesterov momentum on the same synthetic
images, three steps in turn, since `fit` takes a while to begin. A ratio is the
median over rounds of the ratio of two times of one round, by the clock and by
the processors' time, which others on the machine touch less. Ours also has
weight decay, label smoothing and masks, and strides in the 3x3 convolutions,
which costs 6 % more multiplications than the application's. Prints

  images/s of the dense and the pruned step, in float32 and bfloat16, and of
  the application's, and their ratios
  seconds of a mask update, and of the toolkit's own on the same weights
  images/s of the input pipeline alone, on photographs, and of one core that
  only decodes them
"""

import collections
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags
from tensorflow_model_optimization.python.core.sparsity.keras import (
  pruning_impl,
  pruning_schedule,
)

from save_checkpoint import training, training_settings
from tests import reference_values
from utils import (
  data_input,
  devices,
  image_records,
  paths,
  preprocessing,
  resnet_model,
  shard_files,
  tfrecords,
)

FLAGS = flags.FLAGS
_SPARSITY = 0.9
_STEPS = 3  # Timed together.
_CLASSES = 1000


def seconds(function) -> float:
  """Time of a call."""
  return both_times(function)[0]


def both_times(function) -> tuple[float, float]:
  """Seconds of a call, by the clock and of all processors together."""
  start = time.perf_counter(), time.process_time()
  function()
  return time.perf_counter() - start[0], time.process_time() - start[1]


def synthetic_batches(batch_size: int) -> tf.data.Dataset:
  """The same images again and again, so that no pipeline is measured."""
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 255, (batch_size, 224, 224, 3)).astype(np.float32)
  labels = rng.integers(0, _CLASSES, batch_size)
  return tf.data.Dataset.from_tensors((images, labels)).cache().repeat()


def make_trainer(precision: str, batch_size: int) -> training.Trainer:
  """Our ResNet-50, as ImageNet is trained."""
  return training.Trainer(
    devices.strategy(),
    image_records.imagenet(),
    np.full(10_000, 0.01, np.float32),
    training_settings.Settings(
      train_batch_size=batch_size, precision=precision
    ),
    'threshold',
  )


def make_application() -> tf_keras.Model:
  """tf_keras's ResNet-50, with the same optimiser."""
  model = tf_keras.applications.ResNet50(
    weights=None, classes=_CLASSES, classifier_activation=None
  )
  model.compile(
    tf_keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
  )
  return model


def step_times(batch_size: int, rounds: int) -> dict[str, np.ndarray]:
  """What is trained -> [rounds, 2] `both_times` of some steps."""
  data = synthetic_batches(batch_size)
  application = make_application()
  trainers = {
    precision: make_trainer(precision, batch_size)
    for precision in ('float32', 'bfloat16')
  }

  def fit():
    application.fit(data, steps_per_epoch=_STEPS, verbose=0)

  batches = iter(data)
  fit()  # The first call traces.
  for trainer in trainers.values():
    trainer.reset(seed=0)
    trainer.train(batches, 1)
  times = collections.defaultdict(list)
  for number in range(rounds):
    times['application'].append(both_times(fit))
    for kind, sparsity in (('dense', 0.0), ('pruned', _SPARSITY)):
      for precision, trainer in trainers.items():
        trainer.update_masks(sparsity, seed=number)
        times[f'{precision} {kind}'].append(
          both_times(lambda t=trainer: t.train(batches, _STEPS))
        )
  return {name: np.array(values) for name, values in times.items()}


def mask_update_times(rounds: int) -> tuple[float, float]:
  """Median seconds of a mask update of a ResNet-50: ours, the toolkit's."""
  trainer = make_trainer('float32', 1)
  trainer.reset(seed=0)
  values = trainer.state()
  triples = []
  for conv in resnet_model.conv_layers(
    resnet_model.Architecture(50, 1.0, _CLASSES)
  ):
    weights = tf.Variable(values[f'{resnet_model.SCOPE}{conv.name}/weights'])
    triples.append(
      (weights, tf.Variable(tf.ones_like(weights)), tf.Variable(0.0))
    )
  toolkit = pruning_impl.Pruning(
    training_step_fn=lambda: tf.constant(0, tf.int64),
    pruning_vars=triples,
    pruning_schedule=pruning_schedule.ConstantSparsity(_SPARSITY, 0, -1, 1),
    block_size=(1, 1),
    block_pooling_type='AVG',
  )
  theirs = tf.function(toolkit.conditional_mask_update)
  times = []
  for number in range(rounds + 1):  # The first call traces.
    mine = seconds(lambda n=number: trainer.update_masks(_SPARSITY, n))
    times.append((mine, seconds(theirs)))
  kept = [float(tf.reduce_mean(mask)) for _, mask, _ in triples]
  assert abs(np.mean(kept) - (1 - _SPARSITY)) < 0.01, 'the toolkit pruned'
  ours, toolkit_times = zip(*times[1:], strict=True)
  return statistics.median(ours), statistics.median(toolkit_times)


def pipeline_rates(images: int) -> tuple[float, float]:
  """Images/s of the training pipeline, and of decoding alone on one core."""
  photographs = [
    (reference_values.FOLDER / 'jpeg' / name).read_bytes()
    for name in ('img0_500x375.jpg', 'img1_375x500.jpg')
  ]
  with tempfile.TemporaryDirectory() as folder:
    path = paths.shard(folder, 'train', 0, 1)
    shard_files.write(
      path,
      [
        tfrecords.encode(str(i), photographs[i % 2], i % _CLASSES)
        for i in range(2048)
      ],
    )
    reader = data_input.TrainingReader(
      [path],
      2048,
      image_records.imagenet(),
      tfrecords.detect([path]),
      'legacy',
      batch_size=32,
    )
    batches = iter(reader.read(0))
    for _ in range(4):
      next(batches)
    count = -(-images // 32)
    rate = 32 * count / seconds(lambda: [next(batches) for _ in range(count)])
  decode = tf.function(preprocessing.decode)
  decode(tf.constant(photographs[0]))
  alone = seconds(
    lambda: [decode(tf.constant(photographs[i % 2])) for i in range(128)]
  )
  return rate, 128 / alone


def main(argv):
  """Prints the figures."""
  del argv
  rate, decoding = pipeline_rates(FLAGS.pipeline_images)
  print(
    f'pipeline: {rate:.0f} images/s, {rate / decoding:.2f}x one core that '
    f'decodes whole images ({decoding:.0f} images/s)'
  )
  ours, toolkit = mask_update_times(FLAGS.rounds)
  print(
    f'mask update: {ours:.3f} s, {ours / toolkit:.2f}x the time of the '
    f"toolkit's ({toolkit:.3f} s)"
  )
  times = step_times(FLAGS.batch_size, FLAGS.rounds)
  for name, values in times.items():
    rate = _STEPS * FLAGS.batch_size / np.median(values[:, 0])
    print(f'{name}: {rate:.2f} images/s')
  for what, one, other in (
    ('float32, times as fast as the application', 'application', 'float32'),
    ('bfloat16, times as fast as the application', 'application', 'bfloat16'),
    ('bfloat16, times as fast as float32', 'float32 dense', 'bfloat16'),
  ):
    print_ratio(what, times[one], times[f'{other} dense'])
  for precision in ('float32', 'bfloat16'):
    print_ratio(
      f'{precision}, time of a pruned step over that of a dense one',
      times[f'{precision} pruned'],
      times[f'{precision} dense'],
    )


def print_ratio(what: str, one: np.ndarray, other: np.ndarray) -> None:
  """Prints the median ratio of times that were taken in turn."""
  clock, processors = np.median(one / other, axis=0)
  print(f'{what}: {clock:.2f} by the clock, {processors:.2f} by processor time')


if __name__ == '__main__':
  flags.DEFINE_integer('batch_size', 16, 'Images a step.', lower_bound=1)
  flags.DEFINE_integer('rounds', 7, 'Times of each kind, of which the median.')
  flags.DEFINE_integer('pipeline_images', 512, 'Images of the pipeline alone.')
  app.run(main)
