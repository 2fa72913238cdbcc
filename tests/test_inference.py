"""Predictions: the same for every batch size, grouping and order."""

import dataclasses
import io
import os
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import special

from utils import (
  checkpoints,
  csvs,
  data_input,
  image_records,
  inference,
  member_paths,
  paths,
  populations,
  resnet_model,
  shard_files,
  storage,
  tables,
  tfrecords,
)

ARCHITECTURE = resnet_model.Architecture(18, 0.125, 10)
OPTIONS = {
  'batch_size': 8,
  'preprocessing_name': 'legacy',
  'precision': 'float32',
  'label_smoothing': 0.1,
}


def write_member(root, method, fraction, replicate, architecture=ARCHITECTURE):
  masked = method != populations.BASELINE
  schedule = (2, 8, 2) if masked else (0, 0, 0)
  member = member_paths.Member('exp', method, fraction, *schedule, replicate)
  rng = np.random.default_rng([replicate, int(1000 * fraction)])
  values = {}
  for name, shape in resnet_model.variable_shapes(architecture, masked).items():
    leaf = name.rsplit('/', 1)[1]
    if leaf == 'mask':
      kept = np.arange(np.prod(shape)) < round(np.prod(shape) * (1 - fraction))
      value = rng.permutation(kept).reshape(shape)
    elif leaf in ('kernel', 'weights'):
      value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    elif leaf in ('gamma', 'moving_variance'):
      value = rng.uniform(0.5, 1.5, shape)
    else:
      value = 0.1 * rng.standard_normal(shape)
    values[name] = np.asarray(value, np.float32)
  prefix = member_paths.prefix_in(str(root / member.folder), 10)
  checkpoints.write(prefix, checkpoints.Network(architecture, values, 10))
  return member_paths.parse(prefix)


@pytest.fixture(scope='module')
def population(tmp_path_factory):
  root = tmp_path_factory.mktemp('population')
  members = [
    write_member(root, method, fraction, replicate)
    for method, fraction in ((populations.BASELINE, 0.0), ('threshold', 0.9))
    for replicate in range(2)
  ]
  folder = data_input.synthetic_data_set(str(root / 'data'))
  shards = image_records.find_shards(folder, 'eval')
  return members, shards, tfrecords.describe(shards)


def predictions(population, members=None, **options):
  everyone, shards, records = population
  return {
    member: frame
    for member, _, frame in inference.predict(
      members or everyone, shards, records, **OPTIONS | options
    )
  }


def test_predictions_are_those_of_the_network(population):
  members, shards, records = population
  frames = predictions(population)
  reader = data_input.OrderedReader(
    records, tfrecords.detect(shards), 'legacy', 100
  )
  ((keys, labels, images),) = reader.read(shards[0], records)
  x = resnet_model.normalise(images, records.channel_mean, records.channel_std)
  for member in members:
    frame = frames[member].assign(split='eval')
    csvs.check(tables.PREDICTIONS, frame, 'test')
    network = checkpoints.read(member.prefix)
    folded = resnet_model.fold_batch_norm(network.values, ARCHITECTURE)  # noqa: PD011
    logits = resnet_model.folded_forward(x, folded, ARCHITECTURE).numpy()
    probabilities = tf.nn.softmax(logits).numpy()
    order = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(frame['predictions'], order[:, 0])
    np.testing.assert_array_equal(frame['true_class'], labels)
    assert list(frame['image_key']) == keys
    np.testing.assert_allclose(
      frame['predicted_probability'], probabilities.max(1), atol=1e-5
    )
    top_5 = [
      list(map(int, text.strip('[]').split()))
      for text in frame['top_5_indices']
    ]
    np.testing.assert_array_equal(top_5, order[:, :5])
    targets = np.full((len(labels), 10), 0.01)
    targets[np.arange(len(labels)), labels] += 0.9
    loss = -(targets * np.log(probabilities)).sum(1)
    np.testing.assert_allclose(frame['cross_entropy'], loss, rtol=1e-4)


@pytest.mark.parametrize('batch_size', [1, 7, 19, 20, 21])
def test_batches_change_no_label_and_lose_no_image(population, batch_size):
  one, other = (
    predictions(population),
    predictions(population, batch_size=batch_size),
  )
  for member, frame in one.items():
    exact = ['predictions', 'true_class', 'image_key', 'image_index']
    pd.testing.assert_frame_equal(frame[exact], other[member][exact])
    np.testing.assert_allclose(
      frame['predicted_probability'],
      other[member]['predicted_probability'],
      atol=1e-5,
    )


def test_grouping_and_order_of_members_change_nothing(population):
  members = population[0]
  together = predictions(population)
  backwards = predictions(population, members[::-1])
  for member in members:
    (alone,) = predictions(population, [member]).values()
    pd.testing.assert_frame_equal(together[member], alone)
    pd.testing.assert_frame_equal(together[member], backwards[member])


def test_one_trace_serves_dense_and_pruned_members(population):
  members, shards, records = population
  predictor = inference.Predictor(**OPTIONS)
  data_set = inference.DataSet(records, shards)
  for chosen in (members[:1], members[2:], members):
    list(predictor.predict(chosen, [data_set], show_progress=False))
  (forward,) = predictor._openers['bundle']._forwards.values()
  (read_scores,) = predictor._outcomes.values()
  for traced in (forward.traced, read_scores):
    assert traced.experimental_get_tracing_count() == 1


@pytest.mark.parametrize('precision', inference.PRECISIONS)
def test_what_devices_compute_compiles_for_accelerators(population, precision):
  """By XLA, as for TPUs: no operation is missing, and labels agree."""
  members, shards, records = population
  predictor = inference.Predictor(**OPTIONS | {'precision': precision})
  data_set = inference.DataSet(records, shards)

  def predict():
    found = predictor.predict(members, [data_set], show_progress=False)
    return [frame for *_, frame in found]

  plain = predict()
  (forward,) = predictor._openers['bundle']._forwards.values()
  forward.traced = tf.function(forward.untraced, jit_compile=True)
  (number,) = predictor._outcomes
  predictor._outcomes[number] = tf.function(
    lambda scores, labels: inference.outcomes(
      scores, labels, OPTIONS['label_smoothing']
    ),
    jit_compile=True,
  )
  for one, other in zip(plain, predict(), strict=True):
    assert (one['predictions'] == other['predictions']).mean() > 0.98
    np.testing.assert_allclose(
      one['cross_entropy'], other['cross_entropy'], rtol=0.1
    )


def test_a_restricted_probability_is_of_a_softmax_of_the_subset_alone():
  scores = np.random.default_rng(0).normal(0, 2, (50, 10)).astype('float32')
  subset = (1, 4, 6, 9)
  labels = np.zeros(50, np.int64)
  _, whole, _, label, sure = inference.outcomes(scores, labels, 0.0, subset)
  among = special.softmax(scores[:, subset], axis=1)
  np.testing.assert_array_equal(label, np.take(subset, among.argmax(axis=1)))
  np.testing.assert_allclose(sure, among.max(axis=1), rtol=1e-5)
  *_, all_classes = inference.outcomes(scores, labels, 0.0)
  np.testing.assert_array_equal(all_classes, whole)


@pytest.mark.parametrize('subset', [(1, 4, 6, 9), (0, 2, 3, 5, 7, 8), (2,)])
def test_a_restricted_prediction_is_the_likeliest_of_the_subset(
  population, subset
):
  """It is the first of the five likeliest classes that is in the subset."""
  plain = predictions(population)
  decided = 0
  for member, frame in predictions(population, class_subset=subset).items():
    assert set(frame['restricted_predictions']) <= set(subset)
    for row in frame.to_dict('records'):
      top_5 = map(int, row['top_5_indices'].strip('[]').split())
      among = [i for i in top_5 if i in subset]
      if among:
        assert row['restricted_predictions'] == among[0]
        decided += among[0] != row['predictions']
    pd.testing.assert_frame_equal(
      frame.drop(columns=['restricted_predictions', 'restricted_probability']),
      plain[member],
    )
  assert decided


def test_a_subset_outside_the_classes_is_refused(population):
  with pytest.raises(ValueError, match='from 1 to 10, the network has 10'):
    predictions(population, class_subset=(1, 10))


def test_only_what_is_wanted_is_predicted(population):
  members, shards, records = population
  made = [
    member
    for member, _, _ in inference.predict(
      members,
      shards,
      records,
      wanted=lambda member, shard: member == members[1],
      **OPTIONS,
    )
  ]
  assert made == members[1:2]


def test_bfloat16_is_recorded_and_close(population):
  exact, coarse = (
    predictions(population),
    predictions(population, precision='bfloat16'),
  )
  for member, frame in exact.items():
    other = coarse[member]
    assert set(other['precision']) == {'bfloat16'}
    assert not frame['cross_entropy'].equals(other['cross_entropy'])
    np.testing.assert_allclose(
      frame['cross_entropy'], other['cross_entropy'], atol=0.3
    )


def test_what_does_not_fit_is_refused(population, tmp_path):
  members, shards, records = population
  other = write_member(
    tmp_path,
    populations.BASELINE,
    0.0,
    0,
    resnet_model.Architecture(18, 0.125, 7),
  )
  with pytest.raises(ValueError, match='7 classes.*synthetic has 10'):
    predictions(population, [other])
  renamed = dataclasses.replace(members[0], step=11)
  with pytest.raises(ValueError, match='named after step 11'):
    predictions(population, [renamed])
  for options in (
    {'batch_size': 0},
    {'precision': 'float16'},
    {'preprocessing_name': 'other'},
    {'label_smoothing': 1.0},
  ):
    with pytest.raises(ValueError, match='wanted'):
      predictions(population, **options)


def test_a_path_that_misstates_the_sparsity_is_reported(
  population, tmp_path, caplog
):
  member = write_member(tmp_path, 'threshold', 0.5, 0)
  lying = member.prefix.replace('/0.5/', '/0.8/')
  checkpoints.write(lying, checkpoints.read(member.prefix))
  predictions(population, [member_paths.parse(lying)])
  assert 'fraction of 0.8 is pruned, its weights have 0.5' in caplog.text


def test_a_shard_that_is_declared_empty_has_no_rows(population, tmp_path):
  members, shards, records = population
  path = paths.shard(str(tmp_path), 'validation', 0, 1)
  splits = {'validation': {storage.name(path): shard_files.write(path, [])}}
  nothing = dataclasses.replace(records, splits=splits)
  image_records.write(str(tmp_path), nothing)
  # Beside a shard that says in which dialect the data set is.
  predictor = inference.Predictor(**OPTIONS)
  with pytest.raises(ValueError, match='holds a record'):
    list(predictor.predict(members, [inference.DataSet(nothing, [path])]))
  other = paths.shard(str(tmp_path), 'train', 0, 1)
  splits['train'] = {
    storage.name(other): shard_files.write(
      other, shard_files.read_records(shards[0])
    )
  }
  both = dataclasses.replace(records, splits=splits)
  image_records.write(str(tmp_path), both)
  frames = {
    shard: frame
    for _, shard, frame in predictor.predict(
      members[:1], [inference.DataSet(both, [path, other])]
    )
  }
  assert frames[path].empty and len(frames[other]) == 20
  assert set(frames[path]) >= set(frames[other]) - {
    *('restricted_predictions', 'restricted_probability')
  }


def test_spreading_over_devices_changes_no_label(population, tmp_path):
  members, shards, records = population
  (member,) = members[2:3]
  written = subprocess.run(
    [
      sys.executable,
      '-m',
      'tests.predict_on_devices',
      '3',
      member.prefix,
      shards[0],
    ],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  spread = pd.read_json(io.StringIO(written.splitlines()[-1]))
  one = predictions(population, [member])[member]
  for name in ('predictions', 'true_class', 'image_key', 'top_5_indices'):
    assert list(spread[name]) == list(one[name])
  for name in ('predicted_probability', 'cross_entropy'):
    np.testing.assert_allclose(spread[name], one[name], atol=1e-5)


class MeanColours:
  """A kind of network: scores 10 classes by the mean of an image's channels."""

  def __init__(self, precision, batch_size, strategy):
    del precision, batch_size, strategy

  @staticmethod
  def num_classes(checkpoint):
    return len(np.load(checkpoint.completed_by))

  def open(self, checkpoint):
    self.weights = np.load(checkpoint.completed_by)
    return types.SimpleNamespace(
      num_classes=len(self.weights),
      description=None,
      scores=lambda images, records: tf.linalg.matmul(
        tf.reduce_mean(images, axis=(1, 2)) / 255, self.weights.T
      ),
    )


def test_a_new_kind_of_network_needs_a_row_in_two_tables(
  population, tmp_path, monkeypatch
):
  """Found by its file, and predicted beside the bundles."""
  members, shards, records = population
  monkeypatch.setitem(member_paths.KINDS, 'colours', '.npy')
  monkeypatch.setitem(inference._OPENERS, 'colours', MeanColours)
  member = dataclasses.replace(members[0].member, pruning_method='int8')
  prefix = member_paths.prefix_in(str(tmp_path / member.folder), 10)
  os.makedirs(os.path.dirname(prefix))
  weights = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
  np.save(f'{prefix}.npy', weights)
  (checkpoint,) = member_paths.find(str(tmp_path))
  assert checkpoint.kind == 'colours'
  assert inference.num_classes(checkpoint) == 10
  assert inference.num_classes(members[0]) == 10
  frames = predictions(population, [*members, checkpoint])
  for one, frame in predictions(population).items():
    pd.testing.assert_frame_equal(frames[one], frame)
  frame = frames[checkpoint]
  csvs.check(tables.PREDICTIONS, frame.assign(split='eval'), 'test')
  reader = data_input.OrderedReader(
    records, tfrecords.detect(shards), 'legacy', 100
  )
  ((_, _, images),) = reader.read(shards[0], records)
  scores = images.numpy().mean(axis=(1, 2)) / 255 @ weights.T
  np.testing.assert_array_equal(frame['predictions'], scores.argmax(1))
  assert set(frame['pruning_method']) == {'int8'}
