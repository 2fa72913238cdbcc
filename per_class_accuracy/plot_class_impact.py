r"""Draws which classes compression costs more, and which less, than the whole.

Reads what gen_tstatistic has written below --results_directory and writes
beside it, as PNG and SVG,
  class_impact_<pruning_method>_<fraction>   for each level: every class's
      change of recall (bar) and the same minus the change of the accuracy of
      the whole (points with 95 % intervals, or a line for many classes), in
      rising order; coloured where the difference is significant. Of more than
      40 classes the outermost are named beside it. The figure names its level.
  class_impact_significant_classes           the number of significant classes
      against the fraction pruned, with what permuted membership of the models
      gives by chance.

  python -m per_class_accuracy.plot_class_impact --study=runs/digits

Expect a second or two for each level. Figures are drawn anew at every run, and
those of levels that the tables no longer hold are removed; equal tables give
equal files.
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
_AT_MOST = f'\N{LESS-THAN OR EQUAL TO} {tables.SIGNIFICANCE:g}'


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
  ax.set_xlabel('change of recall, compressed minus dense')


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
  ax.set_ylabel('change of recall, compressed minus dense')


def _level_name(summary: pd.Series) -> str:
  """A level in words; the original's CSVs may name no method."""
  method = summary['pruning_method'] or 'compressed'
  return populations.Level(method, summary['pruning_fraction']).words


def _sides(summary: pd.Series) -> tuple[str, str]:
  """What a class did that moved down, and up, against the whole.

  Classes move with the whole: one that moved up against it may have lost, only
  less, and is not said to have gained.
  """
  if summary['variant_accuracy'] > summary['baseline_accuracy']:
    return 'gained less than the whole, or lost', 'gained more than the whole'
  return 'lost more than the whole', 'lost less than the whole, or nothing'


def _verdict(summary: pd.Series) -> str:
  """What was found, and what chance gives, in two lines or three."""
  down, up = (side.partition(',')[0] for side in _sides(summary))
  up = up.removesuffix(' than the whole')
  uncorrected = summary['lower'] + summary['higher']
  chance = ['', '', '']
  if not np.isnan(summary['significant_pvalue']):
    chance = [
      f' (by chance {summary["lower_corrected_permuted"]:.2g})',
      f' (by chance {summary["higher_corrected_permuted"]:.2g})',
      f' (by chance {_of_permutations(summary)}), p = '
      f'{summary["significant_pvalue"]:.2g}',
    ]
  text = (
    f'q {_AT_MOST}: {summary["lower_corrected"]} of {summary["tested"]} '
    f'{down}{chance[0]}, {summary["higher_corrected"]} {up}{chance[1]}\n'
    f'p {_AT_MOST}, uncorrected: {uncorrected}{chance[2]}'
  )
  if summary['significant_pvalue_smallest'] > tables.SIGNIFICANCE:
    # On a line of its own, which would else be wider than the figure.
    smallest = f'{summary["significant_pvalue_smallest"]:.2g}'
    text += f',\nand so few models can give no less than {smallest}'
  return text


def _of_permutations(summary: pd.Series) -> str:
  """What chance gives, uncorrected; 95 % of the permutations lie within."""
  low, high = (
    round(summary[f'significant_permuted_{end}']) for end in ('low', 'high')
  )
  return f'{summary["significant_permuted_mean"]:.2g}, 95 %: {low} to {high}'


def _lowest(summary: pd.Series) -> str:
  """The class of the lowest recall, and how low the lowest is."""
  if np.isnan(summary['worst_recall_low']):
    return ''
  low, high = (summary[f'worst_recall_{end}'] for end in ('low', 'high'))
  return (
    f'\nlowest recall {summary["worst_recall"]:.2f} '
    f'({_label(summary["worst_class"])}); the truly lowest in [{low:.2f}, '
    f'{high:.2f}] (95 %)'
  )


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
    note = f'\n{len(rows) - len(drawn)} without recall left out'
  fig.suptitle(
    f'{_level_name(summary)}: {summary["variant_models"]} models against '
    f'{summary["baseline_models"]} dense; accuracy '
    f'{summary["baseline_accuracy"]:.4f} to {summary["variant_accuracy"]:.4f}\n'
    f'{_verdict(summary)}{_lowest(summary)}{note}',
    fontsize=10,
    parse_math=False,
  )
  level = f'q {_AT_MOST}'
  handles = [
    *(
      patches.Patch(color=_COLOURS[side], label=f'{meaning}: {level}')
      for side, meaning in zip(
        ('lower', 'higher'), _sides(summary), strict=True
      )
    ),
    patches.Patch(
      color=_COLOURS[''], label='no difference shown (bars: change of recall)'
    ),
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
    ncols=2,
    frameon=False,
    fontsize=8,
  )
  return fig


def draw_counts(summary: pd.DataFrame) -> figure.Figure:
  """Draws the number of significant classes against the fraction pruned.

  Args:
    summary: rows of `tables.CLASS_IMPACT_SUMMARY`; a panel for each method.
  """
  methods = list(dict.fromkeys(summary['pruning_method']))
  fig = figure.Figure((5.5 * len(methods), 4.4), layout='constrained')
  panels = fig.subplots(1, len(methods), sharey=True, squeeze=False)[0]
  highest = 1.0
  for ax, method in zip(panels, methods, strict=True):
    rows = summary[summary['pruning_method'] == method]
    x = rows['pruning_fraction'].to_numpy()
    uncorrected = rows['lower'] + rows['higher']
    # What is at the edge, as a count of 0, is not cut in half.
    ax.plot(
      x,
      uncorrected,
      color='black',
      marker='o',
      markersize=4,
      clip_on=False,
      label=f'down or up, p {_AT_MOST} (as the paper counts)',
    )
    for side, way, marker in (('lower', 'down', 'v'), ('higher', 'up', '^')):
      ax.plot(
        x,
        rows[f'{side}_corrected'],
        color=_COLOURS[side],
        marker=marker,
        markerfacecolor='white',
        linestyle=(0, (4, 2)),
        clip_on=False,
        label=f'{way} against the whole, q {_AT_MOST}',
      )
    highest = max(highest, uncorrected.max())
    # One level alone is a point, to which neither axis nor band gives a width.
    margin = 0.1 * (np.ptp(x) or 1)
    edges = [x.min() - margin, *x, x.max() + margin]
    if rows['significant_permuted_mean'].notna().any():
      band = {
        name: [values.iloc[0], *values, values.iloc[-1]]
        for name in ('low', 'mean', 'high')
        for values in [rows[f'significant_permuted_{name}']]
      }
      highest = max(highest, np.nanmax(band['high']))
      ax.fill_between(
        edges,
        band['low'],
        band['high'],
        color='#999999',
        alpha=0.45,
        linewidth=0,
        label='down or up by chance: 95 % of permuted memberships',
      )
      ax.plot(
        edges, band['mean'], color='#666666', linewidth=1, label='their mean'
      )
    for at, count, pvalue in zip(
      x, uncorrected, rows['significant_pvalue'], strict=True
    ):
      if not np.isnan(pvalue):
        ax.annotate(
          f'p = {pvalue:.2g}',
          (at, count),
          (0, 5),
          textcoords='offset points',
          ha='center',
          fontsize=8,
        )
    ax.set_title(
      f'{method or "compressed"}: {_range(rows["variant_models"])} models '
      f'against {_range(rows["baseline_models"])} dense',
      fontsize=10,
      parse_math=False,
    )
    # A method that prunes nothing has one level, at no fraction.
    ax.set_xlabel('fraction pruned' if x.any() else method)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xticks(sorted(set(x)) if x.any() else [])
    ax.xaxis.set_major_formatter('{x:g}')
    ax.grid()
  for ax in panels:
    ax.set_ylim(0, 1.12 * highest)
    ax.yaxis.get_major_locator().set_params(integer=True)
  fig.legend(
    *panels[0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=1 if len(methods) == 1 else 2,
    frameon=False,
    fontsize=8,
  )
  panels[0].set_ylabel(
    f'classes that moved against the whole, of {_range(summary["tested"])}'
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


def _remove_stale(
  results_directory: str, dataset_name: str, mode: str, written: Sequence[str]
) -> None:
  """Removes figures of levels that the tables no longer hold."""
  kept = {storage.name(path) for path in written}
  for suffix in ('png', 'svg'):
    pattern = paths.class_impact_figure(
      results_directory, dataset_name, mode, '*', suffix
    )
    for path in storage.match(pattern):
      if storage.name(path) not in kept:
        logging.info('%s is of a level that is gone: removed', path)
        epath.Path(path).unlink()


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
  _remove_stale(results_directory, dataset_name, mode, written)
  logging.info('%d figures: %s and the like', len(written), written[0])
  folder = str(epath.Path(inputs[0]).parent)
  provenance.write(
    folder,
    'per_class_accuracy.plot_class_impact',
    inputs,
    outputs=provenance.outputs(folder, written),
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
