"""The index in files and the one read from parts find the same images, superseded ones left out."""

import numpy as np
import pytest
from support.stores import add_chunk, make_rows, make_store

from featurestore.index import stored
from featurestore.index.index import Index
from featurestore.index.rows import COMMITS, QUARANTINED, ROW, versions
from featurestore.io.sorting import digests

BAD = {"uri": "file:///b", "size": 3, "etag": "1", "kind": "empty", "message": "no bytes"}
RUNS = ("20260101T000000000000Z-a", "20260102T000000000000Z-a", "20260103T000000000000Z-a")


@pytest.fixture(params=[1, 256], ids=["in files", "from parts"])
def unindexed(request, monkeypatch):
    monkeypatch.setattr(stored, "UNINDEXED", request.param)
    return request.param


def add(store, start, run_id, **changes):
    features = np.zeros((4, 8), np.float32)
    bad = [{**BAD, "key": f"bad{start}.png"}]
    return add_chunk(store, make_rows(4, start), features, bad, run_id=run_id, **changes)


def index_of(store):
    return Index.read(store.storage, store.markers().values())


def test_an_index_finds_what_counts(tmp_path, unindexed):
    store = make_store(tmp_path / "store")
    for number, run_id in enumerate(RUNS[:2]):
        add(store, 4 * number, run_id)
        index_of(store).extend(store.storage, run_id)
    # The third run replaces a row and a bad image, and prunes another row.
    add(store, 0, RUNS[2], supersedes=("00000.png", "00001.png", "00002.png", "00003.png"))
    add(store, 100, RUNS[2], supersedes=("00005.png", "bad0.png"))
    index = index_of(store)
    assert (len(index.stored) > 0) is (unindexed == 1)
    names = ["00000.png", "00004.png", "00005.png", "bad0.png", "bad4.png", "absent.png"]
    held = index.by_key(digests(names))
    assert held.found.tolist() == [True, True, False, True, True, False]
    assert [index.markers[at].run_id for at in held.commit[[0, 1]]] == [RUNS[2], RUNS[1]]
    assert held.kind[[0, 1, 4]].tolist() == [ROW, ROW, QUARANTINED]
    uris = digests([f"file:///images/{number:05d}.png" for number in range(6)])[:, 0]
    file_versions = versions((10 + number for number in range(6)), ["1"] * 6)
    assert index.has_places(uris, file_versions).tolist() == [True] * 5 + [False]
    assert index.has_versions(file_versions).tolist() == [True] * 5 + [False]
    assert index.count_contents(np.array([0, 4, 5], np.uint64) * 0).tolist() == [11] * 3
    assert index.ledger(store.markers().values()) == store.ledger()


def test_sets_of_like_size_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "UNINDEXED", 1)
    store = make_store(tmp_path / "store")
    for number in range(8):
        add(store, 4 * number, f"2026010{number + 1}T000000000000Z-a")
        index_of(store).extend(store.storage, f"run{number}")
        assert len(list((tmp_path / "store/index").iterdir())) <= 3
    held = index_of(store).by_key(digests(f"{number:05d}.png" for number in range(33)))
    assert held.found.tolist() == [True] * 32 + [False]


def test_a_set_that_was_not_finished_is_read_from_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "UNINDEXED", 1)
    store = make_store(tmp_path / "store")
    add(store, 0, RUNS[0])
    index_of(store).extend(store.storage, RUNS[0])
    (folder,) = (tmp_path / "store/index").iterdir()
    (folder / f"{COMMITS}.npy").unlink()
    index = index_of(store)
    assert not index.stored
    assert index.by_key(digests(["00000.png"])).found.all()


def test_a_deleted_commit_counts_no_more(tmp_path, unindexed):
    store = make_store(tmp_path / "store")
    marker = add(store, 0, RUNS[0])
    add(store, 4, RUNS[0])
    index_of(store).extend(store.storage, RUNS[0])
    (tmp_path / f"store/markers/{marker.chunk_id}.json").unlink()
    index = index_of(store)
    assert index.by_key(digests(["00000.png", "00004.png"])).found.tolist() == [False, True]
    assert index.ledger(store.markers().values()) == store.ledger()


def test_two_runs_that_index_the_same_commits_count_them_once(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "UNINDEXED", 1)
    store = make_store(tmp_path / "store")
    add(store, 0, RUNS[0])
    first = index_of(store)
    add(store, 4, RUNS[1])
    second = index_of(store)
    first.extend(store.storage, RUNS[0])
    second.extend(store.storage, RUNS[1])
    index = index_of(store)
    assert not index.fresh
    assert index.count_contents(np.zeros(1, np.uint64)).tolist() == [8]
    assert index.ledger(store.markers().values()) == store.ledger()
