"""The corruptions of ImageNet-C on one image: arrays in, uint8 arrays out.

Formulas and severity constants are those of Hendrycks and Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (arXiv 1903.12261) and of the program that made their images
(hendrycks/robustness, create_c). 14 of the 15 are offered; frost needs the
authors' photographs.

Their constants are for images of 224 x 224. Where a constant is a length in
pixels (a radius, a displacement, the size of a flake), it scales with the
image: such corruptions are drawn on a finer grid of about 224 pixels and
averaged into the image's own. Amounts of noise, ratios (zoom, pixelate) and
the quality of a JPEG do not scale. At 224 x 224 nothing is rescaled, and the
results differ from the authors' in the random numbers and, by less than a
pixel, in how zooms are centred.

The scale of severities is the authors': for snow, fog, glass_blur and
elastic_transform a higher one is not always the larger change of pixels.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from utils import digests

SEVERITIES = (1, 2, 3, 4, 5)
_OFFICIAL_SIZE = 224
_LUMA = (0.299, 0.587, 0.114)
# The authors' amounts, one for each severity; the corruption of that name says
# what they are.
CONSTANTS = {
  'gaussian_noise': (0.08, 0.12, 0.18, 0.26, 0.38),
  'shot_noise': (60, 25, 12, 5, 3),
  'impulse_noise': (0.03, 0.06, 0.09, 0.17, 0.27),
  'defocus_blur': ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
  'glass_blur': ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
  'motion_blur': ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
  'zoom_blur': (
    (1.11, 0.01),
    (1.16, 0.01),
    (1.21, 0.02),
    (1.26, 0.02),
    (1.31, 0.03),
  ),
  'snow': (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
  ),
  'fog': ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
  'brightness': (0.1, 0.2, 0.3, 0.4, 0.5),
  'contrast': (0.4, 0.3, 0.2, 0.1, 0.05),
  # Shares of the image's side: the authors multiply them by 244, not 224.
  'elastic_transform': (
    (2, 0.7, 0.1),
    (2, 0.08, 0.2),
    (0.05, 0.01, 0.02),
    (0.07, 0.01, 0.02),
    (0.12, 0.01, 0.02),
  ),
  'pixelate': (0.6, 0.5, 0.4, 0.3, 0.25),
  'jpeg_compression': (25, 18, 15, 10, 7),
}


def generator(
  corruption: str, severity: int, image_key: str
) -> np.random.Generator:
  """Random numbers of their own for every image in every corrupted set.

  They depend on nothing else, so neither the order of the images nor the
  number of threads shows in the result.
  """
  name = f'{corruption}/{severity}/{image_key}'
  digest = bytes.fromhex(digests.of_bytes(name))
  return np.random.default_rng(int.from_bytes(digest, 'big'))


def corrupt(
  image: np.ndarray, corruption: str, severity: int, image_key: str
) -> np.ndarray:
  """One corrupted image.

  Args:
    image: [size, size, 3] uint8, red, green, blue, as the network sees it.
    corruption: one of `CORRUPTIONS`.
    severity: 1 to 5.
    image_key: the image's identity; with corruption and severity it decides
      the random numbers.

  Returns:
    [size, size, 3] uint8.

  Raises:
    ValueError: the corruption is not offered, the severity is outside 1..5,
      or the image is not square RGB.
  """
  check(corruption, severity)
  image = np.asarray(image)
  if (
    image.dtype != np.uint8
    or image.ndim != 3
    or image.shape[0] != image.shape[1]
    or image.shape[2] != 3
  ):
    raise ValueError(
      f'image {image_key} is {image.dtype} {image.shape}, wanted uint8 '
      '[size, size, 3]'
    )
  corrupted = CORRUPTIONS[corruption](
    image,
    CONSTANTS[corruption][severity - 1],
    generator(corruption, severity, image_key),
  )
  if corrupted.dtype != np.uint8:
    # The authors cut the fraction off, too.
    corrupted = (np.clip(corrupted, 0, 1) * 255).astype(np.uint8)
  return corrupted


def check(corruption: str, severity: int) -> None:
  """Refuses a corruption that is not offered, a severity that is not 1..5.

  Raises:
    ValueError: names the corruption or the severity.
  """
  if corruption not in CORRUPTIONS:
    raise ValueError(
      f'corruption {corruption!r} is not offered, wanted one of '
      f'{", ".join(CORRUPTIONS)}'
    )
  if severity not in SEVERITIES:
    raise ValueError(f'severity is {severity}, wanted 1, 2, 3, 4 or 5')


def gaussian_noise(image, sigma, random):
  """Adds normal noise to every channel."""
  return image / 255 + random.normal(0, sigma, image.shape)


def shot_noise(image, photons, random):
  """Draws every channel from a Poisson law of so many photons at white."""
  return random.poisson(image / 255 * photons) / photons


def impulse_noise(image, share, random):
  """Sets a share of all channel values to 0 or 255, each as likely."""
  struck = random.random(image.shape) < share
  return np.where(struck, random.random(image.shape) < 0.5, image / 255)


def defocus_blur(image, constants, random):
  """Averages over a disk whose edge is softened."""
  del random
  radius, softening = constants
  fine, length = _fine_grid(len(image))
  reach = int(np.ceil(max(radius * length, 1))) + 2
  row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  disk = (row**2 + column**2 <= (radius * length) ** 2).astype(float)
  disk = ndimage.gaussian_filter(
    disk, softening * length, radius=1 if radius <= 8 else 2
  )
  offsets = np.stack([row.ravel(), column.ravel()])
  return _blur(image / 255, offsets, disk.ravel(), fine, mode='mirror')


def glass_blur(image, constants, random):
  """Blurs, moves pixels about within a small neighbourhood, blurs again.

  The authors' program writes an exchange of two pixels; on views of an array
  it copies one over the other, and so their images were made. Likewise here.
  """
  sigma, reach, rounds = constants
  fine, length = _fine_grid(len(image))
  size = len(image) * fine
  sigma = (sigma * length, sigma * length, 0)
  reach = max(1, round(reach * length))
  x = image.repeat(fine, 0).repeat(fine, 1) / 255
  x = (ndimage.gaussian_filter(x, sigma, mode='nearest') * 255).astype(np.uint8)
  source = list(range(size * size))
  inner = range(size - reach, reach, -1)
  for _ in range(rounds):
    moves = random.integers(-reach, reach, (2, len(inner), len(inner)))
    moves = (moves[0] * size + moves[1]).ravel().tolist()
    places = (i * size + j for i in inner for j in inner)
    for place, move in zip(places, moves, strict=True):
      source[place] = source[place + move]
  x = x.reshape(-1, 3)[source].reshape(size, size, 3) / 255
  return _average(ndimage.gaussian_filter(x, sigma, mode='nearest'), fine)


def motion_blur(image, constants, random):
  """Smears the image to one side, at up to 45 degrees from the horizontal."""
  radius, sigma = constants
  fine, length = _fine_grid(len(image))
  return _smear(
    image / 255, radius, sigma, random.uniform(-45, 45), fine, length
  )


def zoom_blur(image, constants, random):
  """Averages the image with enlargements of its centre."""
  del random
  last, step = constants
  factors = np.arange(1, last, step)
  total = image / 255
  for factor in factors:
    total = total + _zoom(image, factor) / 255
  return total / (len(factors) + 1)


def snow(image, constants, random):
  """Whitens the image and lets smeared flakes fall over it."""
  mean, sigma, zoom, threshold, radius, smear, kept = constants
  fine, length = _fine_grid(len(image))
  size = len(image) * fine
  flakes = _zoom(
    random.normal(mean, sigma, (size, size)).astype(np.float32), zoom
  )
  flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)[..., None]
  angle = random.uniform(-135, -45)
  flakes = _average(_smear(flakes, radius, smear, angle, 1, length), fine)
  x = image / 255
  white = np.maximum(x, (x @ _LUMA)[..., None] * 1.5 + 0.5)
  return kept * x + (1 - kept) * white + flakes + np.rot90(flakes, 2)


def fog(image, constants, random):
  """Adds clouds of light and dims the sum back to the image's range."""
  amount, decay = constants
  fine, _ = _fine_grid(len(image))
  size = len(image) * fine
  clouds = _plasma(1 << (size - 1).bit_length(), decay, random)
  clouds = _average(clouds[:size, :size, None], fine)
  x = image / 255
  return (x + amount * clouds) * x.max() / (x.max() + amount)


def brightness(image, amount, random):
  """Raises the value of hue, saturation, value."""
  del random
  x = image / 255
  # With hue and saturation held, the channels are proportional to the value;
  # black has no hue and turns grey.
  value = x.max(axis=2, keepdims=True)
  raised = np.minimum(value + amount, 1)
  black = value == 0
  return np.where(black, raised, x * raised / np.where(black, 1, value))


def contrast(image, kept, random):
  """Shrinks the distance to the image's mean colour."""
  del random
  x = image / 255
  mean = x.mean(axis=(0, 1))
  return (x - mean) * kept + mean


def elastic_transform(image, constants, random):
  """Moves three points, the image with them, then every pixel by a field."""
  strength, sigma, shift = constants
  size = len(image)
  side = 244 * size / _OFFICIAL_SIZE
  centre, arm = size // 2, size // 3
  points = centre + arm * np.array([[1.0, 1], [1, -1], [-1, -1]])
  moved = points + random.uniform(-shift * side, shift * side, (3, 2))
  # Where a pixel of the result comes from: column, row -> column, row.
  affine = np.linalg.solve(np.c_[moved, np.ones(3)], points)
  row, column = np.mgrid[:size, :size]
  from_column, from_row = np.moveaxis(
    np.stack([column, row, np.ones_like(row)], axis=-1) @ affine, -1, 0
  )
  x = _sample(image / 255, from_row, from_column, 'mirror')
  field = ndimage.gaussian_filter(
    random.uniform(-1, 1, (2, size, size)),
    (0, sigma * side, sigma * side),
    mode='reflect',
    truncate=3,
  )
  field *= strength * side
  return _sample(x, row + field[0], column + field[1], 'reflect')


def pixelate(image, share, random):
  """Shrinks the image to a share of its side and enlarges it again."""
  del random
  size = len(image)
  small = int(size * share)
  picture = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
  return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def jpeg_compression(image, quality, random):
  """Stores the image as a JPEG of low quality."""
  del random
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=quality)
  return np.asarray(Image.open(file))


# In the order of the paper.
CORRUPTIONS = {
  function.__name__: function
  for function in (
    gaussian_noise,
    shot_noise,
    impulse_noise,
    defocus_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
    snow,
    fog,
    brightness,
    contrast,
    elastic_transform,
    pixelate,
    jpeg_compression,
  )
}


def _fine_grid(size: int) -> tuple[int, float]:
  """The grid on which lengths are drawn.

  Args:
    size: side of the image, in pixels.

  Returns:
    Fine pixels along one of the image's, odd so that one lies in the middle;
    and what to multiply one of the authors' pixels by to get fine pixels.
    For 224 both are 1, for 32 they are 7 and 1.
  """
  fine = max(1, 2 * round((_OFFICIAL_SIZE / size - 1) / 2) + 1)
  return fine, size * fine / _OFFICIAL_SIZE


def _average(x: np.ndarray, fine: int) -> np.ndarray:
  """Averages blocks of fine pixels: [n * fine, n * fine, c] to [n, n, c]."""
  size = len(x) // fine
  return x.reshape(size, fine, size, fine, -1).mean(axis=(1, 3))


def _blur(
  x: np.ndarray, offsets: np.ndarray, weights: np.ndarray, fine: int, mode: str
) -> np.ndarray:
  """Averages pixels at offsets.

  Args:
    x: [n, n, c].
    offsets: [2, k] rows and columns, in fine pixels.
    weights: [k]; their sum is divided out.
    fine: fine pixels along one of x.
    mode: scipy's word for what lies beyond the border.

  Returns:
    [n, n, c].
  """
  offsets = (offsets + fine // 2) // fine
  reach = np.abs(offsets).max()
  kernel = np.zeros((2 * reach + 1, 2 * reach + 1, 1))
  np.add.at(kernel, (*(offsets + reach), 0), weights / weights.sum())
  return ndimage.correlate(x, kernel, mode=mode)


def _smear(x, radius, sigma, angle, fine, length):
  """ImageMagick's motion blur: half a bell curve to one side.

  Args:
    x: [n, n, c].
    radius: the trail is 2 * radius + 1 of the authors' pixels long.
    sigma: of the bell curve, in the authors' pixels.
    angle: in degrees.
    fine: fine pixels along one of x.
    length: fine pixels along one of the authors'.
  """
  trail = np.arange(max(1, round((2 * radius + 1) * length)))
  weights = np.exp(-0.5 * (trail / (sigma * length)) ** 2)
  direction = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
  offsets = np.ceil(direction[:, None] * trail - 0.5).astype(int)
  return _blur(x, offsets, weights, fine, mode='nearest')


def _zoom(x: np.ndarray, factor: float) -> np.ndarray:
  """Enlarges the centre to the full size, bilinearly."""
  size = len(x)
  margin = (size - size / factor) / 2
  return np.asarray(
    Image.fromarray(x).resize(
      (size, size),
      Image.Resampling.BILINEAR,
      box=(margin, margin, size - margin, size - margin),
    )
  )


def _plasma(size: int, decay: float, random: np.random.Generator) -> np.ndarray:
  """Clouds in [0, 1] by the diamond-square construction, periodic.

  Args:
    size: side, a power of two.
    decay: divisor of the random part from one scale to the next.
    random: where the random part comes from.
  """
  heights = np.zeros((size, size))
  step, wobble = size, 100.0
  while step > 1:
    half = step // 2

    def filled(total, wobble=wobble):
      # The authors' wobble enters squared.
      return total / 4 + wobble * random.uniform(-wobble, wobble, total.shape)

    corner = heights[::step, ::step]
    right, below = np.roll(corner, -1, 1), np.roll(corner, -1, 0)
    middle = filled(corner + right + below + np.roll(right, -1, 0))
    heights[half::step, half::step] = middle
    heights[::step, half::step] = filled(
      corner + right + middle + np.roll(middle, 1, 0)
    )
    heights[half::step, ::step] = filled(
      corner + below + middle + np.roll(middle, 1, 1)
    )
    step, wobble = half, wobble / decay
  heights -= heights.min()
  return heights / heights.max()


def _sample(x, row, column, mode):
  """Reads [n, n, c] bilinearly at rows and columns of [n, n]."""
  return np.stack(
    [
      ndimage.map_coordinates(channel, (row, column), order=1, mode=mode)
      for channel in np.moveaxis(x, -1, 0)
    ],
    axis=-1,
  )
