"""What folder names mean: the same tree has one meaning, as a folder and in every container."""

import io
import itertools
import tarfile
import tempfile
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import png_bytes

from classifier.inputs import (
    Ignored,
    ImageRef,
    InputOptions,
    ShardDamaged,
    iter_shard,
    list_inputs,
    read_many,
)
from classifier.inputs.formats.examples import encode_example
from classifier.inputs.formats.tfrecord import frame
from classifier.inputs.found import Found
from classifier.inputs.layouts import Layout, find_layout
from classifier.inputs.refs import has_image_suffix
from classifier.inputs.trees import FolderTree, MemberTree
from pipelines.pack import PackOptions, pack

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))
CONTAINERS = ("folder", "zip", "tar", "tar.gz", "memory")


def content(number):
    return PNG + number.to_bytes(4, "little")


def write_folder(root, tree, extras=()):
    for name, data in {**dict.fromkeys(extras, b"no image"), **tree}.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def write_tar(path, tree, extras=(), prefix=""):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        for name, data in {**dict.fromkeys(extras, b"no image"), **tree}.items():
            member = tarfile.TarInfo(prefix + name.rstrip("/"))
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, tree, extras=(), prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**dict.fromkeys(extras, b"no image"), **tree}.items():
            archive.writestr(prefix + name, b"" if name.endswith("/") else data)
    return path


def write_memory(name, tree):
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)
    for path, data in tree.items():
        fs.pipe_file(f"/{name}/{path}", data)
    return f"memory://{name}"


def write(kind, folder, tree, extras=(), prefix=""):
    """Writes a tree as one kind of container; returns its address."""
    if kind == "folder":
        return write_folder(folder / "tree", tree, extras)
    if kind == "memory":
        return write_memory(folder.name, tree)
    writer = write_zip if kind == "zip" else write_tar
    return writer(folder / f"tree.{kind}", tree, extras, prefix)


def read(*uris, layout="auto"):
    """Returns path in the container -> (labels, split, content)."""
    found = {}
    for ref in list_inputs([str(uri) for uri in uris], InputOptions(layout)):
        if isinstance(ref, ImageRef):
            found[ref.key] = (ref.labels, ref.split, read_many([ref])[0])
            continue
        for image, data in iter_shard(ref, None, Ignored()):
            name = image.key.removeprefix(f"{ref.key}/")
            assert name not in found
            found[name] = (image.labels, image.split, data)
    return found


def facts(*uris, layout="auto"):
    return {key: found[:2] for key, found in read(*uris, layout=layout).items()}


def labelled(names):
    return {name: content(number) for number, name in enumerate(names)}


TREES = {
    "classes": {"cat/1.png": ("cat", None), "dog/1.png": ("dog", None), "2.png": ("", None)},
    "deeper": {"cat/s1/1.png": ("cat", None), "dog/s1/a/1.png": ("dog", None)},
    "one class": {"cat/1.png": ("cat", None), "cat/deep/2.png": ("cat", None)},
    "wrapped": {"pets/cat/1.png": ("cat", None), "pets/dog/s1/1.png": ("dog", None)},
    "wrapped twice": {"a/b/cat/1.png": ("cat", None), "a/b/dog/1.png": ("dog", None)},
    "wrapped one": {"pets/cat/1.png": ("cat", None)},
    "not wrapped": {"pets/cat/1.png": ("pets", None), "1.png": ("", None)},
    "splits": {"Train/cat/1.png": ("cat", "train"), "VAL/dog/x/1.png": ("dog", "validation")},
    "one split": {"testing/cat/1.png": ("cat", "test")},
    "flat splits": {"train/1.png": ("", "train"), "dev/1.png": ("", "validation")},
    "wrapped splits": {
        "pets/train/cat/1.png": ("cat", "train"),
        "pets/test/dog/images/2.png": ("dog", "test"),
        "pets/more/cat/3.png": ("", None),
    },
    "wrapped by the name of a split": {
        "training/train/cat/1.png": ("cat", "train"),
        "training/val/cat/2.png": ("cat", "validation"),
    },
    "splits and others": {
        "train/golf/1.png": ("golf", "train"),
        "valid/judo/2.png": ("judo", "validation"),
        "images to predict/5.png": ("", None),
        "sports/train/golf/1.png": ("", None),
    },
    "a class called test": {"cat/1.png": ("cat", None), "test/1.png": ("test", None)},
    "names without suffix": {"pets/cat/one": ("cat", None), "pets/dog/two": ("dog", None)},
    "one without suffix": {"cat/one": ("cat", None), "1.png": ("", None)},
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("name", list(TREES))
def test_a_tree_has_one_meaning(tmp_path, kind, name):
    expected = {path: ((label,) * bool(label), s) for path, (label, s) in TREES[name].items()}
    extras = ["logs/", "__MACOSX/x/1.png", "cat/.hidden.png", ".git/a/1.png"]
    if "suffix" not in name:
        extras.append("notes/a.txt")
    assert facts(write(kind, tmp_path, labelled(expected), extras)) == expected


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_members_with_a_dot_before_them(tmp_path, kind):
    expected = {path: ((label,), s) for path, (label, s) in TREES["wrapped"].items()}
    assert facts(write(kind, tmp_path, labelled(expected), ["pets/"], "./")) == expected


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_users_layout_overrides_everywhere(tmp_path, kind):
    tree = labelled(["train/cat/1.png", "val/dog/1.png", "more/x/1.png"])
    uri = write(kind, tmp_path, tree)
    assert set(facts(uri, layout="class").values()) == {
        (("train",), None),
        (("val",), None),
        (("more",), None),
    }
    assert set(facts(uri, layout="flat").values()) == {((), None)}
    assert facts(uri, layout="split")["more/x/1.png"] == (("x",), "more")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_lone_class_with_folders_only_is_looked_through_unless_told(tmp_path, kind):
    uri = write(kind, tmp_path, labelled(["cat/s1/1.png", "cat/s2/1.png"]))
    assert {labels for labels, _ in facts(uri).values()} == {("s1",), ("s2",)}
    assert {labels for labels, _ in facts(uri, layout="class").values()} == {("cat",)}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_users_splits_are_found_below_what_wraps_them(tmp_path, kind):
    for number, name in enumerate(("pets/train/cat/1.png", "pets/more/dog/1.png")):
        folder = tmp_path / str(number)
        folder.mkdir()
        uri = write(kind, folder, labelled(["pets/train/cat/1.png", name]))
        assert facts(uri, layout="split")["pets/train/cat/1.png"] == (("cat",), "train")


def test_patterns_mean_what_the_folder_means(tmp_path):
    expected = {path: ((label,), s) for path, (label, s) in TREES["wrapped"].items()}
    root = write_folder(tmp_path / "in", labelled(expected))
    for pattern in ("**/*.png", "*", "pets/*", "**"):
        found = facts(root / pattern)
        assert sorted(found.values()) == sorted(expected.values()), pattern


# Archives that hold a part of one tree each.


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "parts, expected",
    [
        ([["cat/s1/1.png", "cat/s2/2.png"], ["dog/s1/3.png"]], {("cat",), ("dog",)}),
        ([["pets/cat/1.png"], ["pets/dog/2.png"]], {("cat",), ("dog",)}),
        ([["train/cat/1.png"], ["train/cat/2.png", "more/x/3.png"], ["val/cat/4.png"]], None),
    ],
)
def test_archives_of_one_set_agree(tmp_path, kind, parts, expected):
    for number, names in enumerate(parts):
        writer = write_zip if kind == "zip" else write_tar
        writer(tmp_path / f"part-{number:03d}.{kind}", labelled(names))
    found = facts(tmp_path)
    if expected:
        assert {labels for labels, _ in found.values()} == expected
    else:
        assert found["more/x/3.png"] == ((), None)
        assert found["train/cat/2.png"] == (("cat",), "train")
        assert found["val/cat/4.png"] == (("cat",), "validation")


def test_archives_of_different_names_are_sets_of_their_own(tmp_path):
    write_tar(tmp_path / "birds.tar", labelled(["birds/owl/1.png", "birds/kiwi/1.png"]))
    write_tar(tmp_path / "fish.tar", labelled(["fish/cod/2.png"]))
    labels = {labels for labels, _ in facts(tmp_path).values()}
    assert labels == {("owl",), ("kiwi",), ("cod",)}


@pytest.mark.parametrize("odd", ["dog/s1/9.png", "cat/9.png", "9.png", "cat/s1/../../dog/s9/9.png"])
def test_an_archive_that_does_not_fit_its_set_is_refused(tmp_path, monkeypatch, odd):
    monkeypatch.setattr("classifier.inputs.series.MEMBERS", 2)
    for number in range(3):
        names = [f"cat/s1/{number}.png", f"cat/s2/{number}.png"]
        write_tar(tmp_path / f"p-{number}.tar", labelled([*names, *[odd] * (number == 1)]))
    with pytest.raises(ShardDamaged, match="does not fit the folders of the other archives"):
        facts(tmp_path)
    assert {labels for labels, _ in facts(tmp_path, layout="class").values()} >= {("cat",)}


def test_a_second_split_name_that_comes_late_is_refused_and_no_class(tmp_path, monkeypatch):
    monkeypatch.setattr("classifier.inputs.series.MEMBERS", 1)
    write_tar(tmp_path / "p-1.tar", labelled(["cat/1.png", "test/1.png", "train/1.png"]))
    write_tar(tmp_path / "p-2.tar", labelled(["dog/1.png"]))
    with pytest.raises(ShardDamaged, match="--layout class, split or flat"):
        facts(tmp_path)


def test_archives_without_folders_are_opened_once(tmp_path, monkeypatch):
    """A WebDataset costs one look at its first archive, and no second pass."""
    import classifier.inputs.formats.tar as reader

    names = []
    original = reader.tar_names

    def counted(shard, options):
        names.append(shard.key)
        return original(shard, options)

    monkeypatch.setattr(reader, "tar_names", counted)
    monkeypatch.setitem(
        __import__("classifier.inputs.shards", fromlist=["x"]).MEMBER_NAMES, "tar", counted
    )
    for number in range(3):
        write_tar(tmp_path / f"w-{number}.tar", labelled([f"{number}{i}.png" for i in range(4)]))
    assert len(facts(tmp_path)) == 12
    assert names == ["w-0.tar"]


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize(
    "folder", ["cafe\u0301", "caf\u00e9", "caf\u00e9\u00a0", "train/cafe\u0301"]
)
def test_the_label_of_a_folder_is_composed_and_its_key_is_as_written(tmp_path, kind, folder):
    names = [f"{folder}/1.png", "val/dog/2.png" if "/" in folder else "dog/2.png"]
    found = facts(write(kind, tmp_path, labelled(names)))
    assert set(found) == set(names) and found[names[0]][0] == ("caf\u00e9",)


# Names that a zip of Windows has.


def windows_zip(path, names, system):
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, b"" if name.endswith("\\") else content(number))
    return path


@pytest.mark.parametrize("system", [0, 3])
@pytest.mark.parametrize(
    "name, key",
    [
        ("cat\\1.png", "cat/1.png"),
        (".\\cat\\1.png", "cat/1.png"),
        ("..\\..\\cat\\1.png", "cat/1.png"),
        ("C:\\cat\\1.png", "cat/1.png"),
        ("c:cat\\1.png", "cat/1.png"),
        ("\\\\server\\share\\cat\\1.png", "cat/1.png"),
        ("\\cat\\..\\cat\\\\1.png", "cat/1.png"),
    ],
)
def test_backslashes_of_windows_separate(tmp_path, name, key, system):
    uri = windows_zip(tmp_path / "w.zip", [name, "dog\\2.png", "dog\\"], system)
    assert facts(uri) == {key: (("cat",), None), "dog/2.png": (("dog",), None)}


def test_mixed_separators_of_windows_and_names_of_linux(tmp_path):
    uri = windows_zip(tmp_path / "w.zip", ["pets/cat\\1.png", "pets/dog/2.png"], 0)
    assert facts(uri) == {"pets/cat/1.png": (("cat",), None), "pets/dog/2.png": (("dog",), None)}
    uri = windows_zip(tmp_path / "w.zip", ["cat\\1.png", "dog/2.png"], 3)
    assert facts(uri) == {"cat/1.png": (("cat",), None), "dog/2.png": (("dog",), None)}
    uri = windows_zip(tmp_path / "l.zip", ["cat/a\\1.png", "dog/2.png"], 3)
    assert facts(uri) == {"cat/a\\1.png": (("cat",), None), "dog/2.png": (("dog",), None)}


# What is said.


def said(*uris, layout="auto"):
    found = Found()
    for ref in list_inputs([str(uri) for uri in uris], InputOptions(layout), found):
        found.count(ref.labels, ref.split)
    return found.lines()


def test_what_was_found_is_said(tmp_path):
    names = ["pets/train/cat/1.png", "pets/val/dog/2.png", "pets/val/dog/3.png"]
    root = write_folder(tmp_path / "in", labelled(names))
    assert said(root) == [
        f"layout of '{root}': the first folder is the split, the next the class, below 'pets/'",
        "found: 2 classes (cat 1, dog 2), splits train 1, validation 2",
    ]
    write_folder(root, labelled(["pets/more/x/4.png"]))
    lines = said(root)
    assert "1 of 4 images have no label" in lines[1]
    assert "got no label and no split: pets/more/ 1; " in lines[2] and "--layout" in lines[2]


def test_the_layout_of_a_set_of_archives_is_said(tmp_path):
    for number, name in enumerate(("pets/cat/1.png", "pets/dog/2.png")):
        write_tar(tmp_path / f"p-{number}.tar", labelled([name]))
        write_tar(tmp_path / f"w-{number}.tar", labelled(["1.png"]))
    found = Found()
    list(list_inputs([str(tmp_path)], InputOptions(), found))
    assert found.lines() == [
        "layout of 'p-0.tar and 1 more': the first folder is the class, below 'pets/'"
    ]


@pytest.mark.parametrize("train, test", [("training_set", "test_set"), ("TrainImages", "Test")])
def test_splits_with_a_longer_name(tmp_path, train, test):
    root = write_folder(tmp_path / "in", labelled([f"{train}/cat/1.png", f"{test}/dog/2.png"]))
    assert said(root)[1] == "found: 2 classes (cat 1, dog 1), splits test 1, train 1"


@pytest.mark.parametrize("first, second", [("seg_train", "seg_test"), ("fold1", "fold2")])
def test_folders_that_may_be_splits_or_parts_are_said(tmp_path, first, second):
    root = write_folder(tmp_path / "in", labelled([f"{first}/cat/1.png", f"{second}/cat/2.png"]))
    assert all(f"{name}/ 1" in said(root)[2] for name in (first, second))


def test_a_table_beside_images_without_labels_is_said(tmp_path):
    root = write_folder(
        tmp_path / "in", {**labelled(["1.png"]), "metadata.csv": b"file_name,label"}
    )
    assert said(root)[2] == (
        "note: no image has a label; 'metadata.csv' lies beside them: if it holds the labels, name "
        "it with --labels"
    )


def test_classes_that_are_spelt_alike_are_said(tmp_path):
    names = ["Cat/1.png", "cat/2.png", "big dog/3.png", "big_dog/4.png", "cow/5.png"]
    assert said(write_folder(tmp_path / "in", labelled(names)))[2] == (
        "note: classes whose names differ only in case or separators: Cat, cat; big dog, big_dog; "
        "if they are one class, give it one name"
    )


def test_doubtful_names_are_said(tmp_path):
    root = write_folder(tmp_path / "in", labelled(["cat/1.png", "test/2.png", "dog/val/3.png"]))
    assert said(root)[2].startswith(
        "note: dog/val/ 1, test/ 1: named like splits or parts of a set, and taken for"
    )
    assert len(said(root, layout="class")) == 2
    flat = write_folder(tmp_path / "flat", labelled(["1.png"]))
    assert said(flat)[1] == "found: 0 classes, no splits; 1 of 1 images have no label"


def test_a_run_says_it_of_folders_and_of_shards(tmp_path, command):
    tree = labelled(["train/cat/1.png", "test/dog/2.png", "more/3.png"])
    for data in tree:
        tree[data] = png_bytes(np.full((8, 8, 3), len(data), np.uint8))
    for kind in ("folder", "zip"):
        uri = write(kind, tmp_path, tree)
        done = command("pipelines.pack", "--input", str(uri), "--output", f"out-{kind}")
        assert done.code == 0, done.err
        line = (
            "found: 2 classes (cat 1, dog 1), splits test 1, train 1; 1 of 3 images have no label"
        )
        assert line in done.out


# One tree, every container.

FOLDERS = st.sampled_from(
    [
        "cat", "dog", "a b", "Ünï", "v1.2", "-neg", "x#y", "50%20", "back\\slash", "new\nline",
        "[1-2]", "nan", "10", "2", "a.jpg", "train", "Test", "valid", "testing", "images",
    ]
)  # fmt: skip
FILES = st.sampled_from(["1.png", " lead.png", "ü?.JPG", "photo", "a.v2.png", "-x.webp", "*.png"])
PATHS = st.builds(
    lambda folders, name: "/".join([*folders, f"f_{name}" if name == "photo" else name]),
    st.lists(FOLDERS, max_size=4),
    FILES,
)
EXTRAS = st.lists(
    st.sampled_from(
        ["notes.txt", "empty/", "cat/empty/", "test/", "models/a.bin", ".hid/1.png", "cat/._1.png",
         "__MACOSX/cat/1.png", "train/.DS_Store"]
    ),
    unique=True,
)  # fmt: skip


@st.composite
def trees(draw):
    """Draws the images of a tree, below up to two folders that wrap it, and what lies about."""
    wraps = "".join(f"{name}/" for name in draw(st.lists(FOLDERS, max_size=2)))
    names = draw(st.lists(PATHS, min_size=1, max_size=7, unique=True))
    return labelled([wraps + name for name in names]), draw(EXTRAS)


def by_hand(folder, tree):
    """Writes TFRecord and Parquet files as scripts of others do: a row each, its folders read."""
    rows = [(name, *labels[:1], split, data) for name, (labels, split, data) in tree.items()
            if labels]  # fmt: skip
    records = [
        encode_example(
            {
                "image/encoded": [data],
                "image/filename": [name.encode()],
                "image/class/text": [label.encode()],
                **({"image/split": [split.encode()]} if split else {}),
            }
        )
        for name, label, split, data in rows
    ]
    (folder / "hand.tfrecord").write_bytes(b"".join(frame(record) for record in records))
    columns = {
        "image": [{"bytes": data, "path": name} for name, _, _, data in rows],
        "label": [label for _, label, _, _ in rows],
        "split": pa.array([split for _, _, split, _ in rows], pa.string()),
    }
    if rows:
        pq.write_table(pa.table(columns), folder / "hand.parquet")
    return [folder / "hand.tfrecord", folder / "hand.parquet"] if rows else []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(trees())
def test_the_same_tree_in_every_container(drawn):
    tree, extras = drawn
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = read(write("folder", folder, tree, extras))
        assert {key: data for key, (_, _, data) in expected.items()} == tree
        for kind, prefix in itertools.product(("zip", "tar", "tar.gz"), ("", "./")):
            assert read(write(kind, folder, tree, extras, prefix)) == expected, (kind, prefix)
        assert read(write("memory", folder, tree)) == expected
        for kind in ("tar", "tfrecord", "parquet"):
            source, output = str(folder / "tree"), str(folder / f"packed-{kind}")
            pack(PackOptions((source,), output, kind, shard_size=3))
            assert read(output) == expected, kind
        for uri in by_hand(folder, expected):
            assert read(uri) == {key: found for key, found in expected.items() if found[0]}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(trees(), st.integers(1, 3))
def test_archives_of_one_tree_mean_what_the_tree_means(drawn, size):
    tree, _ = drawn
    items = sorted(tree.items())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = facts(write_tar(folder / "whole.tar", tree))
        for start in range(0, len(items), size):
            part = dict(items[start : start + size])
            write_tar(folder / "set" / f"p-{start:03d}.tar", part)
        first = min((name for name in tree if has_image_suffix(name)), default="")
        if "/" in first:
            assert facts(folder / "set") == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(trees(), st.randoms())
def test_the_layout_needs_no_order_and_two_splits_are_never_classes(drawn, random):
    tree, _ = drawn
    names = list(tree)
    layout = find_layout(MemberTree(names))
    random.shuffle(names)
    assert find_layout(MemberTree(names)) == layout == Layout.decode(layout.encode())
    classes = {layout.facts(name)[0] for name in names if layout.kind == "class"}
    splits = {"train", "Test", "valid", "testing"}
    assert len({label for labels in classes for label in labels} & splits) < 2
    listed = {
        folder: [
            {"name": f"/r/{'/'.join([*folder, n])}", "type": kind}
            for n, kind in sorted(set(_children(names, folder)))
        ]
        for folder in {tuple(n.split("/")[:i]) for n in names for i in range(n.count("/") + 1)}
    }
    ls = lambda path: listed[tuple(path.strip("/").split("/")[1:])]  # noqa: E731
    assert find_layout(FolderTree("/r", ls)) == layout


def _children(names, folder):
    for name in names:
        parts = tuple(name.split("/"))
        if parts[: len(folder)] == folder:
            last = len(parts) == len(folder) + 1
            yield parts[len(folder)], "file" if last else "directory"
