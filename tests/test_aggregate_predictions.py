"""Laws of the vote: order and copies of models cannot matter, chance can."""

import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pie_dataset_gen import (
  aggregate_predictions,
  pie_resampling,
  shard_predictions,
  verdicts,
  votes,
)
from tests.benchmarks import pie_verdicts
from utils import (
  csvs,
  paths,
  populations,
  prediction_files,
  provenance,
  tables,
  workers,
)

LEVEL = populations.Level('threshold', 0.5)
NUM_LABELS = 4


def draw_labels(seed, images, members, sure=2.0):
  """[images, members] labels; each image has its own distribution."""
  random = np.random.default_rng(seed)
  likely = random.dirichlet(np.full(NUM_LABELS, 1 / sure), images)
  return sample(random, likely, members)


def sample(random, likely, members):
  draws = random.random((len(likely), members, 1))
  return (draws > likely.cumsum(axis=1)[:, None, :-1]).sum(axis=2)


def predictions_of(labels, member, seed=0, shard='validation-00000-of-00002'):
  """A table of predictions with the required columns only.

  Args:
    labels: [images] predicted class ids.
    member: (pruning_method, fraction_pruned, replicate).
    seed: of the probabilities.
    shard: name of the shard, in the keys.
  """
  images = np.arange(len(labels))
  random = np.random.default_rng([seed, len(labels)])
  return pd.DataFrame(
    {
      'image_key': [f'{shard}/{i}' for i in images],
      'image_index': images,
      'true_class': images % NUM_LABELS,
      'predictions': labels,
      'predicted_probability': random.random(len(labels)).astype('float32'),
      'pruning_method': member[0],
      'fraction_pruned': member[1],
      'replicate': member[2],
    }
  )


def write_population(folder, seed=0, dense=6, pruned=5, images=(40, 23)):
  """Two shards by a dense and two pruned populations, one file a member."""
  for number, size in enumerate(images):
    shard = f'validation-{number:05d}-of-{len(images):05d}'
    (folder / shard).mkdir(parents=True)
    labels = draw_labels([seed, number], size, dense + 2 * pruned)
    members = [('baseline', 0.0, r) for r in range(dense)]
    members += [('threshold', 0.5, r) for r in range(pruned)]
    members += [('threshold', 0.9, r) for r in range(pruned)]
    for i, member in enumerate(members):
      predictions_of(labels[:, i], member, i, shard).to_csv(
        folder / shard / f'{"_".join(map(str, member))}.csv', index=False
      )
  return folder


def run(folder, out, **options):
  return aggregate_predictions.run(
    str(folder),
    str(out),
    **{'mode': 'eval', 'dataset_name': 'toy', 'num_resamples': 20, **options},
  )


def read_labels(out):
  files = csvs.find(
    tables.MODAL_LABELS, paths.modal_labels_folder(str(out), 'toy', 'eval')
  )
  return csvs.read_all(tables.MODAL_LABELS, files)


def csv_bytes(out):
  return {
    str(path.relative_to(out)): path.read_bytes()
    for path in sorted(out.rglob('*.csv'))
  }


def rewrite(folder, change):
  """Applies a change to the frame of each file."""
  for number, path in enumerate(sorted(folder.rglob('*.csv'))):
    change(pd.read_csv(path), number).to_csv(path, index=False)


def arrays(labels_by_level, probability=None):
  """`Predictions` from {level: [images, members] labels}."""
  members, columns = [], []
  for level, labels in labels_by_level.items():
    for replicate in range(labels.shape[1]):
      members.append(
        shard_predictions.Identity('', *level, 0, 0, 0, 0, replicate)
      )
      columns.append(labels[:, replicate])
  labels = np.stack(columns, axis=1)
  images = np.arange(len(labels))
  if probability is None:
    probability = np.full(labels.shape, 0.5)
  return shard_predictions.Predictions(
    members,
    np.array([f'{i}' for i in images], object),
    images,
    images * 0,
    labels,
    probability,
  )


def count(dense, pruned, *, repeats=50, seed=0, tie_rule='largest', prob=None):
  """The modal labels and counts of one shard at one level."""
  sizes = dense.shape[1], pruned.shape[1]
  drawn = pie_resampling.draw(*sizes, repeats, 99, seed)
  predictions = arrays({populations.DENSE: dense, LEVEL: pruned}, prob)
  frames, sums = aggregate_predictions.count_shard(
    predictions, {LEVEL: drawn}, tie_rule
  )
  agreement = populations.agreement(predictions.label)
  row = pie_resampling.summarise(sums[LEVEL], agreement, *sizes, drawn)
  return frames[LEVEL], {**sums[LEVEL], **row}


def test_agrees_with_the_plain_version(tmp_path):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  found = read_labels(tmp_path / 'out').set_index(
    ['pruning_fraction', 'image_key']
  )
  rows = pd.concat(map(pd.read_csv, folder.rglob('*.csv')))
  assert len(found) == 2 * rows['image_key'].nunique() == 2 * 63
  for (fraction, key), row in found.iterrows():
    image = rows[rows['image_key'] == key]
    votes = {}
    for who, level in (('baseline', 0.0), ('variant', fraction)):
      some = image[image['fraction_pruned'] == level]
      modes = some['predictions'].mode()
      votes[who] = some['predictions'].value_counts()
      assert row[f'{who}_modal_label'] == modes.max()
      assert row[f'{who}_number_observ'] == len(some)
      assert row[f'{who}_vote_share'] == votes[who].max() / len(some)
      assert row[f'{who}_tied'] == (len(modes) > 1)
      right = some['predictions'] == some['true_class']
      assert row[f'{who}_correct_share'] == pytest.approx(right.mean())
      assert row[f'{who}_mean_probability'] == pytest.approx(
        some['predicted_probability'].mean(), abs=1e-12
      )
    distance = votes['baseline'].sub(votes['variant'], fill_value=0).abs()
    assert row['taxicab_distance'] == distance.sum()
    assert row['true_class_label'] == image['true_class'].iloc[0]
    assert row['image_index'] == image['image_index'].iloc[0]
    assert row['filename'] == key.split('/')[0]


def test_counts_of_the_null_agree_with_the_modal_labels(tmp_path):
  null = run(write_population(tmp_path / 'in'), tmp_path / 'out')
  labels = read_labels(tmp_path / 'out')
  differ = labels['variant_modal_label'] != labels['baseline_modal_label']
  pies = differ.groupby(labels['pruning_fraction']).sum()
  assert null['pie_count'].tolist() == pies.tolist()
  assert null['total_images_count'].tolist() == [63, 63]
  tied = labels.groupby('pruning_fraction')[['baseline_tied', 'variant_tied']]
  assert null[
    ['baseline_tied_count', 'variant_tied_count']
  ].to_numpy().tolist() == (tied.sum().to_numpy().tolist())
  moved = labels['vote_qvalue'] <= tables.SIGNIFICANCE
  for name, chosen in (
    ('moved_images_count', moved),
    ('solid_pie_count', moved & differ),
  ):
    wanted = chosen.groupby(labels['pruning_fraction']).sum()
    assert null[name].tolist() == wanted.tolist()


def test_order_of_files_and_rows_changes_no_byte(tmp_path):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  rewrite(folder, lambda f, i: f.sample(frac=1, random_state=i))
  for i, path in enumerate(sorted(folder.rglob('*.csv'))):
    path.rename(path.with_name(f'{i * 7919 % 101}.csv'))
  run(folder, tmp_path / 'again')
  assert csv_bytes(tmp_path / 'out') == csv_bytes(tmp_path / 'again')


def test_renumbering_the_models_changes_no_modal_label(tmp_path):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  rewrite(folder, lambda f, i: f.assign(replicate=99 - f['replicate']))
  run(folder, tmp_path / 'again')
  # But halves are drawn by place, so how often an image is a PIE may move.
  labels = [
    read_labels(tmp_path / out).drop(columns='pie_frequency')
    for out in ('out', 'again')
  ]
  pd.testing.assert_frame_equal(*labels)


@pytest.mark.parametrize(
  ('module', 'name'),
  [
    (aggregate_predictions, '_BLOCK_IMAGES'),
    (shard_predictions, '_BATCH_BYTES'),
  ],
)
def test_sizes_of_blocks_change_no_byte(tmp_path, monkeypatch, module, name):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  monkeypatch.setattr(module, name, 7)
  run(folder, tmp_path / 'again')
  assert csv_bytes(tmp_path / 'out') == csv_bytes(tmp_path / 'again')


def test_shards_one_by_one_give_the_same_labels(tmp_path):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  for shard in ('validation-00001-of-00002', 'validation-00000-of-00002'):
    null = run(folder, tmp_path / 'again', subdirectory=shard)
    path = paths.pie_null(str(tmp_path / 'again'), 'toy', 'eval', shard)
    assert len(csvs.read(tables.PIE_NULL, path)) == len(null) == 2
  # All but the correction over images, which are now those of a shard.
  labels = [
    read_labels(tmp_path / out).drop(columns='vote_qvalue')
    for out in ('out', 'again')
  ]
  pd.testing.assert_frame_equal(*labels)


def test_the_folder_of_imagenet_predictions_is_found(tmp_path):
  folder = paths.predictions_folder(str(tmp_path), 'toy', 'eval')
  write_population(pathlib.Path(folder))
  # Its own results among the inputs are not read on the second run.
  first = run(tmp_path, tmp_path, num_resamples=0)
  second = run(tmp_path, tmp_path, num_resamples=0)
  assert first['pie_count'].tolist() == second['pie_count'].tolist()
  pattern = f'{folder}/*/*.csv'
  third = run(pattern, tmp_path / 'out', num_resamples=0)
  assert first['pie_count'].tolist() == third['pie_count'].tolist()


@pytest.mark.parametrize('tie_rule', votes.TIE_RULES)
def test_copies_of_every_model_change_no_modal_label(tie_rule):
  dense, pruned = draw_labels(1, 300, 6), draw_labels(2, 300, 4)
  prob = np.random.default_rng(3).random((300, 10))
  copies = [np.repeat(x, 3, axis=1) for x in (dense, pruned)]
  once, row = count(dense, pruned, tie_rule=tie_rule, prob=prob)
  thrice, copied_row = count(
    *copies, tie_rule=tie_rule, prob=np.repeat(prob, 3, axis=1)
  )
  for name in ('modal_label', 'vote_share', 'tied'):
    for who in ('baseline', 'variant'):
      assert once[f'{who}_{name}'].equals(thrice[f'{who}_{name}'])
  assert (thrice['taxicab_distance'] == 3 * once['taxicab_distance']).all() or (
    dense.shape != pruned.shape
  )
  for name in ('pie_count', 'pie_by_tie_rule_count'):
    assert row[name] == copied_row[name] > 0


@pytest.mark.parametrize('tie_rule', votes.TIE_RULES)
def test_a_population_against_itself_has_no_pies(tie_rule):
  labels = draw_labels(1, 300, 6)
  prob = np.tile(np.random.default_rng(3).random((300, 6)), 2)
  frame, row = count(labels, labels, tie_rule=tie_rule, prob=prob)
  assert row['pie_count'] == 0
  assert (frame['taxicab_distance'] == 0).all()
  assert row['pie_by_tie_rule_count'] == 0


@pytest.mark.parametrize(
  ('tie_rule', 'wanted'),
  [('largest', [3, 3, 2]), ('smallest', [1, 0, 2]), ('probability', [1, 3, 2])],
)
def test_ties_follow_the_rule(tie_rule, wanted):
  #       tie of 1 and 3; four-way tie; no tie, though 1 is surer.
  dense = np.array([[1, 3, 3, 1], [0, 1, 2, 3], [2, 2, 1, 0]])
  sure = np.array(
    [[0.9, 0.2, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 1, 1]]
  )
  other = np.array([[0], [0], [0]])
  prob = np.concatenate([sure, [[0.5]] * 3], axis=1)
  frame, row = count(dense, other, tie_rule=tie_rule, prob=prob)
  assert frame['baseline_modal_label'].tolist() == wanted
  assert frame['baseline_tied'].tolist() == [1, 1, 0]
  assert frame['baseline_vote_share'].tolist() == [0.5, 0.25, 0.5]
  assert frame['taxicab_distance'].tolist() == [5, 3, 3]
  assert row['baseline_tied_count'] == 2
  assert row['variant_tied_count'] == 0
  # The four-way tie holds label 0, so only that image hangs on the rule.
  hang = row['pie_by_tie_rule_count'], row['non_pie_by_tie_rule_count']
  assert hang == ((0, 1) if tie_rule == 'smallest' else (1, 0))


def test_images_that_hang_on_the_rule_are_those_that_change():
  dense, pruned = draw_labels(5, 400, 4, sure=1), draw_labels(6, 400, 4, sure=1)
  frame, row = count(dense, pruned)

  def top(labels):
    votes = np.bincount(labels, minlength=NUM_LABELS)
    return set(np.flatnonzero(votes == votes.max()))

  tops = [(top(a), top(b)) for a, b in zip(dense, pruned, strict=True)]
  pie = frame['baseline_modal_label'] != frame['variant_modal_label']
  can_agree = np.array([bool(a & b) for a, b in tops])
  can_differ = np.array([len(a | b) > 1 for a, b in tops])
  assert row['pie_by_tie_rule_count'] == (pie & can_agree).sum() > 10
  assert row['non_pie_by_tie_rule_count'] == (~pie & can_differ).sum() > 10


def test_halves_are_halves_and_depend_on_nothing_else():
  drawn = pie_resampling.draw(7, 10, 200, 0, 3)
  assert (drawn.dense_half.sum(axis=0) == 3).all()
  assert (drawn.compressed_half.sum(axis=0) == 5).all()
  # Every member is as likely as another.
  assert abs(drawn.dense_half.mean(axis=1) - 3 / 7).max() < 0.12
  again = pie_resampling.draw(7, 5, 200, 99, 3)
  assert (again.dense_half == drawn.dense_half).all()
  paired = pie_resampling.draw(6, 6, 200, 0, 3, paired=True)
  assert (paired.dense_half == paired.compressed_half).all()
  alone = pie_resampling.draw(6, 6, 200, 0, 3)
  assert (alone.dense_half != alone.compressed_half).any()


def test_chance_is_what_two_dense_populations_would_give():
  random = np.random.default_rng(8)
  likely = random.dirichlet(np.full(NUM_LABELS, 0.4), 300)
  truth, chance = [], []
  for seed in range(40):
    dense, fresh = sample(random, likely, 10), sample(random, likely, 10)
    row = count(dense, fresh, seed=seed)[1]
    truth.append(row['pie_count'])
    chance.append(row['permuted_mean'])
    assert row['permuted_low'] <= row['permuted_mean'] <= row['permuted_high']
  error = 3 * np.std(truth) / np.sqrt(len(truth))
  assert abs(np.mean(chance) - np.mean(truth)) < error + 1


@pytest.mark.parametrize(
  ('sizes', 'paired'),
  [((4, 4), False), ((10, 10), False), ((4, 12), False), ((5, 5), True)],
)
def test_the_interval_covers_the_expected_count(sizes, paired):
  """Of unequal members; the full simulation is tests/benchmarks' own."""
  found = pie_verdicts.interval_coverage(sizes, 0.4, 80, paired)
  # 95 % within three standard errors; no wider than half as much again, which
  # 80 studies know to a quarter.
  assert 0.87 < found.coverage <= 1
  assert found.width < 1.9


def test_counts_of_random_groups_agree_with_the_plain_version():
  dense, pruned = draw_labels(1, 80, 6), draw_labels(2, 80, 5)
  drawn = pie_resampling.draw(6, 5, 10, 9, 0)
  predictions = arrays({populations.DENSE: dense, LEVEL: pruned})
  frames, sums = aggregate_predictions.count_shard(
    predictions, {LEVEL: drawn}, 'largest'
  )
  sums = sums[LEVEL]

  def modal(labels):
    return pd.DataFrame(labels).mode(axis=1).max(axis=1).astype(int)

  frequency = 0
  for i in range(10):
    half, other = drawn.dense_half[:, i], ~drawn.dense_half[:, i]
    kept, left = drawn.compressed_half[:, i], ~drawn.compressed_half[:, i]
    pie = modal(dense[:, half]) != modal(pruned[:, kept])
    chance = modal(dense[:, half]) != modal(dense[:, other])
    frequency = frequency + pie / 10
    assert sums['half_pies'][i] == pie.sum()
    assert sums['chance_pies'][i] == chance.sum()
    # The true class is 0 throughout.
    for name, chosen, labels in (
      ('chance_baseline', chance, dense),
      ('chance_variant', chance, pruned),
      ('held_out_baseline', pie, dense[:, other]),
      ('held_out_variant', pie, pruned[:, left]),
    ):
      wanted = (labels == 0).mean(axis=1)[chosen].sum()
      assert sums[name][i] == pytest.approx(wanted)
  assert frames[LEVEL]['pie_frequency'].tolist() == pytest.approx(
    frequency.tolist()
  )
  both = np.concatenate([dense, pruned], axis=1)
  for way in range(10):
    is_dense = drawn.memberships.is_dense[:, way]
    first, second = both[:, is_dense], both[:, ~is_dense]
    pies = modal(first) != modal(second)
    assert sums['permuted_pies'][way] == pies.sum()
    shares = [
      np.stack([(some == label).mean(axis=1) for label in range(NUM_LABELS)])
      for some in (first, second)
    ]
    distance = np.abs(shares[0] - shares[1]).sum()
    assert sums['permuted_taxicab'][way] == pytest.approx(distance * 30)


def test_pairs_change_places_or_do_not():
  random = np.random.default_rng(4)
  dense = draw_labels(1, 40, 6)
  moved = random.random((40, 6)) < 0.3
  moved[:5] = True
  pruned = np.where(moved, (dense + 1) % NUM_LABELS, dense)
  drawn = pie_resampling.draw(6, 6, 10, 99, 0, paired=True)
  assert drawn.memberships.is_dense.shape == (12, 2**6)
  predictions = arrays({populations.DENSE: dense, LEVEL: pruned})
  frames, _ = aggregate_predictions.count_shard(
    predictions, {LEVEL: drawn}, 'largest'
  )

  def energy(first, second):
    return sum(
      ((first == label).mean() - (second == label).mean()) ** 2
      for label in range(NUM_LABELS)
    )

  for image, row in frames[LEVEL].iterrows():
    pairs = np.stack([dense[image], pruned[image]])
    found = []
    for way in itertools.product([0, 1], repeat=6):
      first = pairs[list(way), range(6)]
      second = pairs[[1 - i for i in way], range(6)]
      found.append(energy(first, second))
    wanted = np.mean(np.array(found) >= found[0] - 1e-9)
    assert row['vote_pvalue'] == pytest.approx(wanted)
    smallest = np.mean(np.array(found) >= max(found) - 1e-9)
    assert np.isnan(row['vote_qvalue']) == (smallest > tables.SIGNIFICANCE)


def test_bit_equal_copies_of_dense_members_are_no_compression(tmp_path):
  """Made from them, they say so: pairs, of which no two differ."""
  folder = tmp_path / 'in' / 'validation-00000-of-00001'
  folder.mkdir(parents=True)
  labels = draw_labels(5, 40, 10)
  for replicate in range(10):
    for method in ('baseline', 'float32'):
      rows = predictions_of(labels[:, replicate], (method, 0.0, replicate))
      if method != 'baseline':
        source = f'baseline/0.0/0/0/0/{replicate}/model.ckpt-0'
        rows['made_from'] = source
      rows.to_csv(folder / f'{method}_{replicate}.csv', index=False)
  (row,) = run(folder.parent, tmp_path / 'out').to_dict('records')
  assert row['is_paired'] == 1
  assert row['pie_count'] == row['permuted_mean'] == 0
  for name in ('energy', 'taxicab', 'pie'):
    assert row[f'{name}_pvalue'] == 1
  assert row['pie_count_high'] == row['solid_pie_count'] == 0
  # What two halves of the dense members differ by is no chance of pairs.
  assert np.isnan(row['chance_baseline_accuracy'])
  (said, _) = verdicts.of_images(row)
  assert said.sentence.startswith('float32, in pairs: no difference')


def test_pairs_that_differ_by_noise_alone_are_called_different_rarely():
  """Of 200 studies 0.02 to 0.09 hold 99 % of those of a rate of 0.05."""
  found = pie_verdicts.rates(
    10, 0.4, 200, paired=True, num_images=60, permutations=99
  )
  assert 0.01 <= found['energy'] <= 0.09, found


def test_unanimous_populations_have_no_pies_by_chance():
  labels = np.tile(np.arange(5)[:, None], (1, 6))
  row = count(labels, labels)[1]
  assert row['permuted_mean'] == row['pie_count'] == 0
  assert row['pie_count_low'] == row['pie_count_high'] == 0
  assert row['energy_pvalue'] == row['pie_pvalue'] == 1


@pytest.mark.parametrize(
  ('dense', 'pruned', 'empty', 'reason'),
  [
    (1, 6, ['chance_baseline_accuracy', 'pie_count_low'], 'there are 1'),
    (3, 6, ['pie_count_low', 'pie_count_high'], 'there are 3'),
    (6, 3, ['pie_count_low', 'pie_count_high'], '6 dense and 3 compressed'),
  ],
)
def test_too_few_models_leave_empty_cells(
  tmp_path, dense, pruned, empty, reason
):
  folder = write_population(tmp_path / 'in', dense=dense, pruned=pruned)
  run(folder, tmp_path / 'out')
  null = csvs.read(
    tables.PIE_NULL, paths.pie_null(str(tmp_path / 'out'), 'toy', 'eval')
  )
  assert null[empty].isna().all(axis=None)
  assert null['not_available'].str.contains(reason).all()
  assert null['pie_count'].notna().all()


def test_without_resamples_nothing_is_computed_and_says_so(tmp_path):
  null = run(write_population(tmp_path / 'in'), tmp_path / 'o', num_resamples=0)
  empty = null[['held_out_variant_accuracy', 'pie_count_low']]
  assert empty.isna().all(axis=None)
  assert null['not_available'].str.contains('num_resamples is 0').all()
  with pytest.raises(ValueError, match='num_resamples is 1, wanted 2'):
    run(tmp_path / 'in', tmp_path / 'o', num_resamples=1)


def test_levels_can_be_chosen(tmp_path):
  folder = write_population(tmp_path / 'in')
  everything = run(folder, tmp_path / 'out')
  one = run(folder, tmp_path / 'one', sparsity_fraction=[0.9])
  assert one.to_dict('records') == everything[1:].to_dict('records')
  same = run(folder, tmp_path / 'same', pruning_method='threshold')
  assert len(same) == 2
  with pytest.raises(ValueError, match=r'at \[0.7\], there are'):
    run(folder, tmp_path / 'no', sparsity_fraction=[0.5, 0.7])
  with pytest.raises(ValueError, match='by random_independent, there are'):
    run(folder, tmp_path / 'no', pruning_method='random_independent')
  assert not (tmp_path / 'no').exists()


def test_finished_work_is_skipped_until_a_model_is_added(tmp_path):
  folder = write_population(tmp_path / 'in')
  first = run(folder, tmp_path / 'out')
  made = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*.csv')}
  again = run(folder, tmp_path / 'out')
  assert made == {p: p.stat().st_mtime_ns for p in made}
  pd.testing.assert_frame_equal(first, again, check_dtype=False)

  next(iter(made)).unlink()
  run(folder, tmp_path / 'out')
  assert all(path.exists() for path in made)

  for shard in folder.iterdir():
    frame = pd.read_csv(shard / 'threshold_0.5_0.csv')
    new = frame.assign(
      replicate=17, predictions=frame['predictions'].iloc[::-1].to_numpy()
    )
    new.to_csv(shard / 'new.csv', index=False)
  run(folder, tmp_path / 'out')
  labels = read_labels(tmp_path / 'out')
  assert set(
    labels.groupby('pruning_fraction')['variant_number_observ'].first()
  ) == {6, 5}


def train_again(folder, shard='*'):
  """Other members predict."""
  for path in folder.glob(f'{shard}/threshold_0.9_*.csv'):
    frame = pd.read_csv(path)
    frame.assign(predictions=0).to_csv(path, index=False)


def made(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob('*.csv')}


@pytest.mark.parametrize(
  'changed',
  [
    {'tie_rule': 'smallest'},
    {'seed': 1},
    {'num_resamples': 30},
    {'sparsity_fraction': [0.9]},
    {'num_classes': 4},
  ],
)
def test_other_settings_are_refused_by_name(tmp_path, changed):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'out')
  before = made(tmp_path / 'out')
  (name,) = changed
  with pytest.raises(ValueError, match=f'other settings: {name} was .*, is '):
    run(folder, tmp_path / 'out', **changed)
  train_again(folder)
  with pytest.raises(ValueError, match=f'other settings: {name} was .*, is '):
    run(folder, tmp_path / 'out', **changed)
  assert made(tmp_path / 'out') == before


def test_a_setting_that_cannot_be_leaves_nothing_to_refuse_the_right_one(
  tmp_path,
):
  folder = write_population(tmp_path / 'in')
  for wrong in ({'sparsity_fraction': [0.7]}, {'num_classes': 2}):
    with pytest.raises(ValueError, match='at .0.7.|below --num_classes=2'):
      run(folder, tmp_path / 'out', **wrong)
  run(folder, tmp_path / 'out')


def test_networks_that_were_trained_again_are_counted_again(tmp_path, caplog):
  caplog.set_level('INFO')
  folder = write_population(tmp_path / 'in')
  first = run(folder, tmp_path / 'out')
  assert 'made again' not in caplog.text
  train_again(folder)
  second = run(folder, tmp_path / 'out')
  assert 'made again: PIE null all shards was' in caplog.text
  assert 'predictions validation-00001-of-00002 was' in caplog.text
  assert first['pie_count'].tolist() != second['pie_count'].tolist()
  assert csv_bytes(tmp_path / 'out') == csv_bytes_of(folder, tmp_path / 'new')


def csv_bytes_of(folder, out, **options):
  run(folder, out, **options)
  return csv_bytes(out)


@pytest.mark.parametrize('writes', range(6))
def test_a_killed_run_is_done_again(tmp_path, monkeypatch, writes):
  folder = write_population(tmp_path / 'in')
  train_again(folder)
  whole = csv_bytes_of(folder, tmp_path / 'whole')
  folder = write_population(tmp_path / 'in2')
  # Before the first results, and over those of other networks.
  for _ in range(2):
    left = writes
    write = csvs.write

    def killed(*args, write=write):
      nonlocal left
      if not left:
        raise KeyboardInterrupt
      left -= 1
      write(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      patch.setattr(csvs, 'write', killed)
      if writes == 5:
        patch.setattr(
          provenance.Provenance, 'finish', lambda *_, **__: killed()
        )
      run(folder, tmp_path / 'out')
    first = csv_bytes_of(folder, tmp_path / 'out')
    train_again(folder)
  del first
  assert csv_bytes_of(folder, tmp_path / 'out') == whole


def test_single_shards_do_not_stand_for_the_whole(tmp_path):
  folder = write_population(tmp_path / 'in')
  shards = ('validation-00001-of-00002', 'validation-00000-of-00002')
  out = tmp_path / 'out'
  run(folder, out)
  train_again(folder)
  for shard in shards:
    run(folder, out, subdirectory=shard)
  wanted = csv_bytes_of(folder, tmp_path / 'new')
  null = 'toy/eval_pie_null.csv'
  assert null not in csv_bytes(out)
  run(folder, out)
  assert csv_bytes(out)[null] == wanted[null]
  # One shard's job after another, and the whole, leave one another alone.
  before = made(out)
  for shard in (*shards, ''):
    run(folder, out, subdirectory=shard)
  assert made(out) == before
  with pytest.raises(ValueError, match='seed was 0, is 1'):
    run(folder, out, subdirectory=shards[0], seed=1)


def test_a_killed_shard_is_not_finished_by_anothers_end(tmp_path, monkeypatch):
  folder = write_population(tmp_path / 'in')
  one, other = 'validation-00001-of-00002', 'validation-00000-of-00002'
  out = tmp_path / 'out'
  for shard in (one, other):
    run(folder, out, subdirectory=shard)
  train_again(folder)
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

    def killed(*_):
      raise KeyboardInterrupt

    patch.setattr(csvs, 'write', killed)
    run(folder, out, subdirectory=one)
  run(folder, out, subdirectory=other)
  run(folder, out, subdirectory=one)
  new = tmp_path / 'new'
  for shard in (one, other):
    run(folder, new, subdirectory=shard)
  assert csv_bytes(out) == csv_bytes(new)


def test_a_record_of_former_versions_is_made_again(tmp_path):
  folder = write_population(tmp_path / 'in')
  whole = csv_bytes_of(folder, tmp_path / 'out')
  record = tmp_path / 'out/toy/modal_labels/eval/aggregate_predictions.run.json'
  former = provenance.read(record)
  del former['settings'], former['made_from']
  record.write_text(json.dumps(former))
  before = made(tmp_path / 'out')
  run(folder, tmp_path / 'out', tie_rule='largest')
  after = made(tmp_path / 'out')
  assert all(after[path] != before[path] for path in before)
  assert csv_bytes(tmp_path / 'out') == whole


def drop_a_row(frame):
  return frame.drop(index=3)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (drop_a_row, r'different images: .* lacks 1 .*/3.* 0 others'),
    (
      lambda f: f.replace({'image_key': {f['image_key'][3]: 'x'}}),
      r"lacks 1 .*/3.* has 1 others \['x'\]",
    ),
    (
      lambda f: f.assign(true_class=(f['true_class'] + 1) % 4),
      r'disagree on the class \(true_class\) of 23 images',
    ),
    (
      lambda f: f.assign(image_index=f['image_index'] + 1),
      r'disagree on the position',
    ),
    (
      lambda f: f.assign(image_key='x'),
      'share their identity',
    ),
    (
      lambda f: f.assign(predictions=f['predictions'].where(f.index != 3)),
      "'predictions' holds nan in line 5",
    ),
    (
      lambda f: f.assign(predictions=f['predictions'].where(f.index != 3, 9)),
      "'predictions' holds 9 in line 5, wanted .* below --num_classes=4",
    ),
    (
      lambda f: f.assign(true_class=f['true_class'] + 1),
      "'true_class' holds 4 in line 5",
    ),
    (lambda f: f.assign(predictions=-1), "'predictions' holds -1"),
    (lambda f: f.assign(predicted_probability=1.2), "'predicted_probability'"),
    (lambda f: f.assign(predictions='cat'), "'predictions' holds 'cat'"),
    (lambda f: f.drop(columns='replicate'), "lacks the columns .*'replicate'"),
    (lambda f: f.assign(replicate=f.index), 'one member in a file'),
    (lambda f: f.assign(replicate=2), 'hold the same member'),
    (lambda f: f.assign(replicate=55), 'predicted by different members'),
    (lambda f: f.assign(split='train'), 'holds the train split'),
    (lambda f: f.assign(precision='bfloat16'), 'precision is'),
    (lambda f: f.assign(fraction_pruned=0.7), 'different members'),
    (lambda f: f.assign(pruning_method=''), 'wanted the name of one folder'),
    (
      lambda f: f.assign(pruning_method='baseline'),
      'a baseline member has fraction_pruned 0.5',
    ),
    (
      lambda f: f.assign(fraction_pruned=1.0),
      r'fraction_pruned is 1.0, wanted a number in \[0, 1\)',
    ),
    (lambda f: f.iloc[:0], 'has no rows'),
  ],
)  # fmt: skip
def test_bad_predictions_are_refused_by_name(tmp_path, change, message):
  folder = write_population(tmp_path / 'in')
  path = folder / 'validation-00001-of-00002' / 'threshold_0.5_1.csv'
  change(pd.read_csv(path)).to_csv(path, index=False)
  with pytest.raises(ValueError, match=message) as error:
    run(folder, tmp_path / 'out', num_classes=4)
  assert str(path) in str(error.value) or '00001-of-00002' in str(error.value)
  assert not (tmp_path / 'out/toy/eval_pie_null.csv').exists()


def test_other_ways_to_compress_are_levels_too(tmp_path):
  # Quantised models have no zeros, so their fraction is that of the dense.
  folder = write_population(tmp_path / 'in')
  rewrite(
    folder,
    lambda f, i: f.replace({'pruning_method': {'threshold': 'int8'}}).replace(
      {'fraction_pruned': {0.5: 0.0}}
    ),
  )
  null = run(folder, tmp_path / 'out')
  levels = null[['pruning_method', 'pruning_fraction']].to_numpy().tolist()
  assert levels == [['int8', 0.0], ['int8', 0.9]]
  threshold = run(write_population(tmp_path / 'same'), tmp_path / 'out2')
  assert null['pie_count'].tolist() == threshold['pie_count'].tolist()


def test_members_of_a_level_must_be_trained_alike(tmp_path):
  folder = write_population(tmp_path / 'in')
  for path in folder.rglob('threshold_0.5_1.csv'):
    frame = pd.read_csv(path).assign(end_pruning_step=77)
    frame.to_csv(path, index=False)
  message = r"\('threshold', 0.5\).* end_pruning_step is 0 .*0 and 77 .*1"
  with pytest.raises(ValueError, match=message):
    run(folder, tmp_path / 'out')


def test_an_image_in_two_shards_is_refused(tmp_path):
  folder = write_population(tmp_path / 'in')
  for path in (folder / 'validation-00001-of-00002').iterdir():
    text = path.read_text().replace('-00001-of-', '-00000-of-')
    path.write_text(text)
  message = "'validation-00000-of-00002/0' stands in two shards, .* and .*00001"
  with pytest.raises(ValueError, match=message):
    run(folder, tmp_path / 'out')


def test_shards_that_the_names_of_others_promise_are_missed(tmp_path, caplog):
  folder = write_population(tmp_path / 'in')
  run(folder, tmp_path / 'whole')
  assert 'of these images only' not in caplog.text
  shutil.rmtree(folder / 'validation-00000-of-00002')
  run(folder, tmp_path / 'out')
  assert 'not of 1 others, for example validation-00000-of-00002' in caplog.text


def test_missing_parts_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='no CSV of predictions'):
    run(tmp_path / 'nothing', tmp_path / 'out')
  folder = write_population(tmp_path / 'in')
  with pytest.raises(FileNotFoundError, match='for shard other'):
    run(folder, tmp_path / 'out', subdirectory='other')
  shutil.copytree(folder, tmp_path / 'in' / 'copy')
  with pytest.raises(ValueError, match='stands in 2 folders'):
    run(folder, tmp_path / 'out')
  shutil.rmtree(tmp_path / 'in' / 'copy')
  for path in folder.rglob('baseline*'):
    path.unlink()
  with pytest.raises(
    ValueError, match="no member of the baseline .*'baseline'"
  ):
    run(folder, tmp_path / 'out')


def test_runs_from_the_command_line_without_tensorflow(tmp_path):
  folder = write_population(tmp_path / 'in')
  code = (
    'import sys\n'
    'from pie_dataset_gen import aggregate_predictions as script\n'
    'from utils import command_line, prediction_files\n'
    'prediction_files._BYTES_PER_PROCESS = 1\n'
    'try:\n'
    '  command_line.run_script(script.main, script.define_flags)\n'
    'except SystemExit as end:\n'
    '  assert not end.code, end.code\n'
    "assert 'tensorflow' not in sys.modules\n"
  )
  flags = [f'--data_directory={folder}', f'--output_path={tmp_path / "out"}']
  flags += ['--dataset_name=toy', '--sparsity_fraction=0.5,0.9']
  flags += ['--num_cores=2']
  subprocess.run([sys.executable, '-c', code, *flags], check=True)
  run(folder, tmp_path / 'again', num_resamples=100)
  assert csv_bytes(tmp_path / 'out') == csv_bytes(tmp_path / 'again')


def all_labels(folder):
  """[images, members] of both shards, and the level of each member."""
  shards = [
    shard_predictions.read_shard(list(map(str, files)), 'eval')
    for files in (
      sorted(shard.glob('*.csv')) for shard in sorted(folder.iterdir())
    )
  ]
  labels = np.concatenate([shard.label for shard in shards])
  return labels, list(map(shard_predictions.level_of, shards[0].members))


def test_the_p_of_a_level_is_that_of_all_memberships(tmp_path):
  """A second implementation: votes over all ways to call two of four dense."""
  folder = write_population(tmp_path / 'in', dense=3, pruned=2)
  null = run(folder, tmp_path / 'out')
  labels, levels = all_labels(folder)
  for row in null.to_dict('records'):
    level = populations.level_of(row)
    columns = [i for i, of in enumerate(levels) if of.is_dense]
    columns += [i for i, of in enumerate(levels) if of == level]
    votes_of = np.eye(NUM_LABELS)[labels[:, columns]]

    def distance(dense, votes_of=votes_of):
      others = [i for i in range(5) if i not in dense]
      apart = votes_of[:, dense].mean(axis=1) - votes_of[:, others].mean(axis=1)
      return (apart**2).sum()

    ways = itertools.combinations(range(5), 3)
    far = [distance(list(w)) >= distance([0, 1, 2]) - 1e-9 for w in ways]
    assert row['energy_pvalue'] == pytest.approx(np.mean(far))
    assert row['smallest_pvalue'] == pytest.approx(1 / 10)
    assert row['permutations'] == 9


def test_a_level_that_predicts_otherwise_has_a_small_p(tmp_path, monkeypatch):
  folder = write_population(tmp_path / 'in', dense=8, pruned=8, images=(60, 60))

  def turn(frame, number):
    del number
    if frame['fraction_pruned'][0] == 0.9:
      frame.loc[:14, 'predictions'] = (frame['predictions'] + 1) % NUM_LABELS
    return frame

  rewrite(folder, turn)
  one = run(folder, tmp_path / 'out').set_index('pruning_fraction')
  assert one.loc[0.9, 'energy_pvalue'] == pytest.approx(1 / 1000)
  assert one.loc[0.5, 'energy_pvalue'] > 0.05
  assert one.loc[0.5, 'permutations'] == 999
  monkeypatch.setattr(prediction_files, '_BYTES_PER_PROCESS', 1)
  other = run(folder, tmp_path / 'cores', place=workers.Place(2))
  pd.testing.assert_frame_equal(one.reset_index(), other, check_like=True)


def test_without_permutations_there_is_no_p(tmp_path):
  folder = write_population(tmp_path / 'in')
  null = run(folder, tmp_path / 'out', num_permutations=0)
  assert null[['permutations', 'energy_pvalue']].isna().all(axis=None)
  with pytest.raises(ValueError, match='num_permutations was 0, is 999'):
    run(folder, tmp_path / 'out')
