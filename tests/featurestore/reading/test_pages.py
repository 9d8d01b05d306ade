"""Maps read as they lie on disk equal what Arrow decodes; anything else is left to Arrow."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore.errors import CorruptStore
from featurestore.reading import parts
from featurestore.reading.pages import map_block, plain_block
from featurestore.reading.scan import Scanner, ScanOptions

SHAPE, WIDTH = (2, 2, 3), 24


def written(path, count: int = 600, **settings) -> pq.FileMetaData:
    """Writes maps after a column that shifts them by an odd number of bytes."""
    values = np.arange(count * 12, dtype=np.float16).tobytes()
    maps = pa.Array.from_buffers(pa.binary(WIDTH), count, [None, pa.py_buffer(values)])
    schema = pa.schema(
        [pa.field("key", pa.string()), pa.field("features", pa.binary(WIDTH), nullable=False)]
    )
    keys = pa.array([f"{index:x}" for index in range(count)])
    plain = {"compression": "none", "use_dictionary": False, "row_group_size": 256}
    pq.write_table(pa.Table.from_arrays([keys, maps], schema=schema), path, **{**plain, **settings})
    return pq.read_metadata(path)


@pytest.mark.parametrize("settings", [{}, {"write_statistics": False}, {"row_group_size": 600}])
def test_a_plain_page_is_found(tmp_path, settings):
    path = str(tmp_path / "maps.parquet")
    metadata = written(path, **settings)
    with pq.ParquetFile(path) as file:
        for group in range(metadata.num_row_groups):
            expected = b"".join(file.read_row_group(group)["features"].to_pylist())
            offset, size = plain_block(path, metadata, group, "features", WIDTH)
            got = map_block(path, offset, size, "float16")
            assert got.tobytes() == expected
            assert got.flags.aligned and not got.flags.writeable


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"data_page_size": 1, "write_batch_size": 16},
    ],
)
def test_other_layouts_are_left_to_arrow(tmp_path, settings):
    path = str(tmp_path / "maps.parquet")
    metadata = written(path, **settings)
    assert plain_block(path, metadata, 0, "features", WIDTH) is None


def test_other_columns_and_widths_are_left_to_arrow(tmp_path):
    path = str(tmp_path / "maps.parquet")
    metadata = written(path)
    assert plain_block(path, metadata, 0, "nothing", WIDTH) is None
    assert plain_block(path, metadata, 0, "features", WIDTH - 2) is None


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 4095, 4096, 4097])
def test_arrays_are_aligned_wherever_they_lie(tmp_path, offset, dtype):
    path = tmp_path / "bytes"
    values = np.arange(10, dtype=dtype)
    path.write_bytes(b"x" * offset + values.tobytes())
    got = map_block(str(path), offset, values.nbytes, dtype)
    np.testing.assert_array_equal(got, values)
    assert got.flags.aligned and not got.flags.writeable


def test_an_array_outlives_its_file_and_holds_no_descriptor(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(np.arange(1000, dtype=np.float16).tobytes())
    map_block(str(path), 0, 2000, "float16")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    held = [map_block(str(path), 0, 2000, "float16") for _ in range(50)]
    path.unlink()
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
    assert all(block[999] == 999 for block in held)


def test_a_part_that_was_cut_is_named(tmp_path):
    store = make_store(tmp_path / "s", make_spec(SHAPE, "float16"))
    marker = add_chunk(store, make_rows(300), np.ones((300, *SHAPE), np.float32))
    scan = store.scan(["features"], batch_size=8)
    part = tmp_path / "s" / "parts" / marker.part
    next(scan)
    part.write_bytes(part.read_bytes()[:2000])
    with pytest.raises(CorruptStore, match="cannot be read"):
        store.load(["features"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 1030])
def test_a_store_of_maps_reads_what_arrow_decodes(tmp_path, count, dtype):
    store = make_store(tmp_path / "s", make_spec(SHAPE, dtype))
    values = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    marker = add_chunk(store, make_rows(count), values)
    table = pq.read_table(tmp_path / "s" / "parts" / marker.part)
    expected = np.frombuffer(b"".join(table["features"].to_pylist()), dtype)
    got = store.load(["features"])["features"]
    np.testing.assert_array_equal(got, expected.reshape(count, *SHAPE))
    some = store.load(["key", "features"], labels=["1"])
    np.testing.assert_array_equal(some["features"], values.astype(dtype)[1::3])


@pytest.mark.parametrize("shape", [SHAPE, (6,)], ids=["maps", "embeddings"])
@pytest.mark.parametrize("order", [None, (1,)], ids=["stored", "shuffled"])
def test_the_system_is_asked_for_the_blocks_of_features_before_they_are_read(
    tmp_path, monkeypatch, shape, order
):
    store = make_store(tmp_path / "s", make_spec(feature_shape=shape))
    for start in range(0, 900, 300):
        add_chunk(store, make_rows(300, start), np.full((300, *shape), start, np.float32))
    asked, read, ahead = [], [], []

    def expect(path, offset, size):
        asked.append(offset)
        assert 0 < offset < offset + size < os.path.getsize(path)
        real(path, offset, size)

    real = parts.expect
    monkeypatch.setattr(parts, "expect", expect)
    options = ScanOptions(("key", "features"), batch_size=300, order=order)
    for batch in Scanner(store.storage, store.spec).scan(store.markers().values(), options):
        read.extend(batch["key"])
        ahead.append(len(asked))
    assert len(read) == 900 and sorted(read) == sorted(store.load(["key"])["key"])
    # Once ahead, and once where it is read.
    assert len(asked) == 2 * 3 and ahead[0] > 1
