"""Zip archives: labels, splits, and every way to be damaged."""

import io
import zipfile

import fsspec
import numpy as np
import pytest
from conftest import png_bytes

from classifier.inputs import Ignored, InputOptions, ShardDamaged, iter_shard, list_inputs

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


def zip_bytes(members, method=zipfile.ZIP_DEFLATED):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def streamed_zip_bytes(members):
    """As written to a pipe: sizes and checksums stand behind each member."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, block):
            self.data += block
            return len(block)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytes(pipe.data)


def read(url):
    """Returns (references and contents, ignored, damage or None)."""
    (shard,) = list_inputs([str(url)], InputOptions())
    ignored, found = Ignored(), []
    try:
        for item in iter_shard(shard, None, ignored):
            found.append(item)
    except ShardDamaged as damage:
        return found, ignored, damage
    return found, ignored, None


def facts(found):
    return [(ref.key, ref.labels, ref.split) for ref, _ in found]


def test_class_folders_and_what_is_no_image(tmp_path):
    names = ["pets/cat/1.png", "pets/cat/photo", "pets/test/2.png", "__MACOSX/pets/._1.png"]
    members = [(name, PNG) for name in (*names, "../../etc/3.png")]
    members += [("pets/readme.txt", b"x"), ("pets/cat/", b"")]
    (tmp_path / "s.zip").write_bytes(zip_bytes(members))
    found, ignored, damage = read(tmp_path / "s.zip")
    assert damage is None and all(data == PNG for _, data in found)
    assert facts(found) == [
        ("s.zip/pets/cat/1.png", ("cat",), None),
        ("s.zip/pets/cat/photo", ("cat",), None),
        ("s.zip/pets/test/2.png", ("test",), None),
        ("s.zip/etc/3.png", ("etc",), None),
    ]
    assert ignored.names == ["s.zip/__MACOSX/pets/._1.png", "s.zip/pets/readme.txt"]


@pytest.mark.parametrize("wrap", ["", "data/pets/"])
def test_split_folders_are_recognised_as_on_disk(tmp_path, wrap):
    names = ["train/cat/1.png", "val/dog/2.png", "test/3.png"]
    (tmp_path / "s.zip").write_bytes(zip_bytes([(wrap + name, PNG) for name in names]))
    assert [(labels, split) for _, labels, split in facts(read(tmp_path / "s.zip")[0])] == [
        (("cat",), "train"),
        (("dog",), "validation"),
        ((), "test"),
    ]


def test_memory_and_the_archives_own_split():
    data = zip_bytes([("cat/1.png", PNG)])
    fsspec.filesystem("memory").pipe_file("/zips/pets-test.zip", data)
    found, _, _ = read("memory://zips/pets-test.zip")
    assert facts(found) == [("pets-test.zip/cat/1.png", ("cat",), "test")]
    assert found[0][1] == PNG


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_stays_two_images(tmp_path):
    (tmp_path / "s.zip").write_bytes(zip_bytes([("a/1.png", PNG), ("a/1.png", PNG + b"2")]))
    found, _, _ = read(tmp_path / "s.zip")
    assert [(ref.key, data) for ref, data in found] == [
        ("s.zip/a/1.png", PNG),
        ("s.zip/a/1.png~2", PNG + b"2"),
    ]


def test_a_flipped_byte_spoils_one_image_only(tmp_path):
    noise = np.random.default_rng(0).bytes
    members = [(f"cat/{i}.png", PNG + noise(500)) for i in range(9)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = bytearray(zip_bytes(members, method))
        data[data.index(b"cat/4.png") + 200] ^= 0x10
        (tmp_path / "s.zip").write_bytes(data)
        found, _, damage = read(tmp_path / "s.zip")
        assert damage is None and len(found) == 9
        bad = [(ref.key, content) for ref, content in found if isinstance(content, OSError)]
        ((key, error),) = bad
        assert key == "s.zip/cat/4.png" and "damaged in the archive" in str(error)


def test_encrypted_members_are_unreadable_one_by_one(tmp_path):
    data = bytearray(zip_bytes([("a/1.png", PNG), ("a/2.png", PNG)]))
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + offset] |= 1
    (tmp_path / "s.zip").write_bytes(data)
    (first, error), (_, second) = read(tmp_path / "s.zip")[0]
    assert first.key == "s.zip/a/1.png" and "encrypted" in str(error) and second == PNG


@pytest.mark.parametrize("make", [zip_bytes, streamed_zip_bytes, "stored"])
@pytest.mark.parametrize("cut", [0, 10, 0.2, 0.5, 0.8, -5])
def test_a_cut_archive_gives_what_is_before_the_cut(tmp_path, make, cut):
    noise = np.random.default_rng(0).bytes
    members = [(f"train/cat/{i}.png", PNG + noise(2000)) for i in range(9)]
    members.append(("train/cat/", b""))
    data = zip_bytes(members, zipfile.ZIP_STORED) if make == "stored" else make(members)
    cut = int(cut * len(data)) if isinstance(cut, float) else cut
    (tmp_path / "s.zip").write_bytes(data[:cut])
    found, _, damage = read(tmp_path / "s.zip")
    whole = 9 if cut < 0 else int(cut / 2170)
    assert facts(found)[:whole] == [
        (f"s.zip/train/cat/{i}.png", ("cat",), "train") for i in range(whole)
    ]
    assert len(found) - whole in (0, 1)
    assert [content for _, content in found] == [data for _, data in members[: len(found)]]
    assert damage is not None and "not a whole zip" in str(damage)
    assert data[damage.offset : damage.offset + 2] == b"PK"


def test_garbage_is_damaged_from_its_first_byte(tmp_path):
    (tmp_path / "s.zip").write_bytes(b"no archive" * 50)
    found, _, damage = read(tmp_path / "s.zip")
    assert found == [] and damage.offset == 0
