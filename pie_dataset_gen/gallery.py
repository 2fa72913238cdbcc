r"""Makes a page that shows the PIEs: what compressed networks see differently.

Reads
  --data_directory         TFRecord shards, as in imagenet_predictions
  --results_directory      what the other scripts wrote: the modal labels of
                           aggregate_predictions; and, if they are there, its
                           PIE null, the costs of measure_costs, the predictions
                           of the members, for the full vote of each image, the
                           verdicts and the table of headline_table, the
                           suspects of rank_suspects and the figures of
                           plot_class_impact
  --ckpt_dir               the checkpoints, for the commands that trained them;
                           may be left out
  --robustness_directory   the figure of robustness_tests.summarize; may be left
                           out

and writes a folder, <results_directory>/<dataset_name>/gallery/<mode>, whose
index.html opens in a browser: from the disk, or from a bucket that is served.
It needs no server, and nothing on it comes from elsewhere. It shows

  the verdicts: what can be said of each level, and what cannot, in words;
  the findings: the headline table, its numbers rounded, PIEs beside chance and
  beside what the rule for ties decides, figures;
  the suspects: images whose label a person should look at first;
  the images: every PIE at every level, and other images of the same classes,
  with filters, sorting, the votes of both populations, and whether a PIE is
  solid or may be chance (pie_dataset_gen/solidity.py);
  a study: questions about a random mix of PIEs and other images, answered by
  keyboard, exported as CSV for summarize_annotations;
  the commands that made all this, in their order, with environment, versions
  and all flags.

  python -m pie_dataset_gen.gallery --study=runs/digits

takes seconds for thousands of images, and about as long as reading the records
for a large data set. Images of up to --image_size pixels are copied as they are
stored, larger ones scaled down. The page is written anew each time, index.html
last.
"""

from collections.abc import Sequence

import jinja2
import pandas as pd
from absl import flags, logging
from etils import epath

from pie_dataset_gen import (
  gallery_commands,
  gallery_data,
  gallery_figures,
  gallery_images,
  gallery_tables,
  glossary,
  solidity,
)
from utils import (
  command_line,
  csvs,
  image_records,
  paths,
  populations,
  provenance,
  storage,
  tables,
  tfrecords,
)

_SCRIPT = 'pie_dataset_gen.gallery'
_STATIC = ('gallery.css', 'gallery.js', 'study.js')

# What the study asks, in the words of the page.
_ASKED = {
  'label_wrong': 'The label is wrong, or does not do the image justice',
  'several_objects': 'Several objects could be what the label means',
  'cooccurring_labels': 'It shows things whose labels often occur together',
  'atypical': 'An unusual example of its class',
  'fine_grained': 'Its class is hard to tell from a class very like it',
  'abstract': 'Drawn, abstract, distorted or of poor quality',
}


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
    'results_directory',
    '',
    'Folder of the results: what the page shows is read there, and the page '
    'goes there.',
  )
  flags.DEFINE_string(
    'ckpt_dir',
    '',
    'Checkpoints, as for imagenet_predictions: the page lists the commands '
    'that trained them. Empty: it does not.',
  )
  flags.DEFINE_string(
    'robustness_directory',
    '',
    'Folder of the figure of robustness: the --output_directory of summarize. '
    'Empty: none.',
  )
  flags.DEFINE_enum('mode', 'eval', ['eval', 'train'], 'Split of the images.')
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Folder of the results. Empty: the data set's own name.",
  )
  flags.DEFINE_integer(
    'others_per_class',
    20,
    'Images that are a PIE at no level, shown for comparison: how many of each '
    'class that has PIEs. 0: none.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'image_size',
    500,
    'Longest side, in pixels, of an image shown large.',
    lower_bound=16,
  )
  flags.DEFINE_integer(
    'thumbnail_size',
    160,
    'Longest side of a thumbnail, in pixels.',
    lower_bound=16,
  )
  flags.DEFINE_integer(
    'suspects',
    50,
    'Images shown of those whose label few members agree with: how many of the '
    'first of rank_suspects. 0: none.',
    lower_bound=0,
  )


def write_page(folder: str, data: dict[str, object], **context) -> None:
  """Writes the page's files; index.html, which makes it a page, last."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(epath.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['explain'] = glossary.explain
  for name in _STATIC:
    source = epath.Path(__file__).parent / name
    storage.write_complete(storage.within(folder, name), source.read_bytes())
  storage.write_complete(
    storage.within(folder, 'data.js'),
    f'window.gallery = {gallery_data.to_json(data)};\n',
  )
  page = environment.get_template('gallery.html').render(data=data, **context)
  storage.write_complete(storage.within(folder, 'index.html'), page)


def run(
  data_directory: str,
  results_directory: str,
  *,
  mode: str,
  dataset_name: str = '',
  ckpt_dir: str | Sequence[str] = '',
  robustness_directory: str = '',
  others_per_class: int = 20,
  image_size: int = 500,
  thumbnail_size: int = 160,
  suspects: int = 50,
) -> str:
  """Writes the page; returns the path of its index.html.

  Raises:
    FileNotFoundError: something that was asked for is not there.
    ValueError: inputs are damaged or do not belong together.
  """
  shards = image_records.find_shards(data_directory, mode)
  records = tfrecords.describe(shards)
  dataset_name = dataset_name or records.name
  labels_folder = paths.modal_labels_folder(
    results_directory, dataset_name, mode
  )
  of_results = results_directory, dataset_name, mode
  inputs, labels = _read_labels(labels_folder, data_directory, shards)
  parts = _read_parts(*of_results, inputs)
  first = gallery_data.first_suspects(
    parts[tables.SUSPECTS.name],
    suspects,
    labels,
    paths.suspects(*of_results),
  )
  pattern = paths.class_impact_figure(*of_results, '*', 'svg')
  class_impact = _named(storage.match(pattern), pattern)
  robustness = []
  if robustness_directory:
    robustness = _robustness_figure(robustness_directory)
  inputs += [*class_impact, *robustness]
  chosen = gallery_data.choose_images(
    labels, others_per_class, set(first['image_key'])
  )
  votes = {}
  predictions = paths.predictions_folder(*of_results)
  if storage.exists(predictions):
    votes = gallery_data.count_votes(predictions, chosen)
  logging.info(
    '%d images to show, of %d',
    chosen['image_key'].nunique(),
    labels['image_key'].nunique(),
  )
  folder = paths.gallery(*of_results)
  pictures = gallery_images.write_pictures(
    shards,
    records,
    chosen.groupby('filename')['image_key'].agg(set).to_dict(),
    folder,
    image_size,
    thumbnail_size,
  )
  _check_classes(chosen, pictures)
  totals = {
    level: (int(populations.is_pie(rows).sum()), len(rows))
    for level, rows in populations.by_level(labels).items()
  }
  data = gallery_data.page_data(
    chosen, totals, pictures, votes, first, records, dataset_name, mode
  )
  headline = parts[tables.HEADLINE.name]
  figures = gallery_figures.write_figures(
    folder,
    headline,
    gallery_figures.class_impact_captions(class_impact, list(totals)),
    robustness,
    parts[tables.RELIABILITY.name],
  )
  write_page(
    folder,
    data,
    pies=gallery_data.to_json(gallery_data.pies_of(chosen)),
    questions=[
      (column.name, _ASKED[column.name]) for column in tables.QUESTIONS
    ],
    terms=glossary.TERMS,
    solidity=solidity.MEANINGS,
    verdicts=gallery_tables.verdicts(parts[tables.VERDICTS.name]),
    levels=gallery_tables.levels(labels, parts[tables.PIE_NULL.name]),
    headline=gallery_tables.headline(headline),
    costs=gallery_tables.costs(parts[tables.COSTS.name]),
    figures=figures,
    commands=[
      *gallery_commands.find(
        _sources(shards, *of_results, ckpt_dir, robustness_directory)
      ),
      # This one, whose record is written last.
      gallery_commands.describe(provenance.of_this_process(_SCRIPT)),
    ],
    written_by={
      table.name: table.written_by
      for table in (tables.VERDICTS, tables.HEADLINE, tables.SUSPECTS)
    },
  )
  # Not the records one by one, nor the predictions: there may be thousands.
  provenance.write(folder, _SCRIPT, inputs)
  page = storage.within(folder, 'index.html')
  logging.info('wrote %s', page)
  return page


def _read_parts(
  results_directory: str, dataset_name: str, mode: str, inputs: list[str]
) -> dict[str, pd.DataFrame]:
  """Name of a table -> its rows, none where it is not there.

  The files that are there are added to the inputs.
  """
  of_results = results_directory, dataset_name, mode
  parts = {}
  for table, path in (
    (tables.HEADLINE, paths.headline_table(results_directory)),
    (tables.VERDICTS, paths.verdicts(*of_results)),
    (tables.PIE_NULL, paths.pie_null(*of_results)),
    (tables.SUSPECTS, paths.suspects(*of_results)),
    (tables.COSTS, paths.costs(*of_results)),
    (tables.RELIABILITY, paths.reliability(*of_results)),
  ):
    parts[table.name] = csvs.empty(table)
    if storage.exists(path):
      parts[table.name] = csvs.read(table, path)
      inputs.append(path)
  return parts


def _sources(
  shards: Sequence[str],
  results_directory: str,
  dataset_name: str,
  mode: str,
  ckpt_dir: str | Sequence[str],
  robustness_directory: str,
) -> list[str]:
  """Folders with the records of the commands that made all this."""
  of_results = results_directory, dataset_name, mode
  suspects = epath.Path(paths.suspects(*of_results))
  impact = epath.Path(paths.class_impact_summary(*of_results))
  sources = [
    str(epath.Path(shards[0]).parent),
    *(gallery_commands.trained_in(ckpt_dir) if ckpt_dir else []),
    paths.predictions_folder(*of_results),
    paths.modal_labels_folder(*of_results),
    paths.class_metrics_folder(*of_results),
    str(impact.parent),
    str(suspects.parent),
    results_directory,
  ]
  if robustness_directory:
    measured = epath.Path(robustness_directory)
    # The summary's record, those of the sets that were measured, and those of
    # the commands that made the sets.
    of_sets = [str(measured), *sorted(map(str, measured.iterdir()))]
    sources += of_sets
    sources += gallery_commands.read_from(
      of_sets, 'robustness_tests.imagenet_corruptions'
    )
  return sources


def _named(files: Sequence[str], pattern: str) -> dict[str, str]:
  """Path -> what stands for the star of the pattern that found it."""
  before, after = storage.name(pattern).split('*')
  return {
    path: storage.name(path).removeprefix(before).removesuffix(after)
    for path in files
  }


def _read_labels(
  labels_folder: str, data_directory: str, shards: Sequence[str]
) -> tuple[list[str], pd.DataFrame]:
  """Files of modal labels and their rows, which are of these shards."""
  files = csvs.find(tables.MODAL_LABELS, labels_folder)
  labels = csvs.read_all(tables.MODAL_LABELS, files, gallery_data.LABEL_COLUMNS)
  known = set(map(storage.name, shards))
  strange = sorted(set(labels['filename']) - known)
  if strange:
    raise ValueError(
      f'{labels_folder} has modal labels of the shards {strange[:3]}, '
      f'{data_directory} has {sorted(known)[:3]}'
    )
  return files, labels


def _robustness_figure(folder: str) -> list[str]:
  """The figure, or nothing where only the sets were measured."""
  if not storage.exists(folder):
    raise FileNotFoundError(
      f'there is no {folder}{storage.nearest(folder)} '
      f'({tables.ROBUSTNESS_SUMMARY.written_by} writes into it)'
    )
  return storage.match(paths.robustness_figure(folder, 'svg'))


def _check_classes(chosen, pictures) -> None:
  for row in chosen.itertuples(index=False):
    stored = pictures[row.image_key].label
    if stored != row.true_class_label:
      raise ValueError(
        f'the modal labels say that {row.image_key!r} is of class '
        f'{row.true_class_label}, the records {stored}'
      )


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(
    f,
    {'data_directory': 'data', 'results_directory': 'results'},
    {'ckpt_dir': 'checkpoints', 'robustness_directory': 'robustness'},
  )
  run(
    f.data_directory,
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name,
    ckpt_dir=f.ckpt_dir,
    robustness_directory=f.robustness_directory,
    others_per_class=f.others_per_class,
    image_size=f.image_size,
    thumbnail_size=f.thumbnail_size,
    suspects=f.suspects,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
