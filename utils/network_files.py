"""The description of a network that another framework wrote: JSON beside it.

A SavedModel, a `.keras` or a `.tflite` file says neither how pixels go in nor
what comes out. Beside it lies `<file without its ending>.json`:

  {
    "format": 1,
    "image_size": 224,
    "scale": 0.00392156862745098,
    "mean": [0.485, 0.456, 0.406],
    "deviation": [0.229, 0.224, 0.225],
    "channels": "RGB",
    "output": "logits",
    "num_classes": 1000
  }

(or a file that the CSV of members names).

A pixel on the 0..255 scale goes in as (pixel * scale - mean) / deviation, which
holds all that is common: with scale 1, mean 0 and deviation 1 the pixels
themselves; with 1/255 and means below 1 those of PyTorch; with scale 1, mean
and deviation 127.5 the range -1..1; with "BGR" and the means of blue, green and
red those of Caffe. Nothing about pixels or scores has a default: another mean
costs accuracy and raises no error. `made_from` is for whoever writes the file
to say where it comes from. Nothing here imports TensorFlow.
"""

import concurrent.futures
import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

from etils import epath

from utils import digests, image_records, member_paths, storage

FORMAT = 1
# Kinds of `member_paths.KINDS` that a description lies beside.
DESCRIBED = ('saved_model', 'keras', 'tflite')
LOGITS, PROBABILITIES = OUTPUTS = ('logits', 'probabilities')
RGB, BGR = CHANNELS = ('RGB', 'BGR')
NHWC, NCHW = LAYOUTS = ('NHWC', 'NCHW')
_CHOICES = {'channels': CHANNELS, 'output': OUTPUTS, 'layout': LAYOUTS}
# Field -> smallest value.
_WHOLE = {'image_size': 1, 'num_classes': 2, 'label_offset': 0}
# As nobody writes by hand, and as few as a 32-bit index holds.
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Description:
  """How pixels go into a network, and what comes out.

  Attributes:
    image_size: height and width of its input, in pixels.
    scale: what a pixel, from 0 to 255, is multiplied by first.
    mean: [3] subtracted then, in the order of `channels`.
    deviation: [3] the divisor after it, in the order of `channels`.
    channels: 'RGB' or 'BGR', the order of the network's input.
    output: 'logits', or 'probabilities' where the softmax is in the network.
    num_classes: classes of the data set that it tells apart.
    label_offset: the scores that stand before the one of class 0, such as that
      of a background class. It gives label_offset + num_classes scores.
    layout: 'NHWC' or 'NCHW', the order of the input's axes.
    resize_size: pixels of the shorter side before the central crop that it was
      trained for; None for whatever the data set says.
    preprocessing: 'legacy' or 'modern', the resize it was trained for; '' for
      either.
    made_from: where it comes from, any JSON object.
  """

  image_size: int
  scale: float
  mean: tuple[float, ...]
  deviation: tuple[float, ...]
  channels: str
  output: str
  num_classes: int
  label_offset: int = 0
  layout: str = NHWC
  resize_size: int | None = None
  preprocessing: str = ''
  made_from: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for field, low in _WHOLE.items():
      _check_whole(field, getattr(self, field), low)
    if self.resize_size is not None:
      _check_whole('resize_size', self.resize_size, self.image_size)
    if not _is_number(self.scale) or self.scale <= 0:
      raise ValueError(f'scale is {self.scale!r}, wanted a number above 0')
    for field in ('mean', 'deviation'):
      values = getattr(self, field)
      if (
        not isinstance(values, list | tuple)
        or len(values) != 3
        or not all(_is_number(value) for value in values)
        or (field == 'deviation' and min(values) <= 0)
      ):
        raise ValueError(
          f'{field} is {values!r}, wanted 3 numbers'
          + (' above 0' if field == 'deviation' else '')
        )
      # From JSON they come as lists: what is read equals what was written.
      object.__setattr__(self, field, tuple(values))
    for field, choices in _CHOICES.items():
      if getattr(self, field) not in choices:
        raise ValueError(
          f'{field} is {getattr(self, field)!r}, wanted one of {choices}'
        )
    if not isinstance(self.preprocessing, str):
      raise ValueError(
        f'preprocessing is {self.preprocessing!r}, wanted a name'
      )
    if not isinstance(self.made_from, dict):
      raise ValueError(f'made_from is {self.made_from!r}, wanted a JSON object')

  @property
  def num_scores(self) -> int:
    """Length of the network's output for an image."""
    return self.label_offset + self.num_classes

  def check_fits(
    self, records: image_records.ImageRecords, preprocessing: str
  ) -> None:
    """Raises ValueError unless a data set's images are as the network's.

    Args:
      records: the data set.
      preprocessing: 'legacy' or 'modern', how its images are resized.
    """
    for field in ('image_size', 'resize_size'):
      wanted, given = getattr(self, field), getattr(records, field)
      if wanted not in (None, given):
        raise ValueError(
          f'{field} is {wanted}, but {given} in the data set {records.name}: '
          'all members see the same pixels, so give the data set a description '
          f'with {field} {wanted}'
        )
    if self.preprocessing not in ('', preprocessing):
      raise ValueError(
        f'preprocessing is {self.preprocessing!r}, but images are read with '
        f'--preprocessing={preprocessing}'
      )


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _check_whole(field: str, value: Any, low: int) -> None:
  # bool is an int in Python, and JSON's true would pass for 1.
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if not is_whole or not low <= value <= _MOST:
    raise ValueError(
      f'{field} is {value!r}, wanted a whole number from {low} to {_MOST}'
    )


def write(path: str, description: Description) -> None:
  """Writes a description, complete or not at all.

  Raises:
    ValueError: `made_from` is nothing that JSON holds; names the file.
    OSError: it cannot be written; names the file.
  """
  fields = {'format': FORMAT, **dataclasses.asdict(description)}
  try:
    text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: made_from is no JSON: {error}') from None
  storage.write_complete(path, text + '\n')


def read(path: str) -> Description:
  """Reads a description.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no JSON, or a field is missing, unknown or impossible;
      names file and field.
  """
  try:
    text = epath.Path(path).read_text()
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path} is missing: it has to say how pixels go into the network beside '
      'it, and what comes out (docs/your_data.md)'
    ) from None
  except ValueError as error:
    raise ValueError(f'{path} is no text: {error}') from None
  try:
    fields = json.loads(
      text, object_pairs_hook=_object, parse_constant=_refuse_constant
    )
    if not isinstance(fields, dict):
      raise ValueError('wanted a JSON object')
    if fields.pop('format', None) != FORMAT:
      raise ValueError(f'format is not {FORMAT}')
    known = {field.name: field for field in dataclasses.fields(Description)}
    if unknown := sorted(fields.keys() - known.keys()):
      raise ValueError(f'unknown fields {unknown}, wanted {list(known)}')
    missing = [
      name
      for name, field in known.items()
      if name not in fields
      and field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ]
    if missing:
      raise ValueError(f'no field {missing[0]!r}')
    return Description(**fields)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: {error}') from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'field {twice!r} stands there twice')
  return found


def _refuse_constant(constant: str) -> None:
  raise ValueError(f'{constant} is no number')


def path(checkpoint: member_paths.Checkpoint) -> str:
  """A network as its framework opens it: a file, or a SavedModel's folder."""
  if checkpoint.kind == 'saved_model':
    return checkpoint.prefix
  return checkpoint.completed_by


def files(checkpoint: member_paths.Checkpoint) -> list[str]:
  """The files that say what a network is.

  Of a bundle it is the index, which has the checksums of all tensors; of those
  of other frameworks all that they lie in, and the description.
  """
  if checkpoint.kind not in DESCRIBED:
    return [checkpoint.completed_by]
  return [*_content(checkpoint), checkpoint.described_by]


def identities(
  checkpoints: Iterable[member_paths.Checkpoint],
) -> dict[str, object]:
  """What a record says of networks, by the stem of the files made from them.

  Returns:
    Of a bundle the digest of its index. Of those of other frameworks `content`,
    the digest of all that they lie in, whatever its size, and `description`, in
    full.

  Raises:
    FileNotFoundError, ValueError: as of `read`.
  """
  checkpoints = list(checkpoints)
  described = [c for c in checkpoints if c.kind in DESCRIBED]
  others = [c for c in checkpoints if c.kind not in DESCRIBED]
  found: dict[str, object] = dict(
    digests.of_each({c.file_stem: c.completed_by for c in others})
  )
  with concurrent.futures.ThreadPoolExecutor() as pool:
    known = pool.map(_identity, described)
    found |= dict(zip((c.file_stem for c in described), known, strict=True))
  return found


def _identity(checkpoint: member_paths.Checkpoint) -> dict[str, object]:
  description = dataclasses.asdict(read(checkpoint.described_by))
  content = _content(checkpoint)
  if content == [checkpoint.completed_by]:
    return {
      'content': digests.of_file(content[0]),
      'description': description,
    }
  return {
    'content': digests.of_json(
      [
        (file.removeprefix(checkpoint.prefix), digests.of_file(file))
        for file in content
      ]
    ),
    'description': description,
  }


def _content(checkpoint: member_paths.Checkpoint) -> list[str]:
  if checkpoint.kind == 'saved_model':
    return sorted(map(str, storage.below(epath.Path(checkpoint.prefix))))
  return [checkpoint.completed_by]
