"""Backbones of KerasHub as bases of whole runs: extract, verify, train, predict, export."""

import json
import shutil

import numpy as np
import pytest
from support.extraction import distance, rows_of, run
from support.images import write_images
from support.presets import OFFSET, SCALE, SIDE, WIDTH, keras_hub, save, vit

from classifier import adopt
from classifier.pixels import decode
from featurestore.errors import SpecMismatch, UsageError
from pipelines.deriver import derive
from pipelines.extract import parse_options
from pipelines.ranking.entrants import entrants_of

hub = keras_hub()
FLOAT = ("--precision", "float32")
CONVERTER = {
    "image_size": (SIDE, SIDE),
    "scale": SCALE,
    "offset": OFFSET,
    "interpolation": "bicubic",
    "antialias": True,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 24)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save(tmp_path_factory.mktemp("presets") / "tiny", vit(), **CONVERTER)


def pooled(tokens, pooling):
    if pooling == "none":
        return tokens
    return tokens[:, 0] if pooling == "cls" else tokens.mean(axis=1)


@pytest.mark.parametrize("pooling", ["none", "cls", "mean"])
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_rows_are_those_of_the_backbone_on_the_same_pixels(photos, tiny, tmp_path, pooling, engine):
    flags = ("--input", photos, "--output", tmp_path / "s", "--pooling", pooling, *FLOAT)
    flags += ("--engine", engine, "--dtype", "float32")
    store = run(*flags, "--model", f"kerashub:{tiny}").store
    pixels = store.spec.pixels
    assert (pixels.fit, pixels.resize) == ("crop", "pillow-bicubic")
    assert store.spec.feature_shape == ((17, WIDTH) if pooling == "none" else (WIDTH,))
    rows, backbone = rows_of(store), hub.models.Backbone.from_preset(str(tiny))
    assert len(rows) == 24
    keys = sorted(rows)
    images = np.stack([decode((photos / key).read_bytes(), pixels).pixels for key in keys])
    tokens = backbone.predict(images.astype(np.float32) * SCALE + OFFSET, verbose=0)
    for key, wanted in zip(keys, pooled(tokens, pooling), strict=True):
        assert distance(rows[key], wanted) < 1e-4, key


def test_a_store_outlives_its_preset_and_notices_another(photos, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    flags = ("--output", tmp_path / "s", "--model", f"kerashub:{folder}", "--pooling", "cls")
    run("--input", photos / "cat", *flags, *FLOAT)
    shutil.move(folder, tmp_path / "moved")
    flags = (*flags[:2], "--model", f"kerashub:{tmp_path / 'moved'}", *flags[4:], *FLOAT)
    assert len(rows_of(run("--input", photos, *flags).store)) == 24
    save(tmp_path / "moved", vit(seed=1), **CONVERTER)
    with pytest.raises(SpecMismatch, match="weights: kerashub:tiny preset .* kerashub:moved"):
        run("--input", photos, *flags)


@pytest.mark.slow
def test_from_a_preset_to_a_prediction_and_an_export(command, photos, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    flags = ("--input", photos, "--output", "s", "--model", "kerashub:tiny", "--pooling", "cls")
    first = command("pipelines.extract", *flags, *FLOAT)
    said = "--image_size 32x32 --fit crop --resize pillow-bicubic: by the image converter of"
    assert first.code == 0 and said in first.err + first.out, first
    again = command("pipelines.extract", *flags, *FLOAT)
    assert again.code == 0 and "nothing" in again.out + again.err, again
    shutil.rmtree(folder)
    verified = command("classifier.verify", "--store", "s", "--rows", "8", "--json")
    assert verified.code == 0 and json.loads(verified.out)["compared"] == 8, verified
    trained = command("classifier.train", "--store", "s", "--output", "r", "--head", "ridge")
    assert trained.code == 0, trained.err
    images = sorted(photos.rglob("*.jpeg"))[:2]
    predicted = command("classifier.predict", "--run", "r", *images, "--json")
    assert predicted.code == 0 and len(json.loads(predicted.out)["predictions"]) == 2, predicted
    flags = ("--format", "onnx", "--output", "x.onnx", "--input", photos, "--rows", "8")
    exported = command("classifier.export", "--run", "r", *flags, "--json")
    assert exported.code == 0 and json.loads(exported.out)["top_1_agreement"] == 1.0, exported
    refused = command("classifier.export", "--run", "r", "--format", "keras", "--output", "x.keras")
    assert refused.code == 2 and "KerasHub, which Keras cannot save" in refused.err, refused
    flags = ("--run", "r", "--store", "s", "--output", "r2", "--unfreeze", "1")
    tuned = command("classifier.finetune", *flags)
    assert tuned.code == 2 and "kerashub:tiny is a backbone of KerasHub" in tuned.err, tuned


def test_stored_tokens_are_pooled_later_and_not_continued(photos, tiny, tmp_path):
    model = ("--model", f"kerashub:{tiny}", *FLOAT, "--dtype", "float32")
    first = ("--layer", "vit_patching_and_embedding")
    run("--input", photos, "--output", tmp_path / "first", *first, *model)
    tokens = run("--input", photos, "--output", tmp_path / "tokens", *model).store

    def pooled_from(source):
        flags = ("--input_store", tmp_path / source, "--output", tmp_path / "cls", *model)
        flags += ("--pooling", "cls", "--engine", "tensorflow")
        return derive(parse_options([str(flag) for flag in flags])[0], lambda line: None).store

    with pytest.raises(UsageError, match="--input_store: the base is a backbone of KerasHub"):
        pooled_from("first")
    rows, tokens = rows_of(pooled_from("tokens")), rows_of(tokens)
    assert len(rows) == 24
    for key, row in rows.items():
        assert distance(row, tokens[key][0]) < 1e-6, key


def test_a_preset_is_no_whole_classifier(tiny, tmp_path):
    model = f"kerashub:{tiny}"
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    flags = ["--labels", str(tmp_path / "names.txt"), "--output", str(tmp_path / "r")]
    with pytest.raises(UsageError, match="is a backbone without classes"):
        adopt.run(["--model", model, *flags])


def test_presets_take_part_in_tournaments(tmp_path):
    names = "kerashub:dinov2_small,kerashub:dinov2_small:stage6,VGG16:block4_pool"
    entrants = entrants_of(names, ["in"], str(tmp_path), [])
    typed = [" ".join(each.steps[0].arguments) for each in entrants]
    assert "kerashub:dinov2_small" in typed[0] and "--layer" not in typed[0]
    assert "kerashub:dinov2_small" in typed[1] and "--layer stage6" in typed[1].replace("=", " ")
    assert len({each.name for each in entrants}) == 3
