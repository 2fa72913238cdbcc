"""Predictions that are valid, and are not what they are taken for."""

import functools
import re

import numpy as np
import pytest

from pie_dataset_gen import shard_predictions
from tests.test_aggregate_predictions import run, write_population
from utils import plausibility, populations, tables

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
  # The largest of five is a fifth at least.
  probability = random.uniform(0.2, 1, right.shape).astype('float32')
  return shard_predictions.Predictions(
    members,
    np.array([f'k{i}' for i in range(images)]),
    np.arange(images),
    true,
    np.where(right, true[:, None], other % CLASSES),
    probability if known else np.full(right.shape, np.nan),
  )


def count(predictions):
  """The facts of one shard."""
  return plausibility.count(
    list(map(shard_predictions.level_of, predictions.members)),
    *(predictions.image_key, predictions.true_class),
    *(predictions.label, predictions.probability),
  )


def check(predictions, shards=2):
  """As aggregation does, of shards that are counted each."""
  bounds = np.linspace(0, len(predictions.image_key), shards + 1).astype(int)
  parts = [
    shard_predictions.part_of(predictions, slice(*of))
    for of in zip(bounds, bounds[1:], strict=False)
  ]
  plausibility.check(
    [
      plausibility.Member(shard_predictions.level_of(of), of.replicate)
      for of in predictions.members
    ],
    functools.reduce(plausibility.together, map(count, parts)),
    sum(populations.agreement(part.label) for part in parts),
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


def arm(predictions, level, **changed):
  """With other values in the columns of a level."""
  columns = predictions.columns_of(level)
  found = {}
  for name, change in changed.items():
    values = getattr(predictions, name).copy()
    values[:, columns] = change(values[:, columns])
    found[name] = values
  return predictions._replace(**found)


def test_a_copy_whose_digits_were_rounded_is_refused():
  two = copied(draw(0), 5, 7)
  probability = two.probability.copy()
  probability[:, 7] = probability[:, 7].round(3)
  with pytest.raises(ValueError, match='3 agree in all predictions of 400'):
    check(two._replace(probability=probability))


@pytest.mark.parametrize(
  'order', [(0, 2, 1, 3, 4), (1, 2, 0, 3, 4), (3, 4, 0, 1, 2)]
)
def test_classes_in_another_order_are_refused(order):
  """Two swapped, one renamed so that it sorts elsewhere, all."""
  other = arm(draw(0), LEVELS[1], label=lambda label: np.array(order)[label])
  with pytest.raises(ValueError, match='int8 take .* changed places so'):
    check(other)


def test_a_class_that_is_forgotten_for_another_is_no_other_order():
  """All cats are taken for dogs, and dogs for what they are."""
  check(
    arm(draw(0), LEVELS[1], label=lambda label: np.where(label == 1, 2, label))
  )


def levelled(predictions, *levels):
  """With other levels in place of the two."""
  level = dict(zip(LEVELS, levels, strict=True))
  members = [
    of._replace(**level[shard_predictions.level_of(of)]._asdict())
    for of in predictions.members
  ]
  return predictions._replace(members=members)


def right_on(share, predictions, level):
  """With a level that is right on more images."""
  images = np.arange(len(predictions.true_class)) % 10 < 10 * share
  return arm(
    predictions,
    level,
    label=lambda label: np.where(
      images[:, None], predictions.true_class[:, None], label
    ),
  )


PRUNED = [populations.Level('threshold', f) for f in (0.1, 0.9)]


@pytest.mark.parametrize(
  ('levels', 'said'),
  [
    (LEVELS, 'each member of int8 is right on more images than any of dense'),
    (PRUNED, 'of threshold 0.9 .* is fraction_pruned the share of weights'),
  ],
)
def test_levels_that_look_swapped_are_named(levels, said, caplog):
  better = right_on(0.5, draw(0), LEVELS[1])
  check(levelled(better, *levels))
  assert re.search(said, caplog.text)
  caplog.clear()
  check(levelled(right_on(0.5, draw(0), LEVELS[0]), *levels))
  assert not caplog.records


def test_levels_that_rounding_tells_apart_are_named(caplog):
  levels = [populations.Level('threshold', f) for f in (0.8999999, 0.9)]
  check(levelled(draw(0), *levels))
  assert 'at fraction_pruned 0.8999999 and 0.9, which count' in caplog.text


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda p, right: 1 - p, 'the likeliest has 0.2 or more'),
    (lambda p, right: np.where(right, 0.3, 0.5), 'lower where it is right'),
  ],
)
def test_probabilities_of_something_else_are_named(change, said, caplog):
  predictions = draw(0)
  right = predictions.label == predictions.true_class[:, None]
  probability = change(predictions.probability, right)
  check(predictions._replace(probability=probability))
  assert said in caplog.text


def test_an_image_under_two_keys_is_named(caplog):
  twice = np.r_[0:400, 20:25]
  check(shard_predictions.part_of(draw(0), twice), shards=1)
  # Of each image the copy counts, not the first of the two.
  assert 'of 5 images all members say, to the digit' in caplog.text


@pytest.mark.parametrize(
  ('label', 'said'),
  [
    (lambda p: np.full_like(p.label, 3), '8 of 8 members predict one class'),
    (
      lambda p: np.repeat(p.true_class[:, None], 8, 1),
      '8 of 8 members are right on all 400 images',
    ),
  ],
)
def test_what_no_network_says_is_named(label, said, caplog):
  predictions = draw(0)
  for member in range(8):
    one = predictions.label.copy()
    one[:, member] = label(predictions)[:, member]
    caplog.clear()
    check(predictions._replace(label=one))
    assert said.replace('8 of', '1 of', 1) in caplog.text


def test_a_level_that_says_what_the_dense_one_does_is_named(caplog):
  dense = draw(0)
  label, probability = dense.label.copy(), dense.probability.copy()
  for of in (label, probability):
    of[:, 4:] = of[:, :4]
  check(dense._replace(label=label, probability=probability))
  assert 'all 4 members of int8 say, to the digit' in caplog.text


def test_a_class_without_images_is_named(caplog):
  predictions = draw(0)
  label = np.where(predictions.label == 2, 3, predictions.label)
  check(
    shard_predictions.part_of(
      predictions._replace(label=label), predictions.true_class != 2
    )
  )
  assert 'no image is of 1 of 5 classes, for example of class 2' in caplog.text
