"""The preprocessing of a preset, by the image converter that KerasHub keeps in it.

A converter resizes an image, multiplies its pixels by a scale and adds an offset. What our flags
express exactly is taken; anything else is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from classifier.graphs.described import Described, inexpressible
from classifier.graphs.scaling import Colours, mode_of
from classifier.presets.preset import explained, import_keras_hub, located

# (interpolation, whether it is antialiased) -> our method. TensorFlow's antialiased kernels are
# those of Pillow; its nearest neighbour ignores the setting.
_METHODS = {
    ("bilinear", False): "bilinear",
    ("bicubic", False): "bicubic",
    ("nearest", False): "nearest",
    ("nearest", True): "nearest",
    ("bilinear", True): "pillow-bilinear",
    ("bicubic", True): "pillow-bicubic",
}


def described_by_preset(model: str) -> Described | None:
    """Returns the preprocessing of a preset; None where it has no image converter.

    Args:
      model: the preset, see `classifier.presets.preset.located`.

    Raises:
      UsageError: when the preset cannot be had, or its converter does what no flag expresses.
    """
    converter = explained(model, lambda: _converter(located(model).address))
    if converter is None:
        return None
    base = import_keras_hub().layers.ImageConverter
    kind = type(converter)
    if kind.call is not base.call or kind._call_python is not base._call_python:
        raise inexpressible(model, f"the steps of {kind.__name__}")
    if converter.pad_to_aspect_ratio:
        raise inexpressible(model, "pad_to_aspect_ratio")
    asked = (converter.interpolation, bool(converter.antialias))
    if asked not in _METHODS:
        raise inexpressible(model, f"the interpolation {converter.interpolation!r}")
    # (x * scale + offset) of pixels is (x / 255 - mean) / deviation.
    scale = 255 * _three(converter.scale, 1.0)
    offset = _three(converter.offset, 0.0)
    mode = mode_of(_colours(-offset / scale), _colours(1 / scale))
    fit = "crop" if converter.crop_to_aspect_ratio else "squash"
    pixels = (("fit", fit), ("resize", _METHODS[asked]))
    # A tuple of two, or None.
    size = converter.image_size
    return Described(mode, f"the image converter of {model}", size, pixels)


def _converter(address: str) -> Any:
    """Returns the preset's `ImageConverter`, or None."""
    try:
        return import_keras_hub().layers.ImageConverter.from_preset(address)
    except FileNotFoundError:
        return None
    except ValueError as error:
        # KerasHub knows no converter for this kind of backbone.
        if "subclass of ImageConverter" in str(error):
            return None
        raise


def _three(value: Any, default: float) -> np.ndarray:
    """Returns a number for each colour: float64 (3,)."""
    return np.broadcast_to(np.asarray(default if value is None else value, np.float64), (3,))


def _colours(values: np.ndarray) -> Colours:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
