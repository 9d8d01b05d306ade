"""Describes a store: its content, its origin and its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from featurestore.fields import tap_name
from featurestore.reading.cache import cache_usage
from featurestore.runs.unfinished import UnfinishedRun, unfinished_runs
from featurestore.store import FeatureStore
from featurestore.units import size_text


def describe(store: FeatureStore) -> dict[str, Any]:
    """Returns the facts that ``python -m featurestore info`` prints.

    Args:
      store: an open store.

    Returns:
      A JSON-ready mapping: address, base, feature shape and dtype, views, view-0 rows by split and
      label, rows of further views (``augmented``), ledger, quarantined images by kind, bytes,
      cache, numerics, unfinished runs and number of finished runs.
    """
    store, spec = store.at_this_moment(), store.spec
    markers = list(store.markers().values())
    splits, labels, augmented = _tally(store)
    kinds = Counter(row["kind"] for row in store.quarantined())
    numerics = Counter(_numerics_label(marker.numerics) for marker in markers if marker.part)
    ledger = store.ledger()
    return {
        "store": store.url,
        "identity_hash": spec.identity_hash,
        "base": {n: value for n, value in spec.base.to_record().items() if n != "request"},
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
        "unfinished": [asdict(run) for run in unfinished_runs(store)],
        "runs": sum(file.name.endswith(".json") for file in store.storage.list("runs")),
    }


def _numerics_label(numerics: Mapping[str, Any]) -> str:
    label = f"{numerics.get('engine', '?')} {numerics.get('precision', '?')}"
    return f"{label} from {numerics['derived']}" if numerics.get("derived") else label


def _tally(store: FeatureStore) -> tuple[Counter[str], Counter[str], int]:
    """Counts images by split and by label, and rows of further views."""
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
    """Returns the facts of `describe` as a readable text."""
    base = facts["base"]
    shape = "x".join(map(str, facts["feature_shape"]))
    height, width = facts["image_size"]
    augmented = f" and {facts['augmented']:,} augmented" if facts["augmented"] else ""
    cut = f"layer {base['layer']}, pooling {base['pooling']}"
    if taps := base.get("taps", ()):
        cut = f"{len(taps)} taps"
    made = (
        f"{base['model']} ({base['weights']}), {cut}, preprocessing {base['preprocess']}, "
        f"{height}x{width} pixels"
    )
    if not base["weights_hash"]:
        made = f"none: the images themselves, {base['layer']}, {height}x{width} pixels"
    made_of = f"of {len(taps)} taps" if taps else f"{shape} {facts['dtype']}"
    lines = [
        f"store      {facts['store']}",
        f"base       {made}",
        f"features   {made_of}, identity {facts['identity_hash']}"
        + "".join(f"\n           {_tap_line(tap)}" for tap in taps),
        f"rows       {facts['rows']:,}{augmented} in {facts['parts']:,} parts, "
        f"{size_text(facts['bytes'])}, from {facts['runs']} finished "
        f"run{'s' if facts['runs'] != 1 else ''}",
        f"splits     {_counts(facts['splits'])}",
        f"labels     {_counts(facts['labels'])}",
        f"quarantine {facts['quarantined']:,} images"
        + (f": {_counts(facts['quarantined_by_kind'])}" if facts["quarantined"] else ""),
        f"numerics   {_counts(facts['numerics'])}",
    ]
    lines += [f"unfinished {UnfinishedRun(**run).line}" for run in facts["unfinished"]]
    if (views := facts["views"])["count"] > 1:
        made = f"{views['augment']}, seed {views['seed']}"
        lines.insert(3, f"views      {views['count']} of a training image: {made}")
    if (cached := facts["cache"])["files"]:
        lines.append(
            f"cache      {cached['files']:,} decoded parts, {size_text(cached['bytes'])}; "
            "safe to delete"
        )
    return "\n".join(lines)


def _tap_line(tap: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, tap["shape"]))
    return f"{tap_name(tap['layer'], tap['pooling'])} {shape} {tap['dtype']}"


def _counts(counts: dict[str, int], most: int = 12) -> str:
    if not counts:
        return "none"
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    rest = len(counts) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
