"""The findings of a check, and what to do about each."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.io.storage import Storage

ERROR, WARNING = "error", "warning"
# A failing disk or network is not damage, so nothing must be deleted because of it.
READ_AGAIN = "verify again when the storage can read it"
# An error means that stored data is wrong, missing or not to be trusted; a warning does not.
KINDS = {
    "missing_spec": ERROR,
    "damaged_spec": ERROR,
    "missing_model": ERROR,
    "damaged_model": ERROR,
    "damaged_manifest": ERROR,
    "damaged_marker": ERROR,
    "swapped_marker": ERROR,
    "differing_marker": ERROR,
    "missing_marker": ERROR,
    "ledger": ERROR,
    "wrong_file": ERROR,
    "missing_part": ERROR,
    "missing_quarantine": ERROR,
    "checksum": ERROR,
    "unreadable": ERROR,
    "foreign_part": ERROR,
    "row_count": ERROR,
    "non_finite": ERROR,
    "duplicate_key": ERROR,
    "damaged_labels": ERROR,
    "damaged_record": ERROR,
    "orphan": WARNING,
    "store_ledger": WARNING,
    "unchecked": WARNING,
}


@dataclass(frozen=True)
class Finding:
    """One fault in a store.

    Attributes:
      kind: one of `KINDS`.
      path: of the file, relative to the store.
      message: the fault, and what was expected instead.
      fix: what to do, with a command if there is one.
    """

    kind: str
    path: str
    message: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of finding: {self.kind!r}")

    @property
    def severity(self) -> str:
        """``error`` or ``warning``; see `KINDS`."""
        return KINDS[self.kind]

    def to_record(self) -> dict[str, Any]:
        """Returns the finding as a JSON-ready record."""
        return {"severity": self.severity, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.kind}: {self.path}", f"  {self.message}"]
        return "\n".join(lines + [f"  fix: {self.fix}"] * bool(self.fix))


@dataclass
class Checked:
    """What a check has covered so far.

    Attributes:
      commits: number of markers.
      files: parts and quarantine files whose content was checked.
      bytes: total size of those files.
      rows: view-0 rows that no newer run superseded.
    """

    commits: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0


def remove_command(storage: Storage, paths: Collection[str]) -> str:
    """Returns how to delete files of a store: for a local store, a shell command.

    Args:
      storage: the store's folder.
      paths: of the files, relative to the store.
    """
    if storage.is_local:
        return "rm -f -- " + " ".join(shlex.quote(storage.path(path)) for path in paths)
    return f"delete {', '.join(paths)} below {storage.public_url}"


def extract_again(storage: Storage) -> str:
    """Returns how to extract chunks again that are no longer committed."""
    where = shlex.quote(storage.public_url)
    return f"run the extraction again (python -m pipelines.extract --output {where}, same --input)"
