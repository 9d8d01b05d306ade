"""Evaluation: the figures, the selection of rows, and the command."""

import json

import numpy as np
import pytest
from support.features import clusters, make_store, numbered, spec_of
from support.optional import optional
from support.training import SPLITS, train_into

from classifier.evaluate import run
from classifier.features.division import divide
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.classes import weakest_first
from classifier.judgement.evaluation import Scores, evaluate, select_split
from featurestore import BaseSpec, SpecMismatch, UsageError, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """120 rows of seven classes in three splits."""
    features, labels = clusters(120, 7)
    return make_store(tmp_path_factory.mktemp("stores") / "seven", features, labels, SPLITS)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run on `store`."""
    return train_into(tmp_path_factory.mktemp("runs") / "run", store)


def test_figures_are_scikit_learns():
    metrics = optional("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    scores = Scores(tuple("abcdefg"))
    for start in (0, 1, 30):
        stop = {0: 1, 1: 30, 30: 50}[start]
        scores.update(logits[start:stop], labels[start:stop])
    record = scores.to_record()
    guesses, probabilities = logits.argmax(1), np.exp(log_probabilities(logits))
    assert record["rows"] == 50
    assert record["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guesses))
    assert record["loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert record["top_5_accuracy"] == pytest.approx(
        metrics.top_k_accuracy_score(labels, probabilities, k=5)
    )
    assert record["confusion"] == metrics.confusion_matrix(labels, guesses).tolist()
    wanted = np.array(metrics.precision_recall_fscore_support(labels, guesses, zero_division=0))
    for i, row in enumerate(record["per_class"]):
        found = [row[name] or 0 for name in ("precision", "recall", "f1", "support")]
        np.testing.assert_allclose(found, wanted[:, i])


def test_logits_that_say_nothing_hit_nothing():
    scores = Scores(tuple("abcdefg"))
    logits = np.zeros((4, 7))
    logits[1] = np.nan
    logits[2, 3] = np.nan
    logits[3, :5] = 1
    scores.update(logits, np.array([0, 1, 2, 4]))
    assert scores.to_record()["top_5_accuracy"] == 0.25


@pytest.mark.parametrize("asked", ["validation", "val", "valid", "dev"])
@pytest.mark.parametrize("named", [True, False])
def test_a_split_answers_to_all_its_names(tmp_path, asked, named):
    features, labels = clusters(60, 3)
    splits = ["training"] * 40 + ["val"] * 20 if named else ["training"] * 60
    store = make_store(tmp_path / "store", features, labels, splits)
    run_ = train_into(tmp_path / "run", store)
    found = select_split(run_, store, asked)
    rows = evaluate(run_, "linear", store, found).rows
    assert rows == divide(store).validation_counts.sum()
    trained = evaluate(run_, "linear", store, select_split(run_, store, "train")).rows
    assert rows + trained == 60


def test_an_output_that_cannot_be_written_loses_no_figures(trained, store, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out"
    with pytest.raises(UsageError, match="--output: cannot write to"):
        run(["--run", trained.url, "--store", store.url, "--output", str(target), "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 20


def test_two_classes_come_from_one_logit():
    scores = Scores(("cat", "dog"))
    scores.update(np.array([[2.0], [-1.0], [3.0]]), np.array([1, 0, 0]))
    record = scores.to_record()
    assert record["confusion"] == [[1, 1], [0, 1]]
    losses = np.log1p(np.exp([-2.0, -1.0, 3.0]))
    assert record["loss"] == pytest.approx(losses.mean())
    assert "top_5_accuracy" not in record


def test_a_class_never_predicted_has_no_precision():
    scores = Scores(("a", "b", "c"))
    scores.update(np.array([[5.0, 0, 0]]), np.array([1]))
    per_class = {row["class"]: row for row in scores.to_record()["per_class"]}
    assert per_class["a"]["precision"] == 0 and per_class["a"]["recall"] is None
    assert per_class["b"]["precision"] is None and per_class["b"]["recall"] == 0
    assert per_class["c"]["f1"] is None


def test_a_hopeless_logit_costs_what_it_is_and_not_infinity():
    scores = Scores(("a", "b"))
    scores.update(np.array([[1000.0]], np.float32), np.array([0]))
    assert scores.to_record()["loss"] == pytest.approx(1000)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("carved", [True, False])
def test_evaluation_repeats_the_best_epoch(tmp_path, classes, carved):
    features, labels = clusters(120, classes)
    store = make_store(tmp_path / "store", features, labels, None if carved else SPLITS)
    run_ = train_into(tmp_path / "run", store)
    best = run_.leaderboard()[0]
    scores = evaluate(run_, "linear", store, select_split(run_, store, "validation"), 7)
    record = scores.to_record()
    assert record["rows"] == divide(store).validation_counts.sum()
    assert record["loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert record["accuracy"] == pytest.approx(best["val_accuracy"])
    if carved:
        both = [
            evaluate(run_, "linear", store, select_split(run_, store, split)).rows
            for split in ("train", "validation", "all")
        ]
        assert both[0] + both[1] == both[2] == 120


def test_the_command_writes_figures_and_a_plot(trained, store, capsys):
    assert run(["--run", trained.url, "--store", store.url]) == 0
    out = capsys.readouterr().out
    assert out.startswith("linear on test: accuracy ") and "top-5" in out and "support" in out
    record = json.loads(trained.storage.read("evaluation/test-linear.json"))
    assert record["rows"] == 20 and len(record["per_class"]) == 7
    assert trained.storage.read("evaluation/test-linear.png").startswith(b"\x89PNG")


def test_json_is_alone_on_standard_output(trained, store, tmp_path, capsys):
    arguments = ["--run", trained.url, "--store", store.url, "--json", "--head_id", "linear"]
    assert run([*arguments, "--output", str(tmp_path), "--split", "validation"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "validation-linear.json").read_text())


def test_a_missing_split_lists_those_there_are(trained, store):
    with pytest.raises(
        UsageError, match=r"did you mean test\? \(all: all, test, train, validation\)"
    ):
        run(["--run", trained.url, "--store", store.url, "--split", "tset"])


def test_a_store_without_splits_offers_all(trained, tmp_path):
    features, labels = clusters(14, 7)
    other = make_store(tmp_path, features, labels)
    with pytest.raises(UsageError, match="unknown value 'test'; choose from all"):
        run(["--run", trained.url, "--store", other.url])
    assert run(["--run", trained.url, "--store", other.url, "--split", "all"]) == 0


def test_other_features_are_refused_with_the_difference(trained, tmp_path):
    base = BaseSpec("Other", "imagenet", "cd" * 16, "top", "avg", "tf")
    store = make_store(tmp_path, numbered(4, 12), list("abab"), spec=spec_of((12,), base=base))
    message = r"the run at .* holds other features .*: weights: Tiny random abababab -> Other"
    with pytest.raises(SpecMismatch, match=message):
        run(["--run", trained.url, "--store", store.url])


def test_labels_never_learned_are_counted(trained, tmp_path, capsys):
    features, labels = clusters(20, 7)
    labels[3], labels[5] = "unicorn", []
    store = make_store(tmp_path, features, labels, ["test"] * 20)
    run(["--run", trained.url, "--store", store.url])
    out = capsys.readouterr().out
    assert (
        "note: 1 rows have labels that the head was not trained on, and are left out: unicorn"
        in out
    )
    assert "note: 1 rows without a label are left out" in out
    assert "18 rows" in out


def test_nothing_to_evaluate_on_is_an_error(trained, tmp_path):
    store = make_store(tmp_path / "a", numbered(2, 12), ["unicorn", []], ["test"] * 2)
    with pytest.raises(
        UsageError, match="1 rows of .* have no label and 1 have one that the head was not"
    ):
        run(["--run", trained.url, "--store", store.url])
    empty = make_store(tmp_path / "b", np.empty((0, 12), np.float32), [])
    with pytest.raises(UsageError, match="has no rows to evaluate"):
        run(["--run", trained.url, "--store", empty.url])


def test_views_are_not_evaluated(tmp_path):
    features, labels = clusters(60, 2)
    views = [number % 3 for number in range(60)]
    spec = spec_of((12,), views=3, augment="flip")
    store = make_store(tmp_path / "store", features, labels, spec=spec, view=views)
    run_ = train_into(tmp_path / "run", store)
    assert evaluate(run_, "linear", store, select_split(run_, store, "all")).rows == 20


def test_a_split_named_oddly_is_a_plain_file_name(trained, tmp_path):
    features, labels = clusters(7, 7)
    store = make_store(tmp_path / "store", features, labels, ["../x y"] * 7)
    output = tmp_path / "out"
    run(["--run", trained.url, "--store", store.url, "--split", "../x y", "--output", str(output)])
    assert sorted(path.name for path in output.iterdir()) == [
        ".._x_y-linear.json",
        ".._x_y-linear.png",
    ]
    assert open_store(store.url).spec == trained.spec


def test_classes_without_rows_come_last():
    figures = {"a": (None, 0), "b": (0.9, 3), "c": (0.0, 0), "d": (0.0, 2), "e": (0.5, 1)}
    per_class = [{"class": name, "f1": f1, "support": n} for name, (f1, n) in figures.items()]
    assert [row["class"] for row in weakest_first(per_class)] == ["d", "e", "b", "a", "c"]


def test_classes_without_rows_are_listed_last_and_said(trained, store, tmp_path, capsys):
    features, labels = clusters(120, 7)
    kept = [label if label[-1] in "012" else None for label in labels]
    few = make_store(tmp_path / "few", features, [x or labels[0] for x in kept], SPLITS)
    known = sorted({label for label in labels if label not in kept})
    flags = ["--run", trained.url, "--store", few.url, "--output", str(tmp_path / "out")]
    assert run(flags) == 0
    told = capsys.readouterr().out
    listed = [line[2:9] for line in told.splitlines() if line.startswith("  class ")]
    assert len(listed) == 8 and sorted(listed[-4:]) == known
    assert "note: 4 classes have no rows in this split, listed last: class " in told
