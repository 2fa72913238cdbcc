"""Compressed predictions mean what the same ones do as they are."""

import gzip
import pathlib
import shutil
import tracemalloc

import pandas as pd
import pytest

from pie_dataset_gen import gallery_data, shard_predictions
from tests import test_how_many_members as pilots
from tests import test_measure_costs as costs
from tests import test_prediction_files as both_forms
from tests.damage import flips_and_cuts, fuzz, mutated, predictions, with_flip
from utils import compressed, csvs, prediction_files, table_digests, tables


def compress(folder, every=1):
  """Replaces each of so many CSVs by one that any other program compressed."""
  for path in sorted(folder.rglob('*.csv'))[::every]:
    pathlib.Path(f'{path}.gz').write_bytes(
      gzip.compress(path.read_bytes(), 9 if every == 1 else 1)
    )
    path.unlink()
  return folder


def tables_of(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*.csv')
  }


@pytest.mark.parametrize('every', [1, 2])
def test_all_that_is_made_of_predictions_has_the_same_bytes(tmp_path, every):
  """Of all of them, and of half: the forms may be mixed."""
  made = {}
  for name in ('plain', 'compressed'):
    folder, out = tmp_path / name / 'in', tmp_path / name / 'out'
    costs.write_predictions(folder, members=3)
    if name == 'compressed':
      compress(folder, every)
    costs.aggregate(folder, out)
    costs.run(folder, out)
    pilot = tmp_path / name / 'pilot'
    pilots.write_study(pilot, members=3)
    if name == 'compressed':
      compress(pilot / 'results' / 'toy' / 'predictions_dataframe', every)
    pilots.run(pilot)
    found = tables_of(out) | {
      path.name: path.read_bytes() for path in pilot.rglob('eval_*.csv')
    }
    made[name] = found
  assert len(made['plain']) > 10
  assert 'eval_members_needed.csv' in made['plain']
  assert made['plain'] == made['compressed']


@pytest.mark.parametrize('original', [False, True])
def test_either_form_of_predictions_may_be_compressed(tmp_path, original):
  plain = both_forms.write(tmp_path / 'plain', original=original)
  labels = both_forms.aggregate(plain, tmp_path / 'a')
  metrics = both_forms.measure(plain, tmp_path / 'a')
  small = compress(shutil.copytree(plain, tmp_path / 'small'))
  for found, wanted in (
    (both_forms.aggregate(small, tmp_path / 'b'), labels),
    (both_forms.measure(small, tmp_path / 'b'), metrics),
  ):
    pd.testing.assert_frame_equal(found, wanted)
  chosen = gallery_data.choose_images(labels, 1)
  assert gallery_data.count_votes(str(small), chosen) == (
    gallery_data.count_votes(str(plain), chosen)
  )
  if original:
    # A copy is one, compressed or not.
    for shard in both_forms.SHARDS:
      shutil.copy(
        plain / shard / 'predictions_dataframe_3.0.csv',
        small / shard / 'predictions_dataframe_9.0.csv',
      )
    with pytest.raises(ValueError, match='_3.0.csv.gz and .*_9.0.csv are equa'):
      both_forms.aggregate(small, tmp_path / 'c')


def written(folder):
  path = predictions(folder, (0.9, 0))
  frame = csvs.read(tables.PREDICTIONS, str(path))
  path.unlink()
  packed = f'{path}.gz'
  csvs.write(tables.PREDICTIONS, frame, packed)
  return pathlib.Path(packed), frame


def test_what_is_written_is_read_and_noted_and_has_the_same_bytes(tmp_path):
  path, frame = written(tmp_path)
  pd.testing.assert_frame_equal(csvs.read(tables.PREDICTIONS, str(path)), frame)
  data = path.read_bytes()
  # No name, no time, no system: RFC 1952, 2.3.1.
  assert data[:10] == bytes.fromhex('1f8b 08 00 00000000 00 ff')
  assert gzip.decompress(data) == csvs.read_text(str(path))
  again, _ = written(tmp_path / 'again')
  assert again.read_bytes() == data
  assert table_digests.noted(str(path))
  # A flip that gzip does not see, since nobody needs that byte.
  path.write_bytes(with_flip(data, 8 * 9))
  with pytest.raises(ValueError, match=r'\.csv\.gz has another SHA-256'):
    csvs.read(tables.PREDICTIONS, str(path))


@pytest.mark.usefixtures('unnoted')
def test_flips_and_cuts_are_named_or_change_nothing(tmp_path, long):
  path, frame = written(tmp_path)
  data = path.read_bytes()
  same = 0
  for found in flips_and_cuts(data, 1 if long else 11):
    path.write_bytes(found)
    try:
      read = csvs.read(tables.PREDICTIONS, str(path))
    except ValueError as error:
      assert path.name in str(error)
      assert '\n' not in str(error)
    else:
      same += 1
      pd.testing.assert_frame_equal(read, frame)
    try:
      prediction_files.identities([str(path)])
    except ValueError as error:
      assert path.name in str(error)
  # Time, system, effort, and bits that mean nothing: 8 bytes of the header.
  assert same <= 8 * 8
  path.write_bytes(b'')
  with pytest.raises(ValueError, match=path.name):
    csvs.read(tables.PREDICTIONS, str(path))


@pytest.mark.usefixtures('unnoted')
def test_what_is_no_gzip_is_named(tmp_path, long):
  path, _ = written(tmp_path)

  def parse(data):
    path.write_bytes(data)
    shard_predictions.read_shard([str(path)], 'eval')

  fuzz(mutated(path.read_bytes()), parse, 10_000 if long else 100)
  path.write_bytes(b'image_key,predictions\na,1\n')
  with pytest.raises(ValueError, match=f'{path.name} is damaged, or no gzip'):
    prediction_files.identities([str(path)])


@pytest.mark.usefixtures('unnoted')
@pytest.mark.parametrize('header', [b'', b'image_key,predictions\na,1\n'])
def test_a_bomb_fills_no_memory(tmp_path, header):
  path = tmp_path / 'all' / 'a.csv.gz'
  path.parent.mkdir()
  path.write_bytes(gzip.compress(header + bytes(2**27)))
  tracemalloc.start()
  try:
    for read in (
      lambda: csvs.read(tables.PREDICTIONS, str(path)),
      lambda: shard_predictions.read_shard([str(path)], 'eval'),
    ):
      with pytest.raises(ValueError, match=path.name):
        read()
    assert tracemalloc.get_traced_memory()[1] < 2**27 / 2
  finally:
    tracemalloc.stop()


def test_one_table_in_two_forms_is_refused_by_name(tmp_path):
  folder = costs.write_predictions(tmp_path / 'in', members=2)
  path = folder / 'shard-1' / "('int8', 0.0)_1.csv"
  assert path.exists()
  pathlib.Path(f'{path}.gz').write_bytes(gzip.compress(path.read_bytes()))
  for where in (str(folder), f'{folder}/*/*'):
    with pytest.raises(ValueError, match='_1.csv are one table in two forms'):
      prediction_files.find(where)
  with pytest.raises(ValueError, match='two forms'):
    costs.aggregate(folder, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  path.unlink()
  costs.aggregate(folder, tmp_path / 'out')


def test_a_text_of_usual_size_is_never_refused():
  lines = b'label,image\n' + b'3,1\n' * 2**19
  packed = compressed.pack(lines)
  # Nothing but one row says less; what is below 1 MiB is always read.
  assert len(lines) / len(packed) > 200
  with pytest.raises(ValueError, match='a.csv.gz is refused'):
    compressed.unpack('a.csv.gz', packed)
  some = lines[: 2**20]
  assert compressed.unpack('a.csv.gz', compressed.pack(some)) == some
