"""Laws of the ranking of labels to look at."""

import numpy as np
import pandas as pd
import pytest

from pie_dataset_gen import aggregate_predictions, rank_suspects
from utils import csvs, image_records, paths, populations, tables

LEVELS = tuple(
  populations.Level(*level)
  for level in (('baseline', 0.0), ('threshold', 0.5), ('threshold', 0.9))
)
MEMBERS = 4
CLASSES = ('a', 'b', 'c')


def votes():
  """[level, member, image] predictions at random, from one seed."""
  return np.random.default_rng(0).integers(0, 3, (len(LEVELS), MEMBERS, 40))


def write_labels(folder, said, true, dataset='toy'):
  """The modal labels of predictions, in two shards."""
  for at, (method, fraction) in enumerate(LEVELS):
    for replicate in range(MEMBERS):
      for shard in range(2):
        index = np.arange(shard, said.shape[2], 2)
        path = folder / f'shard-{shard}' / f'{method}{fraction}_{replicate}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(
          {
            'image_key': [f'image {i:02d}' for i in index],
            'image_index': np.arange(len(index)),
            'true_class': true[index],
            'predictions': said[at, replicate, index],
            'predicted_probability': 0.5,
            'pruning_method': method,
            'fraction_pruned': fraction,
            'replicate': replicate,
          }
        ).to_csv(path, index=False)
  aggregate_predictions.run(
    str(folder), str(folder), mode='eval', dataset_name=dataset, num_resamples=0
  )


def run(folder, **options):
  return rank_suspects.run(
    str(folder), **{'mode': 'eval', 'dataset_name': 'toy', **options}
  )


def test_equals_a_count_by_hand(tmp_path):
  said = votes()
  true = np.arange(40) % 3
  write_labels(tmp_path, said, true)
  run(tmp_path)
  found = csvs.read(
    tables.SUSPECTS, paths.suspects(str(tmp_path), 'toy', 'eval')
  )
  assert found['rank'].tolist() == list(range(1, 41))
  assert found['correct_share'].is_monotonic_increasing
  for row in found.itertuples():
    i = int(row.image_key.split()[1])
    assert row.correct_share == pytest.approx((said[:, :, i] == true[i]).mean())
    counts = [np.bincount(said[at, :, i], minlength=3) for at in range(3)]
    # The largest label of those with as many votes, as in the original.
    modal = [2 - int(np.argmax(count[::-1])) for count in counts]
    assert row.pie_levels == sum(m != modal[0] for m in modal[1:])
    distance = [np.abs(counts[0] - c).sum() / 2 / MEMBERS for c in counts[1:]]
    assert row.taxicab_share == pytest.approx(np.mean(distance))
    shares = np.zeros(3)
    for count, label in zip(counts, modal, strict=True):
      if label != true[i]:
        shares[label] += count[label] / MEMBERS / 3
    assert row.suggested_share == pytest.approx(shares.max())
    if shares.max():
      assert row.suggested_label == np.argmax(shares)
    else:
      assert pd.isna(row.suggested_label)


def test_a_wrong_label_that_all_agree_about_comes_first(tmp_path):
  true = np.arange(40) % 3
  said = np.tile(true, (3, MEMBERS, 1))
  # No member says the label; of these two, the second is unanimous.
  said[:, :, 7] = [(true[7] + 1) % 3, (true[7] + 2) % 3] * 2
  said[:, :, 9] = (true[9] + 1) % 3
  write_labels(tmp_path, said, true)
  ranked = run(tmp_path)
  assert ranked['image_key'].tolist()[:2] == ['image 09', 'image 07']
  assert ranked['suggested_label'].iloc[0] == (true[9] + 1) % 3
  assert ranked['correct_share'].iloc[2] == 1


def set_qvalues(folder, of):
  """Gives the modal labels p- and q-values and PIE frequencies.

  Args:
    folder: of `write_labels`.
    of: (number of the image, fraction) -> q-value.
  """
  for path in csvs.find(
    tables.MODAL_LABELS, paths.modal_labels_folder(str(folder), 'toy', 'eval')
  ):
    frame = csvs.read(tables.MODAL_LABELS, path)
    numbers = frame['image_key'].str.split().str[1].astype(int)
    fractions = frame['pruning_fraction']
    q = np.array([of(n, x) for n, x in zip(numbers, fractions, strict=True)])
    frame = frame.assign(
      vote_pvalue=np.where(np.isnan(q), 0.5, q / 2),
      vote_qvalue=q,
      pie_frequency=numbers / 100 + fractions / 10,
    )
    csvs.write(tables.MODAL_LABELS, frame, path)


def test_the_smallest_qvalue_times_the_levels_and_its_level(tmp_path):
  write_labels(tmp_path, votes(), np.arange(40) % 3)
  set_qvalues(
    tmp_path,
    lambda i, x: np.nan if i < 5 or (x == 0.5 and i < 9) else i / 40 + x / 100,
  )
  for row in run(tmp_path).to_dict('records'):
    i = int(row['image_key'].split()[1])
    if i < 5:
      assert np.isnan(row['vote_qvalue'])
      assert not row['vote_qvalue_level']
    else:
      x = 0.9 if i < 9 else 0.5
      # Of two levels.
      wanted = min(1, 2 * (i / 40 + x / 100))
      assert row['vote_qvalue'] == pytest.approx(wanted)
      assert row['vote_qvalue_level'] == f'threshold {x}'
    assert row['pie_frequency'] == pytest.approx(i / 100 + 0.07)


def test_sorted_and_filtered_by_qvalue(tmp_path):
  write_labels(tmp_path, votes(), np.arange(40) % 3)
  set_qvalues(tmp_path, lambda i, x: np.nan if i % 4 == 0 else i % 10 / 40)
  by_agreement = run(tmp_path)
  by_q = run(tmp_path, sort_by='vote_qvalue')
  assert by_q['rank'].tolist() == list(range(1, 41))
  assert by_q['vote_qvalue'][:30].is_monotonic_increasing
  assert by_q['vote_qvalue'][30:].isna().all()
  # Among equals, and after all that have one, the order by agreement.
  place = by_agreement.set_index('image_key')['rank']
  for _, equals in by_q.groupby('vote_qvalue', dropna=False):
    assert place[equals['image_key']].is_monotonic_increasing
  few = run(tmp_path, max_qvalue=0.05)
  kept = by_agreement[by_agreement['vote_qvalue'] <= 0.05]
  assert few['image_key'].tolist() == kept['image_key'].tolist()
  assert few['rank'].tolist() == list(range(1, len(few) + 1))
  written = csvs.read(
    tables.SUSPECTS, paths.suspects(str(tmp_path), 'toy', 'eval')
  )
  assert len(written) == len(few) == 6


@pytest.mark.parametrize(
  'asked', [{'sort_by': 'vote_qvalue'}, {'max_qvalue': 0.1}]
)
def test_qvalues_that_are_not_there_are_no_order(tmp_path, asked):
  write_labels(tmp_path, votes(), np.arange(40) % 3)
  set_qvalues(tmp_path, lambda i, x: np.nan)
  for path in csvs.find(
    tables.MODAL_LABELS, paths.modal_labels_folder(str(tmp_path), 'toy', 'eval')
  ):
    frame = csvs.read(tables.MODAL_LABELS, path)
    csvs.write(tables.MODAL_LABELS, frame.assign(vote_pvalue=np.nan), path)
  with pytest.raises(ValueError, match='have no p-values of images'):
    run(tmp_path, **asked)
  assert len(run(tmp_path)) == 40


def test_names_of_classes(tmp_path):
  true = np.arange(40) % 3
  write_labels(tmp_path, votes(), true)
  folder = str(tmp_path / 'data')
  image_records.write(folder, image_records.ImageRecords('toy', CLASSES))
  ranked = run(tmp_path, data_directory=folder)
  for row in ranked.to_dict('records'):
    assert row['class'] == CLASSES[row['true_class_label']]
    if not pd.isna(row['suggested_label']):
      assert row['suggested_class'] == CLASSES[row['suggested_label']]


def test_any_order_of_members_gives_the_same_bytes(tmp_path):
  true = np.arange(40) % 3
  said = votes()
  written = []
  for name, order in (('a', [0, 1, 2, 3]), ('b', [3, 1, 0, 2])):
    write_labels(tmp_path / name, said[:, order], true)
    run(tmp_path / name)
    path = paths.suspects(str(tmp_path / name), 'toy', 'eval')
    with open(path, 'rb') as file:
      written.append(file.read())
  assert written[0] == written[1]


def test_too_few_classes_are_refused(tmp_path):
  write_labels(tmp_path, votes(), np.arange(40) % 3)
  folder = str(tmp_path / 'data')
  image_records.write(folder, image_records.ImageRecords('toy', CLASSES[:2]))
  with pytest.raises(ValueError, match='name class 2'):
    run(tmp_path, data_directory=folder)


def test_levels_with_other_images_are_refused(tmp_path):
  write_labels(tmp_path, votes(), np.arange(40) % 3)
  path = paths.modal_labels(
    str(tmp_path), 'toy', 'eval', 'shard-1', populations.Level('threshold', 0.9)
  )
  frame = csvs.read(tables.MODAL_LABELS, path)
  csvs.write(tables.MODAL_LABELS, frame[1:], path)
  with pytest.raises(ValueError, match='the same images'):
    run(tmp_path)


def test_results_under_another_name_are_named(tmp_path):
  write_labels(tmp_path, votes(), np.arange(40) % 3, dataset='flowers')
  message = r'holds .*flowers.*pie_dataset_gen.aggregate_predictions writes it'
  with pytest.raises(FileNotFoundError, match=message):
    run(tmp_path, dataset_name='')
  folder = str(tmp_path / 'data')
  image_records.write(folder, image_records.ImageRecords('flowers', CLASSES))
  assert len(run(tmp_path, dataset_name='', data_directory=folder)) == 40
