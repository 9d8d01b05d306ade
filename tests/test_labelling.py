"""Labels from tables and names: at extraction, on a store that is there, and on shards."""

import json

import pytest
from conftest import assert_one_line_error, write_images
from test_extract import SMALL, make_tar, run

from featurestore.errors import UsageError


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


def labels_in(store):
    loaded = store.load(["key", "labels"])
    return {k: list(v) for k, v in zip(loaded["key"], loaded["labels"], strict=True)}


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
