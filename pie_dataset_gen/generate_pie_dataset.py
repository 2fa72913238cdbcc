r"""Writes the images that compressed networks see differently as a data set.

Reads
  --data_directory    TFRecord shards, as in imagenet_predictions
  --predictions_file  the --output_path of aggregate_predictions: an image
                      is a Pruning Identified Exemplar (PIE) at a level when
                      the modal labels of the dense and of the compressed
                      population differ

and writes, for each level and shard,

  <output_file>/<dataset_name>/<mode>/<pie|non_pie>/<method>/<level>/<shard>
    TFRecords: the encoded image as it was stored, its key, its label (from 0),
    and for both populations the modal label, number of members and mean
    probability. image_records.json beside them makes the folder a data set
    that every other script reads (--data_directory);
  <output_file>/<dataset_name>/stats/<mode>_<shard>_<method>_<level>.csv
    how many PIEs there are and how many of them each modal label has right.

  python -m pie_dataset_gen.generate_pie_dataset --study=runs/digits \
      --is_pie=both

Records are joined with modal labels by image key. Work that is finished, and
was made from the same modal labels, is skipped. A record at a time is in
memory; they are written about as fast as TensorFlow copies them.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from absl import flags, logging
from etils import epath

from utils import (
  command_line,
  csvs,
  digests,
  image_records,
  paths,
  populations,
  provenance,
  shard_files,
  storage,
  tables,
  tfrecords,
  workers,
)

PIE, NON_PIE = 'pie', 'non_pie'
_KINDS = {PIE: (PIE,), NON_PIE: (NON_PIE,), 'both': (PIE, NON_PIE)}


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'data_directory',
    '',
    'TFRecord shards: a folder, of which the split --mode is read, or a path, '
    'pattern or list of files.',
  )
  flags.DEFINE_string(
    'predictions_file',
    '',
    'Folder of modal labels: the --output_path of aggregate_predictions.',
  )
  flags.DEFINE_string('output_file', '', 'Folder that results go into.')
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split to read.')
  flags.DEFINE_list(
    'end_sparsity',
    [],
    'Levels of sparsity, fractions in [0, 1), separated by commas. Empty: all '
    'that have modal labels.',
  )
  flags.DEFINE_string(
    'pruning_method',
    '',
    'Pruning method of the levels. Empty: all that have modal labels.',
  )
  flags.DEFINE_string(
    'subdirectory', '', 'Name of the one shard to read. Empty: all.'
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Folder of the results. Empty: the data set's own name.",
  )
  flags.DEFINE_enum(
    'is_pie',
    PIE,
    list(_KINDS),
    'Which images to write: PIEs, all others, or both, each to a folder of '
    'its own.',
  )
  flags.DEFINE_integer(
    'num_cores',
    2,
    'Shards worked on at once.',
    lower_bound=1,
  )
  command_line.define_scheduler()


class Decision(NamedTuple):
  """What decides about a shard's images at one level of sparsity.

  Attributes:
    csv: path of the modal labels.
    labels: their rows, with a column is_pie.
    digest: checksum of the CSV.
    outputs: the files to write, by 'stats' and kind of record.
  """

  csv: str
  labels: pd.DataFrame
  digest: str
  outputs: dict[str, str]


def pie_features(row) -> dict[str, int | float]:
  """The features that a PIE record has beside image, key and label."""
  return {
    'stored_class_label': int(row.true_class_label),
    'image_index': int(row.image_index),
    'baseline_n': int(row.baseline_number_observ),
    'variant_n': int(row.variant_number_observ),
    'baseline_mode_label': int(row.baseline_modal_label),
    'variant_mode_label': int(row.variant_modal_label),
    'pruning_fraction': float(row.pruning_fraction),
    'baseline_mean_probability': float(row.baseline_mean_probability),
    'variant_mean_probability': float(row.variant_mean_probability),
  }


def write_records(
  shard: str,
  records: image_records.ImageRecords,
  decisions: Sequence[Decision],
  kinds: Sequence[Sequence[str]],
  record: provenance.Provenance,
) -> None:
  """Writes a shard's records to the files of each level, in one pass.

  Args:
    shard: its path.
    records: the data set's description.
    decisions: what decides, at each level.
    kinds: for each level the kinds of records to write.
    record: started before the first file appears.

  Raises:
    ValueError: the shard is damaged or incomplete, or a key stands twice in
      it, or records and modal labels differ in their keys or classes. Nothing
      is written then.
  """
  with contextlib.ExitStack() as stack:
    files = [
      {
        kind: stack.enter_context(shard_files.open_new(decision.outputs[kind]))
        for kind in some
      }
      for decision, some in zip(decisions, kinds, strict=True)
    ]
    rows = [
      {row.image_key: row for row in decision.labels.itertuples(index=False)}
      for decision in decisions
    ]
    seen: dict[str, int] = {}
    for index, example in enumerate(tfrecords.read_examples(shard, records)):
      if example.key in seen:
        raise ValueError(
          f'{shard}: records {list(seen).index(example.key)} and {index} have '
          f'one image key, {example.key!r}'
        )
      seen[example.key] = example.label
      for file, row_of in zip(files, rows, strict=True):
        row = row_of.get(example.key)
        write = row and file.get(PIE if row.is_pie else NON_PIE)
        if write:
          write(
            tfrecords.encode(
              example.key,
              example.encoded,
              example.label,
              extra=pie_features(row),
              dialect=tfrecords.PIE,
            )
          )
    shard_files.check_count(shard, len(seen), records)
    for decision in decisions:
      check_labels(decision, pd.Series(seen), shard)
    record.start()


def check_labels(decision: Decision, stored: pd.Series, shard: str) -> None:
  """Compares modal labels with the records they are joined with.

  Args:
    decision: the modal labels.
    stored: [records] classes, by image key.
    shard: for messages.

  Raises:
    ValueError: keys or classes differ.
  """
  labels = decision.labels.set_index('image_key')['true_class_label']
  missing = stored.index.difference(labels.index)
  extra = labels.index.difference(stored.index)
  if len(missing) or len(extra):
    raise ValueError(
      f'{decision.csv} lacks {len(missing)} of {len(stored)} images of {shard} '
      f'{list(missing[:3])} and has {len(extra)} that are not in it '
      f'{list(extra[:3])}'
    )
  labels = labels.loc[stored.index]
  differs = labels != stored
  if differs.any():
    key = differs.idxmax()
    raise ValueError(
      f'{decision.csv} and {shard} disagree on the class of {differs.sum()} '
      f'images, for example {key!r}: {labels[key]} in the former, '
      f'{stored[key]} in the records'
    )


def find_levels(
  folder: str, fractions: Sequence[float], method: str
) -> dict[populations.Level, tuple[str, pd.DataFrame]]:
  """Reads a shard's modal labels by level.

  Returns:
    For each level the CSV and its rows, with a column is_pie.

  Raises:
    ValueError: a level that is wanted is not there.
  """
  found = {}
  for path in csvs.find(tables.MODAL_LABELS, folder):
    labels = csvs.read(tables.MODAL_LABELS, path)
    labels = labels.assign(is_pie=populations.is_pie(labels))
    for level in populations.by_level(labels):
      found[level] = path, labels
  chosen = {
    level: of
    for level, of in sorted(found.items(), key=lambda item: item[0])
    if method in ('', level.pruning_method)
    and (not fractions or level.fraction_pruned in fractions)
  }
  missing = set(fractions) - {level.fraction_pruned for level in chosen}
  if missing or not chosen:
    raise ValueError(
      f'{folder} has no modal labels at {sorted(missing) or "any level"}'
      f'{f" by {method}" if method else ""}, there are '
      f'{[tuple(level) for level in sorted(found)]}'
    )
  return chosen


def run(
  data_directory: str,
  predictions_file: str,
  output_file: str,
  *,
  mode: str,
  end_sparsity: Sequence[float] = (),
  pruning_method: str = '',
  subdirectory: str = '',
  dataset_name: str = '',
  is_pie: str = PIE,
  place: workers.Place = workers.HERE,
) -> None:
  """Writes the records and statistics of all shards and levels."""
  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)
  dataset_name = dataset_name or records.name
  chosen = [s for s in shards if subdirectory in ('', storage.name(s))]
  if not chosen:
    raise FileNotFoundError(
      f'no shard {subdirectory} in {data_directory}, there are '
      f'{[storage.name(shard) for shard in shards[:3]]}...'
    )
  folder = paths.modal_labels_folder(predictions_file, dataset_name, mode)
  record = provenance.Provenance(
    storage.within(output_file, dataset_name),
    'pie_dataset_gen.generate_pie_dataset',
    {
      'data set': records.reading,
      f'{mode} shards': digests.of_each(
        {storage.name(shard): shard for shard in chosen}
      ),
    },
  )

  work = functools.partial(
    _write_levels,
    folder=folder,
    fractions=end_sparsity,
    method=pruning_method,
    outputs=functools.partial(_outputs, output_file, dataset_name, mode),
    records=records,
    kinds=_KINDS[is_pie],
    mode=mode,
    record=record,
  )
  # TensorFlow reads and writes outside of Python's lock.
  with workers.mapper(place, len(chosen), in_threads=True) as mapped:
    levels, of_shards = zip(*mapped(work, chosen), strict=True)
  for level in sorted(set().union(*levels)):
    _describe(output_file, dataset_name, mode, level, shards, records)
  made = [path for inputs in of_shards for path in inputs]
  if not made:
    logging.info('nothing to do: all records are there and up to date')
  record.finish(made)


def _write_levels(
  shard: str,
  *,
  folder: str,
  fractions: Sequence[float],
  method: str,
  outputs: Callable[[populations.Level, str], dict[str, str]],
  records: image_records.ImageRecords,
  kinds: Sequence[str],
  mode: str,
  record: provenance.Provenance,
) -> tuple[set[populations.Level], list[str]]:
  """Writes what is missing of a shard.

  Args:
    shard: its path.
    folder: of the modal labels of all shards.
    fractions: as of `find_levels`.
    method: likewise.
    outputs: the files of a level and of a shard's name.
    records: as of `write_shard`, like all that follow.
    kinds: likewise.
    mode: likewise.
    record: likewise.

  Returns:
    Its levels, and the files that something was made from.
  """
  name = storage.name(shard)
  found = find_levels(storage.within(folder, name), fractions, method)
  decisions = {
    level: Decision(csv, labels, digests.of_file(csv), outputs(level, name))
    for level, (csv, labels) in found.items()
  }
  made = write_shard(shard, records, decisions, kinds, mode, record)
  return set(decisions), made


def write_shard(
  shard: str,
  records: image_records.ImageRecords,
  decisions: dict[populations.Level, Decision],
  kinds: Sequence[str],
  mode: str,
  record: provenance.Provenance,
) -> list[str]:
  """Writes what is missing of a shard's records and statistics.

  Args:
    shard: its path.
    records: the data set's description.
    decisions: what decides, by level.
    kinds: which kinds of records are wanted.
    mode: for the statistics.
    record: as of `write_records`.

  Returns:
    The files that something was made from.
  """
  missing = {
    level: _missing(decision, kinds) for level, decision in decisions.items()
  }
  missing = {level: some for level, some in missing.items() if some}
  if not missing:
    return []
  unfinished = [decisions[level] for level in missing]
  write_records(shard, records, unfinished, list(missing.values()), record)
  for level, decision in zip(missing, unfinished, strict=True):
    csvs.write(
      tables.PIE_STATISTICS,
      _statistics(decision, storage.name(shard), level, mode),
      decision.outputs['stats'],
    )
    logging.info(
      '%s, %s %s: %d PIEs of %d images',
      storage.name(shard),
      *level,
      decision.labels['is_pie'].sum(),
      len(decision.labels),
    )
  return [shard, *(decision.csv for decision in unfinished)]


def _outputs(output_file, dataset_name, mode, level, shard):
  return {
    'stats': paths.pie_statistics(
      output_file, dataset_name, mode, shard, level
    ),
    **{
      kind: paths.pie_records(
        output_file, dataset_name, mode, kind, level, shard
      )
      for kind in (PIE, NON_PIE)
    },
  }


def _missing(decision: Decision, kinds: Sequence[str]) -> list[str]:
  """The kinds of records still to be written; removes outdated ones.

  Statistics come last and name the modal labels they were made from, so
  records beside statistics of these modal labels are up to date.
  """
  outputs = decision.outputs
  if storage.exists(outputs['stats']):
    done = csvs.read(tables.PIE_STATISTICS, outputs['stats'])
    if (done['modal_labels_sha256'] == decision.digest).all():
      return [kind for kind in kinds if not storage.exists(outputs[kind])]
  for name in ('stats', PIE, NON_PIE):
    epath.Path(outputs[name]).unlink(missing_ok=True)
  return list(kinds)


def _statistics(decision: Decision, shard, level, mode) -> pd.DataFrame:
  labels = decision.labels
  pies = labels[labels['is_pie']]
  true = pies['true_class_label']
  return pd.DataFrame(
    {
      'file': [shard],
      'pie_count': len(pies),
      'pruned_correct_count': (pies['variant_modal_label'] == true).sum(),
      'total_images_count': len(labels),
      'sparsity': level.fraction_pruned,
      'mode': mode,
      'pruning_method': level.pruning_method,
      'baseline_correct_count': (pies['baseline_modal_label'] == true).sum(),
      'modal_labels_sha256': decision.digest,
    }
  )


def _describe(output_file, dataset_name, mode, level, shards, records):
  """Writes image_records.json beside the records of a level.

  Of all shards of the data set that are there, so that the last of several
  jobs with one shard each leaves a description of them all.
  """
  outputs = {}
  for shard in map(storage.name, shards):
    of = _outputs(output_file, dataset_name, mode, level, shard)
    if storage.exists(of['stats']):
      outputs[shard] = of
  stats = csvs.read_all(
    tables.PIE_STATISTICS, [of['stats'] for of in outputs.values()]
  ).set_index('file')
  count = {
    PIE: stats['pie_count'],
    NON_PIE: stats['total_images_count'] - stats['pie_count'],
  }
  split_of = {
    name: split for split, files in records.splits.items() for name in files
  }
  for kind in (PIE, NON_PIE):
    splits: dict[str, dict] = collections.defaultdict(dict)
    for shard, of in outputs.items():
      if storage.exists(of[kind]):
        splits[split_of.get(shard, mode)][shard] = image_records.Shard(
          int(count[kind][shard]), epath.Path(of[kind]).stat().length
        )
    folder = paths.pie_records(output_file, dataset_name, mode, kind, level, '')
    if not splits:
      epath.Path(paths.image_records(folder)).unlink(missing_ok=True)
      continue
    description = dataclasses.replace(
      records,
      # Not the source's name: results of both would fall into one folder.
      name=f'{dataset_name}_{kind}_{paths.level_name(level)}',
      label_base=tfrecords.PIE.label_base,
      splits=dict(splits),
    )
    image_records.write(folder, description)


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {
      'data_directory': 'data',
      'predictions_file': 'results',
      'output_file': 'pie',
    },
  )
  run(
    f.data_directory,
    f.predictions_file,
    f.output_file,
    mode=f.mode,
    end_sparsity=command_line.fractions('end_sparsity', f.end_sparsity),
    pruning_method=f.pruning_method,
    subdirectory=f.subdirectory,
    dataset_name=f.dataset_name,
    is_pie=f.is_pie,
    place=workers.Place(f.num_cores, f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
