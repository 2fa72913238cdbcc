"""What can be said of a level, in words that its tests support.

A verdict is one of four: the level *differs* (a p-value at or below
`tables.SIGNIFICANCE`), a difference is *not shown*, there are *too few members*
for any p-value as small, or it was *not tested*. That no difference is shown
does not say that there is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pie_dataset_gen import headline_rows, rounding
from utils import csvs, membership, paths, populations, storage, tables

_SOLID = f'q at or below {tables.SIGNIFICANCE:g}'
# Classes, or groups, that a sentence names.
_NAMED = 3


class Verdict(NamedTuple):
  """One row of `tables.VERDICTS` without its level.

  Attributes:
    about: what it is about.
    verdict: one of four words.
    sentence: the verdict with its numbers.
  """

  about: str
  verdict: str
  sentence: str


def between(low: float, high: float) -> str:
  """An interval of a count, or nothing where there is none."""
  return '' if np.isnan(low) else f' [{low:.0f}, {high:.0f}]'


def decide(p: float, smallest: float) -> str:
  """The verdict of a p-value, if it can be as small as the level at all."""
  if np.isnan(p):
    return 'not tested'
  if smallest > tables.SIGNIFICANCE:
    return 'too few members'
  return 'differs' if p <= tables.SIGNIFICANCE else 'not shown'


def of_images(null: Mapping[str, Any]) -> list[Verdict]:
  """What a row of `tables.PIE_NULL` says of a level's images and PIEs."""
  level = _named(null)
  p, smallest = null['energy_pvalue'], null['smallest_pvalue']
  pies = null['pie_count']
  found = (
    f'{pies} of {null["total_images_count"]} images are PIEs'
    f'{between(null["pie_count_low"], null["pie_count_high"])}'
  )
  verdict = decide(p, smallest)
  if verdict == 'not tested':
    return [
      Verdict('images', verdict, f'{level}: {found}; {null["not_available"]}.')
    ]
  chance = null['permuted_mean']
  found += f', {rounding.count(chance, chance)} by chance'
  if verdict == 'too few members':
    members = null['baseline_number_observ'], null['variant_number_observ']
    said = (
      f'{level}: {found}. {members[0]} dense and {members[1]} compressed '
      'members are too few to tell it from chance: no predictions give a p '
      f'below {rounding.p_value(smallest)}.'
    )
  elif verdict == 'not shown':
    said = (
      f'{level}: no difference from the dense networks is shown (p '
      f'{rounding.p_value(p)}); {found}.'
    )
  else:
    beyond = pies - chance
    of_pies = null['pie_pvalue']
    said = (
      f'{level}: it predicts otherwise than chance explains (p '
      f'{rounding.p_value(p)}); {found}'
    )
    if of_pies <= tables.SIGNIFICANCE:
      said += f': about {beyond:.0f} images beyond chance.'
    else:
      said += (
        f', no more than chance often gives (p {rounding.p_value(of_pies)}).'
      )
  return [Verdict('images', verdict, said), _of_pies(level, null)]


def _named(row: Mapping[str, Any]) -> str:
  """A level in words, and whether its members were compared in pairs."""
  pairs = ', in pairs' if row['is_paired'] else ''
  return f'{populations.level_of(row).words}{pairs}'


def _of_pies(level: str, null: Mapping[str, Any]) -> Verdict:
  """Which PIEs are solid, and how many hang on the rule for ties."""
  pies, solid = null['pie_count'], null['solid_pie_count']
  said, verdict = f'{level}: no image is a PIE', 'not shown'
  if np.isnan(solid):
    verdict = 'not tested'
    said = f'{level}: which of {pies} PIEs are chance was not tested'
  elif solid:
    verdict = 'differs'
    is_ = 'is' if solid == 1 else 'are'
    said = f'{level}: {solid:.0f} of {pies} PIEs {is_} solid ({_SOLID})'
    if solid < pies:
      said += ', each of the others may be chance'
  elif pies and _smallest_qvalue(null) > tables.SIGNIFICANCE:
    verdict = 'too few members'
    said = (
      f'{level}: so few members cannot say of a single image whether it is a '
      'PIE by chance'
    )
  elif pies:
    said = (
      f'{level}: none of {pies} PIEs is solid ({_SOLID}), each may be chance'
    )
  if null['pie_by_tie_rule_count']:
    said += (
      f'; {null["pie_by_tie_rule_count"]} hang on the rule for ties, '
      f"'{null['tie_rule']}'"
    )
  others = null['moved_images_count'] - solid
  if others > 0:
    said += (
      f'; on {others:.0f} other images the votes moved without another winner'
    )
  return Verdict('PIEs', verdict, f'{said}.')


def _smallest_qvalue(null: Mapping[str, Any]) -> float:
  """Of an image that is the only one with the smallest p-value there can be."""
  sizes = null['baseline_number_observ'], null['variant_number_observ']
  smallest = membership.smallest_pvalue(*sizes, bool(null['is_paired']))
  return smallest * max(1, null['tested_images_count'])


class Impact(NamedTuple):
  """What gen_tstatistic wrote of classes, or of groups.

  Attributes:
    about: 'classes' or 'groups'.
    summary: rows of `tables.CLASS_IMPACT_SUMMARY`.
    tests: rows of `tables.T_STATISTIC`.
  """

  about: str
  summary: pd.DataFrame
  tests: pd.DataFrame


def read_impacts(
  results_directory: str, dataset_name: str, mode: str
) -> tuple[list[Impact], list[str]]:
  """What gen_tstatistic wrote of classes and of groups, and its files."""
  impacts: list[Impact] = []
  files: list[str] = []
  for about, folder in (
    ('classes', results_directory),
    ('groups', paths.group_tests(results_directory)),
  ):
    of = folder, dataset_name, mode
    found = paths.class_impact_summary(*of), paths.t_statistic(*of)
    if all(map(storage.exists, found)):
      summary = csvs.read(tables.CLASS_IMPACT_SUMMARY, found[0])
      tests = csvs.read(tables.T_STATISTIC, found[1])
      impacts.append(Impact(about, summary, tests))
      files += found
  return impacts, files


def of_impact(
  about: str, row: Mapping[str, Any], tests: pd.DataFrame
) -> Verdict:
  """What is said of the classes, or groups, of a level.

  Args:
    about: 'classes' or 'groups'.
    row: of `tables.CLASS_IMPACT_SUMMARY`.
    tests: rows of `tables.T_STATISTIC` of this level.
  """
  p, smallest = row['significant_pvalue'], row['significant_pvalue_smallest']
  verdict = decide(p, smallest)
  corrected = tests[
    tests['qvalue_recall_norm'] <= tables.SIGNIFICANCE
  ].sort_values('normalised_recall_change', key=abs, ascending=False)
  lower, higher = (
    corrected.loc[corrected['direction'] == side, 'class']
    for side in ('lower', 'higher')
  )
  if row['variant_accuracy'] > row['baseline_accuracy']:
    ways = 'gained less than the whole, or lost', 'gained more than the whole'
  else:
    ways = 'lost more than the whole', 'lost less than the whole'
  named = [
    f'{len(found)} of {row["tested"]} {way}{_names(found)}'
    for found, way in zip((lower, higher), ways, strict=True)
    if len(found)
  ]
  alone = ', '.join(named)
  if verdict == 'differs':
    said = (
      f'{about} moved otherwise than the whole, more than chance explains (p '
      f'{rounding.p_value(p)}); '
      + (f'after correction {alone}' if named else 'which, cannot be told')
    )
  elif verdict == 'not shown':
    said = (
      f'that {about} moved otherwise than the whole is not shown (p '
      f'{rounding.p_value(p)})'
    ) + (f'; taken one by one, after correction {alone}' if named else '')
  elif verdict == 'too few members':
    said = (
      f'whether {about} moved otherwise than the whole, so few members cannot '
      f'say: no p is below {rounding.p_value(smallest)}'
    )
  else:
    said = f'{about} were not tested together'
  if named and row['normalisation'] != 'model':
    said += f' (more than there are: --normalisation is {row["normalisation"]})'
  return Verdict(about, verdict, f'{_named(row)}: {said}.')


def _names(found: pd.Series) -> str:
  """The first names in brackets, and that there are more."""
  more = ', ...' if len(found) > _NAMED else ''
  return f' ({", ".join(map(str, found[:_NAMED]))}{more})'


# What is asked of costs: the measure, and the sentence's beginning and words.
_COSTS = {
  'flips': (
    'newly wrong',
    'images that a dense network has right and a compressed one wrong',
  ),
  'calibration': (
    'overconfidence',
    'the mean confidence less top-1',
  ),
  # Of labels 0 and 1 only.
  'odds': (
    'equalised odds difference',
    'the widest range over the groups of false positives or false negatives',
  ),
}


def of_costs(rows: pd.DataFrame) -> list[Verdict]:
  """What rows of `tables.COSTS` say of one level: a question, a measure.

  Or of `tables.GROUP_COSTS`, of which only the odds are of all groups.
  """
  said = []
  level = populations.level_of(rows.iloc[0].to_dict()).words
  by_measure = {row['measure']: row for row in rows.to_dict('records')}
  for about, (measure, words) in _COSTS.items():
    row = by_measure.get(measure)
    if row is None or (about == 'odds' and np.isnan(row['value'])):
      continue
    value, reference = (
      '' if np.isnan(row[name]) else rounding.number(row[name], measure)
      for name in ('value', 'reference')
    )
    verdict = row['verdict']
    beside = 'of the dense networks'
    if measure == 'newly wrong':
      words = f'the share of {words}'
      beside = 'between two dense networks'
      if row['is_paired']:
        beside = 'if which of a pair is dense were dealt out'
    found = f'{words} is {value}, {reference} {beside}'
    p = ''
    if verdict in ('differs', 'not shown'):
      p = f' (p {rounding.p_value(row["pvalue"])})'
    if verdict == 'differs':
      way = 'above' if row['value'] > row['reference'] else 'below'
      said_of = f'{found}: {way} what chance explains{p}'
    elif verdict == 'not shown':
      said_of = f'{found}: no difference is shown{p}'
    elif verdict == 'too few members':
      said_of = f'{found}; so few members cannot tell it from chance'
    else:
      found = found if value else f'{words} is not known'
      said_of = f'{found}; {row["not_available"]}'
    said.append(Verdict(about, verdict, f'{level}: {said_of}.'))
  return said


def of_gains(
  level: populations.Level,
  gains: Mapping[populations.Level, Mapping[str, float]],
  newly_wrong: Mapping[str, Any] | None,
) -> Verdict:
  """What a level buys and what it costs, in a sentence each.

  Args:
    level: its name.
    gains: level -> measure -> value, of `tables.GAINS`.
    newly_wrong: its row of `tables.COSTS`, or None.
  """
  of, dense = gains[level], gains.get(populations.DENSE, {})
  bought = []
  stored = of.get(headline_rows.GZIPPED, np.nan)
  share = stored / dense.get(headline_rows.GZIPPED, np.nan)
  if not np.isnan(share):
    bought.append(
      f"{100 * share:.0f} % of the dense network's bytes when gzipped"
    )
  speed_up = of.get(headline_rows.SPEED_UP, np.nan)
  if not np.isnan(speed_up):
    bought.append(
      f'{100 / speed_up:.0f} % of its multiply-adds where zeros are skipped '
      '(here they are not)'
    )
  said = f'{level.words}: in short, '
  said += (
    f'it takes {", and ".join(bought)}'
    if bought
    else 'what it saves is not known'
  )
  verdict = 'not tested'
  if newly_wrong is not None and not np.isnan(newly_wrong['value']):
    verdict = newly_wrong['verdict']
    said += f'; {_newly_wrong(newly_wrong)}'
  return Verdict('costs', verdict, f'{said}.')


def _row_of(
  costs: pd.DataFrame | None, level: populations.Level, measure: str
) -> Mapping[str, Any] | None:
  """A level's row of a measure, or None."""
  rows = [] if costs is None else costs.to_dict('records')
  for row in rows:
    if populations.level_of(row) == level and row['measure'] == measure:
      return row
  return None


def _newly_wrong(row: Mapping[str, Any]) -> str:
  """How many images become wrong, of a number that people can picture."""

  def images(name):
    number = 1000 * row[name]
    return f'about {number:.0f}' if number >= 1 else 'fewer than 1'

  found = (
    f'of 1,000 images it has {images("value")} wrong that a dense network has '
    'right'
  )
  if not np.isnan(row['reference']):
    beside = 'between two dense networks'
    if row['is_paired']:
      beside = 'by chance'
    found += f', {images("reference")} {beside}'
  words = {
    'differs': 'chance does not explain the difference',
    'not shown': 'no difference is shown',
    'too few members': 'so few members cannot tell it from chance',
  }
  return f'{found}: {words.get(row["verdict"], "that was not tested")}'


def of_levels(
  null: pd.DataFrame | None,
  impacts: Sequence[Impact],
  costs: pd.DataFrame | None = None,
  group_costs: pd.DataFrame | None = None,
  gains: pd.DataFrame | None = None,
) -> pd.DataFrame:
  """What is said of all levels.

  Args:
    null: rows of `tables.PIE_NULL`, or None.
    impacts: of classes, of groups.
    costs: rows of `tables.COSTS`, or None.
    group_costs: rows of `tables.GROUP_COSTS`, or None.
    gains: rows of `tables.GAINS`, or None.

  Returns:
    Rows of `tables.VERDICTS`.
  """
  said: dict[populations.Level, list[Verdict]] = {}
  if null is not None:
    for row in null.to_dict('records'):
      said.setdefault(populations.level_of(row), []).extend(of_images(row))
  for about, summary, tests in impacts:
    of_level = populations.by_level(tests)
    for row in summary.to_dict('records'):
      level = populations.level_of(row)
      verdict = of_impact(about, row, of_level.get(level, tests[:0]))
      said.setdefault(level, []).append(verdict)
  if gains is not None:
    of_gained = {
      level: rows.set_index('measure')['value'].to_dict()
      for level, rows in populations.by_level(gains).items()
    }
    for level in of_gained.keys() - {populations.DENSE}:
      row = _row_of(costs, level, headline_rows.NEWLY_WRONG)
      # First of all that is said of a level.
      said.setdefault(level, []).insert(0, of_gains(level, of_gained, row))
  for found in (costs, group_costs):
    of_levels = {} if found is None else populations.by_level(found)
    for level, rows in of_levels.items():
      if not level.is_dense:
        said.setdefault(level, []).extend(of_costs(rows))
  return pd.DataFrame(
    [
      {
        'pruning_method': level.pruning_method,
        'pruning_fraction': level.fraction_pruned,
        **verdict._asdict(),
      }
      for level in populations.sort_levels(said)
      for verdict in said[level]
    ],
    columns=[column.name for column in tables.VERDICTS.columns],
  )
