"""Engines of small bases."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier.base import weights
from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.engines import TensorFlowEngine
from classifier.pixels import decoder as pixels
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
