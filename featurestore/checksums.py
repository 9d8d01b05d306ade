"""The checksums of parts and quarantine files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featurestore.layout import HashedName


def wrong_checksum(path: Path, name: str, sha256: str) -> str:
    """Returns what is wrong with a file's checksum, or "" when it is right.

    Args:
      path: a local copy of the file.
      name: the file's name in the store, which ends in the first 16 digits of the checksum.
      sha256: 64 hex digits from the marker, or "" when the marker holds none.
    """
    got = file_sha256(path)
    named = HashedName.parse(name)
    expected = sha256 or (named.checksum if named else "")
    if got.startswith(expected):
        return ""
    return f"its sha256 begins with {got[:16]}, the marker says {expected[:16]}: bytes have changed"


def file_sha256(path: Path) -> str:
    """Returns the 64 hex digits of a file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
