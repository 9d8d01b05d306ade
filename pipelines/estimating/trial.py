"""Times a few images on this machine by extracting them in the same way as a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from classifier.inputs import SHARD_ERRORS, Ignored, ImageRef, ShardRef, iter_shard
from featurestore.commit import Marker
from featurestore.io.storage import Storage
from pipelines.extraction.worker import Worker
from pipelines.finishing.timereport import advice
from pipelines.options import ExtractOptions
from pipelines.planning.chunks import Chunk, Wanted
from pipelines.planning.plan import Plan, read_chunk
from pipelines.watching.timing import STATES

RUN_ID = "plan"
SAMPLE_IMAGES = 64
SAMPLE_SECONDS = 10.0
# Spread over the plan, because images may change from folder to folder.
SAMPLE_CHUNKS = 8


@dataclass(frozen=True)
class Sample:
    """Some of the images to extract, and facts about all of them.

    Attributes:
      images: the sample, on any file system.
      images_in_all: number of images to extract; estimated by bytes if they are in shards.
      read_seconds: seconds per image to read a shard; 0 for files.
    """

    images: Sequence[ImageRef]
    images_in_all: int
    read_seconds: float = 0.0


def take_sample(
    options: ExtractOptions, scratch: Storage, plan: Plan, shard_bytes: int, count: int
) -> Sample:
    """Takes images from the whole plan, or the first images of its first shard.

    Args:
      options: of the run.
      scratch: holds the plan, and gets the images of shards.
      plan: of at least one chunk.
      shard_bytes: size of all its shards.
      count: number of images at most.
    """
    names = [(file, number) for file, chunks in plan.files for number in range(chunks)]
    if plan.shards:
        shards = (read_chunk(scratch, *name).shard for name in names)
        shard = next(shard.ref for shard in shards if shard is not None)
        assert isinstance(shard, ShardRef)
        return _from_shard(options, scratch, shard, plan.images, shard_bytes, count)
    step = -(-len(names) // SAMPLE_CHUNKS)
    chosen = [read_chunk(scratch, *name).images for name in names[::step]]
    refs = [image.ref for images in chosen for image in images if isinstance(image.ref, ImageRef)]
    count = min(count, len(refs))
    return Sample([refs[number * len(refs) // count] for number in range(count)], plan.images)


def _from_shard(
    options: ExtractOptions,
    scratch: Storage,
    shard: ShardRef,
    images: int,
    shard_bytes: int,
    count: int,
) -> Sample:
    """Unpacks the first images of a shard, and extrapolates their number to all shards."""
    taken: list[ImageRef] = []
    size, spent = 0, 0.0
    stream = iter_shard(replace(shard, layout="flat"), options.storage_options, Ignored())
    try:
        while len(taken) < count:
            started = time.monotonic()
            found = next(stream, None)
            spent += time.monotonic() - started
            if found is None:
                # The whole shard was read, with headers and compression.
                size = shard.size
                break
            ref, data = found
            if isinstance(data, bytes):
                name = f"tmp/sample/{len(taken):04d}"
                scratch.write(name, data)
                taken.append(ImageRef(ref.key, f"file://{scratch.path(name)}", len(data), ""))
                size += len(data)
    except SHARD_ERRORS:
        # The run itself reports a shard that cannot be read.
        pass
    if not taken:
        return Sample([], images)
    in_shards = round(shard_bytes / (size / len(taken)))
    return Sample(taken, images + in_shards, spent / len(taken))


def sample_size(worker: Worker) -> int:
    """Returns how many images to time: 64, or more for many lanes, or fewer for a slow base.

    Args:
      worker: whose base runs twice here; the first time compiles it.
    """
    size, lanes = worker.engine.batch_size, worker.extractor.clock.lanes
    batch = np.zeros((size, *worker.store.spec.pixels.image_size, 3), np.uint8)
    worker.engine(batch)
    started = time.monotonic()
    worker.engine(batch)
    per_second = lanes * size / (time.monotonic() - started) / worker.store.spec.views
    return max(size, min(int(SAMPLE_SECONDS * per_second), max(SAMPLE_IMAGES, 2 * lanes * size)))


def extract_sample(worker: Worker, sample: Sample) -> Marker:
    """Extracts a sample into the worker's store."""
    images = tuple(Wanted(ref) for ref in sample.images)
    return worker.extractor.extract(Chunk(images), RUN_ID, lambda group: None)


def rate(marker: Marker, read_seconds: float) -> dict[str, Any]:
    """Turns the time of a sample into images/s of a long run.

    The end of the sample's chunk is left out, because chunks seldom end in a long run.

    Args:
      marker: of the sample's chunk.
      read_seconds: per image, if one thread streams shards ahead of the lanes; else 0.

    Returns:
      images, lanes, images_per_second, lane_seconds by state, bound and advice.
    """
    spent, lanes = marker.time["lane_seconds"], marker.time["lanes"]
    busy = {state: spent[state] for state in STATES if state != "idle"}
    images = marker.ledger.images_in
    seconds = max(sum(busy.values()) / lanes / images, 1e-6)
    bound = cause = max(busy, key=lambda state: busy[state])
    if read_seconds > seconds:
        seconds, bound, cause = read_seconds, "read", "read shards"
    megapixels = marker.time["megapixels"] / max(1, marker.time["images"])
    return {
        "images": images,
        "lanes": lanes,
        "images_per_second": round(1 / seconds, 2),
        "lane_seconds": busy,
        "bound": bound,
        "advice": advice(cause, megapixels),
    }
