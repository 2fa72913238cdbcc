"""Damaged and hostile JSON: named, or provably without effect."""

import json

import pytest
from hypothesis import strategies as st

from tests.damage import data_set, flips_and_cuts, fuzz, mutated, report
from utils import image_records, provenance


def test_every_flip_of_a_description_is_noticed(tmp_path, long):
  """It would be read with another mean, or other names of classes."""
  data_set(str(tmp_path))
  path = tmp_path / 'image_records.json'
  right = image_records.read(str(tmp_path))
  same = 0
  for damaged in flips_and_cuts(path.read_bytes(), 1 if long else 3):
    path.write_bytes(damaged)
    try:
      assert image_records.read(str(tmp_path)) == right
      same += 1
    except ValueError as error:
      assert str(path) in str(error)
  report(f'{same} without effect: white space')


def test_fuzzed_descriptions(tmp_path, long):
  data_set(str(tmp_path))
  path = tmp_path / 'image_records.json'
  right = path.read_bytes()
  fields = json.loads(right)
  del fields['sha256']

  def parse(data):
    path.write_bytes(data)
    image_records.read(str(tmp_path))

  seeds = (right, json.dumps(fields).encode())
  fuzz(mutated(*seeds), parse, 10_000 if long else 150)
  values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
  )
  changed = st.tuples(st.sampled_from(sorted(fields)), values)
  fuzz(
    changed.map(lambda c: json.dumps({**fields, c[0]: c[1]}).encode()),
    parse,
    10_000 if long else 150,
  )


@pytest.mark.parametrize(
  'text', ['', '{', '[1]', '{"settings": 3}', '[' * 100_000, '\xff']
)
def test_a_damaged_record_of_a_command_is_named(tmp_path, text):
  path = tmp_path / 'stage.run.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match=f'{path} is damaged'):
    provenance.Provenance(str(tmp_path), 'room.stage', {'batch_size': 4})
