"""Predictions that are valid, and are not what they are taken for."""

import functools

import numpy as np
import pytest

from pie_dataset_gen import plausibility, shard_predictions, vote_distance
from tests.test_aggregate_predictions import run, write_population
from utils import populations, tables

LEVELS = (populations.DENSE, populations.Level('int8', 0.0))
CLASSES = 5


def member(level, replicate):
  given = {**level._asdict(), 'replicate': replicate}
  return shard_predictions.Identity(*map(given.get, tables.MEMBER_KEY))


def draw(seed, images=400, replicates=4, accuracy=0.7, known=True):
  """Two levels of networks that are right independently of one another."""
  random = np.random.default_rng(seed)
  members = [member(level, r) for level in LEVELS for r in range(replicates)]
  true = np.arange(images) % CLASSES
  right = random.random((images, len(members))) < accuracy
  other = true[:, None] + random.integers(1, CLASSES, right.shape)
  probability = random.random(right.shape).astype('float32')
  return shard_predictions.Predictions(
    members,
    np.array([f'k{i}' for i in range(images)]),
    np.arange(images),
    true,
    np.where(right, true[:, None], other % CLASSES),
    probability if known else np.full(right.shape, np.nan),
  )


def check(predictions, shards=2):
  """As aggregation does, of shards that are counted each."""
  bounds = np.linspace(0, len(predictions.image_key), shards + 1).astype(int)
  parts = [
    shard_predictions.part_of(predictions, slice(*of))
    for of in zip(bounds, bounds[1:], strict=False)
  ]
  plausibility.check(
    predictions.members,
    functools.reduce(plausibility.together, map(plausibility.count, parts)),
    sum(vote_distance.agreement(part.label) for part in parts),
  )


def copied(predictions, source, target):
  """With the predictions of one member under another's number."""
  label, probability = predictions.label.copy(), predictions.probability.copy()
  label[:, target], probability[:, target] = (
    label[:, source],
    probability[:, source],
  )
  return predictions._replace(label=label, probability=probability)


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('seed', range(5))
def test_independent_members_raise_no_alarm(seed, known, caplog):
  check(draw(seed, known=known))
  check(draw(seed, images=12, accuracy=0.95))
  assert not caplog.records


@pytest.mark.parametrize('known', [True, False])
def test_a_copy_under_another_number_is_refused(known):
  with pytest.raises(
    ValueError, match='int8 replicate 1 and int8 replicate 3 agree in all'
  ):
    check(copied(draw(0, known=known), 5, 7))


def test_a_copy_in_one_shard_is_none():
  two = draw(0)
  half = copied(two, 5, 7)
  label = np.where(np.arange(400)[:, None] < 200, half.label, two.label)
  check(two._replace(label=label))


def test_members_of_two_levels_may_agree(caplog):
  """As a network and its quantised form do."""
  check(copied(draw(0), 1, 5))
  assert not caplog.records


def test_classes_of_few_images_may_agree_by_chance(caplog):
  few = draw(0, images=10, accuracy=1.0, known=False)
  check(few)
  assert 'with so few it may be chance' in caplog.text
  # Probabilities that were rounded to 1 tell no more than classes do.
  caplog.clear()
  check(few._replace(probability=np.ones_like(few.probability)))
  assert 'with so few it may be chance' in caplog.text


@pytest.mark.parametrize(('by', 'said'), [(1, 'smaller'), (-1, 'larger')])
@pytest.mark.parametrize('arm', [slice(4, 8), slice(0, 8)])
def test_an_arm_whose_classes_are_moved_is_refused(by, said, arm):
  predictions = draw(0, accuracy=0.95)
  label = predictions.label.copy()
  label[:, arm] += by
  name = 'int8' if arm.start else 'dense'
  with pytest.raises(
    ValueError, match=f'{name} replicate 0 .* if class ids were {said}'
  ):
    check(predictions._replace(label=label))


def test_networks_that_predict_one_class_are_not_called_moved(caplog):
  """However often the class below it is the right one."""
  predictions = draw(0)
  check(
    predictions._replace(
      true_class=np.full_like(predictions.true_class, 1),
      label=np.full_like(predictions.label, 2),
      probability=draw(1).probability,
    )
  )
  assert 'no more often than chance' in caplog.text


def test_networks_that_guess_are_named(caplog):
  check(draw(3, accuracy=0.1))
  assert '8 of 8 members are right no more often than chance' in caplog.text


def test_a_class_without_an_image_is_named(caplog):
  predictions = draw(0)
  there = predictions.true_class != 3
  check(
    predictions._replace(
      **{
        name: getattr(predictions, name)[there]
        for name in predictions._fields
        if name != 'members'
      }
    )
  )
  assert 'no image is of them, for example class 3' in caplog.text


def test_classes_that_all_count_from_1_are_named(caplog):
  predictions = draw(0)
  check(
    predictions._replace(
      true_class=predictions.true_class + 1, label=predictions.label + 1
    )
  )
  assert 'no image is of class 0' in caplog.text


def test_aggregation_refuses_a_copy_before_a_table_is_written(tmp_path):
  folder = write_population(tmp_path / 'predictions')
  for path in folder.rglob('threshold_0.5_1.csv'):
    text = path.read_text().replace(',0.5,1\n', ',0.5,2\n')
    path.with_name('threshold_0.5_2.csv').write_text(text)
  with pytest.raises(ValueError, match='threshold 0.5 replicate 1 and thres'):
    run(folder, tmp_path / 'out')
  assert not list((tmp_path / 'out').rglob('*.csv'))
