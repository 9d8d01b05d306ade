"""Finds copies among the images of a run, so that each content is computed once. Needs no Beam.

Every chunk is read once for its content hashes, which Beam groups at any scale. Of equal images the
first one in order is computed with its chunk. A second pass over the chunks with copies then finds
the features of the others in the store.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from classifier.inputs.refs import ShardDamaged
from featurestore.commit import Marker
from pipelines.extraction.source import ChunkSource, Fetched
from pipelines.planning.chunks import Chunk
from pipelines.planning.runfolder import Division

Reference = tuple[str, int]  # (plan file, number of the chunk)
Occurrence = tuple[str, int, str]  # (plan file, number of the chunk, key)
READ_AT_ONCE = 32


def content_hashes(chunk: Chunk, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (content hash, key) of a chunk's images that can be read.

    The extraction reports what cannot be read.

    Args:
      chunk: the images or the shard.
      options: for the inputs' file systems.
    """
    source = ChunkSource(chunk, options, {})
    groups: Iterable[list[Fetched]] = source.groups(READ_AT_ONCE)
    if chunk.shard is None:
        groups = map(source.read, source.references(READ_AT_ONCE))
    try:
        for group in groups:
            for wanted, data in group:
                if isinstance(data, bytes):
                    yield hashlib.sha256(data).hexdigest(), wanted.ref.key
    except (OSError, ShardDamaged):
        return


def copies_of(occurrences: Iterable[Occurrence]) -> Iterator[tuple[Reference, str]]:
    """Yields (chunk, key) of every occurrence of a content except the first in order.

    Example:
      >>> list(copies_of([("p", 1, "b"), ("p", 0, "a"), ("p", 1, "c")]))
      [(('p', 1), 'b'), (('p', 1), 'c')]
    """
    for file, number, key in sorted(occurrences)[1:]:
        yield (file, number), key


def division(chunk: Chunk, copies: Collection[str]) -> Division | None:
    """Names the two parts of a chunk; None when it stays whole.

    Args:
      chunk: of the plan.
      copies: keys of its images that are copies.
    """
    if chunk.shard is None and not copies:
        return None
    first = first_part(chunk, copies)
    first_id = first.chunk_id if first else ""
    rest = _copies(chunk, copies, first_id)
    return Division(first_id, rest.chunk_id)


def first_part(chunk: Chunk, copies: Collection[str]) -> Chunk | None:
    """Returns the chunk without its copies; None when nothing is left.

    The contents of its images are looked up in the store.

    Args:
      chunk: of the plan.
      copies: keys of its images that are copies.
    """
    if chunk.shard is not None:
        shard = dataclasses.replace(chunk.shard, known=True)
        return Chunk(shard=shard, skip=frozenset(copies))
    firsts = [image for image in chunk.images if image.ref.key not in set(copies)]
    images = tuple(dataclasses.replace(image, known=True) for image in firsts)
    return Chunk(images) if images else None


def copies_part(chunk: Chunk, copies: Collection[str], first: Marker | None) -> Chunk | None:
    """Returns what `first_part` left out; None when that is nothing.

    Of a shard this is everything that its first commit lacks, because an earlier run may have made
    that commit, with other copies left out, and died.

    Args:
      chunk: of the plan.
      copies: keys of its images that are copies.
      first: the commit of the first part; None when that was empty.
    """
    if chunk.shard is None:
        return _copies(chunk, copies, "") if copies else None
    if first is None or first.source.get("complete", True):
        return None
    return _copies(chunk, copies, first.chunk_id)


def _copies(chunk: Chunk, copies: Collection[str], first_id: str) -> Chunk:
    if chunk.shard is not None:
        shard = dataclasses.replace(chunk.shard, known=True)
        return Chunk(shard=shard, after=first_id, is_copies=True)
    left = [image for image in chunk.images if image.ref.key in set(copies)]
    images = tuple(dataclasses.replace(image, known=True) for image in left)
    return Chunk(images, is_copies=True)
