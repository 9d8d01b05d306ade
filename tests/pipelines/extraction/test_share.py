import pytest
from support.optional import optional

from featurestore.errors import UsageError
from pipelines.extraction import share
from pipelines.extraction.share import (
    PROCESS_BYTES,
    PROCESSES,
    default_processes,
    lane_count,
    processes_for,
)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(share, "cores", lambda: 8)
    monkeypatch.delenv(PROCESSES, raising=False)


@pytest.mark.parametrize(
    ("processes", "lanes"), [(0, 8), (1, 8), (2, 4), (3, 2), (7, 1), (8, 1), (9, 1)]
)
def test_processes_share_the_cores_evenly(processes, lanes):
    assert lane_count(processes) == lanes


def test_the_machine_knows_better_than_the_driver(monkeypatch):
    monkeypatch.setenv(PROCESSES, "4")
    assert lane_count(1) == 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_number_of_processes_is_refused(monkeypatch, text):
    monkeypatch.setenv(PROCESSES, text)
    with pytest.raises(UsageError, match=f"{PROCESSES} must be the number.*{text}"):
        lane_count(1)


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (3, 3), (9, 8)])
def test_a_dask_worker_has_as_many_lanes_as_threads(threads, lanes):
    distributed = optional("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=threads, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(lane_count, 1).result(60) == lanes
    assert lane_count(1) == 8


PLENTY = 512 << 30


@pytest.mark.parametrize(
    ("lanes", "held", "processes"),
    [
        (1, PLENTY, 1),
        (15, PLENTY, 1),
        (16, PLENTY, 2),
        (23, PLENTY, 2),
        (24, PLENTY, 3),
        (64, PLENTY, 8),
        (64, 0, 1),
        (64, 3 * PROCESS_BYTES - 1, 2),
        (64, 3 * PROCESS_BYTES, 3),
    ],
)
def test_processes_are_as_many_as_the_lanes_need_and_the_memory_holds(lanes, held, processes):
    assert processes_for(lanes, held) == processes


@pytest.mark.parametrize(("device", "processes"), [("none", 4), ("cpu", 1)])
def test_a_device_has_one_process(monkeypatch, device, processes):
    monkeypatch.setenv("HOARFROST_DEVICE", device)
    monkeypatch.setattr(share, "cores", lambda: 32)
    monkeypatch.setattr(share, "memory", lambda: PLENTY)
    assert default_processes() == processes
