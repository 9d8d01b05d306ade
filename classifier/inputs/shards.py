"""Streams the images of a shard, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from classifier.inputs.parquet import iter_parquet
from classifier.inputs.refs import NESTED, ImageRef, ShardDamaged, ShardRef
from classifier.inputs.tar import iter_tar
from classifier.inputs.tfrecord import SEQUENCES, iter_tfrecord
from classifier.inputs.zip import iter_zip
from featurestore.ignored import Ignored, note_lines
from featurestore.retry import io_errors

# What a broken or unreachable shard raises.
SHARD_ERRORS = (OSError, ShardDamaged)
Reader = Callable[
    [ShardRef, Mapping[str, Any] | None, Ignored], Iterator[tuple[ImageRef, bytes | OSError]]
]
# Reasons of `Ignored.note`.
WITHOUT_IMAGES = "shards hold no images; what is in them was left out"
EMPTY = "shards are empty"
READERS: Mapping[str, Reader] = {
    "tar": iter_tar,
    "zip": iter_zip,
    "tfrecord": iter_tfrecord,
    "parquet": iter_parquet,
}


def iter_shard(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a shard, in order, without unpacking it.

    Args:
      shard: to read.
      storage_options: for its file system.
      ignored: collects what in it is no image.

    Yields:
      (reference, file content), or (reference, error) for an image that is there but cannot be
      read. Keys are ``<shard>/<member>`` and unique.

    Raises:
      OSError: when the shard cannot be opened, or its file system fails.
      ShardDamaged: after everything that was readable, when not everything was.
    """
    found, own = False, Ignored()
    try:
        with io_errors():
            stream = READERS[shard.format](shard, storage_options, own)
            for item in stream:
                found = True
                yield item
            if not found:
                _explain(shard, own)
    finally:
        ignored.include(own)


def _explain(shard: ShardRef, ignored: Ignored) -> None:
    """Says why a shard gave no image; one that holds them in another shape is not done with."""
    for reason in (NESTED, SEQUENCES):
        if note := ignored.notes.get(reason):
            raise ShardDamaged(f"no image in it; {note_lines([note])[0]}")
    ignored.note(WITHOUT_IMAGES if ignored.count else EMPTY, shard.key)
