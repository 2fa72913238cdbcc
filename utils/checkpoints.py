"""Checkpoints in the original's format: TensorFlow V2 bundles, name -> tensor.

A bundle is `<prefix>.index` and `<prefix>.data-00000-of-00001`. The names are
the original graph's: `kernel` for the convolutions of a dense network, `mask`,
`weights` and `threshold` for those of a pruned one, under `resnet_model/`, and
`global_step`. So the released checkpoints load here, and what is exported here
loads into the original's graph. A network for small images is none of the
original's, and its first convolution says so by its name: `initial_conv_3x3` or
`initial_conv_3x3_stride_2` in place of `initial_conv`, everything else being
the same. What the original's training graph adds
(momentum slots, `model_pruning/last_mask_update_step`) is known and left aside.

Reading is strict. The architecture is read off the names and shapes; a name
that is missing, unknown, of another shape or type stops with an error that
shows what was found beside what was wanted.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epy

from utils import bundle_index, resnet_model, storage

with epy.lazy_imports():
  import tensorflow as tf

_GLOBAL_STEP = 'global_step'
_LAST_UPDATE = 'model_pruning/last_mask_update_step'
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network.

  Attributes:
    architecture: which ResNet.
    values: the original's variable names -> float32 arrays, in the order of
      creation.
    global_step: optimiser steps behind it.
  """

  architecture: resnet_model.Architecture
  values: dict[str, np.ndarray]
  global_step: int

  @property
  def is_masked(self) -> bool:
    """Whether the network has masks."""
    prefix = f'{resnet_model.SCOPE}{self.architecture.initial_conv}/'
    return f'{prefix}mask' in self.values

  def layer_sparsity(self) -> dict[str, float]:
    """Share of zero weights of each convolution, by the original's name."""
    sparsity = {}
    for conv in resnet_model.conv_layers(self.architecture):
      prefix = f'{resnet_model.SCOPE}{conv.name}/'
      kept = self.values[prefix + ('mask' if self.is_masked else 'kernel')]
      sparsity[conv.name] = 1 - int(np.count_nonzero(kept)) / kept.size
    return sparsity


def read(prefix: str) -> Network:
  """Reads a checkpoint.

  Args:
    prefix: path without `.index`.

  Raises:
    FileNotFoundError: there is no such checkpoint, or only a part of it.
    ValueError: it is damaged, or its variables are not those of a ResNet as
      the original names them.
  """
  reader = _open(prefix)
  shapes = reader.get_variable_to_shape_map()
  dtypes = reader.get_variable_to_dtype_map()
  architecture, masked = _recognise(prefix, shapes)
  wanted = {
    name: (list(shape), tf.float32)
    for name, shape in resnet_model.variable_shapes(
      architecture, masked
    ).items()
  }
  wanted[_GLOBAL_STEP] = ([], tf.int64)
  _compare(prefix, {n: (shapes[n], dtypes[n]) for n in shapes}, wanted, masked)
  values = _read_tensors(reader, prefix, wanted)
  step = int(values.pop(_GLOBAL_STEP))
  for name, value in values.items():
    if not np.isfinite(value).all():
      raise ValueError(f'{prefix}: {name} holds values that are not finite')
    if name.endswith('/mask') and not np.isin(value, (0, 1)).all():
      raise ValueError(f'{prefix}: {name} holds values other than 0 and 1')
  return Network(architecture, values, step)


def read_architecture(prefix: str) -> resnet_model.Architecture:
  """Reads which ResNet a checkpoint holds, without its values.

  Raises:
    FileNotFoundError, ValueError: as `read`.
  """
  shapes = _open(prefix).get_variable_to_shape_map()
  return _recognise(prefix, shapes)[0]


def _open(prefix: str):
  index = tf.io.gfile.exists(f'{prefix}.index')
  data = tf.io.gfile.glob(f'{prefix}.data-*')
  if not index or not data:
    missing = '.index' if not index else '.data-00000-of-00001'
    partial = 'only a part of ' if index or data else 'no '
    raise FileNotFoundError(
      f'there is {partial}checkpoint {prefix}: {prefix}{missing} is missing'
    )
  try:
    bundle_index.check(f'{prefix}.index', data)
    # Not tf.train.load_checkpoint, which looks whether it is a folder.
    return tf.compat.v1.train.NewCheckpointReader(prefix)
  except _read_errors() as error:
    raise ValueError(f'{prefix}.index is damaged: {error}') from None


def _read_errors() -> tuple[type[Exception], ...]:
  """What TensorFlow's reader raises on damage: it has no type of its own."""
  return (
    tf.errors.OpError,
    RuntimeError,
    ValueError,
    IndexError,
    MemoryError,
  )


def _read_tensors(reader, prefix: str, names: Iterable[str]) -> dict:
  try:
    return {name: reader.get_tensor(name) for name in names}
  except _read_errors() as error:
    raise ValueError(
      f'{prefix}: the data file is damaged or cut short: {error}'
    ) from None


def read_bundle(prefix: str) -> dict[str, np.ndarray]:
  """Reads all tensors of a bundle, whatever their names.

  Raises:
    FileNotFoundError, ValueError: it is missing, incomplete or damaged.
  """
  reader = _open(prefix)
  return _read_tensors(reader, prefix, reader.get_variable_to_shape_map())


def _recognise(
  prefix: str, shapes: Mapping[str, list[int]]
) -> tuple[resnet_model.Architecture, bool]:
  """Reads the architecture off the names and shapes of the variables."""
  if '_CHECKPOINTABLE_OBJECT_GRAPH' in shapes:
    raise ValueError(
      f'{prefix} is an object-based checkpoint of TensorFlow 2 '
      '(tf.train.Checkpoint or Keras), wanted a name-based one with the '
      "original graph's variable names, such as resnet_model/initial_conv/"
      'kernel'
    )
  scope = resnet_model.SCOPE
  # Of two of them, the second one is found to be unknown.
  initial = [
    (shapes[f'{scope}{conv}/{leaf}'], stem, leaf == 'weights')
    for conv, stem in resnet_model.initial_convs().items()
    for leaf in ('weights', 'kernel')
    if f'{scope}{conv}/{leaf}' in shapes
  ]
  first, stem, masked = initial[0] if initial else ([], '', False)
  dense = shapes.get(f'{scope}final_dense/kernel')
  if not dense or len(first) != 4 or len(dense) != 2:
    wanted = resnet_model.variable_shapes(
      resnet_model.Architecture(50, 1.0, 1000), masked
    )
    raise ValueError(
      f'{prefix} does not hold a ResNet under the names of the original\n'
      + _side_by_side(sorted(shapes), list(wanted))
    )
  # Blocks are counted group by group, from the names of their convolutions.
  name = re.compile(
    rf'{scope}(bottleneck|residual)_1_block_group'
    r'(?:_projection_block_group)?(\d)(?:_(\d+)_1)?/(?:kernel|weights)'
  )
  found = [match for match in map(name.fullmatch, shapes) if match]
  kinds = {match[1] for match in found}
  counts = tuple(
    sum(match[2] == str(g) for match in found) for g in range(1, 5)
  )
  depths = [
    depth
    for depth in resnet_model.DEPTHS
    if kinds == {'bottleneck' if depth >= 50 else 'residual'}
    and counts == resnet_model.blocks_per_group(depth)
  ]
  if not depths:
    raise ValueError(
      f'{prefix} has {counts} {"/".join(sorted(kinds)) or "unknown"} blocks '
      'in its four groups, wanted those of a ResNet of depth '
      + ', '.join(
        f'{d}: {resnet_model.blocks_per_group(d)}' for d in resnet_model.DEPTHS
      )
    )
  return (
    resnet_model.Architecture(depths[0], first[3] / 64, dense[1], stem),
    masked,
  )


def _side_by_side(found: list[str], wanted: list[str]) -> str:
  rows = [
    f'  {f:<60} {w}'
    for f, w in zip(found[:_SHOWN], wanted[:_SHOWN], strict=False)
  ]
  head = f'  {f"found ({len(found)})":<60} wanted ({len(wanted)})'
  return '\n'.join([head, *rows, '  ...'])


def _compare(prefix: str, found: dict, wanted: dict, masked: bool) -> None:
  """Refuses names, shapes and types other than those wanted."""
  known = set(wanted) | {f'{name}/Momentum' for name in wanted}
  if masked:
    known.add(_LAST_UPDATE)
  missing = [name for name in wanted if name not in found]
  unknown = sorted(name for name in found if name not in known)
  differ = [
    f'{name}: found {found[name][0]} {found[name][1].name}, '
    f'wanted {shape} {dtype.name}'
    for name, (shape, dtype) in wanted.items()
    if name in found
    and (list(found[name][0]), found[name][1]) != (shape, dtype)
  ]
  if not (missing or unknown or differ):
    return
  lines = [f'{prefix} is not the checkpoint of one ResNet of the original:']
  for what, names in (
    ('missing', missing),
    ('unknown', unknown),
    ('of another shape or type', differ),
  ):
    if names:
      more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
      lines.append(f'  {len(names)} {what}: {"; ".join(names[:_SHOWN])}{more}')
  if missing and unknown:
    lines.append(_side_by_side(unknown, missing))
  raise ValueError('\n'.join(lines))


def write(prefix: str, network: Network) -> None:
  """Writes a checkpoint; its index appears last, so it is complete or absent.

  Raises:
    ValueError: the values are not exactly the variables of the architecture.
  """
  wanted = resnet_model.variable_shapes(network.architecture, network.is_masked)
  _compare(
    prefix,
    {
      name: (list(value.shape), tf.as_dtype(value.dtype))
      for name, value in network.values.items()
    },
    {name: (list(shape), tf.float32) for name, shape in wanted.items()},
    network.is_masked,
  )
  for name, value in network.values.items():
    if not np.isfinite(value).all():
      raise ValueError(f'{prefix}: {name} holds values that are not finite')
  tensors = {_GLOBAL_STEP: np.asarray(network.global_step, np.int64)}
  tensors.update((name, network.values[name]) for name in wanted)
  write_bundle(prefix, tensors)


def write_bundle(prefix: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes named tensors as a V2 bundle, data first, index last."""
  suffixes = ('.data-00000-of-00001', '.index')
  with storage.unfinished(prefix) as hidden:
    try:
      tf.io.gfile.makedirs(os.path.dirname(prefix) or '.')
      tf.raw_ops.SaveV2(
        prefix=hidden,
        tensor_names=list(tensors),
        shape_and_slices=[''] * len(tensors),
        tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
      )
      with storage.cannot_be_written(prefix):
        for suffix in suffixes:
          storage.flush_to_disk(hidden + suffix)
      # A former index does not describe the new data.
      if tf.io.gfile.exists(f'{prefix}.index'):
        tf.io.gfile.remove(f'{prefix}.index')
      for suffix in suffixes:
        tf.io.gfile.rename(hidden + suffix, prefix + suffix, overwrite=True)
    except tf.errors.OpError as error:
      raise OSError(f'{prefix} cannot be written: {error.message}') from None
    finally:
      for path in tf.io.gfile.glob(f'{hidden}.*'):
        tf.io.gfile.remove(path)
