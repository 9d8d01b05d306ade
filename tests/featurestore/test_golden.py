"""Stores and runs of an earlier version open, verify, train and predict with the code of today.

`tests/data/golden` was made by Hoarfrost 0.1 and is never made anew; see `tests/data/README.md`.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT

from classifier.evaluate import run as evaluate
from classifier.predict import run as predict
from classifier.report import run as report
from classifier.train import run as train
from classifier.verify import run as verify_sources
from featurestore import open_store
from featurestore.__main__ import run as featurestore
from pipelines.extract import run as extract

GOLDEN = ROOT / "tests" / "data" / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
STORES = {"maps": ("--views", "2", "--augment", "flip,rotation=0.1"), "embeddings": ()}
POOLED = {"maps": (), "embeddings": ("--pooling", "avg")}
BUCKET = "hoarfrost-golden"
# The four images that were predicted when the run was made.
PREDICTED = [prediction["image"] for prediction in EXPECTED["predictions"]["ridge"]]


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    """A copy that a test may write to, as the working folder."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


@pytest.fixture
def photos(s3_server):
    """Puts the source images where the stores say they are: (the bucket, how to add one)."""
    import s3fs

    endpoint, _ = s3_server
    s3 = s3fs.S3FileSystem(endpoint_url=endpoint)
    s3.mkdir(BUCKET)
    for folder in ("first", "second"):
        root = GOLDEN / "images" / folder
        for path in sorted(root.rglob("*.jpg")):
            s3.pipe_file(f"{BUCKET}/photos/{path.relative_to(root).as_posix()}", path.read_bytes())
    yield lambda key, data: s3.pipe_file(f"{BUCKET}/photos/{key}", data)
    s3.rm(BUCKET, recursive=True)


def answer(capsys, command, *arguments: str) -> dict:
    """Runs a command with ``--json``; returns what it printed."""
    capsys.readouterr()
    assert command([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def extract_again(name: str) -> list[str]:
    """The arguments of the golden extractions."""
    base = ["--input", f"s3://{BUCKET}/photos", "--model", "tiny.keras", "--image_size", "32"]
    return [*base, "--output", name, *STORES[name], *POOLED[name], "--runner=DirectRunner"]


@pytest.mark.parametrize("name", STORES)
def test_a_store_opens_and_scans(golden, name):
    store, expected = open_store(name), EXPECTED[name]
    assert store.spec.dtype == {"maps": "float16", "embeddings": "float32"}[name]
    assert asdict(store.ledger()) == expected["ledger"]
    assert [row["key"] for row in store.quarantined()] == expected["quarantined"]
    assert len(store.label_versions()) == 1
    rows = store.load(["key", "view", "labels", "split", "features"])
    order = sorted(range(len(rows["key"])), key=lambda i: (rows["key"][i], rows["view"][i]))
    assert [[rows["key"][i], rows["view"][i]] for i in order] == expected["rows"]
    assert [list(rows["labels"][i]) for i in order] == expected["labels"]
    assert [rows["split"][i] for i in order] == expected["splits"]
    means = [rows["features"][i].astype(np.float64).mean() for i in order]
    np.testing.assert_allclose(means, expected["means"], atol=1e-6)


@pytest.mark.parametrize("name", STORES)
def test_a_store_verifies_and_describes_itself(golden, capsys, name):
    assert featurestore(["verify", name]) == 0
    facts = answer(capsys, featurestore, "info", name)
    assert facts["rows"] == EXPECTED[name]["ledger"]["rows"]
    assert featurestore(["quarantine", name]) == 0
    assert "train/china/broken.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("name", STORES)
def test_rows_are_computed_again_from_their_images(golden, photos, capsys, name):
    found = answer(capsys, verify_sources, "--store", name)
    rows = len(EXPECTED[name]["rows"])
    assert found["sampled"] == found["compared"] == rows and found["findings"] == []


def test_without_their_images_rows_are_reported_missing_and_not_wrong(golden, s3_server, capsys):
    assert verify_sources(["--store", "embeddings", "--rows", "3", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in found["findings"]] == ["missing_source"] * 3


@pytest.mark.parametrize("name", STORES)
def test_a_store_grows(golden, photos, capsys, name):
    image = (golden / "images/first/train/flower/03.jpg").read_bytes()
    # Bytes after the end of a JPEG are no part of the picture, but of its checksum.
    photos("train/flower/new.jpg", image + b"new")
    again = answer(capsys, extract, *extract_again(name))
    images = EXPECTED[name]["ledger"]["images_in"]
    assert again["already_committed"] == images and again["ledger"]["images_in"] == 1
    assert again["store_ledger"]["images_in"] == images + 1
    assert featurestore(["verify", name]) == 0
    rows = open_store(name).load(["key", "view", "features"])
    found = {
        (key, view): features
        for key, view, features in zip(*(rows[column] for column in rows), strict=True)
    }
    # The same pixels at view 0, by the code of today.
    new, old = found["train/flower/new.jpg", 0], found["train/flower/03.jpg", 0]
    np.testing.assert_allclose(new.astype("f4"), old.astype("f4"), rtol=2e-3, atol=1e-5)
    assert len(found) == len(EXPECTED[name]["rows"]) + (2 if name == "maps" else 1)


@pytest.mark.parametrize("name", STORES)
def test_heads_train_on_a_store(golden, capsys, name):
    heads = ("--head", "linear", "--head", "mlp:4", "--head", "ridge", "--epochs", "3")
    summary = answer(capsys, train, "--store", name, "--output", "trained", *heads)
    assert len(summary["leaderboard"]) == 3
    assert train(["--store", name, "--output", "logistic", "--head", "logistic"]) == 0


@pytest.mark.parametrize("head", EXPECTED["predictions"])
def test_a_run_predicts_what_it_predicted(golden, capsys, head):
    got = answer(capsys, predict, "--run", "run", "--head_id", head, *PREDICTED)["predictions"]
    for was, now in zip(EXPECTED["predictions"][head], got, strict=True):
        assert now["image"] == was["image"]
        assert [top["class"] for top in now["top"]] == [top["class"] for top in was["top"]]
        chances = [[top["probability"] for top in found["top"]] for found in (was, now)]
        np.testing.assert_allclose(*chances, atol=1e-3)


def test_a_run_is_evaluated_as_it_was(golden, photos, capsys):
    was = json.loads((golden / "run/evaluation/test-ridge.json").read_text())
    arguments = ("--run", "run", "--store", "embeddings", "--compare", "linear")
    now = answer(capsys, evaluate, *arguments)
    for figure in ("head_id", "split", "rows", "accuracy", "confusion"):
        assert now[figure] == was[figure], figure
    assert now["loss"] == pytest.approx(was["loss"], rel=1e-3)


def test_the_page_of_a_run_is_made_again(golden, photos):
    (golden / "run/report.html").unlink()
    assert report(["--run", "run"]) == 0
    assert "mlp-8-relu-dropout0.2" in (golden / "run/report.html").read_text()


def test_labels_are_replaced_again(golden, capsys):
    (golden / "later.csv").write_text("key,label\ntest/china/00.jpg,china\n")
    assert featurestore(["relabel", "maps", "--labels", "later.csv"]) == 0
    store = open_store("maps")
    assert len(store.label_versions()) == 2
    rows = store.load(["key", "labels"], splits=["test"])
    labels = dict(zip(rows["key"], rows["labels"], strict=True))
    assert list(labels["test/china/00.jpg"]) == ["china"]
    # The earlier version still counts for what the later one does not name.
    assert list(labels["test/flower/00.jpg"]) == ["flower"]
