"""Search by an index: what it finds, and when it is made anew."""

import sys

import numpy as np
import pytest
from support.commands import assert_one_line_error, run_command
from support.features import clusters, make_store
from support.optional import optional

from classifier.auditing.index import StoreIndex
from classifier.auditing.search import search
from featurestore import UsageError, open_store
from featurestore.cli.absent import absent
from featurestore.labels.table import LabelTable
from featurestore.relabel import relabel

ROWS = 120


@pytest.fixture
def searched(tmp_path):
    """A store of clusters at one moment, and its features."""
    optional("usearch")
    features, labels = clusters(ROWS, 3)
    splits = ["train"] * (ROWS // 2) + ["test"] * (ROWS // 2)
    make_store(tmp_path / "store", features, labels, splits)
    return open_store(str(tmp_path / "store")).at_this_moment(), features


def keys(matches):
    return [match.columns["key"] for match in matches]


def test_an_index_finds_what_the_exact_search_finds(searched, tmp_path):
    store, features = searched
    made = StoreIndex.make(store, str(tmp_path / "index"))
    opened = StoreIndex.open(store, str(tmp_path / "index"))
    for row in (0, 50, ROWS - 1):
        exact = search(store, features[row], 5)
        for index in (made, opened):
            found = index.search(features[row : row + 1], 5)
            assert keys(found) == keys(exact)
            cosines = [[match.cosine for match in each] for each in (found, exact)]
            np.testing.assert_allclose(*cosines, atol=2e-3)
            assert [match.columns for match in found] == [match.columns for match in exact]


@pytest.mark.parametrize("most", [3, ROWS])
def test_filters_leave_as_many_as_there_are(searched, tmp_path, most):
    store, features = searched
    index = StoreIndex.make(store, str(tmp_path / "index"))
    found = index.search(features[:1], most, ["class 2"], ["test"])
    exact = search(store, features[0], most, ["class 2"], ["test"])
    assert sorted(keys(found)) == sorted(keys(exact))
    assert index.search(features[:1], most, ["class 9"]) == []


def test_an_index_of_another_moment_is_not_used(searched, tmp_path):
    store, features = searched
    folder = tmp_path / "index"
    assert StoreIndex.open(store, str(folder)) is None
    StoreIndex.make(store, str(folder))
    relabel(open_store(store.url), LabelTable("labels", {"00000.png": ("other",)}))
    later = open_store(store.url).at_this_moment()
    assert StoreIndex.open(later, str(folder)) is None
    index = StoreIndex.make(later, str(folder))
    assert len(list(folder.iterdir())) == 3
    assert index.search(features[:1], 1)[0].columns["labels"] == ["other"]


def test_a_damaged_index_is_one_line(searched, tmp_path):
    store, _ = searched
    folder = tmp_path / "index"
    StoreIndex.make(store, str(folder))
    next(folder.glob("*.usearch")).write_bytes(b"cut")
    with pytest.raises(UsageError, match="--index: the index in .* is damaged.*delete the folder"):
        StoreIndex.open(store, str(folder))
    (folder / "index.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        StoreIndex.open(store, str(folder))


def test_places_that_cannot_hold_an_index(searched, tmp_path):
    store, _ = searched
    with pytest.raises(UsageError, match="--index must be a local folder, got 's3://b/index'"):
        StoreIndex.open(store, "s3://b/index")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--index: cannot write"):
        StoreIndex.make(store, str(tmp_path / "file"))


def test_without_the_package(tmp_path, monkeypatch):
    store = make_store(tmp_path / "store", *clusters(9, 3))
    monkeypatch.delitem(sys.modules, "usearch", raising=False)
    monkeypatch.delitem(sys.modules, "usearch.index", raising=False)
    with absent("usearch"), pytest.raises(UsageError, match=r"pip install 'hoarfrost\[search\]'"):
        StoreIndex.open(store, str(tmp_path / "index"))


def test_the_command_names_its_flag(tmp_path):
    done = run_command("classifier.search", "--help", cwd=tmp_path)
    assert done.code == 0 and "--index FOLDER" in done.out
    done = run_command(
        "classifier.search", "x.png", "--store", "gone", "--index", "i", cwd=tmp_path
    )
    assert_one_line_error(done, 2, "gone")
