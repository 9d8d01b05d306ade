"""What the features of a store are: the spec, its identity and its numerics.

* The *identity* says what is computed: base, layer, pooling, pixels, views, stored dtype. Two
  identities never share a store, a head or a prediction; `StoreSpec.require_same` refuses with a
  field-by-field difference.
* The *numerics* say how it was computed: engine, precision, decoder, library versions. They differ
  between machines and releases, are recorded per part, and may join a store when they reproduce its
  probe images within its tolerance.

Changing how either is hashed makes every store foreign to new runs, so a field is only ever
added with a default that keeps the old hash, never renamed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from featurestore.errors import CorruptStore, SpecMismatch, UsageError, unknown_choice
from featurestore.numerics import Numerics, digest

FORMAT_VERSION = 1
POOLINGS = ("none", "avg", "max")
PREPROCESS_MODES = ("none", "unit", "tf", "caffe", "torch")
FITS = ("squash", "crop", "pad")
RESIZES = ("bilinear", "bicubic", "area", "nearest")
ALPHAS = ("drop", "white", "black")
EXIFS = ("ignore", "apply")
DTYPES = ("float16", "float32")
# The column is int8.
MOST_VIEWS = 128


def _require(what: str, got: str, choices: tuple[str, ...]) -> None:
    if got not in choices:
        raise unknown_choice(what, got, choices)


def check_views(views: int) -> None:
    """Refuses a number of views that no store can hold.

    Raises:
      UsageError: naming the flag.
    """
    if not 1 <= views <= MOST_VIEWS:
        raise UsageError(f"--views must be 1 (the image as it is) to {MOST_VIEWS}, got {views}")


@dataclass(frozen=True)
class PixelSpec:
    """How image bytes become ``uint8 (H, W, 3)`` RGB pixels.

    Attributes:
      image_size: (height, width) in pixels.
      fit: ``squash`` ignores the aspect ratio as Keras does, ``crop`` cuts the centre, ``pad`` adds
        black.
      resize: the method, meaning ``tf.image.resize(antialias=False)``, rounded and clipped.
      alpha: what becomes of transparency: dropped, or laid over white or black.
      exif: whether the EXIF orientation is applied.
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
        _require("--fit", self.fit, FITS)
        _require("--resize", self.resize, RESIZES)
        _require("--alpha", self.alpha, ALPHAS)
        _require("--exif", self.exif, EXIFS)


@dataclass(frozen=True)
class BaseSpec:
    """The frozen conv base: which network, which weights, cut where.

    Attributes:
      model: a `keras.applications` name or the file name of a saved model.
      weights: where the weights came from, as told to the user.
      weights_hash: 32 hex digits over the cut base, its arrays and what it does with them; also the
        stored model's file name.
      layer: the layer whose output is the feature, ``outer/inner`` in nested models.
      pooling: ``none`` keeps the map, ``avg`` and ``max`` pool it to an embedding.
      preprocess: what is done to uint8 pixels in the graph before the base.
      request: digest of the flags the base was built from; an equal request lets a later run load
        the stored base instead of building it again. Not part of the identity.
    """

    model: str
    weights: str
    weights_hash: str
    layer: str
    pooling: str
    preprocess: str
    request: str = ""

    def __post_init__(self) -> None:
        _require("--pooling", self.pooling, POOLINGS)
        _require("--preprocess", self.preprocess, PREPROCESS_MODES)


@dataclass(frozen=True)
class StoreSpec:
    """The contract of one store, written once as ``store.json``.

    Attributes:
      base: the frozen base.
      pixels: how its input is made.
      feature_shape: of one row, such as (5, 5, 512) or (1280,).
      dtype: of the stored values.
      views: rows per training image; 1 is the image as it is.
      augment: what makes views 1 and up, in its canonical spelling; "" for one view.
      seed: of views and splits.
      numerics: of the run that created the store.
      tolerance: row-wise relative L2 distance on the probe images within which other numerics may
        join.
    """

    base: BaseSpec
    pixels: PixelSpec
    feature_shape: tuple[int, ...]
    dtype: str
    numerics: Numerics
    views: int = 1
    augment: str = ""
    seed: int = 0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        _require("--dtype", self.dtype, DTYPES)
        if not self.feature_shape or min(self.feature_shape) < 1:
            raise UsageError(f"feature shape must have positive sides, got {self.feature_shape!r}")
        check_views(self.views)

    @property
    def is_map(self) -> bool:
        """Whether a row is a feature map rather than an embedding vector."""
        return len(self.feature_shape) > 1

    @property
    def feature_size(self) -> int:
        """Values per row."""
        return math.prod(self.feature_shape)

    @property
    def feature_bytes(self) -> int:
        """Bytes per row as stored, before compression."""
        return self.feature_size * (2 if self.dtype == "float16" and self.is_map else 4)

    @property
    def image_bytes(self) -> int:
        """Bytes per training image, all views of it, before compression."""
        return self.views * self.feature_bytes

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that must agree for features to be comparable, by their flag names."""
        height, width = self.pixels.image_size
        return {
            "weights": self.base.weights_hash,
            "layer": self.base.layer,
            "pooling": self.base.pooling,
            "preprocess": self.base.preprocess,
            "image_size": f"{height}x{width}",
            "fit": self.pixels.fit,
            "resize": self.pixels.resize,
            "alpha": self.pixels.alpha,
            "exif": self.pixels.exif,
            "views": self.views,
            "augment": self.augment,
            "seed": self.seed if self.views > 1 else 0,
            "dtype": self.dtype,
            "feature_shape": list(self.feature_shape),
        }

    @property
    def identity_hash(self) -> str:
        """16 hex digits over `identity`."""
        return digest(self.identity)[:16]

    def differences(self, other: StoreSpec) -> list[str]:
        """Lists the identity fields in which `other` differs, as ``field: ours -> theirs``.

        The weights' line names the models too, because a hash alone tells a reader nothing.
        """
        ours, theirs = self.identity, other.identity
        lines = []
        for name, value in ours.items():
            if value == theirs[name]:
                continue
            if name == "weights":
                lines.append(f"weights: {self._base_label()} -> {other._base_label()}")
            else:
                lines.append(f"{name}: {_show(value)} -> {_show(theirs[name])}")
        return lines

    def _base_label(self) -> str:
        return f"{self.base.model} {self.base.weights} {self.base.weights_hash[:8]}"

    def require_same(
        self,
        other: StoreSpec,
        where: str,
        fix: str = "repeat the stored settings, or choose another --output",
    ) -> None:
        """Refuses `other` unless its identity equals this one's.

        Args:
          other: the spec that wants to join.
          where: the place that holds this spec, for the message.
          fix: what the user can do, for the message.

        Raises:
          SpecMismatch: naming every differing field as ``field: stored -> asked for``.
        """
        lines = self.differences(other)
        if lines:
            raise SpecMismatch(
                f"{where} holds other features (stored -> asked for): {'; '.join(lines)}. "
                f"Features of different kinds never mix: {fix}"
            )

    def to_json(self) -> str:
        """Returns the text of ``store.json``."""
        record = {
            "format": "hoarfrost",
            "format_version": FORMAT_VERSION,
            "identity_hash": self.identity_hash,
            "numerics_hash": self.numerics.hash,
            **dataclasses.asdict(self),
        }
        return json.dumps({**record, "checksum": digest(record)[:16]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> StoreSpec:
        """Reads ``store.json``.

        Args:
          text: the file's content.
          where: the file's address, for the message.

        Raises:
          CorruptStore: when it is not a spec, was edited, or is of a newer format.
        """
        try:
            record = json.loads(text)
            version = record["format_version"]
            if version != FORMAT_VERSION:
                raise CorruptStore(
                    f"{where}: store format {version}, this Hoarfrost reads {FORMAT_VERSION}; "
                    "install the release that wrote it"
                )
            spec = cls(
                base=BaseSpec(**record["base"]),
                pixels=PixelSpec(
                    **{**record["pixels"], "image_size": tuple(record["pixels"]["image_size"])}
                ),
                feature_shape=tuple(record["feature_shape"]),
                numerics=Numerics(**record["numerics"]),
                **{
                    name: record[name]
                    for name in ("dtype", "views", "augment", "seed", "tolerance")
                },
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStore(
                f"{where}: not a store's spec ({type(error).__name__}: {error}); restore the file "
                "from a backup, or extract into a new store"
            ) from error
        checksum = record.pop("checksum", None)
        if checksum != digest(record)[:16] or record["identity_hash"] != spec.identity_hash:
            raise CorruptStore(
                f"{where}: was edited by hand (its content does not give its checksum, "
                f"{checksum!r}); restore the file from a backup"
            )
        return spec


def _show(value: Any) -> str:
    return "none" if value == "" else str(value)
