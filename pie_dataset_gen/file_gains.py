"""Weights and multiply-adds of networks that other frameworks wrote.

Counted are convolutions and matrix products with weights that are constant,
each by the size of its output for one image; where a network multiplies
otherwise, or its weights are computed as it runs, nothing is said, and why. In
a `.tflite` file batch normalisation is folded into the convolutions, and a
quantised weight is zero where it is at its zero point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from etils import epath, epy

from pie_dataset_gen import gains
from utils import framework_networks, member_paths, network_files

with epy.lazy_imports():
  import tensorflow as tf
  from ai_edge_litert import schema_py_generated as schema
  from tensorflow.python.framework import convert_to_constants

# Operations that multiply, but not in a way that is counted here.
_OTHER_PRODUCTS = {
  *('BatchMatMul', 'BatchMatMulV2', 'BatchMatMulV3', 'Einsum', 'Conv3D'),
  *('Conv2DBackpropInput', 'XlaConvV2', 'XlaDotV2', 'While', 'If'),
  *('BATCH_MATMUL', 'TRANSPOSE_CONV', 'CONV_3D', 'CUSTOM', 'WHILE', 'IF'),
  *('UNIDIRECTIONAL_SEQUENCE_LSTM', 'STABLEHLO_CONVOLUTION'),
}
_TFLITE_TYPES = {
  'FLOAT32': '<f4',
  'FLOAT16': '<f2',
  'INT8': 'i1',
  'UINT8': 'u1',
  'INT16': '<i2',
  'INT32': '<i4',
  'INT64': '<i8',
}
_TFLITE_PRODUCTS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
_GRAPH_PRODUCTS = ('Conv2D', 'DepthwiseConv2dNative', 'MatMul')


def count_layers(checkpoint: member_paths.Checkpoint) -> pd.DataFrame:
  """Counts the weights and multiply-adds of each layer.

  Args:
    checkpoint: of the kind 'saved_model', 'keras' or 'tflite'.

  Returns:
    As `gains.count_layers`; all other parameters stand together, last.

  Raises:
    ValueError: they cannot be read from this network; says why.
  """
  if checkpoint.kind == 'tflite':
    return _count_tflite(checkpoint.completed_by)
  return _count_graph(checkpoint)


def _table(
  kernels: dict[str, tuple[int, int]],
  positions: dict[str, float],
  parameters: int,
  nonzero: int,
) -> pd.DataFrame:
  """Rows of layers, and of what is left.

  Args:
    kernels: name -> size, and how many of it are not zero.
    positions: name -> how often each weight is multiplied for an image.
    parameters: of the whole network.
    nonzero: of these, how many are not zero.
  """
  rows = [
    (name, size, not_zero, size * positions[name], not_zero * positions[name])
    for name, (size, not_zero) in kernels.items()
  ]
  of_kernels = [sum(sizes) for sizes in zip(*kernels.values(), strict=True)]
  of_kernels = of_kernels or [0, 0]
  rows.append(
    ('others', parameters - of_kernels[0], nonzero - of_kernels[1], 0, 0)
  )
  return pd.DataFrame(rows, columns=gains.LAYER_COLUMNS).astype(
    {'multiply_adds': int, 'nonzero_multiply_adds': int}
  )


def _refuse(operations: set[str]) -> None:
  if found := operations & _OTHER_PRODUCTS:
    raise ValueError(
      f'multiply-adds of {", ".join(sorted(found))} are not counted'
    )


def _count_graph(checkpoint: member_paths.Checkpoint) -> pd.DataFrame:
  described = network_files.read(checkpoint.described_by)
  of_kind = {
    'keras': framework_networks.KerasFile,
    'saved_model': framework_networks.SavedModel,
  }
  program = of_kind[checkpoint.kind](network_files.path(checkpoint))
  images = program.batch_size or 1
  size = described.image_size
  is_nchw = described.layout == network_files.NCHW
  shape = (3, size, size) if is_nchw else (size, size, 3)
  function = tf.function(program.__call__, autograph=False)
  concrete = function.get_concrete_function(
    tf.TensorSpec((images, *shape), program.input_type)
  )
  trained = [v.numpy() for v in concrete.variables if v.trainable]
  if not trained:
    raise ValueError('its weights are constants of its graph, no variables')
  graph = convert_to_constants.convert_variables_to_constants_v2(concrete).graph
  operations = graph.get_operations()
  _refuse({of.type for of in operations})
  kernels: dict[str, tuple[int, int]] = {}
  positions: dict[str, float] = {}
  for of in operations:
    if of.type not in _GRAPH_PRODUCTS:
      continue
    source = of.inputs[1].op
    while source.type == 'Identity':
      source = source.inputs[0].op
    if source.type != 'Const':
      raise ValueError(f'the weights of {of.name} are computed as it runs')
    kernel = tf.make_ndarray(source.get_attr('value'))
    kernels[source.name] = kernel.size, int(np.count_nonzero(kernel))
    output = of.outputs[0].shape.as_list()
    # A kernel's last axes are the channels that go out; [h, w, in, factor].
    channels = kernel.shape[-1]
    if of.type == 'DepthwiseConv2dNative':
      channels *= kernel.shape[-2]
    if of.type == 'MatMul' and of.get_attr('transpose_b'):
      channels = kernel.shape[0]
    positions[source.name] = (
      positions.get(source.name, 0) + math.prod(output) / images / channels
    )
  return _table(
    kernels,
    positions,
    sum(values.size for values in trained),
    sum(int(np.count_nonzero(values)) for values in trained),
  )


def _count_tflite(path: str) -> pd.DataFrame:
  model = schema.ModelT.InitFromPackedBuf(epath.Path(path).read_bytes(), 0)
  if len(model.subgraphs) != 1:
    raise ValueError(f'it has {len(model.subgraphs)} graphs, wanted one')
  (graph,) = model.subgraphs
  names = _names(schema.BuiltinOperator)

  def operation(of: Any) -> str:
    code = model.operatorCodes[of.opcodeIndex]
    return names[max(code.builtinCode, code.deprecatedBuiltinCode)]

  _refuse(set(map(operation, graph.operators)))
  weights = dict(_tflite_weights(model, graph))
  # Weights of 16 bits are made floats first.
  source = {
    int(of.outputs[0]): int(of.inputs[0])
    for of in graph.operators
    if operation(of) == 'DEQUANTIZE'
  }
  kernels: dict[str, tuple[int, int]] = {}
  positions: dict[str, float] = {}
  for of in graph.operators:
    if operation(of) not in _TFLITE_PRODUCTS:
      continue
    at = int(of.inputs[1])
    at = source.get(at, at)
    name = graph.tensors[at].name.decode()
    if at not in weights:
      raise ValueError(f'the weights {name} are computed as it runs')
    kernels[name] = weights[at]
    output = graph.tensors[int(of.outputs[0])].shape
    # [out, h, w, in] and [out, in]; of depthwise convolutions [1, h, w, out].
    axis = -1 if operation(of) == 'DEPTHWISE_CONV_2D' else 0
    channels = graph.tensors[at].shape[axis]
    positions[name] = (
      positions.get(name, 0) + math.prod(output) / output[0] / channels
    )
  parameters, nonzero = (
    sum(sizes) for sizes in zip(*weights.values(), strict=True)
  )
  return _table(kernels, positions, parameters, nonzero)


def _names(of: type) -> dict[int, str]:
  """Number -> name of what the schema enumerates."""
  return {n: name for name, n in vars(of).items() if isinstance(n, int)}


def _tflite_weights(
  model: Any, graph: Any
) -> Iterator[tuple[int, tuple[int, int]]]:
  """Place of a constant tensor, its size, and how many are not zero.

  Whole numbers without a scale are shapes and axes, no weights.
  """
  types = _names(schema.TensorType)
  for at, tensor in enumerate(graph.tensors):
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
      continue
    kind = types[tensor.type]
    quantised = tensor.quantization
    has_scale = quantised is not None and quantised.scale is not None
    if not kind.startswith('FLOAT') and not has_scale:
      continue
    if kind not in _TFLITE_TYPES:
      raise ValueError(f'weights of the type {kind} are not counted')
    values = np.frombuffer(bytes(data), _TFLITE_TYPES[kind])
    zero = np.zeros(1, int)
    if has_scale and quantised.zeroPoint is not None:
      zero = np.unique(quantised.zeroPoint)
    if len(zero) > 1:
      raise ValueError('its channels have zero points that differ')
    yield at, (values.size, int(np.count_nonzero(values != zero[0])))
