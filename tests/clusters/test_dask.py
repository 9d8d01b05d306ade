"""Our pipelines on a Dask cluster: a scheduler and two workers, as processes of their own."""

import json
import shutil

import numpy as np
import pytest
from support.commands import run_command
from support.dask_cluster import WORKERS, dask_cluster
from support.extraction import SMALL, rows_of
from support.images import write_images
from support.kills import TWO_PROCESSES
from support.optional import optional

from featurestore import open_store
from featurestore.checking.verify import verify_storage

optional("distributed")
pytestmark = pytest.mark.cluster

IMAGES = 240
FLAGS = (*SMALL, "--engine", "tensorflow", "--chunk_size", "8")
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The driver's folder: images, some of them copies, and the stores of two local runs."""
    folder = tmp_path_factory.mktemp("driver")
    images = write_images(folder / "photos", IMAGES)
    for image in images[:40]:
        shutil.copy(image, image.with_stem(f"{image.stem}-copy"))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Runs a command in the driver's folder, whose paths are relative."""

    def done(*arguments):
        finished = run_command(*arguments, cwd=folder)
        assert finished.code == 0 and not finished.err, finished
        return finished

    return done


@pytest.fixture(scope="module")
def stores(cluster, folder, run):
    """The same extraction by each runner: name -> its store."""
    runners = {"one": (), "two": TWO_PROCESSES, "dask": cluster.flags}
    for name, flags in runners.items():
        run("pipelines.extract", "--input", "photos", "--output", name, *FLAGS, *flags)
    return {name: open_store(folder / name) for name in runners}


@pytest.mark.parametrize("other", ["one", "two"])
def test_rows_are_those_of_the_local_runner(stores, other):
    ours, theirs = rows_of(stores["dask"]), rows_of(stores[other])
    assert ours.keys() == theirs.keys() and len(ours) == IMAGES + 40
    for key, features in ours.items():
        assert np.abs(features - theirs[key]).max() <= TOLERANCE * np.abs(theirs[key]).max(), key


def test_all_workers_did_work_and_the_store_is_whole(stores):
    store = stores["dask"]
    times = [marker.time for marker in store.markers().values()]
    assert len({time["worker"] for time in times}) == WORKERS
    assert {time["lanes"] for time in times} == {1}
    assert list(verify_storage(store.storage)) == []


def test_nothing_is_extracted_twice(stores, cluster, run):
    finished = run(
        "pipelines.extract", "--input", "photos", "--output", "dask", *FLAGS, *cluster.flags
    )
    assert "nothing new to extract" in finished.out


def test_each_content_is_computed_once_with_dedupe(stores, cluster, folder, run):
    flags = ("--input", "photos", "--output", "distinct", "--dedupe", *FLAGS, *cluster.flags)
    summary = json.loads(run("pipelines.extract", *flags, "--json").out)
    assert summary["ledger"]["duplicates"] == 40
    distinct = open_store(folder / "distinct")
    assert rows_of(distinct).keys() == rows_of(stores["one"]).keys()
    times = [marker.time for marker in distinct.markers().values()]
    computed = [time["images"] for time in times if time["lane_seconds"]["infer"]]
    assert sum(computed) == IMAGES
    assert list(verify_storage(distinct.storage)) == []


def test_ridge_finds_what_one_process_finds(stores, cluster, folder, run):
    heads = {}
    for name, flags in {"here": (), "there": cluster.flags}.items():
        run("pipelines.ridge", "--store", "one", "--output", name, *flags)
        heads[name] = np.load(folder / name / "heads/ridge.npz")
    assert heads["here"].files == heads["there"].files
    for name in heads["here"].files:
        np.testing.assert_allclose(heads["there"][name], heads["here"][name], rtol=1e-4, atol=1e-6)
