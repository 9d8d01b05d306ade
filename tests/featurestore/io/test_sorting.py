"""Sorted columns merge in ranges and find every match; a set of digests acts like Python's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.io import sorting
from featurestore.io.sorting import DigestSet, in_order, matches, merge


def columns_of(values):
    values = np.array(values, np.uint64)
    return in_order({"digest": values, "rest": values + np.uint64(1)})


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("lengths", [(0,), (0, 0), (1, 0), (7, 8, 9), (100, 1)])
def test_a_merge_is_sorted_and_keeps_rows_together(tmp_path, monkeypatch, lengths, in_files):
    monkeypatch.setattr(sorting, "MERGED_AT_ONCE", 8)
    rng = np.random.default_rng(0)
    parts = [columns_of(rng.integers(0, 1 << 63, size, np.uint64)) for size in lengths]
    merged = merge(parts, tmp_path if in_files else None)
    assert merged["digest"].tolist() == sorted(v for part in parts for v in part["digest"].tolist())
    assert (merged["rest"] == merged["digest"] + np.uint64(1)).all()
    if in_files:
        np.testing.assert_array_equal(np.load(tmp_path / "digest.npy"), merged["digest"])


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
@settings(max_examples=50, deadline=None)
def test_matches_are_all_pairs(column, wanted):
    column = sorted(column)
    index, rows = matches(np.array(column, np.uint64), np.array(wanted, np.uint64))
    expected = {
        (i, r) for i, value in enumerate(wanted) for r, held in enumerate(column) if held == value
    }
    assert set(zip(index.tolist(), rows.tolist(), strict=True)) == expected
    assert len(index) == len(expected)


@given(st.lists(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=6), max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_set_of_digests_acts_like_a_set(blocks):
    every = [(first, rest) for first in range(4) for rest in range(6)]
    known, digests = set(), DigestSet()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sorting, "MERGED_AT_ONCE", 8)
        for block in blocks:
            new = block - known
            digests.add(np.array(sorted(new), np.uint64).reshape(-1, 2))
            known |= new
            found = digests.holds(np.array(every, np.uint64))
            assert [one in known for one in every] == found.tolist()
