"""A base that takes one channel is given grey pixels, made in its graph."""

from pathlib import Path

import numpy as np
import pytest
from support.extraction import distance, rows_of, run
from support.images import write_images
from support.optional import optional

from classifier.exporting.options import ExportOptions
from classifier.exporting.shipping import ship
from classifier.pixels.decoder import decode
from classifier.pixels.grey import to_grey
from classifier.runs.run import load_run
from classifier.train import run as train_command
from featurestore.errors import UsageError
from pipelines import extract as extract_command
from pipelines.deriver import derive

keras = optional("keras")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grey")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3, activation="relu")]
    keras.Sequential([*layers, keras.layers.Conv2D(8, 3, name="last")]).save(folder / "g.keras")
    write_images(folder / "photos", 40)
    return folder


def flags(folder: Path, engine: str, *more: object) -> tuple:
    base = ("--model", folder / "g.keras", "--preprocess", "unit", "--engine", engine)
    return ("--output", folder / f"s-{engine}", *base, "--precision", "float32", *more)


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_features_are_those_of_grey_pixels(folder, engine):
    if engine == "openvino":
        optional("openvino")
    store = run("--input", folder / "photos", *flags(folder, engine)).store
    base = keras.models.load_model(folder / "g.keras")
    for key, row in rows_of(store).items():
        rgb = decode((folder / "photos" / key).read_bytes(), store.spec.pixels).pixels
        expected = np.asarray(base(to_grey(rgb[None]).astype(np.float32) / 255))[0]
        assert distance(row, expected) < 1e-3


def test_a_store_of_grey_pixels_gives_the_same_features_exactly(folder, tmp_path):
    pixels = ("--model", "pixels", "--image_size", "28", "--channels", "1")
    source = run("--input", folder / "photos", "--output", tmp_path / "p", *pixels).store
    direct = run("--input", folder / "photos", *flags(folder, "tensorflow")).store
    arguments = ("--input_store", source.url, *flags(folder, "tensorflow"))
    arguments = [*arguments, "--output", tmp_path / "d"]
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    derived = rows_of(derive(options, lambda line: None).store)
    for key, row in rows_of(direct).items():
        np.testing.assert_array_equal(derived[key], row)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["keras", "tflite"])
def test_an_exported_file_takes_colours(folder, tmp_path, format):
    store = run("--input", folder / "photos", *flags(folder, "tensorflow")).store
    train_command(["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "2"])
    trained = load_run(str(tmp_path / "run"))
    options = ExportOptions(format, tmp_path / f"m.{format}", rows=20)
    assert not ship(trained, trained.head_id(), 1.0, options, lambda line: None).comparison.excess


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_a_preprocessing_of_colours_is_refused(folder, tmp_path, mode):
    with pytest.raises(UsageError, match=f"--preprocess {mode} is for colours.*one channel"):
        run("--input", folder / "photos", *flags(folder, "tensorflow"), "--preprocess", mode,
            "--output", tmp_path / "s")  # fmt: skip
