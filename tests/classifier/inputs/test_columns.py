"""Columns of Parquet, TFRecord and lists: found whatever their case, named by flags, and said."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.extraction import SMALL, run
from support.images import png_bytes
from support.labelling import labels_in

from classifier.engines.reextraction import compare, draw_rows
from classifier.inputs import Asked, Ignored, InputOptions, ShardDamaged, iter_shard, list_inputs
from classifier.inputs.columns import NO_LABEL_COLUMN, find_columns
from classifier.inputs.formats.examples import encode_example
from classifier.inputs.formats.tfrecord import frame
from classifier.inputs.found import Found
from classifier.verify import run as verify
from featurestore.errors import UsageError
from pipelines.driver import extract
from pipelines.extract import parse_options
from pipelines.pack import PackOptions, pack

PNGS = [png_bytes(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(4)]
CLASSES = {
    "img": {"_type": "Image"},
    "fine_label": {"_type": "ClassLabel", "names": ["apple", "bee"]},
    "coarse_label": {"_type": "ClassLabel", "names": ["plant", "animal"]},
}


def write(path, columns, features=None):
    table = pa.table(columns)
    if features:
        facts = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": facts})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.fixture
def two_classes(tmp_path):
    images = [{"bytes": data, "path": None} for data in PNGS[:2]]
    columns = {"img": images, "fine_label": [0, 1], "coarse_label": [0.0, None]}
    return write(tmp_path / "two.parquet", columns, CLASSES)


def read(path, **asked):
    """Returns (labels by key, splits, lines told, names ignored)."""
    told, ignored = [], Ignored()
    options = InputOptions(asked=Asked(**asked))
    (shard,) = list_inputs([str(path)], options, Found(say=told.append))
    refs = [ref for ref, _ in iter_shard(shard, None, ignored)]
    return [ref.labels for ref in refs], [ref.split for ref in refs], told, ignored.names


def test_several_columns_of_classes_are_said_and_chosen_by_a_flag(two_classes):
    labels, _, (line,), ignored = read(two_classes)
    assert labels == [(), ()]
    assert "name one of fine_label, coarse_label by --label_column" in line
    assert ignored == ["two.parquet: labels in fine_label, coarse_label"]
    labels, _, (line,), ignored = read(two_classes, label="fine_label")
    assert labels == [("apple",), ("bee",)] and ignored == []
    assert line.endswith("images of column 'img', labels of 'fine_label' (not of coarse_label)")
    assert read(two_classes, label="coarse_label")[0] == [("plant",), ()]


@pytest.mark.parametrize(
    "columns, labels, splits",
    [
        ({"Image": PNGS[:1], "Label": ["cat"], "Split": ["VAL"]}, [("cat",)], ["validation"]),
        ({"IMG": PNGS[:1], "Class": [b" cat"], "split": [b"test"]}, [("cat",)], ["test"]),
        ({"image": PNGS[:2], "label": [1.0, None]}, [("1",), ()], [None, None]),
        ({"image": PNGS[:2], "label": pa.array(["a", None]).dictionary_encode()}, 0, [None] * 2),
        ({"a": PNGS[:1], "filename": ["1.png"], "label": [b"cat"]}, [("cat",)], [None]),
    ],
)
def test_columns_are_found_whatever_their_case_and_type(tmp_path, columns, labels, splits):
    found = read(write(tmp_path / "a.parquet", columns))
    assert found[:2] == (labels or [("a",), ()], splits) and len(found[2]) == 1


def test_a_column_that_is_none_of_labels_by_name_is_offered(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": PNGS[:1], "species": ["cat"], "id": [1]})
    assert read(path)[2] == [
        "a.parquet: images of column 'image', no labels: name one of species, id by --label_column"
    ]
    assert read(path, label="species")[0] == [("cat",)]
    path = write(tmp_path / "b.parquet", {"left": PNGS[:1], "right": PNGS[1:2], "label": ["cat"]})
    told = []
    (shard,) = list_inputs([str(path)], InputOptions(), Found(say=told.append))
    assert "name one of left, right by --image_column" in told[0]
    with pytest.raises(ShardDamaged, match="'left', 'right' could hold them; name one by --image"):
        list(iter_shard(shard, None, Ignored()))
    assert read(path, image="right")[0] == [("cat",)]


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"label": "fine"}, "--label_column: unknown value 'fine'; choose from coarse_label, fine"),
        ({"image": "image"}, "--image_column: unknown value 'image'; did you mean img"),
        ({"image": "fine_label"}, "--image_column: 'fine_label' is of int64.*choose from img"),
    ],
)
def test_a_named_column_that_is_not_there_is_refused_at_once(two_classes, asked, words):
    with pytest.raises(UsageError, match=words):
        read(two_classes, **asked)
    # On a worker, where shards differ, it costs that shard and is reported.
    (shard,) = list_inputs([str(two_classes)], InputOptions(asked=Asked(**asked)))
    with pytest.raises(ShardDamaged, match=words):
        list(iter_shard(shard, None, Ignored()))


def test_a_list_of_bytes_is_a_list(tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    columns = {"path": [b"1.png"], "label": [b"cat "], "split": [b"Train"]}
    (ref,) = list_inputs([str(write(tmp_path / "l.parquet", columns))], InputOptions())
    assert (ref.key, ref.labels, ref.split) == ("1.png", ("cat",), "train")


def test_columns_of_a_list_are_named_and_said(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(PNGS[0])
    (tmp_path / "l.csv").write_text(",pic,breed,id\n0,1.png, pug,1\n1,2.png,pug ,2\n")
    told = []
    options = InputOptions(asked=Asked("pic", "breed"))
    refs = list(list_inputs([str(tmp_path / "l.csv")], options, Found(say=told.append)))
    assert [(ref.key, ref.labels) for ref in refs] == [("1.png", ("pug",)), ("2.png", ("pug",))]
    assert told[0].endswith("images of column 'pic', labels of 'breed'")
    with pytest.raises(UsageError, match="--label_column: unknown value 'bred'"):
        list(list_inputs([str(tmp_path / "l.csv")], InputOptions(asked=Asked("pic", "bred"))))
    with pytest.raises(UsageError, match="that --image_column names; it has , pic, breed, id"):
        list(list_inputs([str(tmp_path / "l.csv")], InputOptions()))
    (tmp_path / "l.csv").write_text("path,breed\n1.png,pug\n")
    list(list_inputs([str(tmp_path / "l.csv")], InputOptions(), Found(say=told.append)))
    assert told[1].endswith("no labels: name one of breed by --label_column")


def test_rows_without_an_address_are_counted(tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    (tmp_path / "l.csv").write_text("path,label\n1.png,pug\n,dog\n\n , \n")
    ignored = Ignored()
    assert len(list(list_inputs([str(tmp_path / "l.csv")], InputOptions(), Found(ignored)))) == 1
    assert ignored.names == ["l.csv: row 2 has no address"]


def test_a_parquet_list_with_its_column_of_addresses_named(tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    path = write(tmp_path / "l.parquet", {"pic": ["1.png"], "breed": ["pug"], "thumb": PNGS[:1]})
    (ref,) = list_inputs([str(path)], InputOptions(asked=Asked("pic", "breed")))
    assert (ref.key, ref.labels) == ("1.png", ("pug",))


def test_features_of_a_tfrecord_are_named_and_said(tmp_path):
    for name, names in (("fine", "apple\nbee"), ("coarse", "plant\nanimal")):
        (tmp_path / f"{name}.labels.txt").write_text(names)
    path = tmp_path / "a.tfrecord"
    rows = [{"image": [PNGS[i]], "fine": [i], "coarse": [1 - i]} for i in range(2)]
    path.write_bytes(b"".join(frame(encode_example(row)) for row in rows))
    labels, _, (line,), ignored = read(path)
    assert labels == [(), ()] and "by --label_column" in line
    assert ignored == ["a.tfrecord: labels in coarse, fine"]
    assert read(path, label="fine")[0] == [("apple",), ("bee",)]
    assert read(path, label="coarse")[0] == [("animal",), ("plant",)]
    with pytest.raises(UsageError, match="--label_column: unknown value 'fines'"):
        read(path, label="fines")
    row = {"Image": [PNGS[0]], "Label": [b"cat "], "Split": [b"dev"]}
    path.write_bytes(frame(encode_example(row)))
    assert read(path)[:2] == ([("cat",)], ["validation"])


def test_a_column_for_inputs_without_columns_is_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(PNGS[0])
    with pytest.raises(UsageError, match="the input has none of these"):
        list(list_inputs([str(tmp_path)], InputOptions(asked=Asked(label="x"))))


def test_other_columns_are_another_version_and_none_leaves_what_is_stored(two_classes, tmp_path):
    lines = []

    def labels(*flags):
        arguments = ("--input", two_classes, "--output", tmp_path / "s", *SMALL, *flags)
        lines.clear()
        options, _ = parse_options([str(argument) for argument in arguments])
        outcome = extract(options, lines.append)
        return sorted(map(tuple, labels_in(outcome.store).values())), outcome

    assert labels()[0] == [(), ()]
    found, outcome = labels("--label_column", "fine_label")
    assert found == [("apple",), ("bee",)] and outcome.record["store_ledger"]["rows"] == 2
    assert any("labels of 'fine_label'" in line for line in lines)
    assert labels()[0] == [("apple",), ("bee",)] and "nothing new" in " ".join(lines)
    assert labels("--label_column", "coarse_label")[0] == [(), ("plant",)]
    assert verify(["--store", str(tmp_path / "s"), "--rows", "10"]) == 0


def test_two_columns_of_images_are_found_again_by_their_column(tmp_path):
    path = write(tmp_path / "a.parquet", {"img": PNGS[:2], "mask": PNGS[2:], "label": [0, 1]})
    arguments = ("--input", path, "--output", tmp_path / "s", *SMALL, "--image_column", "mask")
    store = run(*arguments).store
    assert verify(["--store", store.url, "--rows", "10"]) == 0
    drawn = draw_rows(store, 10, 0)
    report = compare(store, drawn, lambda pixels: np.zeros((len(pixels), 1280)), "", {})
    assert report.compared == 2  # by content: of the column that was extracted


def test_packing_keeps_the_labels_that_were_named(two_classes, tmp_path):
    told = []
    reading = InputOptions(asked=Asked(label="fine_label"))
    options = PackOptions((str(two_classes),), str(tmp_path / "out"), "tfrecord", reading=reading)
    assert pack(options, told.append)["classes"] == ["apple", "bee"] and len(told) == 1
    (shard,) = list_inputs([str(tmp_path / "out")], InputOptions())
    assert [ref.labels for ref, _ in iter_shard(shard, None, Ignored())] == [("apple",), ("bee",)]


@pytest.mark.parametrize(
    "columns, image",
    [
        ({"path": pa.binary(), "breed": pa.binary()}, None),
        ({"label": pa.binary(), "photo": pa.binary()}, "photo"),
        ({"label": pa.binary(), "name": pa.string()}, None),
        ({"PNG": pa.binary(), "b": pa.binary()}, "PNG"),
    ],
)
def test_text_that_is_stored_as_bytes_is_no_image(columns, image):
    found = find_columns(pa.schema(list(columns.items())))
    assert (found.image if found else None) == image


@pytest.mark.parametrize(
    "suffix, text, labels, split",
    [
        ("cls", "\ufeff 3.0\n", ("3",), None),
        ("txt", "cafe\u0301\u00a0", ("caf\u00e9",), None),
        ("json", '\ufeff{"Label": 1.0, "SPLIT": "Val"}', ("1",), "validation"),
        ("json", '{"labels": [2.0, " a", null, ""]}', ("2", "a"), None),
        ("json", '{"label": true}', ("True",), None),
        ("json", '{"label": ""}', ("folder",), None),
        ("json", '{"label": []}', (), None),
    ],
)
def test_label_files_of_a_webdataset_are_cells(tmp_path, suffix, text, labels, split):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("png", PNGS[0]), (suffix, text.encode())):
            member = tarfile.TarInfo(f"folder/1.{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (shard,) = list_inputs([str(tmp_path / "a.tar")], InputOptions())
    ((ref, _),) = iter_shard(shard, None, Ignored())
    assert (ref.labels, ref.split) == (labels, split)


def note_of(path):
    """Returns the note on a shard whose labels were not found: (count, first), or None."""
    ignored = Ignored()
    for shard in list_inputs([str(path)], InputOptions()):
        assert all(ref.labels in ((), ("cat",)) for ref, _ in iter_shard(shard, None, ignored))
    note = ignored.notes.get(NO_LABEL_COLUMN)
    return note and (note["count"], note["first"])


@pytest.mark.parametrize(
    "later, note",
    [
        ({"breed": ["pug"]}, (1, "b.parquet (breed)")),
        ({"id": [1], "breed": ["pug"]}, (1, "b.parquet (id, breed)")),
        ({"label": ["cat"]}, None),
        ({"label": pa.array([None], pa.string())}, None),
        ({}, None),
    ],
)
def test_a_later_parquet_without_a_label_column_is_noted(tmp_path, later, note):
    write(tmp_path / "a.parquet", {"image": PNGS[:1], "label": ["cat"]})
    write(tmp_path / "b.parquet", {"image": PNGS[1:2], **later})
    assert note_of(tmp_path) == note


@pytest.mark.parametrize(
    "later, note",
    [
        ([{"breed": [b"pug"]}] * 3, (1, "b.tfrecord (breed)")),
        ([{"label": [b"cat"], "id": [1]}, {"id": [2]}], None),
        ([{"id": [2]}, {"label": [b"cat"], "id": [1]}], None),
        ([{"label": [], "id": [1]}], None),
        ([{}], None),
    ],
)
def test_a_later_tfrecord_without_a_label_feature_is_noted(tmp_path, later, note):
    rows = {"a": [{"label": [b"cat"]}], "b": later}
    for name, features in rows.items():
        records = (frame(encode_example({"image": [PNGS[0]], **row})) for row in features)
        (tmp_path / f"{name}.tfrecord").write_bytes(b"".join(records))
    assert note_of(tmp_path) == note


def test_a_run_says_that_a_later_shard_has_no_labels(tmp_path):
    write(tmp_path / "in" / "a.parquet", {"image": PNGS[:1], "label": ["cat"]})
    write(tmp_path / "in" / "b.parquet", {"image": PNGS[1:2], "breed": ["pug"]})
    outcome = run("--input", tmp_path / "in", "--output", tmp_path / "s", *SMALL)
    (note,) = outcome.record["notes"]
    assert note["reason"] == NO_LABEL_COLUMN and note["first"] == "b.parquet (breed)"
