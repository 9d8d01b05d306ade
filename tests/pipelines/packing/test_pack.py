"""Packing: the same keys, labels, splits and bytes there and back; every image accounted for."""

import json
import os
import tarfile

import fsspec
import numpy as np
import pytest
from support.commands import assert_one_line_error
from support.images import png_bytes
from support.optional import optional

from classifier.inputs import (
    Ignored,
    ImageRef,
    InputOptions,
    iter_shard,
    list_inputs,
    read_many,
)
from featurestore.errors import UsageError
from pipelines.pack import PackOptions, pack, problems_of

SHARDS = ("tar", "tfrecord", "parquet")


def png(seed):
    return png_bytes(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8))


def make_tree(root, names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def run(source, output, kind, **settings):
    sources = source if isinstance(source, tuple) else (source,)
    options = PackOptions(tuple(map(str, sources)), str(output), kind, **settings)
    record = pack(options)
    return record, problems_of(options, record)


def contents(*uris):
    """Returns path without the shard -> (labels, split, bytes)."""
    found = {}
    for ref in list_inputs([str(uri) for uri in uris], InputOptions()):
        if isinstance(ref, ImageRef):
            items = [(ref, read_many([ref])[0], ref.key)]
        else:
            items = [
                (image, data, image.key.removeprefix(ref.key + "/"))
                for image, data in iter_shard(ref, None, Ignored())
            ]
        for image, data, path in items:
            assert path not in found
            found[path] = (image.labels, image.split, data)
    return found


TREES = {
    "class": ["cat/1.png", "cat/1.jpg", "cat/deep/2.png", "dog/a.v2.png", "dog/a.v3.png",
              "dog/photo", "top.png", "\u00e9t\u00e9/\u00fc 1.png"],
    "split": ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "test/4.png"],
    "flat": ["1.png", "2.png", "10.png"],
    "one": ["cat/1.png"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SHARDS)
@pytest.mark.parametrize("tree", list(TREES))
@pytest.mark.parametrize("shard_size", [1, 3, 1000])
def test_there_and_back_again(tmp_path, kind, tree, shard_size):
    source = make_tree(tmp_path / "photos", TREES[tree])
    (source / "notes.txt").write_text("x")
    expected = contents(source)
    record, (problems, code) = run(source, tmp_path / "shards", kind, shard_size=shard_size)
    assert (problems, code) == ([], 0)
    count = len(TREES[tree])
    assert record["ledger"] == {
        "images_in": count, "packed": count, "unreadable": 0, "ignored": 1, "damaged_shards": 0,
    }  # fmt: skip
    assert record["ignored"] == ["notes.txt"]
    assert record == json.loads((tmp_path / "shards" / "pack.json").read_text())
    files = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert (
        files == sorted(["pack.json", *record["files"]]) and sum(record["files"].values()) == count
    )
    assert max(record["files"].values()) <= shard_size
    assert contents(tmp_path / "shards") == expected

    back, (problems, code) = run(tmp_path / "shards", tmp_path / "again", "folder")
    assert (problems, code) == ([], 0) and back["labels_in_folders"]
    assert contents(tmp_path / "again") == expected
    assert not (tmp_path / "again" / "labels.csv").exists()


@pytest.mark.parametrize("kind", SHARDS)
def test_from_one_format_to_the_next_on_memory(tmp_path, kind):
    source = make_tree(tmp_path / "photos", TREES["split"])
    base = f"memory://pack-{kind}"
    run(source, f"{base}/a", kind)
    for number, other in enumerate(SHARDS):
        run(f"{base}/a", f"{base}/{number}", other)
        assert contents(f"{base}/{number}") == contents(source)
    run(f"{base}/0", f"{base}/folder", "folder")
    assert contents(f"{base}/folder") == contents(source)
    assert not [
        path for path in fsspec.filesystem("memory").find(f"/pack-{kind}") if ".packing" in path
    ]


@pytest.mark.parametrize("kind", SHARDS)
def test_several_labels_and_other_splits_go_along(tmp_path, kind):
    make_tree(tmp_path, ["a/1.png", "a/1.jpg", "b/2.png", "c/3.png"])
    (tmp_path / "list.csv").write_text(
        "path,label,split\na/1.png,x,fold 1\na/1.png,y/z,fold 1\na/1.jpg,x,\nb/2.png,,test\n"
        "c/3.png,q,\n"
    )
    expected = contents(tmp_path / "list.csv")
    assert expected["a/1.png"][:2] == (("x", "y/z"), "fold 1")
    assert expected["b/2.png"][:2] == ((), "test")
    record, _ = run(tmp_path / "list.csv", tmp_path / "shards", kind)
    found = contents(tmp_path / "shards")
    assert found == expected
    assert record["classes"] == ([] if kind == "parquet" else record["classes"])
    back, _ = run(tmp_path / "shards", tmp_path / "again", "folder")
    assert not back["labels_in_folders"]
    from classifier.inputs.labels import LabelTable

    table = LabelTable.read(str(tmp_path / "again" / "labels.csv"))
    by_bytes = {data: labels for labels, _, data in expected.values()}
    for key, (_, _, data) in contents(tmp_path / "again").items():
        assert (table.match(key) or ()) == by_bytes[data]


def test_shards_of_others_become_class_folders(tmp_path):
    wds = optional("webdataset")
    for split in ("train", "val"):
        with wds.ShardWriter(str(tmp_path / f"{split}-%03d.tar"), maxcount=2, verbose=0) as sink:
            for index, label in enumerate(("cat", "dog", "cat")):
                sample = {"__key__": f"{index % 2:04d}", "png": png(index), "txt": label}
                sink.write(sample)
    record, _ = run(tmp_path / "*.tar", tmp_path / "out", "folder")
    found = contents(tmp_path / "out")
    assert record["labels_in_folders"]
    assert sorted((path, *facts[:2]) for path, facts in found.items()) == [
        ("train/cat/0000.png", ("cat",), "train"),
        ("train/cat/train-001-0000.png", ("cat",), "train"),
        ("train/dog/0001.png", ("dog",), "train"),
        ("validation/cat/0000.png", ("cat",), "validation"),
        ("validation/cat/val-001-0000.png", ("cat",), "validation"),
        ("validation/dog/0001.png", ("dog",), "validation"),
    ]


def test_webdataset_reads_our_tars(tmp_path):
    wds = optional("webdataset")
    source = make_tree(tmp_path / "photos", ["cat/1.png", "cat/2.png", "dog/3.png"])
    record, _ = run(source, tmp_path / "out", "tar")
    (name,) = record["files"]
    data = wds.WebDataset(f"file:{tmp_path}/out/{name}", shardshuffle=False).decode()
    read = [(sample["__key__"], sample["cls"], sample["json"]["labels"]) for sample in data]
    assert read == [("cat/1", 0, ["cat"]), ("cat/2", 0, ["cat"]), ("dog/3", 1, ["dog"])]
    assert record["classes"] == ["cat", "dog"]


def test_hugging_face_datasets_read_our_parquet(tmp_path):
    datasets = optional("datasets")
    source = make_tree(tmp_path / "photos", TREES["split"])
    run(source, tmp_path / "out", "parquet")
    files = str(tmp_path / "out" / "train-00000.parquet")
    read = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(read.features["image"], datasets.Image)
    assert read["label"][:] == ["cat", "dog"] and read[0]["image"].size == (6, 5)


def test_tensorflow_reads_our_tfrecords(tmp_path):
    import tensorflow as tf

    source = make_tree(tmp_path / "photos", ["cat/1.png", "dog/2.png"])
    record, _ = run(source, tmp_path / "out", "tfrecord")
    (name,) = record["files"]
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
    }
    data = tf.data.TFRecordDataset(str(tmp_path / "out" / name))
    parsed = [tf.io.parse_single_example(item, features) for item in data]
    assert [item["image/class/text"].numpy() for item in parsed] == [b"cat", b"dog"]
    assert [int(item["image/class/label"]) for item in parsed] == [0, 1]
    assert parsed[0]["image/encoded"].numpy() == (source / "cat/1.png").read_bytes()
    assert parsed[0]["image/format"].numpy() == b"png"


@pytest.mark.parametrize("kind", SHARDS)
def test_the_same_input_gives_the_same_shards(tmp_path, kind):
    source = make_tree(tmp_path / "photos", TREES["class"])
    for name in "ab":
        run(source, tmp_path / name, kind, shard_size=3)
    for path in (tmp_path / "a").glob(f"*.{kind}"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_nothing_is_decoded_and_unreadable_images_are_told(tmp_path):
    source = make_tree(tmp_path / "photos", ["cat/1.png", "cat/2.png", "cat/3.png"])
    (source / "cat/2.png").write_bytes(b"no image at all")
    (source / "list.csv").write_text("path\ncat/1.png\ncat/2.png\ngone.png\n")
    record, (problems, code) = run(source / "list.csv", tmp_path / "out", "tar")
    assert contents(tmp_path / "out")["cat/2.png"][2] == b"no image at all"
    assert record["ledger"]["unreadable"] == 1 and code == 1
    assert record["unreadable"][0]["key"] == "gone.png"
    assert "1 of 3 images could not be read" in problems[0]
    assert run(source / "list.csv", tmp_path / "b", "tar", max_bad_fraction=0.5)[1] == ([], 0)


@pytest.mark.parametrize("kind", SHARDS)
def test_a_damaged_shard_gives_what_is_readable_and_exit_code_3(tmp_path, kind):
    source = make_tree(tmp_path / "photos", [f"cat/{i}.png" for i in range(20)])
    run(source, tmp_path / "a", kind, shard_size=10)
    cut = sorted((tmp_path / "a").glob(f"*.{kind}"))[0]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    record, (problems, code) = run(tmp_path / "a", tmp_path / "b", "folder")
    assert code == 3 and f"'{cut.name}'" in problems[0]
    (damage,) = record["damaged"]
    assert damage["offset"] is not None and str(damage["offset"]) in damage["message"]
    rest = contents(tmp_path / "b")
    assert len(rest) == record["ledger"]["packed"] == record["ledger"]["images_in"]
    assert len(rest) == 10 if kind == "parquet" else 12 < len(rest) < 18
    assert rest.items() <= contents(source).items()


def test_mistakes(tmp_path):
    source = make_tree(tmp_path / "photos", ["cat/1.png"])
    (tmp_path / "empty").mkdir()
    make_tree(tmp_path / "full", ["1.png"])
    for changes, words in (
        ({"source": tmp_path / "gone"}, "does not exist"),
        ({"source": tmp_path / "empty"}, "no images in"),
        ({"kind": "tarr"}, "--format: unknown value 'tarr'; did you mean tar"),
        ({"output": source}, "equals the folder of --input"),
        ({"output": source / "out"}, "lies inside the folder of --input"),
        ({"output": tmp_path}, "contains --input"),
        ({"output": tmp_path / "full"}, "is not empty"),
        ({"output": ""}, "--output is missing"),
        ({"shard_size": 0}, "--shard_size must be at least 1, got 0"),
    ):
        settings = {"source": source, "output": tmp_path / "out", "kind": "tar", **changes}
        with pytest.raises(UsageError, match=words):
            run(**settings)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_no_half_shard(tmp_path, monkeypatch):
    source = make_tree(tmp_path / "photos", [f"cat/{i}.png" for i in range(9)])
    count = [0]
    original = tarfile.TarFile.addfile

    def fail(self, *arguments):
        count[0] += 1
        if count[0] == 20:
            raise OSError("disk full")
        return original(self, *arguments)

    monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
    with pytest.raises(OSError, match="disk full"):
        run(source, tmp_path / "out", "tar", shard_size=3)
    assert sorted(os.listdir(tmp_path / "out")) == ["shard-00000.tar", "shard-00001.tar"]


def test_the_command(tmp_path, command):
    make_tree(tmp_path / "photos", ["cat/1.png", "dog/2.png"])
    done = command("pipelines.pack", "--input", "photos", "--output", "out", "--json")
    assert done.code == 0 and done.err == "", done.err
    assert json.loads(done.out)["ledger"]["packed"] == 2
    back = command("pipelines.pack", "--input", "out/*.tar", "--output", "o", "--format", "folder")
    assert back.code == 0 and "2 images in = 2 packed + 0 unreadable" in back.out
    assert_one_line_error(
        command("pipelines.pack", "--input", "photos", "--outptu", "x"), 2, "did you mean --output?"
    )
    assert_one_line_error(command("pipelines.pack"), 2, "--input is missing")
