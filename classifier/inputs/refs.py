"""References to images and to shards of images, which a listing yields, and the names they have."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.io.urls import modified_time
from featurestore.labels.splits import split_of

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff")
)
SHARD_SUFFIXES = {
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".zip": "zip",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".tfrec": "tfrecord",
    ".tfrecord.gz": "tfrecord",
    ".tfrecords.gz": "tfrecord",
    ".parquet": "parquet",
}
# Decoders would refuse a larger file in a shard, and it would fill the memory.
MAX_MEMBER_BYTES = 1 << 29
HEAD_BYTES = 512  # Enough to detect an image or an archive by content.
# Reasons of `Ignored.note` that several formats share.
REPEATED = (
    "members have the name of an earlier member of their archive; each is an image of its own, "
    "stored as <name>~2 and so on"
)
NESTED = (
    "archives inside an archive were not read; unpack the outer one and give the inner ones as "
    "--input"
)
LINKS = (
    "links inside an archive are not followed and were left out; store files instead (tar "
    "--dereference --hard-dereference)"
)
_OTHER_ARCHIVES = (".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_NUMBERED = re.compile(r"-\d+-of-\d+$")


class ShardDamaged(Exception):
    """A shard that cannot be read to its end; what was readable was yielded before.

    Attributes:
      message: what is wrong, in one line.
      offset: the first byte that could not be used, in the shard or, where it is compressed as a
        whole, in its content; None without such a place.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (from byte {offset} on)")
        self.message = message
        self.offset = offset

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.offset)


class Unreadable(OSError):
    """The reason why an image cannot be read; its text is the whole message."""


def explain(error: OSError) -> str:
    """Returns why an image cannot be read, with the class of a file system's error.

    Example:
      >>> explain(FileNotFoundError("http://host/a.jpg")), explain(Unreadable("it is a link"))
      ('FileNotFoundError: http://host/a.jpg', 'it is a link')
    """
    return str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"


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
      problem: why it cannot be read, where the listing knows that; else "".
    """

    key: str
    uri: str
    size: int
    etag: str
    labels: tuple[str, ...] = ()
    split: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard, read as a stream; its images are unknown until it has been read.

    Attributes:
      key: its path relative to its root; the images' keys begin with it.
      uri: its address.
      size: in bytes.
      etag: as `ImageRef.etag`.
      format: ``tar``, ``zip``, ``tfrecord`` or ``parquet``.
      split: from a split folder or the shard's name, else None.
      layout: what the folders in it mean, for `layouts.FolderReader`.
    """

    key: str
    uri: str
    size: int
    etag: str
    format: str
    split: str | None = None
    layout: str = "auto"

    def image(
        self,
        name: str,
        content: bytes | OSError,
        labels: tuple[str, ...] = (),
        split: str | None = None,
    ) -> ImageRef:
        """Returns the reference to one of its images.

        Args:
          name: of the member, unique in the shard.
          content: of the member, or the reason why it cannot be read.
          labels: class names.
          split: the member's own; default the shard's.
        """
        size = len(content) if isinstance(content, bytes) else 0
        return ImageRef(
            f"{self.key}/{name}", f"{self.uri}/{name}", size, self.etag, labels, split or self.split
        )


class UniqueNames:
    """Gives each image of a shard a unique name.

    Example:
      >>> names = UniqueNames()
      >>> [names.claim(wanted) for wanted in ("a.png", "b.png", "a.png")]
      ['a.png', 'b.png', 'a.png~2']
      >>> names.claim("a.png", "17")
      '17'
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @property
    def taken(self) -> Iterable[str]:
        """The names given so far."""
        return self._taken

    def claim(self, *candidates: str) -> str:
        """Returns the first candidate that is free, else the last one with a number."""
        for name in candidates:
            if name and name not in self._taken:
                self._taken.add(name)
                return name
        number = 2
        while (name := f"{candidates[-1]}~{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def is_hidden(path: str) -> bool:
    """Whether a relative path is a hidden file, lies in a hidden folder, or is macOS's litter."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def has_image_suffix(path: str) -> bool:
    """Whether a file is an image by its extension: then it is stored or quarantined."""
    return posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES


def shard_format(path: str) -> str | None:
    """Returns the format of a shard by its file name, or None.

    Example:
      >>> shard_format("mnist-train.tfrecord-00000-of-00010"), shard_format("a.TAR.gz")
      ('tfrecord', 'tar')
    """
    name = _NUMBERED.sub("", posixpath.basename(path).lower())
    for suffix, kind in SHARD_SUFFIXES.items():
        if name.endswith(suffix) and name != suffix:
            return kind
    return None


def is_archive(name: str, head: bytes | OSError) -> bool:
    """Whether a member of an archive is an archive: by its extension, or without one by content.

    Example:
      >>> is_archive("n01440764.tar", b""), is_archive("notes.docx", b"PK"), is_archive("a", b"PK")
      (True, False, True)
    """
    if shard_format(name) or name.lower().endswith(_OTHER_ARCHIVES):
        return True
    known = isinstance(head, bytes) and (head[:2] == b"PK" or head[257:262] == b"ustar")
    return known and not posixpath.splitext(name)[1]


def too_large(size: int) -> OSError:
    """Returns the error that replaces the content of a member beyond `MAX_MEMBER_BYTES`."""
    return OSError(f"{size:,} bytes; an image has at most {MAX_MEMBER_BYTES:,}")


def split_in_name(path: str) -> str | None:
    """Returns the split that a shard's file name contains, where it is exactly one.

    Example:
      >>> split_in_name("data/train-00000-of-00002.parquet"), split_in_name("train-test.tar")
      ('train', None)
    """
    words = re.split(r"[-_.]", posixpath.basename(path).lower())
    found = {split for word in words if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def etag_of(info: Mapping[str, Any]) -> str:
    """Returns the version of a listed file.

    Args:
      info: the file system's entry.

    Returns:
      The object store's tag, else the modification time in seconds, else "".
    """
    for name in ("ETag", "etag", "md5Hash", "content_md5", "version_id", "sha256"):
        if info.get(name):
            return str(info[name]).strip('"')
    modified = modified_time(info)
    return "" if modified is None else f"{modified:.6f}"
