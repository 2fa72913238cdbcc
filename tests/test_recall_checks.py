"""Class metrics that are valid, and are not what they are taken for."""

import numpy as np
import pytest

from per_class_accuracy import member_recall, recall_checks
from tests.test_gen_tstatistic import make_recall, run, write_long, write_wide
from utils import populations

PRUNED = populations.Level('threshold', 0.9)
CLASSES, IMAGES = 10, 50


def draw(seed=0, replicates=6, **changed):
  """Dense and pruned models, with recalls of so many images of each class."""
  random = np.random.default_rng(seed)
  right = random.binomial(
    IMAGES, [[0.8]] * replicates + [[0.7]] * replicates, (2 * replicates, 10)
  )
  fields = {
    'level': (populations.DENSE,) * replicates + (PRUNED,) * replicates,
    'recall': right / IMAGES,
    'accuracy': right.mean(axis=1) / IMAGES,
    'class_id': np.arange(CLASSES),
    'class_name': np.array([f'c{i}' for i in range(CLASSES)], object),
    'support': np.full(CLASSES, float(IMAGES)),
    'loss': random.uniform(0.5, 0.6, 2 * replicates),
    'identity': tuple({'replicate': i % replicates} for i in range(12)),
  }
  return member_recall.Models(**fields | changed)


def copied(**changed):
  """With what the second pruned model says under the number of the fourth."""
  models = draw()
  for values in (models.recall, models.accuracy, models.loss):
    values[9] = values[7]
  fields = {name: getattr(models, name) for name in models.__annotations__}
  return member_recall.Models(**fields | changed)


@pytest.mark.parametrize('seed', range(5))
def test_independent_models_raise_no_alarm(seed, caplog):
  recall_checks.check(draw(seed), of_groups=False)
  recall_checks.check(draw(seed, loss=np.full(12, np.nan)), of_groups=False)
  assert not caplog.records


@pytest.mark.parametrize('of_groups', [True, False])
@pytest.mark.parametrize(
  ('changed', 'said'),
  [
    ({}, 'threshold 0.9 replicate 1 and threshold 0.9 replicate 3 agree in'),
    ({'loss': np.full(12, np.nan)}, 'replicate 3 agree in the recall of all'),
    ({'identity': None}, 'a model of threshold 0.9 and a model of threshold'),
  ],
)
def test_a_copy_under_another_number_is_refused(changed, said, of_groups):
  with pytest.raises(ValueError, match=said):
    recall_checks.check(copied(**changed), of_groups)


def test_models_of_other_losses_are_two(caplog):
  recall_checks.check(copied(loss=np.linspace(0.5, 0.6, 12)), of_groups=False)
  assert not caplog.records


def test_models_that_are_always_right_are_no_copies(caplog):
  models = draw(loss=np.full(12, np.nan))
  models.recall[:3], models.accuracy[:3] = 1, 1
  recall_checks.check(models, of_groups=False)
  assert 'with so few images it may be chance' in caplog.text
  assert '3 of 12 members are right on all 500 images' in caplog.text


def with_recall(change):
  models = draw()
  models.recall[6:] = change(models.recall[6:])
  models.accuracy[6:] = models.recall[6:].mean(axis=1)
  return models


@pytest.mark.parametrize(
  ('models', 'said'),
  [
    # Their class ids count from 1.
    (with_recall(lambda r: r / 20), '6 of 12 members are right no more often'),
    (
      with_recall(lambda r: np.eye(10)[[3] * 6]),
      '6 of 12 models have a recall above 0 in one class at most',
    ),
    (
      with_recall(lambda r: r**0.25),
      'each member of threshold 0.9 is right on more images than any of dense',
    ),
    (
      # That of top-5, say.
      draw(accuracy=np.linspace(0.9, 0.95, 12)),
      'eval_accuracy of 12 of 12 models is none of their recall',
    ),
  ],
)
def test_what_no_model_says_is_named(models, said, caplog):
  recall_checks.check(models, of_groups=False)
  assert said in caplog.text


def test_of_groups_chance_is_not_known(caplog):
  """They need not hold each image once."""
  few = with_recall(lambda recall: recall / 20)
  recall_checks.check(few, of_groups=True)
  assert not caplog.records


@pytest.mark.parametrize('write', [write_long, write_wide])
def test_copies_are_refused_before_a_class_is_tested(tmp_path, write):
  recall = make_recall(np.random.default_rng(0))
  recall[0.9][4] = recall[0.9][2]
  (tmp_path / 'metrics').mkdir()
  where = tmp_path / 'metrics'
  write(where if write is write_long else where / 'all.csv', recall)
  with pytest.raises(ValueError, match='remove the copies'):
    run(where, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
