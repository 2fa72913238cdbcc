"""Evaluating checkpoints, while training and after it."""

import json

import pytest

from save_checkpoint import (
  evaluation,
  learning_rate,
  training_settings,
)
from tests.train_small import summaries, train
from utils import data_input, storage


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


def test_train_and_eval_measures_and_writes_where_it_came_from(data, tmp_path):
  output = training_settings.Output(steps_per_checkpoint=5)
  train(
    tmp_path,
    data,
    fractions_pruned=(0.9,),
    mode='train_and_eval',
    output=output,
  )
  assert sorted(summaries(tmp_path)['eval_accuracy']) == [5, 10, 12]
  (record,) = tmp_path.glob('exp/*/**/imagenet_train_eval.run.json')
  record = json.loads(record.read_text())
  assert record['member']['fraction_pruned'] == 0.9
  assert 0 <= record['final_metrics']['eval_accuracy'] <= 1
  assert record['final_metrics']['learning_rate'] == pytest.approx(
    learning_rate.learning_rates(12, 4, 20, 0, (1, 2))[-1]
  )
  assert list(tmp_path.rglob('events.out.tfevents*'))
  # Evaluating what is there needs no training.
  train(tmp_path, data, fractions_pruned=(0.9,), mode='eval')
  with pytest.raises(FileNotFoundError, match='no checkpoint in'):
    train(tmp_path, data, fractions_pruned=(0.0,), mode='eval')


def test_a_checkpoint_removed_under_evaluation_is_passed_over(
  data, tmp_path, monkeypatch
):
  output = training_settings.Output(steps_per_checkpoint=5)
  train(tmp_path, data, fractions_pruned=(0.0,), output=output)
  evaluate, seen = evaluation.Evaluator.evaluate, []

  def removed_before(self, prefix):
    if prefix.endswith('-5'):
      for path in tmp_path.rglob('model.ckpt-5.*'):
        path.unlink()
    seen.append(storage.name(prefix))
    return evaluate(self, prefix)

  monkeypatch.setattr(evaluation.Evaluator, 'evaluate', removed_before)
  train(tmp_path, data, fractions_pruned=(0.0,), mode='eval')
  assert seen == ['model.ckpt-5', 'model.ckpt-10', 'model.ckpt-12']
  assert sorted(summaries(tmp_path)['eval_accuracy']) == [10, 12]
