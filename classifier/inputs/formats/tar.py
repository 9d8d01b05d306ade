"""Streams images out of tar shards: WebDataset's groups of members, or class folders in a tar."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from classifier.inputs.formats.samples import (
    Content,
    Member,
    Notes,
    Sample,
    disagree,
    facts_of,
    is_image,
    note_suffix,
    owner_and_suffix,
    parted,
    split_member,
)
from classifier.inputs.formats.tarstream import DAMAGED, TarStream
from classifier.inputs.layouts import FolderReader
from classifier.inputs.refs import (
    HEAD_BYTES,
    LINKS,
    MAX_MEMBER_BYTES,
    NESTED,
    REPEATED,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
    has_image_suffix,
    is_archive,
    is_hidden,
    too_large,
)
from classifier.pixels.filetypes import sniff
from featurestore.ignored import Ignored
from featurestore.io.steady import SteadyFile
from featurestore.io.storage import connect
from featurestore.labels.table import member_name

# A label file that is larger holds something else.
_MAX_NOTE_BYTES = 1 << 24
# Reasons of `Ignored.note`.
APART = (
    "label files do not stand beside the image of their name and were left out; write the archive "
    "in the order of names (tar --sort=name)"
)
WITHOUT_IMAGE = "label files have no image of their name in the archive and were left out"
DISAGREEING = "images have label files that disagree; the first of .json, .cls, .txt was taken"
AMBIGUOUS = (
    "images share their name with the one beside them, and which label belongs to which is "
    "unknown; they are stored without a label"
)
BEHIND_THE_END = "archives are followed by bytes that belong to none, which were left out"


def iter_tar(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, Content]]:
    """Yields the images of a tar, in order, without unpacking it.

    Members that share a name up to its first dot are one sample, as in WebDataset; its ``.json``,
    ``.cls`` or ``.txt`` member gives the label. Without one, its folders do, as on disk: for that
    the headers of all members are read first, if the layout is not known. An archive that begins
    behind the end of another is read on.

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
    context = _Context(UniqueNames(), folders, [], ignored)
    with SteadyFile(fs, path) as file:
        try:
            archive = TarStream.read(file)
        except DAMAGED as error:
            raise ShardDamaged(f"not a readable tar: {error}", 0) from error
        with archive:
            try:
                for sample in _samples(shard, archive, ignored):
                    for part, is_sure in parted(sample):
                        yield from _images(shard, part, is_sure, context)
            finally:
                _note_lonely(shard, context)


def tar_names(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the names of a tar's files, as far as it is whole.

    A local archive that is not compressed is read at its headers only; any other is read through.
    """
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as file:
        try:
            with TarStream.read(file, seeks=isinstance(fs, LocalFileSystem)) as archive:
                while (member := archive.following()) is not None:
                    if member.isfile():
                        yield member_name(member.name)
        except DAMAGED:
            return  # whoever reads the members says so


class _Context(NamedTuple):
    """What the samples of an archive share: `lonely` are its label files without an image."""

    names: UniqueNames
    folders: FolderReader
    lonely: list[str]
    ignored: Ignored


def _samples(shard: ShardRef, archive: TarStream, ignored: Ignored) -> Iterator[Sample]:
    sample, at = Sample("", 0), 0
    usual: set[str] = set()
    try:
        while (member := archive.following()) is not None:
            name, at = member_name(member.name), member.offset
            if not member.isfile():
                _skip(f"{shard.key}/{name}", member, ignored)
            else:
                stem, _ = split_member(name)
                if stem != sample.stem or sample.is_full(name):
                    content = _content(archive, member, name, 0)
                    usual |= sample.suffixes
                    yield sample
                    sample = sample.following(stem, at)
                else:
                    content = _content(archive, member, name, sample.size)
                sample.add(name, content)
            at = archive.offset
    except DAMAGED as error:
        # Where samples bring label files along, the last one's may be in what is lost.
        if archive.zeros > 1 or sample.suffixes >= usual:
            yield sample
        else:
            at = sample.start
        raise ShardDamaged(f"damaged or cut: {error}", at) from error
    yield sample
    if archive.garbage:
        ignored.note(BEHIND_THE_END, shard.key)


def _skip(key: str, member: tarfile.TarInfo, ignored: Ignored) -> None:
    if member.issym() or member.islnk():
        ignored.leave_out(LINKS, key)
    elif not member.isdir():
        ignored.add(key)


def _content(archive: TarStream, member: tarfile.TarInfo, name: str, held: int) -> Content:
    """Reads a member, beside `held` bytes of its sample; of a file that is no image the start."""
    if note_suffix(name) and not has_image_suffix(name):
        limit = _MAX_NOTE_BYTES
    else:
        limit = MAX_MEMBER_BYTES - held
    file = archive.extractfile(member)
    if file is None:
        return b""
    if not has_image_suffix(name) and not note_suffix(name):
        head = file.read(HEAD_BYTES)
        if not sniff(head):
            return head
        return head + file.read() if member.size <= limit else too_large(member.size)
    return file.read() if member.size <= limit else too_large(member.size)


def _images(
    shard: ShardRef, sample: Sample, is_sure: bool, context: _Context
) -> Iterator[tuple[ImageRef, Content]]:
    names, folders, _, ignored = context
    images = [(name, data) for name, data in sample.members if is_image(name, data)]
    texts = _notes(shard, sample, images, context)
    for name, data in images:
        claimed = names.claim(name)
        key = f"{shard.key}/{claimed}"
        if claimed != name:
            ignored.note(REPEATED, key)
        labels, split = facts_of(name, sample.stem, texts, folders)
        if not is_sure:
            ignored.note(AMBIGUOUS, key)
            labels = ()
        elif disagree(name, sample.stem, texts):
            ignored.note(DISAGREEING, key)
        size = len(data) if isinstance(data, bytes) else 0
        yield shard.image(claimed, size, labels, split), data


def _notes(
    shard: ShardRef,
    sample: Sample,
    images: Sequence[Member],
    context: _Context,
) -> Notes:
    """Returns a sample's label files; counts those without an image, and the other members."""
    _, _, lonely, ignored = context
    owners = {sample.stem, *(posixpath.splitext(name)[0] for name, _ in images)} if images else ()
    notes: dict[tuple[str, str], bytes] = {}
    for name, data in sample.members:
        if is_image(name, data):
            continue
        key = f"{shard.key}/{name}"
        owner, suffix = owner_and_suffix(name)
        if is_hidden(name):
            ignored.add(key)
        elif suffix and isinstance(data, bytes):
            notes[owner, suffix] = data
            if owner not in owners:
                ignored.add(key)
                lonely.append(name)
        elif is_archive(name, data):
            ignored.leave_out(NESTED, key)
        else:
            ignored.add(key)
    return notes


def _note_lonely(shard: ShardRef, context: _Context) -> None:
    """Notes the label files that came without an image; a text file may be anything."""
    names, _, lonely, ignored = context
    if not lonely:
        return
    owners = {posixpath.splitext(name)[0] for name in names.taken}
    owners |= {split_member(name)[0] for name in names.taken}
    for name in lonely:
        owner, suffix = owner_and_suffix(name)
        if owner in owners:
            ignored.note(APART, f"{shard.key}/{name}")
        elif suffix == "cls":
            ignored.note(WITHOUT_IMAGE, f"{shard.key}/{name}")
