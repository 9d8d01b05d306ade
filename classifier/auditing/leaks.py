"""Finds images that a store holds more than once: exact copies, and near copies of any kind.

Exact copies have equal content hashes. Near copies are sought among the nearest neighbours of each
image by cosine of the standardised features, which finds a copy even if it was compressed again,
cut a little or mirrored. But features alone also bring together different images of one kind, so a
candidate counts only if thumbnails of the two images agree. If an image cannot be read, the
features decide: the cosine is nearly 1, or it stands out from the neighbourhood of both images
(Conneau et al., "Word translation without parallel data", 2018, call such a margin CSLS) by more
than the outer fence of all images' margins (Tukey, "Exploratory data analysis", 1977).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.auditing.cells import Recall, nearest_in_cells
from classifier.auditing.likeness import likenesses, thumbnails
from classifier.auditing.neighbours import Nearest, nearest
from classifier.auditing.rows import AuditRows, image_records

if TYPE_CHECKING:
    from featurestore import FeatureStore

NEIGHBOURS = 6
# Correlation of two thumbnails. JPEG of quality 70 and a cut of 2% of each edge leave 0.99 and more
# of the handwritten digits, which are the hardest case measured: see benchmarks/auditing.py.
LIKE = 0.99
# Two different digits reach 0.90 in benchmarks/auditing.py, seed 0.
NEARLY_ONE = 0.98
EXACT, NEAR = "exact copy", "near copy"


@dataclass(frozen=True)
class Pair:
    """Two rows that show one image.

    Attributes:
      kind: `EXACT` or `NEAR`.
      rows: numbers of both rows, the smaller one first.
      cosine: of the standardised features.
      margin: of the cosine over those of both neighbourhoods.
      likeness: correlation of the thumbnails; None where they were not compared.
      mirrored: whether one thumbnail agrees with the other's mirror image.
    """

    kind: str
    rows: tuple[int, int]
    cosine: float
    margin: float | None = None
    likeness: float | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class Copies:
    """The copies in a store.

    Attributes:
      pairs: the surest first.
      rule: how near copies were told from other neighbours, in words.
      candidates: pairs that were looked at.
      unread: those of them whose images could not be read.
      left_out: further candidates, beyond the number to compare.
      nearest: cosine of each row's nearest neighbour, float32 (n,); of exact copies, the next one.
      recall: how well neighbours were found; None where all pairs were compared.
    """

    pairs: list[Pair]
    rule: str
    candidates: int
    unread: int
    left_out: int
    nearest: np.ndarray
    recall: Recall | None = None


@dataclass(frozen=True)
class CopyOptions:
    """How copies are sought.

    Attributes:
      cosine: pairs of at least this cosine are near copies, whatever the images look like; None
        compares the images.
      compare: candidates whose images are read, at most; of each of two orders.
      exact_rows: contents of which all pairs are compared; neighbours of more are sought in cells.
    """

    cosine: float | None = None
    compare: int = 5000
    exact_rows: int = 50_000


def find_copies(
    store: FeatureStore, rows: AuditRows, options: CopyOptions, storage_options: Mapping[str, Any]
) -> Copies:
    """Finds exact and near copies.

    Args:
      store: at the moment at which its rows were read.
      rows: of the store.
      options: how copies are sought.
      storage_options: for the images' file systems.
    """
    contents: dict[str, int] = {}
    numbers = (contents.setdefault(content, len(contents)) for content in rows.content_hash)
    groups = np.fromiter(numbers, np.int64, len(rows))
    firsts = np.unique(groups, return_index=True)[1]
    copies = np.flatnonzero(firsts[groups] < np.arange(len(rows)))
    exact = [Pair(EXACT, (int(firsts[groups[row]]), row), 1.0) for row in copies.tolist()]
    near, recall = _neighbours(rows, firsts, options)
    seen = _candidates(near)
    chosen, left_out = _chosen(seen, options)
    named = [(int(a), int(b)) for a, b in firsts[np.stack([seen.one, seen.other], 1)[chosen]]]
    alike: dict[tuple[int, int], tuple[float, bool]] = {}
    if options.cosine is None and options.compare:
        wanted = {row for pair in named for row in pair}
        records = image_records(store, wanted)
        alike = likenesses(named, thumbnails(records, store.spec.pixels.exif, storage_options))
    fence = outer_fence(seen.margin[seen.is_first])
    pairs = []
    for place, own in zip(chosen, named, strict=True):
        like, mirrored = alike.get(own, (None, False))
        cosine, margin = float(seen.cosine[place]), float(seen.margin[place])
        if _is_copy(options, cosine, margin, like, fence):
            pairs.append(Pair(NEAR, own, cosine, margin, like, mirrored))
    unread = len(named) - len(alike) if options.cosine is None and options.compare else 0
    pairs.sort(key=lambda pair: (-(pair.likeness or 0.0), -pair.cosine))
    alone = np.where(near.row[:, 0] >= 0, near.cosine[:, 0], np.nan)[groups].astype(np.float32)
    words = _rule(options, fence, unread)
    return Copies([*exact, *pairs], words, len(named), unread, left_out, alone, recall)


def _neighbours(
    rows: AuditRows, firsts: np.ndarray, options: CopyOptions
) -> tuple[Nearest, Recall | None]:
    """Returns the neighbours of one row of each content, and how well they were found."""

    def units(part: slice | np.ndarray) -> np.ndarray:
        return rows.units(firsts[part])

    if len(firsts) <= options.exact_rows:
        return nearest(units, len(firsts), NEIGHBOURS), None
    return nearest_in_cells(units, len(firsts), NEIGHBOURS)


def _is_copy(
    options: CopyOptions, cosine: float, margin: float, like: float | None, fence: float
) -> bool:
    if options.cosine is not None:
        return cosine >= options.cosine
    if like is not None:
        return like >= LIKE
    return cosine >= NEARLY_ONE or margin > fence


def _rule(options: CopyOptions, fence: float, unread: int) -> str:
    if options.cosine is not None:
        return f"cosine of at least {options.cosine:g}, as --duplicate_cosine asks"
    by_features = (
        f"cosine of at least {NEARLY_ONE} or margin above {fence:.3f}, the outer fence of all "
        "margins"
    )
    if not options.compare:
        return by_features
    words = f"thumbnails that agree by at least {LIKE}"
    return f"{words}; where images cannot be read, {by_features}" if unread else words


@dataclass(frozen=True)
class _Candidates:
    """Pairs of neighbours, each once: numbers of both (m,), cosine, margin, and whether the second
    is the nearest neighbour of the first or the first that of the second."""

    one: np.ndarray
    other: np.ndarray
    cosine: np.ndarray
    margin: np.ndarray
    is_first: np.ndarray


def _candidates(near: Nearest) -> _Candidates:
    count, most = near.row.shape
    known = near.row >= 0
    others = known[:, 1:]
    around = np.where(others, near.cosine[:, 1:], 0).sum(axis=1) / np.maximum(others.sum(1), 1)
    rows = np.repeat(np.arange(count), most)[known.ravel()]
    places = near.row[known]
    one, other = np.minimum(rows, places), np.maximum(rows, places)
    # Sorted by rank, so that of two equal pairs the one with the better rank stays.
    rank = np.tile(np.arange(most), count)[known.ravel()]
    order = np.argsort(rank, kind="stable")
    _, first = np.unique((one * count + other)[order], return_index=True)
    kept = order[first]
    one, other, cosine = one[kept], other[kept], near.cosine[known][kept]
    margin = cosine - (around[one] + around[other]) / 2
    return _Candidates(one, other, cosine, margin, rank[kept] == 0)


def _chosen(seen: _Candidates, options: CopyOptions) -> tuple[np.ndarray, int]:
    """Returns the numbers of the pairs to look at, and how many were left out."""
    if options.cosine is not None:
        return np.flatnonzero(seen.cosine >= options.cosine), 0
    if not options.compare:
        return np.arange(len(seen.cosine)), 0
    # By margin, as a copy stands out; by cosine, as many copies of one image do not.
    best = [np.argsort(-values)[: options.compare] for values in (seen.margin, seen.cosine)]
    taken = np.unique(np.concatenate(best))
    return taken, len(seen.cosine) - len(taken)


def outer_fence(values: Sequence[float] | np.ndarray) -> float:
    """Returns the upper quartile plus three interquartile ranges; infinity for no values.

    Example:
      >>> outer_fence([0.0, 1.0, 2.0, 3.0, 4.0])
      9.0
    """
    if not len(values):
        return float("inf")
    lower, upper = np.quantile(values, [0.25, 0.75])
    return float(upper + 3 * (upper - lower))
