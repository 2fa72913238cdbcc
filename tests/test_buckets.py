"""Tables in a bucket: the same bytes, by real scripts on a storage emulator.

Scripts reach the emulator (`tests/bucket_server.py`) through gcsfs, or through
TensorFlow's own client, which does gs:// otherwise. Requests fail as they do at
Google: too many, no service, a connection that ends before or after the work is
done.
"""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from tests import bucket_server
from tests.stages import STAGES, files
from utils import table_digests

ROOT = pathlib.Path(__file__).parent.parent
TABLES = (
  'aggregate_predictions',
  'measure_costs',
  'aggregate_ckpt_metrics',
  'gen_tstatistic',
  'plot_class_impact',
  'summarize',
  'measure_corrupted_costs',
  'rank_suspects',
  'headline_table',
)


class Bucket:
  """A bucket on the emulator; requests are spelled out, without gcsfs."""

  def __init__(self, port, name):
    self.port, self.name = port, name
    self.address = f'http://127.0.0.1:{port}'

  def _request(self, path, data=None, **query):
    url = f'{self.address}{path}?{urllib.parse.urlencode(query)}'
    with urllib.request.urlopen(url, data) as response:
      return response.read()

  def put(self, name, content):
    path = f'/upload/storage/v1/b/{self.name}/o'
    self._request(path, content, uploadType='media', name=name)

  def objects(self):
    """Name -> bytes."""
    listed = json.loads(self._request(f'/storage/v1/b/{self.name}/o'))
    return {
      item['name']: self._request(
        f'/storage/v1/b/{self.name}/o/{urllib.parse.quote(item["name"], "")}',
        alt='media',
      )
      for item in listed.get('items', ())
    }

  def fill(self, folder, names):
    for name, path in files(folder).items():
      if name.startswith(tuple(f'{start}/' for start in names)):
        self.put(name, path.read_bytes())

  def start(self, stage, *flags, by=()):
    """A stage as a process, its study in the bucket."""
    moved = stage.but(f'--study=gs://{self.name}').flags
    return subprocess.Popen(
      [sys.executable, '-m', *by, stage.script, *moved, *flags],
      cwd=ROOT,
      env=bucket_server.environment(self.port),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  def finish(self, stage, *flags, by=()):
    process = self.start(stage, *flags, by=by)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log

  def refused(self, stage):
    """The line that a stage ends with, without a traceback."""
    process = self.start(stage)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 1, log
    assert 'Traceback' not in log
    line = log.strip().splitlines()[-1]
    assert line.startswith('error: ')
    return line


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
  return tmp_path_factory.mktemp('certificate') / 'authority.pem'


@pytest.fixture(scope='module')
def server(certificate):
  with bucket_server.serve(certificate) as port_and_weather:
    yield port_and_weather


@pytest.fixture
def port(server):
  return server[0]


@pytest.fixture
def weather(server):
  yield server[1]
  server[1].clear()


@pytest.fixture
def bucket(port, request):
  name = f'bucket-{random.getrandbits(32):08x}'
  data = json.dumps({'name': name}).encode()
  address = f'http://127.0.0.1:{port}/storage/v1/b?project=test'
  headers = {'Content-Type': 'application/json'}
  urllib.request.urlopen(urllib.request.Request(address, data, headers))
  return Bucket(port, name)


def stage(name):
  return next(stage for stage in STAGES if str(stage) == name)


def results(named):
  """What a table or figure is: the rest are records, and notes of digests."""
  return {
    name: content
    for name, content in named.items()
    if name.startswith('results/')
    and not name.endswith(('.run.json', table_digests.FILE_NAME))
  }


def test_the_tables_of_a_chain_are_the_same_in_a_bucket(chain, bucket):
  robustness = chain['imagenet_corruptions'][1]
  bucket.fill(robustness, ('data', 'results/robustness', 'results/digits_c'))
  bucket.fill(chain['imagenet_predictions'][1], ('results',))
  # Of checkpoints, which TensorFlow reads, not this client.
  for name, path in files(chain['measure_gains'][1]).items():
    if name.endswith('gains.csv'):
      bucket.put(name, path.read_bytes())
  for name in TABLES:
    bucket.finish(stage(name))
  whole = files(chain['headline_table'][1])
  wanted = results({name: path.read_bytes() for name, path in whole.items()})
  assert results(bucket.objects()) == wanted


def test_killed_in_a_bucket(chain, bucket, long, tally):
  """What is listed is whole, and nothing is left over."""
  bucket.fill(chain['imagenet_predictions'][1], ('data', 'results'))
  whole = files(chain['aggregate_predictions'][1])
  wanted = results({name: path.read_bytes() for name, path in whole.items()})
  before = len(results(bucket.objects()))
  random_numbers, killed = random.Random(0), 0
  for _ in range(20 if long else 3):
    process = bucket.start(stage('aggregate_predictions'))
    while process.poll() is None and len(bucket.objects()) <= before:
      time.sleep(0.01)
    time.sleep(random_numbers.uniform(0, 0.3))
    process.kill()
    process.communicate()
    killed += process.returncode == -signal.SIGKILL
    for name, content in results(bucket.objects()).items():
      assert content == wanted[name], name
  assert killed
  tally['kills while writing to a bucket'] += killed
  by = ['tests.run_in_processes']
  bucket.finish(stage('aggregate_predictions'), '--num_cores=2', by=by)
  assert results(bucket.objects()) == wanted


def test_tables_in_bad_weather(chain, bucket, weather, tally):
  """Requests fail and are repeated, also some that were granted."""
  bucket.fill(chain['imagenet_predictions'][1], ('data', 'results'))
  weather.every = 15
  for name in ('aggregate_predictions', 'measure_costs'):
    bucket.finish(stage(name))
  whole = files(chain['measure_costs'][1])
  wanted = results({name: path.read_bytes() for name, path in whole.items()})
  assert results(bucket.objects()) == wanted
  assert min(weather.seen[fault] for fault in bucket_server.FAULTS) > 0
  tally['requests to a bucket that failed'] += weather.seen.total()


def test_a_listing_that_lags_behind_is_no_smaller_study(chain, bucket, weather):
  """What is missing in it is missed by name, in a warning or an error."""
  bucket.fill(chain['aggregate_predictions'][1], ('data', 'results'))
  names = bucket.objects()
  unlisted = 'validation-00001-of-00002/threshold_0.9'
  weather.known = {name for name in names if unlisted not in name}
  assert "('threshold', 0.9): 20" in bucket.refused(stage('rank_suspects'))
  unlisted = 'validation-00001-of-00002'
  weather.known = {name for name in names if unlisted not in name}
  process = bucket.start(stage('aggregate_predictions'))
  _, log = process.communicate(timeout=300)
  assert f'1 others, for example {unlisted}: the results are of these' in log
  assert weather.seen['stale']


def test_a_bucket_that_refuses_is_one_line(chain, bucket, weather, long):
  bucket.fill(chain['imagenet_predictions'][1], ('data', 'results'))
  # What no client repeats; what gcsfs repeats for half a minute.
  for fault in (401, 403, 503, 'reset before')[: 4 if long else 2]:
    weather.every, weather.faults = 1, (fault,)
    line = bucket.refused(stage('aggregate_predictions'))
    if isinstance(fault, int):
      assert str(fault) in line or 'Forbidden' in line


def test_two_machines_write_one_object(bucket, weather):
  """Larger than what gcsfs sends at once: a reader finds one of the two."""
  script = (
    'import sys; from utils import storage\n'
    'for _ in range(3):\n'
    '  storage.write_complete(sys.argv[1], sys.argv[2] * 6_000_000)\n'
  )
  weather.every = 9
  path = f'gs://{bucket.name}/one/table.csv'
  writers = [
    subprocess.Popen(
      [sys.executable, '-c', script, path, letter],
      cwd=ROOT,
      env=bucket_server.environment(bucket.port),
    )
    for letter in 'ab'
  ]
  contents, seen = {b'a' * 6_000_000, b'b' * 6_000_000}, set()
  while any(writer.poll() is None for writer in writers):
    found = bucket.objects()
    assert set(found) <= {'one/table.csv'}
    seen |= set(found.values())
    time.sleep(0.05)
  assert [writer.returncode for writer in writers] == [0, 0]
  assert seen | set(bucket.objects().values()) <= contents
  assert seen
  assert weather.seen.total()


def test_networks_by_tensorflows_own_client(
  chain, runner, bucket, certificate, weather, tmp_path
):
  """Images, checkpoints and tables in the bucket, in bad weather."""
  before, after, *_ = chain['imagenet_predictions']
  bucket.fill(before, ('data', 'checkpoints'))
  weather.every = 40
  process = runner.start(
    stage('imagenet_predictions').but(f'--study=gs://{bucket.name}'),
    tmp_path,
    environment=bucket_server.environment(bucket.port, certificate),
  )
  process.join()
  assert process.exitcode == 0, process.log.read_text()[-3000:]
  wanted = results(
    {name: path.read_bytes() for name, path in files(after).items()}
  )
  assert results(bucket.objects()) == wanted
  assert min(weather.seen[fault] for fault in bucket_server.FAULTS) > 0
  assert not files(tmp_path)


def test_two_copies_at_once_in_a_bucket(chain, bucket):
  bucket.fill(chain['imagenet_predictions'][1], ('data', 'results'))
  copies = [bucket.start(stage('aggregate_predictions')) for _ in range(2)]
  logs = [copy.communicate(timeout=300)[1] for copy in copies]
  assert [copy.returncode for copy in copies] == [0, 0], logs
  whole = files(chain['aggregate_predictions'][1])
  wanted = results({name: path.read_bytes() for name, path in whole.items()})
  assert results(bucket.objects()) == wanted


def test_a_bucket_that_is_not_there(port):
  line = Bucket(port, 'no-such-bucket').refused(stage('gen_tstatistic'))
  assert 'gs://no-such-bucket is not there either, or cannot be reached' in line
