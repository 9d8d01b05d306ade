"""Reads a tar, compressed or not, as a strict stream of members.

The module ``tarfile`` stops silently at a damaged header and at the end of an archive that another
one follows. Here damage is an error, and following archives are read, as with GNU tar's
``--ignore-zeros``. The memory that a header can make a reader allocate is bounded.
"""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from typing import Any, Literal, Self, cast

from featurestore.io.steady import SteadyFile

# Errors of damaged bytes; an OSError is a failure of the file system.
DAMAGED = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
_USTAR_AT, _USTAR = 257, b"ustar"
_GZIP_MAGIC = b"\x1f\x8b"
# The size of a long name or a set of attributes, which `tarfile` reads at once.
_MAX_METADATA = 1 << 20
_METADATA = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# The limit of padding and garbage behind the end: a megabyte unpacks to a gigabyte of zeros.
_MAX_BLOCKS_BEHIND = (1 << 24) // tarfile.BLOCKSIZE


class TarStream(tarfile.TarFile):
    """An archive that is read once, from the start to the end of the file.

    Attributes:
      zeros: blocks of zeros behind the last member; two of them end an archive.
      garbage: blocks behind the end that belong to no archive.
    """

    zeros = 0
    garbage = 0

    @classmethod
    def read(cls, file: SteadyFile, seeks: bool = False) -> Self:
        """Opens an archive; compression is detected from content.

        Args:
          file: at its start.
          seeks: whether contents may be skipped instead of read, where nothing is compressed.

        Raises:
          TarError: or another error of `DAMAGED`, for what is not an archive.
        """
        packed = file.head(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        # tarfile does not verify gzip's checksums, and stops at the end of its first part.
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        mode: Literal["r|", "r|*", "r:"] = "r|" if packed else "r|*"
        if seeks and file.head(_USTAR_AT + len(_USTAR))[_USTAR_AT:] == _USTAR:
            mode = "r:"
        return cls.open(
            fileobj=stream,
            mode=mode,
            # Small reads, because a read that meets the cut of a compressed file loses its bytes.
            bufsize=tarfile.BLOCKSIZE if packed else tarfile.RECORDSIZE,
            tarinfo=_StrictTarInfo,
            ignore_zeros=True,
            encoding="utf-8",
            # A name in another encoding stays distinct and can be stored.
            errors="backslashreplace",
        )

    def following(self) -> tarfile.TarInfo | None:
        """Returns the next member, None at the end; forgets the headers before it."""
        self.members.clear()  # type: ignore[attr-defined]
        return self.next()


class _StrictTarInfo(tarfile.TarInfo):
    """Refuses headers that are damaged or missing, or that ask for much memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _METADATA and member.size > _MAX_METADATA):
            raise tarfile.HeaderError(f"it declares a size of {member.size:,} bytes")
        return member

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        stream = cast(TarStream, archive)
        try:
            member = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise _judged(stream, error) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"not the header of a member: {error}") from error
        if stream.garbage or member.size < 0:
            raise tarfile.ReadError("an archive begins behind bytes that belong to no archive")
        stream.zeros = 0
        return member


def _judged(stream: TarStream, error: tarfile.HeaderError) -> tarfile.TarError:
    """Returns the error for a block that is not a header: padding, the end, garbage or damage."""
    if stream.zeros + stream.garbage > _MAX_BLOCKS_BEHIND:
        return tarfile.ReadError("more than 16 MiB behind the end belong to no archive")
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
        return tarfile.ReadError(f"not the header of a member: {error}")
    stream.garbage += 1
    return error
