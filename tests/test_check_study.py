"""A study of a few files, in which things go wrong that a check has to name."""

import json
import pathlib
import shutil

import pytest

from pie_dataset_gen import check_study
from tests.test_aggregate_predictions import run as aggregate
from tests.test_aggregate_predictions import write_population
from utils import (
  csvs,
  digests,
  image_records,
  member_paths,
  paths,
  provenance,
  storage,
  table_digests,
  tables,
)

SHARD = 'data/validation-00000-of-00001'
PREDICTIONS = 'results/toy/predictions_dataframe/eval'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Two networks, predictions by them and a population, modal labels."""
  study = tmp_path_factory.mktemp('studies') / 'toy'
  networks = []
  for replicate in range(2):
    member = member_paths.Member('toy', 'baseline', 0.0, 0, 0, 0, replicate)
    prefix = member_paths.prefix_in(
      str(study / 'checkpoints' / member.folder), 8
    )
    networks.append(member_paths.Checkpoint(member, 8, prefix))
    storage.write_complete(f'{prefix}.index', f'index {replicate}')
    storage.write_complete(f'{prefix}.data-00000-of-00001', 'data')
  storage.write_complete(study / SHARD, 'pixels')
  shard = image_records.Shard(1, 6, digests.of_file(study / SHARD))
  image_records.write(
    str(study / 'data'),
    image_records.ImageRecords(
      'toy',
      ('a', 'b'),
      splits={'validation': {storage.name(SHARD): shard}},
    ),
  )
  write_population(study / PREDICTIONS)
  record = provenance.Provenance(
    str(study / PREDICTIONS), 'pie_dataset_gen.imagenet_predictions', {}
  )
  record.start()
  for path in (study / PREDICTIONS).rglob('*.csv'):
    # As those of the two networks are called.
    parts = path.stem.split('_')
    if parts[0] == 'baseline' and int(parts[2]) < 2:
      one = networks[int(parts[2])]
      path = path.rename(
        paths.predictions(
          str(study / 'results'), 'toy', 'eval', path.parent.name, one
        )
      )
    table_digests.note(str(path), path.read_bytes())
  record.finish([str(study / SHARD), *(one.completed_by for one in networks)])
  aggregate(study / PREDICTIONS, study / 'results', num_permutations=0)
  return study


@pytest.fixture
def study(made, tmp_path):
  """The study, moved."""
  return shutil.copytree(made, tmp_path / 'elsewhere')


def check(study, **options):
  """The check's answer, and a row for each file by its name."""
  table = study.parent / 'files.csv'
  is_well = check_study.run(
    str(study), quick=True, output_file=str(table), **options
  )
  rows = csvs.read(tables.STUDY_FILES, str(table)).set_index('file')
  return is_well, rows


def one_of(study, pattern):
  return min(path for path in study.rglob(pattern))


def name(study, path):
  return str(path.relative_to(study))


def test_a_study_that_was_moved_is_well(study, capsys):
  is_well, rows = check(study)
  assert is_well
  assert set(rows['state']) == {'unchanged', 'unverified'}
  labels = rows[rows['kind'] == tables.MODAL_LABELS.name]
  assert set(labels['state']) == {'unchanged'}
  assert set(labels['record']) == {
    'results/toy/modal_labels/eval/aggregate_predictions.run.json'
  }
  assert (
    labels['command']
    .str.startswith('python -m pie_dataset_gen.aggregate_predictions')
    .all()
  )
  printed = capsys.readouterr().out
  assert 'all is well' in printed
  assert 'python -m pie_dataset_gen.imagenet_predictions' in printed
  shutil.rmtree(study / 'data')
  shutil.rmtree(study / 'checkpoints')
  assert check(study)[0]
  assert '3 inputs lie elsewhere' in capsys.readouterr().out


def test_compressed_predictions_are_looked_at_as_others_are(study):
  for path in sorted((study / PREDICTIONS).rglob('*.csv')):
    frame = csvs.read(tables.PREDICTIONS, str(path))
    path.unlink()
    csvs.write(tables.PREDICTIONS, frame, f'{path}.gz')
  is_well, rows = check(study)
  assert not is_well
  assert (rows['state'] == 'stale').sum() > 1  # Made of other files.
  aggregate(study / PREDICTIONS, study / 'results', num_permutations=0)
  is_well, rows = check(study)
  assert is_well
  predictions = rows[rows['kind'] == tables.PREDICTIONS.name]
  assert len(predictions) == 4
  path = one_of(study, f'{PREDICTIONS}/*/predictions_dataframe_*.csv.gz')
  assert rows.loc[name(study, path), 'state'] == 'unchanged'
  path.write_bytes(path.read_bytes()[:-1])
  is_well, rows = check(study)
  assert not is_well
  assert rows.loc[name(study, path), 'state'] == 'damaged'


def test_predictions_from_elsewhere_are_unverified(tmp_path, capsys):
  study = tmp_path / 'theirs'
  write_population(study / PREDICTIONS)
  is_well, rows = check(study)
  assert is_well
  assert set(rows['state']) == {'unverified'}
  assert 'no record' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('pattern', 'change', 'said'),
  [
    ('threshold_0.9.csv', lambda data: data.replace(b'0', b'1', 1), 'SHA-256'),
    ('validation-*', lambda data: data + b'x', 'declares 6 bytes'),
    ('aggregate*.run.json', lambda data: data[:-9], 'no JSON'),
    ('image_records.json', lambda data: data.replace(b'"b"', b'"c"'), 'sha256'),
  ],
)
def test_what_is_damaged_is_named(study, pattern, change, said):
  path = one_of(study, pattern)
  path.write_bytes(change(path.read_bytes()))
  is_well, rows = check(study)
  assert not is_well
  assert rows.loc[name(study, path), 'state'] == 'damaged'
  assert said in rows.loc[name(study, path), 'remark']
  # What can be made again only by hand is left.
  check(study, remove=('leftover', 'orphan', 'stale'))
  assert path.exists()


def test_a_shard_that_is_missing_is_named(study):
  (study / SHARD).unlink()
  _, rows = check(study)
  assert rows.loc[SHARD, 'state'] == 'damaged'


def test_what_was_made_from_other_predictions_is_stale(study, capsys):
  path = one_of(study / PREDICTIONS, 'threshold_0.9_1.csv')
  data = path.read_bytes().replace(b'threshold,0.9', b'threshold,0.90', 1)
  path.write_bytes(data)
  table_digests.note(str(path), data)
  # Of a command whose results lie above those of others.
  provenance.write(str(study / 'results'), tables.HEADLINE.written_by, [path])
  path.write_bytes(data := data.replace(b'0.90', b'0.900', 1))
  table_digests.note(str(path), data)
  is_well, rows = check(study)
  assert not is_well
  stale = rows[rows['state'] == 'stale']
  assert set(stale['kind']) == {
    *(tables.MODAL_LABELS.name, tables.PIE_NULL.name, 'record')
  }
  assert (stale['kind'] == 'record').sum() == 2
  assert 'are others since' in capsys.readouterr().out
  is_well, rows = check(study, remove=('stale',))
  assert is_well
  assert not list(study.rglob('threshold_0.9.csv'))
  assert path.exists()
  # And then it is made anew.
  aggregate(study / PREDICTIONS, study / 'results', num_permutations=0)
  assert check(study)[0]


def test_a_network_that_was_trained_anew_makes_its_predictions_stale(study):
  one_of(study / 'checkpoints', '*.index').write_text('other 0')
  _, rows = check(study)
  stale = rows[rows['state'] == 'stale']
  assert stale['kind'].value_counts().to_dict() == {
    'predictions': 2,
    'record': 1,
  }
  assert stale['remark'].str.contains('index has changed since').all()


def test_predictions_of_a_network_that_is_gone_are_orphans(study):
  for path in one_of(study / 'checkpoints', '*.index').parent.iterdir():
    path.unlink()
  _, rows = check(study, remove=('orphan',))
  orphans = rows[rows['state'] == 'orphan']
  assert len(orphans) == 2
  assert not any((study / file).exists() for file in orphans.index)


def test_leftovers_of_kills_are_removed_and_no_one_else_s_work(study):
  left = study / 'results' / '.x.csv.0123abcd'
  left.write_text('half')
  scratch = study / 'results' / '.scratch.4567cdef.files' / 'a.npz'
  scratch.parent.mkdir()
  scratch.write_text('votes')
  half = study / 'checkpoints' / 'toy' / 'model.ckpt-9.data-00000-of-00001'
  half.write_text('data')
  with storage.unfinished(study / 'results' / 'y.csv') as hidden:
    is_well, rows = check(study)
    assert not is_well
    assert rows.loc[name(study, left), 'state'] == 'leftover'
    assert rows.loc[name(study, scratch), 'state'] == 'leftover'
    assert rows.loc[name(study, half), 'state'] == 'leftover'
    written = name(study, pathlib.Path(hidden))
    assert rows.loc[written, 'state'] == 'being written'
    assert check(study, remove=('leftover',))[0]
    assert pathlib.Path(hidden).exists()
  assert not left.exists() and not half.exists()


def test_a_command_that_did_not_end_is_named(study, capsys):
  path = one_of(study, 'imagenet_predictions.run.json')
  record = json.loads(path.read_text())
  path.write_text(json.dumps({**record, 'finished': ''}))
  is_well, rows = check(study)
  assert not is_well
  assert rows.loc[name(study, path), 'state'] == 'unfinished'
  assert 'made anew by: python -m pie_dataset_gen' in capsys.readouterr().out


def test_wrong_flags_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no folder'):
    check_study.run(str(tmp_path / 'none'))
  with pytest.raises(FileNotFoundError, match='holds no file'):
    check_study.run(str(tmp_path))
  with pytest.raises(ValueError, match="--remove is \\['damaged'\\]"):
    check_study.run(str(tmp_path), remove=('damaged',))
