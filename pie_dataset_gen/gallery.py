r"""Makes a page that shows the PIEs: what pruned networks see differently.

Reads
  --data_directory         TFRecord shards, as in imagenet_predictions
  --results_directory      what the other scripts wrote: the modal labels of
                           aggregate_predictions; and, if they are there, the
                           predictions of the members, for the full vote of
                           each image, the table of headline_table and the
                           figures of plot_class_impact
  --ckpt_dir               the checkpoints, for the commands that trained them;
                           may be left out
  --robustness_directory   the figure of robustness_tests.summarize; may be left
                           out

and writes a folder, <results_directory>/<dataset_name>/gallery/<mode>, whose
index.html opens in a browser: from the disk, or from a bucket that is served.
It needs no server, and nothing on it comes from elsewhere. It shows

  the findings: the headline table, accuracy with and without PIEs, the number
  of PIEs beside chance, figures, and the commands that made them;
  the images: every PIE at every level of sparsity, and other images of the
  same classes, with filters, sorting, and the votes of both populations;
  a study: questions about a random mix of PIEs and other images, answered by
  keyboard, exported as CSV for summarize_annotations.

  python -m pie_dataset_gen.gallery --study=runs/digits

takes seconds for thousands of images, and about as long as reading the records
for a large data set. Images of up to --image_size pixels are copied as they are
stored, larger ones scaled down. The page is written anew each time, index.html
last.
"""

from collections.abc import Mapping, Sequence

import jinja2
import pandas as pd
from absl import flags, logging
from etils import epath

from pie_dataset_gen import gallery_data, gallery_figures, gallery_images
from utils import (
  command_line,
  csvs,
  image_records,
  member_paths,
  paths,
  populations,
  provenance,
  storage,
  tables,
  tfrecords,
)

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


def headline_rows(
  headline: Mapping[populations.Level, pd.DataFrame],
) -> list[dict[str, object]]:
  """The table of findings, a line for each measure, levels side by side."""
  lines: dict[str, dict] = {}
  for level, rows in headline.items():
    for row in rows.to_dict('records'):
      lines.setdefault(row['measure'], {})[level] = row
  absent = {'not_available': 'no data'}
  return [
    {
      'measure': measure,
      'cells': [cells.get(level, absent) for level in headline],
    }
    for measure, cells in lines.items()
  ]


def shown(value: float) -> str:
  """A number as the page shows it: counts in full, others to four digits."""
  if value == int(value) and abs(value) != 1:
    return f'{value:.0f}'
  return f'{value:.1f}' if abs(value) >= 1000 else f'{value:.4g}'


def find_commands(folders: Sequence[str]) -> list[dict[str, object]]:
  """What the records beside results say of the commands that made them.

  Members that one command trained have a record each; the last one counts.
  """
  commands: dict[str, dict] = {}
  for folder in folders:
    for path in epath.Path(folder).glob('*.run.json'):
      record = provenance.read(str(path))
      if not record.get('finished') or 'command' not in record:
        continue  # settings of a member, or a command that has not finished
      command = provenance.command(record)
      found = {
        'command': command,
        'finished': record['finished'],
        'python': record['python'],
        'packages': record['packages'],
      }
      former = commands.setdefault(command, found)
      commands[command] = max(former, found, key=lambda of: of['finished'])
  return sorted(commands.values(), key=lambda of: of['finished'])


def write_page(folder: str, data: dict[str, object], **context) -> None:
  """Writes the page's files; index.html, which makes it a page, last."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(epath.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['shown'] = shown
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
  inputs, labels = _read_labels(labels_folder, data_directory, shards)
  sources = [str(epath.Path(shards[0]).parent), labels_folder]
  if ckpt_dir:
    sources += _trained_in(ckpt_dir)
  headline, by_level = None, {}
  path = paths.headline_table(results_directory)
  if storage.exists(path):
    headline = csvs.read(tables.HEADLINE, path)
    by_level = populations.by_level(headline)
    inputs.append(path)
    sources.append(results_directory)
  figure_of = paths.class_impact_figure(
    results_directory, dataset_name, mode, '*', 'svg'
  )
  if class_impact := storage.match(figure_of):
    sources.append(str(epath.Path(figure_of).parent))
  robustness = []
  if robustness_directory:
    robustness = _robustness_figure(robustness_directory)
    measured = epath.Path(robustness_directory)
    # The summary's record, and those of the sets that were measured.
    sources += map(str, [measured, *sorted(measured.iterdir())])
  inputs += class_impact + robustness
  chosen = gallery_data.choose_images(labels, others_per_class)
  votes = {}
  predictions = paths.predictions_folder(results_directory, dataset_name, mode)
  if storage.exists(predictions):
    sources.append(predictions)
    votes = gallery_data.count_votes(predictions, chosen)
  logging.info(
    '%d images to show, of %d',
    chosen['image_key'].nunique(),
    labels['image_key'].nunique(),
  )
  folder = paths.gallery(results_directory, dataset_name, mode)
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
    chosen, totals, pictures, votes, records, dataset_name, mode
  )
  figures = gallery_figures.write_figures(
    folder, headline, class_impact, robustness
  )
  write_page(
    folder,
    data,
    pies=gallery_data.to_json(gallery_data.pies_of(chosen)),
    questions=[
      (column.name, _ASKED[column.name]) for column in tables.QUESTIONS
    ],
    headline=headline_rows(by_level),
    headline_levels=list(by_level),
    figures=figures,
    commands=find_commands(sources),
  )
  # Not the records one by one, nor the predictions: there may be thousands.
  provenance.write(folder, 'pie_dataset_gen.gallery', inputs)
  page = storage.within(folder, 'index.html')
  logging.info('wrote %s', page)
  return page


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


def _trained_in(ckpt_dir: str | Sequence[str]) -> list[str]:
  """Folders of members, and that of the whole training, above them."""
  folders: dict[str, None] = {}
  for checkpoint in member_paths.find(ckpt_dir):
    folder = epath.Path(checkpoint.prefix).parent
    depth = len(checkpoint.member.folder.split('/'))
    folders[str(folder)] = None
    if len(folder.parents) >= depth - 1:
      folders[str(folder.parents[depth - 2])] = None
  return list(folders)


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
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
