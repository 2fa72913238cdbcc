"""Predicts every image of a data set by every member of a population.

Reads, from the study or where flags say otherwise,
  --ckpt_dir        checkpoints: one prefix (.../model.ckpt-32000), a folder
                    (the last checkpoint of each member below it), a glob, a
                    CSV that lists files (utils/tables.py: MEMBER_FILES), or a
                    comma-separated list of these. SavedModels, .keras and
                    .tflite files have a description (utils/network_files.py)
  --data_directory  TFRecord shards: a folder (complete split of --mode), a
                    glob, or a list. image_records.json beside them describes
                    the data set; without it, it is taken to be ImageNet.

Writes, for each member and shard, one CSV (utils/tables.py: PREDICTIONS)
  <output_path>/<dataset>/predictions_dataframe/<mode>/<shard>/
      predictions_dataframe_<member>.csv (with --compress_predictions .csv.gz)

A row is an image: predicted and true class id, probability of the prediction,
the five likeliest classes as "[682 141 933]", the image's key, the member.
Finished files are skipped, so the same command goes on after an interruption.
A cluster can share the work (--scheduler: a shard by 8 to 32 networks at a
time), or machines that take different shards or checkpoints; all GPUs of one
machine, or a TPU (--tpu), share every batch. With TF_NUM_INTRAOP_THREADS=1 each
core has a network of its own, which is faster for small ones.

  python -m pie_dataset_gen.imagenet_predictions --study=runs/digits

The 897 evaluation digits by 40 members take 8 seconds on two cores.
"""

import functools
from collections.abc import Callable, Sequence

import pandas as pd
from absl import flags, logging

from utils import (
  command_line,
  csvs,
  devices,
  digests,
  image_records,
  inference,
  member_paths,
  network_files,
  paths,
  preprocessing,
  provenance,
  storage,
  tables,
  tfrecords,
  workers,
)

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'ckpt_dir',
    '',
    'Checkpoints: prefix, folder, glob, a CSV of files, or a list of these.',
  )
  flags.DEFINE_string(
    'data_directory', '', 'TFRecord shards: folder, glob, or a list of files.'
  )
  flags.DEFINE_string('output_path', '', 'Root folder of the results.')
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that a folder is read for.'
  )
  flags.DEFINE_string(
    'dataset_name', '', "Level in the output path; '' is the data set's name."
  )
  flags.DEFINE_integer('batch_size', 64, 'Images a batch.', lower_bound=1)
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'legacy: the grid of TensorFlow 1, as the original; modern: '
    'half-pixel centres.',
  )
  command_line.define_scheduler(with_resource=True)
  command_line.define_compression()
  flags.DEFINE_enum(
    'precision',
    'float32',
    inference.PRECISIONS,
    'Of the convolutions. bfloat16 is faster and changes predictions.',
  )
  flags.DEFINE_float(
    'label_smoothing',
    0.1,
    'Share of the target spread over all classes in the cross_entropy column, '
    'in [0, 1); 0 is off.',
  )
  flags.DEFINE_string(
    'tpu',
    '',
    "Name of a Cloud TPU, or 'local' on a TPU VM; '' for the GPUs, or the "
    'processor, at hand.',
  )
  flags.DEFINE_string(
    'gcp_project', '', "Project of a named TPU; '' for the environment's."
  )
  flags.DEFINE_string(
    'tpu_zone', '', "Zone of a named TPU; '' for the environment's."
  )
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Take a few synthetic images instead of --data_directory and, without '
    '--ckpt_dir, an untrained network: runs in seconds.',
  )


def run(
  ckpt_dir: str,
  data_directory: str,
  output_path: str,
  mode: str,
  dataset_name: str,
  batch_size: int,
  preprocessing_name: str,
  precision: str,
  label_smoothing: float,
  tpu: tuple[str, str, str] = ('', '', ''),
  place: workers.Place = workers.HERE,
  compress_predictions: bool = False,
) -> None:
  """Predicts; the arguments are the flags."""
  checkpoints = member_paths.find(ckpt_dir)
  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards, inference.num_classes(checkpoints[0]))
  dataset = dataset_name or records.name

  output = functools.partial(
    _output, output_path, dataset, mode, compress_predictions
  )
  folder = paths.predictions_folder(output_path, dataset, mode)
  record = provenance.Provenance(
    folder,
    'pie_dataset_gen.imagenet_predictions',
    {
      'preprocessing': preprocessing_name,
      'precision': precision,
      'label_smoothing': label_smoothing,
      'data set': records.reading,
      'shards': digests.of_each({storage.name(s): s for s in shards}),
      'checkpoints': network_files.identities(checkpoints),
    },
  )
  predictor = inference.Predictor(
    batch_size=batch_size,
    preprocessing_name=preprocessing_name,
    precision=precision,
    label_smoothing=label_smoothing,
    strategy=functools.partial(devices.strategy, *tpu),
  )
  pieces = predictor.plan(
    checkpoints,
    [inference.DataSet(records, shards)],
    lambda *work: not storage.exists(csvs.either_form(output(*work))),
  )
  written = 0
  if pieces:
    with (
      predictor.progress(pieces) as progress,
      workers.mapper(place, 1, progress=progress) as mapped,
      workers.beside(place) as beside,
    ):
      write = functools.partial(_write, output, mode, record)
      work = functools.partial(_predict, predictor, write, beside)
      for piece, files in zip(pieces, mapped(work, pieces), strict=True):
        written += files
        progress.update(predictor.count(piece))
  total = len(checkpoints) * len(shards)
  logging.info(
    'wrote %d of %d files below %s, the others were there',
    written,
    total,
    folder,
  )
  record.finish(
    [*shards, *(f for c in checkpoints for f in network_files.files(c))]
  )


def _output(
  output_path: str,
  dataset: str,
  mode: str,
  compress: bool,
  checkpoint: member_paths.Checkpoint,
  shard: str,
) -> str:
  return paths.predictions(
    output_path, dataset, mode, storage.name(shard), checkpoint, compress
  )


def _predict(
  predictor: inference.Predictor,
  write: Callable[..., None],
  beside: Callable[..., None],
  piece: inference.Piece,
) -> int:
  """Writes the predictions of a piece; returns the number of files."""
  predicted = [
    (checkpoint, shard, frame)
    for checkpoint, shard, frame in predictor.predict_piece(piece)
    if not frame.empty  # As of a shard that is declared so, of PIEs, say.
  ]
  beside(write, predicted)
  return len(predicted)


def _write(
  output: Callable[..., str],
  mode: str,
  record: provenance.Provenance,
  predicted: Sequence[tuple[member_paths.Checkpoint, str, pd.DataFrame]],
) -> None:
  for checkpoint, shard, frame in predicted:
    record.start()
    csvs.write(
      tables.PREDICTIONS, frame.assign(split=mode), output(checkpoint, shard)
    )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  if FLAGS.test_small_sample:
    name = FLAGS.dataset_name  # Synthetic images are not the study's.
    command_line.with_study(FLAGS, {'output_path': 'results'})
    FLAGS.dataset_name = name
    FLAGS.ckpt_dir, FLAGS.data_directory = inference.small_sample(
      FLAGS.output_path, FLAGS.ckpt_dir
    )
  else:
    command_line.with_study(
      FLAGS,
      {
        'ckpt_dir': 'checkpoints',
        'data_directory': 'data',
        'output_path': 'results',
      },
    )
  run(
    FLAGS.ckpt_dir,
    FLAGS.data_directory,
    FLAGS.output_path,
    FLAGS.mode,
    FLAGS.dataset_name,
    FLAGS.batch_size,
    FLAGS.preprocessing,
    FLAGS.precision,
    FLAGS.label_smoothing,
    (FLAGS.tpu, FLAGS.gcp_project, FLAGS.tpu_zone),
    workers.Place(scheduler=FLAGS.scheduler, resource=FLAGS.worker_resource),
    FLAGS.compress_predictions,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
