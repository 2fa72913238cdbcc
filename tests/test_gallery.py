"""The page of PIEs: its numbers, its images, and the page in a browser."""

import http.server
import importlib.resources
import io
import json
import pathlib
import re
import shutil
import tarfile
import threading

import markupsafe
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from per_class_accuracy import aggregate_ckpt_metrics
from pie_dataset_gen import (
  aggregate_predictions,
  gallery,
  gallery_commands,
  gallery_data,
  gallery_figures,
  gallery_tables,
  glossary,
  headline_table,
  measure_costs,
  rank_suspects,
  rounding,
  solidity,
  summarize_annotations,
)
from utils import (
  csvs,
  image_records,
  paths,
  populations,
  shard_files,
  storage,
  tables,
  tfrecords,
)

HTML = '<img src=x onerror="document.title=1"><b>bold</b>'
CLASSES = ('cat', HTML, 'a "quoted", class', "d'og & co")
HOSTILE_KEY = '../../<script>alert(1)</script>,"'
IMAGES, SHARDS, MEMBERS = 60, 2, 4
SUSPECTS = 6
# Of every n-th image.
GROUPS = {HTML: 3, 'even': 2}
LEVELS = tuple(
  populations.Level(*level)
  for level in (('baseline', 0.0), ('threshold', 0.5), ('threshold', 0.9))
)
SIZES = {10: (800, 600), 11: (300, 200)}
# Votes are (class the dense say, classes the pruned members say) - true class.
DENSE_OFF = {3: 1, 4: 1, 5: 1}
PRUNED_OFF = {
  0.5: {0: (1, 1, 1, 0), 3: (0, 0, 0, 0), 5: (2, 2, 2, 1), 4: (1, 1, 1, 1)},
  0.9: dict.fromkeys(range(12), (1, 1, 1, 1)),
}


def key(index):
  return HOSTILE_KEY if index == 2 else f'image {index:03d}'


def true_class(index):
  return index % len(CLASSES)


def shard_of(index):
  return f'validation-{index % SHARDS:05d}-of-{SHARDS:05d}'


def votes(index, level):
  """The classes that the four members of a level say."""
  if level == LEVELS[0]:
    off = [DENSE_OFF.get(index, 0)] * MEMBERS
  else:
    off = PRUNED_OFF[level[1]].get(index, (0,) * MEMBERS)
  return [(true_class(index) + o) % len(CLASSES) for o in off]


def is_pie(index, level):
  def modal(votes):
    return max(votes, key=votes.count)

  return modal(votes(index, level)) != modal(votes(index, LEVELS[0]))


def encoded(index):
  rng = np.random.default_rng(index)
  width, height = SIZES.get(index, (32, 32))
  image = Image.fromarray(
    rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
  )
  data = io.BytesIO()
  if index == 11:
    image.convert('CMYK').save(data, 'JPEG')
  elif index == 10:
    image.save(data, 'JPEG')
  else:
    image.save(data, 'PNG')
  return data.getvalue()


def predictions_of(folder):
  return pathlib.Path(
    paths.predictions_folder(str(folder / 'results'), 'pets', 'eval')
  )


def chances(index, level):
  """p, q and PIE frequency of an image: stand-ins, one of each kind."""
  p = (0.0004, 0.03, 0.2, np.nan)[(index + (level[1] == 0.5)) % 4]
  q = {0.0004: 0.004, 0.03: 0.3}.get(p, np.nan)
  return p, q, np.nan if np.isnan(p) else (1 + index) / (1 + IMAGES)


def solidity_of(index, level):
  p, q, _ = chances(index, level)
  if q <= 0.05:
    return 'solid'
  if p <= 0.05:
    return 'uncertain'
  return 'not tested' if np.isnan(p) else 'may be chance'


def set_chances(results):
  """Gives the modal labels the stand-ins."""
  index_of = {key(i): i for i in range(IMAGES)}
  for path in csvs.find(
    tables.MODAL_LABELS, paths.modal_labels_folder(results, 'pets', 'eval')
  ):
    frame = csvs.read(tables.MODAL_LABELS, path)
    level = populations.level_of(frame.iloc[0])
    found = [chances(index_of[k], level) for k in frame['image_key']]
    columns = ['vote_pvalue', 'vote_qvalue', 'pie_frequency']
    frame[columns] = np.array(found)
    csvs.write(tables.MODAL_LABELS, frame, path)


def write_run(folder):
  """A small run up to the headline table."""
  shards = {}
  for number in range(SHARDS):
    path = paths.shard(str(folder / 'data'), 'validation', number, SHARDS)
    shards[storage.name(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(key(i), encoded(i), true_class(i))
        for i in range(number, IMAGES, SHARDS)
      ],
    )
  image_records.write(
    str(folder / 'data'),
    image_records.ImageRecords('pets', CLASSES, splits={'eval': shards}),
  )
  results = str(folder / 'results')
  predictions = predictions_of(folder)
  for level in LEVELS:
    for replicate in range(MEMBERS):
      for number in range(SHARDS):
        index = range(number, IMAGES, SHARDS)
        path = predictions / shard_of(number) / f'{level}_{replicate}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(
          {
            'image_key': [key(i) for i in index],
            'image_index': range(len(index)),
            'true_class': [true_class(i) for i in index],
            'predictions': [votes(i, level)[replicate] for i in index],
            'predicted_probability': 0.5,
            'pruning_method': level[0],
            'fraction_pruned': level[1],
            'replicate': replicate,
          }
        ).to_csv(path, index=False)
  aggregate_predictions.run(
    str(predictions), results, mode='eval', dataset_name='pets', num_resamples=4
  )
  rows = [
    (name, key(i))
    for name, step in GROUPS.items()
    for i in range(0, IMAGES, step)
  ]
  csvs.write(
    tables.GROUPS,
    pd.DataFrame(rows, columns=['group', 'image_key']),
    str(folder / 'groups.csv'),
  )
  measure_costs.run(
    str(predictions),
    results,
    mode='eval',
    dataset_name='pets',
    groups_file=str(folder / 'groups.csv'),
  )
  set_chances(results)
  headline_table.run(results, mode='eval', dataset_name='pets')
  verdicts = [
    {
      'pruning_method': level[0],
      'pruning_fraction': level[1],
      'about': about,
      'verdict': 'differs',
      'sentence': f'At {level[1]} the {about} <differ>.',
    }
    for level in LEVELS[:0:-1]
    for about in ('images', 'classes')
  ]
  csvs.write(
    tables.VERDICTS,
    pd.DataFrame(verdicts),
    paths.verdicts(results, 'pets', 'eval'),
  )
  rank_suspects.run(results, mode='eval', dataset_name='pets')


def arguments(folder, **changes):
  return {
    'data_directory': str(folder / 'data'),
    'results_directory': str(folder / 'results'),
    'mode': 'eval',
    'numbers': (20, SUSPECTS),
    'groups_file': str(folder / 'groups.csv'),
    **changes,
  }


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
  # Deep enough that what leads out of it is not among other tests' files.
  folder = tmp_path_factory.mktemp('gallery') / 'around' / 'run'
  write_run(folder)
  gallery.run(**arguments(folder))
  return folder


@pytest.fixture(scope='module')
def page_folder(run_folder):
  return pathlib.Path(
    paths.gallery(str(run_folder / 'results'), 'pets', 'eval')
  )


@pytest.fixture
def copy_of_run(run_folder, tmp_path):
  return pathlib.Path(shutil.copytree(run_folder, tmp_path / 'run'))


def read_data(page_folder):
  text = (page_folder / 'data.js').read_text()
  prefix = 'window.gallery = '
  assert text.startswith(prefix)
  return json.loads(text.removeprefix(prefix).rstrip(';\n'))


def test_data_equals_modal_labels(run_folder, page_folder):
  data = read_data(page_folder)
  labels = csvs.read_all(
    tables.MODAL_LABELS,
    csvs.find(
      tables.MODAL_LABELS,
      paths.modal_labels_folder(str(run_folder / 'results'), 'pets', 'eval'),
    ),
  )
  assert [(x['method'], x['fraction']) for x in data['levels']] == list(
    LEVELS[1:]
  )
  for at, level in enumerate(data['levels']):
    rows = labels[labels['pruning_fraction'] == level['fraction']]
    pies = rows['baseline_modal_label'] != rows['variant_modal_label']
    assert (level['pies'], level['images']) == (pies.sum(), IMAGES)
    ranks = rows['taxicab_distance'].rank(method='min', ascending=False)
    rows = rows.assign(rank=ranks).set_index('image_key')
    for image in data['images']:
      row = rows.loc[image['key']]
      assert image['label'] == row['true_class_label']
      assert image['shard'] == row['filename']
      dense, pruned = image['dense'], image['compressed'][at]
      for said, who in ((dense, 'baseline'), (pruned, 'variant')):
        assert said['label'] == row[f'{who}_modal_label']
        assert said['share'] == row[f'{who}_vote_share']
        assert said['members'] == row[f'{who}_number_observ']
      assert pruned['taxicab'] == row['taxicab_distance']
      assert pruned['rank'] == row['rank']


def test_pies_and_questions_stand_on_the_page(page_folder):
  html = (page_folder / 'index.html').read_text()
  (pies,) = re.findall(r'id="pies">([^<]*)</script>', html)
  images = read_data(page_folder)['images']
  index_of = {key(i): i for i in range(IMAGES)}
  assert json.loads(pies) == [
    [int(is_pie(index_of[image['key']], level)) for image in images]
    for level in LEVELS[1:]
  ]
  asked = re.findall(r'<input type="checkbox" name="(\w+)"> <kbd>(\d)', html)
  assert asked == [
    (column.name, str(number))
    for number, column in enumerate(tables.QUESTIONS, 1)
  ]


def test_votes_are_those_of_the_members(page_folder):
  index_of = {key(i): i for i in range(IMAGES)}
  for image in read_data(page_folder)['images']:
    index = index_of[image['key']]
    said = [image['dense'], *image['compressed']]
    for population, level in zip(said, LEVELS, strict=True):
      cast = votes(index, level)
      assert dict(population['votes']) == {c: cast.count(c) for c in cast}


def test_all_pies_and_others_of_their_classes(run_folder):
  labels = csvs.read_all(
    tables.MODAL_LABELS,
    csvs.find(
      tables.MODAL_LABELS, str(run_folder / 'results/pets/modal_labels')
    ),
  )
  pies = {
    key(i) for i in range(IMAGES) if any(is_pie(i, x) for x in LEVELS[1:])
  }
  for number in (0, 3, IMAGES):
    chosen = gallery_data.choose_images(labels, number)
    assert pies <= set(chosen['image_key'])
    others = chosen[~chosen['image_key'].isin(pies)].drop_duplicates(
      'image_key'
    )
    present = labels[~labels['image_key'].isin(pies)].drop_duplicates(
      'image_key'
    )
    assert others.groupby('true_class_label').size().to_dict() == {
      c: min(number, n)
      for c, n in present.groupby('true_class_label').size().items()
      if number
    }
    shuffled = gallery_data.choose_images(
      labels.sample(frac=1, random_state=0), number
    )
    pd.testing.assert_frame_equal(
      shuffled.reset_index(drop=True), chosen.reset_index(drop=True)
    )


def test_small_images_are_copied_and_large_ones_scaled(page_folder):
  for image in read_data(page_folder)['images']:
    index = next(i for i in range(IMAGES) if key(i) == image['key'])
    large, small = page_folder / image['large'], page_folder / image['small']
    assert tuple(image['size']) == SIZES.get(index, (32, 32))
    if index in SIZES:
      assert Image.open(large).mode == 'RGB'
      assert max(Image.open(large).size) == min(500, max(image['size']))
      assert max(Image.open(small).size) == 160
    else:
      assert large.read_bytes() == encoded(index)
      assert small == large
    assert large.parent.parent == page_folder / 'images'


def test_nothing_is_written_outside(run_folder, page_folder):
  data = read_data(page_folder)
  referenced = {
    page_folder / i[size] for i in data['images'] for size in ('large', 'small')
  }
  written = {p for p in page_folder.rglob('*') if p.is_file()}
  assert {p for p in written if p.suffix in ('.png', '.jpg')} == referenced
  assert not [p for p in run_folder.parents[1].rglob('*script*') if p.is_file()]


def write_tar(path, images):
  with tarfile.open(path, 'w') as tar:
    for i in images:
      info = tarfile.TarInfo(key(i))
      info.size = len(encoded(i))
      tar.addfile(info, io.BytesIO(encoded(i)))
  return str(path)


def test_a_tar_gives_the_page_of_the_records(copy_of_run, page_folder):
  source = write_tar(copy_of_run / 'images.tar', range(IMAGES))
  options = {'image_directory': source}
  page = pathlib.Path(gallery.run(**arguments(copy_of_run, **options)))
  data = read_data(page.parent)
  assert data == read_data(page_folder)
  for image in data['images']:
    for path in {image['large'], image['small']}:
      assert (page.parent / path).read_bytes() == (
        page_folder / path
      ).read_bytes()
  # Without the description of the data set classes have their ids.
  options |= {'data_directory': '', 'dataset_name': 'pets'}
  gallery.run(**arguments(copy_of_run, **options))
  without = read_data(page.parent)
  assert without['classes'] == [str(i) for i in range(len(CLASSES))]
  assert [i['key'] for i in without['images']] == [
    i['key'] for i in data['images']
  ]


def test_images_that_a_tar_lacks_are_counted_and_named(copy_of_run, caplog):
  source = write_tar(copy_of_run / 'images.tar', range(2, IMAGES))
  options = {'image_directory': source}
  page = pathlib.Path(gallery.run(**arguments(copy_of_run, **options)))
  assert 'lacks 2 of' in caplog.text
  assert f'{key(0)}, {key(1)}' in caplog.text
  note = re.search('id="missing".*?</p>', page.read_text(), re.DOTALL)[0]
  assert 'images 2 are missing' in note and f'{key(0)}, {key(1)}' in note
  shown = {i['key']: i['small'] for i in read_data(page.parent)['images']}
  lost = [name for name, path in shown.items() if path == 'images/missing.png']
  assert lost == [key(0), key(1)]
  assert (page.parent / 'images' / 'missing.png').exists()


def test_classes_in_another_order_are_refused(copy_of_run):
  """By every script that takes their names, before it writes anything."""
  path = copy_of_run / 'classes.csv'
  rows = {'class_id': range(len(CLASSES)), 'class_name': CLASSES[::-1]}
  pd.DataFrame(rows).to_csv(path, index=False)
  shutil.rmtree(copy_of_run / 'results' / 'pets' / 'gallery')
  results = str(copy_of_run / 'results')
  before = sorted((copy_of_run / 'results').rglob('*'))
  data = str(copy_of_run / 'data')
  names = {'classes_file': str(path)}
  message = f'calls class 0 "{CLASSES[-1]}", the data set pets calls it .cat.'
  with pytest.raises(ValueError, match=message):
    gallery.run(**arguments(copy_of_run, **names))
  with pytest.raises(ValueError, match=message):
    rank_suspects.run(results, mode='eval', data_directory=data, **names)
  with pytest.raises(ValueError, match=message):
    aggregate_ckpt_metrics.run(
      ckpt_dir=[],
      predictions_directory=str(predictions_of(copy_of_run)),
      data_directory=data,
      output_path=results,
      mode='eval',
      dataset_name='',
      num_classes=None,
      groups_file='',
      batch_size=1,
      preprocessing='legacy',
      compute_precision='float32',
      label_smoothing=0.1,
      **names,
    )
  assert sorted((copy_of_run / 'results').rglob('*')) == before


def test_made_again_alike(copy_of_run, page_folder):
  again = pathlib.Path(gallery.run(**arguments(copy_of_run))).parent
  for path in again.rglob('*'):
    # The page names the time and the folders of the commands.
    if path.is_file() and path.suffix not in ('.json', '.html'):
      same = page_folder / path.relative_to(again)
      assert path.read_bytes() == same.read_bytes(), path


def test_without_the_optional_parts(copy_of_run):
  shutil.rmtree(predictions_of(copy_of_run))
  results = str(copy_of_run / 'results')
  for path in (
    paths.headline_table(results),
    paths.verdicts(results, 'pets', 'eval'),
    paths.pie_null(results, 'pets', 'eval'),
    paths.suspects(results, 'pets', 'eval'),
  ):
    pathlib.Path(path).unlink()
  page = pathlib.Path(
    gallery.run(**arguments(copy_of_run, numbers=(0, SUSPECTS)))
  )
  data = read_data(page.parent)
  assert all(i['dense']['votes'] == [] for i in data['images'])
  html = page.read_text()
  assert 'id="headline"' not in html
  # What is not there has who makes it.
  for table in (tables.HEADLINE, tables.VERDICTS):
    assert f'<code>python -m {table.written_by}</code>' in html
  suspected = {row['key'] for row in data['suspects']}
  assert len(suspected) == SUSPECTS
  assert len(data['images']) == sum(
    key(i) in suspected or any(is_pie(i, level) for level in LEVELS[1:])
    for i in range(IMAGES)
  )


def test_verdicts_and_suspects_are_found_where_none_are_written(copy_of_run):
  results = str(copy_of_run / 'results')
  for path in (
    paths.verdicts(results, 'pets', 'eval'),
    paths.suspects(results, 'pets', 'eval'),
  ):
    pathlib.Path(path).unlink()

  def made():
    page = pathlib.Path(gallery.run(**arguments(copy_of_run)))
    html = page.read_text()
    verdicts = re.search('id="verdicts".*?</section>', html, re.DOTALL)
    return read_data(page.parent), verdicts[0]

  found = made()
  headline_table.run(results, mode='eval', dataset_name='pets')
  rank_suspects.run(results, mode='eval', dataset_name='pets')
  assert found == made()
  assert len(found[0]['suspects']) == SUSPECTS
  assert 'class="verdict">images: differs' in found[1]


def change_labels(folder, change):
  for path in csvs.find(
    tables.MODAL_LABELS, str(folder / 'results/pets/modal_labels')
  ):
    frame = change(csvs.read(tables.MODAL_LABELS, path))
    csvs.write(tables.MODAL_LABELS, frame, path)


def test_labels_of_another_run_are_refused(copy_of_run):
  change_labels(copy_of_run, lambda f: f.assign(variant_vote_share=0.25))
  with pytest.raises(ValueError, match='votes for class'):
    gallery.run(**arguments(copy_of_run))


def test_levels_of_several_runs_are_refused(copy_of_run):
  def other_dense(frame):
    if frame['pruning_fraction'].iloc[0] == 0.9:
      frame = frame.assign(baseline_vote_share=0.5)
    return frame

  change_labels(copy_of_run, other_dense)
  with pytest.raises(ValueError, match='one run of aggregate_predictions'):
    gallery.run(**arguments(copy_of_run))


def test_other_classes_are_refused(copy_of_run):
  def other_class(frame):
    return frame.assign(true_class_label=(frame['true_class_label'] + 1) % 4)

  change_labels(copy_of_run, other_class)
  with pytest.raises(ValueError, match='ranks the image .* of class'):
    gallery.run(**arguments(copy_of_run))
  with pytest.raises(ValueError, match='is of class'):
    gallery.run(**arguments(copy_of_run, numbers=(20, 0)))


def test_a_null_of_another_run_is_refused(copy_of_run):
  path = paths.pie_null(str(copy_of_run / 'results'), 'pets', 'eval')
  null = csvs.read(tables.PIE_NULL, path)
  csvs.write(tables.PIE_NULL, null.assign(pie_count=1), path)
  with pytest.raises(ValueError, match='one run of aggregate_predictions'):
    gallery.run(**arguments(copy_of_run))


def ranked_suspects(folder):
  path = paths.suspects(str(folder / 'results'), 'pets', 'eval')
  return csvs.read(tables.SUSPECTS, path)


def test_the_first_suspects_are_on_the_page(run_folder, page_folder):
  data = read_data(page_folder)
  first = ranked_suspects(run_folder)[:SUSPECTS]
  assert [s['key'] for s in data['suspects']] == first['image_key'].tolist()
  assert {s['key'] for s in data['suspects']} <= {
    i['key'] for i in data['images']
  }
  for shown, row in zip(
    data['suspects'], first.to_dict('records'), strict=True
  ):
    assert shown['rank'] == row['rank']
    assert shown['agree'] == row['correct_share']
    assert shown['suggesting'] == row['suggested_share']
    assert shown['suggested'] == row['suggested_label']
    if np.isnan(row['vote_qvalue']):
      assert shown['q'] is None
    else:
      assert shown['q'] == row['vote_qvalue']
      assert shown['level'] == row['vote_qvalue_level']


def test_suspects_are_no_random_choice(copy_of_run):
  """A study draws from the same images, whatever is suspected."""

  def drawn(number):
    page = gallery.run(**arguments(copy_of_run, numbers=(20, number)))
    data = read_data(pathlib.Path(page).parent)
    return data, {i['key'] for i in data['images'] if i['drawn']}

  pies = {
    key(i) for i in range(IMAGES) if any(is_pie(i, x) for x in LEVELS[1:])
  }
  few, of_few = drawn(0)
  every, of_every = drawn(IMAGES)
  assert len(every['images']) == IMAGES
  assert of_few == of_every
  assert not of_few & pies
  assert few['digest'] == every['digest']


def test_p_q_and_frequency_are_those_of_the_modal_labels(page_folder):
  index_of = {key(i): i for i in range(IMAGES)}
  data = read_data(page_folder)
  for image in data['images']:
    for said, level in zip(image['compressed'], LEVELS[1:], strict=True):
      index = index_of[image['key']]
      for name, chance in zip(
        ('p', 'q', 'frequency'), chances(index, level), strict=True
      ):
        if np.isnan(chance):
          assert said[name] is None
        else:
          assert said[name] == pytest.approx(chance, rel=1e-3)
      word = data['solidity'][said['solidity']]
      assert word == solidity_of(index, level)


def test_levels_stand_with_ties_and_what_their_pies_are_worth(run_folder):
  results = str(run_folder / 'results')
  labels = csvs.read_all(
    tables.MODAL_LABELS,
    csvs.find(
      tables.MODAL_LABELS, paths.modal_labels_folder(results, 'pets', 'eval')
    ),
  )
  null = csvs.read(tables.PIE_NULL, paths.pie_null(results, 'pets', 'eval'))
  lines = gallery_tables.levels(labels, null)
  assert [line['name'] for line in lines] == ['threshold 0.5', 'threshold 0.9']
  for line, level in zip(lines, LEVELS[1:], strict=True):
    pies = [i for i in range(IMAGES) if is_pie(i, level)]
    assert line['pies'] == len(pies) == sum(line['words'])
    words = [solidity_of(i, level) for i in pies]
    assert line['words'] == [words.count(word) for word in solidity.MEANINGS]
    row = null[null['pruning_fraction'] == level[1]].iloc[0]
    assert line['by_ties'] == row['pie_by_tie_rule_count']
  # Without a null the counts stand alone.
  alone = gallery_tables.levels(labels, csvs.empty(tables.PIE_NULL))
  assert {line['by_ties'] for line in alone} == {None}


def headline_of(cells):
  """Rows of a table of findings: measure, level -> value, ends, reason."""
  return pd.DataFrame(
    [
      {
        'measure': measure,
        'pruning_method': level[0],
        'pruning_fraction': level[1],
        'value': value,
        'low': low,
        'high': high,
        'not_available': reason,
      }
      for measure, level, value, low, high, reason in cells
    ]
  )


def test_a_number_without_an_interval_has_its_caveat():
  level, nan = LEVELS[1], np.nan
  found = gallery_tables.headline(
    headline_of(
      [
        ('top-1', LEVELS[0], 0.96869, nan, nan, ''),
        ('top-1', level, 0.9, nan, nan, ''),
        ('PIEs', LEVELS[0], nan, nan, nan, 'the baseline is what ...'),
        ('PIEs', level, 12, 5.862, 18.14, ''),
        ('loss on x, clean = 1', level, 4.778, nan, nan, 'may be none'),
        ('top-5', level, nan, nan, nan, 'no top-5'),
      ]
    )
  )
  assert found['levels'] == ['dense', 'threshold 0.5']
  assert found['notes'] == [
    'no interval: may be none',
    'not available: no top-5',
  ]
  rows = {row['measure']: row for row in found['rows']}
  assert [row['is_short'] for row in rows.values()] == [
    True,
    True,
    False,
    False,
  ]
  dense, pies = rows['PIEs']['cells']
  assert (dense['note'], 'text' in dense) == (0, False)
  assert (pies['text'], pies['ends']) == ('12', [(5.862, '6'), (18.14, '18')])
  nothing, loss = rows['loss on x, clean = 1']['cells']
  assert nothing['not_available'] == 'no data'
  assert (loss['text'], loss['note']) == ('4.78', 1)
  assert rows['top-5']['cells'][1]['note'] == 2
  # A table of other measures is shown whole.
  other = gallery_tables.headline(headline_of([('x', level, 1, nan, nan, '')]))
  assert other['rows'][0]['is_short']


def rewrite_shard(folder, change):
  """Replaces the examples of the first shard."""
  data = folder / 'data'
  path = str(data / shard_of(0))
  examples = change(list(shard_files.read_records(path)))
  shard = shard_files.write(path, examples)
  records = image_records.read(str(data))
  records.splits['eval'][shard_of(0)] = shard
  image_records.write(str(data), records)


def test_a_missing_image_is_named(copy_of_run):
  rewrite_shard(copy_of_run, lambda examples: examples[2:])
  with pytest.raises(ValueError, match=r'00000-of-00002 lacks 2 images'):
    gallery.run(**arguments(copy_of_run))


def test_an_undecodable_image_is_named(copy_of_run):
  def damage(examples):
    examples[0] = tfrecords.encode(key(0), encoded(0)[:200], true_class(0))
    return examples

  rewrite_shard(copy_of_run, damage)
  with pytest.raises(ValueError, match='record 0, key .image 000'):
    gallery.run(**arguments(copy_of_run))
  # The page that was there is still whole.
  assert (copy_of_run / 'results/pets/gallery/eval/index.html').exists()


def test_an_image_that_stands_twice_is_named(copy_of_run):
  rewrite_shard(copy_of_run, lambda examples: [*examples, examples[0]])
  with pytest.raises(ValueError, match="holds the image 'image 000' twice"):
    gallery.run(**arguments(copy_of_run))


def test_figures_are_shown_where_they_are(copy_of_run):
  robustness = copy_of_run / 'robustness'
  asked = arguments(copy_of_run, robustness_directory=str(robustness))
  with pytest.raises(FileNotFoundError, match='no .*robustness.*summarize'):
    gallery.run(**asked)
  robustness.mkdir()
  assert 'Accuracy off' not in pathlib.Path(gallery.run(**asked)).read_text()
  drawn = (
    paths.robustness_figure(str(robustness), 'svg'),
    paths.class_impact_figure(
      str(copy_of_run / 'results'), 'pets', 'eval', 'x', 'svg'
    ),
  )
  for path in drawn:
    storage.write_complete(path, '<svg/>')
  page = pathlib.Path(gallery.run(**asked))
  for path in drawn:
    name = f'figures/{storage.name(path)}'
    assert f'"{name}"' in page.read_text()
    assert (page.parent / name).read_text() == '<svg/>'


def findings(levels, measures):
  return headline_of(
    [
      (measure, level, value, value * 0.5, value * 1.5, '')
      for level in levels
      for measure, value in measures.items()
    ]
  )


MEASURES = {
  'PIEs': 12.0,
  'PIEs by chance, memberships permuted': 9.0,
  **{
    f'top-1 of {who} on {images}': 0.5
    for who in ('dense', 'compressed')
    for images in ('all images', 'PIEs', 'the others', 'chance PIEs')
  },
}


def test_costs_stand_beside_what_training_alone_gives(copy_of_run):
  html = pathlib.Path(gallery.run(**arguments(copy_of_run))).read_text()
  costs = csvs.read(
    tables.COSTS, paths.costs(str(copy_of_run / 'results'), 'pets', 'eval')
  )
  by_level = populations.by_level(costs)
  del by_level[populations.DENSE]
  (table,) = re.findall(r'<table id="costs-table">(.*?)</table>', html, re.S)
  (body,) = re.findall('<tbody>(.*?)</tbody>', table, re.S)
  lines = [
    [
      markupsafe.Markup(cell).striptags()
      for cell in re.findall('<t[hd][^>]*>(.*?)</t[hd]>', line, re.S)
    ]
    for line in re.findall('<tr>(.*?)</tr>', body, re.S)
  ]
  assert [line[0] for line in lines] == list(
    next(iter(by_level.values()))['measure']
  )
  for measure, *cells in lines:
    assert len(cells) == 3 * len(by_level)
    for at, rows in enumerate(by_level.values()):
      row = rows.set_index('measure').loc[measure]
      value, beside, verdict = cells[3 * at : 3 * at + 3]
      assert value.startswith(rounding.number(row['value'], measure))
      if not np.isnan(row['reference']):
        assert beside == rounding.number(
          row['reference'], measure, row['value']
        )
      assert verdict.startswith(row['verdict'])
  results = str(copy_of_run / 'results')
  # The same of corrupted images.
  csvs.write(
    tables.CORRUPTED_COSTS,
    costs.assign(data_set='fog_1', images=IMAGES),
    paths.corrupted_costs(results, 'pets', 'eval'),
  )
  # Without the table there is no place for it.
  csvs.write(
    tables.COSTS,
    costs[:0],
    paths.costs(str(copy_of_run / 'results'), 'pets', 'eval'),
  )
  html = pathlib.Path(gallery.run(**arguments(copy_of_run))).read_text()
  assert 'id="costs-table"' not in html
  assert 'fog_1: ' in html.split('id="corrupted-costs-table"')[1]


def test_what_is_paid_is_drawn_against_what_is_bought():
  levels = [
    populations.Level(*level)
    for level in (('baseline', 0.0), ('int8', 0.0), ('threshold', 0.9))
  ]
  ratios = {'compression ratio': 4.0, 'theoretical speed-up': 3.0}
  rows = findings(levels, {'top-1': 0.9, **ratios})
  assert gallery_figures.is_bought(rows)
  figure = gallery_figures.draw_bought(rows)
  for axes, (measure, ratio) in zip(figure.axes, ratios.items(), strict=True):
    assert axes.get_xlabel() == measure
    assert [text.get_text() for text in axes.texts] == [
      level.words for level in levels
    ]
    assert {tuple(point) for point in points_of(axes)} >= {(ratio, 0.9)}
  for rest in (rows[rows['measure'] != 'top-1'], rows[:2], rows[:0]):
    assert not gallery_figures.is_bought(rest)


def test_reliability_is_drawn_where_it_is_known(copy_of_run):
  page = pathlib.Path(gallery.run(**arguments(copy_of_run)))
  assert '"figures/reliability.svg"' in page.read_text()
  path = paths.reliability(str(copy_of_run / 'results'), 'pets', 'eval')
  rows = csvs.read(tables.RELIABILITY, path)
  figure = gallery_figures.draw_reliability(rows)
  assert len(figure.axes) == len(LEVELS) - 1
  for axes in figure.axes:
    found = {tuple(point) for point in points_of(axes)}
    assert set(map(tuple, rows[['confidence', 'accuracy']].to_numpy()[:3])) <= (
      found
    )
  csvs.write(tables.RELIABILITY, rows[:0], path)
  page = pathlib.Path(gallery.run(**arguments(copy_of_run)))
  assert 'reliability.svg' not in page.read_text()


def points_of(axes):
  """Of all lines and points that are drawn: x and y."""
  return np.concatenate([line.get_xydata() for line in axes.lines])


@pytest.mark.parametrize(
  'levels',
  [
    [('int8', 0.0)],
    [('threshold', 0.9)],
    [('int8', 0.0), ('threshold', 0.5), ('threshold', 0.9)],
  ],
)
@pytest.mark.parametrize('count', [0.0, 12.0, 1181.0])
def test_all_points_lie_within_axes_that_say_something(levels, count):
  levels = [populations.Level(*level) for level in levels]
  measures = MEASURES | {'PIEs': count, 'top-1 of dense on PIEs': 0.0}
  rows = findings(levels, measures | {'top-1 of dense on all images': 1.0})
  figure = gallery_figures.draw_findings(rows)
  methods = sorted({level[0] for level in levels})
  assert len(figure.axes) == 2 * len(methods)
  for at, axes in enumerate(figure.axes):
    method = methods[at // 2]
    several = sum(level[0] == method for level in levels) > 1
    ((left, right), (bottom, top)) = axes.get_xlim(), axes.get_ylim()
    points = points_of(axes)
    assert len(points)
    x, y = points[~np.isnan(points).any(axis=1)].T
    assert left < x.min() <= x.max() < right
    assert bottom <= y.min() <= y.max() < top
    assert top - bottom >= 1
    # A fraction is an axis only where there is more than one.
    assert axes.get_xlabel().startswith('fraction') == several
    assert method in axes.get_title()


def test_without_numbers_there_is_a_figure_or_none():
  level = populations.Level('int8', 0.0)
  rows = headline_of([('PIEs', level, np.nan, np.nan, np.nan, 'no data')])
  assert gallery_figures.is_drawn(rows)
  assert len(gallery_figures.draw_findings(rows).axes) == 2
  dense = rows.assign(pruning_method='baseline')
  assert not gallery_figures.is_drawn(dense)
  assert not gallery_figures.is_drawn(csvs.empty(tables.HEADLINE))


def test_the_chance_control_is_drawn_and_told():
  levels = [populations.Level('threshold', x) for x in (0.5, 0.9)]
  with_chance = findings(levels, MEASURES)
  without = with_chance[~with_chance['measure'].str.contains('chance')]
  for rows, number in ((with_chance, 2), (without, 0)):
    accuracy, counts = gallery_figures.draw_findings(rows).axes
    told = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert sum('chance PIEs' in text for text in told) == number
    told = [text.get_text() for text in counts.get_legend().get_texts()]
    assert any('chance' in text for text in told) == bool(number)


def test_every_class_figure_has_its_own_caption(tmp_path):
  levels = [populations.Level('int8', 0.0), populations.Level('threshold', 0.9)]
  names = {'a': 'int8_0.0', 'b': 'threshold_0.9', 'c': 'significant_classes'}
  found = gallery_figures.class_impact_captions(names, levels)
  assert list(found) == ['a', 'b', 'c']
  assert found['a'].startswith('int8: ')
  assert found['b'].startswith('threshold 0.9: ')
  assert found['c'].startswith('All levels: ')
  assert found['c'].endswith('what permuted membership of all members gives.')


def test_results_under_another_name_are_named(copy_of_run):
  message = r'holds .*pets.*pie_dataset_gen.aggregate_predictions writes it'
  with pytest.raises(FileNotFoundError, match=message):
    gallery.run(**arguments(copy_of_run, dataset_name='imagenet'))


def test_the_command_that_trained_a_population_is_listed(copy_of_run):
  experiment = copy_of_run / 'checkpoints/pets'
  member = experiment / 'baseline/0.0/0/0/0/0'
  storage.write_complete(member / 'model.ckpt-4.index', '')
  for folder, flag in ((experiment, 'whole'), (experiment.parent, 'others')):
    record = {
      'script': 'save_checkpoint.imagenet_train_eval',
      'command': ['/x/script.py', f'--flag={flag}'],
      'finished': '2026-01-01',
      'python': '3.11',
      'packages': {},
    }
    path = folder / 'imagenet_train_eval.run.json'
    path.write_text(json.dumps(record))
  (member / 'imagenet_train_eval.run.json').write_text('{"finished": "x"}')
  for pattern in (experiment, member / 'model.ckpt-4'):
    page = gallery.run(**arguments(copy_of_run, ckpt_dir=str(pattern)))
    text = pathlib.Path(page).read_text()
    assert 'imagenet_train_eval --flag=whole' in text
    assert '--flag=others' not in text


def test_commands_of_finished_work_are_listed_once(tmp_path):
  def record(folder, **changes):
    text = {
      'script': 'room.script',
      'command': ['/x/script.py', '--flag=a b'],
      'finished': '2026-01-01',
      'python': '3.11',
      'packages': {},
      **changes,
    }
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'script.run.json').write_text(json.dumps(text))

  record('a')
  record('b', finished='2026-01-02')
  record('c', command=['/x/script.py', '--flag=c'], finished='2026-01-03')
  record('d', command=['/x/script.py', '--flag=d'], finished='')
  (tmp_path / 'c' / 'settings.run.json').write_text('{"width": 1}')
  found = gallery_commands.find([str(tmp_path / name) for name in 'cdab'])
  assert [(of['command'], of['finished']) for of in found] == [
    ("python -m room.script '--flag=a b'", '2026-01-02'),
    ('python -m room.script --flag=c', '2026-01-03'),
  ]
  assert gallery_commands.find([str(tmp_path / 'none')]) == []
  (tmp_path / 'a' / 'script.run.json').write_text('{')
  with pytest.raises(ValueError, match='a/script.run.json is damaged, no JSON'):
    gallery_commands.find([str(tmp_path / 'a')])


def test_a_command_stands_with_its_environment_and_all_flags():
  found = gallery_commands.describe(
    {
      'script': 'room.script',
      'command': ['/x/script.py', '--study=a b'],
      'environment': {'XLA_FLAGS': '--x --y', 'TF_NUM_INTRAOP_THREADS': '1'},
      'flags': {
        'mode': 'eval',
        'b': True,
        'c': False,
        'l': [0.5, 1],
        'n': None,
      },
      'finished': '2026-01-01',
      'python': '3.11',
      'packages': {},
    }
  )
  assert found['command'] == "python -m room.script '--study=a b'"
  assert found['variables'] == "XLA_FLAGS='--x --y' TF_NUM_INTRAOP_THREADS=1"
  assert found['flags'] == '--b --noc --l=0.5,1 --mode=eval'


def test_the_commands_of_all_parts_are_listed_in_their_order(
  copy_of_run, monkeypatch
):
  def record(folder, script, finished, **flag_values):
    text = {
      'script': script,
      'command': [f'/x/{script}.py'],
      'flags': flag_values,
      'finished': finished,
      'python': '3.11',
      'packages': {},
    }
    path = folder / f'{script.split(".")[1]}.run.json'
    storage.write_complete(str(path), json.dumps(text))

  results, robustness = copy_of_run / 'results', copy_of_run / 'robustness'
  for path in copy_of_run.rglob('*.run.json'):
    path.unlink()
  corrupted = copy_of_run / 'corrupted'
  scripts = (
    (copy_of_run / 'data', 'save_checkpoint.build_image_data'),
    (predictions_of(copy_of_run), 'pie_dataset_gen.imagenet_predictions'),
    (
      results / 'pets/modal_labels/eval',
      'pie_dataset_gen.aggregate_predictions',
    ),
    (
      results / 'pets/class_metrics/eval',
      'per_class_accuracy.aggregate_ckpt_metrics',
    ),
    (results / 'pets/eval', 'per_class_accuracy.gen_tstatistic'),
    (corrupted, 'robustness_tests.build_corruptions'),
    (robustness / 'pets_c', 'robustness_tests.imagenet_corruptions'),
    (robustness, 'robustness_tests.summarize'),
    (results / 'pets', 'pie_dataset_gen.rank_suspects'),
    (results, 'pie_dataset_gen.headline_table'),
  )
  for at, (folder, script) in enumerate(scripts):
    where = corrupted if 'imagenet_corruptions' in script else folder
    record(folder, script, f'2026-01-{at + 1:02d}', data_directory=str(where))
  monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '1')
  page = gallery.run(
    **arguments(copy_of_run, robustness_directory=str(robustness))
  )
  html = pathlib.Path(page).read_text()
  (listed,) = re.findall(r'<pre id="commands">(.*?)</pre>', html, re.DOTALL)
  commands = [line for line in listed.split('\n') if line]
  # What the environment had for it stands before a command, as in a shell.
  assert 'TF_NUM_INTRAOP_THREADS=1 ' in commands[-1].partition('python')[0]
  assert [line.partition('python -m ')[2].split()[0] for line in commands] == [
    *(script for _, script in scripts),
    'pie_dataset_gen.gallery',
  ]


# The page in a browser.


def find_browser():
  return shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='module')
def browser():
  if not find_browser():
    pytest.skip('no Chromium here (on Debian: apt install chromium)')
  playwright = pytest.importorskip('playwright.sync_api')
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(
      executable_path=find_browser(), args=['--no-sandbox']
    )
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, page_folder):
  """Opens the page; fails at the end if it complained or went elsewhere."""
  complaints, requests, contexts = [], [], []

  def open_page(url='', **options):
    url = url or f'{page_folder.as_uri()}/index.html'
    context = browser.new_context(**options)
    contexts.append(context)
    page = context.new_page()
    page.on(
      'console',
      lambda m: complaints.append(m.text) if m.type == 'error' else None,
    )
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on('request', lambda request: requests.append(request.url))
    page.goto(url)
    return page

  yield open_page
  roots = tuple(c.pages[0].url.split('/index.html')[0] for c in contexts)
  for context in contexts:
    context.close()
  assert not complaints
  assert requests
  assert not [u for u in requests if not u.startswith((*roots, 'blob:'))]


def keys_shown(page):
  return page.eval_on_selector_all(
    '#grid li', 'items => items.map((item) => item.dataset.key)'
  )


# Also what WCAG 2.2 asks beside axe's own selection: targets of 24 pixels.
AXE_RULES = {
  'light': """runOnly: [
    'wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice',
  ], rules: {'target-size': {enabled: true}}""",
  'dark': "runOnly: ['color-contrast']",
}


@pytest.mark.parametrize('scheme', AXE_RULES)
def test_axe_finds_nothing_that_shuts_people_out(open_page, scheme):
  axe = importlib.resources.files('axe_playwright_python') / 'axe.min.js'
  page = open_page(color_scheme=scheme)
  page.evaluate(axe.read_text())
  seen = set()

  def check():
    # Preloading would fetch the style sheet, which the policy forbids.
    found = page.evaluate(f'axe.run({{preload: false, {AXE_RULES[scheme]}}})')
    assert not [
      (rule['id'], node['html'], node['failureSummary'])
      for rule in found['violations']
      for node in rule['nodes']
    ]
    seen.update(rule['id'] for rule in found['passes'])

  page.evaluate(
    "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
  )
  page.select_option('#kind', '')
  begin(page, 'Ann')
  check()
  page.locator('#grid button').first.click()
  check()
  assert 'color-contrast' in seen
  if scheme == 'light':
    assert seen >= {'label', 'image-alt', 'button-name', 'target-size'}


def test_all_controls_are_reached_and_left_by_keyboard(open_page):
  page = open_page()
  shown = page.evaluate("""() => [...document.querySelectorAll(
    'a, button, input, select, summary, [tabindex="0"]'
  )].filter((e) => e.checkVisibility()).map((e) => e.outerHTML)""")
  reached = []
  for _ in range(len(shown) + 1):
    page.keyboard.press('Tab')
    reached.append(
      page.evaluate("""() => {
      const one = document.activeElement;
      const outlined = one.closest('.button') || one;
      const {outlineStyle} = getComputedStyle(outlined);
      return outlineStyle === 'none' ? outlineStyle : one.outerHTML;
    }""")
    )
  assert reached[:-1] == shown
  # A dialog that closes gives the place back.
  page.locator('#grid button').nth(1).focus()
  page.keyboard.press('Enter')
  page.keyboard.press('Escape')
  assert page.evaluate("""() =>
    document.activeElement === document.querySelectorAll('#grid button')[1]
  """)


def test_nothing_is_wider_than_a_telephone(open_page):
  page = open_page(viewport={'width': 320, 'height': 600})
  assert page.evaluate('document.documentElement.scrollWidth') <= 320


def test_the_policy_of_the_page_lets_no_other_code_run(browser, page_folder):
  page = browser.new_page()
  page.goto(f'{page_folder.as_uri()}/index.html')
  policy = page.get_attribute('[http-equiv=Content-Security-Policy]', 'content')
  assert policy.startswith("default-src 'none';")
  assert 'unsafe' not in policy
  tried = page.evaluate("""async () => {
    const blocked = [];
    document.addEventListener('securitypolicyviolation', (event) =>
      blocked.push(event.effectiveDirective));
    const add = (tag, attributes, text = '') => {
      const one = document.createElement(tag);
      for (const [name, value] of Object.entries(attributes)) {
        one.setAttribute(name, value);
      }
      one.append(text);
      document.body.append(one);
      return one;
    };
    add('script', {}, 'window.ran = 1');
    add('script', {src: 'https://localhost/x.js'});
    add('script', {src: 'data:text/javascript,window.ran=1'});
    add('p', {onclick: 'window.ran = 1', style: 'color: red'}).click();
    add('style', {}, 'p { color: red }');
    add('iframe', {src: 'https://localhost'});
    add('img', {src: 'https://localhost/x.png'});
    await fetch('https://localhost').catch(() => {});
    await new Promise((then) => setTimeout(then, 100));
    return {blocked: blocked.sort(), ran: window.ran ?? null};
  }""")
  page.close()
  assert tried['ran'] is None
  assert tried['blocked'] == [
    *('connect-src', 'frame-src', 'img-src', 'script-src-attr'),
    *('script-src-elem',) * 3,
    *('style-src-attr', 'style-src-elem'),
  ]


def test_images_load(open_page):
  page = open_page()
  page.select_option('#kind', '')
  number = page.evaluate("""async () => {
    const images = [...document.querySelectorAll('#grid img')];
    for (const image of images) {
      image.loading = 'eager';
      await image.decode();
    }
    return images.filter((i) => i.naturalWidth > 0 && i.alt).length;
  }""")
  assert number == len(keys_shown(page)) > 30


def direction(index, level):
  dense = true_class(index) == max(v := votes(index, LEVELS[0]), key=v.count)
  pruned = true_class(index) == max(v := votes(index, level), key=v.count)
  return {
    (True, True): 'right',
    (True, False): 'dense',
    (False, True): 'compressed',
    (False, False): 'wrong',
  }[dense, pruned]


def is_of_kind(index, level, kind, suspects):
  word = solidity_of(index, level)
  return {
    '': True,
    'pie': is_pie(index, level),
    'solid': is_pie(index, level) and word == 'solid',
    'uncertain': is_pie(index, level) and word in ('solid', 'uncertain'),
    'other': not is_pie(index, level),
    'suspect': key(index) in suspects,
  }[kind]


def test_filters_give_the_right_sets(open_page, page_folder):
  page = open_page()
  suspects = {s['key'] for s in read_data(page_folder)['suspects']}
  present = {i['key'] for i in read_data(page_folder)['images']}
  index = [i for i in range(IMAGES) if key(i) in present]
  seen = 0
  for at, level in enumerate(LEVELS[1:]):
    for kind in ('pie', 'solid', 'uncertain', 'other', 'suspect', ''):
      for label in ('', '0', '1'):
        for towards in ('', 'dense', 'compressed', 'wrong', 'right'):
          page.select_option('#level', str(at))
          page.select_option('#kind', kind)
          page.select_option('#class', label)
          page.select_option('#direction', towards)
          wanted = {
            key(i)
            for i in index
            if is_of_kind(i, level, kind, suspects)
            and label in ('', str(true_class(i)))
            and towards in ('', direction(i, level))
          }
          assert set(keys_shown(page)) == wanted
          seen += bool(wanted)
  assert seen > 30
  page.select_option('#class', '')
  page.select_option('#direction', '')
  for at, (name, step) in enumerate(sorted(GROUPS.items())):
    page.select_option('#group', label=name)
    assert page.input_value('#group') == str(at)
    assert set(keys_shown(page)) == {key(i) for i in index if i % step == 0}
  page.select_option('#group', '')
  page.fill('#search', '<script>')
  assert keys_shown(page) == [HOSTILE_KEY]


def last_if_none(number, sign=1):
  return np.inf if number is None else sign * number


def test_sorting(open_page, page_folder):
  page = open_page()
  data = read_data(page_folder)
  places = {s['key']: s['rank'] for s in data['suspects']}
  page.select_option('#kind', '')
  page.select_option('#level', '0')
  images = read_data(page_folder)['images']
  orders = {
    'rank': lambda i: i['compressed'][0]['rank'],
    'dense': lambda i: i['dense']['share'],
    'compressed': lambda i: i['compressed'][0]['share'],
    'p': lambda i: last_if_none(i['compressed'][0]['p']),
    'q': lambda i: last_if_none(i['compressed'][0]['q']),
    'frequency': lambda i: last_if_none(i['compressed'][0]['frequency'], -1),
    'suspect': lambda i: places.get(i['key'], np.inf),
    'class': lambda i: i['label'],
    'key': lambda i: 0,
  }
  for name, order in orders.items():
    page.select_option('#sort', name)
    wanted = sorted(images, key=lambda i: (order(i), i['key']))
    assert keys_shown(page) == [i['key'] for i in wanted]


def test_a_card_says_what_its_pie_is_worth(open_page):
  page = open_page()
  page.select_option('#level', '1')
  cards = page.eval_on_selector_all(
    '#grid li', 'items => items.map((i) => [i.dataset.key, i.textContent])'
  )
  index_of = {key(i): i for i in range(IMAGES)}
  words = set()
  for name, text in cards:
    index = index_of[name]
    p, q, frequency = chances(index, LEVELS[2])
    word = solidity_of(index, LEVELS[2])
    words.add(word)
    if word == 'not tested':
      assert 'PIE:' not in text
      continue
    assert f'PIE: {word}' in text
    assert f'p {p}' in text
    assert (f'q {q}' in text) == (not np.isnan(q))
    assert f'a PIE in {round(100 * frequency)} % of halves' in text
  assert words == set(solidity.MEANINGS)


def test_suspects_are_shown_and_open_large(open_page, run_folder):
  page = open_page()
  first = ranked_suspects(run_folder)[:SUSPECTS]
  shown = page.eval_on_selector_all(
    '#suspects-grid li',
    'items => items.map((i) => [i.dataset.key, i.textContent])',
  )
  assert [name for name, _ in shown] == first['image_key'].tolist()
  for (_, text), row in zip(shown, first.to_dict('records'), strict=True):
    assert f'label: {CLASSES[row["true_class_label"]]}' in text
    assert f'suggested: {CLASSES[int(row["suggested_label"])]}' in text
    assert f'{round(100 * row["correct_share"])} % of members agree' in text
    assert ('solid: q' in text) == (row['vote_qvalue'] <= 0.05)
  page.locator('#suspects-grid button').nth(1).click()
  assert page.inner_text('#large-title') == first['image_key'].iloc[1]
  assert 'Suspect number 2' in page.inner_text('#large-votes')
  page.keyboard.press('ArrowRight')
  assert page.inner_text('#large-title') == first['image_key'].iloc[2]


def test_verdicts_stand_first_and_level_by_level(open_page):
  page = open_page()
  assert page.eval_on_selector_all(
    'main h2, #verdicts h3, #verdicts li, table caption',
    'all => all.slice(0, 8).map((one) => one.textContent)',
  )[:8] == [
    'Verdicts',
    *('threshold 0.5', 'images: differs At 0.5 the images <differ>.'),
    'classes: differs At 0.5 the classes <differ>.',
    *('threshold 0.9', 'images: differs At 0.9 the images <differ>.'),
    'classes: differs At 0.9 the classes <differ>.',
    'Findings',
  ]


def test_words_have_their_meaning(open_page):
  page = open_page()
  assert not page.is_visible('#glossary dl')
  page.click('#glossary summary')
  terms = page.eval_on_selector_all(
    '#glossary dt', 'all => all.map((one) => one.textContent)'
  )
  for word in (
    *('member', 'level', 'PIE', 'modal label', 'dense', 'compressed'),
    *('Taxicab distance', 'Taxicab rank', 'the others', 'chance PIE'),
    *('q-value', 'solid', 'suspect'),
  ):
    assert word in terms
  page.select_option('#kind', '')
  title = page.get_attribute('#grid li [title^="1 for the image"]', 'title')
  assert title == glossary.TERMS['Taxicab rank']
  assert page.locator('table.headline th abbr[title]').count() > 5


def test_numbers_on_the_page_equal_the_csv(open_page, run_folder):
  page = open_page()
  headline = csvs.read(
    tables.HEADLINE, paths.headline_table(str(run_folder / 'results'))
  )
  lines = page.eval_on_selector_all(
    'table.headline tbody tr',
    """rows => rows.map((row) => [
      row.dataset.measure,
      row.querySelector('th').textContent,
      [...row.querySelectorAll('td')].map((cell) =>
        [...cell.querySelectorAll('data')].map((d) => [d.value, d.textContent])
      ),
    ])""",
  )
  assert len(lines) == headline['measure'].nunique() > 10
  # The short table is there, the others are folded.
  assert 3 <= page.locator('#headline tbody tr').count() <= 14
  assert not page.is_visible('#headline-rest')
  for measure, told, cells in lines:
    assert told == measure
    rows = headline[headline['measure'] == measure].set_index(
      'pruning_fraction'
    )
    assert len(cells) == len(LEVELS)
    for cell, (_, fraction) in zip(cells, LEVELS, strict=True):
      value, low, high = rows.reindex([fraction])[
        ['value', 'low', 'high']
      ].iloc[0]
      wanted = [
        (number, rounding.number(number, measure, value))
        for number in (
          (value,) if np.isnan([low, high]).any() else (value, low, high)
        )
        if not np.isnan(value)
      ]
      assert [(float(exact), text) for exact, text in cell] == wanted


def test_an_image_opens_large_with_all_votes(open_page):
  page = open_page()
  page.select_option('#level', '0')
  page.fill('#search', key(5))
  page.click('#grid button')
  text = page.inner_text('#large-votes')
  assert '3 of 4' in text
  assert '1 of 4' in text
  assert 'threshold 0.5' in text
  assert 'threshold 0.9' in text
  # Dense votes are for the class after the true one, which is text, not HTML.
  assert CLASSES[true_class(5)] in text
  assert page.eval_on_selector('#large-image', 'i => i.decode().then(() => 1)')
  page.keyboard.press('Escape')
  assert not page.is_visible('#large')
  page.fill('#search', '')
  page.locator('#grid button').first.focus()
  page.keyboard.press('Enter')
  first = page.inner_text('#large-title')
  page.keyboard.press('ArrowRight')
  assert page.inner_text('#large-title') != first
  page.keyboard.press('ArrowLeft')
  assert page.inner_text('#large-title') == first


def test_hostile_names_are_shown_as_text(open_page):
  page = open_page()
  page.select_option('#kind', '')
  assert HTML in page.inner_text('#class')
  # Cards have no text before the browser has found them in sight.
  page.evaluate("document.getElementById('images').scrollIntoView()")
  page.wait_for_function("() => document.getElementById('grid').innerText")
  assert HTML in page.inner_text('#grid')
  assert HOSTILE_KEY in page.inner_text('#grid')
  assert page.title().startswith('What compression forgets')
  assert page.locator('#grid b, #grid script, #class b').count() == 0


def test_more_than_a_screenful_follows_by_scrolling(
  open_page, page_folder, tmp_path
):
  folder = pathlib.Path(shutil.copytree(page_folder, tmp_path / 'page'))
  data = read_data(page_folder)
  image = next(i for i in data['images'] if i['key'] == key(0))
  data['images'] = [dict(image, key=f'{n:05d}') for n in range(1000)]
  data['suspects'] = []
  (folder / 'data.js').write_text(f'window.gallery = {json.dumps(data)};')
  html = (folder / 'index.html').read_text()
  ones = json.dumps([[1] * 1000] * len(data['levels']))
  html = re.sub(r'(id="pies">)[^<]*', rf'\g<1>{ones}', html)
  (folder / 'index.html').write_text(html)
  page = open_page(folder.as_uri() + '/index.html')
  assert len(keys_shown(page)) < 1000
  for _ in range(100):
    page.evaluate('window.scrollTo(0, document.body.scrollHeight)')
    page.wait_for_timeout(20)
    if len(keys_shown(page)) == 1000:
      break
  assert keys_shown(page) == [f'{n:05d}' for n in range(1000)]


def test_served_over_http(open_page, page_folder):
  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(page_folder))

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = open_page(f'http://127.0.0.1:{server.server_port}/index.html')
    page.wait_for_load_state('networkidle')
    assert len(keys_shown(page)) == 9
    server.shutdown()


# The study.


def begin(page, name, size=8, level='1'):
  page.fill('#annotator', name)
  page.select_option('#study-level', level)
  page.fill('#study-size', str(size))
  page.click('#study-start button')


def export(page, path):
  with page.expect_download() as download:
    page.click('#export')
  download.value.save_as(path)
  return csvs.read(tables.ANNOTATIONS, str(path))


def answer_all(page, keys):
  """Answers each image by the next of some keys; returns what was shown."""
  shown = []
  for number in range(8):
    shown.append(page.inner_text('#study-item'))
    page.keyboard.press(keys[number % len(keys)])
    page.keyboard.press('Enter')
  return shown


def test_answers_survive_and_travel(open_page, run_folder, tmp_path):
  page = open_page()
  # A name that CSV has to quote.
  begin(page, 'Ann "the eye", Dr.')
  shown = answer_all(page, '1246')
  # Blind: nothing but the label is said.
  assert not [text for text in shown if 'Dense' in text or 'PIE' in text]
  page.reload()
  first = export(page, tmp_path / 'ann.csv')
  assert len(first) == 8
  assert set(first['annotator']) == {'Ann "the eye", Dr.'}
  assert first['is_blind'].all()
  assert (first[[q.name for q in tables.QUESTIONS]].sum(axis=1) == 1).all()
  assert first['fine_grained'].sum() == 0
  assert first['label_wrong'].sum() == 2
  # Half of the images are PIEs, at the level that was asked for.
  index_of = {key(i): i for i in range(IMAGES)}
  assert set(first['pruning_fraction']) == {0.9}
  assert sum(is_pie(index_of[k], LEVELS[2]) for k in first['image_key']) == 4

  # Another browser asks another annotator about the same images.
  other = open_page()
  begin(other, 'Bob')
  answer_all(other, '15')
  second = export(other, tmp_path / 'bob.csv')
  assert set(second['image_key']) == set(first['image_key'])

  # By import both are in one browser.
  other.set_input_files('#import', tmp_path / 'ann.csv')
  other.wait_for_function("""() =>
    document.getElementById('study-status').textContent.includes('Imported 8')
  """)
  both = export(other, tmp_path / 'both.csv')
  pd.testing.assert_frame_equal(
    both.sort_values(['annotator', 'image_key'], ignore_index=True),
    pd.concat([first, second]).sort_values(
      ['annotator', 'image_key'], ignore_index=True
    ),
  )
  summary = summarize_annotations.run(
    str(tmp_path / 'both.csv'),
    str(run_folder / 'results'),
    mode='eval',
    dataset_name='pets',
  )
  assert set(summary['num_annotators']) == {2}
  assert set(summary['num_images']) == {4}
  asked = summary.set_index(['images', 'question'])['share']
  both['pie'] = [is_pie(index_of[k], LEVELS[2]) for k in both['image_key']]
  for question in ('label_wrong', 'fine_grained'):
    for name, is_one in (('PIEs', True), ('others', False)):
      mean = both.loc[both['pie'] == is_one, question].mean()
      assert asked[name, question] == mean


def test_a_study_goes_on_where_it_stopped(open_page):
  page = open_page()
  begin(page, 'Ann')
  page.keyboard.press('3')
  page.keyboard.press('Enter')
  page.keyboard.press('Enter')
  page.reload()
  begin(page, 'Ann')
  assert page.inner_text('#study-progress') == 'Image 3 of 8, 2 answered'
  page.keyboard.press('ArrowLeft')
  page.keyboard.press('ArrowLeft')
  assert page.is_checked('[name=cooccurring_labels]')
  page.keyboard.press('0')
  assert page.locator('#answers input:checked').count() == 0


def test_told_when_not_blind(open_page):
  page = open_page()
  page.uncheck('#blind')
  begin(page, 'Ann')
  assert 'Dense networks say' in page.inner_text('#study-label')
  page.keyboard.press('Enter')
  assert not page.evaluate(
    'Object.values(JSON.parse(Object.values(localStorage)[0]))[0].is_blind'
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda text: text.replace('atypical', 'typical', 1), 'lacks the columns'),
    (lambda text: text.replace('image 0', 'image 9', 1), 'not on this page'),
    (lambda text: text.replace(',0\n', ',2\n', 1), 'wanted 0 or 1'),
    (lambda text: text.replace(',0\n', '\n', 1), 'cells'),
    (lambda text: text.replace(',0\n', ',"0\n', 1), 'quote'),
  ],
)
def test_a_damaged_csv_is_refused_whole(open_page, tmp_path, change, message):
  page = open_page()
  begin(page, 'Ann')
  answer_all(page, '1')
  export(page, tmp_path / 'good.csv')
  text = (tmp_path / 'good.csv').read_text()
  (tmp_path / 'bad.csv').write_text(change(text))
  fresh = open_page()
  fresh.set_input_files('#import', tmp_path / 'bad.csv')
  fresh.wait_for_function(
    "document.getElementById('study-status').textContent.length"
  )
  assert message in fresh.inner_text('#study-status')
  assert 'Nothing was imported' in fresh.inner_text('#study-status')
  assert fresh.evaluate('localStorage.length') == 0
