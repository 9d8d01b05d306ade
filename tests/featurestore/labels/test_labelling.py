"""Labels from tables and names: at extraction, on a store that is there, and on shards."""

import json

import pytest
from support.commands import assert_one_line_error
from support.extraction import SMALL, make_tar, run
from support.images import write_images
from support.labelling import labels_in

from featurestore.errors import UsageError
from pipelines.driver import extract
from pipelines.extract import parse_options


@pytest.fixture
def kaggle(tmp_path):
    """Flat images and a table as Kaggle ships it: ids without suffix, one of them unknown."""
    paths = write_images(tmp_path / "all", 6)
    folder = tmp_path / "train"
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    rows = [f"{path.stem},{'beagle' if n % 2 else 'pug'}" for n, path in enumerate(paths[:5])]
    (tmp_path / "labels.csv").write_text("\n".join(["id,breed", *rows, "nobody,pug"]) + "\n")
    return folder, tmp_path / "labels.csv"


def test_a_table_joins_by_stem_and_tells_what_does_not(kaggle, tmp_path):
    folder, table = kaggle
    flags = ("--labels", table, "--key_column", "id", "--label_column", "breed")
    outcome = run("--input", folder, "--output", tmp_path / "s", *SMALL, *flags)
    found = labels_in(outcome.store)
    assert found["00000.jpeg"] == ["pug"] and found["00001.jpeg"] == ["beagle"]
    assert found["00005.jpeg"] == []
    told = outcome.record["labels"]
    assert (told["labelled"], told["without_label"], told["without_image"]) == (5, 1, 1)
    assert told["without_image_keys"] == ["nobody"]
    assert told["without_label_keys"] == ["00005.jpeg"]


def test_labels_on_a_store_that_is_there_extract_nothing(kaggle, tmp_path, command):
    folder, table = kaggle
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL)
    run(*arguments)
    outcome = run(*arguments, "--labels", table)
    assert outcome.record["ledger"]["images_in"] == 0
    assert outcome.record["labels"]["changed"] == 5
    assert labels_in(outcome.store)["00001.jpeg"] == ["beagle"]
    assert run(*arguments, "--labels", table).record["labels"]["changed"] == 0
    table.write_text("id,breed\n00001,terrier\n")
    done = command("featurestore", "relabel", "s", "--labels", str(table), "--json")
    assert done.code == 0 and json.loads(done.out)["changed"] == 1
    assert "keys of column 'id', labels of 'breed'" in json.loads(done.out)["columns"]
    assert labels_in(outcome.store)["00001.jpeg"] == ["terrier"]
    bad = command("featurestore", "relabel", "s", "--labels", str(table), "--key_column", "ids")
    assert_one_line_error(bad, 2, "--key_column", "did you mean id?")


def test_shards_get_their_labels_too(kaggle, tmp_path):
    folder, table = kaggle
    make_tar(tmp_path / "0.tar", sorted(folder.iterdir()))
    arguments = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL)
    found = labels_in(run(*arguments, "--labels", table).store)
    assert found["0.tar/00001.jpg"] == ["beagle"]


def test_labels_from_names_and_balanced_subsets(tmp_path):
    paths = write_images(tmp_path / "all", 8)
    folder = tmp_path / "pets"
    folder.mkdir()
    for number, path in enumerate(paths):
        path.rename(folder / f"{('cat', 'dog', 'cat', 'cat')[number % 4]}.{number}.jpg")
    pattern = ("--label_from_name", r"(cat|dog)\.\d+")
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL, *pattern)
    found = labels_in(run(*arguments, "--limit_per_class", 2).store)
    assert sorted(map(tuple, found.values())) == [("cat",), ("cat",), ("dog",), ("dog",)]
    with pytest.raises(UsageError, match="--label_from_name"):
        run(*arguments[:-1], "cat")


def said(*arguments):
    """Extracts; returns the lines that the user sees, and the store."""
    lines = []
    options, _ = parse_options([str(argument) for argument in arguments])
    store = extract(options, lines.append).store
    return "\n".join(lines), store


def test_where_split_fractions_do_not_apply_is_said(tmp_path):
    paths = write_images(tmp_path / "all", 4)
    splits = ("train", "", "Test", "")
    rows = [f"{path},c,{split}" for path, split in zip(paths, splits, strict=True)]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    arguments = ("--input", tmp_path / "l.csv", "--output", tmp_path / "s", *SMALL)
    shares = ("--split_fractions", "validation=1")
    lines, store = said(*arguments, *shares)
    assert "images of column 'path', labels of 'label', splits of 'split'" in lines
    words = "--split_fractions does not give the split of "
    assert words + "2 of 4 new inputs, whose folder, list or name has one" in lines
    found = sorted(store.load(["split"])["split"])
    assert found == ["test", "train", "validation", "validation"]
    assert words + "4 stored inputs, which keep what they have" in said(*arguments, *shares)[0]
    assert words not in said(*arguments)[0]


def test_columns_are_named_of_the_table_where_there_is_one(kaggle, tmp_path):
    folder, table = kaggle
    rows = [f"train/{path.name},x,y" for path in sorted(folder.iterdir())]
    (tmp_path / "l.csv").write_text("\n".join(["path,label,breed", *rows]) + "\n")
    arguments = ("--input", tmp_path / "l.csv", "--output", tmp_path / "s", *SMALL)
    lines, store = said(*arguments, "--labels", table, "--label_column", "breed")
    assert "keys of column 'id', labels of 'breed'" in lines and "labels of 'label'" in lines
    assert labels_in(store)["train/00001.jpeg"] == ["beagle"]
    arguments = ("--input", tmp_path / "l.csv", "--output", tmp_path / "t", *SMALL)
    lines, store = said(*arguments, "--label_column", "breed")
    assert labels_in(store)["train/00001.jpeg"] == ["y"]
    with pytest.raises(UsageError, match="from names or from a column"):
        said(*arguments, "--label_from_name", "(x)", "--label_column", "breed")


def splits_in(store):
    loaded = store.load(["key", "split"])
    return dict(zip(loaded["key"], loaded["split"], strict=True))


def test_a_table_moves_rows_to_other_splits(kaggle, tmp_path, command):
    folder, table = kaggle
    outcome = run("--input", folder, "--output", tmp_path / "s", *SMALL, "--labels", table)
    before = labels_in(outcome.store)
    table.write_text("id,part\n00000,Val\n00001,train\n00002,\n")
    relabel = ("featurestore", "relabel", "s", "--labels", str(table), "--json")
    done = command(*relabel, "--split_column", "part")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["moved"], found["changed"], found["labelled"]) == (2, 0, 0)
    assert found["columns"].endswith("keys of column 'id', splits of 'part'")
    splits = splits_in(outcome.store)
    assert (splits["00000.jpeg"], splits["00001.jpeg"]) == ("validation", "train")
    assert splits["00002.jpeg"] is None and labels_in(outcome.store) == before
    table.write_text("id,breed,part\n00000,terrier,test\n00000,terrier,train\n")
    twice = command(*relabel, "--split_column", "part")
    assert_one_line_error(twice, 2, "--split_column: '00000.jpeg' has 2 splits")
    table.write_text("id,breed,part\n00000,terrier,test\n")
    both = json.loads(command(*relabel, "--split_column", "part").out)
    assert (both["moved"], both["changed"]) == (1, 1)
    assert labels_in(outcome.store)["00000.jpeg"] == ["terrier"]
    wrong = command(*relabel, "--split_column", "prat")
    assert_one_line_error(wrong, 2, "--split_column", "did you mean part")
