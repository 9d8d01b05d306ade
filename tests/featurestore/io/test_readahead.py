"""Tasks run ahead in threads, in order, in bounded number."""

import threading
from functools import partial

import numpy as np
import pytest
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore.io.readahead import in_order, interleaved


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 20])
def test_results_come_in_order(threads, count):
    tasks = [partial(int, str(number)) for number in range(count)]
    assert list(in_order(tasks, threads)) == list(range(count))


def test_no_more_tasks_are_drawn_than_threads_and_one():
    drawn = []

    def tasks():
        for number in range(20):
            drawn.append(number)
            yield partial(int, number)

    for taken, _ in enumerate(in_order(tasks(), 3), 1):
        assert len(drawn) <= taken + 3


def test_tasks_run_at_the_same_time():
    barrier = threading.Barrier(2, timeout=30)
    assert list(in_order([lambda: barrier.wait() >= 0] * 2, 2)) == [True, True]


def test_an_error_comes_in_its_place_and_ends_the_threads():
    before = threading.active_count()
    tasks = [partial(int, "1"), partial(int, "x"), partial(int, "3")]
    results = in_order(tasks, 2)
    assert next(results) == 1
    with pytest.raises(ValueError, match="invalid literal"):
        next(results)
    assert threading.active_count() == before


def test_leaving_a_scan_half_way_ends_its_threads(tmp_path):
    store = make_store(tmp_path / "s")
    for start in range(0, 40, 10):
        add_chunk(store, make_rows(10, start), np.ones((10, 8), np.float32))
    before = threading.active_count()
    scan = store.scan()
    next(scan)
    scan.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("shape, dtype", [((8,), "float32"), ((2, 2, 3), "float16")])
def test_a_remote_part_is_read_by_turns(tmp_path, shape, dtype):
    store = make_store(f"memory://{tmp_path.name}", make_spec(shape, dtype))
    values = np.random.default_rng(0).normal(size=(2100, *shape)).astype(np.float32)
    for start in range(0, 2100, 700):
        add_chunk(store, make_rows(700, start), values[start : start + 700])
    got = store.load(["key", "features"], labels=["1", "2"])
    assert list(got["key"]) == [row["key"] for row in make_rows(2100) if row["labels"] != ["0"]]
    expected = np.delete(values, np.s_[::3], axis=0).astype(dtype)
    np.testing.assert_array_equal(got["features"], expected)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 70])
def test_interleaving_opens_few_sources_and_drops_nothing(count):
    opened = []

    def source(number):
        opened.append(number)
        yield from [(number, step) for step in range(number % 3)]

    found = []
    for item in interleaved(map(source, range(count)), np.random.default_rng(0), at_once=4):
        found.append(item)
        finished = {n for n in opened if sum(1 for m, _ in found if m == n) == n % 3}
        assert len(opened) - len(finished) <= 4
    assert sorted(found) == [(n, step) for n in range(count) for step in range(n % 3)]


def test_interleaving_is_repeatable():
    def order(seed):
        sources = [iter([(n, step) for step in range(5)]) for n in range(10)]
        return list(interleaved(sources, np.random.default_rng(seed), at_once=4))

    assert order(1) == order(1) != order(2)
