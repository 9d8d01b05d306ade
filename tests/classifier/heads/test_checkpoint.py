"""Checkpoints of a training: after a kill the same command ends as if nothing had happened."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT
from support.features import make_store, spec_of
from support.stacks import blurred

from classifier.heads.stacked import fit as fit_module
from classifier.runs.run import load_run
from classifier.train import run
from featurestore.commit import write_manifest
from featurestore.compaction.compact import compact
from featurestore.labels.overlay import write_overlay

HEADS = [
    "--head",
    "linear",
    "--head",
    "mlp:8:dropout=0.3",
    "--lr",
    "0.01,0.003",
    "--seed",
    "1,2",
    "--keep",
    "2",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return blurred(tmp_path_factory.mktemp("stores") / "s", 3)


def arguments(store, folder, *more, epochs=6):
    flags = ["--store", store.url, "--output", str(folder), "--epochs", str(epochs)]
    return [*flags, *HEADS, "--checkpoint", "0", *more]


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


def stop_after(monkeypatch, epochs):
    """Ends training after some epochs, with their checkpoint written."""
    save = fit_module.Checkpoint.save

    def stopping(self, wave, done, stack):
        save(self, wave, done, stack)
        if done == epochs:
            raise Killed

    monkeypatch.setattr(fit_module.Checkpoint, "save", stopping)


def assert_same_run(first, second):
    one, other = load_run(str(first)), load_run(str(second))
    timing = ("seconds", "rows_per_second")
    boards = [
        [{name: value for name, value in row.items() if name not in timing} for row in each]
        for each in (one.leaderboard(), other.leaderboard())
    ]
    assert boards[0] == boards[1]
    for head_id in one.config.heads:
        history = f"history/{head_id}.json"
        assert one.storage.read(history) == other.storage.read(history)
        pairs = zip(
            one.load_head(head_id).get_weights(), other.load_head(head_id).get_weights(),
            strict=True,
        )  # fmt: skip
        for mine, theirs in pairs:
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("patience", ["0", "1"])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(
    store, tmp_path, monkeypatch, capsys, patience
):
    more = ["--patience", patience]
    run(arguments(store, tmp_path / "whole", *more))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 3)
        run(arguments(store, tmp_path / "stopped", *more))
    assert (tmp_path / "stopped" / "checkpoint" / "state.json").exists()
    capsys.readouterr()
    run(arguments(store, tmp_path / "stopped", *more))
    assert "resumed from a checkpoint: 3 epochs are done" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "checkpoint").exists()


def test_other_options_start_anew_and_say_why(store, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2)
        run(arguments(store, tmp_path / "run"))
    capsys.readouterr()
    run(arguments(store, tmp_path / "run", "--batch_size", "32", epochs=3))
    out = capsys.readouterr().out
    assert "note: the checkpoint has another batch_size, epochs: training starts anew" in out
    assert "resumed" not in out


def test_labels_that_changed_start_anew_though_their_counts_are_the_same(
    tmp_path, monkeypatch, capsys
):
    store = blurred(tmp_path / "s", 3)
    loaded = store.load(["key", "labels", "split"])
    rows = list(zip(*(loaded[name].tolist() for name in loaded), strict=True))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2)
        run(arguments(store, tmp_path / "run"))
    first = next(row for row in rows if row[2] in (None, "train"))
    other = next(row for row in rows if row[1] != first[1] and row[2] == first[2])
    swapped = [(first[0], other[1], first[2]), (other[0], first[1], other[2])]
    write_overlay(store.storage, iter(swapped))
    capsys.readouterr()
    run(arguments(store, tmp_path / "run"))
    out = capsys.readouterr().out
    assert "note: the checkpoint has another labels: training starts anew" in out


def test_a_head_that_goes_on_alone_is_resumed_in_its_own_units(tmp_path, monkeypatch):
    """What is left of a group of many learning rates may be of one: its weights stay the same."""
    monkeypatch.setattr("classifier.heads.stacked.stack.cores", lambda: 1)
    store = blurred(tmp_path / "s", 3)
    flags = ["--store", store.url, "--head", "linear", "--checkpoint", "0", "--epochs", "12"]
    flags += ["--lr", "1,3,1e-4", "--patience", "1"]
    run([*flags, "--output", str(tmp_path / "whole")])
    board = {row["lr"]: row for row in load_run(str(tmp_path / "whole")).leaderboard()}
    early = max(board[rate]["epochs"] for rate in (1, 3)) + 1
    assert early < board[1e-4]["epochs"] == 12
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, early)
        run([*flags, "--output", str(tmp_path / "stopped")])
    run([*flags, "--output", str(tmp_path / "stopped")])
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_other_features_of_the_same_images_start_anew(tmp_path, monkeypatch, capsys):
    store = blurred(tmp_path / "s", 3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2)
        run(arguments(store, tmp_path / "run"))
    shutil.rmtree(tmp_path / "s")
    spec = spec_of((20,))
    changed = dataclasses.replace(spec.base, weights_hash="1" * 32)
    spec = dataclasses.replace(spec, base=changed)
    store = blurred(tmp_path / "s", 3, channels=20, spec=spec)
    capsys.readouterr()
    run(arguments(store, tmp_path / "run"))
    out = capsys.readouterr().out
    assert "note: the checkpoint has another features, rows: training starts anew" in out


def test_overwrite_starts_anew(store, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2)
        run(arguments(store, tmp_path / "run"))
    capsys.readouterr()
    run(arguments(store, tmp_path / "run", "--overwrite"))
    assert "resumed" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["state.json", "npz", "missing"])
def test_a_damaged_checkpoint_is_said_and_left(store, tmp_path, monkeypatch, capsys, damage):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 1)
        run(arguments(store, tmp_path / "run", epochs=2))
    folder = tmp_path / "run" / "checkpoint"
    if damage == "state.json":
        (folder / "state.json").write_text("{")
    for path in folder.glob("*.npz"):
        if damage == "npz":
            path.write_bytes(path.read_bytes()[:100])
        if damage == "missing":
            path.unlink()
    capsys.readouterr()
    run(arguments(store, tmp_path / "run", epochs=2))
    out = capsys.readouterr().out
    assert out.count("training starts anew") == 1 and "resumed" not in out
    assert len(load_run(str(tmp_path / "run")).leaderboard()) == 8


@pytest.mark.parametrize("compacts", [False, True], ids=["", "compacted"])
def test_a_real_kill_is_survived(tmp_path, compacts):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 64)).astype(np.float32)
    labels = [f"class {number}" for number in rng.integers(0, 3, 4000)]
    store = make_store(tmp_path / "store", features, labels, rows_per_part=2000)
    flags = ["--epochs", "40", "--batch_size", "32"]

    def command(folder):
        return [
            sys.executable, "-m", "classifier.train", *arguments(store, folder, *flags),
        ]  # fmt: skip

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL
    )
    state = tmp_path / "killed" / "checkpoint" / "state.json"
    epochs = wait_for_epoch(state, 3, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and epochs < 40
    assert not (tmp_path / "killed" / "run.json").exists()
    if compacts:
        write_manifest(store.storage, "run", store.markers().values())
        assert compact(store, keep_seconds=0).merged == 2
    for folder in ("killed", "whole"):
        done = subprocess.run(
            command(tmp_path / folder), env=environment, capture_output=True, text=True, check=True
        )
        assert ("resumed from a checkpoint: " in done.stdout) == (folder == "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def wait_for_epoch(state: Path, least: int, process: subprocess.Popen) -> int:
    """Waits for a checkpoint of at least so many epochs; returns how many they are."""
    while process.poll() is None:
        if state.exists():
            epochs = json.loads(state.read_text())["waves"]["0"]["epochs"]
            if epochs >= least:
                return epochs
        time.sleep(0.01)
    raise AssertionError(f"the training ended with {process.returncode} before it could be killed")
