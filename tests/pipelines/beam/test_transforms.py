"""The Beam step around the extractor: two chunks under way, none lost, counted in Beam's thread."""

import threading
from types import SimpleNamespace

import pytest

from classifier.inputs import ImageRef
from featurestore.commit import Marker
from featurestore.errors import RunFailed
from pipelines.beam.transforms import ExtractChunk
from pipelines.planning.chunks import Chunk, Wanted
from pipelines.settings import WorkerSettings


class Counter:
    """A counter that works in the thread that made it only, as Beam's do."""

    def __init__(self) -> None:
        self.total, self._thread = 0, threading.get_ident()

    def inc(self, count: int) -> None:
        if threading.get_ident() == self._thread:
            self.total += count

    update = inc


def step(monkeypatch, extract) -> ExtractChunk:
    """The step on a worker whose extractor is `extract`; references are keys of single images."""
    from concurrent.futures import ThreadPoolExecutor

    done = ExtractChunk(WorkerSettings("store"))
    done._worker = SimpleNamespace(
        extractor=SimpleNamespace(extract=extract),
        feeders=ThreadPoolExecutor(4),
        report=lambda group: None,
    )
    done._folder = SimpleNamespace(write_dead=lambda chunk: done.dead.append(chunk.first))
    done.dead, done.good = [], []
    done._inferences, done._quarantined, done._latency = Counter(), Counter(), Counter()
    read = lambda key: Chunk((Wanted(ImageRef(key, f"file:///{key}", 1, "")),))  # noqa: E731
    monkeypatch.setattr(done, "read", read)
    done.start_bundle()
    return done


def results(done: ExtractChunk, keys: str) -> tuple[list[str], list[str]]:
    """Runs a bundle: (first keys of the committed chunks in order, of the dead chunks)."""
    counted = done.counted

    def noting(attempt):
        marker = counted(attempt)
        if marker:
            done.good.append(marker.first_key)
        return marker

    done.counted = noting
    assert [done.process(key) for key in keys] == [None] * len(keys)
    assert done.finish_bundle() is None, "Dask loses what a bundle yields at its end"
    return done.good, sorted(done.dead)


def marker_of(chunk, run_id, on_group) -> Marker:
    on_group(SimpleNamespace(computed=3, quarantined=["bad"], infer_seconds=[1e-6, 2e-6]))
    if chunk.first_key in "xyz":
        raise OSError("the shard is gone")
    return Marker(chunk.chunk_id, run_id, chunk.first_key)


@pytest.mark.parametrize("keys", ["", "a", "ab", "abcde", "x", "ax", "axbyc", "xyz"])
def test_every_chunk_of_a_bundle_comes_out_once_and_in_order(monkeypatch, keys):
    done = step(monkeypatch, marker_of)
    good, dead = results(done, keys)
    assert good == [key for key in keys if key not in "xyz"]
    assert dead == sorted(key for key in keys if key in "xyz")
    assert done._inferences.total == 3 * len(keys) and done._quarantined.total == len(keys)
    assert done._latency.total == (1 + 2) * len(keys), "each batch by itself"


def test_two_chunks_are_under_way_at_once(monkeypatch):
    meeting = threading.Barrier(2, timeout=30)

    def extract(chunk, run_id, on_group):
        meeting.wait()
        return marker_of(chunk, run_id, on_group)

    assert results(step(monkeypatch, extract), "abcd")[0] == list("abcd")


def test_a_failure_ends_the_bundle(monkeypatch):
    def extract(chunk, run_id, on_group):
        raise RunFailed("a feature value is beyond float16")

    with pytest.raises(RunFailed, match="float16"):
        results(step(monkeypatch, extract), "ab")


def test_dataflow_starts_one_process_a_machine():
    """Each of ours takes all cores; one for each of them would hold as many copies of the base."""
    from apache_beam.options.pipeline_options import DebugOptions

    from pipelines.beam.options import make_options

    for runner, wanted in (("DataflowRunner", ["no_use_multiple_sdk_containers"]), ("", [])):
        options = make_options([f"--runner={runner}"] if runner else [])
        assert (options.view_as(DebugOptions).experiments or []) == wanted


@pytest.mark.parametrize("asked, processes", [(0, 3), (1, 1), (5, 5)])
def test_all_cores_are_those_that_this_process_may_use(monkeypatch, asked, processes):
    """Beam counts the cores of the machine, which a container may not have."""
    from apache_beam.options.pipeline_options import DirectOptions

    from pipelines.beam import options as beam_options

    monkeypatch.setattr(beam_options, "cores", lambda: 3)
    flags = ["--direct_running_mode=multi_processing", f"--direct_num_workers={asked}"]
    options = beam_options.make_options(flags)
    assert options.view_as(DirectOptions).direct_num_workers == processes
    assert beam_options.process_count(options) == processes


@pytest.mark.parametrize(
    ("flags", "processes"),
    [
        ((), 4),
        (("--direct_num_workers=1",), 1),
        (("--direct_num_workers", "2", "--direct_running_mode=multi_processing"), 2),
        (("--direct_running_mode=multi_threading",), 1),
        (("--runner=FlinkRunner",), 1),
    ],
)
def test_the_local_runner_takes_as_many_processes_as_the_machine_suggests(
    monkeypatch, flags, processes
):
    from pipelines.beam import job, settings
    from pipelines.beam import options as beam_options
    from pipelines.options import ExtractOptions

    for module in (job, beam_options):
        monkeypatch.setattr(module, "default_processes", lambda: 4)
    assert beam_options.process_count(beam_options.make_options(flags)) == processes
    assert job.Job.of(ExtractOptions(beam_arguments=flags)).processes == processes
    several = settings.read_settings(flags)["flags"]["direct_running_mode"] == "multi_processing"
    assert several == (processes > 1)
