"""Bases are ranked by accuracy, and compared in pairs over the images that both judged."""

import pytest

from featurestore import UsageError
from pipelines.ranking.standings import Judged, advised, standing_lines, standings, verdict


def base(name, right, hours, rows=range(100)):
    hits = sum(row in right for row in rows)
    facts = {
        "base": name,
        "accuracy": {"estimate": hits / len(rows), "lower": 0.0, "upper": 1.0},
        "images_per_second": 1.0,
        "hours_per_million": hours,
        "bytes_per_million": 1e9,
    }
    return Judged(facts, {row: row in right for row in rows})


def test_a_clear_difference_counts_and_a_small_one_does_not():
    best = base("best", range(90), 9.0)
    near, far = base("near", range(1, 90), 1.0), base("far", range(30), 0.1)
    rows = standings([far, near, best])
    assert [row["base"] for row in rows] == ["best", "near", "far"]
    assert [row["ties"] for row in rows] == [True, True, False]
    assert rows[1]["difference"]["estimate"] == pytest.approx(0.01)
    assert advised(rows)["base"] == "near"
    assert verdict(rows) == (
        "take near: on these images best is not better beyond chance, and takes 9.0 times as long"
    )
    assert standing_lines(rows)[-1] == verdict(rows)


def test_holm_multiplies_the_smallest_p_by_the_number_of_comparisons():
    # Ten images that only the first has right: a sign test gives 2 / 2**10.
    rows = standings([base("best", range(90), 1.0)] + [base(n, range(80), 1.0) for n in "abc"])
    assert [row["p_value"] for row in rows[1:]] == pytest.approx([3 * 2 / 2**10] * 3)
    assert verdict(rows).startswith("take best: the most accurate")


def test_of_equally_accurate_bases_the_cheapest_leads():
    rows = standings([base("slow", range(9), 2.0), base("fast", range(9), 1.0)])
    assert [row["base"] for row in rows] == ["fast", "slow"]


def test_only_images_that_both_judged_are_compared():
    rows = standings([base("a", range(90), 1.0), base("b", range(50), 1.0, range(20, 60))])
    assert rows[1]["compared"] == 40
    with pytest.raises(UsageError, match="judged none of the images"):
        standings([base("a", range(90), 1.0), base("b", [200], 1.0, range(200, 210))])
