"""Stacked training: every head as if it were alone, and as Keras trains it."""

import itertools
import json

import numpy as np
import pytest
from support.features import clusters, make_store, spec_of
from support.kerasheads import keras_head
from support.stacks import blurred

from classifier.evaluate import run as evaluate
from classifier.features.division import class_weights, divide
from classifier.heads.data import prepare_data
from classifier.heads.head import logits_model
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.spec import parse_head
from classifier.heads.stacked import stack as stack_module
from classifier.heads.stacked.fit import fit_stacked
from classifier.heads.stacked.groups import kept_factor
from classifier.heads.stacked.partition import partition, waves
from classifier.runs.run import load_run
from classifier.runtime import import_keras
from classifier.train import run as train
from featurestore import UsageError


@pytest.fixture(scope="module", params=[2, 4])
def store(request, tmp_path_factory):
    return blurred(tmp_path_factory.mktemp("stores") / "s", request.param)


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    spec = spec_of((2, 2, 3), dtype="float16")
    return blurred(tmp_path_factory.mktemp("stores") / "m", 3, spec=spec)


def stacked(store, trials, **changes):
    options = TrainOptions(**{"epochs": 4, "batch_size": 16, **changes})
    data = prepare_data(store, divide(store), options)
    named = {str(number): trial for number, trial in enumerate(trials)}
    fits = {}
    for wave in fit_stacked(named, data, options):
        fits |= wave
    return [fits[name] for name in named], data, options


def started(trial, data, outputs):
    """A head of Keras before the first step of training."""
    shape = data.feature_shape
    weights = stack_module.initial_weights(trial, int(np.prod(shape)), outputs)
    return keras_head(trial.head, shape, weights, trial.seed, standard=data.standard)


def keras_alone(trial, data, options):
    """Trains one head by Keras on the same batches; returns its weights and history."""
    keras = import_keras()
    classes, several = len(data.division.classes), data.division.multi_label
    outputs = 1 if classes == 2 and not several else classes
    model = logits_model(started(trial, data, outputs))
    for layer in model.layers:
        if layer.name in ("hidden", "logits"):
            layer.kernel.regularizer = keras.regularizers.L2(trial.l2)
    optimizer = {
        "adam": keras.optimizers.Adam(trial.lr),
        "rmsprop": keras.optimizers.RMSprop(trial.lr),
        "sgd": keras.optimizers.SGD(trial.lr, momentum=trial.momentum),
    }[trial.optimizer]
    smoothing = trial.label_smoothing
    if outputs == 1 or several:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
        pure = keras.losses.BinaryCrossentropy(from_logits=True)
    else:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        pure = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)

    def targets(labels):
        if several:
            return labels.astype(np.float32)
        return labels[:, None].astype(np.float32) if outputs == 1 else np.eye(classes)[labels]

    balanced = options.class_weight == "balanced"
    weights = class_weights(data.division.train_counts) if balanced else None
    losses = []
    for epoch in range(options.epochs):
        for rows in data.train(options.seed[0], epoch):
            sample = None if weights is None else np.array([weights[y] for y in rows.labels])
            x = rows.features.astype(np.float32)
            model.train_on_batch(x, targets(rows.labels), sample_weight=sample)
        sums = [
            (
                float(pure(targets(rows.labels), model(rows.features.astype(np.float32)))),
                len(rows.labels),
            )
            for rows in data.validation()
        ]
        losses.append(sum(a * n for a, n in sums) / sum(n for _, n in sums))
    head = [layer for layer in model.layers if layer.name in ("hidden", "logits")]
    return [array for layer in head for array in layer.get_weights()], losses


def is_close(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


LINEAR = [
    Trial(parse_head("linear"), lr, l2, optimizer, seed, smoothing)
    for lr, l2, optimizer, seed, smoothing in (
        (0.01, 0.0, "adam", 0, 0.0),
        (0.003, 0.01, "adam", 5, 0.1),
        (0.001, 0.1, "adam", 5, 0.0),
        (0.01, 0.01, "rmsprop", 1, 0.0),
        (0.002, 0.0, "rmsprop", 0, 0.2),
        (0.01, 0.03, "sgd", 2, 0.0),
        (0.1, 0.0, "sgd", 0, 0.1),
    )
]
LINEAR.append(Trial(parse_head("linear"), 0.1, 0.0, "sgd", 3, momentum=0.0))


def last_weights(monkeypatch):
    """Makes stacks give the last epoch's weights, which are what Keras is left with."""

    def remember(group, heads):
        for part in group.parameters:
            part.best = part.value.copy()

    monkeypatch.setattr(stack_module.Group, "remember", remember)


def test_linear_heads_equal_keras(store, monkeypatch):
    last_weights(monkeypatch)
    weighted = {"class_weight": "balanced"} if len(divide(store).classes) == 2 else {}
    fits, data, options = stacked(store, LINEAR, batch_size=33, epochs=2, **weighted)
    for trial, fit in zip(LINEAR, fits, strict=True):
        weights, losses = keras_alone(trial, data, options)
        is_close(fit.weights, weights)
        np.testing.assert_allclose(fit.history["val_loss"], losses, rtol=1e-4)


def test_a_linear_head_learns_from_the_features_that_it_keeps(store, monkeypatch):
    last_weights(monkeypatch)
    trials = [Trial(parse_head("linear:dropout=0.5"), 0.1, 0.0, "sgd", seed) for seed in (0, 1)]
    trials.append(Trial(parse_head("linear"), 0.1, 0.0, "sgd", 0))
    fits, data, options = stacked(store, trials, batch_size=33, epochs=1, standardise="none")
    # By hand, as in Keras: what is kept is divided by the share that is kept.
    outputs = fits[0].weights[0].shape[1]
    inputs = int(np.prod(data.feature_shape))
    for trial, fit in zip(trials, fits, strict=True):
        kernel, bias = (
            array.copy() for array in stack_module.initial_weights(trial, inputs, outputs)
        )
        speed = [np.zeros_like(kernel), np.zeros_like(bias)]
        for step, rows in enumerate(data.train(options.seed[0], 0)):
            x = rows.features.reshape(len(rows.labels), -1).astype(np.float32)
            if trial.head.dropout:
                x = x * kept_factor(trial.seed, step, 0.5, x.shape)
            logits = x @ kernel + bias
            if outputs == 1:
                slope = 1 / (1 + np.exp(-logits)) - rows.labels[:, None]
            else:
                shares = np.exp(logits - logits.max(1, keepdims=True))
                slope = shares / shares.sum(1, keepdims=True) - np.eye(outputs)[rows.labels]
            slope /= len(x)
            for value, gradient, mean in zip(
                (kernel, bias), (x.T @ slope, slope.sum(0)), speed, strict=True
            ):
                mean *= 0.9
                mean += gradient
                value -= 0.1 * mean
        is_close(fit.weights, [kernel, bias])
    assert not np.allclose(fits[0].weights[0], fits[2].weights[0], atol=1e-3)
    kept = kept_factor(0, 0, 0.5, (100, 100))
    assert set(np.unique(kept)) == {0, 2} and abs(kept.mean() - 1) < 0.05


@pytest.mark.parametrize("head", ["mlp:8", "mlp:5:linear"])
def test_mlp_heads_equal_keras(maps, head, monkeypatch):
    last_weights(monkeypatch)
    trials = [
        Trial(parse_head(head), 0.01, 0.0, optimizer, seed) for optimizer, seed in
        (("adam", 0), ("adam", 3), ("sgd", 1), ("rmsprop", 2))
    ] + [Trial(parse_head(head), 0.02, 0.01, "adam", 3, 0.1)]  # fmt: skip
    fits, data, options = stacked(maps, trials, epochs=2, batch_size=64)
    for trial, fit in zip(trials, fits, strict=True):
        weights, losses = keras_alone(trial, data, options)
        is_close(fit.weights, weights)
        np.testing.assert_allclose(fit.history["val_loss"], losses, rtol=1e-3)


def test_multi_label_heads_equal_keras_and_are_evaluated(tmp_path, monkeypatch, capsys):
    features, labels = clusters(200, 3)
    features += np.random.default_rng(7).normal(0, 2, features.shape).astype(np.float32)
    several = [
        (label, "odd") if number % 3 == 1 else () if number == 5 else (label,)
        for number, label in enumerate(labels)
    ]
    store = make_store(tmp_path / "s", features, several)
    folder = str(tmp_path / "run")
    flags = ["--store", store.url, "--output", folder, "--epochs", "2", "--lr", "0.01,0.02"]
    assert train([*flags, "--head", "linear", "--head", "mlp:4"]) == 0
    assert "note: heads are multi-label: one sigmoid per class" in capsys.readouterr().out
    best = load_run(folder).leaderboard()[0]
    evaluate(["--run", folder, "--store", store.url, "--split", "validation", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    assert record["accuracy"] == pytest.approx(best["val_accuracy"])
    assert 0 < record["macro_f1"] < 1 and len(record["per_class"]) == 4
    for refused in (["--head", "ridge"], ["--class_weight", "balanced"], ["--multi_label", "off"]):
        with pytest.raises(UsageError, match="one label per row"):
            train([*flags[:2], "--output", str(tmp_path / "other"), *refused])
    last_weights(monkeypatch)
    trial = Trial(parse_head("linear"), 0.01, 0.01, "adam", 1, 0.1)
    (fit,), data, options = stacked(store, [trial], epochs=2)
    weights, losses = keras_alone(trial, data, options)
    is_close(fit.weights, weights)
    np.testing.assert_allclose(fit.history["val_loss"], losses, rtol=1e-4)


def test_dropout_equals_keras_with_the_same_masks(maps, monkeypatch):
    last_weights(monkeypatch)
    rate, seed, units = 0.4, 3, 8
    trial = Trial(parse_head(f"mlp:{units}:dropout={rate}"), 0.01, 0.0, "adam", seed)
    (fit,), data, options = stacked(maps, [trial], epochs=2)
    keras = import_keras()
    model = logits_model(started(trial, data, 3))
    factor = keras.Input((units,))
    kept = model.get_layer("relu").output * factor
    masked = keras.Model([*model.inputs, factor], model.get_layer("logits")(kept))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masked.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    step, shares = 0, []
    for epoch in range(options.epochs):
        for rows in data.train(0, epoch):
            random = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))
            mask = random.random((len(rows.labels), units), np.float32) >= rate
            features = rows.features.astype(np.float32)
            masked.train_on_batch([features, mask / (1 - rate)], rows.labels)
            shares.append(mask.mean())
            step += 1
    assert np.mean(shares) == pytest.approx(1 - rate, abs=0.03)
    layers = [masked.get_layer(name) for name in ("hidden", "logits")]
    is_close(fit.weights, [array for layer in layers for array in layer.get_weights()])
    (other,), *_ = stacked(maps, [trial._replace(seed=4)], epochs=2)
    assert other.history != fit.history


def test_a_heads_result_does_not_depend_on_its_company(maps):
    heads = map(parse_head, ("linear", "mlp:8:dropout=0.5", "mlp:8", "mlp:3:linear"))
    trials = [
        Trial(head, lr, 0.0, optimizer, seed)
        for head, lr, optimizer, seed in itertools.product(
            heads, (0.01, 0.003), ("adam", "sgd"), (0, 1)
        )
    ]
    together, *_ = stacked(maps, trials)
    for number in (0, 5, 9, 12, 23, 31):
        (alone,), *_ = stacked(maps, [trials[number]])
        assert alone.history["val_loss"] == pytest.approx(
            together[number].history["val_loss"], rel=1e-4
        )
        assert alone.best_epoch == together[number].best_epoch
        is_close(alone.weights, together[number].weights)


def test_a_head_that_diverges_leaves_its_neighbours_alone(store):
    trials = [Trial(parse_head("linear"), lr, 0.0, "sgd", 0) for lr in (0.01, 1e38, 0.02)]
    fits, *_ = stacked(store, trials)
    (alone,), *_ = stacked(store, trials[2:])
    assert [fit.best_epoch > 0 for fit in fits] == [True, False, True]
    assert len(fits[1].history["loss"]) < 4
    is_close(fits[2].weights, alone.weights)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_heads_one_by_one(store, patience):
    trials = [Trial(parse_head("linear"), lr, 0.0, "adam", 0) for lr in (0.2, 1e-4, 0.1, 2e-4, 0.3)]
    fits, *_ = stacked(store, trials, epochs=12, patience=patience)
    endless, *_ = stacked(store, trials, epochs=12)
    lengths = []
    for fit, whole in zip(fits, endless, strict=True):
        losses = whole.history["val_loss"]
        best, end = 0, len(losses)
        for epoch, loss in enumerate(losses):
            if loss < losses[best]:
                best = epoch
            elif epoch - best >= patience:
                end = epoch + 1
                break
        assert fit.history["val_loss"] == pytest.approx(losses[:end], rel=1e-4)
        assert fit.best_epoch == best + 1
        lengths.append(end)
    assert min(lengths) < max(lengths) == 12


@pytest.mark.parametrize("head", ["mlp:4", "mlp:4:linear", "mlp:4:relu:dropout=0.5"])
@pytest.mark.parametrize("heads", [1, 2, 5])
def test_patience_ends_the_last_head_of_a_group(store, head, heads):
    """The other group goes on, and what ended is what the heads were at their best epoch."""
    ending = [Trial(parse_head(head), 0.5, 0.0, "adam", seed) for seed in range(heads)]
    lasting = Trial(parse_head("linear"), 1e-4, 0.0, "adam", 0)
    fits, *_ = stacked(store, [*ending, lasting], epochs=12, patience=1)
    alone, *_ = stacked(store, ending, epochs=12, patience=1)
    assert max(len(fit.history["loss"]) for fit in fits[:-1]) < len(fits[-1].history["loss"]) == 12
    for fit, other in zip(fits, alone, strict=False):
        assert fit.best_epoch == other.best_epoch
        is_close(fit.weights, other.weights)


def test_waves_train_what_one_stack_trains(maps):
    trials = [Trial(parse_head("mlp:4"), 0.01, 0.0, "adam", seed) for seed in range(5)]
    options = TrainOptions(epochs=2)
    data = prepare_data(maps, divide(maps), options)
    named = {str(seed): trial for seed, trial in enumerate(trials)}
    (whole,) = fit_stacked(named, data, options)
    parts = list(fit_stacked(named, data, options, state_budget=2500))
    assert [list(part) for part in parts] == [["0", "1"], ["2", "3"], ["4"]]
    for part in parts:
        for name, fit in part.items():
            is_close(fit.weights, whole[name].weights)


def test_waves_hold_at_least_one_head():
    trials = {str(seed): Trial(parse_head("linear"), 0.1, seed=seed) for seed in range(3)}
    assert waves(trials, 10, 3, 1) == [["0"], ["1"], ["2"]]
    assert waves(trials, 10, 3, 2 * 4 * 33 * 4) == [["0", "1"], ["2"]]
    assert waves({}, 10, 3, 100) == []


def test_groups_are_of_one_structure_and_occupy_every_lane():
    linear = [Trial(parse_head("linear"), 0.1, seed=seed) for seed in range(128)]
    groups = partition(linear, 1280, 10, 2)
    assert [len(group) for group in groups] == [32] * 4
    assert sorted(itertools.chain(*groups)) == list(range(128))
    assert len(partition(linear[:1], 1280, 10, 2)) == 1
    mixed = [
        linear[0], linear[1]._replace(optimizer="sgd"), Trial(parse_head("mlp:4"), 0.1),
        Trial(parse_head("mlp:4:linear"), 0.1), Trial(parse_head("mlp:4:dropout=0.1"), 0.1),
    ]  # fmt: skip
    assert {frozenset(group) for group in partition(mixed, 8, 3, 1)} == {
        frozenset({0}), frozenset({1}), frozenset({2, 4}), frozenset({3}),
    }  # fmt: skip
    wide = [Trial(parse_head("mlp:256"), 0.1, seed=seed) for seed in range(3)]
    assert [len(group) for group in partition(wide, 12800, 10, 2)] == [1, 1, 1]
