"""Verifies a store: commits against files, files against the spec, and keys against each other.

Memory holds all markers and 16 bytes per row, to find duplicate keys, but no rows. Each remote file
is downloaded once, to a temporary copy.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pyarrow as pa

from featurestore import layout
from featurestore.checking.duplicates import KeyDigests, occurrences
from featurestore.checking.evidence import Evidence, check_marker, list_files, read_evidence
from featurestore.checking.filecheck import check_part, check_quarantine
from featurestore.checking.findings import (
    ERROR,
    READ_AGAIN,
    Checked,
    Finding,
    extract_again,
    remove_command,
)
from featurestore.commit import Marker
from featurestore.decision import with_decision
from featurestore.errors import CorruptStore, HoarfrostError, RunFailed, UsageError, cause
from featurestore.io.storage import Storage
from featurestore.layout import HashedName
from featurestore.ledger import Ledger
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore
from featurestore.taps import cut_hashes

_BACKUP = "restore the file from a backup, or extract into a new store"


def verify_storage(
    storage: Storage, *, quick: bool = False, checked: Checked | None = None
) -> Iterator[Finding]:
    """Checks a store's folder, even if its spec is damaged.

    Args:
      storage: the folder.
      quick: read the commits and list the files, but open none of them. This misses damage inside
        files, wrong row counts and duplicate keys.
      checked: counts what the check has covered.

    Yields:
      Each finding as soon as it is found; none for a sound store.

    Raises:
      UsageError: when there is no store.
    """
    checked = Checked() if checked is None else checked
    evidence, damaged = Evidence(), False
    try:
        list_files(storage, evidence)
    except OSError as error:
        raise UsageError(f"cannot read the store at {storage.public_url!r}: {error}") from error
    spec, problems = _read_spec(storage, evidence)
    findings = _check_files(storage, spec, evidence, quick, checked)
    for finding in itertools.chain(problems, findings):
        damaged |= finding.severity == ERROR
        yield finding
    if quick or spec is None:
        return
    # The rows are checked at a later moment, with other copies of the markers.
    del evidence, findings
    try:
        yield from _check_rows(FeatureStore(storage, spec), damaged, checked)
    # The earlier findings may make the store unreadable in any of these ways.
    except (HoarfrostError, pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        message = f"duplicate keys could not be looked for: {cause(error)}"
        fix = "repair the other findings, then verify again"
        yield Finding("unchecked", "parts", message, fix)


def _check_files(
    storage: Storage, spec: StoreSpec | None, evidence: Evidence, quick: bool, checked: Checked
) -> Iterator[Finding]:
    if spec:
        yield from _check_model(storage, spec, quick)
    yield from read_evidence(storage, evidence)
    for marker in evidence.live.values():
        checked.commits += 1
        for kind, text in check_marker(marker):
            remake = evidence.remake(storage, marker.chunk_id)
            yield Finding(kind, layout.marker_file(marker.chunk_id), text, remake)
        for path in sorted(marker.files):
            yield from _check_file(storage, path, marker, evidence, spec, quick)
            if not quick:
                checked.files += 1
                checked.bytes += evidence.files.get(path, 0)
    yield from _check_orphans(storage, evidence)
    yield from _check_records(storage)
    yield from _check_labels(storage)


def _read_spec(storage: Storage, evidence: Evidence) -> tuple[StoreSpec | None, list[Finding]]:
    try:
        text = storage.read(layout.SPEC)
    except FileNotFoundError as error:
        if not evidence.files and not any(True for _ in storage.names("markers")):
            raise UsageError(
                f"no feature store at {storage.public_url!r}: {layout.SPEC} is missing"
            ) from error
        message = "the spec, which defines the features, is missing"
        return None, [Finding("missing_spec", layout.SPEC, message, _BACKUP)]
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the store at {storage.public_url!r}: {error}") from error
    try:
        spec = StoreSpec.from_json(text, layout.SPEC)
        if json.loads(text).get("numerics_hash") != spec.numerics.hash:
            raise CorruptStore(f"{layout.SPEC}: its numerics were edited by hand")
    except HoarfrostError as error:
        return None, [Finding("damaged_spec", layout.SPEC, cause(error), _BACKUP)]
    try:
        spec = with_decision(storage, spec)
    except HoarfrostError as error:
        return None, [Finding("damaged_spec", layout.NUMERICS, cause(error), _BACKUP)]
    if evidence.files and not spec.numerics.is_decided:
        message = "the numerics, which the first worker decided, are missing"
        return spec, [Finding("missing_spec", layout.NUMERICS, message, _BACKUP)]
    return spec, []


def _check_model(storage: Storage, spec: StoreSpec, quick: bool) -> Iterator[Finding]:
    # The hash of the weights is computed from tensors, which needs Keras.
    note = "python -m classifier.verify --store STORE checks its content"
    models = layout.model_files(spec.base.weights_hash, spec.numerics.model)
    models += tuple(map(layout.model_file, cut_hashes(spec.base)))
    for path in (*models, layout.PROBES):
        file = storage.entry(path)
        if not file or not file.size:
            message = f"it is missing or empty, so no run can join and no head can predict ({note})"
            yield Finding("missing_model", path, message, _BACKUP)
        elif path == layout.quantised_file(spec.numerics.model) and not quick:
            if layout.quantised_hash(storage.read(path)) != spec.numerics.model:
                message = "its content does not give its name, so no run can join, no head predict"
                yield Finding("damaged_model", path, message, _BACKUP)


def _check_file(
    storage: Storage,
    path: str,
    marker: Marker,
    evidence: Evidence,
    spec: StoreSpec | None,
    quick: bool,
) -> Iterator[Finding]:
    folder, _, name = path.partition("/")
    if HashedName.parse(name) is None:
        return
    missing = "missing_part" if folder == "parts" else "missing_quarantine"

    def found(kind: str, message: str, fix: str = "") -> Finding:
        return Finding(kind, path, message, fix or evidence.remake(storage, marker.chunk_id))

    # The files of a chunk that was committed after the listing are not in it.
    if path not in evidence.files and not storage.exists(path):
        yield found(missing, "the file is missing; its marker exists")
        return
    size = evidence.files.get(path, marker.part_bytes)
    if folder == "parts" and size != marker.part_bytes:
        yield found("checksum", f"it has {size} bytes, its marker says {marker.part_bytes}")
        return
    if quick:
        return
    fix = ""
    try:
        with storage.local_copy(path) as local:
            if folder == "parts":
                problems = list(check_part(local, marker, spec))
            else:
                problems = list(check_quarantine(local, marker))
    except FileNotFoundError:
        yield found(missing, "the file is missing; its marker exists")
        return
    except OSError as error:
        problems = [("unreadable", f"it cannot be read: {cause(error)}")]
        fix = READ_AGAIN
    for kind, message in problems:
        yield found(kind, message, fix)


def _check_orphans(storage: Storage, evidence: Evidence) -> Iterator[Finding]:
    for path in sorted(evidence.unnamed):
        message = "no marker names it: a process was killed, or a run is active; readers skip it"
        fix = (
            f"{extract_again(storage)}, which deletes orphans older than a day; or, when no run is "
            f"active: {remove_command(storage, [path])}"
        )
        yield Finding("orphan", path, message, fix)


def _check_records(storage: Storage) -> Iterator[Finding]:
    names = [f"runs/{file.name}" for file in storage.list("runs") if file.name.endswith(".json")]
    for path in names:
        try:
            Ledger(**json.loads(storage.read(path))["ledger"]).check("its ledger")
        except RunFailed as error:
            yield Finding("ledger", path, str(error), _BACKUP)
        except (ValueError, KeyError, TypeError) as error:
            message = f"not a run's record: {type(error).__name__}: {error}"
            yield Finding("damaged_record", path, message, remove_command(storage, [path]))


def _check_labels(storage: Storage) -> Iterator[Finding]:
    for file in storage.list("labels"):
        if not file.name.endswith(".parquet"):
            continue
        path = f"labels/{file.name}"
        try:
            with storage.open_parquet(path) as version:
                for _ in version.iter_batches(columns=["key", "labels", "split"]):
                    pass
        except (CorruptStore, pa.ArrowException, OSError, KeyError) as error:
            message = f"not a label version: {cause(error)}"
            fix = f"{remove_command(storage, [path])}; then write the labels again"
            if isinstance(error, OSError):
                fix = f"{READ_AGAIN}; if nothing can: {fix}"
            yield Finding("damaged_labels", path, message, fix)


def _check_rows(store: FeatureStore, damaged: bool, checked: Checked) -> Iterator[Finding]:
    digests = KeyDigests()
    store = store.at_this_moment()
    for batch in store.scan(["key", "view"], batch_size=8192):
        digests.add(batch)
    checked.rows = digests.images
    count, wanted = digests.repeated()
    if count:
        yield from _name_duplicates(store, count, wanted)
    expected = store.ledger().rows
    if not damaged and digests.images != expected:
        message = f"the store has {digests.images} images, the markers' ledgers count {expected}"
        yield Finding("store_ledger", "markers", message, "please report this with the markers")


def _name_duplicates(store: FeatureStore, count: int, wanted: set[bytes]) -> Iterator[Finding]:
    rows = occurrences(store.scan(["key", "view", "uri"], batch_size=8192), wanted)
    for (key, view), uris in sorted(rows.items()):
        where = ", ".join(sorted(set(uris)))
        message = f"view {view} of {key!r} has {len(uris)} rows, from {where}"
        fix = (
            f"{extract_again(store.storage)}: of two concurrent jobs, the newer one's row stays; "
            "if one job wrote both, please report it with their markers"
        )
        yield Finding("duplicate_key", "parts", message, fix)
    if count > len(rows):
        yield Finding("duplicate_key", "parts", f"and {count - len(rows)} more keys", "see above")
