"""Killed at random moments, on any input and any store: a run goes on as if nothing had been.

Every scene has its own input and store. What is asserted holds at every moment of the kill; where
the moments lie depends on the machine.
"""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT
from support.extraction import assert_same_rows, run
from support.images import write_images
from support.kills import TWO_PROCESSES, assert_nothing_left, await_end
from support.soak import SMALL, SOAK

from featurestore.cli.command import say
from featurestore.io.storage import Storage

IMAGES = 800
SHARDS = 40
# 50 kills in all; without the soak those of two scenes, two each.
SCENES = {
    ("folder", "local"): 9,
    ("tar", "local"): 8,
    ("zip", "local"): 8,
    ("folder", "s3"): 9,
    ("tar", "s3"): 8,
    ("zip", "s3"): 8,
}
ALWAYS = {("tar", "s3"): 2, ("zip", "local"): 2}


@dataclass(frozen=True)
class Kill:
    """When and how a run is killed.

    Attributes:
      commits: chunks that it commits before, or None to kill it while it starts.
      delay: seconds after that, or after its start.
      whole_group: its workers too, or only the driver.
      processes: further flags.
    """

    commits: int | None
    delay: float
    whole_group: bool
    flags: tuple[str, ...]

    @classmethod
    def draw(cls, random: np.random.Generator, number: int) -> "Kill":
        """Draws one; drivers and groups, one and two processes take turns."""
        starting = number % 4 == 3
        return cls(
            commits=None if starting else int(random.integers(0, 4)),
            delay=float(random.uniform(0, 8.0 if starting else 0.4)),
            whole_group=number % 2 == 0,
            flags=TWO_PROCESSES if number % 4 in (1, 2) else (),
        )


def run_and_kill(arguments: list[str], storage: Storage, kill: Kill, cwd: Path) -> bool:
    """Starts the command and kills it; returns whether it was still running then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.extract", *arguments, *kill.flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill.commits is not None:
        target = len(storage.list("markers")) + kill.commits
        while process.poll() is None and len(storage.list("markers")) < target:
            time.sleep(0.02)
    time.sleep(kill.delay)
    running = process.poll() is None
    if running:
        (os.killpg if kill.whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    await_end(process.pid)
    return running


def make_input(folder: Path, kind: str) -> str:
    """Writes 800 images as a folder or as 40 shards; returns the flag's value."""
    images = write_images(folder / "photos", IMAGES)
    if kind == "folder":
        return str(folder / "photos")
    for number in range(SHARDS):
        write_shard(folder / f"{number:02d}.{kind}", images[number::SHARDS])
    return str(folder / f"*.{kind}")


def write_shard(path: Path, images: list[Path]) -> None:
    """Packs images into a tar or zip of class folders."""
    names = [(f"{image.parent.name}/{image.name}", image) for image in images]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, image in names:
                archive.write(image, name)
        return
    with tarfile.open(path, "w") as archive:
        for name, image in names:
            member = tarfile.TarInfo(name)
            member.size = image.stat().st_size
            archive.addfile(member, io.BytesIO(image.read_bytes()))


@pytest.mark.parametrize(
    ("source", "kind", "kills"),
    [(*scene, kills) for scene, kills in (SCENES if SOAK else ALWAYS).items()],
    ids=lambda value: str(value),
)
def test_killed_runs_lose_and_repeat_nothing(tmp_path, request, source, kind, kills):
    url, options = str(tmp_path / "store"), {}
    if kind == "s3":
        bucket, options = request.getfixturevalue("bucket")
        url = f"{bucket}/store"
    arguments = ["--input", make_input(tmp_path, source), *SMALL, "--chunk_size", "20"]
    undisturbed = run(*arguments, "--output", tmp_path / "undisturbed").store
    arguments += ["--output", url]
    if options:
        arguments += ["--storage_options", *(f"{key}={value}" for key, value in options.items())]
    storage, random, hit = Storage(url, options), np.random.default_rng(len(source) * kills), 0
    for number in range(kills):
        hit += run_and_kill(arguments, storage, Kill.draw(random, number), tmp_path)
    left = SHARDS - len(storage.list("markers"))
    outcome = run(*arguments)
    assert outcome.exit_code == 0 and outcome.record["store_ledger"]["rows"] == IMAGES
    assert_same_rows(undisturbed, outcome.store)
    assert_nothing_left(outcome.store)
    assert run(*arguments).record["ledger"]["images_in"] == 0
    say(
        f"{source} to {kind}: {hit} of {kills} kills hit a running command, {left} chunks were left"
    )
