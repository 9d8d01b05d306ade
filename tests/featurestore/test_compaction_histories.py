"""Whatever the runs of a store did, a compaction between them changes nothing that they hold."""

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stores import add_chunk, make_rows, make_store

from featurestore.checking.verify import verify_storage
from featurestore.commit import write_manifest
from featurestore.compaction.compact import compact
from featurestore.compaction.origins import original_parts

KEYS = 6
# A chunk: for each of its keys, whether the image is written (new or changed) or pruned.
CHUNKS = st.dictionaries(st.integers(0, KEYS - 1), st.booleans(), min_size=1, max_size=4)
# A run: its chunks, and whether a compaction follows.
RUNS = st.lists(st.tuples(st.lists(CHUNKS, min_size=1, max_size=2), st.booleans()), max_size=6)
QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def key(number):
    return f"{number:05d}.png"


class History:
    """A store, and what it should hold: key -> the number of the version that counts."""

    def __init__(self, folder):
        self.store = make_store(folder)
        self.held = {}
        self.versions = itertools.count(1)
        for path in (f"model/{'0' * 32}.keras", "model/probes.parquet"):
            self.store.storage.write(path, b"stands for the base")

    def run(self, number, chunks):
        run_id, touched = f"20260101T0000{number:02d}000000Z-a", set()
        for place, chunk in enumerate(chunks):
            # A run handles each of its images once.
            chunk = {name: kept for name, kept in chunk.items() if name not in touched}
            touched |= chunk.keys()
            self.commit(run_id, f"{number:016x}{place:016x}", chunk)
        write_manifest(self.store.storage, run_id, self.store.markers().values())

    def commit(self, run_id, chunk_id, chunk):
        supersedes = tuple(key(name) for name in chunk if name in self.held)
        rows = []
        for name in (name for name, kept in sorted(chunk.items()) if kept):
            self.held[name] = next(self.versions)
            rows += make_rows(1, name, content_hash=f"{self.held[name]:064x}")
        for name in (name for name, kept in chunk.items() if not kept):
            self.held.pop(name, None)
        if rows or supersedes:
            features = np.array([[self.held[int(row["key"][:5])]] * 8 for row in rows], np.float32)
            changes = {"run_id": run_id, "chunk_id": chunk_id, "supersedes": supersedes}
            add_chunk(self.store, rows, features, **changes)

    def assert_whole(self):
        loaded = self.store.load(["key", "features"])
        found = dict(zip(loaded["key"], loaded["features"][:, 0], strict=True))
        assert len(loaded["key"]) == len(found), "a key twice"
        assert found == {key(name): version for name, version in self.held.items()}
        assert self.store.ledger().rows == len(found)
        assert not [str(finding) for finding in verify_storage(self.store.storage)]


@given(runs=RUNS)
@QUICK
def test_rows_are_those_of_the_runs(tmp_path_factory, runs):
    history = History(tmp_path_factory.mktemp("h") / "store")
    for number, (chunks, compacts) in enumerate(runs):
        history.run(number, chunks)
        if compacts:
            compact(history.store, keep_seconds=0)
            history.assert_whole()
    history.assert_whole()


def test_daily_runs_become_one_part_and_stay_open_to_changes(tmp_path):
    history = History(tmp_path / "store")
    for number in range(KEYS):
        history.run(number, [{number: True}])
    origins = original_parts(history.store.storage, history.store.markers().values())
    done = compact(history.store, keep_seconds=0)
    assert (done.merged, done.parts, len(history.store.markers())) == (KEYS, 1, 1)
    compact(history.store, keep_seconds=0)
    assert original_parts(history.store.storage, history.store.markers().values()) == origins
    history.run(KEYS, [{0: True, 5: False}])
    history.assert_whole()


def test_no_file_of_a_merged_commit_stays_that_was_merged_again(tmp_path):
    history = History(tmp_path / "store")
    for number in range(4):
        history.run(number, [{number: True}])
        compact(history.store)
    assert compact(history.store, keep_seconds=0).waiting == 0
    for folder in ("parts", "markers"):
        assert len(list((tmp_path / "store" / folder).iterdir())) == 1
    history.assert_whole()


def test_a_pruned_image_that_came_back_stays_beside_a_compaction(tmp_path):
    history = History(tmp_path / "store")
    history.run(0, [{0: True}])
    history.run(1, [{0: False, 1: True}, {2: True}])  # prunes, and supersedes with the key of 0
    history.run(2, [{0: True}])  # back, without superseding anything
    history.run(3, [{3: True}])
    assert compact(history.store, keep_seconds=0).merged == 4
    history.assert_whole()
