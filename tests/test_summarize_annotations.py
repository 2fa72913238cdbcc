"""Laws of the summary of annotations: shares, intervals, agreement."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pie_dataset_gen import summarize_annotations
from utils import csvs, tables

QUESTIONS = [column.name for column in tables.QUESTIONS]


def annotations(*rows):
  """Rows of (annotator, image, whether the label is wrong)."""
  frame = pd.DataFrame(rows, columns=['annotator', 'image_key', 'label_wrong'])
  return frame.assign(
    pruning_method='threshold',
    pruning_fraction=0.9,
    is_blind=1,
    **{q: 0 for q in QUESTIONS if q != 'label_wrong'},
  )


def labels(*pies, number=10):
  keys = [f'i{n}' for n in range(number)]
  return pd.DataFrame(
    {
      'image_key': keys,
      'pruning_method': 'threshold',
      'pruning_fraction': 0.9,
      'baseline_modal_label': 0,
      'variant_modal_label': [int(key in pies) for key in keys],
    }
  )


@given(st.integers(1, 500), st.floats(0, 1))
def test_interval_equals_scipys(number, share):
  yes = round(share * number)
  wanted = stats.binomtest(yes, number).proportion_ci(method='wilson')
  low, high = summarize_annotations.wilson_interval(yes / number, number)
  assert low == pytest.approx(wanted.low, abs=1e-6)
  assert high == pytest.approx(wanted.high, abs=1e-6)


def alpha_by_pairs(answers):
  """Krippendorff's alpha from all pairs, without a formula for yes or no."""
  answers = [a for a in answers if len(a) > 1]
  flat = [x for a in answers for x in a]
  observed = sum(
    sum(a[i] != a[j] for i in range(len(a)) for j in range(len(a)))
    / (len(a) - 1)
    for a in answers
  ) / len(flat)
  expected = sum(x != y for x in flat for y in flat) / (
    len(flat) * (len(flat) - 1)
  )
  return 1 - observed / expected if expected else math.nan


@given(
  st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    min_size=1,
    max_size=12,
  )
)
def test_agreement_equals_a_count_of_pairs(answers):
  yes = np.array([sum(a) for a in answers])
  number = np.array([len(a) for a in answers])
  agreement, alpha = summarize_annotations.agree(yes, number)
  pairs = [
    a[i] == a[j] for a in answers for i in range(len(a)) for j in range(i)
  ]
  assert math.isnan(agreement) == (not pairs)
  if pairs:
    assert agreement == pytest.approx(np.mean(pairs))
    np.testing.assert_allclose(alpha, alpha_by_pairs(answers), atol=1e-12)


def test_shares_among_pies_and_others():
  found = summarize_annotations.summarise(
    annotations(
      ('Ann', 'i0', 1),
      ('Bob', 'i0', 0),
      ('Ann', 'i1', 1),
      ('Ann', 'i2', 0),
      ('Bob', 'i2', 0),
    ),
    labels('i0', 'i1'),
  )
  row = found[found['question'] == 'label_wrong'].set_index('images')
  assert row['share'].to_dict() == {'PIEs': 0.75, 'others': 0}
  assert row['num_images'].to_dict() == {'PIEs': 2, 'others': 1}
  assert row['num_answers'].to_dict() == {'PIEs': 3, 'others': 2}
  assert row['num_shared'].to_dict() == {'PIEs': 1, 'others': 1}
  assert row['agreement'].to_dict() == {'PIEs': 0, 'others': 1}
  assert np.isnan(row.loc['others', 'krippendorff_alpha'])


def test_either_question_counts_once():
  answered = annotations(('Ann', 'i0', 1), ('Ann', 'i1', 0), ('Ann', 'i2', 0))
  answered['several_objects'] = [1, 1, 0]
  found = summarize_annotations.summarise(answered, labels('i0', 'i1', 'i2'))
  either = found[found['question'] == 'label_wrong or several_objects']
  assert either['share'].tolist() == [pytest.approx(2 / 3)]


def write(tmp_path, name, frame):
  csvs.write(tables.ANNOTATIONS, frame, str(tmp_path / name))


def test_an_image_without_modal_labels_is_named():
  with pytest.raises(ValueError, match='i77'):
    summarize_annotations.summarise(annotations(('Ann', 'i77', 1)), labels())


def test_answers_that_stand_twice_are_refused(tmp_path):
  write(tmp_path, 'a.csv', annotations(('Ann', 'i0', 1)))
  write(tmp_path, 'b.csv', annotations(('Ann', 'i0', 0)))
  full = labels('i0').assign(
    **{
      column.name: 0 if column.kind != 'text' else 'x'
      for column in tables.MODAL_LABELS.columns
      if column.name not in labels()
    }
  )
  folder = tmp_path / 'toy' / 'modal_labels' / 'eval' / 'shard'
  csvs.write(tables.MODAL_LABELS, full, str(folder / 'threshold_0.9.csv'))
  options = {'mode': 'eval', 'dataset_name': 'toy'}
  with pytest.raises(ValueError, match='more than once'):
    summarize_annotations.run(f'{tmp_path}/?.csv', str(tmp_path), **options)
  found = summarize_annotations.run(
    f'{tmp_path}/a.csv', str(tmp_path), **options
  )
  assert found['num_images'].tolist() == [1] * 7
