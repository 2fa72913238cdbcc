"""The figures of the page of PIEs."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from etils import epath
from matplotlib import figure as mpl_figure

from utils import populations, storage

# Copied, never followed: what a page needs lies beside it.
_FIGURES = 'figures'
_BLUE, _ORANGE, _GREY = '#0072B2', '#D55E00', '#777777'


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
