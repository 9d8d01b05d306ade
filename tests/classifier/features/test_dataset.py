"""Which rows train and validate a head, and how they reach Keras; `make_store` for other tests."""

import numpy as np
import pytest
from support.features import hash_of, make_store, numbered, row_numbers, spec_of

from classifier.features.dataset import epoch_batches, labelled_batches, load_rows
from classifier.features.division import class_weights, divide, tally
from classifier.features.order import Order, Rows
from classifier.features.selection import Selection
from featurestore import UsageError
from featurestore.reading.pool import cut


def test_a_given_validation_split_is_used_as_it_is(tmp_path):
    splits = ["train"] * 6 + ["validation"] * 3 + ["test"] * 2 + [None]
    store = make_store(tmp_path, numbered(12), ["a", "b"] * 6, splits)
    division = divide(store)
    assert division.classes == ("a", "b") and division.carve == ""
    assert division.train_counts.tolist() == [3, 3]
    assert division.validation_counts.tolist() == [2, 1]
    assert division.notes == ("1 rows without a split are left out",)
    batches = epoch_batches(store, division.classes, division.validation, batch_size=2)
    assert row_numbers(batches) == [6, 7, 8]


@pytest.mark.parametrize("splits", [None, ["train"] * 200])
def test_a_fifth_of_train_is_carved_out(tmp_path, splits):
    store = make_store(tmp_path, numbered(200), ["a", "b"] * 100, splits)
    division = divide(store)
    train = row_numbers(epoch_batches(store, "ab", division.train, batch_size=64))
    validation = row_numbers(epoch_batches(store, "ab", division.validation, batch_size=64))
    assert sorted(train + validation) == list(range(200))
    assert 25 <= len(validation) <= 55
    assert len(train) == division.train_counts.sum()
    assert len(validation) == division.validation_counts.sum()


def test_the_carve_never_splits_duplicates_or_views(tmp_path):
    hashes = [hash_of(number // 4) for number in range(400)]
    views = [number % 2 for number in range(400)]
    spec = spec_of((3,), views=2, augment="flip")
    store = make_store(
        tmp_path, numbered(400), ["a", "b"] * 200, spec=spec, content_hash=hashes, view=views
    )
    division = divide(store)
    sides = [
        {hashes[n] for n in row_numbers(epoch_batches(store, "ab", side, batch_size=50))}
        for side in (division.train, division.validation)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    validation = row_numbers(epoch_batches(store, "ab", division.validation, batch_size=50))
    assert {views[number] for number in validation} == {0}


def test_the_carve_is_the_same_in_a_larger_store(tmp_path):
    small = make_store(tmp_path / "small", numbered(100), ["a", "b"] * 50)
    large = make_store(tmp_path / "large", numbered(150), ["a", "b"] * 75)
    chosen = [
        row_numbers(epoch_batches(store, "ab", divide(store).validation, batch_size=50))
        for store in (small, large)
    ]
    assert chosen[0] == [number for number in chosen[1] if number < 100]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_few_images_still_give_both_sides(tmp_path, count):
    store = make_store(tmp_path, numbered(count), ["a", "b", "a", "b", "a"][:count])
    division = divide(store)
    assert division.train_counts.sum() >= 1 and division.validation_counts.sum() >= 1
    assert division.train_counts.sum() + division.validation_counts.sum() == count


@pytest.mark.parametrize(
    ("labels", "splits", "hashes", "message"),
    [
        ([], None, [], "has no rows; extract images"),
        (
            ["a", "b"],
            ["test", "test"],
            ["0" * 32, "f" * 32],
            "no training rows; its splits are test",
        ),
        ([[], []], None, ["0" * 32, "f" * 32], "none of the 2 training rows .* has a label"),
        (["a", "b"], None, ["0" * 32] * 2, "at least 2 different labelled images"),
        (["a", "c"], ["train", "validation"], ["0" * 32, "f" * 32], "no row of a class that is"),
    ],
)
def test_what_cannot_be_trained_on_is_said_in_one_line(tmp_path, labels, splits, hashes, message):
    store = make_store(tmp_path, numbered(len(labels)), labels, splits, content_hash=hashes)
    with pytest.raises(UsageError, match=message) as error:
        divide(store)
    assert "\n" not in str(error.value)


def test_rows_left_out_are_counted(tmp_path):
    labels = ["a", "b", [], "b", "a", "new", [], "a"]
    splits = ["train"] * 4 + ["validation"] * 4
    division = divide(make_store(tmp_path, numbered(8), labels, splits))
    assert division.notes == (
        "1 training rows without a label are left out",
        "1 validation rows without a label are left out",
        "1 validation rows are of classes never trained: new",
        "no validation rows of b",
    )
    assert division.train_counts.tolist() == [1, 2]


@pytest.mark.parametrize("batch_size", [1, 9, 10, 11, 20])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_row_comes_once_an_epoch(tmp_path, batch_size, seed, in_memory):
    store = make_store(tmp_path, numbered(10), ["a", "b"] * 5, rows_per_part=4)
    source = load_rows(store, "ab", Selection(), 10) if in_memory else store

    def epoch(number):
        order = None if seed is None else Order(seed, number)
        return list(
            epoch_batches(
                source, "ab", Selection(), batch_size=batch_size, order=order, pool_bytes=96
            )
        )

    sizes = [len(rows.labels) for rows in epoch(0)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == 10
    for rows in epoch(0):
        assert rows.features.dtype == "float32" and rows.labels.dtype == "int64"
        np.testing.assert_array_equal(rows.features[:, 0] % 2, rows.labels)
    epochs = [row_numbers(epoch(number)) for number in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    if seed is None:
        assert epochs[0] == list(range(10))
    else:
        assert epochs[0] != list(range(10)) and epochs[0] != epochs[1]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_seed_decides_the_order(tmp_path, in_memory):
    store = make_store(tmp_path, numbered(30), ["a", "b"] * 15)
    source = load_rows(store, "ab", Selection(), 30) if in_memory else store

    def order(seed):
        np.random.seed(0)  # which no order may hang on
        return row_numbers(
            epoch_batches(source, "ab", Selection(), batch_size=4, order=Order(seed))
        )

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("shuffled", [True, False])
def test_cut_drops_nothing_at_any_size(count, shuffled):
    blocks = (
        Rows(numbered(count)[at : at + 3], np.arange(at, min(at + 3, count)))
        for at in range(0, count, 3)
    )
    rng = np.random.default_rng(0) if shuffled else None
    batches = list(cut(blocks, 4, 6, rng))
    labels = [int(label) for batch in batches for label in batch.labels]
    assert sorted(labels) == list(range(count))
    assert all(len(batch.labels) == 4 for batch in batches[:-1])
    for batch in batches:
        np.testing.assert_array_equal(batch.features[:, 0], batch.labels)


def test_maps_stay_float16_in_memory(tmp_path):
    spec = spec_of((2, 2, 3), dtype="float16")
    features = np.arange(72, dtype=np.float32).reshape(6, 2, 2, 3)
    store = make_store(tmp_path, features, ["a", "b"] * 3, spec=spec)
    rows = load_rows(store, "ab", Selection(), 6)
    assert rows.features.dtype == np.float16
    for source in (rows, store):
        (batch,) = epoch_batches(source, "ab", Selection(), batch_size=6)
        assert batch.features.dtype == np.float16
        np.testing.assert_array_equal(batch.features, features)


def test_loading_takes_no_more_rows_than_were_counted(tmp_path):
    store = make_store(tmp_path, numbered(10), ["a", "b"] * 5, rows_per_part=4)
    assert load_rows(store, "ab", Selection(), 7).features[:, 0].tolist() == list(range(7))


def test_unlabelled_and_foreign_rows_are_not_yielded(tmp_path):
    store = make_store(tmp_path, numbered(4), ["a", [], "z", "b"])
    found = [
        int(label) for rows in labelled_batches(store, "ab", Selection()) for label in rows.labels
    ]
    assert found == [0, 1]
    counted = tally(store, Selection())
    assert counted.unlabelled == 1 and dict(counted.labels) == {"a": 1, "z": 1, "b": 1}


def test_balanced_weights_average_one_over_rows():
    counts = np.array([30, 10, 0])
    weights = class_weights(counts)
    assert weights[2] == 0
    assert sum(weights[i] * counts[i] for i in range(3)) == pytest.approx(40)
    assert weights[1] == 3 * weights[0]


def test_rows_with_several_labels_are_counted_by_label_and_refused_when_told(tmp_path):
    splits = ["train", "train", "train", "validation", "validation"]
    labels = [["a"], ["a", "b"], [], ["b", "new"], ["new"]]
    store = make_store(tmp_path, numbered(5), labels, splits)
    division = divide(store)
    assert division.multi_label and division.rows == (2, 1)
    assert division.train_counts.tolist() == [2, 1]
    rows = load_rows(store, division.classes, division.validation, 1)
    assert rows.labels.tolist() == [[0, 1]]
    with pytest.raises(UsageError, match="one label per row is needed here, and a row has 2"):
        divide(store, "off")
