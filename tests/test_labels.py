"""Labels from tables and from names."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifier.inputs import ImageRef
from classifier.inputs.labels import LabelOptions, LabelTable, label_from_name
from featurestore.errors import UsageError


def table(**labels):
    return LabelTable("t.csv", {key: (label,) for key, label in labels.items()})


def read(path, text, *columns):
    path.write_text(text)
    return LabelTable.read(str(path), *columns)


def test_a_table_as_kaggle_ships_it(tmp_path):
    found = read(tmp_path / "labels.csv", "id,breed\n0042,pug\n007,\nab.c,collie\n")
    assert found.match("train/0042.jpg") == ("pug",)
    assert found.match("ab.c.jpeg") == ("collie",)
    assert found.match("007.jpg") is None
    assert found.match("42.jpg") is None
    assert found.without_image().names == []
    assert len(found) == 3


def test_columns_by_name_and_several_labels(tmp_path):
    text = "split,file,tag\ntrain,cat/1.jpg,a\ntest,cat/1.jpg,b\ntrain,dog/1.jpg,c\n"
    found = read(tmp_path / "l.csv", text, "file", "tag")
    assert found.match("cat/1.jpg") == ("a", "b")
    assert found.match("pets/dog/1.jpg") == ("c",)
    by_default = LabelTable.read(str(tmp_path / "l.csv"), key_column="file")
    assert by_default.match("cat/1.jpg") == ("a", "b")
    by_name = LabelTable.read(str(tmp_path / "l.csv"), "file", "split")
    assert by_name.match("cat/1.jpg") == ("train", "test")


def test_parquet_on_memory():
    with fsspec.open("memory://labels/l.parquet", "wb") as sink:
        pq.write_table(pa.table({"id": [7, 8], "names": [["a", "b"], None]}), sink)
    found = LabelTable.read("memory://labels/l.parquet")
    assert found.match("x/7.png") == ("a", "b") and found.match("8.png") is None


def test_the_full_key_beats_its_tails_and_stem():
    found = LabelTable("t", {"a/1.jpg": ("full",), "1.jpg": ("tail",), "1": ("stem",)})
    assert found.match("a/1.jpg") == ("full",)
    assert found.match("b/1.jpg") == ("tail",)
    assert found.match("1.png") == ("stem",)


@pytest.mark.parametrize(
    "row, key",
    [
        ("a/1.jpg", "root/a/1.jpg"),
        ("root/a/1.jpg", "a/1.jpg"),
        ("./a/1.jpg", "a/1.jpg"),
        ("/a/1", "s.tar/a/1.jpg"),
        ("a/1.png", "a/1.jpg"),
        ("a/b/1", "1.jpg"),
    ],
)
def test_path_variants(tmp_path, row, key):
    assert read(tmp_path / "l.csv", f"id,label\n{row},x\n").match(key) == ("x",)


@pytest.mark.parametrize("row, key", [("a/1.jpg", "b/1.jpg"), ("1.jpg.png", "1.jpg"), ("1", "11")])
def test_what_is_not_the_same(row, key):
    assert LabelTable("t", {row: ("x",)}).match(key) is None


def test_ambiguous_joins_name_both():
    found = LabelTable("t.csv", {"1.jpg": ("a",), "1.png": ("b",)})
    with pytest.raises(
        UsageError, match=r"'x/1.gif' fits two rows of 't.csv'.*'1.jpg' and '1.png'"
    ):
        found.match("x/1.gif")
    assert found.match("x/1.png") == ("b",)
    found = LabelTable("t.csv", {"1": ("a",)})
    assert found.match("x/1.gif") == found.match("x/1.gif") == ("a",)
    with pytest.raises(
        UsageError, match=r"'1' in 't.csv' fits two images, 'x/1.gif' and 'y/1.gif'"
    ):
        found.match("y/1.gif")


def test_keys_that_no_image_has_are_listed():
    found = table(a="1", b="2", c="3")
    found.match("b.jpg")
    unused = found.without_image()
    assert (unused.count, unused.names) == (2, ["a", "c"])


@pytest.mark.parametrize(
    "text, columns, words",
    [
        ("id,breed\n1,pug\n", ("idd",), "--key_column: unknown value 'idd'; did you mean id"),
        ("id,breed\n1,pug\n", ("", "bread"), "--label_column: unknown value 'bread'"),
        ("id\n1\n", (), "has the one column 'id'"),
        ("", (), "is empty"),
    ],
)
def test_mistaken_tables(tmp_path, text, columns, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path / "l.csv", text, *columns)
    with pytest.raises(UsageError, match="--labels: cannot read"):
        LabelTable.read(str(tmp_path / "gone.csv"))


def test_labels_from_names():
    assert label_from_name(r"(cat|dog)\.\d+").label("train/cat.0.jpg") == ("cat",)
    assert label_from_name(r"(\d+)_(?P<label>\w+)\.").label("7_dog.png") == ("dog",)
    assert label_from_name(r"(cat)?\.jpg").label("x.jpg") is None
    assert label_from_name(r"(cat)").label("x.jpg") is None


@pytest.mark.parametrize(
    "regex, words", [("(cat", "no regular expression: missing"), (r"cat\.\d", "has no group")]
)
def test_mistaken_patterns(regex, words):
    with pytest.raises(UsageError, match=words):
        label_from_name(regex)
    with pytest.raises(UsageError, match=words):
        LabelOptions(pattern=regex)


def test_labels_are_given_to_images_and_counted(tmp_path):
    (tmp_path / "l.csv").write_text("id,breed\n1,pug\n9,collie\n")
    labeller = LabelOptions(table=str(tmp_path / "l.csv")).labeller()
    refs = [ImageRef(f"train/{i}.jpg", "", 1, "", ("train",)) for i in (1, 2)]
    assert [labeller.apply(ref).labels for ref in refs] == [("pug",), ()]
    assert labeller.without_label.names == ["train/2.jpg"]
    assert labeller.table.without_image().names == ["9"]
    by_name = LabelOptions(pattern=r"/(\d)").labeller()
    assert by_name.apply(refs[0]).labels == ("1",)
    assert LabelOptions().labeller().apply(refs[0]) == refs[0]
    assert not LabelOptions() and LabelOptions(table="x")


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"table": "a", "pattern": "(b)"}, "exclude each other"),
        ({"key_column": "id"}, "give it too"),
    ],
)
def test_mistaken_flags(flags, words):
    with pytest.raises(UsageError, match=words):
        LabelOptions(**flags)
