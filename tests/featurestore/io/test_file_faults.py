"""Commands on a generic file system that fails at any call: nothing deleted, lost or doubled."""

import io
import json
import os
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.commands import Finished
from support.faulty_files import ERRORS, Faults
from support.images import write_images
from support.soak import SOAK

from classifier.predict import run as predict
from classifier.runtime import import_keras
from classifier.train import run as train
from featurestore import layout, open_store
from featurestore.__main__ import run as featurestore
from featurestore.checking.verify import verify_storage
from featurestore.cli.command import main, say
from featurestore.commit import read_markers
from featurestore.compaction.sweep import sweep_store
from featurestore.io.storage import Storage
from featurestore.labels.overlay import write_overlay
from featurestore.layout import HashedName
from pipelines.extract import run as extract
from pipelines.watching.lease import sweep_dead_runs

RUNS = 500 if SOAK else 50
IMAGES, FIRST = 12, 6
DAY = 24 * 3600.0
RIDGE = ("--head", "ridge", "--l2", "0.1", "--folds", 0)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("featurestore.io.retry.time.sleep", lambda seconds: None)


def done(command, *arguments) -> Finished:
    """Runs a command that must end well."""
    finished = finish(command, *arguments)
    assert finished.code == 0, finished
    return finished


def finish(command, *arguments) -> Finished:
    """Runs a command in this process as its module does."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(command, [str(argument) for argument in arguments])
    return Finished(ended.value.code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class World:
    """Folders that every run copies: `input`, `half` and `whole` stores, a `run`."""

    folder: Path

    def extract(self, store: Path) -> tuple:
        flags = ("--model", self.folder / "tiny.keras", "--image_size", 16, "--pooling", "avg")
        flags += ("--preprocess", "unit", "--precision", "float32", "--chunk_size", 3)
        source = f"faulty://{self.folder}/input"
        return extract, "--input", source, "--output", f"faulty://{store}", *flags


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    write_images(world.folder / "input", IMAGES)
    keras = import_keras()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    keras.Model(inputs, outputs).save(world.folder / "tiny.keras")
    half, whole, run = (world.folder / name for name in ("half", "whole", "run"))
    done(*world.extract(half), "--limit", FIRST)
    shutil.copytree(half, whole)
    done(*world.extract(whole))
    # Its run died before it ended: the markers are nowhere else.
    shutil.rmtree(half / "manifest")
    write_overlay(Storage(str(whole)), iter([("cat/00000.jpeg", ["dog"], None)]))
    for path in [*(half / "parts").iterdir(), *leave_dead(half)]:
        os.utime(path, (time.time() - 30 * DAY,) * 2)
    done(train, "--store", whole, "--output", run, *RIDGE)
    return world


def leave_dead(store: Path) -> list[Path]:
    """Writes what runs that died long ago left; returns it."""
    orphan = str(HashedName("a" * 32, "0" * 16))
    loser = str(HashedName(next(iter(read_markers(Storage(str(store))))), "0" * 16))
    names = [f"parts/{orphan}", f"quarantine/{orphan}", f"parts/{loser}", "plans/dead/0.parquet"]
    for name in names:
        Storage(str(store)).write(name, b"dead")
    return [store / name for name in names]


def kept_bytes(store: Path) -> dict[str, bytes]:
    """Returns what a store must never lose: file -> content."""
    storage = Storage(str(store))
    markers = read_markers(storage).values()
    names = {f"parts/{marker.part}" for marker in markers}
    for folder in ("markers", "manifest", "model", "labels", "runs"):
        names |= {f"{folder}/{file.name}" for file in storage.list(folder)}
    return {name: (store / name).read_bytes() for name in (*names, layout.SPEC)}


def assert_kept(store: Path, before: dict[str, bytes]) -> None:
    for name, data in before.items():
        assert (store / name).read_bytes() == data, name


def assert_answered(finished: Finished) -> None:
    """The command ended with its answer, or with a line that says why there is none."""
    lines = finished.err.splitlines()
    assert finished.code in (0, 1, 2, 3) and "Traceback" not in finished.err, finished
    assert all(line.startswith("error: ") for line in lines), finished
    assert bool(lines) is (finished.code != 0) and len(lines) <= 2, finished


def assert_whole(store: Path, world: World) -> None:
    """Every image is one row, and nothing is damaged; what runs left young may lie about."""
    found, wanted = (open_store(str(path)) for path in (store, world.folder / "whole"))
    assert {finding.kind for finding in verify_storage(found.storage)} <= {"orphan"}
    ledger = found.ledger()
    assert (ledger.images_in, ledger.rows, ledger.quarantined) == (IMAGES, IMAGES, 0)
    rows, expected = (
        {row[0]: row[1] for row in zip(*store.load(["key", "features"]).values(), strict=True)}
        for store in (found, wanted)
    )
    assert rows.keys() == expected.keys()
    for key, features in rows.items():
        np.testing.assert_allclose(features, expected[key], rtol=1e-3, atol=1e-5)


def extract_again(world: World, store: Path, faults: Faults) -> None:
    before = kept_bytes(store) if store.exists() else {}
    with faults.at_work():
        finished = finish(*world.extract(store))
    assert_answered(finished)
    if before:
        assert_kept(store, before)
    done(*world.extract(store))
    assert_whole(store, world)


def scene_extract(world: World, folder: Path, faults: Faults) -> None:
    extract_again(world, folder / "new", faults)


def scene_resume(world: World, folder: Path, faults: Faults) -> None:
    shutil.copytree(world.folder / "half", folder / "half")
    extract_again(world, folder / "half", faults)


def sweep_files(storage: Storage, now: float) -> None:
    sweep_store(storage, read_markers(storage).values(), now)


def scene_sweep(world: World, folder: Path, faults: Faults) -> None:
    store = Path(shutil.copytree(world.folder / "half", folder / "half"))
    live = Storage(str(store))
    live.write("plans/live/0.parquet", b"of a run at work")
    before, storage = kept_bytes(store), Storage(f"faulty://{store}")
    with faults.at_work():
        for sweep in (sweep_dead_runs, sweep_files):
            with suppress(OSError):
                sweep(storage, time.time())
    assert_kept(store, before)
    assert live.exists("plans/live/0.parquet")
    sweep_dead_runs(storage, time.time())
    sweep_files(storage, time.time())
    assert_kept(store, before)
    assert {file.name.split("/")[0] for file in live.list("plans")} == {"live"}
    assert len(live.list("parts")) == FIRST / 3 and not live.list("quarantine")


def scene_verify(world: World, folder: Path, faults: Faults) -> None:
    with faults.at_work():
        finished = finish(featurestore, "verify", f"faulty://{world.folder}/whole", "--json")
    if finished.code in (0, 1):
        kinds = {finding["kind"] for finding in json.loads(finished.out)["findings"]}
        assert kinds <= {"unreadable", "damaged_manifest", "damaged_labels", "unchecked"}, kinds
        assert bool(kinds) is bool(finished.code) or kinds == {"unchecked"}
    else:
        assert_answered(finished)


def scene_export(world: World, folder: Path, faults: Faults) -> None:
    with faults.at_work():
        places = f"faulty://{world.folder}/whole", "--output", f"faulty://{folder}/export"
        finished = finish(featurestore, "export", *places)
    assert_answered(finished)
    if finished.code == 0:
        (array,) = (folder / "export" / "img_emb").iterdir()
        stored = open_store(f"{world.folder}/whole").load(["features"])["features"]
        assert np.array_equal(np.load(array), stored)


def scene_train(world: World, folder: Path, faults: Faults) -> None:
    run = Path(shutil.copytree(world.folder / "run", folder / "run"))
    before = (run / "summary.json").read_bytes()
    places = ("--store", f"faulty://{world.folder}/whole", "--output", f"faulty://{run}")
    with faults.at_work():
        finished = finish(train, *places, *RIDGE, "--overwrite")
    assert_answered(finished)
    # The older run is whole, or the newer one, or there is none and it can be written.
    if not (run / "run.json").exists():
        assert finished.code
        finished = done(train, *places, *RIDGE, "--overwrite")
    wanted, found = json.loads(before), json.loads((run / "summary.json").read_text())
    for name in ("classes", "train_rows", "validation_rows"):
        assert found[name] == wanted[name]
    done(predict, "--run", run, next((world.folder / "input" / "cat").iterdir()))


def scene_predict(world: World, folder: Path, faults: Faults) -> None:
    images = f"faulty://{world.folder}/input/*/*.jpeg"
    arguments = ("--run", f"faulty://{world.folder}/run", "--json", images)
    wanted = json.loads(done(predict, *arguments).out)["predictions"]
    with faults.at_work():
        finished = finish(predict, *arguments)
    if finished.code != 1:
        assert_answered(finished)
    if finished.code == 0:
        found = json.loads(finished.out)["predictions"]
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one == other or one["error"]


# Each with about as many calls of the file system as it makes.
SCENES = {
    scene_extract: 270,
    scene_resume: 220,
    scene_sweep: 60,
    scene_verify: 70,
    scene_export: 60,
    scene_train: 300,
    scene_predict: 55,
}


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_file_system_that_fails_at_any_call_costs_nothing(seed, world, tmp_path):
    scene, calls = list(SCENES.items())[seed % len(SCENES)]
    faults = Faults.random(seed, calls)
    scene(world, tmp_path, faults)
    if SOAK:
        say(f"seed {seed}, {scene.__name__}: {dict(faults.met)} in {faults.calls} calls")


@pytest.mark.parametrize("operation", ["ls", "info", "open", "read"])
@pytest.mark.parametrize("times", [1, 6, 0], ids=["once", "for a while", "for good"])
def test_a_sweep_deletes_nothing_that_counts_whichever_call_fails(
    operation, times, world, tmp_path
):
    for number in range(SCENES[scene_sweep]):
        error = ERRORS[number % len(ERRORS)]
        faults = Faults(number, times, error, (operation,))
        scene_sweep(world, tmp_path / str(number), faults)
        if not faults.met:
            break
