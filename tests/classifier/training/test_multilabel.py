"""Rows of several labels, from the store to the page."""

import json

import numpy as np
import pytest
from support.features import make_store
from support.optional import optional

from classifier.evaluate import run as evaluate_command
from classifier.features.sample import ContentSample
from classifier.judgement.multilabel import MultiLabelScores, average_precision
from classifier.runs.run import load_run
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
    assert 0.95 < record["mean_average_precision"] <= 1
    assert record["average_precision_rows"] == record["rows"]
    assert [row["class"] for row in record["per_class"]] == ["is 0", "is 1", "is 2"]
    # Rows without any label are told of, as everywhere.
    assert record["rows"] + record["unlabelled"] == 100 and record["unlabelled"] > 0
    assert record["calibration"] is None and "confusion" not in record


def test_the_page_leaves_out_what_needs_one_label(trained):
    run, _ = trained
    page = run.storage.read("report.html").decode()
    assert "Rows may have several labels: figures that need one per row are left out." in page
    assert "is 2" in page


@pytest.mark.parametrize("flags", [("--compare", "mlp-8-relu"), ("--learning_curve",)])
def test_what_needs_one_label_is_refused_in_one_line(trained, flags):
    run, store = trained
    with pytest.raises(UsageError, match=f"{flags[0]} needs one label per row") as error:
        evaluate_command(["--run", run.url, "--store", store.url, *flags])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", ["ridge", "logistic", "knn:3"])
def test_exact_heads_need_one_label(trained, tmp_path, head):
    _, store = trained
    with pytest.raises(UsageError, match=f"--head {head}.* needs one label per row"):
        train_command(["--store", store.url, "--output", str(tmp_path / "r"), "--head", head])


def test_scores_are_those_of_the_definition():
    scores = MultiLabelScores(("a", "b"))
    content = np.array([1, 2], np.uint32)
    logits = np.array([[2.0, -1.0], [-3.0, 1.0]])
    scores.update(logits, np.array([[1, 1], [0, 1]], np.uint8), content)
    record = scores.to_record()
    entropy = np.log1p(np.exp([-2.0, 1.0, -3.0, -1.0]))
    assert record["loss"] == pytest.approx(entropy.mean(), rel=1e-6)
    assert record["accuracy"] == 0.75
    assert record["per_class"][1]["recall"] == 0.5 and record["per_class"][0]["f1"] == 1.0
    assert record["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    # One positive before the other: whole in both classes.
    assert record["mean_average_precision"] == 1.0


def test_average_precision_is_scikit_learns():
    metrics = optional("sklearn.metrics")
    rng = np.random.default_rng(0)
    for rows in (1, 2, 50):
        labels = rng.integers(0, 2, rows)
        labels[0] = 1
        # With ties.
        scores = rng.normal(size=rows).round(1)
        theirs = metrics.average_precision_score(labels, scores)
        assert average_precision(scores, labels) == pytest.approx(theirs)
    assert average_precision(np.zeros(3), np.zeros(3, int)) is None


def test_a_sample_within_a_budget_is_even_and_known_by_content():
    content = np.random.default_rng(0).integers(0, 1 << 32, 4000, dtype=np.uint32)
    forth, back = ContentSample(8000), ContentSample(8000)
    for part in np.array_split(np.arange(4000), 7):
        forth.add(content[part], content[part].astype(float))
        back.add(content[::-1][part], content[::-1][part].astype(float))
    (kept,), (others,) = forth.columns(), back.columns()
    assert sorted(kept) == sorted(others) and 250 < len(kept) <= 1000
    assert ContentSample().columns() == ()
