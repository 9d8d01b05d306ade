"""Engines of small bases."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier.base import weights
from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.engines import TensorFlowEngine
from classifier.pixels import decoder as pixels
from classifier.runtime import import_keras
from featurestore.spec import PixelSpec


def photographs():
    """Two photographs and parts of them, as JPEG bytes."""
    result = []
    for photo in load_sample_images().images:
        for part in (photo, photo[100:300, 50:450], photo[::-1, :400]):
            buffer = io.BytesIO()
            Image.fromarray(part).save(buffer, "JPEG", quality=90)
            result.append(buffer.getvalue())
    return result


def decoded(size):
    return np.stack([pixels.decode(data, PixelSpec(size)).pixels for data in photographs()])


def built(name, side, **fields):
    """A base with real weights where an installed package has them, else random ones."""
    path = weights.packaged_weights(name)
    request = BaseRequest(name, "none", image_size=(side, side), **fields)
    base = build_base(request)
    if path is not None and not fields.get("layer"):
        weights.set_packaged(base.model, name)
    return base


def engine_of(base, batch_size=4):
    return TensorFlowEngine(base.model, base.spec, base.image_size, batch_size)


def row_distance(ours, theirs):
    ours, theirs = (np.asarray(rows).reshape(len(rows), -1) for rows in (ours, theirs))
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())


def small_base(folder: Path) -> Path:
    """Four convolutions with random weights, two of them in a nested model, as a file."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inner_input = keras.Input((14, 14, 8))
    x = layers.Conv2D(8, 3, activation="relu", name="inside")(inner_input)
    x = layers.Add(name="join")([x, layers.Conv2D(8, 1, name="beside")(x)])
    inner = keras.Model(inner_input, x, name="inner")
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 5, strides=2, activation="relu", name="first")(image)
    x = layers.Conv2D(16, 3, activation="relu", name="last")(inner(x))
    keras.Model(image, x).save(folder / "small.keras")
    return folder / "small.keras"
