"""From encoded images to pixels, the same for every room.

Which preprocessing is used changes predictions, so it is a named, versioned
choice that every output records (`version`):

  legacy  the original's: TensorFlow 1's bicubic resize, whose grid is not
          centred on pixels, without antialiasing. Bit-equal to the original.
  modern  the same steps with today's `tf.image.resize`: half-pixel centres.

Evaluation: the shorter side becomes `resize_size`, the central square of
`image_size` is kept; values are not clipped. Training: one attempt at a random
crop (area, aspect), stretched to `image_size`, else the central crop; or, for
small images, the central crop moved by up to `crop_padding` pixels each way,
where what comes in at the edges is the image mirrored at its edge pixels (He et
al. 2015, arXiv 1512.03385, section 4.2, with zeros); then a random mirror
image. The randomness is stateless: a seed per example makes an
image the same on every machine and after every restart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from etils import epy

with epy.lazy_imports():
  import tensorflow as tf

NAMES = ('legacy', 'modern')
_VERSIONS = {'legacy': 1, 'modern': 1}
_ASPECT_RANGE = (3 / 4, 4 / 3)
_MIN_OBJECT_COVERED = 0.1
# A decoder allocates what a header declares: refuse before it does.
_MAX_PIXELS = 2**27
# Longer side to shorter: a thread of pixels would be resized to a large sheet.
_MAX_ASPECT = 128
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Pixels of a JPEG's largest block of colours.
_MARGIN = 16


def version(name: str) -> str:
  """The name as outputs record it, with its version.

  Raises:
    ValueError: there is no preprocessing of this name.
  """
  if name not in NAMES:
    raise ValueError(f'preprocessing is {name!r}, wanted one of {NAMES}')
  return f'{name}-{_VERSIONS[name]}'


def resize(images: tf.Tensor, size: tf.Tensor, name: str) -> tf.Tensor:
  """Bicubic resize.

  Args:
    images: [height, width, 3] uint8 or float32.
    size: [2] int32, new height and width.
    name: 'legacy' or 'modern'.

  Returns:
    [*size, 3] float32, not clipped.
  """
  images = tf.cast(images, tf.float32)
  if name == 'legacy':
    return tf.raw_ops.ResizeBicubic(
      images=images[tf.newaxis],
      size=size,
      align_corners=False,
      half_pixel_centers=False,
    )[0]
  return tf.image.resize(images, size, method='bicubic')


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes a JPEG or PNG to [height, width, 3] uint8.

  TensorFlow's default decoding, as the original: the fast integer transform
  with fancy upsampling. The op reads PNG as well. Images that declare more
  than 2**27 pixels, or one side over 128 times the other, are refused before
  memory is taken for them.
  """
  return _decode(encoded, _shape(encoded))


@functools.cache
def _traced_decode() -> Callable[[tf.Tensor], tf.Tensor]:
  return tf.function(decode, input_signature=[tf.TensorSpec((), tf.string)])


def decode_alone(encoded: bytes) -> np.ndarray:
  """The same outside a graph, in a quarter of the time.

  Raises:
    tf.errors.OpError: the image is damaged; the message is of this alone.
  """
  data = tf.constant(encoded)
  try:
    return _traced_decode()(data).numpy()
  except tf.errors.OpError:
    return decode(data).numpy()


def _decode(encoded: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
  """Decodes, after its shape was found to be acceptable."""
  with tf.control_dependencies([shape]):
    return tf.image.decode_jpeg(encoded, channels=3)


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
  return tf.strings.substr(encoded, 0, 2) == b'\xff\xd8'


def _shape(encoded: tf.Tensor) -> tf.Tensor:
  """[height, width, 3] int32 of the decoded image, from its header."""
  shape = tf.cond(
    _is_jpeg(encoded),
    lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64),
    lambda: _png_shape(encoded),
  )
  most = tf.constant(_MAX_PIXELS, tf.int64)
  shorter, longer = tf.reduce_min(shape), tf.reduce_max(shape)
  # Plain ops: those of tf.debugging branch, which takes longer than to decode a
  # small image.
  too_large = tf.raw_ops.Assert(
    # First one side, since the product of two has no room in 64 bits.
    condition=(longer <= most) & (shorter * longer <= most),
    data=['its header declares an image too large', shape],
  )
  too_narrow = tf.raw_ops.Assert(
    condition=longer <= shorter * _MAX_ASPECT,
    data=['its header declares an image too narrow', shape],
  )
  with tf.control_dependencies([too_large, too_narrow]):
    return tf.concat([tf.cast(shape, tf.int32), [3]], axis=0)


def _decode_window(
  encoded: tf.Tensor, shape: tf.Tensor, begin: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
  """The same pixels as tf.slice(decode(encoded), begin, size).

  Of a JPEG, only what the window needs is decoded: with a margin, because the
  upsampling of colours at the window's edge reads the pixels beyond.
  """

  def jpeg_window():
    first = tf.maximum(begin[:2] - _MARGIN, 0)
    last = tf.minimum(begin[:2] + size[:2] + _MARGIN, shape[:2])
    image = tf.image.decode_and_crop_jpeg(
      encoded, tf.concat([first, last - first], axis=0), channels=3
    )
    return tf.slice(image, tf.pad(begin[:2] - first, [[0, 1]]), size)

  return tf.cond(
    _is_jpeg(encoded),
    jpeg_window,
    lambda: tf.slice(_decode(encoded, shape), begin, size),
  )


def _png_shape(encoded: tf.Tensor) -> tf.Tensor:
  # A PNG begins with 8 bytes of signature and an IHDR chunk: 8 bytes of
  # length and type, then width and height, big endian.
  header = tf.strings.substr(encoded, 0, 24)
  is_png = tf.raw_ops.Assert(
    condition=(tf.strings.substr(header, 0, 8) == _PNG_SIGNATURE)
    & (tf.strings.length(header) == 24),
    data=['it begins as neither a JPEG nor a PNG', tf.strings.length(encoded)],
  )
  with tf.control_dependencies([is_png]):
    size = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.uint8)
  size = tf.reshape(tf.cast(size, tf.int64), (2, 4))
  scale = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
  return tf.reverse(tf.reduce_sum(size * scale, axis=1), axis=[0])


def central_crop(
  image: tf.Tensor, resize_size: int, image_size: int, name: str
) -> tf.Tensor:
  """Evaluation: shorter side to resize_size, central image_size square.

  Args:
    image: [height, width, 3].
    resize_size: pixels of the shorter side.
    image_size: pixels of the square that is kept.
    name: 'legacy' or 'modern'.

  Returns:
    [image_size, image_size, 3] float32 on the 0..255 scale, not clipped.
  """
  height = tf.shape(image)[0]
  width = tf.shape(image)[1]
  h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
  # In float32 and truncated, as the original: another rounding moves the grid.
  longer = tf.cast(
    tf.where(height > width, h / w, w / h) * resize_size, tf.int32
  )
  size = tf.where(
    height > width,
    tf.stack([longer, resize_size]),
    tf.stack([resize_size, longer]),
  )
  image = resize(image, size, name)
  top, left = tf.unstack((size - image_size + 1) // 2)
  image = image[top : top + image_size, left : left + image_size]
  image.set_shape((image_size, image_size, 3))
  return image


def random_crop(
  image: tf.Tensor,
  seed: tf.Tensor,
  image_size: int,
  crop_area_min: float,
  horizontal_flip: bool,
  name: str,
  crop_padding: int = 0,
) -> tf.Tensor:
  """Training: a random crop, stretched to the network's input, and a mirror.

  Args:
    image: a JPEG or PNG, or what `decode` makes of it, which changes no bit.
    seed: [2] int64, all the randomness there is.
    image_size: pixels of the result.
    crop_area_min: smallest share of the area that the crop keeps, in (0, 1];
      1 is no crop.
    horizontal_flip: whether half of the images are mirrored.
    name: 'legacy' or 'modern'.
    crop_padding: pixels by which the image is moved at most, up or down and
      left or right; below image_size, and 0 unless crop_area_min is 1.

  Returns:
    [image_size, image_size, 3] float32 on the 0..255 scale, not clipped.
  """
  seeds = tf.random.split(seed, 2)
  is_decoded = image.dtype != tf.string
  if crop_area_min < 1:
    shape = tf.shape(image) if is_decoded else _shape(image)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      shape,
      bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      seed=seeds[0],
      min_object_covered=_MIN_OBJECT_COVERED,
      aspect_ratio_range=_ASPECT_RANGE,
      area_range=(crop_area_min, 1.0),
      max_attempts=1,
      use_image_if_no_bounding_boxes=True,
    )
    # A failed attempt gives the whole image back, of whatever aspect, with -1
    # for all its channels.
    source = image
    image = tf.cond(
      tf.reduce_all(size[:2] == shape[:2]),
      lambda: central_crop(
        source if is_decoded else _decode(source, shape),
        image_size,
        image_size,
        name,
      ),
      lambda: resize(
        tf.slice(source, begin, size)
        if is_decoded
        else _decode_window(source, shape, begin, size),
        tf.constant([image_size] * 2),
        name,
      ),
    )
  else:
    whole = image if is_decoded else decode(image)
    image = central_crop(whole, image_size, image_size, name)
  if crop_padding:
    image = _moved(image, seeds[0], crop_padding)
  if horizontal_flip:
    image = tf.image.stateless_random_flip_left_right(image, seeds[1])
  image.set_shape((image_size, image_size, 3))
  return image


def _moved(image: tf.Tensor, seed: tf.Tensor, most: int) -> tf.Tensor:
  """The image, at one of (2 * most + 1)**2 places, each as likely."""
  pad = (most, most)
  padded = tf.pad(image, (pad, pad, (0, 0)), 'REFLECT')
  begin = tf.random.stateless_uniform(
    (2,), seed, minval=0, maxval=2 * most + 1, dtype=tf.int32
  )
  return tf.slice(padded, tf.pad(begin, [[0, 1]]), tf.shape(image))
