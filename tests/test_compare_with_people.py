"""PIEs held against what people said: second implementations, and chance."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics

from pie_dataset_gen import (
  aggregate_predictions,
  compare_with_people,
  people,
  shard_predictions,
  write_predictions,
)
from utils import csvs, membership, paths, tables

IMAGES = 60
KEYS = [f'{i:03}.jpg' for i in range(IMAGES)]


def population(seed, *, members=6, harm=0.0):
  """Labels [images, 2 members] and scores, with which goes how often they err.

  With harm the second half of the members err more where the score is high.
  """
  random = np.random.default_rng(seed)
  score = random.random(IMAGES)
  error = np.tile(0.1 + 0.5 * score[:, None], 2 * members)
  error[:, members:] += harm * (score[:, None] > 0.7)
  # Members differ in quality.
  error = np.clip(error + random.normal(0, 0.05, 2 * members), 0, 0.95)
  return (random.random(error.shape) < error).astype(int), score


def groups_of(label, memberships, tie_rule='largest'):
  predictions = shard_predictions.Predictions(
    [],
    np.array(KEYS),
    np.arange(IMAGES),
    np.zeros(IMAGES, int),
    label,
    np.ones(label.shape),
  )
  members = label.shape[1] // 2
  return next(
    people.groups(
      predictions,
      np.arange(members),
      np.arange(members, 2 * members),
      memberships,
      tie_rule,
    )
  )


def test_scores_of_counts():
  counts = np.array([[10, 0, 0], [1, 9, 0], [5, 5, 0]])
  found = people.scores_of_counts(counts, np.array([0, 0, 0]))
  assert found['entropy'] == pytest.approx(
    [0, -0.1 * np.log(0.1) - 0.9 * np.log(0.9), np.log(2)]
  )
  assert found['disagreement'].tolist() == [0, 0.9, 0.5]
  # As many votes are not more.
  assert found['another_class'].tolist() == [0, 1, 0]


@pytest.mark.parametrize('tie_rule', ['largest', 'smallest'])
def test_statistics_are_those_of_each_membership_by_itself(tie_rule):
  label, score = population(1)
  score = score.round(1)  # with ties
  drawn = membership.draw_memberships(6, 6, 19, seed=3)
  found = people.statistics(score, groups_of(label, drawn, tie_rule))
  for way, is_dense in enumerate(drawn.is_dense.T):
    dense, other = label[:, is_dense], label[:, ~is_dense]
    ones = np.stack([dense.sum(axis=1), other.sum(axis=1)])
    modal = 2 * ones > 6 if tie_rule == 'smallest' else 2 * ones >= 6
    pie = modal[0] != modal[1]
    assert found['difference'][way] == pytest.approx(
      score[pie].mean() - score[~pie].mean()
    )
    assert found['auc'][way] == pytest.approx(metrics.roc_auc_score(pie, score))
    assert found['spearman'][way] == pytest.approx(
      stats.spearmanr(score, np.abs(ones[0] - ones[1]))[0]
    )
    # All votes of the dense group follow from its votes for class 1.
    design = pd.get_dummies(ones[0]).to_numpy(float)
    coefficients = np.linalg.lstsq(
      np.column_stack([pie, design]), score, rcond=None
    )[0]
    assert found['matched_difference'][way] == pytest.approx(coefficients[0])


def test_the_true_membership_gives_the_estimates():
  label, score = population(2)
  groups = groups_of(label, membership.draw_memberships(6, 6, 19, seed=0))
  pie, stratum, distance_rank = (of[:, 0] for of in groups)
  found = people.statistics(score, groups)
  for name, estimate in {
    'difference': people.difference(score, pie),
    'auc': people.auc(score, pie),
    'matched_difference': people.matched_difference(score, pie, stratum),
    'spearman': people.spearman(score, distance_rank),
  }.items():
    assert estimate.value == pytest.approx(found[name][0])
    assert estimate.low < estimate.value < estimate.high


def test_intervals_hold_the_truth():
  random = np.random.default_rng(0)
  covered = np.zeros(3)
  for _ in range(200):
    pie = random.random(300) < 0.2
    stratum = random.integers(0, 5, 300)
    score = 0.5 * pie + stratum + random.normal(size=300) * (1 + pie)
    alone = score - stratum
    for i, (estimate, truth) in enumerate(
      (
        (people.difference(alone, pie), 0.5),
        (people.matched_difference(score, pie, stratum), 0.5),
        # P(N(0.5, 2) > N(0, 1)).
        (people.auc(alone, pie), stats.norm.cdf(0.5 / 5**0.5)),
      )
    ):
      covered[i] += estimate.low <= truth <= estimate.high
  assert (covered / 200 > 0.9).all() and (covered / 200 < 0.99).all(), covered


@pytest.mark.parametrize(
  ('harm', 'low', 'high'), [(0.0, 0.02, 0.09), (0.35, 0.4, 1.0)]
)
def test_chance_pies_are_as_hard_where_compression_does_nothing(
  harm, low, high
):
  """PIEs lie on hard images in either case; only harm makes them harder."""
  names = ('difference', 'auc', 'spearman')
  found = dict.fromkeys(names, 0)
  studies = 300
  for seed in range(studies):
    label, score = population(seed, members=8, harm=harm)
    drawn = membership.draw_memberships(8, 8, 39, seed)
    ways = people.statistics(score, groups_of(label, drawn))
    for name in names:
      found[name] += (ways[name] >= ways[name][0]).mean() <= 0.05
  rates = {name: hits / studies for name, hits in found.items()}
  # Harm is seen by the distance of the votes; PIEs, being few, see less of it.
  for name in names if not harm else ('spearman',):
    assert low <= rates[name] <= high, rates


def test_wrong_labels_are_found_first():
  positive = np.array([True, False, True, False, False])
  perfect = people.found_first(np.array([3, 1, 2, 0, 0]), positive)
  assert perfect == {'average_precision': 1.0, 'precision_at_k': 1.0}
  # Of three that rank alike one place is left, and one is positive.
  torn = people.found_first(np.array([2, 1, 1, 1, 0]), positive)
  assert torn['precision_at_k'] == pytest.approx((1 + 1 / 3) / 2)


@pytest.fixture
def study(tmp_path):
  label, score = population(5, members=4, harm=0.5)
  folder = str(tmp_path / 'predictions')
  for member in range(8):
    write_predictions.write(
      folder,
      np.zeros(IMAGES, int),
      KEYS,
      labels=label[:, member],
      pruning_method='baseline' if member < 4 else 'int8',
      replicate=member % 4,
    )
  aggregate_predictions.run(
    folder,
    str(tmp_path / 'results'),
    mode='eval',
    dataset_name='made_up',
    num_resamples=0,
  )
  counts = stats.binom.rvs(50, 0.5 * score, random_state=1)
  seen = pd.DataFrame(
    {'image_key': KEYS, 'n_a': 50 - counts, 'n_b': counts, 'hard': score}
  )
  # One that nobody predicted, and one that people did not see.
  seen.loc[0, 'image_key'] = 'elsewhere.jpg'
  seen.to_csv(tmp_path / 'people.csv', index=False)
  return tmp_path, label, seen


def compare(tmp_path, **options):
  return compare_with_people.run(
    str(tmp_path / 'people.csv'),
    str(tmp_path / 'predictions'),
    str(tmp_path / 'results'),
    mode='eval',
    dataset_name='made_up',
    num_permutations=69,
    **options,
  )


def test_a_study_is_held_against_people(study):
  tmp_path, label, seen = study
  rows = compare(tmp_path, counts_prefix='n_')
  path = paths.people(str(tmp_path / 'results'), 'made_up', 'eval', 'people')
  assert len(csvs.read(tables.PEOPLE, path)) == len(rows) == 3 * 3 + 3 + 6 + 12
  label, seen = label[1:], seen[1:]
  ones = np.stack([label[:, :4].sum(axis=1), label[:, 4:].sum(axis=1)])
  pie = (ones[0] >= 2) != (ones[1] >= 2)
  share = seen['n_b'].to_numpy() / 50
  by = rows.set_index(
    ['pruning_method', 'people_score', 'statistic', 'ranking']
  )
  found = by.loc[('int8', 'disagreement', 'difference', 'pie')]
  assert found['value'] == pytest.approx(share[pie].mean() - share[~pie].mean())
  assert found['chosen_count'] == pie.sum()
  assert found['images_count'] == IMAGES - 1
  found = by.loc[('baseline', 'disagreement', 'spearman', 'disagreement')]
  assert found['value'] == pytest.approx(stats.spearmanr(share, ones[0])[0])
  found = by.loc[('all', 'disagreement', 'spearman', 'disagreement')]
  assert found['value'] == pytest.approx(stats.spearmanr(share, ones.sum(0))[0])
  said = compare_with_people.sentences(rows)
  assert len(said) == 3
  assert said[0].startswith("int8: the score 'entropy' is higher on the ")
  assert 'on PIEs by chance by' in said[0]


def test_one_score_in_place_of_counts(study):
  tmp_path, _, seen = study
  rows = compare(tmp_path, score='hard')
  assert set(rows['people_score']) == {'hard'}


@pytest.mark.parametrize(
  ('change', 'options', 'message'),
  [
    (None, {}, 'wanted one of the two'),
    (None, {'counts_prefix': 'm_'}, 'wanted one for each class'),
    (None, {'score': 'soft'}, r"lacks the columns \['soft'\]"),
    (
      lambda seen: seen.assign(n_a=0, n_b=0),
      {'counts_prefix': 'n_'},
      'nobody chose a class of 60 images',
    ),
    (
      lambda seen: seen.assign(image_key=seen['image_key'] + 'x'),
      {'score': 'hard'},
      "keys of predictions look like '000.jpg', theirs like 'elsewhere.jpgx'",
    ),
    (
      lambda seen: seen.assign(image_key='001.jpg'),
      {'score': 'hard'},
      'share their identity',
    ),
  ],
)
def test_refused_by_name(study, change, options, message):
  tmp_path, _, seen = study
  if change:
    change(seen).to_csv(tmp_path / 'people.csv', index=False)
  with pytest.raises(ValueError, match=message):
    compare(tmp_path, **options)
