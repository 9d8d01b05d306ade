"""Names of the files in a store, each defined once, and the checksums in them.

The layout is part of the format (docs/format.md).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SPEC = "store.json"
SUMMARY = "summary.json"
NUMERICS = "numerics.json"
PROBES = "model/probes.parquet"
DATA_FOLDERS = ("parts", "quarantine")
FOLDERS = (
    "model",
    "parts",
    "quarantine",
    "markers",
    "labels",
    "runs",
    "manifest",
    "index",
    "plans",
    "tmp",
)

_HASHED = re.compile(r"(?P<chunk_id>[0-9a-f]{32})-(?P<checksum>[0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class HashedName:
    """The file name of a part or quarantine file: ``<chunk_id>-<checksum>.parquet``.

    Attributes:
      chunk_id: 32 hex digits of the file's chunk.
      checksum: the first 16 hex digits of the file's sha256.

    Example:
      >>> name = HashedName("0" * 32, "f" * 16)
      >>> HashedName.parse(str(name)) == name
      True
    """

    chunk_id: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.chunk_id}-{self.checksum}.parquet"

    @classmethod
    def parse(cls, name: str) -> HashedName | None:
        """Returns the parsed name, or None for any other name."""
        match = _HASHED.fullmatch(name)
        return cls(**match.groupdict()) if match else None


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


def chunk_id(members: Iterable[tuple[str, int, str]]) -> str:
    """Returns the name of a chunk, which follows from its members and their order.

    Args:
      members: (uri, size in bytes, etag or modification time) of each input.

    Returns:
      32 hex digits of the sha256 over the members; any change to a file gives another chunk.
    """
    digest = hashlib.sha256()
    for uri, size, etag in members:
        digest.update(f"{uri}\0{size}\0{etag}\0".encode())
    return digest.hexdigest()[:32]


def model_file(weights_hash: str) -> str:
    """Returns the stored base's path."""
    return f"model/{weights_hash}.keras"


def quantised_hash(data: bytes) -> str:
    """Returns the name of a quantised model: the first 32 hex digits of its sha256."""
    return hashlib.sha256(data).hexdigest()[:32]


def quantised_file(model_hash: str) -> str:
    """Returns the path of an int8 store's quantised model."""
    return f"model/{model_hash}.int8.zip"


def model_files(weights_hash: str, model_hash: str) -> tuple[str, ...]:
    """Returns the paths of the models that computed a store's features.

    Args:
      weights_hash: of the base; "" for pixels, which no model computed.
      model_hash: of the quantised model, or "".
    """
    base = (model_file(weights_hash),) if weights_hash else ()
    return (*base, quantised_file(model_hash)) if model_hash else base


def marker_file(chunk: str) -> str:
    """Returns the path of a chunk's marker."""
    return f"markers/{chunk}.json"


def run_file(run_id: str) -> str:
    """Returns the path of a run's ledger."""
    return f"runs/{run_id}.json"


def run_page(run_id: str) -> str:
    """Returns the path of a run's page, which shows its ledger to a person."""
    return f"runs/{run_id}.html"


def manifest_file(run_id: str) -> str:
    """Returns the path of a run's manifest."""
    return f"manifest/{run_id}.parquet"


def plan_folder(run_id: str) -> str:
    """Returns the folder of a run's plan, which is deleted when the run ends."""
    return f"plans/{run_id}"


def facts_file(run_id: str) -> str:
    """Returns the path of what a run's driver knew when the workers started."""
    return f"{plan_folder(run_id)}/facts.json"


def attempt_folder(run_id: str, chunk: str, nonce: str) -> str:
    """Returns the working folder of one attempt at one chunk."""
    return f"tmp/{run_id}-{chunk}-{nonce}"
