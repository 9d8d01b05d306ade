"""Extracts one chunk: read, decode, batch, infer, write, commit. Needs no Beam.

One lane per core decodes and infers its own batches; one thread, the caller's, writes. Groups of a
batch's size go through in order, so that rows lie in the part in the order of the input, however
the lanes race.
"""

from __future__ import annotations

import hashlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from classifier.engines import Engine, run_padded
from classifier.inputs import ImageRef, iter_tar, read_many
from classifier.inputs.listing import Ignored
from classifier.pixels import BadImage, decode
from featurestore import layout
from featurestore.commit import Marker, commit, committed, publish
from featurestore.ledger import Ledger
from featurestore.spec import StoreSpec
from featurestore.storage import Storage
from featurestore.writer import PartWriter, write_quarantine
from pipelines.options import SplitFractions
from pipelines.plan import Chunk

A = TypeVar("A")
B = TypeVar("B")
Fetched = tuple[ImageRef, bytes | OSError]


@dataclass
class GroupResult:
    """What became of one group of images.

    Attributes:
      rows: columns of `schema.META_FIELDS`, one mapping a row.
      features: float32 (len(rows), *feature_shape).
      quarantined: columns of `schema.QUARANTINE_SCHEMA`, one mapping an image.
      infer_seconds: spent in the base.
    """

    rows: list[Mapping[str, Any]]
    features: np.ndarray
    quarantined: list[Mapping[str, Any]] = field(default_factory=list)
    infer_seconds: float = 0.0


@dataclass(frozen=True)
class Extractor:
    """What extracts chunks in one process; shared by its threads.

    Attributes:
      storage: of the store.
      spec: of the store.
      engine: runs the base.
      lanes: threads that decode and infer.
      readers: threads that read ahead.
      lane_count: threads in `lanes`.
      splits: shares for inputs without splits.
      storage_options: for the inputs.
    """

    storage: Storage
    spec: StoreSpec
    engine: Engine
    lanes: Executor
    readers: Executor
    lane_count: int
    splits: SplitFractions
    storage_options: Mapping[str, Any]

    def extract(self, chunk: Chunk, run_id: str, on_group: Callable[[GroupResult], None]) -> Marker:
        """Extracts and commits a chunk; safe to repeat, and to race with another attempt.

        Args:
          chunk: the images or the shard.
          run_id: recorded in the marker.
          on_group: told of every group when it is through, in the caller's thread.

        Returns:
          The marker that counts, be it another attempt's.

        Raises:
          OSError, tarfile.ReadError: when the input as a whole cannot be read.
          RunFailed: when a feature does not fit the stored dtype.
        """
        chunk_id = chunk.chunk_id
        if marker := committed(self.storage, chunk_id):
            return marker
        nonce = uuid.uuid4().hex[:8]
        try:
            with self.storage.workspace(layout.attempt_folder(run_id, chunk_id, nonce)) as folder:
                return self._attempt(chunk, run_id, on_group, folder)
        except FileNotFoundError:
            # Another attempt that committed sweeps this one's files away.
            if marker := committed(self.storage, chunk_id):
                return marker
            raise

    def _attempt(
        self, chunk: Chunk, run_id: str, on_group: Callable[[GroupResult], None], folder: Path
    ) -> Marker:
        started = time.monotonic()
        chunk_id, ignored = chunk.chunk_id, Ignored()
        quarantined: list[Mapping[str, Any]] = []
        images_in = 0
        with PartWriter(folder / "part.parquet", self.spec) as writer:
            groups = self._fetch(chunk, ignored)
            for group in ordered_map(self.lanes, self._process, groups, self.lane_count + 1):
                writer.write(group.rows, group.features)
                quarantined.extend(group.quarantined)
                images_in += len(group.rows) + len(group.quarantined)
                on_group(group)
            part = writer.finish()
        if chunk.shard is None:
            images_in = len(chunk.images)
        ledger = Ledger(images_in, part.rows, len(quarantined), ignored=ignored.count)
        ledger.check(f"chunk {chunk_id}")
        names = {"part": "", "quarantine": ""}
        if part.rows:
            names["part"] = publish(self.storage, chunk_id, part, "parts")
        bad = None
        if quarantined:
            bad = write_quarantine(folder / "quarantine.parquet", quarantined)
            names["quarantine"] = publish(self.storage, chunk_id, bad, "quarantine")
        shard = chunk.shard
        return commit(
            self.storage,
            Marker(
                chunk_id=chunk_id,
                run_id=run_id,
                first_key=chunk.members[0].key,
                **names,
                part_sha256=part.sha256 if part.rows else "",
                part_bytes=part.size if part.rows else 0,
                quarantine_sha256=bad.sha256 if bad else "",
                ledger=ledger,
                numerics=vars(self.engine.numerics),
                seconds=round(time.monotonic() - started, 3),
                source=(
                    {"key": shard.key, "uri": shard.uri, "size": shard.size, "etag": shard.etag}
                    if shard
                    else {}
                ),
                ignored=tuple(ignored.names),
            ),
        )

    def _fetch(self, chunk: Chunk, ignored: Ignored) -> Iterator[list[Fetched]]:
        """Yields groups of a batch's size with their bytes; images are read ahead of the lanes."""
        size = self.engine.batch_size
        if chunk.shard is not None:
            stream: Iterator[Fetched] = iter_tar(chunk.shard, self.storage_options, ignored)
            yield from _batched(stream, size)
            return

        def read(refs: list[ImageRef]) -> list[Fetched]:
            return list(zip(refs, read_many(refs, self.storage_options), strict=True))

        yield from ordered_map(
            self.readers, read, _batched(chunk.images, size), 2 * self.lane_count
        )

    def _process(self, group: list[Fetched]) -> GroupResult:
        """Decodes and infers one group, in a lane."""
        height, width = self.spec.pixels.image_size
        pixels = np.empty((len(group), height, width, 3), np.uint8)
        rows: list[Mapping[str, Any]] = []
        result = GroupResult(rows, np.empty((0, *self.spec.feature_shape), np.float32))
        for ref, data in group:
            try:
                if isinstance(data, OSError):
                    raise BadImage("unreadable", f"{type(data).__name__}: {data}")
                decoded = decode(data, self.spec.pixels)
            except BadImage as bad:
                result.quarantined.append(_quarantine_row(ref, bad))
                continue
            pixels[len(rows)] = decoded.pixels
            rows.append(self._row(ref, data, decoded.width, decoded.height))
        if not rows:
            return result
        started = time.monotonic()
        features = run_padded(self.engine, pixels[: len(rows)])
        result.infer_seconds = time.monotonic() - started
        return _without_non_finite(result, features, [ref for ref, _ in group])

    def _row(self, ref: ImageRef, data: bytes, width: int, height: int) -> Mapping[str, Any]:
        content_hash = hashlib.sha256(data).hexdigest()
        return {
            "key": ref.key,
            "uri": ref.uri,
            "size": ref.size or len(data),
            "etag": ref.etag,
            "content_hash": content_hash,
            "labels": list(ref.labels),
            "split": ref.split or self.splits.choose(self.spec.seed, content_hash),
            "view": 0,
            "width": width,
            "height": height,
        }


def _without_non_finite(
    result: GroupResult, features: np.ndarray, refs: list[ImageRef]
) -> GroupResult:
    finite = np.isfinite(features.reshape(len(features), -1)).all(axis=1)
    if not finite.all():
        by_key = {ref.key: ref for ref in refs}
        bad = BadImage("non_finite", "the base gave NaN or infinity for this image")
        for row, good in zip(result.rows, finite, strict=True):
            if not good:
                result.quarantined.append(_quarantine_row(by_key[row["key"]], bad))
        result.rows = [row for row, good in zip(result.rows, finite, strict=True) if good]
        features = features[finite]
    result.features = features
    return result


def _quarantine_row(ref: ImageRef, bad: BadImage) -> Mapping[str, Any]:
    return {
        "key": ref.key,
        "uri": ref.uri,
        "size": ref.size,
        "etag": ref.etag,
        "kind": bad.kind,
        "message": bad.message,
    }


def ordered_map(
    pool: Executor, function: Callable[[A], B], items: Iterable[A], depth: int
) -> Iterator[B]:
    """Maps in a pool with at most `depth` items under way, yielding results in order.

    Unlike `Executor.map` it takes an item only when there is room for it, so a stream of any length
    needs bounded memory.
    """
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _batched(items: Iterable[A], size: int) -> Iterator[list[A]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
