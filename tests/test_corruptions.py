"""Laws of the corruptions: they grow, keys seed them, amounts are exact."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from robustness_tests import corruptions

NAMES = tuple(corruptions.CORRUPTIONS)
# Where a higher severity is a larger change of pixels, too.
GROWING = (
  'gaussian_noise',
  'shot_noise',
  'impulse_noise',
  'defocus_blur',
  'motion_blur',
  'zoom_blur',
  'brightness',
  'contrast',
  'pixelate',
  'jpeg_compression',
)


def scene(size=112, seed=0):
  """Edges, gradients and texture, in colours."""
  rng = np.random.default_rng(seed)
  row, column = np.mgrid[:size, :size] / size
  texture = ndimage.gaussian_filter(
    rng.standard_normal((size, size, 3)), (size / 60, size / 60, 0)
  )
  x = np.stack([row, column, (row - 0.5) ** 2 + (column - 0.5) ** 2], -1)
  x = x / 2 + 0.2 + texture / texture.std() / 12
  x[size // 3 : size // 2, size // 4 : size // 2] = (0.8, 0.2, 0.3)
  return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def change(image, name, severity, key='a'):
  corrupted = corruptions.corrupt(image, name, severity, key)
  return np.abs(corrupted.astype(float) - image).mean()


def test_all_but_frost_of_the_15_are_offered():
  assert len(NAMES) == 14
  assert 'frost' not in NAMES
  assert set(GROWING) < set(NAMES)


def test_constants_are_the_published_ones():
  """As make_imagenet_c.py of hendrycks/robustness has them, column by column.

  The package imagecorruptions 1.1.2 has the same ones.
  """
  published = {
    'gaussian_noise': '.08 .12 .18 .26 .38',
    'shot_noise': '60 25 12 5 3',
    'impulse_noise': '.03 .06 .09 .17 .27',
    'defocus_blur': '3 4 6 8 10 | .1 .5 .5 .5 .5',
    'glass_blur': '.7 .9 1 1.1 1.5 | 1 2 2 3 4 | 2 1 3 2 2',
    'motion_blur': '10 15 15 15 20 | 3 5 8 12 15',
    'zoom_blur': '1.11 1.16 1.21 1.26 1.31 | .01 .01 .02 .02 .03',
    'snow': '.1 .2 .55 .55 .55 | .3 .3 .3 .3 .3 | 3 2 4 4.5 2.5 |'
    '.5 .5 .9 .85 .85 | 10 12 12 12 12 | 4 4 8 8 12 | .8 .7 .7 .65 .55',
    'fog': '1.5 2 2.5 2.5 3 | 2 2 1.7 1.5 1.4',
    'brightness': '.1 .2 .3 .4 .5',
    'contrast': '.4 .3 .2 .1 .05',
    'elastic_transform': '2 2 .05 .07 .12 | .7 .08 .01 .01 .01 |'
    '.1 .2 .02 .02 .02',
    'pixelate': '.6 .5 .4 .3 .25',
    'jpeg_compression': '25 18 15 10 7',
  }
  assert set(published) == set(NAMES) == set(corruptions.CONSTANTS)
  for name, text in published.items():
    wanted = [list(map(float, part.split())) for part in text.split('|')]
    found = np.atleast_2d(np.transpose(corruptions.CONSTANTS[name]))
    np.testing.assert_array_equal(found, wanted, err_msg=name)


def test_pixels_and_jpegs_are_those_of_the_constants():
  image = scene(224)
  picture = Image.fromarray(image)
  for severity, share, quality in (
    (1, 0.6, 25),
    (2, 0.5, 18),
    (3, 0.4, 15),
    (4, 0.3, 10),
    (5, 0.25, 7),
  ):
    found = corruptions.corrupt(image, 'pixelate', severity, 'a')
    small = picture.resize((int(224 * share),) * 2, Image.Resampling.BOX)
    np.testing.assert_array_equal(
      found, small.resize((224, 224), Image.Resampling.BOX)
    )
    found = corruptions.corrupt(image, 'jpeg_compression', severity, 'a')
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=quality)
    np.testing.assert_array_equal(found, Image.open(file))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [32, 45, 112])
def test_result_is_an_image_of_the_same_size(name, size):
  image = scene(size)
  before = image.copy()
  for severity in (1, 5):
    corrupted = corruptions.corrupt(image, name, severity, 'a')
    assert corrupted.dtype == np.uint8
    assert corrupted.shape == image.shape
    assert (corrupted != image).any()
  np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('name', GROWING)
def test_severity_grows(name):
  image = scene()
  distances = [change(image, name, severity) for severity in range(1, 6)]
  assert (np.diff(distances) > 0).all(), distances


@pytest.mark.parametrize('name', sorted(set(NAMES) - {'elastic_transform'}))
def test_strongest_is_stronger_than_weakest(name):
  """Severities 1 and 2 of the authors' elastic_transform move whole images."""
  image = scene()
  assert change(image, name, 5) > change(image, name, 1)


@pytest.mark.parametrize('name', NAMES)
def test_key_severity_and_name_decide_the_bytes(name):
  images = {key: scene(32, seed) for seed, key in enumerate('abc')}
  first = {
    (key, severity): corruptions.corrupt(image, name, severity, key)
    for key, image in images.items()
    for severity in (2, 3)
  }
  # Whatever else was drawn before, and in whatever order.
  np.random.seed(1)  # noqa: NPY002
  corruptions.corrupt(images['a'], 'gaussian_noise', 1, 'z')
  for (key, severity), wanted in reversed(first.items()):
    again = corruptions.corrupt(images[key], name, severity, key)
    np.testing.assert_array_equal(again, wanted)


@pytest.mark.parametrize(
  'name', ['gaussian_noise', 'shot_noise', 'impulse_noise', 'fog', 'snow']
)
def test_another_key_draws_other_numbers(name):
  image = scene(32)
  one, other = (corruptions.corrupt(image, name, 3, key) for key in 'ab')
  assert (one != other).any()


@pytest.mark.parametrize('severity', [1, 3, 5])
def test_noise_has_the_declared_amount(severity):
  """Measured on grey, far from black and white where the amount is small."""
  grey = np.full((224, 224, 3), 128, np.uint8)

  def noise(name):
    found = corruptions.corrupt(grey, name, severity, 'a')
    return found / 255 - 128 / 255, found

  sigma = {1: 0.08, 3: 0.18, 5: 0.38}[severity]
  found, _ = noise('gaussian_noise')
  inside = np.abs(found) < 0.49
  wanted = np.random.default_rng(0).normal(0, sigma, 100_000)
  wanted = wanted[np.abs(wanted) < 0.49]
  assert found[inside].std() == pytest.approx(wanted.std(), rel=0.02)
  share = {1: 0.03, 3: 0.09, 5: 0.27}[severity]
  _, found = noise('impulse_noise')
  assert (found != 128).mean() == pytest.approx(share, rel=0.05)
  assert (found == 0).mean() == pytest.approx(share / 2, rel=0.08)
  assert (found == 255).mean() == pytest.approx(share / 2, rel=0.08)
  photons = {1: 60, 3: 12, 5: 3}[severity]
  found = noise('shot_noise')[1].astype(float)
  # The values are whole numbers of photons, cut off to whole bytes.
  counts = np.ceil(np.unique(found) * photons / 255 - 1e-9)
  np.testing.assert_array_equal(
    np.unique(found), np.floor(counts * 255 / photons)
  )
  mean = np.minimum(
    np.random.default_rng(0).poisson(photons * 128 / 255, 100_000), photons
  ).mean()
  assert np.ceil(found * photons / 255 - 1e-9).mean() == pytest.approx(
    mean, rel=0.02
  )


@pytest.mark.parametrize('severity', range(1, 6))
def test_brightness_raises_the_value_of_each_pixel(severity):
  image = scene(32)
  image[0, 0] = 0
  amount = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
  found = corruptions.corrupt(image, 'brightness', severity, 'a')
  for place in [(0, 0), (3, 8), (12, 10), (31, 31), (20, 5)]:
    hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
    wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + amount, 1))
    np.testing.assert_allclose(found[place], 255 * np.array(wanted), atol=1)


@pytest.mark.parametrize('severity', range(1, 6))
def test_contrast_shrinks_towards_the_mean_colour(severity):
  image = scene(32)
  kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
  found = corruptions.corrupt(image, 'contrast', severity, 'a')
  mean = image.reshape(-1, 3).mean(0)
  np.testing.assert_allclose(found, kept * image + (1 - kept) * mean, atol=1.01)


@pytest.mark.parametrize(
  'name',
  [
    'defocus_blur',
    'glass_blur',
    'motion_blur',
    'zoom_blur',
    'contrast',
    'elastic_transform',
    'pixelate',
  ],
)
@pytest.mark.parametrize('size', [32, 112])
def test_an_image_of_one_colour_stays_as_it_is(name, size):
  plain = np.full((size, size, 3), (200, 40, 90), np.uint8)
  found = corruptions.corrupt(plain, name, 4, 'a').astype(int)
  assert np.abs(found - plain).max() <= 2


def test_lengths_scale_with_the_image():
  """A blurred small image resembles the small image of a blurred one."""
  large = scene(224)
  small = large.reshape(32, 7, 32, 7, 3).mean((1, 3)).round().astype(np.uint8)
  for name in ('defocus_blur', 'zoom_blur'):
    found = corruptions.corrupt(small, name, 4, 'a').astype(float)
    wanted = corruptions.corrupt(large, name, 4, 'a').astype(float)
    wanted = wanted.reshape(32, 7, 32, 7, 3).mean((1, 3))
    assert np.abs(found - wanted)[4:-4, 4:-4].mean() < 3
    assert np.abs(small - wanted)[4:-4, 4:-4].mean() > 3.5


def test_black_and_white_images_pass():
  for level in (0, 255):
    plain = np.full((32, 32, 3), level, np.uint8)
    for name in NAMES:
      with np.errstate(all='raise', under='ignore'):
        corruptions.corrupt(plain, name, 5, 'a')


@pytest.mark.parametrize('severity', [0, 6, -1])
def test_severity_outside_is_refused(severity):
  with pytest.raises(ValueError, match=f'severity is {severity}, wanted 1, 2'):
    corruptions.corrupt(scene(32), 'fog', severity, 'a')


def test_what_is_not_offered_is_refused():
  for name in ('frost', 'gausian_noise', ''):
    with pytest.raises(
      ValueError, match=f"'{name}' is not offered.*gaussian_n"
    ):
      corruptions.corrupt(scene(32), name, 1, 'a')
  image = scene(32)
  for wrong in (image[:16], image / 255, image[..., 0], image[..., :2]):
    with pytest.raises(ValueError, match='image a is .* wanted uint8'):
      corruptions.corrupt(wrong, 'fog', 1, 'a')
