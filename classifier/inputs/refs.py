"""What a listing yields: references to images and to shards of images, never their bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.storage import modified_time

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff")
)
SHARD_SUFFIXES = {".tar": "tar"}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image that can be read by itself.

    Attributes:
      key: its name in the store: the path relative to its root, or ``<shard>/<member>``.
      uri: its address, without credentials or query.
      size: in bytes.
      etag: the object store's, else the modification time; changes when the file does.
      labels: class names, empty when unknown.
      split: ``train``, ``validation``, ``test`` or None when the input gives none.
    """

    key: str
    uri: str
    size: int
    etag: str
    labels: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One archive that is read as a stream; its images are known only when it has been read.

    Attributes:
      key: the archive's path relative to its root; the images' keys begin with it.
      uri: its address.
      size: in bytes.
      etag: as `ImageRef.etag`.
      format: ``tar``.
      split: given by a split folder or the archive's name, else None.
    """

    key: str
    uri: str
    size: int
    etag: str
    format: str
    split: str | None = None


def is_hidden(path: str) -> bool:
    """Whether a relative path is a hidden file, lies in a hidden folder, or is macOS's litter."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def has_image_suffix(path: str) -> bool:
    """Whether the name alone makes a file an image: then it is a row or is quarantined."""
    return posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES


def shard_format(path: str) -> str | None:
    """Returns the archive format that a file name stands for, or None."""
    return SHARD_SUFFIXES.get(posixpath.splitext(path)[1].lower())


def etag_of(info: Mapping[str, Any]) -> str:
    """Returns what tells one version of a listed file from the next.

    Args:
      info: the file system's own entry.

    Returns:
      The object store's tag, else the modification time in seconds, else "".
    """
    for name in ("ETag", "etag", "md5Hash", "content_md5", "version_id", "sha256"):
        if info.get(name):
            return str(info[name]).strip('"')
    modified = modified_time(info)
    return "" if modified is None else f"{modified:.6f}"
