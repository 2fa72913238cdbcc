r"""Ranks images by how much their label should be looked at.

Reads the modal labels of all levels, as aggregate_predictions wrote them, and
writes <results_directory>/<dataset_name>/<mode>_suspects.csv (utils/tables.py:
SUSPECTS), a row for each image. First come the labels that fewest members of
the populations agree with, dense and compressed ones counting alike; among
equals those for which most members suggest one and the same other label. A
threshold on correct_share, or the first rows, are the images for a person to
look at; gallery shows the first ones.

  python -m pie_dataset_gen.rank_suspects --study=runs/digits

With --sort_by=vote_qvalue those images come first on which dense and compressed
members differ most surely (pie_dataset_gen/solidity.py), and --max_qvalue=0.05
leaves only those where that is more than chance: what compression changed, be
the label right or wrong. An image's q-value is its smallest over levels times
the number of levels, at most 1: with many levels one is small by chance.

Does it find errors? Of labels that were made wrong on purpose, nearly all
(tests/benchmarks/label_errors.py; docs/label_errors.md has the figures). Being
a PIE hardly says more about that than chance, which is why it does not decide
the rank.
"""

import pandas as pd
from absl import flags, logging
from etils import epath

from pie_dataset_gen import suspects
from utils import (
  class_names,
  command_line,
  csvs,
  image_records,
  paths,
  provenance,
  tables,
)


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: modal labels are read there, and this goes there.',
  )
  flags.DEFINE_string(
    'data_directory',
    '',
    'Folder of image_records.json, for the names of the classes. Empty: their '
    'ids.',
  )
  flags.DEFINE_string(
    'classes_file',
    '',
    'CSV with the columns class_id and class_name, for the names of the '
    'classes; has to agree with those of --data_directory. Empty: those.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    'Name of the data set, a folder of the results. Empty: that of --study or '
    "of --data_directory, or 'imagenet'.",
  )
  flags.DEFINE_enum(
    'sort_by',
    suspects.SORTED_BY[0],
    suspects.SORTED_BY,
    'What decides about the rank: how few members agree with the label, or how '
    'surely dense and compressed members differ.',
  )
  flags.DEFINE_float(
    'max_qvalue',
    1.0,
    'Leaves out images whose smallest q-value over levels, times the number of '
    'levels, is larger, or that have none; 0.05 leaves those that are solid. '
    '1: none is left out.',
    lower_bound=0.0,
    upper_bound=1.0,
  )


def run(
  results_directory: str,
  *,
  mode: str,
  dataset_name: str = '',
  data_directory: str = '',
  sort_by: str = suspects.SORTED_BY[0],
  max_qvalue: float = 1.0,
  classes_file: str = '',
) -> pd.DataFrame:
  """Writes the ranking; returns its rows.

  Raises:
    FileNotFoundError: there are no modal labels.
    ValueError: they are damaged, or without q-values that were asked for.
  """
  records = None
  if data_directory:
    records = image_records.read(data_directory)
    dataset_name = dataset_name or records.name
  names = class_names.read(classes_file, records)
  dataset_name = dataset_name or 'imagenet'
  files = csvs.find(
    tables.MODAL_LABELS,
    paths.modal_labels_folder(results_directory, dataset_name, mode),
  )
  labels = csvs.read_all(tables.MODAL_LABELS, files, suspects.COLUMNS)
  wants_q = sort_by == 'vote_qvalue' or max_qvalue < 1
  if wants_q and labels['vote_pvalue'].isna().all():
    raise ValueError(
      f'the modal labels in {files[0]} and the like have no p-values of '
      'images, which --sort_by=vote_qvalue and --max_qvalue go by: wanted '
      'those that aggregate_predictions makes with --num_permutations'
    )
  ranked = suspects.rank(labels, names, sort_by, max_qvalue)
  path = paths.suspects(results_directory, dataset_name, mode)
  csvs.write(tables.SUSPECTS, ranked, path)
  wrong = (ranked['correct_share'] < 0.5).sum()
  logging.info(
    'wrote %s: fewer than half of the members agree with %d of %d labels',
    path,
    wrong,
    len(ranked),
  )
  provenance.write(
    str(epath.Path(path).parent), 'pie_dataset_gen.rank_suspects', files
  )
  return ranked


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'results_directory': 'results'},
    {'data_directory': 'data', 'classes_file': 'classes'},
  )
  run(
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name,
    data_directory=f.data_directory,
    sort_by=f.sort_by,
    max_qvalue=f.max_qvalue,
    classes_file=f.classes_file,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
