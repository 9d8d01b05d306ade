"""ONNX Runtime gives the features that OpenVINO gives, and takes a GPU where there is one."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.engines import row_distance
from support.graphs import SIDE, Maker, convolutional, transformer
from support.optional import optional
from support.stores import make_spec

from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.engines import (
    EngineChoice,
    StoredBase,
    device,
    hardware,
    load_engine,
    loading,
    onnxruntime,
    run_padded,
)
from classifier.engines.batching import DeviceQueue
from classifier.engines.hardware import Hardware
from classifier.engines.options import EngineOptions, candidates, for_base, for_stored
from classifier.engines.probes import synthetic_images
from featurestore.errors import UsageError
from featurestore.io.storage import Storage
from featurestore.numerics import Numerics
from featurestore.spec import PixelSpec, StoreSpec

runtime = optional("onnxruntime")
onnx = optional("onnx")
optional("openvino")
GPU = ("CUDAExecutionProvider", "CPUExecutionProvider")
IMAGE = {"image": ["n", 3, "h", "w"]}
EVERY = frozenset({"openvino", "nncf", "onnxruntime"})
LAPTOP = Hardware(installed=EVERY, native={"openvino": ("float16",)})
SERVER = Hardware(True, EVERY, {"openvino": ("float16",), "tensorflow": ("float16",)}, cuda=True)
TOKENS = ("none", "avg", "max", "gem", "cls", "mean", "mean-patch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnxruntime")
    transformer(folder / "vit.onnx")
    transformer(folder / "masked.onnx", mask=True)
    convolutional(folder / "conv.onnx")
    convolutional(folder / "last.onnx", ("n", "h", "w", 3), nhwc=True)
    # Eight tokens, in operations of an old version.
    old = onnx.load(str(convolutional(folder / "old.onnx", flat=(0, 8, -1))))
    old.opset_import[0].version = 9
    onnx.save(old, str(folder / "old.onnx"))
    apart = folder / "apart.onnx"
    onnx.save(onnx.load(str(folder / "vit.onnx")), str(apart), save_as_external_data=True,
              size_threshold=100, location="apart.weights")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def images():
    return synthetic_images(5, (SIDE, SIDE))


def stored(path, *layers, preprocess="torch", **fields):
    """A base that is ready for its first engine."""
    request = BaseRequest(
        str(path), taps=layers, image_size=(SIDE, SIDE), preprocess=preprocess, **fields
    )
    built = build_base(request)
    spec = StoreSpec(
        built.spec,
        PixelSpec(built.image_size),
        built.feature_shape,
        "float32",
        Numerics("", "", ""),
    )
    return StoredBase(Storage("nowhere"), spec, model=built.model)


def base_called(model):
    """The base of a store that is not built."""
    return replace(make_spec().base, model=model)


def rows(base, images, engine, **chosen):
    return run_padded(load_engine(base, EngineChoice(engine), 4, **chosen), images)


def assert_same(base, images, most=1e-5):
    ours, theirs = (rows(base, images, engine) for engine in ("onnxruntime", "openvino"))
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert row_distance(ours, theirs) < most


@pytest.mark.parametrize("pooling", TOKENS)
@pytest.mark.parametrize("name", ["vit", "old", "apart"])
def test_tokens_are_those_of_openvino(folder, images, name, pooling):
    assert_same(stored(folder / f"{name}.onnx", pooling=pooling), images)


@pytest.mark.parametrize("pooling", ["none", "avg", "max", "gem"])
@pytest.mark.parametrize(
    "name, layer", [("conv", ""), ("last", ""), ("last", "maps"), ("vit", "patch")]
)
def test_maps_are_those_of_openvino(folder, images, name, layer, pooling):
    assert_same(stored(folder / f"{name}.onnx", *filter(None, [layer]), pooling=pooling), images)


@pytest.mark.parametrize("mode", ["none", "unit", "tf", "caffe", "clip"])
def test_pixels_are_prepared_the_same(folder, images, mode):
    assert_same(stored(folder / "conv.onnx", preprocess=mode), images)


def test_several_layers_in_one_pass(folder, images):
    base = stored(folder / "vit.onnx", "patch", "block0:cls", "patch:gem", "block1")
    assert_same(base, images)
    whole = rows(base, images, "onnxruntime")
    alone = rows(stored(folder / "vit.onnx", "block0:cls"), images, "onnxruntime")
    np.testing.assert_allclose(whole[:, :16], alone, rtol=1e-6)


def test_inputs_that_the_layer_does_not_need_are_left_out(folder, images):
    assert_same(stored(folder / "masked.onnx", "last_hidden_state:cls"), images)


def test_values_in_float16_are_taken_and_given_as_float32(folder, images):
    make = Maker()
    make.node("Cast", ["image"], "wide", to=onnx.TensorProto.FLOAT)
    make.node("Conv", ["wide", make.weight("w", 4, 3, 4, 4)], "conv", strides=[4, 4])
    make.node("Cast", ["conv"], "half", to=onnx.TensorProto.FLOAT16)
    path = make.save(folder / "half.onnx", IMAGE, {"half": list("nchw")})
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, str(path))
    # OpenVINO computes it in float32 throughout.
    assert_same(stored(path, "half:avg"), images, 2e-3)


def test_a_call_of_any_lane_gives_the_same(folder, images):
    base = stored(folder / "vit.onnx", pooling="cls")
    one = rows(base, images, "onnxruntime")
    assert (rows(base, images, "onnxruntime", lanes=2, threads=2) == one).all()
    engine = load_engine(base, EngineChoice("onnxruntime"), 4, 2)
    assert engine.feature_shape == (16,) and engine.numerics.label == "onnxruntime float32"
    assert engine.numerics.versions["onnxruntime"] == runtime.__version__


def test_the_processor_stands_in_for_a_gpu(folder, images, monkeypatch):
    """As with TensorFlow: lanes share batches of a size that is found by doubling."""
    monkeypatch.setattr(loading, "this_machine", lambda: Hardware(stands_in=True, cuda=True))
    base = stored(folder / "vit.onnx", pooling="cls")
    engine = load_engine(base, EngineChoice("onnxruntime"), 4, 2)
    assert isinstance(engine, DeviceQueue) and engine.device_batch % 4 == 0
    assert row_distance(run_padded(engine, images), rows(base, images, "openvino")) < 1e-5


@pytest.mark.parametrize(
    "model, hardware, asked, engine, words",
    [
        ("vit.onnx", LAPTOP, (), "openvino", "the fastest|native|graphs"),
        ("vit.onnx", LAPTOP, ("onnxruntime",), "onnxruntime", "on the processor, in float32"),
        ("vit.onnx", SERVER, (), "onnxruntime", "there is a GPU; on a GPU, in float32 only"),
        ("vit.onnx", SERVER, ("auto", "float32"), "onnxruntime", "there is a GPU"),
        ("vit.onnx", SERVER, ("auto", "float16"), "openvino", "graphs"),
        ("vit.onnx", SERVER, ("auto", "int8"), "openvino", "graphs"),
        ("vit.onnx", SERVER, ("openvino",), "openvino", "as asked for"),
        ("vit.xml", SERVER, (), "openvino", "graphs"),
        ("VGG16", SERVER, (), "tensorflow", "there is a GPU"),
    ],
)
def test_a_gpu_is_taken_for_onnx_where_there_is_one(model, hardware, asked, engine, words):
    base = base_called(model)
    found = candidates(for_base(EngineOptions(*asked), base), hardware)
    assert found.engine == engine and re.search(words, found.reason)
    if engine == "onnxruntime":
        assert found.precisions == ("float32",)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(UsageError, match="float16 needs --engine .* or openvino, .*float32"):
        EngineOptions("onnxruntime", "float16")
    for model, words in (
        ("VGG16", "'VGG16' is no ONNX graph, and runs in tensorflow or openvino"),
        ("vit.xml", "'vit.xml' is an OpenVINO graph, and runs in openvino only"),
    ):
        with pytest.raises(UsageError, match=f"--engine onnxruntime: {words}"):
            for_base(EngineOptions("onnxruntime"), base_called(model))
    asked = for_base(EngineOptions("onnxruntime"), base_called("vit.onnx"))
    with pytest.raises(UsageError, match="not installed here.*hoarfrost.openvino,onnx"):
        candidates(asked, Hardware(installed=frozenset({"openvino"})))


def test_a_store_keeps_its_engine_where_it_can():
    base = base_called("vit.onnx")
    own = Numerics("onnxruntime", "float32", "d")
    other = Numerics("openvino", "bfloat16", "d")
    here, bare = (lambda: LAPTOP), (lambda: Hardware(installed=frozenset({"openvino"})))
    assert for_stored(own, here, for_base(None, base)) == (EngineChoice("onnxruntime"), "")
    choice, reason = for_stored(own, bare, for_base(None, base))
    assert choice == EngineChoice("openvino") and "not installed" in reason
    for asked, stored_in, taken in (
        (("auto", "float16"), own, EngineChoice("openvino", "float16")),
        (("onnxruntime", "auto"), other, EngineChoice("onnxruntime")),
    ):
        choice, _ = for_stored(stored_in, here, for_base(EngineOptions(*asked), base))
        assert choice == taken


def test_providers_go_by_what_there_is():
    assert onnxruntime.providers_of(GPU, gpu=False) == ["CPUExecutionProvider"]
    assert onnxruntime.providers_of(GPU[1:], gpu=True) == ["CPUExecutionProvider"]
    first, last = onnxruntime.providers_of(GPU, gpu=True, device=2)
    assert first[0] == GPU[0] and last == GPU[1]
    assert first[1]["use_tf32"] == "0" and first[1]["device_id"] == "2"


class Sessions:
    """ONNX Runtime with a GPU that is not there.

    Args:
      loads: whether CUDA can be loaded; else sessions fall back to the CPU, as the real ones do.
    """

    SessionOptions = runtime.SessionOptions

    def __init__(self, loads):
        self.loads, self.asked = loads, None

    def get_available_providers(self):
        return list(GPU)

    def preload_dlls(self):
        pass

    def InferenceSession(self, path, settings, providers):
        self.asked = providers
        real = runtime.InferenceSession(path, settings, providers=[GPU[1]])
        real.get_providers = lambda: list(GPU if self.loads else GPU[1:])
        return real


def test_a_session_is_opened_on_the_gpu_of_this_process(folder, images, monkeypatch):
    base = stored(folder / "vit.onnx", pooling="cls")
    fake = Sessions(loads=True)
    monkeypatch.setattr(onnxruntime, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(onnxruntime, "claimed_gpu", lambda: 1)
    session = onnxruntime.open_session(base.files(), base.spec, 1, gpu=True)
    assert [each[0] for each in fake.asked[:1]] == [GPU[0]] and fake.asked[0][1]["device_id"] == "1"
    engine = onnxruntime.OnnxRuntimeEngine(session, base.spec, 4)
    assert row_distance(run_padded(engine, images), rows(base, images, "openvino")) < 1e-5
    fake.loads = False
    with pytest.raises(UsageError, match="cannot load its libraries of CUDA.*DEVICE=none"):
        onnxruntime.open_session(base.files(), base.spec, 1, gpu=True)


@pytest.mark.parametrize(
    "asked, devices, providers, expected",
    [
        ("", True, GPU, True),
        ("", True, GPU[1:], False),
        ("", False, GPU, False),
        ("none", True, GPU, False),
        ("cpu", False, GPU, True),
    ],
)
def test_a_machine_has_a_gpu_if_driver_and_library_say_so(
    monkeypatch, asked, devices, providers, expected
):
    monkeypatch.setenv("HOARFROST_DEVICE", asked)
    monkeypatch.setattr(device, "_may_have_gpu", lambda: devices)
    monkeypatch.setattr(hardware, "sees_gpu", lambda: False)
    monkeypatch.setattr(runtime, "get_available_providers", lambda: list(providers))
    assert cache(hardware.this_machine.__wrapped__)().cuda is expected


def test_a_graph_that_it_cannot_run_is_refused_in_one_line(folder, monkeypatch):
    make = Maker()
    make.node("Conv", ["image", make.weight("w", 4, 3, 4, 4)], "conv", strides=[4, 4])
    path = make.save(folder / "x.onnx", IMAGE, {"conv": list("nchw")})
    base = stored(path)
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "Unknown"
    broken = type(base.model)("x.onnx", {"graph.onnx": model.SerializeToString()})
    network = onnxruntime.Network(base.files(), (SIDE, SIDE), onnxruntime.scaling_of("none"))
    monkeypatch.setattr(onnxruntime, "Network", lambda *parts: network)
    with pytest.raises(
        UsageError, match="--engine onnxruntime: it cannot run 'x.onnx'.*openvino"
    ) as e:
        onnxruntime.open_session(broken, base.spec, 1, gpu=False)
    assert "\n" not in str(e.value)
