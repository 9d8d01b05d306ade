"""Rows of several labels, from the store to the page."""

import json

import numpy as np
import pytest
from test_dataset import make_store

from classifier.evaluate import run as evaluate_command
from classifier.multilabel import MultiLabelScores
from classifier.run import load_run
from classifier.train import run as train_command
from featurestore import UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three independent questions of each row: is feature 0, 1, 2 positive."""
    folder = tmp_path_factory.mktemp("multi")
    features = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    labels = [[f"is {n}" for n in range(3) if row[n] > 0] for row in features]
    splits = ["train", "train", "validation", "test"] * 100
    store = make_store(folder / "store", features, labels, splits)
    flags = ["--store", store.url, "--output", str(folder / "run"), "--epochs", "30"]
    assert train_command([*flags, "--head", "linear", "--head", "mlp:8", "--lr", "1e-2"]) == 0
    return load_run(str(folder / "run")), store


def test_evaluation_asks_each_class_by_itself(trained, capsys):
    run, store = trained
    assert run.multi_label
    evaluate_command(["--run", run.url, "--store", store.url, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["accuracy"] > 0.9 and record["macro_f1"] > 0.9
    assert [row["class"] for row in record["per_class"]] == ["is 0", "is 1", "is 2"]
    # Rows without any label are told of, as everywhere.
    assert record["rows"] + record["unlabelled"] == 100 and record["unlabelled"] > 0
    assert record["calibration"] is None and "confusion" not in record


def test_the_page_leaves_out_what_needs_one_label(trained):
    run, _ = trained
    page = run.storage.read("report.html").decode()
    assert "Rows may have several labels: figures that need one a row are left out." in page
    assert "is 2" in page


@pytest.mark.parametrize("flags", [("--compare", "mlp-8-relu"), ("--learning_curve",)])
def test_what_needs_one_label_is_refused_in_one_line(trained, flags):
    run, store = trained
    with pytest.raises(UsageError, match=f"{flags[0]} needs one label a row") as error:
        evaluate_command(["--run", run.url, "--store", store.url, *flags])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", ["ridge", "logistic", "knn:3"])
def test_exact_heads_need_one_label(trained, tmp_path, head):
    _, store = trained
    with pytest.raises(UsageError, match=f"--head {head}.* needs one label a row"):
        train_command(["--store", store.url, "--output", str(tmp_path / "r"), "--head", head])


def test_scores_are_those_of_the_definition():
    scores = MultiLabelScores(("a", "b"))
    scores.update(np.array([[2.0, -1.0], [-3.0, 1.0]]), np.array([[1, 1], [0, 1]], np.uint8))
    record = scores.to_record()
    entropy = np.log1p(np.exp([-2.0, 1.0, -3.0, -1.0]))
    assert record["loss"] == pytest.approx(entropy.mean(), rel=1e-6)
    assert record["accuracy"] == 0.75
    assert record["per_class"][1]["recall"] == 0.5 and record["per_class"][0]["f1"] == 1.0
    assert record["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
