"""Presets of KerasHub: where they are found, what their converters ask for, how they are cut."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.commands import ROOT
from support.presets import OFFSET, SCALE, SIDE, WIDTH, clip, dinov2, keras_hub, save, vit

from classifier import bases
from classifier.base.backbone import HELD
from classifier.base.build import build_base
from classifier.base.preprocess import preprocess_graph
from classifier.base.request import BaseRequest
from classifier.base.stored import load_base, save_base
from classifier.engines.tensorflow import in_precision
from classifier.pixels.resize import resize
from classifier.presets import preset
from classifier.presets.converter import described_by_preset
from classifier.presets.preset import load_backbone, located
from classifier.runtime import import_keras
from featurestore.errors import CorruptStore, UsageError
from featurestore.spec import PixelSpec

hub = keras_hub()
CONVERTER = {"image_size": (SIDE, SIDE), "scale": SCALE, "offset": OFFSET}
RNG = np.random.default_rng(0)


def named(folder):
    return f"kerashub:{folder}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save(tmp_path_factory.mktemp("presets") / "tiny", vit(), **CONVERTER)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return save(tmp_path_factory.mktemp("presets") / "dino", dinov2(), **CONVERTER)


def smooth(height, width):
    """A float image without hard edges, far from black and white: converters clip nothing."""
    coarse = RNG.uniform(50, 200, (5, 7, 3))
    return np.asarray(import_keras().ops.image.resize(coarse, (height, width), "bicubic"))


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize(
    "interpolation, antialias, method",
    [
        ("bilinear", False, "bilinear"),
        ("bicubic", False, "bicubic"),
        ("nearest", True, "nearest"),
        ("bilinear", True, "pillow-bilinear"),
        ("bicubic", True, "pillow-bicubic"),
    ],
)
def test_our_pixels_are_those_of_the_converter(tmp_path, crop, interpolation, antialias, method):
    asked = {
        **CONVERTER,
        "interpolation": interpolation,
        "antialias": antialias,
        "crop_to_aspect_ratio": crop,
    }
    save(tmp_path / "p", vit(), **asked)
    found = described_by_preset(named(tmp_path / "p"))
    assert found.mode == "torch" and found.image_size == (SIDE, SIDE)
    assert dict(found.pixels) == {"fit": "crop" if crop else "squash", "resize": method}
    image = smooth(75, 101).round().astype(np.uint8)
    pixels = resize(image, PixelSpec(found.image_size, **dict(found.pixels)))
    ours = preprocess_graph(found.mode)(pixels[None].astype(np.float32))
    theirs = hub.layers.ViTImageConverter(**asked)(image[None].astype(np.float32))
    # Ours are rounded to whole levels: at most one apart.
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= max(SCALE) * 1.01


@pytest.mark.parametrize(
    "scale, offset, mode",
    [
        (1 / 127.5, -1, "tf"),
        (1 / 255, None, "unit"),
        (None, None, "none"),
        ([1 / 255, 1 / 255, 1 / 510], 0.5, "scaled:mean=-0.5,-0.5,-1;deviation=1,1,2"),
    ],
)
def test_scale_and_offset_become_mean_and_deviation(tmp_path, scale, offset, mode):
    save(tmp_path / "p", vit(), image_size=None, scale=scale, offset=offset)
    found = described_by_preset(named(tmp_path / "p"))
    assert found.mode == mode and found.image_size is None
    assert "--image_size" not in found.note and "--fit crop --resize bilinear" in found.note


@pytest.mark.parametrize(
    "converter, words",
    [
        ({"interpolation": "lanczos3"}, "the interpolation 'lanczos3', which no flag"),
        ({"pad_to_aspect_ratio": True, "crop_to_aspect_ratio": False}, "pad_to_aspect_ratio"),
    ],
)
def test_what_no_flag_expresses_is_refused(tmp_path, converter, words):
    save(tmp_path / "p", vit(), **CONVERTER, **converter)
    with pytest.raises(UsageError, match=words):
        described_by_preset(named(tmp_path / "p"))


def test_a_preset_without_a_converter_asks_for_the_preprocessing(tmp_path):
    save(tmp_path / "p", vit())
    with pytest.raises(UsageError, match="ImageConverter by save_to_preset, too, or give.*unit"):
        build_base(BaseRequest(model=named(tmp_path / "p")))
    built = build_base(BaseRequest(model=named(tmp_path / "p"), preprocess="tf"))
    assert built.spec.preprocess == "tf" and built.image_size == (SIDE, SIDE)


def test_a_base_gives_what_the_backbone_gives_also_from_its_stored_copy(tiny, tmp_path):
    built = build_base(BaseRequest(model=named(tiny)))
    assert built.spec.model == "kerashub:tiny" and built.spec.layer == "output"
    assert built.spec.weights == "preset" and built.feature_shape == (17, WIDTH)
    save_base(built, tmp_path / "base.keras")
    again = load_base(tmp_path / "base.keras", built.spec)
    images = RNG.normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    wanted = hub.models.Backbone.from_preset(str(tiny)).predict(images, verbose=0)
    for model in (built.model, again):
        np.testing.assert_allclose(model.predict(images, verbose=0), wanted, atol=1e-6)
    low = in_precision(again, "bfloat16")
    assert low.layers[-2].compute_dtype == "bfloat16" and getattr(low, HELD)
    np.testing.assert_allclose(low.predict(images, verbose=0), wanted, atol=0.1)


def test_levels_of_the_pyramid_are_layers_and_another_size_is_built(dino, tmp_path):
    model = named(dino)
    request = BaseRequest(model=model, taps=("stage1:cls", "output:mean"), image_size=(48, 48))
    built = build_base(request)
    assert [tap.name for tap in built.spec.taps] == ["output:mean", "stage1:cls"]
    save_base(built, tmp_path / "base.keras")
    again = load_base(tmp_path / "base.keras", built.spec)
    backbone = hub.models.Backbone.from_preset(str(dino), image_shape=(48, 48, 3))
    images = RNG.normal(size=(2, 48, 48, 3)).astype(np.float32)
    output, stage = again.predict(images, verbose=0)
    np.testing.assert_allclose(output, backbone.predict(images, verbose=0), atol=1e-6)
    levels = import_keras().Model(backbone.inputs, backbone.pyramid_outputs)
    np.testing.assert_allclose(stage, levels.predict(images, verbose=0)["stage1"], atol=1e-6)


def test_random_weights_are_seeded_and_survive_the_stored_copy(dino, tmp_path):
    hashes = []
    for seed in (1, 1, 2):
        built = build_base(BaseRequest(model=named(dino), weights="none", seed=seed))
        hashes.append(built.spec.weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]
    save_base(built, tmp_path / "base.keras")
    load_base(tmp_path / "base.keras", built.spec)


def test_the_hash_is_of_settings_and_weights_and_not_of_the_place(tiny, tmp_path):
    first = BaseRequest(model=named(tiny))
    moved = save(tmp_path / "moved", hub.models.Backbone.from_preset(str(tiny)), **CONVERTER)
    wanted = build_base(first).spec.weights_hash
    assert build_base(BaseRequest(model=named(moved))).spec.weights_hash == wanted
    before = BaseRequest(model=named(moved)).digest
    config = json.loads((moved / "config.json").read_text())
    config["config"]["layer_norm_epsilon"] = 0.1
    (moved / "config.json").write_text(json.dumps(config))
    assert build_base(BaseRequest(model=named(moved))).spec.weights_hash != wanted
    assert BaseRequest(model=named(moved)).digest != before
    save(moved, vit(seed=1), **CONVERTER)
    assert build_base(BaseRequest(model=named(moved))).spec.weights_hash != wanted


def test_the_image_side_of_clip_is_taken_and_a_text_model_refused(tmp_path):
    save(tmp_path / "clip", clip())
    taken = load_backbone(named(tmp_path / "clip"))
    assert type(taken).__name__ == "CLIPVisionEncoder" and len(taken.inputs) == 1
    text = hub.models.BertBackbone(
        vocabulary_size=9, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    )
    text.save_to_preset(str(tmp_path / "text"))
    with pytest.raises(UsageError, match="is a BertBackbone with the inputs .*takes one image"):
        load_backbone(named(tmp_path / "text"))


def test_layers_are_listed(dino, capsys):
    assert bases.run([named(dino)]) == 0
    said = capsys.readouterr().out
    assert "dinov2_backbone_encoder" in said and "stage2" in said and "fine-tune" not in said
    assert bases.run([named(dino), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["layers"]
    assert {"stem", "stage1", "output"} < {layer["name"] for layer in listed}


def test_mistakes_are_explained(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for model, words in (
        ("dinov2_smal", "no preset 'dinov2_smal'.*dinov2_small"),
        (str(tmp_path / "nowhere"), "there is no such folder"),
        (str(tmp_path / "empty"), "holds no config.json"),
        ("s3://bucket/tiny", "no version of.*kaggle://... or hf://"),
    ):
        with pytest.raises(UsageError, match=words):
            located(f"kerashub:{model}")
    with pytest.raises(UsageError, match="for images of 48x48 .*; give --image_size 32x32"):
        build_base(BaseRequest(model=named(tiny), image_size=(48, 48)))
    with pytest.raises(UsageError, match="has no layer 'vit_encodr'; did you mean vit_encoder"):
        build_base(BaseRequest(model=named(tiny), layer="vit_encodr"))
    with pytest.raises(UsageError, match="--weights x.h5: .* holds its own weights"):
        BaseRequest(model=named(tiny), weights="x.h5")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot get the preset"):
        load_backbone(named(tmp_path / "empty"))


def test_a_damaged_stored_copy_is_refused(tiny, tmp_path):
    built = build_base(BaseRequest(model=named(tiny)))
    save_base(built, tmp_path / "base.keras")
    data = (tmp_path / "base.keras").read_bytes()
    (tmp_path / "base.keras").write_bytes(data.replace(b'"num_heads": 2', b'"num_heads": 1'))
    with pytest.raises(CorruptStore, match="stored base"):
        load_base(tmp_path / "base.keras", built.spec)


def test_a_preset_that_cannot_be_downloaded_names_the_ways_out(monkeypatch):
    preset._downloaded.cache_clear()

    def fail(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("keras_hub.src.utils.preset_utils.get_file", fail)
    with pytest.raises(UsageError, match="no route to host.*network.*give kerashub:FOLDER"):
        BaseRequest(model="kerashub:dinov2_small").digest  # noqa: B018


def test_a_download_counts_by_its_version(monkeypatch, tmp_path):
    preset._downloaded.cache_clear()
    file = tmp_path / "3" / "config.json"
    monkeypatch.setattr("keras_hub.src.utils.preset_utils.get_file", lambda *_: str(file))
    assert located("kerashub:hf://someone/net").version == "hf://someone/net@3"
    preset._downloaded.cache_clear()


def test_without_keras_hub_the_extra_is_named(tiny):
    script = (
        "import sys; sys.modules['keras_hub'] = None; from classifier import bases\n"
        "from featurestore.cli.command import main\n"
        f"sys.argv = ['bases', {named(tiny)!r}]; main(bases.run)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "pip install 'hoarfrost[kerashub]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
