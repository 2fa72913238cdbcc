"""Predictions of the original's form mean what the same ones with keys mean."""

import logging
import pathlib

import numpy as np
import pandas as pd
import pytest

from per_class_accuracy import aggregate_ckpt_metrics
from pie_dataset_gen import aggregate_predictions, gallery_data
from utils import csvs, paths, prediction_files, tables

CLASSES = 3
MEMBERS = 3
SHARDS = {'validation-00000-of-00002': 20, 'validation-00001-of-00002': 13}
LEVELS = (('baseline', 0.0), ('threshold', 0.9))


def write(folder, *, original, exp='run {replicate}'):
  """Both levels' predictions, in the original's form or in ours."""
  for number, (shard, images) in enumerate(SHARDS.items()):
    (folder / shard).mkdir(parents=True)
    time = 0
    for replicate in range(MEMBERS):
      for level, (method, fraction) in enumerate(LEVELS):
        rng = np.random.default_rng([number, replicate, level])
        label = rng.integers(0, CLASSES, images)
        frame = pd.DataFrame(
          {
            'predictions': label,
            'true_class': np.arange(images) % CLASSES,
            'predicted_probability': rng.random(images).astype('float32'),
            'top_5_indices': [f'[{i} {(i + 1) % CLASSES}]' for i in label],
            'exp': exp.format(replicate=replicate),
            'split': 'imagenet',
            'filename': f'/data/imagenet/{shard}',
            'pruning_method': method,
            'fraction_pruned': fraction,
            'start_pruning_step': 0.0,
            'end_pruning_step': 0.0,
            'pruning_frequency': 0.0,
            'global_step': 32000,
          }
        )
        if not original:
          frame = frame.drop(columns=['exp', 'split', 'filename']).assign(
            image_key=[f'{shard}__{i}' for i in range(images)],
            image_index=range(images),
            replicate=replicate,
          )
        time += 1
        path = folder / shard / f'predictions_dataframe_{time:.1f}.csv'
        frame.to_csv(path, index=original)
  return folder


def aggregate(folder, out, **options):
  aggregate_predictions.run(
    str(folder), str(out), mode='eval', dataset_name='toy', **options
  )
  folder = paths.modal_labels_folder(str(out), 'toy', 'eval')
  files = csvs.find(tables.MODAL_LABELS, folder)
  return csvs.read_all(tables.MODAL_LABELS, files)


def measure(folder, out, **options):
  files = aggregate_ckpt_metrics.run(
    ckpt_dir=[],
    predictions_directory=str(folder),
    data_directory='',
    output_path=str(out),
    mode='eval',
    dataset_name='toy',
    num_classes=CLASSES,
    groups_file='',
    batch_size=1,
    preprocessing='legacy',
    compute_precision='float32',
    label_smoothing=0.1,
    **options,
  )
  return csvs.read_all(tables.CLASS_METRICS, files)


def original_modal_labels(folder, shard, fraction):
  """As the original finds them: by row, among tied labels the largest."""
  frames = [pd.read_csv(path) for path in sorted((folder / shard).iterdir())]
  of_level = [f for f in frames if f['fraction_pruned'].iloc[0] == fraction]
  predictions = pd.concat([f['predictions'] for f in of_level], axis=1)
  return predictions.apply(lambda row: row.mode().max(), axis=1)


def test_the_original_and_keys_give_the_same_tables(tmp_path):
  theirs = write(tmp_path / 'theirs', original=True)
  labels = aggregate(theirs, tmp_path / 'a')
  ours = write(tmp_path / 'ours', original=False)
  pd.testing.assert_frame_equal(labels, aggregate(ours, tmp_path / 'b'))
  chosen = gallery_data.choose_images(labels, 1)
  votes = gallery_data.count_votes(str(theirs), chosen)
  assert votes
  assert votes == gallery_data.count_votes(str(ours), chosen)
  metrics = measure(theirs, tmp_path / 'a')
  assert len(metrics) == 2 * MEMBERS * CLASSES
  pd.testing.assert_frame_equal(metrics, measure(ours, tmp_path / 'b'))
  for shard, rows in labels.groupby('filename'):
    rows = rows.sort_values('image_index')
    for column, fraction in (
      ('baseline_modal_label', 0.0),
      ('variant_modal_label', 0.9),
    ):
      wanted = original_modal_labels(theirs, shard, fraction)
      assert rows[column].tolist() == wanted.tolist()


def test_replicates_are_numbered_by_exp_then_by_name(tmp_path, caplog):
  folder = write(tmp_path / 'in', original=True)
  files = sorted(map(str, folder.rglob('*.csv')))
  first, *_ = SHARDS
  # The names are out of the order of exp.
  for number, path in enumerate(sorted((folder / first).iterdir())):
    path.rename(path.with_name(f'predictions_dataframe_{9 - number}.csv'))
  files = sorted(map(str, folder.rglob('*.csv')))
  numbers = prediction_files.replicates(files)
  for path in files:
    exp = pd.read_csv(path)['exp'].iloc[0]
    assert numbers[path] == int(exp.split()[1])
  with caplog.at_level(logging.INFO):
    prediction_files.say_what_is_assumed(files, 'eval')
  assert "0 is 'run 0', 1 is 'run 1'" in caplog.text
  assert 'Row n in the folder <shard> is taken to be' in caplog.text
  alike = write(tmp_path / 'alike', original=True, exp='one')
  numbers = prediction_files.replicates(sorted(map(str, alike.rglob('*.csv'))))
  assert {
    pathlib.Path(path).name: number for path, number in numbers.items()
  } == {
    f'predictions_dataframe_{time}.0.csv': (time - 1) // 2
    for time in range(1, 7)
  }


def shuffled(frame):
  return frame.sample(frac=1, random_state=0)


def relabelled(frame):
  return frame.assign(true_class=(frame['true_class'] + 1) % CLASSES)


CHANGES = [
  (shuffled, r'calls its row 0 \(line 2\)'),
  (lambda f: shuffled(f).reset_index(drop=True), 'disagree on the class'),
  (relabelled, 'disagree on the class .* of 20 images'),
  (lambda f: f[:-1], "lacks 1 .'validation-00000-of-00002__19'"),
  (lambda f: f[1:], r'calls its row 0 \(line 2\) 1: wanted'),
  (lambda f: f.drop(columns='predictions'), "lacks the columns .'predictions'"),
  (
    lambda f: f.assign(replicate=0, image_key=f.index),
    'wanted all of one form',
  ),
  (
    lambda f: f.assign(exp='another'),
    "different members: .*'exp': .* in the former and",
  ),
]


@pytest.mark.parametrize(('change', 'message'), CHANGES)
def test_what_was_changed_is_refused_by_name(tmp_path, change, message):
  folder = write(tmp_path / 'in', original=True)
  first, *_ = SHARDS
  path = folder / first / 'predictions_dataframe_3.0.csv'
  changed = change(pd.read_csv(path, index_col=0))
  changed.index.name = None
  changed.to_csv(path)
  with pytest.raises(ValueError, match=message) as raised:
    aggregate(folder, tmp_path / 'a')
  assert path.name in str(raised.value) or 'shards' in str(raised.value)
  if 'disagree' not in message and 'lacks 1' not in message:
    with pytest.raises(ValueError, match=message.split(':')[0]):
      measure(folder, tmp_path / 'b')
  else:
    with pytest.raises(ValueError, match='predicted for it or|has the label'):
      measure(folder, tmp_path / 'b')


def test_every_shard_in_each_folder_is_refused(tmp_path):
  """What the original writes where it is given several shards at once."""
  folder = write(tmp_path / 'in', original=True)
  first, second = SHARDS
  for path in (folder / first).iterdir():
    (folder / second / path.name).write_bytes(path.read_bytes())
  with pytest.raises(ValueError, match='hold the same 20 predictions'):
    aggregate(folder, tmp_path / 'a')
  aggregate(folder, tmp_path / 'b', subdirectory=first)


def test_a_network_that_was_predicted_twice_is_refused(tmp_path):
  folder = write(tmp_path / 'in', original=True)
  for shard in SHARDS:
    path = folder / shard / 'predictions_dataframe_3.0.csv'
    path.with_name('predictions_dataframe_9.0.csv').write_bytes(
      path.read_bytes()
    )
  for read in (aggregate, measure):
    with pytest.raises(ValueError, match='_3.0.csv and .*_9.0.csv are equal'):
      read(folder, tmp_path / 'out')


def test_several_folders_are_one_population(tmp_path):
  """Members in folders of their own, with folders of shards or without."""
  folder = write(tmp_path / 'in', original=False)
  wanted = aggregate(folder, tmp_path / 'a')
  for path in sorted(folder.rglob('*.csv')):
    method = pd.read_csv(path)['pruning_method'].iloc[0]
    target = tmp_path / method / path.parent.name / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
  both = f'{tmp_path}/baseline,{tmp_path}/threshold'
  pd.testing.assert_frame_equal(aggregate(both, tmp_path / 'b'), wanted)
  assert len(measure(both, tmp_path / 'b')) == 2 * MEMBERS * CLASSES
  first, *_ = SHARDS
  direct = ','.join(f'{tmp_path}/{m}/{first}' for m, _ in LEVELS)
  labels = aggregate(direct, tmp_path / 'c')
  assert set(labels['filename']) == {prediction_files.UNNAMED_SHARD}
  with pytest.raises(ValueError, match='stands in 2 folders, .* list the'):
    prediction_files.find(str(tmp_path / '*' / first / '*.csv'))
