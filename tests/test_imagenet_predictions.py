"""The script of predictions: the original's checkpoints and records, reruns."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pie_dataset_gen import imagenet_predictions
from tests import reference_values, test_inference
from utils import (
  csvs,
  data_input,
  member_paths,
  paths,
  populations,
  preprocessing,
  resnet_model,
  tables,
)

MEAN = [255 * m for m in (0.485, 0.456, 0.406)]
STD = [255 * s for s in (0.229, 0.224, 0.225)]


def jpegs():
  folder = reference_values.FOLDER / 'jpeg'
  return {path.stem: path.read_bytes() for path in sorted(folder.glob('*.jpg'))}


def original_record(key, encoded, label, text):
  """A record as the original's reader expects it."""

  def feature(value):
    if isinstance(value, int):
      return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

  features = {
    'image/encoded': feature(encoded),
    'image/class/label': feature(label),
    'image/class/text': feature(text.encode()),
  }
  if key:
    features['key_'] = feature(key.encode())
  return tf.train.Example(
    features=tf.train.Features(feature=features)
  ).SerializeToString()


@pytest.mark.parametrize('variant', ['baseline', 'threshold'])
def test_the_originals_checkpoints_predict_the_originals_records(
  tmp_path, variant
):
  tensors = {
    name: reference_values.value(name, shape)
    for name, shape, _ in reference_values.variables(variant)
  }
  fraction = {'baseline': '0.0', 'threshold': '0.7'}[variant]
  folder = tmp_path / 'exp' / variant / fraction / '5000' / '8000' / '500' / '0'
  folder.mkdir(parents=True)
  tf.raw_ops.SaveV2(
    prefix=str(folder / 'model.ckpt-32000'),
    tensor_names=list(tensors),
    shape_and_slices=[''] * len(tensors),
    tensors=list(map(tf.constant, tensors.values())),
  )
  images = jpegs()
  labels = [1, 500, 1000]
  shard = tmp_path / 'imagenet-with-bbox-validation-00000-of-00001'
  with tf.io.TFRecordWriter(str(shard)) as writer:
    for (stem, encoded), label in zip(images.items(), labels, strict=True):
      key = '' if stem.startswith('img4') else stem
      writer.write(original_record(key, encoded, label, f'name of {label}'))
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'pie_dataset_gen.imagenet_predictions',
      f'--ckpt_dir={folder}/model.ckpt-32000',
      f'--data_directory={shard}',
      f'--output_path={tmp_path}/out',
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "taken to be ImageNet's" in done.stderr
  (path,) = (tmp_path / 'out').rglob('*.csv')
  frame = csvs.read(tables.PREDICTIONS, str(path))
  assert list(frame['true_class']) == [0, 499, 999]
  assert list(frame['image_key']) == [
    'img0_500x375',
    'img1_375x500',
    f'{shard.name}__2',
  ]
  values = {n: v for n, v in tensors.items() if n != 'global_step'}
  architecture = resnet_model.Architecture(50, 1.0, 1000)
  pixels = tf.stack(
    [
      preprocessing.central_crop(
        preprocessing.decode(tf.constant(encoded)), 256, 224, 'legacy'
      )
      for encoded in images.values()
    ]
  )
  logits = resnet_model.folded_forward(
    resnet_model.normalise(pixels, MEAN, STD),
    resnet_model.fold_batch_norm(values, architecture),
    architecture,
  ).numpy()
  np.testing.assert_array_equal(frame['predictions'], logits.argmax(1))


@pytest.fixture(scope='module')
def population(tmp_path_factory):
  root = tmp_path_factory.mktemp('population')
  for replicate in range(2):
    test_inference.write_member(root, populations.BASELINE, 0.0, replicate)
    test_inference.write_member(root, 'threshold', 0.9, replicate)
  return str(root), data_input.synthetic_data_set(str(root / 'data'))


def run(population, folder, **options):
  arguments = {
    'ckpt_dir': population[0],
    'data_directory': population[1],
    'output_path': str(folder),
    'mode': 'eval',
    'dataset_name': '',
    'batch_size': 8,
    'preprocessing_name': 'legacy',
    'precision': 'float32',
    'label_smoothing': 0.1,
  }
  imagenet_predictions.run(**arguments | options)
  return {path.name: path.read_bytes() for path in folder.rglob('*.csv')}


def test_runs_give_the_same_bytes_and_finished_files_stay(population, tmp_path):
  one = run(population, tmp_path / 'one')
  assert len(one) == 4
  assert one == run(population, tmp_path / 'two')
  stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / 'one').rglob('*.csv')}
  lost = next(iter(stamps))
  lost.unlink()
  assert one == run(population, tmp_path / 'one')
  for path, stamp in stamps.items():
    assert (path.stat().st_mtime_ns == stamp) == (path != lost)


def test_compressed_files_hold_the_same_and_either_form_is_finished(
  population, tmp_path
):
  wanted = run(population, tmp_path / 'plain')
  out = tmp_path / 'compressed'
  assert not run(population, out, compress_predictions=True)
  found = sorted(out.rglob('*.csv.gz'))
  assert {
    path.name.removesuffix('.gz'): csvs.read_text(str(path)) for path in found
  } == wanted
  stamps = {path: path.stat().st_mtime_ns for path in found}
  # Whatever the flag says, what is there is not predicted again.
  found[0].unlink()
  assert list(run(population, out)) == [found[0].stem]
  run(population, out, compress_predictions=True)
  assert sorted(out.rglob('*.csv.gz')) == found[1:]
  assert all(path.stat().st_mtime_ns == stamps[path] for path in found[1:])


def test_members_may_be_listed_alone_or_by_pattern(population, tmp_path):
  everything = run(population, tmp_path / 'all')
  root = population[0]
  prefixes = [c.prefix for c in member_paths.find(root)]
  for number, pattern in enumerate(
    (','.join(reversed(prefixes)), f'{root}/exp/*/*/*/*/*/*/model.ckpt-10')
  ):
    assert everything == run(
      population, tmp_path / str(number), ckpt_dir=pattern
    )


def test_the_split_and_the_preprocessing_are_recorded(population, tmp_path):
  run(
    population,
    tmp_path,
    mode='train',
    preprocessing_name='modern',
    dataset_name='other',
  )
  folder = tmp_path / 'other' / 'predictions_dataframe' / 'train'
  path = next((folder / 'train-00000-of-00001').glob('*.csv'))
  frame = pd.read_csv(path)
  assert set(frame['split']) == {'train'}
  assert set(frame['preprocessing']) == {preprocessing.version('modern')}
  assert (folder / 'imagenet_predictions.run.json').exists()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'ckpt_dir': '/nowhere/model.ckpt-*'}, '/nowhere/model.ckpt-\\*'),
    ({'data_directory': '/nowhere/val-*'}, '/nowhere/val-\\*'),
    ({'data_directory': ''}, 'no TFRecord file matches'),
    ({'batch_size': 0}, 'batch_size is 0'),
  ],
)
def test_what_is_missing_is_named(population, tmp_path, options, message):
  with pytest.raises((OSError, ValueError), match=message):
    run(population, tmp_path / 'out', **options)
  assert not (tmp_path / 'out').exists()


def command(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'pie_dataset_gen.imagenet_predictions', *flags],
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_small_sample_needs_nothing_and_is_not_the_studys(tmp_path):
  done = command('--test_small_sample', f'--study={tmp_path}/digits')
  assert done.returncode == 0, done.stderr
  (path,) = tmp_path.rglob('*.csv')
  assert path.is_relative_to(tmp_path / 'digits' / 'results' / 'synthetic')
  assert len(pd.read_csv(path)) == 20


def test_a_study_has_the_default_of_every_path(population, tmp_path):
  wanted = run(population, tmp_path / 'flags')
  study = paths.Study(str(tmp_path / 'study'), 'exp')
  shutil.copytree(f'{population[0]}/exp', study.checkpoints)
  shutil.copytree(population[1], study.data)
  done = command(
    f'--study={study.folder}', '--dataset_name=exp', '--batch_size=8'
  )
  assert done.returncode == 0, done.stderr
  found = pathlib.Path(study.predictions).rglob('*.csv')
  assert {path.name: path.read_bytes() for path in found} == wanted


def test_errors_end_in_one_line_and_a_failing_exit(tmp_path):
  flags = [f'--ckpt_dir={tmp_path}/none', f'--output_path={tmp_path}/out']
  for further, message in (
    (['--data_directory=data'], 'error: no checkpoint matches'),
    ([], 'error: --data_directory is missing: wanted it, or --study'),
  ):
    done = command(*flags, *further)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert 'Traceback' not in done.stderr
    assert not os.listdir(tmp_path)
