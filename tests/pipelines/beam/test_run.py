"""A remote job: cancelled by Ctrl-C, watched while it is silent, one line when it fails."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from support.clusters import await_that
from support.commands import ROOT

from featurestore import UsageError
from featurestore.errors import RunFailed
from pipelines.beam.options import make_options
from pipelines.beam.run import on_worker, run_pipeline

SCRIPT = """\
import pathlib, subprocess, sys, threading, time
from featurestore.cli.command import main
from pipelines.beam import run as module

module.CANCEL_SECONDS = 1.0
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

class Job:
    def wait_until_finish(self):
        pathlib.Path("ready").touch()
        threading.Event().wait()

    def cancel(self):
        {cancel}

def run(argv):
    from featurestore.cli import interrupts
    with interrupts.abrupt():
        module._await(Job(), None)

main(run, kept="all is kept")
"""


@pytest.mark.parametrize(
    "cancel, lines",
    [
        ("pathlib.Path('cancelled').write_text(str(child.poll()))", 1),
        ("threading.Event().wait()", 2),
        ("raise OSError('the network is down')", 2),
    ],
    ids=["cancelled", "no answer", "failed"],
)
def test_an_interrupted_command_cancels_its_job(tmp_path, cancel, lines):
    (tmp_path / "script.py").write_text(SCRIPT.format(cancel=cancel))
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = (tmp_path / "ready").exists
        await_that(lambda: ready() or process.poll() is not None, "the job runs")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    *before, last = error.splitlines()
    assert last == "interrupted: all is kept" and len(before) == lines - 1, error
    assert all("did not confirm that it has cancelled" in line for line in before)
    if lines == 1:
        # A job server that the command started must live until it has cancelled the job.
        assert (tmp_path / "cancelled").read_text() == "None"


@pytest.mark.parametrize("refusal", [SystemExit(2), ConnectionError("no route\nto the host")])
def test_what_a_submission_raises_is_one_line(monkeypatch, refusal):
    from apache_beam import Pipeline

    def refuse(self):
        raise refusal

    monkeypatch.setattr(Pipeline, "run", refuse)
    with pytest.raises(RunFailed, match="the runner stopped: .*; run it again") as error:
        run_pipeline(make_options(()), lambda pipeline: None, "run it again")
    assert "\n" not in str(error.value)


def test_an_error_of_a_worker_names_its_machine():
    with pytest.raises(UsageError) as error, on_worker():
        raise UsageError("--engine openvino: it is not installed here")
    where = f"worker on {socket.gethostname()}: "
    assert str(error.value) == f"{where}--engine openvino: it is not installed here"
