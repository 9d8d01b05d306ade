"""The bases of a tournament, and the sample that they share."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import UsageError
from pipelines.ranking.entrants import entrants_of, per_group, sampled

SIZES = st.dictionaries(st.integers(0, 30), st.integers(1, 50), min_size=1)


@given(SIZES, st.integers(1, 400))
def test_a_sample_is_the_largest_that_takes_as_many_of_every_group(sizes, sample):
    def taken(most):
        return sum(min(size, most) for size in sizes.values())

    found = per_group(Counter(sizes), sample)
    if not found:
        assert sum(sizes.values()) <= sample
    else:
        assert found == 1 or taken(found) <= sample
        assert taken(found + 1) > sample


def test_a_base_has_the_commands_of_its_extraction_and_its_training():
    models = "VGG16:block4_pool,gs://bucket/nets/own.keras,MobileNetV2"
    first, second, third = entrants_of(models, ["in"], "out", ["extract.pooling=max"], 5)
    assert [one.name for one in (first, second, third)] == [
        "VGG16-block4_pool",
        "own.keras",
        "MobileNetV2",
    ]
    assert first.steps[0].typed == (
        "python -m pipelines.extract --input in --output out/VGG16-block4_pool/store --model VGG16 "
        "--layer block4_pool --pooling max --limit_per_class 5"
    )
    assert second.steps[0].value("--model") == "gs://bucket/nets/own.keras"
    assert third.steps[1].typed.endswith("--head ridge --head logistic")


@pytest.mark.parametrize(
    "typed, model, layer, name",
    [
        ("vit.onnx:/blocks.0/norm1/Add_output_0", "vit.onnx", "/blocks.0/norm1/Add_output_0",
         "vit.onnx-blocks.0-norm1-Add_output_0"),
        ("gs://b/vit.onnx:net/relu:0:cls", "gs://b/vit.onnx", "net/relu:0:cls",
         "vit.onnx-net-relu-0-cls"),
        ("a/own.keras:inner/last", "a/own.keras", "inner/last", "own.keras-inner-last"),
        ("s3://bucket/net.XML", "s3://bucket/net.XML", None, "net.XML"),
        ("gs://bucket/saved:8", "gs://bucket/saved", "8", "saved-8"),
    ],
)  # fmt: skip
def test_a_layer_of_a_file_may_hold_colons_and_slashes(typed, model, layer, name):
    (entrant,) = entrants_of(typed, ["in"], "out", [])
    assert entrant.name == name and entrant.steps[0].value("--model") == model
    given = "--layer" in entrant.steps[0].arguments
    assert (entrant.steps[0].value("--layer") if given else None) == layer


@pytest.mark.parametrize(
    "models, changes, expected",
    [
        ("VGG16,", [], "--models: a base between commas is empty in 'VGG16,'"),
        ("VGG16,VGG16", [], "--models: 'VGG16' would use the folder 'VGG16' a second time"),
        ("VGG16", ["export.format=keras"], "has no step 'export'; it has extract, train"),
        ("VGG16", ["train.haed=ridge"], "--set train.haed=ridge: key of train: unknown value"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(models, changes, expected):
    with pytest.raises(UsageError) as caught:
        entrants_of(models, ["in"], "out", changes)
    assert expected in str(caught.value)


def test_a_sample_of_shards_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    entrant = entrants_of("VGG16", [str(tmp_path)], "out", [])[0]
    assert sampled(entrant, [str(tmp_path)], 0) == 0
    with pytest.raises(UsageError, match="give --sample 0 to take whole shards"):
        sampled(entrant, [str(tmp_path)], 10)
