"""The static table, held against the installed Keras; recognising saved copies of a family."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from classifier.base.families import (
    APPLICATIONS,
    family_of_layer_names,
    keras_image_size,
    resolve_application,
)
from classifier.base.preprocess import preprocess_graph, recognise
from featurestore.errors import UsageError


def test_importing_the_table_loads_no_tensorflow():
    code = (
        "import sys, classifier.base.families, classifier.bases, classifier.engines\n"
        "heavy = ('tensorflow', 'keras', 'cv2', 'PIL')\n"
        "sys.exit(any(name in sys.modules for name in heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_table_covers_keras_applications():
    import keras

    names = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(APPLICATIONS) == names


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(APPLICATIONS))
def test_application_builds_and_is_preprocessed_as_keras_does(name):
    import keras

    application = APPLICATIONS[name]
    module = importlib.import_module(f"keras.applications.{application.module}")
    side = application.min_size
    try:
        model = getattr(keras.applications, name)(
            weights=None, include_top=False, input_shape=(side, side, 3)
        )
        assert len(model.output_shape) == 4
        # What the graph does itself is recognised by its layers, the rest by their names.
        found = recognise(model)
        assert found is not None and found[0] == application.preprocess
        with pytest.raises(ValueError, match="must be at least"):
            getattr(keras.applications, name)(
                weights=None, include_top=False, input_shape=(side - 1, side - 1, 3)
            )
    finally:
        keras.backend.clear_session()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype(np.float32)
    ours = np.asarray(preprocess_graph(application.preprocess)(keras.ops.convert_to_tensor(pixels)))
    np.testing.assert_allclose(ours, module.preprocess_input(pixels.copy()), rtol=1e-6, atol=1e-6)


def test_default_sizes():
    assert resolve_application("VGG16").image_size == 180
    assert keras_image_size(resolve_application("VGG16")) == 224
    assert resolve_application("xception").image_size == 299
    assert resolve_application("NASNetLarge").image_size == 331


def test_unknown_name_gets_near_names():
    with pytest.raises(UsageError, match="'VGG61'; did you mean VGG16 or VGG19"):
        resolve_application("VGG61")


@pytest.mark.parametrize(
    "model, names, expected",
    [
        ("functional", ["input_1", "mobilenetv2_1.00_160", "dense"], ("MobileNetV2", "tf")),
        ("vgg16", ["conv"], ("VGG", "caffe")),
        ("mine", ["block1_conv1", "block1_conv2", "block2_conv1"], ("VGG", "caffe")),
        ("mine", ["conv1_pad", "conv1_bn", "conv2_block1_1_conv"], ("ResNet", "caffe")),
        ("sequential", ["resnet50v2", "flatten"], ("ResNetV2", "tf")),
        ("mine", ["conv2d", "dense"], None),
    ],
)
def test_family_of_layer_names(model, names, expected):
    assert family_of_layer_names(model, names) == expected


def test_unit_scale_and_unknown_mode():
    assert preprocess_graph("unit")(np.float32(255)) == 1
    with pytest.raises(UsageError, match="--preprocess"):
        preprocess_graph("tensor")
