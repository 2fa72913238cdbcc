"""How TensorFlow starts: quietly, and without what is not used.

TF_CPP_MIN_LOG_LEVEL is 2 unless the user sets it: TensorFlow's C++ code reports
errors, and no longer which processor it was built for or which dataset it will
not optimise. Some remarks come before it reads that variable, and on a machine
without a GPU it reports as an error that it found none; they are left out of
what is printed during its import, unless the user sets the variable to 0.

At its end TensorFlow imports Keras 3, and with it pandas, scikit-learn and
matplotlib: half the time that a script takes to start. So does the toolkit of
pruning, to see which Keras there is. Nobody here needs that: `tf.keras` and
`import keras` load it when they are used.
"""

import contextlib
import glob
import importlib.abc
import os
import subprocess
import sys
from collections.abc import Iterator

_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'
_REMARKS = (
  'All log messages before absl::InitializeLog() is called',
  'Could not find cuda drivers on your machine, GPU will not be used.',
  'oneDNN custom operations are on.',
)
_NO_GPU = 'failed call to cuInit'
# Where the drivers of NVIDIA's GPUs show them, those of boards and of Windows
# among them.
_GPUS = ('/dev/nvidia*', '/dev/nvhost*', '/dev/nvgpu*', '/dev/dxg')
# What is printed just before the process is aborted has to arrive, so that
# another process lets the lines through.
_FILTER = """
import sys
for line in sys.stdin.buffer:
  if not any(remark.encode() in line for remark in sys.argv[1:]):
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


def hush() -> None:
  """Keeps the remarks back when this process comes to import TensorFlow.

  Worker processes inherit the level of logging, and call this themselves.
  """
  if os.environ.setdefault(_LEVEL, '2') != '0' and not any(
    isinstance(finder, _Finder) for finder in sys.meta_path
  ):
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
  """Finds packages where others find them; their import is quiet and short."""

  def find_spec(self, fullname, path, target=None):
    """The module, as other finders find it; None for all but TensorFlow's."""
    if fullname not in ('tensorflow', 'tensorflow_model_optimization'):
      return None
    others = (finder for finder in sys.meta_path if finder is not self)
    found = (finder.find_spec(fullname, path, target) for finder in others)
    spec = next(filter(None, found), None)
    if spec is None or spec.loader is None:
      return spec
    execute = spec.loader.exec_module

    def execute_without_keras(module):
      with _without('keras'):
        execute(module)

    def execute_hushed(module):
      no_gpu = not any(glob.glob(pattern) for pattern in _GPUS)
      with without_lines(*_REMARKS, *([_NO_GPU] if no_gpu else [])):
        execute_without_keras(module)
        if no_gpu and module.test.is_built_with_cuda():
          # Which it would do later, and complain then.
          module.config.list_physical_devices()

    # Of this loader alone.
    vars(spec.loader)['exec_module'] = (
      execute_hushed if fullname == 'tensorflow' else execute_without_keras
    )
    return spec


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
  """Lets imports of a package fail, as they do where it is not installed."""
  if package in sys.modules:
    yield
    return
  sys.modules[package] = None  # type: ignore[assignment]
  try:
    yield
  finally:
    del sys.modules[package]


@contextlib.contextmanager
def without_lines(*remarks: str) -> Iterator[None]:
  """Leaves lines that hold one of some texts out of what goes to stderr.

  Also what is not written by Python. All else comes out at once, in its order
  and whatever becomes of this process.
  """
  try:
    stderr = os.dup(2)
  except OSError:  # It is closed: nobody reads.
    yield
    return
  try:
    # In a session of its own, where Ctrl-C does not end it before us.
    lines = subprocess.Popen(
      [sys.executable, '-I', '-S', '-c', _FILTER, *remarks],
      stdin=subprocess.PIPE,
      stdout=stderr,
      start_new_session=True,
    )
  except OSError:
    os.close(stderr)
    yield
    return
  assert lines.stdin
  try:
    sys.stderr.flush()
    os.dup2(lines.stdin.fileno(), 2)
    lines.stdin.close()
    yield
  finally:
    sys.stderr.flush()
    os.dup2(stderr, 2)
    os.close(stderr)
    lines.wait()
