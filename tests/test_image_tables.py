"""Laws of tables beside images: CelebA's form, and groups through the chain."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pie_dataset_gen import headline_rows
from save_checkpoint import build_image_data, image_sources, image_tables
from tests import test_build_image_data
from tests.stages import STAGES, Stage
from tests.test_image_sources import tar_of, write_tree
from utils import csvs, image_records, paths, tables

ROOT = pathlib.Path(__file__).parent.parent
IMAGES = 24
NAMES = [f'{i + 1:06d}.jpg' for i in range(IMAGES)]
BLOND = np.where(np.arange(IMAGES) % 4 % 3 == 0, 1, -1)
MALE = np.where(np.arange(IMAGES) % 2, 1, -1)
YOUNG = np.where(np.arange(IMAGES) % 5 < 2, 1, -1)
SPLIT = np.arange(IMAGES) % 3  # 0, 1, 2 as CelebA has them


def table_of(**changes):
  return pd.DataFrame(
    {
      'image_id': NAMES,
      'Blond_Hair': BLOND,
      'Male': MALE,
      'Young': YOUNG,
      'split': SPLIT,
    }
    | changes
  )


def columns_of(folder, table=None, **changes):
  path = folder / 'faces.csv'
  (table_of() if table is None else table).to_csv(path, index=False)
  given = {
    'image': '',
    'label': 'Blond_Hair',
    'groups': ('Male', 'Young', 'Male+Young'),
    'split': 'split',
    'split_values': ('0', '2'),
  } | changes
  return image_tables.Columns(str(path), **given)


def faces(folder):
  return write_tree(folder / 'faces', dict.fromkeys(NAMES, b'x'))


def found(folder, columns, source, **changes):
  given = (source, '', 0.0)
  return image_tables.ImageTable(columns).find(
    *(changes.get(n, v) for n, v in zip('tvf', given, strict=True))
  )


@pytest.mark.parametrize('layout', ['folder', 'tar', 'folders'])
def test_class_and_split_are_those_of_the_row(layout, tmp_path):
  source = faces(tmp_path)
  if layout == 'tar':
    content = tar_of(dict.fromkeys(NAMES, b'x'), 'img_align_celeba/')
    source = write_tree(tmp_path, {'faces.tar': content}) + '/faces.tar'
  elif layout == 'folders':
    tree = {f'{i % 2}/{name}': b'x' for i, name in enumerate(NAMES)}
    source = write_tree(tmp_path / 'more', tree)
  splits = found(tmp_path, columns_of(tmp_path), source)
  for split, value in (('train', 0), ('validation', 2)):
    wanted = [
      (name, str(label))
      for name, label, of in zip(NAMES, BLOND, SPLIT, strict=True)
      if of == value
    ]
    assert [(p.key, p.class_key) for p in splits[split]] == wanted
  assert all(p.read() == b'x' for p in splits['train'])


def test_without_a_split_column_the_folders_or_a_fraction_say_it(tmp_path):
  source = faces(tmp_path)
  columns = columns_of(tmp_path, split='')
  whole = found(tmp_path, columns, source)
  assert [p.key for p in whole['train']] == NAMES
  parts = found(tmp_path, columns, source, f=0.25)
  assert len(parts['validation']) == IMAGES // 4
  assert sorted(p.key for of in parts.values() for p in of) == NAMES


def test_groups_are_the_values_of_their_columns(tmp_path):
  table = image_tables.ImageTable(
    columns_of(
      tmp_path,
      table_of(sex=['f', 'm', ''] * (IMAGES // 3)),
      groups=('Male', 'Male+Young', 'sex'),
    )
  )
  pictures = [image_sources.Picture(name, '') for name in NAMES[:12]]
  rows = table.groups(pictures)
  of = rows.groupby('group')['image_key'].agg(list)
  wanted = {
    'Male': MALE > 0,
    'not Male': MALE < 0,
    'Male, Young': (MALE > 0) & (YOUNG > 0),
    'not Male, Young': (MALE < 0) & (YOUNG > 0),
    'Male, not Young': (MALE > 0) & (YOUNG < 0),
    'not Male, not Young': (MALE < 0) & (YOUNG < 0),
    # A word is a group's name only beside its column's; none is in none.
    'sex f': np.arange(IMAGES) % 3 == 0,
    'sex m': np.arange(IMAGES) % 3 == 1,
  }
  assert set(of.index) == set(wanted)
  for name, is_in in wanted.items():
    assert of[name] == [NAMES[i] for i in range(12) if is_in[i]]
  assert table.classes == {'-1': 'not Blond_Hair', '1': 'Blond_Hair'}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'table': table_of()[1:], 'split': ''}, 'no row for the image .*000001'),
    (
      {'table': pd.concat([table_of(), table_of()[:1].replace('000001', 'a')])},
      'share their identity',
    ),
    ({'table': table_of(Blond_Hair='')}, 'no Blond_Hair of 24 images'),
    ({'label': 'Bald'}, r"lacks the columns \['Bald'\]"),
    ({'label': ''}, 'without --class_column'),
    ({'groups': ('Male+Bald',)}, r"lacks the columns \['Bald'\]"),
    ({'split_values': ('train', 'test')}, r"no row whose split is 'test'"),
    ({'split_values': ('0',)}, 'wanted two'),
  ],
)
def test_tables_that_do_not_fit_are_named(change, message, tmp_path):
  source = faces(tmp_path)
  with pytest.raises(ValueError, match=message):
    found(tmp_path, columns_of(tmp_path, **change), source)


def test_images_that_are_not_there_are_named(tmp_path):
  source = faces(tmp_path)
  (pathlib.Path(source) / NAMES[2]).unlink()  # of evaluation
  with pytest.raises(ValueError, match='names 1 images .* there.*000003'):
    found(tmp_path, columns_of(tmp_path), source)


def test_a_split_is_said_once(tmp_path):
  source = faces(tmp_path)
  for change in ({'v': 'other'}, {'f': 0.5}):
    with pytest.raises(ValueError, match='--split_column says the split'):
      found(tmp_path, columns_of(tmp_path), source, **change)


def write_celeba(folder):
  """CelebA's two lists and its folder, small."""
  random = np.random.default_rng(0)
  images = folder / 'img_align_celeba'
  images.mkdir()
  for name in NAMES:
    pixels = random.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / name)
  attributes = ['Blond_Hair', 'Male', 'Young']
  rows = [
    f'{name} {blond:2d} {male:2d} {young:2d} '
    for name, blond, male, young in zip(NAMES, BLOND, MALE, YOUNG, strict=True)
  ]
  (folder / 'list_attr_celeba.txt').write_text(
    '\n'.join([str(IMAGES), ' '.join(attributes) + ' ', *rows]) + '\n'
  )
  (folder / 'list_eval_partition.txt').write_text(
    ''.join(f'{n} {s}\n' for n, s in zip(NAMES, SPLIT, strict=True))
  )
  table_of().drop(columns='split').to_csv(
    folder / 'list_attr_celeba.csv', index=False
  )
  table_of()[['image_id', 'split']].rename(
    columns={'split': 'partition'}
  ).to_csv(folder / 'list_eval_partition.csv', index=False)


def test_celeba_is_made_by_the_lines_of_the_documents(tmp_path):
  """Both forms of its lists make one table, and that makes its records."""
  write_celeba(tmp_path)
  text = (ROOT / 'docs' / 'your_data.md').read_text()
  section = text.split('## Attributes and groups')[1].split('\n## ')[0]
  forms = re.findall('```python\n(.*?)```', section, re.DOTALL)
  assert len(forms) == 2
  made = []
  for form in forms:
    subprocess.run([sys.executable, '-c', form], cwd=tmp_path, check=True)
    made.append((tmp_path / 'celeba.csv').read_bytes())
  assert made[0] == made[1]
  columns = image_tables.Columns(
    str(tmp_path / 'celeba.csv'),
    '',
    'Blond_Hair',
    ('Male',),
    'split',
    ('0', '2'),
  )
  data = str(tmp_path / 'data')
  options = {
    'train_directory': str(tmp_path / 'img_align_celeba'),
    'validation_labels': columns,
    'description': {'name': 'celeba', 'image_size': 16, 'resize_size': 16},
  }
  records = build_image_data.run('folders', data, **options)
  assert records.class_names == ('not Blond_Hair', 'Blond_Hair')
  assert records.class_keys == ()
  _, examples = test_build_image_data.read(data, 'eval')
  labels = {example.key: example.label for example in examples}
  of_eval = SPLIT == 2
  assert labels == dict(
    zip(np.array(NAMES)[of_eval], (BLOND[of_eval] > 0).astype(int), strict=True)
  )
  groups = csvs.read(tables.GROUPS, paths.image_groups(data, 'eval'))
  is_male = groups.set_index('image_key')['group'] == 'Male'
  assert is_male.to_dict() == dict(
    zip(np.array(NAMES)[of_eval], MALE[of_eval] > 0, strict=True)
  )
  # Again: nothing to do; with other groups it is another data set.
  assert build_image_data.run('folders', data, **options) == records
  other = image_tables.Columns(
    columns.path, '', 'Blond_Hair', ('Young',), 'split', ('0', '2')
  )
  with pytest.raises(ValueError, match='other groups than these flags make'):
    build_image_data.run(
      'folders', data, **(options | {'validation_labels': other})
    )


def write_predictions(study, members=4):
  """Of dense members, and of compressed ones that call blond men not blond."""
  data = str(study / 'data')
  _, examples = test_build_image_data.read(data, 'eval')
  (shard,) = image_records.find_shards(data, 'eval')
  label = np.array([example.label for example in examples])
  is_male = np.array([MALE[NAMES.index(e.key)] > 0 for e in examples])
  folder = study / 'results/faces/predictions_dataframe/eval'
  folder = folder / pathlib.Path(shard).name
  folder.mkdir(parents=True)
  for level in (('baseline', 0.0), ('threshold', 0.9)):
    for replicate in range(members):
      said = label * ~is_male if level[1] else label
      pd.DataFrame(
        {
          'image_key': [example.key for example in examples],
          'image_index': range(len(examples)),
          'true_class': label,
          'predictions': said,
          # Members differ in how sure they are, for copies are refused.
          'predicted_probability': 0.9 + 0.01 * replicate,
          'filename': folder.name,
          'split': 'eval',
          'pruning_method': level[0],
          'fraction_pruned': level[1],
          'replicate': replicate,
        }
      ).to_csv(folder / f'{level[0]}_{replicate}.csv', index=False)
  return is_male


def test_groups_flow_through_all_scripts(runner):
  """From the table to the page, and no script after the first has a flag."""
  study = runner.scratch / 'faces'
  study.mkdir()
  write_celeba(study)
  table_of().to_csv(study / 'celeba.csv', index=False)
  build = Stage(
    'save_checkpoint.build_image_data',
    (
      *('--study=.', '--source=folders', '--dataset_name=faces'),
      *('--train_directory=img_align_celeba', '--image_table=celeba.csv'),
      *('--class_column=Blond_Hair', '--group_columns=Male,Young'),
      *('--split_column=split', '--split_values=0,2'),
      *('--image_size=16', '--resize_size=16'),
    ),
  )
  runner.finish(build, study)
  is_male = write_predictions(study)
  stages = {str(stage): stage for stage in STAGES}
  for name in (
    *('aggregate_predictions', 'measure_costs', 'aggregate_ckpt_metrics'),
    *('gen_tstatistic', 'headline_table', 'gallery'),
  ):
    runner.finish(stages[name], study)
  results = str(study / 'results')
  metrics = csvs.read_all(
    tables.CLASS_METRICS,
    csvs.find(
      tables.CLASS_METRICS, paths.group_metrics_folder(results, 'faces', 'eval')
    ),
  )
  assert set(metrics['class']) == {'Male', 'not Male', 'Young', 'not Young'}
  of_male = metrics[metrics['class'] == 'Male']
  assert set(of_male['support']) == {is_male.sum()}
  place = results, 'faces', 'eval'
  odds = csvs.read(tables.GROUP_COSTS, paths.group_costs(*place))
  odds = odds[odds['measure'] == headline_rows.EQUALISED_ODDS].iloc[0]
  assert odds['verdict'] == 'differs' and odds['value'] > 0.5
  headline = csvs.read(tables.HEADLINE, paths.headline_table(results))
  rows = headline[headline['pruning_fraction'] == 0.9].set_index('measure')
  assert rows.loc[headline_rows.EQUALISED_ODDS, 'value'] == odds['value']
  assert headline_rows.LOWEST_OF_GROUPS in rows.index
  said = csvs.read(tables.VERDICTS, paths.verdicts(*place))
  said = said.set_index('about')['sentence']
  assert 'false positives or false negatives' in said['odds']
  assert 'groups moved' in said['groups']
  page = pathlib.Path(paths.gallery(*place))
  assert 'id="group"' in (page / 'index.html').read_text()
  assert 'group-costs-table' in (page / 'index.html').read_text()
  assert (
    '"groups":["Male","Young","not Male","not Young"]'
    in (page / 'data.js').read_text()
  )
