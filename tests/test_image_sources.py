"""Laws of the sources: each image once, by folder or tar, in any layout."""

import collections
import io
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from save_checkpoint import image_sources
from utils import digests

# Sources list without looking at the bytes, so any will do.
TREE = {
  'n01/a.JPEG': b'first',
  'n01/b.png': b'',
  'n02/a.JPEG': b'second' * 200,
  'n03/with space.jpg': b'\0\1',
}


def write_tree(folder, tree):
  for name, data in tree.items():
    path = pathlib.Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return str(folder)


def tar_of(tree, prefix=''):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as tar:
    for name, data in tree.items():
      member = tarfile.TarInfo(prefix + name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return file.getvalue()


def tars_of_classes(tree):
  classes = collections.defaultdict(dict)
  for name, data in tree.items():
    class_key, image = name.split('/')
    classes[class_key][image] = data
  return {f'{name}.tar': tar_of(images) for name, images in classes.items()}


def write_source(folder, layout, tree):
  """The same images, as one may have them."""
  if layout == 'folders':
    return write_tree(folder, tree)
  if layout == 'tars in a folder':
    return write_tree(folder, tars_of_classes(tree))
  inner = tars_of_classes(tree) if layout == 'tar of tars' else tree
  prefix = {'tar from a dot': './', 'tar of deep folders': 'all/train/'}
  content = tar_of(inner, prefix.get(layout, ''))
  return write_tree(folder, {'images.tar': content}) + '/images.tar'


LAYOUTS = (
  'folders',
  'tars in a folder',
  'tar of tars',
  'tar of folders',
  'tar from a dot',
  'tar of deep folders',
)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_lists_the_same_images(layout, tmp_path):
  """Sorted by key, with the class of their folder, and their very bytes."""
  source = write_source(tmp_path, layout, TREE)
  found = image_sources.find_pictures(source)
  assert [picture.key for picture in found] == sorted(TREE)
  for picture in found:
    assert picture.class_key == picture.key.split('/')[0]
    assert picture.size == len(TREE[picture.key])
    assert picture.read() == TREE[picture.key]
    assert picture.key in picture.where
    assert not picture.data


@pytest.mark.parametrize('layout', LAYOUTS)
def test_hidden_files_are_left_out_with_a_word(layout, tmp_path, caplog):
  source = write_source(
    tmp_path,
    layout,
    {
      **TREE,
      'n01/.DS_Store': b'x',
      'n02/._a.JPEG': b'y',
      'n01/Thumbs.db': b'z',
    },
  )
  found = image_sources.find_pictures(source)
  assert [picture.key for picture in found] == sorted(TREE)
  for name in ('.DS_Store', '._a.JPEG', 'Thumbs.db'):
    assert f'hidden: {name}' in caplog.text


def test_hidden_folders_and_tars_are_left_out(tmp_path):
  source = write_tree(
    tmp_path, {**TREE, '.git/config': b'x', '.n09.tar': b'no tar'}
  )
  found = image_sources.find_pictures(source)
  assert [picture.key for picture in found] == sorted(TREE)


def test_what_lies_in_a_tar_of_a_class_is_of_that_class(tmp_path):
  """Whatever the folders in it are called, and a tar in it is an image."""
  content = tar_of({'x/a.JPEG': b'a', 'b.tar': b'b'})
  source = write_tree(tmp_path, {'n01.tar': content})
  found = image_sources.find_pictures(source)
  assert [(p.key, p.class_key) for p in found] == [
    ('n01/a.JPEG', 'n01'),
    ('n01/b.tar', 'n01'),
  ]


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('n01.tar', b'no tar' * 200, 'n01.tar is not an uncompressed tar'),
    ('n01/deeper/a.jpg', b'', 'deeper is a folder in the folder of a class'),
    ('stray.jpg', b'', 'stray.jpg, which lies in no folder of a class'),
    (os.fsdecode(b'n01/\xff.jpg'), b'', 'whose name is not UTF-8'),
  ],
)
def test_what_is_no_source_is_named(tmp_path, name, content, message):
  source = write_tree(tmp_path, {**TREE, name: content})
  with pytest.raises(ValueError, match=message):
    image_sources.find_pictures(source)


def test_links_in_tars_are_refused(tmp_path):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as tar:
    link = tarfile.TarInfo('n01/a.JPEG')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tar.addfile(link)
  path = write_tree(tmp_path, {'x.tar': file.getvalue()}) + '/x.tar'
  with pytest.raises(ValueError, match=r'n01/a.JPEG is a link'):
    image_sources.find_pictures(path)


def test_absent_and_empty_sources_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent does not exist'):
    image_sources.find_pictures(str(tmp_path / 'absent'))
  with pytest.raises(ValueError, match='holds no image'):
    image_sources.find_pictures(str(tmp_path))


IMAGES = {f'val_{i}.JPEG': bytes([i]) for i in (3, 0, 2, 1)}
CLASSES = ('n03', 'n01', 'n01', 'n02')


@pytest.mark.parametrize('layout', ['folder', 'tar'])
@pytest.mark.parametrize('named', [False, True])
def test_labels_go_by_the_order_of_names_or_by_name(tmp_path, layout, named):
  source = write_tree(tmp_path / 'images', IMAGES)
  if layout == 'tar':
    source = write_tree(tmp_path, {'val.tar': tar_of(IMAGES)}) + '/val.tar'
  pairs = list(zip(sorted(IMAGES), CLASSES, strict=True))
  lines = [f'{n} {c}' for n, c in reversed(pairs)] if named else CLASSES
  labels = tmp_path / 'labels.txt'
  labels.write_text('\n\n'.join(lines) + '\n')  # Empty lines say nothing.
  found = image_sources.find_pictures(source, str(labels))
  assert [(p.key, p.class_key) for p in found] == pairs
  assert {p.key: p.read() for p in found} == IMAGES


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    ('n01\nn02\n', 'has 2 labels, wanted one for each of 4 images'),
    ('n01\nn02\nn03\nn04 n05\n', 'wanted <class>, or <file name> <class>'),
    ('a n1\nb n1\nc n1\nd n1\n', 'no label for 4 images, for example val_0'),
    (b'\xff\xfe', 'is not text'),
  ],
)
def test_wrong_lists_of_labels_are_named(tmp_path, lines, message):
  source = write_tree(tmp_path / 'images', IMAGES)
  labels = tmp_path / 'labels.txt'
  labels.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
  with pytest.raises(ValueError, match=f'labels.txt.*{message}'):
    image_sources.find_pictures(source, str(labels))


def pictures(*class_keys):
  return [
    image_sources.Picture(f'{key}/{i}.jpg', key)
    for i, key in enumerate(class_keys)
  ]


def test_classes_are_sorted_unless_a_file_orders_them(tmp_path, caplog):
  splits = {'train': pictures('b', 'a', 'c'), 'validation': pictures('c')}
  found = image_sources.find_classes(splits)
  assert list(found.items()) == [('a', 'a'), ('b', 'b'), ('c', 'c')]
  assert 'validation split has no image of 2 of 3 classes' in caplog.text
  file = tmp_path / 'classes.txt'
  file.write_text('c\na  a cat, Felis\n\nb\tthe letter b\n')
  found = image_sources.find_classes(splits, str(file))
  assert list(found.items()) == [
    ('c', 'c'),
    ('a', 'a cat, Felis'),
    ('b', 'the letter b'),
  ]


def test_names_of_classes_may_hold_spaces(tmp_path):
  file = tmp_path / 'classes.txt'
  file.write_text('sea lion\nred panda\tAilurus fulgens\n')
  found = image_sources.find_classes(
    {'train': pictures('red panda', 'sea lion')}, str(file)
  )
  assert list(found.items()) == [
    ('sea lion', 'sea lion'),
    ('red panda', 'Ailurus fulgens'),
  ]


def test_classes_that_do_not_fit_are_named(tmp_path):
  with pytest.raises(ValueError, match="validation split .* example 'z'"):
    image_sources.find_classes(
      {'train': pictures('a'), 'validation': pictures('a', 'z')}
    )
  file = tmp_path / 'classes.txt'
  file.write_text('a\na again\n')
  with pytest.raises(ValueError, match="names the class 'a' twice"):
    image_sources.find_classes({'train': pictures('a')}, str(file))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('folders',), 'wants --train_directory, --validation_directory or both'),
    (('digits', 'x'), r"source=digits reads no directory, got \['x'\]"),
    (('folders', 'x', '', 'y'), 'labels without --validation_directory'),
    (('folders', 'x', 'y', '', 0.5), 'validation_fraction is of the images of'),
    (('folders', '', 'y', '', 0.5), 'validation_fraction is of the images of'),
  ],
)
def test_flags_that_make_no_source_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    image_sources.find_source(*arguments)


def test_digits_are_split_once_and_evenly():
  splits = image_sources.digits()
  assert [len(splits[name]) for name in image_sources.SPLITS] == [900, 897]
  bunch = datasets.load_digits()
  labels = {f'digits/{i:04d}': str(n) for i, n in enumerate(bunch.target)}
  together = [picture for split in splits.values() for picture in split]
  assert {p.key: p.class_key for p in together} == labels
  assert len(together) == len(labels)
  train = collections.Counter(p.class_key for p in splits['train'])
  for class_key, number in collections.Counter(labels.values()).items():
    assert abs(train[class_key] - number * 900 / 1797) <= 1
  # The split is an agreement: a change would make old results incomparable.
  keys = ' '.join(sorted(p.key for p in splits['validation']))
  assert digests.of_bytes(keys)[:8] == '15a595b3'


def test_digits_are_pictures_of_their_ink():
  splits = image_sources.digits()
  bunch = datasets.load_digits()
  for picture in splits['validation'][::50]:
    with Image.open(io.BytesIO(picture.read())) as image:
      assert (image.format, image.mode, image.size) == ('PNG', 'RGB', (32, 32))
      pixels = np.asarray(image)
    assert (pixels == pixels[..., :1]).all()
    ink = bunch.images[int(picture.key.split('/')[1])]
    small = pixels[..., 0].reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(small.ravel(), ink.ravel())[0, 1] > 0.97


def test_a_fraction_is_split_off_evenly_and_always_the_same():
  both = [
    image_sources.Picture(f'{key}/{i}.jpg', key)
    for key, number in (('a', 100), ('b', 31), ('c', 9))
    for i in range(number)
  ]
  splits = image_sources.split_off(both, 0.3)
  assert sorted(p.key for split in splits.values() for p in split) == sorted(
    p.key for p in both
  )
  assert len(splits['validation']) == 42
  counts = collections.Counter(p.class_key for p in splits['validation'])
  for key, number in (('a', 100), ('b', 31), ('c', 9)):
    assert abs(counts[key] - 0.3 * number) <= 1
  chosen = {p.key for p in splits['validation']}
  again = image_sources.split_off(both[::-1], 0.3)
  assert {p.key for p in again['validation']} == chosen
  # By a hash: not the first, nor every third.
  numbers = sorted(int(k[2:-4]) for k in chosen if k.startswith('a/'))
  assert len(set(np.diff(numbers))) > 3


@pytest.mark.parametrize('fraction', [0.001, 0.999, 1])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
  with pytest.raises(ValueError, match=f'={fraction} of 3 images are'):
    image_sources.split_off(pictures('a', 'b', 'c'), fraction)


@pytest.mark.parametrize('name', ['test', 'val', 'validation', None])
def test_a_survey_finds_splits_number_and_size(tmp_path, name):
  def png(size):
    return image_sources.encoded(Image.new('RGB', size), 'PNG')

  sizes = [(40, 50), (50, 44), (90, 90)]
  train = {f'a/{i}.png': png(size) for i, size in enumerate(sizes)}
  if name is None:
    write_tree(tmp_path, train)
    wanted = (str(tmp_path), '')
  else:
    write_tree(tmp_path / 'train', train)
    write_tree(tmp_path / name, {'a/x.png': png((9, 9))})
    wanted = (str(tmp_path / 'train'), str(tmp_path / name))
  assert image_sources.survey(str(tmp_path)) == (*wanted, 3, 44)


def test_a_survey_names_what_is_no_image(tmp_path):
  write_tree(tmp_path, {'a/x.png': b'no image'})
  with pytest.raises(ValueError, match=r'x.png .* is no image'):
    image_sources.survey(str(tmp_path))
