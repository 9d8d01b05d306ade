"""Embeddings decoded without their levels equal what Arrow decodes; the rest is left to Arrow."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore.errors import HoarfrostError
from featurestore.reading import parts
from featurestore.reading.splits import split_lists

LENGTH = 300
USUAL = {
    "use_byte_stream_split": ["features.list.element"],
    "use_dictionary": False,
    "compression": "zstd",
    "row_group_size": 1000,
}


def written(path, count=1700, length=LENGTH, **changes):
    """Writes lists in pages of 1 MiB or so; returns the footer."""
    values = np.random.default_rng(count).normal(size=(count, length)).astype(np.float32)
    values[::2] = 0
    element = pa.field("element", pa.float32(), nullable=False)
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), type=pa.list_(element, length)
    )
    schema = pa.schema([pa.field("features", lists.type, nullable=False)])
    pq.write_table(pa.Table.from_arrays([lists], schema=schema), path, **USUAL | changes)
    return pq.read_metadata(path)


@pytest.mark.parametrize("count, length", [(1, 1), (7, 3), (1700, LENGTH), (1001, 1280)])
@pytest.mark.parametrize("changes", [{}, {"write_statistics": False}, {"data_page_size": 999}])
def test_lists_are_what_arrow_decodes(tmp_path, count, length, changes):
    path = str(tmp_path / "lists.parquet")
    metadata = written(path, count, length, **changes)
    with pq.ParquetFile(path) as file:
        for group in range(metadata.num_row_groups):
            column = file.read_row_group(group)["features"].combine_chunks()
            got = split_lists(path, metadata, group, "features", length)
            assert got.dtype == np.float32 and not got.flags.writeable
            np.testing.assert_array_equal(got.ravel(), column.flatten().to_numpy())


def test_a_dot_in_the_name_of_another_column_is_no_nesting(tmp_path):
    path = str(tmp_path / "lists.parquet")
    written(path, 7)
    with pq.ParquetFile(path) as file:
        table = file.read()
    other = pc.negate(table["features"].combine_chunks().flatten())
    other = pa.FixedSizeListArray.from_arrays(other, type=table["features"].type)
    both = pa.table({"features.k": other, "features": table["features"]})
    usual = USUAL | {"use_byte_stream_split": True}
    pq.write_table(both, path, **usual)
    metadata = pq.read_metadata(path)
    got = split_lists(path, metadata, 0, "features", LENGTH)
    np.testing.assert_array_equal(got.ravel(), table["features"].combine_chunks().flatten())


@pytest.mark.parametrize(
    "changes",
    [
        {"compression": "none"},
        {"compression": "lz4"},
        {"use_byte_stream_split": False},
        {"use_byte_stream_split": False, "use_dictionary": True},
        {"data_page_version": "2.0"},
    ],
)
def test_other_layouts_are_left_to_arrow(tmp_path, changes):
    path = str(tmp_path / "lists.parquet")
    metadata = written(path, 20, **changes)
    assert split_lists(path, metadata, 0, "features", LENGTH) is None


def test_other_columns_and_lengths_are_left_to_arrow(tmp_path):
    path = str(tmp_path / "lists.parquet")
    metadata = written(path, 20)
    assert split_lists(path, metadata, 0, "nothing", LENGTH) is None
    assert split_lists(path, metadata, 0, "features", LENGTH - 1) is None


@settings(derandomize=True, max_examples=60, deadline=None)
@given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_is_left_to_arrow(tmp_path_factory, at, byte, cut):
    """A damaged header or page gives numbers of the right shape, or nothing; never an error."""
    path = tmp_path_factory.mktemp("damaged") / "lists.parquet"
    metadata = written(path, 20, 8)
    data = bytearray(path.read_bytes())
    at += metadata.row_group(0).column(0).data_page_offset
    data[at : None if cut else at + 1] = b"" if cut else bytes([byte])
    path.write_bytes(data)
    got = split_lists(str(path), metadata, 0, "features", 8)
    assert got is None or (not cut and got.shape == (20, 8))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1030])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_of_embeddings_is_read_this_way(tmp_path, monkeypatch, count, dtype):
    store = make_store(tmp_path / "s", make_spec((40,), dtype))
    values = np.random.default_rng(0).normal(size=(count, 40)).astype(np.float32)
    add_chunk(store, make_rows(count), values)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "decode_columns", None)
        got = store.load(["features"])["features"]
    np.testing.assert_array_equal(got, values.astype(dtype).astype(np.float32))


def test_a_part_that_was_cut_is_named(tmp_path):
    store = make_store(tmp_path / "s", make_spec((400,)))
    values = np.random.default_rng(0).normal(size=(1030, 400)).astype(np.float32)
    marker = add_chunk(store, make_rows(1030), values)
    scan = store.scan(["features"], batch_size=8)
    next(scan)
    part = tmp_path / "s" / "parts" / marker.part
    part.write_bytes(part.read_bytes()[:2000])
    with pytest.raises(HoarfrostError, match="cannot be read"):
        store.load(["features"])
