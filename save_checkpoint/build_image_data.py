r"""Writes images and their labels as TFRecord shards with a description.

What it reads, by --source:

  digits    scikit-learn's 1,797 handwritten digits, which come with it. They
            are split by a hash of their index within each class into 900 for
            training and 897 for evaluation, the same under any version of any
            library; enlarged from 8x8 to 32x32 (bicubic) and stored as RGB
            PNG, so that a corruption of a few pixels has pixels to work on.
  folders   --train_directory, --validation_directory or both, each one of
              <directory>/<class>/<image>, <directory>/<class>.tar,
              a tar of either, or, with --validation_labels, a folder or tar of
              images without classes. --validation_fraction takes the
              evaluation images, by a hash of their names, out of
              --train_directory. With --image_table, images that lie in no
              class's folder, and a CSV that says of each its class, groups,
              and maybe its split, as CelebA has them.
  imagenet  the same, as downloaded, with ImageNet's name, sizes, channel
            statistics and numbers of shards as defaults:
              --train_directory=ILSVRC2012_img_train.tar
              --validation_directory=ILSVRC2012_img_val.tar
              --validation_labels=<one wnid a line, in order of file names>
  cifar10, cifar100
            the archive that its authors publish, in the binary form
            (cifar-10-binary.tar.gz, or the folder that it unpacks to), named by
            --archive or fetched into --output_dir; an archive must have the
            published checksum. 50,000 images for training, 10,000 for
            evaluation, as lossless PNGs; train/00000 and test/00000 are the
            first of each in the order of the archive. CIFAR-100's classes are
            the 100 fine ones.

Classes are ordered by the name of their folder or tar, unless --labels_file
orders them. An RGB or grey JPEG goes into the record as it is, and so does a
PNG called .png; other JPEGs (CMYK) and PNGs under another name become RGB JPEG
and are counted in the log. Anything else is an error that names the file.

What it writes to --output_dir: train-00000-of-NNNNN ... in an order fixed by a
hash, validation-00000-of-NNNNN ... in the order of file names, records in the
original's dialect (labels from 1), and last image_records.json: where it stands
the data set is complete. With --group_columns also groups_train.csv and
groups_eval.csv, which other scripts find there by --study. Killed, the same
command goes on where it was; finished shards are not written again.

  python -m save_checkpoint.build_image_data --source=digits --study=runs/digits

takes a few seconds, and a folder of one's own is read by

  python -m save_checkpoint.build_image_data --source=folders \
      --train_directory=pets/train --validation_directory=pets/val \
      --study=runs/pets

CelebA's faces, in groups (docs/your_data.md makes the CSV of its lists):

  python -m save_checkpoint.build_image_data --study=runs/celeba \
      --source=folders --train_directory=img_align_celeba \
      --image_table=celeba.csv --class_column=Blond_Hair \
      --group_columns=Male,Young,Male+Young \
      --split_column=split --split_values=0,2

ImageNet is bound by decoding every image once, as a check: about 700 images a
second and core, half an hour on two cores.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from etils import epath

from save_checkpoint import (
  cifar_archives,
  image_sources,
  image_tables,
  planned_shards,
  same_images,
  source_facts,
)
from utils import (
  command_line,
  csvs,
  image_records,
  paths,
  provenance,
  storage,
  tables,
  workers,
)

FLAGS = flags.FLAGS
_IMAGES_PER_SHARD = 500
_MOST_SHARDS = {'train': 1024, 'validation': 128}
_SMALL_SAMPLE = 40
# Beyond these, a description deserves a warning. Images are much smaller or
# larger than the network's input by such factors of their shorter side;
# evaluation looks at a small part of them below such a share of the area
# (ImageNet's is 0.77).
_SMALLER, _LARGER, _SMALL_SHARE = 2, 8, 0.5


def _check_output(
  output_dir: str, plans: list[planned_shards.ShardPlan]
) -> None:
  """Raises ValueError if output_dir holds shards of another data set."""
  folder = epath.Path(output_dir)
  planned = {epath.Path(plan.path).name for plan in plans}
  names = (path.name for path in folder.iterdir()) if folder.exists() else ()
  for name in sorted(names):
    if name.startswith(image_sources.SPLITS) and name not in planned:
      raise ValueError(
        f'{folder / name} belongs to another data set than the one asked for: '
        'remove it or choose another --output_dir'
      )
  if storage.exists(paths.image_records(output_dir)):
    other = [
      plan.path for plan in plans if planned_shards.read_finished(plan) is None
    ]
    if other:
      raise ValueError(
        f'{output_dir} holds a complete data set, but {other[0]} was not made '
        'from these images with these flags: choose another --output_dir, or '
        'remove image_records.json to have such shards written again'
      )


def _is_measured(
  source: str,
  statistics: str | None,
  pictures: Mapping[str, Sequence[image_sources.Picture]],
) -> bool:
  """Whether the channels' statistics are taken from the training images."""
  if statistics is None:
    return source_facts.SOURCES[source].measured and 'train' in pictures
  if statistics == 'train' and 'train' not in pictures:
    raise ValueError('--channel_statistics=train without --train_directory')
  return statistics == 'train'


def _shard_counts(
  source: str,
  pictures: Mapping[str, Sequence[image_sources.Picture]],
  wanted: Mapping[str, int | None],
) -> dict[str, int]:
  """Number of shards of each split, as wanted or as is usual."""
  facts = source_facts.SOURCES[source]
  counts = {}
  for split, images in pictures.items():
    usual = math.ceil(len(images) / _IMAGES_PER_SHARD)
    if len(images) > _SMALL_SAMPLE:
      usual = facts.shards.get(split, usual)
    counts[split] = wanted.get(split) or min(_MOST_SHARDS[split], usual)
    if facts.examples and len(images) != facts.examples[split]:
      logging.warning(
        'The %s split of %s has %d images, here there are %d',
        split,
        source,
        facts.examples[split],
        len(images),
      )
  return counts


def _find_pictures(
  source: str,
  output_dir: str,
  archive: str,
  train_directory: str,
  validation_directory: str,
  validation_labels: str | image_tables.ImageTable,
  validation_fraction: float,
) -> dict[str, list[image_sources.Picture]]:
  """Lists the images by split, from an archive or from elsewhere."""
  of_archive = source_facts.SOURCES[source].archive
  if isinstance(validation_labels, image_tables.ImageTable):
    if source != 'folders' or archive:
      raise ValueError(f'--image_table with --source={source}, wanted folders')
    return validation_labels.find(
      train_directory, validation_directory, validation_fraction
    )
  directories = (train_directory, validation_directory, validation_labels)
  if validation_fraction and source != 'folders':
    raise ValueError(
      f'--validation_fraction with --source={source}, wanted folders'
    )
  if not of_archive:
    if archive:
      raise ValueError(f'--source={source} reads no archive, got {archive!r}')
    return image_sources.find_source(source, *directories, validation_fraction)
  image_sources.raise_unless_empty(source, *directories)
  path = archive or cifar_archives.fetch(of_archive, output_dir)
  return cifar_archives.read(of_archive, path)


def _write_groups(
  output_dir: str,
  pictures: Mapping[str, Sequence[image_sources.Picture]],
  table: image_tables.ImageTable | None,
) -> None:
  """Writes which image is of which group.

  Raises:
    ValueError: output_dir holds a complete data set with other groups.
  """
  is_complete = storage.exists(paths.image_records(output_dir))
  for split, mode in (('train', 'train'), ('validation', 'eval')):
    path = paths.image_groups(output_dir, mode)
    rows = csvs.empty(tables.GROUPS)
    if table:
      rows = table.groups(pictures.get(split, ()))
    if is_complete:
      there = csvs.empty(tables.GROUPS)
      if storage.exists(path):
        there = csvs.read(tables.GROUPS, path)
      names = ['group', 'image_key']
      if set(map(tuple, there[names].to_numpy())) != set(
        map(tuple, rows[names].to_numpy())
      ):
        raise ValueError(
          f'{path} holds, or lacks, other groups than these flags make: choose '
          'another --output_dir'
        )
    elif len(rows):
      csvs.write(tables.GROUPS, rows, path)


def _shard(result: Mapping[str, Any]) -> image_records.Shard:
  """What is declared of a shard that `planned_shards.write_shard` wrote."""
  return image_records.Shard(
    result['examples'],
    result['bytes'],
    result.get('sha256', ''),  # before there were digests
  )


def _resize_size(source: str, image_size: int) -> int:
  """The resize_size that goes with an image_size where none is given."""
  usual: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(image_records.ImageRecords)
  } | dict(source_facts.SOURCES[source].description)
  return round(image_size * usual['resize_size'] / usual['image_size'])


def _warn_of_sizes(
  records: image_records.ImageRecords, results: Mapping[str, Mapping]
) -> None:
  """Says of sizes that are possible, but seldom meant, which to give."""
  image_size, resize_size = records.image_size, records.resize_size
  share = (image_size / resize_size) ** 2
  if share < _SMALL_SHARE:
    logging.warning(
      'Evaluation sees the central %.0f%% of an image only: it is enlarged or '
      'reduced to --resize_size=%d and cut to --image_size=%d. Usual is '
      '--resize_size=%d; equal to --image_size, it sees all of a square image',
      100 * share,
      resize_size,
      image_size,
      _resize_size('imagenet', image_size),
    )
  # Shards that were written before sizes were noted have none.
  sides = [r['shorter_side'] for r in results.values() if 'shorter_side' in r]
  if not sides:
    return
  side = float(np.median(sides))
  if side * _SMALLER <= image_size:
    logging.warning(
      'The shorter side of images has %g pixels (median), and the network is '
      'given %d: they are enlarged, which costs time and shows nothing more. '
      'Consider --image_size=%d --resize_size=%d (and --stem=3x3 in training)',
      side,
      image_size,
      side,
      side,
    )
  elif side >= _LARGER * image_size:
    logging.warning(
      'The shorter side of images has %g pixels (median), and the network is '
      'given %d: details are lost, and a reduction by so much takes single '
      'pixels out of many. Consider reducing the images first, or a larger '
      '--image_size',
      side,
      image_size,
    )


def run(
  source: str,
  output_dir: str,
  train_directory: str = '',
  validation_directory: str = '',
  validation_labels: str | image_tables.Columns = '',
  labels_file: str = '',
  num_shards: dict[str, int | None] | None = None,
  statistics: str | None = None,
  place: workers.Place = workers.HERE,
  description: dict[str, object] | None = None,
  test_small_sample: bool = False,
  archive: str = '',
  validation_fraction: float = 0.0,
) -> image_records.ImageRecords:
  """Builds a data set.

  Args:
    source: a name in `source_facts.SOURCES`.
    output_dir: where the shards go.
    train_directory: as the flag.
    validation_directory: as the flag.
    validation_labels: as the flag; or where a table says the classes of all
      images, as the flags from image_table on.
    labels_file: as the flag.
    num_shards: split -> number of shards; None for the source's default.
    statistics: 'train', 'imagenet' or None, as the flag channel_statistics.
    place: where shards are written.
    description: fields of `image_records.ImageRecords`; those that are None or
      absent take the source's default, then ImageNet's.
    test_small_sample: as the flag.
    archive: as the flag.
    validation_fraction: as the flag.

  Raises:
    ValueError: the images are not what is wanted, or output_dir holds another
      data set.
  """
  storage.check_writable(output_dir)
  facts = source_facts.SOURCES[source]
  table, labels = None, validation_labels
  if isinstance(labels, image_tables.Columns):
    table, labels = image_tables.ImageTable(labels), labels.path
  pictures = _find_pictures(
    source,
    output_dir,
    archive,
    train_directory,
    validation_directory,
    table or labels,
    validation_fraction,
  )
  measured = _is_measured(source, statistics, pictures)
  classes = image_sources.find_classes(pictures, labels_file)
  if table and not labels_file:
    classes |= {key: table.classes[key] for key in classes}
  if test_small_sample:
    pictures = {
      split: sorted(images, key=planned_shards.hash_of_key)[:_SMALL_SAMPLE]
      for split, images in pictures.items()
    }
  given: dict[str, Any] = {
    k: v for k, v in (description or {}).items() if v is not None
  }
  if 'image_size' in given:
    given.setdefault('resize_size', _resize_size(source, given['image_size']))
  fields = {
    'name': epath.Path(output_dir).name,
    **facts.description,
    # An image is either moved or cropped.
    **({'crop_area_min': 1.0} if given.get('crop_padding') else {}),
    **given,
    'class_names': tuple(classes.values()),
    'class_keys': tuple(classes) if facts.keyed and not table else (),
  }
  image_records.ImageRecords(**fields)  # refuses bad flags before hours of work
  counts = _shard_counts(source, pictures, num_shards or {})
  plans = planned_shards.plan_shards(
    output_dir, pictures, classes, counts, bool(fields['class_keys']), measured
  )
  together = [plan for of_split in plans.values() for plan in of_split]
  _check_output(output_dir, together)
  _write_groups(output_dir, pictures, table)
  results = planned_shards.write_shards(together, place)
  same_images.check(plans, results)
  converted: collections.Counter[str] = collections.Counter()
  for result in results.values():
    converted.update(result['converted'])
  for kind, number in sorted(converted.items()):
    logging.info('Converted to RGB JPEG: %d images that were %s', number, kind)
  if measured:
    mean, std = planned_shards.channel_statistics(results.values())
    fields.update(channel_mean=mean, channel_std=std)
  splits = {
    split: {
      epath.Path(plan.path).name: _shard(results[plan.path])
      for plan in of_split
    }
    for split, of_split in plans.items()
  }
  records = image_records.ImageRecords(**fields, splits=splits)
  _warn_of_sizes(records, results)
  if storage.exists(paths.image_records(output_dir)):
    if image_records.read(output_dir) != records:
      raise ValueError(
        f'{paths.image_records(output_dir)} describes the same shards with '
        'other flags: choose another --output_dir, or remove that file'
      )
    logging.info('%s is complete', output_dir)
    return records
  sources = (archive, train_directory, validation_directory, labels)
  provenance.write(
    output_dir,
    'save_checkpoint.build_image_data',
    [
      path
      for path in (*sources, labels_file)
      if path and not epath.Path(path).is_dir()
    ],
    converted=converted,
  )
  image_records.write(output_dir, records)
  logging.info(
    '%s is complete: %s',
    output_dir,
    {split: records.num_examples(split) for split in plans},
  )
  return records


def define_flags() -> None:
  """Defines the flags, when this file is the program."""
  command_line.define_study()
  flags.DEFINE_string(
    'output_dir', '', 'Folder of the data set, local or gs://.'
  )
  flags.DEFINE_enum(
    'source',
    'digits',
    list(source_facts.SOURCES),
    'Where the images come from; see above.',
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    'One word for the data set, a level in the paths of results. Empty: '
    "that of --source or, for folders, the name of --study or of the output's "
    'folder.',
  )
  flags.DEFINE_string(
    'archive',
    '',
    'cifar-10-binary.tar.gz, cifar-100-binary.tar.gz, or the folder that it '
    'unpacks to; empty to fetch it. Of the sources cifar10 and cifar100.',
  )
  flags.DEFINE_string(
    'train_directory', '', 'Folder or tar of training images; empty for none.'
  )
  flags.DEFINE_string(
    'validation_directory',
    '',
    'Folder or tar of evaluation images; empty for none.',
  )
  flags.DEFINE_float(
    'validation_fraction',
    0.0,
    'Fraction, in (0, 1), of the images of --train_directory that evaluation '
    'has, about the same of every class; 0 is off. Of the source folders.',
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_string(
    'validation_labels',
    '',
    "Classes of validation images that lie in no class's folder: one class a "
    'line in the order of file names, or <file name> <class>. A class is '
    'called as its folder in the train split (wnids, not the numbers of '
    "ImageNet's development kit, which go in another order). Empty for images "
    'in folders.',
  )
  flags.DEFINE_string(
    'image_table',
    '',
    'CSV with a row for each image, for images that lie in no folder of their '
    'class; of the source folders. Empty: the folders say the class.',
  )
  flags.DEFINE_string(
    'image_column',
    '',
    'Column of --image_table: the name of the file, which becomes the image '
    'key. Empty: the first one.',
  )
  flags.DEFINE_string(
    'class_column',
    '',
    'Column of --image_table: the class. One of -1 and 1, 0 and 1, or False '
    'and True makes the classes "not <column>", which is 0, and "<column>".',
  )
  flags.DEFINE_list(
    'group_columns',
    [],
    'Columns of --image_table whose values make groups of images, such as '
    'Male,Young,Male+Young: columns joined by + make a group of each '
    'combination. Images without a value are of none. Empty: no groups.',
  )
  flags.DEFINE_string(
    'split_column',
    '',
    'Column of --image_table: the split of each image of --train_directory. '
    'Empty: it says none.',
  )
  flags.DEFINE_list(
    'split_values',
    ['train', 'test'],
    'What --split_column holds for training images and for evaluation images '
    '(0,2 for CelebA); images with other values are left out.',
  )
  flags.DEFINE_string(
    'labels_file',
    '',
    'Order of the classes: a line each with the name of its folder and, after '
    'a tab or a space, the class in words. Empty for the folders of the train '
    'split (or the only one) in sorted order.',
  )
  for split in image_sources.SPLITS:
    flags.DEFINE_integer(
      f'{split}_shards',
      None,
      f'Number of files of the {split} split. Default: '
      f'{_MOST_SHARDS[split]} for imagenet, otherwise one for every '
      f'{_IMAGES_PER_SHARD} images and at most that number.',
      lower_bound=1,
    )
  flags.DEFINE_enum(
    'channel_statistics',
    None,
    ['train', 'imagenet'],
    'Mean and standard deviation that networks subtract and divide by: those '
    "of the train split's pixels, or ImageNet's. Default: train where there is "
    'one and it is not ImageNet. For a set that networks trained on ImageNet '
    'will see, imagenet.',
  )
  flags.DEFINE_integer(
    'image_size',
    None,
    "Height and width of the network's input in pixels. Default: 32 for "
    'digits and CIFAR, otherwise 224.',
  )
  flags.DEFINE_integer(
    'resize_size',
    None,
    'Pixels of the shorter side before the central crop of evaluation; equal '
    'to image_size for no crop. Default: image_size for digits and CIFAR, '
    'otherwise 8/7 of it (256 for 224).',
  )
  flags.DEFINE_float(
    'crop_area_min',
    None,
    "Smallest share of an image's area, in (0, 1], that a random crop of "
    'training keeps; 1 for no crop. Default: 0.6 for digits, otherwise 0.08, '
    'or 1 with --crop_padding.',
  )
  flags.DEFINE_integer(
    'crop_padding',
    None,
    'Pixels by which training moves an image at most, up or down and left or '
    'right, in place of that crop; what comes in is mirrored at the edge. '
    'Default: 4 for CIFAR, otherwise 0, not at all.',
    lower_bound=0,
  )
  flags.DEFINE_bool(
    'horizontal_flip',
    None,
    'Whether training may mirror an image. Default: no for digits, otherwise '
    'yes.',
  )
  flags.DEFINE_integer(
    'num_workers',
    os.cpu_count(),
    'Processes, of which each decodes one image at a time; a small data set '
    'uses fewer. Default: one for each core.',
    lower_bound=1,
  )
  command_line.define_scheduler()
  flags.DEFINE_bool(
    'test_small_sample',
    False,
    f'Whether to take only {_SMALL_SAMPLE} images of each split, to see in '
    'seconds that a source can be read.',
  )


def _labels(f: flags.FlagValues) -> str | image_tables.Columns:
  """The flags that say the classes of images that lie in no class's folder."""
  of_table = ('image_column', 'class_column', 'group_columns', 'split_column')
  if not f.image_table:
    if given := [name for name in of_table if f[name].value]:
      raise ValueError(f'--{given[0]} without --image_table')
    return f.validation_labels
  if f.validation_labels:
    raise ValueError('wanted one of --image_table and --validation_labels')
  return image_tables.Columns(
    f.image_table,
    f.image_column,
    f.class_column,
    tuple(f.group_columns),
    f.split_column,
    tuple(f.split_values),
  )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  name = FLAGS.dataset_name
  if not name and FLAGS.source == 'folders' and FLAGS.study:
    name = epath.Path(FLAGS.study).name
  command_line.with_study(FLAGS, {'output_dir': 'data'})
  run(
    FLAGS.source,
    FLAGS.output_dir,
    FLAGS.train_directory,
    FLAGS.validation_directory,
    _labels(FLAGS),
    FLAGS.labels_file,
    {split: FLAGS[f'{split}_shards'].value for split in image_sources.SPLITS},
    FLAGS.channel_statistics,
    workers.Place(FLAGS.num_workers, FLAGS.scheduler),
    {
      'name': name or None,
      'image_size': FLAGS.image_size,
      'resize_size': FLAGS.resize_size,
      'crop_area_min': FLAGS.crop_area_min,
      'crop_padding': FLAGS.crop_padding,
      'horizontal_flip': FLAGS.horizontal_flip,
    },
    FLAGS.test_small_sample,
    FLAGS.archive,
    FLAGS.validation_fraction,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
