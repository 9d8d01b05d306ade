"""Reading a store: scans by column, split and label, bounded, by us and by others."""

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import assert_one_line_error
from support.stores import add_chunk, make_rows, make_spec, make_store, memory_growth

from featurestore import open_store
from featurestore.errors import CorruptStore, RunFailed, SpecMismatch, UsageError
from featurestore.labels.overlay import write_overlay

SHAPES = [((8,), "float32"), ((8,), "float16"), ((2, 2, 3), "float16"), ((2, 2, 3), "float32")]


def features_of(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape, dtype", SHAPES)
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1024, 1025])
def test_what_is_written_is_read(tmp_path, shape, dtype, count):
    store = make_store(tmp_path / "s", make_spec(shape, dtype))
    features = features_of(count, shape)
    add_chunk(store, make_rows(count), features)
    got = open_store(str(tmp_path / "s")).load(["key", "labels", "features"])
    expected = features.astype(dtype)
    assert got["features"].dtype == (dtype if store.spec.is_map else "float32")
    np.testing.assert_array_equal(got["features"], expected)
    assert list(got["key"]) == [row["key"] for row in make_rows(count)]
    assert got["labels"][0] == ["0"]


def test_an_empty_store_reads_as_nothing(tmp_path):
    store = make_store(tmp_path / "s")
    assert list(store.scan()) == []
    assert store.load()["features"].shape == (0, 8)
    assert store.split_counts() == {}
    assert store.ledger().images_in == 0


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_batches_are_as_long_as_asked(tmp_path, size):
    store = make_store(tmp_path / "s")
    add_chunk(store, make_rows(10), features_of(10, (8,)))
    batches = list(store.scan(["key"], batch_size=size))
    assert [len(batch["key"]) for batch in batches] == [
        min(size, 10 - start) for start in range(0, 10, size)
    ]


def test_filters_by_split_and_label(tmp_path):
    store = make_store(tmp_path / "s")
    for start in range(0, 40, 10):
        add_chunk(store, make_rows(10, start), features_of(10, (8,)))
    rows = make_rows(40)

    def keys(**filters):
        return list(store.load(["key"], **filters)["key"])

    assert keys() == [row["key"] for row in rows]
    assert keys(splits=["train"]) == [r["key"] for r in rows if r["split"] == "train"]
    assert keys(splits=[None, "test"]) == [r["key"] for r in rows if r["split"] in (None, "test")]
    assert keys(splits=["train"], labels=["0"]) == [
        r["key"] for r in rows if r["split"] == "train" and r["labels"] == ["0"]
    ]
    assert keys(splits=[]) == []
    assert keys(labels=["9"]) == []
    assert store.split_counts() == {"train": 10, "validation": 10, "test": 10, None: 10}


def test_a_moment_of_a_store_stays_as_it_was(tmp_path):
    store = make_store(tmp_path / "s")
    add_chunk(store, make_rows(10), features_of(10, (8,)))
    before = store.at_this_moment()
    # A chunk that sorts first, and a label that changes.
    add_chunk(store, make_rows(10, key="-earlier.png"), features_of(10, (8,)))
    write_overlay(store.storage, iter([("00000.png", ["new"], None)]))
    assert len(store.load(["key"])["key"]) == 20 and store.split_counts() != before.split_counts()
    kept = before.load(["key", "labels"])
    assert list(kept["key"]) == [row["key"] for row in make_rows(10)]
    assert list(kept["labels"][0]) == ["0"] and len(before.markers()) == 1
    assert before.label_versions() == [] and len(store.label_versions()) == 1
    assert before.at_this_moment() is before


def test_another_process_sees_the_same_moment_by_its_names(tmp_path):
    store = make_store(tmp_path / "s")
    add_chunk(store, make_rows(10), features_of(10, (8,)))
    write_overlay(store.storage, iter([("00001.png", ["old"], None)]))
    before = store.at_this_moment()
    names = before.moment.to_json()
    marker = add_chunk(store, make_rows(10, key="-earlier.png"), features_of(10, (8,)))
    write_overlay(store.storage, iter([("00001.png", ["new"], None)]))
    again = open_store(store.url).at_moment(names)
    assert again.markers() == before.markers() and again.markers() != store.markers()
    assert again.label_versions() == before.label_versions()
    assert again.load(["labels"])["labels"].tolist() == before.load(["labels"])["labels"].tolist()
    later = store.at_this_moment().moment.to_json()
    store.storage.remove(f"markers/{marker.chunk_id}.json")
    with pytest.raises(CorruptStore, match="1 commits were deleted"):
        store.at_moment(later)


def test_mistakes_of_readers_are_explained(tmp_path):
    store = make_store(tmp_path / "s")
    add_chunk(store, make_rows(4), features_of(4, (8,)))
    with pytest.raises(UsageError, match="column: unknown value 'label'; did you mean labels"):
        store.scan(["label"])
    with pytest.raises(UsageError, match="unknown value 'tset'; did you mean test"):
        store.require_split("tset")
    with pytest.raises(UsageError, match="no feature store"):
        open_store(str(tmp_path / "nothing"))
    (tmp_path / "s" / "store.json").write_text("{}")
    with pytest.raises(CorruptStore):
        open_store(str(tmp_path / "s"))


def test_another_identity_is_refused_on_creation(tmp_path):
    make_store(tmp_path / "s")
    make_store(tmp_path / "s")
    with pytest.raises(SpecMismatch, match="dtype: float32 -> float16"):
        make_store(tmp_path / "s", make_spec(dtype="float16"))


def test_missing_and_damaged_parts_are_named(tmp_path):
    store = make_store(tmp_path / "s")
    marker = add_chunk(store, make_rows(4), features_of(4, (8,)))
    part = tmp_path / "s" / "parts" / marker.part
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(CorruptStore, match="cannot be read"):
        store.load()
    part.unlink()
    with pytest.raises(CorruptStore, match="is missing; python -m featurestore verify"):
        store.load()


def test_values_beyond_float16_fail_with_the_fix(tmp_path):
    store = make_store(tmp_path / "s", make_spec((2, 2, 3), "float16"))
    features = features_of(1, (2, 2, 3))
    features[0, 0, 0, 0] = 65504
    add_chunk(store, make_rows(1), features)
    features[0, 0, 0, 0] = 65520
    with pytest.raises(RunFailed, match="--dtype float32"):
        add_chunk(store, make_rows(1), features)


def test_other_readers_see_lists_of_floats(tmp_path):
    store = make_store(tmp_path / "s")
    features = features_of(5, (8,))
    marker = add_chunk(store, make_rows(5), features)
    path = tmp_path / "s" / "parts" / marker.part
    rows = duckdb.sql(f"select key, features from '{path}' order by key").fetchall()
    np.testing.assert_allclose(np.array([row[1] for row in rows], np.float32), features)


def test_a_map_is_read_with_plain_pyarrow_and_its_metadata(tmp_path):
    import json

    store = make_store(tmp_path / "s", make_spec((2, 2, 3), "float16"))
    features = features_of(5, (2, 2, 3))
    marker = add_chunk(store, make_rows(5), features)
    table = pq.read_table(tmp_path / "s" / "parts" / marker.part)
    field = table.schema.field("features")
    shape, dtype = json.loads(field.metadata[b"shape"]), field.metadata[b"dtype"].decode()
    maps = np.frombuffer(b"".join(table["features"].to_pylist()), dtype).reshape(-1, *shape)
    np.testing.assert_array_equal(maps, features.astype(np.float16))


def test_info_describes_the_store(tmp_path, command):
    store = make_store(tmp_path / "s")
    bad = {"key": "b", "uri": "u", "size": 0, "etag": "", "kind": "empty", "message": "no bytes"}
    add_chunk(store, make_rows(8), features_of(8, (8,)), [bad])
    done = command("featurestore", "info", "s")
    assert done.code == 0
    assert "8 in 1 parts" in done.out and "empty 1" in done.out
    as_json = command("featurestore", "info", "s", "--json")
    import json

    facts = json.loads(as_json.out)
    assert facts["rows"] == 8 and facts["splits"]["(none)"] == 2
    assert_one_line_error(command("featurestore", "info", "none"), 2, "no feature store")
    assert_one_line_error(command("featurestore", "inof", "s"), 2, "inof")


def test_scanning_keeps_memory_bounded(tmp_path):
    """A store of 200 MB is scanned with less than a quarter of that on top."""
    store = make_store(tmp_path / "s", make_spec((5, 5, 512), "float16"))
    block = features_of(500, (5, 5, 512))
    for start in range(0, 8000, 500):
        add_chunk(store, make_rows(500, start), block)
    scan = "assert sum(len(batch['features']) for batch in store.scan()) == 8000"
    assert memory_growth(store, scan) < 50 << 20
