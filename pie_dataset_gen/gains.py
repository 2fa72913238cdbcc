"""What a compressed network saves: weights, multiply-adds, bytes.

ShrinkBench's definitions (Blalock et al. 2020, "What is the state of neural
network pruning?", arXiv 2003.03033): the *compression ratio* is the number of
parameters over that of the parameters that are not zero, the *theoretical
speed-up* the number of multiply-adds over that of the multiply-adds by a weight
that is not zero. Here both numerators are those of the dense network. A
multiply-add is one operation, of a convolution or the last layer; that of a
pixel beyond the border counts, as is usual.
"""

import gzip
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from etils import epath

from pie_dataset_gen import headline_rows
from utils import checkpoints, member_paths, populations, resnet_model, storage

PARAMETERS = 'parameters'
NONZERO = 'parameters that are not zero'
MULTIPLY_ADDS = 'multiply-adds'
EFFECTIVE = 'multiply-adds by weights that are not zero'
BYTES = 'bytes'
MEASURES = (
  *(PARAMETERS, NONZERO, headline_rows.COMPRESSION),
  *(MULTIPLY_ADDS, EFFECTIVE, headline_rows.SPEED_UP),
  *(BYTES, headline_rows.GZIPPED),
)
# Of `tables.LAYER_GAINS`, but the level.
LAYER_COLUMNS = (
  *('layer', 'parameters', 'nonzero_parameters'),
  *('multiply_adds', 'nonzero_multiply_adds'),
)


def count_layers(
  values: Mapping[str, np.ndarray],
  architecture: resnet_model.Architecture,
  image_size: int,
) -> pd.DataFrame:
  """Counts the weights and multiply-adds of each layer.

  Args:
    values: of a dense or masked network, by the original's names.
    architecture: which ResNet.
    image_size: height and width of its input.

  Returns:
    The columns of `tables.LAYER_GAINS` but the level: convolutions in their
    order, the last layer, and all batch normalisations together, which cost
    nothing once they are folded into the convolutions.
  """
  scope = resnet_model.SCOPE
  pixels = resnet_model.output_pixels(architecture, image_size)
  rows = []
  norms = []
  for conv in resnet_model.conv_layers(architecture):
    prefix = f'{scope}{conv.name}/'
    if f'{prefix}mask' in values:
      kernel = values[f'{prefix}weights'] * values[f'{prefix}mask']
    else:
      kernel = values[f'{prefix}kernel']
    nonzero = int(np.count_nonzero(kernel))
    of_image = pixels[conv.name]
    rows.append(
      (
        conv.name,
        kernel.size,
        nonzero,
        kernel.size * of_image,
        nonzero * of_image,
      )
    )
    norms += [
      values[f'{scope}{conv.batch_norm}/{leaf}'] for leaf in ('gamma', 'beta')
    ]
  kernel, bias = (
    values[f'{scope}final_dense/{leaf}'] for leaf in ('kernel', 'bias')
  )
  nonzero = int(np.count_nonzero(kernel))
  rows.append(
    (
      'final_dense',
      kernel.size + bias.size,
      nonzero + int(np.count_nonzero(bias)),
      kernel.size,
      nonzero,
    )
  )
  rows.append(
    (
      'batch_normalization',
      sum(of.size for of in norms),
      sum(int(np.count_nonzero(of)) for of in norms),
      0,
      0,
    )
  )
  return pd.DataFrame(rows, columns=LAYER_COLUMNS)


def stored_bytes(
  checkpoint: member_paths.Checkpoint, network: checkpoints.Network | None
) -> bytes:
  """What has to be kept of a network so that it predicts.

  Of a checkpoint in the original's format, which has masks and what training
  needs beside the weights, these are the weights with masks and normalisations
  multiplied in, in float32; of other networks their files.

  Args:
    checkpoint: where it lies.
    network: its values, of the former.
  """
  if network is not None:
    folded = resnet_model.fold_batch_norm(network.values, network.architecture)
    return b''.join(value.tobytes() for value in folded.values())
  completed_by = epath.Path(checkpoint.completed_by)
  files = [completed_by]
  if checkpoint.completed_by.startswith(f'{checkpoint.prefix}/'):
    files = sorted(storage.below(completed_by.parent))
  return b''.join(path.read_bytes() for path in files)


def measure(
  level: populations.Level,
  layers: pd.DataFrame | None,
  dense: pd.DataFrame | None,
  stored: bytes,
  reason: str = '',
) -> list[dict[str, object]]:
  """Rows of `tables.GAINS` of a level.

  Args:
    level: its name.
    layers: as `count_layers` gives them, or None where they are not known.
    dense: those of the dense network, or None.
    stored: as `stored_bytes` gives them.
    reason: why layers are not known.
  """
  # No clock in the header: the same network, the same bytes.
  found: dict[str, float] = {
    BYTES: len(stored),
    headline_rows.GZIPPED: len(gzip.compress(stored, mtime=0)),
  }
  if layers is not None:
    total = layers.drop(columns='layer').sum()
    found |= {
      PARAMETERS: total['parameters'],
      NONZERO: total['nonzero_parameters'],
      MULTIPLY_ADDS: total['multiply_adds'],
      EFFECTIVE: total['nonzero_multiply_adds'],
    }
  if layers is not None and dense is not None:
    whole = dense.drop(columns='layer').sum()
    found |= {
      headline_rows.COMPRESSION: whole['parameters']
      / total['nonzero_parameters'],
      headline_rows.SPEED_UP: whole['multiply_adds']
      / total['nonzero_multiply_adds'],
    }
  return [
    {
      'pruning_method': level.pruning_method,
      'pruning_fraction': level.fraction_pruned,
      'measure': name,
      'value': float(found.get(name, math.nan)),
      'not_available': ''
      if name in found
      else reason or 'those of the dense network are not known',
    }
    for name in MEASURES
  ]
