"""Finds and drops the stored images that a complete listing no longer names, for ``--prune``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from classifier.inputs import SHARD_ERRORS, Ignored, ShardRef, iter_shard
from classifier.inputs.records import file_etag, records_of, with_records, without
from featurestore.commit import Marker, commit
from featurestore.errors import UsageError
from featurestore.ledger import superseded_ledger
from featurestore.store import FeatureStore
from pipelines.planning.inventory import Inventory, digest
from pipelines.planning.storedshards import pruning_id
from pipelines.planning.visible import counted_as, visible_inputs


@dataclass(frozen=True)
class Gone:
    """Stored images that the input no longer holds.

    Attributes:
      images: key -> ``row`` or ``quarantined``.
      shard: what stays of the shard that held them, as a marker's ``source``; empty if nothing
        stays or they were files.
    """

    images: Mapping[str, str]
    shard: Mapping[str, Any]


def gone_inputs(
    store: FeatureStore, inventory: Inventory, options: Mapping[str, Any]
) -> list[Gone]:
    """Returns the stored images that a complete listing did not name.

    A shard that has changed, or that has stored records which are not listed, is read for the names
    of its images. If it cannot be read to its end, all of its images stay.

    Args:
      store: the one with the images.
      inventory: of the store, after it decided on every input.
      options: for the inputs' file systems.
    """
    files: dict[str, str] = {}
    cut: dict[str, dict[str, str]] = {}
    names: dict[str, frozenset[str] | None] = {}
    for marker, kind, rows in visible_inputs(store, inventory.with_unlisted()):
        source = marker.source
        listed = _listed(inventory, source)
        if listed is None:
            kept = inventory.is_listed([row[0] for row in rows], [row[1] for row in rows])
            gone = [row[0] for row, stays in zip(rows, kept, strict=True) if not stays]
            files.update(dict.fromkeys(gone, counted_as(kind)))
        elif rows and not _covers(listed, source):
            key = source["key"]
            if key not in names:
                names[key] = _keys_of(replace(listed, key=key), options)
            still = names[key]
            gone = [] if still is None else [row[0] for row in rows if row[0] not in still]
            if gone:
                cut.setdefault(key, {}).update(dict.fromkeys(gone, counted_as(kind)))
    shards = [Gone(images, _what_stays(inventory, key)) for key, images in cut.items()]
    for shard in shards:
        if not shard.shard:
            files.update(shard.images)
    found = [Gone(files, {}), *(shard for shard in shards if shard.shard)]
    return [gone for gone in found if gone.images]


def prune(store: FeatureStore, run_id: str, gone: Iterable[Gone]) -> int:
    """Commits that stored images no longer count; the parts that hold them stay as they are.

    Args:
      store: the one with the images.
      run_id: of the run that prunes.
      gone: from `gone_inputs`.

    Returns:
      The number of images.
    """
    pruned = 0
    for some in gone:
        commit(
            store.storage,
            Marker(
                chunk_id=pruning_id(run_id, some.shard.get("key", "")),
                run_id=run_id,
                first_key="",
                source=some.shard,
                supersedes=tuple(sorted(some.images)),
                superseded=superseded_ledger(Counter(some.images.values())),
            ),
        )
        pruned += len(some.images)
    return pruned


def _listed(inventory: Inventory, source: Mapping[str, Any]) -> ShardRef | None:
    if not source:
        return None
    by_key = inventory.shards.get(digest(source["key"]))
    return by_key or inventory.shards.get(digest(source["uri"]))


def _covers(listed: ShardRef, source: Mapping[str, Any]) -> bool:
    """Whether a listed shard is the stored one and has all records of a commit."""
    if (listed.size, file_etag(listed.etag)) != (source["size"], file_etag(source["etag"])):
        return False
    return not without(records_of(source["etag"]), records_of(listed.etag))


def _keys_of(shard: ShardRef, options: Mapping[str, Any]) -> frozenset[str] | None:
    try:
        return frozenset(ref.key for ref, _ in iter_shard(shard, options, Ignored()))
    except (UsageError, *SHARD_ERRORS):
        return None


def _what_stays(inventory: Inventory, key: str) -> Mapping[str, Any]:
    """Returns the records of a shard that are both stored and listed, as a marker's ``source``."""
    listed = inventory.shards.get(digest(key))
    if listed is None:  # under another key: its rows are told apart when it is listed again
        return {}
    stored = inventory.records.get(digest(listed.uri, listed.size, file_etag(listed.etag)), ())
    records = records_of(listed.etag)
    stays = without(records, without(records, stored))
    if not stays:
        return {}
    etag = with_records(listed, stays).etag
    return {"key": key, "uri": listed.uri, "size": listed.size, "etag": etag, "complete": True}
