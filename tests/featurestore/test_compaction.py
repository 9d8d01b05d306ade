"""Compaction merges small parts; whatever happens to it, readers see the same rows."""

import itertools
import json
import os

import numpy as np
import pytest
from support.increments import build, visible
from support.stores import add_chunk, find_orphans, make_rows, make_spec

from featurestore import open_store
from featurestore.__main__ import run as command
from featurestore.checking.verify import verify_storage
from featurestore.commit import read_markers, write_manifest
from featurestore.compaction.compact import compact
from featurestore.compaction.sweep import sweep_store
from featurestore.compaction.turn import TURN
from featurestore.errors import UsageError
from featurestore.index.index import Index
from featurestore.io.drafts import draft_name

SPECS = {"embeddings": make_spec(), "maps": make_spec((2, 2, 3), "float16")}


def seen(store):
    bad = sorted(row["key"] for row in store.quarantined())
    counts = store.ledger()
    return visible(store), bad, (counts.images_in, counts.rows, counts.quarantined)


def assert_clean(store):
    assert not [str(finding) for finding in verify_storage(store.storage)]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_readers_see_the_same_rows_in_fewer_parts(tmp_path, spec):
    store = build(tmp_path / "store", spec)
    before, commits = seen(store), len(store.markers())
    done = compact(store)
    # The commit that supersedes keys is merged with none of another run.
    assert (done.merged, done.parts, done.dropped) == (5, 1, 1)
    assert len(store.markers()) == 2 < commits
    assert {m.run_id for m in store.markers().values()} == {"20260101T000001000000Z-a"}
    assert seen(store) == before
    assert_clean(store)


def test_a_second_compaction_removes_what_no_reader_can_need(tmp_path):
    store = build(tmp_path / "store")
    before = seen(store)
    assert compact(store).waiting == 5
    assert compact(store, keep_seconds=0).removed >= 10
    assert len(list((tmp_path / "store/parts").iterdir())) == 2
    assert len(list((tmp_path / "store/markers").iterdir())) == 2
    assert seen(store) == before
    assert_clean(store)
    assert compact(store, keep_seconds=0).merged == 0


def test_a_reader_goes_on_with_the_parts_that_it_began_with(tmp_path):
    store = build(tmp_path / "store")
    reader = store.at_this_moment()
    names = reader.moment.to_json()
    rows = reader.scan(["key", "features"], batch_size=2)
    first = next(rows)["key"].tolist()
    before = visible(store)
    compact(store)
    sweep_store(store.storage, store.markers().values(), 2e9)
    keys = [*first, *itertools.chain.from_iterable(batch["key"] for batch in rows)]
    assert sorted(keys) == sorted(before)
    assert visible(store.at_moment(names)) == before


@pytest.mark.parametrize("step", range(40))
def test_a_compaction_killed_at_any_step_is_finished_by_the_same_command(
    tmp_path, monkeypatch, step
):
    store = build(tmp_path / "store")
    before = seen(store)
    left = [step]

    class Killed(BaseException):
        """Stands for the end of the process."""

    def counting(function):
        def call(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*args, **options)

        return call

    storage = type(store.storage)
    with monkeypatch.context() as patched:
        for name in ("publish", "create", "write", "remove"):
            patched.setattr(storage, name, counting(getattr(storage, name)))
        try:
            compact(store, keep_seconds=0)
        except Killed:
            pass
    # A killed process leaves its turn behind; a dead process of this machine loses it.
    if store.storage.exists(TURN):
        owner = draft_name().replace(f"-{os.getpid()}-", "-999999999-")
        store.storage.write(TURN, f"{owner} 0")
    assert seen(store) == before
    compact(store, keep_seconds=0)
    compact(store, keep_seconds=0)
    assert seen(store) == before
    assert_clean(store)
    assert not find_orphans(store.storage, read_markers(store.storage))


def test_commits_that_an_unfinished_run_counts_on_stay(tmp_path):
    store = build(tmp_path / "store")
    store.storage.write("plans/20260101T000000500000Z-b/facts.json", "{}")
    assert compact(store).merged == 0
    store.storage.write(
        "runs/20260101T000001000000Z-a.json", json.dumps({"finished": "2025-12-31T00:00:00Z"})
    )
    assert compact(store).merged == 5


def test_large_parts_and_commits_of_shards_stay(tmp_path):
    store = build(tmp_path / "store", chunks=4)
    source = {"key": "a.tar", "uri": "file:///a.tar", "size": 9, "etag": "1"}
    features = np.zeros((5, 8), np.float32)
    for number in (4, 5):
        add_chunk(store, make_rows(5, 5 * number), features, source=source)
    write_manifest(store.storage, "run", list(store.markers().values()))
    smallest = min(marker.part_bytes for marker in store.markers().values())
    assert compact(store, smallest).merged == 0
    assert compact(store).merged == 4


def test_one_compaction_works_at_a_time(tmp_path):
    store = build(tmp_path / "store")
    store.storage.write(TURN, f"{draft_name()} 99999999999")
    with pytest.raises(UsageError, match="another compaction works on this store"):
        compact(store)


def test_an_index_hides_what_was_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore.index.stored.UNINDEXED", 1)
    store = build(tmp_path / "store")

    def contents(index):
        rows = [columns["content"][r] for columns in index.sets for r in index.live_rows(columns)]
        return sorted(np.concatenate(rows).tolist())

    index = Index.read(store.storage, store.markers().values())
    index.extend(store.storage, "run")
    before = contents(index)
    assert not Index.read(store.storage, store.markers().values()).fresh
    compact(store, keep_seconds=0)
    index = Index.read(store.storage, store.markers().values())
    assert contents(index) == before
    assert not index.fresh
    assert index.ledger(store.markers().values()).rows == store.ledger().rows


def test_the_command_says_what_it_did(tmp_path, capsys):
    store = build(tmp_path / "store")
    assert command(["compact", store.url, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["merged"], facts["parts"], facts["waiting"]) == (5, 1, 5)
    assert open_store(store.url).markers()
