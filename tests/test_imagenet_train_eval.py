"""The training script: refusals, methods, kills."""

import dataclasses
import json
import re
import signal
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from save_checkpoint import (
  build_image_data,
  training_settings,
)
from tests.train_small import (
  SETTINGS,
  as_process,
  assert_equal_networks,
  finish,
  train,
)
from utils import (
  checkpoints,
  data_input,
  devices,
  inference,
  member_paths,
  resnet_model,
  shard_files,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


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
    for path in (tmp_path / precision).glob('exp/*/**/*.run.json'):
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
    tmp_path, data, fractions_pruned=(0.7,), pruning_method=method
  ).items()
  assert member.pruning_method == method
  for conv in resnet_model.conv_layers(network.architecture):
    mask = network.values[f'resnet_model/{conv.name}/mask']
    assert mask.sum() == round(conv.size * 0.3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'fractions_pruned': (1.0,)}, r'end_sparsity is 1.0, wanted a number in'),
    ({'fractions_pruned': (-0.5,)}, 'wanted a number in'),
    ({'fractions_pruned': (0.5, 0.5)}, 'wanted different numbers'),
    ({'fractions_pruned': ()}, 'wanted different numbers'),
    ({'schedule': (8, 8, 1)}, 'wanted 0 <= begin < end'),
    ({'schedule': (2, 12, 1)}, 'sparsity_end_step is 12, wanted below'),
    ({'schedule': (2, 8, 0)}, 'pruning_frequency is 0'),
    ({'pruning_method': 'baseline'}, 'wanted 0, or another method'),
    ({'tpu': 'my-tpu'}, 'local path, which the TPU my-tpu'),
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
    training_settings.Settings(**options)


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
  """Within a write, after a mask update, and at random moments.

  Or is told to end, and says where it goes on.
  """
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
  ends = [signal.SIGTERM, *[signal.SIGKILL] * (6 if long else 1)]
  for number, end in enumerate(ends):
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
    process.send_signal(end)
    _, log = process.communicate()
    if end == signal.SIGTERM:
      assert process.returncode == 128 + end, log
      assert 'Traceback' not in log
      last = log.splitlines()[-1]
      assert re.fullmatch(r'interrupted: .* is saved at step \d+; run .*', last)
  log = finish(as_process(killed, data))
  assert 'goes on from step' in log
  finish(undisturbed)
  networks = []
  for folder in (tmp_path / 'whole', killed):
    checkpoint = max(
      member_paths.find(str(folder)), key=lambda found: found.step
    )
    assert checkpoint.step == 60
    networks.append(checkpoints.read(checkpoint.prefix))
    assert not list(folder.rglob('state-*'))
  assert_equal_networks(*networks)
