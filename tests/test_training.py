"""A network in training: closed forms of a step, devices, exports."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from save_checkpoint import training
from tests import train_small
from utils import (
  checkpoints,
  devices,
  folded_resnet,
  image_records,
  member_paths,
  resnet_model,
)

ARCHITECTURE = resnet_model.Architecture(18, 0.125, 10)
RECORDS = image_records.ImageRecords(
  'test', tuple('0123456789'), image_size=32, resize_size=32
)
KERNEL = 'resnet_model/final_dense/kernel'


def make_trainer(
  rates=(0.1, 0.2, 0.3, 0.4), pruning_method='threshold', **options
):
  return training.Trainer(
    devices.strategy(),
    RECORDS,
    np.asarray(rates, np.float32),
    dataclasses.replace(train_small.SETTINGS, **options),
    pruning_method,
  )


@pytest.fixture(scope='module')
def trainer():
  return make_trainer()


def batches(seed=0, count=100):
  rng = np.random.default_rng(seed)
  images = rng.uniform(0, 255, (count, 4, 32, 32, 3)).astype(np.float32)
  labels = rng.integers(0, 10, (count, 4))
  return (
    images,
    labels,
    iter(tf.data.Dataset.from_tensor_slices((images, labels))),
  )


def loss_of(values, images, labels):
  """Loss by a second implementation, plainly: no masks, tf.GradientTape."""

  def conv_batch_norm(x, conv):
    prefix = f'resnet_model/{conv.name}/'
    norm = f'resnet_model/{conv.batch_norm}/'
    x = resnet_model.conv2d(
      x, values[f'{prefix}weights'] * values[f'{prefix}mask'], conv
    )
    mean, variance = tf.nn.moments(x, (0, 1, 2))
    return tf.nn.batch_normalization(
      x,
      mean,
      variance,
      values[f'{norm}beta'],
      values[f'{norm}gamma'],
      resnet_model.BATCH_NORM_EPSILON,
    )

  def dense(x):
    return x @ values[KERNEL] + values['resnet_model/final_dense/bias']

  x = resnet_model.normalise(
    tf.constant(images), RECORDS.channel_mean, RECORDS.channel_std
  )
  logits = resnet_model.forward(x, ARCHITECTURE, conv_batch_norm, dense)
  log_p = tf.nn.log_softmax(logits)
  targets = 0.9 * np.eye(10, dtype=np.float32)[labels] + 0.01
  decayed = [
    value
    for name, value in values.items()
    if name.endswith(('/weights', 'final_dense/kernel', 'final_dense/bias'))
  ]
  return -tf.reduce_mean(tf.reduce_sum(targets * log_p, 1)) + 1e-4 * sum(
    tf.reduce_sum(value**2) / 2 for value in decayed
  )


def test_steps_follow_the_closed_form(trainer):
  """Two Nesterov steps, TensorFlow's form, against gradients taken plainly."""
  trainer.reset(seed=5)
  trainer.update_masks(0.5, seed=1)
  state = trainer.state()
  images, labels, iterator = batches()
  trained = [name for name in state if f'{name}/Momentum' in state]
  assert len(trained) == 21 + 2 * 21 + 2
  momentum = {name: np.zeros_like(state[name]) for name in trained}
  for step, rate in enumerate((0.1, 0.2)):
    values = {
      name: tf.Variable(value) if name in trained else tf.constant(value)
      for name, value in state.items()
      if name.startswith('resnet') and not name.endswith('Momentum')
    }
    with tf.GradientTape() as tape:
      loss = loss_of(values, images[step], labels[step])
    gradients = tape.gradient(loss, [values[name] for name in trained])
    loss_seen, *_ = trainer.train(iterator, 1)
    assert loss_seen == pytest.approx(float(loss), rel=1e-4)
    for name, gradient in zip(trained, gradients, strict=True):
      momentum[name] = 0.9 * momentum[name] + gradient.numpy()
      state[name] = state[name] - rate * (
        gradient.numpy() + 0.9 * momentum[name]
      )
    after = trainer.state()
    for name in trained:
      scale = np.abs(state[name]).max() + 1e-3
      assert np.abs(after[name] - state[name]).max() < 2e-3 * scale, name
    state = after
    momentum = {name: after[f'{name}/Momentum'] for name in trained}


def test_moving_averages_take_a_tenth_of_the_unbiased_moments(trainer):
  trainer.reset(seed=0)
  images, _, iterator = batches()
  weights = trainer.state()['resnet_model/initial_conv/weights']
  trainer.train(iterator, 1)
  after = trainer.state()
  conv = resnet_model.conv_layers(ARCHITECTURE)[0]
  x = resnet_model.conv2d(
    resnet_model.normalise(
      tf.constant(images[0]), RECORDS.channel_mean, RECORDS.channel_std
    ),
    weights,
    conv,
  ).numpy()
  x = x.reshape(-1, x.shape[-1])
  np.testing.assert_allclose(
    after['resnet_model/batch_normalization/moving_mean'],
    0.1 * x.mean(0),
    atol=1e-5,
  )
  np.testing.assert_allclose(
    after['resnet_model/batch_normalization/moving_variance'],
    0.9 + 0.1 * x.var(0, ddof=1),
    rtol=1e-4,
  )


def test_masked_weights_do_not_matter_but_are_decayed(trainer):
  trainer.reset(seed=0)
  trainer.update_masks(0.9, seed=0)
  before = trainer.state()
  name = 'resnet_model/initial_conv'
  masked = before[f'{name}/mask'] == 0
  _, _, iterator = batches()
  trainer.train(iterator, 1)
  after = trainer.state()
  # The gradient of a masked weight is its decay; the first rate is 0.1, and
  # Nesterov's step on a fresh accumulator is 1.9 gradients.
  np.testing.assert_allclose(
    after[f'{name}/weights'][masked],
    before[f'{name}/weights'][masked] * (1 - 0.1 * 1.9 * 1e-4),
    rtol=1e-6,
  )
  exported = trainer.network(masked=True).values[f'{name}/weights']
  assert not exported[masked].any() and exported[~masked].all()


def test_one_trace_serves_all_members():
  trainer = make_trainer()
  for seed, sparsity in ((0, 0.0), (1, 0.5), (2, 0.9)):
    trainer.reset(seed)
    _, _, iterator = batches()
    trainer.train(iterator, 1)
    trainer.update_masks(sparsity, seed)
    trainer.train(iterator, 2)
  assert trainer._train.experimental_get_tracing_count() == 1


def test_exports_have_the_originals_names(trainer):
  trainer.reset(seed=0)
  for masked in (True, False):
    network = trainer.network(masked)
    assert {name: v.shape for name, v in network.values.items()} == (
      resnet_model.variable_shapes(ARCHITECTURE, masked)
    )


@pytest.mark.parametrize('stem', resnet_model.STEMS)
def test_an_export_predicts_what_the_training_graph_computes(tmp_path, stem):
  """Given a batch's own moments, since training normalises by those."""
  trainer = make_trainer(stem=stem)
  trainer.reset(seed=3)
  images, _, iterator = batches()
  batch = tf.constant(images[9])
  trainer.train(iterator, 3)
  architecture = resnet_model.Architecture(18, 0.125, 10, stem)
  sizes = {}

  def conv_batch_norm(x, conv):
    x = resnet_model.conv2d(x, tf.zeros(conv.kernel_shape), conv)
    sizes[conv.batch_norm] = int(tf.size(x)) // conv.out_channels
    return x

  resnet_model.forward(batch, architecture, conv_batch_norm, tf.identity)
  for method, fraction in (('baseline', 0.0), ('threshold', 0.5)):
    trainer.update_masks(fraction, seed=1)
    moments = {}
    logits = trainer._forward(batch, moments)
    assert len(moments) == 2 * len(sizes)
    network = trainer.network(masked=bool(fraction))
    values = dict(network.values)
    for name, value in moments.items():
      # The variance that divides is not the unbiased one.
      count = sizes[name.split('/')[1]]
      unbiased = name.endswith('variance')
      values[name] = value.numpy() * ((count - 1) / count if unbiased else 1)
    schedule = (1, 2, 1) if fraction else (0, 0, 0)
    member = member_paths.Member('exp', method, fraction, *schedule, 0)
    prefix = member_paths.prefix_in(str(tmp_path / member.folder), 3)
    checkpoints.write(prefix, dataclasses.replace(network, values=values))
    opener = folded_resnet.Opener('float32', 4, devices.strategy())
    opened = opener.open(member_paths.parse(prefix))
    assert opened.architecture == architecture
    assert float(tf.math.reduce_std(logits)) > 0.1
    np.testing.assert_allclose(
      opened.scores(batch, RECORDS), logits, rtol=1e-3, atol=1e-4
    )


class CompilingStrategy(tf.distribute.OneDeviceStrategy):
  """What replicas run is compiled by XLA, as it is for TPUs."""

  def run(self, fn, args=(), kwargs=None, options=None):
    compiled = tf.function(fn, jit_compile=True)
    return super().run(compiled, args, kwargs, options)


def test_all_that_replicas_run_compiles_for_accelerators(monkeypatch):
  options = {'precision': 'bfloat16', 'pruning_method': 'random_cumulative'}
  plain = make_trainer(**options)
  compiling = CompilingStrategy('/CPU:0')
  monkeypatch.setattr(devices, 'strategy', lambda *_, **__: compiling)
  compiled = make_trainer(**options)
  losses = []
  for trainer in (plain, compiled):
    trainer.reset(seed=5)
    trainer.update_masks(0.9, seed=1)
    *_, iterator = batches()
    losses.append(trainer.train(iterator, 2)[0])
  assert losses[0] == pytest.approx(losses[1], rel=0.05)
  _, layers = compiled.sparsity()
  for conv in resnet_model.conv_layers(ARCHITECTURE):
    sparsity = 1 - round(0.1 * conv.size) / conv.size
    assert layers[conv.name] == pytest.approx(sparsity)


def test_the_number_of_devices_changes_neither_losses_nor_masks():
  results = []
  for number in (1, 4):
    printed = subprocess.run(
      [sys.executable, '-m', 'tests.train_on_devices', str(number)],
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    results.append(json.loads(printed.splitlines()[-1]))
  one, four = results
  assert four['masks'] == one['masks']
  # Sums in another order round otherwise, and the steps multiply that: to 2e-5
  # after six on one kind of processor, where the first agree to 1e-6.
  assert four['losses'] == pytest.approx(one['losses'], rel=5e-5)
