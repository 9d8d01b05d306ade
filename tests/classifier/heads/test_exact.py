"""Ridge, logistic and nearest-neighbour heads: as the command trains, predicts and evaluates."""

import json

import numpy as np
import pytest
from support.extraction import SMALL
from support.extraction import run as extract
from support.features import clusters, make_store, spec_of
from support.images import write_images
from support.optional import optional

from classifier.evaluate import run as evaluate
from classifier.features.division import divide
from classifier.features.order import Rows
from classifier.heads.data import prepare_data
from classifier.heads.exact import check_heads, train_exact
from classifier.heads.logistic import fit_logistic
from classifier.heads.neighbours import TEMPERATURE, build_neighbours
from classifier.heads.options import TrainOptions
from classifier.heads.probabilities import log_probabilities
from classifier.heads.spec import parse_head
from classifier.predict import run as predict
from classifier.runs.run import load_run
from classifier.train import run as train
from classifier.training.learning_curve import options_of_head
from featurestore import UsageError

SPLITS = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20
HEADS = ("ridge", "logistic", "knn:5", "knn:5:euclidean:majority")


@pytest.fixture(scope="module", params=[2, 3])
def store(request, tmp_path_factory):
    features, labels = clusters(120, request.param)
    return make_store(tmp_path_factory.mktemp("stores") / "s", features, labels, SPLITS)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    flags = [word for head in HEADS for word in ("--head", head)]
    assert train(["--store", store.url, "--output", folder, *flags]) == 0
    return load_run(folder)


def test_every_exact_head_is_in_the_run(trained):
    board = {row["head"]: row for row in trained.leaderboard()}
    assert set(board) == {"ridge", "logistic", "knn:5:cosine:weighted", "knn:5:euclidean:majority"}
    for row in board.values():
        assert row["val_accuracy"] > 0.8 and row["lr"] is None
    assert board["ridge"]["l2"] > 0 and board["knn:5:cosine:weighted"]["l2"] is None
    history = json.loads(trained.storage.read("history/ridge.json"))
    assert len(history["penalties"]["cv_accuracy"]) == 50
    assert not trained.storage.exists("plots/ridge-history.png")


def test_evaluation_repeats_the_leaderboards_figures(trained, store, tmp_path):
    for row in trained.leaderboard():
        arguments = ["--run", trained.url, "--store", store.url, "--split", "validation"]
        arguments += ["--head_id", row["head_id"], "--output", str(tmp_path)]
        assert evaluate(arguments) == 0
        record = json.loads((tmp_path / f"validation-{row['head_id']}.json").read_text())
        assert record["accuracy"] == pytest.approx(row["val_accuracy"])
        assert record["loss"] == pytest.approx(row["val_loss"], rel=1e-3)


def fitted_loss(x, y, kernel, bias, l2):
    own = log_probabilities(x @ kernel + bias)[np.arange(len(y)), y]
    return l2 * np.square(kernel).sum() - own.mean()


def test_logistic_regression_is_scikit_learns():
    linear = optional("sklearn.linear_model")
    features, labels = clusters(150, 3)
    numbers = np.array([int(label[-1]) for label in labels])
    whole = Rows(features, numbers, np.zeros(150, np.uint32))
    blocks = [whole[start : start + 40] for start in range(0, 150, 40)]
    for classes in (3, 2):
        kept = [block[block.labels < classes] for block in blocks]
        pairs = [(block.features, block.labels) for block in kept]
        fit, path = fit_logistic(lambda side, pairs=pairs: pairs, 12, classes, (0.01,))
        x = np.concatenate([block.features for block in kept])
        y = np.concatenate([block.labels for block in kept])
        reference = linear.LogisticRegression(C=1 / (2 * 0.01 * len(y)), tol=1e-8, max_iter=1000)
        reference.fit(x, y)
        np.testing.assert_allclose(fit.kernel.T, reference.coef_, atol=2e-3)
        theirs = reference.coef_.T, reference.intercept_
        losses = [fitted_loss(x, y, *weights, 0.01) for weights in ((fit.kernel, fit.bias), theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        assert path["l2"] == [0.01] and fit.metrics["accuracy"] == reference.score(x, y)


@pytest.mark.parametrize("vote", ["weighted", "majority"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("neighbours", [1, 7, 90])
def test_neighbours_are_scikit_learns(neighbours, metric, vote):
    module = optional("sklearn.neighbors")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(90, 4)).astype(np.float32), rng.integers(0, 3, 90)
    spec = parse_head(f"knn:{neighbours}:{metric}:{vote}")
    queries = rng.normal(size=(20, 4)).astype(np.float32)
    found = build_neighbours(spec, x, labels, 3, None)(queries)

    def weigh(distances):
        # Euclidean similarity is half the negative mean of squared differences.
        nearness = -distances if metric == "cosine" else -(distances**2) / 2 / 4
        return np.exp((nearness - nearness.max(axis=1, keepdims=True)) / TEMPERATURE)

    weights = weigh if vote == "weighted" else "uniform"
    reference = module.KNeighborsClassifier(neighbours, metric=metric, weights=weights)
    wanted = reference.fit(x, labels).predict_proba(queries) + 1 / (neighbours * 3)
    np.testing.assert_allclose(found, wanted / wanted.sum(1, keepdims=True), atol=1e-4)


def test_maps_fit_too(tmp_path):
    features, labels = clusters(60, 2, channels=12)
    spec = spec_of((2, 2, 3), dtype="float16")
    store = make_store(tmp_path, features.reshape(-1, 2, 2, 3), labels, spec=spec)
    for text in HEADS:
        options = TrainOptions(heads=(parse_head(text),))
        head = train_exact(options.heads[0], prepare_data(store, divide(store), options), options)
        assert head.best["val_accuracy"] > 0.8


def test_streaming_finds_what_memory_finds(store):
    settings = [TrainOptions(l2=(1e-2, 1.0), memory=memory) for memory in (1 << 30, 2000)]
    division = divide(store)
    for text in ("ridge", "logistic"):
        heads = [
            train_exact(parse_head(text), prepare_data(store, division, options), options)
            for options in settings
        ]
        for a, b in zip(*(head.model.weights["logits"] for head in heads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_penalties_are_trials_of_gradient_heads_only():
    options = TrainOptions(heads=tuple(map(parse_head, ("linear", "ridge"))), l2=(0.0, 1e-2))
    assert list(options.trials()) == ["linear-l20", "linear-l20.01", "ridge"]
    assert options.trials()["linear-l20.01"].l2 == 0.01


@pytest.mark.parametrize(
    ("heads", "l2", "found"),
    [
        (("linear", "ridge", "logistic"), (1e-3,), {"ridge": 50, "logistic": 7}),
        (
            ("mlp:4", "ridge:l2=0.1,1e1", "ridge"),
            (1e-3, 1.0),
            {"ridge:l2=0.1,10.0": 2, "ridge": 50},
        ),
        (("linear", "logistic:l2=0"), (), {"logistic:l2=0.0": 1}),
        (("ridge", "logistic:l2=1,2"), (1e-3,), {"ridge": 1, "logistic:l2=1.0,2.0": 2}),
        (("knn:3", "ridge"), (1.0,), {"knn:3:cosine:weighted": 0, "ridge": 1}),
    ],
)
def test_exact_heads_choose_from_penalties_of_their_own(heads, l2, found):
    options = TrainOptions(heads=tuple(map(parse_head, heads)), l2=l2)
    exact = [head for head in options.heads if head.is_exact]
    assert {str(head): len(options.penalties_of(head)) for head in exact} == found
    for head in exact:
        assert parse_head(str(head)) == head
    assert len(options.trials()) >= len(heads)


def test_heads_of_many_penalties_have_short_names_of_their_own():
    spellings = [",".join(f"1e-{n}" for n in range(count)) for count in (1, 2, 4, 5, 9, 40)]
    heads = tuple(parse_head(f"ridge:l2={text}") for text in spellings)
    names = list(TrainOptions(heads=heads).trials())
    assert len(names) == 6 and all(len(name) < 60 for name in names)
    assert names[1] == "ridge-l21.0-0.1"


def test_penalties_of_other_heads_leave_ridge_as_it_is(store, tmp_path, capsys):
    def heads(name, *flags):
        assert train(["--store", store.url, "--output", str(tmp_path / name), *flags]) == 0
        run = load_run(str(tmp_path / name))
        return {row["head_id"]: row for row in run.leaderboard()}, run

    alone, _ = heads("alone", "--head", "ridge", "--head", "logistic")
    capsys.readouterr()
    flags = ("--head", "linear", "--l2", "1e-3", "--epochs", "2")
    mixed, run = heads(
        "mixed", "--head", "ridge", "--head", "logistic", "--head", "ridge:l2=5", *flags
    )
    told = capsys.readouterr().out
    for name in ("ridge", "logistic"):
        assert mixed[name]["l2"] == alone[name]["l2"]
        assert mixed[name]["val_accuracy"] == alone[name]["val_accuracy"]
    assert mixed["ridge-l25.0"]["l2"] == 5 and mixed["linear"]["l2"] == 1e-3
    assert "ridge: chooses among 50 penalties of 0.0001 to 1e+04" in told
    assert "ridge-l25.0: takes the one penalty 5" in told
    assert "/2, --l2 0.001; " in told
    assert len(run.load_head("ridge-l25.0").get_weights()) > 0
    # Trained again for a learning curve, each chooses as it did.
    again = options_of_head(run, "ridge")
    assert len(again.penalties_of(again.heads[0])) == 50
    again = options_of_head(run, "ridge-l25.0")
    assert again.penalties_of(again.heads[0]) == (5.0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ridge:l2=", "--head: l2 must be numbers, such as ridge:l2=1e-3,1e-1, got 'ridge:l2='"),
        ("logistic:l2=a,1", "--head: l2 must be numbers"),
        ("ridge:l2=1:l2=2", "--head: ridge takes no options, got 'ridge:l2=1:l2=2'"),
        ("ridge:l2=-1", "--head: ridge: l2 must be 0 or more, got -1.0"),
        ("ridge:l2=nan", "--head: ridge: l2 must be 0 or more, got nan"),
        ("ridge:lr=1", "only penalties of its own, such as ridge:l2=1e-3,1e-1"),
        ("ridge:3", "--head: ridge takes no options, got 'ridge:3'"),
        ("knn", "--head: knn needs its number of neighbours"),
        ("knn:0", "--head: knn needs its number of neighbours"),
        ("knn:5:cosin", "unknown value 'cosin'; did you mean cosine"),
        ("knn:5:cosine:euclidean", "the metric is given twice"),
        ("rigde", "unknown value 'rigde'; did you mean ridge"),
    ],
)
def test_wrong_spelling_is_one_line(text, message):
    with pytest.raises(UsageError, match=message) as error:
        parse_head(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", ["ridge", "knn:5"])
def test_too_much_memory_is_said_before_training(store, head):
    options = TrainOptions(heads=(parse_head(head),))
    with pytest.raises(UsageError, match=f"--head {head}.* [GT]iB.*--pooling avg"):
        check_heads(options, (100, 100, 512), divide(store))


def test_images_are_extracted_fitted_and_predicted(tmp_path, capsys):
    paths = write_images(tmp_path / "photos", 24)
    outcome = extract("--input", tmp_path / "photos", "--output", tmp_path / "store", *SMALL)
    run = str(tmp_path / "run")
    heads = ["--head", "ridge", "--head", "knn:3"]
    assert train(["--store", outcome.store.url, "--output", run, *heads]) == 0
    capsys.readouterr()
    for head_id in load_run(run).config.heads:
        assert predict(["--run", run, "--head_id", head_id, "--json", str(paths[0])]) == 0
        top = json.loads(capsys.readouterr().out)["predictions"][0]["top"]
        assert {row["class"] for row in top} == {"cat", "dog"}
        assert sum(row["probability"] for row in top) == pytest.approx(1, rel=1e-5)


def test_a_head_beyond_memory_is_refused_in_one_line(store):
    division, wide = divide(store), (14, 14, 2048)
    options = TrainOptions(heads=(parse_head("mlp:4096"),))
    with pytest.raises(UsageError, match=r"^--head mlp:4096:relu would need 24.5 GiB .* fewer"):
        check_heads(options, wide, division)
    check_heads(TrainOptions(heads=(parse_head("mlp:256"),)), (5, 5, 512), division)
