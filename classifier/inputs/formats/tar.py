"""Streams images from tar shards: WebDataset's samples, or class folders in a tar."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from classifier.inputs.formats.members import Content, Members, is_image
from classifier.inputs.formats.samples import (
    Member,
    Notes,
    Sample,
    disagree,
    facts_of,
    note_suffix,
    owner_and_suffix,
    parted,
    split_member,
)
from classifier.inputs.formats.tarstream import DAMAGED, TarStream
from classifier.inputs.refs import (
    HEAD_BYTES,
    LINKS,
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    has_image_suffix,
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
    "label files are not next to the image of their name and were left out; write the archive in "
    "the order of names (tar --sort=name)"
)
WITHOUT_IMAGE = "label files have no image of their name in the archive and were left out"
DISAGREEING = "images have label files that disagree; the first of .json, .cls, .txt was taken"
AMBIGUOUS = (
    "images share their name with the one next to them, and it is unknown which label belongs to "
    "which; they are stored without a label"
)
BEHIND_THE_END = "archives are followed by bytes that belong to no archive and were left out"


def iter_tar(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, Content]]:
    """Yields the images of a tar, as `classifier.inputs.shards.iter_shard` describes.

    Members that share a name up to its first dot are one sample, as in WebDataset; its ``.json``,
    ``.cls`` or ``.txt`` member gives the label. Without one, folders do, as on disk: where their
    layout is unknown, the headers of all members are read first. An archive behind the end of
    another one is read too.
    """
    fs, path = connect(shard.uri, storage_options)
    members, lonely = (
        Members(shard, lambda: tar_names(shard, storage_options), ignored),
        list[str](),
    )
    with SteadyFile(fs, path) as file:
        try:
            archive = TarStream.read(file)
        except DAMAGED as error:
            raise ShardDamaged(f"not a readable tar: {error}", 0) from error
        with archive:
            try:
                for sample in _samples(shard, archive, ignored):
                    for part, is_sure in parted(sample):
                        yield from _images(part, is_sure, members, lonely)
            finally:
                _note_lonely(lonely, members)


def tar_names(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the names of a tar's files, up to its damage.

    Only the headers of a local archive without compression are read; any other is read through.
    """
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as file:
        try:
            with TarStream.read(file, seeks=isinstance(fs, LocalFileSystem)) as archive:
                while (member := archive.following()) is not None:
                    if member.isfile():
                        yield member_name(member.name)
        except DAMAGED:
            return  # reading the members will raise the error again


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
        # Where samples have label files, that of the last one may be lost.
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
    """Reads a member, beside `held` bytes of its sample; only the start where it is no image."""
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
    sample: Sample, is_sure: bool, members: Members, lonely: list[str]
) -> Iterator[tuple[ImageRef, Content]]:
    """Yields a sample's images; `lonely` collects its label files without an image."""
    images = [(name, data) for name, data in sample.members if is_image(name, data)]
    texts = _notes(sample, images, members, lonely)
    for name, data in images:
        claimed = members.claim(name)
        labels, split = facts_of(name, sample.stem, texts, members.folders)
        if not is_sure:
            members.ignored.note(AMBIGUOUS, members.key(claimed))
            labels = ()
        elif disagree(name, sample.stem, texts):
            members.ignored.note(DISAGREEING, members.key(claimed))
        yield members.shard.image(claimed, data, labels, split), data


def _notes(sample: Sample, images: Sequence[Member], members: Members, lonely: list[str]) -> Notes:
    """Returns a sample's label files; counts those without an image and all other members."""
    owners = {sample.stem, *(posixpath.splitext(name)[0] for name, _ in images)} if images else ()
    notes: dict[tuple[str, str], bytes] = {}
    for name, data in sample.members:
        if is_image(name, data):
            continue
        owner, suffix = owner_and_suffix(name)
        if is_hidden(name) or not suffix or not isinstance(data, bytes):
            members.leave_out(name, data)
            continue
        notes[owner, suffix] = data
        if owner not in owners:
            members.ignored.add(members.key(name))
            lonely.append(name)
    return notes


def _note_lonely(lonely: Sequence[str], members: Members) -> None:
    """Notes label files without an image; a text file may be something else."""
    if not lonely:
        return
    taken = members.unique.taken
    owners = {posixpath.splitext(name)[0] for name in taken}
    owners |= {split_member(name)[0] for name in taken}
    for name in lonely:
        owner, suffix = owner_and_suffix(name)
        if owner in owners:
            members.ignored.note(APART, members.key(name))
        elif suffix == "cls":
            members.ignored.note(WITHOUT_IMAGE, members.key(name))
