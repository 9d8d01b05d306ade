"""Reads every marker and manifest of a store and compares them with each other.

Readers prefer a manifest's copy of a marker to the marker itself, so both must exist and agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from functools import cached_property

import pyarrow as pa

from featurestore import layout
from featurestore.checking.findings import READ_AGAIN, Finding, extract_again, remove_command
from featurestore.commit import (
    MANIFEST_ROWS,
    Marker,
    data_files,
    marker_files,
    marker_names,
    pack_times,
)
from featurestore.errors import CorruptStore, RunFailed, cause
from featurestore.io.storage import Storage
from featurestore.layout import HashedName
from featurestore.ledger import Ledger

_TEXTS = ("chunk_id", "run_id", "part", "part_sha256", "quarantine", "quarantine_sha256")


@dataclass
class Evidence:
    """The content of markers and manifests, and the list of data files.

    Attributes:
      live: chunk_id -> the marker that readers use.
      manifests: chunk_id -> the manifests that name it.
      files: path of each existing data file -> its size in bytes.
      unnamed: those of the paths that no marker or manifest names.
    """

    live: dict[str, Marker] = field(default_factory=dict)
    manifests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)

    def add(self, marker: Marker) -> None:
        """Adds a marker; the first one of a chunk counts."""
        self.live.setdefault(marker.chunk_id, marker)
        self.unnamed -= marker.files

    @cached_property
    def _of_chunk(self) -> dict[str, list[str]]:
        """The paths of each chunk's data files; only damaged stores need it."""
        found: dict[str, list[str]] = {}
        for path in self.files:
            if name := HashedName.parse(path.rpartition("/")[2]):
                found.setdefault(name.chunk_id, []).append(path)
        return found

    def remake(self, storage: Storage, chunk_id: str) -> str:
        """Returns instructions for a damaged chunk: delete it, then extract it again."""
        paths = [layout.marker_file(chunk_id), *self.manifests.get(chunk_id, ())]
        paths += self._of_chunk.get(chunk_id, ())
        return f"{remove_command(storage, paths)}; then {extract_again(storage)}"


def list_files(storage: Storage, evidence: Evidence) -> None:
    """Lists the data files. Call it before the markers are read.

    The markers then name the files of a chunk that is committed in between, so that none of them
    looks like an orphan.
    """
    evidence.files = {file.name: file.size for file in data_files(storage)}
    evidence.unnamed = set(evidence.files)


def read_evidence(storage: Storage, evidence: Evidence) -> Iterator[Finding]:
    """Reads manifests and markers into `evidence` and yields their faults."""
    for file in storage.list("manifest"):
        if file.name.endswith(".parquet"):
            yield from _read_manifest(storage, f"manifest/{file.name}", evidence)
    unseen = set(evidence.manifests)
    for path, content in marker_files(storage, sorted(marker_names(storage))):
        chunk_id = path.removeprefix("markers/").removesuffix(".json")
        unseen.discard(chunk_id)
        try:
            marker = parse_marker(content, path)
        except CorruptStore as error:
            yield Finding("damaged_marker", path, str(error), evidence.remake(storage, chunk_id))
            continue
        evidence.add(marker)
        if marker.chunk_id != chunk_id:
            message = f"under this name is the marker of another chunk, {marker.chunk_id}"
            yield Finding("swapped_marker", path, message, evidence.remake(storage, chunk_id))
        elif chunk_id in evidence.manifests and evidence.live[chunk_id] != marker:
            where = ", ".join(evidence.manifests[chunk_id])
            message = f"it differs from the copy that {where} recorded at the end of the run"
            yield Finding("differing_marker", path, message, evidence.remake(storage, chunk_id))
    replaced = {gone for marker in evidence.live.values() for gone in marker.replaces}
    for chunk_id in replaced:
        evidence.live.pop(chunk_id, None)
    for chunk_id in unseen - replaced:
        path, where = layout.marker_file(chunk_id), ", ".join(evidence.manifests[chunk_id])
        message = f"the marker is missing; {where} names it"
        yield Finding("missing_marker", path, message, evidence.remake(storage, chunk_id))


def _read_manifest(storage: Storage, path: str, evidence: Evidence) -> Iterator[Finding]:
    fix = f"{remove_command(storage, [path])}; the markers hold everything in it"
    only = (path,)  # one object for all chunks
    try:
        with storage.open_parquet(path) as file:
            for batch in file.iter_batches(MANIFEST_ROWS, columns=["chunk_id", "marker"]):
                rows = (batch[name].to_pylist() for name in ("chunk_id", "marker"))
                copies = []
                for name, text in zip(*rows, strict=True):
                    marker = parse_marker(text, path)
                    if marker.chunk_id != name:
                        message = f"chunk {name} has the marker of {marker.chunk_id}"
                        raise CorruptStore(f"{path}: {message}")
                    evidence.add(marker)
                    others = evidence.manifests.get(name)
                    evidence.manifests[marker.chunk_id] = (*others, path) if others else only
                    copies.append(marker)
                pack_times(copies)
    except (CorruptStore, pa.ArrowException, OSError, KeyError, ValueError) as error:
        if isinstance(error, OSError):
            fix = f"{READ_AGAIN}; if nothing can: {fix}"
        yield Finding("damaged_manifest", path, cause(error), fix)


def parse_marker(text: str | bytes, where: str) -> Marker:
    """Reads a marker more strictly than other readers: every value must have the right type.

    Raises:
      CorruptStore: when the text is not a marker.
    """
    marker = Marker.from_json(text, where)
    counts = astuple(marker.ledger)
    if not all(isinstance(getattr(marker, name), str) for name in _TEXTS) or not all(
        type(count) is int for count in (*counts, marker.part_bytes, marker.augmented)
    ):
        raise CorruptStore(f"{where}: not a marker (a value is of the wrong type)")
    return marker


def check_marker(marker: Marker) -> Iterator[tuple[str, str]]:
    """Yields (kind, message) of each contradiction within a marker."""
    try:
        marker.ledger.check("its ledger")
    except RunFailed as error:
        yield "ledger", str(error)
    yield from _check_name(marker, "part", marker.part_sha256, marker.ledger, "rows")
    yield from _check_name(
        marker, "quarantine", marker.quarantine_sha256, marker.ledger, "quarantined"
    )


def _check_name(
    marker: Marker, what: str, sha256: str, ledger: Ledger, count: str
) -> Iterator[tuple[str, str]]:
    name, expected = getattr(marker, what), getattr(ledger, count)
    if bool(name) is not bool(expected):
        named = f"names the {what} file {name!r}" if name else f"names no {what} file"
        yield "ledger", f"it counts {expected} {count}, but {named}"
    if not name:
        return
    parsed = HashedName.parse(name)
    if parsed is None or parsed.chunk_id != marker.chunk_id:
        yield "wrong_file", f"its {what} file {name!r} does not belong to this chunk"
    elif sha256 and not sha256.startswith(parsed.checksum):
        yield "wrong_file", f"its {what} file {name!r} is not named by the checksum {sha256[:16]}"
