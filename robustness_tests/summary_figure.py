"""The figure of the robustness summary."""

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import figure as mpl_figure

from utils import populations, storage

# The mean over corruptions.
ALL = 'all'


def draw(summary: pd.DataFrame, write: Mapping[str, str]) -> None:
  """Draws top-1 and relative error by corruption and level.

  Args:
    summary: rows of `tables.ROBUSTNESS_SUMMARY`.
    write: file format -> path.
  """
  means = summary[summary['corruption_intensity'] == 0]
  corruptions = sorted(set(means['corruption']) - {ALL})
  if corruptions != ['']:
    corruptions.append(ALL)
  of_level = populations.by_level(means)
  levels = list(of_level)
  colours = mpl.colormaps['viridis'](np.linspace(0, 0.85, len(levels)))
  figure = mpl_figure.Figure(
    figsize=(max(6, 1.1 * len(corruptions) + 2), 6.5), layout='constrained'
  )
  axes = figure.subplots(2, 1, sharex=True)
  width = 0.8 / len(levels)
  for number, (level, colour) in enumerate(zip(levels, colours, strict=True)):
    part = of_level[level].set_index('corruption').loc[corruptions]
    place = (
      np.arange(len(corruptions)) + (number - (len(levels) - 1) / 2) * width
    )
    bars = part['mean_accuracy'].to_numpy()
    ends = part[['mean_accuracy_low', 'mean_accuracy_high']].to_numpy().T
    style = {
      'color': colour,
      'error_kw': {'elinewidth': 1, 'capsize': 2, 'ecolor': '0.3'},
    }
    axes[0].bar(
      place,
      bars,
      width * 0.9,
      yerr=np.abs(ends - bars),
      label=level.words,
      **style,
    )
    error = part['relative_error'].to_numpy()
    ends = part[['relative_error_low', 'relative_error_high']].to_numpy().T
    axes[1].bar(place, error, width * 0.9, yerr=np.abs(ends - error), **style)
  axes[0].set_ylabel('top-1')
  axes[0].set_ylim(0, 1)
  axes[0].legend(
    frameon=False,
    ncols=min(3, len(levels)),
    loc='lower left',
    bbox_to_anchor=(0, 1),
  )
  axes[1].axhline(1, color='0.3', linewidth=1)
  axes[1].set_ylabel('error / error of dense')
  axes[1].set_xticks(
    range(len(corruptions)),
    [name.replace('_', ' ') or 'images' for name in corruptions],
    rotation=30,
    ha='right',
  )
  for axis in axes:
    axis.spines[['top', 'right']].set_visible(False)
  # Without date and version, so that equal tables give equal files.
  metadata = {'svg': {'Date': None, 'Creator': None}, 'png': {'Software': None}}
  for kind, path in write.items():
    data = io.BytesIO()
    with mpl.rc_context({'svg.hashsalt': 'robustness'}):
      figure.savefig(data, format=kind, dpi=150, metadata=metadata[kind])
    storage.write_complete(path, data.getvalue())
