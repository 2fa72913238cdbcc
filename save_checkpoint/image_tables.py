"""Classes, groups and splits of images, from a table beside them.

As CelebA has them: a folder of images, and a table with a row for each, of
which one column names the file, one the class, others say which groups it is
of, and maybe one the split. A column of -1 and 1, of 0 and 1, or of False and
True is an attribute: its classes, or groups, are 'not <column>' and '<column>'.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from absl import logging

from save_checkpoint import image_sources
from utils import csvs

_NO, _YES = {'-1', '0', 'False'}, {'1', 'True'}
# Between the columns of one group, in the flag.
_AND = '+'


@dataclasses.dataclass(frozen=True)
class Columns:
  """Where a table says what.

  Attributes:
    path: the CSV.
    image: column of the names of the files; '' for the first one.
    label: column of the class.
    groups: columns of groups, or several joined by '+', whose values together
      make a group.
    split: column of the split; '' for none.
    split_values: what it holds for images of training, and of evaluation.
  """

  path: str
  image: str
  label: str
  groups: tuple[str, ...] = ()
  split: str = ''
  split_values: tuple[str, ...] = ('train', 'test')

  def __post_init__(self):
    if not self.label:
      raise ValueError('--image_table without --class_column')
    if len(set(self.split_values)) != 2:
      raise ValueError(
        f'--split_values is {",".join(self.split_values)!r}, wanted two: that '
        'of training and that of evaluation'
      )


class ImageTable:
  """What a table says of each image."""

  def __init__(self, columns: Columns):
    """Reads the table.

    Raises:
      ValueError: it is no such table; names file, column and line.
    """
    self._of = columns
    header, _ = csvs.read_head(columns.path)
    image = columns.image or header[0]
    self._parts = {
      name: (name,) if name in header else tuple(name.split(_AND))
      for name in columns.groups
    }
    used = [columns.label, *sum(self._parts.values(), ())]
    used += [columns.split] if columns.split else []
    table = csvs.Table(
      'images',
      'an image, its class and its groups',
      'a person',
      'given as --image_table',
      tuple(
        csvs.Column(name, 'text', 'as the flag says')
        for name in dict.fromkeys([image, *used])
      ),
      key=(image,),
      sort_by=(),
    )
    frame = csvs.read(table, columns.path).set_index(image)
    self._frame = frame.apply(lambda column: column.str.strip())
    empty = self._frame[self._frame[columns.label] == '']
    if len(empty):
      raise ValueError(
        f'{columns.path} has no {columns.label} of {len(empty)} images, for '
        f'example {empty.index[0]!r}'
      )

  @property
  def classes(self) -> dict[str, str]:
    """Value of the class's column -> the class in words."""
    return self._words(self._of.label)

  def _words(self, name: str) -> dict[str, str]:
    values = sorted(set(self._frame[name]) - {''})
    if set(values) <= _NO | _YES:
      return {
        value: f'not {name}' if value in _NO else name for value in values
      }
    return {value: value for value in values}

  def pictures(
    self, found: Mapping[str, Sequence[image_sources.Picture]]
  ) -> dict[str, list[image_sources.Picture]]:
    """Images of each split, called as in the table, with their classes.

    Args:
      found: split -> images; all as those of training, where a column says
        which are of which split.

    Raises:
      ValueError: the table lacks an image, or names one that is not there.
    """
    split_of = dict.fromkeys(image_sources.SPLITS, '')
    wanted = self._frame
    if self._of.split:
      of_rows = self._frame[self._of.split]
      split_of = dict(zip(split_of, self._of.split_values, strict=True))
      if lacking := set(split_of.values()) - set(of_rows):
        raise ValueError(
          f'{self._of.path} has no row whose {self._of.split} is '
          f'{min(lacking)!r}, it has {sorted(set(of_rows))[:10]}: wanted '
          '--split_values=<of training>,<of evaluation>'
        )
      wanted = self._frame[of_rows.isin(split_of.values())]
      logging.info('%d images are of neither split', len(of_rows) - len(wanted))
    named: dict[str, image_sources.Picture] = {}
    splits: dict[str, list[image_sources.Picture]] = {}
    for split, pictures in found.items():
      splits[split] = []
      for picture in self._labelled(pictures):
        if picture.key in named:
          raise ValueError(
            f'{picture.where} and {named[picture.key].where} have one row in '
            f'{self._of.path}'
          )
        named[picture.key] = picture
        splits[split].append(picture)
    if absent := set(wanted.index) - set(named):
      raise ValueError(
        f'{self._of.path} names {len(absent)} images that are not there, for '
        f'example {min(absent)!r}'
      )
    if self._of.split:
      rows = self._frame[self._of.split]
      splits = {
        split: [p for p in splits['train'] if rows[p.key] == value]
        for split, value in split_of.items()
      }
    return {
      split: sorted(pictures, key=lambda picture: picture.key)
      for split, pictures in splits.items()
    }

  def _labelled(
    self, pictures: Sequence[image_sources.Picture]
  ) -> Iterator[image_sources.Picture]:
    labels = self._frame[self._of.label].to_dict()
    for picture in pictures:
      # In a tar, or in folders of no matter, the table names the file alone.
      name = picture.key
      if name not in labels:
        name = name.rsplit('/', 1)[-1]
      if name not in labels:
        raise ValueError(
          f'{self._of.path} has no row for the image {picture.where}'
        )
      yield dataclasses.replace(picture, key=name, class_key=labels[name])

  def groups(self, pictures: Sequence[image_sources.Picture]) -> pd.DataFrame:
    """Rows of `tables.GROUPS` of images; none where no groups are wanted."""
    frame = self._frame.loc[[picture.key for picture in pictures]]
    found = [pd.DataFrame({'group': [], 'image_key': []}, dtype=str)]
    for names in self._parts.values():
      words = pd.DataFrame(
        {name: frame[name].map(self._said(name)) for name in names}
      ).dropna()
      group = words.agg(', '.join, axis=1)
      found.append(
        pd.DataFrame({'group': group.to_numpy(), 'image_key': words.index})
      )
    return pd.concat(found, ignore_index=True)

  def _said(self, name: str) -> dict[str, str]:
    """Value -> group, whose name has to be clear without its column."""
    words = self._words(name)
    if set(words) <= _NO | _YES:
      return words
    return {value: f'{name} {value}' for value in words}

  def find(
    self,
    train_directory: str,
    validation_directory: str,
    validation_fraction: float,
  ) -> dict[str, list[image_sources.Picture]]:
    """Lists the images by split; see build_image_data's docstring."""
    image_sources.check_directories(
      'folders', train_directory, validation_directory, validation_fraction
    )
    if self._of.split and (
      validation_directory or validation_fraction or not train_directory
    ):
      raise ValueError(
        '--split_column says the split of each image of --train_directory, '
        'without --validation_directory and --validation_fraction'
      )
    directories = {'train': train_directory, 'validation': validation_directory}
    pictures = self.pictures(
      {
        split: image_sources.list_pictures(directory)
        for split, directory in directories.items()
        if directory
      }
    )
    if validation_fraction:
      return image_sources.split_off(pictures['train'], validation_fraction)
    return pictures
