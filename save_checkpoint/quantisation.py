"""Post-training quantisation of a trained network, as a `.tflite` file.

The network is converted to TensorFlow Lite in float32 by TensorFlow, its batch
normalisation folded into the convolutions, and quantised by litert-quantizer,
TensorFlow's own quantiser being deprecated. Float16 has no recipe there and is
TensorFlow's. Pixels go in on the 0..255 scale: the normalisation of the data
set is in the network, in float32, as the scores that come out are; all between
them is quantised:

  float32       nothing is: what the conversion alone changes
  float16       weights are rounded to float16, computed in float32
  dynamic_int8  weights to 8 bits, a scale for each channel; activations as they
                come, with the range of each batch's image
  int8          activations to 8 bits as well, with the ranges that they have on
                the calibration images, from the least to the largest value, as
                TensorFlow's quantiser takes them
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging
from etils import epy

from utils import (
  checkpoints,
  image_records,
  member_paths,
  resnet_model,
  tensorflow_start,
)

with epy.lazy_imports():
  import tensorflow as tf
  from ai_edge_litert.tools import flatbuffer_utils
  from litert_quantizer import (
    algorithm_manager,
    calibrator,
    qtyping,
    quantizer,
    recipe,
    recipe_manager,
  )
  from litert_quantizer.utils import qsv_utils

FLOAT32, FLOAT16, DYNAMIC_INT8, INT8 = QUANTISATIONS = (
  'float32',
  'float16',
  'dynamic_int8',
  'int8',
)
# Half of what 32 bits hold, for the sum with all else.
_LARGEST_BIAS = 2.0**30
_INPUT, _OUTPUT = 'images', 'scores'
# What TensorFlow Lite and the quantiser's progress bars print.
_REMARKS = (
  'TensorFlow Lite XNNPACK delegate',
  'Running Calibration',
  'Applying Transformations',
)


def versions(quantisation: str) -> dict[str, str]:
  """The versions of what decides a network's bytes, by package."""
  packages = ['tensorflow']
  if quantisation in (DYNAMIC_INT8, INT8):
    packages += ['litert-quantizer', 'ai-edge-litert']
  return {name: importlib.metadata.version(name) for name in packages}


def quantise(
  source: member_paths.Checkpoint,
  quantisations: Sequence[str],
  records: image_records.ImageRecords,
  calibration: np.ndarray | None,
  batch_size: int,
) -> dict[str, bytes]:
  """Quantises a network.

  Args:
    source: the network, a bundle.
    quantisations: some of `QUANTISATIONS`.
    records: the data set, whose normalisation goes into the network.
    calibration: [n, image_size, image_size, 3] float32 on the 0..255 scale;
      None where nothing is INT8.
    batch_size: calibration images that go through the network at once.

  Returns:
    Quantisation -> the bytes of the `.tflite`.

  Raises:
    FileNotFoundError, ValueError: the network is missing or damaged, or of
      another step or other classes than wanted; names it.
  """
  network = checkpoints.read(source.prefix)
  if network.global_step != source.step:
    raise ValueError(
      f'{source.prefix} is named after step {source.step}, but its global_step '
      f'is {network.global_step}'
    )
  classes = network.architecture.num_classes
  if classes != records.num_classes:
    raise ValueError(
      f'{source.prefix} has {classes} classes, the data set {records.name} has '
      f'{records.num_classes}'
    )
  with _quietly():
    forward = _forward(network, records)
    found = {}
    if FLOAT16 in quantisations:
      found[FLOAT16] = _convert(forward, half=True)
    if set(quantisations) - {FLOAT16}:
      whole = _convert(forward)
    if FLOAT32 in quantisations:
      found[FLOAT32] = whole
    if DYNAMIC_INT8 in quantisations:
      found[DYNAMIC_INT8] = _quantised(whole, recipe.dynamic_wi8_afp32())
    if INT8 in quantisations and calibration is not None:
      found[INT8] = _with_exact_biases(
        _quantised(
          whole, _static_recipe(whole), _ranges(whole, calibration, batch_size)
        ),
        whole,
      )
  return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Without what the libraries tell those who work on them."""
  log = logging.get_absl_logger()
  level = log.level
  with warnings.catch_warnings(), tensorflow_start.without_lines(*_REMARKS):
    # Of biases that are cut off: see `_with_exact_biases`.
    warnings.simplefilter('ignore')
    log.setLevel('WARNING')
    try:
      yield
    finally:
      log.setLevel(level)


def _forward(
  network: checkpoints.Network, records: image_records.ImageRecords
) -> tf.types.experimental.GenericFunction:
  """The network from pixels to scores, its weights constants."""
  folded = {
    name: tf.constant(value)
    for name, value in resnet_model.fold_batch_norm(
      network.values, network.architecture
    ).items()
  }
  size = records.image_size

  @tf.function(
    input_signature=[tf.TensorSpec((None, size, size, 3), name=_INPUT)]
  )
  def forward(images):
    x = resnet_model.normalise(
      images, records.channel_mean, records.channel_std
    )
    scores = resnet_model.folded_forward(x, folded, network.architecture)
    return {_OUTPUT: scores}

  return forward


def _convert(forward, half: bool = False) -> bytes:
  module = tf.Module()
  module.forward = forward  # Without an owner the file has no signature.
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [forward.get_concrete_function()], module
  )
  if half:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
  return converter.convert()


def _static_recipe(network: bytes) -> qtyping.ModelQuantizationRecipe:
  """Eight bits for all but the two operations of the normalisation."""
  made = quantizer.Quantizer(bytearray(network))
  operation = qtyping.TFLOperationName
  made.add_static_config(
    regex='.*',
    operation_name=operation.ALL_SUPPORTED,
    activation_num_bits=8,
    weight_num_bits=8,
  )
  # No other SUB or MUL is in a ResNet whose normalisations are folded.
  for name in (
    operation.INPUT,
    operation.SUB,
    operation.MUL,
    operation.OUTPUT,
  ):
    made.update_quantization_recipe(
      regex='.*',
      operation_name=name,
      algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
    )
  return made.get_quantization_recipe()


def _ranges(
  network: bytes, images: np.ndarray, batch_size: int
) -> Mapping[str, qtyping.QSV]:
  """The least and the largest value of each tensor, over the images."""
  manager = recipe_manager.RecipeManager()
  manager.load_quantization_recipe(_static_recipe(network))
  found = calibrator.Calibrator(
    network, num_threads=1, qsv_update_func=qsv_utils.min_max_update
  )
  batches = [
    {_INPUT: images[start : start + batch_size]}
    for start in range(0, len(images), batch_size)
  ]
  (signature,) = found.get_signature_list()
  found.calibrate({signature: batches}, manager)
  return found.get_model_qsvs()


def _quantised(
  network: bytes, of: qtyping.ModelQuantizationRecipe, ranges=None
):
  result = quantizer.Quantizer(bytearray(network), of).quantize(
    ranges, enable_progress_bar=False, enable_progress_report=False
  )
  return bytes(result.quantized_model)


def _with_exact_biases(network: bytes, whole: bytes) -> bytes:
  """Gives filters whose bias left the 32 bits a scale in which it fits.

  A bias has the scale of the inputs times that of the filter. Where a filter
  has no weights but zeros, as pruning leaves some, or very small ones, that is
  so small that the bias is cut off or changes its sign, and with it all that
  the filter gives (litert-quantizer 0.11 looks at neither). TensorFlow's own
  quantiser enlarges the scale, too; weights that small do not count beside such
  a bias.

  Args:
    network: int8.
    whole: the same in float32.
  """
  before, model = (
    flatbuffer_utils.read_model_from_bytearray(bytearray(of))
    for of in (whole, network)
  )
  exact = {
    tensor.name: before.buffers[tensor.buffer].data
    for tensor in before.subgraphs[0].tensors
  }
  tensors = model.subgraphs[0].tensors
  for operation in model.subgraphs[0].operators:
    # A convolution or a dense layer, of inputs, filters and biases.
    if len(operation.inputs) != 3:
      continue
    source, filters, biases = (tensors[i] for i in operation.inputs)
    values = np.frombuffer(exact[biases.name], np.float32)
    scale = np.array(filters.quantization.scale, np.float64)
    (of_source,) = source.quantization.scale
    fits = np.abs(values) / (of_source * _LARGEST_BIAS)
    small = scale < fits
    if not small.any():
      continue
    enlarged = np.where(small, fits, scale)
    stored = model.buffers[filters.buffer]
    weights = np.frombuffer(stored.data, np.int8).reshape(len(scale), -1)
    weights = np.rint(weights * (scale / enlarged)[:, None]).astype(np.int8)
    stored.data = weights.reshape(-1).view(np.uint8)
    whole_numbers = np.rint(values / (of_source * enlarged)).astype(np.int32)
    model.buffers[biases.buffer].data = whole_numbers.view(np.uint8)
    filters.quantization.scale = enlarged.astype(np.float32)
    biases.quantization.scale = (of_source * enlarged).astype(np.float32)
  return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
