"""Reads the bytes of images, many at once where the protocol is concurrent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from classifier.inputs.refs import HEAD_BYTES, ImageRef, Unreadable
from featurestore.errors import UsageError, one_line
from featurestore.io.retry import retrying
from featurestore.io.urls import ADDRESS_ERRORS, connect, path_on_disk


def read_bytes(ref: ImageRef, storage_options: Mapping[str, Any] | None = None) -> bytes:
    """Returns the content of an image file.

    Raises:
      OSError: when the file cannot be read, after retries.
    """
    try:
        if ref.problem:
            raise Unreadable(ref.problem)
        if path := path_on_disk(ref.uri):
            return retrying(partial(_read_from_disk, path))
        fs, path = connect(ref.uri, storage_options)
        return retrying(lambda: fs.cat_file(path))
    except (UsageError, *ADDRESS_ERRORS) as error:
        raise Unreadable(one_line(error)) from error


def _read_from_disk(path: str) -> bytes:
    # For a small file fsspec takes several times as long, most of it in Python, which lanes that
    # decode wait for.
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_many(
    refs: Sequence[ImageRef], storage_options: Mapping[str, Any] | None = None
) -> list[bytes | OSError]:
    """Returns the contents of image files, or the error of each that cannot be read.

    Args:
      refs: images, on one or several file systems.
      storage_options: for the file systems.
    """
    found: dict[int, bytes] = {}
    by_fs: dict[int, tuple[Any, dict[int, str]]] = {}
    for position, ref in enumerate(refs):
        if not ref.problem and not path_on_disk(ref.uri):
            with suppress(UsageError):
                fs, path = connect(ref.uri, storage_options)
                if getattr(fs, "async_impl", False):
                    by_fs.setdefault(id(fs), (fs, {}))[1][position] = path
    for fs, paths in by_fs.values():
        # An object store answers many requests as fast as one. `cat` would take brackets in a name
        # for a pattern.
        nothing = [None] * len(paths)
        some = fs.cat_ranges(list(paths.values()), nothing, nothing, on_error="return")
        answers = zip(paths, some, strict=True)
        found.update((place, data) for place, data in answers if isinstance(data, bytes))
    return [
        found[place] if place in found else _read_or_error(ref, storage_options)
        for place, ref in enumerate(refs)
    ]


def _read_or_error(ref: ImageRef, storage_options: Mapping[str, Any] | None) -> bytes | OSError:
    try:
        return read_bytes(ref, storage_options)
    except OSError as error:
        return error


def read_heads(fs: Any, paths: Sequence[str]) -> list[bytes]:
    """Returns the first bytes of files; b"" for a file that cannot be read."""
    heads = []
    for path in paths:
        try:
            heads.append(retrying(partial(fs.cat_file, path, start=0, end=HEAD_BYTES)))
        except (OSError, ValueError):
            heads.append(b"")
    return heads
