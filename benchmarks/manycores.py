"""How many images one process can feed to many lanes; a simulation of a machine with many cores.

    python -m benchmarks.manycores [--images 16384] [--rounds 3]

A lane sleeps for as long as decoding and inference of its images take a core (MobileNetV2 at 160,
pooled, in docs/performance.md), so this machine's few cores do for 64 lanes. All else is real, in
one process: images are read and hashed, groups handed over, rows written as Parquet, and chunks
committed.

What is left takes processor time. A process in Python executes one thread at a time, except while
it reads, hashes or compresses. So one process feeds at least as many images per second as that time
allows on a single core. Processor time grows little on a busy machine; the rate by the clock does.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.images import HEIGHT, WIDTH, write_photographs
from benchmarks.tables import number, publish, table
from classifier.engines import EngineChoice
from classifier.inputs import ImageRef
from classifier.inputs.listing import open_input
from classifier.pixels.decoder import Decoded
from classifier.pixels.views import Views
from featurestore import BaseSpec, FeatureStore, Numerics, PixelSpec, StoreSpec
from featurestore.cli.command import main, say
from featurestore.io.storage import Storage
from featurestore.store import create_store
from featurestore.writer import PartWriter
from pipelines.beam.transforms import AT_ONCE
from pipelines.extraction import group
from pipelines.extraction.chunk import Extractor
from pipelines.extraction.group import GroupDecoder
from pipelines.options import SplitFractions, WatchOptions
from pipelines.planning.chunks import Wanted, chunk_size, cut
from pipelines.watching.progress import Reporter
from pipelines.watching.timing import LaneClock
from pipelines.watching.watch import Watch

LANES = (2, 16, 64)
BATCH, SIZE, FEATURES = 16, 160, 1280
# Seconds of a core per image: 2 / 2,999 and 2 / 1,063, the rates of both cores of the machine in
# docs/performance.md.
DECODE, INFER = 667e-6, 1881e-6
FILES = 64


class Fed(NamedTuple):
    """One extraction.

    Attributes:
      rate: images per second by the clock.
      busy: seconds of processor time per image, beside what the lanes sleep.
    """

    rate: float
    busy: float


class SleepingEngine:
    """An engine that sleeps for as long as a core would compute, and gives random features."""

    batch_size = BATCH
    feature_shape: tuple[int, ...] = (FEATURES,)

    def __init__(self) -> None:
        self.numerics: Numerics = EngineChoice().numerics
        random = np.random.default_rng(0)
        self._features = random.standard_normal((BATCH, FEATURES), np.float32)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Returns float32 (batch, features) after the time of a batch."""
        time.sleep(INFER * len(batch))
        return self._features


def slept(data: bytes, spec: PixelSpec) -> Decoded:
    """Sleeps for as long as a core would decode, in place of `decode`."""
    time.sleep(DECODE)
    return Decoded(_PIXELS, WIDTH, HEIGHT)


_PIXELS = np.zeros((SIZE, SIZE, 3), np.uint8)


def extractor(store: FeatureStore, lanes: int) -> Extractor:
    """Returns what `pipelines.extraction.worker` makes for a process with so many lanes."""
    watch = Watch(WatchOptions(), Reporter(""), "run", "worker", "sleeping")
    return Extractor(
        store=store,
        engine=SleepingEngine(),
        lanes=ThreadPoolExecutor(lanes, "lane"),
        readers=ThreadPoolExecutor(max(4, lanes), "reader"),
        clock=LaneClock(lanes),
        name="worker",
        watch=watch,
        writer=partial(PartWriter, spec=store.spec),
        decoder=GroupDecoder(store.spec, Views(), SplitFractions()),
        storage_options={},
        stored=lambda chunk: None,
    )


def feed(files: Sequence[ImageRef], folder: Path, images: int, lanes: int) -> Fed:
    """Extracts images into a new store, in one process.

    Args:
      files: real ones, which are read in turn.
      folder: of the store.
      images: how many.
      lanes: threads that sleep.
    """
    spec = StoreSpec(
        base=BaseSpec("made", "none", "0" * 32, "top", "avg", "none"),
        pixels=PixelSpec((SIZE, SIZE)),
        feature_shape=(FEATURES,),
        dtype="float32",
        numerics=EngineChoice().numerics,
    )
    work = extractor(create_store(Storage(str(folder)), spec), lanes)
    wanted = (_copy(files[index % len(files)], index) for index in range(images))
    chunks = list(cut(wanted, chunk_size(0, 4 * FEATURES, images)))
    busy, started = time.process_time(), time.perf_counter()
    with mock.patch.object(group, "decode", slept), ThreadPoolExecutor(AT_ONCE) as feeders:
        # The list raises here what a chunk raised.
        list(feeders.map(lambda chunk: work.extract(chunk, "run", lambda group: None), chunks))
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    work.lanes.shutdown()
    work.readers.shutdown()
    return Fed(images / seconds, busy / images)


def _copy(file: ImageRef, number: int) -> Wanted:
    """Returns the file as another image, which makes another chunk."""
    name = f"{number:08d}"
    return Wanted(dataclasses.replace(file, key=f"{name}.jpg", etag=name))


def report(fed: dict[int, list[Fed]]) -> list[str]:
    """Returns the table, as lines of Markdown."""
    rows = []
    for lanes, every in fed.items():
        busy = statistics.median(each.busy for each in every)
        rows.append(
            [
                f"{lanes}",
                number(lanes / (DECODE + INFER)),
                number(statistics.median(each.rate for each in every)),
                number(1e6 * busy, " µs"),
                number(1 / busy),
                number((DECODE + INFER) / busy),
            ]
        )
    header = "lanes|images/s if nothing else took time|images/s here|processor time per image"
    header += "|images/s that one core allows|as many lanes"
    return table(header.split("|"), rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = counted_parser("benchmarks.manycores", __doc__, images=16384, rounds=3).parse_args(argv)
    fed: dict[int, list[Fed]] = {lanes: [] for lanes in LANES}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        files = open_input(str(write_photographs(Path(name), FILES)))
        for turn in range(args.rounds):
            for lanes in LANES[:: 1 if turn % 2 == 0 else -1]:
                folder = Path(name) / f"store-{turn}-{lanes}"
                fed[lanes].append(feed(files, folder, args.images, lanes))
                say(f"  round {turn + 1}, {lanes} lanes: {fed[lanes][-1]}", to_stderr=True)
    title = f"Simulated: {args.images:,} images, medians of {args.rounds} rounds:"
    publish("benchmarks.manycores", [title, "", *report(fed)], args.write)
    return 0


if __name__ == "__main__":
    main(run)
