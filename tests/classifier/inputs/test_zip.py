"""Zip archives: labels, splits, and every way to be damaged."""

import io
import re
import shutil
import subprocess
import zipfile

import fsspec
import numpy as np
import pytest
from support.images import png_bytes
from support.shards import facts, zip_bytes
from support.shards import read_shards as read

from classifier.inputs import Ignored, InputOptions, iter_shard, list_inputs
from featurestore.io.steady import SteadyFile

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


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


def test_class_folders_and_what_is_no_image(tmp_path):
    names = ["pets/cat/1.png", "pets/cat/photo", "pets/test/2.png", "__MACOSX/pets/._1.png"]
    members = [(name, PNG) for name in (*names, "../../pets/etc/3.png")]
    members += [("pets/readme.txt", b"x"), ("pets/cat/", b"")]
    (tmp_path / "s.zip").write_bytes(zip_bytes(members))
    found, ignored, damage = read(tmp_path / "s.zip")
    assert damage is None and all(data == PNG for _, data in found)
    assert facts(found) == [
        ("s.zip/pets/cat/1.png", ("cat",), None),
        ("s.zip/pets/cat/photo", ("cat",), None),
        ("s.zip/pets/test/2.png", ("test",), None),
        ("s.zip/pets/etc/3.png", ("etc",), None),
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
def test_an_archive_without_its_table_of_contents_is_damaged_with_the_fix(tmp_path, make, cut):
    noise = np.random.default_rng(0).bytes
    members = [(f"train/cat/{i}.png", PNG + noise(2000)) for i in range(9)]
    data = zip_bytes(members, zipfile.ZIP_STORED) if make == "stored" else make(members)
    cut = int(cut * len(data)) if isinstance(cut, float) else cut
    (tmp_path / "s.zip").write_bytes(data[:cut])
    found, ignored, damage = read(tmp_path / "s.zip")
    assert found == [] and ignored.count == 0 and damage.offset == 0
    assert "the table of contents at the end of the zip is missing" in str(damage)
    assert "zip -FF broken.zip --out mended.zip" in str(damage)


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
def test_the_fix_of_the_message_recovers_what_is_before_the_cut(tmp_path):
    noise = np.random.default_rng(0).bytes
    members = [(f"train/cat/{i}.png", PNG + noise(2000)) for i in range(9)]
    data = zip_bytes(members)
    (tmp_path / "broken.zip").write_bytes(data[: len(data) // 2])
    damage = read(tmp_path / "broken.zip")[2]
    command = re.search(r"zip -FF \S+ --out \S+\.zip", str(damage))[0].split()
    subprocess.run(command, cwd=tmp_path, input=b"y\n", capture_output=True, timeout=60)
    found, _, damage = read(tmp_path / "mended.zip")
    whole = [item for item in found if item[1] in dict(members).values()]
    assert damage is None and len(whole) >= 3


@pytest.mark.parametrize("broken", ["magic", "contents"])
def test_a_damaged_table_of_contents_is_damage(tmp_path, broken):
    data = bytearray(zip_bytes([(f"cat/{i}.png", PNG) for i in range(3)]))
    at = data.rindex(b"PK\5\6") if broken == "magic" else data.index(b"PK\1\2")
    data[at : at + 4] = b"XXXX"
    (tmp_path / "s.zip").write_bytes(data)
    found, _, damage = read(tmp_path / "s.zip")
    assert found == [] and "table of contents" in str(damage)


def test_a_set_with_a_cut_archive_finds_its_layout_by_the_others(tmp_path):
    for number in range(3):
        members = [(f"cat/{number}.png", PNG), (f"dog/{number}.png", PNG)]
        data = zip_bytes(members)
        (tmp_path / f"s-{number}.zip").write_bytes(data[:-9] if number == 0 else data)
    shards = list(list_inputs([str(tmp_path)], InputOptions()))
    refs = [ref for shard in shards[1:] for ref, _ in iter_shard(shard, None, Ignored())]
    assert {ref.labels for ref in refs} == {("cat",), ("dog",)} and len(refs) == 4


def test_garbage_is_damaged_from_its_first_byte(tmp_path):
    (tmp_path / "s.zip").write_bytes(b"no archive" * 50)
    found, _, damage = read(tmp_path / "s.zip")
    assert found == [] and damage.offset == 0


class Faulty:
    """A file whose every third read fails, and whose others come short; it may be a pure stream."""

    def __init__(self, data, seekable=True):
        self.file, self.calls, self.can_seek = io.BytesIO(data), 0, seekable

    def read(self, size=-1):
        self.calls += 1
        if self.can_seek and self.calls % 3 == 0:
            self.file.seek(0)
            raise ConnectionResetError("cut in mid-body")
        return self.file.read(min(size, 1000) if size >= 0 else size)

    def seek(self, offset, whence=0):
        if not self.can_seek:
            raise ValueError("Cannot seek streaming HTTP file")
        return self.file.seek(offset, whence)

    def tell(self):
        return self.file.tell()

    def close(self):
        self.file.close()


class FaultySystem:
    def __init__(self, file):
        self.file = file

    def open(self, path, mode):
        return self.file


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("featurestore.io.retry.time.sleep", lambda seconds: None)


def test_reads_that_fail_are_repeated_where_they_were(no_waiting):
    data = np.random.default_rng(0).bytes(20_000)
    with SteadyFile(FaultySystem(Faulty(data)), "x") as file:
        assert file.head(10) == data[:10] and file.tell() == 0
        assert file.read(7000) == data[:7000]
        assert file.seek(-5000, 2) == 15_000
        assert file.read(3000) + file.read(9000) == data[15_000:]
        assert file.read(5) == b"" and file.seek(1) == 1 and file.read() == data[1:]


@pytest.mark.parametrize("size", [3, 10, 11, 5000, -1])
def test_a_stream_gives_its_head_twice(size):
    data = np.random.default_rng(0).bytes(20_000)
    with SteadyFile(FaultySystem(Faulty(data, seekable=False)), "x") as file:
        assert file.head(10) == data[:10]
        first = file.read(size)
        assert first == (data[:size] if size >= 0 else data)
        assert first + file.read() == data


def test_a_faulty_network_costs_no_image(tmp_path, monkeypatch, no_waiting):
    from pipelines.pack import PackOptions, pack

    noise = np.random.default_rng(0).bytes
    for i in range(20):
        path = tmp_path / "photos" / "cat" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + noise(3000))
    files = {}
    for kind in ("tar", "tfrecord", "parquet"):
        pack(PackOptions((str(tmp_path / "photos"),), str(tmp_path / kind), kind))
        files[kind] = (tmp_path / kind / f"shard-00000.{kind}").read_bytes()
    members = [(f"cat/{p.name}", p.read_bytes()) for p in sorted(tmp_path.glob("photos/cat/*"))]
    files["zip"] = zip_bytes(members)
    for kind, data in files.items():
        path = tmp_path / f"s.{kind}"
        path.write_bytes(data)
        (shard,) = list_inputs([str(path)], InputOptions())
        opened = []
        system = FaultySystem(None)
        system.ls = lambda *arguments, **settings: []

        def open_again(path, mode, data=data, opened=opened):
            opened.append(Faulty(data))
            return opened[-1]

        system.open = open_again
        monkeypatch.setattr(
            f"classifier.inputs.formats.{kind}.connect", lambda *a, s=system: (s, "x")
        )
        found = list(iter_shard(shard, None, Ignored()))
        assert [content for _, content in found] == [content for _, content in members], kind
        assert sum(file.calls for file in opened) > 60
