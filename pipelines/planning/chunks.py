"""Cuts new inputs into chunks, the units of work and of commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from classifier.inputs import ImageRef, ShardRef
from featurestore import layout

# A small input still has eight chunks for each of four workers; a large one gets parts of a size
# that scans well.
CHUNKS_AIMED_AT = 32
# Multiples of the usual batch, because a chunk's last batch costs as much as a full one.
CHUNK_SIZES, CHUNK_STEP = (32, 1024), 16
CHUNK_BYTES = 256 << 20
Ref = ImageRef | ShardRef


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input to extract, and what the store holds of it.

    Attributes:
      ref: the image or the shard.
      replaces: what its key stands for until now: ``row``, ``quarantined`` or "" for nothing. Of a
        shard that replaces ``quarantined``, only the quarantined images are extracted.
      replaces_run: the run that wrote what is replaced.
      known: whether the same content may be stored, under this key or another.
    """

    ref: Ref
    replaces: str = ""
    replaces_run: str = ""
    known: bool = False


@dataclass(frozen=True)
class Chunk:
    """One unit of work and of commit: some images, or one shard.

    Attributes:
      images: the images, in order; empty for a shard.
      shard: the archive, or None.
      skip: keys of the shard's images that another chunk extracts.
      after: the first chunk of the shard, whose images this one skips; or "".
      is_copies: whether these are copies of images that other chunks have computed.
    """

    images: tuple[Wanted, ...] = ()
    shard: Wanted | None = None
    skip: frozenset[str] = frozenset()
    after: str = ""
    is_copies: bool = False

    @property
    def members(self) -> tuple[Wanted, ...]:
        """The inputs, in order."""
        return self.images if self.shard is None else (self.shard,)

    @property
    def first_key(self) -> str:
        """The key of the first input."""
        return self.members[0].ref.key

    @property
    def chunk_id(self) -> str:
        """32 hex digits for these versions of these inputs, and for what they replace.

        Without what is replaced, a file that was changed and then restored would name a chunk that
        is committed already.
        """
        refs = [member.ref for member in self.members]
        names = [(ref.uri, ref.size, ref.etag) for ref in refs]
        names += [("replaces", 0, m.replaces_run) for m in self.members if m.replaces]
        names += [("after", 0, self.after)] if self.after else []
        return layout.chunk_id(names)


def chunk_size(asked: int, image_bytes: int, listed: int) -> int:
    """Returns the images per chunk: as many as the user wants, or as suit the input.

    The size depends on what is listed, and not on what is stored, so that a resumed run cuts the
    same chunks.

    Args:
      asked: the user's choice; 0 for none.
      image_bytes: size of the stored features of an image, with all its views.
      listed: images in the input.
    """
    if asked:
        return asked
    low, high = CHUNK_SIZES
    steps = -(-listed // (CHUNKS_AIMED_AT * CHUNK_STEP))
    wanted = min(high, max(low, steps * CHUNK_STEP))
    return max(1, min(wanted, CHUNK_BYTES // image_bytes))


def cut(inputs: Iterable[Wanted], size: int) -> Iterator[Chunk]:
    """Cuts inputs into chunks in order; a shard is always a chunk of its own.

    Args:
      inputs: new ones only; those that are stored must be dropped before the cut.
      size: images per chunk.
    """
    images: list[Wanted] = []
    for wanted in inputs:
        if isinstance(wanted.ref, ShardRef):
            yield Chunk(shard=wanted)
            continue
        images.append(wanted)
        if len(images) == size:
            yield Chunk(tuple(images))
            images = []
    if images:
        yield Chunk(tuple(images))
