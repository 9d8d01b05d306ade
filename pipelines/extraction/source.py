"""Reads the bytes of a chunk: images one by one, or a shard as a stream."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from classifier.inputs import Ignored, ImageRef, read_many
from classifier.inputs.batches import batched, by_bytes
from classifier.inputs.refs import ShardDamaged, ShardRef
from classifier.inputs.shards import iter_shard
from pipelines.planning.chunks import Chunk, Wanted

Fetched = tuple[Wanted, bytes | OSError]


class ChunkSource:
    """Reads the images of one chunk once, and counts them.

    Args:
      chunk: the images or the shard.
      storage_options: for the inputs.
      held: what the chunk replaces: key -> ``row`` or ``quarantined``. Of a shard that is retried,
        only the quarantined images are read.
      skip: keys of the shard's images that are left out.
    """

    def __init__(
        self,
        chunk: Chunk,
        storage_options: Mapping[str, Any],
        held: Mapping[str, str],
        skip: Collection[str] = (),
    ) -> None:
        self.chunk = chunk
        self.images = len(chunk.images)
        self.ignored = Ignored()
        self.damage = ""
        self._options, self._held, self._skip = storage_options, held, skip

    @property
    def shard_facts(self) -> Mapping[str, Any]:
        """The shard's key, uri, size, etag and whether it is complete; empty for images."""
        if self.chunk.shard is None:
            return {}
        shard = self.chunk.shard.ref
        facts = {"key": shard.key, "uri": shard.uri, "size": shard.size, "etag": shard.etag}
        return {**facts, "complete": not self.chunk.skip}

    @property
    def may_be_known(self) -> bool:
        """Whether the store may hold the content of some of the images."""
        return any(member.known or member.replaces == "row" for member in self.chunk.members)

    def references(self, size: int) -> Iterator[list[Wanted]]:
        """Yields the images in groups of `size`."""
        return batched(self.chunk.images, size)

    def read(self, images: list[Wanted]) -> list[Fetched]:
        """Returns each image with its bytes, or with its error if it cannot be read."""
        refs = [image.ref for image in images if isinstance(image.ref, ImageRef)]
        return list(zip(images, read_many(refs, self._options), strict=True))

    def groups(self, size: int) -> Iterator[list[Fetched]]:
        """Yields the shard's images up to any damage, in groups of `size`, or fewer large ones."""
        return by_bytes(self._stream(), size)

    def _stream(self) -> Iterator[Fetched]:
        shard = self.chunk.shard
        assert shard is not None and isinstance(shard.ref, ShardRef)
        stream = iter_shard(shard.ref, self._options, self.ignored)
        try:
            for ref, data in stream:
                if shard.replaces == "quarantined" and self._held.get(ref.key) != "quarantined":
                    continue
                if ref.key in self._skip:
                    continue
                self.images += 1
                yield Wanted(ref, known=shard.known or shard.replaces == "row"), data
        except ShardDamaged as error:
            if not self.images:
                raise
            self.damage = str(error)
