"""Streams the images of a shard, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from classifier.inputs.formats.parquet import iter_parquet, parquet_columns
from classifier.inputs.formats.tar import iter_tar, tar_names
from classifier.inputs.formats.tfrecord import SEQUENCES, iter_tfrecord, tfrecord_columns
from classifier.inputs.formats.zip import iter_zip, zip_names
from classifier.inputs.refs import NESTED, ImageRef, ShardDamaged, ShardRef
from featurestore.ignored import Ignored, note_lines
from featurestore.io.retry import io_errors

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
# What says which columns of a format are taken.
WITH_COLUMNS: Mapping[str, Callable[[ShardRef, Mapping[str, Any] | None], str]] = {
    "tfrecord": tfrecord_columns,
    "parquet": parquet_columns,
}
# Formats with folders: what yields the names of their members without reading them.
MEMBER_NAMES: Mapping[str, Callable[[ShardRef, Mapping[str, Any] | None], Iterator[str]]] = {
    "tar": tar_names,
    "zip": zip_names,
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


def columns_told(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> str:
    """Says in one line which columns of a shard are taken; "" where it has none or is damaged.

    Raises:
      UsageError: for a column that the user named and that is not there.
    """
    try:
        with io_errors():
            return WITH_COLUMNS[shard.format](shard, storage_options)
    except SHARD_ERRORS:
        return ""  # who reads it reports it


def _explain(shard: ShardRef, ignored: Ignored) -> None:
    """Says why a shard gave no image; one that holds them in another shape is not done with."""
    for reason in (NESTED, SEQUENCES):
        if note := ignored.notes.get(reason):
            raise ShardDamaged(f"no image in it; {note_lines([note])[0]}")
    ignored.note(WITHOUT_IMAGES if ignored.count else EMPTY, shard.key)
