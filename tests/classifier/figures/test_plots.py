"""Figures: they are drawn at every size, nothing is cut off, and colours and labels are right."""

import builtins

import fsspec
import numpy as np
import pytest
from support.optional import optional

from classifier.figures import curves, grids, plots
from classifier.judgement.confusions import most_confused
from featurestore import UsageError
from featurestore.io.storage import Storage


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


@pytest.mark.parametrize("count", [2, 20, 21, 40, 41, 1001])
def test_confusion_is_readable_at_every_size(count):
    confusion = np.eye(count, dtype=int) * 9
    confusion[0, 1] = 3
    classes = [f"a_rather_long_class_name_{number}" for number in range(count)]
    shown = most_confused(confusion, plots.READABLE_CLASSES).tolist()
    figure = plots.confusion_figure(confusion, classes, "linear on test: accuracy 98.7%", shown)
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert len(cells) == min(count, 40) + 1 and "3" in cells
    assert len(figure.axes[0].get_xticklabels()) <= 40
    title = figure.get_suptitle()
    assert (f"the 40 of {count:,} classes that are confused most often" in title) == (count > 40)
    assert_inside(figure)
    assert max(size_of(plots.png(figure))) < 2200


def test_a_class_without_rows_is_no_division_by_zero():
    figure = plots.confusion_figure(np.zeros((2, 2), int), ["a", "b"], "empty")
    assert not figure.axes[0].texts


def test_the_grid_draws_images_gone_ones_and_gaps():
    pixels = np.zeros((4, 6, 3), np.uint8)
    tiles = [(pixels, "cat"), (None, "dog"), (None, None), (pixels, "$a$_{b")]
    figure = grids.grid_figure(tiles, 2, 3)
    (axes,) = figure.axes
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert list(places) == ["cat", "dog", "gone", r"\$a\$_{b"]
    assert places["cat"][0] == places[r"\$a\$_{b"][0] < places["dog"][0] == places["gone"][0]
    assert places["cat"][1] == places["dog"][1] < places["gone"][1] < places[r"\$a\$_{b"][1]
    # An image keeps its proportions: 6 wide, 4 high.
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(1.5)
    assert_inside(figure)


def test_a_large_grid_is_drawn():
    tiles = [(np.full((180, 180, 3), n % 256, np.uint8), f"class_{n}") for n in range(400)]
    assert size_of(plots.png(grids.grid_figure(tiles, 20, 20))) == (5100, 6000)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2)])
def test_long_labels_and_narrow_grids_stay_inside(shape):
    pixels = np.zeros((9, 5, 3), np.uint8)
    count = shape[0] * shape[1]
    assert_inside(grids.grid_figure([(pixels, "a rather long label " * 4)] * count, *shape))


@pytest.mark.parametrize("images", [1, 2, 5])
def test_predictions_show_each_image_beside_its_bars(images):
    pixels = np.zeros((5, 5, 3), np.uint8)
    top = [("cat", 1.0), ("a_name_far_too_long_to_stand_beside_a_bar", 0.0)]
    shown = [(pixels, "x.jpg", top[: 1 + n % 2], ("cat",) * (n % 2)) for n in range(images)]
    figure = plots.prediction_figure(shown)
    assert len(figure.axes) == 2 * images
    to_hex = optional("matplotlib.colors").to_hex
    colours = [to_hex(axes.patches[0].get_facecolor()) for axes in figure.axes[1::2]]
    assert colours == [plots.GREEN if n % 2 else curves.BLUE for n in range(images)]
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


@pytest.mark.parametrize("target", ["memory://x.png", "memory://deep/er/x.png"])
def test_a_url_is_no_local_folder(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    plots.write_file(target, b"picture", {}, "--plot")
    with fsspec.open(target) as file:
        assert file.read() == b"picture"
    assert not list(tmp_path.iterdir())


def test_local_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target in ("a.png", "new/b.png", str(tmp_path / "c.png"), f"file://{tmp_path}/d.png"):
        plots.write_file(target, b"picture", {}, "--plot")
    names = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert names == ["a.png", "b.png", "c.png", "d.png"]


@pytest.mark.parametrize("target", ["", "new/", ".", "here", "here/", "memory://", "/"])
def test_a_target_without_a_file_name_is_one_line(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="--plot: .*(does not name a file|is a folder)") as caught:
        plots.write_file(target, b"", {}, "--plot")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--plot: cannot write"):
        plots.write_file(str(tmp_path / "file" / "x.png"), b"", {}, "--plot")
