"""Stored features found by content: the right ones, and each row group decoded once."""

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore import reuse
from featurestore.reuse import StoredFeatures

SHAPES = [((8,), "float32"), ((2, 2, 3), "float16"), ((2, 2, 3), "float32")]


def content(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def filled(url, parts, rows, shape=(8,), dtype="float32", **options):
    """Makes a store whose row `n` has the content `n` and features of `n`."""
    store = make_store(url, make_spec(shape, dtype), **options)
    for part in range(parts):
        numbers = range(part * rows, (part + 1) * rows)
        made = [
            {**row, "content_hash": content(number)}
            for number, row in zip(numbers, make_rows(rows, part * rows), strict=True)
        ]
        add_chunk(store, made, features_of(numbers, shape))
    return store


def features_of(numbers, shape):
    values = np.array(list(numbers), np.float32) / 8
    return np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (len(values), *shape)).copy()


@pytest.mark.parametrize("shape, dtype", SHAPES)
@pytest.mark.parametrize("room", [0, reuse.KEPT_BYTES])
def test_features_are_those_of_the_content(tmp_path, monkeypatch, shape, dtype, room):
    monkeypatch.setattr(reuse, "KEPT_BYTES", room)
    found = StoredFeatures.of(filled(tmp_path / "s", 2, 300, shape, dtype))
    asked = [599, 0, 255, 10_000, 256, 300, 0, 299, -1]
    for _ in range(2):
        got = found.find([(content(number), 0) for number in asked])
        assert sorted(got) == [0, 1, 2, 4, 5, 6, 7]
        for place, features in got.items():
            assert features.dtype == np.float32 and features.shape == shape
            assert np.array_equal(features, features_of([asked[place]], shape)[0])
    assert found.find([(content(0), 1)]) == {}, "of another view"
    assert found.find([]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_each_row_group_is_decoded_once_whatever_the_order(tmp_path, seed):
    store = filled(tmp_path / "s", 4, 1_500)
    found = StoredFeatures.of(store)
    order = np.random.default_rng(seed).permutation(6_000)
    for batch in np.split(order, 60):
        got = found.find([(content(number), 0) for number in batch])
        assert len(got) == len(batch)
        assert all(got[i][0] == number / 8 for i, number in enumerate(batch))
    assert found.blocks.decoded == len(found.blocks.places) == 8


def test_row_groups_are_decoded_once_for_a_batch_where_there_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(reuse, "KEPT_BYTES", 0)
    found = StoredFeatures.of(filled(tmp_path / "s", 2, 1_500))
    found.find([(content(number), 0) for number in range(3_000)])
    assert found.blocks.decoded == 4


def test_a_full_disk_costs_time_and_nothing_else(tmp_path, monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    found = StoredFeatures.of(filled(tmp_path / "s", 1, 10))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for _ in range(2):
        assert found.find([(content(7), 0)])[0][0] == 7 / 8
    assert found.blocks.decoded == 2


def test_lanes_share_what_was_decoded(tmp_path):
    found = StoredFeatures.of(filled(tmp_path / "s", 2, 1_500))
    batches = np.random.default_rng(0).permutation(3_000).reshape(50, 60)

    def look_up(batch):
        got = found.find([(content(number), 0) for number in batch])
        return [float(got[place][0]) * 8 for place in range(len(batch))]

    with ThreadPoolExecutor(4) as lanes:
        assert np.array_equal(list(lanes.map(look_up, batches)), batches)
    assert found.blocks.decoded == 4


def test_views_of_a_content_have_features_of_their_own(tmp_path):
    store = make_store(tmp_path / "s", make_spec(views=3, augment="flip"))
    rows = [
        {**row, "content_hash": content(number), "view": view}
        for number, row in enumerate(make_rows(5))
        for view in range(3)
    ]
    add_chunk(store, rows, features_of(range(15), (8,)))
    found = StoredFeatures.of(store)
    got = found.find([(content(number), view) for number in range(5) for view in (0, 2, 3)])
    assert {place: float(values[0]) * 8 for place, values in got.items()} == {
        3 * number + at: 3 * number + view for number in range(5) for at, view in ((0, 0), (1, 2))
    }


def test_an_empty_store_knows_nothing(tmp_path):
    assert StoredFeatures.of(make_store(tmp_path / "s")).find([(content(0), 0)]) == {}


def test_contents_that_agree_in_their_first_half_are_never_mixed_up(tmp_path):
    store = make_store(tmp_path / "s", make_spec())
    hashes = ["ab" * 8 + f"{number:02x}" * 24 for number in range(3)]
    rows = [{**row, "content_hash": text} for row, text in zip(make_rows(3), hashes, strict=True)]
    add_chunk(store, rows, features_of(range(3), (8,)))
    got = StoredFeatures.of(store).find([(text, 0) for text in hashes])
    assert list(got) == [0] and got[0][0] == 0, "the others are computed again"


def test_the_first_of_equal_contents_counts(tmp_path):
    store = filled(tmp_path / "s", 1, 5)
    rows = [{**row, "content_hash": content(2)} for row in make_rows(1, 100)]
    add_chunk(store, rows, features_of([99], (8,)))
    assert StoredFeatures.of(store).find([(content(2), 0)])[0][0] == 2 / 8


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return StoredFeatures.of(filled(tmp_path_factory.mktemp("reuse") / "s", 3, 40))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(asked=st.lists(st.integers(-20, 140), max_size=50))
def test_any_batch_finds_what_is_stored_and_no_more(hundred, asked):
    got = hundred.find([(content(number), 0) for number in asked])
    assert {place: float(values[0]) * 8 for place, values in got.items()} == {
        place: number for place, number in enumerate(asked) if 0 <= number < 120
    }
