"""SavedModels, .keras and .tflite files: they predict as described, or not."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tf_keras

from pie_dataset_gen import imagenet_predictions
from tests import keras_resnet
from utils import (
  checkpoints,
  csvs,
  data_input,
  image_records,
  inference,
  keras_archive,
  member_paths,
  network_files,
  paths,
  provenance,
  resnet_model,
  tables,
  tfrecords,
)

ARCHITECTURE = resnet_model.Architecture(18, 0.0625, 10)
OPTIONS = {
  'batch_size': 8,
  'preprocessing_name': 'legacy',
  'precision': 'float32',
  'label_smoothing': 0.1,
}
RAW = {
  'scale': 1.0,
  'mean': (0.0, 0.0, 0.0),
  'deviation': (1.0, 1.0, 1.0),
  'channels': 'RGB',
}


def prefix_of(root, method):
  member = member_paths.Member('exp', method, 0.0, 0, 0, 0, 0)
  prefix = member_paths.prefix_in(str(root / member.folder), 10)
  os.makedirs(os.path.dirname(prefix), exist_ok=True)
  return prefix


def convert(model, **options):
  converter = tf.lite.TFLiteConverter.from_keras_model(model)
  for name, value in options.items():
    setattr(converter, name, value)
  return converter.convert()


@pytest.fixture(scope='module')
def study(tmp_path_factory):
  """One network as a bundle and as three kinds of file, and 20 images."""
  root = tmp_path_factory.mktemp('files')
  folder = data_input.synthetic_data_set(str(root / 'data'))
  shards = image_records.find_shards(folder, 'eval')
  records = tfrecords.describe(shards)
  values = keras_resnet.random_values(ARCHITECTURE)
  checkpoints.write(
    prefix_of(root, 'baseline'), checkpoints.Network(ARCHITECTURE, values, 10)
  )
  model = keras_resnet.model(values, ARCHITECTURE, records.image_size)
  saved = prefix_of(root, 'saved_model')
  model.export(saved)
  model.save(prefix_of(root, 'keras') + '.keras')
  pathlib.Path(prefix_of(root, 'tflite') + '.tflite').write_bytes(
    tf.lite.TFLiteConverter.from_saved_model(saved).convert()
  )
  description = network_files.Description(
    records.image_size,
    1.0,
    records.channel_mean,
    records.channel_std,
    'RGB',
    'logits',
    10,
  )
  for kind in ('saved_model', 'keras', 'tflite'):
    network_files.write(f'{prefix_of(root, kind)}.json', description)
  return root, shards, records, description


def predict(study, found, **options):
  _, shards, records, _ = study
  return {
    checkpoint.member.pruning_method: frame
    for checkpoint, _, frame in inference.predict(
      found, shards, records, **{**OPTIONS, **options}
    )
  }


def test_every_kind_of_file_predicts_as_the_bundle_does(study):
  found = member_paths.find(str(study[0]))
  frames = predict(study, found)
  bundle = frames.pop('baseline')
  assert len(set(bundle['predictions'])) > 1
  assert set(frames) == {'saved_model', 'keras', 'tflite'}
  again = predict(study, found[1:])
  for kind, frame in frames.items():
    pd.testing.assert_frame_equal(frame, again[kind])
    for name in ('image_key', 'predictions', 'top_5_indices'):
      assert list(frame[name]) == list(bundle[name])
    for name in ('predicted_probability', 'cross_entropy'):
      np.testing.assert_allclose(frame[name], bundle[name], atol=1e-5)


def test_files_that_a_csv_lists_are_predicted_and_recorded(study, tmp_path):
  root, shards, records, description = study
  (tflite,) = member_paths.find(str(root / 'exp' / 'tflite'))
  shutil.copy(tflite.completed_by, tmp_path / 'a.tflite')
  # A network, but no copy of the other: what follows its end is not read.
  shutil.copy(tflite.completed_by, tmp_path / 'b.tflite')
  with (tmp_path / 'b.tflite').open('ab') as file:
    file.write(bytes(16))
  one = dataclasses.replace(description, made_from={'quantiser': 'none'})
  network_files.write(str(tmp_path / 'how.json'), one)
  (tmp_path / 'members.csv').write_text(
    'file,pruning_method,fraction_pruned,replicate,description\n'
    'a.tflite,int8,0.0,0,how.json\n'
    'b.tflite,int8,0.0,1,how.json\n'
  )

  def run():
    imagenet_predictions.run(
      str(tmp_path / 'members.csv'),
      shards[0],
      str(tmp_path / 'results'),
      'eval',
      '',
      8,
      'legacy',
      'float32',
      0.1,
    )

  run()
  folder = paths.predictions_folder(
    str(tmp_path / 'results'), records.name, 'eval'
  )
  frame = csvs.read_all(
    tables.PREDICTIONS, csvs.find(tables.PREDICTIONS, folder)
  )
  assert set(frame['pruning_method']) == {'int8'}
  assert set(frame['replicate']) == {0, 1}
  record = provenance.read(paths.provenance(folder, 'imagenet_predictions'))
  recorded = record['settings']['checkpoints']['int8_0.0_0_0_0_0_0']
  assert recorded['description'] == json.loads(
    json.dumps(dataclasses.asdict(one))
  )
  assert str(tmp_path / 'how.json') in {one['path'] for one in record['inputs']}
  network_files.write(
    str(tmp_path / 'how.json'), dataclasses.replace(one, channels='BGR')
  )
  with pytest.raises(ValueError, match='channels was RGB, is BGR'):
    run()


def test_a_record_names_what_files_hold(study, tmp_path):
  root = tmp_path / 'copy'
  shutil.copytree(study[0], root)
  found = member_paths.find(str(root))
  before = network_files.identities(found)
  assert before == network_files.identities(member_paths.find(str(study[0])))
  for checkpoint in found:
    for file in network_files.files(checkpoint):
      assert os.path.exists(file)
  described = dataclasses.asdict(study[3])
  saved, weights, tflite = (
    next(c for c in found if c.kind == kind)
    for kind in ('saved_model', 'keras', 'tflite')
  )
  assert before[weights.file_stem]['description'] == described
  # A weight of a SavedModel lies beside what completes it.
  for file in (
    f'{saved.prefix}/variables/variables.data-00000-of-00001',
    tflite.completed_by,
  ):
    data = bytearray(pathlib.Path(file).read_bytes())
    data[-100] ^= 1
    pathlib.Path(file).write_bytes(data)
  after = network_files.identities(found)
  changed = {stem for stem in before if before[stem] != after[stem]}
  assert changed == {saved.file_stem, tflite.file_stem}


# Small networks: the mean of each channel, moved and mixed.
MIX = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32) / 10


def tiny(
  library=tf_keras, size=(32, 32), classes=10, softmax=False, batch=None
):
  layers = library.layers
  mix = np.resize(MIX, (3, classes))
  images = library.Input((*size, 3), batch_size=batch)
  dense = layers.Dense(
    classes, activation='softmax' if softmax else None, use_bias=False
  )
  model = library.Model(images, dense(layers.GlobalAveragePooling2D()(images)))
  dense.set_weights([mix])
  return model


def described(**changes):
  fields = {'image_size': 32, **RAW, 'output': 'logits', 'num_classes': 10}
  return network_files.Description(**{**fields, **changes})


def opened(folder, model, description, kind='.keras'):
  prefix = prefix_of(folder, 'some')
  if kind == 'saved':
    tf.saved_model.save(model, prefix)
  elif kind == '.tflite':
    pathlib.Path(prefix + kind).write_bytes(
      model if isinstance(model, bytes) else convert(model)
    )
  else:
    model.save(prefix + kind)
  network_files.write(f'{prefix}.json', description)
  (checkpoint,) = member_paths.find(str(folder))
  return inference._OPENERS[checkpoint.kind]('float32', 8, None).open(
    checkpoint
  )


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(1)
  means = rng.uniform(0, 255, (11, 1, 1, 3))
  noise = rng.uniform(-20, 20, (11, 32, 32, 3))
  return np.clip(means + noise, 0, 255).astype(np.float32)


def expected(pixels):
  return pixels.mean(axis=(1, 2)) @ MIX


@pytest.mark.parametrize(
  ('changes', 'pixels'),
  [
    ({}, lambda x: x),
    (
      {'scale': 1 / 255, 'mean': (0.5, 0.4, 0.3), 'deviation': (0.2, 0.3, 0.4)},
      lambda x: (x / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.4),
    ),
    (
      {'channels': 'BGR', 'mean': (103.939, 116.779, 123.68)},
      lambda x: x[..., ::-1] - (103.939, 116.779, 123.68),
    ),
    (
      {'mean': (127.5,) * 3, 'deviation': (127.5,) * 3},
      lambda x: x / 127.5 - 1,
    ),
  ],
  ids=['as they are', 'PyTorch', 'Caffe', '-1 to 1'],
)
def test_pixels_go_in_as_described(tmp_path, images, changes, pixels):
  network = opened(tmp_path, tiny(), described(**changes))
  np.testing.assert_allclose(
    network.scores(images, None), expected(pixels(images)), rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('layout', ['NHWC', 'NCHW'])
@pytest.mark.parametrize('batch', [None, 1, 4])
def test_layouts_and_batches_of_fixed_size(tmp_path, images, layout, batch):
  """A module without a signature, as converters from ONNX write them."""
  shape = {'NHWC': (32, 32, 3), 'NCHW': (3, 32, 32)}[layout]
  axes = {'NHWC': (1, 2), 'NCHW': (2, 3)}[layout]
  module = tf.Module()
  module.mix = tf.Variable(MIX)
  module.__call__ = tf.function(
    lambda x: tf.linalg.matmul(tf.reduce_mean(x, axes), module.mix),
    input_signature=[tf.TensorSpec((batch, *shape))],
  )
  network = opened(tmp_path, module, described(layout=layout), 'saved')
  np.testing.assert_allclose(
    network.scores(images, None), expected(images), rtol=1e-5, atol=1e-5
  )


def test_keras_3_and_probabilities(tmp_path, images):
  network = opened(
    tmp_path, tiny(keras, softmax=True), described(output='probabilities')
  )
  logits = expected(images)
  np.testing.assert_allclose(
    tf.nn.softmax(network.scores(images, None)),
    tf.nn.softmax(logits),
    atol=1e-6,
  )


@pytest.mark.parametrize('output', ['logits', 'probabilities'])
def test_a_background_class_is_left_out(tmp_path, images, output):
  model = tiny(classes=12, softmax=output == 'probabilities')
  network = opened(tmp_path, model, described(output=output, label_offset=2))
  logits = images.mean(axis=(1, 2)) @ np.resize(MIX, (3, 12))
  np.testing.assert_allclose(
    tf.nn.softmax(network.scores(images, None)),
    tf.nn.softmax(logits[:, 2:]),
    atol=1e-5,
  )


@pytest.mark.filterwarnings('ignore:Statistics for quantized inputs')
def test_a_tflite_file_of_integers(tmp_path, images):
  content = convert(
    tiny(),
    optimizations=[tf.lite.Optimize.DEFAULT],
    representative_dataset=lambda: ([image[None]] for image in images),
    inference_input_type=tf.int8,
    inference_output_type=tf.int8,
  )
  network = opened(tmp_path, content, described(), '.tflite')
  assert network._program.input_type == tf.int8
  assert network._program.is_quantised
  scores = network.scores(images, None)
  wanted = expected(images)
  assert np.abs(scores - wanted).max() < 0.05 * np.ptp(wanted)
  assert 0 < len(np.unique(scores)) <= 256
  np.testing.assert_array_equal(scores, network.scores(images, None))
  np.testing.assert_array_equal(scores[:3], network.scores(images[:3], None))


def test_a_tflite_file_for_one_image_at_a_time(tmp_path, images):
  @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 3))])
  def one(x):
    # A shape in its middle that no resizing reaches.
    means = tf.reduce_mean(tf.reshape(x, (32, 32, 3)), (0, 1))
    return tf.linalg.matmul(means[None], tf.constant(MIX))

  content = tf.lite.TFLiteConverter.from_concrete_functions(
    [one.get_concrete_function()]
  ).convert()
  network = opened(tmp_path, content, described(), '.tflite')
  assert network._program.batch_size == 1
  np.testing.assert_allclose(
    network.scores(images, None), expected(images), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  ('model', 'changes', 'message'),
  [
    (
      {'size': (31, 31)},
      {},
      r'takes images of shape \[None, 31, 31, 3\], its description says '
      r'\[None, 32, 32, 3\] \(image_size 32, layout NHWC\)',
    ),
    ({}, {'layout': 'NCHW'}, r'its description says \[None, 3, 32, 32\]'),
    (
      {'classes': 9},
      {},
      'gives 9 scores for an image, its description says num_classes 10 and '
      'label_offset 0, that is 10$',
    ),
    ({'classes': 11}, {}, 'gives 11 scores .* label_offset is 1'),
  ],
)
@pytest.mark.parametrize('kind', ['.keras', '.tflite', 'saved'])
def test_a_network_that_is_not_as_described_is_refused(
  tmp_path, kind, model, changes, message
):
  with pytest.raises(ValueError, match=message) as raised:
    opened(tmp_path, tiny(**model), described(**changes), kind)
  where = str(tmp_path / 'exp/some/0.0/0/0/0/0/model.ckpt-10')
  assert str(raised.value).startswith(where)
  assert '\n' not in str(raised.value)


def test_scores_that_are_not_as_described_are_named(tmp_path, images, caplog):
  network = opened(tmp_path / 'a', tiny(), described(output='probabilities'))
  with pytest.raises(ValueError, match='says probabilities, but what it gives'):
    network.scores(images, None)
  network = opened(tmp_path / 'b', tiny(softmax=True), described())
  network.scores(images, None)
  network.scores(images, None)
  said = [r for r in caplog.records if 'are they probabilities?' in r.message]
  assert len(said) == 1


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    ({'num_classes': 9}, 'has 10 classes, the data set some has 9'),
    ({'image_size': 31}, 'image_size is 32, but 31 in the data set some'),
  ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(study, data, message):
  found = member_paths.find(str(study[0] / 'exp' / 'tflite'))
  records = dataclasses.replace(
    study[2],
    name='some',
    class_names=study[2].class_names[: data.get('num_classes', 10)],
    image_size=data.get('image_size', 32),
  )
  with pytest.raises(ValueError, match=message):
    list(inference.predict(found, study[1], records, **OPTIONS))
  with pytest.raises(ValueError, match='precision=bfloat16 is for'):
    predict(study, found, precision='bfloat16')


def frame_of(true, predicted):
  return pd.DataFrame({'true_class': true, 'predictions': predicted})


@pytest.mark.parametrize(('by', 'words'), [(1, 'later'), (-1, 'earlier')])
def test_classes_that_are_one_off_are_named(by, words):
  rng = np.random.default_rng(0)
  true = rng.permutation(np.arange(1, 201).repeat(2))
  # Three in ten right, the others anywhere.
  right = rng.random(len(true)) < 0.3
  predicted = np.where(right, true + by, rng.integers(0, 202, len(true)))
  checkpoint = member_paths.Checkpoint(
    member_paths.Member('', 'int8', 0.0, 0, 0, 0, 0), 0, 'x', 'tflite'
  )
  with pytest.raises(ValueError, match=f'one place {words}: correct label_off'):
    inference._check_moved(checkpoint, True, 'shard', frame_of(true, predicted))
  # None of these is: right, guessing, always one class, of few images.
  for other in (
    frame_of(true, np.where(right, true, predicted)),
    frame_of(true, rng.integers(0, 202, len(true))),
    frame_of(true, np.full(len(true), 17)),
    frame_of(np.full(400, 16), np.full(400, 17)),
    frame_of(true[:10], true[:10] + by),
  ):
    inference._check_moved(checkpoint, True, 'shard', other)


@pytest.mark.parametrize('library', [tf_keras, keras])
def test_a_keras_file_that_would_run_code_is_refused(tmp_path, library):
  layers = library.layers
  model = library.Sequential(
    [
      library.Input((32, 32, 3)),
      layers.GlobalAveragePooling2D(),
      layers.Dense(10),
      layers.Lambda(lambda x: x * 2),
    ]
  )
  with pytest.raises(ValueError, match='has a Lambda, .* no file may bring'):
    opened(tmp_path, model, described())


def changed_keras(tmp_path, change):
  """A good file whose configuration is changed by hand."""
  good, bad = str(tmp_path / 'good.keras'), str(tmp_path / 'bad.keras')
  tiny().save(good)
  with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, 'w') as target:
    for name in source.namelist():
      data = source.read(name)
      if name == 'config.json':
        config = json.loads(data)
        change(config)
        data = json.dumps(config)
      target.writestr(name, data)
  assert keras_archive.check(good) == 2
  return bad


@pytest.mark.parametrize(
  ('part', 'message'),
  [
    ({'module': 'os', 'class_name': 'system'}, 'needs os.system'),
    (
      {'module': 'builtins', 'class_name': 'function', 'config': 'exec'},
      'calls builtins.exec',
    ),
    (
      {'module': 'keras.utils', 'class_name': 'function', 'config': 'get_file'},
      'calls keras.utils.get_file',
    ),
    (
      {
        'module': 'tf_keras.src.layers.core.tf_op_layer',
        'class_name': 'TFOpLambda',
        'config': {'function': 'io.write_file'},
      },
      "calls TensorFlow by the name 'io.write_file'",
    ),
    ({'module': 'keras.layers', 'class_name': 'TFSMLayer'}, 'has a TFSMLayer'),
    (
      {'module': None, 'class_name': 'Own', 'registered_name': 'Custom>Own'},
      'needs Custom>Own, which is no part of Keras',
    ),
  ],
)
def test_a_configuration_names_parts_of_keras_only(tmp_path, part, message):
  def change(config):
    config['config']['layers'][-1]['config']['activation'] = part

  with pytest.raises(ValueError, match=re.escape(message)):
    keras_archive.check(changed_keras(tmp_path, change))


@pytest.mark.parametrize('kind', ['.keras', '.tflite', '/saved_model.pb'])
@pytest.mark.parametrize('content', [b'', b'no network' * 100])
def test_a_file_that_is_no_network_is_named(tmp_path, kind, content):
  prefix = prefix_of(tmp_path, 'some')
  if '/' in kind:
    os.makedirs(prefix)
  pathlib.Path(prefix + kind).write_bytes(content)
  network_files.write(f'{prefix}.json', described())
  (checkpoint,) = member_paths.find(str(tmp_path))
  opener = inference._OPENERS[checkpoint.kind]('float32', 8, None)
  with pytest.raises(ValueError, match=re.escape(prefix)) as raised:
    opener.open(checkpoint)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('kind', ['.keras', '.tflite', 'saved'])
def test_a_damaged_file_is_named(tmp_path, images, kind):
  """Cut anywhere, and with bits that turned; of .keras files all is noticed."""
  opened(tmp_path, tiny(), described(), kind)
  (checkpoint,) = member_paths.find(str(tmp_path))
  path = pathlib.Path(checkpoint.completed_by)
  good = path.read_bytes()
  opener = inference._OPENERS[checkpoint.kind]('float32', 8, None)
  wanted = expected(images[:2])
  rng = np.random.default_rng(0)
  refused = 0
  for number in range(16):
    data = bytearray(good)
    if number % 4:
      data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    else:
      del data[rng.integers(len(data)) :]
    path.write_bytes(data)
    try:
      scores = opener.open(checkpoint).scores(images[:2], None)
    except ValueError as error:
      assert checkpoint.prefix in str(error)
      assert '\n' not in str(error)
      refused += 1
    else:
      if kind == '.keras':
        np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
  assert refused >= 4


def test_a_saved_model_that_reads_files_is_refused(tmp_path):
  module = tf.Module()
  module.__call__ = tf.function(
    lambda x: (
      tf.cast(tf.strings.length(tf.io.read_file('/etc/passwd')), 'float')
      + tf.reduce_mean(x, (1, 2)) @ tf.constant(MIX)
    ),
    input_signature=[tf.TensorSpec((None, 32, 32, 3))],
  )
  with pytest.raises(ValueError, match='holds ReadFile'):
    opened(tmp_path, module, described(), 'saved')
