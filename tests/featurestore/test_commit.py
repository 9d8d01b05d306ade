"""The commit protocol: one marker wins, orphans go, the ledger balances."""

import time

import numpy as np
import pytest
from support.stores import add_chunk, find_orphans, make_rows, make_store

from featurestore import layout
from featurestore.commit import Marker, commit, read_markers, write_manifest
from featurestore.compaction.sweep import sweep_store
from featurestore.errors import CorruptStore, RunFailed
from featurestore.layout import HashedName
from featurestore.ledger import Ledger


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def test_the_first_marker_counts_and_the_losers_files_are_swept(store):
    marker = add_chunk(store, make_rows(3), np.ones((3, 8), np.float32))
    loser = HashedName(marker.chunk_id, "f" * 16)
    store.storage.write(f"parts/{loser}", b"another attempt")
    store.storage.write(f"quarantine/{loser}", b"another attempt")
    other = Marker(marker.chunk_id, "run2", "k", part=str(loser), quarantine=str(loser))
    assert commit(store.storage, other) == marker
    assert find_orphans(store.storage, store.markers()) == set()
    assert [file.name for file in store.storage.list("parts")] == [marker.part]


def test_unmarked_files_are_orphans_swept_when_old_or_committed(store):
    young = f"parts/{HashedName('a' * 32, '0' * 16)}"
    store.storage.write(young, b"in flight")
    assert list(find_orphans(store.storage, store.markers())) == [young]
    assert sweep_store(store.storage, [], time.time()) == []
    later = time.time() + 2 * 24 * 3600
    # Without one marker in the store it is the markers that are missing.
    assert sweep_store(store.storage, [], later) == []
    known = [add_chunk(store, make_rows(1), np.ones((1, 8), np.float32))]
    assert sweep_store(store.storage, known, time.time()) == []
    assert sweep_store(store.storage, known, later) == [young]


def test_a_commit_after_the_sweep_has_read_the_markers_keeps_its_files(store):
    known = [add_chunk(store, make_rows(1), np.ones((1, 8), np.float32))]
    add_chunk(store, make_rows(1, 1), np.ones((1, 8), np.float32))
    assert sweep_store(store.storage, known, time.time() + 2 * 24 * 3600) == []


def test_readers_take_manifests_and_newer_markers(store):
    first = add_chunk(store, make_rows(2), np.ones((2, 8), np.float32))
    write_manifest(store.storage, "run", [first])
    second = add_chunk(store, make_rows(2, start=2), np.ones((2, 8), np.float32))
    assert list(read_markers(store.storage).values()) == [first, second]
    store.storage.remove(layout.marker_file(first.chunk_id))
    assert list(read_markers(store.storage).values()) == [first, second]


def test_a_broken_marker_is_named(store):
    store.storage.write("markers/x.json", "{")
    with pytest.raises(CorruptStore, match=r"markers/x\.json: not a marker"):
        read_markers(store.storage)


def test_chunk_ids_change_with_any_member_and_with_order():
    members = [("u1", 1, "e"), ("u2", 2, "e")]
    ids = {
        layout.chunk_id(members),
        layout.chunk_id(members[::-1]),
        layout.chunk_id(members[:1]),
        layout.chunk_id([("u1", 1, "e"), ("u2", 3, "e")]),
        layout.chunk_id([("u1", 1, "e"), ("u2", 2, "f")]),
    }
    assert len(ids) == 5
    assert all(len(chunk_id) == 32 for chunk_id in ids)


@pytest.mark.parametrize("name", ["x.parquet", "0" * 32 + ".parquet", ".DS_Store", ""])
def test_foreign_names_are_not_parsed(name):
    assert HashedName.parse(name) is None


def test_a_ledger_that_does_not_balance_fails_the_run():
    Ledger(10, 7, 2, 1).check("run")
    with pytest.raises(RunFailed, match="10 images in, but 7 rows"):
        Ledger(10, 7, 2, 0).check("run")
    assert Ledger.total([Ledger(1, 1), Ledger(2, 1, 1)]) == Ledger(3, 2, 1)
    assert Ledger.total([]) == Ledger()
