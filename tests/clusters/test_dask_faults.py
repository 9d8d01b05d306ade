"""What may die on a Dask cluster in mid-run; the same command then completes the store.

Each fault strikes once, and five times with ``HOARFROST_SOAK=1`` (``make dask-faults``), which also
prints what the user saw.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.clusters import await_that, kill
from support.commands import ROOT
from support.dask_cluster import DaskCluster, dask_cluster
from support.extraction import SMALL, assert_same_rows, run
from support.faulty_proxy import FaultyProxy
from support.images import write_images
from support.optional import optional
from support.soak import SOAK

from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.cli.command import say
from featurestore.io.storage import Storage

optional("distributed")
pytestmark = pytest.mark.cluster

ROUNDS = 5 if SOAK else 1
IMAGES = 400
FLAGS = (*SMALL, "--engine", "tensorflow", "--chunk_size", "8")
# Commits before a fault; the run has 50.
FIRST = 3
AWAY_SECONDS = 20
DEADLINE = 300


@dataclass
class Scene:
    """One command, on one cluster, into a store of its own.

    Attributes:
      cluster: that works.
      cwd: folder of the driver.
      storage: of the store.
      flags: of the command.
      jobs: how often the command was started.
    """

    cluster: DaskCluster
    cwd: Path
    storage: Storage
    flags: tuple[str, ...] = ()
    jobs: list[subprocess.Popen] = field(default_factory=list)

    def start(self) -> None:
        """Starts the command."""
        command = [sys.executable, "-m", "pipelines.extract", "--input", "photos", *FLAGS]
        command += ["--output", self.storage.url, *self.flags, *self.cluster.flags]
        self.jobs.append(
            subprocess.Popen(
                command,
                cwd=self.cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def await_commits(self) -> None:
        """Waits until the job has begun to commit."""
        begun = lambda: len(self.storage.list("markers")) >= FIRST or self.ended  # noqa: E731
        await_that(begun, "the job begins to commit", DEADLINE)

    @property
    def ended(self) -> bool:
        return any(job.poll() is not None for job in self.jobs)

    def finish(self) -> list[str]:
        """Waits for the commands; returns for each its error, or how it ended."""
        seen = []
        for job in self.jobs:
            _, err = job.communicate(timeout=DEADLINE)
            lines = err.strip().splitlines()
            assert len(lines) == (job.returncode > 0), (job.returncode, err)
            seen.append(lines[0] if lines else {0: "done"}.get(job.returncode, "killed"))
        self.jobs.clear()
        return seen


def worker_killed(scene: Scene, number: int) -> None:
    scene.cluster.kill_worker(machine=bool(number % 2))


def scheduler_killed(scene: Scene, number: int) -> None:
    scene.cluster.kill_scheduler()


def driver_killed(scene: Scene, number: int) -> None:
    kill(scene.jobs[0].pid)


def second_job(scene: Scene, number: int) -> None:
    scene.start()


FAULTS = [worker_killed, scheduler_killed, driver_killed, second_job]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, s3_server):
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The driver's folder, with the input and the store of an undisturbed run."""
    folder = tmp_path_factory.mktemp("driver")
    write_images(folder / "photos", IMAGES)
    run("--input", folder / "photos", "--output", folder / "undisturbed", *FLAGS)
    return folder


def strike(scene: Scene, fault: Callable[[Scene, int], None], number: int) -> list[str]:
    """Runs the command through a fault and then again; returns what the user saw at the fault."""
    scene.cluster.start()
    scene.start()
    scene.await_commits()
    hit = not scene.ended
    fault(scene, number)
    seen = scene.finish()
    scene.cluster.start()
    scene.start()
    assert scene.finish() == ["done"]
    store = open_store(scene.storage.url, scene.storage.options)
    assert store.ledger().rows == IMAGES
    assert_same_rows(open_store(scene.cwd / "undisturbed"), store)
    found = [each for each in verify_storage(store.storage) if not each.path.startswith("plans")]
    assert found == [], found
    return [line if hit else f"{line} (before the fault)" for line in seen]


def tell(name: str, seen: Counter) -> None:
    """Prints a line of the table."""
    for line, times in seen.items():
        say(f"{name}: {times} x {line}")
    say(f"{name}: {ROUNDS} times, 0 rows lost, 0 doubled, verify finds nothing")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_same_command_completes_after(cluster, folder, fault):
    seen = Counter()
    for number in range(ROUNDS):
        storage = Storage(str(folder / f"{fault.__name__}-{number}"), {})
        seen.update(strike(Scene(cluster, folder, storage), fault, number))
    tell(fault.__name__.replace("_", " "), seen)


def test_the_same_command_completes_after_the_store_was_away(cluster, folder, bucket):
    url, options = bucket
    proxy, seen = FaultyProxy(options["endpoint_url"]), Counter()

    def away(scene: Scene, number: int) -> None:
        proxy.schedule = lambda method, path: "refused"
        # How long the store is away is what is tried here; nothing waits for it.
        time.sleep(AWAY_SECONDS)
        proxy.schedule = lambda method, path: ""

    with proxy.running() as endpoint:
        for number in range(ROUNDS):
            storage = Storage(f"{url}/{number}", {"endpoint_url": endpoint})
            flags = ("--storage_options", f"endpoint_url={endpoint}")
            seen.update(strike(Scene(cluster, folder, storage, flags), away, number))
    tell("store away", seen)
