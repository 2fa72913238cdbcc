"""What is known of each source of images before it is read: a row for each."""

import dataclasses
from collections.abc import Mapping

# What goes into a record of 32x32 pixels: planes of red, green and blue.
PIXEL_BYTES = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Archive:
  """An archive of CIFAR in its binary form.

  Attributes:
    url: where its authors publish it; the last part is its name.
    md5: of the whole, as published beside it.
    folder: what it unpacks to.
    files: split -> file -> number of its images.
    label_bytes: of each image, before its pixels; the last one is the class.
    names: the file of the classes' names, a line each.
    pickles: names that lie in the same data set's archives of pickles.
  """

  url: str
  md5: str
  folder: str
  files: Mapping[str, Mapping[str, int]]
  label_bytes: int
  names: str
  pickles: tuple[str, ...]

  @property
  def name(self) -> str:
    """What the archive is called."""
    return self.url.rsplit('/', 1)[-1]


@dataclasses.dataclass(frozen=True)
class Source:
  """A value of `build_image_data --source`.

  Attributes:
    description: fields of `image_records.ImageRecords` that differ from its
      defaults.
    reads_directories: whether flags name the folders of its splits.
    examples: split -> number of images; empty where any number will do.
    shards: split -> number of shards; empty for one every few hundred images.
    keyed: whether classes have stable names: those of their folders.
    measured: whether the channels' statistics are those of its own pixels.
    archive: what it is read from, or None.
  """

  description: Mapping[str, object]
  reads_directories: bool = False
  examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
  shards: Mapping[str, int] = dataclasses.field(default_factory=dict)
  keyed: bool = True
  measured: bool = True
  archive: Archive | None = None


# Images of 32 pixels are moved by 4 of them, not cropped.
_SMALL = {
  'image_size': 32,
  'resize_size': 32,
  'crop_area_min': 1.0,
  'crop_padding': 4,
}

SOURCES = {
  'digits': Source(
    {
      'name': 'digits',
      'image_size': 32,
      'resize_size': 32,
      'crop_area_min': 0.6,
      # A mirrored 3 is no digit.
      'horizontal_flip': False,
    },
    keyed=False,
  ),
  'folders': Source({}, reads_directories=True),
  'imagenet': Source(
    {'name': 'imagenet'},
    reads_directories=True,
    examples={'train': 1_281_167, 'validation': 50_000},
    shards={'train': 1024, 'validation': 128},
    measured=False,
  ),
  # Sizes, checksums and the form: www.cs.toronto.edu/~kriz/cifar.html.
  'cifar10': Source(
    {'name': 'cifar10', **_SMALL},
    archive=Archive(
      'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
      'c32a1d4ab5d03f1284b67883e8d87530',
      'cifar-10-batches-bin',
      {
        'train': {f'data_batch_{i}.bin': 10_000 for i in range(1, 6)},
        'validation': {'test_batch.bin': 10_000},
      },
      1,
      'batches.meta.txt',
      ('data_batch_1', 'batches.meta'),
    ),
  ),
  'cifar100': Source(
    {'name': 'cifar100', **_SMALL},
    archive=Archive(
      'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
      '03b5dce01913d631647c71ecec9e9cb8',
      'cifar-100-binary',
      {'train': {'train.bin': 50_000}, 'validation': {'test.bin': 10_000}},
      2,
      'fine_label_names.txt',
      ('train', 'meta'),
    ),
  ),
}
