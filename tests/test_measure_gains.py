"""What compression buys: published numbers, and a second way to count."""

import gzip
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pie_dataset_gen import file_gains, gains, headline_rows, measure_gains
from utils import (
  checkpoints,
  csvs,
  image_records,
  member_paths,
  network_files,
  paths,
  populations,
  resnet_model,
  tables,
)

SMALL = resnet_model.Architecture(18, 0.125, 10, '3x3')
PRUNED = populations.Level('threshold', 0.9)


def network(architecture, fraction=None, step=9):
  """A dense network, or one whose layers have so many zeros."""
  masked = fraction is not None
  random = np.random.default_rng(0)
  values = {}
  for name, shape in resnet_model.variable_shapes(architecture, masked).items():
    value = random.uniform(0.1, 1, shape).astype(np.float32)
    if name.endswith('/mask'):
      flat = np.ones(math.prod(shape), np.float32)
      flat[: round(fraction * len(flat))] = 0
      value = flat.reshape(shape)
    values[name] = np.asarray(value, np.float32)
  return checkpoints.Network(architecture, values, step)


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  folder = tmp_path_factory.mktemp('gains')
  for level, fraction in ((populations.DENSE, None), (PRUNED, 0.9)):
    for replicate in (1, 0):
      member = member_paths.Member('toy', *level, 0, 0, 0, replicate)
      for step in (5, 9):
        checkpoints.write(
          str(folder / 'checkpoints' / member.folder / f'model.ckpt-{step}'),
          network(SMALL, fraction, step),
        )
  image_records.write(
    str(folder / 'data'),
    image_records.ImageRecords(
      'toy', tuple('abcdefghij'), image_size=32, resize_size=32
    ),
  )
  return folder, run(folder)


def run(folder, **options):
  return measure_gains.run(
    str(folder / 'checkpoints'),
    str(folder / 'data'),
    str(folder / 'results'),
    **options,
  )


def of_level(rows, level):
  return populations.by_level(rows)[level].set_index('measure')['value']


def test_resnet_50_has_the_published_numbers():
  """25.56 M parameters and 4.09 G multiply-adds (torchvision's v1.5)."""
  architecture = resnet_model.Architecture(50, 1.0, 1000)
  dense = gains.count_layers(network(architecture).values, architecture, 224)
  assert dense['parameters'].sum() == 25_557_032
  assert dense['nonzero_parameters'].sum() == 25_557_032
  assert 4.085e9 < dense['multiply_adds'].sum() < 4.095e9
  pruned = gains.count_layers(
    network(architecture, 0.9).values, architecture, 224
  )
  convs = pruned[pruned['layer'].str.contains('conv|group')]
  kept = (convs['parameters'] - (0.9 * convs['parameters']).round()).sum()
  assert convs['nonzero_parameters'].sum() == kept
  share = convs['nonzero_multiply_adds'].sum() / convs['multiply_adds'].sum()
  assert share == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize('stem', resnet_model.STEMS)
@pytest.mark.parametrize(
  ('depth', 'size'), [(18, 32), (50, 33), (18, 7), (50, 64)]
)
def test_pixels_are_those_that_the_network_computes(stem, depth, size):
  architecture = resnet_model.Architecture(depth, 1 / 16, 3, stem)
  seen = {}

  def conv_batch_norm(x, conv):
    x = resnet_model.conv2d(x, tf.zeros(conv.kernel_shape), conv)
    seen[conv.name] = x.shape[1] * x.shape[2]
    return x

  resnet_model.forward(
    tf.zeros((1, size, size, 3)), architecture, conv_batch_norm, lambda x: x
  )
  assert resnet_model.output_pixels(architecture, size) == seen


def test_layers_add_up_to_the_level(study):
  folder, rows = study
  layers = csvs.read(
    tables.LAYER_GAINS, paths.layer_gains(str(folder / 'results'), 'toy')
  )
  for level, fraction in ((populations.DENSE, None), (PRUNED, 0.9)):
    of = of_level(rows, level)
    total = populations.by_level(layers)[level]
    for measure, column in (
      (gains.PARAMETERS, 'parameters'),
      (gains.NONZERO, 'nonzero_parameters'),
      (gains.MULTIPLY_ADDS, 'multiply_adds'),
      (gains.EFFECTIVE, 'nonzero_multiply_adds'),
    ):
      assert of[measure] == total[column].sum()
    shapes = resnet_model.variable_shapes(SMALL, False)
    trained = [s for name, s in shapes.items() if 'moving' not in name]
    assert of[gains.PARAMETERS] == sum(map(math.prod, trained))
    folded = resnet_model.fold_batch_norm(
      network(SMALL, fraction).values, SMALL
    )
    stored = b''.join(value.tobytes() for value in folded.values())
    assert of[gains.BYTES] == len(stored)
    assert of[headline_rows.GZIPPED] == len(gzip.compress(stored))
  dense, pruned = (
    of_level(rows, level) for level in (populations.DENSE, PRUNED)
  )
  assert dense[headline_rows.COMPRESSION] == dense[headline_rows.SPEED_UP] == 1
  assert pruned[headline_rows.COMPRESSION] == (
    dense[gains.PARAMETERS] / pruned[gains.NONZERO]
  )
  assert 8 < pruned[headline_rows.SPEED_UP] < 10
  assert pruned[headline_rows.GZIPPED] < dense[headline_rows.GZIPPED] / 4


def test_the_last_checkpoint_of_the_first_replicate_is_measured(study):
  found = member_paths.find(str(study[0] / 'checkpoints/*/*/*/*/*/*/*/model.*'))
  assert len(found) == 8
  for checkpoint in measure_gains.first_members(found).values():
    assert (checkpoint.member.replicate, checkpoint.step) == (0, 9)


def test_levels_are_timed_in_turn(study, tmp_path):
  folder = study[0]
  run(folder, rounds=3, batches=1, batch_size=2)
  path = paths.speed(str(folder / 'results'), 'toy')
  speed = csvs.read(tables.SPEED, path)
  assert list(populations.by_level(speed)) == [populations.DENSE, PRUNED]
  ordered = speed[['slowest', 'images_per_second', 'fastest']].to_numpy()
  assert (np.diff(ordered) >= 0).all()
  assert (ordered > 0).all()
  assert set(speed['rounds']) == {3}
  gained = csvs.read(tables.GAINS, paths.gains(str(folder / 'results'), 'toy'))
  rows = {row.measure: row for row in headline_rows.gain_rows(gained, speed)}
  cell = rows['images a second'].cell(PRUNED)
  assert cell.value == speed['images_per_second'].iloc[1]
  timed = headline_rows.gain_rows(gained, None)[-1].cell(PRUNED)
  assert timed.not_available == 'measure_gains --rounds is 0'


def test_where_weights_are_not_known_bytes_are_and_the_reason_stands():
  rows = pd.DataFrame(gains.measure(PRUNED, None, None, b'0' * 1000, 'opaque'))
  values = rows.set_index('measure')['value']
  assert values[gains.BYTES] == 1000
  assert values[headline_rows.GZIPPED] < 100
  rest = rows[~rows['measure'].str.startswith('bytes')]
  assert rest['value'].isna().all()
  assert (rest['not_available'] == 'opaque').all()


SIZE = 16
# Weights, and how often each is multiplied for an image.
LAYERS = {'conv': (3 * 3 * 3 * 8, SIZE**2), 'depthwise': (72, 14**2)}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """One network, half of whose convolution is zero, in all three formats."""
  import keras

  layers = keras.layers
  model = keras.Sequential(
    [
      layers.Input((SIZE, SIZE, 3)),
      layers.Conv2D(8, 3, padding='same', use_bias=False),
      layers.BatchNormalization(),
      layers.ReLU(),
      layers.DepthwiseConv2D(3),
      layers.GlobalAveragePooling2D(),
      layers.Dense(5),
    ]
  )
  random = np.random.default_rng(0)
  weights = [random.uniform(0.5, 1, w.shape) for w in model.get_weights()]
  weights[0][:, :, :, :4] = 0
  model.set_weights(weights)
  folder = tmp_path_factory.mktemp('files')
  model.save(folder / 'net.keras')
  model.export(str(folder / 'net'), verbose=False)
  for name, kinds in (('net', []), ('half', [tf.float16])):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / 'net'))
    if kinds:
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
      converter.target_spec.supported_types = kinds
    (folder / f'{name}.tflite').write_bytes(converter.convert())
  network_files.write(
    str(folder / 'net.json'),
    network_files.Description(
      SIZE, 1.0, (0.0,) * 3, (1.0,) * 3, 'RGB', 'logits', 5
    ),
  )
  rows = [('net.keras', 'a'), ('net', 'b'), ('net.tflite', 'c')]
  rows.append(('half.tflite', 'd'))
  pd.DataFrame(
    [(file, method, 0.0, 0, 'net.json') for file, method in rows],
    columns=[
      *('file', 'pruning_method', 'fraction_pruned', 'replicate'),
      'description',
    ],
  ).to_csv(folder / 'members.csv', index=False)
  return folder


def test_all_formats_of_a_network_have_its_weights(files):
  found = member_paths.find(str(files / 'members.csv'))
  assert len(found) == 4
  for checkpoint in found:
    rows = file_gains.count_layers(checkpoint)
    conv, depthwise, dense, others = rows.to_dict('records')
    for layer, (size, positions), kept in (
      (conv, LAYERS['conv'], 0.5),
      (depthwise, LAYERS['depthwise'], 1),
      (dense, (40, 1), 1),
    ):
      assert layer['parameters'] == size
      assert layer['nonzero_parameters'] == size * kept
      assert layer['multiply_adds'] == size * positions
      assert layer['nonzero_multiply_adds'] == size * positions * kept
    # Normalisation is folded into one bias there.
    is_folded = checkpoint.kind == 'tflite'
    assert others['parameters'] <= 8 + 5 + 16
    assert (others['parameters'] == 8 + 5 + 16) != is_folded


def test_products_that_are_not_counted_are_named(files, tmp_path):
  import keras

  inputs = keras.Input((SIZE, SIZE, 3))
  x = keras.layers.Reshape((SIZE * SIZE, 3))(inputs)
  x = keras.layers.Dot(axes=1)([x, x])
  outputs = keras.layers.Dense(5)(keras.layers.Flatten()(x))
  keras.Model(inputs, outputs).save(tmp_path / 'net.keras')
  shutil.copy(files / 'net.json', tmp_path)
  (tmp_path / 'members.csv').write_text(
    (files / 'members.csv').read_text().split('net,')[0]
  )
  (checkpoint,) = member_paths.find(str(tmp_path / 'members.csv'))
  with pytest.raises(ValueError, match='BatchMatMulV2 are not counted'):
    file_gains.count_layers(checkpoint)


def test_it_leaves_a_record(study):
  path = paths.provenance(str(study[0] / 'results' / 'toy'), 'measure_gains')
  with open(path, encoding='utf-8') as file:
    assert json.load(file)['finished']
