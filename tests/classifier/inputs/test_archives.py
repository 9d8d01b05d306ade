"""Odd and hostile archives: every image and label is read, or what was left out is counted."""

import bz2
import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import run_command
from support.images import png_bytes
from support.shards import read_shards, tar_bytes, zip_bytes
from support.soak import SMALL

from classifier.inputs import Ignored, InputOptions, iter_shard, list_inputs
from classifier.inputs.formats.examples import encode_example
from classifier.inputs.formats.tar import (
    AMBIGUOUS,
    APART,
    BEHIND_THE_END,
    DISAGREEING,
    WITHOUT_IMAGE,
)
from classifier.inputs.formats.tfrecord import frame
from classifier.inputs.refs import LINKS, NESTED, REPEATED
from classifier.inputs.shards import EMPTY, WITHOUT_IMAGES

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))
PICTURES = [png_bytes(np.full((2, 2, 3), value, np.uint8)) for value in range(9)]
MEMORY_LIMIT = 40 << 20


def read(path, data=None):
    """Returns (key below the shard -> labels, contents, ignored, damage or None)."""
    if data is not None:
        path.write_bytes(data)
    found, ignored, damage = read_shards(path)
    labels = {ref.key.partition("/")[2]: ref.labels for ref, _ in found}
    return labels, [content for _, content in found], ignored, damage


def counts(ignored):
    return {reason: note["count"] for reason, note in ignored.notes.items()}


def sample(name, picture, label):
    return [(f"{name}.png", PICTURES[picture]), (f"{name}.cls", str(label).encode())]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("padding", [b"", bytes(512), bytes(70_144)])
def test_a_tar_behind_another_one_is_read(tmp_path, pack, padding):
    parts = [pack(tar_bytes([(f"cat/{i}.png", PICTURES[i])])) for i in range(3)]
    data = parts[0] + (pack(padding) if padding else b"") + parts[1] + parts[2]
    labels, contents, ignored, damage = read(tmp_path / "s.tar", data)
    assert damage is None and not ignored.notes
    assert labels == {f"cat/{i}.png": ("cat",) for i in range(3)} and contents == PICTURES[:3]


def test_a_tar_behind_another_one_that_is_cut_is_damaged(tmp_path):
    one, other = (tar_bytes([(f"{i}.png", PNG), (f"{i}b.png", PNG)]) for i in range(2))
    for cut in (700, 1024, 1100):
        labels, _, _, damage = read(tmp_path / "s.tar", one + other[:cut])
        assert list(labels)[:2] == ["0.png", "0b.png"] and damage is not None
        assert damage.offset >= len(one)


@pytest.mark.parametrize("garbage", [b"x", b"x" * 512, b"x" * 5000, bytes(600) + b"x" * 9])
def test_garbage_behind_the_end_is_said(tmp_path, garbage):
    data = tar_bytes([("0.png", PNG)]) + garbage
    labels, _, ignored, damage = read(tmp_path / "s.tar", data)
    assert list(labels) == ["0.png"] and damage is None
    assert counts(ignored) == {BEHIND_THE_END: 1}


def test_a_tar_behind_garbage_is_damage_and_so_is_a_lost_header(tmp_path):
    one = tar_bytes([("0.png", PNG), ("1.png", PNG), ("2.png", PNG)])
    assert read(tmp_path / "s.tar", one + b"x" * 512 + one)[3] is not None
    lost = bytearray(one)
    lost[1024:1536] = bytes(512)  # the header of 1.png
    labels, _, _, damage = read(tmp_path / "s.tar", bytes(lost))
    assert list(labels) == ["0.png"] and damage is not None


def test_label_files_apart_from_their_images_are_counted(tmp_path):
    members = [m for i in range(4) for m in sample(f"a/{i}", i, i)]
    members = sorted(members, key=lambda member: member[0].endswith(".cls"))
    labels, _, ignored, damage = read(tmp_path / "s.tar", tar_bytes(members))
    # The last image and the first label are not side by side either.
    assert set(labels) == {f"a/{i}.png" for i in range(4)} and damage is None
    assert counts(ignored) == {APART: 4} and ignored.count == 4
    ignored = read(tmp_path / "s.tar", tar_bytes([*members, ("lost.cls", b"1")]))[2]
    assert counts(ignored) == {APART: 4, WITHOUT_IMAGE: 1}


def test_samples_of_one_name_in_a_row_have_their_own_labels(tmp_path):
    behind = [*sample("1", 1, 1), *sample("1", 2, 2), *sample("1", 3, 3)]
    before = [behind[place] for place in (1, 0, 3, 2, 5, 4)]
    for members in (behind, before):
        labels, contents, ignored, _ = read(tmp_path / "s.tar", tar_bytes(members))
        assert labels == {"1.png": ("1",), "1.png~2": ("2",), "1.png~3": ("3",)}
        assert contents == PICTURES[1:4] and counts(ignored) == {REPEATED: 2}


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 3), (0, 2, 1), (0, 1, 4, 3), (1, 0, 4, 3)])
def test_labels_that_cannot_be_told_apart_are_given_to_nobody(tmp_path, order):
    pool = [*sample("a/1", 1, 1), *sample("a/1", 2, 2), ("a/1.gif", PICTURES[3])]
    data = tar_bytes([pool[place] for place in order])
    labels, _, ignored, _ = read(tmp_path / "s.tar", data)
    assert set(labels.values()) == {()} and counts(ignored)[AMBIGUOUS] == len(labels) > 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["png", "cls", "gif"]), max_size=8))
def test_no_image_has_a_label_that_stands_beyond_another_image_of_its_name(order):
    """Whatever the order: a label that is given stands in the image's own part of the sample."""
    import tempfile
    from pathlib import Path

    members = [
        ("a.cls", str(place).encode()) if kind == "cls" else (f"a.{kind}", PICTURES[place])
        for place, kind in enumerate(order)
    ]
    with tempfile.TemporaryDirectory() as folder:
        labels, contents, ignored, _ = read(Path(folder) / "s.tar", tar_bytes(members))
    places = [PICTURES.index(content) for content in contents]
    assert places == [place for place, kind in enumerate(order) if kind != "cls"]
    unique = len(set(order)) == len(order)
    for place, found in zip(places, labels.values(), strict=True):
        for label in found:
            low, high = sorted((place, int(label)))
            between = order[low + 1 : high]
            assert order[place] not in between and "cls" not in between
            assert unique or counts(ignored).get(AMBIGUOUS, 0) == 0


def test_several_images_a_sample_and_spellings_of_suffixes(tmp_path):
    members = [
        ("a.left.jpg", PICTURES[0]),
        ("a.right.jpg", PICTURES[1]),
        ("a.CLS", b"7"),
        ("b.JPG", PICTURES[2]),
        ("b.seg.png", PICTURES[3]),
        ("b.Txt", b"cat"),
        ("x/c.PNG", PICTURES[4]),
        ("x/c.cls", b"1"),
        ("y/c.PNG", PICTURES[5]),
        ("y/c.cls", b"2"),
    ]
    labels, _, ignored, _ = read(tmp_path / "s.tar", tar_bytes(members))
    assert not ignored.notes and labels == {
        "a.left.jpg": ("7",),
        "a.right.jpg": ("7",),
        "b.JPG": ("cat",),
        "b.seg.png": ("cat",),
        "x/c.PNG": ("1",),
        "y/c.PNG": ("2",),
    }


def test_label_files_that_disagree_are_counted(tmp_path):
    members = [*sample("a", 0, 1), ("a.json", b'{"label": 2}')]
    members += [*sample("b", 0, 3), ("b.json", b'{"label": 3}')]
    labels, _, ignored, _ = read(tmp_path / "s.tar", tar_bytes(members))
    assert labels == {"a.png": ("2",), "b.png": ("3",)} and counts(ignored) == {DISAGREEING: 1}


def test_a_member_that_was_appended_again_stays_and_is_counted(tmp_path):
    members = [("cat/1.png", PICTURES[0]), ("cat/2.png", PICTURES[1]), ("cat/1.png", PICTURES[2])]
    for name, data in (("s.tar", tar_bytes(members)), ("s.zip", None)):
        if data is None:
            with pytest.warns(UserWarning, match="Duplicate name"):
                data = zip_bytes(members)
        labels, contents, ignored, _ = read(tmp_path / name, data)
        assert list(labels) == ["cat/1.png", "cat/2.png", "cat/1.png~2"]
        assert contents == PICTURES[:3] and counts(ignored) == {REPEATED: 1}


def test_links_are_counted_and_sparse_members_read(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("d"), None)
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            link = tarfile.TarInfo("b.png")
            link.type, link.linkname = kind, "a.png"
            archive.addfile(link)
        data = PNG + bytes(512 - len(PNG) % 512)
        sparse = tarfile.TarInfo("c.png")
        sparse.size = len(data)
        sparse.pax_headers = {
            "GNU.sparse.size": str(len(data) + 1000),
            "GNU.sparse.numblocks": "1",
            "GNU.sparse.map": f"0,{len(data)}",
        }
        archive.addfile(sparse, io.BytesIO(data))
    labels, contents, ignored, damage = read(tmp_path / "s.tar")
    assert damage is None and counts(ignored) == {LINKS: 2}
    assert list(labels) == ["c.png"] and contents == [data + bytes(1000)]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_in_another_encoding(tmp_path, form):
    long = "/".join(["folder" * 9] * 9)
    names = [f"{long}/1.png", "caf\udce9/2.png", "caf\udcea/2.png", "猫/3.png"]
    data = tar_bytes(
        [(name, PNG) for name in names],
        format=form,
        encoding="utf-8",
        errors="surrogateescape",
    )
    labels, _, _, damage = read(tmp_path / "s.tar", data)
    assert damage is None
    assert list(labels) == [f"{long}/1.png", r"caf\xe9/2.png", r"caf\xea/2.png", "猫/3.png"]
    assert all(name.encode() for name in labels)


INNER = tar_bytes([("n1_1.JPEG", PNG)])


@pytest.mark.parametrize(
    "name, data",
    [
        ("s.tar", tar_bytes([("n1.tar", INNER), ("n2.tar", INNER)])),
        ("s.tgz", gzip.compress(tar_bytes([("n1", INNER), ("n2", zip_bytes([("a.png", PNG)]))]))),
        ("s.zip", zip_bytes([("n1.zip", zip_bytes([("a.png", PNG)])), ("n2.tgz", b"\x1f\x8b")])),
        ("s.zip", zip_bytes([("n1", INNER), ("x/n2.7z", b"7z")])),
    ],
)
def test_archives_in_an_archive_are_named_with_the_fix(tmp_path, name, data):
    labels, _, _, damage = read(tmp_path / name, data)
    assert not labels and "2 of them, the first" in str(damage)
    assert "unpack the outer one and give the inner ones as --input" in str(damage)
    with_image = tmp_path / f"b{name}"
    if name == "s.tar":
        labels, _, ignored, damage = read(with_image, data + tar_bytes([("a.png", PNG)]))
        assert list(labels) == ["a.png"] and damage is None and counts(ignored) == {NESTED: 2}


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({"images": [[PNG, PNG]]}, "the column 'images' holds a list of images per row"),
        ({"x": [[{"bytes": PNG, "path": "a"}]]}, "the column 'x' holds a list of images per row"),
        ({"x": [[[PNG]]]}, "the column 'x' holds a list of images per row"),
        ({"a": [PNG], "b": [PNG]}, "any of the columns 'a', 'b' could hold them"),
    ],
)
def test_tables_with_images_in_another_shape_are_named(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    labels, _, _, damage = read(tmp_path / "a.parquet")
    assert not labels and reason in str(damage)


def test_records_with_images_in_another_shape_are_named(tmp_path):
    import tensorflow as tf

    frames = tf.train.Feature(bytes_list=tf.train.BytesList(value=[PNG]))
    lists = tf.train.FeatureLists(feature_list={"f": tf.train.FeatureList(feature=[frames])})
    sequence = tf.train.SequenceExample(feature_lists=lists).SerializeToString()
    _, _, _, damage = read(tmp_path / "a.tfrecord", frame(sequence) * 2)
    assert "SequenceExamples" in str(damage) and "2 of them" in str(damage)
    several = frame(encode_example({"image": [PNG, PNG], "label": [1, 2]}))
    (error,) = read(tmp_path / "a.tfrecord", several)[1]
    assert isinstance(error, OSError) and "holds 2 images" in str(error)
    other = frame(encode_example({"jpeg_bytes": [PNG], "note": [b"x"], "label": [3]}))
    labels, contents, _, _ = read(tmp_path / "a.tfrecord", other)
    assert (labels, contents) == ({"0": ("3",)}, [PNG])
    both = frame(encode_example({"photo": [PNG], "mask": [PNG]}))
    (error,) = read(tmp_path / "a.tfrecord", both)[1]
    assert isinstance(error, OSError)


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("s.tar", tar_bytes([]), EMPTY),
        ("s.zip", zip_bytes([]), EMPTY),
        ("s.tfrecord", b"", EMPTY),
        ("s.tar", tar_bytes([("a.md", b"x")]), WITHOUT_IMAGES),
        ("s.zip", zip_bytes([("a.md", b"x")]), WITHOUT_IMAGES),
        ("s.tfrecord", frame(encode_example({"label": [1]})), WITHOUT_IMAGES),
    ],
)
def test_a_shard_that_gives_no_image_is_said_by_name(tmp_path, name, data, reason):
    labels, _, ignored, damage = read(tmp_path / name, data)
    assert not labels and damage is None
    assert ignored.notes == {reason: {"reason": reason, "count": 1, "first": name}}


def test_a_zip_in_front_of_another_one_is_damage(tmp_path):
    data = zip_bytes([("a/1.png", PNG)]) + zip_bytes([("b/2.png", PNG)])
    labels, _, _, damage = read(tmp_path / "s.zip", data)
    assert list(labels) == ["b/2.png"] and "another archive" in str(damage)
    # A self-extracting archive begins with a program.
    assert read(tmp_path / "s.zip", b"MZ" * 99 + zip_bytes([("a/1.png", PNG)]))[3] is None


ZEROS = bytes(1 << 20)


def declare(data, size):
    """Lets a zip of one member say that its content is of another size."""
    data = bytearray(data)
    struct.pack_into("<L", data, data.index(b"PK\3\4") + 22, size)
    struct.pack_into("<L", data, data.index(b"PK\1\2") + 24, size)
    return bytes(data)


def deflated_bomb(megabytes):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join([packer.compress(ZEROS) for _ in range(megabytes)]) + packer.flush()


def local_member(packed, size, name=b"a.png", flags=0):
    sizes = (0, 0, 0) if flags else (0, len(packed), size)
    head = struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, flags, 8, 0, 0, *sizes, len(name), 0)
    return head + name + packed


def peak_of(path):
    """Returns what `read` does, and the bytes that Python held at most meanwhile."""
    tracemalloc.start()
    try:
        return read(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flags", [0, 8])
def test_a_bomb_without_a_table_of_contents_is_not_unpacked(tmp_path, flags):
    data = local_member(deflated_bomb(200), 10, flags=flags) + local_member(b"", 0)[:9]
    (tmp_path / "s.zip").write_bytes(data)
    (_, contents, _, damage), peak = peak_of(tmp_path / "s.zip")
    assert peak < MEMORY_LIMIT, f"{peak >> 20} MiB"
    assert contents == [] and "table of contents" in str(damage)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_is_never_unpacked_beyond_its_declared_size(tmp_path, method):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive, archive.open("a.png", "w") as member:
        for _ in range(200):
            member.write(ZEROS)
    (tmp_path / "s.zip").write_bytes(declare(sink.getvalue(), 10))
    (_, contents, _, _), peak = peak_of(tmp_path / "s.zip")
    assert peak < MEMORY_LIMIT, f"{peak >> 20} MiB"
    assert "damaged in the archive" in str(contents[0])


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_every_method_of_a_zip_is_read(tmp_path, method):
    noise = np.random.default_rng(0).bytes(200_000)
    members = [("a.png", PNG), ("b.png", PNG + noise), ("photo", PNG), ("c.png", b"")]
    data = zip_bytes(members, method)
    labels, contents, _, damage = read(tmp_path / "s.zip", data)
    assert damage is None and contents == [content for _, content in members]
    broken = bytearray(data)
    broken[data.index(b"b.png") + 1000] ^= 0x10
    contents = read(tmp_path / "s.zip", bytes(broken))[1]
    assert "damaged in the archive" in str(contents[1]) and contents[0] == PNG


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_beyond_the_limit_is_unreadable_and_the_others_are_read(
    tmp_path, monkeypatch, kind
):
    for module in ("tar", "zip"):
        monkeypatch.setattr(f"classifier.inputs.formats.{module}.MAX_MEMBER_BYTES", 1 << 20)
    members = [
        ("a.png", PNG + ZEROS),
        ("notes", ZEROS * 90),
        ("photo", PNG + ZEROS),
        ("b.png", PNG),
    ]
    data = gzip.compress(tar_bytes(members)) if kind == "tar" else zip_bytes(members)
    (tmp_path / f"s.{kind}").write_bytes(data)
    del members, data
    (labels, contents, ignored, _), peak = peak_of(tmp_path / f"s.{kind}")
    assert peak < MEMORY_LIMIT
    assert "an image has at most" in str(contents[0]) and contents[-1] == PNG and "b.png" in labels
    assert ignored.count + len(contents) == 4


def test_members_that_share_their_bytes_are_not_unpacked(tmp_path):
    """As in Fifield's bombs: a table of contents that names one member many times over."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("whole.png", PNG)
        archive.writestr("a.png", PNG)
        for _ in range(5):
            copy_of = zipfile.ZipInfo("a.png")
            first = archive.getinfo("a.png")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(copy_of, name, getattr(first, name))
            archive.filelist.append(copy_of)
    labels, contents, _, _ = read(tmp_path / "s.zip", sink.getvalue())
    assert contents[0] == PNG and len(labels) == 7
    assert all("zip bomb" in str(content) for content in contents[1:6])


def pax_header(size):
    member = tarfile.TarInfo("././@PaxHeader")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", ["attributes", "chain", "zeros", "negative"])
def test_headers_cannot_fill_the_memory_or_the_stack(tmp_path, kind):
    good = tar_bytes([("a.png", PNG)])
    data = {
        "attributes": good[:1024] + pax_header(1 << 28) + ZEROS * 90,
        "chain": good[:1024] + (pax_header(11) + b"11 size=1\n\n".ljust(512, b"\0")) * 3000,
        "zeros": good + ZEROS * 90,
        "negative": good[:1024]
        + pax_header(14)
        + b"14 size=-9999\n".ljust(512, b"\0")
        + good[:1024],
    }[kind]
    (tmp_path / "s.tgz").write_bytes(gzip.compress(data, 1))
    del data
    (labels, _, _, damage), peak = peak_of(tmp_path / "s.tgz")
    assert "a.png" in labels and damage is not None and peak < MEMORY_LIMIT


def test_samples_of_one_name_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("classifier.inputs.formats.samples._MAX_SAMPLE_BYTES", 1 << 20)
    members = [("cat.cls", b"cat")]
    for i in range(100):
        members += [(f"cat.{i}.png", PNG + ZEROS), (f"cat.{i}.txt", str(i).encode())]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    del members
    (shard,) = list_inputs([str(tmp_path / "s.tar")], InputOptions())
    tracemalloc.start()
    labels = [ref.labels for ref, _ in iter_shard(shard, None, Ignored())]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels == [(str(i),) for i in range(100)] and peak < MEMORY_LIMIT


def test_rows_that_share_one_large_value_are_read_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("classifier.inputs.formats.parquet._BATCH_BYTES", 4 << 20)
    column = pa.DictionaryArray.from_arrays([0] * 60, pa.array([PNG + ZEROS]))
    table = pa.table({"image": column.cast(pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", dictionary_pagesize_limit=1 << 26)
    del column, table
    (shard,) = list_inputs([str(tmp_path / "a.parquet")], InputOptions())
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in iter_shard(shard, None, Ignored())]
    assert len(held) == 60 and max(held) < 30 << 20, f"{max(held) >> 20} MiB"


def test_bzip2_in_a_zip_holds_a_million_times_its_size():
    """Why `zipfile` is not asked to unpack it: one block may hold 45 MB."""
    assert len(bz2.compress(ZEROS * 45)) < 100


def test_runs_without_an_image_fail_and_others_say_what_was_left_out(tmp_path):
    (tmp_path / "nested.tar").write_bytes(tar_bytes([("n1.tar", INNER)]))
    (tmp_path / "notes.tar").write_bytes(tar_bytes([("a.md", b"x")]))
    (tmp_path / "good.tar").write_bytes(tar_bytes(sample("1", 1, 1)))
    flags = ("--output", "s", *SMALL)
    for again in range(2):
        done = run_command("pipelines.extract", "--input", "notes.tar", *flags, cwd=tmp_path)
        assert done.code == 1 and "shards hold no images" in done.err, again
        assert "bound by" not in done.out
    done = run_command(
        "pipelines.extract", "--input", "good.tar", "notes.tar", "nested.tar", *flags, cwd=tmp_path
    )
    assert done.code == 3 and "'nested.tar/n1.tar'" in done.err and "'notes.tar'" in done.out
    allowed = ("--input", "nested.tar", "--output", "t", *SMALL, "--allow_dead_chunks")
    assert run_command("pipelines.extract", *allowed, cwd=tmp_path).code == 1
