"""A decoded sample of the input, to try engines on and to calibrate int8 with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from classifier.inputs import Ignored, ImageRef, ShardRef, read_many
from classifier.inputs.refs import ShardDamaged
from classifier.inputs.reservoir import Reservoir
from classifier.inputs.shards import iter_shard
from classifier.pixels.decoder import BadImage, decode
from featurestore.io.storage import Storage
from featurestore.spec import PixelSpec
from pipelines.planning.listing import Listing
from pipelines.planning.plan import read_chunk, reference
from pipelines.planning.runfolder import RunFolder

# Listing more of a large bucket would take longer than a better sample is worth.
LISTED_AT_MOST = 100_000
SHARDS_AT_MOST = CHUNKS_AT_MOST = 8


class Samples(Protocol):
    """Draws decoded images of what a run takes in."""

    def spread(self, count: int, pixels: PixelSpec) -> np.ndarray:
        """Returns images from everywhere, uint8 (n, H, W, 3), n from 0 to `count`."""
        ...

    def first(self, count: int, pixels: PixelSpec) -> np.ndarray:
        """Returns the first images, uint8 (n, H, W, 3), n from 0 to `count`."""
        ...


@dataclass(frozen=True)
class InputSamples:
    """Draws from listed inputs; bad images are skipped.

    Attributes:
      listing: of the input.
      storage_options: for the inputs.
    """

    listing: Listing
    storage_options: Mapping[str, Any]

    def spread(self, count: int, pixels: PixelSpec) -> np.ndarray:
        # Draws a quarter more than needed, since some may be bad.
        refs = spread(self.listing.again(), count + count // 4)
        return decoded_images(refs, count, pixels, self.storage_options)

    def first(self, count: int, pixels: PixelSpec) -> np.ndarray:
        return decoded_images(self.listing.head[: 4 * count], count, pixels, self.storage_options)


def spread(
    refs: Iterable[ImageRef | ShardRef], count: int, seed: int = 0
) -> list[ImageRef | ShardRef]:
    """Draws inputs evenly from the list, or from its first 100,000 entries; the same every time.

    Args:
      refs: the inputs, in order.
      count: how many to draw at most.
      seed: of the draw.

    Returns:
      The drawn inputs, in a random order.
    """
    rng = random.Random(seed)
    drawn: Reservoir[ImageRef | ShardRef] = Reservoir(count, rng.randrange)
    for ref in itertools.islice(refs, LISTED_AT_MOST):
        drawn.offer(ref)
    rng.shuffle(drawn.items)
    return drawn.items


def planned_refs(storage: Storage, run_id: str) -> list[ImageRef | ShardRef]:
    """Returns the inputs of some chunks of a plan, drawn evenly; the same every time.

    Args:
      storage: of the store.
      run_id: of the run.
    """
    chunks = RunFolder(storage, run_id).facts().plan.chunks
    drawn = random.Random(0).sample(range(chunks), min(chunks, CHUNKS_AT_MOST))
    read = (read_chunk(storage, *reference(run_id, number)) for number in drawn)
    return [member.ref for chunk in read for member in chunk.members]


def decoded_images(
    refs: Sequence[ImageRef | ShardRef],
    count: int,
    pixels: PixelSpec,
    storage_options: Mapping[str, Any],
) -> np.ndarray:
    """Decodes the first good images of some inputs, and skips bad ones.

    Args:
      refs: images, and shards, of which only the first images are read.
      count: number of images at most.
      pixels: how they are decoded.
      storage_options: for the inputs.

    Returns:
      uint8 (n, H, W, 3), n from 0 to `count`.
    """
    images = []
    for data in _contents(refs, count, storage_options):
        try:
            images.append(decode(data, pixels).pixels)
        except BadImage:
            continue
        if len(images) == count:
            break
    return np.stack(images) if images else np.empty((0, *pixels.image_size, 3), np.uint8)


def _contents(
    refs: Sequence[ImageRef | ShardRef], count: int, storage_options: Mapping[str, Any]
) -> Iterator[bytes]:
    images = [ref for ref in refs if isinstance(ref, ImageRef)]
    for data in read_many(images, storage_options):
        if isinstance(data, bytes):
            yield data
    shards = [ref for ref in refs if isinstance(ref, ShardRef)][:SHARDS_AT_MOST]
    for shard in shards:
        # With this layout the shard is not read for its folders: only bytes are needed.
        members = iter_shard(replace(shard, layout="flat"), storage_options, Ignored())
        try:
            for _, data in itertools.islice(members, -(-count // len(shards))):
                if isinstance(data, bytes):
                    yield data
        except (OSError, ShardDamaged):
            # The run itself reports a shard that cannot be read.
            continue
