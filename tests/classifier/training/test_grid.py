"""Grids of hyperparameters: lists on the command line, a YAML file, and which heads are saved."""

import json

import pytest
from support.stacks import blurred

from classifier.evaluate import run as evaluate
from classifier.heads.options import TrainOptions
from classifier.runs.run import load_run
from classifier.train import parser, run
from classifier.training.flags import options_of
from featurestore import UsageError


def options(*flags):
    return options_of(parser().parse_args(["--store", "s", "--output", "r", *flags]), {})


def grid(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    return str(tmp_path / "grid.yaml")


def test_without_flags_the_options_are_the_defaults():
    assert options() == TrainOptions()


def test_every_combination_is_a_head_named_by_what_varies():
    found = options(
        "--head", "linear", "--head", "mlp:4", "--dropout", "0,0.5", "--optimizer", "adam,sgd",
        "--seed", "3,1", "--label_smoothing", "0.1",
    )  # fmt: skip
    assert list(found.trials()) == [
        f"{head}-{optimizer}-seed{seed}"
        for head in ("linear", "mlp-4-relu", "mlp-4-relu-dropout0.5")
        for optimizer in ("adam", "sgd")
        for seed in (3, 1)
    ]
    trial = found.trials()["mlp-4-relu-dropout0.5-sgd-seed1"]
    assert (trial.head.dropout, trial.optimizer, trial.seed) == (0.5, "sgd", 1)
    assert trial.label_smoothing == 0.1


def test_a_file_gives_what_flags_give(tmp_path):
    text = """
head: [linear, "mlp:8:dropout=0.5"]
lr: [1e-3, 0.01]
seed: 7
epochs: 3
optimizer: [adam, sgd]
multi_label: off
class_weight: balanced
"""
    flags = ["--head", "linear", "--head", "mlp:8:dropout=0.5", "--lr", "1e-3,0.01", "--seed", "7"]
    flags += ["--epochs", "3", "--optimizer", "adam,sgd", "--multi_label", "off"]
    flags += ["--class_weight", "balanced"]
    assert options("--grid", grid(tmp_path, text)) == options(*flags)


def test_flags_win_over_the_file(tmp_path):
    found = options("--grid", grid(tmp_path, "lr: [1, 2]\nepochs: 9"), "--lr", "0.5")
    assert found.lr == (0.5,) and found.epochs == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", r"key: unknown value 'learning_rate'; .*label_smoothing.*lr"),
        ("epochs: [1, 2]", r"epochs takes one value, got \[1, 2\]"),
        ("lr: {a: 1}", "lr takes a number or text, or a list of them, got .*keys: .*batch_size"),
        ("lr: true", "lr takes a number or text, or a list of them, got True"),
        ("lr: []", "lr needs at least one value"),
        ("lr: fast", "lr: expected numbers separated by commas"),
        ("seed: 1.5", "seed: expected whole numbers"),
        ("epochs: few", "epochs: expected a whole number, got 'few'"),
        ("epochs: 0", "--epochs must be at least 1, got 0"),
        ("- 1", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: [", "cannot read"),
    ],
)
def test_what_a_file_may_not_say_is_one_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        options("--grid", grid(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_in_the_root_is_not_one_here(tmp_path, monkeypatch):
    grid(tmp_path, "lr: 0.5")
    monkeypatch.chdir(tmp_path)
    assert options("--grid", "grid.yaml").lr == (0.5,)
    with pytest.raises(UsageError, match="^--grid: cannot read '/grid.yaml'"):
        options("--grid", "/grid.yaml")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="--grid: cannot read .*none.yaml"):
        options("--grid", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1,a"], "--lr: expected numbers"),
        (["--seed", "1,b"], "--seed: expected whole numbers"),
        (["--optimizer", "adam,sdg"], "--optimizer: unknown value 'sdg'; did you mean sgd"),
        (["--dropout", "1"], "--dropout must be from 0 to below 1, got 1.0"),
        (["--label_smoothing", "-1"], "--label_smoothing must be from 0 to below 1, got -1.0"),
        (["--patience", "-1"], "--patience must be at least 0"),
        (["--keep", "0"], "--keep must be at least 1"),
        (["--multi_label", "yes"], "--multi_label: unknown value 'yes'"),
        (["--seed", ",".join(map(str, range(10001)))], "at most 10,000 heads.*make 10,001"),
    ],
)
def test_wrong_values_are_one_line(flags, message):
    with pytest.raises(UsageError, match=message):
        options(*flags)


def test_only_the_best_are_saved_and_all_are_known(tmp_path, capsys):
    store = blurred(tmp_path / "store", 3)
    folder = str(tmp_path / "run")
    arguments = ["--store", store.url, "--output", folder, "--epochs", "2", "--keep", "2"]
    assert (
        run([*arguments, "--lr", "0.1,0.01,0.001,1e-5", "--head", "linear", "--head", "ridge"]) == 0
    )
    assert "2 more heads are in the leaderboard; --keep" in capsys.readouterr().out
    trained = load_run(folder)
    board = trained.leaderboard()
    assert [row["rank"] for row in board] == [1, 2, 3, 4, 5]
    kept = [row["head_id"] for row in board if row["kept"]]
    linear = [row["head_id"] for row in board if row["head"] == "linear"]
    assert set(kept) == {"ridge", *linear[:2]} == set(trained.config.heads)
    names = {file.name for file in trained.storage.list("")}
    for row in board:
        assert (f"heads/{row['head_id']}.keras" in names) == row["kept"]
        history = json.loads(trained.storage.read(f"history/{row['head_id']}.json"))
        assert history["val_loss"][history["best_epoch"] - 1] == row["val_loss"]
    with pytest.raises(UsageError, match="was trained but not saved: it is number 5.*--keep 5"):
        evaluate(["--run", folder, "--store", store.url, "--head_id", board[-1]["head_id"]])


def test_momentum_is_a_flag_of_sgd():
    (trial,) = options("--optimizer", "sgd", "--momentum", "0").trials().values()
    assert (trial.optimizer, trial.momentum) == ("sgd", 0.0)
    assert options().momentum == 0.9
    with pytest.raises(UsageError, match="--momentum must be from 0 to below 1, got 1.0"):
        options("--momentum", "1")
    with pytest.raises(UsageError, match="--momentum: expected a number, got 'none'"):
        options("--momentum", "none")
