"""Laws of members: levels, halves, PIEs, one study."""

import pandas as pd
import pytest

from utils import populations, tables
from utils.populations import DENSE, Level

HALF, NINE = Level('threshold', 0.5), Level('threshold', 0.9)
INT8 = Level('int8', 0.0)
LEVELS = [NINE, INT8, DENSE, HALF, DENSE]


def members(*levels, **columns):
  rows = [
    {
      **dict.fromkeys(tables.MEMBER_KEY, 0),
      'exp': 'e',
      'pruning_method': level.pruning_method,
      'fraction_pruned': level.fraction_pruned,
      'replicate': number,
      **columns,
    }
    for number, level in enumerate(levels)
  ]
  return pd.DataFrame(rows)


def test_dense_is_a_method_and_no_fraction():
  assert DENSE.is_dense
  assert not INT8.is_dense
  assert populations.sort_levels(LEVELS) == [DENSE, INT8, HALF, NINE]


@pytest.mark.parametrize('name', ['fraction_pruned', 'pruning_fraction'])
def test_rows_go_to_their_level_under_either_name(name):
  frame = members(*LEVELS).rename(columns={'fraction_pruned': name})
  assert populations.level_columns(frame) == ['pruning_method', name]
  found = populations.by_level(frame)
  assert list(found) == [DENSE, INT8, HALF, NINE]
  assert found[DENSE]['replicate'].tolist() == [2, 4]
  for level, rows in found.items():
    assert populations.level_of(rows.iloc[0]) == level


def test_compressed_levels_are_those_that_are_wanted():
  compressed = populations.compressed_levels
  assert compressed(LEVELS) == [INT8, HALF, NINE]
  assert compressed(LEVELS, (0.5,)) == [HALF]
  assert compressed(LEVELS, method='threshold') == [HALF, NINE]
  with pytest.raises(ValueError, match='x: no member of the baseline'):
    compressed([HALF], source='x')
  with pytest.raises(ValueError, match=r'no compressed members at \[0.7\]'):
    compressed(LEVELS, (0.5, 0.7))
  with pytest.raises(ValueError, match='at any level'):
    compressed([DENSE])
  with pytest.raises(ValueError, match=r'at \[0.5\] by int8'):
    compressed(LEVELS, (0.5,), 'int8')


def test_members_of_a_level_are_alike():
  rows = members(HALF, HALF, NINE).to_dict('records')
  rows[2]['end_pruning_step'] = 9
  populations.check_alike(rows)
  rows[1]['end_pruning_step'] = 9
  with pytest.raises(ValueError, match='end_pruning_step is 0 for replicate 0'):
    populations.check_alike(rows)


def test_a_pie_is_where_populations_differ():
  labels = pd.DataFrame(
    {'baseline_modal_label': [1, 2], 'variant_modal_label': [1, 3]}
  )
  assert populations.is_pie(labels).tolist() == [False, True]


def test_one_row_per_member():
  rows = pd.concat([members(HALF, NINE).assign(top=[1.0, float('nan')])] * 3)
  found = populations.one_row_per_member(rows, ['top'])
  assert len(found) == 2
  with pytest.raises(ValueError, match=r"more than one of \['top'\]"):
    populations.one_row_per_member(
      pd.concat([rows, members(HALF, top=2.0)]), ['top']
    )


def test_one_study():
  rows = members(
    HALF, NINE, split='eval', preprocessing='legacy', compute_precision='half'
  )
  populations.check_one_study(rows, 'eval', 'x')
  populations.check_one_study(rows.assign(split=['', 'eval']), 'eval', 'x')
  for name, value in (('split', 'train'), ('exp', 'f'), ('preprocessing', 'y')):
    other = rows.assign(**{name: [rows[name][0], value]})
    with pytest.raises(ValueError, match=f'x and the like hold the {name}'):
      populations.check_one_study(other, 'eval', 'x')


def study_with(sources, replicates=range(3)):
  """Three dense members and as many of int8, made from the sources."""
  rows = members(*[DENSE] * 3, *[INT8] * len(sources))
  rows['replicate'] = [0, 1, 2, *replicates]
  rows['made_from'] = ['', '', '', *sources]
  return rows.to_dict('records')


def dense_paths(*replicates, step=0):
  return [f'e/baseline/0.0/0/0/0/{i}/model.ckpt-{step}' for i in replicates]


def test_pairs_are_read_from_what_members_were_made_from():
  paired = populations.paired_levels
  assert paired(study_with(dense_paths(0, 1, 2)), [INT8]) == {INT8}
  # Of the same training, later: not independent either.
  assert paired(study_with(dense_paths(0, 1, 2, step=9)), [INT8]) == {INT8}
  for independent in (['', '', ''], dense_paths(3, 4, 5)):
    rows = study_with(independent, (3, 4, 5))
    assert paired(rows, [INT8]) == set()
  # Predictions from elsewhere say nothing, and are named.
  assert paired(study_with(['', '', '']), [INT8], ['int8']) == {INT8}


@pytest.mark.parametrize(
  ('sources', 'replicates', 'methods', 'message'),
  [
    (dense_paths(0, 1), (0, 1), [], '2 of 2 members were made from dense ones'),
    (dense_paths(0, 1, 7), (0, 1, 2), [], 'int8: 2 of 3 members'),
    (
      dense_paths(1, 0, 2),
      (0, 1, 2),
      [],
      'from the dense member of its number',
    ),
    (dense_paths(3, 4, 5), (0, 1, 2), ['int8'], 'made from others than the'),
    (['', '', ''], (1, 2, 3), ['int8'], r'has the replicates \[1, 2, 3\]'),
    (['', '', ''], (0, 1, 2), ['x'], r"names \['x'\], there are members of"),
  ],
)
def test_what_is_half_a_pair_is_refused(sources, replicates, methods, message):
  with pytest.raises(ValueError, match=message):
    populations.paired_levels(study_with(sources, replicates), [INT8], methods)
