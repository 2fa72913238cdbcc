"""Training: closed forms of a step, exact resumption, exact sparsity."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from save_checkpoint import (
  build_image_data,
  imagenet_train_eval,
  learning_rate,
  training,
)
from utils import (
  checkpoints,
  data_input,
  devices,
  image_records,
  inference,
  member_paths,
  paths,
  resnet_model,
  shard_files,
  storage,
)

ARCHITECTURE = resnet_model.Architecture(18, 0.125, 10)
RECORDS = image_records.ImageRecords(
  'test', tuple('0123456789'), image_size=32, resize_size=32
)
SETTINGS = imagenet_train_eval.Settings(
  resnet_depth=18,
  width=0.125,
  train_steps=12,
  train_batch_size=4,
  warmup_epochs=0,
  decay_epochs=(1, 2),
)
SCHEDULE = (2, 8, 3)
KERNEL = 'resnet_model/final_dense/kernel'


def make_trainer(rates=(0.1, 0.2, 0.3, 0.4), **options):
  defaults = {
    'batch_size': 4,
    'label_smoothing': 0.1,
    'weight_decay': 1e-4,
    'precision': 'float32',
    'pruning_method': 'threshold',
    'block_size': (1, 1),
  }
  return training.Trainer(
    devices.strategy(),
    ARCHITECTURE,
    RECORDS,
    np.asarray(rates, np.float32),
    **defaults | options,
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
  assert trainer._update_masks.experimental_get_tracing_count() == 1


def test_exports_have_the_originals_names(trainer):
  trainer.reset(seed=0)
  for masked in (True, False):
    network = trainer.network(masked)
    assert {name: v.shape for name, v in network.values.items()} == (
      resnet_model.variable_shapes(ARCHITECTURE, masked)
    )


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


def train(folder, data, **options):
  arguments = {
    'mode': 'train',
    'data_directory': data,
    'output_dir': str(folder / 'exp'),
    'pruning_method': 'threshold',
    'end_sparsity': (0.0, 0.9),
    'replicates': [0],
    'schedule': SCHEDULE,
    'settings': SETTINGS,
    'output': imagenet_train_eval.Output(),
    'eval_batch_size': 8,
    'deterministic': False,
    'tpu': ('', '', ''),
    'eval_timeout_seconds': 0,
  }
  imagenet_train_eval.run(**arguments | options)
  return {
    checkpoint.member: checkpoints.read(checkpoint.prefix)
    for checkpoint in member_paths.find(str(folder))
  }


def assert_equal_networks(one, other):
  assert one.global_step == other.global_step
  assert list(one.values) == list(other.values)
  for name, value in one.values.items():
    assert value.tobytes() == other.values[name].tobytes(), name


@pytest.fixture(scope='module')
def population(tmp_path_factory, data):
  return train(tmp_path_factory.mktemp('population'), data)


def test_every_layer_of_every_export_has_its_sparsity(population):
  assert {m.fraction_pruned for m in population} == {0.0, 0.9}
  for member, network in population.items():
    for conv in resnet_model.conv_layers(network.architecture):
      prefix = f'resnet_model/{conv.name}/'
      if not member.fraction_pruned:
        assert np.count_nonzero(network.values[f'{prefix}kernel'])
        continue
      kept = round(conv.size * (1 - member.fraction_pruned))
      assert network.values[f'{prefix}mask'].sum() == kept
      assert np.count_nonzero(network.values[f'{prefix}weights']) == kept


def test_a_member_alone_equals_the_member_among_others(
  population, data, tmp_path
):
  alone = train(tmp_path, data, end_sparsity=(0.9,))
  ((member, network),) = alone.items()
  assert_equal_networks(network, population[member])


def test_members_are_independent(population, data, tmp_path):
  seeds = {
    imagenet_train_eval.member_seed(0, dataclasses.replace(m, replicate=r))
    for m in population
    for r in range(3)
  }
  assert len(seeds) == 6


class Killed(Exception):  # noqa: N818
  """Stands for a kill, at which nothing is tidied up."""


@pytest.mark.parametrize('when', [1, 2, 3])
def test_a_resumed_run_equals_one_that_never_stopped(
  population, data, tmp_path, monkeypatch, when
):
  output = imagenet_train_eval.Output(
    steps_per_checkpoint=3, keep_checkpoints=2, steps_per_summary=5
  )
  options = {'end_sparsity': (0.9,), 'output': output}
  saves = []
  save = imagenet_train_eval.MemberRun.save

  def killed_after_saving(*args):
    save(*args)
    saves.append(1)
    if len(saves) == when:
      raise Killed

  monkeypatch.setattr(
    imagenet_train_eval.MemberRun, 'save', killed_after_saving
  )
  with pytest.raises(Killed):
    train(tmp_path, data, **options)
  monkeypatch.undo()
  resumed = train(tmp_path, data, **options)
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])
  folder = tmp_path / member.folder
  names = sorted(path.name for path in folder.glob('model*.index'))
  assert names == ['model.ckpt-12.index', 'model.ckpt-9.index']
  assert not (folder / 'resume').exists()


def test_a_damaged_state_falls_back_to_the_one_before(
  population, data, tmp_path, monkeypatch, caplog
):
  output = imagenet_train_eval.Output(steps_per_checkpoint=3)
  options = {'end_sparsity': (0.9,), 'output': output}
  finish = imagenet_train_eval.train_member

  def killed(*args):
    finish(*args)
    raise Killed

  monkeypatch.setattr(imagenet_train_eval, 'train_member', killed)
  with pytest.raises(Killed):
    train(tmp_path, data, **options)
  monkeypatch.undo()
  states = sorted(tmp_path.rglob('state-*.data*'), reverse=True)
  assert [path.name.split('.')[0] for path in states] == ['state-9', 'state-6']
  states[0].write_bytes(states[0].read_bytes()[:1000])
  resumed = train(tmp_path, data, **options)
  assert 'falling back to the state before' in caplog.text
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])


def test_a_finished_population_is_left_alone(data, tmp_path):
  train(tmp_path, data, end_sparsity=(0.9,))
  before = {
    path: path.stat().st_mtime_ns
    for path in tmp_path.rglob('*')
    if path.is_file()
  }
  train(tmp_path, data, end_sparsity=(0.9,))
  after = {
    path: path.stat().st_mtime_ns
    for path in tmp_path.rglob('*')
    if path.is_file()
  }
  assert before == after


def test_other_settings_are_named_and_nothing_is_mixed(data, tmp_path):
  train(tmp_path, data, end_sparsity=(0.0,))
  other = dataclasses.replace(SETTINGS, weight_decay=0.5)
  with pytest.raises(ValueError, match='weight_decay was 0.0001 and is 0.5'):
    train(tmp_path, data, end_sparsity=(0.0,), settings=other)


def test_data_of_another_content_are_named(tmp_path):
  """Their sizes are the same: the settings know digests, and so can a check."""
  folder = str(tmp_path / 'data')
  data_input.synthetic_data_set(folder)
  options = {'end_sparsity': (0.0,), 'verify_data': True}
  train(tmp_path, folder, **options)
  (record,) = tmp_path.rglob('imagenet_train_eval.run.json')
  shard = image_records.read(folder).shard('train-00000-of-00001')
  assert json.loads(record.read_text())['data'] == {
    'name': 'synthetic',
    'num_images': 20,
    'shards': {'train-00000-of-00001': shard.sha256},
  }
  path = paths.shard(folder, 'train', 0, 1)
  swapped = list(shard_files.read_records(path))[::-1]
  other = shard_files.write(path, swapped)
  assert other.bytes == shard.bytes
  with pytest.raises(ValueError, match='train-00000.*another SHA-256'):
    train(tmp_path / 'other', folder, **options)
  assert not (tmp_path / 'other').exists()
  records = image_records.read(folder)
  splits = {**records.splits, 'train': {storage.name(path): other}}
  image_records.write(folder, dataclasses.replace(records, splits=splits))
  was = f"data shards train-00000-of-00001 was '{shard.sha256}' and is '"
  with pytest.raises(ValueError, match=was + other.sha256):
    train(tmp_path, folder, **options)


def test_train_and_eval_measures_and_writes_where_it_came_from(data, tmp_path):
  output = imagenet_train_eval.Output(steps_per_checkpoint=5)
  train(
    tmp_path, data, end_sparsity=(0.9,), mode='train_and_eval', output=output
  )
  assert sorted(summaries(tmp_path)['eval_accuracy']) == [5, 10, 12]
  (record,) = tmp_path.rglob('imagenet_train_eval.run.json')
  record = json.loads(record.read_text())
  assert record['member']['fraction_pruned'] == 0.9
  assert 0 <= record['final_metrics']['eval_accuracy'] <= 1
  assert record['final_metrics']['learning_rate'] == pytest.approx(
    learning_rate.learning_rates(12, 4, 20, 0, (1, 2))[-1]
  )
  assert list(tmp_path.rglob('events.out.tfevents*'))
  # Evaluating what is there needs no training.
  train(tmp_path, data, end_sparsity=(0.9,), mode='eval')
  with pytest.raises(FileNotFoundError, match='no checkpoint in'):
    train(tmp_path, data, end_sparsity=(0.0,), mode='eval')


def test_a_checkpoint_removed_under_evaluation_is_passed_over(
  data, tmp_path, monkeypatch
):
  output = imagenet_train_eval.Output(steps_per_checkpoint=5)
  train(tmp_path, data, end_sparsity=(0.0,), output=output)
  evaluate, seen = imagenet_train_eval.Evaluator.evaluate, []

  def removed_before(self, prefix):
    if prefix.endswith('-5'):
      for path in tmp_path.rglob('model.ckpt-5.*'):
        path.unlink()
    seen.append(storage.name(prefix))
    return evaluate(self, prefix)

  monkeypatch.setattr(imagenet_train_eval.Evaluator, 'evaluate', removed_before)
  train(tmp_path, data, end_sparsity=(0.0,), mode='eval')
  assert seen == ['model.ckpt-5', 'model.ckpt-10', 'model.ckpt-12']
  assert sorted(summaries(tmp_path)['eval_accuracy']) == [10, 12]


def summaries(folder):
  """Scalars by tag and step, of all the event files at or below a folder."""
  found = {}
  for path in folder.rglob('events.out.tfevents*'):
    for serialized in shard_files.read_records(str(path)):
      event = tf.compat.v1.Event.FromString(serialized)
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = float(
          tf.make_ndarray(value.tensor)
        )
  return found


def test_the_summaries_hold_loss_rate_accuracy_and_sparsity(data, tmp_path):
  output = imagenet_train_eval.Output(steps_per_summary=6)
  ((_, network),) = train(
    tmp_path, data, end_sparsity=(0.9,), output=output
  ).items()
  found = summaries(tmp_path)
  for tag in ('loss', 'accuracy', 'learning_rate', 'images_per_second'):
    assert sorted(found[tag]) == [6, 12]
  assert found['sparsity/initial_conv'][12] == pytest.approx(0.9, abs=1e-3)
  masks = [v for n, v in network.values.items() if n.endswith('/mask')]
  zeros = sum(np.sum(mask == 0) for mask in masks)
  assert found['sparsity'][12] == pytest.approx(
    zeros / sum(mask.size for mask in masks), abs=1e-6
  )


def test_digits_are_learnt_in_bfloat16_as_in_float32(tmp_path):
  """As ./run.sh trains them, for 8 of its 12 epochs."""
  folder = str(tmp_path / 'digits')
  build_image_data.run('digits', folder)
  settings = dataclasses.replace(
    SETTINGS,
    train_steps=112,
    train_batch_size=64,
    base_learning_rate=0.4,
    warmup_epochs=0.64,
    decay_epochs=(5.36, 7.36),
  )
  accuracy = {}
  for precision in inference.PRECISIONS:
    networks = train(
      tmp_path / precision,
      folder,
      mode='train_and_eval',
      eval_batch_size=128,
      settings=dataclasses.replace(settings, precision=precision),
      schedule=(18, 98, 8),
    )
    for network in networks.values():
      assert {v.dtype for v in network.values.values()} == {np.dtype('float32')}
    for path in (tmp_path / precision).rglob('imagenet_train_eval.run.json'):
      record = json.loads(path.read_text())
      fraction = record['member']['fraction_pruned']
      accuracy[precision, fraction] = record['final_metrics']['eval_accuracy']
  assert set(accuracy) == {
    (p, fraction) for p in inference.PRECISIONS for fraction in (0.0, 0.9)
  }
  # Of two seeds: 0.92 to 0.96 dense, 0.80 to 0.88 pruned, in either.
  for precision in inference.PRECISIONS:
    assert accuracy[precision, 0.0] > 0.9
    assert accuracy[precision, 0.9] > 0.7
  assert accuracy['bfloat16', 0.0] == pytest.approx(
    accuracy['float32', 0.0], abs=0.05
  )


@pytest.mark.parametrize('method', ['random_independent', 'random_cumulative'])
def test_random_methods_reach_their_sparsity(data, tmp_path, method):
  ((member, network),) = train(
    tmp_path, data, end_sparsity=(0.7,), pruning_method=method
  ).items()
  assert member.pruning_method == method
  for conv in resnet_model.conv_layers(network.architecture):
    mask = network.values[f'resnet_model/{conv.name}/mask']
    assert mask.sum() == round(conv.size * 0.3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'end_sparsity': (1.0,)}, r'end_sparsity is 1.0, wanted a number in'),
    ({'end_sparsity': (-0.5,)}, 'wanted a number in'),
    ({'end_sparsity': (0.5, 0.5)}, 'wanted different numbers'),
    ({'end_sparsity': ()}, 'wanted different numbers'),
    ({'schedule': (8, 8, 1)}, 'wanted 0 <= begin < end'),
    ({'schedule': (2, 12, 1)}, 'sparsity_end_step is 12, wanted below'),
    ({'schedule': (2, 8, 0)}, 'pruning_frequency is 0'),
    ({'pruning_method': 'baseline'}, 'wanted 0, or another method'),
    ({'output_dir': ''}, 'output_dir is empty'),
    ({'tpu': ('my-tpu', '', '')}, 'local path, which the TPU my-tpu'),
  ],
)
def test_wrong_flags_are_refused_before_anything_is_written(
  data, tmp_path, options, message
):
  with pytest.raises(ValueError, match=message):
    train(tmp_path, data, **options)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'options',
  [
    {'label_smoothing': 1.0},
    {'label_smoothing': np.nan},
    {'weight_decay': -1e-4},
    {'weight_decay': np.nan},
  ],
)
def test_impossible_settings_are_refused(options):
  ((name, value),) = options.items()
  with pytest.raises(ValueError, match=f'{name} is {value}, wanted'):
    imagenet_train_eval.Settings(**options)


def test_missing_data_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing-\\*'):
    train(tmp_path, str(tmp_path / 'nothing-*'))


def test_a_damaged_record_stops_training_and_is_named(tmp_path):
  folder = tmp_path / 'data'
  data_input.synthetic_data_set(str(folder))
  shard = folder / 'train-00000-of-00001'
  content = bytearray(shard.read_bytes())
  content[len(content) // 2] ^= 1
  shard.write_bytes(content)
  with pytest.raises(ValueError, match='train-00000-of-00001.*record'):
    train(tmp_path, str(folder))


def leap_after(steps, monkeypatch, rate=1e30):
  """Gives a step a learning rate that no network survives."""
  rates = learning_rate.learning_rates

  def leaping(*args):
    found = rates(*args)
    found[steps] = rate
    return found

  monkeypatch.setattr(learning_rate, 'learning_rates', leaping)


@pytest.mark.parametrize(
  ('steps', 'per_checkpoint', 'message'),
  [
    # What the leap itself led to was written, and is not good.
    (3, 2, 'the loss is not finite at step 5; the last good .*model.ckpt-2$'),
    (3, 5, 'the loss is not finite at step 5; no checkpoint was written'),
  ],
)
def test_only_a_checkpoint_with_a_finite_loss_is_called_good(
  data, tmp_path, monkeypatch, steps, per_checkpoint, message
):
  leap_after(steps, monkeypatch)
  output = imagenet_train_eval.Output(steps_per_checkpoint=per_checkpoint)
  with pytest.raises(ValueError, match=message):
    train(tmp_path, data, end_sparsity=(0.0,), output=output)


def test_weights_that_are_not_finite_are_not_exported(
  data, tmp_path, monkeypatch
):
  """After the last step there is no loss that would tell."""
  leap_after(11, monkeypatch, rate=np.inf)
  output = imagenet_train_eval.Output(steps_per_checkpoint=10)
  message = 'is not finite after step 12; the last good .*model.ckpt-10$'
  with pytest.raises(ValueError, match=message):
    train(tmp_path, data, end_sparsity=(0.0,), output=output)
  assert not list(tmp_path.rglob('model.ckpt-12*'))


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint(
  population, data, tmp_path, monkeypatch
):
  """A step leaps away; what was written before is good, and named."""
  leap_after(4, monkeypatch)
  output = imagenet_train_eval.Output(steps_per_checkpoint=2)
  named = 'is not finite at step 6; the last good checkpoint .*model.ckpt-4$'
  with pytest.raises(ValueError, match=named):
    train(tmp_path, data, end_sparsity=(0.0,), output=output)
  monkeypatch.undo()
  resumed = train(tmp_path, data, end_sparsity=(0.0,), output=output)
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['train-00000-of-00002'], r'has 1 of 2 shards train-\*, missing \[1\]'),
    (
      ['train-00000-of-00001', 'train-00000-of-00002'],
      'more than one set of train shards',
    ),
    (['train-00000-of-00001'], 'features .*image/encoded.*wanted'),
  ],
)
def test_wrong_shards_are_named_before_anything_is_written(
  tmp_path, names, message
):
  image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'x']))
  features = tf.train.Features(feature={'image/encoded': image})
  example = tf.train.Example(features=features).SerializeToString()
  for name in names:
    shard_files.write(str(tmp_path / 'data' / name), [example])
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train(tmp_path / 'out', str(tmp_path / 'data'))
  assert not (tmp_path / 'out').exists()


def test_a_batch_that_devices_cannot_share_is_refused(
  data, tmp_path, monkeypatch
):
  three = types.SimpleNamespace(num_replicas_in_sync=3)
  monkeypatch.setattr(devices, 'strategy', lambda *_, **__: three)
  with pytest.raises(ValueError, match='is 4, wanted a multiple of the 3 dev'):
    train(tmp_path, data)
  assert not list(tmp_path.iterdir())


def test_a_tpu_that_does_not_answer_is_one_line(data, tmp_path):
  process = as_process(tmp_path, data, ['--tpu=local'])
  _, log = process.communicate()
  assert process.returncode == 1
  last = log.splitlines()[-1]
  assert last.startswith("error: TPU 'local' does not answer, wanted the name")
  assert not list(tmp_path.iterdir())


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
  for number in (1, 2, 4):
    printed = subprocess.run(
      [sys.executable, '-m', 'tests.train_on_devices', str(number)],
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    results.append(json.loads(printed.splitlines()[-1]))
  for result in results[1:]:
    assert result['masks'] == results[0]['masks']
    assert result['losses'] == pytest.approx(results[0]['losses'], rel=1e-5)


def as_process(folder, data, options=(), tf_config='', killed_at=''):
  """Training as `train` does it, in a process of its own."""
  program = ['save_checkpoint.imagenet_train_eval']
  if killed_at:
    program = ['tests.train_until_killed', killed_at]
  return subprocess.Popen(
    [
      *(sys.executable, '-m', *program),
      f'--data_directory={data}',
      f'--output_dir={folder}/exp',
      '--pruning_method=threshold',
      '--end_sparsity=0.9',
      '--resnet_depth=18',
      '--width=0.125',
      '--train_steps=60',
      '--train_batch_size=4',
      '--warmup_epochs=0',
      '--decay_epochs=4,8',
      '--sparsity_begin_step=2',
      '--sparsity_end_step=50',
      '--pruning_frequency=1',
      '--steps_per_checkpoint=2',
      '--keep_checkpoints=2',
      *options,
    ],
    env={**os.environ, 'TF_CONFIG': tf_config},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  _, log = process.communicate()
  assert process.returncode == 0, log
  return log


def written(folder):
  """Names of the files there are, those half written included."""
  return {path.name for path in folder.rglob('*') if path.is_file()}


def half_written(folder):
  """Names of the bundles of which there are data, and no index."""
  data = {path.name.split('.data-')[0] for path in folder.rglob('[!.]*.data-*')}
  return data - {path.stem for path in folder.rglob('[!.]*.index')}


def test_a_run_that_is_killed_anywhere_ends_as_one_that_is_not(
  data, tmp_path, long
):
  """Within a write, after a mask update, and at random moments."""
  undisturbed = as_process(tmp_path / 'whole', data)
  killed = tmp_path / 'killed'
  for moment in ('masks', 'state_index', 'export_index'):
    process = as_process(killed, data, killed_at=moment)
    _, log = process.communicate()
    assert process.returncode == -signal.SIGKILL, log
    left = {'state_index': 'state-', 'export_index': 'model.ckpt-'}.get(moment)
    if left:
      assert [n for n in half_written(killed) if n.startswith(left)]
  rng = np.random.default_rng(0)
  for number in range(6 if long else 1):
    process = as_process(killed, data)
    states = {name for name in written(killed) if 'state-' in name}
    # From the first state that this process writes, some moments on.
    while process.poll() is None:
      now = {name for name in written(killed) if 'state-' in name}
      if now - states:
        break
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    assert process.poll() is None, f'kill {number} came too late'
    process.kill()
    process.communicate()
  log = finish(as_process(killed, data))
  assert 'goes on from step' in log
  finish(undisturbed)
  ends = []
  for folder in (tmp_path / 'whole', killed):
    checkpoint = max(
      member_paths.find(str(folder)), key=lambda found: found.step
    )
    assert checkpoint.step == 60
    ends.append(checkpoints.read(checkpoint.prefix))
    assert not list(folder.rglob('state-*'))
  assert_equal_networks(*ends)


def free_ports(number):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
    for each in sockets:
      each.bind(('127.0.0.1', 0))
    return [each.getsockname()[1] for each in sockets]


def start_workers(folder, data, options, number=2):
  """Of two workers, the last ones."""
  workers = [f'127.0.0.1:{port}' for port in free_ports(2)]
  tasks = [{'type': 'worker', 'index': index} for index in range(2)]
  return [
    as_process(
      folder,
      data,
      options,
      json.dumps({'cluster': {'worker': workers}, 'task': task}),
    )
    for task in tasks[-number:]
  ]


def test_workers_that_wait_say_so_and_can_be_interrupted(data, tmp_path):
  (process,) = start_workers(tmp_path, data, [], number=1)
  with process:
    for line in process.stderr:
      if 'waiting for the 2 workers' in line:
        break
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT


@pytest.mark.parametrize('text', ['{', '[]', '3'])
def test_a_cluster_that_makes_no_sense_is_named(monkeypatch, text):
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(ValueError, match='TF_CONFIG is .*wanted JSON such as'):
    devices.strategy(with_workers=True)


def test_two_workers_train_what_one_process_trains(data, tmp_path):
  """Even when they are killed on the way."""

  def options(steps):
    return [
      '--mode=train_and_eval',
      '--train_steps=6',
      '--sparsity_end_step=4',
      '--steps_per_summary=1',
      '--train_batch_size=8',
      f'--steps_per_checkpoint={steps}',
    ]

  one = as_process(tmp_path / 'one', data, options(6))
  of_two = [*options(1), '--keep_data_in_memory']
  two = start_workers(tmp_path / 'two', data, of_two)
  deadline = time.monotonic() + 120
  while not list((tmp_path / 'two').rglob('state-*.index')):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  for process in two:
    process.terminate()  # As schedulers do, and as TensorFlow would ignore.
    process.communicate(timeout=30)
  two = start_workers(tmp_path / 'two', data, of_two)
  logs = [finish(process) for process in two]
  assert all('goes on from step' in log for log in logs)
  finish(one)
  # Of the workers, one writes: a file more, since it was started twice.
  files = [
    len(list((tmp_path / name).rglob('events.out.tfevents*')))
    for name in ('one', 'two')
  ]
  assert files[1] == files[0] + 1
  ones, twos = (
    member_paths.find(str(tmp_path / name)) for name in ('one', 'two')
  )
  assert [c.member for c in ones] == [c.member for c in twos]
  for alone, together in zip(ones, twos, strict=True):
    expected = checkpoints.read(alone.prefix).values  # noqa: PD011
    got = checkpoints.read(together.prefix).values  # noqa: PD011
    assert list(expected) == list(got)
    for name, value in expected.items():
      if name.endswith('/mask'):
        np.testing.assert_array_equal(got[name], value)
      else:
        tolerance = 1e-3 * np.abs(value).max() + 1e-6
        np.testing.assert_allclose(got[name], value, atol=tolerance)
    folder = str(alone.member.folder)
    expected = summaries(tmp_path / 'one' / folder)
    got = summaries(tmp_path / 'two' / folder)
    assert sorted(got['loss']) == list(range(1, 7))
    for tag in ('loss', 'accuracy', 'sparsity', 'eval_loss'):
      alike = {step: got[tag][step] for step in expected[tag]}
      assert alike == pytest.approx(expected[tag], rel=1e-5)
