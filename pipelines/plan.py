"""Plans a run: which images are new, and how they are cut into chunks. Needs no Beam.

A plan is a few Parquet files below ``plans/<run_id>/``, one row group a chunk, so that only (file,
row group) pairs travel through the pipeline: job graphs are limited to a few megabytes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifier.inputs import ImageRef, ShardRef
from featurestore import layout
from featurestore.commit import read_markers
from featurestore.storage import Storage
from pipelines.options import Selection

CHUNKS_PER_FILE = 256
# Small inputs still give every one of a few workers eight chunks; large ones keep parts of a size
# that scans well.
CHUNKS_AIMED_AT = 32
CHUNK_SIZES = (64, 1024)
CHUNK_BYTES = 256 << 20
_NAMED_BY = ("key", "uri", "size", "etag")

PLAN_SCHEMA = pa.schema(
    [
        pa.field("format", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Chunk:
    """One unit of work and of commit: some images, or one shard.

    Attributes:
      images: the images, in order; empty for a shard.
      shard: the archive, or None.
    """

    images: tuple[ImageRef, ...] = ()
    shard: ShardRef | None = None

    @property
    def members(self) -> tuple[ImageRef | ShardRef, ...]:
        """The inputs, in order."""
        return self.images if self.shard is None else (self.shard,)

    @property
    def chunk_id(self) -> str:
        """32 hex digits naming these versions of these inputs."""
        return layout.chunk_id((ref.uri, ref.size, ref.etag) for ref in self.members)


@dataclass(frozen=True)
class Plan:
    """A written plan.

    Attributes:
      files: (path relative to the store, number of chunks in it).
      chunks: in all.
      images: that are in them and countable; shards' images are not.
      shards: chunks that are a whole shard.
      listed: images and shards that the input holds.
      committed: of them, those that are in the store already.
    """

    files: tuple[tuple[str, int], ...] = ()
    chunks: int = 0
    images: int = 0
    shards: int = 0
    listed: int = 0
    committed: int = 0


@dataclass
class Committed:
    """The inputs a store accounts for, as rows or in quarantine, by digests of 16 bytes each.

    An input is known by its key or by its address: so neither a folder that moved nor a second
    ``--input``, which prefixes the keys of the first, makes stored images new.
    """

    digests: set[bytes] = field(default_factory=set)

    @classmethod
    def read(cls, storage: Storage) -> Committed:
        """Reads key, uri, size and etag of everything committed."""
        result = cls()
        for marker in read_markers(storage).values():
            if marker.source:
                result._add(*(marker.source[name] for name in _NAMED_BY))
                continue
            for folder, name in (("parts", marker.part), ("quarantine", marker.quarantine)):
                if name:
                    result._read_file(storage, f"{folder}/{name}")
        return result

    def _read_file(self, storage: Storage, path: str) -> None:
        with storage.open_parquet(path) as file:
            for batch in file.iter_batches(columns=list(_NAMED_BY)):
                columns = (batch[name].to_pylist() for name in _NAMED_BY)
                for row in zip(*columns, strict=True):
                    self._add(*row)

    def _add(self, key: str, uri: str, size: int, etag: str) -> None:
        self.digests.update((digest("key", key, size, etag), digest("uri", uri, size, etag)))

    def add_if_new(self, ref: ImageRef | ShardRef) -> bool:
        """Remembers an input; False when it is committed or was seen before."""
        by_key = digest("key", ref.key, ref.size, ref.etag)
        by_uri = digest("uri", ref.uri, ref.size, ref.etag)
        if by_key in self.digests or by_uri in self.digests:
            return False
        self.digests.update((by_key, by_uri))
        return True


def digest(kind: str, name: str, size: int, etag: str) -> bytes:
    """Returns 16 bytes that stand for one version of one input.

    Args:
      kind: ``key`` or ``uri``.
      name: of that kind.
      size: in bytes.
      etag: or modification time.
    """
    return hashlib.sha256(f"{kind}\0{name}\0{size}\0{etag}".encode()).digest()[:16]


def choose_chunk_size(listed: int, row_bytes: int) -> int:
    """Chooses the images per chunk.

    Depends only on what is listed, never on what is done, so that a resumed run cuts the same
    chunks.

    Args:
      listed: images in the input.
      row_bytes: of stored features.
    """
    low, high = CHUNK_SIZES
    wanted = min(high, max(low, -(-listed // CHUNKS_AIMED_AT)))
    return max(1, min(wanted, CHUNK_BYTES // row_bytes))


def select(
    refs: Iterable[ImageRef | ShardRef], selection: Selection
) -> Iterator[ImageRef | ShardRef]:
    """Yields the first inputs that the limits let through; shards pass and are limited within."""
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


def cut(refs: Iterable[ImageRef | ShardRef], chunk_size: int) -> Iterator[Chunk]:
    """Cuts inputs into chunks in order; a shard is always a chunk of its own.

    Args:
      refs: new inputs only: what is committed is dropped before, never after.
      chunk_size: images per chunk.
    """
    images: list[ImageRef] = []
    for ref in refs:
        if isinstance(ref, ShardRef):
            yield Chunk(shard=ref)
            continue
        images.append(ref)
        if len(images) == chunk_size:
            yield Chunk(tuple(images))
            images = []
    if images:
        yield Chunk(tuple(images))


def write_plan(
    storage: Storage,
    run_id: str,
    refs: Iterable[ImageRef | ShardRef],
    chunk_size: int,
    row_bytes: int,
) -> Plan:
    """Writes the plan of a run.

    Args:
      storage: of the store.
      run_id: of the run.
      refs: the selected inputs, in order.
      chunk_size: images per chunk; 0 chooses.
      row_bytes: of stored features.

    Returns:
      What was planned; no file is written when nothing is new.
    """
    committed = Committed.read(storage)
    refs = iter(refs)
    # The size depends on the count only up to where it reaches its largest.
    head = list(itertools.islice(refs, CHUNKS_AIMED_AT * CHUNK_SIZES[1]))
    chunk_size = chunk_size or choose_chunk_size(len(head), row_bytes)
    counts = Counter[str]()

    def fresh() -> Iterator[ImageRef | ShardRef]:
        for ref in itertools.chain(head, refs):
            counts["listed"] += 1
            if committed.add_if_new(ref):
                yield ref
            else:
                counts["committed"] += 1

    files = []
    chunks = cut(fresh(), chunk_size)
    for number in itertools.count():
        group = list(itertools.islice(chunks, CHUNKS_PER_FILE))
        if not group:
            break
        name = f"{layout.plan_folder(run_id)}/{number:06d}.parquet"
        storage.write(name, _encode(group))
        files.append((name, len(group)))
        counts["images"] += sum(len(chunk.images) for chunk in group)
        counts["shards"] += sum(chunk.shard is not None for chunk in group)
    return Plan(
        files=tuple(files),
        chunks=sum(size for _, size in files),
        **{name: counts[name] for name in ("images", "shards", "listed", "committed")},
    )


def _encode(chunks: list[Chunk]) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, PLAN_SCHEMA, compression="zstd") as writer:
        for chunk in chunks:
            rows = [_record(ref) for ref in chunk.members]
            writer.write_table(pa.Table.from_pylist(rows, PLAN_SCHEMA), row_group_size=len(rows))
    return sink.getvalue().to_pybytes()


def _record(ref: ImageRef | ShardRef) -> Mapping[str, Any]:
    return {
        "format": "image" if isinstance(ref, ImageRef) else ref.format,
        "key": ref.key,
        "uri": ref.uri,
        "size": ref.size,
        "etag": ref.etag,
        "labels": list(ref.labels) if isinstance(ref, ImageRef) else [],
        "split": ref.split,
    }


def read_chunk(storage: Storage, file: str, number: int) -> Chunk:
    """Reads one chunk of a plan.

    Args:
      storage: of the store.
      file: path relative to the store.
      number: of the chunk in the file.
    """
    with storage.open_parquet(file) as plan:
        rows = plan.read_row_group(number).to_pylist()
    if rows[0]["format"] != "image":
        row = rows[0]
        names = ("key", "uri", "size", "etag", "format", "split")
        return Chunk(shard=ShardRef(**{name: row[name] for name in names}))
    return Chunk(
        tuple(
            ImageRef(
                **{
                    **{name: row[name] for name in ("key", "uri", "size", "etag", "split")},
                    "labels": tuple(row["labels"]),
                }
            )
            for row in rows
        )
    )
