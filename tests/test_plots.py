"""Figures: they are drawn at every size, nothing is cut off, and colours and labels are right."""

import builtins

import numpy as np
import pytest

from classifier import plots
from featurestore import UsageError
from featurestore.storage import Storage


def history(epochs):
    curve = np.linspace(1, 0.1, epochs).tolist()
    return {"loss": curve, "val_loss": curve, "accuracy": curve[::-1], "val_accuracy": curve[::-1]}


def assert_inside(figure):
    """All that is drawn, labels included, lies within the picture (in inches)."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.02 and box.y0 >= -0.02
    assert box.x1 <= width + 0.02 and box.y1 <= height + 0.02


def size_of(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 50])
def test_history_marks_the_best_epoch(epochs):
    best = max(1, epochs - 1)
    figure = plots.history_figure(history(epochs), best, "mlp-256-relu-dropout0.5")
    for axes in figure.axes:
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels[:2] == ["training", "validation"] and f"best epoch {best}:" in labels[2]
        ticks = [tick for tick in axes.get_xticks() if 0.5 <= tick <= epochs + 0.5]
        assert all(float(tick).is_integer() for tick in ticks)
    assert_inside(figure)


def test_history_survives_a_wild_and_an_infinite_epoch():
    curves = history(30)
    curves["loss"] = [1e6, *curves["loss"][1:]]
    curves["val_loss"] = [float("nan"), *curves["val_loss"][1:]]
    figure = plots.history_figure(curves, 30, "linear")
    assert figure.axes[0].get_yscale() == "log"
    plots.png(figure)


@pytest.mark.parametrize("count", [2, 20, 21, 40, 41, 100])
def test_confusion_is_readable_at_every_size(count):
    confusion = np.eye(count, dtype=int) * 9
    confusion[0, 1] = 3
    classes = [f"a_rather_long_class_name_{number}" for number in range(count)]
    figure = plots.confusion_figure(confusion, classes, "linear on test: accuracy 98.7%")
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert len(cells) == (count + 1 if count <= 20 else 0)
    assert len(figure.axes[0].get_xticklabels()) <= 40
    assert_inside(figure)
    assert max(size_of(plots.png(figure))) < 2200


def test_a_class_without_rows_is_no_division_by_zero():
    figure = plots.confusion_figure(np.zeros((2, 2), int), ["a", "b"], "empty")
    assert not figure.axes[0].texts


def test_the_grid_draws_images_gone_ones_and_gaps():
    pixels = np.zeros((4, 6, 3), np.uint8)
    tiles = [(pixels, "cat"), (None, "dog"), (None, None), (pixels, "$a$_{b")]
    figure = plots.grid_figure(tiles, 2, 3)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["gone"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat", "dog", "", r"\$a\$_{b", "", ""]
    assert_inside(figure)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_predictions_show_each_image_beside_its_bars(images):
    pixels = np.zeros((5, 5, 3), np.uint8)
    top = [("cat", 1.0), ("a_name_far_too_long_to_stand_beside_a_bar", 0.0)]
    figure = plots.prediction_figure([(pixels, "x.jpg", top[: 1 + n % 2]) for n in range(images)])
    assert len(figure.axes) == 2 * images
    assert "100.0%" in [text.get_text() for text in figure.axes[1].texts]
    assert_inside(figure)


def test_equal_figures_are_equal_files():
    first, second = (plots.png(plots.history_figure(history(3), 2, "x")) for _ in range(2))
    assert first == second


def test_a_missing_matplotlib_is_told_with_the_fix(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'hoarfrost\[report\]'"):
        plots.history_figure(history(2), 1, "linear")
    lines = []
    drawn = plots.write_or_skip(
        Storage(str(tmp_path)),
        "a.png",
        lambda: plots.history_figure(history(2), 1, "linear"),
        lines.append,
    )
    assert not drawn and not (tmp_path / "a.png").exists()
    assert lines == [
        "note: a.png was skipped: plots need matplotlib, which is not installed: "
        "pip install 'hoarfrost[report]'"
    ]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--plot: cannot write"):
        plots.write_file(str(tmp_path / "file" / "x.png"), b"", {}, "--plot")
