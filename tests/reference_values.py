"""Variable values and input behind the logits in `tests/reference`."""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / 'reference'


def variables(variant: str, part: str = 'inference') -> list[tuple]:
  """Name, shape and type of the original's variables, in their order.

  Args:
    variant: 'baseline' or 'threshold'.
    part: 'inference', or 'training_adds'.
  """
  listed = json.loads((FOLDER / f'variables_{variant}.json').read_text())
  return [(name, tuple(shape), dtype) for name, shape, dtype in listed[part]]


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The value of a variable, a function of its name and shape."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  leaf = name.split('/')[-1]
  if name == 'global_step':
    return np.asarray(32000, np.int64)
  if leaf in ('kernel', 'weights'):
    std = np.sqrt(2.0 / int(np.prod(shape[:-1])))
    made = rng.standard_normal(shape) * std
  elif leaf == 'gamma':
    made = 1.0 + 0.1 * rng.standard_normal(shape)
  elif leaf in ('beta', 'moving_mean', 'bias'):
    made = 0.1 * rng.standard_normal(shape)
  elif leaf == 'moving_variance':
    made = rng.uniform(0.5, 1.5, size=shape)
  elif leaf == 'mask':
    made = rng.uniform(size=shape) < 0.3
  else:
    made = np.zeros(shape)
  return np.asarray(made, np.float32)


def images() -> np.ndarray:
  """[4, 224, 224, 3] float32 on the 0..255 scale."""
  rng = np.random.default_rng(7)
  return rng.uniform(0, 255, size=(4, 224, 224, 3)).astype(np.float32)


def logits(variant: str) -> np.ndarray:
  """[4, 1000] float32, as the original's graph gives them."""
  return np.load(FOLDER / f'logits_{variant}.npy')
