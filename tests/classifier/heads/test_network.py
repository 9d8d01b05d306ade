"""Heads that Keras trains: the book's convnets, files of layers, fresh views, and the trainer."""

import math
from functools import partial

import numpy as np
import pytest
from support.features import clusters, make_store, spec_of
from support.kerasheads import keras_head
from support.optional import optional

from classifier.features.division import divide
from classifier.heads.data import prepare_data
from classifier.heads.exact import check_heads
from classifier.heads.head import logits_model
from classifier.heads.network.architecture import build_network, check_network
from classifier.heads.network.augmentation import augmentation, check_augment
from classifier.heads.network.fit import Network
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.spec import parse_head
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.heads.stacked.fit import fit_stacked
from classifier.heads.stacked.stack import initial_weights
from classifier.train import run as train_command
from featurestore.errors import UsageError
from featurestore.io.storage import Storage

keras = optional("keras")


def ignore(*_):
    """Takes a line or an epoch that nobody looks at."""


def network(head, shape, outputs=1, **settings):
    return build_network(Trial(parse_head(head), 1e-3), shape, outputs, is_pixels=True, **settings)


def test_the_convnets_of_the_book_have_its_parameters():
    # Chollet, Deep Learning with Python (2nd edition), listings 8.1 and 8.7.
    assert network("conv:32,64,128", (28, 28, 1), 10).count_params() == 104_202
    cats = network("conv:32,64,128,256,256:dropout=0.5", (180, 180, 3))
    assert cats.count_params() == 991_041
    shapes = [tuple(layer.output.shape) for layer in cats.layers if "conv" in layer.name]
    assert shapes[-1] == (None, 7, 7, 256)
    assert cats.get_layer("dropout").rate == 0.5


def test_spellings():
    head = parse_head("conv:8,16:dropout=0.25")
    assert (str(head), head.slug) == ("conv:8,16:dropout=0.25", "conv-8-16-dropout0.25")
    assert head.is_network and not head.is_exact and not head.is_stacked
    own = parse_head("heads/my net.yaml")
    assert own.is_network and str(own) == "heads/my net.yaml"
    assert own.slug.startswith("my_net.yaml-") and "/" not in own.slug
    for wrong, message in (
        ("conv", "conv needs the filters"),
        ("conv:8,x", "conv needs the filters"),
        ("conv:8:relu", "unknown.*relu"),
        ("file", "FILE.yaml"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_head(wrong)


def test_too_many_blocks_are_refused_before_anything_is_read():
    check_network(parse_head("conv:8,8,8"), (24, 18, 3))
    with pytest.raises(UsageError, match="24x17 pixels are too few for 3 blocks.*at most 2"):
        check_network(parse_head("conv:8,8,8"), (24, 17, 3))
    with pytest.raises(UsageError, match="these features are vectors of 1,280 values"):
        check_network(parse_head("conv:8"), (1280,))


LAYERS = """\
- Conv2D: {filters: 4, kernel_size: 3, activation: relu}
- GlobalAveragePooling2D
- Dense: {units: 5}
"""


def test_layers_from_files(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(LAYERS)
    # The last layer gives classes in a head of 5 outputs, and is an own one in a head of 3.
    assert network(str(path), (8, 8, 3), 5).count_params() == 4 * 28 + 5 * 5
    three = network(str(path), (8, 8, 3), 3)
    assert three.count_params() == 4 * 28 + 5 * 5 + 6 * 3
    inner = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Dense(5)]
    keras.Sequential(inner).save(tmp_path / "net.keras")
    saved = network(str(tmp_path / "net.keras"), (8, 8, 3), 5)
    assert [layer.name for layer in saved.layers][-3:] == ["flatten", "logits", "probabilities"]
    same = network(str(path), (8, 8, 3), 3)
    for one, other in zip(three.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "text, message",
    [
        ("- Conv3d: {filters: 4}", "layer 1.*Conv3d.*did you mean"),
        ("- Conv2D: {filter: 4}", "do not fit features of \\(8, 8, 3\\).*sequence of Keras layers"),
        ("- Conv2D: {filters: 4, kernel_size: 9}", "do not fit features"),
        ("Conv2D: 4", "must be a list of Keras layers"),
        ("- [", "is not YAML"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, text, message):
    path = tmp_path / "net.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        network(str(path), (8, 8, 3))
    assert "\n" not in str(caught.value)


def test_an_augmentation_is_fresh_in_training_and_absent_in_inference():
    text = "flip,rotation=0.1,zoom=0.2,translation=0.1,contrast=0.2"
    layers = augmentation(text, seed=3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(layers(pixels, training=False), pixels)
    first, second = (np.asarray(layers(pixels, training=True)) for _ in range(2))
    assert abs(first - second).max() > 1 and 0 <= first.min() and first.max() <= 255
    again = np.asarray(augmentation(text, seed=3)(pixels, training=True))
    np.testing.assert_array_equal(again, first)


def test_augmentations_that_cannot_be_fresh_are_refused():
    conv = (parse_head("conv:8"),)
    check_augment("flip", True, conv)
    check_augment("", False, (parse_head("linear"),))
    with pytest.raises(UsageError, match="this store holds features"):
        check_augment("flip", False, conv)
    with pytest.raises(UsageError, match="linear takes each row as it is stored"):
        check_augment("flip", True, (*conv, parse_head("linear")))
    with pytest.raises(UsageError, match="crop cannot be drawn afresh"):
        check_augment("flip,crop=8", True, conv)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Maps in three classes that differ by their mean."""
    features, labels = clusters(120, 3, channels=8, seed=1)
    maps = np.repeat(np.repeat(features[:, None, None, :], 8, 1), 8, 2)
    maps += np.random.default_rng(2).normal(0, 1, maps.shape).astype(np.float32)
    folder = tmp_path_factory.mktemp("maps")
    return make_store(folder, maps.astype(np.float32), labels, spec=spec_of((8, 8, 8)))


def prepared(store, **settings):
    options = TrainOptions(**{"epochs": 4, "batch_size": 16, "lr": (1e-2,), **settings})
    return options, prepare_data(store, divide(store), options)


def started(trial, feature_shape, n_outputs, standard):
    weights = initial_weights(trial, int(np.prod(feature_shape)), n_outputs)
    return keras_head(trial.head, feature_shape, weights, trial.seed, standard=standard)


def fit(store, folder, epochs=4, **settings):
    options, data = prepared(store, epochs=epochs, **settings)
    trial = next(iter(options.trials().values()))
    if trial.head.is_network:
        build = partial(build_network, trial, is_pixels=False)
    else:
        build = partial(started, trial)
    head = build(feature_shape=data.feature_shape, n_outputs=3, standard=data.standard)
    checkpoint = Checkpoint(Storage(str(folder)), {}, ignore, 0)
    return Network(head, trial, options, data).fit("head", ignore, checkpoint)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
@pytest.mark.parametrize("settings", [{}, {"class_weight": "balanced", "label_smoothing": (0.1,)}])
def test_keras_trains_a_linear_head_as_the_stack_does(store, tmp_path, optimizer, settings):
    settings = {"optimizer": (optimizer,), "lr": (1e-3,), **settings}
    ours = fit(store, tmp_path, **settings)
    options, data = prepared(store, **settings)
    (wave,) = fit_stacked(options.trials(), data, options)
    theirs = next(iter(wave.values()))
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=2e-3, err_msg=name)
    assert ours.best_epoch == theirs.best_epoch


def test_a_convnet_learns_and_keeps_its_best_epoch(store, tmp_path):
    trained = fit(store, tmp_path, heads=(parse_head("conv:8,16:dropout=0.2"),), epochs=6)
    assert trained.best["val_accuracy"] > 0.8 > trained.history["accuracy"][0] / 1.25
    _, data = prepared(store)
    rows = list(data.validation())
    logits = [logits_model(trained.model).predict(part.features, verbose=0) for part in rows]
    logs = np.concatenate([part - np.log(np.exp(part).sum(1, keepdims=True)) for part in logits])
    own = logs[np.arange(len(logs)), np.concatenate([part.labels for part in rows])]
    assert -own.mean() == pytest.approx(min(trained.history["val_loss"]), rel=1e-3, abs=1e-6)


def test_a_resumed_training_ends_as_an_uninterrupted_one(store, tmp_path):
    heads = (parse_head("conv:8:dropout=0.5"),)
    whole = fit(store, tmp_path / "whole", heads=heads)
    fit(store, tmp_path / "parts", epochs=2, heads=heads)
    lines = []
    options, data = prepared(store, heads=heads)
    trial = next(iter(options.trials().values()))
    head = build_network(trial, (8, 8, 8), 3, is_pixels=False, standard=data.standard)
    checkpoint = Checkpoint(Storage(str(tmp_path / "parts")), {}, lines.append, math.inf)
    resumed = Network(head, trial, options, data).fit("head", ignore, checkpoint)
    assert lines == ["resumed from a checkpoint: 2 epochs are done"]
    for name, values in whole.history.items():
        np.testing.assert_allclose(resumed.history[name], values, rtol=1e-4)


def test_train_fits_networks_beside_other_heads(store, tmp_path, capsys):
    arguments = ["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "2"]
    heads = ["--head", "linear", "--head", "conv:4", "--head", "ridge"]
    assert train_command([*arguments, *heads]) == 0
    assert "conv-4: validation accuracy" in capsys.readouterr().out
    assert (tmp_path / "run" / "heads" / "conv-4.keras").exists()
    assert (tmp_path / "run" / "plots" / "conv-4-history.png").exists()
    options = TrainOptions(heads=(parse_head("conv:8,8,8"),))
    with pytest.raises(UsageError, match="8x8 pixels are too few"):
        check_heads(options, store.spec.feature_shape, divide(store))
