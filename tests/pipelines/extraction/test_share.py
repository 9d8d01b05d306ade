import pytest
from support.optional import optional

from featurestore.errors import UsageError
from pipelines.extraction import share
from pipelines.extraction.share import PROCESSES, lane_count


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
