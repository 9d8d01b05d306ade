"""A store as an Arrow stream and as a Lance dataset, read by other people's programs."""

import sys

import numpy as np
import pytest
from support.increments import build
from support.optional import optional
from support.stores import make_spec

from featurestore.arrow import arrow_reader, to_lance
from featurestore.errors import UsageError
from featurestore.schema import row_schema


def test_a_stream_holds_what_counts(tmp_path):
    store = build(tmp_path / "store")
    reader = arrow_reader(store, splits=["test"])
    assert reader.schema.equals(row_schema(store.spec))
    duckdb = optional("duckdb")
    rows = duckdb.sql("select key, labels, features from reader order by key").fetchall()
    loaded = store.load(["key", "labels", "features"], splits=["test"])
    order = np.argsort(loaded["key"])
    assert [key for key, *_ in rows] == loaded["key"][order].tolist()
    assert ["relabelled"] in [labels for _, labels, _ in rows]
    polars = optional("polars").from_arrow(arrow_reader(store, splits=["test"]))
    assert sorted(polars["key"]) == sorted(loaded["key"])
    found = np.array([features for *_, features in rows], np.float32)
    np.testing.assert_array_equal(found, loaded["features"][order])


def test_lance_finds_the_nearest_rows(tmp_path):
    optional("lance")
    store = build(tmp_path / "store")
    loaded = store.load(["key", "features"])
    asked = loaded["features"][7]
    dataset = to_lance(store, str(tmp_path / "features.lance"))
    assert dataset.count_rows() == 29
    nearest = {"column": "features", "q": asked, "k": 3}
    found = dataset.to_table(columns=["key", "_distance"], nearest=nearest)
    distances = ((loaded["features"] - asked) ** 2).sum(axis=1)
    assert found["key"].to_pylist() == loaded["key"][np.argsort(distances)[:3]].tolist()
    with pytest.raises(UsageError, match="output: cannot write to .*choose a new folder"):
        to_lance(store, str(tmp_path / "features.lance"))
    maps = build(tmp_path / "maps", make_spec((2, 2, 3), "float16"))
    stored = to_lance(maps, str(tmp_path / "maps.lance")).to_table()["features"].to_pylist()
    expected = maps.load(["features"])["features"]
    np.testing.assert_array_equal(np.frombuffer(b"".join(stored), np.float16), expected.ravel())


def test_without_lance_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UsageError, match=r"pip install 'hoarfrost\[lance\]'"):
        to_lance(build(tmp_path / "store"), str(tmp_path / "out"))
