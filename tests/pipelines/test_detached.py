"""A job that was submitted without waiting: how far it is, its end, and its books.

`submitted` keeps the pipeline instead of sending it to a cluster; `work` runs it later, as the
cluster would: on workers that choose their own engine, and without the driver.
"""

import json

import pytest
from support.commands import run_command
from support.extraction import SMALL, assert_same_rows, rows_of, run
from support.images import write_images

from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.errors import RunFailed, UsageError
from pipelines.beam import options as beam_options
from pipelines.beam.run import run_pipeline
from pipelines.finishing.closing import close_books
from pipelines.finishing.detached import Submitted
from pipelines.planning.runfolder import RunFolder

CLUSTER = ("--runner=PortableRunner", "--job_endpoint=localhost:9", "--environment_type=EXTERNAL")
CLUSTER += ("--environment_config=localhost:9",)
IMAGES = 24


@pytest.fixture
def submitted(monkeypatch):
    """The jobs that were sent to the cluster, in order: what builds each pipeline."""
    jobs = []

    def submit(options, build, after, wait, signs):
        if wait:
            run_pipeline(options, build, after)
        else:
            jobs.append(build)

    monkeypatch.setattr("pipelines.beam.job.run_pipeline", submit)
    return jobs


@pytest.fixture
def arguments(tmp_path):
    write_images(tmp_path / "photos", IMAGES)
    inputs = ("--input", tmp_path / "photos", "--output", tmp_path / "s", "--chunk_size", 4)
    return (*inputs, *SMALL, "--engine", "tensorflow")


def work(build) -> None:
    run_pipeline(beam_options.make_options(()), build, "nothing is left")


def test_the_job_finishes_without_its_driver(tmp_path, arguments, submitted):
    plain = run(*arguments[:3], tmp_path / "plain", *arguments[4:])
    answer = run(*arguments, *CLUSTER, "--no_wait")
    assert isinstance(answer, Submitted)
    (job,) = answer.runs
    assert (job.chunks, job.committed, job.detached) == (IMAGES // 4, 0, True)
    store = open_store(str(tmp_path / "s"))
    assert not store.spec.numerics.is_decided, "this machine may lack what the workers have"
    again = run(*arguments, *CLUSTER, "--no_wait")
    assert isinstance(again, Submitted) and len(submitted) == 1, "it is not submitted twice"
    info = run_command("featurestore", "info", str(tmp_path / "s"), cwd=tmp_path)
    assert f"{job.run_id}, submitted without waiting at" in info.out
    assert f"0 of {IMAGES // 4} chunks are committed" in info.out

    work(submitted[0])
    store = open_store(str(tmp_path / "s"))
    assert store.spec.numerics.label == "tensorflow float32"
    record = json.loads(store.storage.read(f"runs/{job.run_id}.json"))
    assert record["ledger"]["rows"] == IMAGES and record["engine"]["engine"] == "tensorflow"
    assert store.storage.list("plans") == []
    assert store.storage.exists(f"runs/{job.run_id}.html")
    assert not list(verify_storage(store.storage))
    assert_same_rows(plain.store, store)
    done = run(*arguments, *CLUSTER, "--no_wait")
    assert done.record["already_committed"] == IMAGES and done.exit_code == 0


def test_the_same_command_closes_the_books_of_a_job_that_could_not(
    tmp_path, arguments, submitted, monkeypatch
):
    run(*arguments, *CLUSTER, "--no_wait")
    with monkeypatch.context() as patch:

        def fail(*arguments):
            raise RunFailed("the last worker died")

        patch.setattr("pipelines.beam.transforms.close_books", fail)
        with pytest.raises(RunFailed, match="the last worker died"):
            work(submitted[0])
    storage = open_store(str(tmp_path / "s")).storage
    assert storage.list("plans") and not storage.list("runs")
    outcome = run(*arguments, *CLUSTER, "--no_wait")
    assert len(submitted) == 1 and outcome.record["already_committed"] == IMAGES
    records = [file for file in storage.list("runs") if file.name.endswith(".json")]
    assert len(records) == 2 and not storage.list("plans")
    assert len(rows_of(outcome.store)) == IMAGES


def test_a_failed_job_is_given_up_when_the_user_says_so(tmp_path, arguments, submitted):
    (job,) = run(*arguments, *CLUSTER, "--no_wait").runs
    answer = run(*arguments, *CLUSTER, "--no_wait", "--resubmit")
    assert len(submitted) == 2 and [one.run_id for one in answer.runs] != [job.run_id]
    work(submitted[1])
    store = open_store(str(tmp_path / "s"))
    assert len(rows_of(store)) == IMAGES and not store.storage.list("plans")


def test_a_chunk_that_the_runner_lost_is_missed(tmp_path, arguments, submitted, monkeypatch):
    (job,) = run(*arguments, *CLUSTER, "--no_wait").runs
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.beam.transforms.name_chunks", lose_one)
        with pytest.raises(RunFailed, match=r"1 chunks were neither committed nor recorded"):
            work(submitted[0])
    (again,) = run(*arguments, *CLUSTER, "--no_wait").runs
    assert (again.run_id, again.committed, again.chunks) == (job.run_id, 5, 6)


def test_a_job_whose_chunks_another_job_committed_is_no_failure(tmp_path, arguments, monkeypatch):
    arguments = (*arguments, "--precision", "float32")
    real = run_pipeline

    def after_another(options, build, after, wait, signs):
        monkeypatch.setattr("pipelines.beam.job.run_pipeline", real)
        assert run(*arguments).record["ledger"]["rows"] == IMAGES
        real(options, build, after)

    monkeypatch.setattr("pipelines.beam.job.run_pipeline", after_another)
    outcome = run(*arguments)
    assert (outcome.exit_code, outcome.record["ledger"]["rows"]) == (0, 0)
    assert outcome.record["committed_by_others"] == IMAGES
    assert len(rows_of(outcome.store)) == IMAGES


def lose_one(group, run_id, groups, chunks):
    if group:
        yield f"plans/{run_id}/000000.parquet", group


def test_a_repeated_end_changes_nothing(tmp_path, arguments, submitted):
    (job,) = run(*arguments, *CLUSTER, "--no_wait").runs
    work(submitted[0])
    storage = open_store(str(tmp_path / "s")).storage
    before = storage.read(f"runs/{job.run_id}.json")
    with pytest.raises(FileNotFoundError):
        RunFolder(storage, job.run_id).facts()
    close_books(RunFolder(storage, job.run_id), pytest.fail)
    assert storage.read(f"runs/{job.run_id}.json") == before


def test_a_template_launcher_never_waits(arguments, submitted, monkeypatch):
    monkeypatch.setenv("FLEX_TEMPLATE_PYTHON_PY_FILE", "/template/extract.py")
    assert isinstance(run(*arguments, *CLUSTER), Submitted)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--no_wait",), "--no_wait: --runner DirectRunner cannot follow it"),
        (("--no_wait", "--runner=DirectRunner"), "--no_wait: --runner DirectRunner cannot"),
        (("--accelerator", "type:x"), "--accelerator and --min_ram: --runner DirectRunner cannot"),
        ((*CLUSTER, "--min_ram", "4GB"), "--min_ram: --runner PortableRunner cannot follow it"),
    ],
)
def test_flags_that_a_runner_cannot_follow(arguments, submitted, flags, message):
    with pytest.raises(UsageError, match=message):
        run(*arguments, *flags)
    assert not submitted
