r"""Measures a population on corrupted or otherwise unusual images.

Reads
  --ckpt_dir        checkpoints, or networks of other frameworks: prefix,
                    folder, glob, a CSV of files, or a list of these
  --data_directory  one of
      <corruption>_<severity>/ folders of TFRecord shards, or of a version
        each (<corruption>_<severity>/3.1.0/), as build_corruptions and TFDS's
        imagenet2012_corrupted have them
      <corruption>/<severity>/<wnid>/*.JPEG, as the authors of ImageNet-C have
        them; all sets that are found are measured, or --corruption_type
      labels.npy and <corruption>.npy, as the authors of CIFAR-10-C have them:
        five severities of as many images each, named test/00000 and so on, as
        build_image_data --source=cifar10 names them
      a data set of TFRecord shards, such as the PIE records of
        generate_pie_dataset, or TFDS's imagenet_a
      <wnid>/*.jpg, as the authors of ImageNet-A have them
  --modal_labels    optional: CSVs of aggregate_predictions, to measure PIEs
                    apart; image keys, or file names, join them to the images

An image_records.json beside the shards describes them. Sets without it are
described by that of the clean data (--clean_data_directory), which folders and
arrays need: a folder's class is that of its wnid. Records of TFDS are taken to
be ImageNet's without it. Such a set, and any corrupted one, is not cropped when
its images have the network's input size, as ImageNet-C's usually have.

Writes, for each member and set, one CSV (utils/tables.py: ROBUSTNESS)
  <dest_dir>/<dataset_name>/<corruption>_<severity>/<member>.csv
with support, recall and precision of every class, top-1, top-5 and loss. Each
image is decoded once for a group of members. Finished files are skipped. With
--predictions_directory also the predictions of each image (PREDICTIONS), of
which measure_corrupted_costs finds churn, flips and calibration, as .csv.gz
with --compress_predictions.
--dataset_name=imagenet_a gives two data sets: imagenet_a, where networks choose
among its 200 classes, which is its official score, and imagenet_a_all_classes.
--modal_labels adds <dataset_name>_pie and <dataset_name>_non_pie.

  python -m robustness_tests.imagenet_corruptions --study=runs/digits

Nine sets of 897 digits by 40 members take half a minute on two cores.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from absl import flags, logging

from robustness_tests import image_arrays, image_folders, image_sets, views
from utils import (
  class_level_metrics,
  command_line,
  csvs,
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
  workers,
)

_SCRIPT = 'robustness_tests.imagenet_corruptions'


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'ckpt_dir',
    '',
    'Checkpoints: prefix, folder, glob, a CSV of files, or a list of these.',
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of <corruption>_<severity> or <corruption>/<severity> folders, of '
    'TFRecord shards, or of folders of images.',
  )
  flags.DEFINE_string(
    'clean_data_directory',
    '',
    'Folder of the clean data set, whose image_records.json describes sets '
    'that have none: which class a folder (wnid) is, sizes, mean. Empty: these '
    "are TFRecords, and ImageNet's.",
  )
  flags.DEFINE_string(
    'modal_labels',
    '',
    'CSVs of aggregate_predictions of one level (folder or pattern): measures '
    'its PIEs, and the other images, apart as well. Empty: all together only.',
  )
  flags.DEFINE_string('dest_dir', '', 'Folder of the results.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Name of what is measured, in the results. Empty: the study's with _c; "
    'without --study imagenet_c.',
  )
  flags.DEFINE_string(
    'predictions_directory',
    '',
    "Folder that every image's prediction goes into as well, in a folder of "
    '--dataset_name, for measure_corrupted_costs. Empty: they are not kept.',
  )
  flags.DEFINE_list(
    'corruption_type',
    '',
    'Sets to measure, such as gaussian_noise_3, or all severities of a '
    'corruption, such as gaussian_noise; empty for all that are found.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['eval', 'train'], 'Split that folders are read for.'
  )
  flags.DEFINE_integer('batch_size', 64, 'Images a batch.', lower_bound=1)
  flags.DEFINE_enum(
    'preprocessing',
    'legacy',
    preprocessing.NAMES,
    'legacy: the grid of TensorFlow 1, as the original; modern: '
    'half-pixel centres.',
  )
  flags.DEFINE_enum(
    'precision', 'float32', inference.PRECISIONS, 'Of the convolutions.'
  )
  flags.DEFINE_float(
    'label_smoothing',
    0.1,
    'Share of the target spread over all classes in the loss, in [0, 1); '
    '0 is off.',
  )
  command_line.define_scheduler(with_resource=True)
  command_line.define_compression()
  flags.DEFINE_boolean(
    'test_small_sample',
    False,
    'Take a few synthetic images instead of --data_directory and, without '
    '--ckpt_dir, an untrained network: runs in seconds.',
  )


def run(
  ckpt_dir: str,
  data_directory: str,
  dest_dir: str,
  dataset_name: str,
  corruption_type: Sequence[str],
  mode: str,
  clean_data_directory: str = '',
  modal_labels: str = '',
  predictions_directory: str = '',
  place: workers.Place = workers.HERE,
  *,
  compress_predictions: bool = False,
  batch_size: int,
  **options: Any,
) -> None:
  """Measures what is missing; the arguments are the flags.

  Of the flags the options are preprocessing_name, compute_precision and
  label_smoothing.
  """
  preprocessing_name = options['preprocessing_name']
  compute_precision = options['compute_precision']
  label_smoothing = options['label_smoothing']
  found = member_paths.find(ckpt_dir)
  sets = image_sets.find_sets(data_directory, corruption_type)
  names = views.view_names(dataset_name, bool(modal_labels))
  outputs = {
    (checkpoint, one, name): paths.robustness(
      dest_dir, name, one.name, checkpoint
    )
    for checkpoint in found
    for one in sets
    for name in names
  }
  predictions_of = functools.partial(
    _predictions,
    predictions_directory,
    dataset_name,
    mode,
    compress_predictions,
  )
  kept = {
    (checkpoint, one): predictions_of(checkpoint, one)
    for checkpoint in found
    for one in sets
    if predictions_directory
  }
  label_files = (
    csvs.find(tables.MODAL_LABELS, modal_labels) if modal_labels else []
  )
  described = {
    folder: path
    for folder in (*(one.folder for one in sets), clean_data_directory)
    if folder and storage.exists(path := paths.image_records(folder))
  }
  record = provenance.Provenance(
    storage.within(dest_dir, dataset_name),
    _SCRIPT,
    {
      'preprocessing': preprocessing_name,
      'precision': compute_precision,
      'label_smoothing': label_smoothing,
      'mode': mode,
      'modal_labels': {
        name: digests.of_files(label_files)
        for name in set(names) - set(views.view_names(dataset_name, False))
      },
      **_digests(found, sets, described),
    },
  )
  missing = {
    (checkpoint, one, name)
    for (checkpoint, one, name), path in outputs.items()
    if not storage.exists(path)
    or (kept and not storage.exists(kept[checkpoint, one]))
  }
  logging.info(
    '%d of %d files below %s are finished',
    len(outputs) - len(missing),
    len(outputs),
    dest_dir,
  )
  if missing:
    is_pie = views.read_pies(label_files) if modal_labels else None
    predictor = inference.Predictor(
      batch_size=batch_size,
      preprocessing_name=preprocessing_name,
      precision=compute_precision,
      label_smoothing=label_smoothing,
      class_subset=views.class_subset(dataset_name),
    )
    data_sets = _open_sets(
      sets,
      mode,
      inference.num_classes(found[0]),
      clean_data_directory,
      preprocessing_name,
      batch_size,
    )
    to_do = {(checkpoint, one.folder) for checkpoint, one, _ in missing}
    set_of = {
      shard: one.folder
      for one, data_set in data_sets.items()
      for shard in data_set.shards
    }
    pieces = predictor.plan(
      found,
      list(data_sets.values()),
      lambda checkpoint, shard: (checkpoint, set_of[shard]) in to_do,
      whole=True,
    )
    write = functools.partial(
      _write,
      sets=[(one, of.records.class_names) for one, of in data_sets.items()],
      dataset_name=dataset_name,
      is_pie=is_pie,
      mode=mode,
      dest_dir=dest_dir,
      predictions_of=predictions_of if predictions_directory else None,
      record=record,
    )
    with (
      predictor.progress(pieces) as progress,
      workers.mapper(place, 1, progress=progress) as mapped,
      workers.beside(place) as beside,
    ):
      measure = functools.partial(_measure, predictor, write, beside)
      for piece, _ in zip(pieces, mapped(measure, pieces), strict=True):
        progress.update(predictor.count(piece))
  record.finish(
    [
      *(file for one in found for file in network_files.files(one)),
      *described.values(),
      *label_files,
    ]
  )
  if predictions_directory:
    folder = paths.predictions_folder(predictions_directory, dataset_name, mode)
    networks = network_files.identities(found)
    # So that whoever reads them knows whose they are.
    if provenance.networks(folder, _SCRIPT) != networks:
      provenance.write(folder, _SCRIPT, [], checkpoints=networks)


def _digests(
  found: Sequence[member_paths.Checkpoint],
  sets: Sequence[image_sets.CorruptedSet],
  described: Mapping[str, str],
) -> dict[str, Mapping[str, object]]:
  """Of the networks, and of the sets: their descriptions, or what they are."""
  of_sets = digests.of_each(
    {one.name: described[one.folder] for one in sets if one.folder in described}
  )
  of_sets |= {
    one.name: image_folders.digest(one.folder)
    for one in sets
    # A bucket is asked for the size of each file by itself.
    if one.folder not in described
    and '://' not in one.folder
    and not image_arrays.is_array(one.folder)
    and image_folders.has_class_folders(one.folder)
  }
  return {
    'sets': of_sets,
    'checkpoints': network_files.identities(found),
  }


def _open_sets(
  sets: Sequence[image_sets.CorruptedSet],
  mode: str,
  num_classes: int,
  clean_data_directory: str,
  preprocessing_name: str,
  batch_size: int,
) -> dict[image_sets.CorruptedSet, inference.DataSet]:
  """Opens the sets; folders of images of one kind share a traced reader."""
  clean = (
    image_records.read(clean_data_directory) if clean_data_directory else None
  )

  @functools.cache
  def reader(resize_size):
    assert clean is not None  # or there were no folders of images
    return image_folders.FolderReader(
      dataclasses.replace(clean, resize_size=resize_size),
      preprocessing_name,
      batch_size,
    )

  return {
    one: image_sets.open_set(
      one,
      mode,
      num_classes,
      clean,
      lambda records: reader(records.resize_size),
      lambda records: image_arrays.ArrayReader(
        records, preprocessing_name, batch_size
      ),
    )
    for one in sets
  }


def _predictions(
  folder: str,
  dataset_name: str,
  mode: str,
  compress: bool,
  checkpoint: member_paths.Checkpoint,
  one: image_sets.CorruptedSet,
) -> str:
  """Where those of a checkpoint for a set lie already, or go."""
  return csvs.either_form(
    paths.predictions(
      folder, dataset_name, mode, one.name, checkpoint, compress
    )
  )


def _measure(
  predictor: inference.Predictor,
  write: Callable[..., None],
  beside: Callable[..., None],
  piece: inference.Piece,
) -> None:
  beside(write, piece.data_set, predictor.predict_whole(piece))


def _write(
  data_set: int,
  predicted: Mapping[member_paths.Checkpoint, pd.DataFrame],
  *,
  sets: Sequence[tuple[image_sets.CorruptedSet, Sequence[str]]],
  dataset_name: str,
  is_pie: pd.Series | None,
  mode: str,
  dest_dir: str,
  predictions_of: Callable[..., str] | None,
  record: provenance.Provenance,
) -> None:
  """Writes the metrics of a few checkpoints on a set.

  Args:
    data_set: number of the set.
    predicted: by these.
    sets: the sets as they were planned, each with the names of its classes.
    dataset_name: as of `run`, like all that follow.
    is_pie: likewise.
    mode: likewise.
    dest_dir: likewise.
    predictions_of: where those of a checkpoint for a set are kept; None where
      they are not.
    record: started before the first file appears.
  """
  one, class_names = sets[data_set]
  for checkpoint, predictions in predicted.items():
    of_views = views.views_of(predictions, dataset_name, is_pie)
    record.start()
    if predictions_of:
      csvs.write(
        tables.PREDICTIONS,
        of_views[dataset_name].assign(split=mode),
        predictions_of(checkpoint, one),
      )
    for name, rows in of_views.items():
      path = paths.robustness(dest_dir, name, one.name, checkpoint)
      write_metrics(checkpoint, one, rows, class_names, name, mode, path)


def write_metrics(
  checkpoint: member_paths.Checkpoint,
  one: image_sets.CorruptedSet,
  predictions: pd.DataFrame,
  class_names: Sequence[str],
  dataset_name: str,
  mode: str,
  path: str,
) -> None:
  """Writes the metrics of a checkpoint on a set as `tables.ROBUSTNESS`."""
  metrics = class_level_metrics.member_metrics(predictions, class_names)
  csvs.write(
    tables.ROBUSTNESS,
    metrics.assign(
      split=mode,
      ckpt=checkpoint.path_in_study,
      dataset_name=dataset_name,
      corruption=one.corruption,
      corruption_intensity=one.severity,
      num_images=len(predictions),
      preprocessing=predictions['preprocessing'].iloc[0],
      compute_precision=predictions['precision'].iloc[0],
      made_from=predictions['made_from'].iloc[0],
    ),
    path,
  )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  if f.test_small_sample:
    command_line.with_study(f, {'dest_dir': 'robustness'})
    f.ckpt_dir, f.data_directory = inference.small_sample(
      f.dest_dir, f.ckpt_dir
    )
    f.dataset_name = 'synthetic'
  command_line.with_study(
    f,
    {
      'ckpt_dir': 'checkpoints',
      'data_directory': 'corrupted',
      'dest_dir': 'robustness',
    },
    {} if f.test_small_sample else {'clean_data_directory': 'data'},
    name='corrupted_name',
  )
  run(
    f.ckpt_dir,
    f.data_directory,
    f.dest_dir,
    f.dataset_name or 'imagenet_c',
    f.corruption_type,
    f.mode,
    f.clean_data_directory,
    f.modal_labels,
    f.predictions_directory,
    workers.Place(scheduler=f.scheduler, resource=f.worker_resource),
    compress_predictions=f.compress_predictions,
    batch_size=f.batch_size,
    preprocessing_name=f.preprocessing,
    compute_precision=f.precision,
    label_smoothing=f.label_smoothing,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
