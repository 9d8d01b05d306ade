"""Fine-tuning from stored maps and from pixels: equal results, checks, commands after it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.commands import assert_one_line_error, run_command
from support.extraction import run as extract
from support.images import write_images
from support.optional import optional

from classifier.base.unfreezing import leaves
from classifier.evaluate import run as evaluate
from classifier.finetune import run as finetune
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.runs.run import ADOPTED, load_run
from classifier.train import run as train
from classifier.training.finetuning import Tuning, require_ready
from featurestore.errors import UsageError

keras = optional("keras")
SIDE = 24


def base_model():
    """A small residual network with batch normalisation, whose statistics are not trivial."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255, name="rescale")(image)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="inner")(x)
    y = layers.BatchNormalization(name="norm")(y)
    x = layers.Add(name="join")([x, layers.ReLU(name="relu")(y)])
    x = layers.Conv2D(12, 3, strides=2, name="last_conv")(x)
    x = layers.BatchNormalization(name="last_norm")(x)
    model = keras.Model(image, layers.ReLU(name="top")(x), name="residual")
    for name in ("norm", "last_norm"):
        part = model.get_layer(name)
        gamma, beta, mean, variance = part.get_weights()
        part.set_weights([gamma, beta, mean + 0.1, variance * 0.5])
    return model


class Made:
    """The stores and the run that all tests share."""

    def __init__(self, folder):
        self.folder, self.photos, self.file = folder, folder / "photos", folder / "base.keras"
        write_images(self.photos, 80)
        base_model().save(self.file)
        base = ("--model", self.file, "--preprocess", "none", "--dtype", "float32")
        flags = ("--input", self.photos, "--precision", "float32")
        self.top = self.extracted("top", *flags, *base, "--pooling", "avg")
        self.low = self.extracted("low", *flags, *base, "--layer", "stem")
        self.joined = self.extracted("joined", *flags, *base, "--layer", "join")
        pixels = ("--model", "pixels", "--image_size", SIDE)
        self.pixels = self.extracted("pixels", "--input", self.photos, *pixels)
        heads = ["--head", "mlp:8:dropout=0.2", "--head", "ridge", "--head", "knn:3"]
        arguments = ["--epochs", "60", "--lr", "1e-2", "--patience", "10", *heads]
        train(["--store", self.top, "--output", str(folder / "run"), *arguments])
        self.run = str(folder / "run")

    def extracted(self, name, *flags):
        return extract(*flags, "--output", self.folder / name).store.url.removeprefix("file://")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def whole(made):
    """A fine-tuning of the last four layers from maps, in memory and without a break."""
    tuned(made, made.low, made.folder / "whole")
    return made.folder / "whole"


def tuned(made, store, output, *arguments, head_id="ridge", unfreeze="4"):
    """Fine-tunes for two epochs; returns the run's record of the head."""
    common = ["--run", made.run, "--store", store, "--output", str(output), "--head_id", head_id]
    finetune([*common, "--unfreeze", unfreeze, "--epochs", "2", "--lr", "1e-3", *arguments])
    return load_run(str(output)).leaderboard()[0]


def history(folder):
    (path,) = (folder / "history").glob("*.json")
    return json.loads(path.read_text())


def test_maps_and_pixels_train_the_same_weights(made, tmp_path):
    for name in ("low", "joined", "pixels"):
        tuned(made, getattr(made, name), tmp_path / name, unfreeze="last_conv")
    whole = history(tmp_path / "pixels")
    assert whole["loss"][1] < whole["loss"][0]
    for name in ("low", "joined"):
        for figure in ("loss", "val_loss", "accuracy", "val_accuracy"):
            found = history(tmp_path / name)[figure]
            np.testing.assert_allclose(found, whole[figure], rtol=5e-3, err_msg=f"{name} {figure}")


def test_only_unfrozen_layers_change_and_statistics_never(made, tmp_path):
    record = tuned(made, made.low, tmp_path / "run", unfreeze="last_norm")
    # Gamma and beta of 12 channels, and a linear head on 12 features.
    assert record["parameters"] == 24 + 13
    head = load_run(str(tmp_path / "run")).load_head(record["head_id"])
    before = base_model()
    for _, layer in leaves(head.get_layer("tail")):
        if not layer.weights:
            continue
        old = before.get_layer(layer.name).get_weights()
        changed = [
            not np.array_equal(one, other)
            for one, other in zip(layer.get_weights(), old, strict=True)
        ]
        expected = [True, True, False, False] if layer.name == "last_norm" else [False] * len(old)
        assert changed == expected, layer.name


def test_the_head_before_training_answers_as_the_run_does(made, tmp_path, capsys):
    for name in ("low", "pixels"):
        tuned(made, getattr(made, name), tmp_path / name, head_id="mlp-8-relu-dropout0.2")
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        first = next(
            row
            for row in load_run(made.run).leaderboard()
            if row["head_id"] == "mlp-8-relu-dropout0.2"
        )
        found = summary["finetuned"]["before"]
        assert found["val_accuracy"] == pytest.approx(first["val_accuracy"])
        assert found["val_loss"] == pytest.approx(first["val_loss"], rel=1e-3)
    assert "before: validation accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_all_layers_none_and_fresh_augmentation_from_pixels(made, tmp_path):
    every = tuned(made, made.pixels, tmp_path / "all", unfreeze="all")
    base = base_model()
    assert every["parameters"] == 13 + sum(
        int(np.prod(weight.shape)) for weight in base.trainable_weights
    )
    augment = ("--augment", "flip,rotation=0.1")
    frozen = tuned(made, made.pixels, tmp_path / "frozen", *augment, unfreeze="0")
    assert frozen["parameters"] == 13
    plain = tuned(made, made.pixels, tmp_path / "plain", unfreeze="0")
    assert frozen["loss"] != pytest.approx(plain["loss"], rel=1e-3)
    kinds = [
        type(layer).__name__
        for layer in load_run(str(tmp_path / "frozen")).load_head(frozen["head_id"]).layers
    ]
    assert "RandomFlip" not in kinds and "Sequential" not in kinds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["low", "pixels"])
def test_every_command_takes_a_fine_tuned_run(made, tmp_path, name):
    store, folder = getattr(made, name), str(tmp_path / "run")
    tuned(made, store, folder)
    image = str(next((made.photos / "cat").glob("*.jpeg")))
    model = str(tmp_path / "model.keras")
    for arguments in (
        ("classifier.evaluate", "--run", folder, "--store", store, "--split", "validation"),
        ("classifier.predict", "--run", folder, image),
        ("classifier.report", "--run", folder),
        ("classifier.export", "--run", folder, "--format", "keras", "--output", model),
        ("classifier.verify", "--run", folder, "--model", model, "--input", str(made.photos)),
        ("pipelines.score", "--run", folder, "--store", store, "--output", str(tmp_path / "s")),
    ):
        done = run_command(*arguments, cwd=tmp_path)
        assert done.code == 0, (arguments, done)


def test_mistakes_are_one_line(made, tmp_path):
    def refused(match, store=made.low, **settings):
        with pytest.raises(UsageError, match=match) as caught:
            tuned(made, store, tmp_path / "none", **settings)
        assert "\n" not in str(caught.value)

    refused(
        "cut behind it, at 'stem'; give a store cut at --layer rescale, or --unfreeze 7 at most",
        unfreeze="all",
    )
    refused("give a store cut at --layer stem, or --unfreeze 5", made.joined, unfreeze="norm")
    refused("base.keras has no layer 'nrom'; did you mean norm", unfreeze="nrom")
    refused("--pooling avg.*a tail needs --pooling none", made.top)
    refused("holds training rows, not weights", head_id="knn-3-cosine-weighted")
    inner = made.extracted(
        "inner", "--input", made.photos, "--model", made.file, "--preprocess", "none",
        "--layer", "norm", "--precision", "float32",
    )  # fmt: skip
    refused(
        "cannot continue from 'norm'.*cut at 'stem', the nearest one before", inner, unfreeze="1"
    )
    other = made.extracted(
        "other", "--input", made.photos, "--model", made.file, "--weights", "none",
        "--preprocess", "none", "--layer", "stem", "--precision", "float32",
    )  # fmt: skip
    refused("other weights or settings; extract it with the --model and --weights", other)
    small = made.extracted(
        "small", "--input", made.photos, "--model", "pixels", "--image_size", "20"
    )
    refused("holds images as", small)


def test_an_adopted_run_is_refused(made):
    run = load_run(made.run)
    run = replace(run, config=replace(run.config, heads={"adopted": ADOPTED}))
    with pytest.raises(UsageError, match="was adopted.*train a head on that store"):
        require_ready(Tuning(run, "adopted", "4"), allow_unconverged=True)


def test_a_head_that_still_improves_is_refused_unless_told(made, tmp_path):
    short = str(tmp_path / "short")
    train(["--store", made.top, "--output", short, "--epochs", "1", "--lr", "1e-2"])
    common = ["--run", short, "--store", made.low, "--output", str(tmp_path / "run")]
    with pytest.raises(UsageError, match="linear was still improving.*--allow_unconverged"):
        finetune([*common, "--unfreeze", "4"])
    assert finetune([*common, "--unfreeze", "0", "--epochs", "1"]) == 0
    arguments = ["--unfreeze", "4", "--epochs", "1", "--allow_unconverged", "--overwrite"]
    assert finetune([*common, *arguments]) == 0


def test_an_interrupted_fine_tuning_resumes(made, whole, tmp_path, capsys, monkeypatch):
    class Stop(Exception):
        """Ends a training after its first epoch."""

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        raise Stop

    save, flags = Checkpoint.save, ("--checkpoint", "0")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Checkpoint, "save", save_and_stop)
        tuned(made, made.low, tmp_path / "stopped", *flags)
    capsys.readouterr()
    tuned(made, made.low, tmp_path / "stopped", *flags)
    assert "resumed from a checkpoint: 1 epochs are done" in capsys.readouterr().out
    for name, values in history(whole).items():
        np.testing.assert_allclose(history(tmp_path / "stopped")[name], values, rtol=1e-3)
    assert not (tmp_path / "stopped" / "checkpoint").exists()


@pytest.mark.slow
def test_a_store_beyond_memory_is_streamed(made, whole, tmp_path, capsys):
    streamed = tuned(made, made.low, tmp_path / "streamed", "--memory", "100KB")
    assert "features: streamed from the store every epoch" in capsys.readouterr().out
    # Another order of the rows, the same rows.
    assert streamed["val_loss"] == pytest.approx(min(history(whole)["val_loss"]), rel=0.2)


def test_a_fine_tuned_head_is_trained_on(made, whole, tmp_path):
    first = load_run(str(whole)).leaderboard()[0]
    common = ["--run", str(whole), "--store", made.low, "--output", str(tmp_path / "on")]
    flags = ["--epochs", "1", "--allow_unconverged"]
    assert finetune([*common, "--unfreeze", "last_norm", *flags]) == 0
    run = load_run(str(tmp_path / "on"))
    (record,) = run.leaderboard()
    assert (record["head_id"], record["parameters"]) == ("ridge-finetuned", 24 + 13)
    assert record["head"] == "ridge with --unfreeze last_norm"
    summary = json.loads((tmp_path / "on" / "summary.json").read_text())
    before = summary["finetuned"]["before"]
    assert before["val_loss"] == pytest.approx(first["val_loss"], rel=1e-3)
    common[3] = made.joined
    with pytest.raises(UsageError, match="which was fine-tuned, holds other features"):
        finetune([*common, "--unfreeze", "1", *flags, "--overwrite"])


def test_what_a_fine_tuned_run_cannot_do_is_said(made, whole, tmp_path):
    arguments = ["--run", str(whole), "--store", made.low, "--split", "validation"]
    with pytest.raises(UsageError, match="--learning_curve.*holds fine-tuned layers of a base"):
        evaluate([*arguments, "--learning_curve", "--output", str(tmp_path)])
    arguments = ["--run", made.run, "--store", made.low, "--output", made.run, "--unfreeze", "1"]
    done = run_command("classifier.finetune", *arguments, cwd=tmp_path)
    assert_one_line_error(done, 2, "--output: is the folder of --run")
