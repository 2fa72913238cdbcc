"""Laws of the table at the end: right numbers, and never a zero for a gap."""

import json
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from pie_dataset_gen import (
  aggregate_predictions,
  headline_table,
  measure_costs,
)
from utils import csvs, paths, populations, provenance, tables

LEVELS = tuple(
  populations.Level(*level)
  for level in (('baseline', 0.0), ('threshold', 0.5), ('threshold', 0.9))
)
MEMBERS = 6
IMAGES = 30


def true_class():
  return np.arange(IMAGES) % 5


def labels_of(level, replicate):
  """Dense members are right but for one image each; pruned ones forget."""
  labels = true_class().copy()
  labels[replicate] += 5
  if level[1] == 0.5:
    labels[10:12] += 5
  if level[1] == 0.9:
    labels[10:20] += 5
    labels[20] += 5 + replicate
  return labels


def metrics_folder(folder):
  return pathlib.Path(paths.class_metrics_folder(str(folder), 'toy', 'eval'))


def write_predictions(folder, members=MEMBERS):
  for method, fraction in LEVELS:
    for replicate in range(members):
      path = folder / 'shard' / f'{method}_{fraction}_{replicate}.csv'
      path.parent.mkdir(parents=True, exist_ok=True)
      pd.DataFrame(
        {
          'image_key': [f'image {i}' for i in range(IMAGES)],
          'image_index': range(IMAGES),
          'true_class': true_class(),
          'predictions': labels_of((method, fraction), replicate),
          'predicted_probability': 0.5,
          'pruning_method': method,
          'fraction_pruned': fraction,
          'replicate': replicate,
        }
      ).to_csv(path, index=False)


def accuracy(level, replicate):
  return (labels_of(level, replicate) == true_class()).mean()


def mean_accuracy(level):
  return np.mean([accuracy(level, r) for r in range(MEMBERS)])


def write_class_metrics(folder, top_5=0.99, members=MEMBERS):
  for level in LEVELS:
    for replicate in range(members):
      frame = pd.DataFrame({'class_id': range(5)}).assign(
        **{'class': 'x'},
        support=6,
        predicted_count=6,
        correct_count=6,
        recall=1.0,
        precision=1.0,
        eval_accuracy=accuracy(level, replicate),
        top_5_eval_accuracy=top_5,
        loss=0.1,
        exp='toy',
        pruning_method=level[0],
        fraction_pruned=level[1],
        start_pruning_step=0,
        end_pruning_step=0,
        pruning_frequency=0,
        global_step=9,
        replicate=replicate,
        split='eval',
        ckpt='',
      )
      csvs.write(
        tables.CLASS_METRICS,
        frame,
        str(metrics_folder(folder) / f'{tuple(level)}_{replicate}.csv'),
      )


def write_summary(folder, tested=5):
  rows = []
  for fraction, lower in ((0.5, 1), (0.9, 3)):
    row = dict.fromkeys(
      (c.name for c in tables.CLASS_IMPACT_SUMMARY.columns), np.nan
    )
    row |= {
      c.name: '' if c.kind == 'text' else 0
      for c in tables.CLASS_IMPACT_SUMMARY.columns
      if not c.nullable
    }
    rows.append(
      row
      | {
        'pruning_method': 'threshold',
        'pruning_fraction': fraction,
        'tested': tested,
        'lower': lower + 1,
        'higher': 3,
        'lower_corrected': lower,
        'higher_corrected': 2,
        'lower_corrected_permuted': 0.25,
        'higher_corrected_permuted': 0.5,
        'significant_pvalue': 0.25 if fraction < 0.9 else 0.001,
        'significant_pvalue_smallest': 0.001,
        'worst_recall': 0.5,
        'worst_recall_low': 0.25,
        'worst_recall_high': 0.75,
        'worst_class': 'cat',
        'baseline_worst_recall': 0.6,
        'baseline_worst_recall_low': 0.5,
        'baseline_worst_recall_high': 0.7,
        'expected_by_chance': 7.0,
      }
    )
  path = paths.class_impact_summary(str(folder), 'toy', 'eval')
  csvs.write(tables.CLASS_IMPACT_SUMMARY, pd.DataFrame(rows), path)
  tests = pd.DataFrame(
    {
      'class': 'cat',
      'class_id': 1,
      'direction': 'lower',
      'reason': '',
      'qvalue_recall_norm': 0.01,
      'pruning_method': 'threshold',
      'pruning_fraction': [0.5, 0.9],
    }
  ).reindex(columns=[column.name for column in tables.T_STATISTIC.columns])
  path = paths.t_statistic(str(folder), 'toy', 'eval')
  csvs.write(tables.T_STATISTIC, tests, path)


def write_robustness(folder, corruptions=('fog', 'snow'), name='toy_c'):
  rows = [
    {
      'dataset_name': name,
      'pruning_method': method,
      'fraction_pruned': fraction,
      'corruption': corruption,
      'corruption_intensity': severity,
      'num_models': MEMBERS,
      'mean_accuracy': 0.9 - fraction / 10 - severity / 100 - number / 50,
      'mean_accuracy_low': 0.1,
      'mean_accuracy_high': 0.95,
      'relative_error': 1 + fraction,
      'relative_error_low': 1 + fraction / 2 if fraction else np.nan,
      'relative_error_high': 1 + fraction * 2 if fraction else np.nan,
      'accuracy_loss': fraction / 10,
      'clean_accuracy_loss': mean_accuracy(LEVELS[0])
      - mean_accuracy((method, fraction)),
      'relative_accuracy_loss': 3.25 if fraction > 0.5 else np.nan,
      'num_corruptions': 1,
      'is_paired': 0,
    }
    for method, fraction in LEVELS
    for number, corruption in enumerate((*corruptions, 'all'))
    for severity in ((0, 1, 5) if any(corruptions) else (0,))
  ]
  frame = pd.DataFrame(rows).reindex(
    columns=[c.name for c in tables.ROBUSTNESS_SUMMARY.columns]
  )
  path = paths.robustness_summary(str(folder / name))
  csvs.write(tables.ROBUSTNESS_SUMMARY, frame, path)
  return str(folder / name)


@pytest.fixture
def folder(tmp_path):
  write_predictions(tmp_path / 'predictions')
  aggregate_predictions.run(
    str(tmp_path / 'predictions'),
    str(tmp_path),
    mode='eval',
    dataset_name='toy',
  )
  write_class_metrics(tmp_path)
  write_summary(tmp_path)
  return tmp_path


def run(folder, **parts):
  return headline_table.run(
    str(folder), **{'mode': 'eval', 'dataset_name': 'toy', **parts}
  )


def cells(folder):
  frame = csvs.read(tables.HEADLINE, paths.headline_table(str(folder)))
  key = ['measure', 'pruning_method', 'pruning_fraction']
  return frame.set_index(key).sort_index()


def test_numbers_are_those_of_the_predictions(folder):
  run(folder)
  found = cells(folder)['value']
  for level in LEVELS:
    top_1 = [accuracy(level, r) for r in range(MEMBERS)]
    assert found[('members', *level)] == MEMBERS
    assert found[('top-1', *level)] == pytest.approx(np.mean(top_1))
    assert found[('top-1, sd over members', *level)] == pytest.approx(
      np.std(top_1, ddof=1), abs=1e-12
    )
    assert found[('top-5', *level)] == pytest.approx(0.99)
    assert found[('images', *level)] == IMAGES
  dense = np.stack([labels_of(LEVELS[0], r) for r in range(MEMBERS)], axis=1)
  for level, pies in ((LEVELS[1], {10, 11}), (LEVELS[2], set(range(10, 21)))):
    pruned = np.stack([labels_of(level, r) for r in range(MEMBERS)], axis=1)
    assert found[('PIEs', *level)] == len(pies)
    assert found[('PIEs, share of images', *level)] == len(pies) / IMAGES
    chosen = {
      'all images': np.arange(IMAGES),
      'PIEs': sorted(pies),
      'the others': sorted(set(range(IMAGES)) - pies),
    }
    for who, labels in (('dense', dense), ('compressed', pruned)):
      for name, images in chosen.items():
        right = labels[images] == true_class()[images, None]
        wanted = right.mean(axis=0).mean()
        measure = f'top-1 of {who} on {name}'
        assert found[(measure, *level)] == pytest.approx(wanted)
    # Means over members of top-1 are the same from both kinds of CSV.
    assert found[
      ('top-1 of compressed on all images', *level)
    ] == pytest.approx(found[('top-1', *level)])
  # Corrected counts, and of each direction what permuted members gave.
  assert found[('classes that fell against the whole', *LEVELS[2])] == 3
  assert found[('classes that rose against the whole', *LEVELS[1])] == 2
  assert found[('fell, by chance', *LEVELS[1])] == 0.25
  assert found[('rose, by chance', *LEVELS[1])] == 0.5
  assert found[('p of so many classes, by chance', *LEVELS[1])] == 0.25
  assert found[('lowest recall of a class', *LEVELS[1])] == 0.5
  dense = found[('lowest recall of a class', *populations.DENSE)]
  assert dense == 0.6


def test_null_and_intervals_are_those_of_the_aggregation(folder):
  run(folder)
  found = cells(folder)
  null = csvs.read(tables.PIE_NULL, paths.pie_null(str(folder), 'toy', 'eval'))
  for row in null.to_dict('records'):
    level = row['pruning_method'], row['pruning_fraction']
    cell = found.loc[('PIEs by chance, memberships permuted', *level)]
    assert cell['value'] == row['permuted_mean']
    ends = row['permuted_low'], row['permuted_high']
    assert (cell['low'], cell['high']) == ends
    beyond = found.loc[('PIEs beyond chance', *level)]
    if row['pie_pvalue'] <= 0.05:
      assert beyond['value'] == row['pie_count'] - row['permuted_mean']
    else:
      assert beyond['not_available'] == 'no more PIEs than chance often gives'
    cell = found.loc[('p, if it predicted like the dense', *level)]
    assert cell['value'] == row['energy_pvalue'] >= 0.001
    cell = found.loc[('PIEs', *level)]
    assert cell['low'] == row['pie_count_low']
    cell = found.loc[('top-1 of dense on PIEs chosen by other members', *level)]
    assert cell['value'] == row['held_out_baseline_accuracy']


def test_robustness_is_the_mean_over_severities(folder):
  robustness = write_robustness(folder)
  short = run(folder, robustness_directory=robustness)
  text = run(folder, robustness_directory=robustness, all_rows=True)
  assert len(text.splitlines()) > len(short.splitlines()) + 10
  found = cells(folder)
  ends = ('corrupted images', 'fog', 'snow')
  assert {m for m in found.index.unique('measure') if m.endswith(ends)} == {
    'top-1 on corrupted images',
    'top-1 on fog',
    'top-1 on snow',
  }
  for method, fraction in LEVELS:
    level = method, fraction
    assert found.loc[('top-1 on fog', *level), 'value'] == 0.9 - fraction / 10
    cell = found.loc[('error on corrupted images, dense = 1', *level)]
    assert cell['value'] == 1 + fraction
    assert found.loc[('top-1 on snow', *level), 'low'] == 0.1
  rows = {line[:44].strip(): line[44:] for line in text.splitlines()}
  assert rows['top-1 on fog'].split()[:3] == ['0.900', '[0.100,', '0.950]']
  error = rows['error on corrupted images, dense = 1']
  assert error.split()[1:] == [
    '1.50',
    '[1.25,',
    '2.00]',
    '1.90',
    '[1.45,',
    '2.80]',
  ]
  # Of the baseline there is none, and one level loses nothing on clean images.
  loss = rows['loss on corrupted images, clean = 1'].split()
  notes = {line[:3]: line[4:] for line in text.splitlines() if line[0:1] == '('}
  assert (loss[:2], loss[3]) == (['-', 'n/a'], '3.25')
  assert notes[loss[2]] == 'no loss on clean images'
  assert 'a loss on clean images that may be none' in notes[loss[4]]


def test_images_that_are_hard_by_nature_stand_once(folder):
  run(folder, robustness_directory=write_robustness(folder, ('',), 'toy_a'))
  found = cells(folder)['value']
  assert found[('top-1 on toy_a', *LEVELS[1])] == pytest.approx(0.85)
  assert 'top-1 on corrupted images' not in found.index


def test_print_is_plain_aligned_text(folder):
  text = run(folder)
  table, said = text.split('\n\n')
  lines = table.splitlines()
  assert text.isascii()
  assert max(map(len, lines)) <= 100
  assert lines[0].split('  ')[-2:] == ['threshold 0.5', 'threshold 0.9']
  rows = {line[:38].strip(): line[38:].split() for line in lines}
  assert rows['members'] == ['6', '6', '6']
  assert rows['PIEs'][:3] == ['-', '2', '[2,']
  assert rows['classes that fell against the whole'] == ['-', '1', '3']
  assert 'images' not in rows
  # Every value ends where its column ends.
  ends = {
    len(line)
    for line in [lines[0], *lines[2:]]
    if 'n/a' not in line and not line.startswith('(')
  }
  assert len(ends) == 1
  # The verdicts are those of the CSV.
  frame = csvs.read(tables.VERDICTS, paths.verdicts(str(folder), 'toy', 'eval'))
  assert said.splitlines() == frame['sentence'].tolist()
  classes = frame[frame['about'] == 'classes']['verdict'].tolist()
  assert classes == ['not shown', 'differs']
  levels = frame[frame['about'] == 'images'].set_index('pruning_fraction')
  assert levels['verdict'].to_dict() == {0.5: 'differs', 0.9: 'differs'}
  assert '11 of 30 images are PIEs' in levels.loc[0.9, 'sentence']


PARTS = {
  tables.CLASS_METRICS: 'toy/class_metrics',
  tables.PIE_NULL: 'toy/eval_pie_null.csv',
  tables.CLASS_IMPACT_SUMMARY: 'toy/eval/class_impact_summary.csv',
  tables.ROBUSTNESS_SUMMARY: 'toy_c/robustness_summary.csv',
}


@pytest.mark.parametrize('kept', PARTS)
def test_a_part_that_is_not_there_is_not_available(folder, kept):
  robustness = write_robustness(folder)
  complete = run(folder, robustness_directory=robustness)
  for table, name in PARTS.items():
    if table is kept:
      continue
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  if kept is tables.ROBUSTNESS_SUMMARY:
    with pytest.raises(FileNotFoundError, match='there are no results'):
      run(folder, robustness_directory=robustness)
    return
  text = run(folder, robustness_directory=robustness)
  found = cells(folder)
  for table in set(PARTS) - {kept}:
    reason = f'{table.written_by} makes it'
    rows = found[found['not_available'] == reason]
    assert len(rows) and rows['value'].isna().all()
    assert reason in text
    assert reason not in complete
  assert found['value'].notna().any()


def test_results_under_another_name_are_named(folder):
  message = (
    r'no results .* holds .*toy.*: .*aggregate_ckpt_metrics, .*'
    'aggregate_predictions'
  )
  with pytest.raises(FileNotFoundError, match=message):
    run(folder, dataset_name='imagenet')
  with pytest.raises(FileNotFoundError, match=r'holds .*toy.*summarize'):
    run(folder, robustness_directory=str(folder / 'nowhere'))


def finished(folder, script, when):
  record = {
    'script': script,
    'command': ['/x/y.py', '--output_path=some folder'],
    'finished': when,
  }
  name = f'{script.split(".")[1]}.run.json'
  (pathlib.Path(folder) / name).write_text(json.dumps(record))


def test_parts_of_different_networks_are_refused(folder):
  run(folder)
  metrics = metrics_folder(folder)
  labels = paths.modal_labels_folder(str(folder), 'toy', 'eval')
  write_class_metrics(folder, members=MEMBERS + 1)
  with pytest.raises(ValueError, match='are of different networks') as error:
    run(folder)
  said = "('baseline', 0.0) the members are 7 in the class metrics and 6 in"
  assert said in str(error.value)
  assert str(metrics) in str(error.value)
  assert labels in str(error.value)
  aggregation = 'pie_dataset_gen.aggregate_predictions'
  finished(labels, aggregation, '2026-01-01')
  finished(metrics, 'per_class_accuracy.aggregate_ckpt_metrics', '2026-01-02')
  command = "modal labels: python -m pie_dataset_gen.* '--output_path=some fol"
  with pytest.raises(ValueError, match=command):
    run(folder)
  finished(labels, aggregation, '2026-01-03')
  command = 'class metrics: python -m per_class_accuracy.aggregate_ckpt_metrics'
  with pytest.raises(ValueError, match=command):
    run(folder)
  for path in metrics.glob('*_6.csv'):
    path.unlink()
  run(folder)
  for path in sorted(metrics.glob('*0.9*.csv'))[:1]:
    frame = csvs.read(tables.CLASS_METRICS, str(path))
    for change, message in (
      ({'eval_accuracy': 0.25}, r'0.9\) the mean top-1 are .* in the class'),
      ({'support': 7}, r'0.9\) the images are 35 in the class .* 30 in'),
    ):
      csvs.write(tables.CLASS_METRICS, frame.assign(**change), str(path))
      with pytest.raises(ValueError, match=message):
        run(folder)


def test_parts_whose_inputs_changed_since_are_refused(folder, tmp_path):
  read = tmp_path / 'class_metrics.csv'
  read.write_text('before')
  tests = paths.class_impact_summary(str(folder), 'toy', 'eval')
  place = str(pathlib.Path(tests).parent)
  provenance.write(place, tables.T_STATISTIC.written_by, [str(read)])
  run(folder)
  read.write_text('after')
  with pytest.raises(
    ValueError, match='was made from .*class_metrics.csv as it was before'
  ) as error:
    run(folder)
  assert 'python -m per_class_accuracy.gen_tstatistic' in str(error.value)
  # Of a study that was moved, what lies there now may be another's.
  moved = shutil.copytree(folder, tmp_path / 'moved')
  run(moved)
  read.unlink()
  run(folder)


def test_robustness_of_other_networks_is_refused(folder):
  robustness = write_robustness(folder)
  path = paths.robustness_summary(robustness)
  frame = csvs.read(tables.ROBUSTNESS_SUMMARY, path)
  loss = frame['clean_accuracy_loss']
  csvs.write(
    tables.ROBUSTNESS_SUMMARY,
    frame.assign(clean_accuracy_loss=loss + 1e-6),
    path,
  )
  message = (
    r'different networks: the loss of .* by the class metrics; '
    'make the summary again: python -m robustness_tests.summarize'
  )
  with pytest.raises(ValueError, match=message) as error:
    run(folder, robustness_directory=robustness)
  assert path in str(error.value)
  # Of fewer networks the loss is another one.
  csvs.write(
    tables.ROBUSTNESS_SUMMARY,
    frame.assign(clean_accuracy_loss=loss + 1e-6, num_models=2),
    path,
  )
  run(folder, robustness_directory=robustness)


def test_too_few_members_leave_a_reason(tmp_path):
  write_predictions(tmp_path / 'predictions', members=1)
  aggregate_predictions.run(
    str(tmp_path / 'predictions'), str(tmp_path), mode='eval',
    dataset_name='toy',
  )  # fmt: skip
  write_summary(tmp_path, tested=0)
  text = run(tmp_path)
  found = cells(tmp_path)
  for measure in (
    'p, if it predicted like the dense',
    'PIEs that are solid',
    'classes that fell against the whole',
  ):
    row = found.loc[(measure, *LEVELS[1])]
    assert np.isnan(row['value'])
    assert row['not_available']
    assert row['not_available'] in text
  assert found.loc[('PIEs', *LEVELS[2]), 'value'] > 0


def test_no_pie_is_no_accuracy_on_pies(tmp_path):
  write_predictions(tmp_path / 'predictions')
  for path in (tmp_path / 'predictions').rglob('threshold*'):
    frame = pd.read_csv(path)
    frame.assign(predictions=true_class()).to_csv(path, index=False)
  aggregate_predictions.run(
    str(tmp_path / 'predictions'),
    str(tmp_path),
    mode='eval',
    dataset_name='toy',
  )
  run(tmp_path)
  row = cells(tmp_path).loc[('top-1 of dense on PIEs', *LEVELS[1])]
  assert np.isnan(row['value'])
  assert row['not_available'] == 'no such image'


def test_absent_top_5_is_not_available(folder):
  write_class_metrics(folder, top_5=np.nan)
  run(folder)
  assert cells(folder).loc['top-5', 'value'].isna().all()


@pytest.mark.usefixtures('unnoted')
def test_contradictions_and_gaps_are_refused(folder):
  path = next(metrics_folder(folder).iterdir())
  frame = csvs.read(tables.CLASS_METRICS, str(path))
  for name in ('split', 'preprocessing', 'compute_precision', 'exp'):
    other = frame.assign(**{name: 'other'})
    csvs.write(tables.CLASS_METRICS, other, str(path))
    with pytest.raises(ValueError, match=f'hold the {name} .*other'):
      run(folder)
  frame.loc[2, 'eval_accuracy'] = 0.5
  csvs.write(tables.CLASS_METRICS, frame, str(path))
  with pytest.raises(
    ValueError, match='more than one of .*eval_accuracy.* of the member'
  ):
    run(folder)
  shutil.rmtree(metrics_folder(folder))
  labels = paths.modal_labels(str(folder), 'toy', 'eval', 'shard', LEVELS[1])
  frame = csvs.read(tables.MODAL_LABELS, labels)
  csvs.write(tables.MODAL_LABELS, frame[1:], labels)
  with pytest.raises(ValueError, match='2 PIEs among 29 modal labels, .* 30: '):
    run(folder)


def test_same_inputs_give_the_same_bytes(folder):
  text = run(folder)
  path = folder / 'headline_table.csv'
  first = path.read_bytes()
  assert run(folder) == text
  assert path.read_bytes() == first


# Costs.


def test_costs_are_rows_of_the_table_and_verdicts(tmp_path):
  write_predictions(tmp_path / 'predictions')
  place = {'mode': 'eval', 'dataset_name': 'toy'}
  both = str(tmp_path / 'predictions'), str(tmp_path)
  aggregate_predictions.run(*both, num_resamples=0, **place)
  costs = measure_costs.run(*both, **place)
  text = headline_table.run(str(tmp_path), all_rows=True, **place)
  rows = csvs.read(tables.HEADLINE, paths.headline_table(str(tmp_path)))
  rows = rows.set_index(['measure', 'pruning_method', 'pruning_fraction'])
  for row in costs.to_dict('records'):
    name = row['measure'], row['pruning_method'], row['pruning_fraction']
    found = rows.loc[name]
    assert found['value'] == pytest.approx(row['value'], nan_ok=True)
    assert found['low'] == pytest.approx(row['low'], nan_ok=True)
    assert row['measure'] in text
  # Twelve images a member, but where a dense one has the same wrong.
  at_09 = rows.xs(('threshold', 0.9), level=[1, 2])
  lost = mean_accuracy(LEVELS[0]) - mean_accuracy(LEVELS[2])
  flips = at_09.loc['newly wrong', 'value'] - at_09.loc['newly right', 'value']
  assert flips == pytest.approx(lost)
  said = csvs.read(
    tables.VERDICTS, paths.verdicts(str(tmp_path), 'toy', 'eval')
  )
  said = said[said['about'] == 'flips'].set_index('pruning_fraction')
  assert said.loc[0.9, 'verdict'] == 'differs'
  assert '0.394, 0.033 between two dense networks' in said.loc[0.9, 'sentence']


def test_costs_of_other_networks_are_refused(tmp_path):
  write_predictions(tmp_path / 'predictions')
  place = {'mode': 'eval', 'dataset_name': 'toy'}
  both = str(tmp_path / 'predictions'), str(tmp_path)
  aggregate_predictions.run(*both, num_resamples=0, **place)
  costs = measure_costs.run(*both, **place)
  path = paths.costs(str(tmp_path), 'toy', 'eval')
  is_wrong = costs['measure'] == 'newly wrong'
  costs.loc[is_wrong, 'value'] += 0.01
  csvs.write(tables.COSTS, costs, path)
  with pytest.raises(ValueError, match='make the costs again: .*measure_costs'):
    headline_table.run(str(tmp_path), **place)
