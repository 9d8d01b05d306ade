"""Epochs of labelled rows: every row once, divided without overlap, in an order that is known."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.increments import build
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore.epochs import EpochOptions, Epochs, Shard
from featurestore.errors import UsageError
from featurestore.labels.overlay import write_overlay

CHUNKS = (7, 1, 300, 25, 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Rows whose features are their numbers, in parts of uneven size."""
    store = make_store(tmp_path_factory.mktemp("epochs") / "store")
    start = 0
    for count in CHUNKS:
        numbers = np.arange(start, start + count, dtype=np.float32)
        add_chunk(store, make_rows(count, start), np.repeat(numbers[:, None], 8, axis=1))
        start += count
    return store


def numbers_of(batches):
    """The rows' numbers, in order; their labels are what `make_rows` gave them."""
    found = []
    for features, labels in batches:
        assert features.dtype == np.float32 and labels.dtype == np.int64
        np.testing.assert_array_equal(features[:, 0].astype(int) % 3, labels)
        found += features[:, 0].astype(int).tolist()
    return found


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    ranks=st.integers(1, 5),
    workers=st.integers(1, 4),
    batch_size=st.sampled_from([1, 7, 64, 500]),
    epoch=st.integers(0, 2),
    shuffle=st.booleans(),
    memory=st.sampled_from([1, 3000, 1 << 28]),
)
def test_readers_share_an_epoch(store, ranks, workers, batch_size, epoch, shuffle, memory):
    epochs = Epochs.of(store, EpochOptions(["train"], shuffle=shuffle, seed=3, memory=memory))
    found, sizes = [], []
    for rank in range(ranks):
        sizes.append(0)
        for worker in range(workers):
            shard = Shard(rank, ranks, worker=worker, workers=workers)
            batches = list(epochs.batches(batch_size, epoch, shard))
            # Only the last batch of a rank is not full.
            assert all(len(labels) == batch_size for _, labels in batches[:-1])
            own = numbers_of(batches)
            assert own == numbers_of(epochs.batches(batch_size, epoch, shard))
            found += own
            sizes[-1] += len(own)
    assert sorted(found) == list(range(0, sum(CHUNKS), 4)) and len(found) == len(epochs)
    assert max(sizes) - min(sizes) <= 1
    if not shuffle:
        assert found == sorted(found)


def test_even_ranks_leave_out_other_rows_each_epoch(store):
    epochs = Epochs.of(store, EpochOptions())
    left = []
    for epoch in range(6):
        shares = [numbers_of(epochs.batches(50, epoch, Shard(rank, 4, True))) for rank in range(4)]
        assert {len(share) for share in shares} == {sum(CHUNKS) // 4}
        left.append(set(range(sum(CHUNKS))) - set(sum(shares, [])))
    assert {len(rows) for rows in left} == {1} and len(set.union(*left)) > 1


def test_an_order_follows_from_seed_and_epoch(store):
    def order(seed, epoch):
        # A pool of one row: parts and row groups alone change places.
        return numbers_of(Epochs.of(store, EpochOptions(seed=seed, memory=1)).batches(9, epoch))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*each)) for each in [(0, 0), (0, 1), (1, 0)]}) == 3
    mixed = numbers_of(Epochs.of(store, EpochOptions()).batches(sum(CHUNKS)))
    # Independent uniform places correlate by 1 / sqrt(n) or so.
    assert abs(np.corrcoef(mixed, np.arange(len(mixed)))[0, 1]) < 0.2


def test_what_counts_now_is_what_an_epoch_has(tmp_path):
    store = build(tmp_path / "store")
    epochs = Epochs.of(store, EpochOptions(shuffle=False))
    loaded = store.load()
    features, labels = next(epochs.batches(len(epochs)))
    np.testing.assert_array_equal(features, loaded["features"])
    assert [epochs.classes[number] for number in labels] == [row[0] for row in loaded["labels"]]
    assert "relabelled" in epochs.classes
    # What is committed and relabelled later is for epochs that are made later.
    add_chunk(store, make_rows(3, 900), np.zeros((3, 8), np.float32), run_id="2027")
    write_overlay(store.storage, iter([("00008.png", ["later"], "test")]))
    _, again = next(pickle.loads(pickle.dumps(epochs.reconnected())).batches(len(epochs)))
    np.testing.assert_array_equal(again, labels)
    assert len(Epochs.of(store)) == len(epochs) + 3


def test_rows_that_are_left_out_are_counted(tmp_path):
    store = make_store(tmp_path / "store")
    rows = make_rows(8)
    rows[2]["labels"], rows[5]["view"] = [], 1
    add_chunk(store, rows, np.zeros((8, 8), np.float32))
    with pytest.warns(UserWarning, match="3 rows of other classes and 1 rows without a label are"):
        epochs = Epochs.of(store, EpochOptions(classes=["2", "0"], views=None))
    assert dict(epochs.left_out) == {"of other classes": 3, "without a label": 1}
    assert len(epochs) == 4 and epochs.classes == ("2", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Epochs.of(store, EpochOptions(splits=["train"]))) == 2


def test_several_labels(tmp_path):
    store = make_store(tmp_path / "store", make_spec((2, 2, 3), "float16"))
    rows = make_rows(3)
    rows[1]["labels"] = ["a", "0"]
    add_chunk(store, rows, np.ones((3, 2, 2, 3), np.float32))
    with pytest.raises(UsageError, match="a row has 2: 'a', '0'; ask for multi_label=True"):
        Epochs.of(store)
    epochs = Epochs.of(store, EpochOptions(multi_label=True, shuffle=False))
    features, labels = next(epochs.batches(3))
    assert features.dtype == np.float16 and features.shape == (3, 2, 2, 3)
    assert epochs.classes == ("0", "2", "a")
    assert labels.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_mistakes_are_one_line(store):
    with pytest.raises(
        UsageError, match=r"no labelled rows of splits \['val'\]; its splits.*'train'"
    ):
        Epochs.of(store, EpochOptions(splits=["val"]))
    for wrong, why in (
        (lambda: EpochOptions(classes="cat"), "classes must be a list of names, got 'cat'"),
        (lambda: EpochOptions(classes=["a", "a"]), "'a' is there twice"),
        (lambda: Epochs.of(store, EpochOptions(splits="train")), "splits must be a list"),
        (lambda: Shard(2, 2), "rank 2 of 2"),
        (lambda: Shard(worker=-1, workers=1), "worker -1 of 1"),
        (lambda: next(Epochs.of(store).batches(0)), "batch_size must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=why):
            wrong()


def test_an_epoch_takes_bounded_memory(tmp_path, monkeypatch):
    """A store of 66 MB in row groups of 1.6 MB, shuffled in pools of 8 MB."""
    monkeypatch.setattr("featurestore.writer.ROW_GROUP_ROWS", (16, 64))
    store = make_store(tmp_path / "store", make_spec((5, 5, 512), "float16"))
    features = np.zeros((640, 5, 5, 512), np.float32)
    for start in range(0, 2560, 640):
        add_chunk(store, make_rows(640, start), features)
    del features
    epochs = Epochs.of(store, EpochOptions(memory=8 << 20))
    assert len(epochs.places) == 40
    tracemalloc.start()
    rows = sum(len(labels) for _, labels in epochs.batches(32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The pool, its batches that the caller still holds, and three row groups ahead.
    assert rows == 2560 and peak < 30 << 20
