"""Extraction and ridge on a Flink cluster, through faults: ``make flink-test`` runs this.

The cluster stands without Beam's job server; what runs a job needs its jar.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support import flink
from support.clusters import await_that, descendants, end, kill
from support.commands import ROOT, Finished, run_command
from support.images import write_images
from support.kills import FLAGS, markers_in
from support.prism import BINARIES

from featurestore import open_store
from pipelines.diagnosis.finding import OK
from pipelines.diagnosis.portable import master_findings

pytestmark = pytest.mark.cluster

JAR = os.environ.get("FLINK_JOB_SERVER_JAR", "")
needs_jar = pytest.mark.skipif(not JAR, reason="no job server jar")
IMAGES = 240


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[flink.Flink]:
    """A JobManager and two TaskManagers of one slot each."""
    minor = flink.minor_of(JAR) if JAR else os.environ.get("FLINK_MINOR", "1.20")
    with ExitStack() as stack:
        yield flink.Flink(minor, tmp_path_factory.mktemp("flink"), stack)


def test_the_cluster_stands(cluster):
    overview = cluster.ask("/overview")
    assert (overview["taskmanagers"], overview["slots-total"]) == (2, 2)
    assert overview["flink-version"].startswith(f"{cluster.minor}.")
    names = {one["id"] for one in cluster.ask("/taskmanagers")["taskmanagers"]}
    assert names == {"one", "two"}
    (finding,) = master_findings(f"127.0.0.1:{cluster.rest}", cluster.minor)
    assert finding.severity == OK and "2 TaskManagers, 2 slots" in finding.message


def test_the_cluster_is_mended_after_a_kill(cluster):
    cluster.kill_taskmanager("two")
    cluster.await_taskmanagers(1)
    cluster.mend()
    end(cluster.jobmanager)
    cluster.mend()


@pytest.fixture(scope="module")
def boot(tmp_path_factory) -> Path:
    """The program that starts a worker, with the variables that it needs."""
    script = tmp_path_factory.mktemp("boot") / "boot"
    program = Path(os.environ[BINARIES]) / "container"
    python = Path(sys.executable).parent
    script.write_text(
        f"#!/bin/sh\nexport HOARFROST_BOOT={program} PYTHONPATH={ROOT} PATH={python}:$PATH\n"
        f'exec {ROOT}/deploy/boot.sh "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.fixture(scope="module")
def flags(cluster, boot, tmp_path_factory) -> list[str]:
    """The flags of a job on the cluster, for extract and ridge."""
    return [
        "--runner=FlinkRunner",
        f"--flink_master=127.0.0.1:{cluster.rest}",
        f"--flink_version={cluster.minor}",
        f"--flink_job_server_jar={JAR}",
        f"--artifacts_dir={tmp_path_factory.mktemp('artifacts')}",
        "--environment_type=PROCESS",
        f"--environment_config={json.dumps({'command': str(boot)})}",
        "--parallelism=2",
    ]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    write_images(folder, IMAGES)
    return folder


def extract(folder: Path, *arguments: object) -> Finished:
    command = ["pipelines.extract", "--engine", "tensorflow", "--precision", "float32", *FLAGS]
    return run_command(*command, *arguments, cwd=folder)


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, np.ndarray]:
    """What Beam's local runner stores."""
    folder = tmp_path_factory.mktemp("expected")
    done = extract(folder, "--input", photos, "--output", "store")
    assert done.code == 0, done
    return features(folder / "store")


def features(url: object, options: dict | None = None) -> dict[str, np.ndarray]:
    """Key -> features; each key once."""
    rows: dict[str, np.ndarray] = {}
    for batch in open_store(str(url), options).scan(["key", "features"]):
        for key, feature in zip(batch["key"], batch["features"], strict=True):
            assert key not in rows
            rows[key] = feature
    return rows


def assert_whole(store: Path, expected: dict[str, np.ndarray]) -> None:
    """The store holds what the local runner's does, and nothing is wrong with it."""
    found = features(store)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=1e-6)
    verified = run_command("featurestore", "verify", store, cwd=store.parent)
    assert verified.code == 0, verified


@needs_jar
def test_both_taskmanagers_extract(cluster, flags, photos, expected, tmp_path):
    done = extract(tmp_path, "--input", photos, "--output", tmp_path / "store", *flags)
    assert done.code == 0, done
    assert_whole(tmp_path / "store", expected)
    read = cluster.workers_of("Extract chunks")
    assert set(read) == {"one", "two"} and all(read.values()), read


@needs_jar
def test_an_object_store_takes_the_output(flags, photos, expected, bucket, tmp_path):
    url, options = bucket
    given = ["--storage_options", f"endpoint_url={options['endpoint_url']}"]
    done = extract(tmp_path, "--input", photos, "--output", f"{url}/store", *given, *flags)
    assert done.code == 0, done
    found = features(f"{url}/store", options)
    assert found.keys() == expected.keys()


@needs_jar
def test_equal_files_are_computed_once(flags, photos, expected, tmp_path):
    done = extract(tmp_path, "--input", photos, "--output", tmp_path / "store", "--dedupe", *flags)
    assert done.code == 0, done
    assert_whole(tmp_path / "store", expected)


@needs_jar
def test_ridge_heads_are_those_of_the_local_runner(flags, photos, tmp_path):
    done = extract(tmp_path, "--input", photos, "--output", tmp_path / "store")
    assert done.code == 0, done
    for name, runner in (("here", []), ("there", flags)):
        # Relative paths: workers run in another folder.
        command = ["pipelines.ridge", "--store", "store", "--output", name, *runner]
        assert run_command(*command, cwd=tmp_path).code == 0
    here, there = (
        json.loads((tmp_path / name / "leaderboard.json").read_text())[0]
        for name in ("here", "there")
    )
    for figure in ("l2", "val_accuracy", "val_loss"):
        assert there[figure] == pytest.approx(here[figure], rel=1e-6), figure


@needs_jar
@pytest.mark.parametrize("victim", ["TaskManager", "worker", "JobManager", "driver"])
def test_after_a_kill_the_same_command_completes(
    victim, cluster, flags, photos, expected, tmp_path
):
    store = tmp_path / "store"
    arguments = ["--input", photos, "--output", store, *flags]
    driver = start_extract(tmp_path, *arguments)
    try:
        await_that(lambda: markers_in(store) >= 2 or driver.poll() is not None, "two commits", 300)
        assert driver.poll() is None, driver.communicate()
        kills: dict[str, Callable[[], None]] = {
            "TaskManager": lambda: cluster.kill_taskmanager("two"),
            "worker": lambda: kill(*descendants(cluster.taskmanagers["two"].pid)),
            "JobManager": lambda: end(cluster.jobmanager),
            "driver": lambda: end(driver),
        }
        kills[victim]()
        cluster.mend()
        driver.wait(300)
    finally:
        end(driver)
    again = extract(tmp_path, *arguments)
    assert again.code == 0, again
    assert_whole(store, expected)


@needs_jar
def test_two_jobs_at_once_do_no_harm(flags, photos, expected, tmp_path):
    store = tmp_path / "store"
    # With half of the slots each.
    arguments = ["--input", photos, "--output", store, *flags, "--parallelism=1"]
    jobs = [start_extract(tmp_path, *arguments) for _ in range(2)]
    try:
        said = [job.communicate(timeout=600) for job in jobs]
    finally:
        for job in jobs:
            end(job)
    assert [job.returncode for job in jobs] == [0, 0], said
    assert_whole(store, expected)


def start_extract(folder: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.extract", "--engine", "tensorflow"]
    command += ["--precision", "float32", *FLAGS, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
