"""The description of a data set: `image_records.json` beside its shards.

It is what makes ImageNet one data set among others: class names, label base,
image sizes, the channels' statistics, how training may distort an image, and
for every shard its number of examples and bytes, so that a shard that lost its
end, or was swapped, is noticed, and its SHA-256, which names its content. The
file is not called `dataset_info.json`: folders prepared by TFDS have one of
their own.
"""

import collections
import dataclasses
import json
import math
import re
from typing import Any

from etils import epath

from utils import csvs, digests, paths, storage

FORMAT = 1
_MAX_PIXELS = 2**13
_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def _check_whole(
  field: str, value: Any, low: int, high: int = 2**63 - 1
) -> None:
  # bool is an int in Python, and JSON's true would pass for 1.
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if not is_whole or not low <= value <= high:
    raise ValueError(
      f'{field} is {value!r}, wanted a whole number from {low} to {high}'
    )


@dataclasses.dataclass(frozen=True)
class Shard:
  """What a shard holds.

  Attributes:
    examples: how many.
    bytes: size of the file; compared before anything is read.
    sha256: of the file, as 64 hexadecimal digits; '' where nobody took it.
  """

  examples: int
  bytes: int
  sha256: str = ''

  def __post_init__(self):
    for field in ('examples', 'bytes'):
      _check_whole(field, getattr(self, field), 0)
    if not re.fullmatch('([0-9a-f]{64})?', str(self.sha256)):
      raise ValueError(
        f'sha256 is {self.sha256!r}, wanted 64 hexadecimal digits'
      )


@dataclasses.dataclass(frozen=True)
class ImageRecords:
  """A data set of images and labels.

  Attributes:
    name: one word, a level in the paths of results.
    class_names: [num_classes] free text, in the order of the class ids.
    label_base: what the first class is called in the records, 0 or 1. Class
      ids are 0-based everywhere else.
    image_size: height and width, in pixels, of the network's input.
    resize_size: pixels of the shorter side before the central crop of
      evaluation; equal to image_size for no crop.
    channel_mean: [3] on the 0..255 scale, subtracted from red, green, blue.
    channel_std: [3] on the 0..255 scale, the divisor after it.
    crop_area_min: smallest share of the image's area that a random crop of
      training keeps, in (0, 1]; 1 is no crop.
    horizontal_flip: whether training may mirror an image.
    splits: split -> shard's file name -> `Shard`. Empty where unknown.
    class_keys: [num_classes] stable names of the classes (wnids), or empty.
    crop_padding: pixels by which training moves an image at most, each way, in
      place of that crop; 0 is not at all.
  """

  name: str
  class_names: tuple[str, ...]
  label_base: int = 1
  image_size: int = 224
  resize_size: int = 256
  channel_mean: tuple[float, ...] = _IMAGENET_MEAN
  channel_std: tuple[float, ...] = _IMAGENET_STD
  crop_area_min: float = 0.08
  horizontal_flip: bool = True
  splits: dict[str, dict[str, Shard]] = dataclasses.field(default_factory=dict)
  class_keys: tuple[str, ...] = ()
  crop_padding: int = 0

  def __post_init__(self):
    # Sequences arrive from JSON as lists; what is read equals what was written.
    for field in ('class_names', 'channel_mean', 'channel_std', 'class_keys'):
      if isinstance(getattr(self, field), str):
        raise ValueError(f'{field} is one text, wanted a list')
      object.__setattr__(self, field, tuple(getattr(self, field)))
    self._check_names()
    self._check_numbers()
    self._check_shards()

  def _check_names(self) -> None:
    if not isinstance(self.name, str):
      raise ValueError(f'name is {self.name!r}, wanted text')
    storage.check_component('name', self.name)
    if fault := csvs.fault_of_text(self.name):
      raise ValueError(f'name is {self.name!r}, which is or holds {fault}')
    if len(self.class_names) < 2:
      raise ValueError(
        f'class_names has {len(self.class_names)} entries, wanted 2 or more'
      )
    for field in ('class_names', 'class_keys'):
      names = getattr(self, field)
      if not all(isinstance(name, str) for name in names):
        raise ValueError(f'{field} holds something that is not text')
      for name in names:
        if fault := csvs.fault_of_text(name):
          raise ValueError(f'{field} has {name!r}, which is or holds {fault}')
    for key in self.class_keys:
      storage.check_component('an entry of class_keys', key)
    if self.class_keys and (
      len(set(self.class_keys)) != len(self.class_names)
      or len(self.class_keys) != len(self.class_names)
    ):
      raise ValueError(
        f'class_keys has {len(set(self.class_keys))} different entries, '
        f'wanted one for each of {len(self.class_names)} classes'
      )

  def _check_numbers(self) -> None:
    _check_whole('label_base', self.label_base, 0, 1)
    for field in ('image_size', 'resize_size'):
      _check_whole(field, getattr(self, field), 1, _MAX_PIXELS)
    if self.image_size > self.resize_size:
      raise ValueError(
        f'image_size {self.image_size} and resize_size {self.resize_size}, '
        'wanted image_size <= resize_size'
      )
    for field, low in (('channel_mean', -math.inf), ('channel_std', 0)):
      values = getattr(self, field)
      if len(values) != 3 or not all(low < v < math.inf for v in values):
        raise ValueError(
          f'{field} is {values}, wanted 3 numbers'
          + (' above 0' if low == 0 else '')
        )
    if not 0 < self.crop_area_min <= 1:
      raise ValueError(
        f'crop_area_min is {self.crop_area_min}, wanted a number in (0, 1]'
      )
    _check_whole('crop_padding', self.crop_padding, 0, self.image_size - 1)
    if self.crop_padding and self.crop_area_min < 1:
      raise ValueError(
        f'crop_padding is {self.crop_padding} and crop_area_min '
        f'{self.crop_area_min}, wanted crop_area_min 1 beside it: an image is '
        'either cropped or moved'
      )
    if not isinstance(self.horizontal_flip, bool):
      raise ValueError(
        f'horizontal_flip is {self.horizontal_flip!r}, wanted true or false'
      )

  def _check_shards(self) -> None:
    names = [name for shards in self.splits.values() for name in shards]
    for name in names:
      storage.check_component('the name of a shard', name)
    repeated = [n for n, c in collections.Counter(names).items() if c > 1]
    if repeated:
      raise ValueError(f'two splits have a shard called {min(repeated)}')

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  def num_examples(self, split: str) -> int:
    """Number of examples in a split, 0 where the description has none."""
    return sum(shard.examples for shard in self.splits.get(split, {}).values())

  @property
  def reading(self) -> dict[str, object]:
    """What decides how a stored image is evaluated; not which images."""
    fields = dataclasses.asdict(self)
    for name in ('splits', 'crop_area_min', 'horizontal_flip', 'crop_padding'):
      del fields[name]
    return fields

  def shard(self, file_name: str) -> Shard | None:
    """What a shard should hold, or None for a file it does not mention."""
    for shards in self.splits.values():
      if file_name in shards:
        return shards[file_name]
    return None


def imagenet(num_classes: int = 1000, label_base: int = 1) -> ImageRecords:
  """ImageNet as the original has it, for folders without a description.

  Args:
    num_classes: classes of the network that will see the images.
    label_base: as detected from the records' features.

  Returns:
    A description whose class names are the class ids, since neither the
    records nor the original say them.
  """
  return ImageRecords(
    name='imagenet',
    class_names=tuple(str(i) for i in range(num_classes)),
    label_base=label_base,
  )


def write(folder: str, records: ImageRecords) -> None:
  """Writes the description beside the shards."""
  fields = {
    'format': FORMAT,
    'num_classes': records.num_classes,
    **dataclasses.asdict(records),
  }
  text = json.dumps(
    {**fields, 'sha256': _digest(fields)}, indent=1, ensure_ascii=False
  )
  storage.write_complete(paths.image_records(folder), text + '\n')


def _digest(fields: dict[str, object]) -> str:
  return digests.of_json(fields, sort_keys=True)


def read(folder: str) -> ImageRecords:
  """Reads the description beside the shards.

  One that `write` wrote holds its own checksum, since another mean or another
  order of classes would pass for as good; one written by hand need not.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged or contradicts itself; names file and field.
  """
  path = paths.image_records(folder)
  try:
    fields = json.loads(epath.Path(path).read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON: {error}') from None
  try:
    if not isinstance(fields, dict):
      raise ValueError('wanted a JSON object')
    stated = fields.pop('sha256', None)
    if stated not in (None, _digest(fields)):
      raise ValueError(
        'sha256 does not fit the other fields: the file is damaged, or was '
        'changed by hand (then remove that field)'
      )
    if fields.pop('format', None) != FORMAT:
      raise ValueError(f'format is not {FORMAT}')
    num_classes = fields.pop('num_classes', None)
    known = {field.name for field in dataclasses.fields(ImageRecords)}
    if set(fields) - known:
      raise ValueError(f'unknown fields {sorted(set(fields) - known)}')
    for name in ('name', 'class_names'):
      if name not in fields:
        raise ValueError(f'no field {name!r}')
    fields['splits'] = {
      split: {name: Shard(**shard) for name, shard in shards.items()}
      for split, shards in fields.get('splits', {}).items()
    }
    records = ImageRecords(**fields)
    if num_classes != records.num_classes:
      raise ValueError(
        f'num_classes is {num_classes}, but class_names has '
        f'{records.num_classes} entries'
      )
  except (TypeError, ValueError, AttributeError) as error:
    raise ValueError(f'{path}: {error}') from None
  return records


def find_shards(data_directory: str, mode: str) -> list[str]:
  """Lists the TFRecord shards of a data set.

  Args:
    data_directory: a folder, of which the shards of one split are taken and
      have to be complete; or a path, glob or list of files, taken as it is.
    mode: 'train' or 'eval', the split that is taken from a folder.

  Raises:
    FileNotFoundError: nothing matches, or a shard of the split is missing.
  """
  folder = epath.Path(data_directory or '.')
  if not data_directory or not folder.is_dir():
    return storage.find_files(data_directory, 'TFRecord file')
  shards: dict[tuple[str, int], dict[int, str]] = {}
  for path in sorted(folder.iterdir()):
    match = paths.SHARD.match(path.name)
    if match and match[1] in paths.SPLITS[mode]:
      name = path.name[: match.start(2)]
      shards.setdefault((name, int(match[3])), {})[int(match[2])] = str(path)
  if not shards:
    raise FileNotFoundError(
      f'no TFRecord shard of the {mode} split in {data_directory}, wanted '
      f'{paths.SPLITS[mode][0]}-00000-of-NNNNN or the like'
    )
  if len(shards) > 1:
    raise ValueError(
      f'{data_directory} holds more than one set of {mode} shards: '
      f'{sorted(f"{name}*-of-{n:05d}" for name, n in shards)}; name one by '
      'a pattern'
    )
  ((name, number),) = shards
  found = shards[name, number]
  missing = sorted(set(range(number)) - set(found))
  if missing:
    raise FileNotFoundError(
      f'{data_directory} has {len(found)} of {number} shards {name}*, '
      f'missing {missing[:10]}'
    )
  return [found[i] for i in range(number)]
