"""Scoring at scale: the rows of a store or of images, as the run's own head classifies them."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.extraction import SMALL, make_tar, run
from support.features import clusters, make_store
from support.images import write_images
from support.kills import TWO_PROCESSES, start_and_kill
from support.optional import optional
from support.scores import HEADS, assert_same_scores, score_rows

from classifier.predict import run as predict
from classifier.runs.run import load_run
from classifier.runtime import import_keras
from classifier.train import run as train
from featurestore import UsageError, open_store
from featurestore.errors import SpecMismatch
from featurestore.io.storage import Storage
from pipelines.score import run as score
from pipelines.scoring.spec import open_scores

PORTABLE = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
BAD = "cat/bad.jpeg"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, one of them bad, a store of their features in several commits, and a run."""
    folder = tmp_path_factory.mktemp("world")
    write_images(folder / "in", 90)
    (folder / "in" / BAD).write_bytes(b"no image")
    made = run("--input", folder / "in", "--output", folder / "s", *SMALL, "--chunk_size", 20)
    assert made.record["ledger"]["quarantined"] == 1
    heads = ["--head", "linear", "--head", "mlp:8", "--epochs", "8"]
    assert train(["--store", str(folder / "s"), "--output", str(folder / "r"), *heads]) == 0
    return folder


def scored(world, capsys, output, *arguments):
    """Runs the command in this process; returns (exit code, the summary)."""
    capsys.readouterr()
    given = ["--run", world / "r", "--output", output, *arguments, "--json"]
    code = score([str(argument) for argument in given])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def of_store(world):
    """The scores of the store by both heads."""
    arguments = ["--run", world / "r", "--store", world / "s", "--output", world / "scores"]
    assert score([*map(str, arguments), "--head_id", *HEADS, "--logits", "--json"]) == 0
    return world / "scores"


def test_a_store_is_scored_as_its_head_classifies_it(world, of_store):
    trained, stored = load_run(str(world / "r")), open_store(world / "s").load()
    rows = score_rows(of_store)
    assert set(rows) == set(stored["key"]) and len(rows) == 90
    for head in HEADS:
        wanted = trained.load_head(head).predict(stored["features"], verbose=0)[:, 0]
        for key, dog, labels in zip(stored["key"], wanted, stored["labels"], strict=True):
            row = rows[key]
            assert row["labels"] == list(labels) and row[f"{head}_classes"][0] in trained.classes
            found = dict(zip(row[f"{head}_classes"], row[f"{head}_probabilities"], strict=True))
            assert found == pytest.approx({"dog": dog, "cat": 1 - dog}, abs=1e-5)
            (logit,) = row[f"{head}_logits"]
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(dog, abs=1e-5)


def test_images_are_scored_as_predict_classifies_them(world, of_store, tmp_path, capsys):
    arguments = ("--input", world / "in", "--head_id", *HEADS, "--chunk_size", 20)
    code, record = scored(world, capsys, tmp_path / "o", *arguments)
    ledger = record["ledger"]
    assert code == 0 and (ledger["images_in"], ledger["rows"]) == (91, 90)
    assert record["quarantined_by_kind"] == {"not_an_image": 1} and record["chunks"] == 5
    assert_same_scores(of_store, tmp_path / "o")
    assert [row["key"] for row in open_scores(Storage(str(tmp_path / "o"))).quarantined()] == [BAD]
    predict(["--run", str(world / "r"), str(world / "in"), "--head_id", "linear", "--json"])
    by_uri = {row["uri"]: row for row in score_rows(tmp_path / "o").values()}
    for found in json.loads(capsys.readouterr().out)["predictions"]:
        if "error" not in found:
            row = by_uri[found["image"]]
            assert [top["probability"] for top in found["top"]] == pytest.approx(
                row["linear_probabilities"], abs=1e-5
            )


@pytest.mark.parametrize("source", ["store", "images"])
def test_a_head_that_numpy_cannot_run_is_run_by_keras(world, tmp_path, capsys, source):
    keras, stored = import_keras(), open_store(world / "s").load()
    shutil.copytree(world / "r", tmp_path / "r")
    inputs = keras.Input(stored["features"].shape[1:], name="features")
    x = keras.layers.Dense(1, name="logits")(keras.layers.Dense(4, activation="gelu")(inputs))
    head = keras.Model(inputs, keras.layers.Activation("sigmoid", name="probabilities")(x))
    head.save(tmp_path / "r/heads/linear.keras")
    assert not load_run(str(tmp_path / "r")).read_head("linear").is_known
    given = {"store": ("--store", world / "s"), "images": ("--input", world / "in")}[source]
    code, _ = scored(tmp_path, capsys, tmp_path / "o", *given, "--head_id", "linear")
    assert code == 0
    rows, wanted = score_rows(tmp_path / "o"), head.predict(stored["features"], verbose=0)[:, 0]
    for key, dog in zip(stored["key"], wanted, strict=True):
        names = rows[key]["linear_classes"], rows[key]["linear_probabilities"]
        assert dict(zip(*names, strict=True))["dog"] == pytest.approx(dog, abs=1e-5)


def test_no_features_are_kept(of_store):
    names = {name for part in (of_store / "parts").iterdir() for name in pq.read_schema(part).names}
    assert "features" not in names and not (of_store / "model").exists()
    with pytest.raises(UsageError, match="no feature store"):
        open_store(of_store)


def test_duckdb_and_pandas_read_the_scores(of_store):
    duckdb = optional("duckdb")
    query = f"""select count(*), count(distinct key), max(linear_probabilities[1])
        from '{of_store}/parts/*.parquet' where linear_classes[1] in ('cat', 'dog')"""
    count, distinct, largest = duckdb.sql(query).fetchall()[0]
    assert count == distinct == 90 and 0.5 <= largest <= 1
    frame = optional("pandas").read_parquet(of_store / "parts")
    assert len(frame) == 90 and len(frame["linear_classes"][0]) == 2


@pytest.mark.parametrize("flags", [TWO_PROCESSES, PORTABLE], ids=["processes", "portable"])
@pytest.mark.parametrize("source", ["store", "images"])
def test_the_same_rows_on_every_runner(world, of_store, tmp_path, capsys, source, flags):
    given = {"store": ("--store", world / "s"), "images": ("--input", world / "in")}[source]
    code, _ = scored(world, capsys, tmp_path / "o", *given, "--head_id", *HEADS, *flags)
    assert code == 0
    assert_same_scores(of_store, tmp_path / "o")


def test_a_killed_scoring_goes_on_and_every_key_is_there_once(world, of_store, tmp_path, capsys):
    given = ("--input", world / "in", "--head_id", *HEADS, "--chunk_size", 5)
    for number in range(2):
        start_and_kill(
            ("--run", world / "r", "--output", tmp_path / "o", *given),
            tmp_path / "o",
            1 + number,
            0.02,
            whole_group=True,
            command=("pipelines.score",),
        )
    code, record = scored(world, capsys, tmp_path / "o", *given)
    assert code == 0 and record["already_committed"] > 0
    assert record["store_ledger"]["rows"] == 90 and not any((tmp_path / "o/plans").iterdir())
    assert_same_scores(of_store, tmp_path / "o")
    _, record = scored(world, capsys, tmp_path / "o", *given)
    assert record["chunks"] == 0


def test_new_commits_of_a_store_are_added_and_replaced_rows_refused(world, tmp_path, capsys):
    photos = shutil.copytree(world / "in", tmp_path / "in")
    store = tmp_path / "s"
    run("--input", photos, "--output", store, *SMALL)
    shutil.copytree(world / "r", tmp_path / "r")
    code, _ = scored(tmp_path, capsys, tmp_path / "o", "--store", store)
    (photos / "dog/new.jpeg").write_bytes((photos / "dog/00001.jpeg").read_bytes() + b" ")
    run("--input", photos, "--output", store, *SMALL)
    code, record = scored(tmp_path, capsys, tmp_path / "o", "--store", store)
    assert code == 0 and record["ledger"]["rows"] == 1
    assert len(score_rows(tmp_path / "o")) == 91
    (photos / "dog/new.jpeg").write_bytes((photos / "dog/00003.jpeg").read_bytes())
    run("--input", photos, "--output", store, *SMALL)
    with pytest.raises(UsageError, match="has replaced rows, or was compacted, since .* was begun"):
        scored(tmp_path, capsys, tmp_path / "o", "--store", store)


def test_a_shard_that_cannot_be_read_is_a_dead_chunk(world, tmp_path, capsys):
    images = sorted((world / "in/dog").iterdir())
    make_tar(tmp_path / "a.tar", images)
    (tmp_path / "b.zip").write_bytes(b"PK nothing")
    inputs = ("--input", tmp_path / "a.tar", tmp_path / "b.zip")
    code, record = scored(world, capsys, tmp_path / "o", *inputs)
    assert code == 3 and record["ledger"]["dead_chunks"] == 1
    assert record["ledger"]["rows"] == len(images) == len(score_rows(tmp_path / "o"))


def test_drift_is_small_for_the_training_rows_and_larger_for_others(tmp_path, capsys):
    features, labels = clusters(120, 4)
    known = make_store(tmp_path / "s", features, labels)
    # As many deviations away as the test says, and all of one class.
    deviation = features.std(axis=0)
    one = features[np.arange(120) % 4 == 0]
    other = make_store(tmp_path / "other", one + 3 * deviation, labels[: len(one)])
    heads = ["--head", "linear", "--epochs", "30", "--lr", "0.01"]
    assert train(["--store", known.url, "--output", str(tmp_path / "r"), *heads]) == 0
    _, near = scored(tmp_path, capsys, tmp_path / "near", "--store", known.url)
    _, far = scored(tmp_path, capsys, tmp_path / "far", "--store", other.url)
    near, far = near["drift"], far["drift"]
    assert near["feature_distance"] < 0.3 and 2 < far["feature_distance"] < 5
    assert near["class_distance"]["linear"] < 0.2 < far["class_distance"]["linear"]
    assert near["trained"] == pytest.approx({f"class {n}": 0.25 for n in range(4)}, abs=0.1)
    for drift in (near, far):
        assert sum(drift["classes"]["linear"].values()) == pytest.approx(1)
    rows = score_rows(tmp_path / "near")
    right = [row["linear_classes"][0] == row["labels"][0] for row in rows.values()]
    assert len(rows) == 120 and np.mean(right) > 0.9
    assert all(len(set(row["linear_classes"])) == 4 for row in rows.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --store, whose rows are scored, or --input"),
        (("--store", "s", "--input", "in"), "not both"),
        (("--store", "s", "--top", "0"), "--top must be at least 1"),
        (("--store", "s", "--head_id", "liner"), "did you mean linear"),
        (("--store", "gone"), "no feature store at"),
        (("--input", "gone"), "does not exist"),
        (("--store", "s", "--output", "s"), "must lie apart"),
        (("--store", "s", "--output", "s2"), "is a feature store"),
        (("--store", "s", "--output", "scores"), "differ in logits, head"),
        (("--input", "in", "--output", "scores", "--logits"), "differ in scores of"),
        (("--store", "s", "--chunksize", "3"), "--chunk_size"),
    ],
)
def test_mistakes_are_one_line(world, of_store, monkeypatch, arguments, message):
    monkeypatch.chdir(world)
    if not (world / "s2").exists():
        shutil.copytree(world / "s", world / "s2")
    given = ["--run", "r", *arguments]
    if "--output" not in arguments:
        given += ["--output", "new"]
    with pytest.raises((UsageError, SystemExit), match=message) as caught:
        score(given)
    assert "\n" not in str(caught.value) and not (world / "new").exists()


def test_other_features_are_refused(world, tmp_path, capsys):
    other = [*SMALL[:-4], "--image_size", "40", *SMALL[-2:]]
    run("--input", world / "in", "--output", tmp_path / "s", *other, "--limit", 4)
    with pytest.raises(SpecMismatch, match="image_size"):
        scored(world, capsys, tmp_path / "o", "--store", tmp_path / "s")
