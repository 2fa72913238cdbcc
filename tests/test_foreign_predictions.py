"""Predictions from elsewhere: from two folders of CSVs to a page."""

import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from per_class_accuracy import aggregate_ckpt_metrics
from pie_dataset_gen import aggregate_predictions, write_predictions
from utils import csvs, paths, tables

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = ('cat', 'dog', 'cow, brown')
IMAGES = 30
KEYS = [f'{i % 3}/photo {i:02d}' for i in range(IMAGES)]
TRUE = np.arange(IMAGES) % 3


def write_members(folder, members):
  """Dense members in one folder, quantised ones in another."""
  for method in ('baseline', 'int8'):
    for replicate in range(members):
      rng = np.random.default_rng([replicate, method == 'int8'])
      logits = 2 * np.eye(3)[TRUE] + rng.normal(size=(IMAGES, 3))
      if method == 'int8':
        logits[:6, 1] += 9
      write_predictions.write(
        str(folder / ('dense' if method == 'baseline' else method)),
        TRUE,
        KEYS,
        logits=logits,
        pruning_method=method,
        replicate=replicate,
      )


def write_photos(folder, keys=KEYS):
  for i, key in enumerate(keys):
    path = folder / 'photos' / f'{key}.{"png" if i % 2 else "jpg"}'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (40, 30), (8 * i, 0, 0)).save(path)


def write_classes(folder):
  pd.DataFrame(
    {'class_id': range(3), 'class_name': CLASSES, 'group': ['pet', 'pet', '']}
  ).to_csv(folder, index=False)


def documented_commands():
  """The commands of docs/your_data.md for predictions from elsewhere."""
  text = (ROOT / 'docs' / 'your_data.md').read_text()
  section = text.split('## Predictions from elsewhere')[1].split('\n## ')[0]
  blocks = re.findall('```bash\n(.*?)```', section, re.DOTALL)
  lines = blocks[0].replace('\\\n', ' ').splitlines()
  return [shlex.split(line, comments=True) for line in lines]


def run_commands(folder, commands):
  """Runs them one after the other; returns what each printed."""
  printed = []
  for command in commands:
    assert command[:2] == ['python', '-m']
    done = subprocess.run(
      [sys.executable, *command[1:]],
      cwd=folder,
      env={'PYTHONPATH': str(ROOT), 'PATH': '', 'TF_CPP_MIN_LOG_LEVEL': '3'},
      capture_output=True,
      text=True,
      check=False,
    )
    printed.append(done.stdout + done.stderr)
    assert done.returncode == 0, printed[-1]
  return printed


@pytest.mark.parametrize('members', [2, 5])
def test_four_commands_of_the_documents_lead_to_the_page(
  tmp_path, members, long
):
  """With two members a level, too: what more members need says so."""
  if members > 2 and not long:
    pytest.skip('a second time, which takes as long: --long')
  write_members(tmp_path, members)
  write_photos(tmp_path, KEYS[1:])
  commands = documented_commands()
  assert len(commands) == 4
  study = next(
    word.removeprefix('--study=')
    for word in commands[0]
    if word.startswith('--study=')
  )
  (tmp_path / study).mkdir(parents=True)
  write_classes(tmp_path / study / 'classes.csv')
  printed = run_commands(tmp_path, commands)
  few = members == 2
  verdict = 'are too few to tell it from chance' if few else 'chance explains'
  assert verdict in printed[0]
  assert ('so few models cannot give less' in printed[2]) == few
  for text in printed:
    assert not re.search(r'\bnan\b|Warning|Traceback', text), text
  results = str(tmp_path / study / 'results')
  name = pathlib.Path(study).name
  tests = csvs.read(
    tables.T_STATISTIC, paths.t_statistic(results, name, 'eval')
  )
  assert tests['class'].tolist() == list(CLASSES)
  page = pathlib.Path(paths.gallery(results, name, 'eval')) / 'index.html'
  html = page.read_text()
  assert 'class="verdict">images: ' in html
  assert 'id="missing">Of these images 1 are missing' in html
  assert KEYS[0] in html and 'nan' not in html.split('id="made"')[0]
  data = (page.parent / 'data.js').read_text()
  assert '"suspects":[{' in data and '"votes":[[' in data
  assert 'cow, brown' in data
  for key in KEYS[1:6]:
    assert f'"key":"{key}"' in data
  assert len(list((page.parent / 'images').rglob('*.*'))) > 5
  # More of it, which is not needed for the page.
  extra = [
    f'python -m pie_dataset_gen.headline_table --study={study} --all_rows',
    f'python -m pie_dataset_gen.rank_suspects --study={study}',
  ]
  table, _ = run_commands(tmp_path, map(shlex.split, extra))
  assert not re.search(r'\bnan\b|Warning|Traceback', table), table
  assert ('so few members cannot give' in table) == few
  suspects = csvs.read(tables.SUSPECTS, paths.suspects(results, name, 'eval'))
  assert set(suspects['class']) == set(CLASSES)


def aggregate(folder, out):
  aggregate_predictions.run(
    str(folder), str(out), mode='eval', dataset_name='toy', num_classes=3
  )


def measure(folder, out, **options):
  given = {
    'ckpt_dir': [],
    'predictions_directory': str(folder),
    'data_directory': '',
    'output_path': str(out),
    'mode': 'eval',
    'dataset_name': 'toy',
    'num_classes': 3,
    'groups_file': '',
    'batch_size': 1,
    'preprocessing': 'legacy',
    'compute_precision': 'float32',
    'label_smoothing': 0.1,
    **options,
  }
  return csvs.read_all(
    tables.CLASS_METRICS, aggregate_ckpt_metrics.run(**given)
  )


def test_one_file_names_classes_and_groups(tmp_path):
  write_members(tmp_path, 1)
  path = str(tmp_path / 'classes.csv')
  write_classes(path)
  folders = f'{tmp_path}/dense,{tmp_path}/int8'
  options = {'num_classes': None, 'classes_file': path}
  rows = measure(folders, tmp_path / 'a', **options)
  assert rows['class'].tolist() == 2 * list(CLASSES)
  rows = measure(folders, tmp_path / 'a', **options, groups_file=path)
  assert rows['class'].tolist() == 2 * ['pet']
  assert rows['support'].tolist() == 2 * [20]
  with pytest.raises(ValueError, match=r'--num_classes is 4, but .*has 3'):
    measure(folders, tmp_path / 'b', num_classes=4, classes_file=path)


def in_one_row(name, value):
  return lambda f: f.assign(**{name: f[name].where(f.index != 7, value)})


BAD = [
  (lambda f: f.drop(columns='true_class'), "lacks the column.*'true_class'"),
  (lambda f: f.drop(columns='image_key'), "lacks the column.*'image_key'"),
  (lambda f: f.drop(columns='replicate'), "lacks the column.*'replicate'"),
  (in_one_row('predictions', np.inf), "'predictions' holds"),
  (in_one_row('predictions', np.nan), "'predictions' holds"),
  (in_one_row('predictions', 3), "'predictions' holds 3.*class id below"),
  (in_one_row('true_class', 4), "'true_class' holds 4.*class id below"),
  (in_one_row('true_class', -1), "'true_class' holds -1"),
  (in_one_row('image_key', 'other'), r"'other'"),
  (lambda f: f[:-1], "'2/photo 29'"),
  (in_one_row('image_key', KEYS[0]), 'share their identity.*lines 2, 9'),
]
BAD_SCORES = [
  (in_one_row('predicted_probability', np.inf), 'holds inf in line 9.*finite'),
  (in_one_row('predicted_probability', np.nan), 'no number for 1 of 30'),
  (in_one_row('predicted_probability', 1.5), 'holds 1.5 in line 9'),
]


@pytest.mark.parametrize(
  ('change', 'message', 'run'),
  [(*bad, run) for bad in BAD for run in (aggregate, measure)]
  + [(*bad, aggregate) for bad in BAD_SCORES],
)
def test_bad_predictions_are_refused_in_one_line(
  tmp_path, change, message, run
):
  write_members(tmp_path, 2)
  path = tmp_path / 'int8' / 'all' / 'predictions_dataframe_int8_0.0_1.csv'
  change(pd.read_csv(path)).to_csv(path, index=False)
  with pytest.raises(ValueError, match=message) as raised:
    run(f'{tmp_path}/dense,{tmp_path}/int8', tmp_path / 'out')
  assert '\n' not in str(raised.value)
  assert re.search('int8_0.0(_0)*_1', str(raised.value))


@pytest.mark.parametrize('run', [aggregate, measure])
def test_an_image_in_two_shards_is_refused(tmp_path, run):
  write_members(tmp_path, 2)
  for path in sorted(tmp_path.rglob('*.csv')):
    second = path.parent.parent / 'more' / path.name
    second.parent.mkdir(exist_ok=True)
    frame = pd.read_csv(path)
    frame['image_key'] = [f'more {key}' for key in frame['image_key'][:-1]] + [
      KEYS[0]
    ]
    frame.to_csv(second, index=False)
  message = f"'{KEYS[0]}' stands in two|stand more than once.*'{KEYS[0]}'"
  with pytest.raises(ValueError, match=message) as raised:
    run(f'{tmp_path}/dense,{tmp_path}/int8', tmp_path / 'out')
  assert '\n' not in str(raised.value)
