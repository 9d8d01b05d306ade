"""A snapshot is what the store holds now, for programs that know nothing of this package."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.increments import build, visible
from support.optional import optional
from support.stores import make_spec

from featurestore.__main__ import run as command
from featurestore.compaction.compact import compact
from featurestore.errors import UsageError

# Each prints a line per row: key, labels, split, and the features as numbers or hexadecimal bytes.
READERS = {
    "duckdb": """
import duckdb
rows = duckdb.sql(f"select key, labels, split, features from '{folder}/*.parquet'").fetchall()
""",
    "polars": """
import polars
columns = ["key", "labels", "split", "features"]
rows = polars.scan_parquet(f"{folder}/*.parquet").select(columns).collect().rows()
""",
}
SCRIPT = """
import json, sys
folder = sys.argv[1]
{reader}
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"featurestore", "classifier", "pipelines"}}
for key, labels, split, features in rows:
    numbers = features.hex() if isinstance(features, bytes) else list(features)
    print(json.dumps([key, labels, split, numbers]))
"""


def read_by(reader, folder):
    """Reads a snapshot in a process of its own; returns key -> (labels, split, features)."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT.format(reader=READERS[reader]), str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({key for key, *_ in lines}) == len(lines), "a key twice"
    return {key: rest for key, *rest in lines}


@pytest.mark.parametrize("compacts", [False, True], ids=["", "compacted"])
@pytest.mark.parametrize("dtype", ["embeddings", "float16", "maps"])
@pytest.mark.parametrize("reader", READERS)
def test_other_programs_read_what_the_store_holds(tmp_path, reader, dtype, compacts):
    optional(reader)
    spec = {
        "embeddings": make_spec(),
        "float16": make_spec(dtype="float16"),
        "maps": make_spec((2, 2, 3), "float16"),
    }[dtype]
    store, out = build(tmp_path / "store", spec), tmp_path / "snapshot"
    if compacts:
        compact(store, keep_seconds=0)
    arguments = ["snapshot", store.url, "--output", str(out), "--rows_per_file", "10"]
    assert command(arguments) == 0
    found, loaded = read_by(reader, out), store.load()
    assert found.keys() == set(loaded["key"]) and len(found) == 29
    # The second run superseded this row and wrote no other.
    assert "00000.png" not in found
    for key, labels, split, features in zip(*(loaded[name] for name in loaded), strict=True):
        theirs = found[key][2]
        if isinstance(theirs, str):
            theirs = np.frombuffer(bytes.fromhex(theirs), np.float16).reshape(features.shape)
        assert (found[key][0], found[key][1]) == (list(labels), split), key
        np.testing.assert_array_equal(np.asarray(theirs, features.dtype), features, err_msg=key)
    assert found["00007.png"][:2] == [["relabelled"], "test"]


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
def test_hugging_face_datasets_read_a_snapshot(tmp_path, monkeypatch, streaming):
    """Embeddings come as vectors; maps as bytes, which one line shapes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = optional("datasets")
    for spec in (make_spec(), make_spec((2, 2, 3), "float16")):
        store = build(tmp_path / spec.dtype / "store", spec)
        out = tmp_path / spec.dtype / "snapshot"
        command(["snapshot", store.url, "--output", str(out), "--rows_per_file", "10"])
        rows = datasets.load_dataset(
            "parquet",
            data_files=str(out / "*.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
            streaming=streaming,
        )
        rows = rows.with_format("numpy")
        if spec.is_map:
            shape = spec.feature_shape
            rows = rows.map(
                lambda row, shape=shape: {
                    "features": np.frombuffer(row["features"], np.float16).reshape(shape)
                },
                features=datasets.Features(
                    rows.features | {"features": datasets.Array3D(shape, "float16")}
                ),
            )
        found = {str(row["key"]): row for row in rows}
        loaded = store.load()
        assert found.keys() == set(loaded["key"])
        for key, labels, features in zip(
            loaded["key"], loaded["labels"], loaded["features"], strict=True
        ):
            assert list(found[key]["labels"]) == list(labels)
            assert found[key]["features"].shape == features.shape
            np.testing.assert_array_equal(found[key]["features"], features, err_msg=key)


def test_a_snapshot_holds_what_counts_and_nothing_else(tmp_path, capsys):
    store = build(tmp_path / "store")
    before = visible(store)
    out = tmp_path / "snapshot"
    assert command(["snapshot", store.url, "--output", str(out), "--rows_per_file", "10"]) == 0
    assert "29 rows written to 3 files" in capsys.readouterr().out
    assert sorted(pq.read_table(out)["key"].to_pylist()) == sorted(before)
    with pytest.raises(UsageError, match="is not empty"):
        command(["snapshot", store.url, "--output", str(out)])
