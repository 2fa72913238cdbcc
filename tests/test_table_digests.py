"""A digit that turns into another leaves a valid table, and is noticed."""

import json
import os
import threading

import pandas as pd
import pytest

from utils import csvs, storage, table_digests, tables

FRAME = pd.DataFrame({'group': ['a', 'b'], 'class_id': [1, 23]})


def write(path, frame=FRAME):
  csvs.write(tables.GROUPS, frame, str(path))


def read(path):
  return csvs.read(tables.GROUPS, str(path))


def test_every_flip_of_every_bit_is_named(tmp_path):
  path = tmp_path / 'a.csv'
  write(path)
  whole = path.read_bytes()
  for place in range(8 * len(whole)):
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='has another SHA-256') as raised:
      read(path)
    assert str(path) in str(raised.value)
  with pytest.raises(ValueError, match='a.csv has another SHA-256'):
    csvs.read_stacked(tables.GROUPS, [str(path)])
  path.write_bytes(whole)
  assert read(path)['class_id'].tolist() == [1, 23]


def test_a_table_that_nobody_noted_is_read_and_the_log_says_so(tmp_path):
  write(tmp_path / 'a.csv')
  for name in ('other.csv', 'elsewhere/a.csv'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('group,class_id\na,7\n')
    assert read(path)['class_id'].tolist() == [7]
  # Changed by hand.
  (tmp_path / 'a.csv').write_text('group,class_id\na,7\n')
  with pytest.raises(ValueError, match='remove its line'):
    read(tmp_path / 'a.csv')
  (tmp_path / table_digests.FILE_NAME).unlink()
  assert read(tmp_path / 'a.csv')['class_id'].tolist() == [7]


def test_a_table_that_is_written_again_is_valid_at_any_moment(
  tmp_path, monkeypatch
):
  path = tmp_path / 'a.csv'
  write(path)
  write_complete = storage.write_complete

  def killed(where, data):
    if str(where) == str(path):
      raise KeyboardInterrupt
    write_complete(where, data)

  monkeypatch.setattr(storage, 'write_complete', killed)
  with pytest.raises(KeyboardInterrupt):
    write(path, FRAME.assign(class_id=5))
  assert read(path)['class_id'].tolist() == [1, 23]
  monkeypatch.undo()
  write(path, FRAME.assign(class_id=5))
  assert read(path)['class_id'].tolist() == [5, 5]


def test_writers_at_once_lose_no_note(tmp_path):
  paths = [tmp_path / f'{i}.csv' for i in range(24)]
  threads = [threading.Thread(target=write, args=[path]) for path in paths]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  known = json.loads((tmp_path / table_digests.FILE_NAME).read_text())
  assert sorted(known) == sorted(path.name for path in paths)


def test_equal_tables_give_equal_notes(tmp_path):
  for folder in ('a', 'b', 'b'):
    write(tmp_path / folder / 'a.csv')
  notes = [tmp_path / f / table_digests.FILE_NAME for f in ('a', 'b')]
  assert notes[0].read_bytes() == notes[1].read_bytes()


@pytest.mark.parametrize('text', ['{"a.csv": [', '[]', '{"a.csv": 3}', ''])
def test_damaged_notes_are_named(tmp_path, text):
  write(tmp_path / 'a.csv')
  notes = tmp_path / table_digests.FILE_NAME
  notes.write_text(text)
  os.utime(notes, (1, 1))
  for use in (read, write):
    with pytest.raises(ValueError, match='digests.json is damaged'):
      use(tmp_path / 'a.csv')
