"""Laws of measuring: layouts agree, images count once, faults are named."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from robustness_tests import (
  image_arrays,
  image_folders,
  image_sets,
  imagenet_corruptions,
  summarize,
  views,
)
from tests import test_inference
from utils import (
  csvs,
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

SIZE = 24
# Their alphabetical order is not that of the classes.
KEYS = ('n03', 'n01', 'n02', 'n00')
IMAGES = 9


def picture(index, size=(SIZE, SIZE)):
  rng = np.random.default_rng(index)
  pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
  pixels = tf.image.resize(pixels, size, method='bicubic')
  pixels = tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)
  return tf.io.encode_jpeg(pixels, quality=95).numpy()


def pictures(number=IMAGES, size=(SIZE, SIZE)):
  """Class id and bytes of each image."""
  return [(i % len(KEYS), picture(i, size)) for i in range(number)]


def describe(folder, splits=None, **more):
  fields = {
    'name': 'tiny',
    'class_names': ('ant', 'bee', 'cat', 'dog'),
    'class_keys': KEYS,
    'image_size': SIZE,
    'resize_size': SIZE + 4,
    'splits': splits or {},
  }
  image_records.write(str(folder), image_records.ImageRecords(**fields | more))
  return str(folder)


def file_name(index):
  return f'val_{index:04d}.JPEG'


def write_own(folder, images, dialect=tfrecords.ORIGINAL, **more):
  path = paths.shard(str(folder), 'validation', 0, 1)
  extra = {'stored_class_label': 0} if dialect == tfrecords.PIE else None
  shard = shard_files.write(
    path,
    [
      tfrecords.encode(file_name(i), data, label, extra=extra, dialect=dialect)
      for i, (label, data) in enumerate(images)
    ],
  )
  describe(
    folder,
    {'validation': {storage.name(path): shard}},
    label_base=dialect.label_base,
    **more,
  )


def write_tfds(folder, images, shards=2, name='imagenet2012_corrupted'):
  """As TFDS prepares them: 0-based labels and a dataset_info.json."""
  split = 'test' if name == 'imagenet_a' else 'validation'
  lengths = []
  for number in range(shards):
    some = [(i, *images[i]) for i in range(number, len(images), shards)]
    examples = [
      tf.train.Example(
        features=tf.train.Features(
          feature={
            'image': tf.train.Feature(
              bytes_list=tf.train.BytesList(value=[data])
            ),
            'label': tf.train.Feature(
              int64_list=tf.train.Int64List(value=[label])
            ),
            'file_name': tf.train.Feature(
              bytes_list=tf.train.BytesList(value=[file_name(i).encode()])
            ),
          }
        )
      ).SerializeToString()
      for i, label, data in some
    ]
    path = f'{name}-{split}.tfrecord-{number:05d}-of-{shards:05d}'
    shard_files.write(str(folder / path), examples)
    lengths.append(str(len(some)))
  (folder / 'dataset_info.json').write_text(
    json.dumps({'splits': [{'name': split, 'shardLengths': lengths}]})
  )


def write_folders(folder, images, keys=KEYS):
  for i, (label, data) in enumerate(images):
    path = folder / keys[label] / file_name(i)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope='module')
def members(tmp_path_factory):
  root = tmp_path_factory.mktemp('members')
  architecture = resnet_model.Architecture(18, 0.125, len(KEYS))
  for level in ((populations.BASELINE, 0.0), ('threshold', 0.9)):
    test_inference.write_member(root, *level, 0, architecture)
  return str(root)


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  return describe(tmp_path_factory.mktemp('clean'))


def run(members, data, dest, **more):
  options = {
    'dataset_name': 'tiny_c',
    'corruption_type': (),
    'mode': 'eval',
    'batch_size': 4,
    'preprocessing_name': 'legacy',
    'compute_precision': 'float32',
    'label_smoothing': 0.1,
  } | more
  imagenet_corruptions.run(members, str(data), str(dest), **options)
  return results(dest)


def results(dest):
  """Rows of all results, by file name and class, without the loss."""
  files = sorted(dest.rglob('*.csv'))
  return {
    str(path.relative_to(dest)): csvs.read(tables.ROBUSTNESS, str(path))
    for path in files
  }


def write_arrays(folder, severities):
  """As CIFAR-10-C comes: images of each severity one after another."""
  folder.mkdir(parents=True, exist_ok=True)
  labels = [label for images in severities for label, _ in images]
  arrays = [
    tf.io.decode_jpeg(data).numpy()
    for images in severities
    for _, data in images
  ]
  np.save(folder / 'fog.npy', np.stack(arrays))
  np.save(folder / 'labels.npy', np.array(labels, np.uint8))


def assert_equal(one, other):
  assert set(one) == set(other)
  assert one
  for name, frame in one.items():
    loss, other_loss = frame.pop('loss'), other[name].pop('loss')
    # Another order is another batch, which changes the last digits.
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    pd.testing.assert_frame_equal(frame, other[name])


def test_layouts_give_the_same_metrics(members, clean, tmp_path):
  """Cropped images as folders, as TFDS's records and as own records."""
  for severity in (1, 2):
    images = [
      (label, picture(100 * severity + i)) for i, (label, _) in
      enumerate(pictures())
    ]  # fmt: skip
    name = f'fog_{severity}'
    write_own(tmp_path / 'own' / name / '1.0.0', images, resize_size=SIZE)
    write_tfds(tmp_path / 'tfds' / name / '3.1.0', images)
    write_folders(tmp_path / 'folders' / 'fog' / str(severity), images)
  own = run(members, tmp_path / 'own', tmp_path / 'out own')
  assert len(own) == 4
  for layout in ('tfds', 'folders'):
    found = run(
      members,
      tmp_path / layout,
      tmp_path / f'out {layout}',
      clean_data_directory=clean,
    )
    own = results(tmp_path / 'out own')
    assert_equal(own, found)
  # Another image or another crop would be seen, by dense networks at least.
  write_own(tmp_path / 'cropped', images)
  run(members, tmp_path / 'cropped', tmp_path / 'out cropped')
  losses = [
    frame['loss'].iloc[0]
    for folder in ('out own', 'out cropped')
    for name, frame in results(tmp_path / folder).items()
    if populations.BASELINE in name
  ]
  assert len(losses) == 3
  assert np.diff(np.sort(losses)).min() > 1e-3


def test_kept_predictions_are_those_that_were_measured(members, tmp_path):
  """Also where only they are missing; then nothing else changes."""
  write_own(tmp_path / 'own' / 'fog_1' / '1.0.0', pictures())
  measured = run(members, tmp_path / 'own', tmp_path / 'out')
  kept = tmp_path / 'kept'
  again = run(
    members,
    tmp_path / 'own',
    tmp_path / 'out',
    predictions_directory=str(kept),
  )
  assert_equal(measured, again)
  found = sorted(kept.rglob('*.csv'))
  assert len(found) == len(measured) == 2
  for path in found:
    assert path.parent.name == 'fog_1'
    rows = csvs.read(tables.PREDICTIONS, str(path))
    (of,) = (
      frame
      for frame in measured.values()
      if frame['pruning_method'].iloc[0] == rows['pruning_method'].iloc[0]
    )
    right = rows['predictions'] == rows['true_class']
    assert right.mean() == of['eval_accuracy'].iloc[0]
    assert rows['predicted_probability'].between(0, 1).all()
  found[0].unlink()
  run(
    members,
    tmp_path / 'own',
    tmp_path / 'out',
    predictions_directory=str(kept),
    compress_predictions=True,
  )
  assert sorted(kept.rglob('*.csv*')) == sorted(
    [found[0].with_name(f'{found[0].name}.gz'), *found[1:]]
  )


def open_tiny(folder, clean):
  (one,) = image_sets.find_sets(str(folder), ())
  return image_sets.open_set(
    one,
    'eval',
    len(KEYS),
    image_records.read(clean),
    folder_reader=lambda records: None,
    array_reader=lambda records: None,
  )


@pytest.mark.parametrize('version', ['3.0.1', '3.1.0'])
def test_a_set_of_the_input_size_is_not_cropped_again(
  members, clean, tmp_path, version
):
  """Whatever TFDS's version, the images' size says whether they are cropped."""
  small, whole = pictures(), pictures(size=(SIZE + 9, SIZE + 20))
  for images, resize_size, folder in (
    (small, SIZE, 'small'),
    (whole, SIZE + 4, 'whole'),
  ):
    data = tmp_path / folder
    write_tfds(data / 'fog_1' / version, images)
    assert open_tiny(data, clean).records.resize_size == resize_size
    write_folders(tmp_path / f'{folder} folders' / 'fog' / '1', images)
    found = open_tiny(tmp_path / f'{folder} folders', clean)
    assert found.records.resize_size == resize_size
  # What the network sees then are the pixels as they are.
  predictor = inference.Predictor(
    batch_size=4,
    preprocessing_name='legacy',
    precision='float32',
    label_smoothing=0.0,
  )
  for folder in ('small', 'whole'):
    data_set = open_tiny(tmp_path / folder, clean)
    reader = predictor._reader(data_set, tfrecords.TFDS)
    keys, _, pixels = next(reader.read(data_set.shards[0], data_set.records))
    assert pixels.shape[1:] == (SIZE, SIZE, 3)
    stored = tf.io.decode_jpeg(picture(int(keys[0][4:8]))).numpy()
    assert np.array_equal(pixels[0], stored) == (folder == 'small')


def test_a_description_does_not_make_a_corrupted_set_cropped_again(
  clean, tmp_path
):
  write_own(tmp_path / 'c' / 'fog_1', pictures())
  assert open_tiny(tmp_path / 'c', clean).records.resize_size == SIZE
  # PIEs are treated like the images they were taken from.
  write_own(tmp_path / 'pie', pictures(), tfrecords.PIE)
  assert open_tiny(tmp_path / 'pie', clean).records.resize_size == SIZE + 4


@pytest.mark.parametrize('number', [1, 3, 4, 5])
@pytest.mark.parametrize('layout', ['own', 'tfds', 'folders'])
def test_every_image_counts_once(members, clean, tmp_path, number, layout):
  """Batches hold 4 images."""
  write = {'own': write_own, 'tfds': write_tfds, 'folders': write_folders}
  options = {'shards': 1} if layout == 'tfds' else {}
  write[layout](tmp_path / 'data', pictures(number), **options)
  found = run(
    members, tmp_path / 'data', tmp_path / 'out', clean_data_directory=clean
  )
  assert len(found) == 2
  for frame in found.values():
    assert (frame['num_images'] == number).all()
    assert frame['support'].sum() == number
    assert frame['predicted_count'].sum() == number
    assert list(frame['support']) == [
      len(range(label, number, len(KEYS))) for label in range(len(KEYS))
    ]
    assert frame['eval_accuracy'].iloc[0] == (
      frame['correct_count'].sum() / number
    )


def test_pie_records_are_measured_by_their_own_label_base(members, tmp_path):
  for name, dialect in (('a', tfrecords.PIE), ('b', tfrecords.ORIGINAL)):
    write_own(tmp_path / name, pictures(), dialect)
    run(members, tmp_path / name, tmp_path / f'out {name}', dataset_name='p')
  assert_equal(results(tmp_path / 'out a'), results(tmp_path / 'out b'))
  (path,) = (tmp_path / 'out a').rglob('*threshold*.csv')
  assert path.parent.relative_to(tmp_path / 'out a').as_posix() == 'p/all'


def test_a_shard_without_pies_loses_no_other(members, tmp_path):
  write_own(tmp_path / 'a', pictures(), tfrecords.PIE)
  first, second = (
    paths.shard(str(tmp_path / 'b'), 'validation', number, 2)
    for number in range(2)
  )
  empty = shard_files.write(first, [])
  (source,) = (tmp_path / 'a').glob('validation*')
  (tmp_path / 'b' / storage.name(second)).write_bytes(source.read_bytes())
  full = image_records.Shard(IMAGES, source.stat().st_size)
  names = {storage.name(first): empty, storage.name(second): full}
  describe(tmp_path / 'b', {'validation': names}, label_base=0)
  for name in 'ab':
    run(members, tmp_path / name, tmp_path / f'out {name}')
  assert_equal(results(tmp_path / 'out a'), results(tmp_path / 'out b'))


def write_labels(path, keys, pies, fraction=0.9):
  index = np.arange(len(keys))
  frame = pd.DataFrame({'image_key': keys, 'image_index': index}).assign(
    pruning_method='threshold',
    pruning_fraction=fraction,
    filename='shard',
    baseline_modal_label=0,
    variant_modal_label=[int(i in pies) for i in index],
  )
  for column in tables.MODAL_LABELS.columns:
    if column.name not in frame:
      frame[column.name] = 0
  csvs.write(tables.MODAL_LABELS, frame, str(path))


@pytest.mark.parametrize('layout', ['own', 'folders'])
def test_pies_and_the_others_are_measured_apart(
  members, clean, tmp_path, layout
):
  """Images are found by key, or by file name where there are folders."""
  write = {'own': write_own, 'folders': write_folders}[layout]
  folder = {'own': 'fog_1', 'folders': 'fog/1'}[layout]
  write(tmp_path / 'data' / folder, pictures())
  labels = tmp_path / 'labels' / 'a.csv'
  pies = (1, 2, 6, 7)
  write_labels(labels, [file_name(i) for i in range(IMAGES)], pies)
  options = {'clean_data_directory': clean, 'modal_labels': str(labels)}
  found = run(members, tmp_path / 'data', tmp_path / 'out', **options)
  assert {name.split('/')[0] for name in found} == {
    'tiny_c',
    'tiny_c_pie',
    'tiny_c_non_pie',
  }
  of_class = {
    name: np.array([sum(i % 4 == c for i in images) for c in range(4)])
    for name, images in {
      'tiny_c': range(IMAGES),
      'tiny_c_pie': pies,
      'tiny_c_non_pie': set(range(IMAGES)) - set(pies),
    }.items()
  }
  correct = {}
  for path, frame in found.items():
    name, _, member = path.split('/')
    assert list(frame['support']) == list(of_class[name])
    assert set(frame['dataset_name']) == {name}
    correct[name, member] = frame['correct_count'].sum()
  for member in {member for _, member in correct}:
    assert correct['tiny_c', member] == (
      correct['tiny_c_pie', member] + correct['tiny_c_non_pie', member]
    )
  for keys, pies, match in (
    ([file_name(i) for i in range(IMAGES - 1)], (1,), 'has 8.*val_0008.JPEG'),
    ([file_name(i) for i in range(IMAGES + 1)], (1,), 'has 10.*val_0009.JPEG'),
    ([file_name(i) for i in range(IMAGES)], (), '0 of 9 images .* are PIEs'),
  ):
    write_labels(labels, keys, pies)
    with pytest.raises(ValueError, match=match):
      run(members, tmp_path / 'data', tmp_path / 'other', **options)
  write_labels(labels, ['a', 'b'], (1,))
  write_labels(labels.with_name('b.csv'), ['a', 'b'], (1,), 0.5)
  options['modal_labels'] = str(labels.parent)
  with pytest.raises(ValueError, match='holds the levels .*0.9.*0.5'):
    run(members, tmp_path / 'data', tmp_path / 'other', **options)
  assert not list((tmp_path / 'other').rglob('*.csv'))


@pytest.fixture(scope='module')
def thousand(tmp_path_factory):
  """A network of 1,000 classes, and the keys of the classes."""
  root = tmp_path_factory.mktemp('thousand')
  test_inference.write_member(
    root,
    populations.BASELINE,
    0.0,
    0,
    resnet_model.Architecture(18, 0.125, 1000),
  )
  order = np.random.default_rng(0).permutation(1000)
  return str(root), tuple(f'n{i:08d}' for i in order)


def imagenet_a():
  return [
    (label, picture(label, (SIZE + 5, SIZE + 12)))
    for label in views.IMAGENET_A_CLASSES
  ]


@pytest.mark.parametrize('layout', ['tfds', 'folders'])
def test_imagenet_a_is_scored_on_its_classes_and_on_all(
  thousand, tmp_path, layout
):
  root, keys = thousand
  clean = describe(
    tmp_path / 'clean',
    class_keys=keys,
    class_names=tuple(map(str, range(1000))),
  )
  images = imagenet_a()
  data = tmp_path / 'imagenet_a'
  if layout == 'tfds':
    write_tfds(data / '0.1.0', images, 1, 'imagenet_a')
  else:
    write_folders(data, images, keys)
    (data / 'README.txt').write_text('The authors have one.')
  found = run(
    root,
    data,
    tmp_path / 'out',
    dataset_name='imagenet_a',
    clean_data_directory=clean,
  )
  assert {name.split('/')[0] for name in found} == {
    'imagenet_a',
    'imagenet_a_all_classes',
  }
  of_200, of_all = (frame for _, frame in sorted(found.items()))
  # A second implementation: own records, predicted without a subset.
  write_own(
    tmp_path / 'own',
    images,
    class_keys=keys,
    class_names=tuple(map(str, range(1000))),
  )
  shards = image_records.find_shards(str(tmp_path / 'own'), 'eval')
  ((_, _, wanted),) = inference.predict(
    member_paths.find(root),
    shards,
    tfrecords.describe(shards),
    batch_size=64,
    preprocessing_name='legacy',
    precision='float32',
    label_smoothing=0.1,
    class_subset=views.IMAGENET_A_CLASSES,
  )
  truth = wanted['true_class']
  for frame, column in (
    (of_200, 'restricted_predictions'),
    (of_all, 'predictions'),
  ):
    assert frame['num_images'].iloc[0] == 200
    assert frame['eval_accuracy'].iloc[0] == (truth == wanted[column]).mean()
    pd.testing.assert_series_equal(
      frame['predicted_count'].astype('int64'),
      pd.Series(np.bincount(wanted[column], minlength=1000)),
      check_names=False,
    )
  outside = set(range(1000)) - set(views.IMAGENET_A_CLASSES)
  assert of_200['predicted_count'][sorted(outside)].sum() == 0
  assert of_all['predicted_count'][sorted(outside)].sum() > 0
  # Top-5 and loss are those over all classes, and stand there only.
  assert math.isnan(of_200['top_5_eval_accuracy'].iloc[0])
  assert of_all['top_5_eval_accuracy'].notna().all()


@pytest.mark.parametrize('change', ['missing', 'extra'])
def test_other_classes_than_imagenet_a_has_are_refused(
  thousand, tmp_path, change
):
  images = imagenet_a()
  images = images[1:] if change == 'missing' else [*images, (0, picture(0))]
  write_own(
    tmp_path / 'a',
    images,
    class_keys=(),
    class_names=tuple(map(str, range(1000))),
  )
  with pytest.raises(
    ValueError, match='wanted the 200 of ImageNet-A.*1 are in'
  ):
    run(
      thousand[0], tmp_path / 'a', tmp_path / 'out', dataset_name='imagenet_a'
    )
  assert not list((tmp_path / 'out').rglob('*.csv'))


def test_imagenet_a_needs_a_network_of_imagenet(members, tmp_path):
  write_own(tmp_path / 'a', pictures())
  with pytest.raises(ValueError, match='reach from 6 to 988.*has 4'):
    run(members, tmp_path / 'a', tmp_path / 'out', dataset_name='imagenet_a')


def test_killed_and_run_again_equals_never_killed(
  members, tmp_path, monkeypatch
):
  for name in ('fog_1', 'fog_2', 'snow_1'):
    write_own(tmp_path / 'c' / name, pictures(), resize_size=SIZE)
  run(members, tmp_path / 'c', tmp_path / 'whole')
  write_metrics, calls = imagenet_corruptions.write_metrics, []

  def killed(*args):
    calls.append(args)
    if len(calls) == 4:
      raise KeyboardInterrupt
    write_metrics(*args)

  monkeypatch.setattr(imagenet_corruptions, 'write_metrics', killed)
  with pytest.raises(KeyboardInterrupt):
    run(members, tmp_path / 'c', tmp_path / 'out')
  monkeypatch.undo()
  kept = {
    path: path.stat().st_mtime_ns for path in tmp_path.rglob('out/*/*/*.csv')
  }
  assert len(kept) == 3
  run(members, tmp_path / 'c', tmp_path / 'out')
  bytes_of = {
    name: {
      str(path.relative_to(tmp_path / name)): path.read_bytes()
      for path in (tmp_path / name).rglob('*.csv')
    }
    for name in ('whole', 'out')
  }
  assert len(bytes_of['out']) == 6
  assert bytes_of['out'] == bytes_of['whole']
  assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_one_reader_and_one_trace_serve_all_sets(
  members, clean, tmp_path, monkeypatch
):
  for name, severity in itertools.product(('fog', 'snow'), (1, 2)):
    write_folders(tmp_path / 'c' / name / str(severity), pictures())
  made = []
  reader = image_folders.FolderReader
  monkeypatch.setattr(
    image_folders,
    'FolderReader',
    lambda *args: made.append(reader(*args)) or made[-1],
  )
  run(members, tmp_path / 'c', tmp_path / 'out', clean_data_directory=clean)
  (only,) = made
  assert only._dataset.experimental_get_tracing_count() == 1


def test_the_summary_reads_what_is_written(members, tmp_path):
  for name, severity in itertools.product(('fog', 'snow'), (1, 2)):
    images = [(i % 4, picture(i * severity)) for i in range(IMAGES)]
    write_own(tmp_path / 'c' / f'{name}_{severity}', images, resize_size=SIZE)
  found = run(members, tmp_path / 'c', tmp_path / 'out')
  summarize.run(str(tmp_path / 'out'), '', str(tmp_path / 'sum'), False)
  summary = csvs.read(
    tables.ROBUSTNESS_SUMMARY,
    paths.robustness_summary(str(tmp_path / 'sum')),
  )
  row = summary[
    (summary['corruption'] == 'all')
    & (summary['corruption_intensity'] == 0)
    & (summary['fraction_pruned'] == 0.9)
  ]
  wanted = np.mean(
    [
      frame['eval_accuracy'].iloc[0]
      for frame in found.values()
      if frame['fraction_pruned'].iloc[0] == 0.9
    ]
  )
  assert row['mean_accuracy'].item() == pytest.approx(wanted)


def test_sets_are_found_sorted_and_chosen_by_name(tmp_path, caplog):
  for name in ('snow_10', 'fog_2', 'gaussian_noise_1', 'fog_1', 'snow/3'):
    (tmp_path / name).mkdir(parents=True)
  with pytest.raises(ValueError, match='snow_10 has severity 10, wanted 1, 2'):
    image_sets.find_sets(str(tmp_path), ())
  (tmp_path / 'snow_10').rmdir()
  found = image_sets.find_sets(str(tmp_path), ())
  names = ['fog_1', 'fog_2', 'gaussian_noise_1', 'snow_3']
  assert [one.name for one in found] == names
  chosen = image_sets.find_sets(str(tmp_path), ('fog', 'snow_3'))
  assert [one.name for one in chosen] == ['fog_1', 'fog_2', 'snow_3']
  with pytest.raises(FileNotFoundError, match="'fog_3' in .*'fog_1', 'fog_2'"):
    image_sets.find_sets(str(tmp_path), ('fog_3',))
  (tmp_path / 'blur4').mkdir()
  image_sets.find_sets(str(tmp_path), ())
  assert "['blur4'], which are not called" in caplog.text
  (tmp_path / 'snow' / '0').mkdir()
  with pytest.raises(ValueError, match='snow/0 has severity 0'):
    image_sets.find_sets(str(tmp_path), ())
  (tmp_path / 'snow' / '0').rmdir()
  (tmp_path / 'snow_3').mkdir()
  with pytest.raises(ValueError, match='are both snow_3'):
    image_sets.find_sets(str(tmp_path), ())
  (tmp_path / 'fog_1' / '3.0.1').mkdir()
  (tmp_path / 'fog_1' / '3.1.0').mkdir()
  with pytest.raises(ValueError, match=r'fog_1 holds 2 versions \(3.0.1, 3.1'):
    image_sets.find_sets(str(tmp_path), ())
  with pytest.raises(FileNotFoundError, match='nowhere'):
    image_sets.find_sets(str(tmp_path / 'nowhere'), ())


def damage(folder, fault):
  """Makes one thing wrong with folders of images; what is to be named."""
  wrong = folder / 'n01' / 'more.JPEG'
  if fault == 'undecodable':
    wrong.write_bytes(picture(3)[:-200])
  elif fault == 'empty file':
    wrong.write_bytes(b'')
  elif fault == 'not an image':
    wrong = wrong.with_suffix('.txt')
    wrong.write_text('')
  elif fault == 'empty folder':
    for path in (folder / 'n01').iterdir():
      path.unlink()
    wrong = folder / 'n01'
  elif fault == 'unknown class':
    wrong = folder / 'n77'
    wrong.mkdir()
  elif fault == 'loose image':
    wrong = folder / 'more.JPEG'
    wrong.write_bytes(picture(3))
  return wrong


@pytest.mark.parametrize(
  'fault',
  [
    'undecodable',
    'empty file',
    'not an image',
    'empty folder',
    'unknown class',
    'loose image',
  ],
)
def test_faults_of_folders_are_named(members, clean, tmp_path, fault):
  write_folders(tmp_path / 'c' / 'fog' / '1', pictures())
  wrong = damage(tmp_path / 'c' / 'fog' / '1', fault)
  with pytest.raises(ValueError, match=f'{wrong}'):
    run(members, tmp_path / 'c', tmp_path / 'out', clean_data_directory=clean)
  assert not list((tmp_path / 'out').rglob('*.csv'))


@pytest.mark.parametrize('change', ['another', 'one more', 'one less'])
def test_folders_that_changed_are_noticed(members, clean, tmp_path, change):
  folder = tmp_path / 'c' / 'fog' / '1'
  write_folders(folder, pictures())
  given = members, tmp_path / 'c', tmp_path / 'out'
  run(*given, clean_data_directory=clean)
  (folder / 'n01' / 'Thumbs.db').write_text('of a file manager')
  run(*given, clean_data_directory=clean)
  image = next(folder.glob('n01/*.JPEG'))
  if change == 'one less':
    image.unlink()
  else:
    image = image.with_stem('more') if change == 'one more' else image
    image.write_bytes(picture(77))
  with pytest.raises(ValueError, match='other settings: sets fog_1 was'):
    run(*given, clean_data_directory=clean)


def test_folders_need_to_know_their_classes(members, tmp_path):
  write_folders(tmp_path / 'c' / 'fog' / '1', pictures())
  with pytest.raises(
    ValueError, match='fog/1 holds folders and.*clean_data_dir'
  ):
    run(members, tmp_path / 'c', tmp_path / 'out')
  keyless = describe(tmp_path / 'clean', class_keys=())
  with pytest.raises(ValueError, match='that has class_keys'):
    run(members, tmp_path / 'c', tmp_path / 'out', clean_data_directory=keyless)
  with pytest.raises(FileNotFoundError):
    run(
      members, tmp_path / 'c', tmp_path / 'out', clean_data_directory='nowhere'
    )


@pytest.mark.parametrize(
  ('more', 'match'),
  [
    (
      {'class_keys': sorted(KEYS)},
      "class 0 'n00', that of .* 'n03': class_keys",
    ),
    (
      {'class_names': ('ant', 'cat', 'bee', 'dog')},
      "class 1 'cat', that of .* 'bee': class_names differ",
    ),
  ],
)
def test_sets_whose_classes_have_another_order_are_refused(
  members, clean, tmp_path, more, match
):
  write_own(tmp_path / 'c' / 'fog_1', pictures(), **more)
  with pytest.raises(ValueError, match=match):
    run(members, tmp_path / 'c', tmp_path / 'out', clean_data_directory=clean)
  assert not list((tmp_path / 'out').rglob('*.csv'))


def test_faults_of_records_are_named(members, clean, tmp_path):
  data = tmp_path / 'c' / 'fog_1'
  options = {'clean_data_directory': clean}

  def refused(match, error=ValueError):
    with pytest.raises(error, match=match):
      run(members, tmp_path / 'c', tmp_path / 'out', **options)

  data.mkdir(parents=True)
  refused('no TFRecord shard of the eval split in .*fog_1', FileNotFoundError)
  images = pictures()
  write_own(data, images)
  (data / 'image_records.json').unlink()
  refused('fog_1 has no image_records.json: it is not complete')
  (data / 'validation-00000-of-00001').unlink()
  write_tfds(data, [*images[:3], (1, images[3][1][:-200]), *images[4:]], 1)
  refused(r"tfrecord-00000-of-00001, record 3, key 'val_0003.JPEG'.*complete")
  write_tfds(data, [*images[:3], (4, images[3][1])], 1)
  refused("record 3, key 'val_0003.JPEG': the feature 'label' is 4, wanted 0")
  # Cut between two records, which TFRecord does not notice.
  write_tfds(data, images, 1)
  info = (data / 'dataset_info.json').read_text()
  write_tfds(data, images[:-1], 1)
  (data / 'dataset_info.json').write_text(info)
  refused('holds 8 records, but image_records.json declares 9')
  for text, match in (
    ('{', 'dataset_info.json: wanted splits'),
    ('[]', 'dataset_info.json: wanted splits'),
    ('{"splits": [{}]}', 'dataset_info.json: wanted splits.*name'),
    (info.replace('"9"', '"8", "1"'), 'declares 2 shards of .*valid.* are 1'),
  ):
    (data / 'dataset_info.json').write_text(text)
    refused(match)
  (data / 'dataset_info.json').write_text(
    '{"splits": [{"name": "validation"}]}'
  )
  (one,) = image_sets.find_sets(str(tmp_path / 'c'), ())
  shards = image_records.find_shards(one.folder, 'eval')
  assert not image_sets.counts_of_tfds(one.folder, 'eval', shards)
  assert not list((tmp_path / 'out').rglob('*.csv'))


def test_small_sample_is_measured(tmp_path):
  """The untrained network's folder lies beside the shards."""
  found = run(
    *inference.small_sample(str(tmp_path)), tmp_path / 'out', dataset_name='s'
  )
  (frame,) = found.values()
  assert frame['num_images'].iloc[0] == frame['support'].sum() == 20


def test_bad_arguments_are_named(members, tmp_path):
  write_own(tmp_path / 'c' / 'fog_1', pictures())
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    run(str(tmp_path / 'none'), tmp_path / 'c', tmp_path / 'out')
  with pytest.raises(FileNotFoundError, match="no set 'snow'"):
    run(members, tmp_path / 'c', tmp_path / 'out', corruption_type=('snow',))


def severities():
  """Five sets of images that differ, with the labels of the first."""
  return [
    [(i % len(KEYS), picture(100 * s + i)) for i in range(IMAGES)]
    for s in range(5)
  ]


def test_arrays_give_the_metrics_of_folders(members, clean, tmp_path):
  """And the images are called by their place, whatever their severity."""
  images = severities()
  write_arrays(tmp_path / 'arrays', images)
  found = image_sets.find_sets(str(tmp_path / 'arrays'), ('fog',))
  assert [one.name for one in found] == [f'fog_{s}' for s in range(1, 6)]
  for number, of_one in enumerate(images, 1):
    write_folders(tmp_path / 'folders' / 'fog' / str(number), of_one)
  found = {
    name: run(
      members,
      tmp_path / name,
      tmp_path / 'out' / name,
      clean_data_directory=clean,
      corruption_type=('fog_1', 'fog_5'),
    )
    for name in ('arrays', 'folders')
  }
  assert_equal(found['arrays'], found['folders'])


def test_images_of_arrays_are_called_as_those_of_the_archive(clean, tmp_path):
  write_arrays(tmp_path, severities())
  records = image_records.read(clean)
  reader = image_arrays.ArrayReader(records, 'legacy', 4)
  batches = list(reader.read(str(tmp_path / 'fog.npy' / '3'), records))
  keys = [key for of_batch, _, _ in batches for key in of_batch]
  assert keys == [f'test/{i:05d}' for i in range(IMAGES)]
  labels = np.concatenate([labels for _, labels, _ in batches])
  assert labels.tolist() == [i % len(KEYS) for i in range(IMAGES)]


def fail(_):
  raise AssertionError('a pickle was opened')


class Pickled:
  """What says that it was unpickled."""

  def __reduce__(self):
    return fail, (0,)


@pytest.mark.parametrize(
  ('name', 'array', 'message'),
  [
    ('fog', np.zeros((46, 8, 8, 3), np.uint8), 'has 46 images, wanted 5 sev'),
    ('fog', np.zeros((45, 8, 8), np.uint8), r'uint8 of \(45, 8, 8\), wanted'),
    ('fog', np.zeros((45, 8, 8, 3)), 'float64 of .*, wanted uint8'),
    ('fog', np.array([Pickled()]), 'pickles are not opened'),
    ('fog', b'\x93NUMPY', 'no complete array'),
    ('labels', np.zeros(44, np.uint8), 'each of the 45 images of fog.npy'),
    ('labels', np.zeros(45), 'is float64 of .*, wanted a whole number'),
    ('labels', np.full(45, 4), 'labels from 4 to 4, wanted 0 to 3'),
  ],
)
def test_faults_of_arrays_are_named(clean, tmp_path, name, array, message):
  write_arrays(tmp_path, severities())
  path = tmp_path / f'{name}.npy'
  if isinstance(array, bytes):
    path.write_bytes(array)
  else:
    np.save(path, array)
  with pytest.raises(ValueError, match=f'{path}.*{message}'):
    image_arrays.load(str(tmp_path / 'fog.npy' / '1'), len(KEYS))


def test_arrays_that_lost_their_end_or_labels_are_named(tmp_path):
  write_arrays(tmp_path, severities())
  path = tmp_path / 'fog.npy'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match='fog.npy is no complete array'):
    image_arrays.load(str(path / '1'), len(KEYS))
  (tmp_path / 'labels.npy').unlink()
  with pytest.raises(FileNotFoundError, match='no labels.npy in .*fog.npy'):
    image_sets.find_sets(str(tmp_path), ())


def test_arrays_want_a_description(members, tmp_path):
  write_arrays(tmp_path / 'c', severities())
  with pytest.raises(ValueError, match='wanted --clean_data_directory'):
    run(members, tmp_path / 'c', tmp_path / 'out')
