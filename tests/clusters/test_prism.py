"""Extraction, dedupe, ridge and scoring on Prism, whose workers run elsewhere than the command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.clusters import await_that, descendants, kill, runs
from support.commands import ROOT, assert_one_line_error, run_command
from support.extraction import SMALL, rows_of
from support.images import write_images
from support.prism import BINARIES, prism
from support.scores import assert_same_scores

from classifier.runs.run import load_run
from featurestore import open_store

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BINARIES not in os.environ, reason=f"{BINARIES} names no folder"),
]
IMAGES = 96
FLAGS = (*SMALL, "--chunk_size", "8")
# Hides packages from a worker that has them.
HIDDEN = """\
from importlib.machinery import PathFinder

found = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.partition(".")[0] in {names} else found(name, *more)
)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Images in two classes; every content of the last ones occurs twice."""
    folder = tmp_path_factory.mktemp("images")
    written = write_images(folder, IMAGES)
    for path in written[-16:]:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    return folder


@pytest.fixture(scope="module")
def direct(images, tmp_path_factory):
    """The store that the local runner makes of the images."""
    folder = tmp_path_factory.mktemp("direct")
    done = run_command("pipelines.extract", "--input", images, "--output", "s", *FLAGS, cwd=folder)
    assert done.code == 0, done.err
    return open_store(str(folder / "s"))


@pytest.fixture(scope="module", params=["pool", "boot"])
def any_prism(request, tmp_path_factory):
    with prism(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    with prism(tmp_path_factory.mktemp("pool"), "pool") as running:
        yield running


def extract(running, images, folder, *arguments, output="s", **environment):
    flags = ("--input", images, "--output", output, *FLAGS, *running.flags, *arguments)
    return run_command("pipelines.extract", *flags, cwd=folder, **environment)


def assert_bit_equal(store, direct) -> None:
    found, wanted = rows_of(store), rows_of(direct)
    assert found.keys() == wanted.keys()
    for key, features in wanted.items():
        np.testing.assert_array_equal(found[key], features, err_msg=key)


def assert_sound(url: str, folder: Path, *arguments: str) -> None:
    done = run_command("featurestore", "verify", url, *arguments, cwd=folder)
    assert done.code == 0 and "0 errors, 0 warnings" in done.out, done.out + done.err


def test_a_local_store_has_the_features_of_the_local_runner(any_prism, images, direct, tmp_path):
    done = extract(any_prism, images, tmp_path)
    assert done.code == 0, done.err
    assert_bit_equal(open_store(str(tmp_path / "s")), direct)
    assert_sound("s", tmp_path)


def test_a_store_on_s3_has_them_too(s3_server, bucket, images, direct, tmp_path):
    url, options = bucket
    _, environment = s3_server
    with prism(tmp_path, "pool", environment) as running:
        done = extract(running, images, tmp_path, output=f"{url}/s")
    assert done.code == 0, done.err
    assert_bit_equal(open_store(f"{url}/s", options), direct)
    assert_sound(f"{url}/s", tmp_path)


def test_equal_contents_are_computed_once(pooled, images, direct, tmp_path):
    done = extract(pooled, images, tmp_path, "--dedupe")
    assert done.code == 0 and "16 duplicates" in done.out, done.out + done.err
    assert_bit_equal(open_store(str(tmp_path / "s")), direct)
    assert_sound("s", tmp_path)


def test_ridge_with_relative_paths_is_the_local_fit(pooled, direct, tmp_path):
    shutil.copytree(direct.url, tmp_path / "s")
    arguments = ("pipelines.ridge", "--store", "s", "--output")
    done = run_command(*arguments, "prism", *pooled.flags, cwd=tmp_path)
    assert done.code == 0, done.err
    assert run_command(*arguments, "local", cwd=tmp_path).code == 0
    found, wanted = (
        load_run(str(tmp_path / name)).load_head("ridge").get_weights()
        for name in ("prism", "local")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_scores_are_those_of_the_local_runner(pooled, images, direct, tmp_path):
    shutil.copytree(direct.url, tmp_path / "s")
    flags = ("--store", "s", "--output", "heads", "--head", "linear", "--epochs", "2")
    done = run_command("classifier.train", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    arguments = ("pipelines.score", "--run", "heads", "--input", images, "--chunk_size", "16")
    for output, runner in {"here": (), "there": pooled.flags}.items():
        done = run_command(*arguments, "--output", output, *runner, cwd=tmp_path)
        assert done.code == 0, done.err
    assert_same_scores(tmp_path / "here", tmp_path / "there", ["linear"])


def begin(running, images, folder, *arguments, **environment) -> subprocess.Popen:
    """Starts an extraction, which writes its errors into the file ``errors``."""
    flags = ("--input", images, "--output", "s", *FLAGS, *running.flags, *arguments)
    with (folder / "errors").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.extract", *map(str, flags)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def errors(folder: Path) -> list[str]:
    return (folder / "errors").read_text().splitlines()


def await_end_or_silence(process: subprocess.Popen, folder: Path) -> None:
    """Waits until the command ends; one that reports silence is interrupted."""
    await_that(lambda: process.poll() is not None or errors(folder), "an end, or a note", 300)
    if process.poll() is None and "have committed nothing" in errors(folder)[0]:
        process.send_signal(signal.SIGINT)
    process.wait(120)
    assert not [line for line in errors(folder) if line.startswith(("Traceback", " "))]


def committed(folder: Path) -> int:
    return len(list((folder / "s" / "markers").glob("*.json")))


@pytest.mark.parametrize("kind", ["pool", "boot"])
def test_a_killed_worker_costs_nothing_but_its_chunks(kind, images, direct, tmp_path):
    with prism(tmp_path, kind) as running:
        process = begin(
            running, images, tmp_path, "--batch_size", "1", HOARFROST_QUIET_SECONDS="20"
        )
        try:
            await_that(lambda: committed(tmp_path) or process.poll() is not None, "a commit", 240)
            kill(*running.workers())
            await_end_or_silence(process, tmp_path)
        finally:
            process.kill()
    # Prism fails the job, or does not notice; the boot program starts another worker for it.
    assert process.returncode in (0, 1, 130), errors(tmp_path)
    with prism(make(tmp_path / "again"), kind) as running:
        done = extract(running, images, tmp_path)
    assert done.code == 0, done.err
    assert_bit_equal(open_store(str(tmp_path / "s")), direct)
    assert_sound("s", tmp_path)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def hide(folder: Path, *names: str) -> dict[str, str]:
    """Returns variables for workers that lack packages."""
    (folder / "sitecustomize.py").write_text(HIDDEN.format(names=set(names)))
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def test_a_worker_without_openvino_is_named(images, tmp_path):
    with prism(tmp_path, "pool", hide(tmp_path, "openvino")) as running:
        done = extract(running, images, tmp_path, "--engine", "openvino")
    fix = "pip install 'hoarfrost[openvino]'"
    assert_one_line_error(done, 1, f"worker on {socket.gethostname()}: --engine openvino", fix)


def test_a_worker_without_s3fs_is_named(s3_server, bucket, images, tmp_path):
    _, environment = s3_server
    with prism(tmp_path, "pool", environment | hide(tmp_path, "s3fs")) as running:
        done = extract(running, images, tmp_path, output=f"{bucket[0]}/s")
    fix = "pip install 'hoarfrost[s3]'"
    assert_one_line_error(done, 1, f"worker on {socket.gethostname()}: ", "s3fs", fix)


def test_silence_is_reported_and_ctrl_c_cancels_the_job(images, tmp_path):
    """Prism waits for ever for a process that has ended before it connected."""
    with prism(tmp_path, "/bin/false") as running:
        process = begin(running, images, tmp_path, HOARFROST_QUIET_SECONDS="2")
        try:
            await_that(lambda: errors(tmp_path) or process.poll() is not None, "a note", 240)
            assert states(running) == ["RUNNING"]
            await_end_or_silence(process, tmp_path)
        finally:
            process.kill()
        *notes, last = errors(tmp_path)
        assert process.returncode == 130 and last.startswith("interrupted"), last
        assert notes and all("have committed nothing for 2 s" in note for note in notes), notes
        await_that(lambda: states(running) == ["CANCELLED"], "the job is cancelled")
    assert not list((tmp_path / "s" / "plans").glob("*")), "the plan is removed"


def states(running) -> list[str]:
    """The states of all jobs of a Prism."""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2 as api
    from apache_beam.portability.api import beam_job_api_pb2_grpc as services

    with grpc.insecure_channel(f"localhost:{running.job_port}") as channel:
        jobs = services.JobServiceStub(channel).GetJobs(api.GetJobsRequest(), timeout=30)
    return [api.JobState.Enum.Name(job.state) for job in jobs.job_info]


@pytest.mark.parametrize("kind", ["pool", "boot"])
def test_workers_end_when_their_runner_is_gone(kind, images, tmp_path):
    with prism(tmp_path, kind) as running:
        process = begin(running, images, tmp_path, "--batch_size", "1")
        try:
            await_that(lambda: committed(tmp_path) or process.poll() is not None, "a commit", 240)
            below = running.workers() if kind == "pool" else descendants(running.parent)
            assert process.poll() is None and below, "the job runs"
            try:
                kill(running.process)
                await_that(lambda: not any(map(runs, below)), "workers end", 120)
            finally:
                kill(*below)
            process.wait(120)
        finally:
            process.kill()
    (line,) = errors(tmp_path)
    assert process.returncode == 1, line
    assert line.startswith("error: the runner stopped: the job server does not answer any more")
