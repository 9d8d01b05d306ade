"""Compaction beside a real extraction and a reader, at the same time on one store."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from support.clusters import await_that
from support.commands import ROOT
from support.extraction import SMALL, assert_same_rows, rows_of, run
from support.images import encode, write_images
from support.kills import markers_in

from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.compaction.compact import compact

FLAGS = (*SMALL, "--engine", "tensorflow", "--batch_size", "1", "--chunk_size")
IMAGES = 500
CHANGED = 30


def age(store, folder):
    """Lets the finished runs of a store end hours ago, so that a new one cannot count on them."""
    for path in (folder / "runs").glob("*.json"):
        record = json.loads(path.read_text()) | {"finished": "2020-01-01T00:00:00Z"}
        store.storage.write(f"runs/{path.name}", json.dumps(record))


@contextmanager
def extracting(folder, *arguments):
    """Runs an extraction in a process of its own."""
    command = [sys.executable, "-m", "pipelines.extract", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Reader(threading.Thread):
    """Reads a store again and again, and keeps what it saw of some keys."""

    def __init__(self, store, always):
        super().__init__(daemon=True)
        self.store, self.always, self.ended = store, always, threading.Event()
        self.scans, self.wrong = 0, []

    def run(self):
        try:
            while not self.ended.is_set() and not self.wrong:
                rows = rows_of(self.store)
                if missing := self.always - rows.keys():
                    self.wrong.append(f"{len(missing)} rows are missing, such as {min(missing)}")
                self.scans += 1
        except BaseException as error:
            self.wrong.append(repr(error))


@pytest.mark.slow
def test_no_row_is_lost_or_doubled(tmp_path):
    images = write_images(tmp_path / "photos", IMAGES)
    url, given = tmp_path / "store", ("--input", tmp_path / "photos", *FLAGS)
    # Three earlier runs make small commits; the live run replaces rows of the first one.
    for limit in (60, 90, 120):
        store = run(*given, 7, "--output", url, "--limit", limit).store
    for number, path in enumerate(images[:CHANGED]):
        path.write_bytes(encode(np.full((48, 64, 3), number, np.uint8), "JPEG"))
    age(store, url)
    before, commits = rows_of(store), markers_in(url)
    slow = store.scan(["key", "features"], batch_size=1)
    first = [next(slow) for _ in range(5)]
    reader = Reader(open_store(str(url)), set(before))
    reader.start()
    merged = 0
    with extracting(tmp_path, *given, 4, "--output", url) as process:
        begun = lambda: markers_in(url) > commits + 2 or process.poll() is not None  # noqa: E731
        await_that(begun, "the extraction commits", 240)
        while process.poll() is None:
            done = compact(store)
            merged += done.merged if process.poll() is None else 0
        assert process.returncode == 0, (tmp_path / "errors").read_text()
    reader.ended.set()
    reader.join(120)
    assert not reader.wrong and reader.scans
    assert merged > 0, "nothing was merged while the extraction ran"
    rest = {row["key"][0]: row["features"][0] for row in (*first, *slow)}
    assert rest.keys() == before.keys(), "a scan that began before sees what it began with"
    whole = run(*given, 64, "--output", tmp_path / "whole").store
    assert_same_rows(whole, store)
    assert list(verify_storage(store.storage)) == []
    assert compact(store, keep_seconds=0).waiting == 0
    assert len(store.markers()) == markers_in(url) < IMAGES / 10, "nor are there old files"
    assert_same_rows(whole, store)
    assert list(verify_storage(store.storage)) == []
    again = run(*given, 4, "--output", url).record
    assert (again["listed"], again["ledger"]["images_in"]) == (IMAGES, 0)
