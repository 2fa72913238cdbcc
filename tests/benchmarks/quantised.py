"""What quantisation changes in a ResNet-50 at 224x224, and what it saves.

  python -m tests.benchmarks.quantised [--images=64] [--photographs='x/*.jpg']

Quantises a network with the reference's weights and predicts JPEGs by all of
its forms, decoding included, in one run, so that the figures compare. Prints
for each the size, the share of images with the bundle's top-1, the cosine of
the scores with the bundle's, images/s end to end (the best of three passes,
opening apart) and of the interpreter called alone in a loop on decoded images,
a multiple of 16. The weights were drawn, not trained: top-1 of such a network
moves otherwise than that of a trained one.

Photographs are cut out of the two in tests/reference, or given.
"""

import os
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app, flags
from ai_edge_litert import interpreter as litert
from etils import epath

from save_checkpoint import quantisation, quantise_checkpoints
from tests import reference_values
from utils import (
  checkpoints,
  data_input,
  devices,
  folded_resnet,
  framework_networks,
  image_records,
  inference,
  member_paths,
  paths,
  resnet_model,
  shard_files,
  storage,
  tfrecords,
)

FLAGS = flags.FLAGS
_BATCH = 16
_OPENERS = {
  'bundle': folded_resnet.Opener,
  'tflite': framework_networks.TfliteOpener,
}
_CALIBRATION = 32


def photographs(number: int) -> list[bytes]:
  """JPEGs; cut out of the reference's where none are given."""
  if FLAGS.photographs:
    found = storage.find_files(FLAGS.photographs)
    return [epath.Path(path).read_bytes() for path in found[:number]]
  whole = [
    tf.io.decode_jpeg((reference_values.FOLDER / 'jpeg' / name).read_bytes())
    for name in ('img0_500x375.jpg', 'img1_375x500.jpg')
  ]
  return [
    tf.io.encode_jpeg(
      tf.image.stateless_random_crop(whole[i % 2], (300, 300, 3), (i, 0))
    ).numpy()
    for i in range(number)
  ]


def write_network(folder: str) -> member_paths.Checkpoint:
  """Writes the dense ResNet-50 of the reference."""
  values = {
    name: reference_values.value(name, shape)
    for name, shape, _ in reference_values.variables('baseline')
  }
  step = int(values.pop('global_step'))
  member = member_paths.Member('bench', 'baseline', 0.0, 0, 0, 0, 0)
  prefix = member_paths.prefix_in(f'{folder}/{member.folder}', step)
  architecture = resnet_model.Architecture(50, 1.0, 1000)
  checkpoints.write(prefix, checkpoints.Network(architecture, values, step))
  return member_paths.parse(prefix)


def alone(path: str, images: np.ndarray) -> float:
  """Images/s of the interpreter in a loop, the best of three."""
  network = litert.Interpreter(model_path=path, num_threads=os.cpu_count())
  (source,), (scores,) = (
    network.get_input_details(),
    network.get_output_details(),
  )
  network.resize_tensor_input(source['index'], (_BATCH, *images.shape[1:]))
  network.allocate_tensors()
  marks = []
  for _ in range(3):
    start = time.perf_counter()
    for at in range(0, len(images), _BATCH):
      network.set_tensor(source['index'], images[at : at + _BATCH])
      network.invoke()
      network.get_tensor(scores['index'])
    marks.append(time.perf_counter() - start)
  return len(images) / min(marks)


def main(argv):
  """Prints the figures."""
  del argv
  number = FLAGS.images // _BATCH * _BATCH
  records = image_records.imagenet()
  with tempfile.TemporaryDirectory() as folder:
    source = write_network(folder)
    encoded = photographs(number + _CALIBRATION)
    number = (len(encoded) - _CALIBRATION) // _BATCH * _BATCH
    shards = []
    for split, some in (
      ('validation', encoded[:number]),
      ('train', encoded[-_CALIBRATION:]),
    ):
      shards.append(paths.shard(folder, split, 0, 1))
      examples = [
        tfrecords.encode(f'{split}/{i}', image, i % 1000)
        for i, image in enumerate(some)
      ]
      shard_files.write(shards[-1], examples)
    reader = data_input.OrderedReader(
      records, tfrecords.detect(shards), 'legacy', _BATCH
    )
    images, calibration = (
      np.concatenate(
        [batch.numpy() for *_, batch in reader.read(path, records)]
      )
      for path in shards
    )
    start = time.perf_counter()
    made = quantisation.quantise(source, FLAGS.forms, records, calibration, 4)
    print(
      f'{len(made)} forms of one network in {time.perf_counter() - start:.0f} s'
    )
    members = {'bundle': source}
    for of, network in made.items():
      target = quantise_checkpoints.target_of(source, of, f'{folder}/bench')
      quantise_checkpoints.write(source, target, network, {}, records)
      members[of] = target
    predictor = inference.Predictor(
      batch_size=_BATCH,
      preprocessing_name='legacy',
      precision='float32',
      label_smoothing=0.1,
    )
    strategy = devices.strategy()
    openers = {
      name: _OPENERS[member.kind]('float32', _BATCH, strategy)
      for name, member in members.items()
    }
    networks = {
      name: openers[name].open(member) for name, member in members.items()
    }
    scores = {
      name: np.concatenate(
        [
          networks[name].scores(batch, records).numpy()
          for batch in np.split(images, number // _BATCH)
        ]
      )
      for name, member in members.items()
    }
    data_set = inference.DataSet(records, shards[:1])
    seconds: dict[str, list[float]] = {name: [] for name in members}
    # In turns: what else the machine does meets all of them.
    for _ in range(3):
      for name, member in members.items():
        start = time.perf_counter()
        openers[name].open(member)
        opening = time.perf_counter() - start
        start = time.perf_counter()
        for _ in predictor.predict([member], [data_set], show_progress=False):
          pass
        seconds[name].append(time.perf_counter() - start - opening)
    print(
      f'{number} images\nform            MB  top-1   cosine  images/s  alone'
    )
    exact = scores['bundle']
    for name, member in members.items():
      is_bundle = name == 'bundle'
      size = sum(
        path.stat().length
        for path in epath.Path(member.prefix).parent.glob('*')
        if path.suffix != '.json'
      )
      of = scores[name]
      cosine = (of * exact).sum(1) / np.sqrt((of**2).sum(1) * (exact**2).sum(1))
      print(
        f'{name:<13} {size / 1e6:5.1f}  '
        f'{(of.argmax(1) == exact.argmax(1)).mean():.3f}  {cosine.mean():.5f}  '
        f'{number / min(seconds[name]):8.1f}  '
        + ('' if is_bundle else f'{alone(member.completed_by, images):5.1f}'),
        flush=True,
      )


if __name__ == '__main__':
  flags.DEFINE_integer('images', 64, 'Photographs.', lower_bound=_BATCH)
  flags.DEFINE_list(
    'forms', list(quantisation.QUANTISATIONS), 'What is made of the network.'
  )
  flags.DEFINE_string(
    'photographs', '', 'Pattern of JPEGs; empty for cuttings.'
  )
  app.run(main)
