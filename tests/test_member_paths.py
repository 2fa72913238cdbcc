"""Laws of members: a member is its path, and is found by it."""

import dataclasses
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import member_paths

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


def test_member_folder_is_below_the_experiment(tmp_path):
  root = tmp_path / 'digits'
  folder = member_paths.folder_of(str(root), member(3))
  assert folder == str(tmp_path / member(3).folder)
  assert member_paths.parse(member_paths.prefix_in(folder, 7)).member == member(
    3
  )
  with pytest.raises(ValueError, match="does not end in 'digits'"):
    member_paths.folder_of(str(tmp_path / 'other'), member())


def listed(tmp_path, *rows, header='file,pruning_method,fraction_pruned'):
  for name in ('a.keras', 'b.tflite', 'c/saved_model.pb', 'd.index'):
    path = tmp_path / 'networks' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
  path = tmp_path / 'networks' / 'members.csv'
  path.write_text('\n'.join((f'{header},replicate', *rows)) + '\n')
  return str(path)


def test_a_csv_names_files_that_lie_anywhere(tmp_path):
  path = listed(
    tmp_path,
    f'{tmp_path}/networks/a.keras,baseline,0.0,x.json,0,0',
    'b.tflite,int8,0.0,,0,0',
    '../networks/c,threshold,0.5,,0,1',
    'd.index,threshold,0.5,,7,0',
    header='file,pruning_method,fraction_pruned,description,global_step',
  )
  folder = tmp_path / 'networks'
  found = member_paths.find(path)
  assert [
    (c.member.pruning_method, c.member.replicate, c.step, c.kind) for c in found
  ] == [
    ('baseline', 0, 0, 'keras'),
    ('int8', 0, 0, 'tflite'),
    ('threshold', 0, 7, 'bundle'),
    ('threshold', 1, 0, 'saved_model'),
  ]
  assert {c.member.experiment for c in found} == {''}
  for checkpoint in found:
    assert os.path.exists(checkpoint.completed_by)
  assert found[0].described_by == str(folder / 'x.json')
  assert found[1].described_by == str(folder / 'b.json')
  # Beside other members, and by a pattern.
  save(tmp_path, member(), 5)
  assert len(member_paths.find(f'{tmp_path}/networks/*.csv,{tmp_path}')) == 5


@pytest.mark.parametrize(
  ('rows', 'error', 'message'),
  [
    (['a.keras,int8,0.0,x'], ValueError, 'members.csv.*replicate'),
    (['a.keras,int8,1.0,0'], ValueError, 'members.csv.*fraction_pruned'),
    (['a.keras,baseline,0.5,0'], ValueError, 'members.csv: a baseline member'),
    (
      ['e.keras,int8,0.0,0'],
      FileNotFoundError,
      'names .*e.keras, which is not',
    ),
    (
      ['members.csv,int8,0.0,0'],
      ValueError,
      'names members.csv, wanted a file',
    ),
    (['a.keras,int8,0.0,0'] * 2, ValueError, 'members.csv'),
    ([], FileNotFoundError, 'no checkpoint matches .*members.csv'),
  ],
)
def test_a_csv_that_names_no_network_is_refused(tmp_path, rows, error, message):
  with pytest.raises(error, match=message):
    member_paths.find(listed(tmp_path, *rows))


def test_two_files_of_one_member_are_refused(tmp_path):
  rows = ('a.keras,int8,0.0,0', 'b.tflite,int8,0.0,1')
  one = listed(tmp_path, *rows)
  other = listed(tmp_path / 'other', *rows)
  with pytest.raises(ValueError, match='two checkpoints have one identity'):
    member_paths.find(f'{one},{other}')


@pytest.mark.parametrize('kind', ['saved_model', 'keras', 'tflite'])
def test_files_are_found_at_the_paths_of_members(tmp_path, kind):
  for step in (5, 10):
    prefix = member_paths.prefix_in(str(tmp_path / member(0).folder), step)
    path = pathlib.Path(prefix + member_paths.KINDS[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
  (last,) = member_paths.find(str(tmp_path))
  assert (last.member, last.step, last.kind) == (member(0), 10, kind)
  assert last.described_by == f'{prefix}.json'
  for pattern in (prefix, str(path), f'{prefix[:-2]}1*'):
    assert member_paths.find(pattern) == [last]
  save(tmp_path, member(0), 10)
  with pytest.raises(ValueError, match='two checkpoints have one identity'):
    member_paths.find(str(tmp_path))
