"""Laws of the builder: every image once, bytes kept, always the same set."""

import collections
import hashlib
import io
import os
import pathlib
import tarfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from save_checkpoint import build_image_data, planned_shards
from utils import (
  image_records,
  paths,
  shard_files,
  storage,
  tfrecords,
  workers,
)


def picture(seed, form='JPEG', mode='RGB', size=(12, 9)):
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(file, form)
  return file.getvalue()


# As in the paper's data: a wnid per class, and images of several kinds.
TREE = {
  'n01/a.JPEG': picture(1),
  'n01/b.JPEG': picture(2, mode='L'),
  'n01/c.png': picture(3, 'PNG'),
  'n02/a.JPEG': picture(4),
  'n02/cmyk.JPEG': picture(5, mode='CMYK'),
  'n02/really_a_png.JPEG': picture(6, 'PNG'),
  'n03/with space.jpg': picture(7),
}
CONVERTED = {'n02/cmyk.JPEG', 'n02/really_a_png.JPEG'}


def write_tree(folder, tree):
  for name, data in tree.items():
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return str(folder)


def tar_of(tree):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as tar:
    for name, data in tree.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return file.getvalue()


def tar_of_classes(tree):
  classes = collections.defaultdict(dict)
  for name, data in tree.items():
    classes[name.split('/')[0]][name.split('/')[1]] = data
  return {f'{name}.tar': tar_of(images) for name, images in classes.items()}


def read(folder, mode):
  shards = image_records.find_shards(folder, mode)
  records = tfrecords.describe(shards)
  dialect = tfrecords.detect(shards)
  found = []
  for path in shards:
    tfrecords.find_fault(path, dialect, records)
    found += [
      tfrecords.parse_example(serialized, dialect, records, path, index)
      for index, serialized in enumerate(shard_files.read_records(path))
    ]
  return records, found


def contents(folder):
  return {
    path.name: path.read_bytes()
    for path in pathlib.Path(folder).iterdir()
    if path.is_file() and not path.name.endswith('.run.json')
  }


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('digits'))
  build_image_data.run('digits', folder)
  return folder


def test_digits_are_split_once_and_evenly(digits):
  records, train = read(digits, 'train')
  _, evaluation = read(digits, 'eval')
  assert (len(train), len(evaluation)) == (900, 897)
  assert records.num_examples('train') == 900
  assert records.num_examples('validation') == 897
  bunch = datasets.load_digits()
  keys = {f'digits/{i:04d}': label for i, label in enumerate(bunch.target)}
  assert {e.key: e.label for e in train + evaluation} == keys
  assert len({e.key for e in train + evaluation}) == 1797
  for label, number in collections.Counter(bunch.target).items():
    half = sum(e.label == label for e in train)
    assert abs(half - number * 900 / 1797) <= 1
  # The split is an agreement: a change would make old results incomparable.
  together = ' '.join(sorted(e.key for e in evaluation))
  assert hashlib.sha256(together.encode()).hexdigest()[:8] == '15a595b3'


def test_digests_are_those_of_the_files(digits):
  for shards in image_records.read(digits).splits.values():
    for name, shard in shards.items():
      content = (pathlib.Path(digits) / name).read_bytes()
      assert hashlib.sha256(content).hexdigest() == shard.sha256


def test_digits_keep_their_ink(digits):
  records, evaluation = read(digits, 'eval')
  bunch = datasets.load_digits()
  assert records.class_names == tuple('0123456789')
  for example in evaluation[::50]:
    pixels = tf.io.decode_jpeg(example.encoded, channels=3).numpy()
    assert pixels.shape == (records.image_size, records.image_size, 3)
    original = bunch.images[int(example.key.split('/')[1])] * (255 / 16)
    small = pixels[..., 0].reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.97
    assert (pixels == pixels[..., :1]).all()


def test_channel_statistics_are_those_of_the_train_split(digits):
  records, train = read(digits, 'train')
  pixels = np.stack([tf.io.decode_jpeg(e.encoded).numpy() for e in train])
  np.testing.assert_allclose(records.channel_mean, pixels.mean((0, 1, 2)))
  np.testing.assert_allclose(records.channel_std, pixels.std((0, 1, 2)))


def test_training_order_is_mixed_and_evaluation_sorted(digits):
  _, train = read(digits, 'train')
  _, evaluation = read(digits, 'eval')
  assert [e.key for e in evaluation] == sorted(e.key for e in evaluation)
  numbers = [int(e.key.split('/')[1]) for e in train]
  assert abs(np.corrcoef(numbers, np.arange(900))[0, 1]) < 0.1


def test_folder_bytes_are_kept_and_oddities_converted(tmp_path, caplog):
  source = write_tree(tmp_path / 'images', {**TREE, 'n01/.DS_Store': b'x'})
  out = str(tmp_path / 'pets')
  caplog.set_level('INFO')
  build_image_data.run('folders', out, train_directory=source)
  records, found = read(out, 'train')
  assert records.name == 'pets'
  assert records.class_keys == records.class_names == ('n01', 'n02', 'n03')
  assert {e.key for e in found} == set(TREE)
  for example in found:
    class_key = example.key.split('/')[0]
    assert example.class_key == class_key
    assert records.class_keys[example.label] == class_key
    if example.key not in CONVERTED:
      assert example.encoded == TREE[example.key]
      continue
    with Image.open(io.BytesIO(example.encoded)) as image:
      assert (image.format, image.mode) == ('JPEG', 'RGB')
      with Image.open(io.BytesIO(TREE[example.key])) as before:
        difference = np.subtract(image, before.convert('RGB'), dtype=float)
    assert abs(difference).mean() < 1
  assert '1 images that were CMYK JPEG' in caplog.text
  assert '1 images that were PNG' in caplog.text
  assert '.DS_Store' in caplog.text


@pytest.mark.parametrize('layout', ['tars', 'tar of tars', 'tar of folders'])
def test_tars_give_the_same_files_as_folders(layout, tmp_path):
  plain = write_tree(tmp_path / 'images', TREE)
  if layout == 'tars':
    source = write_tree(tmp_path / 'tars', tar_of_classes(TREE))
  else:
    source = str(tmp_path / 'images.tar')
    inner = tar_of_classes(TREE) if layout == 'tar of tars' else TREE
    pathlib.Path(source).write_bytes(tar_of(inner))
  for name, directory in (('a/x', plain), ('b/x', source)):
    build_image_data.run(
      'folders',
      str(tmp_path / name),
      train_directory=directory,
      num_shards={'train': 2},
    )
  assert contents(tmp_path / 'a/x') == contents(tmp_path / 'b/x')


@pytest.mark.parametrize('named', [False, True])
def test_validation_by_its_list_of_labels(named, tmp_path):
  train = write_tree(tmp_path / 'train', TREE)
  images = {f'val_{i}.JPEG': picture(i) for i in range(4)}
  classes = ['n03', 'n01', 'n01', 'n02']
  lines = list(zip(sorted(images), classes, strict=True))
  if named:
    lines.reverse()
  labels = tmp_path / 'labels.txt'
  labels.write_text(
    ''.join(f'{name} {c}\n' if named else f'{c}\n' for name, c in lines)
  )
  words = tmp_path / 'words.txt'
  words.write_text('n03 a newt\nn01\ta cat, Felis\nn02\n')
  tar = tmp_path / 'val.tar'
  tar.write_bytes(tar_of(images))
  build_image_data.run(
    'imagenet',
    str(tmp_path / 'out'),
    train,
    str(tar),
    str(labels),
    str(words),
    {'train': 1, 'validation': 1},
  )
  records, found = read(tmp_path / 'out', 'eval')
  assert records.name == 'imagenet'
  assert records.class_keys == ('n03', 'n01', 'n02')
  assert records.class_names == ('a newt', 'a cat, Felis', 'n02')
  assert records.channel_mean == image_records.imagenet().channel_mean
  assert [(e.key, e.class_key) for e in found] == list(
    zip(sorted(images), classes, strict=True)
  )
  assert [e.label for e in found] == [0, 1, 1, 2]
  assert [e.encoded for e in found] == [images[e.key] for e in found]


@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    ({'n01/notes.txt': b'my notes'}, r'notes.txt.* is not a JPEG or PNG'),
    ({'n01/empty.jpg': b''}, r'empty.jpg.* is not a JPEG or PNG'),
    ({'n01/cut.jpg': picture(1)[:-60]}, r'cut.jpg.* is damaged'),
    ({'n01/cut.png': picture(1, 'PNG')[:-60]}, r'cut.png.* is damaged'),
    ({'n01/moving.gif': picture(1, 'GIF')}, r'moving.gif.* is not a JPEG'),
    ({'n01/deeper/a.jpg': picture(1)}, 'deeper is a folder in the folder'),
    ({'stray.jpg': picture(1)}, 'stray.jpg, which lies in no folder'),
    ({'n02.tar': b'no tar' * 200}, 'n02.tar is not an uncompressed tar'),
    ({'n01.tar': tar_of({'a.JPEG': picture(1)})}, 'are called n01/a.JPEG'),
    ({os.fsdecode(b'n01/\xff.jpg'): picture(1)}, 'not UTF-8'),
  ],
)
def test_what_is_no_image_is_an_error_that_names_it(bad, message, tmp_path):
  source = write_tree(tmp_path / 'images', {**TREE, **bad})
  out = tmp_path / 'out'
  with pytest.raises(ValueError, match=message):
    build_image_data.run('folders', str(out), train_directory=source)
  assert not storage.exists(paths.image_records(out))
  assert not out.exists() or not [
    name for name in os.listdir(out) if name.startswith('train')
  ]


def test_absurd_sizes_are_refused_unread(tmp_path):
  # A PNG's header that declares 100,000 x 100,000 pixels.
  whole = bytearray(picture(1, 'PNG'))
  whole[16:24] = (100_000).to_bytes(4, 'big') * 2
  whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, 'big')
  source = write_tree(tmp_path / 'images', {**TREE, 'n01/x.png': bytes(whole)})
  with pytest.raises(ValueError, match=r'x.png.* is not a JPEG or PNG'):
    build_image_data.run('folders', str(tmp_path / 'o'), train_directory=source)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({}, 'wants --train_directory'),
    ({'train_directory': 'absent'}, 'absent does not exist'),
    ({'train_directory': 'empty'}, 'empty holds no image'),
    ({'validation_labels': 'images'}, 'without --validation_directory'),
    (
      {'train_directory': 'images', 'num_shards': {'train': 8}},
      '7 images for 8 shards',
    ),
    (
      {'train_directory': 'images', 'validation_directory': 'other'},
      "validation split has images of 1 classes .* 'n09'",
    ),
    (
      {'train_directory': 'images', 'labels_file': 'two_classes'},
      "classes that .*two_classes does not have, .* 'n03'",
    ),
    (
      {'train_directory': 'images', 'labels_file': 'one_class_twice'},
      "names the class 'n01' twice",
    ),
    (
      {'validation_directory': 'flat', 'validation_labels': 'two_classes'},
      'two_classes has 2 labels, wanted one for each of 3 images',
    ),
    (
      {'validation_directory': 'images', 'validation_labels': 'two_classes'},
      'has folders of classes',
    ),
    (
      {'validation_directory': 'images', 'statistics': 'train'},
      'channel_statistics=train without',
    ),
    (
      {'train_directory': 'images', 'description': {'crop_area_min': 2.0}},
      'crop_area_min is 2.0',
    ),
    (
      {
        'train_directory': 'images',
        'description': {'crop_area_min': 0.5, 'crop_padding': 4},
      },
      'crop_padding is 4 and crop_area_min 0.5, wanted',
    ),
  ],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_tree('images', TREE)
  write_tree('other', {'n09/a.jpg': picture(1)})
  write_tree('flat', {f'{i}.jpg': picture(i) for i in range(3)})
  pathlib.Path('empty').mkdir()
  pathlib.Path('two_classes').write_text('n01\nn02\n')
  pathlib.Path('one_class_twice').write_text('n01\nn02\nn03\nn01 again\n')
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    build_image_data.run('folders', 'out', **arguments)
  assert not pathlib.Path('out').exists()


def build_small(folder, **options):
  return build_image_data.run(
    'digits',
    str(folder),
    num_shards={'train': 3, 'validation': 2},
    test_small_sample=True,
    **options,
  )


def test_images_that_are_moved_are_not_cropped(tmp_path):
  records = build_small(tmp_path / 'x', description={'crop_padding': 4})
  assert (records.crop_padding, records.crop_area_min) == (4, 1)
  assert image_records.read(tmp_path / 'x') == records
  records = build_small(tmp_path / 'y', description={'crop_padding': 0})
  assert (records.crop_padding, records.crop_area_min) == (0, 0.6)


def test_a_small_sample_knows_all_classes(tmp_path):
  build_small(tmp_path)
  for mode in ('train', 'eval'):
    records, found = read(tmp_path, mode)
    assert records.num_classes == 10
    assert len({example.key for example in found}) == 40


def test_interrupted_anywhere_then_run_again_is_never_interrupted(
  tmp_path, monkeypatch
):
  build_small(tmp_path / 'whole')
  expected = contents(tmp_path / 'whole')
  writes = 2 * 5 + 2  # shard and note of each; provenance and description
  for allowed in range(writes):
    folder = tmp_path / str(allowed)
    left = [allowed]

    def dying(write, left=left):
      def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
          raise KeyboardInterrupt
        return write(*args, **kwargs)

      return wrapped

    with monkeypatch.context() as patch:
      patch.setattr(storage, 'write_complete', dying(storage.write_complete))
      patch.setattr(shard_files, 'write', dying(shard_files.write))
      with pytest.raises(KeyboardInterrupt):
        build_small(folder)
    assert not storage.exists(paths.image_records(folder))
    written = []
    with monkeypatch.context() as patch:
      write = shard_files.write
      patch.setattr(
        shard_files,
        'write',
        lambda path, e, w=write, o=written: o.append(path) or w(path, e),
      )
      build_small(folder)
    assert contents(folder) == expected
    # Of the shards whose note was written, none is made again.
    assert len(written) == 5 - min(allowed // 2, 5)


def test_a_finished_set_is_left_alone_and_guarded(tmp_path, monkeypatch):
  build_small(tmp_path / 'x')
  before = {
    path: path.stat().st_mtime_ns for path in (tmp_path / 'x').iterdir()
  }
  build_small(tmp_path / 'x')
  assert before == {
    path: path.stat().st_mtime_ns for path in (tmp_path / 'x').iterdir()
  }
  with pytest.raises(ValueError, match='belongs to another data set'):
    build_image_data.run('digits', str(tmp_path / 'x'))
  with pytest.raises(ValueError, match='with other flags'):
    build_small(tmp_path / 'x', description={'crop_area_min': 0.5})
  shard = pathlib.Path(image_records.find_shards(tmp_path / 'x', 'train')[1])
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(ValueError, match='holds a complete data set, but'):
    build_small(tmp_path / 'x')
  pathlib.Path(paths.image_records(tmp_path / 'x')).unlink()
  build_small(tmp_path / 'x')
  build_small(tmp_path / 'y' / 'x')
  assert contents(tmp_path / 'x') == contents(tmp_path / 'y' / 'x')


def test_number_of_workers_changes_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(planned_shards, '_IMAGES_PER_WORKER', 1)
  build_small(tmp_path / 'a' / 'x', place=workers.Place(1))
  build_small(tmp_path / 'b' / 'x', place=workers.Place(2))
  assert contents(tmp_path / 'a' / 'x') == contents(tmp_path / 'b' / 'x')


def test_any_number_of_shards_holds_every_image_once(tmp_path):
  for count in (1, 2, 5, 7):
    out = str(tmp_path / str(count))
    source = write_tree(tmp_path / 'images', TREE)
    build_image_data.run(
      'folders', out, train_directory=source, num_shards={'train': count}
    )
    records, found = read(out, 'train')
    assert len(records.splits['train']) == count
    assert sorted(e.key for e in found) == sorted(TREE)
    sizes = [shard.examples for shard in records.splits['train'].values()]
    assert max(sizes) - min(sizes) <= 1
