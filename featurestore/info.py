"""Describes a store: what is in it, how it was made, how large it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

from featurestore.reading.cache import cache_usage
from featurestore.store import FeatureStore


def describe(store: FeatureStore) -> dict[str, Any]:
    """Gathers the facts that ``python -m featurestore info`` prints.

    Args:
      store: an open store.

    Returns:
      A JSON-ready mapping: address, base, feature shape and dtype, views, images' rows by split and
      label, rows of further views (``augmented``), the ledger, quarantined images by kind, bytes,
      the cache, numerics and the number of runs.
    """
    store, spec = store.at_this_moment(), store.spec
    markers = list(store.markers().values())
    splits, labels, augmented = _tally(store)
    kinds = Counter(row["kind"] for row in store.quarantined())
    numerics = Counter(
        f"{marker.numerics.get('engine', '?')} {marker.numerics.get('precision', '?')}"
        for marker in markers
        if marker.part
    )
    ledger = store.ledger()
    return {
        "store": store.url,
        "identity_hash": spec.identity_hash,
        "base": {
            "model": spec.base.model,
            "weights": spec.base.weights,
            "weights_hash": spec.base.weights_hash,
            "layer": spec.base.layer,
            "pooling": spec.base.pooling,
            "preprocess": spec.base.preprocess,
        },
        "image_size": list(spec.pixels.image_size),
        "feature_shape": list(spec.feature_shape),
        "dtype": spec.dtype,
        "views": {"count": spec.views, "augment": spec.augment, "seed": spec.seed},
        "rows": ledger.rows,
        "augmented": augmented,
        "splits": dict(sorted(splits.items())),
        "labels": dict(sorted(labels.items())),
        "quarantined": ledger.quarantined,
        "quarantined_by_kind": dict(sorted(kinds.items())),
        "images_in": ledger.images_in,
        "parts": sum(bool(marker.part) for marker in markers),
        "bytes": sum(marker.part_bytes for marker in markers),
        "cache": dict(zip(("files", "bytes"), cache_usage(store.storage), strict=True)),
        "numerics": dict(numerics),
        "runs": sum(file.name.endswith(".json") for file in store.storage.list("runs")),
    }


def _tally(store: FeatureStore) -> tuple[Counter[str], Counter[str], int]:
    """Counts images by split and by label, and the rows of their further views."""
    splits: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    augmented = 0
    for batch in store.scan(["split", "labels", "view"]):
        original = batch["view"] == 0
        splits.update("(none)" if split is None else split for split in batch["split"][original])
        labels.update(label for row in batch["labels"][original] for label in row)
        augmented += int((~original).sum())
    return splits, labels, augmented


def format_info(facts: dict[str, Any]) -> str:
    """Lays out the facts of `describe` for a person."""
    base = facts["base"]
    shape = "x".join(map(str, facts["feature_shape"]))
    height, width = facts["image_size"]
    augmented = f" and {facts['augmented']:,} augmented" if facts["augmented"] else ""
    lines = [
        f"store      {facts['store']}",
        f"base       {base['model']} ({base['weights']}), layer {base['layer']}, "
        f"pooling {base['pooling']}, preprocessing {base['preprocess']}, {height}x{width} pixels",
        f"features   {shape} {facts['dtype']}, identity {facts['identity_hash']}",
        f"rows       {facts['rows']:,}{augmented} in {facts['parts']:,} parts, "
        f"{human_bytes(facts['bytes'])}, from {facts['runs']} finished "
        f"run{'s' if facts['runs'] != 1 else ''}",
        f"splits     {_counts(facts['splits'])}",
        f"labels     {_counts(facts['labels'])}",
        f"quarantine {facts['quarantined']:,} images"
        + (f": {_counts(facts['quarantined_by_kind'])}" if facts["quarantined"] else ""),
        f"numerics   {_counts(facts['numerics'])}",
    ]
    if (views := facts["views"])["count"] > 1:
        made = f"{views['augment']}, seed {views['seed']}"
        lines.insert(3, f"views      {views['count']} of a training image: {made}")
    if (cached := facts["cache"])["files"]:
        lines.append(
            f"cache      {cached['files']:,} decoded parts, {human_bytes(cached['bytes'])}; "
            "safe to delete"
        )
    return "\n".join(lines)


def human_bytes(count: float) -> str:
    """Writes a number of bytes with a binary unit.

    Example:
      >>> human_bytes(46_003_200)
      '43.9 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _counts(counts: dict[str, int], most: int = 12) -> str:
    if not counts:
        return "none"
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    rest = len(counts) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
