"""Runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from featurestore.checking.verify import verify_storage
from support.commands import ROOT
from support.dying import Step
from support.stores import find_orphans

FLAGS = "--model MobileNetV2 --weights none --pooling avg --image_size 32 --chunk_size 20".split()

TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def markers_in(store) -> int:
    folder = store / "markers"
    return sum(1 for name in os.listdir(folder) if name.endswith(".json")) if folder.exists() else 0


def alive(group: int) -> bool:
    """Whether any process of a group runs; a zombie does not."""
    listed = subprocess.run(
        ["ps", "-o", "pgid=,stat=", "-A"], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listed.splitlines())
    return any(int(row[0]) == group and not row[1].startswith("Z") for row in rows)


def await_end(group: int) -> None:
    """Waits for workers whose driver died, which must end by themselves."""
    deadline = time.monotonic() + 120
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(group)


def run_until(step: Step, *arguments) -> None:
    """Runs ``python -m ARGUMENTS``, which must get to the step and is killed there."""
    done = subprocess.run(
        [sys.executable, "-m", "support.dying", step.typed, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, f"{step.typed}: {done.stdout}{done.stderr}"


def start_and_kill(
    arguments, store, commits: int, delay: float, whole_group: bool, command=()
) -> None:
    """Starts the command, lets it commit so many more chunks, waits, and kills it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *(command or ("pipelines.extract", *FLAGS)), *map(str, arguments)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    target = markers_in(store) + commits
    while process.poll() is None and markers_in(store) < target:
        time.sleep(0.005)
    # The moment is what is random here; what is asserted holds at every moment.
    time.sleep(delay)
    if process.poll() is None:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    await_end(process.pid)


def assert_nothing_left(store) -> None:
    """A store after its last run: no data without a commit, and nothing that verify finds."""
    storage = store.storage
    assert find_orphans(storage, store.markers()) == set()
    folders = {file.name.split("/")[0] for file in storage.list("")}
    # Elsewhere than on a local disk the plans of dead runs die of age.
    allowed = set() if storage.is_local else {"plans"}
    known = {"manifest", "markers", "model", "parts", "quarantine", "runs"}
    known |= {"store.json", "summary.json"}
    if not storage.list("quarantine"):
        known.remove("quarantine")
    assert folders - allowed == known
    found = [f for f in verify_storage(storage) if not f.path.startswith("plans")]
    assert found == [], found
