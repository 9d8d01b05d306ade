"""Signals: an interrupted command says so in one line, keeps what it did, and leaves no process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import ROOT
from support.images import write_images
from support.kills import FLAGS, TWO_PROCESSES, alive
from support.stores import make_trainable

from featurestore.cli import interrupts
from featurestore.store import open_store

SECONDS = 300
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def started(arguments: list[str], cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def signalled_when(
    process: subprocess.Popen, ready: Callable[[], bool], number: int, group: bool
) -> tuple[str, str]:
    """Waits for an event, sends a signal, and returns what the process wrote."""
    deadline = time.monotonic() + SECONDS
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    (os.killpg if group else os.kill)(process.pid, number)
    return process.communicate(timeout=SECONDS)


def assert_interrupted(process: subprocess.Popen, err: str, code: int = 130) -> None:
    assert process.returncode == code, err
    assert err.startswith("interrupted") and err.count("\n") == 1, err
    deadline = time.monotonic() + SECONDS
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)


@pytest.mark.parametrize("more", [(), TWO_PROCESSES], ids=["one", "two"])
@pytest.mark.parametrize(
    "number, group, code",
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143)],
    ids=["terminal", "driver", "scheduler"],
)
def test_an_interrupted_extraction_keeps_its_chunks(tmp_path, command, more, number, group, code):
    write_images(tmp_path / "photos", 120)
    flags = [*FLAGS, "--input", "photos", "--output", "store", "--chunk_size", "4", *more]
    process = started(["pipelines.extract", *flags], tmp_path)
    markers = tmp_path / "store/markers"
    _, err = signalled_when(process, lambda: any(markers.glob("[!.]*")), number, group)
    assert_interrupted(process, err, code)
    assert "committed stay" in err
    kept = {path.name for path in markers.glob("[!.]*")}
    assert kept and not list((tmp_path / "store/plans").glob("*"))
    done = command("pipelines.extract", *flags)
    assert done.code == 0, done.err
    assert kept <= {path.name for path in markers.glob("[!.]*")}
    keys = open_store(str(tmp_path / "store")).load(["key"])["key"]
    assert len(keys) == len(set(keys)) == 120


def test_an_interruption_while_a_command_starts(tmp_path):
    """The modules are on their way in; the event is the interpreter's own mark of them."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, pathlib\n"
        "class Told:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            pathlib.Path('importing').touch()\n"
        "sys.meta_path.insert(0, Told())\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.pack", "--input", "x", "--output", "y"],
        cwd=tmp_path, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    ready = (tmp_path / "importing").exists
    _, err = signalled_when(process, ready, signal.SIGINT, True)
    assert_interrupted(process, err)


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path):
    make_trainable(tmp_path / "store", ("cat", "dog"))
    flags = ["--store", "store", "--output", "run", "--head", "linear", "--checkpoint", "0"]
    process = started(["classifier.train", *flags, "--epochs", "100000"], tmp_path)
    state = tmp_path / "run/checkpoint/state.json"
    _, err = signalled_when(process, state.exists, signal.SIGINT, True)
    assert_interrupted(process, err)
    assert "resumes" in err and state.exists()


def run_script(tmp_path: Path, body: str) -> tuple[subprocess.Popen, Callable[[], bool]]:
    """Starts a command of the test's own, which touches ``ready`` when a signal may come."""
    (tmp_path / "script.py").write_text(
        "import pathlib, threading, time, sys, subprocess\n"
        "from featurestore.cli import interrupts\n"
        "from featurestore.cli.command import main\n"
        "def ready():\n    pathlib.Path('ready').touch()\n"
        f"def run(argv):\n{body}\n"
        "main(run, kept='all is kept')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, (tmp_path / "ready").exists


WAITING = "ready(); threading.Event().wait()"


@pytest.mark.parametrize(
    "body",
    [
        f"    {WAITING}",
        f"    with interrupts.abrupt(): {WAITING}",
        # What loses the exception, as a library may.
        f"    try: {WAITING}\n    except BaseException: return 0",
        # What makes another of it.
        f"    try: {WAITING}\n    except BaseException: raise ValueError('of another kind')",
        # A thread that waits for ever, and one that fails on the way out.
        "    threading.Thread(target=threading.Event().wait).start()\n"
        f"    try: {WAITING}\n    finally: threading.Thread(target=lambda: 1 / 0).start()",
    ],
    ids=["plain", "abrupt", "lost", "another", "threads"],
)
def test_every_way_out_is_one_line(tmp_path, body):
    process, ready = run_script(tmp_path, body)
    _, err = signalled_when(process, ready, signal.SIGINT, True)
    assert_interrupted(process, err)
    assert err == "interrupted: all is kept\n"


@pytest.mark.parametrize("how", ["abrupt()", "at_interrupt(lambda: None)"])
def test_no_process_is_left_even_behind_a_shell(tmp_path, how):
    # The shell is still starting processes when the signal comes.
    shell = "for i in `seq 300`; do sleep 600 & done; wait"
    body = f"    subprocess.Popen({shell!r}, shell=True)\n    with interrupts.{how}: {WAITING}"
    process, ready = run_script(tmp_path, body)
    _, err = signalled_when(process, ready, signal.SIGTERM, False)
    assert_interrupted(process, err, 143)


def test_files_are_removed_on_the_way_out(tmp_path):
    body = (
        "    import tempfile, shutil\n"
        "    drop = lambda: shutil.rmtree('held')\n"
        "    pathlib.Path('held').mkdir()\n"
        "    with tempfile.TemporaryDirectory(dir='.', prefix='way-out-'):\n"
        f"        with interrupts.at_interrupt(drop): {WAITING}"
    )
    process, ready = run_script(tmp_path, body)
    _, err = signalled_when(process, ready, signal.SIGINT, True)
    assert_interrupted(process, err)
    assert not (tmp_path / "held").exists() and not list(tmp_path.glob("way-out-*"))


def test_a_program_that_uses_the_packages_keeps_its_signals():
    script = (
        "import signal; before = [signal.getsignal(n) for n in (2, 15)]\n"
        "import featurestore, classifier, pipelines\n"
        "assert before == [signal.getsignal(n) for n in (2, 15)]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=ENVIRONMENT, timeout=SECONDS)


def test_the_line_names_the_signal_only_where_it_is_not_ctrl_c():
    assert interrupts.interrupted_line("x") == "interrupted: x"
