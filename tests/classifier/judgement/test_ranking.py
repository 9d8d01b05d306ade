"""Contenders are ranked by accuracy, and compared in pairs over the images that both judged."""

import numpy as np
import pytest

from classifier.judgement.ranking import Contender, cheapest, compared, ranked
from featurestore import UsageError


def contender(name, right, cost, rows=range(100)):
    hits = np.array([row in right for row in rows])
    accuracy = {"estimate": hits.mean(), "lower": 0.0, "upper": 1.0}
    facts = {"name": name, "accuracy": accuracy, "cost": cost}
    return Contender(name, facts, np.array(rows, np.uint32), hits)


def test_a_clear_difference_counts_and_a_small_one_does_not():
    best = contender("best", range(90), 9.0)
    near, far = contender("near", range(1, 90), 1.0), contender("far", range(30), 0.1)
    rows = ranked([far, near, best], "cost")
    assert [row["name"] for row in rows] == ["best", "near", "far"]
    assert [row["ties"] for row in rows] == [True, True, False]
    assert rows[1]["difference"]["estimate"] == pytest.approx(0.01)
    assert cheapest(rows, "cost")["name"] == "near"
    assert "difference" not in rows[0] and ranked([near], "cost")[0]["ties"]


def test_the_smallest_p_is_multiplied_by_the_number_of_comparisons():
    # Ten images that only the first has right: a sign test gives 2 / 2**10.
    others = [contender(name, range(80), 1.0) for name in "abc"]
    rows = ranked([contender("best", range(90), 1.0), *others], "cost")
    assert [row["p_value"] for row in rows[1:]] == pytest.approx([3 * 2 / 2**10] * 3)
    assert cheapest(rows, "cost")["name"] == "best"


def test_of_equally_accurate_ones_the_cheapest_leads():
    rows = ranked([contender("slow", range(9), 2.0), contender("fast", range(9), 1.0)], "cost")
    assert [row["name"] for row in rows] == ["fast", "slow"]


def test_only_images_that_both_judged_are_compared():
    first, other = contender("a", range(90), 1.0), contender("b", range(50), 1.0, range(20, 60))
    (found,) = compared(first, [other])
    assert found["compared"] == 40
    assert found["difference"]["estimate"] == pytest.approx(0.25)
    # In another order, and with an image that the first did not judge.
    shuffled = contender("c", range(50), 1.0, [200, *reversed(range(20, 60))])
    assert compared(first, [shuffled])[0]["difference"] == found["difference"]
    with pytest.raises(UsageError, match="b judged none of the images that a judged"):
        compared(first, [contender("b", [200], 1.0, range(200, 210))])
