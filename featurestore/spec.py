"""The spec of a store, which defines its features by their identity and records their numerics.

* The *identity* says what is computed: base, layer, pooling, pixels, views, stored dtype. Two
  identities never share a store, a head or a prediction; `StoreSpec.require_same` refuses the
  second and lists the fields that differ.
* The *numerics* say how it is computed: engine, precision, decoder, library versions. They differ
  between machines and releases. Each part records its own, and other numerics may join a store if
  they reproduce its probe images within its tolerance.

A change to either hash would keep new runs out of every existing store. So fields are never
renamed, and a new field has a default that keeps the old hash.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.errors import CorruptStore, SpecMismatch, UsageError
from featurestore.fields import JOINED, SCALED, PixelSpec, Tap, require_choice, tap_name
from featurestore.numerics import Numerics, digest

# The second is that of a store of several taps, which older releases refuse to read.
FORMAT_VERSION, TAPS_VERSION = 1, 2
POOLINGS = ("none", "avg", "max", "gem", "cls", "mean", "mean-patch")
PREPROCESS_MODES = ("none", "unit", "tf", "caffe", "torch")
DTYPES = ("float16", "float32")
# Of a store of pixels, and of no other.
PIXEL_DTYPE = "uint8"
ITEM_BYTES = {"uint8": 1, "float16": 2, "float32": 4}
# The view column is int8.
MOST_VIEWS = 128
_PLAIN_FIELDS = ("dtype", "views", "augment", "seed", "tolerance")


def check_views(views: int) -> None:
    """Refuses a number of views that no store can hold.

    Raises:
      UsageError: for a number out of range.
    """
    if not 1 <= views <= MOST_VIEWS:
        raise UsageError(f"--views must be 1 (the unaugmented image) to {MOST_VIEWS}, got {views}")


@dataclass(frozen=True)
class BaseSpec:
    """The frozen conv base: its network, its weights and the layer where it is cut.

    Attributes:
      model: a `keras.applications` name or the file name of a saved model.
      weights: the origin of the weights, as users see it.
      weights_hash: 32 hex digits over the arrays and operations of the cut base; also the file name
        of the stored model; "" for pixels, which have no base.
      layer: the layer whose output is the feature, ``outer/inner`` in nested models; of pixels,
        ``rgb`` or ``grey``.
      pooling: ``none`` keeps the map; the others pool it to an embedding.
      preprocess: the conversion of uint8 pixels in the graph, before the base.
      request: digest of the flags that the base was built from. A later run with an equal request
        loads the stored base instead of building it. Not part of the identity.
      taps: of a base with several outputs. `weights_hash` is then of the whole, and `layer` names
        them all.
    """

    model: str
    weights: str
    weights_hash: str
    layer: str
    pooling: str
    preprocess: str
    request: str = ""
    taps: tuple[Tap, ...] = ()

    def __post_init__(self) -> None:
        require_choice("--pooling", self.pooling, POOLINGS)
        require_choice("--preprocess", self.preprocess.split(":")[0], (*PREPROCESS_MODES, SCALED))

    @property
    def tap(self) -> str:
        """The name of the tap; of several, their names joined by a plus sign."""
        return tap_name(self.layer, self.pooling)

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values; without ``taps`` where there are none."""
        return {n: value for n, value in dataclasses.asdict(self).items() if value or n != "taps"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> BaseSpec:
        """Returns the base of its fields in JSON."""
        return cls(**{**record, "taps": tuple(map(Tap.from_record, record.get("taps", ())))})

    @property
    def label(self) -> str:
        """The base in words, with the first digits of its hash."""
        return f"{self.model} {self.weights} {self.weights_hash[:8]}".strip()


@dataclass(frozen=True)
class StoreSpec:
    """The contract of one store, written once to ``store.json``.

    Attributes:
      base: the frozen base.
      pixels: how images become its input.
      feature_shape: of one row, such as (5, 5, 512) or (1280,).
      dtype: of the stored values.
      views: rows per training image; 1 means the unaugmented image only.
      augment: the augmentation of views 1 and up in its canonical spelling; "" for one view.
      seed: of views and splits.
      numerics: of the run that created the store.
      tolerance: the largest row-wise relative L2 distance on the probe images with which other
        numerics may join.
      tap: what a spec was narrowed to, of a store of several; "" for a whole store. Not written.
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
    tap: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        require_choice("--dtype", self.dtype, (*DTYPES, PIXEL_DTYPE))
        if not self.feature_shape or min(self.feature_shape) < 1:
            raise UsageError(f"feature shape must have positive sides, got {self.feature_shape!r}")
        check_views(self.views)

    @property
    def is_map(self) -> bool:
        """Whether a row is a feature map rather than an embedding vector."""
        return len(self.feature_shape) > 1

    @property
    def is_pixels(self) -> bool:
        """Whether a row is the image's pixels, uint8 (H, W, channels), which no base made."""
        return self.dtype == PIXEL_DTYPE

    @property
    def computed_dtype(self) -> str:
        """The dtype of rows before they are rounded to the stored one."""
        return PIXEL_DTYPE if self.is_pixels else "float32"

    @property
    def read_dtype(self) -> str:
        """The dtype of rows that are read; embeddings rounded to float16 stay float32."""
        return self.dtype if self.is_map else "float32"

    @property
    def feature_size(self) -> int:
        """Values per row."""
        return math.prod(self.feature_shape)

    @property
    def column(self) -> str:
        """The column of the parts that holds the features."""
        return f"features:{self.tap}" if self.tap else "features"

    @property
    def feature_bytes(self) -> int:
        """Bytes per row in memory."""
        return self.feature_size * ITEM_BYTES[self.read_dtype]

    @property
    def stored_bytes(self) -> int:
        """Bytes per row as stored, before compression."""
        taps = self.base.taps
        return sum(t.size * ITEM_BYTES[t.stored_dtype] for t in taps) or self.feature_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes per training image with all its views as stored, before compression."""
        return self.views * self.stored_bytes

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that must be equal for features to be comparable, by flag name."""
        height, width = self.pixels.image_size
        fields = {
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
        if taps := self.base.taps:
            fields["weights"] = JOINED.join(tap.weights_hash for tap in taps)
            fields["dtype"] = JOINED.join(tap.dtype for tap in taps)
            fields["feature_shape"] = [list(tap.shape) for tap in taps]
        return fields

    @property
    def identity_hash(self) -> str:
        """16 hex digits over `identity`."""
        return digest(self.identity)[:16]

    def differences(self, other: StoreSpec) -> list[str]:
        """Lists the identity fields in which `other` differs, as ``field: ours -> theirs``.

        The line of the weights names the models too, because a hash alone means nothing to readers.
        """
        ours, theirs = self.identity, other.identity
        names = [name for name, value in ours.items() if value != theirs[name]]
        if "weights" in names:
            ours["weights"], theirs["weights"] = self.base.label, other.base.label
        return [f"{name}: {_show(ours[name])} -> {_show(theirs[name])}" for name in names]

    def require_same(
        self,
        other: StoreSpec,
        where: str,
        fix: str = "repeat the stored settings, or choose another --output",
    ) -> None:
        """Refuses `other` unless its identity equals this one.

        Args:
          other: the spec that would join.
          where: the owner of this spec, for the message.
          fix: what the user can do, for the message.

        Raises:
          SpecMismatch: with every difference as ``field: stored -> asked for``.
        """
        lines = self.differences(other)
        if lines:
            raise SpecMismatch(
                f"{where} holds other features (stored -> asked for): {'; '.join(lines)}. "
                f"Features of different kinds never mix: {fix}"
            )

    def to_json(self) -> str:
        """Returns the text of ``store.json``."""
        hashes = {"identity_hash": self.identity_hash, "numerics_hash": self.numerics.hash}
        version = TAPS_VERSION if self.base.taps else FORMAT_VERSION
        head = {"format": "hoarfrost", "format_version": version, **hashes}
        record = {**head, **dataclasses.asdict(self), "base": self.base.to_record()}
        del record["tap"]
        return json.dumps({**record, "checksum": digest(record)[:16]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> StoreSpec:
        """Reads ``store.json``.

        Args:
          text: the file's content.
          where: the file's address, for the message.

        Raises:
          CorruptStore: when the text is not a spec, was edited, or has another format version.
        """
        try:
            record = json.loads(text)
            version = record["format_version"]
            if version not in (FORMAT_VERSION, TAPS_VERSION):
                raise CorruptStore(
                    f"{where}: store format {version}, this Hoarfrost reads {FORMAT_VERSION} and "
                    f"{TAPS_VERSION}; install the release that wrote it"
                )
            spec = cls(
                base=BaseSpec.from_record(record["base"]),
                pixels=PixelSpec(
                    **{**record["pixels"], "image_size": tuple(record["pixels"]["image_size"])}
                ),
                feature_shape=tuple(record["feature_shape"]),
                numerics=Numerics(**record["numerics"]),
                **{name: record[name] for name in _PLAIN_FIELDS},
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
