"""Extracts rows of a store again from their source images, and compares both results."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from classifier.engines.engine import relative_distances
from classifier.inputs.sources import Missed, Source, StoredRow, read_sources, shard_of
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from classifier.pixels.views import Views
from featurestore import FeatureStore, Numerics, StoreSpec
from featurestore.schema import decode_columns, feature_fields
from featurestore.taps import columns_of, divided

BATCH_SIZE = 32
# These columns distinguish a current row from one that it superseded.
_NAMED_BY = ("key", "uri", "etag", "content_hash", "view")
_COLUMNS = (*_NAMED_BY, "size")
FLOAT16_TOLERANCE, FLOAT32_TOLERANCE = 1e-3, 1e-5
_ERRORS = ("difference", "changed_unnoticed", "undecodable")
RowName = tuple[Any, ...]  # the columns `_NAMED_BY`
Extract = Callable[[np.ndarray], np.ndarray]


@dataclass
class Report:
    """The result of the comparison.

    Attributes:
      sampled: number of rows drawn.
      compared: number of rows computed again from their source image.
      largest_difference: relative L2 distance of a row; None when nothing was compared.
      largest_key: key of that row, with its view if it has several.
      tolerance: for that row.
      findings: kind, key and message of each row that has a problem.
    """

    sampled: int = 0
    compared: int = 0
    largest_difference: float | None = None
    largest_key: str = ""
    tolerance: float | None = None
    findings: list[dict[str, str]] = field(default_factory=list)

    def find(self, kind: str, key: str, message: str) -> None:
        """Adds a finding."""
        self.findings.append({"kind": kind, "key": key, "message": message})

    @property
    def exit_code(self) -> int:
        """1 when a row is wrong, or when no row could be compared."""
        wrong = any(finding["kind"] in _ERRORS for finding in self.findings)
        return int(wrong or not self.compared)


def draw_rows(store: FeatureStore, count: int, seed: int) -> set[RowName]:
    """Draws rows of all views at random in one pass: those with the smallest random numbers.

    Args:
      store: an open store.
      count: the largest number of rows.
      seed: of the draw.

    Returns:
      (key, uri, etag, content_hash, view) of each row.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[float, RowName]] = []
    for batch in store.scan(_NAMED_BY, batch_size=8192):
        numbers = rng.random(len(batch["key"]))
        limit = -kept[0][0] if len(kept) == count else 1.0
        for row in np.flatnonzero(numbers < limit):
            entry = (-float(numbers[row]), tuple(batch[name][row] for name in _NAMED_BY))
            (heapq.heappushpop if len(kept) == count else heapq.heappush)(kept, entry)
    return {name for _, name in kept}


def find_rows(store: FeatureStore, drawn: set[RowName]) -> Iterator[StoredRow]:
    """Yields the drawn rows with their features; reads only their row groups.

    Raises:
      CorruptStore: when a part cannot be read.
    """
    wanted = set(drawn)
    for marker in store.markers().values():
        if not wanted or not marker.part:
            continue
        with store.storage.open_parquet(f"parts/{marker.part}") as part:
            for group in range(part.num_row_groups):
                for row, features in _find_in_group(part, group, wanted, store.spec):
                    yield StoredRow(
                        **row,
                        features=features,
                        numerics=Numerics(**marker.numerics).hash,
                        shard=shard_of(marker.source),
                    )


def _find_in_group(
    part: pq.ParquetFile, group: int, wanted: set[RowName], spec: StoreSpec
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yields (columns, features) of the wanted rows of a row group; removes them from `wanted`."""
    rows, columns = [], part.read_row_group(group, columns=list(_COLUMNS)).to_pylist()
    for index, row in enumerate(columns):
        name = tuple(row[column] for column in _NAMED_BY)
        if name in wanted:
            wanted.remove(name)
            rows.append(index)
    if rows:
        names = [field.name for field in feature_fields(spec)]
        features = decode_columns(part.read_row_group(group, columns=names).take(rows), spec)
        yield from zip((columns[index] for index in rows), features, strict=True)


def compare(
    store: FeatureStore,
    drawn: set[RowName],
    extract: Extract,
    numerics: str,
    storage_options: Mapping[str, Any],
) -> Report:
    """Extracts rows again and compares them with the stored ones.

    Args:
      store: an open store.
      drawn: the result of `draw_rows`.
      extract: from uint8 (n, H, W, 3) to float32 (n, \\*feature_shape).
      numerics: hash of the numerics of `extract`.
      storage_options: for the source images.
    """
    report = Report(sampled=len(drawn))
    sources = read_sources(find_rows(store, drawn), storage_options)
    rows = readable(store.spec, sources, report)
    while batch := list(itertools.islice(rows, BATCH_SIZE)):
        features = extract(np.stack([pixels for _, pixels in batch]))
        for (row, _), got in zip(batch, features, strict=True):
            difference = relative_difference(got, row.features, store.spec)
            tolerance = tolerance_of(store.spec, row.numerics == numerics)
            report.compared += 1
            largest = report.largest_difference
            if largest is None or difference > largest:
                report.largest_difference, report.largest_key = difference, row.name
                report.tolerance = tolerance
            if difference > tolerance:
                message = f"its features differ by {difference:.2g}, more than {tolerance:g}"
                report.find("difference", row.name, message)
    return report


def readable(
    spec: StoreSpec, sources: Iterator[Source], report: Report
) -> Iterator[tuple[StoredRow, np.ndarray]]:
    """Yields rows with their pixels, uint8 (H, W, 3); reports the rows that cannot be read."""
    views = Views.of(spec)
    for row, data in sources:
        if isinstance(data, Missed):
            report.find(data.kind, row.name, data.message)
            continue
        try:
            pixels = decode(data, spec.pixels).pixels
            yield row, views.make(pixels, row.content_hash, row.view)
        except BadImage as error:
            message = f"the same bytes can no longer be decoded: {error}"
            report.find("undecodable", row.name, message)


def relative_difference(got: np.ndarray, stored: np.ndarray, spec: StoreSpec) -> float:
    """Returns a row's relative L2 distance, of several taps the largest; infinity if not finite.

    Args:
      got: float32 (\\*feature_shape), computed now; rounded here to the store's dtype.
      stored: the same shape, of any float type.
      spec: of the store.
    """
    ours, theirs = (divided(spec.base.taps, row[None]) for row in (got, stored))
    differences = []
    for column, mine, other in zip(columns_of(spec), ours, theirs, strict=True):
        with np.errstate(over="ignore"):
            rounded = mine.astype(column.dtype)
        difference = float(relative_distances(rounded, other)[0])
        differences.append(difference if math.isfinite(difference) else math.inf)
    return max(differences)


def tolerance_of(spec: StoreSpec, same_numerics: bool) -> float:
    """Returns the largest difference that a row may have.

    The same libraries give other last bits on another processor, and in a low precision the last
    bits are large.
    """
    if spec.is_pixels and same_numerics:
        return 0.0
    dtypes = {column.dtype for column in columns_of(spec)}
    own = FLOAT16_TOLERANCE if "float16" in dtypes else FLOAT32_TOLERANCE
    exact = same_numerics and spec.numerics.precision == "float32"
    return own if exact else max(own, spec.tolerance)
