"""What counts in a store: agreed on by the ledger, a scan, info and verify, in whatever order."""

import itertools

import numpy as np
import pytest
from support.stores import add_chunk, make_rows, make_store

from featurestore import layout
from featurestore.checking.verify import verify_storage
from featurestore.commit import write_manifest
from featurestore.info import describe
from featurestore.ledger import superseded_ledger


def features_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def superseding(run_id, keys, kind="row"):
    """What a marker says that superseded images, all of one kind."""
    return {
        "run_id": run_id,
        "supersedes": tuple(keys),
        "superseded": superseded_ledger({kind: len(keys)}),
    }


def quarantined(rows):
    facts = ("key", "uri", "size", "etag")
    reason = {"kind": "truncated", "message": "its end is missing"}
    return [{**{name: row[name] for name in facts}, **reason} for row in rows]


RUNS = {
    # Two runs at once changed two images; one found one of them damaged.
    "b": lambda rows: (rows[:2], [], superseding("b", ["00000.png", "00001.png"])),
    "c": lambda rows: (rows[:1], rows[1:2], superseding("c", ["00000.png", "00001.png"])),
    # Two pruned the same, of which one was pruned of what the others wrote.
    "d": lambda rows: ([], [], superseding("d", ["00001.png", "00002.png"])),
    "e": lambda rows: ([], [], superseding("e", ["00002.png", "00009.png"])),
    "f": lambda rows: ([], [], superseding("f", ["00009.png"], "quarantined")),
}


@pytest.mark.parametrize("order", list(itertools.permutations(RUNS))[::8])
@pytest.mark.parametrize("manifest", [False, True])
def test_what_several_runs_superseded_at_once_is_subtracted_once(order, manifest, tmp_path):
    store, rows = make_store(tmp_path / "s"), make_rows(10)
    for name in (layout.PROBES, layout.model_file(store.spec.base.weights_hash)):
        store.storage.write(name, b"there")
    add_chunk(store, rows[:9], features_of(9), quarantined(rows[9:]), run_id="a")
    for name in order:
        good, bad, changes = RUNS[name](rows)
        add_chunk(store, good, features_of(len(good)), quarantined(bad), **changes)
    if manifest:
        write_manifest(store.storage, "z", store.markers().values())
    ledger, facts = store.ledger(), describe(store)
    # Left: image 0 of c and 3 to 8 of a; 1 and 2 are pruned, 9 too.
    assert (ledger.images_in, ledger.rows, ledger.quarantined) == (7, 7, 0)
    assert len(store.load(["key"])["key"]) == 7 and not list(store.quarantined())
    assert (facts["rows"], facts["quarantined"], facts["images_in"]) == (7, 0, 7)
    assert list(verify_storage(store.storage)) == []
