"""What people get wrong with images and tables, each with its sentence."""

import os

import pytest

from save_checkpoint import build_image_data
from tests.test_build_image_data import picture, write_tree
from utils import csvs, paths, storage, tables

# Classes with four images each, no two alike.
TRAIN = {
  f'{c}/{i}.png': picture(10 * ord(c) + i) for c in 'ab' for i in range(4)
}
OTHER = {
  f'{c}/{i}.png': picture(10 * ord(c) + i) for c in 'ab' for i in range(4, 8)
}


def build(folder, train, validation, **description):
  """Builds a data set of two folders of images."""
  return build_image_data.run(
    'folders',
    str(folder / 'out'),
    write_tree(folder / 'train', train),
    write_tree(folder / 'test', validation),
    description=description,
  )


def test_one_folder_is_not_both_splits(tmp_path):
  folder = write_tree(tmp_path / 'images', TRAIN)
  for other in (folder, f'{folder}/'):
    with pytest.raises(ValueError, match='evaluated on the images that they'):
      build_image_data.run('folders', str(tmp_path / 'out'), folder, other)


def test_a_copy_of_the_training_images_is_no_evaluation(tmp_path):
  renamed = {f'{key[0]}/IMG{key[2:]}': data for key, data in TRAIN.items()}
  with pytest.raises(ValueError, match='8 of 8 evaluation images are training'):
    build(tmp_path, TRAIN, renamed)
  assert not storage.exists(paths.image_records(tmp_path / 'out'))


def test_images_that_stand_in_both_splits_are_counted_and_named(
  tmp_path, caplog
):
  build(tmp_path, TRAIN, {**OTHER, 'b/twin.png': TRAIN['b/0.png']})
  assert '1 of 9 evaluation images are training images' in caplog.text
  assert 'b/twin.png (in train: b/0.png)' in caplog.text


def test_images_that_stand_twice_in_a_split_are_counted(tmp_path, caplog):
  build(tmp_path, {**TRAIN, 'b/twin.png': TRAIN['a/0.png']}, OTHER)
  assert 'train: 1 images stand more than once' in caplog.text
  assert 'stand under more than one class, for example' in caplog.text


def test_different_images_raise_no_alarm(tmp_path, caplog):
  build(tmp_path, TRAIN, OTHER, image_size=9)
  assert caplog.text.count('WARNING') == 0


@pytest.mark.parametrize(
  ('description', 'wanted'),
  [({}, 256), ({'image_size': 64}, 73), ({'resize_size': 300}, 300)],
)
def test_the_crop_of_evaluation_follows_the_size(tmp_path, description, wanted):
  assert build(tmp_path, TRAIN, OTHER, **description).resize_size == wanted


def test_an_evaluation_that_sees_little_is_named(tmp_path, caplog):
  build(tmp_path, TRAIN, OTHER, image_size=8, resize_size=64)
  assert 'Evaluation sees the central 2% of an image only' in caplog.text
  assert 'Usual is --resize_size=9' in caplog.text


@pytest.mark.parametrize(
  ('image_size', 'said'),
  [(18, 'Consider --image_size=9 --resize_size=9'), (1, 'details are lost')],
)
def test_images_of_another_size_than_the_input_are_named(
  tmp_path, caplog, image_size, said
):
  build(tmp_path, TRAIN, OTHER, image_size=image_size)
  assert said in caplog.text


def test_a_pdf_that_is_called_jpg_is_called_so(tmp_path):
  with pytest.raises(ValueError, match=r"a/x.jpg.*begins with b'%PDF-1.4'"):
    build(tmp_path, {**TRAIN, 'a/x.jpg': b'%PDF-1.4\nabc'}, OTHER)


def test_a_folder_that_cannot_be_written_is_refused_at_once(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(OSError, match='out cannot be written: Permission denied'):
    # There are no images to read.
    build_image_data.run('folders', str(tmp_path / 'out'), 'none', 'nothing')


def predictions(probability='0.93', comma=','):
  """Text of a CSV of predictions, of one image."""
  rows = (
    ('predictions', 'true_class', 'predicted_probability', 'image_key'),
    ('0', '1', probability, 'a'),
  )
  return '\n'.join(map(comma.join, rows)) + '\n'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (predictions(comma=';'), 'separated by semicolons, wanted commas'),
    (predictions('0,93', ';'), 'separated by semicolons, wanted commas'),
    (predictions(comma='\t'), 'separated by tabs, wanted commas'),
    (predictions('"0,93"'), "'0,93' in line 2, wanted a number with a decimal"),
    (predictions('x'), "'x' in line 2, wanted a number \\("),
    (predictions().replace('true_class', 'label'), 'lacks the columns'),
    (predictions(comma=', '), 'wanted no spaces around them'),
    (predictions().replace('true_class', 'True_Class'), 'wanted small letters'),
  ],
)
def test_separators_and_decimal_commas_are_named(tmp_path, text, message):
  refuse(tmp_path, text.encode(), message)


def refuse(folder, data, message):
  """Reads a CSV of predictions, in vain."""
  path = folder / 'predictions.csv'
  path.write_bytes(data)
  columns = ('predictions', 'true_class', 'predicted_probability', 'image_key')
  with pytest.raises(ValueError, match=message):
    csvs.read(tables.PREDICTIONS, str(path), columns)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (predictions().encode('utf-16'), 'UTF-16 text, wanted UTF-8 \\(save it as'),
    (
      predictions().replace('image_key', 'Schlüssel').encode('latin-1'),
      'which spreadsheets call CSV UTF-8',
    ),
    (predictions().replace('\n', '\r').encode(), 'carriage returns alone'),
  ],
)
def test_what_spreadsheets_make_of_a_table_is_named(tmp_path, data, message):
  refuse(tmp_path, data, message)


def test_keys_that_a_spreadsheet_rounded_are_named(tmp_path):
  head, row = predictions().splitlines()
  head += ',image_index,pruning_method,fraction_pruned,replicate'
  rows = [f'{row[:-1]}1.23457E+12,{i},baseline,0,0' for i in range(2)]
  path = tmp_path / 'predictions.csv'
  path.write_text('\n'.join([head, *rows]) + '\n')
  with pytest.raises(ValueError, match='a spreadsheet rounded them'):
    csvs.read(tables.PREDICTIONS, str(path))
