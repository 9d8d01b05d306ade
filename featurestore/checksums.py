"""The checksums of parts and quarantine files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featurestore.layout import HashedName


def wrong_checksum(path: Path, name: str, sha256: str) -> str:
    """Returns what is wrong with a file's checksum, or "".

    Args:
      path: a local copy.
      name: in the store, which ends in the checksum's first 16 digits.
      sha256: the marker's 64 hex digits, or "" in markers that have none.
    """
    got = file_sha256(path)
    named = HashedName.parse(name)
    expected = sha256 or (named.checksum if named else "")
    if got.startswith(expected):
        return ""
    return f"its sha256 begins with {got[:16]}, the marker says {expected[:16]}: bytes have changed"


def file_sha256(path: Path) -> str:
    """Returns 64 hex digits over a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


BLOCK_BYTES = 4 << 20
