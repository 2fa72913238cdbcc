"""Hostile names, of files and in tables, lead nowhere else."""

import ast
import pathlib

import pytest
from hypothesis import strategies as st

from tests.damage import described, fuzz
from utils import image_records, member_paths, paths, populations, storage

WAYS_OUT = ('..', '../../x', '/x', 'a/b', 'a\\b', '', '.', 'a\nb', 'a\0b')


@pytest.mark.parametrize('name', WAYS_OUT)
def test_no_name_in_a_table_leads_out_of_the_output_folder(name):
  member = member_paths.Member('e', populations.BASELINE, 0.0, 0, 0, 0, 0)
  of = member_paths.Checkpoint(member, 5, 'x')
  level = populations.Level('m', 0.5)
  calls = [
    lambda: paths.predictions('out', name, 'eval', 'shard', of),
    lambda: paths.predictions('out', 'digits', 'eval', name, of),
    lambda: paths.modal_labels('out', name, 'eval', 'shard', level),
    lambda: paths.modal_labels('out', 'digits', 'eval', name, level),
    lambda: paths.pie_null('out', name, 'eval'),
    lambda: paths.pie_records('out', name, 'eval', 'pie', level, 's'),
    lambda: paths.pie_records(
      'out', 'd', 'eval', 'pie', populations.Level(name, 0.5), 's'
    ),
    lambda: paths.pie_statistics('out', name, 'eval', 'shard', level),
    lambda: paths.class_metrics('out', name, 'eval', of),
    lambda: paths.group_metrics('out', name, 'eval', of),
    lambda: paths.t_statistic('out', name, 'eval'),
    lambda: paths.class_impact_summary('out', name, 'eval'),
    lambda: paths.class_impact_figure('out', name, 'eval', 'x', 'png'),
    lambda: paths.robustness('out', name, 'noise_1', of),
    lambda: paths.robustness('out', 'digits', name, of),
    lambda: image_records.ImageRecords(name, ('a', 'b')),
    lambda: image_records.ImageRecords('d', ('a', 'b'), class_keys=('a', name)),
    lambda: described({name: image_records.Shard(1, 1)}),
  ]
  if name:
    # Predictions from elsewhere name no experiment.
    calls.append(
      lambda: member_paths.Member(name, populations.BASELINE, 0.0, 0, 0, 0, 0)
    )
    # A method or a level is a part of a name.
    for method in (f'{name}/x', f'x/{name}'):
      other = populations.Level(method, 0.5)
      calls += [
        lambda of=other: paths.modal_labels('out', 'd', 'eval', 's', of),
        lambda of=other: paths.pie_statistics('out', 'd', 'eval', 's', of),
        lambda m=method: paths.class_impact_figure('out', 'd', 'eval', m, 'x'),
      ]
  for call in calls:
    with pytest.raises(ValueError, match='wanted the name of one folder|holds'):
      call()


def test_nothing_is_pickled_or_evaluated():
  root = pathlib.Path(__file__).parent.parent
  modules = {'pickle', 'dill', 'joblib', 'shelve', 'marshal', 'yaml'}
  names = {'eval', 'exec', 'compile', '__import__'}
  attributes = {'read_pickle', 'to_pickle', 'popen', 'system'}
  options = {'allow_pickle', 'shell'}
  files = [
    path
    for path in root.glob('*/*.py')
    if (path.parent / '__init__.py').exists() and path.parent.name != 'tests'
  ]
  for path in files:
    for node in ast.walk(ast.parse(path.read_text())):
      found = set()
      if isinstance(node, ast.Import):
        found = modules & {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        found = modules & {(node.module or '').split('.')[0]}
      elif isinstance(node, ast.Call):
        found = options & {keyword.arg for keyword in node.keywords}
        if isinstance(node.func, ast.Name):
          found |= names & {node.func.id}
        if isinstance(node.func, ast.Attribute):
          found |= attributes & {node.func.attr}
      assert not found, f'{path}:{node.lineno}: {found}'
  assert len(files) > 20


def test_fuzzed_paths(long):
  good = '/root/e/threshold/0.5/10/20/5/0/model.ckpt-7'
  parts = st.sampled_from(
    [*good.split('/'), '..', '-1', '1e3', 'nan', 'inf', '0.0', '\0', '9' * 5000]
  ) | st.text(max_size=5)

  @st.composite
  def paths_near(choose):
    found = good.split('/')
    for _ in range(choose(st.integers(0, 2))):
      found[choose(st.integers(0, len(found) - 1))] = choose(parts)
    return '/'.join(found)

  fuzz(
    paths_near() | st.lists(parts).map('/'.join) | st.text(),
    member_paths.parse,
    10_000 if long else 150,
  )
  names = st.sampled_from(['train', '-', '00000', 'of', '.tfrecord', '\n', '٣'])
  fuzz(
    st.lists(names | st.text(max_size=3), max_size=6).map(''.join),
    lambda name: (
      paths.shard('/x', paths.split_of_shard(name) or 'no', 0, 1)
      and storage.check_component('shard', name)
    ),
    10_000 if long else 150,
  )
