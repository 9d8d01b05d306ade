"""A tar as a strict stream of members, compressed or not.

The module ``tarfile`` stops in silence at a header that is damaged and at the end of an archive
that another one follows. Here the first is an error, and the second is read on, as by GNU tar's
``--ignore-zeros``. What a header can make a reader allocate is bounded.
"""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from typing import Any, Literal, Self, cast

from featurestore.io.steady import SteadyFile

# What damaged bytes raise; an OSError is a failure of the file system.
DAMAGED = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_USTAR_AT, _USTAR = 257, b"ustar"
_GZIP_MAGIC = b"\x1f\x8b"
# A long name or a set of attributes, which `tarfile` reads at once.
_MAX_METADATA = 1 << 20
_METADATA = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# Padding and garbage behind the end are read up to here: a megabyte unpacks to a gigabyte of zeros.
_MAX_BLOCKS_BEHIND = (1 << 24) // tarfile.BLOCKSIZE


class TarStream(tarfile.TarFile):
    """An archive that is read once, from its start to the end of the file.

    Attributes:
      zeros: blocks of zeros behind the last member; two of them end an archive.
      garbage: blocks behind the end that belong to no archive.
    """

    zeros = 0
    garbage = 0

    @classmethod
    def read(cls, file: SteadyFile, seeks: bool = False) -> Self:
        """Opens an archive; compression is recognised by content.

        Args:
          file: at its start.
          seeks: whether contents may be skipped instead of read, where nothing is compressed.

        Raises:
          TarError: and the others of `DAMAGED`, when it is none.
        """
        packed = file.head(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        # tarfile checks no checksum of gzip, and takes the end of its first part for the end.
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        mode: Literal["r|", "r|*", "r:"] = "r|" if packed else "r|*"
        if seeks and file.head(_USTAR_AT + len(_USTAR))[_USTAR_AT:] == _USTAR:
            mode = "r:"
        return cls.open(
            fileobj=stream,
            mode=mode,
            # Small reads: one that meets the cut of a compressed file loses what it had.
            bufsize=tarfile.BLOCKSIZE if packed else tarfile.RECORDSIZE,
            tarinfo=_StrictTarInfo,
            ignore_zeros=True,
            encoding="utf-8",
            # A name in another encoding is kept, and can be stored.
            errors="backslashreplace",
        )

    def following(self) -> tarfile.TarInfo | None:
        """Returns the next member, None at the end; keeps no header of those before."""
        self.members.clear()  # type: ignore[attr-defined]
        return self.next()


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses headers that are damaged, that are missing, or that ask for much memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _METADATA and member.size > _MAX_METADATA):
            raise tarfile.HeaderError(f"it says that it takes {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        stream = cast(TarStream, archive)
        try:
            member = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise _judged(stream, error) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"no header of a member: {error}") from error
        if stream.garbage or member.size < 0:
            raise tarfile.ReadError("an archive begins behind bytes that belong to none")
        stream.zeros = 0
        return member


def _judged(stream: TarStream, error: tarfile.HeaderError) -> tarfile.TarError:
    """Says what a block that is no header means: padding, the end, garbage behind it, or damage."""
    if stream.zeros + stream.garbage > _MAX_BLOCKS_BEHIND:
        return tarfile.ReadError("behind the end are more than 16 MiB that belong to no archive")
    if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
        stream.zeros += 1
        return error
    if isinstance(error, tarfile.EmptyHeaderError) and stream.zeros:  # type: ignore[attr-defined]
        return error
    is_block = isinstance(
        error,
        tarfile.InvalidHeaderError | tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    )
    if stream.zeros < 2 or not is_block:
        return tarfile.ReadError(f"no header of a member: {error}")
    stream.garbage += 1
    return error
