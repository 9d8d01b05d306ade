"""RGB to grey: Pillow's rounding, the same in NumPy and in every graph."""

import numpy as np
import pytest
from PIL import Image

from classifier.base.preprocess import preprocess_graph
from classifier.pixels.grey import to_grey
from featurestore.errors import UsageError


def every_kind_of_colour() -> np.ndarray:
    """Returns uint8 (3, 256, 171, 3): random colours, all greys, and the ends of each channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 171, 3), np.uint8)
    pixels[1] = np.arange(256, dtype=np.uint8)[:, None, None]
    pixels[2, :, :128] = np.array([0, 255], np.uint8)[np.indices((256, 128, 3)).sum(axis=0) % 2]
    return pixels


def test_grey_is_what_pillow_converts_to():
    pixels = every_kind_of_colour()
    expected = [np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in pixels]
    np.testing.assert_array_equal(to_grey(pixels), np.stack(expected))
    np.testing.assert_array_equal(to_grey(pixels[1:2]), pixels[1:2, ..., :1])


def test_the_graph_makes_the_same_grey_exactly():
    import tensorflow as tf

    pixels = every_kind_of_colour()
    graph = tf.function(preprocess_graph("none", channels=1))
    made = graph(tf.cast(tf.constant(pixels), tf.float32)).numpy()
    np.testing.assert_array_equal(made, to_grey(pixels).astype(np.float32))
    scaled = preprocess_graph("unit", channels=1)(pixels.astype(np.float32))
    np.testing.assert_allclose(np.asarray(scaled), to_grey(pixels) / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_a_preprocessing_of_colours_is_refused_for_grey(mode):
    with pytest.raises(UsageError, match=f"--preprocess {mode} is for colours.*none, unit"):
        preprocess_graph(mode, channels=1)
