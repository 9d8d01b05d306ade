"""The map of a page: rows as points in two dimensions, and what colours them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.auditing.findings import Findings
from classifier.auditing.places import MOST_POINTS

NOTHING, DOUBTFUL, COPY, OUTLIER = "nothing", "doubtful label", "copy", "outlier"
# The page's colour variables of a map's findings, and of a head's mistakes.
FINDINGS = {NOTHING: "--soft", DOUBTFUL: "--warm", COPY: "--cool", OUTLIER: "--p3"}
MISTAKES = {"right": "--soft", "wrong": "--warm", "not known": "--line"}


@dataclass(frozen=True)
class Colouring:
    """One way to colour the points.

    Attributes:
      title: of the way.
      names: of the groups, the largest first, or in the order of their meaning.
      counts: rows of each group, of all rows.
      codes: int (m,), the group of each point.
      variables: style sheet's variable of each group; empty to let the page choose.
    """

    title: str
    names: Sequence[str]
    counts: Sequence[int]
    codes: np.ndarray
    variables: Sequence[str] = ()

    def to_record(self) -> dict[str, Any]:
        """Returns JSON values; the codes are base64 of uint16."""
        return {
            "title": self.title,
            "names": list(self.names),
            "counts": list(self.counts),
            "codes": column(self.codes, np.uint16),
            "variables": list(self.variables),
        }


def column(values: np.ndarray, dtype: type[np.generic]) -> str:
    """Returns base64 of an array's bytes, little-endian.

    Example:
      >>> column(np.array([1, 256]), np.uint16)
      'AQAAAQ=='
    """
    data = values.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    return base64.b64encode(data).decode()


def drawn_rows(count: int, wanted: Iterable[int], most: int = MOST_POINTS) -> np.ndarray:
    """Returns int64 (m,): at most `most` rows in a random order, with all those that are wanted."""
    first = np.unique(np.fromiter(wanted, np.int64))[:most]
    order = np.random.default_rng(0).permutation(count)
    rest = order[~np.isin(order, first)][: most - len(first)]
    # Wanted rows come last, on top of the others.
    return np.concatenate([rest, first])


def point_record(findings: Findings, pictured: Iterable[int]) -> dict[str, Any]:
    """Returns the points as JSON values: columns are base64 of float32, uint32 and uint16.

    Args:
      findings: of an audit.
      pictured: rows whose pictures are in the page.
    """
    rows = findings.rows
    drawn = drawn_rows(len(rows), pictured)
    places = findings.places.xy[drawn]
    return {
        "x": column(places[:, 0], np.float32),
        "y": column(places[:, 1], np.float32),
        "row": column(drawn, np.uint32),
        "key": rows.key[drawn].tolist(),
        "colourings": [way.to_record() for way in _colourings(findings, drawn)],
    }


def _colourings(findings: Findings, drawn: np.ndarray) -> Iterable[Colouring]:
    rows = findings.rows
    labels = [rows.label(row) or "no label" for row in range(len(rows))]
    yield _by_size("class", labels, drawn)
    yield _by_size("split", [side or "no split" for side in findings.sides], drawn)
    kinds = np.full(len(rows), NOTHING, object)
    kinds[findings.outliers.ranked] = OUTLIER
    kinds[[row for pair in findings.copies.pairs for row in pair.rows]] = COPY
    kinds[findings.doubts.ranked] = DOUBTFUL
    yield _by_meaning("finding", kinds, drawn, FINDINGS)
    if findings.judged is not None:
        known, right = findings.judged
        words = np.where(known, np.where(right, "right", "wrong"), "not known")
        yield _by_meaning("mistake of the run", words, drawn, MISTAKES)


def _by_size(title: str, values: Sequence[str], drawn: np.ndarray) -> Colouring:
    ordered = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    numbers = {name: number for number, (name, _) in enumerate(ordered)}
    # A code has two bytes: the smallest of more groups share the last one.
    codes = np.array([min(numbers[values[row]], 65_535) for row in drawn.tolist()])
    names, counts = zip(*ordered[:65_536], strict=True)
    return Colouring(title, names, counts, codes)


def _by_meaning(
    title: str, values: np.ndarray, drawn: np.ndarray, variables: Mapping[str, str]
) -> Colouring:
    names, sizes = list(variables), Counter(values.tolist())
    codes = np.array([names.index(value) for value in values[drawn]])
    return Colouring(title, names, [sizes[name] for name in names], codes, list(variables.values()))
