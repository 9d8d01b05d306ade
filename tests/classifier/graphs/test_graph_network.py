"""Graphs as bases: ONNX Runtime gives the truth, OpenVINO the features, channels last."""

import numpy as np
import pytest
from support.engines import row_distance
from support.graphs import SIDE, Maker, convolutional, transformer
from support.optional import optional

from classifier.base.preprocess import pool_graph
from classifier.base.request import BaseRequest
from classifier.graphs.files import GraphFiles, read_graph
from classifier.graphs.network import Network
from classifier.graphs.pooling import GEM_LEAST
from classifier.graphs.scaling import scaling_of
from featurestore.errors import CorruptStore, UsageError
from featurestore.spec import POOLINGS

onnx = optional("onnx")
onnxruntime = optional("onnxruntime")
openvino = optional("openvino")

POOLED = {
    "none": lambda x: x,
    "avg": lambda x: x.reshape(len(x), -1, x.shape[-1]).mean(1),
    "max": lambda x: x.reshape(len(x), -1, x.shape[-1]).max(1),
    "gem": lambda x: np.cbrt(
        (np.maximum(x.reshape(len(x), -1, x.shape[-1]), GEM_LEAST) ** 3.0).mean(1)
    ),
    "cls": lambda x: x[:, 0],
    "mean": lambda x: x.mean(1),
    "mean-patch": lambda x: x[:, 1:].mean(1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def vit(folder):
    return transformer(folder / "vit.onnx")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def network(path, size=(SIDE, SIDE), mode="torch"):
    return Network(read_graph(str(path)), size, scaling_of(mode))


def features(path, pixels, layer="", pooling="none", mode="torch"):
    made = network(path, pixels.shape[1:3], mode).features([(layer, pooling)])
    compiled = openvino.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(pixels)[0]


def together(path, pixels, *taps):
    """The features of several taps in one pass."""
    made = network(path, pixels.shape[1:3]).features(taps)
    compiled = openvino.compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(pixels)
    return [found[output] for output in compiled.outputs]


def truth(path, pixels, nhwc=False):
    """What ONNX Runtime gives for pixels that NumPy prepared as torchvision does."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = ((pixels / 255 - mean) / deviation).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return session.run(None, {name: scaled if nhwc else scaled.transpose(0, 3, 1, 2)})[0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_tokens_are_pooled_as_numpy_does(vit, pixels, pooling):
    expected = POOLED[pooling](truth(vit, pixels))
    found = features(vit, pixels, pooling=pooling)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert row_distance(found, expected) < 1e-5
    # The graph around networks of Keras pools the same.
    tokens = truth(vit, pixels)
    assert row_distance(pool_graph(pooling, 3)(tokens), expected) < 1e-5


@pytest.mark.parametrize("pooling", ["none", "avg", "max", "gem"])
@pytest.mark.parametrize("nhwc", [False, True])
def test_maps_of_both_layouts_are_stored_channels_last(folder, pixels, nhwc, pooling):
    shape = ("n", "h", "w", 3) if nhwc else ("n", 3, "h", "w")
    path = convolutional(folder / f"maps{nhwc}.onnx", shape, nhwc=nhwc)
    maps = truth(path, pixels, nhwc)
    expected = POOLED[pooling](maps if nhwc else maps.transpose(0, 2, 3, 1))
    for layer in ("", "maps"):
        found = features(path, pixels, layer, pooling)
        assert found.shape == expected.shape and row_distance(found, expected) < 1e-5
    assert network(path).layout == ("NHWC" if nhwc else "NCHW")


@pytest.mark.parametrize("mode", ["none", "unit", "tf", "caffe", "torch"])
def test_pixels_are_prepared_as_keras_does(folder, pixels, mode):
    from classifier.base.preprocess import preprocess_graph

    path = convolutional(folder / f"{mode}.onnx")
    prepared = np.asarray(preprocess_graph(mode)(pixels.astype(np.float32)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (maps,) = session.run(None, {"image": prepared.transpose(0, 3, 1, 2)})
    found = features(path, pixels, mode=mode)
    assert row_distance(found, maps.transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize(
    "taps",
    [
        # Each of these pairs shared its memory in OpenVINO 2026.4.
        [("patch", "none"), ("tokens", "none")],
        [("patch", "none"), ("block0", "none")],
        [("patch", "none"), ("patches", "cls")],
        [("patch", "none"), ("last_hidden_state", "cls")],
        [("block0", "none"), ("block0", "cls"), ("block0", "gem"), ("patch", "max")],
    ],
)
def test_layers_in_one_pass_are_what_each_is_alone(vit, pixels, taps):
    for found, tap in zip(together(vit, pixels, *taps), taps, strict=True):
        np.testing.assert_allclose(found, features(vit, pixels, *tap), rtol=1e-6, atol=1e-6)


def test_free_axes_take_any_size_and_a_fixed_one_its_own(folder):
    path = convolutional(folder / "fixed.onnx", ("n", 3, 48, 64))
    assert network(path, None).image_size == (48, 64)
    assert network(path, None).layer("").shape == (12, 16, 8)
    path = convolutional(folder / "free.onnx")
    assert network(path, (40, 20)).layer("").shape == (10, 5, 8)
    with pytest.raises(UsageError, match="images of any size; give the one .* --image_size 224"):
        network(path, None)


def test_tensors_are_listed_with_what_can_be_a_layer(vit):
    tensors = {tensor.name: tensor for tensor in network(vit).tensors()}
    assert tensors["patch"].shape == (4, 4, 16) and not tensors["patch"].obstacle
    assert tensors["block1"].shape == (17, 16) and not tensors["block1"].obstacle
    assert "first axis" in tensors["class.shape"].obstacle
    # Four axes, of which none are those of a map.
    for name in ("block0.k.heads", "block0.attention", "block1.mixed"):
        assert "channels" in tensors[name].obstacle, name


@pytest.mark.parametrize(
    "layer, pooling, words",
    [
        ("block", "none", "has no tensor 'block'; did you mean block0 or block1"),
        ("class.shape", "none", "cannot be features: the first axis"),
        ("patch", "cls", "--pooling cls is for token sequences"),
        ("block0", "mode", "mode"),
    ],
)
def test_a_wrong_layer_or_pooling_is_refused(vit, layer, pooling, words):
    with pytest.raises(UsageError, match=words):
        network(vit).features([(layer, pooling)])


def test_several_outputs_and_inputs(folder, vit, pixels):
    both = transformer(folder / "both.onnx", mask=True)
    with pytest.raises(UsageError, match="2 outputs; choose one of last_hidden_state, masked"):
        network(both).layer("")
    with pytest.raises(UsageError, match="'masked' needs the input 'mask' beside|needs the input"):
        network(both).features([("masked", "none")])
    one = features(both, pixels, "last_hidden_state", "cls")
    assert row_distance(one, features(vit, pixels, pooling="cls")) < 1e-6


def test_a_graph_that_takes_no_such_images_is_refused(folder, vit):
    with pytest.raises(UsageError, match="cannot take images of 40x40"):
        network(vit, (40, 40))
    # Written for one image; and rows of all images in one.
    for name, flat in (("one", (1, -1)), ("rows", (-1, 8))):
        path = convolutional(folder / f"{name}.onnx", (1, 3, SIDE, SIDE), flat=flat)
        with pytest.raises(UsageError, match="not that of the images.* exported again with a free"):
            network(path).layer("")
    path = convolutional(folder / "baked.onnx", (1, 3, SIDE, SIDE), flat=(1, 8, 8, 8))
    with pytest.raises(UsageError, match="for a fixed number of images .* with a free first axis"):
        network(path)
    make = Maker()
    make.node("Relu", ["words"], "y")
    bad = make.save(folder / "words.onnx", {"words": ["n", 5]}, {"y": ["n", 5]})
    with pytest.raises(UsageError, match="no inputs for images of three channels"):
        network(bad)


def test_files_of_every_form_are_read_and_named_by_their_content(folder, vit, pixels):
    expected = features(vit, pixels)
    openvino.save_model(openvino.Core().read_model(vit), folder / "ir.xml", compress_to_fp16=False)
    apart = folder / "apart.onnx"
    onnx.save(onnx.load(str(vit)), str(apart), save_as_external_data=True, size_threshold=100,
              location="apart.weights")  # fmt: skip
    for path in (folder / "ir.xml", apart):
        files = read_graph(str(path))
        assert len(files.files) == 2
        again = GraphFiles.unpacked(files.packed(), "x", files.digest, "here")
        assert again.files == files.files
        assert row_distance(features(path, pixels), expected) < 1e-5
    import hashlib

    assert read_graph(str(vit)).digest == hashlib.sha256(vit.read_bytes()).hexdigest()[:32]
    (folder / "apart.weights").unlink()
    (folder / "ir.bin").unlink()
    for name in ("apart.onnx", "ir.xml"):
        with pytest.raises(UsageError, match="copy that file too"):
            read_graph(str(folder / name))


def test_damaged_and_missing_files_are_refused_in_one_line(folder, vit):
    data = vit.read_bytes()
    for name, content in (("half", data[: len(data) // 2]), ("text", b"not a graph"), ("no", b"")):
        path = folder / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"cannot read '{name}.onnx'") as caught:
            network(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"no file '.*vitt.onnx'; did you mean .*vit.onnx"):
        read_graph(str(folder / "vitt.onnx"))
    files = read_graph(str(vit))
    for packed, digest in ((files.packed()[:-9], files.digest), (files.packed(), "0" * 32)):
        with pytest.raises(CorruptStore, match="the stored base here"):
            GraphFiles.unpacked(packed, "vit.onnx", digest, "here")


def test_a_request_is_named_by_what_it_builds(vit, tmp_path):
    asked = {"model": str(vit), "image_size": (SIDE, SIDE)}
    one = BaseRequest(preprocess="imagenet", **asked)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(vit.read_bytes())
    same = BaseRequest(preprocess="torch", **{**asked, "model": str(copy)})
    assert one.digest == same.digest != BaseRequest(preprocess="clip", **asked).digest
    with pytest.raises(UsageError, match="holds its own weights"):
        BaseRequest(weights="none", preprocess="clip", **asked)
