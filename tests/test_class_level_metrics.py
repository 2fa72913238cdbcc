"""Recall, precision and overall metrics against plain counting."""

import numpy as np
import pandas as pd
import pytest

from utils import class_level_metrics


def predictions(rng, images=200, classes=7, top_5=True):
  true_class = rng.integers(0, classes - 1, images)  # The last one is absent.
  predicted = np.where(
    rng.random(images) < 0.7, true_class, rng.integers(0, classes, images)
  )
  others = [
    [p, *[c for c in rng.permutation(classes) if c != p][:4]] for p in predicted
  ]
  return pd.DataFrame(
    {
      'predictions': predicted,
      'true_class': true_class,
      'predicted_probability': 0.5,
      'top_5_indices': [
        f'[{" ".join(map(str, row))}]' if top_5 else '' for row in others
      ],
      'image_key': [f'k{i}' for i in range(images)],
      'cross_entropy': rng.random(images).astype(np.float32),
      'exp': 'e',
      'pruning_method': 'baseline',
      'fraction_pruned': 0.0,
      'start_pruning_step': 0,
      'end_pruning_step': 0,
      'pruning_frequency': 0,
      'global_step': 1,
      'replicate': 0,
    }
  )


def test_counts_equal_plain_counting():
  frame = predictions(np.random.default_rng(0))
  counts = class_level_metrics.class_counts(
    frame['true_class'].to_numpy(), frame['predictions'].to_numpy(), 7
  )
  for c in range(7):
    row = counts.loc[c]
    of_class = frame[frame['true_class'] == c]
    called = frame[frame['predictions'] == c]
    assert row['support'] == len(of_class)
    assert row['predicted_count'] == len(called)
    if len(of_class):
      assert row['recall'] == (of_class['predictions'] == c).mean()
    else:
      assert np.isnan(row['recall'])
    assert row['precision'] == (called['true_class'] == c).mean()


def test_a_class_that_is_never_predicted_has_no_precision():
  counts = class_level_metrics.class_counts(
    np.array([0, 1]), np.array([0, 0]), 3
  )
  assert list(counts['recall'][:2]) == [1, 0]
  assert np.isnan(counts['recall'][2])
  assert np.isnan(counts['precision'][1])


@pytest.mark.parametrize(('true', 'predicted'), [(7, 0), (-1, 0), (0, 7)])
def test_ids_outside_the_classes_are_refused(true, predicted):
  with pytest.raises(ValueError, match='outside the 7 classes'):
    class_level_metrics.class_counts(np.array([true]), np.array([predicted]), 7)


def test_the_whole_follows_from_the_classes():
  frame = predictions(np.random.default_rng(1))
  names = [f'class {i}' for i in range(7)]
  metrics = class_level_metrics.member_metrics(frame, names)
  assert list(metrics['class']) == names
  assert metrics['support'].sum() == len(frame)
  weighted = np.nansum(metrics['recall'] * metrics['support']) / len(frame)
  assert metrics['eval_accuracy'][0] == pytest.approx(weighted, abs=1e-12)
  top_5 = [
    str(true) in text.strip('[]').split()
    for true, text in zip(
      frame['true_class'], frame['top_5_indices'], strict=True
    )
  ]
  assert metrics['top_5_eval_accuracy'][0] == np.mean(top_5)
  assert metrics['loss'][0] == pytest.approx(frame['cross_entropy'].mean())


def test_the_order_of_images_changes_nothing():
  frame = predictions(np.random.default_rng(2))
  names = [str(i) for i in range(7)]
  one = class_level_metrics.member_metrics(frame, names)
  other = class_level_metrics.member_metrics(
    frame.sample(frac=1, random_state=0), names
  )
  pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_what_is_absent_is_empty_and_not_zero():
  frame = predictions(np.random.default_rng(3), top_5=False)
  frame['cross_entropy'] = np.nan
  metrics = class_level_metrics.member_metrics(
    frame, [str(i) for i in range(7)]
  )
  assert metrics[['top_5_eval_accuracy', 'loss']].isna().all(axis=None)


def test_rows_of_two_members_or_an_image_twice_are_refused():
  frame = predictions(np.random.default_rng(4))
  names = [str(i) for i in range(7)]
  with pytest.raises(ValueError, match='more than once by one member'):
    class_level_metrics.member_metrics(pd.concat([frame, frame[:1]]), names)
  other = frame.assign(replicate=[1] + [0] * (len(frame) - 1))
  with pytest.raises(ValueError, match="column 'replicate' holds"):
    class_level_metrics.member_metrics(other, names)
  with pytest.raises(ValueError, match='no predictions'):
    class_level_metrics.member_metrics(frame[:0], names)


@pytest.mark.parametrize('unit', ['class_id', 'image_key'])
def test_groups_pool_their_classes_or_images(unit):
  frame = predictions(np.random.default_rng(5))
  if unit == 'class_id':
    groups = pd.DataFrame({'group': ['a', 'a', 'b'], unit: [0, 1, 1]})
    members = {'a': frame['true_class'] <= 1, 'b': frame['true_class'] == 1}
  else:
    groups = pd.DataFrame({'group': ['a', 'b', 'b'], unit: ['k0', 'k0', 'k3']})
    members = {
      'a': frame['image_key'] == 'k0',
      'b': frame['image_key'].isin(['k0', 'k3']),
    }
  counts = class_level_metrics.group_counts(frame, groups).set_index('class')
  right = frame['true_class'] == frame['predictions']
  for name, chosen in members.items():
    assert counts.loc[name, 'support'] == chosen.sum()
    assert counts.loc[name, 'correct_count'] == (chosen & right).sum()
    assert counts.loc[name, 'recall'] == right[chosen].mean()
