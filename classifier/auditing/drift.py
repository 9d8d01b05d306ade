"""How the rows of another store differ from those of this one.

Whether they differ at all is decided by the energy distance of rows drawn from both, with a
permutation test; so it is for each class (Szekely and Rizzo, "Energy statistics: a class of
statistics based on distances", 2013). It needs no model and no parameter, and it sees a change of
any kind. How they differ is told by means and spreads along the principal directions of this store.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.auditing.directions import directions
from classifier.auditing.outliers import distance
from classifier.auditing.rows import AuditRows, read_rows
from classifier.judgement.intervals import holm

if TYPE_CHECKING:
    from featurestore import FeatureStore

# Of a store's own rows so many lie beyond the distance that is compared with.
BEYOND = 0.01
DIRECTIONS = 8
# Rows of each store, and of each class of it; a class with fewer is not tested.
DRAWN, DRAWN_OF_CLASS, LEAST_OF_CLASS = 1000, 200, 10
PERMUTATIONS = 999
# A smaller p value counts as a difference.
LEVEL = 0.05
NAMED = 5
Record = dict[str, Any]


def drift(rows: AuditRows, other: FeatureStore) -> Record:
    """Compares another store with this one.

    Args:
      rows: of this store.
      other: of the same features.

    Returns:
      JSON values: number of rows; how many contents are in both; ``shift``, the root mean square of
      the differences of the means, in deviations of this store; median distances of both stores'
      rows from this store's mean; the share of the other's rows that lie beyond the distance of all
      but 1% of this store's; ``test``, see `energy_test`; ``directions`` with their share of this
      store's variance, the shift of the mean and the ratio of spreads; ``classes``, see `_classes`.

    Raises:
      UsageError: when the other store has no rows.
    """
    with read_rows(other) as read:
        there = replace(read, standard=rows.standard)
        here_far, there_far = _distances(rows), _distances(there)
        limit = float(np.quantile(here_far, 1 - BEYOND))
        return {
            "store": other.url,
            "rows": len(there),
            "shared_contents": len(set(rows.content_hash) & set(there.content_hash)),
            "shift": float(np.sqrt(np.square(_mean(there)).mean())),
            "median_distance": float(np.median(here_far)),
            "other_median_distance": float(np.median(there_far)),
            "limit": limit,
            "expected_beyond": BEYOND,
            "beyond": float((there_far > limit).mean()),
            "test": _tested(rows, np.arange(len(rows)), there, np.arange(len(there)), DRAWN),
            "directions": _directions(rows, there),
            **_classes(rows, there),
        }


def _distances(rows: AuditRows) -> np.ndarray:
    zero = np.zeros(rows.vectors.shape[1], np.float32)
    return np.concatenate([distance(rows.scaled(block), zero) for block in rows.blocks()])


def _mean(rows: AuditRows) -> np.ndarray:
    sums = (rows.scaled(block).sum(axis=0, dtype=np.float64) for block in rows.blocks())
    mean: np.ndarray = sum(sums) / len(rows)
    return mean


def _directions(rows: AuditRows, there: AuditRows) -> list[Record]:
    found = directions(rows, DIRECTIONS)
    own, others = found.places(rows), found.places(there)
    spread = np.maximum(own.std(axis=0), 1e-12)
    shift = (others.mean(axis=0) - own.mean(axis=0)) / spread
    columns = zip(found.share, shift, others.std(axis=0) / spread, strict=True)
    names = ("share", "shift", "spread")
    return [dict(zip(names, map(float, values), strict=True)) for values in columns]


def _classes(rows: AuditRows, there: AuditRows) -> Record:
    """Returns ``classes``, those of both stores, the farthest apart first; and the others' names.

    The p values are Holm's, so that of many classes that are alike few seem to differ by chance.
    Classes with fewer than `LEAST_OF_CLASS` rows in one of the stores are counted, and not tested.
    """
    own, others = rows.rows_by_label(), there.rows_by_label()
    both = sorted(own.keys() & others.keys())
    tested = [
        {
            "label": label,
            "rows": len(own[label]),
            "other_rows": len(others[label]),
            **_tested(rows, own[label], there, others[label], DRAWN_OF_CLASS),
        }
        for label in both
        if min(len(own[label]), len(others[label])) >= LEAST_OF_CLASS
    ]
    for record, p in zip(tested, holm([record["p"] for record in tested]), strict=True):
        record["p"] = p
    return {
        "classes": sorted(tested, key=lambda record: -record["coefficient"]),
        "classes_with_few_rows": len(both) - len(tested),
        "only_here": sorted(own.keys() - others.keys()),
        "only_there": sorted(others.keys() - own.keys()),
    }


def _tested(
    rows: AuditRows, own: np.ndarray, there: AuditRows, others: np.ndarray, most: int
) -> Record:
    random = np.random.default_rng(0)
    some, more = (
        np.sort(random.choice(numbers, min(most, len(numbers)), replace=False))
        for numbers in (own, others)
    )
    coefficient, p = energy_test(rows.scaled(some), there.scaled(more), random)
    return {"drawn": [len(some), len(more)], "coefficient": coefficient, "p": p}


def energy_test(
    one: np.ndarray, other: np.ndarray, random: np.random.Generator
) -> tuple[float, float]:
    """Compares two samples; see the module for the source.

    Args:
      one: float32 (n, d).
      other: float32 (m, d).
      random: draws the permutations.

    Returns:
      The energy distance as a share of twice the mean distance between the samples, which is 0 for
      equal samples and at most 1; and the p value: the share of `PERMUTATIONS` divisions of all
      rows into n and m, and of this one, with a distance at least as large.
    """
    from scipy.spatial.distance import cdist

    together = np.concatenate([one, other])
    apart = cdist(together, together)
    weights = np.concatenate(
        [np.full(len(one), 1 / len(one)), np.full(len(other), -1 / len(other))]
    )
    drawn = np.tile(weights, (PERMUTATIONS, 1))
    every = np.vstack([weights, random.permuted(drawn, axis=1)])
    energies = -np.einsum("pi,pi->p", every @ apart, every)
    between = 2 * apart[: len(one), len(one) :].mean()
    # Sums in another order may differ in the last digits.
    p = float((energies >= energies[0] - 1e-9 * max(between, 1e-12)).mean())
    return float(max(energies[0], 0) / max(between, 1e-12)), p


def describe(found: Record) -> str:
    """Returns a comparison in words, as one paragraph."""
    test = found["test"]
    differ = "differ" if test["p"] < LEVEL else "do not differ measurably"
    words = (
        f"the {found['rows']:,} rows of {found['store']} {differ} from those of this store (energy "
        f"distance {test['coefficient']:.3f} of at most 1, p = {test['p']:.3f}). Their mean has "
        f"shifted by {found['shift']:.3f} deviations, and {found['beyond']:.1%} of them lie beyond "
        f"what {found['expected_beyond']:.0%} of this store's do."
    )
    if found["classes"]:
        apart = [record for record in found["classes"] if record["p"] < LEVEL]
        first = ", ".join(f"{item['label']} ({item['coefficient']:.3f})" for item in apart[:NAMED])
        more = f" and {len(apart) - NAMED:,} more" if len(apart) > NAMED else ""
        words += f" Of {len(found['classes']):,} classes compared, {len(apart):,} "
        words += "differs" if len(apart) == 1 else "differ"
        words += f": {first}{more}." if apart else "."
    for name, where in (("only_here", "in this store only"), ("only_there", "in the other only")):
        if labels := found[name]:
            more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
            words += f" Classes {where}: {', '.join(labels[:NAMED])}{more}."
    if found["classes_with_few_rows"]:
        words += (
            f" {found['classes_with_few_rows']:,} classes have fewer than {LEAST_OF_CLASS} rows "
            "in one of the stores and were not compared."
        )
    if found["shared_contents"]:
        words += f" {found['shared_contents']:,} images are in both."
    return words
