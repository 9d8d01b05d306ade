"""Taps: several layers of one base whose outputs a store holds side by side.

A base with taps has several outputs, which are computed in one pass. Between the base and the
writer a row is all of them: float32, each flattened in C order, one behind the other. In the parts
of the store each tap is a column of its own, with its own shape and dtype. A spec that is narrowed
to one tap is that of a store of this tap alone, so everything behind it knows nothing of taps.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import UsageError, unknown_choice

if TYPE_CHECKING:
    from featurestore.spec import BaseSpec, StoreSpec

JOINED = "+"


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


def divided(taps: Sequence[Tap], rows: np.ndarray) -> list[np.ndarray]:
    """Divides rows into those of each tap.

    Args:
      taps: of the base; none for a base with one output.
      rows: (n, sum of the taps' sizes).

    Returns:
      (n, *tap.shape) of each tap, views of `rows`; `rows` itself without taps.
    """
    if not taps:
        return [rows]
    ends = list(itertools.accumulate(tap.size for tap in taps))
    parts = np.split(rows, ends[:-1], axis=1)
    return [part.reshape(len(rows), *tap.shape) for part, tap in zip(parts, taps, strict=True)]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns rows side by side: float32 (n, sum of sizes) of arrays (n, *shape) of any float."""
    flat = [part.reshape(len(part), -1).astype(np.float32, copy=False) for part in parts]
    return np.concatenate(flat, axis=1)


def narrowed(spec: StoreSpec, name: str) -> StoreSpec:
    """Returns the spec of one tap, or of several that are read side by side.

    Args:
      spec: of a store.
      name: of a tap; several are joined by a plus sign.

    Raises:
      UsageError: for a tap that the store does not have.
    """
    known = {tap.name: tap for tap in spec.base.taps}
    if not known:
        if name.removesuffix(":none") == spec.base.tap:
            return spec
        raise unknown_choice("--tap", name, [spec.base.tap])
    names = [each.removesuffix(":none") for each in ([name] if name in known else name.split(JOINED))]
    for each in names:
        if each not in known:
            raise unknown_choice("--tap", each, list(known))
    if len(set(names)) < len(names):
        raise UsageError(f"--tap {name}: names a tap twice; give each one once")
    taps, name = tuple(known[each] for each in names), JOINED.join(names)
    if len(taps) > 1:
        base = dataclasses.replace(spec.base, layer=name, taps=taps)
        shape = (sum(tap.size for tap in taps),)
        return dataclasses.replace(spec, base=base, feature_shape=shape, tap=name)
    (tap,) = taps
    own = {"layer": tap.layer, "pooling": tap.pooling, "weights_hash": tap.weights_hash}
    return dataclasses.replace(
        spec,
        base=dataclasses.replace(spec.base, **own, taps=()),
        feature_shape=tap.shape,
        dtype=tap.dtype,
        tap=name,
    )


def columns_of(spec: StoreSpec) -> tuple[StoreSpec, ...]:
    """Returns the spec of each column of features: that of a store, or those of its taps."""
    return tuple(narrowed(spec, tap.name) for tap in spec.base.taps) or (spec,)


def require_one(spec: StoreSpec, where: str) -> None:
    """Refuses a store of several taps, of which none was chosen.

    Raises:
      UsageError: that lists the taps.
    """
    if spec.base.taps and not spec.tap:
        names = ", ".join(tap.name for tap in spec.base.taps)
        raise UsageError(
            f"the store at {where} holds the features of {len(spec.base.taps)} taps, so say which "
            f"to read: --tap NAME, or tap=NAME in Python; NAME is one of {names}, or several "
            "joined by +"
        )


def base_record(base: BaseSpec) -> dict[str, Any]:
    """Returns the fields of a base as JSON values; a base with one output has no ``taps``."""
    record = dataclasses.asdict(base)
    if not base.taps:
        del record["taps"]
    return record


def cut_hashes(base: BaseSpec) -> tuple[str, ...]:
    """Returns the hash of the base cut at each tap alone, each once; a store keeps these too."""
    return tuple(dict.fromkeys(tap.weights_hash for tap in base.taps))
