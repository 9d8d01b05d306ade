"""The progress line adds up the workers' files, and a worker ends when its driver died."""

import os
import subprocess
import sys

import numpy as np
from support.commands import ROOT
from support.images import write_images
from support.kills import FLAGS

from pipelines.watching.progress import (
    COUNT_SECONDS,
    SHOW_SECONDS,
    Monitor,
    Reporter,
    driver_folder,
)


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
    command += ["--output", str(tmp_path / "s"), *FLAGS, "--precision", "float32"]
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
