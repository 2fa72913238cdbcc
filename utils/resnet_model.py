"""ResNet "v1.5", as the original's TPU reference has it.

Pure functions: an architecture gives the list of its layers and variables, in
the order and under the names of the original graph, and `forward` sends images
through layers that the caller supplies. Training supplies masked convolutions
with batch statistics, inference supplies convolutions with the normalisation
folded into their weights; the shape of the network is spelled once, here.

The variant (against He et al. 2015, arXiv 1512.03385): the stride of a
bottleneck sits on its 3x3 convolution; strided convolutions pad explicitly,
(k-1)//2 before and the rest after; the max pool pads as TensorFlow's SAME does;
the first block of every group projects its shortcut; the last scale of every
block starts at zero. For 224x224 images the groups see 56, 56, 28 and 14
pixels and give 56, 28, 14 and 7.

The stem, what stands before the groups, is a choice. For images of 32x32 the
original's leaves the groups 8 pixels and less; those without a pool are what
is usual there (He et al. section 4.2). A stem of its own has names of its own,
by which a checkpoint is known:

  stem          convolution             pool           32x32 to the groups
  imagenet      initial_conv, 7x7 / 2   maximum, 3 / 2    8, 8, 4, 2, then 1
  3x3           initial_conv_3x3, / 1   none             32, 32, 16, 8, then 4
  3x3_stride_2  initial_conv_3x3_stride_2, / 2   none    16, 16, 8, 4, then 2

  depth   blocks         blocks per group
  18, 34  two 3x3        2 2 2 2, 3 4 6 3
  50      1x1, 3x3, 1x1  3 4 6 3
  101     likewise       3 4 23 3
  152     likewise       3 8 36 3
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from etils import epy

with epy.lazy_imports():
  import tensorflow as tf

SCOPE = 'resnet_model/'
BATCH_NORM_MOMENTUM = 0.9
# The original asks for 1e-5; TensorFlow's fused kernel raises that to the
# smallest epsilon that cuDNN takes, so this is what its numbers were made with.
BATCH_NORM_EPSILON = 1.001e-5

_BLOCKS = {
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
}
DEPTHS = tuple(_BLOCKS)


@dataclasses.dataclass(frozen=True)
class _Stem:
  """The initial convolution and what follows it before the groups."""

  conv_name: str
  kernel_size: int
  stride: int
  has_pool: bool


_STEMS = {
  'imagenet': _Stem('initial_conv', 7, 2, has_pool=True),
  '3x3': _Stem('initial_conv_3x3', 3, 1, has_pool=False),
  '3x3_stride_2': _Stem('initial_conv_3x3_stride_2', 3, 2, has_pool=False),
}
STEMS = tuple(_STEMS)


def initial_convs() -> dict[str, str]:
  """Name of the first convolution, without the scope -> its stem."""
  return {stem.conv_name: name for name, stem in _STEMS.items()}


def blocks_per_group(depth: int) -> tuple[int, int, int, int]:
  """Number of residual blocks in each of the four groups."""
  return _BLOCKS[depth]


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Which ResNet.

  Attributes:
    depth: number of layers, one of `DEPTHS`.
    width: factor on the number of filters; 1 is 64, 128, 256, 512.
    num_classes: size of the output.
    stem: what stands before the groups, one of `STEMS`.
  """

  depth: int
  width: float
  num_classes: int
  stem: str = 'imagenet'

  def __post_init__(self):
    if self.depth not in _BLOCKS:
      raise ValueError(f'resnet depth is {self.depth}, wanted one of {DEPTHS}')
    if not math.isfinite(self.width) or self.filters(0) < 1:
      raise ValueError(f'width is {self.width}, wanted 1/64 or more')
    if self.num_classes < 2:
      raise ValueError(f'num_classes is {self.num_classes}, wanted 2 or more')
    if self.stem not in _STEMS:
      raise ValueError(f'stem is {self.stem!r}, wanted one of {STEMS}')

  def filters(self, group: int) -> int:
    """Filters of the narrow convolutions of a group, 0..3."""
    return round(64 * self.width) * 2**group

  @property
  def has_bottlenecks(self) -> bool:
    """Whether blocks are 1x1, 3x3, 1x1 rather than two 3x3."""
    return self.depth >= 50

  @property
  def initial_conv(self) -> str:
    """Name of the first convolution, without the scope; says the stem."""
    return _STEMS[self.stem].conv_name


@dataclasses.dataclass(frozen=True)
class ConvLayer:
  """A convolution and the batch normalisation behind it.

  Attributes:
    name: the original's, without the scope.
    batch_norm: name of the normalisation, likewise.
    kernel_size: height and width of the kernel.
    in_channels: channels it reads.
    out_channels: channels it makes.
    stride: step of the convolution in both directions.
    zero_gamma: whether the scale starts at 0 (the last one of a block).
  """

  name: str
  batch_norm: str
  kernel_size: int
  in_channels: int
  out_channels: int
  stride: int
  zero_gamma: bool = False

  @property
  def kernel_shape(self) -> tuple[int, int, int, int]:
    """[height, width, in_channels, out_channels]."""
    return (
      self.kernel_size,
      self.kernel_size,
      self.in_channels,
      self.out_channels,
    )

  @property
  def size(self) -> int:
    """Number of weights."""
    return math.prod(self.kernel_shape)


@dataclasses.dataclass(frozen=True)
class Block:
  """A residual block: its convolutions in order, and its projection if any."""

  projection: ConvLayer | None
  convs: tuple[ConvLayer, ...]


@functools.cache
def layers(
  architecture: Architecture,
) -> tuple[ConvLayer, tuple[tuple[Block, ...], ...]]:
  """The initial convolution and the four groups of blocks."""
  made = 0

  def conv(name, kernel_size, in_channels, out_channels, stride, last=False):
    nonlocal made
    batch_norm = 'batch_normalization' + (f'_{made}' if made else '')
    made += 1
    return ConvLayer(
      name, batch_norm, kernel_size, in_channels, out_channels, stride, last
    )

  stem = _STEMS[architecture.stem]
  initial = conv(
    stem.conv_name, stem.kernel_size, 3, architecture.filters(0), stem.stride
  )
  channels = initial.out_channels
  groups = []
  for group, count in enumerate(_BLOCKS[architecture.depth]):
    filters = architecture.filters(group)
    blocks = []
    for index in range(count):
      first = index == 0
      suffix = (
        f'block_group_projection_block_group{group + 1}'
        if first
        else f'block_group{group + 1}_{index}_1'
      )
      stride = 2 if first and group else 1
      if architecture.has_bottlenecks:
        kind, out_channels = 'bottleneck', 4 * filters
        shapes: tuple[tuple[int, int, int], ...]
        shapes = ((1, filters, 1), (3, filters, stride), (1, out_channels, 1))
      else:
        kind, out_channels = 'residual', filters
        shapes = ((3, filters, stride), (3, filters, 1))
      # The order of creation numbers the normalisations: projection first.
      projection = (
        conv(f'{kind}_projection_{suffix}', 1, channels, out_channels, stride)
        if first
        else None
      )
      convs = []
      for number, (size, made_channels, conv_stride) in enumerate(shapes, 1):
        convs.append(
          conv(
            f'{kind}_{number}_{suffix}',
            size,
            channels,
            made_channels,
            conv_stride,
            last=number == len(shapes),
          )
        )
        channels = made_channels
      blocks.append(Block(projection, tuple(convs)))
    groups.append(tuple(blocks))
  return initial, tuple(groups)


@functools.cache
def conv_layers(architecture: Architecture) -> tuple[ConvLayer, ...]:
  """All convolutions in the order of creation; all of them can be pruned."""
  initial, groups = layers(architecture)
  found = [initial]
  for block in (block for group in groups for block in group):
    found += [block.projection] if block.projection else []
    found += block.convs
  return tuple(found)


def output_pixels(
  architecture: Architecture, image_size: int
) -> dict[str, int]:
  """For how many pixels each convolution computes its output, by its name.

  Args:
    architecture: which ResNet.
    image_size: height and width of its input.
  """

  def strided(size, stride):
    return -(-size // stride)

  initial, groups = layers(architecture)
  size = strided(image_size, initial.stride)
  pixels = {initial.name: size**2}
  if _STEMS[architecture.stem].has_pool:
    size = strided(size, 2)
  for block in (block for group in groups for block in group):
    if block.projection:
      pixels[block.projection.name] = (
        strided(size, block.projection.stride) ** 2
      )
    for conv in block.convs:
      size = strided(size, conv.stride)
      pixels[conv.name] = size**2
  return pixels


def total_sparsity(
  layer_sparsity: Mapping[str, float], architecture: Architecture
) -> float:
  """Share of zeros of all convolutions together, from that of each by name."""
  sizes = {conv.name: conv.size for conv in conv_layers(architecture)}
  zeros = sum(layer_sparsity[name] * size for name, size in sizes.items())
  return zeros / sum(sizes.values())


def variable_shapes(
  architecture: Architecture, masked: bool
) -> dict[str, tuple[int, ...]]:
  """Name and shape of every variable of the original's inference graph.

  Args:
    architecture: which ResNet.
    masked: True for a pruned network, whose convolutions have `mask`,
      `weights` and `threshold` in place of `kernel`.

  Returns:
    Names in the order of creation, `global_step` left out.
  """
  shapes: dict[str, tuple[int, ...]] = {}
  for conv in conv_layers(architecture):
    prefix = f'{SCOPE}{conv.name}/'
    if masked:
      shapes[f'{prefix}mask'] = conv.kernel_shape
      shapes[f'{prefix}weights'] = conv.kernel_shape
      shapes[f'{prefix}threshold'] = ()
    else:
      shapes[f'{prefix}kernel'] = conv.kernel_shape
    for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
      shapes[f'{SCOPE}{conv.batch_norm}/{leaf}'] = (conv.out_channels,)
  features = conv_layers(architecture)[-1].out_channels
  shapes[f'{SCOPE}final_dense/kernel'] = (features, architecture.num_classes)
  shapes[f'{SCOPE}final_dense/bias'] = (architecture.num_classes,)
  return shapes


def initial_values(
  architecture: Architecture, seed: int
) -> dict[str, np.ndarray]:
  """Values of a masked network before training, each from the seed and name.

  Convolutions: truncated normal, variance 1/fan_in. Dense layer: normal with
  standard deviation 0.01. Scales 1, or 0 at the end of a block; masks and
  moving variances 1; everything else 0. (ORIGINAL.md section 1.)
  """
  zero_gammas = {
    f'{SCOPE}{conv.batch_norm}/gamma'
    for conv in conv_layers(architecture)
    if conv.zero_gamma
  }
  values = {}
  for name, shape in variable_shapes(architecture, masked=True).items():
    leaf = name.rsplit('/', 1)[1]
    # One stream per name: a layer's start does not depend on the others.
    rng = np.random.default_rng([seed, *name.encode()])
    if leaf == 'weights':
      values[name] = _truncated_normal(rng, shape)
    elif leaf == 'kernel':
      values[name] = 0.01 * rng.standard_normal(shape)
    elif leaf in ('mask', 'moving_variance', 'gamma'):
      values[name] = np.full(shape, float(name not in zero_gammas))
    else:
      values[name] = np.zeros(shape)
    values[name] = values[name].astype(np.float32)
  return values


def _truncated_normal(
  rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
  """Normal cut at 2 standard deviations, rescaled to variance 1 / fan_in."""
  values = rng.standard_normal(shape)
  while (outside := np.abs(values) > 2).any():
    values[outside] = rng.standard_normal(int(outside.sum()))
  # 0.8796 is the standard deviation of a standard normal cut at 2.
  return values / (0.87962566103423978 * math.sqrt(math.prod(shape[:-1])))


def forward(
  images: tf.Tensor,
  architecture: Architecture,
  conv_batch_norm: Callable[[tf.Tensor, ConvLayer], tf.Tensor],
  dense: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
  """Sends images through the network.

  Args:
    images: [n, height, width, 3] normalised (`normalise`).
    architecture: which ResNet.
    conv_batch_norm: a convolution (see `conv2d`) and its normalisation.
    dense: the last layer, [n, features] to [n, num_classes].

  Returns:
    Logits [n, num_classes].
  """
  initial, groups = layers(architecture)
  x = tf.nn.relu(conv_batch_norm(images, initial))
  if _STEMS[architecture.stem].has_pool:
    x = tf.nn.max_pool2d(x, ksize=3, strides=2, padding='SAME')
  for block in (block for group in groups for block in group):
    shortcut = conv_batch_norm(x, block.projection) if block.projection else x
    for conv in block.convs[:-1]:
      x = tf.nn.relu(conv_batch_norm(x, conv))
    x = tf.nn.relu(conv_batch_norm(x, block.convs[-1]) + shortcut)
  return dense(tf.reduce_mean(x, axis=(1, 2)))


def conv2d(x: tf.Tensor, kernel: tf.Tensor, conv: ConvLayer) -> tf.Tensor:
  """The convolution of a layer, with the original's padding."""
  padding: str | tuple[tuple[int, int], ...] = 'SAME'
  if conv.stride > 1:
    before = (conv.kernel_size - 1) // 2
    pad = (before, conv.kernel_size - 1 - before)
    padding = ((0, 0), pad, pad, (0, 0)) if conv.kernel_size > 1 else 'VALID'
  return tf.nn.conv2d(x, kernel, conv.stride, padding)


def normalise(
  images: tf.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tf.Tensor:
  """(images - mean) / std per channel, on the 0..255 scale."""
  return (images - tf.constant(mean, images.dtype)) / tf.constant(
    std, images.dtype
  )


def fold_batch_norm(
  values: Mapping[str, np.ndarray], architecture: Architecture
) -> dict[str, np.ndarray]:
  """Multiplies masks and batch normalisations into the convolutions.

  With scale s = gamma / sqrt(moving_variance + epsilon), a convolution and the
  normalisation behind it are one convolution with kernel * s and a bias
  beta - moving_mean * s. Computed in float64, rounded once.

  Args:
    values: of a dense or a masked network, by the original's names.
    architecture: which ResNet.

  Returns:
    `<conv>/kernel`, `<conv>/bias`, `final_dense/kernel`, `final_dense/bias`,
    without scope, all float32; the same names for dense and masked networks.
  """
  folded = {}
  for conv in conv_layers(architecture):
    prefix = f'{SCOPE}{conv.name}/'
    norm = {
      leaf: np.asarray(values[f'{SCOPE}{conv.batch_norm}/{leaf}'], np.float64)
      for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')
    }
    scale = norm['gamma'] / np.sqrt(
      norm['moving_variance'] + BATCH_NORM_EPSILON
    )
    kernel = values.get(f'{prefix}kernel')
    if kernel is None:
      kernel = values[f'{prefix}weights'] * values[f'{prefix}mask']
    folded[f'{conv.name}/kernel'] = (kernel * scale).astype(np.float32)
    folded[f'{conv.name}/bias'] = (
      norm['beta'] - norm['moving_mean'] * scale
    ).astype(np.float32)
  for leaf in ('kernel', 'bias'):
    name = f'final_dense/{leaf}'
    folded[name] = np.asarray(values[SCOPE + name], np.float32)
  return folded


def folded_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
  """Names and shapes of what `fold_batch_norm` gives."""
  shapes: dict[str, tuple[int, ...]] = {}
  for conv in conv_layers(architecture):
    shapes[f'{conv.name}/kernel'] = conv.kernel_shape
    shapes[f'{conv.name}/bias'] = (conv.out_channels,)
  for leaf in ('kernel', 'bias'):
    name = f'final_dense/{leaf}'
    shapes[name] = variable_shapes(architecture, False)[SCOPE + name]
  return shapes


def folded_forward(
  images: tf.Tensor,
  folded: Mapping[str, tf.Tensor],
  architecture: Architecture,
) -> tf.Tensor:
  """Logits of a network whose normalisations are folded into its weights.

  Args:
    images: [n, height, width, 3] normalised, float32 or bfloat16.
    folded: as `fold_batch_norm` makes them, convolutions in images' type.
    architecture: which ResNet.

  Returns:
    Logits [n, num_classes], float32.
  """

  def conv_batch_norm(x, conv):
    x = conv2d(x, folded[f'{conv.name}/kernel'], conv)
    return tf.nn.bias_add(x, folded[f'{conv.name}/bias'])

  def dense(x):
    # In float32 whatever the convolutions: the logits are compared.
    x = tf.cast(x, tf.float32)
    x = tf.linalg.matmul(x, folded['final_dense/kernel'])
    return tf.nn.bias_add(x, folded['final_dense/bias'])

  return forward(images, architecture, conv_batch_norm, dense)
