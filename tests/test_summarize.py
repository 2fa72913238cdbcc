"""Laws of the summary: AlexNet scores 1, gaps are named, order is nothing."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustness_tests import summarize
from utils import csvs, paths, populations, tables

OFFICIAL = tuple(summarize.ALEXNET_ERROR)
BASELINE = (populations.BASELINE, 0.0)
PRUNED = ('threshold', 0.9)
CLEAN = {BASELINE: 0.75, PRUNED: 0.7}
# Errors fall to both sides of their mean, so that a mean of means is not
# hidden by equal severities.
SPREAD = {1: -0.1, 2: -0.05, 3: 0.0, 4: 0.05, 5: 0.1}


def identity(level, replicate, step=9):
  return {
    'exp': 'toy',
    'pruning_method': level[0],
    'fraction_pruned': level[1],
    'start_pruning_step': 0,
    'end_pruning_step': 0,
    'pruning_frequency': 0,
    'global_step': step,
    'replicate': replicate,
  }


def metrics(accuracy, **more):
  return pd.DataFrame(
    {
      'class_id': range(2),
      'class': ['cat', 'dog'],
      'support': 5,
      'predicted_count': 5,
      'correct_count': 5,
      'recall': 1.0,
      'precision': 1.0,
      'eval_accuracy': accuracy,
      'top_5_eval_accuracy': 1.0,
      'loss': 0.1,
      'split': 'eval',
      'ckpt': '',
    }
  ).assign(**more)


def write_set(
  folder,
  level,
  replicate,
  corruption,
  severity,
  accuracy,
  dataset='imagenet_c',
  num_images=10,
  step=9,
  **more,
):
  frame = metrics(accuracy, **identity(level, replicate, step)).assign(
    dataset_name=dataset,
    corruption=corruption,
    corruption_intensity=severity,
    num_images=num_images,
    preprocessing='legacy-1',
    compute_precision='float32',
  )
  name = f'{corruption}_{severity}_{level[1]}_{replicate}_{step}.csv'
  csvs.write(
    tables.ROBUSTNESS, frame.assign(**more), str(folder / dataset / name)
  )
  return folder / dataset / name


def write_clean(folder):
  for level, replicate in itertools.product(CLEAN, range(3)):
    frame = metrics(
      CLEAN[level] + replicate / 100, **identity(level, replicate)
    )
    csvs.write(
      tables.CLASS_METRICS, frame, str(folder / f'{level}_{replicate}.csv')
    )


def mean_error(level, replicate, corruption):
  scale = {BASELINE: 0.5, PRUNED: 0.7}[level]
  return summarize.ALEXNET_ERROR[corruption] * (scale + replicate / 50)


@pytest.fixture
def folder(tmp_path):
  """Three models of two levels, on two corruptions at five severities."""
  for level, replicate, corruption, severity in itertools.product(
    CLEAN, range(3), ('fog', 'snow'), SPREAD
  ):
    error = mean_error(level, replicate, corruption) + SPREAD[severity]
    write_set(tmp_path, level, replicate, corruption, severity, 1 - error)
  write_clean(tmp_path / 'clean')
  return tmp_path


def run(folder, clean='clean', allow_partial=True, dataset='imagenet_c'):
  summarize.run(
    str(folder / dataset),
    str(folder / clean) if clean else '',
    str(folder / 'out'),
    allow_partial,
  )
  frame = csvs.read(
    tables.ROBUSTNESS_SUMMARY, paths.robustness_summary(str(folder / 'out'))
  )
  return frame.set_index(
    ['pruning_method', 'fraction_pruned', 'corruption', 'corruption_intensity']
  ).sort_index()


def test_alexnet_scores_one_and_scaled_errors_their_scale():
  errors = summarize.ALEXNET_ERROR
  assert len(errors) == 15
  assert summarize.mean_corruption_error(errors) == pytest.approx(1, abs=1e-15)
  clean = summarize.ALEXNET_CLEAN_ERROR
  assert summarize.mean_corruption_error(errors, clean) == 1
  for scale in (0.0, 0.3, 1.1):
    scaled = {name: scale * error for name, error in errors.items()}
    assert summarize.mean_corruption_error(scaled) == pytest.approx(scale)
    above = {
      name: 0.2 + scale * (error - clean) for name, error in errors.items()
    }
    found = summarize.mean_corruption_error(above, 0.2)
    assert found == pytest.approx(scale, abs=1e-12)


# Top-1 and CE, both in %, of torchvision's ResNet-50, from all 75 sets of
# ImageNet-C (bethgelab/game-of-noise, Results/clean_results.txt).
PUBLISHED = {
  'gaussian_noise': (29.29, 79.77),
  'shot_noise': (27.03, 81.58),
  'impulse_noise': (23.81, 82.58),
  'defocus_blur': (38.75, 74.71),
  'glass_blur': (26.79, 88.61),
  'motion_blur': (38.67, 78.03),
  'zoom_blur': (36.24, 79.86),
  'snow': (32.53, 77.83),
  'frost': (38.14, 74.84),
  'fog': (45.83, 66.11),
  'brightness': (68.02, 56.64),
  'contrast': (39.06, 71.43),
  'elastic_transform': (45.25, 84.75),
  'pixelate': (44.79, 76.92),
  'jpeg_compression': (53.41, 76.82),
}
PUBLISHED_ERRORS = {
  name: 1 - top_1 / 100 for name, (top_1, _) in PUBLISHED.items()
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_accuracy_gives_the_published_corruption_error(name):
  found = summarize.mean_corruption_error({name: PUBLISHED_ERRORS[name]})
  # The accuracy is rounded to 0.01, and so is the corruption error.
  rounding = 0.005 / summarize.ALEXNET_ERROR[name] + 0.005
  assert 100 * found == pytest.approx(PUBLISHED[name][1], abs=rounding)


def test_published_accuracies_give_the_published_mean():
  """76.70 there, 76.7 and a relative one of 105.0 in arXiv 1903.12261."""
  found = summarize.mean_corruption_error(PUBLISHED_ERRORS)
  assert 100 * found == pytest.approx(76.70, abs=0.012)
  assert round(100 * found, 1) == 76.7
  # By top-1 76.13 on clean images; each 0.01 of an error is 0.02 to 0.08 here.
  relative = summarize.mean_corruption_error(PUBLISHED_ERRORS, 1 - 0.7613)
  assert 100 * relative == pytest.approx(105.0, abs=0.1)


def test_names_decide_not_places():
  errors = {name: 0.1 * i for i, name in enumerate(OFFICIAL)}
  backwards = dict(reversed(errors.items()))
  assert summarize.mean_corruption_error(
    errors
  ) == summarize.mean_corruption_error(backwards)
  for wrong in ({**errors, 'frostbite': 0.5}, {}):
    with pytest.raises(ValueError, match='15 corruptions of ImageNet-C'):
      summarize.mean_corruption_error(wrong)


def test_numbers_are_those_of_a_calculation_by_hand(folder):
  found = run(folder)
  for level in CLEAN:
    errors = np.array(
      [
        [mean_error(level, replicate, c) for c in ('fog', 'snow')]
        for replicate in range(3)
      ]
    )
    row = found.loc[(*level, 'all', 0)]
    assert row['num_models'] == 3
    assert row['num_corruptions'] == 2
    assert row['is_partial'] == 1
    top_1 = 1 - errors.mean(axis=1)
    assert row['mean_accuracy'] == pytest.approx(top_1.mean())
    low, high = stats.t.interval(0.95, 2, top_1.mean(), stats.sem(top_1))
    assert row['mean_accuracy_low'] == pytest.approx(low)
    assert row['mean_accuracy_high'] == pytest.approx(high)
    scale = {BASELINE: 0.5, PRUNED: 0.7}[level]
    mce = scale + np.arange(3) / 50
    assert row['mean_corruption_error'] == pytest.approx(mce.mean())
    low, high = stats.t.interval(0.95, 2, mce.mean(), stats.sem(mce))
    assert row['mean_corruption_error_low'] == pytest.approx(low)
    assert row['mean_corruption_error_high'] == pytest.approx(high)
    clean = 1 - CLEAN[level] - np.arange(3) / 100
    alexnet = np.array([summarize.ALEXNET_ERROR[c] for c in ('fog', 'snow')])
    relative = (errors - clean[:, None]) / (alexnet - 0.4348)
    assert row['relative_mean_corruption_error'] == pytest.approx(
      relative.mean()
    )
    assert row['clean_accuracy_loss'] == pytest.approx(0.75 - CLEAN[level])
    if level == PRUNED:
      loss = 0.2 * alexnet.mean()
      assert row['relative_accuracy_loss'] == pytest.approx(loss / 0.05)
      low, high = (row[f'relative_accuracy_loss_{e}'] for e in ('low', 'high'))
      assert low < loss / 0.05 < high
    else:
      assert np.isnan(row['relative_accuracy_loss'])
    dense = [mean_error(BASELINE, r, 'fog') for r in range(3)]
    row = found.loc[(*level, 'fog', 3)]
    assert row['relative_error'] == pytest.approx(
      errors[:, 0].mean() / np.mean(dense)
    )
    assert row['accuracy_loss'] == pytest.approx(
      errors[:, 0].mean() - np.mean(dense)
    )
  assert found.loc[(*BASELINE, 'snow', 2), 'relative_error'] == 1
  assert (found['relative_error_low'].notna()).equals(
    found.index.get_level_values(0).to_series(found.index)
    != populations.BASELINE
  )
  # Severities only: no level of the table is left without its mean.
  assert set(found.loc[PRUNED].index) == set(
    itertools.product(('fog', 'snow', 'all'), range(6))
  )


def test_interval_of_a_ratio_covers_as_often_as_it_says():
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(2000):
    values, reference = rng.normal(0.4, 0.03, 8), rng.normal(0.25, 0.02, 5)
    low, high = summarize.ratio_interval(values, reference)
    covered += low <= 0.4 / 0.25 <= high
  assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_interval_of_too_few_values_is_none():
  two, zeros = np.array([0.1, 0.2]), np.zeros(2)
  assert np.isnan(summarize.mean_interval(two[:1])).all()
  for values, reference in ((two[:1], two), (two, two[:1]), (two, zeros)):
    assert np.isnan(summarize.ratio_interval(values, reference)).all()
  constant = np.full(3, 0.5)
  assert summarize.ratio_interval(constant, constant) == (1, 1)


def draw_accuracies(rng, models, top_1, clean):
  """Two accuracies of each model, [2, models]; a good one is good at both."""
  skill = rng.normal(0, 0.02, models)
  noise = rng.normal(0, 0.01, (2, models))
  return np.array([[top_1], [clean]]) + noise + np.array([[1.5], [1]]) * skill


def test_interval_of_a_relative_loss_covers_as_often_as_it_says():
  rng = np.random.default_rng(0)
  covered, drawn = 0, 2000
  for _ in range(drawn):
    ratio, low, high = summarize.relative_loss(
      draw_accuracies(rng, 8, 0.3, 0.65), draw_accuracies(rng, 6, 0.5, 0.75)
    )
    assert low <= ratio <= high
    covered += low <= 0.2 / 0.1 <= high
  assert covered / drawn == pytest.approx(0.95, abs=0.015)


def test_ends_of_a_relative_loss_are_where_the_t_test_turns():
  """Second implementation: scipy's test of accuracy - r * clean accuracy."""
  rng = np.random.default_rng(1)
  pruned = draw_accuracies(rng, 9, 0.3, 0.6)
  dense = draw_accuracies(rng, 9, 0.5, 0.75)
  _, *ends = summarize.relative_loss(pruned, dense)
  for end in ends:
    p = stats.ttest_ind(*((x[0] - end * x[1]) for x in (pruned, dense))).pvalue
    assert p == pytest.approx(0.05, abs=0.003)


def test_a_relative_loss_that_says_nothing_is_not_given():
  dense = np.array([[0.5, 0.52, 0.51], [0.75, 0.76, 0.74]])
  # Exactly twice the loss, by every model.
  assert summarize.relative_loss(
    np.full((2, 3), [[0.3], [0.6]]), np.full((2, 3), [[0.5], [0.7]])
  ) == pytest.approx((2, 2, 2))
  # One model: no interval. No loss on clean images: no ratio.
  ratio, *ends = summarize.relative_loss(dense[:, :1] - 0.1, dense)
  assert ratio > 0
  assert np.isnan(ends).all()
  gain = dense + [[-0.1], [0.01]]
  assert np.isnan(summarize.relative_loss(gain, dense)).all()
  # A loss on clean images that may be none allows any ratio.
  ratio, *ends = summarize.relative_loss(dense - [[0.1], [0.001]], dense)
  assert ratio == pytest.approx(100)
  assert np.isnan(ends).all()


@pytest.mark.usefixtures('unnoted')
def test_any_order_of_files_gives_the_same_bytes(folder):
  run(folder)
  first = {path.name: path.read_bytes() for path in (folder / 'out').iterdir()}
  assert {'robustness_summary.csv', 'robustness_summary.svg'} <= set(first)
  paths_found = sorted((folder / 'imagenet_c').iterdir())
  for number, path in enumerate(paths_found):
    path.rename(path.with_name(f'{(number * 7) % len(paths_found):03d}.csv'))
  run(folder)
  for name, content in first.items():
    if not name.endswith('.run.json'):
      assert (folder / 'out' / name).read_bytes() == content, name


def test_a_rerun_does_not_read_its_own_summary(folder):
  (folder / 'imagenet_c' / 'more').mkdir()
  out = str(folder / 'imagenet_c' / 'more')
  for _ in range(2):
    summarize.run(str(folder / 'imagenet_c') + '/', '', out, True)


def test_complete_set_has_a_mean_corruption_error_that_is_not_partial(
  tmp_path,
):
  extra = ('speckle_noise', 'saturate')
  for corruption, severity in itertools.product((*OFFICIAL, *extra), SPREAD):
    error = summarize.ALEXNET_ERROR.get(corruption, 0.1)
    write_set(tmp_path, BASELINE, 0, corruption, severity, 1 - error)
  found = run(tmp_path, clean='', allow_partial=False)
  row = found.loc[(*BASELINE, 'all', 0)]
  assert row['mean_corruption_error'] == pytest.approx(1)
  assert (row['is_partial'], row['num_corruptions']) == (0, 15)
  assert np.isnan(row['relative_mean_corruption_error'])
  # What is not of the 15 stands alone, and in no mean.
  assert found.loc[(*BASELINE, 'saturate', 0), 'mean_accuracy'] == 0.9
  assert row['mean_accuracy'] == pytest.approx(
    1 - np.mean(list(summarize.ALEXNET_ERROR.values()))
  )


def test_incomplete_set_is_refused_unless_it_is_asked_for(folder):
  with pytest.raises(ValueError, match="missing are .*'frost'.*allow_partial"):
    run(folder, allow_partial=False)
  for path in (folder / 'imagenet_c').glob('*_5_*'):
    path.unlink()
  with pytest.raises(ValueError, match=r'severities are \[1, 2, 3, 4\]'):
    run(folder, allow_partial=False)
  assert run(folder).loc[(*PRUNED, 'all', 0), 'is_partial'] == 1


def test_other_data_sets_have_no_mean_corruption_error(tmp_path):
  for level, accuracy in ((BASELINE, 0.9), (PRUNED, 0.8)):
    write_set(tmp_path, level, 0, '', 0, accuracy, dataset='pies')
  found = run(tmp_path, clean='', dataset='pies', allow_partial=False)
  assert found['mean_corruption_error'].isna().all()
  row = found.loc[(*PRUNED, 'all', 0)]
  assert row['relative_error'] == pytest.approx(2)
  assert row['accuracy_loss'] == pytest.approx(0.1)


def test_faultless_dense_models_leave_no_relative_error(tmp_path):
  for level, accuracy in ((BASELINE, 1.0), (PRUNED, 0.8)):
    write_set(tmp_path, level, 0, 'fog', 1, accuracy, dataset='easy')
  found = run(tmp_path, clean='', dataset='easy')
  assert found['relative_error'].isna().all()


def test_gaps_and_contradictions_are_named(folder):
  def refused(match, clean='clean'):
    with pytest.raises(ValueError, match=match):
      run(folder, clean)

  for change, match in (
    ({'corruption': 'gausian_noise'}, r"\['gausian_noise'\] are no corrupti"),
    ({'corruption': 'all'}, "a corruption is called 'all'"),
    ({'corruption': ''}, "'corruption': ''.*wanted a corruption with"),
    ({'severity': 0}, "'corruption': 'frost'.*severity of 1 to 5"),
    ({'num_images': 9}, 'different numbers of images.*frost'),
    ({'preprocessing': 'modern-1'}, "'preprocessing' holds .*legacy-1"),
    ({'compute_precision': 'bfloat16'}, 'compute_precision.*bfloat16'),
    ({'split': 'train'}, "'split' holds .*eval"),
    ({'corruption': 'fog', 'step': 8}, 'fog_1.*measured at several steps'),
  ):
    written = [
      write_set(
        folder,
        **{
          'level': level,
          'replicate': replicate,
          'corruption': 'frost',
          'severity': severity,
          'accuracy': 0.5,
        }
        | change,
      )
      for level, replicate, severity in itertools.product(
        CLEAN, range(3), SPREAD
      )
    ]
    refused(match)
    for path in set(written):
      path.unlink()
  # One file more or less: the model that lacks a set is named, and the set.
  path = write_set(folder, BASELINE, 1, 'frost', 2, 0.5)
  refused(r"replicate 0 lacks \[\('frost', 2\)\]")
  path.unlink()
  (folder / 'imagenet_c' / 'snow_4_0.9_2_9.csv').unlink()
  refused(r"fraction_pruned 0.9.*replicate 2 lacks \[\('snow', 4\)\]")


def test_two_names_of_one_corruption_are_refused(folder):
  for level, replicate, severity in itertools.product(CLEAN, range(3), SPREAD):
    for name in ('glass_blur', 'frosted_glass_blur'):
      write_set(folder, level, replicate, name, severity, 0.5)
  with pytest.raises(ValueError, match='glass_blur.*measured more than once'):
    run(folder)
  for path in (folder / 'imagenet_c').glob('glass*'):
    path.unlink()
  assert (*PRUNED, 'glass_blur', 0) in run(folder).index


def test_a_model_has_one_accuracy_on_a_set(folder, monkeypatch):
  """Not two in one file, nor in files that are not read at once."""
  path = folder / 'imagenet_c' / 'fog_2_0.9_1_9.csv'
  frame = csvs.read(tables.ROBUSTNESS, str(path))
  csvs.write(
    tables.ROBUSTNESS, frame.assign(eval_accuracy=[0.5, 0.6]), str(path)
  )
  with pytest.raises(ValueError, match='fog_2 was measured more than once'):
    run(folder)
  csvs.write(tables.ROBUSTNESS, frame, str(path))
  wanted = run(folder)
  monkeypatch.setattr(summarize, '_FILES_AT_A_TIME', 7)
  pd.testing.assert_frame_equal(run(folder), wanted)
  other = path.with_name('zzz.csv')
  other.write_bytes(path.read_bytes())
  with pytest.raises(ValueError, match='fog_2 was measured more than once'):
    run(folder)


def test_severities_that_differ_are_refused(folder):
  for level, replicate in itertools.product(CLEAN, range(3)):
    write_set(folder, level, replicate, 'frost', 1, 0.5)
  with pytest.raises(ValueError, match=r'different severities.*frost.*\(1,\)'):
    run(folder)


def test_several_data_sets_are_refused(folder):
  write_set(folder, BASELINE, 0, 'fog', 1, 0.5, dataset='other')
  with pytest.raises(ValueError, match=r"\['imagenet_c', 'other'\]"):
    summarize.run(f'{folder}/*/*_9.csv', '', str(folder / 'out'), True)


def test_clean_metrics_are_joined_by_model(folder):
  (folder / 'clean' / f'{PRUNED}_1.csv').unlink()
  with pytest.raises(ValueError, match='clean.*threshold.*replicate 1'):
    run(folder)
  # More models than are needed do not move the mean.
  write_clean(folder / 'clean')
  for path in (folder / 'imagenet_c').glob('*_2_9.csv'):
    path.unlink()
  loss = run(folder).loc[(*PRUNED, 'all', 0), 'clean_accuracy_loss']
  assert loss == pytest.approx(0.05)


@pytest.mark.parametrize(
  'column', ['split', 'preprocessing', 'compute_precision']
)
@pytest.mark.usefixtures('unnoted')
def test_clean_metrics_that_were_taken_otherwise_are_refused(folder, column):
  for path in (folder / 'clean').iterdir():
    frame = csvs.read(tables.CLASS_METRICS, str(path))
    csvs.write(
      tables.CLASS_METRICS, frame.assign(**{column: 'other'}), str(path)
    )
  with pytest.raises(ValueError, match=f"'other'.* in the column '{column}'"):
    run(folder)
  assert not (folder / 'out').exists()


def test_clean_pies_are_what_corrupted_pies_are_held_against(folder):
  """Not all clean images, of which there are more."""
  for level, replicate in itertools.product(CLEAN, range(3)):
    for name, severity, accuracy in (('fog', 1, 0.1), ('', 0, 0.2)):
      write_set(
        folder,
        level,
        replicate,
        name,
        severity,
        accuracy * (2 - level[1]),
        dataset='toy_c_pie' if name else 'toy_pie',
        num_images=4,
        support=2,
      )
  row = run(folder, 'toy_pie', dataset='toy_c_pie').loc[(*PRUNED, 'all', 0)]
  assert row['clean_accuracy_loss'] == pytest.approx(0.18)
  assert row['relative_accuracy_loss'] == pytest.approx(0.5)
  with pytest.raises(ValueError, match='4 images were corrupted, .* are 10: w'):
    run(folder, dataset='toy_c_pie')
  # Other images, such as ImageNet-A's, are no copies of clean ones.
  run(folder, dataset='toy_pie')


def test_nothing_to_compare_with_is_refused(folder):
  for path in (folder / 'imagenet_c').glob('*_0.0_*'):
    path.unlink()
  with pytest.raises(ValueError, match='no dense model'):
    run(folder)
  with pytest.raises(FileNotFoundError):
    run(folder, dataset='nowhere')
