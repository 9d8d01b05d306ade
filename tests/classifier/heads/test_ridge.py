"""Ridge regression from sufficient statistics, beside scikit-learn and explicit fits."""

import math
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from support.optional import optional

from classifier.features.dataset import SIDES
from classifier.features.order import Rows
from classifier.heads.head import Standard
from classifier.heads.ridge.fit import fit_ridge, gathered
from classifier.heads.ridge.passes import PenaltyErrors, ScaleLosses
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import FoldStatistics, Solved, solve
from classifier.heads.ridge.statistics import RidgePath, Statistics, eigen, fit_path
from featurestore.errors import UsageError

L2 = (1e-4, 1e-2, 1.0, 100.0)


def some_rows(count=120, features=7, classes=3, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(0, 1, (classes, features))
    scales = np.geomspace(0.1, 30, features)
    x = (centres[labels] + rng.normal(0, 1, (count, features))) * scales + offset
    return Rows(x.astype(np.float32), labels, rng.integers(0, 1 << 32, count, np.uint32))


def settings_of(rows, classes=3, **changes):
    width = rows.features[0].size
    defaults = {"l2": L2, "folds": 3}
    return RidgeSettings(width, rows.features.shape[-1], classes, **{**defaults, **changes})


def intercepts(path: RidgePath) -> np.ndarray:
    """The scores, float64 (penalties, k), of a row whose features are all 0."""
    return path.target_mean - np.tensordot(path.mean, path.weights, axes=1)


def assert_same(a, b, whole):
    assert a.weight == pytest.approx(b.weight)
    for name in ("mean", "target_mean", "scatter", "cross"):
        least = 1e-12 * np.abs(getattr(whole, name)).max()
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=least)


@pytest.mark.parametrize("cut", [0, 1, 59, 119, 120])
def test_statistics_add_and_subtract(cut):
    rows = some_rows(offset=1000.0)
    targets = np.eye(3)[rows.labels]
    whole = Statistics.of(rows.features, targets)
    first, second = (
        Statistics.of(rows.features[part], targets[part]) for part in (slice(cut), slice(cut, None))
    )
    assert_same(first + second, whole, whole)
    assert_same(whole - first, second, whole)
    assert_same(whole - second, first, whole)


def test_a_large_mean_does_not_cancel():
    rows = some_rows(offset=1e5)
    targets = np.eye(3)[rows.labels]
    parts = [
        Statistics.of(rows.features[i : i + 10], targets[i : i + 10]) for i in range(0, 120, 10)
    ]
    centred = rows.features.astype(np.float64)
    centred -= centred.mean(axis=0)
    found = sum(parts[1:], parts[0]).scatter
    np.testing.assert_allclose(found, centred.T @ centred, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("count", "features"), [(120, 7), (6, 20), (20, 20)])
def test_coefficients_are_scikit_learns(count, features, standardise, offset):
    linear = optional("sklearn.linear_model")
    rows = some_rows(count, features, offset=offset)
    targets = np.eye(3)[rows.labels]
    statistics = Statistics.of(rows.features, targets)
    standard = statistics.standard(features) if standardise else None
    path = fit_path(statistics, L2, standard)
    deviation = standard.deviation.astype(np.float64) if standardise else np.ones(features)
    scaled = rows.features.astype(np.float64) / deviation
    for number, l2 in enumerate(L2):
        reference = linear.Ridge(alpha=l2 * count, solver="svd").fit(scaled, targets)
        wanted = reference.coef_.T / deviation[:, None]
        np.testing.assert_allclose(
            path.weights[:, number], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max()
        )
        np.testing.assert_allclose(intercepts(path)[number], reference.intercept_, atol=1e-6)
        np.testing.assert_allclose(
            path.scores(rows.features)[:, number], reference.predict(scaled), atol=2e-4
        )


def test_multi_label_targets_and_weights_are_scikit_learns():
    linear = optional("sklearn.linear_model")
    rows = some_rows()
    rng = np.random.default_rng(3)
    targets, weights = rng.integers(0, 2, (120, 5)), rng.uniform(0, 2, 120)
    parts = [
        Statistics.of(rows.features[part], targets[part], weights[part])
        for part in (slice(40), slice(40, None))
    ]
    total = parts[0] + parts[1]
    path = fit_path(total, [0.1])
    reference = linear.Ridge(alpha=0.1 * weights.sum())
    reference.fit(rows.features.astype(np.float64), targets, sample_weight=weights)
    np.testing.assert_allclose(path.weights[:, 0].T, reference.coef_, atol=1e-6)
    np.testing.assert_allclose(intercepts(path)[0], reference.intercept_, atol=1e-6)


def test_without_a_penalty_a_constant_feature_gets_no_weight():
    rows = some_rows()
    x = np.concatenate([rows.features, np.full((120, 1), 4.0, np.float32)], axis=1)
    targets = np.eye(3)[rows.labels]
    statistics = Statistics.of(x, targets)
    path = fit_path(statistics, [0.0], statistics.standard(8))
    assert np.abs(path.weights[7]).max() < 1e-12
    wanted, *_ = np.linalg.lstsq(
        np.c_[rows.features.astype(np.float64), np.ones(120)], targets, rcond=None
    )
    np.testing.assert_allclose(path.weights[:7, 0], wanted[:7], atol=1e-6)


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
def test_leaving_a_fold_out_equals_fitting_without_it(weights):
    rows = some_rows(200)
    settings = settings_of(rows, class_weights=weights)
    statistics = FoldStatistics(settings)
    for start in range(0, 200, 33):
        statistics.update(rows[start : start + 33])
    solved = solve(statistics)
    assert len(solved.held_out) == 3
    for fold, path in enumerate(solved.held_out):
        kept = rows[rows.content % 3 != fold]
        shares = None if weights is None else np.asarray(weights)[kept.labels]
        explicit = Statistics.of(kept.features, np.eye(3)[kept.labels], shares)
        wanted = fit_path(explicit, L2, explicit.standard(7))
        np.testing.assert_allclose(path.weights, wanted.weights, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(intercepts(path), intercepts(wanted), atol=1e-8)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_a_block_without_rows_changes_nothing(shape):
    rows = some_rows(60, int(np.prod(shape)))
    rows = Rows(rows.features.reshape(-1, *shape), rows.labels, rows.content)
    settings = settings_of(rows)
    statistics, errors, losses = (
        kind(settings) for kind in (FoldStatistics, PenaltyErrors, ScaleLosses)
    )
    for block in (rows[:0], rows, rows[:0]):
        statistics.update(block)
    solved = solve(statistics)
    assert sum(fold.weight for fold in statistics.folds) == 60
    for side in SIDES:
        for block in (rows[:0], rows, rows[:0]):
            errors.update(block, side, solved)
            losses.update(block, side, solved.full.only(0))
        assert errors.rows[side] == losses.rows[side] == 60


@pytest.mark.parametrize("allowed", [1, 3, 6, 7])
def test_eigenproblems_run_on_the_cores_that_the_process_may_use(monkeypatch, allowed):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert RidgeSettings(10, 10, 3, L2, folds=5).lanes == min(allowed, 6)


@pytest.mark.parametrize("classes", [2, 3])
def test_hits_are_those_of_explicit_predictions(classes):
    linear = optional("sklearn.linear_model")
    rows = some_rows(200, classes=classes)
    settings = settings_of(rows, classes, standardise=False)
    statistics = FoldStatistics(settings)
    statistics.update(rows)
    errors = PenaltyErrors(settings)
    errors.update(rows, "train", solve(statistics))
    hits, squares = np.zeros(len(L2)), np.zeros(len(L2))
    targets = settings.targets_of(rows.labels)
    x = rows.features.astype(np.float64)
    for number, l2 in enumerate(L2):
        for fold in range(3):
            held = rows.content % 3 == fold
            fitted = linear.Ridge(alpha=l2 * (~held).sum()).fit(x[~held], targets[~held])
            found = fitted.predict(x[held]).reshape(held.sum(), -1)
            guess = found[:, 0] > 0.5 if classes == 2 else found.argmax(1)
            hits[number] += (guess == rows.labels[held]).sum()
            squares[number] += np.square(found - targets[held]).sum()
    assert errors.hits["train"].tolist() == hits.tolist()
    np.testing.assert_allclose(errors.errors["train"], squares, rtol=1e-4)
    assert hits[errors.choose()] == hits.max()
    assert errors.rows["train"] == 200


def test_copies_are_in_one_fold():
    rows = some_rows(4)
    copied = Rows.joined([rows, rows, rows])
    numbers = settings_of(rows).fold_numbers(copied).reshape(3, 4)
    assert (numbers == numbers[0]).all()


@pytest.mark.parametrize("folds", [0, 3])
@pytest.mark.parametrize("case", ["usual", "one class a fold", "one fold", "constant", "wide"])
def test_odd_data_still_gives_a_head(case, folds):
    rows = some_rows(60, 80 if case == "wide" else 7)
    if case == "one class a fold":
        rows = Rows(rows.features, rows.labels, rows.labels.astype(np.uint32))
    if case == "one fold":
        rows = Rows(rows.features, rows.labels, np.zeros(60, np.uint32))
    if case == "constant":
        rows = Rows(np.ones_like(rows.features), rows.labels, rows.content)
    sides = {"train": [rows[:40]], "validation": [rows[40:]]}
    fit = fit_ridge(settings_of(rows, folds=folds), sides.__getitem__)
    assert fit.l2 in L2
    assert all(np.isfinite(value) for value in fit.metrics.values())
    assert np.isfinite(fit.path.weights).all()


def test_blocks_change_nothing():
    rows = some_rows(300, offset=50.0)
    settings = settings_of(rows)
    fits = []
    for size in (1, 7, 200):
        sides = {
            "train": [rows[:200][start : start + size] for start in range(0, 200, size)],
            "validation": [rows[200:]],
        }
        fits.append(fit_ridge(settings, sides.__getitem__))
    for fit in fits[1:]:
        assert fit.l2 == fits[0].l2
        np.testing.assert_allclose(fit.path.weights, fits[0].path.weights, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("least", [1, 9, 10, 11, 100])
def test_small_blocks_are_joined(least):
    rows = some_rows(30)
    blocks = list(gathered((rows[i : i + 5] for i in range(0, 30, 5)), least))
    assert all(len(block.labels) >= least for block in blocks[:-1])
    np.testing.assert_array_equal(Rows.joined(blocks).features, rows.features)
    assert list(gathered([], least)) == []


def test_maps_are_standardised_by_channel():
    rng = np.random.default_rng(0)
    maps = rng.normal(2, np.array([1.0, 5.0]), (50, 2, 3, 2))
    found = Statistics.of(maps.reshape(50, -1), np.ones((50, 1))).standard(2)
    assert isinstance(found, Standard)
    np.testing.assert_allclose(found.mean, maps.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, maps.std((0, 1, 2)), rtol=1e-6)


def test_too_many_features_are_one_line():
    settings = RidgeSettings(12800, 512, 10, L2)
    with pytest.raises(UsageError, match=r"14\.\d GiB for 12,800 features.*--pooling avg") as error:
        settings.check_memory()
    assert "\n" not in str(error.value)
    RidgeSettings(1280, 1280, 10, tuple(np.geomspace(1e-4, 1e4, 50))).check_memory()


@pytest.mark.parametrize("rows_of_a_tile", [1, 2, 6, 7, 100])
def test_tiles_of_a_sum_add_up_to_the_sum(rows_of_a_tile):
    rows = some_rows(offset=1000.0)
    targets = np.eye(3)[rows.labels]
    cuts = [slice(0, 50), slice(50, 50), slice(50, 120)]
    sums = [Statistics.of(rows.features[own], targets[own]) for own in cuts]
    tiles = {}
    for part in sums:
        for tile in part.tiles(8 * (7 + 3) * rows_of_a_tile):
            tiles[tile.first] = tiles[tile.first] + tile if tile.first in tiles else tile
    assert len(tiles) == -(-7 // min(rows_of_a_tile, 7))
    joined, whole = Statistics.joined(tiles.values()), sum(sums, Statistics.empty(7, 3))
    assert joined.weight == whole.weight == 120
    for name in ("mean", "target_mean", "cross"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    np.testing.assert_allclose(joined.scatter, whole.scatter, rtol=1e-15)
    np.testing.assert_array_equal(joined.scatter, joined.scatter.T)


@pytest.mark.parametrize("features, classes", [(1280, 1000), (5000, 3)])
def test_no_tile_is_larger_than_a_runner_takes(features, classes):
    settings = RidgeSettings(features, features, classes, L2, folds=2)
    statistics = FoldStatistics(settings)
    statistics.folds[1] = replace(statistics.folds[1], weight=1.0)
    tiles = list(statistics.tiles())
    assert {fold for (fold, _), _ in tiles} == {1}, "nothing travels of a fold without rows"
    sizes = [len(pickle.dumps(tile)) for tile in tiles]
    assert max(sizes) < 8_000_000
    assert sum(sizes) < 1.2 * features * (features / 2 + classes) * 8 + 8_000_000


@pytest.mark.parametrize("folds, standardise", [(0, True), (3, False)])
def test_solutions_survive_their_file(folds, standardise):
    rows = some_rows()
    statistics = FoldStatistics(settings_of(rows, folds=folds, standardise=standardise))
    statistics.update(rows)
    solved = solve(statistics)
    read = Solved.from_bytes(solved.to_bytes())
    assert len(read.held_out) == folds and (read.standard is None) == (not standardise)
    for one, other in zip(
        (read.full, *read.held_out), (solved.full, *solved.held_out), strict=True
    ):
        for name in ("mean", "target_mean", "weights"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_a_fold_leaves_of_a_nearly_constant_feature_is_no_nan():
    """Differences of sums cancel: the variance of a dead feature may come out below 0."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 3))
    features[:, 1] = 1e6 + 1e-9 * rng.normal(size=90)
    targets = rng.normal(size=(90, 1))
    whole = Statistics.of(features, targets)
    for fold in range(40):
        part = rng.permutation(90)[:30]
        rest = whole - Statistics.of(features[part], targets[part])
        rest.scatter[1, 1] = -abs(rest.scatter[1, 1]) - 1e-9 * fold
        standard = rest.standard(3)
        assert np.isfinite(standard.deviation).all() and (standard.deviation > 0).all()
        assert np.isfinite(fit_path(rest, L2, standard).weights).all()


@pytest.mark.parametrize("weights, is_small", [((1.0, 1.0), True), ((0.01, 0.01), False)])
def test_few_rows_of_many_features_are_solved_in_their_span(weights, is_small):
    random = np.random.default_rng(4)
    features = random.normal(size=(40, 300)) * np.geomspace(1, 1e-4, 300)
    classes = random.integers(0, 2, 40)
    found = Statistics.of(features, np.eye(2)[classes], np.array(weights)[classes])
    scatter = found.scatter / found.weight
    values, vectors = eigen(scatter, math.ceil(found.weight))
    assert (len(values) < 300) is is_small
    np.testing.assert_allclose((vectors * values) @ vectors.T, scatter, atol=1e-12)
    path = fit_path(found, (0.0, 1e-4, 1.0))
    for number, penalty in enumerate((1e-4, 1.0), 1):
        exact = np.linalg.solve(scatter + penalty * np.eye(300), found.cross / found.weight)
        np.testing.assert_allclose(path.weights[:, number], exact, atol=1e-8)
