"""What the program says of a level is no more than its test supports."""

import numpy as np
import pandas as pd
import pytest

from pie_dataset_gen import verdicts
from utils import csvs, populations, tables

ROW = {
  'pruning_method': 'threshold',
  'pruning_fraction': 0.9,
  'total_images_count': 897,
  'baseline_number_observ': 10,
  'variant_number_observ': 10,
  'pie_count': 19,
  'pie_count_low': 12.3,
  'pie_count_high': 25.7,
  'permuted_mean': 9.36,
  'energy_pvalue': 0.001,
  'pie_pvalue': 0.004,
  'smallest_pvalue': 0.001,
  'is_paired': 0,
  'permutations': 999,
  'tested_images_count': 200,
  'moved_images_count': 8,
  'solid_pie_count': 6,
  'pie_by_tie_rule_count': 3,
  'tie_rule': 'largest',
  'not_available': '',
}


def said(**changes):
  return {of.about: of for of in verdicts.of_images(ROW | changes)}


def test_a_level_that_differs():
  found = said()['images']
  assert found.verdict == 'differs'
  assert found.sentence == (
    'threshold 0.9: it predicts otherwise than chance explains (p 0.001); 19 '
    'of 897 images are PIEs [12, 26], 9.4 by chance: about 10 images beyond '
    'chance.'
  )
  assert said()['PIEs'].sentence == (
    'threshold 0.9: 6 of 19 PIEs are solid (q at or below 0.05), each of '
    "the others may be chance; 3 hang on the rule for ties, 'largest'; on 2 "
    'other images the votes moved without another winner.'
  )


@pytest.mark.parametrize(
  ('changes', 'verdict', 'words'),
  [
    ({'energy_pvalue': 0.06}, 'not shown', 'no difference from .* (p 0.06);'),
    ({'smallest_pvalue': 0.1}, 'too few members', 'give a p below 0.1.'),
    ({'pie_pvalue': 0.3}, 'differs', 'chance often gives (p 0.3).'),
    (
      {'energy_pvalue': np.nan, 'not_available': 'no test: 0'},
      'not tested',
      'images are PIEs [12, 26]; no test: 0.',
    ),
  ],
)  # fmt: skip
def test_what_is_not_shown_is_not_said(changes, verdict, words):
  found = said(**changes)['images']
  assert found.verdict == verdict
  for part in words.split(' .* '):
    assert part in found.sentence
  assert ('beyond' in found.sentence) == (verdict == 'differs' and not words)
  assert ('otherwise' in found.sentence) == (verdict == 'differs')


def test_pies_of_few_members_are_not_judged():
  few = {'baseline_number_observ': 6, 'variant_number_observ': 6}
  none = {'solid_pie_count': 0, 'moved_images_count': 0}
  # 2 / 924 times 200 images; of many that move together some may be solid.
  found = said(**few, **none)['PIEs']
  assert found.verdict == 'too few members'
  assert 'solid' not in found.sentence
  assert 'hang on the rule' in found.sentence
  assert said(**few)['PIEs'].verdict == 'differs'
  assert said(**none)['PIEs'].verdict == 'not shown'
  assert 'none of 19 PIEs is solid' in said(**none)['PIEs'].sentence
  pairs = said(is_paired=1, **none)['PIEs']
  assert pairs.verdict == 'too few members'
  # Of two pairs no image can be tested at all.
  sizes = {'baseline_number_observ': 2, 'variant_number_observ': 2}
  pairs = said(is_paired=1, **none, **sizes, tested_images_count=0)['PIEs']
  assert pairs.verdict == 'too few members'


def test_pies_of_one_shard_are_not_tested():
  found = said(solid_pie_count=np.nan, moved_images_count=np.nan)['PIEs']
  assert found.verdict == 'not tested'
  assert 'which of 19 PIEs are chance was not tested' in found.sentence


def test_a_method_that_prunes_nothing_is_named_alone():
  assert said(pruning_method='int8', pruning_fraction=0.0)[
    'images'
  ].sentence.startswith('int8: ')


def test_no_interval_is_no_interval():
  found = said(pie_count_low=np.nan, pie_count_high=np.nan)['images'].sentence
  assert '19 of 897 images are PIEs, 9.4 by chance' in found


def test_rows_are_those_of_the_table():
  null = pd.DataFrame([ROW, ROW | {'pruning_fraction': 0.5}])
  frame = verdicts.of_levels(null, [])
  csvs.check(tables.VERDICTS, frame, 'verdicts')
  assert frame['pruning_fraction'].tolist() == [0.5, 0.5, 0.9, 0.9]
  assert csvs.check(tables.VERDICTS, verdicts.of_levels(None, []), 'x').empty


def impact(
  p,
  smallest=0.001,
  lower=(),
  higher=(),
  about='classes',
  gains=False,
  normalisation='model',
):
  """The verdict on ten classes, of which some stand after correction."""
  tests = pd.DataFrame({'class': [f'c{i}' for i in range(10)]})
  change = np.zeros(10)
  change[list(lower)] = -0.1 - np.arange(len(lower)) / 100
  change[list(higher)] = 0.1
  tests = tests.assign(
    normalised_recall_change=change,
    direction=np.select([change < 0, change > 0], ['lower', 'higher'], ''),
    qvalue_recall_norm=np.where(change != 0, 0.01, 0.5),
  )
  row = {
    'pruning_method': 'int8',
    'pruning_fraction': 0.0,
    'tested': 10,
    'significant_pvalue': p,
    'significant_pvalue_smallest': smallest,
    'baseline_accuracy': 0.8,
    'variant_accuracy': 0.9 if gains else 0.7,
    'normalisation': normalisation,
    'is_paired': 0,
  }
  return verdicts.of_impact(about, row, tests)


def test_classes_that_pay_are_named():
  found = impact(0.003, lower=[1, 4, 5, 7], higher=[2])
  assert found.verdict == 'differs'
  assert found.sentence == (
    'int8: classes moved otherwise than the whole, more than chance explains '
    '(p 0.003); after correction 4 of 10 lost more than the whole (c7, c5, c4, '
    '...), 1 of 10 lost less than the whole (c2).'
  )
  found = impact(0.003, lower=[1], higher=[2], gains=True).sentence
  assert '1 of 10 gained less than the whole, or lost (c1)' in found
  assert '1 of 10 gained more than the whole (c2)' in found
  of_paper = impact(0.2, lower=[1], normalisation='population_mean')
  assert 'more than there are: --normalisation is population_mean' in (
    of_paper.sentence
  )


@pytest.mark.parametrize(
  ('options', 'verdict', 'words'),
  [
    ({'p': 0.2}, 'not shown', 'is not shown (p 0.2).'),
    (
      {'p': 0.2, 'lower': [3]},
      'not shown',
      'taken one by one, after correction 1 of 10 lost more',
    ),
    ({'p': 0.02}, 'differs', 'which, cannot be told.'),
    ({'p': 0.1, 'smallest': 0.1}, 'too few members', 'no p is below 0.1.'),
    ({'p': np.nan, 'smallest': np.nan}, 'not tested', 'were not tested'),
    ({'p': 0.02, 'about': 'groups'}, 'differs', 'int8: groups moved'),
  ],
)
def test_classes_are_judged_together(options, verdict, words):
  found = impact(**options)
  assert found.verdict == verdict
  assert words in found.sentence


def cost_of(**changes):
  return pd.DataFrame(
    [
      {
        'pruning_method': 'int8',
        'pruning_fraction': 0.0,
        'measure': 'newly wrong',
        'value': 0.08,
        'reference': 0.03,
        'pvalue': 0.002,
        'verdict': 'differs',
        'is_paired': 0,
        'not_available': '',
        **changes,
      }
    ]
  )


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({}, '0.080, 0.030 between two dense networks: above what chance'),
    ({'value': 0.01}, '0.010, 0.030 between two dense networks: below what'),
    ({'is_paired': 1}, '0.030 if which of a pair is dense were dealt out: '),
    (
      {'verdict': 'not shown', 'pvalue': 0.4},
      'networks: no difference is shown (p 0.4)',
    ),
    ({'verdict': 'too few members'}, 'so few members cannot tell it from'),
    (
      {
        'measure': 'overconfidence',
        'verdict': 'not tested',
        'value': np.nan,
        'reference': np.nan,
        'pvalue': np.nan,
        'not_available': 'no probability',
      },
      'the mean confidence less top-1 is not known; no probability.',
    ),
  ],
)
def test_a_cost_is_said_as_it_was_tested(changes, said):
  (found,) = verdicts.of_costs(cost_of(**changes))
  assert found.verdict == changes.get('verdict', 'differs')
  assert said in found.sentence
  assert found.sentence.startswith('int8: ')


GAINED = {
  populations.DENSE: {'bytes, gzipped': 200.0, 'theoretical speed-up': 1.0},
  populations.Level('threshold', 0.9): {
    'bytes, gzipped': 30.0,
    'theoretical speed-up': 8.0,
  },
  populations.Level('int8', 0.0): {
    'bytes, gzipped': 50.0,
    'theoretical speed-up': np.nan,
  },
}


@pytest.mark.parametrize(
  ('level', 'changes', 'said'),
  [
    (
      ('threshold', 0.9),
      {},
      "takes 15 % of the dense network's bytes when gzipped, and 12 % of its "
      'multiply-adds where zeros are skipped (here they are not); of 1,000 '
      'images it has about 67 wrong that a dense network has right, about 16 '
      'between two dense networks: chance does not explain the difference.',
    ),
    (
      ('int8', 0.0),
      {
        'value': 4e-4,
        'reference': 1e-3,
        'is_paired': 1,
        'verdict': 'not shown',
      },
      "takes 25 % of the dense network's bytes when gzipped; of 1,000 images "
      'it has fewer than 1 wrong that a dense network has right, about 1 by '
      'chance: no difference is shown.',
    ),
    (
      ('int8', 0.0),
      {'reference': np.nan, 'verdict': 'not tested'},
      'right: that was not tested.',
    ),
    (
      ('int8', 0.0),
      {'verdict': 'too few members'},
      'cannot tell it from chance.',
    ),
    (
      ('int8', 0.0),
      None,
      "takes 25 % of the dense network's bytes when gzipped.",
    ),
  ],
)
def test_what_is_bought_and_paid_is_said_in_short(level, changes, said):
  row = None
  if changes is not None:
    row = {
      'value': 0.067,
      'reference': 0.016,
      'is_paired': 0,
      'verdict': 'differs',
    }
    row |= changes
  found = verdicts.of_gains(populations.Level(*level), GAINED, row)
  assert found.sentence.endswith(said)
  assert found.verdict == (row['verdict'] if row else 'not tested')
  # A network of which nothing is known is not said to save anything.
  unknown = verdicts.of_gains(
    populations.Level(*level), {populations.Level(*level): {}}, row
  )
  assert 'what it saves is not known' in unknown.sentence
