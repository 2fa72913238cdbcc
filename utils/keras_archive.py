"""What a `.keras` file may hold before it is loaded: no code of its own.

Keras' safe mode refuses a lambda. But a configuration also names classes and
functions that loading imports and calls, and Keras 2 imports any module that it
names. So it is read first, as the JSON that it is, and one that names anything
but parts of Keras, or a part that runs what the file brings, is refused.
Nothing here imports TensorFlow.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

# A configuration of a thousand layers has a hundredth of it.
_MAX_BYTES = 2**26
# Parts of Keras that run code, or load files, that a configuration names.
_RUN_CODE = {
  'ClassMethod',
  'FlaxLayer',
  'InstanceMethod',
  'InstanceProperty',
  'JaxLayer',
  'Lambda',
  'TFSMLayer',
  'TorchModuleWrapper',
  '__lambda__',
}
_ACTIVATIONS = re.compile(r'(tf_)?keras(\.src)?\.activations(\..*)?')
# Functions of TensorFlow, by Keras 2's name, that only compute.
_OPERATIONS = re.compile(
  r'(math|nn|linalg|image|__operators__)\.\w+|'
  'cast|clip_by_value|concat|expand_dims|identity|pad|reshape|split|squeeze|'
  'stack|tile|transpose|unstack'
)


def check(path: str) -> int:
  """Refuses a file that would run code, or is none.

  Args:
    path: a local file.

  Returns:
    The version of Keras that wrote it: 2 or 3.

  Raises:
    ValueError: says why, without the file's name.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      metadata, config = (
        _read_json(archive, name) for name in ('metadata.json', 'config.json')
      )
      major = int(str(metadata['keras_version']).split('.')[0])
      if damaged := archive.testzip():
        raise ValueError(f'{damaged} is damaged')
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(f'it is no .keras archive: {error}') from None
  if major not in (2, 3) or not isinstance(config, dict):
    raise ValueError(f'it is of Keras {major}, wanted 2 or 3')
  # What a network is trained with is not loaded.
  config.pop('compile_config', None)
  for part in _parts(config):
    if fault := _fault(part):
      raise ValueError(
        f'it {fault}, and no file may bring code: write such a network as a '
        'SavedModel or .tflite'
      )
  return major


def _read_json(archive: zipfile.ZipFile, name: str) -> Any:
  if archive.getinfo(name).file_size > _MAX_BYTES:
    raise ValueError(f'{name} has more than {_MAX_BYTES} bytes')
  return json.loads(archive.read(name))


def _parts(config: Any) -> Iterator[dict]:
  """Every object of a configuration that names a class or a function."""
  left = [config]
  while left:
    one = left.pop()
    if isinstance(one, dict):
      if 'class_name' in one:
        yield one
      left.extend(one.values())
    elif isinstance(one, list):
      left.extend(one)


def _fault(part: dict) -> str:
  """What is wrong with an object, or ''."""
  name, module = str(part['class_name']), part.get('module')
  config = part.get('config')
  if name in _RUN_CODE:
    return f'has a {name}, which runs what the file brings'
  if name == 'function':
    known = isinstance(module, str) and _ACTIVATIONS.fullmatch(module)
    return '' if known else f'calls {module}.{config}'
  if module is not None and str(module).split('.')[0] not in (
    'keras',
    'tf_keras',
  ):
    return f'needs {module}.{name}'
  if name == 'TFOpLambda':
    function = config.get('function') if isinstance(config, dict) else None
    if not _OPERATIONS.fullmatch(str(function)):
      return f'calls TensorFlow by the name {function!r}'
  registered = part.get('registered_name')
  if module is None and registered is not None:
    return f'needs {registered}, which is no part of Keras'
  return ''
