"""Laws of the one checksum."""

import hashlib

import pytest

from utils import digests


def test_digests_are_those_of_sha256sum(tmp_path):
  wanted = hashlib.sha256('a\u00e9'.encode()).hexdigest()
  path = tmp_path / 'a'
  path.write_bytes('a\u00e9'.encode())
  assert digests.of_bytes('a\u00e9') == wanted
  assert digests.of_bytes('a\u00e9'.encode()) == wanted
  assert digests.of_file(str(path)) == wanted
  assert digests.describe_file(str(path)) == {
    'path': str(path),
    'bytes': 3,
    'sha256': wanted,
  }


def test_a_file_is_read_in_blocks(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'0123456789')
  whole = digests.of_file(str(tmp_path / 'a'))
  monkeypatch.setattr(digests, '_BLOCK_BYTES', 3)
  assert digests.of_file(str(tmp_path / 'a')) == whole


def test_of_a_large_file_the_size_counts(tmp_path, monkeypatch):
  monkeypatch.setattr(digests, '_LIMIT_BYTES', 2)
  for name, text in (('a', 'xxx'), ('b', 'yyy'), ('c', 'xxxx')):
    (tmp_path / name).write_text(text)
  assert 'sha256' not in digests.describe_file(str(tmp_path / 'a'))
  a, b, c = (digests.of_files([str(tmp_path / name)]) for name in 'abc')
  assert a == b != c


def test_each_is_what_it_is_alone(tmp_path):
  for name in 'ab':
    (tmp_path / name).write_text(name)
  named = {name: str(tmp_path / name) for name in 'ab'}
  assert digests.of_each(named) == {
    name: digests.of_files([path]) for name, path in named.items()
  }
  assert len(digests.of_each(named)['a']) == 16


def test_json_takes_the_options_of_json():
  one, other = {'a': 1, 'b': 2}, {'b': 2, 'a': 1}
  assert digests.of_json(one) != digests.of_json(other)
  assert digests.of_json(one, sort_keys=True) == digests.of_json(
    other, sort_keys=True
  )


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent'):
    digests.of_files([str(tmp_path / 'absent')])
