"""Runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from support.commands import ROOT

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
    # Workers whose driver died must end by themselves.
    deadline = time.monotonic() + 120
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)
