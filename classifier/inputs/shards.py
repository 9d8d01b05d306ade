"""Streams the images of a shard of any format."""

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
WITHOUT_IMAGES = "shards hold no images; their content was left out"
EMPTY = "shards are empty"
READERS: Mapping[str, Reader] = {
    "tar": iter_tar,
    "zip": iter_zip,
    "tfrecord": iter_tfrecord,
    "parquet": iter_parquet,
}
# Formats with columns: the function that describes which ones are read.
WITH_COLUMNS: Mapping[str, Callable[[ShardRef, Mapping[str, Any] | None], str]] = {
    "tfrecord": tfrecord_columns,
    "parquet": parquet_columns,
}
# Formats with folders: the function that yields the names of members without their content.
MEMBER_NAMES: Mapping[str, Callable[[ShardRef, Mapping[str, Any] | None], Iterator[str]]] = {
    "tar": tar_names,
    "zip": zip_names,
}


def iter_shard(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a shard, in order, without unpacking it.

    Args:
      shard: the shard to read.
      storage_options: for its file system.
      ignored: collects what is not an image.

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


def describe_columns(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> str:
    """Returns one line about the columns that are read of a shard; "" for none, or for damage.

    Raises:
      UsageError: for a column that the user named and that the shard does not have.
    """
    try:
        with io_errors():
            return WITH_COLUMNS[shard.format](shard, storage_options)
    except SHARD_ERRORS:
        return ""  # reading the shard itself will raise the error again


def _explain(shard: ShardRef, ignored: Ignored) -> None:
    """Notes a shard without images, or raises where it holds images in another shape."""
    for reason in (NESTED, SEQUENCES):
        if note := ignored.notes.get(reason):
            raise ShardDamaged(f"no image in it; {note_lines([note])[0]}")
    ignored.note(WITHOUT_IMAGES if ignored.count else EMPTY, shard.key)
