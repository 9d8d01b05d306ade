"""Streams images out of tar shards: WebDataset's groups of members, or class folders in a tar."""

from __future__ import annotations

import json
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

from classifier.inputs.listing import Ignored
from classifier.inputs.refs import ImageRef, ShardRef, has_image_suffix, is_hidden
from classifier.pixels import sniff
from featurestore.retry import retrying
from featurestore.storage import connect

# What a broken or unreachable shard raises.
SHARD_ERRORS = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
LABEL_SUFFIXES = ("cls", "txt", "json")
_LABEL_KEYS = ("label", "labels", "cls", "class", "class_name")


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses an archive that ends early; `tarfile` itself stops at a broken header in silence."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"damaged or cut at byte {archive.offset}: {error}") from error


def iter_tar(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes]]:
    """Yields the images of a tar, in order, without unpacking it.

    Members that share a name up to its first dot are one sample, as in WebDataset; its ``.cls``,
    ``.txt`` or ``.json`` member gives the label. Without one, the member's folder is the label.

    Args:
      shard: the archive.
      storage_options: for its file system.
      ignored: collects the members that are no images.

    Yields:
      (reference, file content); the key is ``<shard>/<member>``.

    Raises:
      OSError: when the archive cannot be read.
      tarfile.ReadError: when it is damaged; what came before the damage was yielded.
    """
    fs, path = connect(shard.uri, storage_options)
    with (
        retrying(lambda: fs.open(path, "rb")) as stream,
        tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictTarInfo) as archive,
    ):
        sample: dict[str, bytes] = {}
        current = None
        for member in archive:
            if not member.isfile():
                continue
            name = posixpath.normpath(member.name).lstrip("/")
            stem, _ = split_member(name)
            if stem != current:
                yield from _sample_images(shard, sample, ignored)
                sample, current = {}, stem
            content = archive.extractfile(member)
            sample[name] = content.read() if content else b""
        yield from _sample_images(shard, sample, ignored)


def split_member(name: str) -> tuple[str, str]:
    """Splits a member's name at the first dot of its last component, as WebDataset does.

    Example:
      >>> split_member("a.b/0001.left.jpg")
      ('a.b/0001', 'left.jpg')
    """
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _sample_images(
    shard: ShardRef, sample: Mapping[str, bytes], ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes]]:
    labels: tuple[str, ...] = ()
    images = []
    for name, data in sample.items():
        suffix = split_member(name)[1]
        if is_hidden(name):
            ignored.add(f"{shard.key}/{name}")
        elif has_image_suffix(name) or sniff(data):
            images.append((name, data))
        elif suffix in LABEL_SUFFIXES:
            labels = labels or _labels(suffix, data)
        else:
            ignored.add(f"{shard.key}/{name}")
    if not images:
        for name in sample:
            if split_member(name)[1] in LABEL_SUFFIXES and not is_hidden(name):
                ignored.add(f"{shard.key}/{name}")
    for name, data in images:
        folder = posixpath.basename(posixpath.dirname(name))
        ref = ImageRef(
            key=f"{shard.key}/{name}",
            uri=f"{shard.uri}/{name}",
            size=len(data),
            etag=shard.etag,
            labels=labels or ((folder,) if folder else ()),
            split=shard.split,
        )
        yield ref, data


def _labels(suffix: str, data: bytes) -> tuple[str, ...]:
    text = data.decode("utf-8", errors="replace").strip()
    if suffix != "json":
        return (text,) if text else ()
    try:
        record = json.loads(text)
    except ValueError:
        return ()
    if isinstance(record, dict):
        record = next((record[key] for key in _LABEL_KEYS if key in record), None)
    if record is None or isinstance(record, dict):
        return ()
    values = record if isinstance(record, list) else [record]
    return tuple(str(value) for value in values)
