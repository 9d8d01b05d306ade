"""The order of an epoch: how well it mixes, which views it takes, and that it can be repeated."""

import tracemalloc

import numpy as np
import pytest
from support.features import hash_of, make_store, numbered, row_numbers, spec_of

from classifier.features.dataset import epoch_batches, epoch_blocks, epoch_index, load_rows
from classifier.features.division import divide
from classifier.features.order import LONE_VIEW, Order, Rows
from classifier.features.selection import Selection
from featurestore.reading.pool import cut

CLASSES = [f"class {number}" for number in range(10)]


def sorted_store(folder, count=6000, rows_per_part=100):
    """A store as a folder of class folders leaves it: all of one class, then all of the next."""
    labels = [CLASSES[number * 10 // count] for number in range(count)]
    return make_store(folder, numbered(count), labels, rows_per_part=rows_per_part)


def excess(batches, size):
    """How far batches are from fair draws: the variance of class counts over what chance gives."""
    counts = np.array([np.bincount(labels, minlength=10) for labels in batches])
    fair = size * 0.1 * 0.9
    return float(((counts - size * 0.1) ** 2).mean() / fair)


@pytest.mark.parametrize("epoch", [0, 1])
def test_batches_of_a_store_sorted_by_class_are_nearly_fair_draws(tmp_path, epoch):
    store = sorted_store(tmp_path)
    order, size = Order(5, epoch), 50
    # Blocks are of 100 rows and the pool holds twelve of them, a fifth of the store.
    blocks = epoch_blocks(store, CLASSES, Selection(), order)
    mixed = [rows.labels for rows in cut(blocks, size, 1200, order.rng())]
    stored = epoch_blocks(store, CLASSES, Selection(), None)
    by_pool_alone = [rows.labels for rows in cut(stored, size, 1200, order.rng())]
    assert sorted(np.concatenate(mixed)) == sorted(np.concatenate(by_pool_alone))
    assert excess(mixed, size) < 5
    assert excess(by_pool_alone, size) > 12


def test_a_pool_keeps_within_its_memory():
    """Every row is there twice at most while a pool of half the memory is shuffled."""
    width, pool_rows, held = 1000, 2000, 0

    def blocks():
        for number in range(40):
            yield Rows(np.full((250, width), number, np.float32), np.zeros(250, np.int64))

    tracemalloc.start()
    for rows in cut(blocks(), 50, pool_rows, np.random.default_rng(0)):
        held += len(rows.labels)
        del rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held == 10_000
    # And a block or two on their way in.
    assert peak < 2.4 * pool_rows * width * 4


def test_two_epochs_put_other_rows_together(tmp_path):
    store = sorted_store(tmp_path, 2000)
    size = 50

    def batch_of(epoch):
        order = Order(5, epoch)
        blocks = epoch_blocks(store, CLASSES, Selection(), order)
        place = np.empty(2000, int)
        for number, rows in enumerate(cut(blocks, size, 200, order.rng())):
            place[rows.features[:, 0].astype(int)] = number
        return place

    first, second = batch_of(0), batch_of(1)
    pairs = np.random.default_rng(0).integers(2000, size=(200_000, 2))
    together = first[pairs[:, 0]] == first[pairs[:, 1]]
    again = (second[pairs[:, 0]] == second[pairs[:, 1]])[together & (pairs[:, 0] != pairs[:, 1])]
    # By chance a fortieth; rows of one part stay near each other, and more often meet.
    assert again.mean() < 0.35


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_epochs_order_needs_only_the_seed_and_its_number(tmp_path, in_memory):
    store = make_store(tmp_path, numbered(60), ["a", "b"] * 30, rows_per_part=7)
    source = load_rows(store, "ab", Selection(), 60) if in_memory else store

    def epochs(seed):
        orders = [Order(seed, epoch) for epoch in range(3)]
        return [
            row_numbers(
                epoch_batches(source, "ab", Selection(), batch_size=8, order=order, pool_bytes=400)
            )
            for order in orders
        ]

    assert epochs(1) == epochs(1)
    assert epochs(1)[1] != epochs(2)[1]
    assert len({tuple(order) for order in epochs(1)}) == 3


def store_of_views(folder, images=50, views=4, **columns):
    """Features tell image and view: view + 10 * image."""
    rows = images * views
    number = np.arange(rows)
    features = np.repeat((10 * (number // views) + number % views)[:, None], 3, axis=1)
    columns = {
        "key": [f"{n // views:03d}.png" for n in number],
        "content_hash": [hash_of(n // views) for n in number],
        "view": (number % views).tolist(),
        **columns,
    }
    spec = spec_of((3,), views=views, augment="flip")
    labels = ["ab"[n // views % 2] for n in number]
    return make_store(
        folder, features.astype(np.float32), labels, spec=spec, rows_per_part=30, **columns
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_epoch_sees_every_image_once_and_every_view_in_turn(tmp_path, in_memory):
    store = store_of_views(tmp_path)
    division = divide(store)
    images = int(division.train_counts.sum())
    assert division.stored_rows == 4 * images
    source = store
    if in_memory:
        source = load_rows(store, "ab", division.train, division.stored_rows)
    orders = [Order(3, epoch, views=4) for epoch in range(8)]
    epochs = [
        row_numbers(epoch_batches(source, "ab", division.train, batch_size=8, order=order))
        for order in orders
    ]
    for rows in epochs:
        assert len(rows) == images == len({row // 10 for row in rows})
        assert len({row % 10 for row in rows}) == 4
    assert sorted(sum(epochs[:4], [])) == sorted(sum(epochs[4:], []))
    assert len(set(sum(epochs[:4], []))) == 4 * images


def test_validation_sees_the_images_as_they_are(tmp_path):
    store = store_of_views(tmp_path)
    division = divide(store)
    rows = row_numbers(epoch_batches(store, "ab", division.validation, batch_size=8))
    assert {row % 10 for row in rows} == {0}
    assert len(rows) == division.validation_counts.sum()


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_without_its_views_is_seen_as_it_is_in_every_epoch(tmp_path, in_memory):
    # Images 0 to 9 were of the test split when they were extracted, and have view 0 only.
    key = [f"{n:03d}.png" for n in range(10)] + [f"{10 + n // 2:03d}.png" for n in range(40)]
    view = [0] * 10 + [n % 2 for n in range(40)]
    spec = spec_of((3,), views=2, augment="flip")
    labels = ["ab"[int(name[:3]) % 2] for name in key]
    content = [hash_of(name) for name in key]
    store = make_store(
        tmp_path,
        numbered(50),
        labels,
        ["train"] * 48 + ["validation"] * 2,
        spec=spec,
        key=key,
        view=view,
        content_hash=content,
    )
    division = divide(store)
    assert division.train.lone == {f"{n:03d}.png" for n in range(10)}
    assert division.train_counts.sum() == 29 and division.stored_rows == 48
    source = store
    if in_memory:
        source = load_rows(store, "ab", division.train, division.stored_rows)
        assert (source.view[:10] == LONE_VIEW).all()
    for epoch in range(3):
        order = Order(3, epoch, views=2)
        rows = row_numbers(epoch_batches(source, "ab", division.train, batch_size=8, order=order))
        assert len(rows) == 29 and set(range(10)) <= set(rows)


def test_views_start_evenly_whatever_the_contents_are():
    content = np.arange(8000, dtype=np.uint32)
    taken = [
        Order(1, views=8).takes(content, np.full(8000, view, np.int8)).sum() for view in range(8)
    ]
    assert sum(taken) == 8000
    assert 850 < min(taken) and max(taken) < 1150


def test_an_epoch_of_no_rows_is_empty():
    nothing = Rows(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert len(epoch_index(nothing, Order(0))) == 0
