"""Counts the work of a worker process in a file that Prometheus's node_exporter collects.

The file has Prometheus's text format (its version 0.0.4) and is replaced atomically, as the
collector of node_exporter ("textfile") asks for. Nothing is measured for it: it adds up what the
worker knows of each batch and of each chunk.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from featurestore.errors import UsageError, one_line

WRITE_SECONDS = 5.0
# The last counts of a process stay for its collector; those of yesterday's processes are removed.
STALE_SECONDS = 24 * 3600.0
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HELP = {
    "images": "Images that were decoded or quarantined.",
    "quarantined": "Images that could not be used.",
    "chunks": "Chunks that were committed.",
    "dead_chunks": "Chunks that failed as a whole.",
    "retries": "Storage requests that were repeated.",
}


class Metrics:
    """The counts of one worker process; threads may share it.

    Args:
      folder: of the files, which the worker makes; "" writes nothing.
      labels: of every metric, such as run and worker; the worker also names the file.

    Raises:
      UsageError: when the folder cannot be written.
    """

    def __init__(self, folder: str, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._file = Path(folder) / f"hoarfrost-{labels['worker']}.prom" if folder else None
        self._lock = threading.Lock()
        self._counts = Counter(dict.fromkeys(_HELP, 0))
        self._lane_seconds: Counter[str] = Counter()
        self._batches = [0] * (len(BUCKETS) + 1)
        self._batch_seconds, self._written = 0.0, 0.0
        if self._file:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._remove_stale()
                self._write()
            except OSError as error:
                raise UsageError(
                    f"--metrics_folder: the worker on {platform.node()} cannot write {folder!r} "
                    f"({one_line(error)}); name a folder that every worker may write to"
                ) from error

    def group(self, images: int, quarantined: int, batch_seconds: Sequence[float]) -> None:
        """Counts a group of images, the quarantined ones among them, and its calls of the base."""
        if not self._file:
            return
        with self._lock:
            self._counts.update(images=images, quarantined=quarantined)
            for seconds in batch_seconds:
                self._batches[bisect_left(BUCKETS, seconds)] += 1
                self._batch_seconds += seconds
            if time.monotonic() - self._written >= WRITE_SECONDS:
                self._write_if_possible()

    def chunk(self, record: Mapping[str, Any]) -> None:
        """Counts a committed chunk.

        Args:
          record: its `ChunkClock.record`.
        """
        if not self._file:
            return
        with self._lock:
            self._counts.update(chunks=1, retries=record.get("retries", 0))
            self._lane_seconds.update(record.get("lane_seconds", {}))
            self._write_if_possible()

    def dead_chunk(self) -> None:
        """Counts a chunk that failed."""
        if not self._file:
            return
        with self._lock:
            self._counts.update(dead_chunks=1)
            self._write_if_possible()

    def _write_if_possible(self) -> None:
        # A full disk must not end a run for its counts.
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        assert self._file is not None
        self._written = time.monotonic()
        # The collector reads names that end in .prom only.
        draft = self._file.with_suffix(".draft")
        draft.write_text("\n".join(self._lines()) + "\n")
        draft.replace(self._file)

    def _remove_stale(self) -> None:
        assert self._file is not None
        for file in self._file.parent.glob("hoarfrost-*.prom"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    os.remove(file)

    def _lines(self) -> Iterator[str]:
        for name, text in _HELP.items():
            yield from _described(f"hoarfrost_{name}_total", text, "counter")
            yield self._sample(f"hoarfrost_{name}_total", self._counts[name])
        name = "hoarfrost_lane_seconds_total"
        yield from _described(name, "Seconds of the lanes by what they did.", "counter")
        for state, seconds in sorted(self._lane_seconds.items()):
            yield self._sample(name, round(seconds, 6), state=state)
        name, total = "hoarfrost_batch_seconds", 0
        yield from _described(name, "Seconds of a call of the base.", "histogram")
        for bound, count in zip((*BUCKETS, "+Inf"), self._batches, strict=True):
            total += count
            yield self._sample(f"{name}_bucket", total, le=str(bound))
        yield self._sample(f"{name}_sum", round(self._batch_seconds, 6))
        yield self._sample(f"{name}_count", total)

    def _sample(self, name: str, value: float, **labels: str) -> str:
        pairs = {**self._labels, **labels}
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in pairs.items())
        return f"{name}{{{shown}}} {value}"


def _described(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
