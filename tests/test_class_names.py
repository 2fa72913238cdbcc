"""Classes of data from elsewhere have the names that a CSV gives them."""

import pytest

from utils import class_names, image_records

PETS = image_records.ImageRecords('pets', ('cat', 'dog', 'cow'))


def write(folder, rows, header='class_id,class_name'):
  path = folder / 'classes.csv'
  path.write_text('\n'.join([header, *rows]) + '\n')
  return str(path)


def test_names_are_in_the_order_of_the_ids(tmp_path):
  path = write(tmp_path, ['2,cow', '0,cat', '1,dog'])
  assert class_names.read(path) == PETS.class_names
  assert class_names.read(path, PETS) == PETS.class_names
  # Without a CSV the description decides, without either nothing.
  assert class_names.read('', PETS) == PETS.class_names
  assert class_names.read('') == ()
  # Nobody has told the description their names.
  ids = image_records.imagenet(3)
  assert class_names.read(path, ids) == PETS.class_names


def test_a_class_may_be_in_groups(tmp_path):
  rows = ['0,cat,small', '0,cat,furry', '1,dog,furry', '2,cow,']
  path = write(tmp_path, rows, 'class_id,class_name,group')
  assert class_names.read(path) == PETS.class_names
  rows[1] = '0,dog,furry'
  path = write(tmp_path, rows, 'class_id,class_name,group')
  with pytest.raises(ValueError, match="calls class 0 'cat' and 'dog'"):
    class_names.read(path)


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (['0,cat', '1,cow', '2,dog'], "class 1 'cow', the data set pets.*'dog'"),
    (['0,cat', '1,dog'], 'names 2 classes, the data set pets has 3'),
    (['1,cat', '2,dog', '3,cow'], 'names 3 classes, but not class 0'),
    (['0,cat', '2,dog'], 'names 2 classes, but not class 1'),
    (['0,cat'], 'names 1 classes, but not class 1: wanted .* two'),
    (['0,cat', '0,cat', '1,cow'], 'share their identity'),
    (['0,cat', '1,', '2,cow'], 'no name for class 1'),
    (['0,cat', 'x,dog'], "'class_id' holds 'x' in line 3"),
  ],
)
def test_what_names_no_classes_is_refused(tmp_path, rows, message):
  path = write(tmp_path, rows)
  with pytest.raises(ValueError, match=message):
    class_names.read(path, PETS)
