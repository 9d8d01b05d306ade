"""Heads and augmentations: a spelling is read back as it was, and nothing else ends badly."""

import re

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from classifier.heads.spec import ACTIVATIONS, METRICS, VOTES, HeadSpec, parse_head
from classifier.pixels.views import LAYERS, Views, canonical, parse_augment
from featurestore.errors import UsageError
from featurestore.units import shortest

fast = settings(max_examples=100, deadline=None, derandomize=True)

dropouts = st.floats(0, 1, exclude_max=True, allow_subnormal=True)
mlps = st.builds(
    HeadSpec, st.just("mlp"), st.integers(1, 1 << 20), st.sampled_from(ACTIVATIONS), dropouts
)
neighbours = st.builds(
    HeadSpec,
    st.just("knn"),
    neighbours=st.integers(1, 99_999),
    metric=st.sampled_from(METRICS),
    vote=st.sampled_from(VOTES),
)
penalties = st.lists(st.floats(0, 1e9), unique=True, max_size=6).map(tuple)
solved = st.builds(HeadSpec, st.sampled_from(["ridge", "logistic"]), l2=penalties)
heads = st.one_of(mlps, neighbours, solved, st.just(HeadSpec()))

words = (
    "linear mlp ridge logistic knn relu cosine euclidean weighted majority dropout dropout= "
    "dropout=0.5 dropout=nan dropout=-0.0 dropout=1 = : 0 1 007 256 1048577 ٣ -1 1e3 inf"
).split()
head_texts = st.lists(st.sampled_from([*words, "", " "]), max_size=5).map(":".join) | st.text(
    max_size=20
)


@fast
@given(heads)
def test_a_head_is_read_back_from_its_spelling(head):
    assert parse_head(str(head)) == head


@fast
@given(head_texts)
@example("mlp:8:dropout=0.5:dropout=0.5")
@example("mlp:1048577")
@example("knn:20:cosine:euclidean")
def test_a_head_is_read_or_refused_in_one_line(text):
    try:
        head = parse_head(text)
    except UsageError as error:
        assert str(error).startswith("--head") and "\n" not in str(error).replace(text, "")
    else:
        assert parse_head(str(head)) == head and str(parse_head(str(head))) == str(head)


@fast
@given(st.lists(heads, unique=True, min_size=2, max_size=8))
def test_no_two_heads_share_a_file_name(specs):
    slugs = {spec.slug for spec in specs}
    assert len(slugs) == len(specs)
    assert all(re.fullmatch(r"[a-z0-9.+-]+", slug) for slug in slugs), slugs


@fast
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back_from_its_shortest_spelling(value):
    assert float(shortest(value)) == value


factors = st.floats(-1, 1).map(shortest)
ranges = st.tuples(factors, factors).map(":".join)
any_factor = st.one_of(factors, ranges)
sides = st.integers(1, 23).map(str)
steps = st.one_of(
    st.sampled_from(["flip", "flip=", "flip=horizontal", "flip=vertical"]),
    st.builds("rotation={}".format, any_factor),
    st.builds("zoom={}".format, any_factor),
    st.builds("zoom={}x{}".format, any_factor, any_factor),
    st.builds("translation={}".format, any_factor),
    st.builds("translation={}x{}".format, any_factor, any_factor),
    st.builds("contrast={}".format, st.floats(0, 1).map(shortest)),
    st.builds("crop={}".format, sides),
    st.builds("crop={}x{}".format, sides, sides),
)
augments = st.lists(steps, min_size=1, max_size=4).map(",".join)
pieces = [
    *LAYERS,
    "=",
    ",",
    ":",
    "x",
    "0.1",
    "-0.3",
    "nan",
    "inf",
    "2",
    "160",
    "1e-3",
    "",
    " ",
    "²",
]
augment_texts = st.lists(st.sampled_from(pieces), max_size=8).map("".join) | st.text(max_size=20)


@fast
@given(augments)
def test_an_augmentation_is_read_back_from_its_spelling(text):
    read = parse_augment(text)
    assert parse_augment(canonical(text)) == read
    assert canonical(canonical(text)) == canonical(text)
    assert len(read) == text.count(",") + 1


@fast
@given(augments, st.sampled_from([",", ", ", " ,  "]))
def test_spaces_and_the_sign_of_a_symmetric_factor_do_not_matter(text, comma):
    spaced = text.replace(",", comma)
    assert parse_augment(spaced) == parse_augment(text)
    flipped = re.sub(r"^(rotation|zoom|translation)=(-?)([^:x,]+)$", r"\1=-\3", text)
    if "--" not in flipped:
        assert parse_augment(flipped) == parse_augment(text)


@fast
@given(augment_texts)
@example("crop=²")
@example("zoom=0.1x0.2x0.3")
@example("translation=0.1x")
def test_an_augmentation_is_read_or_refused_in_one_line(text):
    try:
        read = parse_augment(text)
    except UsageError as error:
        assert str(error).startswith("--augment") and "\n" not in str(error).replace(text, "")
    else:
        assert parse_augment(canonical(text)) == read


hashes = st.integers(0, (1 << 256) - 1).map("{:064x}".format)


@settings(fast, max_examples=50)
@given(augments, hashes, st.integers(0, 1 << 31), st.integers(1, 127))
def test_a_view_depends_on_seed_content_and_number_only(text, content, seed, view):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 28, 3), np.uint8)
    before = pixels.copy()
    few, many = Views.parse(text, view + 1, seed, (24, 28)), Views.parse(text, 128, seed, (24, 28))
    made = few.make(pixels, content, view)
    many.make(pixels, content, (view + 1) % 128)
    assert made.shape == pixels.shape and made.dtype == np.uint8
    np.testing.assert_array_equal(made, many.make(pixels, content, view))
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(few.make(pixels, content, 0), pixels)
