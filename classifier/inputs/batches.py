"""Reads images in batches: single files in threads ahead of the consumer, shards as streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from classifier.inputs.reading import read_many
from classifier.inputs.refs import ImageRef, ShardDamaged, ShardRef, Unreadable
from classifier.inputs.shards import iter_shard
from featurestore.ignored import Ignored
from featurestore.io.readahead import ordered_map

# A batch of a shard's images ends at this size, because each lane holds one in memory.
BATCH_BYTES = 1 << 28
READERS = 4
A = TypeVar("A")
# An image or a damaged shard, with its content or with the reason why it cannot be read.
Read = tuple[ImageRef | ShardRef, bytes | OSError]


def read_batches(
    refs: Iterable[ImageRef | ShardRef],
    storage_options: Mapping[str, Any],
    size: int,
    ignored: Ignored,
) -> Iterator[list[Read]]:
    """Reads images in order, in memory that does not grow with their number.

    Args:
      refs: single images and shards.
      storage_options: for their file systems.
      size: images per batch; a batch does not mix single images with those of a shard.
      ignored: collects what a shard holds besides images.

    Yields:
      Batches of (reference, content or error). What could not be read of a damaged shard is one
      entry, behind the images that could.
    """

    def read(images: list[ImageRef]) -> list[Read]:
        return list(zip(images, read_many(images, storage_options), strict=True))

    with ThreadPoolExecutor(READERS, "reader") as readers:
        for is_image, some in itertools.groupby(refs, key=lambda ref: isinstance(ref, ImageRef)):
            if is_image:
                yield from ordered_map(readers, read, batched(some, size), 2 * READERS)  # type: ignore[arg-type]
                continue
            for shard in some:
                assert isinstance(shard, ShardRef)
                yield from by_bytes(_stream(shard, storage_options, ignored), size)


def _stream(shard: ShardRef, options: Mapping[str, Any], ignored: Ignored) -> Iterator[Read]:
    try:
        yield from iter_shard(shard, options, ignored)
    except ShardDamaged as error:
        yield shard, Unreadable(f"damaged shard: {error}")
    except OSError as error:
        yield shard, error


def batched(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Yields consecutive groups of at most `size` items."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def by_bytes(
    stream: Iterable[tuple[A, bytes | OSError]], size: int
) -> Iterator[list[tuple[A, bytes | OSError]]]:
    """Yields images with their content in groups of `size` or `BATCH_BYTES`."""
    group: list[tuple[A, bytes | OSError]] = []
    held = 0
    for item, data in stream:
        group.append((item, data))
        held += len(data) if isinstance(data, bytes) else 0
        if len(group) == size or held >= BATCH_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group
