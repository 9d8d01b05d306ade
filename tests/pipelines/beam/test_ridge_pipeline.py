"""The ridge pipeline finds what the local fit finds, and writes the same kind of run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support.commands import assert_one_line_error
from support.features import clusters, hash_of, make_store, spec_of

from classifier.features.division import divide
from classifier.heads.data import prepare_data
from classifier.heads.exact import ridge_settings
from classifier.heads.options import TrainOptions
from classifier.heads.ridge.fit import fit_ridge
from classifier.heads.spec import HeadSpec
from classifier.runs.run import load_run
from classifier.train import run as train
from featurestore import UsageError, open_store
from featurestore.commit import commit
from featurestore.io.storage import Storage
from featurestore.labels.overlay import write_overlay
from pipelines.ridge import FIT, fit_by_beam, run

RIDGE = HeadSpec("ridge")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """300 rows of three classes in 23 chunks; some contents thrice."""
    features, labels = clusters(300, 3, channels=6)
    hashes = [hash_of(number // 3 if number < 60 else number) for number in range(300)]
    folder = tmp_path_factory.mktemp("stores") / "s"
    return make_store(folder, features + 20, labels, rows_per_part=13, content_hash=hashes)


def fits(store, folder, *flags, **changes):
    options = TrainOptions(heads=(RIDGE,), **changes)
    division = divide(store)
    settings = ridge_settings(RIDGE, options, store.spec.feature_shape, division)
    local = fit_ridge(settings, prepare_data(store, division, options).rows)
    return local, fit_by_beam(store, Storage(str(folder)), division, options, flags)


def assert_same_fit(local, beam):
    assert beam.l2 == local.l2 and beam.scale == local.scale
    for name in ("mean", "target_mean", "weights"):
        found, wanted = getattr(beam.path, name), getattr(local.path, name)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())
    assert beam.metrics == pytest.approx(local.metrics, rel=1e-5)
    assert beam.penalties["val_accuracy"] == local.penalties["val_accuracy"]


def test_every_pass_reads_the_rows_and_labels_that_were_divided(store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store.url, copy)
    changing = open_store(str(copy))
    before = changing.at_this_moment()
    options = TrainOptions(heads=(RIDGE,))
    division = divide(before)
    local, _ = fits(store, tmp_path)
    keys = changing.load(["key"])["key"]
    labels = [str(name) for name in division.classes]
    write_overlay(changing.storage, ((key, labels[:1], None) for key in keys))
    for name in list(changing.markers())[:5]:
        renamed = dataclasses.replace(changing.markers()[name], chunk_id=name[::-1])
        commit(changing.storage, renamed)
    assert_same_fit(local, fit_by_beam(before, Storage(str(tmp_path)), division, options, ()))
    assert not Storage(str(tmp_path)).list("heads")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"folds": 0, "l2": (1e-3, 10.0)},
        {"class_weight": "balanced", "standardise": "none", "l2": (0.1,)},
    ],
    ids=["plain", "no folds", "weighted"],
)
def test_beam_finds_what_the_local_fit_finds(store, tmp_path, changes):
    assert_same_fit(*fits(store, tmp_path, **changes))
    assert not list((tmp_path / FIT).parent.iterdir()), "nothing is left over"


@pytest.mark.parametrize("most_groups", [1, 2, 1000])
def test_it_does_not_depend_on_groups_and_tiles(store, tmp_path, monkeypatch, most_groups):
    monkeypatch.setattr("classifier.heads.ridge.solution.TILE_BYTES", 200)
    monkeypatch.setattr("pipelines.beam.ridge.MOST_GROUPS", most_groups)
    assert_same_fit(*fits(store, tmp_path))


@pytest.mark.parametrize("relative", [("store", "run"), ("./store", "file:///{}/run")])
def test_workers_are_told_absolute_paths(store, tmp_path, monkeypatch, relative):
    """Workers run in other folders than the command."""
    from pipelines.beam import ridge

    shutil.copytree(store.url, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    seen = []

    def noting(self):
        seen.append((self._source.store_url, self._source.run_url))
        setup(self)

    setup = ridge.OverRows.setup
    monkeypatch.setattr(ridge.OverRows, "setup", noting)
    store_path, run_path = (path.format(tmp_path) for path in relative)
    assert run(["--store", store_path, "--output", run_path, "--json"]) == 0
    assert set(seen) == {(str(tmp_path / "store"), str(tmp_path / "run"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
    ],
    ids=["processes", "portable"],
)
def test_other_runners_find_it_too(store, tmp_path, flags):
    assert_same_fit(*fits(store, tmp_path, *flags))


def test_maps_and_two_classes(tmp_path):
    features, labels = clusters(80, 2, channels=12)
    spec = spec_of((2, 2, 3), dtype="float16")
    store = make_store(tmp_path / "s", features.reshape(-1, 2, 2, 3), labels, spec=spec)
    assert_same_fit(*fits(store, tmp_path / "run"))


def test_the_run_is_the_one_that_training_writes(store, tmp_path, capsys):
    arguments = ["--store", store.url, "--l2", "0.01,1"]
    assert run([*arguments, "--output", str(tmp_path / "beam"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["best"] == "ridge" and summary["features"] == "streamed"
    assert train([*arguments, "--output", str(tmp_path / "local"), "--head", "ridge"]) == 0
    beam, local = load_run(str(tmp_path / "beam")), load_run(str(tmp_path / "local"))
    assert {f.name for f in beam.storage.list("")} == {f.name for f in local.storage.list("")}
    assert beam.config.options == local.config.options
    for a, b in zip(
        beam.load_head("ridge").get_weights(), local.load_head("ridge").get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_local_runner_is_never_prism(store, tmp_path, monkeypatch):
    from apache_beam.runners.portability import prism_runner

    def refuse(self, *arguments):
        pytest.fail("Prism was tried")

    monkeypatch.setattr(prism_runner.PrismRunner, "run_pipeline", refuse)
    fits(store, tmp_path, "--runner=DirectRunner", l2=(1.0,), folds=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--l2", "much"], "--l2: expected numbers separated by commas, such as"),
        (["--l2", "-1"], "--l2 must be 0 or more, got -1"),
        (["--folds", "1"], "--folds must be from 2 to 100, or 0 .*, got 1"),
        (["--runner", "NoRunner"], "--runner: "),
        (["--fold", "3"], "unknown flag '--fold'; did you mean --folds"),
    ],
)
def test_mistakes_are_one_line(store, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        run(["--store", store.url, "--output", str(tmp_path / "run"), *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_no_store_is_one_line(command):
    done = command("pipelines.ridge", "--store", "nowhere", "--output", "run")
    assert_one_line_error(done, 2, "no feature store at")
