"""Parquet with an image column: plain, and as Hugging Face datasets write it."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.images import png_bytes
from support.optional import optional
from support.shards import facts
from support.shards import read_shards as read

from classifier.inputs import Ignored, InputOptions, iter_shard, list_inputs
from classifier.inputs.formats.parquet import find_columns

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


def write(path, columns, **settings):
    pq.write_table(pa.table(columns), path, **settings)
    return path


def test_plain_binary_with_text_labels(tmp_path):
    path = write(
        tmp_path / "train-0.parquet",
        {
            "id": [1, 2, 3],
            "image": [PNG, PNG + b"2", None],
            "label": ["cat", None, "dog"],
            "filename": ["cat/1.png", "cat/1.png", ""],
            "split": [None, "test", None],
        },
    )
    found, _, damage = read(path)
    assert damage is None
    assert facts(found) == [
        ("train-0.parquet/cat/1.png", ("cat",), "train"),
        ("train-0.parquet/1", (), "test"),
        ("train-0.parquet/2", ("dog",), "train"),
    ]
    assert [data for _, data in found[:2]] == [PNG, PNG + b"2"]
    assert isinstance(found[2][1], OSError) and "no image bytes" in str(found[2][1])


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary()])
def test_numbers_several_labels_and_memory(kind):
    table = pa.table(
        {"jpg": pa.array([PNG] * 3, kind), "labels": [[1, 2], [], None], "noise": [b"x"] * 3}
    )
    with fsspec.open("memory://tables/a.parquet", "wb") as sink:
        pq.write_table(table, sink)
    found, _, _ = read("memory://tables/a.parquet")
    assert [ref.labels for ref, _ in found] == [("1", "2"), (), ()]
    assert {data for _, data in found} == {PNG}


def test_what_hugging_face_datasets_write(tmp_path):
    datasets = optional("datasets")
    names = ["tabby", "beagle", "koi"]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    images = [{"bytes": PNG, "path": f"{i}.png"} for i in range(5)]
    data = datasets.Dataset.from_dict(
        {"image": images, "label": [2, 0, 1, None, 2]}, features=features
    )
    data.to_parquet(tmp_path / "test-00000-of-00001.parquet")
    found, _, damage = read(tmp_path / "test-00000-of-00001.parquet")
    assert damage is None and all(content == PNG for _, content in found)
    assert facts(found) == [
        (f"test-00000-of-00001.parquet/{i}.png", labels, "test")
        for i, labels in enumerate([("koi",), ("tabby",), ("beagle",), (), ("koi",)])
    ]


@pytest.mark.parametrize("several", [False, True])
def test_class_labels_of_another_name_and_in_lists(tmp_path, several):
    datasets = optional("datasets")
    label = datasets.ClassLabel(names=["red", "green"])
    kind = datasets.Sequence(label) if several else label
    features = datasets.Features({"picture": datasets.Image(), "colour": kind})
    value = [[1, 0]] if several else [1]
    data = datasets.Dataset.from_dict(
        {"picture": [{"bytes": PNG, "path": None}], "colour": value}, features=features
    )
    data.to_parquet(tmp_path / "a.parquet")
    found, _, _ = read(tmp_path / "a.parquet")
    labels = ("green", "red") if several else ("green",)
    assert facts(found) == [("a.parquet/0", labels, None)]


def test_a_withheld_label_is_none(tmp_path):
    info = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [PNG] * 3, "label": [-1, 1, 9]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [ref.labels for ref, _ in read(tmp_path / "a.parquet")[0]] == [(), ("b",), ("9",)]


def test_a_table_without_images_is_ignored_and_named(tmp_path):
    write(tmp_path / "metadata.parquet", {"file": ["a"], "width": [3]})
    found, ignored, damage = read(tmp_path)
    assert (found, ignored.names, damage) == ([], ["metadata.parquet"], None)


@pytest.mark.parametrize(
    "columns, image",
    [
        ({"a": pa.binary()}, "a"),
        ({"a": pa.binary(), "b": pa.binary()}, None),
        ({"a": pa.binary(), "img": pa.struct({"bytes": pa.binary(), "path": pa.string()})}, "img"),
        ({"a": pa.struct({"path": pa.string()}), "b": pa.string()}, None),
        ({}, None),
    ],
)
def test_the_image_column_is_found(columns, image):
    found = find_columns(pa.schema(list(columns.items())))
    assert (found.image if found else None) == image


def damaged_file(path, **settings):
    noise = np.random.default_rng(0).bytes
    rows = [PNG + noise(2000) for _ in range(30)]
    write(path, {"image": rows, "label": ["a"] * 30}, row_group_size=10, **settings)
    return rows


@pytest.mark.parametrize("cut", [0, 3, 0.2, 0.5, 0.9, -1, -8, -100])
def test_a_cut_file_is_damaged_at_once(tmp_path, cut):
    damaged_file(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    cut = int(cut * len(data)) if isinstance(cut, float) else cut % len(data)
    (tmp_path / "a.parquet").write_bytes(data[:cut])
    found, _, damage = read(tmp_path / "a.parquet")
    assert found == [] and damage.offset == cut
    assert "end of the Parquet file cannot be read" in str(damage) and "\n" not in str(damage)


@pytest.mark.parametrize("settings", [{"write_page_checksum": True}, {"compression": "gzip"}])
def test_a_flipped_byte_costs_its_row_group_only(tmp_path, settings):
    rows = damaged_file(tmp_path / "a.parquet", use_dictionary=False, **settings)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    at = group.data_page_offset + group.total_compressed_size // 2
    data[at] ^= 0x55
    (tmp_path / "a.parquet").write_bytes(data)
    found, _, damage = read(tmp_path / "a.parquet")
    assert [content for _, content in found] == rows[:10] + rows[20:]
    assert facts(found)[10][0] == "a.parquet/20"
    assert "row group 1 of 3 is damaged" in str(damage)
    assert damage.offset == group.data_page_offset


def test_a_shard_that_is_gone_is_an_os_error(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": [PNG]})
    (shard,) = list_inputs([str(path)], InputOptions())
    path.unlink()
    with pytest.raises(FileNotFoundError):
        list(iter_shard(shard, None, Ignored()))
