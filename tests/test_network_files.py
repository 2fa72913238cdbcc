"""Descriptions of networks from elsewhere: read as written, or refused."""

import json

import pytest

from utils import image_records, network_files

GOOD = {
  'image_size': 8,
  'scale': 1 / 255,
  'mean': [0.485, 0.456, 0.406],
  'deviation': [0.229, 0.224, 0.225],
  'channels': 'RGB',
  'output': 'logits',
  'num_classes': 10,
}


def written(tmp_path, **changes):
  fields = {'format': 1, **GOOD, **changes}
  path = tmp_path / 'model.json'
  path.write_text(
    json.dumps({n: v for n, v in fields.items() if v is not Ellipsis})
  )
  return str(path)


def test_what_is_written_is_read(tmp_path):
  path = str(tmp_path / 'sub' / 'model.json')
  description = network_files.Description(
    **GOOD,
    label_offset=1,
    layout='NCHW',
    resize_size=9,
    preprocessing='modern',
    made_from={'quantiser': {'name': 'tflite', 'images': 20}},
  )
  network_files.write(path, description)
  assert network_files.read(path) == description
  assert description.num_scores == 11
  assert network_files.read(written(tmp_path)) == network_files.Description(
    **GOOD
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'format': 2}, 'format is not 1'),
    ({'output': ...}, "no field 'output'"),
    ({'means': [0, 0, 0]}, "unknown fields \\['means'\\]"),
    ({'scale': 'x'}, "scale is 'x', wanted a number above 0"),
    ({'scale': 0}, 'scale is 0, wanted a number above 0'),
    ({'scale': float('nan')}, 'NaN is no number'),
    ({'mean': 0.5}, 'mean is 0.5, wanted 3 numbers'),
    ({'mean': [0, 0]}, 'mean is \\[0, 0\\], wanted 3 numbers'),
    ({'mean': [0, 0, float('inf')]}, 'Infinity is no number'),
    ({'deviation': [1, 1, 0]}, 'deviation is .*, wanted 3 numbers above 0'),
    ({'deviation': [1, 1, True]}, 'deviation is .*, wanted 3 numbers'),
    ({'channels': 'rgb'}, "channels is 'rgb', wanted one of"),
    ({'channels': ['RGB']}, 'channels is .*, wanted one of'),
    ({'output': 'scores'}, "output is 'scores', wanted one of"),
    ({'layout': 'HWC'}, "layout is 'HWC', wanted one of"),
    ({'num_classes': 1}, 'num_classes is 1, wanted a whole number from 2'),
    ({'num_classes': 10.0}, 'num_classes is 10.0, wanted a whole number'),
    ({'label_offset': -1}, 'label_offset is -1, wanted a whole number from 0'),
    ({'image_size': True}, 'image_size is True, wanted a whole number'),
    ({'resize_size': 7}, 'resize_size is 7, wanted a whole number from 8'),
    ({'preprocessing': None}, 'preprocessing is None, wanted a name'),
    ({'made_from': 'there'}, "made_from is 'there', wanted a JSON object"),
  ],
)
def test_a_damaged_description_is_named(tmp_path, changes, message):
  path = written(tmp_path, **changes)
  with pytest.raises(ValueError, match=message) as raised:
    network_files.read(path)
  assert str(raised.value).startswith(f'{path}: ')
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'Expecting value'),
    ('[]', 'wanted a JSON object'),
    ('{"format": 1, "scale": 1, "scale": 2}', "'scale' stands there twice"),
    ('[' * 10_000, 'recursion'),
  ],
)
def test_what_is_no_description_is_named(tmp_path, text, message):
  path = tmp_path / 'model.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=message) as raised:
    network_files.read(str(path))
  assert str(raised.value).startswith(f'{path}: ')


def test_a_missing_description_is_asked_for(tmp_path):
  with pytest.raises(FileNotFoundError, match='model.json is missing'):
    network_files.read(str(tmp_path / 'model.json'))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'image_size': 7, 'resize_size': 9}, 'image_size is 7, but 8'),
    ({'resize_size': 10}, 'resize_size is 10, but 9'),
    ({'preprocessing': 'modern'}, 'read with --preprocessing=legacy'),
  ],
)
def test_images_that_do_not_fit_are_refused(changes, message):
  records = image_records.ImageRecords(
    'some', tuple('abcdefghij'), image_size=8, resize_size=9
  )
  fitting = {'resize_size': 9, 'preprocessing': 'legacy'}
  network_files.Description(**GOOD).check_fits(records, 'legacy')
  network_files.Description(**GOOD, **fitting).check_fits(records, 'legacy')
  with pytest.raises(ValueError, match=message):
    network_files.Description(**{**GOOD, **changes}).check_fits(
      records, 'legacy'
    )
