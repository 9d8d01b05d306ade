"""Heads over several taps of a store: a run for each tap, and one leaderboard."""

import csv
import json

import numpy as np
import pytest
from support.features import make_store, spec_of
from support.pages import Page
from support.training import SPLITS

from classifier.evaluate import run as evaluate
from classifier.judgement.evaluation import evaluate as evaluated
from classifier.report import run as report
from classifier.runs.run import load_run
from classifier.train import run as train
from classifier.training import taps
from featurestore import BaseSpec, UsageError
from featurestore.errors import CorruptStore
from featurestore.fields import Tap

TAPS = (
    Tap("deep", "none", "b" * 32, (2, 2, 3), 1, "float16"),
    Tap("in/early", "avg", "a" * 32, (4,), 0, "float32"),
    Tap("noise", "max", "c" * 32, (2,), 2, "float32"),
)
JOINED = "deep+in/early:avg"
FLAGS = ["--head", "ridge", "--head", "linear", "--epochs", "3", "--lr", "0.01"]


def rows():
    """120 rows of three classes; `deep` knows the second, `early` the third, and `noise` none."""
    random, classes = np.random.default_rng(0), np.arange(120) % 3
    parts = {tap.layer: random.normal(size=(120, tap.size)) for tap in TAPS}
    parts["deep"][classes == 1] += 2.0
    parts["in/early"][classes == 2] += 2.0
    return np.concatenate([parts[tap.layer] for tap in TAPS], axis=1).astype(np.float32), classes


def tap_store(folder, splits):
    base = BaseSpec("Tiny", "random", "f" * 32, "deep+in/early:avg+noise:max", "none", "tf")
    base = BaseSpec(**{**vars(base), "taps": TAPS})
    features, classes = rows()
    spec = spec_of((18,), base=base)
    labels = [str(number) for number in classes]
    return make_store(folder, features, labels, splits, spec=spec)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tap_store(tmp_path_factory.mktemp("taps") / "s", SPLITS)


def train_on(store, folder, *taps, more=()):
    flags = [part for tap in taps for part in ("--tap", tap)]
    train(["--store", store.url, "--output", str(folder), *FLAGS, *flags, *more])


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_on(store, folder, "noise:max", "deep", JOINED)
    return folder


def test_one_leaderboard_names_the_tap_of_each_head(folder):
    board = json.loads((folder / "leaderboard.json").read_text())
    assert [row["rank"] for row in board] == [1, 2, 3, 4, 5, 6]
    assert board == sorted(board, key=lambda row: row["val_loss"])
    assert {(row["tap"], row["head_id"]) for row in board} == {
        (tap, head) for tap in ("noise:max", "deep", JOINED) for head in ("ridge", "linear")
    }
    with open(folder / "leaderboard.csv") as file:
        assert [row["tap"] for row in csv.DictReader(file)] == [row["tap"] for row in board]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["tap"], summary["leaderboard"]) == (JOINED, board)
    # The two best taps, on the same validation rows.
    assert summary["comparison"]["tap"] == next(r["tap"] for r in board if r["tap"] != JOINED)
    assert {"p_value", "difference", "beyond_chance"} <= summary["comparison"].keys()


def test_the_run_of_a_tap_is_that_of_a_store_of_it_alone(store, folder, tmp_path):
    run = load_run(str(folder / "taps" / "deep"))
    alone = store.tap("deep").load(["features", "labels", "split"])
    labels = [names[0] for names in alone["labels"]]
    spec = spec_of((2, 2, 3), dtype="float16", base=store.tap("deep").spec.base)
    single = make_store(tmp_path / "single", alone["features"], labels, SPLITS, spec=spec)
    assert single.spec.identity_hash == run.spec.identity_hash
    train_on(single, tmp_path / "run")
    ours = {row["head_id"]: row["val_loss"] for row in run.leaderboard()}
    theirs = {
        row["head_id"]: row["val_loss"] for row in load_run(str(tmp_path / "run")).leaderboard()
    }
    assert ours == theirs
    # Both stores serve both runs.
    for each in (single, store.tap_of(run.spec.base)):
        assert evaluated(run, "ridge", each, _test_rows(run, each)).rows == 20


def _test_rows(run, store):
    from classifier.judgement.evaluation import select_split

    return select_split(run, store, "test")


def test_a_command_uses_the_run_of_the_best_tap(store, folder, capsys):
    assert load_run(str(folder)).spec.base.tap == JOINED
    arguments = ["--run", str(folder), "--store", store.url, "--json"]
    evaluate([*arguments, "--compare", "deep"])
    record = json.loads(capsys.readouterr().out)
    assert record["comparison"]["tap"] == "deep" and record["rows"] == 20
    best = folder / "taps" / "deep+in_early_avg"
    assert list((best / "evaluation").glob("test-*.json"))
    evaluate([*arguments, "--compare", "linear"])
    assert "tap" not in json.loads(capsys.readouterr().out)["comparison"]
    report(["--run", str(folder), "--store", store.url])
    assert JOINED in (best / "report.html").read_text()
    with pytest.raises(UsageError, match="is the tap that is evaluated"):
        evaluate([*arguments, "--compare", JOINED])
    with pytest.raises(UsageError, match="--compare: unknown value 'lost'"):
        evaluate([*arguments, "--compare", "lost"])


def test_what_is_refused(store, folder, tmp_path):
    with pytest.raises(UsageError, match="features of 3 taps.*--tap NAME"):
        train_on(store, tmp_path / "run")
    with pytest.raises(UsageError, match="--tap deep: is given twice"):
        train_on(store, tmp_path / "run", "deep", "deep")
    with pytest.raises(UsageError, match="--tap noise:max: .*conv"):
        train_on(store, tmp_path / "run", "noise:max", "deep", more=["--head", "conv:4"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="holds a training run already.*--overwrite"):
        train_on(store, folder, "deep")
    with pytest.raises(UsageError, match="holds a training run already.*--overwrite"):
        train_on(store, folder, "deep", "noise:max")


def test_another_training_replaces_that_of_the_taps(store, tmp_path):
    folder = tmp_path / "run"
    train_on(store, folder, "noise:max", "deep")
    (folder / "taps" / "deep" / "mine.txt").write_text("somebody else's")
    train_on(store, folder, "in/early:avg", "deep", more=["--overwrite"])
    found = json.loads((folder / "taps.json").read_text())["runs"]
    assert found.keys() == {"in/early:avg", "deep"}
    assert not (folder / "taps" / "noise_max" / "run.json").exists()
    train_on(store, folder, "deep", more=["--overwrite"])
    assert load_run(str(folder)).url == str(folder) and not (folder / "taps.json").exists()
    assert (folder / "taps" / "deep" / "mine.txt").read_text() == "somebody else's"
    train_on(store, folder, "in/early:avg", "deep", more=["--overwrite"])
    assert not (folder / "run.json").exists()
    (folder / "taps.json").write_text("{}")
    with pytest.raises(CorruptStore, match="taps.json: not the taps of a training"):
        load_run(str(folder))


def test_an_interrupted_training_goes_on_with_the_next_tap(store, tmp_path, monkeypatch, capsys):
    real, trained = taps.train_run, []

    def until_the_second(store, *arguments):
        trained.append(store.spec.tap)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(store, *arguments)

    monkeypatch.setattr(taps, "train_run", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_on(store, tmp_path / "run", "deep", "noise:max")
    with pytest.raises(UsageError, match="no finished training run"):
        load_run(str(tmp_path / "run"))
    train_on(store, tmp_path / "run", "deep", "noise:max")
    assert trained == ["deep", "noise:max", "noise:max"]
    assert "tap deep: trained before the interruption" in capsys.readouterr().out
    board = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    assert [row["rank"] for row in board] == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "run" / "taps").iterdir()) == [
        "deep", "noise_max"
    ]  # fmt: skip


def test_one_page_ranks_all_taps_and_leads_to_the_page_of_each(store, folder, capsys):
    standings = json.loads((folder / "summary.json").read_text())["standings"]
    assert [row["tap"] for row in standings] == [
        row["tap"] for row in sorted(standings, key=lambda row: -row["accuracy"]["estimate"])
    ]
    first, *rest = standings
    assert {row["bytes_per_row"] for row in standings} == {24, 40, 8}
    for row in standings:
        run = load_run(str(folder / row["folder"]))
        judged = evaluated(run, row["head_id"], store.tap(row["tap"]), _test_rows(run, store))
        assert row["test"]["estimate"] == judged.to_record()["accuracy"]
    for row in rest:
        gap = first["accuracy"]["estimate"] - row["accuracy"]["estimate"]
        assert row["difference"]["estimate"] == pytest.approx(gap)
        assert {"p_value", "test_difference", "test_p_value"} <= row.keys()
    written = (folder / "report.html").read_text()
    page = Page(written)
    links = [found["href"] for found in page.all("a")]
    assert links == [f"{row['folder']}/report.html" for row in standings]
    assert all((folder / link).exists() for link in links)
    assert "2 × 2 × 3" in page.text and "p on test" in page.text
    # The page is written again from the files, like that of any run.
    (folder / "report.html").unlink()
    report(["--run", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out) == {"report": f"{folder}/report.html"}
    assert (folder / "report.html").read_text() == written


def test_without_test_rows_the_page_has_the_validation_rows_alone(tmp_path):
    store = tap_store(tmp_path / "store", ["train", "train", "train", "validation"] * 30)
    train_on(store, tmp_path / "run", "deep", "noise:max")
    standings = json.loads((tmp_path / "run" / "summary.json").read_text())["standings"]
    assert [row["test"] for row in standings] == [None, None]
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "test images" not in page.text.replace("the test images chose nothing", "")
