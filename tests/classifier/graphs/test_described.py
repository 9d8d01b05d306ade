"""The preprocessing by a file of Hugging Face or timm: what it says, or a refusal."""

import json

import numpy as np
import pytest
from support.images import png_bytes

from classifier.base.preprocess import preprocess_graph
from classifier.base.request import BaseRequest
from classifier.graphs.described import described
from classifier.graphs.scaling import NAMED, mode_of, scaling_of
from classifier.pixels.decoder import decode
from featurestore.errors import UsageError
from featurestore.spec import PixelSpec

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"height": 224, "width": 224}
# Each as its model card on the hub has it, in short: DINOv2, SigLIP, ViT, CLIP, ConvNeXt.
DINO = {**IMAGENET, "size": {"shortest_edge": 256}, "crop_size": SQUARE, "do_center_crop": True,
        "resample": 3, "rescale_factor": 1 / 255}  # fmt: skip
SIGLIP = {**HALF, "size": SQUARE, "resample": 3}
OLD_VIT = {**HALF, "size": 224, "resample": 2}
OLD_CLIP = {**IMAGENET, "size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3}
CONVNEXT = {**IMAGENET, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}
TIMM = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9,
        "mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"]}  # fmt: skip


def read(folder, record, name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(record))
    return described(str(folder / name), "VGG16")


@pytest.mark.parametrize(
    "record, mode, fit, resize",
    [
        (DINO, "torch", "crop:256", "pillow-bicubic"),
        (SIGLIP, "tf", "squash", "pillow-bicubic"),
        (OLD_VIT, "tf", "squash", "pillow-bilinear"),
        (OLD_CLIP, "torch", "crop:224", "pillow-bicubic"),
        (CONVNEXT, "torch", "crop:256", "pillow-bicubic"),
        ({"pretrained_cfg": TIMM}, "torch", "crop:248", "pillow-bicubic"),
        ({"default_cfg": {**TIMM, "crop_pct": 1.0}}, "torch", "crop:224", "pillow-bicubic"),
        ({**TIMM, "crop_pct": 1.0, "crop_mode": "squash"}, "torch", "squash", "pillow-bicubic"),
    ],
)
def test_what_a_file_says_becomes_flags(tmp_path, record, mode, fit, resize):
    found = read(tmp_path, record)
    assert found.mode == mode and found.image_size == (224, 224)
    assert dict(found.pixels) == {"fit": fit, "resize": resize}
    assert PixelSpec(found.image_size, **dict(found.pixels))


@pytest.mark.parametrize(
    "record, words",
    [
        ({**DINO, "do_center_crop": False}, "no fixed size"),
        ({**DINO, "resample": 1}, "the interpolation 1"),
        ({**SIGLIP, "do_pad": True}, "do_pad"),
        ({**SIGLIP, "do_resize": False}, "do_resize false"),
        ({**SIGLIP, "image_std": [0.5]}, "another form"),
        ({"pretrained_cfg": {**TIMM, "crop_mode": "border"}}, "crop_mode 'border'"),
        ({"pretrained_cfg": {**TIMM, "input_size": [1, 28, 28]}}, "1 channels"),
        ({"architectures": ["ViTModel"]}, "describes no preprocessing"),
    ],
)
def test_what_no_flag_expresses_is_refused(tmp_path, record, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path, record)


def test_files_beside_a_graph_are_found(tmp_path):
    model = str(tmp_path / "m.onnx")
    assert described("auto", model) is None
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTModel"]}))
    assert described("auto", model) is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(DINO))
    assert "preprocessor_config.json" in described("auto", model).note
    # A name says nothing of fit and resizing.
    assert described("clip", model).pixels == ()
    with pytest.raises(UsageError, match="describes images of 224x224; for others"):
        _ = BaseRequest(model=model, image_size=(160, 160)).pixels
    with pytest.raises(UsageError, match="is not JSON"):
        (tmp_path / "config.json").write_text("{")
        described(str(tmp_path / "config.json"), model)
    with pytest.raises(UsageError, match="is not there"):
        described("nowhere.json", model)
    with pytest.raises(UsageError, match="imagenet"):
        BaseRequest(model=model, preprocess="imagenett")


def test_a_scaling_is_the_same_in_numpy_and_for_keras():
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    for mean, deviation in (*NAMED.values(), ((0.1, 0.2, 0.3), (1.5, 0.25, 1 / 3))):
        mode = mode_of(mean, deviation)
        expected = (pixels / 255 - np.array(mean)) / np.array(deviation)
        found = np.asarray(preprocess_graph(mode)(tf.constant(pixels)))
        assert np.abs(found - expected).max() < 1e-5
        scaling = scaling_of(mode)
        assert np.abs((pixels - scaling.mean) / scaling.deviation - expected).max() < 1e-5
    # A factor other than 1/255, as of a model that takes -1 to 1 without a mean.
    assert mode_of((0, 0, 0), (1 / 255, 1 / 255, 1 / 255)) == "none"


@pytest.mark.parametrize("height, width", [(60, 90), (91, 60), (48, 48)])
def test_the_centre_is_cut_as_hugging_face_does(height, width):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    spec = PixelSpec((24, 24), fit="crop:32", resize="pillow-bicubic")
    found = decode(png_bytes(pixels), spec).pixels
    tall, wide = (int(32 * side / min(height, width)) for side in (height, width))
    resized = Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BICUBIC)
    top, left = (tall - 24) // 2, (wide - 24) // 2
    assert np.array_equal(found, resized.crop((left, top, left + 24, top + 24)))
    with pytest.raises(UsageError, match="the shorter side must be at least"):
        PixelSpec((48, 48), fit="crop:32")
