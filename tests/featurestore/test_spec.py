"""The spec: identity, numerics, refusal with the difference, damage noticed."""

import dataclasses
import json

import pytest
from support.stores import make_spec

from featurestore.errors import CorruptStore, SpecMismatch, UsageError
from featurestore.spec import Numerics, PixelSpec, StoreSpec


def test_json_round_trip_keeps_everything():
    spec = make_spec((5, 5, 512), "float16")
    assert StoreSpec.from_json(spec.to_json(), "here") == spec


def test_identity_ignores_numerics_request_and_names():
    spec = make_spec()
    other = dataclasses.replace(
        spec,
        numerics=Numerics("openvino", "int8", "x"),
        base=dataclasses.replace(spec.base, request="other", model="renamed", weights="elsewhere"),
    )
    assert other.identity_hash == spec.identity_hash
    spec.require_same(other, "the store")


def test_identity_hash_is_stable_over_releases():
    # A change of this value makes every existing store foreign: it must be meant.
    assert make_spec().identity_hash == "53ffbc2a9257a878"


def test_mismatch_lists_every_field_with_both_values():
    spec = make_spec()
    other = dataclasses.replace(
        spec,
        pixels=PixelSpec((150, 150), fit="crop"),
        base=dataclasses.replace(spec.base, weights_hash="1" * 32, model="Xception"),
    )
    with pytest.raises(SpecMismatch) as caught:
        spec.require_same(other, "the store at s")
    message = str(caught.value)
    assert "image_size: 32x32 -> 150x150" in message
    assert "fit: squash -> crop" in message
    assert "VGG16 none 00000000 -> Xception none 11111111" in message
    assert "another --output" in message


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 99}', "not json"]
)
def test_a_file_that_is_no_spec_is_named(text):
    with pytest.raises(CorruptStore, match="store.json"):
        StoreSpec.from_json(text, "store.json")


def test_an_edited_spec_is_noticed():
    record = json.loads(make_spec().to_json())
    record["base"]["pooling"] = "avg"
    with pytest.raises(CorruptStore, match="edited"):
        StoreSpec.from_json(json.dumps(record), "store.json")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"fit": "stretch"}, "--fit: unknown value 'stretch'"),
        ({"resize": "lanczos"}, "--resize"),
        ({"alpha": "keep"}, "--alpha"),
        ({"exif": "yes"}, "--exif"),
        ({"image_size": (0, 5)}, "--image_size"),
        ({"image_size": (5000, 5)}, "--image_size"),
    ],
)
def test_pixel_options_check_themselves(change, words):
    with pytest.raises(UsageError, match=words):
        PixelSpec(**{"image_size": (8, 8), **change})


def test_feature_sizes():
    assert make_spec((5, 5, 512), "float16").feature_bytes == 25_600
    assert make_spec((5, 5, 512), "float32").feature_bytes == 51_200
    # Embeddings keep the float32 type whatever the dtype: readers refuse float16 columns.
    assert make_spec((512,), "float16").feature_bytes == 2_048
