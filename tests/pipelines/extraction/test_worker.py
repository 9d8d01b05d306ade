"""The worker that the tasks of a process share."""

from support.extraction import SMALL, run
from support.images import write_images

from classifier.engines import EngineChoice
from pipelines.extraction.worker import shared_worker
from pipelines.settings import WorkerSettings


def test_a_task_goes_on_while_another_run_begins(tmp_path):
    """On Dask, tasks of two commands may be in one process at once."""
    write_images(tmp_path / "photos", 4)
    store = run("--input", tmp_path / "photos", "--output", tmp_path / "store", *SMALL).store
    settings = [
        WorkerSettings(store.storage.url, {}, run_id, engine=EngineChoice.of(store.spec.numerics))
        for run_id in ("one", "two")
    ]
    first = shared_worker(settings[0])
    second = shared_worker(settings[1])
    assert second is not first and shared_worker(settings[1]) is second
    assert first.engine is second.engine
    assert first.feeders.submit(lambda: "done").result() == "done"
    assert first.extractor.lanes.submit(lambda: "done").result() == "done"
