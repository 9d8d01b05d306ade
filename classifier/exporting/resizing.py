"""Resizes pixels in a TensorFlow graph, to exactly the values of `classifier.pixels.resize`.

``tf.image.resize`` computes bilinear values in float32, and one in eight differs by a level from
OpenCV's, which our decoder uses. So this module repeats OpenCV's fixed-point arithmetic
(``resizeLinear`` of modules/imgproc/src/resize.cpp): weights of 11 bits, and shifts that drop 4,
16 and 2 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from featurestore.spec import PixelSpec

METHODS = ("bilinear", "bicubic", "nearest")


def resize_graph(pixels: Any, spec: PixelSpec) -> Any:
    """Resizes one image by the spec's fit and method.

    Args:
      pixels: uint8 tensor (h, w, 3), of any size.
      spec: target size, fit, and a method of `METHODS`.

    Returns:
      uint8 tensor (H, W, 3).
    """
    import tensorflow as tf

    if spec.fit == "pad":
        result = _padded(pixels, spec)
    else:
        if spec.fit == "crop":
            pixels = _cropped(pixels, spec.image_size)
        result = _squashed(pixels, spec.image_size, spec.resize)
    return tf.ensure_shape(result, (*spec.image_size, 3))


def _squashed(pixels: Any, size: Any, method: str) -> Any:
    """Resizes to `size`, a pair of integers or of int32 scalars."""
    import tensorflow as tf

    old = tf.unstack(tf.shape(pixels)[:2])
    if method == "nearest":
        rows, columns = (_nearest(*sides) for sides in zip(old, size, strict=True))
        return tf.gather(tf.gather(pixels, rows), columns, axis=1)
    if method == "bicubic":
        resized = tf.image.resize(pixels, tf.stack(size), method="bicubic", antialias=False)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return _bilinear(pixels, _places(old[0], size[0]), _places(old[1], size[1]).within())


def _nearest(old: Any, new: Any) -> Any:
    """Returns int32 (new,) source indices, as `classifier.pixels.resize` computes them."""
    import tensorflow as tf

    scale = _quotient(old, new)
    index = tf.floor((tf.cast(tf.range(new), tf.float32) + 0.5) * scale)
    return tf.minimum(tf.cast(index, tf.int32), old - 1)


def _quotient(one: Any, other: Any) -> Any:
    """Returns float32 quotients, rounded once.

    TensorFlow optimises a division by a constant to a product with its reciprocal, which in
    float32 is often another number. In float64 the error is too small to survive the rounding.
    """
    import tensorflow as tf

    return tf.cast(tf.cast(one, tf.float64) / tf.cast(other, tf.float64), tf.float32)


class _Places(NamedTuple):
    """Where the values of one axis come from.

    Attributes:
      first: int32 (new,) index of the first of two neighbours; may lie outside.
      shares: two int32 (new,) weights of the neighbours, which add up to 2,048 or so.
      last: the largest index.
    """

    first: Any
    shares: tuple[Any, Any]
    last: Any

    def within(self) -> _Places:
        """Returns the places with the whole weight on the edge where a neighbour lies outside.

        OpenCV does this for columns only. Along the other axis it repeats the row of the edge.
        """
        import tensorflow as tf

        outside = (self.first < 0) | (self.first >= self.last)
        one, two = self.shares
        whole = tf.fill(tf.shape(one), 2048)
        shares = tf.where(outside, whole, one), tf.where(outside, 0, two)
        return self._replace(first=tf.clip_by_value(self.first, 0, self.last), shares=shares)

    def neighbours(self) -> tuple[Any, Any]:
        """Returns the indices of both neighbours, inside the image."""
        import tensorflow as tf

        one, two = (tf.clip_by_value(self.first + step, 0, self.last) for step in (0, 1))
        return one, two


def _places(old: Any, new: Any) -> _Places:
    import tensorflow as tf

    # OpenCV inverts the inverse, in float64, and goes on in float32.
    old64, new64 = tf.cast(old, tf.float64), tf.cast(new, tf.float64)
    scale = 1.0 / (new64 / old64)
    centre = (tf.cast(tf.range(new), tf.float64) + 0.5) * scale - 0.5
    place = tf.cast(centre, tf.float32)
    first = tf.floor(place)
    part = place - first
    one, two = (tf.cast(tf.round(share * 2048), tf.int32) for share in (1 - part, part))
    return _Places(tf.cast(first, tf.int32), (one, two), old - 1)


def _bilinear(pixels: Any, rows: _Places, columns: _Places) -> Any:
    import tensorflow as tf

    shift = tf.bitwise.right_shift
    left, right = columns.neighbours()

    def across(row: Any) -> Any:
        # Rows are gathered first, so that the whole image is never widened to int32.
        line = tf.cast(tf.gather(pixels, row), tf.int32)
        one, two = tf.gather(line, left, axis=1), tf.gather(line, right, axis=1)
        return one * columns.shares[0][:, None] + two * columns.shares[1][:, None]

    def down(share: Any, lines: Any) -> Any:
        return shift(share[:, None, None] * shift(lines, 4), 16)

    top, below = (across(row) for row in rows.neighbours())
    total = down(rows.shares[0], top) + down(rows.shares[1], below)
    return tf.cast(tf.clip_by_value(shift(total + 2, 2), 0, 255), tf.uint8)


def _cropped(pixels: Any, size: tuple[int, int]) -> Any:
    """Cuts out the largest centred part of the target's aspect ratio, in float32 as Keras does."""
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(pixels)[:2])
    tall = tf.cast(_quotient(width * size[0], size[1]), tf.int32)
    wide = tf.cast(_quotient(height * size[1], size[0]), tf.int32)
    tall = tf.maximum(tf.minimum(height, tall), 1)
    wide = tf.maximum(tf.minimum(width, wide), 1)
    top, left = (height - tall) // 2, (width - wide) // 2
    return pixels[top : top + tall, left : left + wide]


def _padded(pixels: Any, spec: PixelSpec) -> Any:
    """Resizes with the aspect ratio kept, then adds black borders."""
    import tensorflow as tf

    size = tf.constant(spec.image_size, tf.float32)
    sides = tf.cast(tf.shape(pixels)[:2], tf.float32)
    fitting = sides / tf.reduce_max(_quotient(sides, size))
    inner = tf.maximum(tf.cast(fitting, tf.int32), 1)
    before = tf.maximum(tf.cast((size - fitting) / 2, tf.int32), 0)
    after = tf.constant(spec.image_size) - inner - before
    resized = _squashed(pixels, tf.unstack(inner), spec.resize)
    return tf.pad(resized, [(before[0], after[0]), (before[1], after[1]), (0, 0)])
