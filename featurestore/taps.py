"""Taps: several layers of one base whose outputs a store holds side by side.

A base with taps has several outputs, which are computed in one pass. Between the base and the
writer a row is all of them: float32, each flattened in C order, one behind the other. In the parts
of the store each tap is a column of its own, with its own shape and dtype. A spec that is narrowed
to one tap is that of a store of this tap alone, so everything behind it knows nothing of taps.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from featurestore.errors import UsageError, unknown_choice
from featurestore.fields import JOINED, Tap
from featurestore.spec import BaseSpec, StoreSpec


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
    names = [
        each.removesuffix(":none") for each in ([name] if name in known else name.split(JOINED))
    ]
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


def rows_text(spec: StoreSpec) -> str:
    """Returns the shape and dtype of a row in words, or those of each tap.

    Example:
      (5, 5, 512) float16
    """
    texts = []
    for each in columns_of(spec):
        shape = ", ".join(map(str, each.feature_shape))
        texts.append(f"{each.tap} ({shape}) {each.dtype}".strip())
    return f"{len(texts)} taps: {', '.join(texts)}" if spec.base.taps else texts[0]


def outputs_of(base: BaseSpec) -> list[tuple[int, str]]:
    """Returns (number of the base's output, pooling) of each tap; of a base without taps, one."""
    return [(tap.output, tap.pooling) for tap in base.taps] or [(0, base.pooling)]


def layers_of(base: BaseSpec) -> list[tuple[str, str]]:
    """Returns (layer, pooling) of each tap; of a base without taps, its own."""
    return [(tap.layer, tap.pooling) for tap in base.taps] or [(base.layer, base.pooling)]


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


def taps_of(base: BaseSpec) -> list[str]:
    """Returns the names of the taps of a base; of a base cut at one layer, that one."""
    return [tap.name for tap in base.taps] or [base.tap]


def cut_hashes(base: BaseSpec) -> tuple[str, ...]:
    """Returns the hash of the base cut at each tap alone, each once; a store keeps these too.

    Without that of the base itself, whose file a graph has for all of its taps.
    """
    found = dict.fromkeys(tap.weights_hash for tap in base.taps)
    return tuple(each for each in found if each != base.weights_hash)
