"""The network is the original's: names, shapes, logits."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference_values
from utils import resnet_model

RESNET_50 = resnet_model.Architecture(50, 1.0, 1000)
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@pytest.mark.parametrize(
  ('variant', 'masked', 'number'),
  [('baseline', False, 268), ('threshold', True, 374)],
)
def test_variables_are_those_of_the_original_in_its_order(
  variant, masked, number
):
  original = reference_values.variables(variant)
  ours = resnet_model.variable_shapes(RESNET_50, masked)
  assert len(original) == number
  assert original[0] == ('global_step', (), 'int64')
  assert [(name, shape) for name, shape, _ in original[1:]] == list(
    ours.items()
  )


def test_resnet_50_has_the_published_numbers_of_weights():
  convs = resnet_model.conv_layers(RESNET_50)
  assert len(convs) == 53
  assert sum(conv.size for conv in convs) == 23_454_912
  trained = {
    name: shape
    for name, shape in resnet_model.variable_shapes(RESNET_50, False).items()
    if 'moving' not in name
  }
  assert sum(int(np.prod(shape)) for shape in trained.values()) == 25_557_032


@pytest.mark.parametrize('variant', ['baseline', 'threshold'])
def test_logits_equal_the_original_graphs(variant):
  values = {
    name: reference_values.value(name, shape)
    for name, shape, _ in reference_values.variables(variant)[1:]
  }
  folded = resnet_model.fold_batch_norm(values, RESNET_50)
  images = resnet_model.normalise(
    tf.constant(reference_values.images()), MEAN, STD
  )
  ours = resnet_model.folded_forward(images, folded, RESNET_50).numpy()
  original = reference_values.logits(variant)
  assert np.abs(ours - original).max() <= 1e-5 * original.std()


@pytest.mark.parametrize('depth', resnet_model.DEPTHS)
def test_every_depth_has_as_many_layers_as_its_name_says(depth):
  architecture = resnet_model.Architecture(depth, 0.25, 10)
  convs = resnet_model.conv_layers(architecture)
  projections = [
    conv
    for conv in convs
    if 'projection_block_group' in conv.name
    and '_projection_' in conv.name.split('block_group')[0]
  ]
  assert len(projections) == 4
  # The dense layer counts, the projections do not.
  assert len(convs) - len(projections) + 1 == depth
  assert len({conv.name for conv in convs}) == len(convs)
  assert len({conv.batch_norm for conv in convs}) == len(convs)


@pytest.mark.parametrize('size', [32, 33, 75])
def test_width_and_input_size_are_free(size):
  architecture = resnet_model.Architecture(18, 0.25, 7)
  values = resnet_model.initial_values(architecture, seed=0)
  folded = resnet_model.fold_batch_norm(values, architecture)
  images = tf.random.stateless_normal((2, size, size, 3), (0, 0))
  assert resnet_model.folded_forward(images, folded, architecture).shape == (
    2,
    7,
  )


@pytest.mark.parametrize(
  ('stem', 'name', 'kernel', 'sizes'),
  [
    ('imagenet', 'initial_conv', 7, [16, 8, 4, 2, 1]),
    ('3x3', 'initial_conv_3x3', 3, [32, 32, 16, 8, 4]),
    ('3x3_stride_2', 'initial_conv_3x3_stride_2', 3, [16, 16, 8, 4, 2]),
  ],
)
def test_a_stem_changes_the_first_layer_and_the_sizes(
  stem, name, kernel, sizes
):
  architecture = resnet_model.Architecture(18, 0.25, 7, stem)
  first, *others = resnet_model.conv_layers(architecture)
  assert (first.name, first.kernel_shape) == (name, (kernel, kernel, 3, 16))
  usual = resnet_model.Architecture(18, 0.25, 7)
  assert others == list(resnet_model.conv_layers(usual)[1:])
  assert architecture.initial_conv == name
  for masked in (False, True):
    ours, theirs = (
      resnet_model.variable_shapes(each, masked)
      for each in (architecture, usual)
    )
    scope = resnet_model.SCOPE
    assert list(theirs) == [
      n.replace(f'{scope}{name}/', f'{scope}initial_conv/') for n in ours
    ]
    assert sum(map(np.prod, ours.values())) == sum(
      map(np.prod, theirs.values())
    ) - (49 - kernel**2) * 3 * 16 * (2 if masked else 1)
  values = resnet_model.initial_values(architecture, seed=0)
  folded = resnet_model.fold_batch_norm(values, architecture)
  seen = []

  def conv_batch_norm(x, conv):
    x = resnet_model.conv2d(x, folded[f'{conv.name}/kernel'], conv)
    seen.append(x.shape[1])
    return x

  images = tf.random.stateless_normal((2, 32, 32, 3), (0, 0))
  resnet_model.forward(images, architecture, conv_batch_norm, tf.identity)
  # The first layer, and the last of each group.
  assert [seen[0], *seen[5::5]] == sizes


@pytest.mark.parametrize('size', [31, 32, 33])
def test_the_stem_of_stride_2_is_every_second_pixel_of_the_other(size):
  images = tf.random.stateless_normal((2, size, size, 3), (1, 0))
  kernel = tf.random.stateless_normal((3, 3, 3, 16), (2, 0))
  one, other = (
    resnet_model.conv2d(
      images,
      kernel,
      resnet_model.conv_layers(resnet_model.Architecture(18, 0.25, 7, stem))[0],
    )
    for stem in ('3x3', '3x3_stride_2')
  )
  np.testing.assert_allclose(one[:, ::2, ::2], other, atol=1e-5)


def test_strided_convolutions_pad_as_the_original_does():
  # A 1 in the first pixel reaches the output through the tap at the padding.
  conv = resnet_model.ConvLayer('c', 'b', 7, 1, 1, 2)
  image = np.zeros((1, 8, 8, 1), np.float32)
  image[0, 0, 0] = 1
  kernel = np.arange(49, dtype=np.float32).reshape(7, 7, 1, 1)
  out = resnet_model.conv2d(tf.constant(image), kernel, conv).numpy()
  assert out.shape == (1, 4, 4, 1)
  assert out[0, 0, 0, 0] == kernel[3, 3, 0, 0]


def test_initial_values_are_drawn_as_the_original_draws_them():
  values = resnet_model.initial_values(RESNET_50, seed=3)
  name = 'resnet_model/bottleneck_2_block_group4_1_1/weights'
  weights = values[name]
  fan_in = 3 * 3 * 512
  assert weights.std() == pytest.approx(np.sqrt(1 / fan_in), rel=0.01)
  # Cut at two standard deviations of the normal before it was cut.
  assert np.abs(weights).max() <= 2 / 0.87962566 / np.sqrt(fan_in) * (1 + 1e-6)
  dense = values['resnet_model/final_dense/kernel']
  assert dense.std() == pytest.approx(0.01, rel=0.01)
  zero = [n for n, v in values.items() if n.endswith('gamma') and not v.any()]
  assert len(zero) == 16
  again = resnet_model.initial_values(RESNET_50, seed=3)
  other = resnet_model.initial_values(RESNET_50, seed=4)
  assert np.array_equal(weights, again[name])
  assert not np.array_equal(weights, other[name])


@pytest.mark.parametrize('stem', resnet_model.STEMS)
def test_folding_equals_normalising(stem):
  architecture = resnet_model.Architecture(18, 0.25, 5, stem)
  rng = np.random.default_rng(0)
  values = {
    name: reference_values.value(name, shape)
    for name, shape in resnet_model.variable_shapes(architecture, True).items()
  }
  images = tf.constant(rng.standard_normal((3, 32, 32, 3)), tf.float32)

  def conv_batch_norm(x, conv):
    prefix = f'{resnet_model.SCOPE}{conv.name}/'
    norm = f'{resnet_model.SCOPE}{conv.batch_norm}/'
    kernel = values[f'{prefix}weights'] * values[f'{prefix}mask']
    return tf.nn.batch_normalization(
      resnet_model.conv2d(x, kernel, conv),
      values[f'{norm}moving_mean'],
      values[f'{norm}moving_variance'],
      values[f'{norm}beta'],
      values[f'{norm}gamma'],
      resnet_model.BATCH_NORM_EPSILON,
    )

  def dense(x):
    return (
      x @ values['resnet_model/final_dense/kernel']
      + values['resnet_model/final_dense/bias']
    )

  plain = resnet_model.forward(images, architecture, conv_batch_norm, dense)
  folded = resnet_model.folded_forward(
    images, resnet_model.fold_batch_norm(values, architecture), architecture
  )
  np.testing.assert_allclose(plain, folded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'arguments',
  [(42, 1.0, 10), (18, 0.0, 10), (18, 1.0, 1), (18, 1.0, 10, '5x5')],
)
def test_impossible_architectures_are_refused(arguments):
  with pytest.raises(ValueError, match='wanted'):
    resnet_model.Architecture(*arguments)
