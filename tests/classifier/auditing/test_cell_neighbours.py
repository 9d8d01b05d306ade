"""Neighbours in cells: what a search through a part of the rows finds, and what it reports."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import make_store

from classifier.audit import run as audit_command
from classifier.auditing.cells import Cells, cells_of, look_through, nearest_in_cells
from classifier.auditing.neighbours import nearest


def made_units(count, seed=0, size=24):
    """Rows of a few kinds, of length 1."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 20, count)
    rows = random.normal(size=(20, size))[kinds] + 0.6 * random.normal(size=(count, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.integers(2, 60), st.integers(0, 5))
def test_a_look_through_all_cells_is_exact(count, seed):
    units = made_units(count, seed)
    cells = cells_of(lambda part: units[part], count, np.random.default_rng(seed))
    assert sorted(cells.order) == list(range(count)) and cells.edges[-1] == count
    found = look_through(lambda part: units[part], cells, len(cells.centres), 3)
    exact = nearest(lambda part: units[part], count, 3)
    np.testing.assert_allclose(found.cosine, exact.cosine, atol=1e-5)
    assert ((found.row == -1) == (exact.row == -1)).all()
    assert not (found.row == np.arange(count)[:, None]).any()


def test_the_reported_recall_is_that_of_all_rows():
    units = made_units(3000)
    found, recall = nearest_in_cells(lambda part: units[part], len(units), 6)
    exact = nearest(lambda part: units[part], len(units), 6)
    share = (found.row[:, 0] == exact.row[:, 0]).mean()
    assert recall.probed < recall.cells / 2 and recall.drawn == 500
    assert recall.nearest == pytest.approx(share, abs=0.05) and share > 0.9


def test_a_look_through_too_few_cells_is_reported_as_such(monkeypatch):
    """Rows of noise have neighbours anywhere: most are missed, and the recall says so."""
    noise = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    monkeypatch.setattr("classifier.auditing.cells.MOST_CELLS", 8)
    found, recall = nearest_in_cells(lambda part: noise[part], len(noise), 6)
    exact = nearest(lambda part: noise[part], len(noise), 6)
    share = (found.row[:, 0] == exact.row[:, 0]).mean()
    assert recall.nearest == pytest.approx(share, abs=0.1) and share < 0.8


def test_rows_visit_the_cells_with_the_nearest_centres():
    centres = np.eye(4, dtype=np.float32)
    cells = Cells(centres, np.arange(4), np.arange(5))
    units = np.array([[1, 0.5, 0, 0], [0, 0, 0.5, 1]], np.float32)
    visits = {cell: places.tolist() for cell, places in cells.visits(units, 2)}
    assert visits == {0: [0], 1: [0], 2: [1], 3: [1]}
    assert cells.ranks(units, np.array([1, 0])).tolist() == [1, 2]


def test_the_command_reports_that_not_all_pairs_were_compared(tmp_path, capsys):
    units = made_units(400)
    units[390] = units[7] + 0.01
    store = make_store(tmp_path / "store", units, ["one"] * 200 + ["two"] * 200)
    flags = ["--store", store.url, "--output", str(tmp_path / "out"), "--compare", "0"]
    assert audit_command([*flags, "--exact_rows", "399"]) == 0
    assert "in 8 of 40 cells; of 200 rows drawn" in capsys.readouterr().out
    leaks = json.loads((tmp_path / "out" / "audit.json").read_text())["leaks"]
    assert 0.8 < leaks["recall"]["nearest"] <= 1
    assert (leaks["first"][0]["key"], leaks["first"][0]["other_key"]) == ("00007.png", "00390.png")
    assert "cells" in (tmp_path / "out" / "audit.html").read_text()
    assert audit_command([*flags, "--exact_rows", "400"]) == 0
    assert "cells" not in capsys.readouterr().out
