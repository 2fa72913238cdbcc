"""Damaged and hostile inputs: named, or provably without effect."""

import ast
import collections
import dataclasses
import io
import json
import os
import pathlib
import resource
import struct
import tarfile
import zlib

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow.core.protobuf import tensor_bundle_pb2

from per_class_accuracy import aggregate_ckpt_metrics
from pie_dataset_gen import (
  aggregate_predictions,
  gallery_images,
  generate_pie_dataset,
  imagenet_predictions,
)
from robustness_tests import (
  build_corruptions,
  image_folders,
  imagenet_corruptions,
)
from save_checkpoint import build_image_data
from utils import (
  checkpoints,
  csvs,
  data_input,
  image_records,
  inference,
  member_paths,
  paths,
  populations,
  preprocessing,
  provenance,
  shard_files,
  storage,
  tables,
  tfrecords,
)

CLASSES = ('cat', 'dog', 'newt')


def picture(form, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, form)
  return file.getvalue()


def png(seed):
  return picture('PNG', seed)


def described(shards, **options):
  options = {'image_size': 8, 'resize_size': 8, **options}
  return image_records.ImageRecords(
    'pets', CLASSES, splits={'validation': shards}, **options
  )


def data_set(folder, encoded=png, num_shards=1):
  """Six images in shards, described."""
  written, found = [], {}
  for shard in range(num_shards):
    path = paths.shard(folder, 'validation', shard, num_shards)
    found[os.path.basename(path)] = shard_files.write(
      path,
      [
        tfrecords.encode(f'k{i}', encoded(i), i % 3, CLASSES[i % 3])
        for i in range(shard, 6, num_shards)
      ],
    )
    written.append(path)
  image_records.write(folder, described(found))
  return written


def read_ordered(path, records):
  reader = data_input.OrderedReader(records, tfrecords.ORIGINAL, 'legacy', 4)
  return [keys for keys, _, _ in reader.read(path, records)]


def read_for_training(path, records):
  reader = data_input.TrainingReader(
    [path], 6, records, tfrecords.ORIGINAL, 'legacy', 4
  )
  try:
    return list(reader.read(0).take(2))
  except tf.errors.OpError:
    # As imagenet_train_eval does.
    reader.find_fault()
    raise


def read_for_pie(path, records):
  folder = os.path.dirname(path)
  record = provenance.Provenance(folder, 'room.script', {})
  generate_pie_dataset.write_records(path, records, [], [], record)


def read_for_corruptions(path, records):
  return list(
    build_corruptions.corrupted_records(
      path, tfrecords.ORIGINAL, records, 'contrast', 1, 'legacy', 'png'
    )
  )


def find_fault(path, records):
  tfrecords.find_fault(path, tfrecords.ORIGINAL, records)


READERS = (
  read_ordered,
  read_for_training,
  read_for_pie,
  read_for_corruptions,
  find_fault,
)


def with_length(shard, record, length, folder):
  """Makes a record declare another length, under the right checksum."""
  # A record whose data are the length holds what we need: their checksum.
  other = str(folder / 'length')
  number = struct.pack('<Q', length)
  shard_files.write(other, [number])
  checksum = pathlib.Path(other).read_bytes()[-4:]
  whole = bytearray(pathlib.Path(shard).read_bytes())
  begin = 0
  for _ in range(record):
    begin += 16 + struct.unpack_from('<Q', whole, begin)[0]
  whole[begin : begin + 12] = number + checksum
  pathlib.Path(shard).write_bytes(whole)
  return begin


@pytest.mark.parametrize('read', READERS)
@pytest.mark.parametrize('length', [2**16, 2**64 - 4])
def test_a_length_that_lies_is_named_by_every_reader(tmp_path, read, length):
  """TensorFlow would ask for that much memory, and the process would end."""
  (path,) = data_set(str(tmp_path))
  records = image_records.read(str(tmp_path))
  begin = with_length(path, 3, length, tmp_path)
  with pytest.raises(ValueError, match='is damaged') as raised:
    read(path, records)
  assert f'{path} is damaged: record 3, which begins at byte {begin},' in str(
    raised.value
  )


def test_a_record_larger_than_any_image_is_named(tmp_path):
  path = str(tmp_path / 'validation-00000-of-00001')
  with_length_of_file = struct.pack('<Q', 2**30)
  with open(path, 'wb') as file:
    file.write(with_length_of_file)
    file.truncate(2**30 + 16)  # a hole, which takes no room on the disk
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    tfrecords.detect([path])
  with pytest.raises(ValueError, match='record 0.* has 1073741824 bytes'):
    list(shard_files.read_records(path))


def bomb(form, height, width):
  """A small file whose header declares another size, right in all else."""
  whole = bytearray(picture(form))
  if form == 'PNG':
    whole[16:24] = struct.pack('>II', width, height)
    whole[29:33] = struct.pack('>I', zlib.crc32(whole[12:29]))
  else:
    # Marker, length, bits a sample; then height and width.
    begin = whole.index(b'\xff\xc0') + 5
    whole[begin : begin + 4] = struct.pack('>HH', height, width)
  return bytes(whole)


BOMBS = (
  ('JPEG', 60_000, 60_000),
  ('JPEG', 11_600, 11_600),
  # The shorter side becomes resize_size, the longer one what it has to.
  ('JPEG', 8, 1025),
  ('PNG', 2**20, 1),
  ('PNG', 8, 0),
  ('PNG', 60_000, 60_000),
  ('PNG', 2**31, 1),
  ('PNG', 2**31, 2**31),
  ('PNG', 2**32 - 1, 2**32 - 1),
  ('PNG', 1, 2**27 + 1),
)


@pytest.mark.parametrize(('form', 'height', 'width'), BOMBS)
def test_absurd_sizes_of_images_are_refused_unread(form, height, width):
  """Eagerly and in a graph, of which pipelines consist."""
  encoded = tf.constant(bomb(form, height, width))
  for function in (preprocessing.decode, tf.function(preprocessing.decode)):
    with pytest.raises(
      tf.errors.InvalidArgumentError, match='too large|too narrow'
    ):
      function(encoded)


@pytest.mark.parametrize(
  ('read', 'crop_area_min'),
  [
    (read_ordered, 1.0),
    (read_for_training, 1.0),
    (read_for_training, 0.5),
    (read_for_corruptions, 1.0),
    (find_fault, 1.0),
  ],
)
@pytest.mark.parametrize(
  ('bad', 'message'),
  [
    (bomb('JPEG', 60_000, 60_000), 'too large'),
    (bomb('PNG', 2**32 - 1, 2**32 - 1), 'too large'),
    (picture('GIF'), 'neither a JPEG nor a PNG'),
    (b'\x89PNG', 'neither a JPEG nor a PNG'),
  ],
)
def test_records_of_such_images_are_named_by_every_reader(
  tmp_path, read, crop_area_min, bad, message
):
  (path,) = data_set(str(tmp_path), lambda i: bad if i == 3 else png(i))
  records = dataclasses.replace(
    image_records.read(str(tmp_path)), crop_area_min=crop_area_min
  )
  with pytest.raises(ValueError, match=message) as raised:
    read(path, records)
  assert f"{path}, record 3, key 'k3': the feature 'image/encoded'" in str(
    raised.value
  )


@pytest.mark.parametrize('archive', [False, True])
@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_the_builder_refuses_absurd_sizes(tmp_path, archive, form):
  folder = tmp_path / 'images'
  for name, data in (('a', picture(form)), ('b', bomb(form, 12_000, 12_000))):
    (folder / name).mkdir(parents=True)
    (folder / name / f'0.{form.lower()}').write_bytes(data)
  source = folder
  if archive:
    source = tmp_path / 'images.tar'
    with tarfile.open(source, 'w') as tar:
      tar.add(folder, arcname='.')
  with pytest.raises(ValueError, match=rf'b/0\.{form.lower()}.*too large'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(source)
    )
  assert not (tmp_path / 'out' / 'image_records.json').exists()


def test_the_builder_refuses_files_larger_than_memory(tmp_path):
  source = tmp_path / 'images'
  for name in 'ab':
    (source / name).mkdir(parents=True)
    (source / name / '0.png').write_bytes(picture('PNG'))
  os.truncate(
    source / 'a' / '0.png', 2**36
  )  # a hole, which takes no room on the disk
  with pytest.raises(ValueError, match=r'a/0\.png\) has 68719476736 bytes'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(source)
    )
  # A tar that only says so ends too soon.
  member = tarfile.TarInfo('a/0.png')
  member.size = 2**42
  path = tmp_path / 'images.tar'
  path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
  with pytest.raises(ValueError, match=r'images\.tar is .* unexpected end'):
    build_image_data.run(
      'folders', str(tmp_path / 'out'), train_directory=str(path)
    )


def test_folders_of_images_name_an_absurd_size(tmp_path):
  for name, data in (('a', picture('PNG')), ('b', bomb('PNG', 2**31, 2**31))):
    (tmp_path / name).mkdir()
    (tmp_path / name / '0.png').write_bytes(data)
  records = image_records.ImageRecords(
    'pets', ('a', 'b'), class_keys=('a', 'b'), image_size=8, resize_size=8
  )
  reader = image_folders.FolderReader(records, 'legacy', 4)
  with pytest.raises(ValueError, match=r'b/0\.png is not .*too large'):
    list(reader.read(str(tmp_path), records))


FORMULAS = (
  '=1+1',
  "=cmd|' /C calc'!A0",
  ' =HYPERLINK("http://x")',
  '+SUM(A1)',
  "-2+3+cmd|' /C calc'!A0",
  '@SUM(1)',
  '\uff1d1+1',
)
CONTROLS = ('a\nb', 'a\rb', 'a\0b', '\x1b[31mred', '\ud800', '\t=1+1')
HARMLESS = ('-', '=', '+1', '-0a.jpg', '@home', 'a=b', '<b>&"\'', ',', '..')


@pytest.mark.parametrize('text', HARMLESS)
def test_harmless_text_stays_as_it_is(tmp_path, text):
  frame = pd.DataFrame({'group': [text], 'image_key': [f'a/{text}']})
  path = str(tmp_path / 'groups.csv')
  csvs.write(tables.GROUPS, frame, path)
  read = csvs.read(tables.GROUPS, path)
  assert read['group'].tolist() == [text]
  assert read['image_key'].tolist() == [f'a/{text}']
  assert tfrecords.key_text(text.encode()) == text


@pytest.mark.parametrize('text', FORMULAS + CONTROLS)
def test_no_cell_holds_a_formula_or_a_control_character(tmp_path, text):
  frame = pd.DataFrame({'group': ['a'], 'class': [text]})
  with pytest.raises(ValueError, match="column 'class' holds"):
    csvs.write(tables.GROUPS, frame, str(tmp_path / 'groups.csv'))
  assert not os.listdir(tmp_path)
  for changes in (
    {'class_names': ('a', text)},
    {'class_keys': ('a', text)},
    {'name': text},
  ):
    with pytest.raises(ValueError, match='class_names|class_keys|name'):
      image_records.ImageRecords(
        **{'name': 'pets', 'class_names': ('a', 'b'), **changes}
      )


@settings(max_examples=300, deadline=None)
@given(
  st.binary(max_size=20)
  | st.text(max_size=20).map(lambda t: t.encode('utf-8', 'surrogatepass'))
  | st.sampled_from(FORMULAS).map(str.encode)
)
def test_every_key_may_stand_in_a_table(key):
  """And stays what it is when it is read from there and stored again."""
  text = tfrecords.key_text(key)
  assert not csvs.fault_of_text(text)
  assert tfrecords.key_text(text.encode()) == text


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('group,class\na,b\0c\n', 'NUL'),
    ('\rgroup,class\na,b\n', 'is not a CSV'),
    (f'group,class_id\na,{"9" * 5000}\n', "column 'class_id' holds"),
    ('group,class\na,"b\nc"\n', r"column 'class' holds 'b\\nc'.* line break"),
    ('group,class\na,"b\rc"\n', r"column 'class' holds 'b\\rc'.* line break"),
  ],
)
def test_tables_from_elsewhere_with_control_characters_are_named(
  tmp_path, text, message
):
  path = tmp_path / 'groups.csv'
  path.write_bytes(text.encode())
  with pytest.raises(ValueError, match=message) as raised:
    csvs.read(tables.GROUPS, str(path))
  assert str(path) in str(raised.value)


WAYS_OUT = ('..', '../../x', '/x', 'a/b', 'a\\b', '', '.', 'a\nb', 'a\0b')


@pytest.mark.parametrize('name', WAYS_OUT)
def test_no_name_in_a_table_leads_out_of_the_output_folder(name):
  member = member_paths.Member('e', populations.BASELINE, 0.0, 0, 0, 0, 0)
  of = member_paths.Checkpoint(member, 5, 'x')
  calls = [
    lambda: paths.predictions('out', name, 'eval', 'shard', of),
    lambda: paths.predictions('out', 'digits', 'eval', name, of),
    lambda: paths.modal_labels('out', name, 'eval', 'shard', 'm', 0.5),
    lambda: paths.modal_labels('out', 'digits', 'eval', name, 'm', 0.5),
    lambda: paths.pie_null('out', name, 'eval'),
    lambda: paths.pie_records('out', name, 'eval', 'pie', 'm', 0.5, 's'),
    lambda: paths.pie_records('out', 'd', 'eval', 'pie', name, 0.5, 's'),
    lambda: paths.pie_statistics('out', name, 'eval', 'shard', 'm', 0.5),
    lambda: paths.class_metrics('out', name, 'eval', of),
    lambda: paths.group_metrics('out', name, 'eval', of),
    lambda: paths.t_statistic('out', name, 'eval'),
    lambda: paths.class_impact_summary('out', name, 'eval'),
    lambda: paths.class_impact_figure('out', name, 'eval', 'x', 'png'),
    lambda: paths.robustness('out', name, 'noise_1', of),
    lambda: paths.robustness('out', 'digits', name, of),
    lambda: member_paths.Member(name, populations.BASELINE, 0.0, 0, 0, 0, 0),
    lambda: image_records.ImageRecords(name, ('a', 'b')),
    lambda: image_records.ImageRecords('d', ('a', 'b'), class_keys=('a', name)),
    lambda: described({name: image_records.Shard(1, 1)}),
  ]
  if name:
    # A method or a level is a part of a name.
    for method in (f'{name}/x', f'x/{name}'):
      level = populations.Level(method, 0.5)
      calls += [
        lambda of=level: paths.modal_labels('out', 'd', 'eval', 's', of),
        lambda of=level: paths.pie_statistics('out', 'd', 'eval', 's', of),
        lambda m=method: paths.class_impact_figure('out', 'd', 'eval', m, 'x'),
      ]
  for call in calls:
    with pytest.raises(ValueError, match='wanted the name of one folder|holds'):
      call()


def test_a_tar_writes_nothing_outside_of_the_output_folder(tmp_path):
  path = tmp_path / 'in' / 'images.tar'
  path.parent.mkdir()
  names = ('../../n01/0.png', '/n02/0.png', 'n02/../n01/1.png')
  with tarfile.open(path, 'w') as tar:
    for name in names:
      member = tarfile.TarInfo(name)
      member.size = len(picture('PNG'))
      tar.addfile(member, io.BytesIO(picture('PNG')))
  out = tmp_path / 'deep' / 'out'
  build_image_data.run('folders', str(out), train_directory=str(path))
  assert sorted(os.listdir(tmp_path)) == ['deep', 'in']
  assert os.listdir(tmp_path / 'deep') == ['out']
  assert image_records.read(str(out)).class_keys == ('n01', 'n02')
  for name in ('../0.png', '=1+1/0.png', 'n\n/0.png'):
    with tarfile.open(path, 'a') as tar:
      member = tarfile.TarInfo(name)
      member.size = len(picture('PNG'))
      tar.addfile(member, io.BytesIO(picture('PNG')))
    bad = str(tmp_path / 'deep' / 'bad')
    with pytest.raises(ValueError, match='class_'):
      build_image_data.run('folders', bad, train_directory=str(path))
    assert os.listdir(tmp_path / 'deep') == ['out']


@pytest.mark.parametrize(
  'encoded',
  [
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n',
    picture('GIF'),
    bomb('PNG', 60_000, 60_000),
    bomb('JPEG', 60_000, 60_000),
  ],
)
def test_the_gallery_opens_no_other_image(tmp_path, encoded):
  """Pillow hands an EPS to a program, which runs what it says."""
  (shard,) = data_set(str(tmp_path / 'data'), lambda i: encoded)
  records = image_records.read(str(tmp_path / 'data'))
  with pytest.raises(ValueError, match=f"{shard}, record 0, key 'k0'"):
    gallery_images.write_pictures(
      [shard],
      records,
      {storage.name(shard): {'k0'}},
      str(tmp_path / 'page'),
      large_size=32,
      small_size=16,
    )
  assert not (tmp_path / 'page').exists()


def test_nothing_is_pickled_or_evaluated():
  root = pathlib.Path(__file__).parent.parent
  modules = {'pickle', 'dill', 'joblib', 'shelve', 'marshal', 'yaml'}
  names = {'eval', 'exec', 'compile', '__import__'}
  attributes = {'read_pickle', 'to_pickle', 'popen', 'system'}
  options = {'allow_pickle', 'shell'}
  files = [
    path
    for path in root.glob('*/*.py')
    if (path.parent / '__init__.py').exists() and path.parent.name != 'tests'
  ]
  for path in files:
    for node in ast.walk(ast.parse(path.read_text())):
      found = set()
      if isinstance(node, ast.Import):
        found = modules & {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        found = modules & {(node.module or '').split('.')[0]}
      elif isinstance(node, ast.Call):
        found = options & {keyword.arg for keyword in node.keywords}
        if isinstance(node.func, ast.Name):
          found |= names & {node.func.id}
        if isinstance(node.func, ast.Attribute):
          found |= attributes & {node.func.attr}
      assert not found, f'{path}:{node.lineno}: {found}'
  assert len(files) > 20


def checksum(data, folder):
  """TensorFlow's, of any bytes: a record of them ends in it."""
  shard_files.write(str(folder / 'checksum'), [data])
  return (folder / 'checksum').read_bytes()[-4:]


def varint(number):
  parts = b''
  while number > 127:
    parts += bytes([number & 127 | 128])
    number >>= 7
  return parts + bytes([number])


def table_list(entries, searched=None):
  """A list of a table in LevelDB's format, no key shared."""
  content, starts = b'', []
  for key, value in entries:
    starts.append(len(content))
    content += b''.join(map(varint, (0, len(key), len(value)))) + key + value
  starts = starts or [0] if searched is None else searched
  return content + struct.pack(f'<{len(starts) + 1}I', *starts, len(starts))


def write_index(path, lists, folder):
  """An index of the given lists, in which only the checksums are right."""
  whole, places = b'', []
  for content in (*lists, table_list([])):
    places.append(varint(len(whole)) + varint(len(content)))
    whole += content + b'\0' + checksum(content + b'\0', folder)
  top = table_list((b'~%d' % i, p) for i, p in enumerate(places[:-1]))
  places.append(varint(len(whole)) + varint(len(top)))
  whole += top + b'\0' + checksum(top + b'\0', folder)
  footer = (places[-2] + places[-1]).ljust(40, b'\0')
  path.write_bytes(whole + footer + bytes.fromhex('57fb808b247547db'))


def entry(dims=(2,), **fields):
  proto = tensor_bundle_pb2.BundleEntryProto(
    **{'dtype': tf.float32.as_datatype_enum, 'size': 8, **fields}
  )
  for size in dims:
    proto.shape.dim.add(size=size)
  return proto.SerializeToString()


def write_bundle(folder, value, **options):
  header = tensor_bundle_pb2.BundleHeaderProto(num_shards=1)
  header.version.producer = 1
  content = table_list([(b'', header.SerializeToString()), (b'x', value)])
  data = np.float32([1, 2]).tobytes()
  (folder / 'c.data-00000-of-00001').write_bytes(data)
  lists = [options.get('content', content)]
  write_index(folder / 'c.index', lists, folder)
  return str(folder / 'c')


def test_an_index_of_our_own_is_read(tmp_path):
  """Or the next test would show nothing."""
  crc = struct.unpack('<I', checksum(np.float32([1, 2]).tobytes(), tmp_path))[0]
  prefix = write_bundle(tmp_path, entry(crc32c=crc))
  assert checkpoints.read_bundle(prefix)['x'].tolist() == [1, 2]


@pytest.mark.parametrize(
  'value',
  [
    entry((2**40,), size=2**42),
    entry((2**33,)),
    entry((2**62, 2**62)),
    entry((-1,)),
    entry((-5, 2)),
    entry((2, *[1] * 300)),
    entry(dtype=77),
    entry(dtype=tf.resource.as_datatype_enum),
    entry(dtype=tf.variant.as_datatype_enum),
    entry((2**33,), dtype=tf.string.as_datatype_enum),
    entry(offset=2**50),
    entry(offset=-5),
    entry(shard_id=-3),
    entry(shard_id=2**30),
    b'\xff\xff\xff',
  ],
)
def test_an_index_that_lies_is_named(tmp_path, value):
  """TensorFlow would end the process at half of them."""
  prefix = write_bundle(tmp_path, value)
  with pytest.raises(ValueError, match=prefix):
    checkpoints.read_bundle(prefix)


@pytest.mark.parametrize(
  'content',
  [
    table_list([(b'x', b'y')], [3]),
    table_list([(b'x', b'y')], [2**31] * 3),
    table_list([(b'x' * 5000, b'y')]),
    b'\xff' * 20 + struct.pack('<2I', 0, 1),
    struct.pack('<I', 2**31),
    b'',
  ],
)
def test_lists_of_an_index_that_lie_are_named(tmp_path, content):
  prefix = write_bundle(tmp_path, b'', content=content)
  with pytest.raises(ValueError, match=f'{prefix}.index is damaged'):
    checkpoints.read_bundle(prefix)


def test_every_flip_of_a_description_is_noticed(tmp_path, long):
  """It would be read with another mean, or other names of classes."""
  data_set(str(tmp_path))
  path = tmp_path / 'image_records.json'
  right = image_records.read(str(tmp_path))
  same = 0
  for damaged in flips_and_cuts(path.read_bytes(), 1 if long else 3):
    path.write_bytes(damaged)
    try:
      assert image_records.read(str(tmp_path)) == right
      same += 1
    except ValueError as error:
      assert str(path) in str(error)
  report(f'{same} without effect: white space')


def flips_and_cuts(whole, every):
  """Yields the bytes with one bit changed, or cut short.

  Args:
    whole: the bytes.
    every: 1 for all, else one of so many.
  """
  tried = 0
  for bit in range(0, 8 * len(whole), every):
    tried += 1
    yield with_flip(whole, bit)
  for size in range(0, len(whole), every):
    tried += 1
    yield whole[:size]
  report(f'{tried} flips and cuts of {len(whole)} bytes')


def with_flip(whole, bit):
  damaged = bytearray(whole)
  damaged[bit // 8] ^= 1 << bit % 8
  return bytes(damaged)


def report(text):
  """A figure of what was tried; `pytest -s` shows it."""
  print(f'\n  {text}', end='')


def outcomes(path, every, read):
  """Counts what becomes of a file's damage: 'named', 'same', 'other'.

  Args:
    path: the file, which is put right in the end.
    every: as of `flips_and_cuts`.
    read: gives what is compared. ValueError and OSError may leave it, and have
      to name the file.
  """
  whole = path.read_bytes()
  right = read()
  found = collections.Counter()
  for damaged in flips_and_cuts(whole, every):
    path.write_bytes(damaged)
    try:
      found['same' if read() == right else 'other'] += 1
    except (ValueError, OSError) as error:
      assert path.name.split('.')[0] in str(error), error
      found['named'] += 1
  path.write_bytes(whole)
  report(f'{path.name}: {dict(found)}')
  return found


def test_every_flip_of_a_shard_is_noticed(tmp_path, long):
  """Without a look at the size of the file, which is declared as well."""
  path = tmp_path / 'validation-00000-of-00001'
  examples = [tfrecords.encode(f'k{i}', png(i), i, CLASSES[i]) for i in (0, 1)]
  shard_files.write(str(path), examples)

  def read():
    found = list(shard_files.read_records(str(path)))
    if len(found) < len(examples):
      # A cut between records; `check_count` tells the reader.
      raise ValueError(f'{path} holds {len(found)} records')
    return found

  assert set(outcomes(path, 1 if long else 31, read)) == {'named'}


def test_every_flip_of_a_shard_is_noticed_by_the_pipeline(tmp_path, long):
  (path,) = data_set(str(tmp_path))
  records = image_records.read(str(tmp_path))
  reader = data_input.OrderedReader(records, tfrecords.ORIGINAL, 'legacy', 4)

  def read():
    return [
      (keys, labels.tolist(), images.numpy().tolist())
      for keys, labels, images in reader.read(path, records)
    ]

  found = outcomes(pathlib.Path(path), 101 if long else 1009, read)
  assert set(found) == {'named'}


def test_every_flip_of_a_checkpoint_is_noticed(tmp_path, long):
  """Or falls on bytes that mean nothing."""
  prefix = str(tmp_path / 'model.ckpt-7')
  checkpoints.write_bundle(
    prefix,
    {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'step': np.int64(7)},
  )

  def read():
    return [
      (name, value.dtype, value.tolist())
      for name, value in sorted(checkpoints.read_bundle(prefix).items())
    ]

  for suffix in ('.index', '.data-00000-of-00001'):
    path = pathlib.Path(prefix + suffix)
    found = outcomes(path, 1 if long else 5, read)
    assert found['named'] and not found['other']
    assert suffix == '.index' or not found['same']


def test_every_flip_of_a_png_is_noticed(tmp_path, long):
  path = tmp_path / '0.png'
  path.write_bytes(picture('PNG'))

  def read():
    return image_folders.read_image(str(path)).numpy().tolist()

  found = outcomes(path, 1 if long else 5, read)
  assert found['named'] and not found['other']


def test_flips_of_a_jpeg_that_decodes_cannot_be_noticed(tmp_path, long):
  """It has no checksum: in TFRecords it has theirs, in a folder none."""
  path = tmp_path / '0.jpg'
  path.write_bytes(picture('JPEG'))

  def read():
    return image_folders.read_image(str(path)).numpy().tolist()

  found = outcomes(path, 1 if long else 5, read)
  assert found['named'] > 0.1 * found.total()


def predictions(folder, member, labels=(0, 1, 2, 1), keys=None):
  number = len(labels)
  frame = pd.DataFrame(
    {
      'predictions': labels,
      'true_class': [0, 1, 2, 0],
      'predicted_probability': [0.5, 0.25, 0.75, 1.0],
      'split': 'eval',
      'filename': 'validation-00000-of-00001',
      'exp': 'e',
      'pruning_method': 'threshold' if member[0] else 'baseline',
      'fraction_pruned': member[0],
      'replicate': member[1],
      'image_key': keys or [f'k{i}' for i in range(number)],
      'image_index': range(number),
    }
  )
  path = folder / 'validation-00000-of-00001' / f'{member[0]}_{member[1]}.csv'
  csvs.write(tables.PREDICTIONS, frame, str(path))
  return path


def test_flips_of_a_csv_change_no_more_than_cells(tmp_path, long):
  """A table has no checksum: a digit that becomes another goes unnoticed.

  All else is: of predictions, wherever images or labels do not fit those of
  other members.
  """
  files = [predictions(tmp_path, (f, r)) for f in (0.0, 0.5) for r in (0, 1)]

  def read():
    shard = aggregate_predictions.read_shard([*map(str, files)], 'eval', 3)
    seen.append((shard.members, shard.image_key, shard.true_class))
    return shard.label.tolist(), shard.probability.tolist()

  seen = []
  found = outcomes(files[2], 1 if long else 13, read)
  for members, keys, labels in seen:
    assert keys.tolist() == ['k0', 'k1', 'k2', 'k3']
    assert labels.tolist() == [0, 1, 2, 0]
    assert len(members) == 4
  assert found['named'] > 0.5 * found.total()


def test_cuts_of_a_csv_are_noticed(tmp_path):
  """But at the end of a line, which takes the images of others to notice."""
  files = [predictions(tmp_path, (0.0, r)) for r in (0, 1)]
  whole = files[1].read_bytes()
  for size in range(len(whole)):
    files[1].write_bytes(whole[:size])
    if size and whole[size - 1 : size] == b'\n':
      csvs.read(tables.PREDICTIONS, str(files[1]))
    else:
      with pytest.raises(ValueError, match=files[1].name):
        csvs.read(tables.PREDICTIONS, str(files[1]))
    with pytest.raises(ValueError, match=files[1].name):
      aggregate_predictions.read_shard([*map(str, files)], 'eval', 3)


@pytest.fixture(scope='module')
def population(tmp_path_factory):
  """The prefix of an untrained network of 10 classes."""
  folder = tmp_path_factory.mktemp('population')
  return inference.small_sample(str(folder))[0]


def digits(folder, keys):
  """A data set of 10 classes, of which each list of keys is a shard."""
  found = {}
  for number, of_shard in enumerate(keys):
    path = paths.shard(folder, 'validation', number, len(keys))
    found[storage.name(path)] = shard_files.write(
      path,
      [tfrecords.encode(key, png(0), 3, '3') for key in of_shard],
    )
  image_records.write(
    folder,
    image_records.ImageRecords(
      'digits',
      tuple('0123456789'),
      image_size=8,
      resize_size=8,
      splits={'validation': found},
    ),
  )
  return folder


def predict(population, data, out, batch_size=4):
  imagenet_predictions.run(
    population, data, out, 'eval', 'digits', batch_size, 'legacy', 'float32', 0
  )
  return csvs.find(
    tables.PREDICTIONS, paths.predictions_folder(out, 'digits', 'eval')
  )


@pytest.mark.parametrize(
  ('num_shards', 'batch_size'), [(1, 64), (1, 1), (3, 4), (5, 3)]
)
def test_keys_in_equal_keys_out(tmp_path, population, num_shards, batch_size):
  keys = [[f'{s}/{i}' for i in range(s + 4)] for s in range(num_shards)]
  data = digits(str(tmp_path / 'data'), keys)
  files = predict(population, data, str(tmp_path / 'out'), batch_size)
  rows = csvs.read_all(tables.PREDICTIONS, files)
  assert sorted(rows['image_key']) == sorted(sum(keys, []))
  (metrics,) = aggregate_ckpt_metrics.run(
    **{
      'ckpt_dir': [population],
      'predictions_directory': '',
      'data_directory': data,
      'output_path': str(tmp_path / 'metrics'),
      'batch_size': batch_size,
      **MEASURED,
    }
  )
  support = csvs.read(tables.CLASS_METRICS, metrics)['support']
  assert support.sum() == len(rows)


MEASURED = {
  'mode': 'eval',
  'dataset_name': 'digits',
  'num_classes': None,
  'groups_file': '',
  'preprocessing': 'legacy',
  'precision': 'float32',
  'label_smoothing': 0.0,
}


@pytest.mark.parametrize(
  'keys', [[['a', 'b', 'a'], ['c']], [['a', 'b'], ['c', 'a']]]
)
def test_an_image_that_stands_twice_is_refused(tmp_path, population, keys):
  """In one shard or in two, by each script before it says a number."""
  data = digits(str(tmp_path / 'data'), keys)
  out = str(tmp_path / 'out')
  if keys[0].count('a') == 2:
    with pytest.raises(ValueError, match=r"share their identity.*'a'"):
      predict(population, data, out)
  else:
    files = predict(population, data, out)
    with pytest.raises(ValueError, match="'a'"):
      csvs.read_all(tables.PREDICTIONS, files)
  measured = {'output_path': out, 'batch_size': 4, **MEASURED}
  with pytest.raises(ValueError, match="'a'"):
    aggregate_ckpt_metrics.run(
      ckpt_dir=[population],
      predictions_directory='',
      data_directory=data,
      **measured,
    )
  assert not list(tmp_path.rglob('class_metrics_*.csv'))
  with pytest.raises(ValueError, match="'a'"):
    imagenet_corruptions.run(
      population,
      data,
      out,
      'digits',
      [],
      'eval',
      4,
      'legacy',
      'float32',
      0.0,
    )
  assert not list(tmp_path.rglob('digits/digits/*.csv'))


def fuzz(inputs, parse, number):
  """Feeds a parser; only ValueError and OSError may leave it.

  Args:
    inputs: strategy.
    parse: takes one.
    number: how many.
  """
  found = collections.Counter()

  @settings(
    max_examples=number,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
  )
  @given(inputs)
  def feed(value):
    try:
      parse(value)
      found['taken'] += 1
    except (ValueError, OSError):
      found['refused'] += 1

  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  feed()
  # In KB; hypothesis itself remembers some of what it tried.
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  report(f'{dict(found)}, memory grew by {grown >> 10} MB')
  assert grown < 400 * 2**10
  assert found['refused']


def mutated(*seeds):
  """Bytes near good ones: parts cut out, doubled, replaced, or anything."""

  @st.composite
  def draw(choose):
    data = choose(st.sampled_from(seeds))
    for _ in range(choose(st.integers(1, 4))):
      begin, end = sorted(choose(st.tuples(*[st.integers(0, len(data))] * 2)))
      part = choose(
        st.sampled_from([b'', data[begin:end] * 2, b'\xff' * 8, b'\0', b'-'])
        | st.sampled_from([b'1e999', b'"', b'\n', b'[' * 20_000, b'9' * 5000])
        | st.binary(max_size=12)
      )
      data = data[:begin] + part + data[end:]
    return data

  return draw() | st.binary(max_size=200)


def test_fuzzed_descriptions(tmp_path, long):
  data_set(str(tmp_path))
  path = tmp_path / 'image_records.json'
  right = path.read_bytes()
  fields = json.loads(right)
  del fields['sha256']

  def parse(data):
    path.write_bytes(data)
    image_records.read(str(tmp_path))

  seeds = (right, json.dumps(fields).encode())
  fuzz(mutated(*seeds), parse, 10_000 if long else 150)
  values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
  )
  changed = st.tuples(st.sampled_from(sorted(fields)), values)
  fuzz(
    changed.map(lambda c: json.dumps({**fields, c[0]: c[1]}).encode()),
    parse,
    10_000 if long else 150,
  )


@pytest.mark.parametrize(
  'table', [tables.PREDICTIONS, tables.CLASS_METRICS, tables.GROUPS]
)
def test_fuzzed_tables(tmp_path, long, table):
  path = tmp_path / 'a.csv'
  row = {c.name: {'text': 'a,"b'}.get(c.kind, 1) for c in table.columns}
  frame = pd.DataFrame([row, row])
  for column in table.columns:
    if column.name in ('image_key', 'class_id', 'class'):
      frame[column.name] = ['0', '1'] if column.kind == 'text' else [0, 1]
  csvs.write(table, frame, str(path))

  def parse(data):
    path.write_bytes(data)
    csvs.read(table, str(path))
    csvs.read_stacked(table, [str(path), str(path)])

  fuzz(mutated(path.read_bytes()), parse, 10_000 if long else 100)


def test_fuzzed_predictions_from_elsewhere(tmp_path, long):
  files = [predictions(tmp_path, (f, 0)) for f in (0.0, 0.5)]

  def parse(data):
    files[1].write_bytes(data)
    aggregate_predictions.read_shard([*map(str, files)], 'eval')

  fuzz(mutated(files[1].read_bytes()), parse, 10_000 if long else 100)


def test_fuzzed_paths(long):
  good = '/root/e/threshold/0.5/10/20/5/0/model.ckpt-7'
  parts = st.sampled_from(
    [*good.split('/'), '..', '-1', '1e3', 'nan', 'inf', '0.0', '\0', '9' * 5000]
  ) | st.text(max_size=5)

  @st.composite
  def paths_near(choose):
    found = good.split('/')
    for _ in range(choose(st.integers(0, 2))):
      found[choose(st.integers(0, len(found) - 1))] = choose(parts)
    return '/'.join(found)

  fuzz(
    paths_near() | st.lists(parts).map('/'.join) | st.text(),
    member_paths.parse,
    10_000 if long else 150,
  )
  names = st.sampled_from(['train', '-', '00000', 'of', '.tfrecord', '\n', '٣'])
  fuzz(
    st.lists(names | st.text(max_size=3), max_size=6).map(''.join),
    lambda name: (
      paths.shard('/x', paths.split_of_shard(name) or 'no', 0, 1)
      and storage.check_component('shard', name)
    ),
    10_000 if long else 150,
  )


def test_fuzzed_records(tmp_path, long):
  """The serialised record: its framing has checksums, its content none."""
  records = described({})
  good = tfrecords.encode('k0', picture('JPEG'), 1, 'dog')

  def parse(data):
    dialect = tfrecords.detect_dialect(data, 'shard')
    example = tfrecords.parse_example(data, dialect, records, 'shard', 0)
    assert example.key and not csvs.fault_of_text(example.key)
    assert 0 <= example.label < len(CLASSES)

  fuzz(mutated(good), parse, 10_000 if long else 150)
  path = str(tmp_path / 'validation-00000-of-00001')

  def search(data):
    shard_files.write(path, [good, data])
    tfrecords.find_fault(path, tfrecords.ORIGINAL, records)

  fuzz(mutated(good), search, 1000 if long else 30)


def test_fuzzed_shards(tmp_path, long):
  path = tmp_path / 'validation-00000-of-00001'
  shard_files.write(str(path), [b'one', b'two two'])

  def parse(data):
    path.write_bytes(data)
    list(shard_files.read_records(str(path)))

  fuzz(mutated(path.read_bytes()), parse, 2000 if long else 60)


def test_fuzzed_images(long):
  seeds = [picture('PNG'), picture('JPEG'), bomb('PNG', 2**31, 3)]

  def parse(data):
    try:
      preprocessing.decode(tf.constant(data))
    except tf.errors.OpError as error:
      raise ValueError from error

  fuzz(mutated(*seeds), parse, 10_000 if long else 150)


def test_fuzzed_checkpoints(tmp_path, long):
  """Lists of the index with anything in them, under right checksums."""
  prefix = write_bundle(tmp_path, entry())
  index = tmp_path / 'c.index'
  whole = index.read_bytes()

  def parse(data):
    index.write_bytes(data)
    checkpoints.read_bundle(prefix)

  fuzz(mutated(whole), parse, 10_000 if long else 100)
  proto = entry((3, 4))

  def parse_entry(value):
    checkpoints.read_bundle(write_bundle(tmp_path, value))

  fuzz(mutated(proto, entry((2**40,))), parse_entry, 1000 if long else 30)
  content = table_list([(b'', b'\x08\x01'), (b'x', proto), (b'y', proto)])

  def parse_content(value):
    checkpoints.read_bundle(write_bundle(tmp_path, b'', content=value))

  fuzz(mutated(content), parse_content, 1000 if long else 30)


@pytest.mark.parametrize(
  'text', ['', '{', '[1]', '{"settings": 3}', '[' * 100_000, '\xff']
)
def test_a_damaged_record_of_a_command_is_named(tmp_path, text):
  path = tmp_path / 'stage.run.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match=f'{path} is damaged'):
    provenance.Provenance(str(tmp_path), 'room.stage', {'batch_size': 4})
