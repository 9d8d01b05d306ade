"""Which records of which shards a store holds, according to its commits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from classifier.inputs.records import Ranges, file_etag, records_of, union
from featurestore import layout
from featurestore.commit import Marker


@dataclass(frozen=True)
class StoredShard:
    """What is stored of the newest version of a shard.

    Attributes:
      file: its uri, size and etag.
      records: those that are stored.
      run_id: the run that wrote it last.
    """

    file: tuple[str, int, str]
    records: Ranges
    run_id: str


def stored_shards(markers: Iterable[Marker]) -> dict[str, StoredShard]:
    """Returns what commits stored of each shard, by key, without what was pruned."""
    held: dict[str, StoredShard] = {}
    # A run prunes before it writes.
    for marker in sorted(markers, key=lambda marker: (marker.run_id, not is_pruning(marker))):
        source = marker.source
        if not source:
            for key in _shards_above(marker.supersedes, held) if is_pruning(marker) else ():
                held[key] = replace(held[key], records=())
        elif source.get("complete", True):
            file = (source["uri"], source["size"], file_etag(source["etag"]))
            records, before = records_of(source["etag"]), held.get(source["key"])
            if before and before.file == file and not is_pruning(marker):
                records = union(before.records, records)
            held[source["key"]] = StoredShard(file, records, marker.run_id)
    return held


def is_pruning(marker: Marker) -> bool:
    """Whether a commit drops rows and writes none, because their images are gone."""
    return marker.chunk_id == pruning_id(marker.run_id, marker.source.get("key", ""))


def pruning_id(run_id: str, shard_key: str = "") -> str:
    """Returns the chunk_id of the commit by which a run prunes files, or a shard."""
    names = [("prune", 0, run_id), *([("shard", 0, shard_key)] if shard_key else [])]
    return layout.chunk_id(names)


def _shards_above(keys: Iterable[str], shards: Collection[str]) -> set[str]:
    """Returns the shards that the keys of images begin with."""
    folders = {key.rpartition("/")[0] for key in keys}
    above = (folder.split("/") for folder in folders)
    names = {"/".join(parts[:depth]) for parts in above for depth in range(1, len(parts) + 1)}
    return names.intersection(shards)
