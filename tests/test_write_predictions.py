"""From arrays to verdicts: any model, here trees of scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets, tree

from per_class_accuracy import aggregate_ckpt_metrics, gen_tstatistic
from pie_dataset_gen import (
  aggregate_predictions,
  headline_table,
  rank_suspects,
  write_predictions,
)
from utils import csvs, paths, tables

LOGITS = np.array([[1.0, 3.0, 3.0, 0.0, -1.0, 2.0], [0, 0, 5, 0, 0, 0]])
TRUE = np.array([2, 2])
KEYS = ['a', 'b']


def test_scores_become_rows(tmp_path):
  path = write_predictions.write(
    str(tmp_path), TRUE, KEYS, logits=LOGITS, replicate=3, shard='part'
  )
  assert path == str(
    tmp_path / 'part' / 'predictions_dataframe_baseline_0.0_3.csv'
  )
  rows = csvs.read(tables.PREDICTIONS, path)
  assert rows['predictions'].tolist() == [1, 2]
  wanted = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
  assert rows['predicted_probability'].tolist() == pytest.approx(
    wanted.max(axis=1).tolist()
  )
  assert rows['top_5_indices'].tolist() == ['[1 2 5 0 3]', '[2 0 1 3 4]']
  again = write_predictions.write(
    str(tmp_path / 'again'), TRUE, KEYS, probabilities=wanted, replicate=3
  )
  pd.testing.assert_frame_equal(
    csvs.read(tables.PREDICTIONS, again).drop(columns='filename'),
    rows.drop(columns='filename'),
  )


def test_labels_alone_leave_the_rest_empty(tmp_path):
  path = write_predictions.write(
    str(tmp_path), TRUE, KEYS, labels=[1, 2], pruning_method='int8'
  )
  rows = csvs.read(tables.PREDICTIONS, path)
  assert rows['predictions'].tolist() == [1, 2]
  assert rows['predicted_probability'].isna().all()
  assert (rows['pruning_method'] == 'int8').all()


def test_a_compressed_file_holds_the_same_and_replaces_no_other(tmp_path):
  given = {'true_class': TRUE, 'image_keys': KEYS, 'logits': LOGITS}
  path = write_predictions.write(str(tmp_path / 'plain'), **given)
  small = write_predictions.write(
    str(tmp_path / 'small'), **given, compress=True
  )
  assert small.endswith('.csv.gz')
  assert csvs.read_text(small) == csvs.read_text(path)
  with pytest.raises(ValueError, match='.csv.gz is there, the same'):
    write_predictions.write(str(tmp_path / 'small'), **given)
  write_predictions.write(str(tmp_path / 'small'), **given, compress=True)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({}, 'no predictions are given, wanted one of'),
    ({'logits': LOGITS, 'labels': [1, 2]}, r"\['labels', 'logits'\] are given"),
    ({'logits': LOGITS[:1]}, '1 logits, 2 true classes and 2 image keys'),
    ({'logits': LOGITS[0]}, '6 logits, 2 true'),
    ({'logits': LOGITS * np.nan}, 'logits of image 0 are .*finite'),
    ({'probabilities': LOGITS}, 'image 0 .*are these logits'),
    ({'logits': LOGITS[:, :2]}, 'true_class holds 2, but logits are of 2'),
    ({'labels': [0.5, 1]}, 'labels have the shape .*whole number'),
    ({'labels': [-1, 1]}, "column 'predictions'"),
    ({'labels': [1, 2], 'image_keys': ['a', 'a']}, 'share their identity'),
    ({'labels': [1, 2], 'fraction_pruned': 1.0}, 'fraction_pruned is 1.0'),
    ({'labels': [1, 2], 'shard': '../x'}, 'shard is'),
    ({'labels': [1, 2], 'true_class': [[1], [2]]}, 'true_class have the shape'),
  ],
)
def test_what_cannot_be_is_refused(tmp_path, options, message):
  options = {'true_class': TRUE, 'image_keys': KEYS} | options
  true_class, keys = options.pop('true_class'), options.pop('image_keys')
  with pytest.raises(ValueError, match=message):
    write_predictions.write(str(tmp_path), true_class, keys, **options)
  assert not list(tmp_path.rglob('*.csv'))


def test_labels_alone_have_no_surer_voters(tmp_path):
  for method in ('baseline', 'int8'):
    write_predictions.write(
      str(tmp_path / 'in'), TRUE, KEYS, labels=[1, 2], pruning_method=method
    )
  options = {'mode': 'eval', 'dataset_name': 'toy'}
  folders = str(tmp_path / 'in'), str(tmp_path / 'out')
  with pytest.raises(ValueError, match='no predicted_probability'):
    aggregate_predictions.run(*folders, tie_rule='probability', **options)
  assert len(aggregate_predictions.run(*folders, **options)) == 1


def test_an_audit_of_decision_trees(tmp_path):
  """Eight full trees, and the same eight pruned: pairs, through the chain."""
  images, labels = datasets.load_digits(return_X_y=True)
  train, test = slice(0, 900), slice(900, None)
  keys = [f'digits/{i}' for i in range(900, len(labels))]
  for replicate in range(8):
    for method, cost in (('baseline', 0.0), ('cost_complexity', 0.01)):
      model = tree.DecisionTreeClassifier(
        max_features=16, ccp_alpha=cost, random_state=2 * replicate
      )
      model.fit(images[train], labels[train])
      write_predictions.write(
        str(tmp_path / 'predictions'),
        labels[test],
        keys,
        probabilities=model.predict_proba(images[test]),
        pruning_method=method,
        replicate=replicate,
      )
  out = str(tmp_path / 'results')
  null = aggregate_predictions.run(
    str(tmp_path / 'predictions'),
    out,
    mode='eval',
    dataset_name='trees',
    paired_methods=['cost_complexity'],
  )
  # Of 256 ways to let pairs change places.
  assert null.loc[0, 'energy_pvalue'] <= 0.05
  assert null.loc[0, 'permutations'] == 255
  aggregate_ckpt_metrics.run(
    ckpt_dir='',
    predictions_directory=str(tmp_path / 'predictions'),
    data_directory='',
    output_path=out,
    mode='eval',
    dataset_name='trees',
    num_classes=10,
    groups_file='',
    batch_size=64,
    preprocessing='legacy',
    compute_precision='float32',
    label_smoothing=0.1,
  )
  gen_tstatistic.run(
    data_directory=paths.class_metrics_folder(out, 'trees', 'eval'),
    output_file=out,
    dataset_name='trees',
    mode='eval',
    paired_methods=['cost_complexity'],
  )
  text = headline_table.run(out, mode='eval', dataset_name='trees')
  assert 'cost_complexity, in pairs: it predicts otherwise than chance' in text
  suspects = rank_suspects.run(out, mode='eval', dataset_name='trees')
  assert len(suspects)
