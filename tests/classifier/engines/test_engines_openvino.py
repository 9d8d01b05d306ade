"""OpenVINO against TensorFlow on real weights: the same features, in any place and any thread."""

import dataclasses
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.commands import ROOT, run_command
from support.engines import built, decoded, engine_of, row_distance
from support.extraction import run
from support.images import write_images
from support.optional import optional

from classifier.base.build import FrozenBase, build_base
from classifier.base.request import BaseRequest
from classifier.base.weights import weights_hash
from classifier.cachefolder import CACHE_VARIABLE
from classifier.engines import EngineChoice, conversion, run_padded
from classifier.engines.conversion import convert, converted, pack, unpack
from classifier.engines.hardware import Hardware
from classifier.engines.openvino import OpenVINOEngine
from classifier.engines.tensorflow import TensorFlowEngine
from classifier.runtime import openvino_core
from featurestore.errors import CorruptStore, SpecMismatch, UsageError
from featurestore.spec import BaseSpec
from featurestore.taps import divided

optional("openvino")
keras = optional("keras")


def openvino_of(base, batch_size=4, lanes=2):
    packed = convert(base.model, base.spec, base.image_size)
    choice = EngineChoice("openvino")
    return OpenVINOEngine(unpack(packed, "x"), choice, base.image_size, batch_size, lanes)


def tiny(side=32):
    """A base with what conversion trips over: custom gradients, a nested model, a flat output."""
    inner_input = keras.Input((side // 2, side // 2, 8))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="silu")(inner_input)
    inner = keras.Model(inner_input, keras.layers.BatchNormalization()(x), name="inner")
    image = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.Flatten()(keras.layers.Add()([inner(x), x]))
    model = keras.Model(image, keras.layers.Dense(16, name="top")(x))
    spec = BaseSpec("Tiny", "none", weights_hash(model), "top", "none", "tf")
    return FrozenBase(model, spec, (side, side), (16,))


@pytest.mark.parametrize(
    "name, side, fields",
    [("VGG16", 180, {}), ("MobileNetV2", 160, {"pooling": "avg"})],
)
def test_features_of_real_weights_agree_with_tensorflow(name, side, fields):
    base = built(name, side, **fields)
    images = decoded(base.image_size)
    features = run_padded(openvino_of(base), images)
    assert features.dtype == np.float32 and features.shape == (6, *base.feature_shape)
    assert row_distance(features, run_padded(engine_of(base), images)) < 1e-4


@pytest.fixture(scope="module")
def base():
    return tiny()


@pytest.fixture(scope="module")
def engine(base):
    return openvino_of(base)


def test_flat_nested_and_custom_gradients_agree(base, engine, images):
    exact = run_padded(engine_of(base), images)
    assert row_distance(run_padded(engine, images), exact) < 1e-4


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)


def test_rows_are_bit_identical_whatever_the_batch(base, engine, images):
    whole = run_padded(engine, images)
    for count in (0, 1, 3, 4, 5, 9):
        np.testing.assert_array_equal(run_padded(engine, images[:count]), whole[:count])
    np.testing.assert_array_equal(run_padded(engine, images[::-1])[::-1], whole)
    other = openvino_of(base, batch_size=7, lanes=1)
    np.testing.assert_array_equal(run_padded(other, images), whole)


def test_more_threads_than_lanes_at_once(engine):
    batches = np.random.default_rng(1).integers(0, 256, (24, 4, 32, 32, 3)).astype(np.uint8)
    alone = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(engine, batches))
    np.testing.assert_array_equal(together, alone)


def test_batches_in_any_memory_order_and_wrong_ones(base, engine, images):
    batch = images[:4]
    expected = engine(batch)
    np.testing.assert_array_equal(engine(np.asfortranarray(batch)), expected)
    with pytest.raises(ValueError, match="takes uint8"):
        engine(images[:3])
    with pytest.raises(ValueError, match="takes uint8"):
        engine(batch.astype(np.float32))
    with pytest.raises(UsageError, match="--batch_size"):
        openvino_of(base, batch_size=0)


def test_numerics_name_the_engine(engine):
    numerics = engine.numerics
    assert numerics.label == "openvino float32" and numerics.model == ""
    assert set(numerics.versions) == {"openvino", "numpy"}


@pytest.mark.parametrize("precision, limit", [("float16", 0.005), ("bfloat16", 0.05)])
def test_tensorflow_computes_low_precisions_too(base, images, precision, limit):
    exact = run_padded(engine_of(base), images)
    low = TensorFlowEngine(base.model, base.spec, base.image_size, 4, precision)
    assert low.numerics.label == f"tensorflow {precision}"
    assert 1e-4 < row_distance(run_padded(low, images), exact) < limit
    # The base itself is left as it was.
    np.testing.assert_array_equal(run_padded(engine_of(base), images), exact)


def test_the_conversion_is_kept_and_found_again(base, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    loads = []

    def load():
        loads.append(1)
        return base.model

    first = converted(base.spec, base.image_size, load)
    assert converted(base.spec, base.image_size, load) == first and len(loads) == 1
    (file,) = (tmp_path / "cache").rglob("*.zip")
    assert pack(unpack(first, "x")) == first == file.read_bytes()
    middle = len(first) // 2
    flipped = first[:middle] + bytes([first[middle] ^ 255]) + first[middle + 1 :]
    for number, damaged in enumerate((b"damaged", flipped), 2):
        file.write_bytes(damaged)
        # Another conversion names its nodes otherwise.
        again = converted(base.spec, base.image_size, load)
        assert len(again) == len(first) and len(loads) == number
    monkeypatch.setattr(conversion, "CACHE", dataclasses.replace(conversion.CACHE, most=1))
    other = dataclasses.replace(base.spec, preprocess="none")
    converted(other, base.image_size, load)
    assert len(list((tmp_path / "cache").rglob("*.zip"))) == 1
    # A cache that cannot be written costs time, nothing else.
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert converted(base.spec, base.image_size, load) and len(loads) == 5


def test_a_damaged_model_is_one_line():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("model.xml", "<net")
        archive.writestr("model.bin", b"")
    for data in (b"", b"damaged", sink.getvalue()):
        with pytest.raises(CorruptStore, match="here cannot be read") as caught:
            unpack(data, "here")
        assert "\n" not in str(caught.value)


def test_telemetry_is_never_imported(tmp_path):
    script = (
        "import sys; from classifier.runtime import import_openvino\n"
        "ov = import_openvino(); ov.convert_model\n"
        "import nncf, nncf.telemetry\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    (tmp_path / "script.py").write_text(script)
    done = run_command("script", cwd=tmp_path, HOME=str(tmp_path / "home"))
    assert done.code == 0, done.err
    assert not (tmp_path / "home").exists()


def test_auto_measures_on_the_input_and_the_store_keeps_it(base, tmp_path, monkeypatch):
    """Every native precision is tried; which one wins is the machine's business."""
    write_images(tmp_path / "photos", 12)
    base.model.save(tmp_path / "tiny.keras")
    flags = ["--input", tmp_path / "photos", "--output", tmp_path / "s", "--preprocess", "tf"]
    flags += ["--model", tmp_path / "tiny.keras", "--image_size", "32"]
    native = {"tensorflow": ("float16", "bfloat16")}
    monkeypatch.setattr("pipelines.opening.store.this_machine", lambda: Hardware(native=native))
    outcome = run(*flags)
    record = outcome.record["engine"]
    assert [trial["precision"] for trial in record["measured"]] == [
        "float32",
        *native["tensorflow"],
    ]
    assert record["images"] == 12 and "on 12 images of the input: float32 " in record["reason"]
    numerics = outcome.store.spec.numerics
    assert (numerics.engine, numerics.precision) == (record["engine"], record["precision"])
    assert run(*flags).record["engine"]["reason"] == "the store's own"


def test_an_asked_precision_is_measured_and_taken(base, tmp_path):
    write_images(tmp_path / "photos", 3)
    base.model.save(tmp_path / "tiny.keras")
    flags = ["--input", tmp_path / "photos", "--output", tmp_path / "s", "--preprocess", "tf"]
    flags += ["--model", tmp_path / "tiny.keras", "--image_size", "32"]
    outcome = run(*flags, "--engine", "tensorflow", "--precision", "bfloat16")
    assert outcome.store.spec.numerics.label == "tensorflow bfloat16"
    assert 0.99 < outcome.record["engine"]["measured"][1]["cosine_minimum"] < 1
    with pytest.raises(SpecMismatch, match="openvino float32.*more than its tolerance"):
        run(*flags, "--engine", "openvino", "--precision", "float32")


def test_a_layer_that_does_nothing_is_a_tap_of_its_own(tmp_path):
    """Dropout shares its tensor with the layer before it."""
    image = keras.Input((16, 16, 3))
    same = keras.layers.Dropout(0.5, name="same")(keras.layers.Conv2D(4, 3, name="first")(image))
    last = keras.layers.Conv2D(2, 3, name="last")(same)
    keras.Model(image, last).save(tmp_path / "base.keras")
    taps = ("first", "same", "last:avg")
    request = BaseRequest(str(tmp_path / "base.keras"), taps=taps, preprocess="unit")
    base = build_base(request)
    packed = convert(base.model, base.spec, base.image_size)
    assert {node.get_friendly_name() for node in unpack(packed, "x").get_results()} == set(taps)
    images = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    ours, theirs = openvino_of(base, 2)(images), engine_of(base, 2)(images)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    rows = dict(zip(["first", "last:avg", "same"], divided(base.spec.taps, ours), strict=True))
    assert (rows["first"] == rows["same"]).all() and rows["last:avg"].shape == (2, 2)


def test_a_process_makes_one_core():
    """Of two, the one that ends first takes the signal stack of the other away."""
    makers = [path for path in (ROOT / "classifier").rglob("*.py") if ".Core()" in path.read_text()]
    # A file that was exported is run in a process of its own.
    assert {path.name for path in makers} == {"runtime.py", "runner.py"}
    assert openvino_core() is openvino_core()
