"""An exported file computes what its run computes, says so, and needs none of our code."""

import functools
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT, assert_one_line_error
from support.extraction import run as extract
from support.images import write_images
from support.kerasheads import keras_head
from support.optional import optional

from classifier.export import run as export_command
from classifier.exporting import shipping
from classifier.exporting.about import read_about
from classifier.exporting.comparison import Comparison
from classifier.exporting.options import SUFFIXES, ExportOptions, Limits, limits_of
from classifier.exporting.place import require_free, size_of
from classifier.exporting.served import Served
from classifier.exporting.whole import DROP_CASTS, whole_model
from classifier.exporting.writers import Package, write
from classifier.heads.head import Standard
from classifier.heads.options import Trial
from classifier.heads.probabilities import log_probabilities
from classifier.heads.spec import parse_head
from classifier.heads.stacked.stack import initial_weights
from classifier.judgement.judge import load_temperature
from classifier.judgement.prediction import classifier_of
from classifier.pixels.decoder import decode
from classifier.predict import run as predict_command
from classifier.runs.run import load_run
from classifier.runtime import import_keras
from classifier.train import run as train_command
from classifier.verify import run as verify_command
from featurestore.errors import RunFailed, UsageError
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}
EXAMPLES = {**PACKAGES, "tflite": ("ai_edge_litert",)}
STRANGER = """
import sys
import numpy as np
pixels, names = np.load("pixels.npy"), sys.argv[1:]
{}
assert not {{"classifier", "featurestore", "pipelines"}} & {{*sys.modules}}
np.save("found.npy", found)
"""


def small_base(folder: Path) -> Path:
    """A convolution with random weights, as a file."""
    keras = import_keras()
    inputs = keras.Input((24, 24, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.Conv2D(16, 3, activation="relu")(x)
    keras.utils.set_random_seed(0)
    model = keras.Model(inputs, x)
    model.set_weights([np.random.default_rng(0).normal(0, 0.3, w.shape) for w in model.weights])
    model.save(folder / "small.keras")
    return folder / "small.keras"


def trained_on(folder: Path, base: Path, name: str, *flags: str):
    """A run on 60 images."""
    if not (folder / "photos").exists():
        write_images(folder / "photos", 60)
    size = ("--image_size", "24", "--preprocess", "unit", "--precision", "float32")
    store = folder / f"store-{name}"
    extract("--input", folder / "photos", "--output", store, "--model", base, *size, *flags)
    arguments = ["--store", str(store), "--output", str(folder / name), "--epochs", "3"]
    train_command([*arguments, "--lr", "0.01"])
    return load_run(str(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def run(folder):
    return trained_on(folder, small_base(folder), "run", "--pooling", "avg")


@pytest.fixture(scope="module")
def pixels(folder, run):
    images = sorted((folder / "photos").rglob("*.jpeg"))
    return np.stack([decode(image.read_bytes(), run.spec.pixels).pixels for image in images[:9]])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Exports the run in a format, once: (path, report, what it said on the way)."""

    @functools.cache
    def once(format: str):
        for package in PACKAGES.get(format, ()):
            optional(package)
        path = target(tmp_path_factory.mktemp(format), format)
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            assert export(run, format, path, "--json") == 0
        return path, json.loads(out.getvalue()), err.getvalue()

    return once


def target(folder: Path, format: str, name: str = "digits") -> Path:
    return folder / f"{name}{SUFFIXES[format]}"


def export(run, format: str, output: Path, *flags: str) -> int:
    arguments = ["--run", run.url, "--format", format, "--output", str(output), "--rows", "12"]
    return export_command([*arguments, *flags])


def stranger(example: str, pixels: np.ndarray, names: list[Path], folder: Path) -> np.ndarray:
    """Runs an example of docs/export.md in a process that has only its framework."""
    text = (ROOT / "docs/export.md").read_text()
    code = re.search(rf"<!-- example: {example} -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    np.save(folder / "pixels.npy", pixels)
    command = [sys.executable, "-I", "-c", STRANGER.format(code), *map(str, names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "found.npy")


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_gives_the_probabilities_of_its_run(run, exported, format):
    path, record, said = exported(format)
    assert said.splitlines()[0] == f"writing {format} float32"
    assert record["images"] == 8 + 12 and record["top_1_agreement"] == 1
    assert record["largest_difference"] < 1e-5 and not record["beyond_limits"]
    assert record["bytes"] == sum(size_of(found) for found in path.parent.iterdir())
    assert set(record["latency_seconds"]) == {"1", "32"}
    about = read_about(path)
    assert record["fingerprint"] == about["fingerprint"]
    assert about["classes"] == ["cat", "dog"] and about["head_id"] == run.head_id()
    assert about["spec"]["identity_hash"] == run.spec.identity_hash
    names = {found.name for found in path.parent.iterdir()}
    assert names == {path.name} | ({"digits.bin"} if format == "openvino" else set())


@pytest.mark.parametrize("format", ["keras", "tflite"])
def test_the_texts_are_entries_of_a_zip(exported, format):
    with zipfile.ZipFile(exported(format)[0]) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"
        assert archive.read("card.md").decode().startswith("# Model card: linear")


@pytest.mark.slow
@pytest.mark.parametrize("example", [*SUFFIXES, "savedmodel bytes"])
def test_the_examples_of_the_page_give_the_same(run, folder, pixels, exported, example):
    for package in EXAMPLES.get(example, ()):
        optional(package)
    path, _, _ = exported(example.split()[0])
    truth = classifier_of(run, run.head_id(), print)(pixels)
    names = sorted((folder / "photos").rglob("*.jpeg"))[: len(pixels)]
    found = stranger(example, pixels, names, path.parent)
    assert found.dtype == np.float32 and found.shape == truth.shape == (9, 2)
    np.testing.assert_allclose(found, truth, atol=1e-5)


@pytest.mark.parametrize(
    "precision",
    ["int8", *(pytest.param(p, marks=pytest.mark.slow) for p in ("float16", "dynamic"))],
)
def test_smaller_tflite_files_are_compared_too(run, tmp_path, precision, monkeypatch, capsys):
    # Random weights may lose more than a trained base: here only the way counts.
    monkeypatch.setattr(shipping, "limits_of", lambda *_: Limits(0.0, 1.0))
    path = tmp_path / "model.tflite"
    assert export(run, "tflite", path, "--precision", precision, "--json") == 0
    assert json.loads(capsys.readouterr().out)["largest_difference"] < 0.2
    assert read_about(path)["export"] == {"format": "tflite", "precision": precision}


def test_image_files_give_the_same_probabilities(run, folder, exported):
    import tensorflow as tf

    images = sorted((folder / "photos").rglob("*.jpeg"))[:7]
    data = [image.read_bytes() for image in images]
    pixels = np.stack([decode(each, run.spec.pixels).pixels for each in data])
    signatures = tf.saved_model.load(str(exported("savedmodel")[0])).signatures
    given = signatures["serving_bytes"](image_bytes=tf.constant(data))["probabilities"]
    expected = signatures["serving_default"](pixels=tf.constant(pixels))["probabilities"]
    np.testing.assert_allclose(given.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.slow
def test_image_files_are_not_taken_where_pixels_would_differ(folder, run, tmp_path, capsys):
    import tensorflow as tf

    other = trained_on(folder, folder / "small.keras", "area", "--resize", "area")
    assert export(other, "savedmodel", tmp_path / "model") == 0
    assert "--resize area is OpenCV's own" in capsys.readouterr().err
    assert list(tf.saved_model.load(str(tmp_path / "model")).signatures) == ["serving_default"]


@pytest.fixture(scope="module")
def maps(folder, run, tmp_path_factory):
    """A run on maps of a base that is a SavedModel."""
    base = tmp_path_factory.mktemp("base") / "base"
    import_keras().models.load_model(folder / "small.keras").export(base, verbose=False)
    return trained_on(folder, base, "maps")


@pytest.mark.parametrize(
    "format",
    ["tflite", *(pytest.param(f, marks=pytest.mark.slow) for f in ("savedmodel", *PACKAGES))],
)
def test_maps_a_temperature_and_a_savedmodel_base(maps, pixels, tmp_path, format):
    for package in PACKAGES.get(format, ()):
        optional(package)
    assert maps.spec.dtype == "float16" and maps.spec.is_map
    path = target(tmp_path, format)
    assert export(maps, format, path, "--calibrated") == 0
    temperature = load_temperature(maps, maps.head_id())["temperature"]
    assert read_about(path)["temperature"] == temperature != 1
    truth = classifier_of(maps, maps.head_id(), print, False, temperature)(pixels)
    with Served(format, path) as served:
        np.testing.assert_allclose(served(pixels), truth, atol=1e-3)


def test_keras_cannot_hold_a_savedmodel_base(maps, tmp_path):
    with pytest.raises(UsageError, match="is a SavedModel, which Keras cannot save"):
        export(maps, "keras", tmp_path / "model.keras")


def test_a_file_beyond_its_limits_is_refused_and_kept(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shipping, "limits_of", lambda *_: Limits(1.0, -1.0))
    assert export(run, "keras", tmp_path / "model.keras") == 1
    found = capsys.readouterr()
    assert [path.name for path in tmp_path.iterdir()] == ["model.refused.keras"]
    assert "refused: a probability differs by" in found.err
    assert "model.refused.keras: keras float32" in found.out


def test_a_place_that_is_taken(run, exported, tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export(run, "keras", path)
    with pytest.raises(UsageError, match="is not an export of Hoarfrost"):
        export(run, "keras", path, "--overwrite")
    assert path.read_text() == "mine"
    shutil.copy(exported("keras")[0], path)
    assert export(run, "keras", path, "--overwrite", "--json") == 0


def test_verify_compares_any_images(run, folder, exported, tmp_path, capsys):
    path, _, _ = exported("keras")
    photos = tmp_path / "new"
    write_images(photos, 5, "PNG", seed=3)
    (photos / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    capsys.readouterr()
    arguments = ["--run", run.url, "--model", str(path), "--input", str(photos)]
    assert verify_command(arguments) == 0
    found = capsys.readouterr()
    assert "compared on 5 images" in found.out and found.out.count("differs by") == 5
    assert "broken.png: bad image" in found.err
    assert verify_command([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["worst"]) == 5
    retrained = ["--store", str(folder / "store-run"), "--output", str(tmp_path / "run2")]
    train_command([*retrained, "--epochs", "1", "--seed", "4"])
    with pytest.raises(UsageError, match="exported from other features, classes or weights"):
        verify_command(["--run", str(tmp_path / "run2"), *arguments[2:]])
    for given in (arguments[:4], [], [*arguments, "--store", str(folder / "store-run")]):
        with pytest.raises(UsageError, match="give --store to extract its rows again, or"):
            verify_command(given)
    with pytest.raises(UsageError, match="does not say which run it came from"):
        verify_command([*arguments[:3], str(folder / "small.keras"), *arguments[4:]])


SLOW_FORMATS = [format for format in SUFFIXES if format not in ("keras", "tflite")]


@pytest.mark.parametrize(
    "format",
    ["keras", "tflite", *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW_FORMATS)],
)
def test_predict_takes_an_exported_file_instead_of_its_run(run, folder, exported, format, capsys):
    path, _, _ = exported(format)
    photos = str(folder / "photos")
    capsys.readouterr()
    assert predict_command(["--run", run.url, photos, "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert predict_command(["--model", str(path), photos, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("model") == str(path)
    assert found["head_id"] == ours["head_id"] and found["judged"] == ours["judged"]
    for one, other in zip(found["predictions"], ours["predictions"], strict=True):
        assert (one["image"], one["labels"]) == (other["image"], other["labels"])
        first, second = (each["top"][0] for each in (one, other))
        assert first["probability"] == pytest.approx(second["probability"], abs=1e-4)
    assert len(found["predictions"]) == 60
    assert predict_command(["--model", str(path), photos]) == 0
    assert f"60 images classified by {path.name} ({run.head_id()})" in capsys.readouterr().out


def test_predict_refuses_what_is_not_an_export(run, folder, exported, tmp_path):
    path, photos = str(exported("keras")[0]), str(folder / "photos")
    (tmp_path / "notes.txt").write_text("mine")
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as archive:
        archive.writestr("hoarfrost.json", '{"format": "hoarfrost-export"}')
    for given, words in (
        (["--model", str(folder / "small.keras")], "does not say which run it came from"),
        (["--model", str(tmp_path / "notes.txt")], "does not say which run it came from"),
        (["--model", str(tmp_path)], "does not say which run it came from"),
        (["--model", str(tmp_path / "none.onnx")], "there is no file or folder"),
        (["--model", str(tmp_path / "torn.keras")], "damaged record of its run"),
        (["--model", path, "--head_id", "linear"], "--head_id is for --run"),
        (["--model", path, "--calibrated"], "--calibrated is for --run"),
        (["--model", path, "--run", run.url], "got both"),
        ([], "got neither"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            predict_command([*given, photos])
        assert "\n" not in str(caught.value)


def test_images_of_an_input_check_a_file_instead_of_the_store(run, tmp_path, capsys):
    write_images(tmp_path / "photos", 9, seed=5)
    given = ("--input", str(tmp_path / "photos"), "--rows", "4", "--json")
    assert export(run, "keras", tmp_path / "model.keras", *given) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 8 + 4


def test_a_damaged_file_is_named(run, exported, tmp_path):
    path = tmp_path / "damaged.tflite"
    data = bytearray(exported("tflite")[0].read_bytes())
    data[:200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(RunFailed, match="does not run in a process of its own"):
        verify_command(["--run", run.url, "--model", str(path), "--input", run.config.store_url])


def test_weights_of_others_are_left_alone(tmp_path):
    (tmp_path / "model.bin").write_text("mine")
    with pytest.raises(UsageError, match="where the weights go, exists already"):
        require_free(tmp_path / "model.xml", True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("cereal", "m.keras"), "unknown value 'cereal'"),
        (("keras", "m.keras", "int8"), "--precision int8 is for --format tflite"),
        (("tflite", "m.tflite", "int4"), "unknown value 'int4'"),
        (("keras", "m.tflite"), "has .keras, got 'm.tflite'"),
        (("savedmodel", "m.keras"), "it is a folder"),
        (("keras", "s3://bucket/m.keras"), "must be a local path"),
        (("keras", "m.keras", "float32", -1), "--rows must be at least 0"),
    ],
)
def test_mistakes_are_named(arguments, words):
    format, output, *rest = arguments
    with pytest.raises(UsageError, match=words):
        ExportOptions(format, Path(output), *rest)


def test_the_command_says_mistakes_in_one_line(command):
    arguments = ("classifier.export", "--run", "none", "--format", "keras", "--output", "m.keras")
    assert_one_line_error(command(*arguments), 2, "no finished training run")


@pytest.mark.parametrize("format, package", [("openvino", "openvino"), ("onnx", "tf2onnx")])
def test_a_missing_package_is_named(run, tmp_path, monkeypatch, format, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
    with pytest.raises(UsageError, match=rf"needs .*{package}.*hoarfrost\[{format}\]"):
        export(run, format, target(tmp_path, format))


def spec_of(shape, dtype, mode, precision="float32"):
    base = BaseSpec("Tiny", "none", "0" * 32, "top", "none", mode)
    numerics = Numerics("tensorflow", precision, "test")
    return StoreSpec(base, PixelSpec((6, 6)), shape, dtype, numerics)


@pytest.mark.parametrize("outputs, multi_label", [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("mode", ["none", "unit", "tf", "caffe", "torch"])
def test_the_whole_model_keeps_every_step(tmp_path, mode, outputs, multi_label):
    keras = import_keras()
    inputs = keras.Input((6, 6, 3))
    base = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    weights = initial_weights(Trial(parse_head("linear"), 0.1), 64, outputs)
    head = keras_head(parse_head("linear"), (4, 4, 4), weights, multi_label=multi_label)
    whole = whole_model(base, head, spec_of((4, 4, 4), "float16", mode), multi_label, 1.7)
    whole.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    floats = pixels.astype(np.float32)
    if mode == "unit":
        floats /= 255
    elif mode != "none":
        floats = keras.applications.imagenet_utils.preprocess_input(floats, mode=mode)
    features = base.predict(floats, verbose=0).astype(np.float16).astype(np.float32)
    kernel, bias = head.get_layer("logits").get_weights()
    logits = (features.reshape(5, -1) @ kernel + bias) / 1.7
    if multi_label:
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(log_probabilities(logits))
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), expected, atol=2e-4)


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_rounding_of_stored_features_survives_conversion(tmp_path, format):
    for package in PACKAGES.get(format, ()):
        optional(package)
    keras = import_keras()
    inputs = keras.Input((6, 6, 3))
    base = keras.Model(inputs, keras.layers.Rescaling(0.1)(inputs))
    rng = np.random.default_rng(0)
    # A subtraction follows the rounding, as in every trained head.
    standard = Standard(np.array([5.0123, 12.0321, 15.0777], np.float32), np.ones(3, np.float32))
    weights = rng.normal(size=(108, 3)).astype(np.float32), np.zeros(3)
    head = keras_head(parse_head("linear"), (6, 6, 3), weights, standard=standard)
    spec = spec_of((6, 6, 3), "float16", "none")
    # A high temperature keeps probabilities away from 0 and 1.
    whole = whole_model(base, head, spec, False, 100.0, format not in DROP_CASTS)
    path = target(tmp_path, format)
    package = Package(whole, spec.pixels, {}, np.empty(0, np.uint8))
    write(package, path, ExportOptions(format, path))
    pixels = rng.integers(0, 256, (9, 6, 6, 3), np.uint8)
    features = pixels.astype(np.float32) * np.float32(0.1)
    exact, truth = (
        np.exp(log_probabilities((x - standard.mean).reshape(9, -1) @ weights[0] / 100))
        for x in (features.astype(np.float64), features.astype(np.float16).astype(np.float64))
    )
    with Served(format, path) as served:
        error = np.abs(served(pixels) - truth).max()
    assert error < 1e-6 < 2e-5 < np.abs(exact - truth).max()


def test_limits_follow_the_precisions():
    store = spec_of((4,), "float32", "tf")
    assert limits_of("float32", store) == Limits(1.0, 1e-4)
    assert limits_of("float16", store).top_1 == 0.995 and limits_of("int8", store).top_1 == 0.99
    assert limits_of("float32", spec_of((4,), "float16", "tf", "bfloat16")).top_1 == 0.995


def test_a_comparison_counts_ties_nan_and_other_classes():
    found = Comparison(Limits(1.0, 1e-3), ("a", "b", "c"))
    truth = np.array([[0.5, 0.5 - 1e-6, 0], [0.9, 0.1, 0], [0.2, 0.3, 0.5]])
    ours = np.array([[0.4999, 0.5001, 0], [0.9, 0.1, 0], [0.2, 0.3, 0.5]])
    found.update(["tie", "same", "same too"], ours, truth)
    assert found.top_1 == 1 and not found.excess and found.worst
    found.update(["other"], np.array([[0.1, 0.9, 0]]), truth[1:2])
    assert found.top_1 == 0.75 and "agrees on 75.00% of 4 images" in found.excess
    assert max(found.worst) == (0.8, "other", "a", "b")
    found.update(["nan"], np.array([[np.nan, 0.9, 0]]), truth[1:2])
    assert found.largest_difference == np.inf
    with pytest.raises(RunFailed, match="belongs to another run"):
        found.update(["short"], np.zeros((1, 2)), truth[:1])
