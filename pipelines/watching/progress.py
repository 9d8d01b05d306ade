"""The progress line of a run, and the end of workers whose driver died.

A local runner blocks the driver and reports its metrics only at the end. So each worker process
writes a small file into a folder of the driver's machine, and a thread of the driver adds the files
up. The driver holds a lock in that folder for as long as it lives. A worker that can take the lock
is an orphan and ends itself, so that it does not write into the store any longer.

The line is our own, since tqdm or rich would replace only how it is drawn.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from featurestore.cli.interrupts import at_interrupt
from featurestore.cli.streams import say
from pipelines.watching import locks

LOCK = "driver.lock"
REPORT_SECONDS = 0.5
SHOW_SECONDS = 0.5
# Counting commits lists a remote folder, which takes time and costs money.
COUNT_SECONDS = 15.0
WATCH_SECONDS = 1.0


class Reporter:
    """Counts the images of a worker process, and writes the counts twice a second."""

    def __init__(self, folder: str) -> None:
        path = Path(folder)
        self._file = path / f"{os.getpid()}.json" if folder and path.is_dir() else None
        self._lock = threading.Lock()
        self._counts = {"images": 0, "quarantined": 0}
        self._written = 0.0
        if self._file and _driver_pid(path) not in (None, os.getpid()):
            threading.Thread(target=_end_with_driver, args=(path,), daemon=True).start()

    def add(self, images: int, quarantined: int) -> None:
        """Adds images that are done, the quarantined ones among them."""
        with self._lock:
            self._counts["images"] += images
            self._counts["quarantined"] += quarantined
            now = time.monotonic()
            if not self._file or now - self._written < REPORT_SECONDS:
                return
            self._written = now
            text = json.dumps(self._counts)
        draft = self._file.with_suffix(".draft")
        try:
            draft.write_text(text)
            draft.replace(self._file)
        except FileNotFoundError:
            # The driver has finished and removed the folder.
            self._file = None


def _driver_pid(folder: Path) -> int | None:
    try:
        return int((folder / LOCK).read_text())
    except (OSError, ValueError):
        return None


def _end_with_driver(folder: Path) -> None:
    if not locks.SUPPORTED:
        return  # Such a worker ends when its connection breaks.
    # A driver that finishes ends its workers before it removes the folder; an interrupted one
    # does not.
    with suppress(FileNotFoundError):
        while locks.is_held(folder / LOCK):
            time.sleep(WATCH_SECONDS)
    os._exit(1)


@contextmanager
def driver_folder() -> Iterator[Path]:
    """Yields the folder that workers on this machine report to, locked by this process."""
    folder = Path(tempfile.mkdtemp(prefix="hoarfrost-run-"))
    lock = locks.hold(folder / LOCK, str(os.getpid()))
    try:
        with at_interrupt(partial(shutil.rmtree, folder, ignore_errors=True)):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


class Monitor:
    """Shows images/s, the time left and the quarantined images on the driver's terminal.

    Args:
      folder: where workers report.
      total: number of images to expect, or 0 when unknown.
      chunks_done: returns how many chunks are committed, for workers on other machines; is called
        once per `COUNT_SECONDS` at most.
      chunks: number of chunks of the run.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        chunks_done: Callable[[], int] | None = None,
        chunks: int = 0,
    ) -> None:
        self._folder, self._total = folder, total
        self._chunks_done, self._chunks = chunks_done, chunks
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._first: tuple[float, int] | None = None
        self._counted: tuple[float, int] | None = None

    def __enter__(self) -> Monitor:
        if sys.stdout.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._draw("")

    def counts(self) -> tuple[int, int]:
        """Adds up the workers' reports: (images, quarantined)."""
        images = quarantined = 0
        for file in self._folder.glob("*.json"):
            try:
                report = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            images += report["images"]
            quarantined += report["quarantined"]
        return images, quarantined

    def line(self, now: float) -> str:
        """Returns the line to show.

        Args:
          now: seconds on a monotonic clock.
        """
        images, quarantined = self.counts()
        if not images:
            if self._chunks_done:
                done = self._committed(self._chunks_done, now)
                return f"  {done:,} of {self._chunks:,} chunks committed"
            return "  starting ..."
        if self._first is None:
            self._first = (now, images)
        seconds, done = now - self._first[0], images - self._first[1]
        rate = done / seconds if seconds > 0 and done else 0.0
        of = f" of {self._total:,}" if self._total else ""
        text = f"  {images:,}{of} images"
        if rate:
            text += f", {rate:,.1f} images/s"
            if self._total:
                text += f", {_clock((self._total - images) / rate)} left"
        return text + f", {quarantined:,} quarantined"

    def _committed(self, count: Callable[[], int], now: float) -> int:
        """Returns how many chunks are committed, as of the last count."""
        if self._counted is None or now - self._counted[0] >= COUNT_SECONDS:
            done = self._counted[1] if self._counted else 0
            # A run must not fail for its progress line; the next count may succeed.
            with suppress(OSError):
                done = count()
            self._counted = now, done
        return self._counted[1]

    def _show(self) -> None:
        while not self._stop.wait(SHOW_SECONDS):
            self._draw(self.line(time.monotonic()))

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        say(f"\r\x1b[K{text[:width]}", end="")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
