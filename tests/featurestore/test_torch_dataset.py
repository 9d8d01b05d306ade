"""A store as a dataset of PyTorch, in real loaders: workers, spawn, ranks and persistent epochs."""

import sys

import numpy as np
import pytest
from support.clusters import free_port
from support.optional import optional, unrequired
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore import open_store
from featurestore.errors import UsageError
from featurestore.torch import dataset

ROWS, PARTS = 90, 4


@pytest.fixture
def store(tmp_path):
    store = make_store(tmp_path / "store")
    for start in range(0, ROWS * PARTS, ROWS):
        numbers = np.arange(start, start + ROWS, dtype=np.float32)
        add_chunk(store, make_rows(ROWS, start), np.repeat(numbers[:, None], 8, axis=1))
    return store


@pytest.fixture
def torch():
    # PyTorch is an extra that CI does not have; `test_epochs` tests what it is fed there.
    return unrequired("torch")


def test_without_pytorch_the_error_says_what_to_do(store, monkeypatch):
    monkeypatch.delitem(sys.modules, "featurestore.torch.stored", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install 'hoarfrost\[torch\]'"):
        dataset(store)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("workers, start", [(0, None), (3, "fork"), (2, "spawn")])
def test_every_row_once_an_epoch(store, torch, workers, start, batch_size):
    data = dataset(store.with_cache(), batch_size=batch_size, splits=["train"])
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=7 if batch_size is None else None,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=workers > 0,
    )
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        numbers = []
        for features, labels in loader:
            assert (features.dtype, labels.dtype) == (torch.float32, torch.int64)
            assert features.shape == (len(labels), 8)
            assert torch.equal(features[:, 0].long() % 3, labels)
            numbers += features[:, 0].int().tolist()
        assert sorted(numbers) == list(range(0, ROWS * PARTS, 4))
        orders.append(numbers)
    assert orders[0] == orders[2] != orders[1]
    assert len(data) == (ROWS if batch_size is None else 13)


def test_types_and_several_labels(tmp_path, torch):
    store = make_store(tmp_path / "store", make_spec((2, 2, 3), "float16"))
    rows = make_rows(3)
    rows[0]["labels"] = ["0", "1"]
    add_chunk(store, rows, np.ones((3, 2, 2, 3), np.float32))
    features, labels = next(iter(dataset(store, dtype="bfloat16", multi_label=True)))
    assert features.dtype == torch.bfloat16 and features.shape == (2, 2, 3)
    assert labels.dtype == torch.float32 and labels.shape == (3,)
    kept = next(iter(dataset(store, batch_size=3, dtype=torch.float16, multi_label=True)))[0]
    assert kept.dtype == torch.float16 and kept.shape == (3, 2, 2, 3)
    kept += 1  # a tensor of its own, not a stored page
    for wrong, why in (
        ({"dtype": "float23"}, "did you mean float16"),
        ({"batch_size": 0}, "batch_size must be at least 1, or None"),
        ({"shard": (2, 2)}, "rank 2 of 2"),
    ):
        with pytest.raises(UsageError, match=why):
            dataset(store, multi_label=True, **wrong)


def _rank(rank, url, port, results):
    import torch.distributed as processes

    address = f"tcp://127.0.0.1:{port}"
    processes.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    data = dataset(open_store(url), batch_size=16, even=True, splits=["train", None])
    loader = optional("torch.utils.data").DataLoader(data, batch_size=None, num_workers=2)
    results.put((len(data), sorted(int(x) for features, _ in loader for x in features[:, 0])))
    processes.destroy_process_group()


def test_ranks_share_an_epoch_without_being_told(store, torch):
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(_rank, (store.url, free_port(), results), nprocs=2)
    (count, one), (other_count, other) = results.get(), results.get()
    assert count == other_count == 6 and len(one) == len(other) == 90
    wanted = sorted([*range(0, ROWS * PARTS, 4), *range(3, ROWS * PARTS, 4)])
    assert sorted(one + other) == wanted
