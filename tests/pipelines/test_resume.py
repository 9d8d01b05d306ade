"""Killed at any moment, a run goes on: every key once, the same features, nothing left behind."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from support.commands import ROOT
from support.extraction import assert_same_rows
from support.images import write_images
from support.kills import FLAGS, TWO_PROCESSES, start_and_kill
from support.stores import find_orphans

from pipelines import extract as extract_command
from pipelines.driver import extract
from pipelines.watching.lease import sweep_dead_runs
from pipelines.watching.progress import (
    COUNT_SECONDS,
    SHOW_SECONDS,
    Monitor,
    Reporter,
    driver_folder,
)

FLAGS += ["--precision", "float32"]


def run_to_the_end(*arguments):
    options, _ = extract_command.parse_options([*map(str, arguments), *FLAGS])
    return extract(options, lambda line: None)


@pytest.mark.parametrize(
    "kills", [2, pytest.param(10, marks=pytest.mark.slow)], ids=["twice", "ten-times"]
)
def test_killed_at_random_moments_then_run_to_the_end(tmp_path, kills):
    write_images(tmp_path / "photos", 800)
    arguments = ("--input", tmp_path / "photos", "--output")
    undisturbed = run_to_the_end(*arguments, tmp_path / "undisturbed").store
    store = tmp_path / "store"
    random = np.random.default_rng(0)
    for number in range(kills):
        whole_group = number % 2 == 0
        start_and_kill(
            (*arguments, store, *(() if number % 4 < 2 else TWO_PROCESSES)),
            store,
            commits=int(random.integers(0, 5)),
            delay=float(random.uniform(0, 0.2 if number % 3 else 6.0)),
            whole_group=whole_group,
        )
    outcome = run_to_the_end(*arguments, store)
    assert outcome.exit_code == 0
    one, other = (s.load(["key", "features"]) for s in (undisturbed, outcome.store))
    assert sorted(other["key"]) == sorted(one["key"]) and len(set(other["key"])) == 800
    assert_same_rows(undisturbed, outcome.store)
    storage = outcome.store.storage
    assert find_orphans(storage, outcome.store.markers()) == set()
    assert storage.list("tmp") == [] and storage.list("plans") == []
    left = {file.name.split("/")[0] for file in storage.list("")}
    assert left == {
        "manifest",
        "markers",
        "model",
        "parts",
        "runs",
        "store.json",
        "summary.json",
    }


def test_a_live_run_keeps_its_plan_and_attempts(tmp_path):
    from featurestore.io.storage import Storage
    from pipelines.watching.lease import lease

    storage = Storage(str(tmp_path))
    with lease(storage, "live"):
        storage.write("plans/live/000000.parquet", b"x")
        storage.write("tmp/live-chunk-1/part", b"x")
        storage.write("plans/dead/000000.parquet", b"x")
        storage.write("plans/dead/driver.lock", b"")
        storage.write("tmp/dead-chunk-1/part", b"x")
        # Another process looks: within one process flock does not exclude other handles.
        script = (
            "import sys, time; from featurestore.io.storage import Storage\n"
            "from pipelines.watching.lease import sweep_dead_runs\n"
            "print(sweep_dead_runs(Storage(sys.argv[1]), time.time()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "['dead']"
        assert [file.name for file in storage.list("tmp")] == ["live-chunk-1/part"]
        assert storage.exists("plans/live/000000.parquet")
    assert storage.list("plans") == []


def test_plans_elsewhere_die_of_age(tmp_path):
    from featurestore.io.storage import Storage

    storage = Storage(f"memory://{tmp_path.name}")
    storage.write("plans/old/000000.parquet", b"x")
    assert sweep_dead_runs(storage, time.time() + 3600) == []
    assert sweep_dead_runs(storage, time.time() + 8 * 24 * 3600) == ["old"]


def test_progress_adds_up_what_workers_report(tmp_path):
    with driver_folder() as folder:
        monitor = Monitor(folder, 100)
        assert monitor.line(0.0) == "  starting ..."
        reporter = Reporter(str(folder))
        reporter.add(10, 1)
        (folder / "999.json").write_text('{"images": 5, "quarantined": 0}')
        (folder / "998.json").write_text('{"ima')
        assert monitor.counts() == (15, 1)
        assert monitor.line(10.0) == "  15 of 100 images, 1 quarantined"
        (folder / "999.json").write_text('{"images": 25, "quarantined": 0}')
        expected = "  35 of 100 images, 4.0 images/s, 0:16 left, 1 quarantined"
        assert monitor.line(15.0) == expected
    reporter.add(10, 1)
    assert not folder.exists()
    Reporter("").add(1, 0)


def test_commits_of_other_machines_are_counted_seldom(tmp_path):
    answers = [3, OSError("the network is away"), 5]
    asked = []

    def count() -> int:
        asked.append(answers[len(asked)])
        if isinstance(asked[-1], OSError):
            raise asked[-1]
        return asked[-1]

    monitor = Monitor(tmp_path, 0, count, 9)
    lines = {now: monitor.line(now) for now in np.arange(0, 3 * COUNT_SECONDS, SHOW_SECONDS)}
    assert len(asked) == 3
    for now, done in (
        (0.0, 3),
        (COUNT_SECONDS - 0.5, 3),
        (COUNT_SECONDS, 3),
        (2 * COUNT_SECONDS, 5),
    ):
        assert lines[now] == f"  {done} of 9 chunks committed"


def test_a_worker_ends_when_its_driver_died(tmp_path):
    """A process that watches a folder whose lock is free ends itself."""
    (tmp_path / "driver.lock").write_text("1")
    script = (
        "import sys, threading; from pipelines.watching.progress import Reporter\n"
        "Reporter(sys.argv[1]); threading.Event().wait(60); print('still here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""


def test_progress_moves_on_a_terminal_and_is_quiet_elsewhere(tmp_path):
    import pty

    write_images(tmp_path / "photos", 400)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "pipelines.extract", "--input", str(tmp_path / "photos")]
    command += ["--output", str(tmp_path / "s"), *FLAGS]
    process = subprocess.Popen(command, cwd=ROOT, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    assert process.wait() == 0
    assert b" of 400 images" in shown and b"quarantined" in shown
    write_images(tmp_path / "photos", 1, "PNG", seed=9)
    quiet = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\r" not in quiet.stdout and quiet.stderr == ""
