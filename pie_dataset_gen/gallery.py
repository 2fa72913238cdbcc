r"""Makes a page that shows the PIEs: what compressed networks see differently.

Reads
  --data_directory         TFRecord shards, as in imagenet_predictions; or
  --image_directory        a folder or tar of images, each at its key
  --results_directory      what the other scripts wrote: the modal labels of
                           aggregate_predictions; and, if they are there, its
                           PIE null, the costs of measure_costs and
                           measure_corrupted_costs, the predictions
                           of the members, for the full vote of each image, the
                           tests of gen_tstatistic, the verdicts and table of
                           headline_table, the suspects of rank_suspects and the
                           figures of plot_class_impact
  --ckpt_dir               the checkpoints, for the commands that trained them;
                           may be left out
  --robustness_directory   the figure of robustness_tests.summarize; may be left
                           out

and writes a folder, <results_directory>/<dataset_name>/gallery/<mode>, whose
index.html opens in a browser: from the disk, or from a bucket that is served.
It needs no server, and nothing on it comes from elsewhere. Verdicts and
suspects that no other script has written are found here, as those would. It
shows

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

import functools
from collections.abc import Mapping, Sequence

import jinja2
import pandas as pd
from absl import flags, logging
from etils import epath

from pie_dataset_gen import (
  gallery_commands,
  gallery_data,
  gallery_figures,
  gallery_files,
  gallery_images,
  gallery_tables,
  glossary,
  group_costs,
  headline_rows,
  same_networks,
  solidity,
  verdicts,
)
from pie_dataset_gen import suspects as suspects_of
from utils import (
  class_names,
  command_line,
  csvs,
  image_records,
  paths,
  populations,
  provenance,
  storage,
  tables,
  tfrecords,
  workers,
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
    'pattern or list of files. With --image_directory: folder of '
    'image_records.json, for the names of the classes; may be empty.',
  )
  flags.DEFINE_string(
    'image_directory',
    '',
    'Folder or uncompressed tar of JPEGs and PNGs, in place of TFRecords: the '
    'path of an image in it, with or without its ending, is the image key. '
    'Empty: TFRecords.',
  )
  flags.DEFINE_string(
    'predictions_directory',
    '',
    'Predictions that aggregate_predictions read, for the full vote of each '
    'image. Empty: those in --results_directory, if there are any.',
  )
  flags.DEFINE_string(
    'classes_file',
    '',
    'CSV with the columns class_id and class_name, for the names of the '
    'classes; has to agree with those of --data_directory. Empty: those, or '
    'the class ids.',
  )
  flags.DEFINE_string(
    'groups_file',
    '',
    'CSV of groups of images, for a filter: columns group and image_key. '
    'Empty: those of the data of --study, if it has any.',
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
  command_line.define_scheduler()
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
  numbers: tuple[int, int] = (20, 50),
  sizes: tuple[int, int] = (500, 160),
  image_directory: str = '',
  predictions_directory: str = '',
  classes_file: str = '',
  groups_file: str = '',
  place: workers.Place = workers.HERE,
) -> str:
  """Writes the page; returns the path of its index.html.

  Args are as the flags; numbers are of other images of each class and of
  suspects, sizes the longest sides of images and thumbnails.

  Raises:
    FileNotFoundError: something that was asked for is not there.
    ValueError: inputs are damaged or do not belong together.
  """
  others_per_class, suspects = numbers
  shards, records = _find_records(data_directory, image_directory, mode)
  named = class_names.read(classes_file, records)
  dataset_name = dataset_name or (records.name if records else 'imagenet')
  labels_folder = paths.modal_labels_folder(
    results_directory, dataset_name, mode
  )
  of_results = results_directory, dataset_name, mode
  inputs, labels = _read_labels(labels_folder, data_directory, shards)
  parts = _read_parts(*of_results, inputs, labels)
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
  for script, shown in (
    ('per_class_accuracy.plot_class_impact', class_impact),
    (tables.ROBUSTNESS_SUMMARY.written_by, robustness),
  ):
    for path in list(shown)[:1]:
      same_networks.check_inputs(
        script, path, paths.class_metrics_folder(*of_results)
      )
  inputs += [*class_impact, *robustness]
  chosen = gallery_data.choose_images(
    labels, others_per_class, set(first['image_key'])
  )
  logging.info(
    '%d images to show, of %d',
    chosen['image_key'].nunique(),
    labels['image_key'].nunique(),
  )
  folder = paths.gallery(*of_results)
  predictions = predictions_directory or paths.predictions_folder(*of_results)
  votes = {}
  wanted = chosen.groupby('filename')['image_key'].agg(set).to_dict()
  missing: list[str] = []
  with workers.mapper(place, 1) as mapped:
    if predictions_directory or storage.exists(predictions):
      votes = gallery_data.count_votes(predictions, chosen, mapped)
    if image_directory or not records:
      pictures, missing = _write_found(image_directory, wanted, folder, *sizes)
    else:
      pictures = _write_of_shards(
        shards, records, wanted, folder, sizes, mapped
      )
  _check_classes(chosen, pictures)
  names = gallery_data.check_names(named, labels, votes)
  totals = {
    level: (int(populations.is_pie(rows).sum()), len(rows))
    for level, rows in populations.by_level(labels).items()
  }
  groups = group_costs.read_groups(groups_file) if groups_file else {}
  data = gallery_data.page_data(
    chosen, totals, pictures, votes, first, names, dataset_name, mode, groups
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
    group_costs=gallery_tables.costs_by(
      parts[tables.GROUP_COSTS.name], 'group'
    ),
    corrupted_costs=gallery_tables.costs_by(
      parts[tables.CORRUPTED_COSTS.name], 'data_set'
    ),
    figures=figures,
    missing=missing,
    image_directory=image_directory,
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
  shown = [
    str(path)
    for path in storage.below(epath.Path(folder))
    if not path.name.startswith('.') and not path.name.endswith('.run.json')
  ]
  provenance.write(
    folder, _SCRIPT, inputs, outputs=provenance.outputs(folder, shown)
  )
  page = storage.within(folder, 'index.html')
  logging.info('wrote %s', page)
  return page


def _find_records(
  data_directory: str, image_directory: str, mode: str
) -> tuple[list[str], image_records.ImageRecords | None]:
  """Shards, where images come from them, and the description, if any."""
  if not image_directory:
    try:
      shards = image_records.find_shards(data_directory, mode)
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f'{error} (--image_directory names a folder or tar of images instead)'
      ) from None
    return shards, tfrecords.describe(shards)
  return [], image_records.read(data_directory) if data_directory else None


def _read_parts(
  results_directory: str,
  dataset_name: str,
  mode: str,
  inputs: list[str],
  labels: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
  """Name of a table -> its rows, none where it is not there.

  The files that are there are added to the inputs. Verdicts and suspects that
  nobody has written are found here.
  """
  of_results = results_directory, dataset_name, mode
  metrics = paths.class_metrics_folder(*of_results)
  parts = {}
  for table, path in (
    (tables.HEADLINE, paths.headline_table(results_directory)),
    (tables.VERDICTS, paths.verdicts(*of_results)),
    (tables.PIE_NULL, paths.pie_null(*of_results)),
    (tables.SUSPECTS, paths.suspects(*of_results)),
    (tables.COSTS, paths.costs(*of_results)),
    (tables.GAINS, paths.gains(results_directory, dataset_name)),
    (tables.GROUP_COSTS, paths.group_costs(*of_results)),
    (tables.CORRUPTED_COSTS, paths.corrupted_costs(*of_results)),
    (tables.RELIABILITY, paths.reliability(*of_results)),
  ):
    parts[table.name] = csvs.empty(table)
    if storage.exists(path):
      same_networks.check_inputs(table.written_by, path, metrics)
      parts[table.name] = csvs.read(table, path)
      inputs.append(path)
  if not len(parts[tables.VERDICTS.name]):
    impacts, files = verdicts.read_impacts(*of_results)
    null, costs = parts[tables.PIE_NULL.name], parts[tables.COSTS.name]
    if len(costs):
      same_networks.check_costs(labels, costs, paths.costs(*of_results))
    parts[tables.VERDICTS.name] = verdicts.of_levels(
      null,
      impacts,
      costs,
      parts[tables.GROUP_COSTS.name],
      parts[tables.GAINS.name],
    )
    inputs += files
    if storage.exists(metrics):
      measured = csvs.find(tables.CLASS_METRICS, metrics)
      same_networks.check_labels(
        headline_rows.read_members(measured, mode),
        labels,
        metrics,
        paths.modal_labels_folder(*of_results),
      )
  if not storage.exists(paths.suspects(*of_results)):
    parts[tables.SUSPECTS.name] = suspects_of.rank(labels, ())
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
    *([str(epath.Path(shards[0]).parent)] if shards else []),
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
  """Files of modal labels and their rows, which are of these shards, if any."""
  files = csvs.find(tables.MODAL_LABELS, labels_folder)
  labels = csvs.read_all(tables.MODAL_LABELS, files, suspects_of.COLUMNS)
  known = set(map(storage.name, shards))
  strange = sorted(set(labels['filename']) - known)
  if shards and strange:
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


def _write_found(
  image_directory: str,
  wanted: Mapping[str, set[str]],
  folder: str,
  image_size: int,
  thumbnail_size: int,
) -> tuple[dict[str, gallery_images.Picture], list[str]]:
  """Pictures of a folder or tar, by key, and the keys that it lacks."""
  keys = set().union(*wanted.values())
  pictures = gallery_images.write_pictures(
    gallery_files.read(image_directory, keys),
    folder,
    image_size,
    thumbnail_size,
  )
  missing = sorted(keys - pictures.keys())
  if missing:
    logging.warning(
      '%s lacks %d of %d images, which are shown as crossed squares: %s',
      image_directory,
      len(missing),
      len(keys),
      ', '.join(missing[:10]) + (', ...' if len(missing) > 10 else ''),
    )
    stand_in = gallery_images.write_stand_in(folder, thumbnail_size)
    pictures |= dict.fromkeys(missing, stand_in)
  return pictures, missing


def _write_of_shards(
  shards, records, wanted, folder, sizes, mapped
) -> dict[str, gallery_images.Picture]:
  """Pictures of the shards that hold wanted images, by key."""
  pictures: dict[str, gallery_images.Picture] = {}
  chosen = [shard for shard in shards if storage.name(shard) in wanted]
  write = functools.partial(
    gallery_images.write_of_shard, records=records, folder=folder, sizes=sizes
  )
  keys = (wanted[storage.name(shard)] for shard in chosen)
  for some in mapped(write, chosen, keys):
    pictures |= some
  return pictures


def _check_classes(chosen, pictures) -> None:
  for row in chosen.itertuples(index=False):
    stored = pictures[row.image_key].label
    if stored not in (None, row.true_class_label):
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
    {'results_directory': 'results'}
    | ({} if f.image_directory else {'data_directory': 'data'}),
    {
      'data_directory': 'data',
      'classes_file': 'classes',
      'groups_file': 'groups',
      'ckpt_dir': 'checkpoints',
      'robustness_directory': 'robustness',
    },
  )
  run(
    f.data_directory,
    f.results_directory,
    mode=f.mode,
    dataset_name=f.dataset_name,
    ckpt_dir=f.ckpt_dir,
    robustness_directory=f.robustness_directory,
    numbers=(f.others_per_class, f.suspects),
    sizes=(f.image_size, f.thumbnail_size),
    image_directory=f.image_directory,
    predictions_directory=f.predictions_directory,
    classes_file=f.classes_file,
    groups_file=f.groups_file,
    place=workers.Place(scheduler=f.scheduler),
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
