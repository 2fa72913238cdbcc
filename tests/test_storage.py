"""Laws of files: listings are exact, writes are whole."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

from utils import csvs, storage

THINGS = csvs.Table('things', 'a thing', 'a person', 'x.csv', (), (), ())


def touch(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).touch()
  return str(folder)


def test_patterns_give_sorted_files_each_once(tmp_path):
  folder = touch(tmp_path, 'b', 'a', 'c', '.a.part')
  (tmp_path / 'd').mkdir()
  every = [f'{folder}/{name}' for name in 'abc']
  assert storage.find_files(f'{folder}/*') == every
  assert storage.find_files(f'{folder}/c, {folder}/*,{folder}/a') == every
  with pytest.raises(FileNotFoundError, match='no table matches .*/x'):
    storage.find_files(f'{folder}/a,{folder}/x', 'table')
  touch(tmp_path, 'odd[1]name')
  assert storage.find_files(f'{folder}/odd[1]name') == [f'{folder}/odd[1]name']


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'folder' / 'table.csv'
  storage.write_complete(path, 'old')

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    storage.write_complete(path, 'new')
  assert path.read_text() == 'old'
  assert os.listdir(path.parent) == ['table.csv']


def test_readers_never_see_a_part(tmp_path):
  """Two writers and a reader: what is read is one of the two, whole."""
  path = tmp_path / 'table.csv'
  contents = {b'a' * 300_000, b'b' * 200_000}
  storage.write_complete(path, b'a' * 300_000)
  writers = [
    threading.Thread(
      target=lambda data=data: [
        storage.write_complete(path, data) for _ in range(25)
      ]
    )
    for data in contents
  ]
  for writer in writers:
    writer.start()
  reads = 0
  while any(writer.is_alive() for writer in writers):
    assert path.read_bytes() in contents
    reads += 1
  assert reads
  assert os.listdir(tmp_path) == ['table.csv']


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(
  tmp_path,
):
  script = (
    'import os, signal, sys\n'
    'from utils import storage\n'
    'with storage.unfinished(sys.argv[1]) as hidden:\n'
    "  open(hidden, 'w').write('part')\n"
    "  open(hidden + '.index', 'w').write('part')\n"
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  path = str(tmp_path / 'a [1].csv')
  for _ in range(2):
    subprocess.run([sys.executable, '-c', script, path], check=False)
  assert len(os.listdir(tmp_path)) == 4
  with pytest.raises(FileNotFoundError, match='no CSV'):
    csvs.find(THINGS, str(tmp_path))
  with storage.unfinished(path) as hidden:
    pathlib.Path(hidden).write_text('of another copy')
    storage.write_complete(path, 'whole')
    assert pathlib.Path(hidden).read_text() == 'of another copy'
    assert len(os.listdir(tmp_path)) == 2
  assert os.listdir(tmp_path) == ['a [1].csv']


@pytest.mark.parametrize('below', ['file', 'file/folder'])
def test_a_folder_that_is_a_file_is_named_as_it_was_asked_for(tmp_path, below):
  (tmp_path / 'file').write_text('')
  path = tmp_path / below / 'table.csv'
  with pytest.raises(OSError, match=rf'^{path} cannot be written: '):
    storage.write_complete(path, '')


@pytest.mark.parametrize(
  ('error', 'wanted'),
  [
    (tf.errors.UnavailableError(None, None, 'later'), True),
    # What its client says of a machine without a network.
    (
      tf.errors.FailedPreconditionError(
        None,
        None,
        'Error executing an HTTP request: libcurl code 6 meaning "Could not '
        'resolve hostname", error details: none',
      ),
      True,
    ),
    (tf.errors.FailedPreconditionError(None, None, 'x is a folder'), False),
    (ValueError('libcurl code 6'), False),
  ],
)
def test_errors_of_a_client_of_buckets_are_told_from_faults(error, wanted):
  assert storage.is_of_bucket(error) == wanted
