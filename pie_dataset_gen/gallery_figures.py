"""The figures of the page of PIEs."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from etils import epath
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import lines

from pie_dataset_gen import headline_rows
from utils import paths, populations, storage, tables

# Copied, never followed: what a page needs lies beside it.
_FIGURES = 'figures'
# Of the palette of Okabe and Ito, as in per_class_accuracy's figures.
_BLUE, _ORANGE, _GREEN, _GREY = '#0072B2', '#D55E00', '#009E73', '#777777'


class _Kind(NamedTuple):
  """Images, as measures of the headline table name them, and their look."""

  images: str
  colour: str
  marker: str


_KINDS = (
  _Kind('the others', _BLUE, 'o'),
  _Kind('all images', _GREY, 's'),
  _Kind('chance PIEs', _GREEN, 'D'),
  _Kind('PIEs', _ORANGE, 'v'),
)
_BOUGHT_CAPTION = (
  'What each level costs against what it buys: above, how many times fewer '
  'weights are not zero; below, how many times fewer multiply-adds, if a '
  'machine skipped all by zero. Bars are 95 % intervals.'
)
_RELIABILITY = (
  'Each level: how often members are right by how sure they are, in 15 bins of '
  "as many images each, from each member's least sure ones on; mean over "
  'members, with 95 % intervals. On the dotted line they are right as often as '
  'they are sure; below it they are too sure.'
)
_WHO = (('dense', (0, (4, 2))), ('compressed', '-'))


def is_drawn(headline: pd.DataFrame) -> bool:
  """Whether any compressed level has a number of PIEs, which may be n/a."""
  compressed = headline['pruning_method'] != populations.BASELINE
  return bool((compressed & (headline['measure'] == headline_rows.PIES)).any())


def draw_findings(headline: pd.DataFrame) -> mpl_figure.Figure:
  """Draws accuracy on PIEs and others, and the number of PIEs beside chance.

  Args:
    headline: rows of `tables.HEADLINE`; a row of panels for each method,
      against the fraction of zeros where the method has several, else with a
      place for each kind of images.
  """
  compressed = headline[headline['pruning_method'] != populations.BASELINE]
  methods = sorted(set(compressed['pruning_method']))
  figure = mpl_figure.Figure((10, 3.8 * len(methods)), layout='constrained')
  panels = figure.subplots(len(methods), 2, squeeze=False)
  for (accuracy, number), method in zip(panels, methods, strict=True):
    rows = compressed[compressed['pruning_method'] == method]
    fractions = sorted(set(rows['pruning_fraction']))
    of = {
      measure: cells.set_index('pruning_fraction').sort_index()
      for measure, cells in rows.dropna(subset='value').groupby('measure')
    }
    title = method
    if len(fractions) > 1:
      _draw_against_fraction(accuracy, number, of)
      for axes in (accuracy, number):
        axes.set_xlabel('fraction of weights that are zero')
        axes.set_xticks(fractions)
        axes.xaxis.set_major_formatter('{x:g}')
    else:
      title = populations.Level(method, fractions[0]).words
      _draw_one_level(accuracy, number, of)
    for axes, label in ((accuracy, 'top-1'), (number, 'images')):
      axes.set_title(title, parse_math=False)
      axes.set_ylabel(label)
      axes.grid(color='#DDDDDD', linewidth=0.5)
      axes.set_axisbelow(True)
      axes.spines[['top', 'right']].set_visible(False)
    # A point at the end of the range is drawn whole.
    accuracy.set_ylim(-0.03, 1.03)
    _from_zero(number)
    for axes in (accuracy, number):
      if axes.get_legend_handles_labels()[0]:
        # Below: lines run anywhere.
        axes.legend(
          frameon=False,
          fontsize=8,
          ncols=2,
          loc='upper center',
          bbox_to_anchor=(0.5, -0.16),
        )
  return figure


def _from_zero(axes: mpl_axes.Axes) -> None:
  """Begins at 0, with room above what is drawn, also where all is 0."""
  top = axes.dataLim.y1 if axes.has_data() else 0
  axes.set_ylim(0, max(1.08 * top, 1) if np.isfinite(top) else 1)


def _whiskers(rows: pd.DataFrame) -> list[pd.Series]:
  return [
    (rows['value'] - rows['low']).clip(lower=0).fillna(0),
    (rows['high'] - rows['value']).clip(lower=0).fillna(0),
  ]


def _draw_against_fraction(
  accuracy: mpl_axes.Axes, number: mpl_axes.Axes, of: Mapping[str, pd.DataFrame]
) -> None:
  for kind in _KINDS:
    for who, line in _WHO:
      rows = of.get(f'top-1 of {who} on {kind.images}')
      if rows is not None:
        accuracy.plot(
          rows.index,
          rows['value'],
          color=kind.colour,
          marker=kind.marker,
          markerfacecolor='white' if who == 'dense' else kind.colour,
          linestyle=line,
          label=f'{who}, {kind.images}',
        )
  for measure, colour, marker, label in (
    (headline_rows.PIES, _ORANGE, 'v', 'PIEs, with 95 % interval'),
    (headline_rows.BY_CHANCE, _GREY, 's', 'by chance: 95 % of permutations'),
  ):
    rows = of.get(measure)
    if rows is not None:
      # Side by side, by a fiftieth of the range.
      shift = (
        (-1 if measure == headline_rows.PIES else 1) * 0.01 * np.ptp(rows.index)
      )
      number.errorbar(
        rows.index + shift,
        rows['value'],
        _whiskers(rows),
        color=colour,
        marker=marker,
        capsize=3,
        label=label,
      )


def _draw_one_level(
  accuracy: mpl_axes.Axes, number: mpl_axes.Axes, of: Mapping[str, pd.DataFrame]
) -> None:
  drawn = [
    kind
    for kind in _KINDS
    if any(f'top-1 of {who} on {kind.images}' in of for who, _ in _WHO)
  ]
  for at, kind in enumerate(drawn):
    for who, _ in _WHO:
      rows = of.get(f'top-1 of {who} on {kind.images}')
      if rows is not None:
        accuracy.plot(
          at + (-0.08 if who == 'dense' else 0.08),
          rows['value'].iloc[0],
          color=kind.colour,
          marker=kind.marker,
          markerfacecolor='white' if who == 'dense' else kind.colour,
          linestyle='',
        )
  accuracy.set_xticks(range(len(drawn)), [kind.images for kind in drawn])
  accuracy.set_xlim(-0.5, max(len(drawn), 1) - 0.5)
  if drawn:
    accuracy.legend(
      handles=[
        lines.Line2D(
          [],
          [],
          color='black',
          marker='o',
          linestyle='',
          markerfacecolor='white' if who == 'dense' else 'black',
          label=who,
        )
        for who, _ in _WHO
      ],
      frameon=False,
      fontsize=8,
    )
  counts = [
    (measure, colour, marker, label)
    for measure, colour, marker, label in (
      (headline_rows.PIES, _ORANGE, 'v', 'PIEs\n95 % interval'),
      (headline_rows.BY_CHANCE, _GREY, 's', 'by chance\n95 % of permutations'),
    )
    if measure in of
  ]
  for at, (measure, colour, marker, _) in enumerate(counts):
    rows = of[measure]
    number.errorbar(
      [at],
      rows['value'],
      _whiskers(rows),
      color=colour,
      marker=marker,
      capsize=4,
      linestyle='',
    )
  number.set_xticks(range(len(counts)), [label for *_, label in counts])
  number.set_xlim(-0.5, max(len(counts), 1) - 0.5)


def class_impact_captions(
  names: Mapping[str, str], levels: Sequence[populations.Level]
) -> dict[str, str]:
  """What each of plot_class_impact's figures shows.

  Args:
    names: path of a figure -> the part of its name that tells it from others.
    levels: that may have one.
  """
  of_level = {paths.level_name(level): level for level in levels}
  captions = {}
  for path, name in names.items():
    if name == 'significant_classes':
      captions[path] = (
        'All levels: the number of classes whose recall moved otherwise than '
        'the accuracy of the whole, as tested for each level, with what '
        'permuted membership of all members gives.'
      )
      continue
    level = of_level.get(name)
    captions[path] = (
      f'{level.words if level else name}: the change of recall of each class, '
      'compressed minus dense (bars), and what is left of it when the change '
      'of the whole accuracy is taken off (points with 95 % intervals; of many '
      'classes a line, with points for the outermost only). A class that rose '
      'against the whole may still have lost. Coloured: significant after '
      f'correction, q of at most {tables.SIGNIFICANCE:g}.'
    )
  return captions


def write_figures(
  folder: str,
  headline: pd.DataFrame,
  class_impact: Mapping[str, str],
  robustness: Sequence[str],
  reliability: pd.DataFrame,
) -> list[dict[str, str]]:
  """Draws the findings and copies the other rooms' figures beside the page.

  Args:
    folder: of the page.
    headline: rows of `tables.HEADLINE`, maybe none.
    class_impact: path of a figure -> its caption.
    robustness: paths of figures.
    reliability: rows of `tables.RELIABILITY`, maybe none.

  Returns:
    For each figure its path from the page and what it shows, as alt text.
  """
  figures = []

  def add(name, data, shows):
    path = f'{_FIGURES}/{name}'
    storage.write_complete(storage.within(folder, path), data)
    figures.append({'path': path, 'shows': shows})

  def draw(draws, rows, name):
    data = io.BytesIO()
    with mpl.rc_context({'svg.hashsalt': name, 'font.size': 9}):
      draws(rows).savefig(
        data, format='svg', metadata={'Date': None}, transparent=True
      )
    return data.getvalue()

  if is_drawn(headline):
    data = draw(draw_findings, headline, 'findings')
    add('findings.svg', data, _findings_caption(headline))
  if is_bought(headline):
    add('bought.svg', draw(draw_bought, headline, 'bought'), _BOUGHT_CAPTION)
  if (reliability['pruning_method'] != populations.BASELINE).any():
    data = draw(draw_reliability, reliability, 'reliability')
    add('reliability.svg', data, _RELIABILITY)
  for path, shows in class_impact.items():
    add(storage.name(path), epath.Path(path).read_bytes(), shows)
  for path in robustness:
    add(
      storage.name(path),
      epath.Path(path).read_bytes(),
      'All levels: accuracy off the clean distribution, and the error beside '
      'that of the dense members, by corruption and severity.',
    )
  return figures


def draw_reliability(rows: pd.DataFrame) -> mpl_figure.Figure:
  """Draws how often members are right by how sure they are.

  Args:
    rows: of `tables.RELIABILITY`: a panel for each compressed level, with the
      dense members in each.
  """
  levels = populations.by_level(rows)
  dense = levels.pop(populations.DENSE, None)
  figure = mpl_figure.Figure((3.6 * len(levels), 3.8), layout='constrained')
  panels = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
  for axes, (level, of_level) in zip(panels, levels.items(), strict=True):
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=':')
    for of, colour, marker, label in (
      (dense, _BLUE, 'o', 'dense'),
      (of_level, _ORANGE, 'v', level.words),
    ):
      if of is not None:
        middle = of['accuracy']
        axes.errorbar(
          of['confidence'],
          middle,
          [
            (middle - of['accuracy_low']).clip(lower=0).fillna(0),
            (of['accuracy_high'] - middle).clip(lower=0).fillna(0),
          ],
          color=colour,
          marker=marker,
          markersize=4,
          linewidth=1,
          capsize=2,
          label=label,
        )
    axes.set_title(level.words, parse_math=False)
    axes.set_xlabel('confidence')
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(color='#DDDDDD', linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc='upper left')
  panels[0].set_ylabel('share that is right')
  return figure


# What stands above what: the measure, its place on the axis, whether more is
# better.
_PAID = {
  'top-1': 'top-1',
  'lowest recall of a class': 'lowest recall of a class',
  headline_rows.BEYOND_NOISE: headline_rows.BEYOND_NOISE,
  headline_rows.CALIBRATION_ERROR: 'ECE',
}
_BOUGHT = (headline_rows.COMPRESSION, headline_rows.SPEED_UP)


def is_bought(headline: pd.DataFrame) -> bool:
  """Whether it is known of a compressed level what it costs and buys."""
  known = _known_of_compressed(headline)
  return bool(known & set(_PAID)) and known >= set(_BOUGHT)


def _known_of_compressed(headline: pd.DataFrame) -> set[str]:
  rows = headline[headline['pruning_method'] != populations.BASELINE]
  return set(rows.dropna(subset='value')['measure'])


def draw_bought(headline: pd.DataFrame) -> mpl_figure.Figure:
  """Draws what levels cost against what they buy.

  Args:
    headline: rows of `tables.HEADLINE`. A row of panels for each kind of gain,
      a column for each cost; a point for each level, dense too.
  """
  by_level = {
    level: rows.set_index('measure')
    for level, rows in populations.by_level(headline).items()
  }
  known = _known_of_compressed(headline)
  costs = {paid: label for paid, label in _PAID.items() if paid in known}
  figure = mpl_figure.Figure((3 * len(costs), 6), layout='constrained')
  panels = figure.subplots(
    len(_BOUGHT), len(costs), sharex='row', squeeze=False
  )
  methods = sorted({level.pruning_method for level in by_level})
  colours = dict(zip(methods, itertools.cycle((_BLUE, _ORANGE, _GREEN, _GREY))))
  for row, bought in zip(panels, _BOUGHT, strict=True):
    for axes, (paid, label) in zip(row, costs.items(), strict=True):
      for level, rows in by_level.items():
        if not {paid, bought} <= set(rows.index):
          continue
        x, y = rows.loc[bought, 'value'], rows.loc[paid, 'value']
        if np.isnan([x, y]).any():
          continue
        of = rows.loc[[paid]]
        axes.errorbar(
          [x],
          [y],
          _whiskers(of),
          color=colours[level.pruning_method],
          marker='o',
          markersize=4,
          capsize=3,
        )
        axes.annotate(
          level.words,
          (x, y),
          xytext=(4, 4) if level.is_dense else (-4, 4),
          horizontalalignment='left' if level.is_dense else 'right',
          textcoords='offset points',
          fontsize=7,
          parse_math=False,
        )
      axes.set_xscale('log')
      axes.xaxis.set_major_formatter('{x:g}')
      axes.xaxis.set_minor_formatter('')
      axes.margins(0.25)
      axes.set_xlabel(bought)
      axes.set_ylabel(label)
      axes.grid(color='#DDDDDD', linewidth=0.5)
      axes.set_axisbelow(True)
      axes.spines[['top', 'right']].set_visible(False)
  return figure


def _findings_caption(headline: pd.DataFrame) -> str:
  measures = set(headline.dropna(subset='value')['measure'])
  control = ''
  if any(f'top-1 of {who} on chance PIEs' in measures for who, _ in _WHO):
    control = (
      ', and on chance PIEs, which differ though only chance separates the '
      'groups that vote: lines that are as low there say nothing about '
      'compression'
    )
  chance = 'no permutations were made to compare it with'
  if headline_rows.BY_CHANCE in measures:
    chance = (
      'beside it the number that the same members give when dense and '
      'compressed are dealt out at random, with the range of 95 % of the '
      'permutations'
    )
  return (
    'Left: accuracy of dense and compressed members on PIEs, on all images and '
    f'on the others{control}. Right: the number of PIEs with its 95 % interval '
    f'where members are enough for one; {chance}.'
  )
