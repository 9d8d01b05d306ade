"""Audit and search of stores with several views of an image, and with several labels."""

import csv
import json

import numpy as np
import pytest
from support.features import clusters, hash_of, make_store

from classifier.audit import run as audit_command
from classifier.auditing.search import search

COUNT, VIEWS = 40, 3


@pytest.fixture(scope="module")
def viewed(tmp_path_factory):
    """40 images of two classes with three views each; the last image is a copy of the first."""
    features, labels = clusters(COUNT, 2)
    features[-1] = features[0] + 0.01
    nudged = [features + 0.05 * view for view in range(VIEWS)]
    rows = np.stack(nudged, axis=1).reshape(-1, features.shape[1])
    numbers = np.repeat(np.arange(COUNT), VIEWS)
    columns = {
        "key": [f"{number:05d}.png" for number in numbers],
        "content_hash": [hash_of(number) for number in numbers],
        "view": np.tile(np.arange(VIEWS), COUNT).tolist(),
    }
    folder = tmp_path_factory.mktemp("viewed")
    names = [labels[number] for number in numbers]
    splits = ["test" if number == COUNT - 1 else "train" for number in numbers]
    return make_store(folder / "store", rows, names, splits, **columns), features


def audited(store, folder, capsys):
    flags = ["--store", store.url, "--output", str(folder / "out"), "--json", "--compare", "0"]
    assert audit_command(flags) == 0
    return json.loads(capsys.readouterr().out)


def test_views_of_one_image_are_no_copies_and_count_once(viewed, tmp_path, capsys):
    record = audited(viewed[0], tmp_path, capsys)
    assert record["rows"] == COUNT == record["labels"]["checked"]
    (pair,) = record["leaks"]["first"]
    assert (pair["key"], pair["other_key"]) == ("00000.png", f"{COUNT - 1:05d}.png")
    assert record["leaks"]["exact"] == 0 and pair["across_splits"]


def test_a_search_finds_each_image_once(viewed):
    store, features = viewed
    found = search(store, features[3], 3 * COUNT)
    assert len({match.columns["key"] for match in found}) == len(found) == COUNT
    assert found[0].columns["key"] == "00003.png" and found[0].cosine > 0.999


def test_rows_with_several_labels_are_audited_and_their_labels_are_not(tmp_path, capsys):
    features, labels = clusters(60, 3)
    several = [[label, "tall"] if number % 2 else [label] for number, label in enumerate(labels)]
    several[5] = []
    features[20] = 30
    features[21] = 31
    store = make_store(tmp_path / "store", features, several)
    record = audited(store, tmp_path, capsys)
    assert record["labels"]["checked"] == 30
    assert record["notes"] == ["30 rows without exactly one label had no label checked"]
    first = record["outliers"]["first"][:2]
    assert {row["key"] for row in first} == {"00020.png", "00021.png"}
    with (tmp_path / "out" / "labels.csv").open() as file:
        assert all(int(row["key"][:5]) % 2 == 0 for row in csv.DictReader(file))
    found = search(store, features[1], 60, ["tall"])
    assert len(found) == 29 and all("tall" in match.columns["labels"] for match in found)


def test_a_store_of_rows_with_several_labels_only_is_told_in_one_line(tmp_path, capsys):
    features, labels = clusters(20, 2)
    store = make_store(tmp_path / "store", features, [[label, "tall"] for label in labels])
    record = audited(store, tmp_path, capsys)
    (note,) = record["notes"]
    assert "labels were not checked" in note and "\n" not in note
    assert not record["labels"]["checked"] and (tmp_path / "out" / "audit.html").is_file()
