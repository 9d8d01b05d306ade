"""Extracts one chunk: read, decode, batch, infer, write, commit. Needs no Beam.

One lane per core decodes and infers its own batches; the caller's thread writes. Groups of a
batch's size are written in order, so that the rows of a part have the order of the input.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classifier.engines import Engine, run_padded
from classifier.inputs.batches import batched
from featurestore.commit import Marker, committed
from featurestore.io.readahead import ordered_map
from featurestore.ledger import Ledger, superseded_ledger
from featurestore.reuse import StoredFeatures
from featurestore.writer import PartWriter, write_quarantine
from pipelines.extraction.attempt import ChunkWork
from pipelines.extraction.group import GroupDecoder, GroupResult
from pipelines.extraction.source import ChunkSource, Fetched
from pipelines.planning.chunks import Chunk
from pipelines.planning.visible import committed_keys, images_of_shard
from pipelines.watching.timing import ChunkClock


@dataclass(frozen=True)
class Extractor(ChunkWork):
    """Extracts chunks in one process, whose threads share it.

    Attributes:
      engine: runs the base.
      lanes: threads that decode and infer.
      readers: threads that read ahead.
      decoder: turns bytes into rows and pixels.
      writer: opens the file of a chunk's rows.
      storage_options: for the inputs.
      stored: returns what finds the features that were stored before a chunk, by content.
    """

    engine: Engine
    lanes: Executor
    readers: Executor
    decoder: GroupDecoder
    writer: Callable[[Path], PartWriter]
    storage_options: Mapping[str, Any]
    stored: Callable[[Chunk], StoredFeatures | None]
    _of_lane: threading.local = field(default_factory=threading.local, repr=False)

    def attempt(
        self,
        chunk: Chunk,
        run_id: str,
        on_group: Callable[[GroupResult], None],
        folder: Path,
        clock: ChunkClock,
    ) -> Marker:
        started = time.monotonic()
        held = self._held(chunk)
        source = ChunkSource(chunk, self.storage_options, held, chunk.skip | self._done(chunk))
        quarantined: list[Mapping[str, Any]] = []
        supersedes: list[str] = []
        images = 0
        with self.writer(folder / "part.parquet") as writer:
            groups = clock.reading(self._read_ahead(source))
            stored = self.stored(chunk) if source.may_be_known else None
            process = partial(self._process, clock, stored)
            for group in ordered_map(self.lanes, process, groups, self.clock.lanes + 1):
                with clock.feeds("write"):
                    writer.write(group.rows, group.features)
                    quarantined.extend(group.quarantined)
                    supersedes.extend(row["key"] for row in group.every if row["key"] in held)
                    clock.passed(group.images)
                    images += len(group.images)
                    on_group(group)
            with clock.feeds("write"):
                part = writer.finish()
        bad = write_quarantine(folder / "bad.parquet", quarantined) if quarantined else None
        ledger = Ledger(source.images, images, len(quarantined), ignored=source.ignored.count)
        return self.commit(
            part,
            bad,
            clock,
            Marker(
                chunk_id=chunk.chunk_id,
                run_id=run_id,
                first_key=chunk.first_key,
                ledger=ledger.check(f"chunk {chunk.chunk_id}"),
                augmented=part.rows - images,
                numerics=vars(self.engine.numerics),
                seconds=round(time.monotonic() - started, 3),
                source=source.shard_facts,
                ignored=tuple(source.ignored.names),
                notes=tuple(source.ignored.notes.values()),
                supersedes=tuple(supersedes),
                superseded=superseded_ledger(Counter(held[key] for key in supersedes)),
                damage=source.damage,
            ),
        )

    def _done(self, chunk: Chunk) -> frozenset[str]:
        """Returns the keys that the first chunk of a shard has extracted."""
        first = committed(self.store.storage, chunk.after) if chunk.after else None
        return frozenset(committed_keys(self.store, first)) if first else frozenset()

    def _held(self, chunk: Chunk) -> Mapping[str, str]:
        """Returns what the chunk replaces: key -> ``row`` or ``quarantined``."""
        if chunk.shard is None:
            return {image.ref.key: image.replaces for image in chunk.images if image.replaces}
        return images_of_shard(self.store, chunk.first_key) if chunk.shard.replaces else {}

    def _read_ahead(self, source: ChunkSource) -> Iterator[list[Fetched]]:
        """Yields groups of a batch's size with their bytes, images read ahead of the lanes."""
        if source.chunk.shard is not None:
            return source.groups(self.engine.batch_size)
        batches = source.references(self.engine.batch_size)
        return ordered_map(self.readers, source.read, batches, 2 * self.clock.lanes)

    def _process(
        self, clock: ChunkClock, stored: StoredFeatures | None, group: list[Fetched]
    ) -> GroupResult:
        """Decodes a group, makes its views and infers them batch by batch, in a lane."""
        with clock.works("decode"):
            result, fresh = self.decoder.decode(group, stored)
        pixels = self._lane_pixels()
        for batch in batched(fresh, self.engine.batch_size):
            with clock.works("decode"):
                for place, (_, image, content_hash, view) in enumerate(batch):
                    pixels[place] = self.decoder.views.make(image, content_hash, view)
            started = time.monotonic()
            with clock.works("infer"):
                features = run_padded(self.engine, pixels[: len(batch)])
            result.features[[row for row, *_ in batch]] = features
            result.computed += len(batch)
            result.infer_seconds.append(time.monotonic() - started)
        return result.without_non_finite()

    def _lane_pixels(self) -> np.ndarray:
        """Returns the calling lane's own uint8 (batch_size, H, W, 3), which it uses again."""
        if not hasattr(self._of_lane, "pixels"):
            shape = (self.engine.batch_size, *self.decoder.spec.pixels.image_size, 3)
            self._of_lane.pixels = np.empty(shape, np.uint8)
        return self._of_lane.pixels
