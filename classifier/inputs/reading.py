"""Reads the bytes of images, many at a time where the protocol is concurrent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from classifier.inputs.refs import ImageRef
from featurestore.retry import retrying
from featurestore.storage import connect

HEAD_BYTES = 16


def read_bytes(ref: ImageRef, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """Returns one image's file content.

    Raises:
      OSError: when it cannot be read, after retries.
    """
    fs, path = connect(ref.uri, storage_options)
    return retrying(lambda: fs.cat_file(path))


def read_many(
    refs: Sequence[ImageRef], storage_options: Mapping[str, Any] | None = None
) -> list[bytes | OSError]:
    """Returns the file contents of images, or the error of each that cannot be read.

    Args:
      refs: images, on one or several file systems.
      storage_options: for them.
    """
    result: dict[int, bytes | OSError] = {}
    by_protocol: dict[str, list[int]] = {}
    for position, ref in enumerate(refs):
        by_protocol.setdefault(ref.uri.partition("://")[0], []).append(position)
    for positions in by_protocol.values():
        found = _read_from_one([refs[position] for position in positions], storage_options)
        result.update(zip(positions, found, strict=True))
    return [result[position] for position in range(len(refs))]


def _read_from_one(
    refs: Sequence[ImageRef], storage_options: Mapping[str, Any] | None
) -> list[bytes | OSError]:
    fs, _ = connect(refs[0].uri, storage_options)
    paths = [fs._strip_protocol(ref.uri) for ref in refs]
    if getattr(fs, "async_impl", False):
        # One round trip for all: an object store answers many requests as fast as one.
        # Not `cat`, which takes brackets in a name for a pattern.
        nothing = [None] * len(paths)
        found = fs.cat_ranges(paths, nothing, nothing, on_error="return")
        return [_settled(fs, path, data) for path, data in zip(paths, found, strict=True)]
    return [_settled(fs, path, None) for path in paths]


def _settled(fs, path: str, found: bytes | Exception | None) -> bytes | OSError:
    if isinstance(found, bytes):
        return found
    try:
        return retrying(lambda: fs.cat_file(path))
    except OSError as error:
        return error


def read_heads(fs, paths: Sequence[str]) -> list[bytes]:
    """Returns the first bytes of files; b"" for one that cannot be read."""
    heads = []
    for path in paths:
        try:
            heads.append(retrying(partial(fs.cat_file, path, start=0, end=HEAD_BYTES)))
        except (OSError, ValueError):
            heads.append(b"")
    return heads
