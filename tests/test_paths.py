"""Names of files stay where they belong."""

import pytest

from utils import member_paths, paths


def member(replicate=0, fraction=0.5, method='threshold'):
  return member_paths.Member('digits', method, fraction, 10, 20, 2, replicate)


def test_names_stay_below_the_output_folder():
  of = member_paths.Checkpoint(member(), 5, 'x')
  for bad in ('..', 'a/b', ''):
    with pytest.raises(ValueError, match='dataset_name'):
      paths.predictions('out', bad, 'eval', 'shard', of)
    with pytest.raises(ValueError, match='part of a path'):
      paths.robustness('out', 'digits', bad, of)
