"""The networks of this project as models of tf_keras, for other formats."""

import numpy as np
import tf_keras

from utils import resnet_model


def model(values, architecture, image_size):
  """A tf_keras model: normalised images in, logits out.

  Args:
    values: of a dense network, by the original's names.
    architecture: which ResNet.
    image_size: pixels.
  """
  layers = tf_keras.layers

  def conv_batch_norm(x, conv):
    name = f'{resnet_model.SCOPE}{conv.name}/kernel'
    norm = f'{resnet_model.SCOPE}{conv.batch_norm}/'
    padding = 'same'
    if conv.stride > 1:
      before = (conv.kernel_size - 1) // 2
      after = conv.kernel_size - 1 - before
      x = layers.ZeroPadding2D(((before, after), (before, after)))(x)
      padding = 'valid'
    x = layers.Conv2D(
      conv.out_channels,
      conv.kernel_size,
      conv.stride,
      padding,
      use_bias=False,
      weights=[values[name]],
    )(x)
    return layers.BatchNormalization(
      epsilon=resnet_model.BATCH_NORM_EPSILON,
      weights=[
        values[norm + leaf]
        for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')
      ],
    )(x)

  dense = layers.Dense(
    architecture.num_classes,
    weights=[
      values[f'{resnet_model.SCOPE}final_dense/{leaf}']
      for leaf in ('kernel', 'bias')
    ],
  )
  images = tf_keras.Input((image_size, image_size, 3))
  return tf_keras.Model(
    images, resnet_model.forward(images, architecture, conv_batch_norm, dense)
  )


def random_values(architecture, seed=0):
  """Values of a dense network whose layers all matter, by name."""
  rng = np.random.default_rng(seed)
  values = {}
  for name, shape in resnet_model.variable_shapes(architecture, False).items():
    leaf = name.rsplit('/', 1)[1]
    if leaf == 'kernel':
      value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    elif leaf in ('gamma', 'moving_variance'):
      value = rng.uniform(0.5, 1.5, shape)
    else:
      value = 0.1 * rng.standard_normal(shape)
    values[name] = np.asarray(value, np.float32)
  return values
