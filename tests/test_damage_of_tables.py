"""Damaged and hostile tables: named, or provably without effect."""

import os

import pandas as pd
import pytest

from pie_dataset_gen import shard_predictions
from tests.damage import FORMULAS, fuzz, mutated, outcomes, predictions
from utils import csvs, image_records, tables, tfrecords

CONTROLS = ('a\nb', 'a\rb', 'a\0b', '\x1b[31mred', '\ud800', '\t=1+1')


HARMLESS = ('-', '=', '+1', '-0a.jpg', '@home', 'a=b', '<b>&"\'', ',', '..')


@pytest.mark.parametrize('text', HARMLESS)
def test_harmless_text_stays_as_it_is(tmp_path, text):
  frame = pd.DataFrame({'group': [text], 'image_key': [f'a/{text}']})
  path = str(tmp_path / 'groups.csv')
  csvs.write(tables.GROUPS, frame, path)
  read = csvs.read(tables.GROUPS, path)
  assert read['group'].tolist() == [text]
  assert read['image_key'].tolist() == [f'a/{text}']
  assert tfrecords.key_text(text.encode()) == text


@pytest.mark.parametrize('text', FORMULAS + CONTROLS)
def test_no_cell_holds_a_formula_or_a_control_character(tmp_path, text):
  frame = pd.DataFrame({'group': ['a'], 'class': [text]})
  with pytest.raises(ValueError, match="column 'class' holds"):
    csvs.write(tables.GROUPS, frame, str(tmp_path / 'groups.csv'))
  assert not os.listdir(tmp_path)
  for changes in (
    {'class_names': ('a', text)},
    {'class_keys': ('a', text)},
    {'name': text},
  ):
    with pytest.raises(ValueError, match='class_names|class_keys|name'):
      image_records.ImageRecords(
        **{'name': 'pets', 'class_names': ('a', 'b'), **changes}
      )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('group,class\na,b\0c\n', 'NUL'),
    ('\rgroup,class\na,b\n', 'is not a CSV'),
    (f'group,class_id\na,{"9" * 5000}\n', "column 'class_id' holds"),
    ('group,class\na,"b\nc"\n', r"column 'class' holds 'b\\nc'.* line break"),
    ('group,class\na,"b\rc"\n', r"column 'class' holds 'b\\rc'.* line break"),
  ],
)
def test_tables_from_elsewhere_with_control_characters_are_named(
  tmp_path, text, message
):
  path = tmp_path / 'groups.csv'
  path.write_bytes(text.encode())
  with pytest.raises(ValueError, match=message) as raised:
    csvs.read(tables.GROUPS, str(path))
  assert str(path) in str(raised.value)


def test_flips_of_a_csv_change_no_more_than_cells(tmp_path, long):
  """Of one that nobody noted: a digit that becomes another goes unnoticed.

  All else is: of predictions, wherever images or labels do not fit those of
  other members.
  """
  files = [predictions(tmp_path, (f, r)) for f in (0.0, 0.5) for r in (0, 1)]

  def read():
    shard = shard_predictions.read_shard([*map(str, files)], 'eval', 3)
    seen.append((shard.members, shard.image_key, shard.true_class))
    return shard.label.tolist(), shard.probability.tolist()

  seen = []
  found = outcomes(files[2], 1 if long else 13, read)
  for members, keys, labels in seen:
    assert keys.tolist() == ['k0', 'k1', 'k2', 'k3']
    assert labels.tolist() == [0, 1, 2, 0]
    assert len(members) == 4
  assert found['named'] > 0.5 * found.total()


@pytest.mark.usefixtures('unnoted')
def test_cuts_of_a_csv_are_noticed(tmp_path):
  """But at the end of a line, which takes the images of others to notice."""
  files = [predictions(tmp_path, (0.0, r)) for r in (0, 1)]
  whole = files[1].read_bytes()
  for size in range(len(whole)):
    files[1].write_bytes(whole[:size])
    if size and whole[size - 1 : size] == b'\n':
      csvs.read(tables.PREDICTIONS, str(files[1]))
    else:
      with pytest.raises(ValueError, match=files[1].name):
        csvs.read(tables.PREDICTIONS, str(files[1]))
    with pytest.raises(ValueError, match=files[1].name):
      shard_predictions.read_shard([*map(str, files)], 'eval', 3)


@pytest.mark.parametrize(
  'table', [tables.PREDICTIONS, tables.CLASS_METRICS, tables.GROUPS]
)
def test_fuzzed_tables(tmp_path, long, table):
  path = tmp_path / 'a.csv'
  row = {c.name: {'text': 'a,"b'}.get(c.kind, 1) for c in table.columns}
  frame = pd.DataFrame([row, row])
  for column in table.columns:
    if column.name in ('image_key', 'class_id', 'class'):
      frame[column.name] = ['0', '1'] if column.kind == 'text' else [0, 1]
  csvs.write(table, frame, str(path))

  def parse(data):
    path.write_bytes(data)
    csvs.read(table, str(path))
    csvs.read_stacked(table, [str(path), str(path)])

  fuzz(mutated(path.read_bytes()), parse, 10_000 if long else 100)


def test_fuzzed_predictions_from_elsewhere(tmp_path, long):
  files = [predictions(tmp_path, (f, 0)) for f in (0.0, 0.5)]

  def parse(data):
    files[1].write_bytes(data)
    shard_predictions.read_shard([*map(str, files)], 'eval')

  fuzz(mutated(files[1].read_bytes()), parse, 10_000 if long else 100)
