"""ResNet-50 as a bundle, SavedModel, .keras and .tflite: alike, and how fast.

  python -m tests.benchmarks.file_networks [--images=128]

Writes one network in all four, predicts different JPEGs of 500x375 pixels, and
prints of each kind of file

  the share of images that have the bundle's label, the largest difference of a
  predicted probability
  images/s, decoding included, beside those of the network called alone in a
  loop on batches that were decoded before

Both are measured in turns, and the best of each counts; then the same in
seconds of the processor, which other programs disturb less.
"""

import tempfile
import time

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags
from ai_edge_litert import interpreter as litert

from tests import keras_resnet, reference_values
from utils import (
  checkpoints,
  data_input,
  image_records,
  inference,
  member_paths,
  network_files,
  paths,
  resnet_model,
  shard_files,
  storage,
  tfrecords,
)

FLAGS = flags.FLAGS
_ARCHITECTURE = resnet_model.Architecture(50, 1.0, 1000)
_RECORDS = image_records.imagenet()
_SIZE = _RECORDS.image_size


def write_data(folder: str, count: int) -> str:
  """Writes a shard of parts of a real photograph, each turned and lit anew."""
  photograph = tf.io.decode_jpeg(
    (reference_values.FOLDER / 'jpeg' / 'img0_500x375.jpg').read_bytes()
  ).numpy()
  rng = np.random.default_rng(0)
  encoded = []
  for i in range(count):
    part = photograph[rng.integers(0, 188) :, rng.integers(0, 250) :]
    part = np.rot90(part, i % 4) * rng.uniform(0.3, 1.0, 3)
    part = tf.image.resize(part, (375, 500))
    encoded.append(tf.io.encode_jpeg(tf.saturate_cast(part, tf.uint8)).numpy())
  path = paths.shard(folder, 'validation', 0, 1)
  shard_files.write(
    path,
    [tfrecords.encode(str(i), one, i % 1000) for i, one in enumerate(encoded)],
  )
  return path


def write_networks(folder: str) -> list[member_paths.Checkpoint]:
  """Writes one network in four formats."""
  values = keras_resnet.random_values(_ARCHITECTURE)
  model = keras_resnet.model(values, _ARCHITECTURE, _SIZE)
  description = network_files.Description(
    _SIZE,
    1.0,
    _RECORDS.channel_mean,
    _RECORDS.channel_std,
    'RGB',
    'logits',
    1000,
  )
  found = []
  for kind in member_paths.KINDS:
    member = member_paths.Member('bench', kind, 0.0, 0, 0, 0, 0)
    prefix = member_paths.prefix_in(f'{folder}/{member.folder}', 10)
    one = member_paths.parse(prefix, kind)
    if kind == 'bundle':
      checkpoints.write(prefix, checkpoints.Network(_ARCHITECTURE, values, 10))
    elif kind == 'saved_model':
      model.export(prefix)
      converter = tf.lite.TFLiteConverter.from_saved_model(prefix)
    elif kind == 'keras':
      storage.write_complete(f'{prefix}.keras', b'')
      model.save(f'{prefix}.keras')
    else:
      storage.write_complete(one.completed_by, converter.convert())
    if kind != 'bundle':
      network_files.write(one.described_by, description)
    found.append(one)
  return found


def alone(checkpoint: member_paths.Checkpoint):
  """The network as its users call it: batches [n, 224, 224, 3] to scores."""
  path = network_files.path(checkpoint)
  if checkpoint.kind == 'saved_model':
    loaded = tf.saved_model.load(path)
    return lambda images: loaded.serve(tf.constant(images))
  if checkpoint.kind == 'keras':
    model = tf_keras.models.load_model(path, compile=False)
    return tf.function(lambda images: model(images, training=False))
  interpreter = litert.Interpreter(model_path=path, num_threads=2)

  def run(images):
    where = interpreter.get_input_details()[0]
    if tuple(where['shape']) != tuple(images.shape):
      interpreter.resize_tensor_input(where['index'], images.shape)
      interpreter.allocate_tensors()
    interpreter.set_tensor(where['index'], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]['index'])

  return run


def seconds(work) -> np.ndarray:
  """How long something takes: [2], by the clock and of the processor."""
  start = time.perf_counter(), time.process_time()
  work()
  return np.subtract((time.perf_counter(), time.process_time()), start)


def main(argv):
  """Prints the figures."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    shard = write_data(f'{folder}/data', FLAGS.images)
    found = write_networks(folder)
    reader = data_input.OrderedReader(
      _RECORDS, tfrecords.detect([shard]), 'legacy', FLAGS.batch_size
    )
    batches = [
      resnet_model.normalise(
        images, _RECORDS.channel_mean, _RECORDS.channel_std
      ).numpy()
      for _, _, images in reader.read(shard, _RECORDS)
    ]
    predictor = inference.Predictor(
      batch_size=FLAGS.batch_size,
      preprocessing_name='legacy',
      precision='float32',
      label_smoothing=0.1,
    )
    open_network, opened = predictor.open, {}

    def open_once(checkpoint, described):
      """Opening is no part of the rates."""
      if checkpoint not in opened:
        opened[checkpoint] = open_network(checkpoint, described)
      return opened[checkpoint]

    predictor.open = open_once
    data_set = inference.DataSet(_RECORDS, [shard])

    def predict(checkpoint):
      ((_, _, frame),) = predictor.predict(
        [checkpoint], [data_set], show_progress=False
      )
      return frame

    bundle = predict(found[0])
    probability = bundle['predicted_probability']
    print(
      f'bundle: {len(set(bundle["predictions"]))} labels, probabilities '
      f'{probability.min():.3f} to {probability.max():.3f}',
      flush=True,
    )
    for checkpoint in found[1:]:
      frame = predict(checkpoint)
      call = alone(checkpoint)

      def loop(call=call):
        for batch in batches:
          np.asarray(call(batch))

      loop()
      times = [
        (seconds(lambda c=checkpoint: predict(c)), seconds(loop))
        for _ in range(FLAGS.repeats)
      ]
      ours, theirs = np.min(times, axis=0)
      print(
        f'{checkpoint.kind}: '
        f'{(frame["predictions"] == bundle["predictions"]).mean():.2%} of '
        'labels, probabilities to '
        f'{abs(frame["predicted_probability"] - probability).max():.1e}; '
        f'{FLAGS.images / ours[0]:.1f} images/s with decoding, '
        f'{FLAGS.images / theirs[0]:.1f} alone: {theirs[0] / ours[0]:.2f}; '
        f'of the processor {theirs[1] / ours[1]:.2f}',
        flush=True,
      )


if __name__ == '__main__':
  flags.DEFINE_integer('images', 128, 'Images to predict.')
  flags.DEFINE_integer('batch_size', 64, 'Images a batch.')
  flags.DEFINE_integer('repeats', 4, 'Turns of each measurement.')
  app.run(main)
