"""The pieces of a spec: how images become the input of a base, and its taps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.errors import UsageError, unknown_choice

FITS = ("squash", "crop", "pad")
RESIZES = ("bilinear", "bicubic", "area", "nearest", "pillow-bilinear", "pillow-bicubic")
ALPHAS = ("drop", "white", "black")
EXIFS = ("ignore", "apply")
# Between the names of taps that are read side by side.
JOINED = "+"
# A preprocessing that is said by its numbers, behind a colon; see `classifier.graphs.scaling`.
SCALED = "scaled"
# Of the flag --tap.
TAP = "of a store of several taps: the one to read, or several side by side, joined by +"


def require_choice(what: str, got: str, choices: tuple[str, ...]) -> None:
    """Raises a `UsageError` unless a value is one of the choices; `what` is the user's name."""
    if got not in choices:
        raise unknown_choice(what, got, choices)


@dataclass(frozen=True)
class PixelSpec:
    """How image bytes become ``uint8 (H, W, 3)`` RGB pixels.

    Attributes:
      image_size: (height, width) in pixels.
      fit: ``squash`` ignores the aspect ratio, like Keras; ``crop`` cuts out the centre, then
        resizes; ``crop:256`` resizes the shorter side to 256, then cuts out the centre, like
        torchvision; ``pad`` adds black borders.
      resize: a method of ``tf.image.resize(antialias=False)``, rounded and clipped; or Pillow's,
        which is antialiased.
      alpha: ``drop`` ignores transparency; ``white`` and ``black`` put that colour behind it.
      exif: ``apply`` or ``ignore`` the EXIF orientation.
    """

    image_size: tuple[int, int]
    fit: str = "squash"
    resize: str = "bilinear"
    alpha: str = "drop"
    exif: str = "ignore"

    def __post_init__(self) -> None:
        height, width = self.image_size
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise UsageError(
                f"--image_size: height and width must be 1 to 4096 pixels, got {height}x{width}"
            )
        if self.shorter_side is None:
            require_choice("--fit", self.fit, FITS)
        elif self.shorter_side < max(height, width):
            raise UsageError(
                f"--fit {self.fit}: the shorter side must be at least that of the images that are "
                f"cut out, got --image_size {height}x{width}"
            )
        require_choice("--resize", self.resize, RESIZES)
        require_choice("--alpha", self.alpha, ALPHAS)
        require_choice("--exif", self.exif, EXIFS)

    @property
    def shorter_side(self) -> int | None:
        """The shorter side before the cut, of ``crop:256``; None for every other fit."""
        name, colon, side = self.fit.partition(":")
        return int(side) if name == "crop" and colon and side.isdecimal() else None


@dataclass(frozen=True)
class Tap:
    """One of the layers of a base with several outputs.

    Attributes:
      layer: as in `BaseSpec`.
      pooling: as in `BaseSpec`.
      weights_hash: of the base cut at this layer alone, as in a store of this tap alone.
      shape: of one row, such as (5, 5, 512) or (512,).
      output: the number of the output of the base.
      dtype: of the stored values; "" until a store gives it.
    """

    layer: str
    pooling: str
    weights_hash: str
    shape: tuple[int, ...]
    output: int
    dtype: str = ""

    @property
    def name(self) -> str:
        """``LAYER`` or ``LAYER:POOLING``, by which users call it."""
        return tap_name(self.layer, self.pooling)

    @property
    def size(self) -> int:
        """Values per row."""
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> str:
        """The dtype of the values in the parts; embeddings rounded to float16 stay float32."""
        return self.dtype if len(self.shape) > 1 else "float32"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Tap:
        """Returns the tap of its fields in JSON."""
        return cls(**{**record, "shape": tuple(record["shape"])})


def tap_name(layer: str, pooling: str) -> str:
    """Returns the name of the tap of a layer.

    Example:
      >>> tap_name("block5_pool", "none"), tap_name("block5_pool", "avg")
      ('block5_pool', 'block5_pool:avg')
    """
    return layer if pooling == "none" else f"{layer}:{pooling}"
