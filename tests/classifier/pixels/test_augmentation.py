"""Views: Keras's layers given the same numbers, and the same pixels wherever they are made."""

import subprocess
import sys

import numpy as np
import pytest
from support.commands import ROOT
from support.stores import make_spec

from classifier.pixels import warp as warping
from classifier.pixels.views import BOOK, LAYERS, Step, Views, _uniform, canonical, parse_augment
from featurestore.errors import UsageError
from featurestore.spec import PixelSpec

HASH = "0123456789abcdef" * 4


def photograph(height=60, width=44, seed=0):
    """Smooth and sharp at once: an edge shows a shift of a hundredth of a pixel."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))[:height, :width]


def drawing(*numbers):
    """Draws these numbers, of [0, 1)."""
    return iter(numbers).__next__


def applied(text, image, *numbers):
    (step,) = parse_augment(text)
    return step.apply(image.astype(np.float32), drawing(*numbers))


def by_keras(layer, image, transformation):
    return np.asarray(layer.transform_images(image.astype(np.float32)[None], transformation))[0]


@pytest.fixture(scope="module")
def layers():
    from classifier.runtime import import_keras

    return import_keras().layers


@pytest.mark.parametrize("size", [(60, 44), (44, 60), (1, 1), (2, 5), (1, 7), (181, 181)])
@pytest.mark.parametrize("turns", [0.0, 0.017, -0.1, 0.25, 0.5, 1.0])
def test_rotation_is_keras(layers, size, turns):
    image = photograph(*size)
    layer = layers.RandomRotation(1.0)
    zeros, ones = np.zeros(1, np.float32), np.ones(1, np.float32)
    matrix = layer._compute_affine_matrix(
        center_x=0.5, center_y=0.5, angle=np.array([turns * 360], np.float32), translate_x=zeros,
        translate_y=zeros, scale=ones, shear_x=zeros, shear_y=zeros, height=size[0], width=size[1],
    )  # fmt: skip
    expected = by_keras(layer, image, {"rotation_matrix": matrix})
    got = applied("rotation=1", image, (turns + 1) / 2)
    # Keras's angle is float32 radians; an edge of 255 levels a pixel shows its last bits.
    assert np.abs(got - expected).max() < 0.5 and np.abs(got - expected).mean() < 1e-2


@pytest.mark.parametrize("size", [(60, 44), (44, 60), (1, 1), (2, 5), (181, 181)])
@pytest.mark.parametrize("zooms", [(0.5, 0.5), (0.75, 1.25), (1.0, 1.0), (1.9, 0.1), (2.0, 2.0)])
def test_zoom_is_keras(layers, size, zooms):
    image = photograph(*size)
    layer = layers.RandomZoom(1.0, 1.0)
    sides = {
        name: np.array([[zoom]], np.float32)
        for name, zoom in zip(("height_zoom", "width_zoom"), zooms, strict=True)
    }
    expected = by_keras(layer, image, {**sides, "input_shape": (1, *size, 3)})
    got = applied("zoom=1x1", image, *(zoom / 2 for zoom in zooms))
    np.testing.assert_allclose(got, expected, atol=1e-2)


def test_zoom_keeps_the_aspect_ratio_unless_the_width_is_drawn(layers):
    image = photograph()
    one = applied("zoom=0.2", image, 0.75)
    np.testing.assert_array_equal(one, applied("zoom=0.2x0.2", image, 0.75, 0.75))
    assert np.abs(one - applied("zoom=0.2x0.2", image, 0.75, 0.2)).max() > 1


@pytest.mark.parametrize("shifts", [(0.0, 0.0), (0.1, -0.3), (-1.0, 1.0), (0.013, 0.5)])
def test_translation_is_keras(layers, shifts):
    image = photograph()
    height, width = image.shape[:2]
    layer = layers.RandomTranslation(1.0, 1.0)
    moved = np.array([[shifts[1] * width, shifts[0] * height]], np.float32)
    expected = by_keras(layer, image, {"translations": moved})
    got = applied("translation=1", image, *((shift + 1) / 2 for shift in shifts))
    np.testing.assert_allclose(got, expected, atol=1e-2)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2, 0.0, 2.0])
def test_contrast_is_keras(layers, factor):
    image = photograph()
    layer = layers.RandomContrast((0.2, 0.2))
    factors = np.full((1, 1, 1, 1), factor, np.float32)
    expected = by_keras(layer, image, {"contrast_factor": factors})
    np.testing.assert_allclose(applied("contrast=1", image, factor / 2), expected, atol=1e-2)


@pytest.mark.parametrize("mode", ["horizontal", "vertical"])
@pytest.mark.parametrize("draw", [0.5, 0.51])
def test_flip_is_keras(layers, mode, draw):
    image = photograph()
    flips = np.full((1, 1, 1, 1), draw <= 0.5)
    expected = by_keras(layers.RandomFlip(mode), image, {"flips": flips})
    np.testing.assert_array_equal(applied(f"flip={mode}", image, draw), expected)


@pytest.mark.parametrize("draws", [(0.0, 0.0), (0.5, 0.25), (0.9999, 0.9999)])
def test_crop_is_keras_back_at_the_images_size(layers, draws):
    image = photograph()
    height, width = image.shape[:2]
    corner = int(draws[0] * (height - 40 + 1)), int(draws[1] * (width - 30 + 1))
    part = by_keras(layers.RandomCrop(40, 30), image, corner)
    expected = np.asarray(layers.Resizing(height, width)(part[None]))[0]
    np.testing.assert_allclose(applied("crop=40x30", image, *draws), expected, atol=1e-2)


def test_a_warp_is_bit_equal_to_tensorflows_where_numbers_are_exact(layers):
    """Quarter pixels and halves have no rounding, so that only the interpolation is compared."""
    image = photograph().astype(np.float32)
    layer = layers.RandomTranslation(1.0, 1.0)
    expected = by_keras(layer, image, {"translations": np.array([[5.5, -7.25]], np.float32)})
    got = warping.shifted(image, -7.25 / 60, 5.5 / 44)
    np.testing.assert_array_equal(got, expected)


def test_draws_are_uniform_and_repeatable():
    numbers = {}
    for number in range(400):
        uniform = _uniform(7, HASH, number)
        drawn = uniform()
        assert drawn == _uniform(7, HASH, number)()
        numbers[drawn] = uniform()
    drawn = np.array([*numbers, *numbers.values()])
    assert len(set(drawn.tolist())) == 800 and drawn.min() >= 0 and drawn.max() < 1
    # Four standard deviations of the mean of 800.
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 800)


def test_a_view_is_told_by_seed_content_and_number_alone():
    image, views = photograph(), Views(4, parse_augment(BOOK), 3)
    one = views.make(image, HASH, 1)
    assert one.dtype == np.uint8 and one.shape == image.shape
    np.testing.assert_array_equal(one, views.make(image, HASH, 1))
    np.testing.assert_array_equal(one, Views(9, views.steps, 3).make(image, HASH, 1))
    np.testing.assert_array_equal(views.make(image, HASH, 0), image)
    others = (
        views.make(image, HASH, 2),
        views.make(image, HASH.replace("0", "1"), 1),
        Views(4, views.steps, 4).make(image, HASH, 1),
    )
    for other in others:
        assert (other != one).any()


def test_another_process_makes_the_very_same_views_without_tensorflow():
    script = (
        "import sys, hashlib, numpy as np\n"
        "from classifier.pixels.views import Views, parse_augment\n"
        f"views = Views(4, parse_augment({EVERY!r}), 11)\n"
        "image = (np.arange(60 * 44 * 3) * 7919 % 256).astype(np.uint8).reshape(60, 44, 3)\n"
        f"data = b''.join(views.make(image, {HASH!r}, view).tobytes() for view in range(4))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == KNOWN


EVERY = "flip,flip=vertical,rotation=0.1,zoom=-0.3:0.2,translation=0.1x0.2,contrast=0.2,crop=50x40"
# Any other digest means that stores can no longer be appended to: then the change is wrong.
KNOWN = "da824925cfacd2727f25577e9915dee33d3b34d65b7c309dfa462dd0f0ee3129"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOOK, BOOK),
        ("flip=horizontal", "flip"),
        ("flip=vertical , rotation=0.10", "flip=vertical,rotation=0.1"),
        ("zoom=-0.2:0.2", "zoom=0.2"),
        ("zoom=-0.2", "zoom=0.2"),
        ("zoom=-.1:-.3", "zoom=-0.3:-0.1"),
        ("zoom=0.2x0.2", "zoom=0.2x0.2"),
        ("translation=0.1x0.1", "translation=0.1"),
        ("translation=0.1x-0.2:0.1", "translation=0.1x-0.2:0.1"),
        ("rotation=-0", "rotation=0"),
        ("crop=100", "crop=100x100"),
        ("flip,flip", "flip,flip"),
        ("zoom=0.2,flip", "zoom=0.2,flip"),
    ],
)
def test_one_spelling_of_each_augmentation(text, expected):
    assert canonical(text) == canonical(expected) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate=0.1", "--augment: unknown value 'rotate'; did you mean rotation.*translation"),
        ("", "--augment: unknown value ''; choose from contrast, crop, flip"),
        ("flip,", "--augment: unknown value ''"),
        ("flip=both", "--augment flip: unknown value 'both'; choose from horizontal, vertical"),
        ("rotation", "--augment rotation: expected a factor from -1 to 1, .*, got ''"),
        ("rotation=2", "expected a factor from -1 to 1, as keras.layers takes it, got '2'"),
        ("zoom=nan", "--augment zoom: expected a factor"),
        ("zoom=0.1x0.1x0.1", "--augment zoom: expected a factor .* got '0.1x0.1'"),
        ("contrast=-0.2", "--augment contrast: expected a factor from 0 to 1"),
        ("contrast=0.1:0.2", "--augment contrast: expected a factor from 0 to 1"),
        ("crop=0", "--augment crop: expected crop=160 or crop=150x160"),
        ("crop=0.9", "--augment crop: expected crop=160"),
        ("crop=" + 5000 * "9", "--augment crop: expected crop=160"),
    ],
)
def test_what_keras_would_not_take_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_augment(text)


@pytest.mark.parametrize(("crop", "fits"), [(31, True), (32, False), (33, False), ("31x32", False)])
def test_a_crop_is_smaller_than_the_image(crop, fits):
    spec = make_spec(views=2, augment=f"crop={crop}", pixels=PixelSpec((32, 32)))
    if fits:
        assert Views.of(spec).steps == (Step("crop", size=(31, 31)),)
        return
    with pytest.raises(UsageError, match="smaller than the image on both sides, which is 32x32"):
        Views.of(spec)


def test_training_images_have_all_views_and_others_one():
    views = Views.of(make_spec(views=5, augment="flip", seed=3))
    splits = (None, "train", "training", "validation", "val", "test", "extra")
    assert [views.count_of(split) for split in splits] == [5, 5, 5, 1, 1, 1, 1]
    assert Views.of(make_spec()).count_of("train") == 1
    assert set(LAYERS) == {"flip", "rotation", "zoom", "translation", "contrast", "crop"}
