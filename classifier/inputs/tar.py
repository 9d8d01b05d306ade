"""Streams images out of tar shards: WebDataset's groups of members, or class folders in a tar."""

from __future__ import annotations

import gzip
import json
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from fsspec.implementations.local import LocalFileSystem

from classifier.imagefiles import sniff
from classifier.inputs.layouts import FolderReader
from classifier.inputs.refs import (
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
    has_image_suffix,
    is_hidden,
)
from featurestore.ignored import Ignored
from featurestore.labels import member_name
from featurestore.steady import SteadyFile
from featurestore.storage import connect

# What damaged bytes raise; an OSError is a failure of the file system.
_DAMAGED = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_GZIP_MAGIC = b"\x1f\x8b"
_USTAR_AT, _USTAR = 257, b"ustar"
_BLOCK = 1 << 16
# The first that gives a label counts: names before numbers.
LABEL_SUFFIXES = ("json", "cls", "txt")
_LABEL_KEYS = ("labels", "class_name", "label", "cls", "class")
Labels = tuple[str, ...] | None
Content = bytes | OSError


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses an archive that ends early; `tarfile` itself stops at a broken header in silence."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"no header of a member: {error}") from error


class _Sample:
    """The members that share a name up to its first dot, and what label they come with."""

    def __init__(self, stem: str, start: int) -> None:
        self.stem, self.start = stem, start
        self.members: list[tuple[str, Content]] = []

    @property
    def notes(self) -> set[str]:
        """The suffixes of the label files it has."""
        return {split_member(name)[1] for name, _ in self.members}.intersection(LABEL_SUFFIXES)


def iter_tar(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, Content]]:
    """Yields the images of a tar, in order, without unpacking it.

    Members that share a name up to its first dot are one sample, as in WebDataset; its ``.json``,
    ``.cls`` or ``.txt`` member gives the label. Without one, its folders do, as on disk: for that
    the headers of all members are read first, if the layout is not known.

    Args:
      shard: the archive.
      storage_options: for its file system.
      ignored: collects the members that are no images.

    Yields:
      (reference, file content); the key is ``<shard>/<member>``.

    Raises:
      OSError: when the archive cannot be read.
      ShardDamaged: when it is damaged; what came before the damage was yielded.
    """
    fs, path = connect(shard.uri, storage_options)
    folders = FolderReader(shard.layout, lambda: tar_names(shard, storage_options))
    context = (UniqueNames(), folders, ignored)
    with SteadyFile(fs, path) as file:
        stream, mode = _unpacked(file)
        try:
            # Small reads: one that meets the cut of a compressed file loses what it had.
            size = tarfile.BLOCKSIZE if stream is not file else tarfile.RECORDSIZE
            archive = tarfile.open(fileobj=stream, mode=mode, bufsize=size, tarinfo=_StrictTarInfo)
        except _DAMAGED as error:
            raise ShardDamaged(f"not a readable tar: {error}", 0) from error
        with archive:
            for sample in _samples(shard, archive, ignored):
                yield from _sample_images(shard, sample, context)
            if stream is not file:
                _check_end(stream, archive.offset)


def tar_names(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the names of a tar's files, as far as it is whole.

    A local archive that is not compressed is read at its headers only; any other is read through.
    """
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as file:
        stream, mode = _unpacked(file)
        seeks = isinstance(fs, LocalFileSystem) and (
            file.head(_USTAR_AT + len(_USTAR))[_USTAR_AT:] == _USTAR
        )
        try:
            with tarfile.open(
                fileobj=stream, mode="r:" if seeks else mode, tarinfo=_StrictTarInfo
            ) as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]
                    if member.isfile():
                        yield member_name(member.name)
        except _DAMAGED:
            return  # whoever reads the members says so


def _unpacked(file: SteadyFile) -> tuple[Any, Literal["r|", "r|*"]]:
    """Returns the stream of the archive and its mode; tarfile checks no checksum of gzip."""
    packed = file.head(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return (gzip.GzipFile(fileobj=file), "r|") if packed else (file, "r|*")


def _check_end(stream: gzip.GzipFile, at: int) -> None:
    """Reads what is behind the last member, so that the checksum of the whole is compared."""
    try:
        while stream.read(_BLOCK):
            pass
    except _DAMAGED as error:
        raise ShardDamaged(f"every member was read, but not the end: {error}", at) from error


def _samples(shard: ShardRef, archive: tarfile.TarFile, ignored: Ignored) -> Iterator[_Sample]:
    sample, at = _Sample("", 0), 0
    usual: set[str] = set()
    try:
        while (member := archive.next()) is not None:
            # The module would keep every header it has seen.
            archive.members.clear()  # type: ignore[attr-defined]
            name, at = member_name(member.name), member.offset
            if not member.isfile():
                if not member.isdir():
                    ignored.add(f"{shard.key}/{name}")
            else:
                stem, _ = split_member(name)
                content = _content(archive, member)
                if stem != sample.stem:
                    usual |= sample.notes
                    yield sample
                    sample = _Sample(stem, at)
                sample.members.append((name, content))
            at = archive.offset
    except _DAMAGED as error:
        # Where samples bring label files along, the last one's may be in what is lost.
        if sample.notes >= usual:
            yield sample
        else:
            at = sample.start
        raise ShardDamaged(f"damaged or cut: {error}", at) from error
    yield sample


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Content:
    if member.size > MAX_MEMBER_BYTES:
        return OSError(f"{member.size} bytes; more than {MAX_MEMBER_BYTES} are no image")
    file = archive.extractfile(member)
    return file.read() if file else b""


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
    shard: ShardRef, sample: _Sample, context: tuple[UniqueNames, FolderReader, Ignored]
) -> Iterator[tuple[ImageRef, Content]]:
    names, folders, ignored = context
    images: list[tuple[str, Content]] = []
    notes: dict[str, bytes] = {}
    for name, data in sample.members:
        suffix = name.rpartition(".")[2].lower()
        if is_hidden(name):
            ignored.add(f"{shard.key}/{name}")
        elif has_image_suffix(name) or (isinstance(data, bytes) and sniff(data)):
            images.append((name, data))
        elif suffix in LABEL_SUFFIXES and isinstance(data, bytes):
            notes[name] = data
        else:
            ignored.add(f"{shard.key}/{name}")
    owners = {sample.stem, *(posixpath.splitext(name)[0] for name, _ in images)} if images else ()
    for name in notes:
        if posixpath.splitext(name)[0] not in owners:
            ignored.add(f"{shard.key}/{name}")
    for name, data in images:
        labels, split = _facts(name, sample.stem, notes, folders)
        size = len(data) if isinstance(data, bytes) else 0
        yield shard.image(names.claim(name), size, labels, split), data


def _facts(
    name: str, stem: str, notes: Mapping[str, bytes], folders: FolderReader
) -> tuple[tuple[str, ...], str | None]:
    """Finds an image's labels and split: its own notes first, then the sample's, then folders."""
    labels: Labels = None
    split: str | None = None
    for owner in dict.fromkeys((posixpath.splitext(name)[0], stem)):
        for suffix in LABEL_SUFFIXES:
            data = notes.get(f"{owner}.{suffix}")
            if data is not None:
                found, noted_split = _read_note(suffix, data)
                labels = found if labels is None else labels
                split = noted_split if split is None else split
    if labels is not None and split is not None:
        return labels, split or None
    by_folder, folder_split = folders.facts(name)
    split = folder_split if split is None else split
    return by_folder if labels is None else labels, split or None


def _read_note(suffix: str, data: bytes) -> tuple[Labels, str | None]:
    """Reads a label file: (labels, split), each None where it says nothing, a null split as ""."""
    text = data.decode("utf-8", errors="replace").strip()
    if suffix != "json":
        return ((text,) if text else None), None
    try:
        record = json.loads(text)
    except ValueError:
        return None, None
    split = None
    if isinstance(record, dict):
        if isinstance(record.get("split"), str):
            split = record["split"] or None
        elif "split" in record and record["split"] is None:
            split = ""
        record = next((record[key] for key in _LABEL_KEYS if key in record), None)
    if record is None or isinstance(record, dict):
        return None, split
    values = record if isinstance(record, list) else [record]
    return tuple(str(value) for value in values), split
