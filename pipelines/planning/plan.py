"""Plans a run: which images are new, and how they are cut into chunks. Needs no Beam.

A plan is a few Parquet files below ``plans/<run_id>/`` with one row group per chunk. So only (file,
row group) pairs travel through the pipeline, whose graph may have a few megabytes at most.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from classifier.inputs import ImageRef, ShardRef
from featurestore import layout
from featurestore.io.storage import Storage, parquet_bytes
from pipelines.options import Selection
from pipelines.planning.chunks import CHUNK_SIZES, CHUNKS_AIMED_AT, Chunk, Wanted, cut

CHUNKS_PER_FILE = 256
_OF_REF = ("key", "uri", "size", "etag", "split")
_COUNTED = ("images", "shards", "listed", "committed", "repeated", "with_split")
_OF_WANTED = ("replaces", "replaces_run", "known")
_INDEX = b"hoarfrost.chunks"

PLAN_SCHEMA = pa.schema(
    [
        pa.field("format", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string()),
        pa.field("layout", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("replaces", pa.string(), nullable=False),
        pa.field("replaces_run", pa.string(), nullable=False),
        pa.field("known", pa.bool_(), nullable=False),
    ]
)


class Sifting(Protocol):
    """Decides what is new, see `Inventory.sift`."""

    def sift(self, refs: Iterable[ImageRef | ShardRef]) -> Iterator[tuple[bool, Wanted | None]]: ...


@dataclass(frozen=True)
class Plan:
    """A written plan.

    Attributes:
      files: (path relative to the store, number of chunks in it).
      chunks: number of chunks in all files.
      images: new images; those inside shards are not counted.
      shards: new shards, each a chunk of its own.
      listed: images and shards in the input.
      committed: listed ones that are in the store already.
      with_split: new ones that come with a split.
      repeated: listed ones that were listed before.
    """

    files: tuple[tuple[str, int], ...] = ()
    chunks: int = 0
    images: int = 0
    shards: int = 0
    listed: int = 0
    committed: int = 0
    with_split: int = 0
    repeated: int = 0


def select(
    refs: Iterable[ImageRef | ShardRef], selection: Selection
) -> Iterator[ImageRef | ShardRef]:
    """Yields the first inputs within the limits; shards are not limited."""
    per_class: Counter[tuple] = Counter()
    taken = 0
    for ref in refs:
        if isinstance(ref, ImageRef):
            if selection.limit and taken >= selection.limit:
                return
            group = (ref.split, ref.labels)
            per_class[group] += 1
            if selection.limit_per_class and per_class[group] > selection.limit_per_class:
                continue
            taken += 1
        yield ref


def write_plan(
    storage: Storage,
    run_id: str,
    refs: Iterable[ImageRef | ShardRef],
    inventory: Sifting,
    size_for: Callable[[int], int],
) -> Plan:
    """Writes the plan of a run.

    Args:
      storage: of the store.
      run_id: of the run.
      refs: the selected inputs, in order.
      inventory: of the store; decides what is new, and notes what was listed.
      size_for: returns the images per chunk for a number of listed inputs, which is counted up to
        the point where it no longer matters.

    Returns:
      The plan; without files when nothing is new.
    """
    refs = iter(refs)
    head = list(itertools.islice(refs, CHUNKS_AIMED_AT * CHUNK_SIZES[1]))
    counts = Counter[str]()

    def fresh() -> Iterator[Wanted]:
        for is_first, decided in inventory.sift(itertools.chain(head, refs)):
            counts["listed"] += 1
            if decided:
                counts["with_split"] += decided.ref.split is not None
                yield decided
            else:
                counts["committed" if is_first else "repeated"] += 1

    files = []
    chunks = cut(fresh(), size_for(len(head)))
    for number in itertools.count():
        group = list(itertools.islice(chunks, CHUNKS_PER_FILE))
        if not group:
            break
        name = plan_file(run_id, number)
        storage.write(name, _encode(group))
        files.append((name, len(group)))
        counts["images"] += sum(len(chunk.images) for chunk in group)
        counts["shards"] += sum(chunk.shard is not None for chunk in group)
    return Plan(
        files=tuple(files),
        chunks=sum(size for _, size in files),
        **{name: counts[name] for name in _COUNTED},
    )


def _encode(chunks: list[Chunk]) -> bytes:
    rows = ([_record(member) for member in chunk.members] for chunk in chunks)
    index = [(chunk.chunk_id, chunk.first_key, len(chunk.images)) for chunk in chunks]
    schema = PLAN_SCHEMA.with_metadata({_INDEX: json.dumps(index)})
    return parquet_bytes(pa.Table.from_pylist(chunk, schema) for chunk in rows)


class PlannedChunk(NamedTuple):
    """A chunk as the index of its plan names it.

    Attributes:
      chunk_id: 32 hex digits.
      first_key: the key of its first input.
      images: how many are in it; 0 for a shard, whose images are not counted beforehand.
    """

    chunk_id: str
    first_key: str
    images: int


def planned_chunks(storage: Storage, plan: Plan) -> Iterator[PlannedChunk]:
    """Yields the chunks of a plan in order; reads the indexes of its files only.

    Args:
      storage: of the store.
      plan: of a run.
    """
    for file, _ in plan.files:
        with storage.open_parquet(file) as rows:
            index = rows.schema_arrow.metadata[_INDEX]
        yield from (PlannedChunk(*entry) for entry in json.loads(index))


def reference(run_id: str, number: int) -> tuple[str, int]:
    """Returns (plan file, number of the chunk in it) of a plan's chunk.

    Args:
      run_id: of the run.
      number: of the chunk in the whole plan, from 0.

    Example:
      >>> reference("r", 257)
      ('plans/r/000001.parquet', 1)
    """
    file, place = divmod(number, CHUNKS_PER_FILE)
    return plan_file(run_id, file), place


def plan_file(run_id: str, number: int) -> str:
    """Returns the path of one file of a plan; all but the last have `CHUNKS_PER_FILE` chunks."""
    return f"{layout.plan_folder(run_id)}/{number:06d}.parquet"


def _record(wanted: Wanted) -> Mapping[str, Any]:
    ref = wanted.ref
    return {
        "format": "image" if isinstance(ref, ImageRef) else ref.format,
        **{name: getattr(ref, name) for name in _OF_REF},
        "labels": list(ref.labels) if isinstance(ref, ImageRef) else [],
        "layout": "" if isinstance(ref, ImageRef) else ref.layout,
        "problem": ref.problem if isinstance(ref, ImageRef) else "",
        **{name: getattr(wanted, name) for name in _OF_WANTED},
    }


def read_chunk(storage: Storage, file: str, number: int) -> Chunk:
    """Reads one chunk of a plan.

    Args:
      storage: of the store.
      file: path relative to the store.
      number: the place of the chunk in the file.
    """
    with storage.open_parquet(file) as plan:
        rows = plan.read_row_group(number).to_pylist()
    members = tuple(_wanted(row) for row in rows)
    if rows[0]["format"] == "image":
        return Chunk(members)
    return Chunk(shard=members[0])


def _wanted(row: Mapping[str, Any]) -> Wanted:
    shared = {name: row[name] for name in _OF_REF}
    ref: ImageRef | ShardRef
    if row["format"] == "image":
        ref = ImageRef(**shared, labels=tuple(row["labels"]), problem=row["problem"])
    else:
        ref = ShardRef(**shared, format=row["format"], layout=row["layout"])
    return Wanted(ref, **{name: row[name] for name in _OF_WANTED})
