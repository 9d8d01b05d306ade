"""Checks the content of one part or quarantine file against its marker and the store's spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.commit import Marker
from featurestore.errors import CorruptStore, cause
from featurestore.layout import wrong_checksum
from featurestore.schema import QUARANTINE_SCHEMA, decode_columns, feature_fields, row_schema
from featurestore.spec import StoreSpec

Problem = tuple[str, str]  # kind, message


def check_part(path: Path, marker: Marker, spec: StoreSpec | None) -> Iterator[Problem]:
    """Yields (kind, message) of each fault in a part.

    Args:
      path: a local copy of the part.
      marker: the part's marker.
      spec: of the store; None, if it is damaged, skips the features.
    """
    damaged = wrong_checksum(path, marker.part, marker.part_sha256)
    if damaged:
        yield "checksum", damaged
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            foreign = _foreign(file.schema_arrow, spec) if spec else ""
            if foreign:
                yield "foreign_part", foreign
            # The rows of a damaged file mean nothing.
            if not damaged and not foreign:
                yield from _check_rows(file, marker, spec)
    except (pa.ArrowException, OSError, KeyError, CorruptStore) as error:
        if not damaged:
            yield "unreadable", f"it cannot be read as Parquet: {cause(error)}"


def check_quarantine(path: Path, marker: Marker) -> Iterator[Problem]:
    """Yields (kind, message) of each fault in a quarantine file."""
    damaged = wrong_checksum(path, marker.quarantine, marker.quarantine_sha256)
    if damaged:
        yield "checksum", damaged
        return
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if not file.schema_arrow.equals(QUARANTINE_SCHEMA):
                yield "wrong_file", "its columns are not those of a quarantine file"
            yield from _compare(file.metadata.num_rows, marker.ledger.quarantined, "images")
    except (pa.ArrowException, OSError) as error:
        yield "unreadable", f"it cannot be read as Parquet: {cause(error)}"


def _foreign(schema: pa.Schema, spec: StoreSpec) -> str:
    expected = row_schema(spec)
    identity = (schema.metadata or {}).get(b"hoarfrost_identity", b"").decode(errors="replace")
    if identity != spec.identity_hash:
        return (
            f"its features have {f'the identity {identity}' if identity else 'no identity'}; this "
            f"store's is {spec.identity_hash}"
        )
    if not schema.equals(expected):
        return "its columns are not those of this store"
    for field in feature_fields(spec):
        theirs = schema.field(field.name).metadata or {}
        if any(theirs.get(name) != value for name, value in field.metadata.items()):
            return "its features have another shape or dtype than this store's"
    return ""


def _check_rows(file: pq.ParquetFile, marker: Marker, spec: StoreSpec | None) -> Iterator[Problem]:
    images = augmented = bad = 0
    first = ""
    names = [field.name for field in feature_fields(spec)] if spec else []
    for group in range(file.num_row_groups):
        columns = ["key", "view", *names] if spec else ["view"]
        table = file.read_row_group(group, columns=columns)
        as_they_are = int(np.count_nonzero(table["view"].to_numpy() == 0))
        images, augmented = images + as_they_are, augmented + table.num_rows - as_they_are
        if spec is None:
            continue
        features = decode_columns(table, spec)
        finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
        if not finite.all():
            bad += int(np.count_nonzero(~finite))
            first = first or table["key"][int(np.argmin(finite))].as_py()
    yield from _compare(images, marker.ledger.rows, "view-0 rows")
    yield from _compare(augmented, marker.augmented, "rows of augmented views")
    if bad:
        yield "non_finite", f"{bad} rows hold NaN or infinity, first {first!r}"


def _compare(got: int, expected: int, what: str) -> Iterator[Problem]:
    if got != expected:
        yield "row_count", f"it holds {got} {what}, its marker counts {expected}"
