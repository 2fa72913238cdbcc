"""Checkpoints: the original's format, read strictly, written completely."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from tests import reference_values
from utils import checkpoints, resnet_model

SMALL = resnet_model.Architecture(18, 0.25, 10)


def small_network(masked=True, seed=0):
  shapes = resnet_model.variable_shapes(SMALL, masked)
  values = {
    name: reference_values.value(f'{name}{seed or ""}', shape)
    if not name.endswith('mask')
    else reference_values.value(name, shape)
    for name, shape in shapes.items()
  }
  return checkpoints.Network(SMALL, values, 7)


def write_tensors(prefix, tensors):
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=list(tensors),
    shape_and_slices=[''] * len(tensors),
    tensors=list(map(tf.constant, tensors.values())),
  )


def tensors_of(network):
  return {'global_step': np.int64(network.global_step), **network.values}


@pytest.mark.parametrize('masked', [True, False])
def test_write_then_read_is_identity(tmp_path, masked):
  network = small_network(masked)
  prefix = str(tmp_path / 'model.ckpt-7')
  checkpoints.write(prefix, network)
  again = checkpoints.read(prefix)
  assert again.architecture == SMALL
  assert again.global_step == 7
  assert list(again.values) == list(network.values)
  for name, value in network.values.items():
    assert value.tobytes() == again.values[name].tobytes()
  checkpoints.write(str(tmp_path / 'again'), again)
  for suffix in ('.index', '.data-00000-of-00001'):
    assert (tmp_path / f'model.ckpt-7{suffix}').read_bytes() == (
      tmp_path / f'again{suffix}'
    ).read_bytes()
  assert sorted(os.listdir(tmp_path)) == [
    'again.data-00000-of-00001',
    'again.index',
    'model.ckpt-7.data-00000-of-00001',
    'model.ckpt-7.index',
  ]


def test_a_bucket_holds_the_same_and_nothing_unfinished(tmp_path):
  """TensorFlow's file system in memory stands for one, also to write again."""
  folder = 'ram://test_checkpoints'
  for seed in range(2):
    network = small_network(seed=seed)
    for root in (folder, str(tmp_path)):
      checkpoints.write(f'{root}/model.ckpt-7', network)
  assert sorted(tf.io.gfile.listdir(folder)) == sorted(os.listdir(tmp_path))
  for name in os.listdir(tmp_path):
    with tf.io.gfile.GFile(f'{folder}/{name}', 'rb') as file:
      assert file.read() == (tmp_path / name).read_bytes()
  again = checkpoints.read(f'{folder}/model.ckpt-7')
  for name, value in network.values.items():
    assert value.tobytes() == again.values[name].tobytes()


def test_a_disk_that_fills_up_leaves_the_former_checkpoint(
  tmp_path, monkeypatch
):
  prefix = str(tmp_path / 'model.ckpt-7')
  checkpoints.write(prefix, small_network())
  before = {
    name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)
  }

  def full(**tensors):
    (tmp_path / f'{tensors["prefix"]}.data-00000-of-00001').write_bytes(b'part')
    raise tf.errors.ResourceExhaustedError(None, None, 'No space left')

  monkeypatch.setattr(tf.raw_ops, 'SaveV2', full)
  with pytest.raises(OSError, match=f'^{prefix} cannot be written: No space'):
    checkpoints.write(prefix, small_network(seed=1))
  assert before == {
    name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)
  }


@pytest.mark.parametrize('variant', ['baseline', 'threshold'])
def test_training_graphs_of_the_original_load(tmp_path, variant):
  tensors = {
    name: reference_values.value(name, shape).astype(dtype)
    for name, shape, dtype in reference_values.variables(variant)
    + reference_values.variables(variant, 'training_adds')
  }
  prefix = tmp_path / 'model.ckpt-32000'
  write_tensors(prefix, tensors)
  network = checkpoints.read(str(prefix))
  assert network.architecture == resnet_model.Architecture(50, 1.0, 1000)
  assert network.global_step == 32000
  assert network.is_masked == (variant == 'threshold')
  # What is exported again is exactly the inference graph.
  checkpoints.write(str(tmp_path / 'export'), network)
  exported = tf.train.load_checkpoint(str(tmp_path / 'export'))
  wanted = {
    name: list(shape) for name, shape, _ in reference_values.variables(variant)
  }
  assert exported.get_variable_to_shape_map() == wanted
  for name in wanted:
    np.testing.assert_array_equal(exported.get_tensor(name), tensors[name])


@pytest.mark.parametrize('depth', resnet_model.DEPTHS)
@pytest.mark.parametrize('width', [0.25, 0.125])
def test_the_architecture_is_read_off_the_names(tmp_path, depth, width):
  architecture = resnet_model.Architecture(depth, width, 3)
  values = {
    name: np.ones(shape, np.float32)
    for name, shape in resnet_model.variable_shapes(architecture, False).items()
  }
  prefix = str(tmp_path / 'c')
  checkpoints.write(prefix, checkpoints.Network(architecture, values, 0))
  assert checkpoints.read_architecture(prefix) == architecture


@pytest.mark.parametrize('stem', resnet_model.STEMS)
@pytest.mark.parametrize('masked', [False, True])
def test_the_stem_is_read_off_the_names(tmp_path, stem, masked):
  architecture = resnet_model.Architecture(18, 0.125, 3, stem)
  values = {
    name: np.ones(shape, np.float32)
    for name, shape in resnet_model.variable_shapes(
      architecture, masked
    ).items()
  }
  prefix = str(tmp_path / 'c')
  checkpoints.write(prefix, checkpoints.Network(architecture, values, 0))
  network = checkpoints.read(prefix)
  assert network.architecture == architecture
  assert network.is_masked == masked
  assert len(network.layer_sparsity()) == 21
  # The kernel of one stem under the name of another, and two stems at once.
  tensors = tensors_of(network)
  first = f'resnet_model/{architecture.initial_conv}/'
  leaves = [name for name in tensors if name.startswith(first)]
  for other in resnet_model.initial_convs():
    if other == architecture.initial_conv:
      continue
    named = {
      name.replace(first, f'resnet_model/{other}/'): tensors[name]
      for name in leaves
    }
    write_tensors(tmp_path / 'both', {**tensors, **named})
    with pytest.raises(ValueError, match='unknown: resnet_model/initial_conv'):
      checkpoints.read(str(tmp_path / 'both'))
    rest = {name: v for name, v in tensors.items() if name not in leaves}
    write_tensors(tmp_path / 'renamed', {**rest, **named})
    if 'imagenet' in (stem, resnet_model.initial_convs()[other]):
      with pytest.raises(ValueError, match='found .*wanted'):
        checkpoints.read(str(tmp_path / 'renamed'))


KERNEL = 'resnet_model/initial_conv/kernel'
BETA = 'resnet_model/batch_normalization_3/beta'


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda t: t.pop(BETA), f'1 missing: {BETA}'),
    (lambda t: t.update(extra=np.float32(1)), '1 unknown: extra'),
    (
      lambda t: t.update({BETA: np.zeros(5, np.float32)}),
      f'{BETA}: found \\[5\\] float32, wanted \\[16\\] float32',
    ),
    (
      lambda t: t.update({BETA: np.zeros(16, np.float64)}),
      'found \\[16\\] float64, wanted \\[16\\] float32',
    ),
    (
      lambda t: t.update({BETA: np.full(16, np.nan, np.float32)}),
      f'{BETA} holds values that are not finite',
    ),
    (
      lambda t: t.update({f'{KERNEL}s': t.pop(KERNEL)}),
      'found \\(',
    ),
    (
      lambda t: [t.pop(n) for n in list(t) if 'block_group4_1_1' in n],
      'blocks in its four groups',
    ),
    (
      lambda t: t.update(_CHECKPOINTABLE_OBJECT_GRAPH=b'x'),
      'object-based checkpoint of TensorFlow 2',
    ),
  ],
)
def test_other_variables_are_refused_by_name(tmp_path, change, message):
  tensors = tensors_of(small_network(masked=False))
  change(tensors)
  write_tensors(tmp_path / 'c', tensors)
  with pytest.raises(ValueError, match=message):
    checkpoints.read(str(tmp_path / 'c'))


def test_a_real_object_based_checkpoint_is_named_for_what_it_is(tmp_path):
  prefix = tf.train.Checkpoint(v=tf.Variable(1.0)).save(str(tmp_path / 'c'))
  with pytest.raises(ValueError, match='object-based'):
    checkpoints.read(prefix)


def test_another_prefix_shows_found_beside_wanted(tmp_path):
  tensors = {
    f'other/{name}': value
    for name, value in tensors_of(small_network(False)).items()
  }
  write_tensors(tmp_path / 'c', tensors)
  with pytest.raises(ValueError) as error:
    checkpoints.read(str(tmp_path / 'c'))
  rows = str(error.value).splitlines()
  assert 'found' in rows[1] and 'wanted' in rows[1]
  assert 'other/global_step' in rows[2] and KERNEL in rows[2]


def test_masks_other_than_0_and_1_are_refused(tmp_path):
  network = small_network(masked=True)
  name = 'resnet_model/initial_conv/mask'
  network.values[name] = network.values[name] * 0.5
  write_tensors(tmp_path / 'c', tensors_of(network))
  with pytest.raises(ValueError, match=f'{name} holds values other than 0'):
    checkpoints.read(str(tmp_path / 'c'))


@pytest.mark.parametrize('suffix', ['.index', '.data-00000-of-00001'])
def test_a_missing_part_is_named(tmp_path, suffix):
  prefix = tmp_path / 'c'
  checkpoints.write(str(prefix), small_network())
  os.remove(f'{prefix}{suffix}')
  with pytest.raises(FileNotFoundError, match=f'only a part of.*{suffix}'):
    checkpoints.read(str(prefix))
  with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
    checkpoints.read(str(tmp_path / 'other'))


@pytest.mark.parametrize('suffix', ['.index', '.data-00000-of-00001'])
@pytest.mark.parametrize('damage', ['cut', 'emptied', 'flipped'])
def test_damage_is_noticed(tmp_path, suffix, damage):
  prefix = tmp_path / 'c'
  checkpoints.write(str(prefix), small_network())
  path = tmp_path / f'c{suffix}'
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  if damage == 'flipped':
    content[middle] ^= 1
  path.write_bytes(
    {'cut': content[:middle], 'emptied': b''}.get(damage, content)
  )
  with pytest.raises(ValueError, match='damaged|cut short|missing'):
    checkpoints.read(str(prefix))


def test_writing_refuses_what_the_architecture_does_not_have(tmp_path):
  network = small_network()
  del network.values[BETA]
  with pytest.raises(ValueError, match=BETA):
    checkpoints.write(str(tmp_path / 'c'), network)
  other = dataclasses.replace(
    small_network(), architecture=resnet_model.Architecture(18, 0.25, 11)
  )
  with pytest.raises(ValueError, match='final_dense/bias: found'):
    checkpoints.write(str(tmp_path / 'c'), other)
  assert not os.listdir(tmp_path)


def test_layer_sparsity_counts_zeros():
  network = small_network()
  sparsity = network.layer_sparsity()
  mask = network.values['resnet_model/initial_conv/mask']
  assert sparsity['initial_conv'] == pytest.approx(1 - mask.mean())
  assert len(sparsity) == 21
