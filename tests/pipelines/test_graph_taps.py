"""Several layers of an ONNX graph in one pass: each is the column that it would be alone."""

import json

import numpy as np
import pytest
from support.commands import assert_one_line_error
from support.extraction import run
from support.graphs import SIDE, Maker, convolutional, transformer
from support.images import write_images
from support.optional import optional

from classifier.engines import StoredBase, run_padded, serving_engine
from classifier.engines.probes import synthetic_images
from classifier.runs.run import load_run
from featurestore.errors import SpecMismatch, UsageError

optional("openvino")
onnx = optional("onnx")
FLAGS = ("--image_size", SIDE, "--preprocess", "half", "--precision", "float32")
# A layer with poolings of its own, a map, and layers whose names begin alike.
TAPS = ("block0", "block0.attended:mean", "block0:cls", "block1:mean-patch", "patch", "patch:gem")
SHAPES = {"block0": (17, 16), "patch": (4, 4, 16)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphtaps")
    write_images(folder / "photos", 24)
    transformer(folder / "vit.onnx")
    return folder


def extract(folder, store, *layers, more=FLAGS, model="vit.onnx"):
    flags = ["--input", folder / "photos", "--output", store, "--model", folder / model, *more]
    for layer in layers:
        flags += ["--layer", layer]
    return run(*flags).store


@pytest.fixture(scope="module")
def several(folder):
    return extract(folder, folder / "several", *reversed(TAPS))


def rows_of(store, **chosen):
    loaded = store.load(["key", "features"], **chosen)
    return dict(zip(loaded["key"], loaded["features"], strict=True))


@pytest.mark.parametrize("tap", TAPS)
def test_the_rows_of_a_tap_are_those_of_an_extraction_of_its_own(folder, several, tap):
    alone = extract(folder, folder / f"alone-{TAPS.index(tap)}", tap)
    one = several.tap(tap)
    assert one.spec.identity == alone.spec.identity
    assert one.spec.feature_shape == SHAPES.get(tap, (16,))
    ours, theirs = rows_of(one), rows_of(alone)
    assert ours.keys() == theirs.keys() and len(ours) == 24
    for name, features in theirs.items():
        assert ours[name].dtype == features.dtype and (ours[name] == features).all()


def test_the_file_of_the_base_is_there_once(several):
    taps = several.spec.base.taps
    assert {tap.name for tap in taps} == set(TAPS)
    assert {tap.weights_hash for tap in taps} == {several.spec.base.weights_hash}
    assert len([name for name in several.storage.names("model") if name.endswith(".keras")]) == 1


@pytest.mark.slow
def test_a_run_of_taps_verifies_predicts_and_exports(folder, several, command):
    tap = "patch+block0:cls"
    flags = ("--store", several.url, "--output", "r", "--tap", tap, "--epochs", "2")
    trained = command("classifier.train", *flags)
    assert trained.code == 0, trained.err
    verified = command("classifier.verify", "--store", several.url, "--rows", "8", "--tap", tap,
                       "--json")  # fmt: skip
    assert verified.code == 0 and json.loads(verified.out)["compared"] == 8, verified
    images = sorted((folder / "photos").rglob("*.jpeg"))[:2]
    predicted = command("classifier.predict", "--run", "r", *images, "--json")
    assert predicted.code == 0 and len(json.loads(predicted.out)["predictions"]) == 2, predicted
    flags = ("--format", "openvino", "--output", "r.xml", "--rows", "8", "--json")
    exported = command("classifier.export", "--run", "r", *flags)
    assert exported.code == 0 and json.loads(exported.out)["top_1_agreement"] == 1.0, exported


def test_int8_quantises_all_taps_at_once(folder, tmp_path):
    optional("nncf")
    more = (*FLAGS[:-1], "int8", "--allow_inexact")
    store = extract(folder, tmp_path / "int8", "stem.relu:avg", "top", model=model_of(folder),
                    more=more)  # fmt: skip
    assert store.spec.numerics.precision == "int8"
    images = synthetic_images(4, (SIDE, SIDE))
    whole = run_padded(serving_engine(StoredBase(store.storage, store.spec), 4), images)
    one = store.tap("top")
    alone = run_padded(serving_engine(StoredBase(one.storage, one.spec), 4), images)
    assert alone.shape == (4, 8, 8, 8)
    np.testing.assert_allclose(whole[:, 8:], alone.reshape(4, -1), rtol=1e-5)


def model_of(folder):
    return convolutional(folder / "conv.onnx").name


def test_names_with_slashes_and_colons(folder, tmp_path):
    """As torch.onnx.export and tf2onnx give them; only a pooling ends the name of a layer."""
    make = Maker()
    make.node("Conv", ["image", make.weight("w", 8, 3, 4, 4)], "/stem.0/Conv_output_0",
              strides=[4, 4])  # fmt: skip
    make.node("Relu", ["/stem.0/Conv_output_0"], "net/relu:0")
    axes = {"image": ["n", 3, "h", "w"]}
    make.save(folder / "names.onnx", axes, {"net/relu:0": ["n", 8, "a", "b"]})
    taps = ("/stem.0/Conv_output_0", "/stem.0/Conv_output_0:avg", "net/relu:0", "net/relu:0:max")
    store = extract(folder, tmp_path / "s", *taps, model="names.onnx")
    assert {tap.name for tap in store.spec.base.taps} == set(taps)
    maps = rows_of(store, tap="net/relu:0")
    for name, features in rows_of(store, tap="net/relu:0:max").items():
        np.testing.assert_allclose(features, maps[name].reshape(-1, 8).max(0), rtol=2e-3)
    train = ["--store", store.url, "--output", str(tmp_path / "r"), "--head", "ridge"]
    from classifier.train import run as train_command

    for tap in (taps[1], taps[3]):
        train += ["--tap", tap]
    assert train_command(train) == 0
    assert load_run(str(tmp_path / "r")).spec.base.tap in taps


def test_layers_that_are_other_numbers_together_are_refused(folder, tmp_path, monkeypatch):
    """As OpenVINO 2026.4 gives them without operations that keep their memories apart."""
    monkeypatch.setattr("classifier.graphs.network._copied", lambda ops, x: x)
    with pytest.raises(UsageError, match="--layer tokens: openvino float32 computes it .* away"):
        extract(folder, tmp_path / "s", "patch", "tokens")
    assert not (tmp_path / "s").exists()


def test_what_is_refused_in_one_line(folder, several, tmp_path, command):
    flags = ("--input", folder / "photos", "--output", "s", "--model", folder / "vit.onnx", *FLAGS)
    wrong = command("pipelines.extract", *flags, "--layer", "block0", "--layer", "blok1:mean")
    assert_one_line_error(wrong, 2, "no tensor 'blok1'; did you mean")
    with pytest.raises(UsageError, match="last_hidden_state: is given twice, once by another"):
        extract(folder, tmp_path / "x", "output", "last_hidden_state")
    with pytest.raises(UsageError, match="--pooling cls is for token sequences"):
        extract(folder, tmp_path / "x", "block0", "patch:cls")
    transformer(folder / "both.onnx", mask=True)
    with pytest.raises(UsageError, match="masked.* needs the input 'mask' beside the image"):
        extract(folder, tmp_path / "x", "block0", "masked", model="both.onnx")
    with pytest.raises(SpecMismatch, match="all rows of a store have the same taps"):
        extract(folder, folder / "several", "block0", "block1")
    assert not (tmp_path / "x").exists()
