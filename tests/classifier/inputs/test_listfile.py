"""Lists of images: CSV and Parquet, relative and absolute, with labels and splits."""

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.images import png_bytes

from classifier.inputs import Ignored, InputOptions, list_inputs, read_many
from classifier.inputs.found import Found
from featurestore.errors import UsageError

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))


def make_tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)


def listed(*uris, **options):
    return list(list_inputs([str(u) for u in uris], InputOptions(storage_options=options)))


def facts(refs):
    return [(ref.key, ref.labels, ref.split) for ref in refs]


def test_relative_paths_labels_and_splits(tmp_path):
    make_tree(tmp_path, "a/1.png", "a/2.png", "3.png")
    (tmp_path / "list.csv").write_text(
        "\ufeffpath, label,split\na/1.png,cat,train\n./a//2.png,,val\n\n3.png,dog,\n3.png,pet,\n",
        encoding="utf-8",
    )
    refs = listed(tmp_path / "list.csv")
    assert facts(refs) == [
        ("a/1.png", ("cat",), "train"),
        ("a/2.png", (), "validation"),
        ("3.png", ("dog", "pet"), None),
    ]
    assert refs[0].uri == f"file://{tmp_path}/a/1.png"
    assert refs[0].size == len(PNG) and float(refs[0].etag) > 0
    assert read_many(refs) == [PNG] * 3


def test_absolute_paths_and_addresses(tmp_path):
    make_tree(tmp_path, "x/1.png", "y/2.png")
    fsspec.filesystem("memory").pipe_file("/far/3.png", PNG)
    (tmp_path / "x" / "list.tsv").write_text(
        f"label\turi\na\t{tmp_path}/y/2.png\nb\tmemory://far/3.png\nc\t../y/gone.png\n"
        f"d\tfile://{tmp_path}/x/1.png\n"
    )
    refs = listed(tmp_path / "x" / "list.tsv")
    root = str(tmp_path).lstrip("/")
    assert [ref.key for ref in refs] == [
        f"{root}/y/2.png",
        "far/3.png",
        "y/gone.png",
        f"{root}/x/1.png",
    ]
    assert [ref.labels for ref in refs] == [("a",), ("b",), ("c",), ("d",)]
    assert (refs[2].size, refs[2].etag) == (0, "")
    contents = read_many(refs)
    assert [contents[i] for i in (0, 1, 3)] == [PNG] * 3
    assert isinstance(contents[2], OSError) and "No such file" in str(contents[2])


def test_a_list_on_memory_and_as_parquet(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lists/cat/1.png", PNG)
    table = pa.table({"image": ["cat/1.png"], "labels": [["cat", "pet"]]})
    with fs.open("/lists/l.parquet", "wb") as sink:
        pq.write_table(table, sink)
    fs.pipe_file("/lists/l.csv", b"url,class\ncat/1.png,cat\n")
    assert facts(listed("memory://lists/l.parquet")) == [("cat/1.png", ("cat", "pet"), None)]
    (ref,) = listed("memory://lists/l.csv")
    assert facts([ref]) == [("cat/1.png", ("cat",), None)]
    assert ref.uri == "memory:///lists/cat/1.png" and ref.size == len(PNG)
    assert read_many([ref]) == [PNG]


def test_a_list_in_a_folder_is_no_input(tmp_path):
    make_tree(tmp_path, "a/1.png")
    (tmp_path / "list.csv").write_text("path\na/1.png\n")
    ignored = Ignored()
    refs = list(list_inputs([str(tmp_path)], InputOptions(), Found(ignored)))
    assert [ref.key for ref in refs] == ["a/1.png"] and ignored.names == ["list.csv"]


def test_two_lists_in_two_folders_are_told_apart(tmp_path):
    make_tree(tmp_path, "a/1.png", "b/1.png")
    for folder in "ab":
        (tmp_path / folder / "list.csv").write_text("path\n1.png\n")
    refs = listed(tmp_path / "a/list.csv", tmp_path / "b/list.csv")
    assert [ref.key for ref in refs] == ["a/1.png", "b/1.png"]


def test_credentials_in_a_list_stay_out(tmp_path):
    (tmp_path / "l.csv").write_text("url\nmemory://far/3.png\n")
    (tmp_path / "h.csv").write_text("url\nhttp://me:secret@127.0.0.1:9/a/b.png?token=1\n")
    (ref,) = listed(tmp_path / "h.csv")
    assert ref.uri == "http://127.0.0.1:9/a/b.png" and ref.key.startswith("a/b.png?")
    assert "with a query" in ref.problem
    assert not any(word in repr(ref) for word in ("secret", "token", "me:"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is empty; its first line must name the columns"),
        ("picture,label\na,b\n", r"needs a column uri\|url\|path.*it has picture, label"),
        ("path,label\na.png,x\nb.png,y\na.png,z\n", "names 'a.png' twice"),
    ],
)
def test_mistakes(tmp_path, text, words):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        listed(tmp_path / "l.csv")


def test_the_same_row_again_is_passed_over(tmp_path):
    (tmp_path / "l.csv").write_text("path,label\na.png,x\nb.png,y\na.png,x\n")
    assert [ref.key for ref in listed(tmp_path / "l.csv")] == ["a.png", "b.png"]
    (tmp_path / "n.csv").write_text("path\n")
    assert listed(tmp_path / "n.csv") == []
    (tmp_path / "b.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(UsageError, match="must be in UTF-8"):
        listed(tmp_path / "b.csv")
