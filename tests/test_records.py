"""Laws of a record: finished is what was made of these inputs."""

from utils import provenance


def opened(folder, **made_from):
  return provenance.Provenance(str(folder), 'room.script', {'a': 1}, made_from)


def test_finished_is_what_was_finished(tmp_path):
  record = opened(tmp_path, shards={'x': '1'})
  assert not record.is_finished
  record.start()
  assert not opened(tmp_path, shards={'x': '1'}).is_finished
  record.finish([])
  assert opened(tmp_path, shards={'x': '1'}).is_finished


def test_other_inputs_are_made_again_and_more_are_added(tmp_path):
  record = opened(tmp_path, shards={'x': '1', 'y': '2'})
  record.start()
  record.finish([])
  assert opened(tmp_path, shards={'y': '2'}).is_finished
  assert not opened(tmp_path, shards={'z': '3'}).is_finished
  assert not opened(tmp_path, tables={'x': '1'}).is_finished
  again = opened(tmp_path, shards={'x': '9'})
  assert not again.is_finished
  again.start()
  again.finish([])
  assert opened(tmp_path, shards={'x': '9'}).is_finished
  assert not opened(tmp_path, shards={'x': '1'}).is_finished
