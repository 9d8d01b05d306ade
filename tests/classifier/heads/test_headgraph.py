"""Heads as networks: NumPy's figures and the written file are Keras's, and Keras is not loaded."""

import io
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import ROOT
from support.features import clusters, make_store
from support.kerasheads import keras_head, keras_neighbours

from classifier.heads.head import Standard, dense_head, forward, logits_model
from classifier.heads.headgraph import HeadGraph
from classifier.heads.neighbours import build_neighbours
from classifier.heads.operations import largest
from classifier.heads.options import Trial
from classifier.heads.spec import parse_head
from classifier.heads.stacked.stack import initial_weights
from classifier.runs.run import Run, RunConfig
from classifier.runtime import import_keras
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage

HEADS = (
    "linear", "linear:dropout=0.5", "mlp:4", "mlp:3:linear", "mlp:5:dropout=0.25",
    "knn:3", "knn:2:majority", "knn:4:euclidean", "knn:1:euclidean:majority", "knn:90",
)  # fmt: skip


def pair(text, shape, classes, scaled, multi_label=False, seed=0):
    """Returns (our head, Keras's head, features) of the same weights."""
    random = np.random.default_rng(seed)
    features = random.normal(1, 2, (40, *shape)).astype(np.float32)
    channels = shape[-1]
    standard = None
    if scaled:
        means, deviations = random.normal(size=channels), random.uniform(0.5, 2, channels)
        standard = Standard(means.astype(np.float32), deviations.astype(np.float32))
    spec = parse_head(text)
    if spec.kind == "knn":
        labels = np.arange(40) % classes
        arguments = (spec, features, labels, classes, standard)
        return build_neighbours(*arguments), keras_neighbours(*arguments), features[:20] + 0.3
    outputs = 1 if classes == 2 and not multi_label else classes
    trial = Trial(spec, 0.1, seed=seed)
    weights = [array + 0.1 for array in initial_weights(trial, int(np.prod(shape)), outputs)]
    more = {"standard": standard, "multi_label": multi_label}
    return (
        dense_head(spec, shape, weights, seed, **more),
        keras_head(spec, shape, weights, seed, **more),
        features,
    )


def saved_config(data):
    """The layers of a .keras file, without the names that Keras counts up in a process."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        record = json.loads(archive.read("config.json"))
    text = json.dumps(record, sort_keys=True)
    text = re.sub(r', "shared_object_id": \d+', "", text)
    text = re.sub(r'("seed": )\d+(, "[im])', r"\1null\2", text)
    return re.sub(r'"(top_k|true_divide|expand_dims|multiply|sum|mean|add|log|subtract)_\d+"',
                  r'"\1"', text)  # fmt: skip


@pytest.mark.parametrize(("shape", "classes", "scaled"), [((7,), 3, True), ((2, 2, 3), 2, False)])
@pytest.mark.parametrize("text", HEADS)
def test_the_file_is_what_keras_writes_and_predicts(text, shape, classes, scaled, tmp_path):
    ours, theirs, features = pair(text, shape, classes, scaled)
    (tmp_path / "ours.keras").write_bytes(ours.to_bytes())
    theirs.save(tmp_path / "theirs.keras")
    written, reference = ((tmp_path / f"{name}.keras").read_bytes() for name in ("ours", "theirs"))
    a, b = (re.sub(r'"get_item(_\d+)?"', '"get_item"', saved_config(data))
            for data in (written, reference))  # fmt: skip
    assert a == b
    loaded = import_keras().models.load_model(tmp_path / "ours.keras", safe_mode=True)
    wanted = theirs.predict(features, verbose=0)
    np.testing.assert_allclose(loaded.predict(features, verbose=0), wanted, atol=1e-6)
    for network in (ours, HeadGraph.from_bytes(written), HeadGraph.from_bytes(reference)):
        assert network.is_known and network.parameters == ours.parameters
        np.testing.assert_allclose(network(features), wanted, atol=1e-6)
        logits = forward(logits_model(loaded))(features)
        np.testing.assert_allclose(network.logits(features), logits, rtol=1e-5, atol=1e-5)
    trainable = sum(int(np.prod(each.shape)) for each in theirs.trainable_weights)
    assert ours.parameters == trainable
    for mine, other in zip(loaded.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_a_multi_label_head_ends_in_sigmoids(tmp_path):
    ours, theirs, features = pair("mlp:4", (6,), 2, True, multi_label=True)
    assert ours(features).shape == (40, 2)
    np.testing.assert_allclose(ours(features), theirs.predict(features, verbose=0), atol=1e-6)


def test_a_head_of_other_layers_is_run_by_keras(tmp_path):
    keras = import_keras()
    inputs = keras.Input((4, 4, 3), name="features")
    x = keras.layers.Conv2D(2, 3, activation="relu")(inputs)
    x = keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Activation("softmax", name="probabilities")(x))
    run = Run(Storage(str(tmp_path)), RunConfig(None, "", ("a", "b", "c"), {"conv": "linear"}))
    (tmp_path / "heads").mkdir()
    model.save(tmp_path / "heads/conv.keras")
    assert not run.read_head("conv").is_known
    features = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    found = run.logits_of("conv")(features)
    wanted = logits_model(model).predict(features, verbose=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"activation": "gelu"}, {"use_bias": False}, {"axis": 1}])
def test_settings_that_numpy_does_not_know_are_keras_s(change):
    network, _, _ = pair("mlp:4", (2, 3), 3, True)
    for layer in network.layers:
        if set(change) <= set(layer["config"]):
            layer["config"] |= change
    assert not network.is_known


def test_weights_of_another_shape_are_damage(tmp_path):
    network, _, _ = pair("linear", (6,), 3, False)
    network.weights["logits"][0] = np.zeros((5, 3), np.float32)
    storage = Storage(str(tmp_path))
    storage.write("heads/linear.keras", network.to_bytes())
    run = Run(storage, RunConfig(None, "", ("a", "b", "c"), {"linear": "linear"}))
    with pytest.raises(CorruptStore, match="linear.keras cannot be loaded .*; train again"):
        run.logits_of("linear")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_the_largest_are_those_of_a_stable_sort(data):
    width = data.draw(st.integers(1, 12))
    rows = data.draw(st.lists(st.lists(st.integers(-3, 3), min_size=width, max_size=width),
                              min_size=1, max_size=4))  # fmt: skip
    values = np.array(rows, np.float32)
    k = data.draw(st.integers(1, width))
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found, places = largest(values, k)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, axis=1))


def test_initial_weights_are_glorots_and_the_seeds():
    trial = Trial(parse_head("mlp:64"), 0.1, seed=3)
    hidden, bias, top, _ = initial_weights(trial, 500, 10)
    for kernel in (hidden, top):
        limit = np.sqrt(6 / sum(kernel.shape))
        assert np.abs(kernel).max() <= limit and kernel.dtype == np.float32
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert abs(kernel.mean()) < limit / 10
    assert not bias.any()
    again, *_ = initial_weights(trial, 500, 10)
    np.testing.assert_array_equal(hidden, again)
    other, *_ = initial_weights(trial._replace(seed=4), 500, 10)
    assert (hidden != other).any()


def test_no_command_on_stored_features_loads_keras(tmp_path):
    """Trained, stopped and resumed, evaluated, and shown, in one fresh interpreter."""
    features, labels = clusters(120, 3)
    splits = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20
    make_store(tmp_path / "store", features, labels, splits)
    script = f"""
import sys
from classifier import evaluate, report, train
from classifier.heads.stacked import fit
store, run = {str(tmp_path / "store")!r}, {str(tmp_path / "run")!r}
heads = [w for h in {HEADS[0], HEADS[2], "ridge", "logistic", "knn:3"} for w in ("--head", h)]
flags = ["--store", store, "--output", run, "--epochs", "3", "--checkpoint", "0", *heads]
save, fit.Checkpoint.save = fit.Checkpoint.save, None
def stop(self, wave, epochs, stack):
    save(self, wave, epochs, stack)
    raise SystemExit
fit.Checkpoint.save = stop
try: train.run(flags)
except SystemExit: fit.Checkpoint.save = save
assert train.run(flags) == 0
evaluating = ["--run", run, "--store", store, "--split", "test"]
assert evaluate.run([*evaluating, "--compare", "knn-3-cosine-weighted", "--head_id", "ridge"]) == 0
assert evaluate.run([*evaluating, "--learning_curve", "--head_id", "linear"]) == 0
assert report.run(["--run", run, "--store", store]) == 0
print(*sorted({{"tensorflow", "keras"}} & set(sys.modules)), "loaded")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "resumed from a checkpoint: 1 epochs are done" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded"
