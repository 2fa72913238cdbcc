"""What a training is asked for.

`Settings` decide what a member's numbers are, `Output` which files are written
on the way, `Execution` where and how the work is done.
"""

import dataclasses
import math

from save_checkpoint import learning_rate
from utils import inference


@dataclasses.dataclass(frozen=True)
class Settings:
  """All that decides what a member's numbers are, beside its identity.

  Attributes carry the names and the units of the flags.
  """

  resnet_depth: int = 50
  width: float = 1.0
  stem: str = 'imagenet'
  train_steps: int = 32000
  train_batch_size: int = 4096
  base_learning_rate: float = learning_rate.BASE_LEARNING_RATE
  warmup_epochs: float = 5
  decay: str = 'steps'
  decay_epochs: tuple[float, ...] = (30, 60, 80)
  label_smoothing: float = 0.1
  weight_decay: float = 1e-4
  precision: str = 'float32'
  preprocessing: str = 'legacy'
  block_height: int = 1
  block_width: int = 1
  seed: int = 0

  def __post_init__(self):
    inference.check_label_smoothing(self.label_smoothing)
    if not 0 <= self.weight_decay < math.inf:
      raise ValueError(f'weight_decay is {self.weight_decay}, wanted 0 or more')


@dataclasses.dataclass(frozen=True)
class Output:
  """Which files training writes, and when; changes no number.

  Attributes carry the names and the units of the flags.
  """

  steps_per_checkpoint: int = 1000
  keep_checkpoints: int = 5
  steps_per_summary: int = 300

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 1:
        raise ValueError(
          f'{field.name} is {getattr(self, field.name)}, wanted 1 or more'
        )


@dataclasses.dataclass(frozen=True)
class Execution:
  """Where and how the work is done.

  Attributes carry the names and the units of the flags.
  """

  eval_batch_size: int = 1024
  eval_timeout_seconds: int = 0
  deterministic: bool = False
  verify_data: bool = False
  keep_data_in_memory: bool = False
  members_at_once: int = 1
  tpu: str = ''
  gcp_project: str = ''
  tpu_zone: str = ''
