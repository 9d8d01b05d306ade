"""What a tournament says of its bases."""

from pipelines.ranking.standings import standing_lines, verdict


def base(name, accuracy, hours, ties=True, **found):
    return {
        "base": name,
        "accuracy": {"estimate": accuracy, "lower": 0.0, "upper": 1.0},
        "images_per_second": 1.0,
        "hours_per_million": hours,
        "bytes_per_million": 1e9,
        "ties": ties,
        **found,
    }


GAP = {"difference": {"estimate": 0.01, "lower": 0.0, "upper": 0.02}, "p_value": 0.25}


def test_the_advice_is_the_cheapest_base_that_is_as_good():
    rows = [base("best", 0.9, 9.0), base("near", 0.89, 1.0, **GAP), base("far", 0.3, 0.1, False)]
    words = "on these images best is not better beyond chance, and takes 9.0 times as long"
    assert verdict(rows) == f"take near: {words}"
    lines = standing_lines(rows)
    assert lines[-1] == verdict(rows) and len(lines) == 5
    assert "1.0% (0.0 to 2.0), p 0.25" in lines[2]


def test_the_best_base_is_advised_if_no_cheaper_one_is_as_good():
    assert verdict([base("best", 0.9, 9.0), base("far", 0.3, 0.1, False)]) == (
        "take best: the most accurate, and no base that is as good costs less"
    )
