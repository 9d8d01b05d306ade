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
from support.scores import assert_same_scores

from classifier.runs.run import load_run
from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.io.storage import Storage
from pipelines.scoring.spec import open_scores

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
def extracted(run, folder):
    """Extracts the images by some runner; returns the store."""

    def store(name, *flags):
        run("pipelines.extract", "--input", "photos", "--output", name, *FLAGS, *flags)
        return open_store(str(folder / name))

    return store


@pytest.fixture(scope="module")
def local(extracted):
    """The store of one process."""
    return extracted("one")


@pytest.fixture(scope="module")
def stores(cluster, local, extracted):
    """The same extraction by each runner: name -> its store."""
    return {
        "one": local,
        "two": extracted("two", *TWO_PROCESSES),
        "dask": extracted("dask", *cluster.flags),
    }


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


def test_each_content_is_computed_once_with_dedupe(local, cluster, folder, run):
    flags = ("--input", "photos", "--output", "distinct", "--dedupe", *FLAGS, *cluster.flags)
    summary = json.loads(run("pipelines.extract", *flags, "--json").out)
    assert summary["ledger"]["duplicates"] == 40
    distinct = open_store(str(folder / "distinct"))
    assert rows_of(distinct).keys() == rows_of(local).keys()
    times = [marker.time for marker in distinct.markers().values()]
    computed = [time["images"] for time in times if time["lane_seconds"]["infer"]]
    assert sum(computed) == IMAGES
    assert list(verify_storage(distinct.storage)) == []


def test_ridge_finds_what_one_process_finds(local, cluster, folder, run):
    weights = {}
    for name, flags in {"here": (), "there": cluster.flags}.items():
        run("pipelines.ridge", "--store", "one", "--output", name, *flags)
        found = load_run(str(folder / name))
        weights[name] = found.load_head(found.head_id()).get_weights()
    for here, there in zip(weights["here"], weights["there"], strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def trained(local, run):
    """The flags of a run of one head on the local store."""
    flags = ("--store", "one", "--output", "heads", "--head", "linear", "--epochs", "2")
    run("classifier.train", *flags)
    return "--run", "heads", "--chunk_size", "16"


@pytest.mark.parametrize(
    "source", [("--store", "one"), ("--input", "photos")], ids=["rows", "images"]
)
def test_scores_are_those_of_the_local_runner(trained, cluster, folder, run, source):
    kind = source[1]
    run("pipelines.score", *trained, *source, "--output", f"here-{kind}")
    run("pipelines.score", *trained, *source, "--output", f"there-{kind}", *cluster.flags)
    assert_same_scores(folder / f"here-{kind}", folder / f"there-{kind}", ["linear"])
    there = open_scores(Storage(str(folder / f"there-{kind}")))
    assert sum(marker.ledger.rows for marker in there.markers().values()) == IMAGES + 40
    assert len({marker.time["worker"] for marker in there.markers().values()}) == WORKERS
