"""Judgement: intervals, calibration, confusions, outcomes and the learning curve."""

import json

import numpy as np
import pytest
from scipy import stats
from support.features import clusters, hash_of, make_store
from support.training import SPLITS, train_into

from classifier.evaluate import run as evaluate_command
from classifier.features.division import divide
from classifier.features.sample import ContentSample
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.confusions import confused_pairs, most_confused
from classifier.judgement.intervals import accuracy_interval, difference_interval, holm, sign_test
from classifier.judgement.judge import compare, judge, load_temperature
from classifier.judgement.outcomes import ROW_COLUMNS, Outcomes
from classifier.judgement.temperature import COLDEST, HOTTEST, fit_temperature, reliability, scaled
from classifier.predict import run as predict_command
from classifier.training.learning_curve import boundaries, options_of_head, part_of
from featurestore import UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """240 rows of three classes that overlap, in three splits."""
    features, labels = clusters(240, 3, channels=4)
    features += np.random.default_rng(5).normal(0, 2.5, features.shape).astype(np.float32)
    return make_store(tmp_path_factory.mktemp("stores") / "s", features, labels, SPLITS * 2)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run with a linear and a ridge head."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train_into(folder, store, "--head", "linear", "--head", "ridge")


def rows_of(count, start=0):
    """Columns of rows as a store has them."""
    numbers = range(start, start + count)
    columns = {name: np.array([f"{name}-{n}" for n in numbers], object) for name in ROW_COLUMNS}
    columns["content_hash"] = np.array([hash_of(n) for n in numbers], object)
    for name in ("size", "width", "height"):
        columns[name] = np.array(list(numbers), np.int64)
    return columns


@pytest.mark.parametrize(
    ("hits", "rows"), [(90, 100), (1, 7), (1, 2), (7, 7), (0, 3), (1, 1), (360, 360)]
)
def test_an_accuracys_interval_is_exact(hits, rows):
    found = accuracy_interval(hits, rows)
    # Clopper and Pearson's ends are quantiles of beta distributions.
    beta = stats.beta
    low = beta.ppf(0.025, hits, rows - hits + 1) if hits else 0
    high = beta.ppf(0.975, hits + 1, rows - hits) if hits < rows else 1
    assert (found.lower, found.upper) == pytest.approx((low, high))
    assert found.estimate == hits / rows and found.lower <= found.estimate <= found.upper
    assert found.resamples == 0 and found.lower < found.upper


def test_the_interval_holds_what_resamples_give():
    right = np.arange(400) < 330
    theirs = stats.bootstrap((right,), np.mean, method="percentile", rng=0).confidence_interval
    ours = accuracy_interval(330, 400)
    assert (ours.lower, ours.upper) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_paired_heads_differ_by_less_than_their_intervals():
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.8
    # The same mistakes but for twenty rows more: hardly any doubt that it is worse.
    second = first.copy()
    second[np.flatnonzero(first)[:20]] = False
    found = difference_interval(first, second)
    assert found.estimate == pytest.approx(0.04) and found.lower > 0
    drawn = rng.integers(0, 500, (20000, 500))
    wanted = (first.astype(int) - second)[drawn].mean(axis=1)
    assert (found.lower, found.upper) == pytest.approx(
        np.quantile(wanted, [0.025, 0.975]), abs=4e-3
    )
    back = difference_interval(second, first)
    assert back.estimate == -found.estimate and back.upper < 0
    assert sign_test(first, second) == sign_test(second, first) == pytest.approx(2**-19)
    same = difference_interval(first, first)
    assert (same.estimate, same.lower, same.upper) == (0, 0, 0)
    assert sign_test(first, first) == 1


def test_a_few_mistakes_more_are_not_beyond_chance():
    first = np.arange(100) < 90
    for more, beyond in ((4, False), (5, False), (6, True)):
        second = first & (np.arange(100) >= more)
        # No resample favours the second, so the interval leaves out zero.
        assert difference_interval(first, second).lower > 0
        assert (sign_test(first, second) < 0.05) == beyond


def test_the_seed_decides_and_rows_must_pair():
    right = np.arange(9) < 5
    found = [difference_interval(right, ~right, seed=1) for _ in range(2)]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="need the same rows, got 3 and 2"):
        difference_interval(np.ones(3, bool), np.ones(2, bool))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_labels_is_found(classes, true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20000, classes))
    chances = np.exp(log_probabilities(logits / true))
    labels = (chances.cumsum(axis=1) > rng.random(20000)[:, None]).argmax(axis=1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.06)
    rows = np.arange(20000)
    losses = [-scaled(logits, t)[rows, labels].mean() for t in (found * 0.9, found, found * 1.1)]
    assert losses[1] == min(losses)
    after = reliability(scaled(logits, found), labels)
    assert after.ece < 0.02
    if true != 1:
        assert reliability(log_probabilities(logits), labels).ece > 3 * after.ece


def test_rows_that_bound_no_temperature():
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, np.array([0, 1])) == COLDEST
    assert fit_temperature(logits, np.array([1, 0])) == HOTTEST
    assert fit_temperature(np.array([[900.0, -900.0]]), np.array([0])) == COLDEST
    with pytest.raises(ValueError, match="at least one row"):
        fit_temperature(np.empty((0, 2)), np.empty(0, int))


def test_the_calibration_error_by_hand():
    # Confidences 0.9, 0.9, 0.6 and 0.6, of which one each is right.
    logs = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    found = reliability(logs, np.array([0, 1, 0, 0]), bins=5)
    assert found.ece == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(0.5 - 0.6)) / 4)
    assert [part.rows for part in found.bins] == [0, 0, 2, 0, 2]
    assert found.bins[4].confidence == pytest.approx(0.9) and found.bins[4].accuracy == 0.5
    assert found.bins[0].accuracy is None
    assert found.loss == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.4]).mean())


def test_certain_and_uniform_rows_have_a_bin():
    found = reliability(np.log([[1.0, 1e-300], [0.5, 0.5]]), np.array([0, 0]))
    assert sum(part.rows for part in found.bins) == 2 and found.bins[14].rows == 1


def test_confused_pairs_come_by_rows_then_by_share():
    confusion = np.array([[5, 2, 0], [2, 90, 0], [1, 0, 0]])
    found = confused_pairs(confusion, "abc")
    assert [(p["class"], p["predicted"], p["rows"]) for p in found] == [
        ("a", "b", 2),
        ("b", "a", 2),
        ("c", "a", 1),
    ]
    assert found[0]["share"] == pytest.approx(2 / 7)
    assert confused_pairs(np.eye(3, dtype=int), "abc") == []
    assert len(confused_pairs(confusion, "abc", most=1)) == 1


@pytest.mark.parametrize("count", [1, 19, 20, 21, 100])
def test_a_large_matrix_shows_its_confusions(count):
    confusion = np.eye(count, dtype=int)
    if count > 20:
        confusion[count - 1, 3] = 9
    found = most_confused(confusion, 20)
    assert len(found) == min(count, 20) and found.tolist() == sorted(set(found.tolist()))
    assert count <= 20 or {3, count - 1} <= set(found.tolist())


def test_outcomes_keep_the_worst_and_equal_images_once():
    outcomes = Outcomes(("a", "b"), most_mistakes=3)
    logits = np.array([[2.0], [9.0], [9.0], [np.nan], [-1.0]])
    columns = rows_of(5)
    columns["content_hash"][2] = columns["content_hash"][1]
    outcomes.update(logits, np.array([0, 0, 0, 1, 0]), columns)
    outcomes.update(np.array([[5.0], [-7.0]]), np.array([0, 1]), rows_of(2, 5))
    assert outcomes.right.tolist() == [False, False, False, False, True, False, False]
    assert [mistake.key for mistake in outcomes.mistakes] == ["key-1", "key-6", "key-5"]
    first = outcomes.mistakes[0]
    assert (first.label, first.predicted) == ("a", "b") and json.dumps(first.to_record())
    logs, labels = outcomes.sample()
    # The row of NaN has no confidence.
    assert logs.shape == (6, 2) and labels.tolist() == [0, 0, 0, 0, 0, 1]


def test_log_probabilities_beyond_the_budget_are_sampled_by_content():
    whole = Outcomes(("a", "b", "c"))
    small = Outcomes(("a", "b", "c"), logs=ContentSample(3 * 4 * 100))
    rng = np.random.default_rng(0)
    for start in range(0, 1000, 50):
        logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
        for outcomes in (whole, small):
            outcomes.update(logits, labels, rows_of(50, start))
    assert len(whole.sample()[1]) == 1000
    logs, labels = small.sample()
    assert 25 <= len(labels) <= 100 and logs.nbytes <= 1200 and len(small.right) == 1000
    # An even sample: those of the smallest numbers, whenever they came.
    kept = {tuple(row) for row in logs.tolist()}
    order = np.argsort(whole.content)[: len(labels)]
    assert kept == {tuple(row) for row in whole.sample()[0][order].tolist()}


def test_nothing_gathered_is_nothing():
    outcomes = Outcomes(("a", "b"))
    assert len(outcomes.right) == len(outcomes.content) == len(outcomes.sample()[1]) == 0
    assert outcomes.mistakes == []


def test_a_judgement_has_interval_calibration_and_mistakes(trained, store):
    found = judge(trained, "linear", store, "test").record
    assert found["interval"]["estimate"] == found["accuracy"]
    assert found["interval"]["lower"] < found["accuracy"] < found["interval"]["upper"]
    calibration = found["calibration"]
    assert calibration["rows"] == found["rows"] == 40
    assert calibration["temperature"]["split"] == "validation"
    assert calibration["temperature"]["rows"] == 40
    assert calibration["before"]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    wrong = round((1 - found["accuracy"]) * 40)
    assert len(found["mistakes"]) == min(12, wrong) > 0
    confidences = [mistake["confidence"] for mistake in found["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert found["ledger"]["rows"] == 240 and found["confused"]
    json.dumps(found, allow_nan=False)


def test_the_validation_temperature_lowers_its_loss_and_is_kept(trained, store):
    best = trained.head_id()
    found = judge(trained, best, store, "validation").record["calibration"]
    assert found["after"]["loss"] <= found["before"]["loss"] + 1e-9
    # Training wrote the same for its best head.
    kept = load_temperature(trained, best)
    assert kept["temperature"] == pytest.approx(found["temperature"]["temperature"])
    trained.storage.write("calibration/other.json", '{"temperature": "hot"}')
    assert load_temperature(trained, "other") is None
    assert load_temperature(trained, "none") is None


def test_a_store_without_validation_rows_has_no_temperature(trained, tmp_path):
    features, labels = clusters(20, 3, channels=4)
    other = make_store(tmp_path / "s", features, labels, ["test"] * 20)
    trained.storage.write("calibration/linear.json", "{}")
    calibration = judge(trained, "linear", other, "test").record["calibration"]
    assert calibration["temperature"] is None and calibration["after"] is None
    assert calibration["before"]["ece"] >= 0


def test_heads_are_compared_on_the_same_rows(trained, store, tmp_path):
    first, second = (judge(trained, name, store, "test") for name in ("linear", "ridge"))
    found = compare(first, second)
    gap = first.record["accuracy"] - second.record["accuracy"]
    assert found["difference"]["estimate"] == pytest.approx(gap)
    assert found["head_id"] == "ridge" and found["difference"]["rows"] == 40
    with pytest.raises(UsageError, match="--compare: the rows of the store changed"):
        compare(first, judge(trained, "ridge", store, "validation"))


def test_the_command_compares_and_draws_a_learning_curve(trained, store, capsys):
    arguments = ["--run", trained.url, "--store", store.url, "--head_id", "linear"]
    assert evaluate_command([*arguments, "--compare", "ridge", "--learning_curve"]) == 0
    out = capsys.readouterr().out
    assert "95% interval" in out and "linear minus ridge: " in out
    assert "calibration error" in out and "most confused: " in out
    points = json.loads(trained.storage.read("learning/test-linear.json"))
    assert [point["fraction"] for point in points] == [0.1, 0.2, 0.5, 1.0]
    images = [point["images"] for point in points]
    assert images[0] >= 16 and images == sorted(images) and images[-1] == 160
    record = json.loads(trained.storage.read("evaluation/test-linear.json"))
    # All of the training images make the very same head again.
    assert points[-1]["accuracy"]["estimate"] == pytest.approx(record["accuracy"])
    assert record["comparison"]["head_id"] == "ridge"
    assert trained.storage.exists("calibration/linear.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rigde", "--compare: unknown value 'rigde'; did you mean ridge"),
        ("linear", "--compare: 'linear' is the head that is evaluated; choose another"),
    ],
)
def test_a_comparison_needs_another_head(trained, store, name, message):
    arguments = ["--run", trained.url, "--store", store.url, "--head_id", "linear"]
    with pytest.raises(UsageError, match=message):
        evaluate_command([*arguments, "--compare", name])


def test_parts_of_the_training_rows_lie_within_one_another(store):
    division = divide(store)
    fractions = (0.001, 0.1, 0.5, 1.0)
    bounds = boundaries(store, division, fractions)
    assert [images for _, images in bounds] == [1, 16, 80, 160]
    earlier: set[str] = set()
    for bound, images in bounds:
        part = part_of(store, division, bound)
        batches = part.train.batches(store, ["content_hash"])
        hashes = {value for batch in batches for value in batch["content_hash"]}
        assert len(hashes) == images == part.train_counts.sum() and earlier <= hashes
        earlier = hashes
        assert part.validation_counts.sum() == 40


def test_a_head_is_trained_again_by_its_own_settings(trained):
    linear, ridge = (options_of_head(trained, name) for name in ("linear", "ridge"))
    assert linear.lr == (0.01,) and linear.l2 == (0.0,) and linear.epochs == 4
    assert list(linear.trials()) == ["linear"]
    # An exact head chooses its penalty again.
    assert ridge.l2 == () and list(ridge.trials()) == ["ridge"]


def test_a_learning_curve_needs_the_runs_own_training_rows(trained, tmp_path):
    features, labels = clusters(30, 3, channels=4)
    other = make_store(tmp_path / "s", features, [f"other {x}" for x in labels[:15]] + labels[15:])
    arguments = ["--run", trained.url, "--store", other.url, "--split", "all"]
    with pytest.raises(UsageError, match="--learning_curve trains again, and .* does not have"):
        evaluate_command([*arguments, "--learning_curve"])


def test_calibrated_predictions_want_a_temperature(trained, tmp_path):
    trained.storage.write("calibration/linear.json", "{}")
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    arguments = ["--run", trained.url, "--head_id", "linear", "--calibrated", str(image)]
    with pytest.raises(UsageError, match="--calibrated: .*linear has no temperature"):
        predict_command(arguments)


def test_holm_keeps_the_order():
    assert holm([0.03, 0.01, 0.5, 0.04]) == pytest.approx([0.09, 0.04, 0.5, 0.09])
    assert holm([]) == []
