"""Pixels: the original's, and a law or two of the random ones."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests import reference_values
from utils import preprocessing

REFERENCE = np.load(reference_values.FOLDER / 'preprocessed_eval_every_8th.npz')


def encoded(stem):
  return (reference_values.FOLDER / 'jpeg' / f'{stem}.jpg').read_bytes()


def png(array):
  stream = io.BytesIO()
  Image.fromarray(array).save(stream, 'PNG')
  return stream.getvalue()


@pytest.mark.parametrize('stem', REFERENCE.files)
@pytest.mark.parametrize('in_graph', [False, True])
def test_evaluation_pixels_equal_the_originals(stem, in_graph):
  def pixels(image):
    return preprocessing.central_crop(
      preprocessing.decode(image), 256, 224, 'legacy'
    )

  if in_graph:
    pixels = tf.function(pixels)
  ours = pixels(tf.constant(encoded(stem))).numpy()
  assert ours.shape == (224, 224, 3)
  assert np.abs(ours[::8, ::8] - REFERENCE[stem]).max() <= 1e-3


def legacy_bicubic(image, height, width):
  """A second implementation, from the description of TF1's kernel."""

  def weights(old, new):
    scale = np.float32(old) / np.float32(new)
    source = (np.arange(new, dtype=np.float32) * scale).astype(np.float32)
    base = np.floor(source).astype(int)
    offset = np.rint((source - base) * 1024) / 1024
    a = -0.75

    def near(x):
      return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x):
      return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    taps = np.stack(
      [far(offset + 1), near(offset), near(1 - offset), far(2 - offset)], 1
    )
    matrix = np.zeros((new, old))
    for tap in range(4):
      index = np.clip(base - 1 + tap, 0, old - 1)
      np.add.at(matrix, (np.arange(new), index), taps[:, tap])
    return matrix

  rows, columns = (
    weights(image.shape[0], height),
    weights(image.shape[1], width),
  )
  return np.einsum(
    'hH,HWc,wW->hwc', rows, image.astype(float), columns, optimize=True
  )


@pytest.mark.parametrize(
  ('height', 'width'), [(1, 1), (3, 40), (257, 255), (256, 256), (64, 48)]
)
def test_any_size_equals_a_second_implementation(height, width):
  rng = np.random.default_rng(height)
  image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
  ours = preprocessing.central_crop(
    tf.constant(image), 256, 224, 'legacy'
  ).numpy()
  if height > width:
    size = (int(np.float32(height) / np.float32(width) * 256), 256)
  else:
    size = (256, int(np.float32(width) / np.float32(height) * 256))
  resized = legacy_bicubic(image, *size)
  top, left = (int((side - 224 + 1) / 2) for side in size)
  second = resized[top : top + 224, left : left + 224]
  assert np.abs(ours - second).max() <= 1e-3


def test_without_a_resize_pixels_are_unchanged():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
  for name in preprocessing.NAMES:
    ours = preprocessing.central_crop(tf.constant(image), 32, 32, name)
    np.testing.assert_array_equal(ours, image)


def test_legacy_and_modern_are_different_choices():
  image = preprocessing.decode(tf.constant(encoded('img4_64x48')))
  legacy, modern = (
    preprocessing.central_crop(image, 256, 224, name)
    for name in preprocessing.NAMES
  )
  assert np.abs(legacy - modern).mean() > 1
  versions = {preprocessing.version(name) for name in preprocessing.NAMES}
  assert len(versions) == 2
  with pytest.raises(ValueError, match='wanted one of'):
    preprocessing.version('other')


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA'])
def test_png_decodes_without_loss(mode):
  rng = np.random.default_rng(0)
  channels = {'L': (), 'RGB': (3,), 'RGBA': (4,)}[mode]
  array = rng.integers(0, 256, (5, 7, *channels), dtype=np.uint8)
  decoded = preprocessing.decode(tf.constant(png(array))).numpy()
  expected = array[..., None].repeat(3, -1) if mode == 'L' else array[..., :3]
  np.testing.assert_array_equal(decoded, expected)


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded():
  bomb = bytearray(png(np.zeros((4, 4, 3), np.uint8)))
  bomb[16:24] = (2**16).to_bytes(4, 'big') * 2
  with pytest.raises(tf.errors.InvalidArgumentError):
    preprocessing.decode(tf.constant(bytes(bomb)))


@pytest.mark.parametrize('content', [b'', b'GIF89a', b'\xff\xd8', b'x' * 99])
def test_what_is_no_image_is_an_error(content):
  with pytest.raises(tf.errors.InvalidArgumentError):
    preprocessing.decode(tf.constant(content))


def crop(seed, image, **options):
  defaults = {
    'image_size': 16,
    'crop_area_min': 0.08,
    'horizontal_flip': True,
    'name': 'legacy',
  }
  return preprocessing.random_crop(
    tf.constant(png(image)),
    tf.constant([seed, 0], tf.int64),
    **defaults | options,
  ).numpy()


def test_random_crops_are_functions_of_their_seed():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
  in_graph = tf.function(
    lambda seed: preprocessing.random_crop(
      tf.constant(png(image)), seed, 16, 0.08, True, 'legacy'
    )
  )
  different = set()
  for seed in range(20):
    pixels = crop(seed, image)
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_array_equal(pixels, crop(seed, image))
    np.testing.assert_array_equal(
      pixels, in_graph(tf.constant([seed, 0], tf.int64))
    )
    different.add(pixels.tobytes())
  assert len(different) == 20


@pytest.mark.parametrize('is_png', [True, False])
@pytest.mark.parametrize(('area', 'padding'), [(0.08, 0), (0.9, 0), (1, 4)])
def test_an_image_decoded_before_is_cropped_to_the_same_bits(
  is_png, area, padding
):
  content = png(np.array(ramp())) if is_png else jpeg(photograph())
  encoded = tf.constant(content)

  @tf.function
  def both(seed):
    return [
      preprocessing.random_crop(image, seed, 16, area, True, 'legacy', padding)
      for image in (encoded, preprocessing.decode(encoded))
    ]

  for seed in range(10):
    of_encoded, of_decoded = both(tf.constant([seed, 0], tf.int64))
    np.testing.assert_array_equal(of_encoded, of_decoded)


def ramp():
  """An image four times as wide as high, whose pixels say their column."""
  columns = np.linspace(0, 255, 160).astype(np.uint8)
  return np.broadcast_to(columns[None, :, None], (40, 160, 3))


def test_a_failed_attempt_to_crop_gives_the_central_crop():
  """No crop of nine tenths of this area is nearly square."""
  central = preprocessing.central_crop(
    tf.constant(ramp()), 16, 16, 'legacy'
  ).numpy()
  for seed in range(20):
    pixels = crop(seed, ramp(), crop_area_min=0.9, horizontal_flip=False)
    np.testing.assert_array_equal(pixels, central)


def test_no_image_is_squeezed_whole_into_a_square():
  # The widest crop is 4/3 of the height: a third of the columns.
  widest = 255 * (40 * 4 / 3) / 160
  spans = [np.ptp(crop(seed, ramp())[8, :, 0]) for seed in range(200)]
  assert max(spans) < 1.1 * widest


def jpeg(array, **options):
  stream = io.BytesIO()
  Image.fromarray(array).save(stream, 'JPEG', **options)
  return stream.getvalue()


def photograph(stem='img0_500x375'):
  return np.asarray(Image.open(io.BytesIO(encoded(stem))).convert('RGB'))


@pytest.mark.parametrize(
  'content',
  [
    *map(encoded, ('img0_500x375', 'img1_375x500', 'img4_64x48')),
    *(jpeg(photograph(), subsampling=way) for way in (0, 1, 2)),
    jpeg(photograph(), progressive=True),
    jpeg(photograph()[..., 0]),
    png(photograph('img4_64x48')),
  ],
)
def test_a_decoded_window_is_the_window_of_the_decoded_image(content):
  whole = preprocessing.decode(tf.constant(content)).numpy()
  height, width = whole.shape[:2]
  assert preprocessing._shape(tf.constant(content)).numpy().tolist() == [
    height,
    width,
    3,
  ]
  rng = np.random.default_rng(0)
  for _ in range(40):
    h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    window = preprocessing._decode_window(
      tf.constant(content),
      tf.constant(whole.shape),
      tf.constant([y, x, 0]),
      tf.constant([h, w, 3]),
    )
    np.testing.assert_array_equal(window, whole[y : y + h, x : x + w])


def test_flips_mirror_half_of_the_images_and_none_when_off():
  image = np.zeros((16, 16, 3), np.uint8)
  image[:, :8] = 255
  flipped = sum(
    crop(seed, image, crop_area_min=1)[0, 0, 0] == 0 for seed in range(200)
  )
  assert 70 < flipped < 130
  for seed in range(20):
    options = {'crop_area_min': 1, 'horizontal_flip': False}
    np.testing.assert_array_equal(crop(seed, image, **options), image)


def test_crops_keep_at_least_the_smallest_area():
  # A horizontal ramp: the span of values left tells the width of the crop.
  image = np.tile(np.arange(64, dtype=np.uint8)[:, None], (64, 1, 3))
  image = image.transpose(1, 0, 2).copy()
  for seed in range(50):
    pixels = crop(seed, image, crop_area_min=0.5)
    span = (pixels.max() - pixels.min()) / 64
    # Area 0.5 at the narrowest aspect, 3/4.
    assert span > np.sqrt(0.5 * 0.75) - 0.1


@pytest.mark.parametrize('padding', [1, 4])
def test_a_moved_image_is_a_window_of_the_padded_one(padding):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
  wide = np.pad(image, ((padding, padding),) * 2 + ((0, 0),), 'reflect')
  places = 2 * padding + 1
  windows = {
    wide[y : y + 16, x : x + 16].astype(np.float32).tobytes(): (y, x)
    for y in range(places)
    for x in range(places)
  }
  options = {'crop_area_min': 1, 'crop_padding': padding}
  found = [
    windows[crop(seed, image, horizontal_flip=False, **options).tobytes()]
    for seed in range(10 * places**2)
  ]
  # Of each place ten, give or take chance; a place left out has one of e^10.
  for axis in (0, 1):
    counts = np.bincount([place[axis] for place in found], minlength=places)
    assert (np.abs(counts / (10 * places) - 1) < 0.5).all()
  assert len(set(found)) > 0.99 * places**2
  # Mirrored after it, or not.
  both = windows.keys() | {
    wide[y : y + 16, x : x + 16][:, ::-1].astype(np.float32).tobytes()
    for y in range(places)
    for x in range(places)
  }
  flipped = [crop(seed, image, **options).tobytes() for seed in range(40)]
  assert set(flipped) <= both and not set(flipped) <= windows.keys()


def test_without_padding_nothing_moves():
  image = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
  options = {'crop_area_min': 1, 'horizontal_flip': False}
  for seed in range(20):
    np.testing.assert_array_equal(
      crop(seed, image, crop_padding=0, **options), image
    )
