"""Tables in a bucket: the same bytes, by real scripts on a storage emulator.

The emulator speaks Google Cloud Storage's protocol on loopback. It knows no
atomic rename, so that a rename is a copy and a removal. Scripts reach it
through gcsfs; TensorFlow's own client, which does gs:// otherwise, knows no
other host than Google's.
"""

import http
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from gcp_storage_emulator import server as emulator

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
    self.address = f'http://127.0.0.1:{port}'
    self.name = name

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

  def start(self, stage, *flags):
    """A stage as a process, its study in the bucket."""
    moved = stage.but(f'--study=gs://{self.name}').flags
    return subprocess.Popen(
      [sys.executable, '-m', stage.script, *moved, *flags],
      cwd=ROOT,
      env={
        **os.environ,
        'EPATH_USE_TF': 'false',
        'STORAGE_EMULATOR_HOST': self.address,
      },
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  def finish(self, stage, *flags):
    process = self.start(stage, *flags)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log


@pytest.fixture(scope='module')
def port():
  def refuse(request, response, storage):
    del request, storage
    response.status = http.HTTPStatus.METHOD_NOT_ALLOWED

  with pytest.MonkeyPatch.context() as patch:
    # Unknown, an atomic rename is tried for a minute.
    handlers = ((r'.*/moveTo/.*', {'POST': refuse}), *emulator.HANDLERS)
    patch.setattr(emulator, 'HANDLERS', handlers)
    server = emulator.create_server('127.0.0.1', 0, in_memory=True)
    server.start()
    yield server._api._httpd.server_address[1]
    server.stop()


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
  bucket.fill(robustness, ('data', 'results/robustness'))
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
  """What is listed is whole; what was left has a hidden name."""
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
      if not name.split('/')[-1].startswith('.'):
        assert content == wanted[name], name
  assert killed
  tally['kills while writing to a bucket'] += killed
  bucket.finish(stage('aggregate_predictions'), '--num_cores=2')
  found = results(bucket.objects())
  assert wanted == {
    name: content
    for name, content in found.items()
    if not name.split('/')[-1].startswith('.')
  }


def test_two_copies_at_once_in_a_bucket(chain, bucket):
  bucket.fill(chain['imagenet_predictions'][1], ('data', 'results'))
  copies = [bucket.start(stage('aggregate_predictions')) for _ in range(2)]
  logs = [copy.communicate(timeout=300)[1] for copy in copies]
  assert [copy.returncode for copy in copies] == [0, 0], logs
  whole = files(chain['aggregate_predictions'][1])
  wanted = results({name: path.read_bytes() for name, path in whole.items()})
  assert results(bucket.objects()) == wanted


def test_a_bucket_that_is_not_there(port):
  process = Bucket(port, 'no-such-bucket').start(stage('gen_tstatistic'))
  _, log = process.communicate(timeout=300)
  assert process.returncode == 1
  last = log.strip().splitlines()[-1]
  assert last.startswith('error: ')
  assert 'no-such-bucket' in last
