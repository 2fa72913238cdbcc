"""Laws of names: a member is its path, listings are exact, writes are whole."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import csvs, image_records, member_paths, paths, storage

THINGS = csvs.Table('things', 'a thing', 'a person', 'x.csv', (), (), ())
members = st.builds(
  member_paths.Member,
  experiment=st.from_regex(r'[A-Za-z0-9_ .-]{1,12}', fullmatch=True).filter(
    lambda name: name not in ('.', '..')
  ),
  pruning_method=st.from_regex(r'[a-z0-9_]{1,9}', fullmatch=True).filter(
    lambda word: word != 'baseline'
  ),
  fraction_pruned=st.floats(0, 1, exclude_max=True),
  begin_step=st.integers(0, 10**6),
  end_step=st.integers(0, 10**6),
  pruning_frequency=st.integers(0, 10**4),
  replicate=st.integers(0, 10**4),
)


def member(replicate=0, fraction=0.5, method='threshold'):
  return member_paths.Member('digits', method, fraction, 10, 20, 2, replicate)


def save(root, of, step):
  """The files that mark a checkpoint, empty."""
  prefix = pathlib.Path(member_paths.prefix_in(str(root / of.folder), step))
  prefix.parent.mkdir(parents=True, exist_ok=True)
  for suffix in ('.index', '.data-00000-of-00001'):
    pathlib.Path(f'{prefix}{suffix}').touch()
  return str(prefix)


@given(members, st.integers(0, 10**6))
def test_a_member_is_read_from_its_own_path(of, step):
  for root in ('', '/', '/a/b.c/', 'gs://bucket/x/'):
    found = member_paths.parse(f'{root}{of.folder}/model.ckpt-{step}')
    assert (found.member, found.step) == (of, step)


names = st.lists(
  st.sampled_from(['a', 'threshold', '0.5', '1', 'x_1']),
  min_size=1,
  max_size=3,
).map('_'.join)


@given(members, members, names, names)
def test_stems_tell_members_apart(one, other, name, other_name):
  """Also under experiments that are called like parts of a stem."""
  one = dataclasses.replace(one, experiment=name)
  other = dataclasses.replace(other, experiment=other_name)
  first, second = (member_paths.Checkpoint(of, 5, '') for of in (one, other))
  assert (first.file_stem == second.file_stem) == (one == other)


def test_the_originals_layout_of_a_baseline_is_read():
  found = member_paths.parse(
    '/root/exp/baseline/0.0/0.0/0.0/0.0/7/model.ckpt-32000'
  )
  assert found.member == member_paths.Member('exp', 'baseline', 0.0, 0, 0, 0, 7)
  assert found.step == 32000


@pytest.mark.parametrize(
  'path',
  [
    '',
    'model.ckpt-5',
    'e/threshold/0.5/0/10/2/0',
    'e/threshold/0.5/0/10/2/0/model.ckpt',
    'e/threshold/0.5/0/10/2/0/model.ckpt-5.index',
    'e/threshold/0.5/0/10/0/model.ckpt-5',
    'e//0.5/0/10/2/0/model.ckpt-5',
    'e/baseline/0.5/0/10/2/0/model.ckpt-5',
    'e/threshold/1.0/0/10/2/0/model.ckpt-5',
    'e/threshold/-0.1/0/10/2/0/model.ckpt-5',
    'e/threshold/nan/0/10/2/0/model.ckpt-5',
    'e/threshold/half/0/10/2/0/model.ckpt-5',
    'e/threshold/0.5/-1/10/2/0/model.ckpt-5',
    'e/threshold/0.5/0/inf/2/0/model.ckpt-5',
    'e/threshold/0.5/0/1e1/2/0/model.ckpt-5',
    'e/threshold/0.5/0/10.5/2/0/model.ckpt-5',
    'e/threshold/0.5/0/10/2/1_0/model.ckpt-5',
    '../threshold/0.5/0/10/2/0/model.ckpt-5',
  ],
)
def test_other_paths_are_refused_with_what_was_wanted(path):
  with pytest.raises(ValueError, match='wanted <root>/<experiment>') as raised:
    member_paths.parse(path)
  assert path in str(raised.value)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'experiment': 'a/b'}, 'experiment'),
    ({'experiment': '..'}, 'experiment'),
    ({'experiment': 'a\nb'}, 'experiment'),
    ({'pruning_method': 'a/b'}, 'pruning_method'),
    ({'fraction_pruned': 1.0}, 'fraction_pruned'),
    ({'fraction_pruned': float('nan')}, 'fraction_pruned'),
    ({'begin_step': -1}, 'begin_step'),
    ({'replicate': -1}, 'replicate'),
  ],
)
def test_impossible_members_are_refused(change, message):
  good = {
    'experiment': 'digits',
    'pruning_method': 'threshold',
    'fraction_pruned': 0.5,
    'begin_step': 0,
    'end_step': 1,
    'pruning_frequency': 1,
    'replicate': 0,
  }
  with pytest.raises(ValueError, match=message):
    member_paths.Member(**{**good, **change})


def test_checkpoints_are_found_by_prefix_folder_and_glob(tmp_path):
  for replicate in range(3):
    for step in (5, 10, 9):
      save(tmp_path, member(replicate), step)
  save(tmp_path, member(0, 0.0, 'baseline'), 10)
  half = tmp_path / member(0).folder
  # The last of each member, by number: 10 comes after 9.
  everything = member_paths.find(str(tmp_path))
  assert [(c.member.replicate, c.step) for c in everything] == [
    (0, 10),
    (0, 10),
    (1, 10),
    (2, 10),
  ]
  assert everything == sorted(everything)
  one = member_paths.find(str(half / 'model.ckpt-5'))
  assert [(c.member, c.step) for c in one] == [(member(0), 5)]
  assert member_paths.find(str(half / 'model.ckpt-5.index')) == one
  several = member_paths.find(str(half / 'model.ckpt-*'))
  assert [c.step for c in several] == [5, 9, 10]
  pattern = str(tmp_path / 'digits' / 'threshold' / '0.5' / '*' / '*')
  assert len(member_paths.find(pattern)) == 3
  # A list is a union, in any order and with repetitions.
  both = member_paths.find([str(half), str(tmp_path), str(half)])
  assert both == everything
  assert member_paths.find(f'{tmp_path}, {half}') == everything


def test_half_written_checkpoints_are_not_found(tmp_path):
  prefix = save(tmp_path, member(), 5)
  os.remove(f'{prefix}.index')
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    member_paths.find(str(tmp_path))


def test_absent_and_doubled_checkpoints_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent/x'):
    member_paths.find(str(tmp_path / 'absent/x*'))
  save(tmp_path / 'a', member(), 5)
  save(tmp_path / 'b', member(), 5)
  with pytest.raises(ValueError, match='two checkpoints have one identity'):
    member_paths.find(str(tmp_path))
  stray = tmp_path / 'c' / 'model.ckpt-5.index'
  stray.parent.mkdir()
  stray.touch()
  with pytest.raises(ValueError, match='is not the checkpoint of a member'):
    member_paths.find(str(tmp_path / 'c'))


def touch(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).touch()
  return str(folder)


NAMING = {
  'ours': ('train-{:05d}-of-{:05d}', 'validation-{:05d}-of-{:05d}'),
  'the original': (
    'imagenet-with-bbox-training-{:05d}-of-{:05d}',
    'imagenet-with-bbox-validation-{:05d}-of-{:05d}',
  ),
  'tfds': (
    'imagenet2012-train.tfrecord-{:05d}-of-{:05d}',
    'imagenet2012-validation.tfrecord-{:05d}-of-{:05d}',
  ),
  'tfds imagenet_a': (
    'imagenet_a-train.tfrecord-{:05d}-of-{:05d}',
    'imagenet_a-test.tfrecord-{:05d}-of-{:05d}',
  ),
}


@pytest.mark.parametrize('tool', NAMING)
def test_a_folder_gives_the_shards_of_one_split(tool, tmp_path):
  train, evaluation = NAMING[tool]
  folder = touch(
    tmp_path,
    *(train.format(i, 12) for i in range(12)),
    *(evaluation.format(i, 2) for i in range(2)),
    'image_records.json',
    'dataset_info.json',
    f'.{train.format(0, 12)}.1a2b',
    f'{train.format(0, 12)}.tar',
  )
  found = [
    os.path.basename(p) for p in image_records.find_shards(folder, 'train')
  ]
  assert found == [train.format(i, 12) for i in range(12)]
  found = [
    os.path.basename(p) for p in image_records.find_shards(folder, 'eval')
  ]
  assert found == [evaluation.format(i, 2) for i in range(2)]


def test_missing_and_mixed_shards_are_named(tmp_path):
  some = touch(
    tmp_path / 'some', 'train-00000-of-00003', 'train-00002-of-00003'
  )
  with pytest.raises(FileNotFoundError, match=r'2 of 3 .*missing \[1\]'):
    image_records.find_shards(some, 'train')
  mixed = touch(
    tmp_path / 'mixed', 'train-00000-of-00001', 'train-00000-of-00002'
  )
  with pytest.raises(ValueError, match='more than one set of train shards'):
    image_records.find_shards(mixed, 'train')
  with pytest.raises(FileNotFoundError, match=r'eval split in .*mixed'):
    image_records.find_shards(mixed, 'eval')
  with pytest.raises(FileNotFoundError, match='no TFRecord file matches'):
    image_records.find_shards(str(tmp_path / 'nothing*'), 'eval')
  with pytest.raises(FileNotFoundError):
    image_records.find_shards('', 'eval')


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


def test_names_stay_below_the_output_folder():
  of = member_paths.Checkpoint(member(), 5, 'x')
  for bad in ('..', 'a/b', ''):
    with pytest.raises(ValueError, match='dataset_name'):
      paths.predictions('out', bad, 'eval', 'shard', of)
    with pytest.raises(ValueError, match='part of a path'):
      paths.robustness('out', 'digits', bad, of)


def test_member_folder_is_below_the_experiment(tmp_path):
  root = tmp_path / 'digits'
  folder = member_paths.folder_of(str(root), member(3))
  assert folder == str(tmp_path / member(3).folder)
  assert member_paths.parse(member_paths.prefix_in(folder, 7)).member == member(
    3
  )
  with pytest.raises(ValueError, match="does not end in 'digits'"):
    member_paths.folder_of(str(tmp_path / 'other'), member())
