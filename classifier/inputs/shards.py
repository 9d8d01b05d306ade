"""Streams the images of a shard, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from classifier.inputs.parquet import iter_parquet
from classifier.inputs.refs import ImageRef, ShardDamaged, ShardRef
from classifier.inputs.tar import iter_tar, tar_names
from classifier.inputs.tfrecord import iter_tfrecord
from classifier.inputs.zip import iter_zip, zip_names
from featurestore.ignored import Ignored
from featurestore.retry import io_errors

# What a broken or unreachable shard raises.
SHARD_ERRORS = (OSError, ShardDamaged)
Reader = Callable[
    [ShardRef, Mapping[str, Any] | None, Ignored], Iterator[tuple[ImageRef, bytes | OSError]]
]
READERS: Mapping[str, Reader] = {
    "tar": iter_tar,
    "zip": iter_zip,
    "tfrecord": iter_tfrecord,
    "parquet": iter_parquet,
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
    with io_errors():
        yield from READERS[shard.format](shard, storage_options, ignored)
