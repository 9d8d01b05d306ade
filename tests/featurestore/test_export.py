"""Embeddings leave the store as .npy and Parquet, in one order; other readers see float lists."""

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from support.commands import ROOT, assert_one_line_error
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore.errors import RunFailed, UsageError
from featurestore.export import ExportOptions, export
from featurestore.io.storage import Storage


def features_of(count: int, shape=(8,)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def build(url, spec=None, counts=(30, 20), **options):
    store = make_store(url, spec, **options)
    everything = features_of(sum(counts), store.spec.feature_shape)
    start = 0
    for count in counts:
        add_chunk(store, make_rows(count, start), everything[start : start + count])
        start += count
    return store, everything


def read_back(folder: Path) -> tuple[np.ndarray, list[dict]]:
    """Reads an export as embedding-reader does: both folders by name, paired one by one."""
    arrays = sorted((folder / "img_emb").glob("*.npy"))
    tables = sorted((folder / "metadata").glob("*.parquet"))
    assert [path.stem.split("_")[-1] for path in arrays] == [
        path.stem.split("_")[-1] for path in tables
    ]
    loaded = [np.load(path, mmap_mode="r", allow_pickle=False) for path in arrays]
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    return np.concatenate(loaded), rows


@pytest.mark.parametrize("per_file", [1, 5, 7, 49, 50, 51])
def test_rows_and_metadata_are_in_one_order(tmp_path, per_file):
    store, features = build(tmp_path / "s")
    facts = export(store, Storage(str(tmp_path / "e")), ExportOptions(rows_per_file=per_file))
    got, rows = read_back(tmp_path / "e")
    np.testing.assert_array_equal(got, features)
    assert [row["key"] for row in rows] == [row["key"] for row in make_rows(50)]
    first = make_rows(1)[0]
    assert rows[0] == {
        name: first[name] for name in ("key", "uri", "labels", "split", "content_hash", "view")
    }
    assert facts["rows"] == 50 and facts["files"] == -(-50 // per_file)
    assert json.loads((tmp_path / "e" / "summary.json").read_text()) == facts
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "img_emb",
        "metadata",
        "summary.json",
    ]


def test_a_single_file_has_clip_retrievals_name(tmp_path):
    store, _ = build(tmp_path / "s")
    export(store, Storage(str(tmp_path / "e")), ExportOptions())
    assert (tmp_path / "e/img_emb/img_emb_0.npy").exists()
    assert (tmp_path / "e/metadata/metadata_0.parquet").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_header_is_as_embedding_reader_expects(tmp_path, dtype):
    """It finds shape and dtype by these expressions in the first 300 bytes."""
    store, features = build(tmp_path / "s")
    export(store, Storage(str(tmp_path / "e")), ExportOptions(dtype=dtype))
    path = tmp_path / "e/img_emb/img_emb_0.npy"
    line = path.read_bytes()[:300].split(b"\n")[0]
    assert re.search(r"'shape': \(([0-9]+), ([0-9]+)\)", str(line)).groups() == ("50", "8")
    kind = re.search(r"'descr': '([<f0-9]+)'", str(line)).group(1)
    rows = np.frombuffer(path.read_bytes()[len(line) + 1 :], kind).reshape(50, 8)
    np.testing.assert_array_equal(rows, features.astype(dtype))


def test_the_stored_dtype_is_kept(tmp_path):
    store, features = build(tmp_path / "s", make_spec(dtype="float16"))
    export(store, Storage(str(tmp_path / "e")), ExportOptions())
    got, _ = read_back(tmp_path / "e")
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, features.astype(np.float16))


def test_splits_and_views_are_chosen(tmp_path):
    store = make_store(tmp_path / "s", make_spec(views=2, augment="flip"))
    rows = [row for view in range(2) for row in make_rows(8, view=view)]
    add_chunk(store, rows, features_of(16))

    def views_of(name, **settings):
        export(store, Storage(str(tmp_path / name)), ExportOptions(**settings))
        return [(row["split"], row["view"]) for row in read_back(tmp_path / name)[1]]

    assert {view for _, view in views_of("plain")} == {0}
    assert len(views_of("all", views=None)) == 16
    assert views_of("test", splits=("test",)) == [("test", 0)] * 2
    with pytest.raises(UsageError, match="did you mean test"):
        views_of("typo", splits=("tset",))


def test_maps_are_flattened_only_on_demand(tmp_path, command):
    store, features = build(tmp_path / "s", make_spec((2, 2, 3), "float16"))
    done = command("featurestore", "export", "s", "--output", "e")
    assert_one_line_error(done, 2, "--flatten", "2x2x3")
    export(store, Storage(str(tmp_path / "e")), ExportOptions(flatten=True))
    got, _ = read_back(tmp_path / "e")
    np.testing.assert_array_equal(got, features.reshape(50, 12).astype(np.float16))


def test_an_export_never_mixes_with_another(tmp_path, command):
    build(tmp_path / "s")
    assert command("featurestore", "export", "s", "--output", "e").code == 0
    done = command("featurestore", "export", "s", "--output", "e")
    assert_one_line_error(done, 2, "holds an export already")


@pytest.mark.parametrize("output", ["s", "s/", "s/export", "s/../s", "link/export"])
def test_an_export_never_goes_into_its_own_store(tmp_path, output):
    """Its summary.json would replace the store's."""
    store, *_ = build(tmp_path / "s")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    before = sorted(path for path in (tmp_path / "s").rglob("*"))
    with pytest.raises(UsageError, match="--output: .* the feature store itself"):
        export(store, Storage(f"{tmp_path}/{output}"), ExportOptions())
    assert sorted(path for path in (tmp_path / "s").rglob("*")) == before


def test_values_that_do_not_fit_are_refused(tmp_path):
    store = make_store(tmp_path / "s")
    features = features_of(4)
    features[0, 0] = 1e5
    add_chunk(store, make_rows(4), features)
    with pytest.raises(RunFailed, match="--dtype float32"):
        export(store, Storage(str(tmp_path / "e")), ExportOptions(dtype="float16"))
    assert not list((tmp_path / "e").rglob("*.npy"))


def test_the_command_tells_what_it_wrote(tmp_path, command):
    build(tmp_path / "s")
    done = command("featurestore", "export", "s", "--output", "e", "--splits", "train", "--json")
    facts = json.loads(done.out)
    assert done.code == 0 and done.err == "" and facts["rows"] == 13 and facts["dimension"] == 8
    done = command("featurestore", "export", "s", "--output", "f", "--rows_per_file", "20")
    assert "50 rows of 8 float32 written to 3 files" in done.out
    for flags, word in (
        (("--rows_per_file", "0"), "--rows_per_file"),
        (("--dtype", "float61"), "float16"),
        (("--output", "s/store.json"), "--output"),
    ):
        arguments = ("--output", "g", *flags)
        assert_one_line_error(command("featurestore", "export", "s", *arguments), 2, word)
    make_store(tmp_path / "empty")
    done = command("featurestore", "export", "empty", "--output", "g")
    assert_one_line_error(done, 2, "nothing to export")


def test_an_export_goes_to_s3(bucket):
    url, options = bucket
    store, features = build(f"{url}/s", **options)
    output = Storage(f"{url}/e", options)
    export(store, output, ExportOptions(rows_per_file=30))
    names = [file.name for file in output.list("img_emb")]
    assert names == ["img_emb_0.npy", "img_emb_1.npy"]
    with output.open("img_emb/img_emb_1.npy") as file:
        np.testing.assert_array_equal(np.load(file), features[30:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_duckdb_polars_and_pandas_see_lists_of_floats(tmp_path, dtype):
    store, features = build(tmp_path / "s", make_spec(dtype=dtype))
    features = features.astype(dtype).astype(np.float32)
    parts = str(tmp_path / "s" / "parts" / "*.parquet")
    rows = duckdb.sql(f"select features, labels from '{parts}' order by key").fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows], np.float32), features)
    assert rows[1][1] == ["1"]
    typed = duckdb.sql(f"select list_sum(features) from '{parts}' order by key").fetchall()
    np.testing.assert_allclose([row[0] for row in typed], features.sum(1), rtol=1e-4, atol=1e-5)
    frame = pl.read_parquet(parts).sort("key")
    assert frame.schema["features"] in (pl.List(pl.Float32), pl.Array(pl.Float32, 8))
    np.testing.assert_array_equal(np.array(frame["features"].to_list(), np.float32), features)
    frames = [pd.read_parquet(path) for path in (tmp_path / "s" / "parts").iterdir()]
    joined = pd.concat(frames).sort_values("key")
    np.testing.assert_array_equal(np.stack(joined["features"].to_list()), features)


def test_the_lines_in_the_format_document_read_a_map(tmp_path):
    """They are run as they stand there, but for the file's name."""
    store, features = build(tmp_path / "s", make_spec((2, 2, 3), "float16"), counts=(5,))
    document = (ROOT / "docs" / "format.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    (block,) = [block for block in blocks if "pq.read_table" in block]
    lines = [line for line in block.splitlines() if line and not line.startswith("import")]
    assert len(lines) <= 5
    (part,) = (tmp_path / "s" / "parts").iterdir()
    assert block.count("STORE/parts/NAME.parquet") == 1
    names: dict = {}
    exec(block.replace("STORE/parts/NAME.parquet", str(part)), names)
    np.testing.assert_array_equal(names["maps"], features.astype(np.float16))


def test_the_query_in_the_format_document_runs(tmp_path):
    build(tmp_path / "s")
    document = (ROOT / "docs" / "format.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", document, re.DOTALL)
    rows = duckdb.sql(query.replace("STORE/", f"{tmp_path}/s/")).fetchall()
    assert len(rows) == 13 and len(rows[0][2]) == 8
