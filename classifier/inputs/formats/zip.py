"""Streams images from zip archives of class folders."""

from __future__ import annotations

import lzma
import ntpath
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from classifier.inputs.formats.members import Content, Members, is_damage, is_image
from classifier.inputs.formats.unpacking import open_member
from classifier.inputs.refs import (
    HEAD_BYTES,
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    has_image_suffix,
    is_hidden,
    too_large,
)
from classifier.pixels.filetypes import sniff
from featurestore.errors import one_line
from featurestore.ignored import Ignored
from featurestore.io.steady import SteadyFile
from featurestore.io.storage import connect
from featurestore.labels.table import member_name

# Errors of a damaged, encrypted or exotic member; an OSError is a failure of the file system.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
    struct.error,
)
_ENCRYPTED = 0x1
_UNIX = (3, 19)  # systems that create archives: APPNOTE.TXT 4.4.2
_LOCAL_HEADER_BYTES = 30
_LOCAL_MAGIC = b"PK\3\4"
# A zip has its table of contents at its end, which a cut takes away.
_NO_CONTENTS = "the table of contents at the end of the zip is missing or damaged"
_MEND = (
    "nothing was read; recover the members with zip -FF broken.zip --out mended.zip (answer y), "
    "and give mended.zip"
)
_OVERLAPS = "it shares its bytes with another member, as in a zip bomb; write the archive again"


def iter_zip(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, Content]]:
    """Yields the images of a zip, as `classifier.inputs.shards.iter_shard` describes.

    Checksums are verified; a member that is encrypted or damaged comes with an OSError.
    Folders mean the same as on disk. Backslashes separate folders in an archive that was made on
    Windows; elsewhere they belong to the name.

    Raises:
      ShardDamaged: at once for an archive without a table of contents, such as one that was cut;
        at the end for one behind another archive.
    """
    with _open(shard, storage_options) as archive:
        yield from _members(shard, archive, ignored)


def zip_names(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the names of a zip's files; raises what `iter_zip` raises."""
    with _open(shard, storage_options) as archive:
        yield from (name for name, _ in _files(archive))


@contextmanager
def _open(shard: ShardRef, storage_options: Mapping[str, Any] | None) -> Iterator[zipfile.ZipFile]:
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (*_UNREADABLE, NotImplementedError) as error:
            raise ShardDamaged(f"{_NO_CONTENTS}: {one_line(error)}; {_MEND}", 0) from error
        with archive:
            yield archive


def _files(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Returns the members that are files, with their names as keys have them."""
    infos = archive.infolist()
    windows = any(_is_of_windows(info) for info in infos)
    names = [_with_slashes(info.filename) if windows else info.filename for info in infos]
    return [
        (member_name(name), info)
        for name, info in zip(names, infos, strict=True)
        if not name.endswith("/")
    ]


def _is_of_windows(info: zipfile.ZipInfo) -> bool:
    """Whether a member's backslashes separate folders: by its system, or for lack of slashes."""
    if "\\" not in info.filename:
        return False
    return info.create_system not in _UNIX or "/" not in info.filename


def _with_slashes(name: str) -> str:
    """Returns a Windows name with slashes and without its drive.

    Example:
      >>> _with_slashes("C:\\\\photos\\\\cat\\\\1.jpg"), _with_slashes("..\\\\cat\\\\1.jpg")
      ('/photos/cat/1.jpg', '../cat/1.jpg')
    """
    return ntpath.splitdrive(name)[1].replace("\\", "/")


def _members(
    shard: ShardRef, archive: zipfile.ZipFile, ignored: Ignored
) -> Iterator[tuple[ImageRef, Content]]:
    files = _files(archive)
    members = Members(shard, lambda: (name for name, _ in files), ignored)
    overlapping = _overlapping(archive)
    for name, info in files:
        content: Content = b""
        if info.header_offset in overlapping:
            content = OSError(_OVERLAPS)
        elif not is_hidden(name):
            content = _read(archive, info, has_image_suffix(name))
        yield from _image(members, name, content)
    _check_start(archive)


def _check_start(archive: zipfile.ZipFile) -> None:
    """Refuses members in front of those that the table of contents names.

    Raises:
      ShardDamaged: for two archives in one file; the table of the first is not read.
    """
    first = min((info.header_offset for info in archive.infolist()), default=0)
    file = archive.fp
    assert file is not None
    file.seek(0)
    if first and file.read(4) == _LOCAL_MAGIC:
        raise ShardDamaged(
            f"another archive in its first {first:,} bytes was not read; give each archive a file "
            "of its own",
            0,
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, is_named_so: bool) -> Content:
    """Reads a member; only the start of one that is not an image by name or content."""
    if info.flag_bits & _ENCRYPTED:
        return OSError("encrypted; unpack the archive with its password")
    try:
        if not is_named_so:
            with open_member(archive, info) as file:
                head = file.read(min(info.file_size, HEAD_BYTES))
            if not sniff(head):
                return head
        if info.file_size > MAX_MEMBER_BYTES:
            return too_large(info.file_size)
        with open_member(archive, info) as file:
            content = file.read(info.file_size)
    except (*_UNREADABLE, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        return OSError(f"damaged in the archive: {error}")
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        return OSError(f"damaged in the archive: Bad CRC-32 for file {info.filename!r}")
    return content


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """Returns the offsets of members that share bytes with another member.

    A small archive can have any number of them, and each would be unpacked again.
    """
    shared, following = set(), archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following:
            shared.add(info.header_offset)
        following = info.header_offset
    return shared


def _image(members: Members, name: str, content: Content) -> Iterator[tuple[ImageRef, Content]]:
    if is_image(name, content):
        facts = members.folders.facts(name)
        yield members.shard.image(members.claim(name), content, *facts), content
    else:
        members.leave_out(name, content)
