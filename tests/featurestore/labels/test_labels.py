"""Labels from tables and from names."""

import unicodedata

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.optional import optional

from classifier.inputs import ImageRef
from classifier.inputs.labels import LabelOptions, LabelTable, NamePattern
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
        ("root\\a\\1.jpg", "a/1.jpg"),
        ("a\\1", "root/a/1.jpg"),
    ],
)
def test_path_variants(tmp_path, row, key):
    assert read(tmp_path / "l.csv", f"id,label\n{row},x\n").match(key) == ("x",)


@pytest.mark.parametrize(
    "row, key",
    [("a/1.jpg", "b/1.jpg"), ("a\\1.jpg", "b/1.jpg"), ("1.jpg.png", "1.jpg"), ("1", "11")],
)
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
        ("id\n1\n", (), "has only the column 'id'"),
        ("", (), "is empty"),
    ],
)
def test_mistaken_tables(tmp_path, text, columns, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path / "l.csv", text, *columns)
    with pytest.raises(UsageError, match="--labels: cannot read"):
        LabelTable.read(str(tmp_path / "gone.csv"))


def test_tables_in_other_encodings(tmp_path):
    text = "id\tlabel\né1\tchat\n"
    (tmp_path / "l.csv").write_bytes(text.encode("utf-16"))
    assert LabelTable.read(str(tmp_path / "l.csv")).match("é1.jpg") == ("chat",)
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="must be in UTF-8, but has the byte 0xe9; save it"):
        LabelTable.read(str(tmp_path / "l.csv"))


def test_a_column_of_0_and_1_may_be_named(tmp_path):
    text = "image,MEL,NV\n1,1.0,0.0\n2,0.0,1.0\n"
    assert read(tmp_path / "l.csv", text, "", "MEL").match("1.jpg") == ("1",)
    assert read(tmp_path / "l.csv", "image,ill\n1,1\n2,0\n").match("2.jpg") == ("0",)


def test_labels_from_names():
    assert NamePattern.parse(r"(cat|dog)\.\d+").label("train/cat.0.jpg") == ("cat",)
    assert NamePattern.parse(r"(\d+)_(?P<label>\w+)\.").label("7_dog.png") == ("dog",)
    assert NamePattern.parse(r"(cat)?\.jpg").label("x.jpg") is None
    assert NamePattern.parse(r"(cat)").label("x.jpg") is None


@pytest.mark.parametrize(
    "regex, words", [("(cat", "not a regular expression: missing"), (r"cat\.\d", "has no group")]
)
def test_mistaken_patterns(regex, words):
    with pytest.raises(UsageError, match=words):
        NamePattern.parse(regex)
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
        ({"key_column": "id"}, "give --labels too"),
        ({"label_column": "x", "pattern": "(b)"}, "from names or from a column"),
    ],
)
def test_mistaken_flags(flags, words):
    with pytest.raises(UsageError, match=words):
        LabelOptions(**flags)


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        ",id,label\n0,1,cat\n1,2,dog\n",
        "Unnamed: 0,file,Label\n7,1.jpg,cat\n8,2.jpg,dog\n",
        '"","image_id","split","breed"\n"1","1","train"," cat"\n"2","2","test","dog "\n',
        "index,filename,width,height,class\n0,1.jpg,5,5,cat\n1,2.jpg,5,5,dog\n",
        "label,image\ncat,1.jpg\ndog,2\n",
        "id , label\n1.0, cat\n2.0,dog\u00a0\n",
        "id,label,\n1,cat,\n2,dog,\n",
        "id;label\n1;cat\n2;dog\n",
        "image,patient_id,age,target\n1,17,50,cat\n2,18,60,dog\n",
        "id\tlabel\n1\tcat\n2\tdog\n",
        "0,1\n1.jpg,cat\n2.jpg,dog\n",
    ],
)
def test_the_columns_of_tables_as_other_programs_write_them(tmp_path, text):
    found = read(tmp_path / "l.csv", text)
    assert (found.match("1.jpg"), found.match("2.jpg")) == (("cat",), ("dog",))
    assert found.match("0.jpg") is None and found.columns.startswith("--labels ")


@pytest.mark.parametrize(
    "text, words",
    [
        (
            ",label\n1,cat\n",
            "first column of '.*' has no name.*name a column with --key_column",
        ),
        (",label,split\n1,cat,train\n", "has no name.*label, split"),
        ("Unnamed: 0,breed,note\n1,cat,x\n", "has no name \\('Unnamed: 0'\\)"),
        ("id,label\n1,2,cat\n", "line 2 has 3 cells, but the header names 2 columns"),
        ("id,label\n1,cat, tabby\n", "quote cells that contain the delimiter"),
        ("label,split,note\na,b,c\n", "is 'label', which does not hold keys"),
        ("id,label,label\n1,a,b\n", "--label_column: two columns are called 'label'"),
        ("1.jpg,cat\n2.jpg,dog\n", "first line of '.*' must name the columns.*'1.jpg' and 'cat'"),
        ("1,cat\n2,dog\n", "must name the columns, but looks like a row"),
        ("image,MEL,NV\n1,1.0,0.0\n2,0.0,1.0\n", "'MEL' holds only 0 and 1.*NV"),
    ],
)
def test_a_table_that_would_be_taken_wrongly_is_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path / "l.csv", text)


def test_named_columns_are_taken_whatever_stands_first(tmp_path):
    text = ",breed,split\n1,cat,train\n"
    assert read(tmp_path / "l.csv", text, "breed", "split").match("cat.jpg") == ("train",)
    text = "Unnamed: 0,breed\n1,cat\n"
    assert read(tmp_path / "l.csv", text, "Unnamed: 0").match("1.jpg") == ("cat",)


def test_parquet_tables_of_pandas_keep_their_index_apart(tmp_path):
    pandas = optional("pandas")
    frame = pandas.DataFrame({"label": ["cat", None], "n": [1, 2]}, index=["1", "2"])
    frame.rename_axis("pic").to_parquet(tmp_path / "named.parquet")
    named = LabelTable.read(str(tmp_path / "named.parquet"))
    assert named.match("1.jpg") == ("cat",) and "keys of column 'pic'" in named.columns
    frame.to_parquet(tmp_path / "unnamed.parquet")
    by_flag = LabelTable.read(str(tmp_path / "unnamed.parquet"), "__index_level_0__")
    assert by_flag.match("1.jpg") == ("cat",)
    frame.reset_index(names="id").loc[[1, 0]].to_parquet(tmp_path / "rows.parquet")
    rows = LabelTable.read(str(tmp_path / "rows.parquet"))
    assert rows.match("1.jpg") == ("cat",) and "__index_level_0__" not in rows.columns


def test_cells_of_every_type_join_and_label_alike(tmp_path):
    tables = [
        {"id": [1, 2], "label": ["0", "1"]},
        {"id": [1.0, 2.0], "label": [0.0, 1.0]},
        {"id": [b"1", b"2 "], "label": [b"0", b" 1"]},
        {"id": pa.array(["1", "2"]).dictionary_encode(), "label": [[0], [1]]},
        {"id": ["1.0", "2.0"], "label": ["0.0", "1.0"]},
    ]
    for number, columns in enumerate(tables):
        found = LabelTable.read(write_parquet(tmp_path / f"{number}.parquet", **columns))
        assert (found.match("a/1.jpg"), found.match("a/2.jpg")) == (("0",), ("1",)), columns
    holes = {"id": [1.0, None, 3.0], "label": [0.0, 1.0, None]}
    found = LabelTable.read(write_parquet(tmp_path / "holes.parquet", **holes))
    assert (found.match("1.jpg"), found.match("3.jpg"), len(found)) == (("0",), None, 2)


def test_both_spellings_of_an_accent_are_one_key_and_one_label():
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    for row, image in ((composed, apart), (apart, composed)):
        assert LabelTable("t", {row: ("x",)}).match(f"a/{image}.jpg") == ("x",)
        assert LabelTable("t", {f"{row}.jpg": ("x",)}).match(f"{image}.jpg") == ("x",)
        assert LabelTable("t", {f"{row}/1": ("x",)}).match(f"{image}/1.jpg") == ("x",)
        assert LabelTable("t", {f"{row}.png": ("x",)}).match(f"{image}.jpg") == ("x",)
    both = LabelTable("t", {f"{composed}.jpg": ("a",), f"{apart}.jpg": ("b",)})
    assert both.match(f"{composed}.jpg") == ("a",) and both.match(f"{apart}.jpg") == ("b",)
    one = LabelTable("t", {composed: ("a",)})
    one.match(f"{composed}.jpg")
    with pytest.raises(UsageError, match="fits two images"):
        one.match(f"{apart}.jpg")


def test_names_with_dots_and_numbers_join_their_own_row():
    found = LabelTable("t", {"x/1.0.png": ("a",), "v2.0": ("c",)})
    assert found.match("x/1.0.jpg") == ("a",) and found.match("v2.0.jpg") == ("c",)
    assert found.match("x/1.jpg") is None


def test_what_a_table_says_of_splits_is_said_to_be_left_out(tmp_path):
    found = read(tmp_path / "l.csv", "id,split,label\n1,train,cat\n")
    assert found.match("1.jpg") == ("cat",)
    assert "the column 'split' is not used here; python -m featurestore relabel" in found.columns
