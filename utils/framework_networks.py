"""Networks that another framework wrote, as predictors: images in, scores out.

SavedModels (a folder), `.keras` files of Keras 2 and 3, and `.tflite` files,
each with its description beside it (`network_files`). A network is tried on a
black image as it is opened, so that one that does not fit its description is
refused before an image is read. All run as they were written, in the precision
that they hold and on one device.
"""

from __future__ import annotations

import abc
import os
from typing import Any

import numpy as np
from absl import logging
from etils import epath, epy

from utils import (
  image_records,
  keras_archive,
  member_paths,
  network_files,
  storage,
  tensorflow_start,
)

with epy.lazy_imports():
  import keras
  import tensorflow as tf
  import tf_keras
  from ai_edge_litert import interpreter as litert

# How far from 1 the sum of probabilities is that were rounded to 16 bits.
_SUM_TOLERANCE = 1e-2
# Operations that reach out of a network.
_REFUSED_OPERATIONS = {
  'EagerPyFunc',
  'PyFunc',
  'PyFuncStateless',
  'ReadFile',
  'WriteFile',
}


class Program(abc.ABC):
  """A network as its framework runs it.

  Attributes:
    shape: [4] of the input; None for what may be any number.
    batch_size: images it takes at a time, None for any number.
    input_type: of the pixels that go in.
    is_quantised: whether scores are rounded to 8 or 16 bits.
  """

  shape: tuple[Any, ...]
  batch_size: int | None
  input_type: tf.DType
  is_quantised = False

  @abc.abstractmethod
  def __init__(self, path: str):
    """Opens a file, or the folder of a SavedModel."""

  @abc.abstractmethod
  def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
    """The output of `input_type` pixels, as it is but float32."""

  def encoded(self, pixels: tf.Tensor) -> tf.Tensor:
    """Pixels, as the description has them, in the type of the input."""
    if self.input_type.is_integer:
      pixels = tf.round(pixels)
    return tf.saturate_cast(pixels, self.input_type)


class SavedModel(Program):
  """A folder that TensorFlow, Keras' `export` or a converter wrote."""

  def __init__(self, path: str):
    _check_operations(path)
    # Kept: it owns the variables.
    self._loaded = tf.saved_model.load(path)
    self._function = _signature(self._loaded)
    names = self._function.structured_input_signature[1] or {}
    specs = [
      *self._function.structured_input_signature[0],
      *names.values(),
    ]
    if len(specs) != 1 or not isinstance(specs[0], tf.TensorSpec):
      raise ValueError(f'it takes {len(specs)} inputs, wanted one of images')
    self._name = next(iter(names), None)
    self.shape = _shape(specs[0].shape)
    self.batch_size = self.shape[0]
    self.input_type = specs[0].dtype

  def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
    """As `Program`."""
    if self._name is None:
      return _only(self._function(pixels))
    return _only(self._function(**{self._name: pixels}))


class KerasFile(Program):
  """A `.keras` file, of Keras 2 (`tf_keras`) or 3."""

  def __init__(self, path: str):
    with storage.scratch_folder() as folder:
      # What is checked is what is loaded, from a bucket, too.
      copy = os.path.join(folder, 'model.keras')
      epath.Path(copy).write_bytes(epath.Path(path).read_bytes())
      version = keras_archive.check(copy)
      # Keras 3 computes with what this says as it is imported.
      os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
      library = tf_keras if version == 2 else keras
      self._model = library.models.load_model(
        copy, compile=False, safe_mode=True
      )
    if not isinstance(self._model.input_shape, tuple):
      raise ValueError('it takes several inputs, wanted one of images')
    self.shape = _shape(self._model.input_shape)
    self.batch_size = self.shape[0]
    self.input_type = tf.as_dtype(self._model.inputs[0].dtype)
    self._function = tf.function(
      lambda pixels: self._model(pixels, training=False),
      input_signature=[tf.TensorSpec(self.shape, self.input_type)],
      autograph=False,
    )

  def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
    """As `Program`."""
    return _only(self._function(pixels))


class TfliteFile(Program):
  """A `.tflite` file, of floats or quantised as a whole."""

  def __init__(self, path: str):
    # It says on stderr which delegate computes.
    with tensorflow_start.without_lines('Created TensorFlow Lite XNNPACK'):
      self._interpreter = litert.Interpreter(
        model_content=epath.Path(path).read_bytes(),
        num_threads=os.cpu_count(),
      )
      self._interpreter.allocate_tensors()
    inputs = self._interpreter.get_input_details()
    outputs = self._interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
      raise ValueError(
        f'it has {len(inputs)} inputs and {len(outputs)} outputs, wanted one '
        'of each'
      )
    (self._input,), (self._output,) = inputs, outputs
    self.input_type = tf.as_dtype(self._input['dtype'])
    self.is_quantised = np.issubdtype(self._output['dtype'], np.integer)
    fixed = tuple(int(size) for size in self._input['shape'])
    self.shape = (None, *fixed[1:])
    self.batch_size = None if self._takes_any_number() else fixed[0]

  def _takes_any_number(self) -> bool:
    """Whether the batch can be resized: a shape in its middle may be fixed."""
    before = tuple(self._input['shape'])
    try:
      for number in (3, 2):
        self._resize(number)
        self._interpreter.invoke()
        if len(self._interpreter.get_tensor(self._output['index'])) != number:
          raise RuntimeError('its output keeps its size')
    except (RuntimeError, ValueError):
      self._resize(before[0])
      return False
    return True

  def _resize(self, number: int) -> None:
    self._interpreter.resize_tensor_input(
      self._input['index'], (number, *self._input['shape'][1:])
    )
    self._interpreter.allocate_tensors()
    self._number = number

  def encoded(self, pixels: tf.Tensor) -> tf.Tensor:
    """As `Program`; a quantised input has a scale and a zero."""
    scale, zero = self._input['quantization']
    return super().encoded(pixels / scale + zero if scale else pixels)

  def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
    """As `Program`."""
    if len(pixels) != self._number:
      self._resize(len(pixels))
    self._interpreter.set_tensor(self._input['index'], pixels.numpy())
    self._interpreter.invoke()
    output = self._interpreter.get_tensor(self._output['index'])
    scale, zero = self._output['quantization']
    output = output.astype(np.float32)
    return tf.constant((output - zero) * np.float32(scale) if scale else output)


class FileNetwork:
  """A network that predicts: images in, scores out."""

  def __init__(
    self, path: str, program: Program, description: network_files.Description
  ):
    """Holds a program against its description.

    Raises:
      ValueError: they differ; says in what.
    """
    self._path, self._program = path, program
    self.description = description
    self._warned = False
    _check_shape(program.shape, description)
    size = description.image_size
    self._check_output(self._run(tf.zeros((2, size, size, 3))))

  @property
  def num_classes(self) -> int:
    """Number of scores of an image, without those before class 0."""
    return self.description.num_classes

  def scores(
    self, images: tf.Tensor, records: image_records.ImageRecords
  ) -> tf.Tensor:
    """Scores [n, num_classes] of images [n, size, size, 3], on 0..255.

    Of probabilities it is the logarithm, whose softmax they are; where scores
    of other classes are left out, they are those of an image of one of these.

    Raises:
      ValueError: what comes out is not what the description says.
    """
    del records  # The network's own statistics apply.
    output = self._run(images)
    self._check_values(output.numpy())
    output = output[:, self.description.label_offset :]
    if self.description.output == network_files.LOGITS:
      return output
    return tf.math.log(tf.maximum(output, np.finfo(np.float32).tiny))

  def _pixels(self, images: tf.Tensor) -> tf.Tensor:
    # Not traced: TensorFlow warns of a trace for each of many members.
    described = self.description
    if described.channels == network_files.BGR:
      images = images[..., ::-1]
    pixels = (
      images * tf.constant(described.scale, tf.float32)
      - tf.constant(described.mean, tf.float32)
    ) / tf.constant(described.deviation, tf.float32)
    if described.layout == network_files.NCHW:
      pixels = tf.transpose(pixels, (0, 3, 1, 2))
    return self._program.encoded(pixels)

  def _run(self, images: tf.Tensor) -> tf.Tensor:
    """The output of any number of images, float32."""
    pixels = self._pixels(images)
    at_a_time, number = self._program.batch_size, len(images)
    if at_a_time is None:
      return tf.cast(self._program(pixels), tf.float32)
    # What takes so many images and no others has its last batch filled up.
    pixels = tf.pad(pixels, ((0, -number % at_a_time), (0, 0), (0, 0), (0, 0)))
    parts = [
      self._program(pixels[start : start + at_a_time])
      for start in range(0, number, at_a_time)
    ]
    return tf.cast(tf.concat(parts, axis=0)[:number], tf.float32)

  def _check_output(self, output: tf.Tensor) -> None:
    wanted = self.description.num_scores
    if output.ndim != 2 or len(output) != 2:
      raise ValueError(
        f'of 2 images its output is {list(output.shape)}, wanted [2, {wanted}]'
      )
    if output.shape[1] != wanted:
      hint = (
        ' (is the first one of a background class? Then label_offset is '
        f'{output.shape[1] - self.description.num_classes})'
        if output.shape[1] > wanted
        else ''
      )
      raise ValueError(
        f'it gives {output.shape[1]} scores for an image, its description says '
        f'num_classes {self.description.num_classes} and label_offset '
        f'{self.description.label_offset}, that is {wanted}{hint}'
      )

  def _check_values(self, output: np.ndarray) -> None:
    """Holds values against what the description calls them."""
    sums = output.sum(axis=1)
    positive = bool((output >= -_SUM_TOLERANCE).all())
    alike = positive and bool((np.abs(sums - 1) <= _SUM_TOLERANCE).all())
    if self.description.output == network_files.LOGITS:
      if alike and not self._warned:
        self._warned = True
        logging.warning(
          '%s gives scores that are at least 0 and sum to 1: its description '
          'says logits, are they probabilities?',
          self._path,
        )
      return
    if self._program.is_quantised:
      # Rounded, their sum may be anything.
      alike = positive and bool((output <= 1 + _SUM_TOLERANCE).all())
    if not alike:
      raise ValueError(
        f'{self._path}: its description says probabilities, but what it gives '
        f'for an image lies between {output.min():.4g} and {output.max():.4g} '
        f'and has sums from {sums.min():.4g} to {sums.max():.4g}'
      )


class _Opener:
  """Opens networks of one kind."""

  program: type[Program]

  def __init__(
    self, precision: str, batch_size: int, strategy: tf.distribute.Strategy
  ):
    """Keeps the precision; there is nothing that networks share."""
    del batch_size, strategy
    self._precision = precision

  @staticmethod
  def num_classes(checkpoint: member_paths.Checkpoint) -> int:
    """Classes of a network, as it is described."""
    return network_files.read(checkpoint.described_by).num_classes

  def open(self, checkpoint: member_paths.Checkpoint) -> FileNetwork:
    """Reads a network and holds it against its description.

    Raises:
      FileNotFoundError, ValueError: it or its description is missing or
        damaged, or they differ; names it.
    """
    path = network_files.path(checkpoint)
    if self._precision != 'float32':
      raise ValueError(
        f'--precision={self._precision} is for checkpoints that are bundles; '
        f'{path} runs as it was written'
      )
    description = network_files.read(checkpoint.described_by)
    if not storage.exists(path):
      raise FileNotFoundError(f'{path} is missing')
    try:
      return FileNetwork(path, self.program(path), description)
    except Exception as error:  # What a framework raises at a damaged file.
      raise ValueError(f'{path}: {_one_line(error)}') from error


class SavedModelOpener(_Opener):
  """Opens SavedModels."""

  program = SavedModel


class KerasOpener(_Opener):
  """Opens `.keras` files."""

  program = KerasFile


class TfliteOpener(_Opener):
  """Opens `.tflite` files."""

  program = TfliteFile


def _shape(shape: Any) -> tuple[Any, ...]:
  """A shape as numbers, None for what may be any."""
  return tuple(tf.TensorShape(shape).as_list())


def _check_shape(
  shape: tuple[Any, ...], description: network_files.Description
) -> None:
  size = description.image_size
  wanted = (
    (size, size, 3)
    if description.layout == network_files.NHWC
    else (3, size, size)
  )
  if len(shape) != 4 or any(
    given not in (None, side)
    for given, side in zip(shape[1:], wanted, strict=True)
  ):
    raise ValueError(
      f'it takes images of shape {list(shape)}, its description says '
      f'{[None, *wanted]} (image_size {size}, layout {description.layout})'
    )


def _check_operations(folder: str) -> None:
  """Refuses a SavedModel that would read or write files of its own."""
  from tensorflow.core.protobuf import saved_model_pb2

  saved = saved_model_pb2.SavedModel()
  saved.ParseFromString(epath.Path(folder, 'saved_model.pb').read_bytes())
  for graph in saved.meta_graphs:
    functions = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(n for f in functions for n in f.node_def)]
    if found := {node.op for node in nodes} & _REFUSED_OPERATIONS:
      raise ValueError(
        f'it holds {", ".join(sorted(found))}, which a network that predicts '
        'has no need of'
      )


def _signature(loaded: Any) -> Any:
  """The function of a SavedModel that predicts."""
  signatures = dict(loaded.signatures)
  if 'serving_default' in signatures:
    return signatures['serving_default']
  if len(signatures) == 1:
    return next(iter(signatures.values()))
  functions = (
    list(getattr(loaded.__call__, 'concrete_functions', ()))
    if callable(loaded)
    else []
  )
  if not signatures and len(functions) == 1:
    return functions[0]
  raise ValueError(
    f'it has the signatures {sorted(signatures)}, wanted serving_default'
  )


def _only(output: Any) -> tf.Tensor:
  """The one tensor of an output."""
  found = tf.nest.flatten(output)
  if len(found) != 1:
    raise ValueError(f'it has {len(found)} outputs, wanted one of scores')
  return found[0]


def _one_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['']
  # 'in user code:', say, above a traceback.
  line = lines[-1 if lines[0].endswith(':') else 0].strip()
  if isinstance(error, ValueError) and line:
    return line
  return f'{type(error).__name__}: {line}'
