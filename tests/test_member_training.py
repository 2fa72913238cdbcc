"""Training a member: exact, finite, the same whoever trains beside it."""

import dataclasses

import numpy as np
import pytest

from save_checkpoint import (
  learning_rate,
  member_training,
  training,
  training_settings,
)
from tests.train_small import assert_equal_networks, summaries, train
from utils import data_input, devices, resnet_model


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return data_input.synthetic_data_set(str(tmp_path_factory.mktemp('data')))


@pytest.fixture(scope='module')
def population(tmp_path_factory, data):
  return train(tmp_path_factory.mktemp('population'), data)


def leap_after(steps, monkeypatch, rate=1e30):
  """Gives a step a learning rate that no network survives."""
  rates = learning_rate.learning_rates

  def leaping(*args):
    found = rates(*args)
    found[steps] = rate
    return found

  monkeypatch.setattr(learning_rate, 'learning_rates', leaping)


@pytest.mark.parametrize(
  ('steps', 'per_checkpoint', 'message'),
  [
    # What the leap itself led to was written, and is not good.
    (3, 2, 'the loss is not finite at step 5; the last good .*model.ckpt-2$'),
    (3, 5, 'the loss is not finite at step 5; no checkpoint was written'),
  ],
)
def test_only_a_checkpoint_with_a_finite_loss_is_called_good(
  data, tmp_path, monkeypatch, steps, per_checkpoint, message
):
  leap_after(steps, monkeypatch)
  output = training_settings.Output(steps_per_checkpoint=per_checkpoint)
  with pytest.raises(ValueError, match=message):
    train(tmp_path, data, fractions_pruned=(0.0,), output=output)


def test_weights_that_are_not_finite_are_not_exported(
  data, tmp_path, monkeypatch
):
  """After the last step there is no loss that would tell."""
  leap_after(11, monkeypatch, rate=np.inf)
  output = training_settings.Output(steps_per_checkpoint=10)
  message = 'is not finite after step 12; the last good .*model.ckpt-10$'
  with pytest.raises(ValueError, match=message):
    train(tmp_path, data, fractions_pruned=(0.0,), output=output)
  assert not list(tmp_path.rglob('model.ckpt-12*'))


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint(
  population, data, tmp_path, monkeypatch
):
  """A step leaps away; what was written before is good, and named."""
  leap_after(4, monkeypatch)
  output = training_settings.Output(steps_per_checkpoint=2)
  named = 'is not finite at step 6; the last good checkpoint .*model.ckpt-4$'
  with pytest.raises(ValueError, match=named):
    train(tmp_path, data, fractions_pruned=(0.0,), output=output)
  monkeypatch.undo()
  resumed = train(tmp_path, data, fractions_pruned=(0.0,), output=output)
  ((member, network),) = resumed.items()
  assert_equal_networks(network, population[member])


def test_every_layer_of_every_export_has_its_sparsity(population):
  assert {m.fraction_pruned for m in population} == {0.0, 0.9}
  for member, network in population.items():
    for conv in resnet_model.conv_layers(network.architecture):
      prefix = f'resnet_model/{conv.name}/'
      if not member.fraction_pruned:
        assert np.count_nonzero(network.values[f'{prefix}kernel'])
        continue
      kept = round(conv.size * (1 - member.fraction_pruned))
      assert network.values[f'{prefix}mask'].sum() == kept
      assert np.count_nonzero(network.values[f'{prefix}weights']) == kept


def test_a_member_alone_equals_the_member_among_others(
  population, data, tmp_path
):
  alone = train(tmp_path, data, fractions_pruned=(0.9,))
  ((member, network),) = alone.items()
  assert_equal_networks(network, population[member])


def test_members_are_independent(population, data, tmp_path):
  seeds = {
    member_training.member_seed(0, dataclasses.replace(m, replicate=r))
    for m in population
    for r in range(3)
  }
  assert len(seeds) == 6


def test_the_summaries_hold_loss_rate_accuracy_and_sparsity(data, tmp_path):
  output = training_settings.Output(steps_per_summary=6)
  ((_, network),) = train(
    tmp_path, data, fractions_pruned=(0.9,), output=output
  ).items()
  found = summaries(tmp_path)
  for tag in ('loss', 'accuracy', 'learning_rate', 'images_per_second'):
    assert sorted(found[tag]) == [6, 12]
  assert found['sparsity/initial_conv'][12] == pytest.approx(0.9, abs=1e-3)
  masks = [v for n, v in network.values.items() if n.endswith('/mask')]
  zeros = sum(np.sum(mask == 0) for mask in masks)
  assert found['sparsity'][12] == pytest.approx(
    zeros / sum(mask.size for mask in masks), abs=1e-6
  )


def test_how_often_python_is_asked_changes_nothing(
  population, data, tmp_path, monkeypatch
):
  """Checkpoints are equal to the bit, summaries as precisely as sums are."""
  calls = []
  take = training.Trainer.train

  def counted(self, batches, num_steps):
    calls.append(num_steps)
    return take(self, batches, num_steps)

  monkeypatch.setattr(training.Trainer, 'train', counted)
  found = {}
  output = training_settings.Output(steps_per_summary=5)
  for seconds, wanted in ((0, [1] * 12), (1e9, [1, 2, 2, 1, 3, 1, 2])):
    calls.clear()
    monkeypatch.setattr(member_training, '_CALL_SECONDS', seconds)
    folder = tmp_path / str(seconds)
    ((member, network),) = train(
      folder, data, fractions_pruned=(0.9,), output=output
    ).items()
    # The longest stretches end where masks change or a summary is due.
    assert calls == wanted
    assert_equal_networks(network, population[member])
    found[seconds] = summaries(folder)
  for tag in ('loss', 'accuracy'):
    assert found[0][tag] == pytest.approx(found[1e9][tag], rel=1e-6)


def test_a_stretch_takes_about_a_second():
  pace = member_training.Pace(devices.strategy())
  pace.measure(1, 20)  # It is traced.
  assert pace.steps == 1
  stretches = []
  for _ in range(6):
    stretches.append(pace.steps)
    pace.measure(pace.steps, pace.steps * 0.01)
  assert stretches == [1, 4, 16, 64, 100, 100]
  pace.measure(100, 50)
  assert pace.steps == 2
  pace.measure(2, 0)  # Of a clock that is too coarse.
  assert pace.steps == 8
