r"""Makes a page that shows the PIEs: what pruned networks see differently.

Reads
  --data_directory         TFRecord shards, as in imagenet_predictions
  --predictions_file       the --output_path of aggregate_predictions: modal
                           labels
  --predictions_directory  predictions of the members, for the full vote of
                           each image; may be left out
  --ckpt_dir               the checkpoints, for the commands that trained them;
                           may be left out
  --headline_directory     the --output_path of headline_table; may be left out
  --t_statistic_file       the --output_file of plot_class_impact: its figures;
                           may be left out
  --robustness_directory   the --dest_dir of robustness_tests.summarize: its
                           figure; may be left out

and writes a folder, <output_path>/<dataset_name>/gallery/<mode>, whose
index.html opens in a browser: from the disk, or from a bucket that is served.
It needs no server, and nothing on it comes from elsewhere. It shows

  the findings: the headline table, accuracy with and without PIEs, the number
  of PIEs beside chance, figures, and the commands that made them;
  the images: every PIE at every level of sparsity, and other images of the
  same classes, with filters, sorting, and the votes of both populations;
  a study: questions about a random mix of PIEs and other images, answered by
  keyboard, exported as CSV for summarize_annotations.

  RUN=runs/digits
  python -m pie_dataset_gen.gallery --data_directory=$RUN/data \
      --predictions_file=$RUN/results --output_path=$RUN/results \
      --predictions_directory=$RUN/results/digits/predictions_dataframe/eval \
      --ckpt_dir=$RUN/checkpoints/digits \
      --headline_directory=$RUN/results --t_statistic_file=$RUN/results \
      --robustness_directory=$RUN/results/robustness

takes seconds for thousands of images, and about as long as reading the records
for a large data set. Images of up to --image_size pixels are copied as they are
stored, larger ones scaled down. The page is written anew each time, index.html
last.
"""

import hashlib
import io
import json
import shlex
from collections.abc import Mapping, Sequence

import jinja2
import matplotlib as mpl
import pandas as pd
from absl import flags, logging
from etils import epath
from matplotlib import figure as mpl_figure

from pie_dataset_gen import gallery_images
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

_LEVEL = ['pruning_method', 'pruning_fraction']
_LABEL_COLUMNS = (
  *_LEVEL,
  'filename',
  'image_key',
  'true_class_label',
  'baseline_modal_label',
  'baseline_number_observ',
  'baseline_vote_share',
  'variant_modal_label',
  'variant_number_observ',
  'variant_vote_share',
  'taxicab_distance',
)
_VOTE_COLUMNS = (*tables.MEMBER_KEY, 'image_key', 'predictions')
_STATIC = ('gallery.css', 'gallery.js', 'study.js')
# Copied, never followed: what a page needs lies beside it.
_FIGURES = 'figures'
_BLUE, _ORANGE, _GREY = '#0072B2', '#D55E00', '#777777'

Level = tuple[str, float]


def define_flags() -> None:
  """Defines the flags of this script."""
  flags.DEFINE_string(
    'data_directory',
    None,
    'TFRecord shards: a folder, of which the split --mode is read, or a path, '
    'pattern or list of files.',
    required=True,
  )
  flags.DEFINE_string(
    'predictions_file',
    None,
    'Folder of modal labels: the --output_path of aggregate_predictions.',
    required=True,
  )
  flags.DEFINE_string(
    'output_path', None, 'Folder of the results.', required=True
  )
  flags.DEFINE_string(
    'predictions_directory',
    '',
    'Folder of the CSVs of predictions, one folder in it for each shard. '
    'Empty: the page knows the modal labels and their share only.',
  )
  flags.DEFINE_string(
    'ckpt_dir',
    '',
    'Checkpoints, as for imagenet_predictions: the page lists the commands '
    'that trained them. Empty: it does not.',
  )
  flags.DEFINE_string(
    'headline_directory',
    '',
    'Folder of the table of findings: the --output_path of headline_table. '
    'Empty: none.',
  )
  flags.DEFINE_string(
    't_statistic_file',
    '',
    'Folder of the figures of class impact: the --output_file of '
    'plot_class_impact. Empty: none.',
  )
  flags.DEFINE_string(
    'robustness_directory',
    '',
    'Folder of the figure of robustness: the --dest_dir of summarize. Empty: '
    'none.',
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


def choose_images(labels: pd.DataFrame, others_per_class: int) -> pd.DataFrame:
  """The images to show: all PIEs, and others of their classes.

  Args:
    labels: rows of `tables.MODAL_LABELS` at all levels.
    others_per_class: how many that are a PIE at no level, for each class that
      has PIEs.

  Returns:
    The rows of the chosen images, with the further columns is_pie and
    taxicab_rank: 1 for the image of a level on which the votes differ most;
    images that differ as much share the better rank.

  Raises:
    ValueError: the levels do not have the same images, classes and dense
      modal labels.
  """
  labels = labels.sort_values([*_LEVEL, 'image_key'], kind='stable')
  shared = [
    'image_key',
    'filename',
    'true_class_label',
    'baseline_modal_label',
    'baseline_number_observ',
    'baseline_vote_share',
  ]
  first = None
  for level, rows in labels.groupby(_LEVEL):
    rows = rows[shared].reset_index(drop=True)
    if first is None:
      first = level, rows
    elif not rows.equals(first[1]):
      raise ValueError(
        f'the modal labels at {first[0]} and at {level} differ in their '
        'images, classes or dense modal labels: wanted all levels from one '
        'run of aggregate_predictions'
      )
  labels = labels.assign(
    is_pie=populations.is_pie(labels),
    taxicab_rank=labels.groupby(_LEVEL)['taxicab_distance']
    .rank(method='min', ascending=False)
    .astype(int),
  )
  pies = labels.loc[labels['is_pie'], ['image_key', 'true_class_label']]
  others = first[1]
  others = others[
    ~others['image_key'].isin(pies['image_key'])
    & others['true_class_label'].isin(pies['true_class_label'])
  ]
  # A random choice that depends on nothing but the keys.
  by_chance = others['image_key'].map(
    lambda key: hashlib.sha256(key.encode()).hexdigest()
  )
  others = (
    others.assign(by_chance=by_chance)
    .sort_values('by_chance')
    .groupby('true_class_label')
    .head(others_per_class)
  )
  chosen = {*pies['image_key'], *others['image_key']}
  return labels[labels['image_key'].isin(chosen)]


def count_votes(
  predictions_directory: str, chosen: pd.DataFrame
) -> dict[tuple[str, Level], dict[int, int]]:
  """How many members predict which class, for the chosen images.

  Args:
    predictions_directory: one folder for each shard, one CSV for each member.
    chosen: as `choose_images` gives them.

  Returns:
    (image key, level) -> class id -> members; the level of the dense
    population is ('baseline', 0).

  Raises:
    ValueError: predictions and modal labels are not of the same population.
  """
  votes = {}
  for shard, rows in chosen.groupby('filename'):
    files = csvs.find(
      tables.PREDICTIONS, str(epath.Path(predictions_directory) / shard)
    )
    keys = set(rows['image_key'])
    found = pd.concat(
      [
        frame[frame['image_key'].isin(keys)]
        for frame in (
          csvs.read(tables.PREDICTIONS, path, _VOTE_COLUMNS) for path in files
        )
      ]
    )
    counts = found.groupby(
      ['image_key', 'pruning_method', 'fraction_pruned', 'predictions']
    ).size()
    for (key, method, fraction, label), number in counts.items():
      votes.setdefault((key, (method, fraction)), {})[label] = number
  for row in chosen.itertuples(index=False):
    level = row.pruning_method, row.pruning_fraction
    for who, population in (
      ('baseline', (populations.BASELINE, 0.0)),
      ('variant', level),
    ):
      cast = votes.get((row.image_key, population), {})
      number = getattr(row, f'{who}_number_observ')
      label = getattr(row, f'{who}_modal_label')
      agree = round(getattr(row, f'{who}_vote_share') * number)
      if sum(cast.values()) != number or cast.get(label, 0) != agree:
        raise ValueError(
          f'the modal labels of {row.image_key!r} at {population} count '
          f'{agree} of {number} votes for class {label}, the predictions in '
          f'{predictions_directory} {cast.get(label, 0)} of '
          f'{sum(cast.values())}: wanted the predictions that '
          'aggregate_predictions read'
        )
  return votes


def page_data(
  chosen: pd.DataFrame,
  totals: Mapping[Level, tuple[int, int]],
  pictures: Mapping[str, gallery_images.Picture],
  votes: Mapping[tuple[str, Level], Mapping[int, int]],
  records: image_records.ImageRecords,
  dataset_name: str,
  mode: str,
) -> dict[str, object]:
  """What the page's scripts read; the numbers are those of the CSVs.

  Args:
    chosen: as `choose_images` gives them.
    totals: level -> PIEs and images.
    pictures: by image key.
    votes: as `count_votes` gives them; empty where they are not known.
    records: for the names of the classes.
    dataset_name: of the results.
    mode: split.
  """

  def cast(key, level):
    found = votes.get((key, level), {})
    return sorted(found.items(), key=lambda vote: (-vote[1], vote[0]))

  levels = list(totals)
  images = []
  for key, rows in chosen.groupby('image_key'):
    picture = pictures[key]
    rows = {
      (row.pruning_method, row.pruning_fraction): row
      for row in rows.itertuples(index=False)
    }
    first = rows[levels[0]]
    images.append(
      {
        'key': key,
        'shard': first.filename,
        'label': first.true_class_label,
        'large': picture.large,
        'small': picture.small,
        'size': [picture.width, picture.height],
        'dense': {
          'label': first.baseline_modal_label,
          'share': first.baseline_vote_share,
          'members': first.baseline_number_observ,
          'votes': cast(key, (populations.BASELINE, 0.0)),
        },
        'pruned': [
          {
            'label': rows[level].variant_modal_label,
            'share': rows[level].variant_vote_share,
            'members': rows[level].variant_number_observ,
            'votes': cast(key, level),
            'taxicab': rows[level].taxicab_distance,
            'rank': rows[level].taxicab_rank,
          }
          for level in levels
        ],
      }
    )
  data = {
    'dataset': dataset_name,
    'mode': mode,
    'classes': records.class_names,
    'levels': [
      {
        'method': method,
        'fraction': fraction,
        'pies': totals[method, fraction][0],
        'images': totals[method, fraction][1],
      }
      for method, fraction in levels
    ],
    'images': images,
  }
  # Answers that a browser keeps belong to this population and these images.
  data['digest'] = hashlib.sha256(_json(data).encode()).hexdigest()[:16]
  return data


def _json(data: object) -> str:
  # Numbers of numpy and pandas know their Python value.
  return json.dumps(
    data, separators=(',', ':'), default=lambda value: value.item()
  )


def draw_findings(headline: pd.DataFrame) -> mpl_figure.Figure:
  """Draws accuracy on PIEs and others, and the number of PIEs beside chance.

  Args:
    headline: rows of `tables.HEADLINE`; a row of panels for each method.
  """
  pruned = headline[headline['pruning_method'] != populations.BASELINE]
  methods = sorted(set(pruned['pruning_method']))
  figure = mpl_figure.Figure((10, 3.8 * len(methods)), layout='constrained')
  panels = figure.subplots(len(methods), 2, squeeze=False)
  for (accuracy, number), method in zip(panels, methods, strict=True):
    of = {
      measure: rows.dropna(subset='value')
      for measure, rows in pruned[pruned['pruning_method'] == method].groupby(
        'measure'
      )
    }
    for images, colour, marker in (
      ('the others', _BLUE, 'o'),
      ('all images', _GREY, 's'),
      ('PIEs', _ORANGE, 'v'),
    ):
      for who, line in (('dense', (0, (4, 2))), ('pruned', '-')):
        rows = of.get(f'top-1 of {who} on {images}')
        if rows is not None:
          accuracy.plot(
            rows['pruning_fraction'],
            rows['value'],
            color=colour,
            marker=marker,
            markerfacecolor='white' if who == 'dense' else colour,
            linestyle=line,
            label=f'{who}, {images}',
          )
    for measure, colour, marker, shift in (
      ('PIEs', _ORANGE, 'v', 0),
      ('PIEs, dense half and pruned half', _BLUE, 'o', -0.008),
      ('PIEs by chance, two dense halves', _GREY, 's', 0.008),
    ):
      rows = of.get(measure)
      if rows is not None:
        number.errorbar(
          rows['pruning_fraction'] + shift,
          rows['value'],
          [
            (rows['value'] - rows['low']).clip(lower=0).fillna(0),
            (rows['high'] - rows['value']).clip(lower=0).fillna(0),
          ],
          color=colour,
          marker=marker,
          capsize=3,
          label=measure if ',' in measure else 'PIEs, whole populations',
        )
    for axes, label in ((accuracy, 'top-1'), (number, 'images')):
      axes.set_title(method, parse_math=False)
      axes.set_xlabel('fraction pruned')
      axes.set_ylabel(label)
      axes.set_xticks(sorted(set(pruned['pruning_fraction'])))
      axes.xaxis.set_major_formatter('{x:g}')
      axes.grid(color='#DDDDDD', linewidth=0.5)
      axes.spines[['top', 'right']].set_visible(False)
      if axes.has_data():
        axes.legend(frameon=False, fontsize=8)
    accuracy.set_ylim(0, 1)
    number.set_ylim(bottom=0)
  return figure


def write_figures(
  folder: str,
  headline: pd.DataFrame | None,
  class_impact: Sequence[str],
  robustness: Sequence[str],
) -> list[dict[str, str]]:
  """Draws the findings and copies the other rooms' figures beside the page.

  Returns:
    For each figure its path from the page and what it shows, as alt text.
  """
  figures = []

  def add(name, data, shows):
    path = f'{_FIGURES}/{name}'
    storage.write_complete(storage.within(folder, path), data)
    figures.append({'path': path, 'shows': shows})

  if headline is not None and (headline['measure'] == 'PIEs').any():
    data = io.BytesIO()
    with mpl.rc_context({'svg.hashsalt': 'findings', 'font.size': 9}):
      draw_findings(headline).savefig(
        data, format='svg', metadata={'Date': None}, transparent=True
      )
    add(
      'findings.svg',
      data.getvalue(),
      'Left: accuracy of dense and pruned networks on PIEs, on all images and '
      'on the others, by fraction pruned. Right: the number of PIEs, with 95 % '
      'intervals, beside the number that chance gives.',
    )
  for paths_of, shows in (
    (
      class_impact,
      'Classes whose recall moved more than the accuracy of the whole, with '
      '95 % intervals.',
    ),
    (
      robustness,
      'Accuracy off the clean distribution, and the error beside that of the '
      'dense networks, by corruption and severity.',
    ),
  ):
    for path in paths_of:
      add(storage.name(path), epath.Path(path).read_bytes(), shows)
  return figures


def headline_rows(headline: pd.DataFrame) -> list[dict[str, object]]:
  """The table of findings, a line for each measure, levels side by side."""
  lines = {}
  for row in headline.to_dict('records'):
    level = row['pruning_method'], row['pruning_fraction']
    lines.setdefault(row['measure'], {})[level] = row
  absent = {'not_available': 'no data'}
  return [
    {
      'measure': measure,
      'cells': [cells.get(level, absent) for level in _levels_of(headline)],
    }
    for measure, cells in lines.items()
  ]


def _levels_of(headline: pd.DataFrame) -> list[Level]:
  levels = headline[_LEVEL].drop_duplicates().itertuples(index=False)
  return sorted(
    map(tuple, levels), key=lambda level: (level[0] != 'baseline', level)
  )


def shown(value: float) -> str:
  """A number as the page shows it: counts in full, others to four digits."""
  if value == int(value) and abs(value) != 1:
    return f'{value:.0f}'
  return f'{value:.1f}' if abs(value) >= 1000 else f'{value:.4g}'


def find_commands(folders: Sequence[str]) -> list[dict[str, object]]:
  """What the records beside results say of the commands that made them.

  Members that one command trained have a record each; the last one counts.
  """
  commands = {}
  for folder in folders:
    for path in epath.Path(folder).glob('*.run.json'):
      record = provenance.read(path)
      if not record.get('finished') or 'command' not in record:
        continue  # settings of a member, or a command that has not finished
      command = shlex.join(
        ['python', '-m', record['script'], *record['command'][1:]]
      )
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
    storage.within(folder, 'data.js'), f'window.gallery = {_json(data)};\n'
  )
  page = environment.get_template('gallery.html').render(data=data, **context)
  storage.write_complete(storage.within(folder, 'index.html'), page)


def run(
  data_directory: str,
  predictions_file: str,
  output_path: str,
  *,
  mode: str,
  dataset_name: str = '',
  predictions_directory: str = '',
  ckpt_dir: str = '',
  headline_directory: str = '',
  t_statistic_file: str = '',
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
  folder = paths.gallery(output_path, dataset_name, mode)
  labels_folder = paths.modal_labels_folder(
    predictions_file, dataset_name, mode
  )
  inputs = csvs.find(tables.MODAL_LABELS, labels_folder)
  labels = csvs.read_all(tables.MODAL_LABELS, inputs, _LABEL_COLUMNS)
  known = set(map(storage.name, shards))
  strange = sorted(set(labels['filename']) - known)
  if strange:
    raise ValueError(
      f'{labels_folder} has modal labels of the shards {strange[:3]}, '
      f'{data_directory} has {sorted(known)[:3]}'
    )
  sources = [str(epath.Path(shards[0]).parent), labels_folder]
  if ckpt_dir:
    sources += [
      str(epath.Path(checkpoint.prefix).parent)
      for checkpoint in member_paths.find(ckpt_dir)
    ]
  headline = None
  if headline_directory:
    path = paths.headline_table(headline_directory)
    headline = csvs.read(tables.HEADLINE, path)
    inputs.append(path)
    sources.append(headline_directory)
  class_impact, robustness = [], []
  if t_statistic_file:
    figure_of = paths.class_impact_figure(
      t_statistic_file, dataset_name, mode, '*', 'svg'
    )
    class_impact = storage.find_files(figure_of, 'figure of class impact')
    sources.append(str(epath.Path(figure_of).parent))
  if robustness_directory:
    robustness = storage.find_files(
      paths.robustness_figure(robustness_directory, 'svg'),
      'figure of robustness',
    )
    measured = epath.Path(robustness_directory)
    # The summary's record, and those of the sets that were measured.
    sources += map(str, [measured, *sorted(measured.iterdir())])
  inputs += class_impact + robustness
  chosen = choose_images(labels, others_per_class)
  votes = {}
  if predictions_directory:
    sources.append(predictions_directory)
    votes = count_votes(predictions_directory, chosen)
  logging.info(
    '%d images to show, of %d',
    chosen['image_key'].nunique(),
    labels['image_key'].nunique(),
  )
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
    for level, rows in labels.groupby(_LEVEL)
  }
  data = page_data(chosen, totals, pictures, votes, records, dataset_name, mode)
  write_page(
    folder,
    data,
    headline=None if headline is None else headline_rows(headline),
    headline_levels=[] if headline is None else _levels_of(headline),
    figures=write_figures(folder, headline, class_impact, robustness),
    commands=find_commands(sources),
  )
  # Not the records one by one, nor the predictions: there may be thousands.
  provenance.write(folder, 'pie_dataset_gen.gallery', inputs)
  page = storage.within(folder, 'index.html')
  logging.info('wrote %s', page)
  return page


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
  run(
    f.data_directory,
    f.predictions_file,
    f.output_path,
    mode=f.mode,
    dataset_name=f.dataset_name,
    predictions_directory=f.predictions_directory,
    ckpt_dir=f.ckpt_dir,
    headline_directory=f.headline_directory,
    t_statistic_file=f.t_statistic_file,
    robustness_directory=f.robustness_directory,
    others_per_class=f.others_per_class,
    image_size=f.image_size,
    thumbnail_size=f.thumbnail_size,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
