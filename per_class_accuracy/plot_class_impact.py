r"""Draws which classes pruning costs more, and which less, than the whole.

Reads what gen_tstatistic has written below --results_directory and writes
beside it, as PNG and SVG,
  class_impact_<pruning_method>_<fraction>   for each level: every class's
      change of recall (bar) and the same minus the change of the accuracy of
      the whole (points with 95 % intervals, or a line for many classes), in
      rising order; coloured where the difference is significant. Of more than
      40 classes the outermost are named beside it.
  class_impact_significant_classes           the number of significant classes
      against sparsity, with what random halves of the dense models give.

  python -m per_class_accuracy.plot_class_impact --study=runs/digits

Expect a second or two for each level. Figures are drawn anew at every run;
equal tables give equal files.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from absl import flags, logging
from etils import epath
from matplotlib import axes, figure, lines, patches

from utils import (
  command_line,
  csvs,
  paths,
  populations,
  provenance,
  storage,
  tables,
)

# Of the palette of Okabe and Ito, told apart by colour-blind readers and, by
# their lightness, in grey.
_COLOURS = {'lower': '#D55E00', 'higher': '#0072B2', '': '#BBBBBB'}
_STYLE: dict = {
  'svg.hashsalt': 'class impact',
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'grid.color': '#DDDDDD',
  'grid.linewidth': 0.5,
}
# More classes than this are ranked, not named, and the outermost named apart.
_MOST_NAMED = 40
_OUTERMOST = 12


def define_flags() -> None:
  """Defines the flags of this script."""
  command_line.define_study()
  flags.DEFINE_string(
    'results_directory',
    '',
    'Folder of the results: the --output_file of gen_tstatistic. The figures '
    'go beside its tables.',
  )
  flags.DEFINE_string(
    'dataset_name',
    '',
    "Data set, in the names of results. Empty: the study's; without --study "
    'imagenet.',
  )
  flags.DEFINE_enum(
    'mode', 'eval', ['train', 'eval'], 'Split that was measured.'
  )


def _label(name: str) -> str:
  """A class name on one line, of bounded length."""
  name = ' '.join(name.split())
  return name if len(name) <= 30 else name[:29] + '\N{HORIZONTAL ELLIPSIS}'


def _significance(rows: pd.DataFrame) -> list[str]:
  """The direction of classes that stand after correction, '' of others."""
  significant = rows['qvalue_recall_norm'] <= tables.SIGNIFICANCE
  return rows['direction'].where(significant, '').tolist()


def _draw_named(ax: axes.Axes, rows: pd.DataFrame) -> None:
  """Bars of the change, points of the normalised change, a row for a class."""
  colours = [_COLOURS[side] for side in _significance(rows)]
  y = np.arange(len(rows))
  ax.barh(y, rows['recall_change'], 0.7, color=colours)
  point = rows['normalised_recall_change'].to_numpy()
  low = rows['normalised_recall_change_low'].to_numpy()
  high = rows['normalised_recall_change_high'].to_numpy()
  ax.hlines(y, low, high, color='black', linewidth=1)
  ax.scatter(
    point,
    y,
    s=16,
    facecolor=['black' if side else 'white' for side in _significance(rows)],
    edgecolor='black',
    linewidth=0.8,
    zorder=3,
  )
  # A dollar sign in a name is no formula.
  ax.set_yticks(y, rows['class'].map(_label), parse_math=False)
  ax.set_ylim(-0.6, len(rows) - 0.4)
  ax.axvline(0, color='black', linewidth=0.8)
  ax.grid(axis='x')
  ax.set_xlabel('change of recall, pruned minus dense')


def _draw_ranked(ax: axes.Axes, rows: pd.DataFrame) -> None:
  """Bars of the change under the line of the normalised change."""
  sides = np.array(_significance(rows))
  change = rows['recall_change'].to_numpy()
  rank = np.arange(1, len(rows) + 1)
  # The coloured bars stand on the grey ones.
  for side in ('', 'lower', 'higher'):
    at = sides == side
    ax.bar(rank[at], change[at], 1.0, color=_COLOURS[side], linewidth=0)
  ax.plot(rank, rows['normalised_recall_change'], color='black', linewidth=1.2)
  ax.axhline(0, color='black', linewidth=0.8)
  ax.grid(axis='y')
  ax.set_xlim(0, len(rows) + 1)
  ax.set_xlabel('classes, by rising normalised change')
  ax.set_ylabel('change of recall, pruned minus dense')


def _by_chance(summary: pd.Series) -> str:
  """What dense halves gave of either direction."""
  lower, higher = (
    summary[f'{side}_corrected_null'] for side in ('lower', 'higher')
  )
  if np.isnan(lower):
    return 'are too small to compare'
  return f'give {lower:.2g} and {higher:.2g}'


def draw_level(rows: pd.DataFrame, summary: pd.Series) -> figure.Figure:
  """Draws every class at one level.

  Args:
    rows: of `tables.T_STATISTIC`, of one level.
    summary: the level's row of `tables.CLASS_IMPACT_SUMMARY`.
  """
  drawn = rows.dropna(subset='normalised_recall_change').sort_values(
    ['normalised_recall_change', 'class_id']
  )
  named = len(drawn) <= _MOST_NAMED
  if named:
    fig = figure.Figure(
      (7, 1.9 + 0.27 * max(len(drawn), 1)), layout='constrained'
    )
    # The class that lost most on top.
    _draw_named(fig.subplots(), drawn[::-1])
  else:
    fig = figure.Figure((11, 5.6), layout='constrained')
    left, right = fig.subplots(1, 2, width_ratios=(3, 1))
    _draw_ranked(left, drawn)
    outermost = pd.concat([drawn[:_OUTERMOST], drawn[-_OUTERMOST:]])
    _draw_named(right, outermost[::-1])
    right.axhline(_OUTERMOST - 0.5, color='black', linewidth=0.8, dashes=(4, 3))
    right.set_title(f'the {_OUTERMOST} lowest and highest', fontsize=9)
    right.set_xlabel('change of recall')
  note = ''
  if len(drawn) < len(rows):
    note = f'; {len(rows) - len(drawn)} without recall left out'
  fig.suptitle(
    f'{summary["pruning_method"] or "pruned"}, fraction pruned '
    f'{summary["pruning_fraction"]:g}: {summary["variant_models"]} models '
    f'against {summary["baseline_models"]} dense\n'
    f'accuracy {summary["baseline_accuracy"]:.4f} to '
    f'{summary["variant_accuracy"]:.4f}; of {summary["tested"]} classes '
    f'tested {summary["lower_corrected"]} lost more than the whole and '
    f'{summary["higher_corrected"]} less\n(after correction; two dense halves '
    f'{_by_chance(summary)}; uncorrected {summary["lower"]} and '
    f'{summary["higher"]}){note}',
    fontsize=10,
    parse_math=False,
  )
  level = f'q \N{LESS-THAN OR EQUAL TO} {tables.SIGNIFICANCE:g}'
  handles = [
    patches.Patch(
      color=_COLOURS['lower'], label=f'lost more than the whole, {level}'
    ),
    patches.Patch(
      color=_COLOURS['higher'], label=f'lost less, or gained, {level}'
    ),
    patches.Patch(color=_COLOURS[''], label='not significant'),
    lines.Line2D(
      [],
      [],
      color='black',
      linewidth=1,
      marker='o',
      markersize=4,
      label='minus the change of accuracy, 95 % interval'
      if named
      else 'minus the change of accuracy (named: with 95 % interval)',
    ),
  ]
  fig.legend(
    handles=handles,
    loc='outside lower center',
    ncols=2 if named else 4,
    frameon=False,
    fontsize=8,
  )
  return fig


def draw_counts(summary: pd.DataFrame) -> figure.Figure:
  """Draws the number of significant classes against sparsity.

  Args:
    summary: rows of `tables.CLASS_IMPACT_SUMMARY`; a panel for each method.
  """
  methods = list(dict.fromkeys(summary['pruning_method']))
  fig = figure.Figure((5.5 * len(methods), 4.2), layout='constrained')
  panels = fig.subplots(1, len(methods), sharey=True, squeeze=False)[0]
  for ax, method in zip(panels, methods, strict=True):
    rows = summary[summary['pruning_method'] == method]
    x = rows['pruning_fraction']
    models = (
      f'{_range(rows["baseline_models"])} against '
      f'{_range(rows["variant_models"])} models'
    )
    for side, marker in (('lower', 'v'), ('higher', '^')):
      ax.plot(
        x,
        rows[side],
        color=_COLOURS[side],
        marker=marker,
        label=f'{side}, {models}',
      )
      ax.plot(
        x,
        rows[f'{side}_corrected'],
        color=_COLOURS[side],
        marker=marker,
        markerfacecolor='white',
        linestyle=(0, (4, 2)),
        label=f'{side}, after correction',
      )
    if rows['null_mean'].notna().any():
      half = _range(rows['half_models'].dropna())
      ax.errorbar(
        x,
        rows['half_mean'],
        [
          (rows['half_mean'] - rows['half_low']).clip(lower=0),
          (rows['half_high'] - rows['half_mean']).clip(lower=0),
        ],
        color='black',
        marker='o',
        markersize=4,
        linewidth=1,
        capsize=3,
        label=f'lower or higher, {half} against {half}',
      )
      # One level alone is a point, to which a band gives no width.
      margin = 0.02 if len(rows) == 1 else 0
      ax.fill_between(
        [x.min() - margin, *x, x.max() + margin],
        *(
          [rows[name].iloc[0], *rows[name], rows[name].iloc[-1]]
          for name in ('null_low', 'null_high')
        ),
        color='#999999',
        alpha=0.45,
        linewidth=0,
        label=f'dense alone, {half} against {half}',
      )
    ax.set_title(method or 'pruned', fontsize=10, parse_math=False)
    ax.set_xlabel('fraction pruned')
    ax.set_ylim(bottom=0)
    ax.set_xticks(sorted(set(x)))
    ax.xaxis.set_major_formatter('{x:g}')
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.grid()
    ax.legend(frameon=False, fontsize=8)
  panels[0].set_ylabel(
    f'significant classes of {_range(summary["tested"])}, '
    f'p \N{LESS-THAN OR EQUAL TO} {tables.SIGNIFICANCE:g}'
  )
  return fig


def _range(numbers: pd.Series) -> str:
  low, high = int(numbers.min()), int(numbers.max())
  return f'{low}' if low == high else f'{low} to {high}'


def _save(fig: figure.Figure, path_of) -> list[str]:
  written = []
  for suffix, metadata in (
    ('png', {'Software': None}),
    ('svg', {'Date': None}),
  ):
    data = io.BytesIO()
    fig.savefig(data, format=suffix, dpi=150, metadata=metadata)
    written.append(path_of(suffix))
    storage.write_complete(written[-1], data.getvalue())
  return written


def run(
  *, results_directory: str, dataset_name: str, mode: str
) -> Sequence[str]:
  """Draws all figures; arguments as the flags say.

  Returns:
    The files written.

  Raises:
    ValueError: a table is damaged, or the two are not of one run.
    OSError: a table is missing.
  """
  inputs = [
    of(results_directory, dataset_name, mode)
    for of in (paths.t_statistic, paths.class_impact_summary)
  ]
  rows = csvs.read(tables.T_STATISTIC, inputs[0])
  summary = csvs.read(tables.CLASS_IMPACT_SUMMARY, inputs[1])
  by_level = populations.by_level(rows)
  if set(by_level) != set(populations.by_level(summary)):
    raise ValueError(
      f'{inputs[0]} and {inputs[1]} hold different levels, wanted the two '
      'tables of one run'
    )
  written = []
  with mpl.rc_context(_STYLE):
    for _, row in summary.iterrows():
      level = populations.level_of(row)
      name = '_'.join(str(part) for part in level if part != '')
      written += _save(
        draw_level(by_level[level], row),
        lambda suffix, name=name: paths.class_impact_figure(
          results_directory, dataset_name, mode, name, suffix
        ),
      )
    written += _save(
      draw_counts(summary),
      lambda suffix: paths.class_impact_figure(
        results_directory, dataset_name, mode, 'significant_classes', suffix
      ),
    )
  logging.info('%d figures: %s and the like', len(written), written[0])
  provenance.write(
    str(epath.Path(inputs[0]).parent),
    'per_class_accuracy.plot_class_impact',
    inputs,
  )
  return written


def main(argv: list[str]) -> None:
  """Turns flags into arguments."""
  del argv
  f = flags.FLAGS
  command_line.with_study(f, {'results_directory': 'results'})
  run(
    results_directory=f.results_directory,
    dataset_name=f.dataset_name or 'imagenet',
    mode=f.mode,
  )


if __name__ == '__main__':
  command_line.run_script(main, define_flags)
