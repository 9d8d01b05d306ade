"""Heads on the images themselves: trained, judged, used and shipped like heads on features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.extraction import run as extract
from support.features import make_store, spec_of
from support.training import train_into

from classifier.evaluate import run as evaluate_command
from classifier.exporting.options import ExportOptions, limits_of
from classifier.exporting.shipping import ship
from classifier.features.division import divide
from classifier.heads.data import BLOCK_BYTES, prepare_data
from classifier.heads.options import TrainOptions
from classifier.judgement.prediction import classifier_of
from classifier.reporting.card import card_of
from classifier.reporting.material import gather
from classifier.verify import run as verify_command
from featurestore import open_store
from pipelines.planning.digits import write_digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits")
    place = ("--input", folder / "digits", "--output", folder / "s", "--limit_per_class", 25)
    extract(*place, "--model", "pixels", "--image_size", 10, "--channels", 1)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    heads = [f"--head={head}" for head in ("linear", "mlp:32", "ridge", "knn:5")]
    return train_into(folder / "run", open_store(str(folder / "s")), *heads, "--epochs", "12")


def test_every_kind_of_head_learns_from_pixels(trained):
    accuracy = {row["head"].split(":")[0]: row["val_accuracy"] for row in trained.leaderboard()}
    assert accuracy.keys() == {"linear", "mlp", "ridge", "knn"}
    assert min(accuracy.values()) > 0.8, accuracy


def test_a_run_on_pixels_needs_no_model_of_a_base(trained):
    assert {file.name for file in trained.storage.list("model")} == {"probes.parquet"}
    card = card_of(gather(trained))
    assert "on the images themselves, without a base" in card and "uint8 (n, 10, 10, 3)" in card


def test_prediction_equals_the_head_on_stored_pixels(trained, folder):
    store = open_store(str(folder / "s"))
    loaded = store.load(["uri", "features"], splits=["test"])
    rgb = np.repeat(loaded["features"], 3, axis=3)
    head = trained.load_head("mlp-32-relu")
    classify = classifier_of(trained, "mlp-32-relu", print)
    expected = np.asarray(head(loaded["features"].astype(np.float32)))
    np.testing.assert_allclose(classify(rgb), expected, atol=1e-6)


def test_evaluate_and_verify_take_pixels(trained, folder, capsys):
    store = str(folder / "s")
    assert evaluate_command(["--run", trained.url, "--store", store, "--split", "test"]) == 0
    assert "on test: accuracy" in capsys.readouterr().out
    assert verify_command(["--store", store, "--rows", "20"]) == 0
    said = capsys.readouterr().out
    assert "the largest difference is 0 " in said and "tolerance 0" in said


@pytest.mark.parametrize("format", ["keras", "tflite"])
def test_an_exported_file_makes_pixels_grey_itself(trained, tmp_path, format):
    options = ExportOptions(format, tmp_path / f"m.{format}", rows=20)
    assert limits_of("float32", trained.spec).top_1 == 1.0
    shipped = ship(trained, "mlp-32-relu", 1.0, options, lambda line: None)
    assert not shipped.comparison.excess and shipped.comparison.images > 20


@pytest.mark.parametrize("memory", [1 << 30, 1 << 20])
def test_pixels_become_floats_a_few_images_at_a_time(tmp_path, memory):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 200, 200, 3), np.uint8)
    spec = dataclasses.replace(spec_of(pixels.shape[1:]), dtype="uint8")
    labels = [("a", "b")[number % 2] for number in range(len(pixels))]
    store = make_store(tmp_path / "s", pixels, labels, spec=spec)
    data = prepare_data(store, divide(store), TrainOptions(memory=memory))
    assert data.in_memory == (memory == 1 << 30)
    blocks = [block.features for side in ("train", "validation") for block in data.rows(side)]
    assert {block.dtype for block in blocks} == {np.dtype(np.uint8)}
    assert sum(map(len, blocks)) == 120
    assert max(4 * block.nbytes for block in blocks) <= BLOCK_BYTES
    assert data.standard is not None
    train = np.concatenate([block.features for block in data.rows("train")]).reshape(-1, 3)
    np.testing.assert_allclose(data.standard.mean, train.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(data.standard.deviation, train.std(axis=0), rtol=1e-4)
