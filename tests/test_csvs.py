"""Laws of CSVs: what passes, and what is refused in which words."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import csvs

TABLE = csvs.Table(
  'weights',
  'a person',
  'a test',
  'weights.csv',
  (
    csvs.Column('name', 'text', 'who'),
    csvs.Column('count', 'int', 'how many', low=0),
    csvs.Column('share', 'float', 'of all', low=0.0, high=1.0, nullable=True),
    csvs.Column('rank', 'int', 'place', nullable=True, default=np.nan),
    csvs.Column('note', 'text', 'remark', default=''),
  ),
  key=('name',),
  sort_by=('name',),
)


def frame(**changes):
  columns = {
    'name': ['b', 'a', 'None'],
    'count': [2, 0, 3],
    'share': [0.5, np.nan, 1 / 3],
    'rank': [1, np.nan, 2],
    'note': ['', 'x, "y" z', 'NA'],
  }
  return pd.DataFrame(columns | changes)


def write_text(path, text):
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def test_write_then_read_is_identity(tmp_path):
  path = str(tmp_path / 'a.csv')
  csvs.write(TABLE, frame(), path)
  read = csvs.read(TABLE, path)
  wanted = frame().sort_values('name')
  assert read['name'].tolist() == ['None', 'a', 'b']
  assert read['note'].tolist() == wanted['note'].tolist()
  np.testing.assert_array_equal(read['share'], wanted['share'])
  assert read['rank'].tolist() == [2, pd.NA, 1]
  assert read['count'].dtype == 'int64'


@settings(max_examples=50, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.text(
        st.characters(codec='utf-8', exclude_categories=('Cc',)), min_size=1
      ).filter(lambda text: not csvs.fault_of_text(text)),
      st.integers(0, 2**53),
      st.floats(0, 1) | st.just(np.nan),
    ),
    min_size=1,
    unique_by=lambda row: row[0],
  )
)
def test_any_text_and_number_survives(tmp_path_factory, rows):
  path = str(tmp_path_factory.mktemp('tables') / 'a.csv')
  wanted = pd.DataFrame(rows, columns=['name', 'count', 'share'])
  wanted = wanted.assign(rank=np.nan, note='')
  csvs.write(TABLE, wanted, path)
  with open(path, 'rb') as file:
    first = file.read()
  csvs.write(TABLE, wanted[::-1], path)
  with open(path, 'rb') as file:
    assert file.read() == first
  read = csvs.read(TABLE, path).set_index('name')
  wanted = wanted.set_index('name').loc[read.index]
  assert read['count'].tolist() == wanted['count'].tolist()
  np.testing.assert_array_equal(read['share'], wanted['share'])


def test_required_columns_are_enough_in_any_order(tmp_path):
  path = write_text(
    tmp_path / 'a.csv', ',share,unknown,count,name\r\n0,.5,7,3,x\r\n'
  )
  read = csvs.read(TABLE, path)
  assert list(read) == ['name', 'count', 'share', 'rank', 'note']
  assert read.loc[0, ['name', 'count', 'share', 'note']].tolist() == [
    'x',
    3,
    0.5,
    '',
  ]
  assert read['rank'].isna().all()


def test_some_columns_only(tmp_path):
  path = str(tmp_path / 'a.csv')
  csvs.write(TABLE, frame(), path)
  assert list(csvs.read(TABLE, path, ('count', 'name'))) == ['name', 'count']
  # Without what identifies them, equal rows are no error.
  csvs.write(TABLE, frame(count=[1, 1, 1]), path)
  assert csvs.read(TABLE, path, ('count',))['count'].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('name,count\na,1\n', r"a.csv is not a table .* lacks .*\['share'\]"),
    ('name,count,share\na,1,.5\na,2,.5\n', r'2 rows .* lines 2, 3'),
    ('name,count,share\na,x,.5\n', "'count' holds 'x' in line 2, .*a number"),
    ('name,count,share\na,1,.5\nb,,.5\n', "'count' .* line 3, .*empty"),
    ('name,count,share\na,nan,.5\n', "'count' .* line 2, .*empty"),
    ('name,count,share\na,1.5,.5\n', "'count' .* whole number"),
    ('name,count,share\na,-1,.5\n', "'count' holds -1 in line 2, .*least 0"),
    ('name,count,share\na,1,1.5\n', "'share' holds 1.5 .*at most 1.0"),
    ('name,count,share\na,1,-0.1\n', "'share' holds -0.1 .*at least 0.0"),
    ('name,count,share\na,1,inf\n', "'share' holds .*inf.* finite"),
    ('name,count,share\na,1e400,1\n', "'count' holds"),
    ('name,count,share,share\na,1,.5,.5\n', "'share'.* more than once"),
    ('', 'is not a'),
    (b'name,count,share\n\xff,1,.5\n', 'is not a CSV'),
    (b'PK\x03\x04\xff\xfe', 'is not a CSV'),
  ],
)
@pytest.mark.parametrize('neighbours', [0, 2])
def test_bad_tables_are_refused_by_name(tmp_path, text, message, neighbours):
  bad = write_text(tmp_path / 'a.csv', text)
  files = [bad]
  for i in range(neighbours):
    good = f'name,count,share\nz{i},1,.5\n'
    files.insert(0, write_text(tmp_path / f'good{i}.csv', good))
  with pytest.raises(ValueError, match=message) as error:
    csvs.read_all(TABLE, files)
  assert 'a.csv' in str(error.value)
  assert 'good' not in str(error.value)


def test_a_bad_table_is_not_written(tmp_path):
  path = tmp_path / 'a.csv'
  with pytest.raises(ValueError, match="lacks the columns .*'share'"):
    csvs.write(TABLE, frame().drop(columns='share'), str(path))
  with pytest.raises(ValueError, match='at most'):
    csvs.write(TABLE, frame(share=[0.1, 0.2, 1.1]), str(path))
  with pytest.raises(ValueError, match='share their identity'):
    csvs.write(TABLE, frame(name=['a', 'b', 'a']), str(path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'texts',
  [
    # Plain files; line ends of Windows.
    ['name,count,share\na,1,.5\nb,2,\n', 'name,count,share\nc,3,1\n'],
    ['name,count,share\r\na,1,.5\r\n', 'name,count,share\r\nc,3,1\r\n'],
    # Different layouts, quotes, empty lines, no rows.
    ['name,count,share\na,1,.5\n', 'count,name,share\n3,c,1\n'],
    ['name,count,share\n"a, b",1,.5\n', 'name,count,share\nc,3,1\n'],
    ['name,count,share\na,1,.5\n\n', 'name,count,share\n\nc,3,1\n'],
    ['name,count,share\n', 'name,count,share\nc,3,1\n'],
    # What looks like a number stays text.
    ['name,count,share\n007,1,.5\n', 'name,count,share\n1e3,3,1\n'],
    ['\ufeffname,count,share\nä,1,.5\n', '\ufeffname,count,share\nß,3,1\n'],
  ],
)
def test_reading_together_equals_reading_each(tmp_path, texts):
  files = [
    write_text(tmp_path / f'{i}.csv', text) for i, text in enumerate(texts)
  ]
  each = [csvs.read(TABLE, path) for path in files]
  together, ends = csvs.read_stacked(TABLE, files)
  start = 0
  for frame, end in zip(each, ends, strict=True):
    pd.testing.assert_frame_equal(
      together.iloc[start:end].reset_index(drop=True), frame, check_dtype=False
    )
    start = end
  assert start == len(together)
  assert together['name'].tolist() == [n for f in each for n in f['name']]


def test_an_open_quote_does_not_swallow_the_next_file(tmp_path):
  files = [
    write_text(tmp_path / '0.csv', 'name,count,share\n"a,1,.5\n'),
    write_text(tmp_path / '1.csv', 'name,count,share\nb",2,.5\n'),
  ]
  with pytest.raises(ValueError, match='0.csv'):
    csvs.read_stacked(TABLE, files)


def test_a_row_in_two_files_is_refused(tmp_path):
  files = [
    write_text(tmp_path / f'{i}.csv', f'name,count,share\n{n},1,.5\n')
    for i, n in enumerate('aba')
  ]
  with pytest.raises(ValueError, match=r'2 rows .*0\.csv.*2\.csv') as error:
    csvs.read_all(TABLE, files)
  assert '1.csv' not in str(error.value)


THINGS = csvs.Table('things', 'a thing', 'a person', 'x.csv', (), (), ())


def touch(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).touch()
  return str(folder)


def test_csvs_are_found_below_a_folder(tmp_path):
  touch(tmp_path / 'x' / 'y', 'b.csv', 'b.txt', '.b.csv')
  touch(tmp_path / 'a', 'a.csv')
  assert csvs.find(THINGS, str(tmp_path)) == [
    str(tmp_path / 'a' / 'a.csv'),
    str(tmp_path / 'x' / 'y' / 'b.csv'),
  ]
  assert csvs.find(THINGS, str(tmp_path / '*' / 'a.csv')) == [
    str(tmp_path / 'a' / 'a.csv')
  ]
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='no CSV of things below'):
    csvs.find(THINGS, str(tmp_path / 'empty'))
  with pytest.raises(FileNotFoundError, match='no CSV of things matches'):
    csvs.find(THINGS, str(tmp_path / 'absent'))
