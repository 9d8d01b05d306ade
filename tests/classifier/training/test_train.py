"""Training: options, the fit of one head, and the command with the folder it writes."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.commands import PEAK
from support.features import clusters, make_store, spec_of

from classifier.features.division import divide
from classifier.figures import plots
from classifier.heads.data import prepare_data
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.spec import parse_head
from classifier.heads.stacked.fit import fit_stacked, trained_head
from classifier.runs import output
from classifier.runs.run import Run, RunConfig, load_run
from classifier.train import run
from classifier.training.run import leaderboard
from featurestore import RunFailed, UsageError, layout, open_store
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """120 labelled rows of three classes, without splits."""
    features, labels = clusters(120, 3)
    return make_store(tmp_path_factory.mktemp("stores") / "three", features, labels)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run with two heads."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--store", store.url, "--output", str(folder), "--head", "linear"]
    assert run([*arguments, "--head", "mlp:8:dropout=0.2", "--epochs", "6"]) == 0
    return load_run(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": ("adma",)}, "--optimizer: unknown value 'adma'; did you mean adam"),
        ({"class_weight": "equal"}, "--class_weight: unknown value 'equal'"),
        ({"standardise": "yes"}, "--standardise: unknown value 'yes'"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"lr": (0.0,)}, "--lr must be above 0, got 0.0"),
        ({"lr": (1e-3, float("nan"))}, "--lr must be above 0, got nan"),
        ({"l2": (-1.0,)}, "--l2 must be 0 or more, got -1.0"),
        ({"seed": (-1,)}, "--seed must be from 0"),
        ({"heads": ()}, "--head, --lr, .* need at least one value"),
    ],
)
def test_options_check_themselves(changes, message):
    with pytest.raises(UsageError, match=message):
        TrainOptions(**changes)


def test_every_head_meets_every_rate_once():
    heads = tuple(map(parse_head, ("linear", "mlp:4", "mlp:4:relu")))
    assert list(TrainOptions(heads=heads).trials()) == ["linear", "mlp-4-relu"]
    assert list(TrainOptions(heads=heads, lr=(1e-3, 1e-4, 1e-3)).trials()) == [
        "linear-lr0.001",
        "linear-lr0.0001",
        "mlp-4-relu-lr0.001",
        "mlp-4-relu-lr0.0001",
    ]


def test_rates_and_dropouts_that_nearly_agree_have_names_of_their_own():
    heads = tuple(map(parse_head, ("mlp:4:dropout=0.5", "mlp:4:dropout=0.50000001")))
    trials = TrainOptions(heads=heads, lr=(0.00010000001, 0.0001)).trials()
    assert list(trials) == [
        "mlp-4-relu-dropout0.5-lr0.00010000001",
        "mlp-4-relu-dropout0.5-lr0.0001",
        "mlp-4-relu-dropout0.50000001-lr0.00010000001",
        "mlp-4-relu-dropout0.50000001-lr0.0001",
    ]


def test_the_leaderboard_goes_by_validation_loss():
    records = [
        {"head_id": name, "val_loss": loss, "parameters": size}
        for name, loss, size in (("c", 0.5, 9), ("b", 0.2, 9), ("a", 0.5, 9), ("d", 0.5, 3))
    ]
    board = leaderboard(records)
    assert [(row["rank"], row["head_id"]) for row in board] == [
        (1, "b"),
        (2, "d"),
        (3, "a"),
        (4, "c"),
    ]


def fit_alone(trial, data, options):
    (fits,) = fit_stacked({"head": trial}, data, options)
    return trained_head(fits["head"], trial, data)


def fit(store, head="linear", **changes):
    options = TrainOptions(
        heads=(parse_head(head),), **{"epochs": 5, "batch_size": 16, "l2": (0.0,), **changes}
    )
    data = prepare_data(store, divide(store), options)
    return fit_alone(next(iter(options.trials().values())), data, options)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_best_epochs_weights_are_restored(tmp_path, classes):
    features, labels = clusters(90, classes, channels=4)
    # Labels that contradict the features make the validation loss rise again.
    rng = np.random.default_rng(1)
    labels = [labels[i] if rng.random() < 0.6 else labels[int(rng.integers(90))] for i in range(90)]
    store = make_store(tmp_path, features, labels)
    head = fit(store, "mlp:64", lr=(0.02,), epochs=12)
    losses = head.history["val_loss"]
    assert head.best_epoch == int(np.argmin(losses)) + 1 < 12
    division = divide(store)
    found = prepare_data(store, division, TrainOptions()).validation()
    (rows,) = found
    values, numbers = rows.features, rows.labels
    logits = head.model.logits(values).astype(np.float64)
    if classes == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = logs[np.arange(len(logs)), numbers]
    assert -own.mean() == pytest.approx(min(losses), rel=1e-5)
    assert (logs.argmax(1) == numbers).mean() == pytest.approx(head.best["val_accuracy"])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_every_optimizer_learns(store, optimizer):
    rate = 1e-2 if optimizer == "sgd" else 5e-3
    assert fit(store, optimizer=(optimizer,), lr=(rate,), epochs=15).best["val_accuracy"] > 0.8


def test_the_seed_reproduces_a_fit(store):
    first, same, other = (fit(store, "mlp:8:dropout=0.5", seed=(seed,)) for seed in (1, 1, 2))
    assert first.history == same.history
    assert first.history != other.history
    for name, arrays in first.model.weights.items():
        for a, b in zip(arrays, same.model.weights[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_streaming_learns_what_memory_learns(store):
    options = TrainOptions(lr=(5e-3,), epochs=15, batch_size=16, memory=2000)
    division = divide(store)
    data = prepare_data(store, division, options)
    assert not data.in_memory
    in_memory = prepare_data(store, division, TrainOptions())
    assert in_memory.in_memory
    np.testing.assert_allclose(data.standard.mean, in_memory.standard.mean, rtol=1e-5)
    streamed = fit_alone(Trial(options.heads[0], 5e-3, 0.0), data, options)
    assert streamed.best["val_accuracy"] > 0.8
    assert len(streamed.history["loss"]) == 15


@pytest.mark.parametrize("batch_size", [1, 95, 96, 97, 500])
def test_any_batch_size_fits(tmp_path, batch_size):
    features, labels = clusters(100, 2)
    splits = ["train"] * 96 + ["validation"] * 4
    head = fit(make_store(tmp_path, features, labels, splits), batch_size=batch_size, epochs=2)
    assert len(head.history["val_loss"]) == 2


def test_l2_and_class_weights_stay_out_of_the_history(store):
    plain = fit(store, epochs=1, lr=(1e-9,))
    weighted = fit(store, epochs=1, lr=(1e-9,), l2=(10.0,), class_weight="balanced")
    assert weighted.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-4)


def test_balanced_weights_lift_the_rare_class(tmp_path):
    rng = np.random.default_rng(0)
    labels = ["rare" if number % 12 == 0 else "usual" for number in range(240)]
    shift = np.array([0.7 if label == "rare" else -0.7 for label in labels])
    features = (shift[:, None] + rng.normal(size=(240, 2))).astype(np.float32)
    store = make_store(tmp_path, features, labels)
    shares = [
        fit(store, class_weight=kind, lr=(0.05,), epochs=10).model(features)
        for kind in ("none", "balanced")
    ]
    # Class 1, "usual", is predicted less often when rows of the rare class weigh more.
    assert (shares[1] > 0.5).mean() < (shares[0] > 0.5).mean()


def test_a_diverging_head_is_said_in_one_line(store):
    with pytest.raises(RunFailed, match="diverged: its validation loss was never finite"):
        fit(store, optimizer=("sgd",), lr=(1e38,), epochs=2)


def test_a_run_holds_all_that_is_promised(trained, store):
    names = {file.name for file in trained.storage.list("")}
    best = trained.head_id()
    assert names == {
        "report.html",
        "card.md",
        f"calibration/{best}.json",
        f"evaluation/validation-{best}.json",
        "run.json",
        "summary.json",
        "leaderboard.json",
        "leaderboard.csv",
        "heads/linear.keras",
        "heads/mlp-8-relu-dropout0.2.keras",
        "history/linear.json",
        "history/mlp-8-relu-dropout0.2.json",
        "plots/linear-history.png",
        "plots/mlp-8-relu-dropout0.2-history.png",
        f"model/{store.spec.base.weights_hash}.keras",
        "model/probes.parquet",
    }
    assert trained.spec == store.spec
    assert trained.classes == ("class 0", "class 1", "class 2")
    assert trained.config.options["epochs"] == 6
    board = trained.leaderboard()
    assert board[0]["val_loss"] <= board[1]["val_loss"]
    assert trained.head_id() == board[0]["head_id"]
    assert trained.head_id("linear") == "linear"
    history = json.loads(trained.storage.read("history/linear.json"))
    assert [len(history[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")] == [
        6
    ] * 4
    assert min(history["val_loss"]) == history["val_loss"][history["best_epoch"] - 1]
    rows = list(csv.DictReader(trained.storage.read("leaderboard.csv").decode().splitlines()))
    assert [row["head_id"] for row in rows] == [row["head_id"] for row in board]
    summary = json.loads(trained.storage.read("summary.json"))
    assert summary["best"] == board[0]["head_id"] and summary["validation"] == "carved"


def test_an_unknown_head_id_lists_the_heads(trained):
    with pytest.raises(UsageError, match=r"unknown value 'lineal'; did you mean linear"):
        trained.head_id("lineal")


def test_a_run_is_not_written_over_unasked(store, tmp_path, capsys):
    arguments = ["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "1"]
    run([*arguments, "--head", "mlp:4"])
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds a training run already; .* --overwrite"):
        run(arguments)
    run([*arguments, "--overwrite", "--json"])
    assert [path.name for path in (tmp_path / "run" / "heads").iterdir()] == ["linear.keras"]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    capsys.readouterr()
    other = make_store(tmp_path / "other", *clusters(9, 3))
    with pytest.raises(UsageError, match="is a feature store; choose another folder"):
        run(["--store", store.url, "--output", other.url, "--overwrite"])


def test_a_folder_of_the_users_is_never_touched(store, tmp_path):
    for name in ("heads/mine.keras", "model/net.bin", "summary.json"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        first = name.split("/")[0]
        for more in ([], ["--overwrite"]):
            with pytest.raises(UsageError, match=f"--output: .* has {first!r}.*not a training run"):
                run(["--store", store.url, "--output", str(folder), *more])
        assert (folder / name).read_text() == "mine"
        assert [path.name for path in folder.iterdir()] == [first]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "run.json").write_text('{"name": "my web service"}')
    with pytest.raises(UsageError, match="has 'run.json'.*not a training run"):
        run(["--store", store.url, "--output", str(foreign), "--overwrite"])
    assert [path.name for path in foreign.iterdir()] == ["run.json"]


def test_only_our_own_files_are_replaced(store, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--store", store.url, "--output", str(folder), "--epochs", "1"]
    run([*arguments, "--head", "mlp:4"])
    mine = ("heads/notes.txt", "plots/mine.svg", "model/teacher.keras", "evaluation/paper.tex")
    for name in mine:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    ours = ("evaluation/test-linear.json", f"model/{'ef' * 16}.keras")
    for name in ours:
        (folder / name).write_text("ours")
    run([*arguments, "--overwrite"])
    assert all((folder / name).read_text() == "mine" for name in mine)
    assert not any((folder / name).exists() for name in ours)
    assert not (folder / "heads" / "mlp-4-relu.keras").exists()
    assert not (folder / output.STARTED).exists()


def test_an_unfinished_run_is_gone_on_with(store, tmp_path):
    folder = tmp_path / "run"
    (folder / "heads").mkdir(parents=True)
    (folder / "heads" / "old.keras").write_text("half")
    (folder / output.STARTED).write_text("{}")
    run(["--store", store.url, "--output", str(folder), "--epochs", "1"])
    assert [path.name for path in (folder / "heads").iterdir()] == ["linear.keras"]


@pytest.mark.parametrize("where", ["", "runs/1", ".."])
def test_a_run_never_mixes_with_its_store(tmp_path, where):
    features, labels = clusters(30, 2)
    store = make_store(tmp_path / "all" / "store", features, labels)
    before = sorted(path.name for path in (tmp_path / "all").rglob("*"))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "all")
    for root in (tmp_path / "all", link):
        with pytest.raises(UsageError, match="--output: .* the feature store"):
            run(["--store", store.url, "--output", str(root / "store" / where), "--overwrite"])
    assert sorted(path.name for path in (tmp_path / "all").rglob("*")) == before


def test_an_output_that_cannot_be_written_is_told_before_training(store, tmp_path, bucket):
    (tmp_path / "file").write_text("")
    _, options = bucket
    for target in (tmp_path / "file", tmp_path / "file" / "run", "/proc/x", "s3://no-such-bucket"):
        arguments = ["--store", store.url, "--output", str(target)]
        if str(target).startswith("s3"):
            arguments += ["--storage_options", f"endpoint_url={options['endpoint_url']}"]
        with pytest.raises(UsageError, match="--output: cannot write to") as caught:
            train_quickly(arguments)
        assert "\n" not in str(caught.value)


def train_quickly(arguments):
    """Runs the command up to the first fit, which must not be reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifier.training.run.prepare_data", lambda *_: pytest.fail("it trains"))
        return run(arguments)


def test_a_store_without_its_base_fails_before_training(tmp_path):
    features, labels = clusters(30, 2)
    store = make_store(tmp_path / "store", features, labels)
    for name in (layout.PROBES, layout.model_file(store.spec.base.weights_hash)):
        store.storage.remove(name)
        with pytest.raises(CorruptStore, match=f"{name} is missing"):
            train_quickly(["--store", store.url, "--output", str(tmp_path / name[-9:])])


def test_one_diverging_head_leaves_the_others(store, tmp_path, capsys):
    folder = str(tmp_path / "run")
    arguments = ["--store", store.url, "--output", folder, "--epochs", "2", "--optimizer", "sgd"]
    # Small batches, as many steps are sure to leave float32.
    assert run([*arguments, "--batch_size", "4", "--lr", "1e38,1e-3"]) == 0
    out = capsys.readouterr().out
    assert "linear-lr1e+38: diverged: its validation loss was never finite" in out
    trained = load_run(folder)
    assert list(trained.config.heads) == ["linear-lr0.001"] == [trained.head_id()]
    summary = json.loads(trained.storage.read("summary.json"))
    assert [failed["head_id"] for failed in summary["failed"]] == ["linear-lr1e+38"]
    assert "diverged" in summary["failed"][0]["reason"]


def test_an_old_run_survives_one_that_comes_to_nothing(store, tmp_path):
    folder = str(tmp_path / "run")
    arguments = ["--store", store.url, "--output", folder, "--epochs", "1"]
    run(arguments)
    before = {file.name for file in load_run(folder).storage.list("")}
    with pytest.raises(RunFailed, match="every head diverged.*linear"):
        run([*arguments, "--overwrite", "--optimizer", "sgd", "--batch_size", "4", "--lr", "1e38"])
    kept = load_run(folder)
    assert {file.name for file in kept.storage.list("")} - {output.STARTED} == before
    kept.load_head(kept.head_id())
    with pytest.raises(UsageError, match="holds a training run already"):
        run(arguments)


@pytest.mark.parametrize("content", [None, b"", b"[1, 2", b"{}", b"[]", b'[{"rank": 1}]'])
def test_a_damaged_leaderboard_is_said_in_one_line(store, tmp_path, content):
    storage = Storage(str(tmp_path))
    if content is not None:
        storage.write("leaderboard.json", content)
    broken = Run(storage, RunConfig(store.spec, store.url, ("a", "b"), {"linear": "linear"}))
    with pytest.raises(CorruptStore, match="leaderboard.json .*; train again") as caught:
        broken.head_id()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_damaged_head_is_said_in_one_line(store, tmp_path, place, content):
    storage = Storage(str(tmp_path) if place == "local" else f"memory://{tmp_path}")
    if content is not None:
        storage.write("heads/linear.keras", content)
    broken = Run(storage, RunConfig(store.spec, store.url, ("a", "b"), {"linear": "linear"}))
    for read in (broken.load_head, broken.read_head):
        with pytest.raises(CorruptStore, match="linear.keras .*; train again") as caught:
            read("linear")
        assert "\n" not in str(caught.value)


def test_json_is_alone_on_standard_output(store, tmp_path, capsys):
    run(["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "1", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["leaderboard"][0]["rank"] == 1 and summary["features"] == "memory"


def test_the_summary_is_for_people_otherwise(store, tmp_path, capsys):
    run(["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert "validation rows carved out of the training rows by content hash" in lines[0]
    assert lines[1] == "features: loaded once into memory"
    assert lines[2].startswith("linear: validation accuracy ") and "rows/s" in lines[2]
    assert lines[-1].startswith("best: linear, validation accuracy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "fast"], "--lr: expected numbers separated by commas"),
        (["--head", "mpl:3"], "--head: unknown value 'mpl'"),
        (["--epoch", "3"], "unknown flag '--epoch'; did you mean --epochs"),
    ],
)
def test_wrong_flags_are_one_line(store, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(["--store", store.url, "--output", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


def test_all_rows_train_where_none_are_set_aside(store, tmp_path, capsys):
    output = str(tmp_path / "r")
    run(["--store", store.url, "--output", output, "--epochs", "2", "--validation", "train"])
    lines = capsys.readouterr().out
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    splits = store.split_counts()
    assert summary["validation"] == "train"
    assert summary["train_rows"] == summary["validation_rows"] == sum(splits.values())
    assert "validation rows which are the training rows themselves" in lines
    assert "say nothing of new images" in lines
    assert "rows which are the training rows themselves" in (tmp_path / "r/card.md").read_text()


def test_one_class_is_refused(tmp_path):
    features, _ = clusters(10, 2)
    store = make_store(tmp_path / "store", features, ["cat"] * 10)
    with pytest.raises(UsageError, match="at least 2 classes, the training rows have 1: 'cat'"):
        run(["--store", store.url, "--output", str(tmp_path / "run")])


def test_maps_train_too(tmp_path):
    features, labels = clusters(60, 2, channels=12)
    spec = spec_of((2, 2, 3), dtype="float16")
    store = make_store(tmp_path, features.reshape(-1, 2, 2, 3), labels, spec=spec)
    assert fit(store, "mlp:8", lr=(1e-2,), epochs=8).best["val_accuracy"] > 0.8


def test_training_goes_on_without_matplotlib(store, tmp_path, capsys, monkeypatch):
    def missing(width, height):
        raise plots.PlotsMissing("plots need matplotlib: pip install 'hoarfrost[report]'")

    monkeypatch.setattr(plots, "new_figure", missing)
    assert run(["--store", store.url, "--output", str(tmp_path / "run"), "--epochs", "1"]) == 0
    assert "note: plots/linear-history.png was skipped: plots need" in capsys.readouterr().out


def test_what_is_no_run_is_said_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no finished training run at"):
        load_run(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CorruptStore, match="not a training run"):
        load_run(str(tmp_path))


def test_importing_the_command_loads_neither_beam_nor_tensorflow():
    code = (
        "import sys, classifier.train, classifier.evaluate, classifier.predict, classifier.show;"
        "bad = {'apache_beam', 'tensorflow', 'keras', 'matplotlib'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "classifier.train", "--store", str(tmp_path), "--output", "x"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no feature store at") and done.stderr.count("\n") == 1


def test_a_whole_run_is_quiet(store, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "classifier.train", "--store", store.url, "--epochs", "2"]
        + ["--output", str(tmp_path / "run"), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["best"] == "linear"
    assert open_store(store.url).spec == load_run(str(tmp_path / "run")).spec


def test_a_whole_run_imports_only_what_it_uses(store, tmp_path):
    for module, flags in (
        ("classifier.train", ("--output", "run", "--epochs", "2")),
        ("classifier.evaluate", ("--run", "run", "--split", "train")),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", module, "--store", store.url, *flags],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        # A package that was looked for in vain is listed too, but no module of it.
        names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert {"pyarrow.lib", "scipy.special._ufuncs", "matplotlib.figure"} < names
        assert not {"tensorflow.python", "keras.src", "pandas.core", "sklearn.base"} & names
        assert not {"apache_beam.io", "mpl_toolkits.mplot3d.axes3d"} & names
        assert "scipy.optimize._optimize" not in names


@pytest.mark.slow
def test_a_store_ten_times_the_memory_it_may_use_trains_in_bounded_memory(tmp_path):
    peaks = []
    for name, rows in (("small", 4_000), ("large", 40_000)):
        features, labels = clusters(rows, 4, channels=1280)
        make_store(tmp_path / name, features, sorted(labels), rows_per_part=500)
        del features
        script = f"import sys; from classifier.train import run; run(sys.argv[1:]); print({PEAK})"
        flags = ["--store", tmp_path / name, "--output", tmp_path / f"{name}-run", "--epochs", "2"]
        flags += ["--memory", "15MB", "--cache", "off"]
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, flags)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "streamed from the store" in done.stdout
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # The larger store holds 180 MB more. Equal runs differ by up to 45 MB.
    assert peaks[1] - peaks[0] < 90, peaks
