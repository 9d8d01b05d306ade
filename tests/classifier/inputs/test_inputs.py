"""Listing: folders, patterns, several roots, shards; keys, labels, splits; what is ignored."""

import json
import tarfile

import fsspec
import numpy as np
import pytest
from support.images import png_bytes
from support.optional import optional
from support.shards import tar_bytes

from classifier.inputs import (
    Ignored,
    ImageRef,
    InputOptions,
    ShardDamaged,
    ShardRef,
    iter_shard,
    iter_tar,
    list_inputs,
    read_many,
)
from classifier.inputs.formats.tar import split_member
from classifier.inputs.found import Found
from featurestore.errors import UsageError

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


def make_tree(root, *names, data=PNG):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def listed(*uris, layout="auto"):
    ignored = Ignored()
    return list(list_inputs([str(u) for u in uris], InputOptions(layout), Found(ignored))), ignored


def facts(refs):
    return [(ref.key, ref.labels, ref.split) for ref in refs]


def test_class_folders(tmp_path):
    make_tree(tmp_path, "dog/2.png", "cat/1.png", "cat/deep/3.JPG")
    refs, _ = listed(tmp_path)
    assert facts(refs) == [
        ("cat/1.png", ("cat",), None),
        ("cat/deep/3.JPG", ("cat",), None),
        ("dog/2.png", ("dog",), None),
    ]
    assert refs[0].uri == f"file://{tmp_path}/cat/1.png"
    assert refs[0].size == len(PNG)
    assert float(refs[0].etag) > 0


def test_split_folders(tmp_path):
    make_tree(tmp_path, "train/cat/1.png", "val/dog/2.png", "Test/3.png")
    assert facts(listed(tmp_path)[0]) == [
        ("Test/3.png", (), "test"),
        ("train/cat/1.png", ("cat",), "train"),
        ("val/dog/2.png", ("dog",), "validation"),
    ]
    assert facts(listed(tmp_path, layout="class")[0])[1] == ("train/cat/1.png", ("train",), None)
    assert facts(listed(tmp_path, layout="flat")[0])[1] == ("train/cat/1.png", (), None)


def test_a_flat_folder_has_no_labels(tmp_path):
    make_tree(tmp_path, "b.png", "a.png")
    assert facts(listed(tmp_path)[0]) == [("a.png", (), None), ("b.png", (), None)]


def test_a_class_that_is_called_test_among_others_is_a_class(tmp_path):
    make_tree(tmp_path, "cat/1.png", "test/2.png")
    assert facts(listed(tmp_path)[0])[1] == ("test/2.png", ("test",), None)


def test_patterns_and_single_files(tmp_path):
    make_tree(tmp_path, "cat/1.png", "cat/2.jpg", "dog/3.png")
    assert [ref.key for ref in listed(tmp_path / "**/*.png")[0]] == ["cat/1.png", "dog/3.png"]
    assert [ref.labels for ref in listed(tmp_path / "*/*.png")[0]] == [("cat",), ("dog",)]
    assert facts(listed(tmp_path / "cat/*.jpg")[0]) == [("2.jpg", (), None)]
    assert facts(listed(tmp_path / "cat/1.png")[0]) == [("1.png", (), None)]


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    make_tree(tmp_path, "a [1]/cat/1.png")
    assert [ref.key for ref in listed(tmp_path / "a [1]")[0]] == ["cat/1.png"]


def test_several_roots_are_told_apart_by_their_last_folders(tmp_path):
    make_tree(tmp_path, "a/x/1.png", "b/x/1.png")
    assert [ref.key for ref in listed(tmp_path / "a", tmp_path / "b")[0]] == [
        "a/x/1.png",
        "b/x/1.png",
    ]
    assert [ref.key for ref in listed(tmp_path / "a/x", tmp_path / "b/x")[0]] == [
        "a/x/1.png",
        "b/x/1.png",
    ]


def test_patterns_below_one_root_share_its_keys(tmp_path):
    make_tree(tmp_path, "a/1.png", "a/2.jpg", "b/1.png")
    refs, _ = listed(tmp_path / "a/*.png", tmp_path / "a/*.jpg")
    assert [ref.key for ref in refs] == ["1.png", "2.jpg"]
    refs, _ = listed(tmp_path / "a/*.png", tmp_path / "a/*.jpg", tmp_path / "b")
    assert [ref.key for ref in refs] == ["a/1.png", "a/2.jpg", "b/1.png"]


def test_ignored_files_are_listed_and_image_content_counts(tmp_path):
    make_tree(tmp_path, "cat/1.png", "cat/photo", ".git/x.png", "cat/._1.png", "__MACOSX/a.png")
    make_tree(tmp_path, "labels.csv", "cat/.DS_Store", "cat/empty", data=b"")
    make_tree(tmp_path, "cat/text.jpg", data=b"no image, but named one: for quarantine to tell")
    refs, ignored = listed(tmp_path)
    assert [ref.key for ref in refs] == ["cat/1.png", "cat/text.jpg", "cat/photo"]
    assert sorted(ignored.names) == [
        ".git/x.png",
        "__MACOSX/a.png",
        "cat/.DS_Store",
        "cat/._1.png",
        "cat/empty",
        "labels.csv",
    ]
    assert ignored.count == 6


@pytest.mark.parametrize(
    "uris, words",
    [
        (["missing"], "'.*missing' does not exist; give a folder"),
        (["*.gif"], "nothing matches"),
        (["nope://x"], "cannot open"),
    ],
)
def test_mistakes(tmp_path, uris, words):
    make_tree(tmp_path, "a/1.png")
    uris = [uri if "://" in uri else str(tmp_path / uri) for uri in uris]
    with pytest.raises(UsageError, match=words):
        listed(*uris)


def test_unknown_layout():
    with pytest.raises(UsageError, match="--layout: unknown value 'clas'; did you mean class"):
        InputOptions("clas")


def test_memory_and_s3_inputs(bucket):
    import fsspec

    url, options = bucket
    for base, settings in (("memory://photos", {}), (f"{url}/photos", options)):
        fs, path = fsspec.core.url_to_fs(base, **settings)
        for name in ("cat/1.png", "dog/2.png", "dog/notes.txt"):
            fs.pipe_file(f"{path}/{name}", PNG if name.endswith("png") else b"x")
        ignored = Ignored()
        refs = list(list_inputs([base], InputOptions(storage_options=settings), Found(ignored)))
        assert facts(refs) == [("cat/1.png", ("cat",), None), ("dog/2.png", ("dog",), None)]
        assert refs[0].uri.endswith("photos/cat/1.png") and refs[0].etag
        assert ignored.names == ["dog/notes.txt"]
        gone = ImageRef("x", f"{base}/gone.png", 1, "")
        data = read_many([*refs, gone], settings)
        assert data[:2] == [PNG, PNG]
        assert isinstance(data[2], FileNotFoundError)


def make_tar(path, members, mode="w"):
    path.write_bytes(tar_bytes(members, mode))


def read_tar(path):
    (shard,), _ = listed(path)
    assert isinstance(shard, ShardRef)
    ignored = Ignored()
    return list(iter_tar(shard, None, ignored)), ignored


def test_webdataset_labels(tmp_path):
    members = [
        ("0001.jpg", PNG),
        ("0001.cls", b"3\n"),
        ("0002.txt", b"tabby cat"),
        ("0002.png", PNG),
        ("0003.png", PNG),
        ("0003.json", json.dumps({"label": ["a", "b"]}).encode()),
        ("0004.left.png", PNG),
        ("0004.right.png", PNG),
        ("0004.cls", b"5"),
        ("dog/0005.png", PNG),
        ("0006.npy", b"array"),
        ("0007.cls", b"1"),
        (".DS_Store", b""),
    ]
    make_tar(tmp_path / "s.tar", members)
    images, ignored = read_tar(tmp_path / "s.tar")
    assert [(ref.key, ref.labels) for ref, _ in images] == [
        ("s.tar/0001.jpg", ("3",)),
        ("s.tar/0002.png", ("tabby cat",)),
        ("s.tar/0003.png", ("a", "b")),
        ("s.tar/0004.left.png", ("5",)),
        ("s.tar/0004.right.png", ("5",)),
        ("s.tar/dog/0005.png", ("dog",)),
    ]
    assert all(data == PNG for _, data in images)
    assert ignored.names == ["s.tar/0006.npy", "s.tar/0007.cls", "s.tar/.DS_Store"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_compression_is_found_by_content(tmp_path, mode):
    make_tar(tmp_path / "s.tar", [("cat/1.png", PNG)], mode)
    assert read_tar(tmp_path / "s.tar")[0][0][0].labels == ("cat",)


def read_damaged(path):
    """Returns the keys that were readable, and the damage."""
    (shard,), _ = listed(path)
    keys = []
    with pytest.raises(ShardDamaged) as caught:
        for ref, _ in iter_shard(shard, None, Ignored()):
            keys.append(ref.key.partition("/")[2])
    return keys, caught.value


@pytest.mark.parametrize("cut", [0.5, 0.25, 512, 600, 4608, 4700, 5120, -10240])
def test_a_cut_tar_raises_wherever_it_is_cut(tmp_path, cut):
    """Also at the border of a member, where the tarfile module sees a regular end."""
    make_tar(tmp_path / "s.tar", [(f"{i}.png", PNG + bytes(3600)) for i in range(9)])
    data = (tmp_path / "s.tar").read_bytes()
    member = 512 + 4096
    cut = int(cut * len(data)) if isinstance(cut, float) else cut % len(data)
    (tmp_path / "s.tar").write_bytes(data[:cut])
    keys, damage = read_damaged(tmp_path / "s.tar")
    # The data of a member is whole though the padding behind it is cut.
    whole = (cut + member - 512 - len(PNG) - 3600) // member
    assert keys == [f"{i}.png" for i in range(whole)]
    assert damage.offset in (whole * member, (whole - 1) * member)
    assert f"from byte {damage.offset} on" in str(damage)


@pytest.mark.parametrize("cut", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_compressed_tar_gives_what_is_before_the_cut(tmp_path, cut):
    noise = np.random.default_rng(0).bytes
    make_tar(tmp_path / "s.tgz", [(f"{i}.png", PNG + noise(3000)) for i in range(9)], "w:gz")
    data = (tmp_path / "s.tgz").read_bytes()
    (tmp_path / "s.tgz").write_bytes(data[: int(cut * len(data))])
    keys, damage = read_damaged(tmp_path / "s.tgz")
    assert keys == [f"{i}.png" for i in range(len(keys))]
    assert len(keys) >= int(cut * 9) - 1
    assert damage.offset is not None


def test_a_flipped_byte_in_a_compressed_tar_is_told(tmp_path):
    noise = np.random.default_rng(0).bytes
    make_tar(tmp_path / "s.tgz", [(f"{i}.png", PNG + noise(9000)) for i in range(9)], "w:gz")
    data = bytearray((tmp_path / "s.tgz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "s.tgz").write_bytes(data)
    assert len(read_damaged(tmp_path / "s.tgz")[0]) >= 3


def test_garbage_amid_a_tar_is_told_with_its_place(tmp_path):
    make_tar(tmp_path / "s.tar", [(f"{i}.png", PNG) for i in range(9)])
    data = bytearray((tmp_path / "s.tar").read_bytes())
    data[1024 : 1024 + 512] = b"\xff" * 512
    (tmp_path / "s.tar").write_bytes(data)
    keys, damage = read_damaged(tmp_path / "s.tar")
    assert (keys, damage.offset) == (["0.png"], 1024)


def test_garbage_and_nothing_named_tar_are_damaged(tmp_path):
    for name, data in (("a.tar", b""), ("b.tar", b"x" * 5000), ("c.tgz", b"\x1f\x8bxx")):
        (tmp_path / name).write_bytes(data)
        assert read_damaged(tmp_path / name)[0] == []


@pytest.mark.parametrize("members, whole", [(4, 1), (5, 1), (6, 2), (7, 2), (9, 3)])
def test_an_image_whose_label_is_cut_away_is_not_given_another(tmp_path, members, whole):
    """Neither its folder's name, nor the number where the others have a name."""
    data = {"cls": b"7", "png": PNG, "txt": b"pug"}
    order = [(f"a/{i}.{kind}", data[kind]) for i in range(4) for kind in ("cls", "png", "txt")]
    make_tar(tmp_path / "s.tar", order)
    cut = members * 1024 + 100
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:cut])
    (shard,), _ = listed(tmp_path / "s.tar")
    found = []
    with pytest.raises(ShardDamaged) as caught:
        for ref, _ in iter_shard(shard, None, Ignored()):
            found.append((ref.key, ref.labels))
    assert found == [(f"s.tar/a/{i}.png", ("7",)) for i in range(whole)]
    assert caught.value.offset == (members if members % 3 == 0 else whole * 3) * 1024


def test_names_before_numbers_and_own_notes_before_the_samples(tmp_path):
    members = [
        ("1.cls", b"7"),
        ("1.json", b'{"label": 7, "class_name": "tabby", "split": "test"}'),
        ("1.txt", b"a caption"),
        ("1.png", PNG),
        ("2.png", PNG),
        ("2.cls", b"8"),
        ("2.json", b'{"width": 3}'),
        ("3.left.png", PNG),
        ("3.left.cls", b"l"),
        ("3.right.png", PNG),
        ("3.cls", b"any"),
        ("3.other.txt", b"?"),
        ("cat/4.png", PNG),
        ("cat/4.json", b'{"labels": []}'),
    ]
    make_tar(tmp_path / "s.tar", members)
    images, ignored = read_tar(tmp_path / "s.tar")
    assert [(ref.labels, ref.split) for ref, _ in images] == [
        (("tabby",), "test"),
        (("8",), None),
        (("l",), None),
        (("any",), None),
        ((), None),
    ]
    assert ignored.names == ["s.tar/3.other.txt"]


def test_split_folders_links_and_names_in_a_tar(tmp_path):
    names = ["train/cat/1.png", "pets/val/dog/1.png", "test/1.png", "/etc/../../x/1.png"]
    make_tar(tmp_path / "s.tar", [(name, PNG) for name in (*names, names[0])])
    with tarfile.open(tmp_path / "s.tar", "a") as archive:
        link = tarfile.TarInfo("train/cat/2.png")
        link.type, link.linkname = tarfile.LNKTYPE, names[0]
        archive.addfile(link)
    images, ignored = read_tar(tmp_path / "s.tar")
    assert facts(ref for ref, _ in images) == [
        ("s.tar/train/cat/1.png", ("cat",), "train"),
        ("s.tar/pets/val/dog/1.png", (), None),
        ("s.tar/test/1.png", (), "test"),
        ("s.tar/x/1.png", (), None),
        ("s.tar/train/cat/1.png~2", ("cat",), "train"),
    ]
    assert ignored.names == ["s.tar/train/cat/2.png"]


def test_shards_are_known_by_name_with_their_split(tmp_path):
    names = {
        "a.tar": ("tar", None),
        "b-train-0001.tar.gz": ("tar", "train"),
        "c.TGZ": ("tar", None),
        "d.zip": ("zip", None),
        "e-test.tfrecord-00000-of-00010": ("tfrecord", "test"),
        "f.tfrecord.gz": ("tfrecord", None),
        "g.tfrecords": ("tfrecord", None),
        "train-00000-of-00002.parquet": ("parquet", "train"),
        "valid/h.tar": ("tar", "validation"),
    }
    make_tree(tmp_path, *names)
    refs, _ = listed(tmp_path)
    assert {ref.key: (ref.format, ref.split) for ref in refs} == names


def test_a_shard_from_webdataset_itself(tmp_path):
    wds = optional("webdataset")
    with wds.ShardWriter(str(tmp_path / "w-%03d.tar"), maxcount=2, verbose=0) as sink:
        for index, label in enumerate(("cat", "dog", "cat")):
            note = {"label": label}
            sink.write({"__key__": f"{index:04d}", "png": PNG, "cls": index, "json": note})
    refs, _ = listed(tmp_path)
    found = [ref for shard in refs for ref, _ in iter_shard(shard, None, Ignored())]
    assert facts(found) == [
        ("w-000.tar/0000.png", ("cat",), None),
        ("w-000.tar/0001.png", ("dog",), None),
        ("w-001.tar/0002.png", ("cat",), None),
    ]


def test_images_of_several_protocols_are_read_together(tmp_path):
    import fsspec

    make_tree(tmp_path, "1.png")
    fsspec.filesystem("memory").pipe_file("/mixed/2.png", b"2")
    refs = [
        ImageRef(uri, uri, 0, "")
        for uri in ("memory://mixed/2.png", f"file://{tmp_path}/1.png", "memory://mixed/3.png")
    ]
    data = read_many(refs)
    assert data[:2] == [b"2", PNG] and isinstance(data[2], FileNotFoundError)


def test_members_split_at_the_first_dot_of_the_name():
    assert split_member("a.b/c.seg.png") == ("a.b/c", "seg.png")
    assert split_member("c") == ("c", "")


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    make_tree(tmp_path / "elsewhere", "1.png", "deep/2.png")
    make_tree(tmp_path / "photos", "cat/0.png")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "cat" / "gone.png").symlink_to(tmp_path / "nothing")
    refs, _ = listed(tmp_path / "photos")
    assert [ref.key for ref in refs] == ["cat/0.png", "cat/gone.png", "dog/1.png", "dog/deep/2.png"]
    assert {ref.labels for ref in refs} == {("cat",), ("dog",)}


def test_pipes_are_ignored_and_never_opened(tmp_path):
    import os

    make_tree(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    refs, ignored = listed(tmp_path)
    assert [ref.key for ref in refs] == ["a.png"]
    assert ignored.names == ["pipe", "pipe.png"]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path, monkeypatch):
    import os

    make_tree(tmp_path, "cat/1.png", "dog/2.png")
    listdir = os.listdir

    def refusing(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr("os.listdir", refusing)
    with pytest.raises(UsageError, match="cannot list all of .*dog"):
        listed(tmp_path)


def test_a_store_inside_the_input_is_no_input(tmp_path):
    make_tree(tmp_path, "train/cat/1.png", "test/cat/2.png")
    make_tree(tmp_path, "out/parts/x.parquet", "out/store.json", "out/model/y.png")
    assert [ref.key for ref in listed(tmp_path)[0]] == ["test/cat/2.png", "train/cat/1.png"]
    assert listed(tmp_path)[0][0].split == "test"


def test_stores_inside_an_input_are_skipped_and_said(tmp_path, bucket):
    make_tree(tmp_path, "in/cat/1.png", "in/out/parts/x.parquet", "in/out/store.json")
    make_tree(tmp_path, "in/cat/s/parts/x.parquet", "in/cat/s/store.json", "in/cat/parts/2.png")
    url, options = bucket
    fs, path = fsspec.core.url_to_fs(f"{url}/stores", **options)
    fs.put(f"{tmp_path}/in/", f"{path}/", recursive=True)
    for uri in (tmp_path / "in", f"{url}/stores"):
        ignored = Ignored()
        refs = list(list_inputs([str(uri)], InputOptions(storage_options=options), Found(ignored)))
        assert [ref.key for ref in refs] == ["cat/1.png", "cat/parts/2.png"]
        assert "cat/s/ (a feature store)" in ignored.names


def test_a_store_itself_is_no_input(tmp_path):
    make_tree(tmp_path, "s/parts/x.parquet", "s/store.json", "s/cat/1.png")
    with pytest.raises(UsageError, match="is a feature store, not a folder of images"):
        listed(tmp_path / "s")


def test_a_pattern_that_matches_folders_and_files_lists_each_once(tmp_path):
    make_tree(tmp_path, "cat/1.png", "cat/deep/2.png")
    make_tree(tmp_path, "notes.txt", data=b"text")
    refs, ignored = listed(tmp_path / "**")
    assert sorted(ref.key for ref in refs) == ["cat/1.png", "cat/deep/2.png"]
    assert ignored.names == ["notes.txt"]


def test_a_pattern_that_the_shell_expanded_keeps_its_labels(tmp_path):
    make_tree(tmp_path, "p/cat/1.png", "p/cat/2.png", "p/dog/1.png")
    files = sorted((tmp_path / "p").glob("*/*.png"))
    assert facts(listed(*files)[0]) == [
        ("cat/1.png", ("cat",), None),
        ("cat/2.png", ("cat",), None),
        ("dog/1.png", ("dog",), None),
    ]


def test_names_that_are_no_text_are_listed_and_cannot_be_read(tmp_path):
    import os

    make_tree(tmp_path, "cat/1.png")
    with open(os.fsencode(tmp_path / "cat") + b"/\xe9t\xe9.png", "wb") as file:
        file.write(PNG)
    refs, _ = listed(tmp_path)
    assert [ref.key for ref in refs] == ["cat/1.png", "cat/\\xe9t\\xe9.png"]
    assert isinstance(read_many(refs)[1], FileNotFoundError)


def test_names_with_pattern_characters_are_read(bucket, tmp_path):
    import fsspec

    url, options = bucket
    fs, path = fsspec.core.url_to_fs(f"{url}/photos", **options)
    names = ["a#1.png", "a?2.png", "b[1].png", "b[2].png", "c d%20.png"]
    for name in names:
        fs.pipe_file(f"{path}/{name}", PNG)
    refs = list(list_inputs([f"{url}/photos"], InputOptions(storage_options=options)))
    assert [ref.key for ref in refs] == sorted(names)
    assert read_many(refs, options) == [PNG] * 5


@pytest.mark.parametrize("uri", ["zip://*.jpg::x.zip", "https://host/a.jpg?signature=secret"])
def test_addresses_with_secrets_inside_are_refused_without_showing_them(uri):
    with pytest.raises(UsageError, match="chain of addresses|signatures are never") as caught:
        listed(uri)
    assert "secret" not in str(caught.value)
