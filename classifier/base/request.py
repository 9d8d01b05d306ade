"""The request for a frozen base, as the flags describe it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from classifier.base import families, layers, saved
from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import POOLINGS, PREPROCESS_MODES, PixelSpec
from featurestore.units import parse_sides


@dataclass(frozen=True)
class BaseRequest:
    """The base that the user wants; checked on construction.

    Attributes:
      model: a `keras.applications` name, a `.keras` or `.h5` file, or a SavedModel folder; files
        and folders also as fsspec URLs.
      weights: ``imagenet`` (for a saved model: its own), ``none`` for random ones, or a file.
      layer: the layer to cut at, ``outer/inner`` in nested models; empty for the default.
      pooling: ``none``, ``avg`` or ``max``.
      image_size: (height, width) in pixels; None for the base's default.
      preprocess: ``auto``, ``none``, ``unit``, ``tf``, ``caffe`` or ``torch``.
      seed: of random weights.
      trust_model: whether Python code in the file (Lambda layers) may run.
    """

    model: str = "VGG16"
    weights: str = "imagenet"
    layer: str = ""
    pooling: str = "none"
    image_size: tuple[int, int] | None = None
    preprocess: str = "auto"
    seed: int = 0
    trust_model: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown_choice("--pooling", self.pooling, POOLINGS)
        if self.preprocess not in ("auto", *PREPROCESS_MODES):
            raise unknown_choice("--preprocess", self.preprocess, ("auto", *PREPROCESS_MODES))
        if self.image_size is not None:
            PixelSpec(self.image_size)
        application = self.application
        named = self.weights in ("imagenet", "none")
        if not named and not saved.looks_like_path(self.weights):
            raise unknown_choice("--weights", self.weights, ("imagenet", "none", "PATH of a file"))
        if application is not None and min(self.size) < application.min_size:
            raise UsageError(
                f"--image_size: {application.name} needs at least {application.min_size} pixels "
                f"on each side, got {self.size[0]}x{self.size[1]}"
            )

    @property
    def application(self) -> families.Application | None:
        """The named base of `keras.applications`, or None when `model` is a path."""
        known = {name.casefold() for name in families.APPLICATIONS}
        if self.model.casefold() not in known and saved.looks_like_path(self.model):
            return None
        return families.resolve_application(self.model)

    @property
    def size(self) -> tuple[int, int]:
        """The requested (height, width), or the application's default; (0, 0) if a file decides."""
        if self.image_size is not None or self.application is None:
            return self.image_size or (0, 0)
        if layers.is_top_layer(self.layer):
            return (families.keras_image_size(self.application),) * 2
        return (self.application.image_size,) * 2

    @cached_property
    def digest(self) -> str:
        """16 hex digits, equal for requests that build the same base.

        Files count by their bytes, not their paths, and a default equals its explicit value. The
        digest is kept, because computing it may fetch remote files.
        """
        application, random = self.application, self.weights == "none"
        if application is not None:
            model = application.name
        else:
            model = saved.file_digest(self.model, "--model")
        source = self.weights
        if source not in ("imagenet", "none"):
            source = saved.file_digest(source, "--weights")
        elif application is None and not random:
            source = "file"
        seed = self.seed if random else 0
        record = (model, source, self.layer, self.pooling, self.size, self.preprocess, seed)
        return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def parse_image_size(text: str) -> tuple[int, int]:
    """Parses ``180`` or ``180x240`` as (height, width) in pixels.

    Raises:
      UsageError: for any other text.

    Example:
      >>> parse_image_size("180"), parse_image_size("180x240")
      ((180, 180), (180, 240))
    """
    size = parse_sides(text)
    if size is None:
        raise UsageError(f"--image_size: expected 180 or 180x240 (height x width), got {text!r}")
    PixelSpec(size)
    return size
