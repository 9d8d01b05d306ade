"""Pixels in the place of a base's features: ``--model pixels`` cuts before the first layer.

A store of them is as any other, but nothing is computed and no model is kept in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.base.prepared import PreparedBase
from classifier.base.request import BaseRequest
from classifier.runtime import import_keras
from featurestore.spec import BaseSpec, StoreSpec

if TYPE_CHECKING:
    import keras

LAYERS = {3: "rgb", 1: "grey"}


def pixel_base(request: BaseRequest) -> PreparedBase:
    """Returns what stands for the base in a store of pixels; starts no Keras.

    Args:
      request: for pixels.
    """
    spec = BaseSpec(
        model=request.model.casefold(),
        weights="no base",
        weights_hash="",
        layer=LAYERS[request.channels],
        pooling="none",
        preprocess="none",
        request=request.digest,
    )
    return PreparedBase(spec, request.size, (*request.size, request.channels), (), b"")


def pixel_model(spec: StoreSpec) -> keras.Model:
    """Returns the base of a store of pixels as a network, for exports: float32 (n, H, W, channels).

    It changes nothing: `preprocess_graph` makes pixels grey where the input has one channel.
    """
    keras = import_keras()
    image = keras.Input(spec.feature_shape, dtype="float32", name="image")
    return keras.Model(image, keras.layers.Identity(name=spec.base.layer)(image), name="no_base")
