"""The labelled grid of images."""

import hashlib

import cv2
import numpy as np
import pytest
from support.features import make_store, numbered, spec_of

from classifier.figures import grids
from classifier.pixels.decoder import decode
from classifier.pixels.views import Views
from classifier.show import choose, run
from featurestore import UsageError


def write_images(folder, classes, each):
    """Writes PNG files into a folder a class; returns their paths."""
    paths = []
    for number in range(classes * each):
        path = folder / f"class{number // each}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((9, 12, 3), 20 * (number // each + 1), np.uint8))
        paths.append(path)
    return paths


def chosen(count, shape, *, per_class=False, seed=0):
    images = [(f"c{number % 3}", number) for number in range(count)]
    return choose(images, shape, np.random.default_rng(seed), per_class)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 100])
def test_no_more_images_than_places_in_the_order_they_came(count):
    numbers = [number for _, number in chosen(count, (2, 3))]
    assert len(numbers) == min(count, 6) and numbers == sorted(set(numbers))


def test_every_image_has_its_chance():
    seen = {number for seed in range(200) for _, number in chosen(20, (1, 2), seed=seed)}
    assert seen == set(range(20))


def test_the_seed_decides():
    assert chosen(50, (2, 3), seed=1) == chosen(50, (2, 3), seed=1) != chosen(50, (2, 3), seed=2)


def test_per_class_gives_a_row_each():
    labels = [label for label, _ in chosen(30, (2, 4), per_class=True)]
    assert len(labels) == 8 and len(set(labels)) == 2 and labels == sorted(labels)


def test_an_input_is_drawn(tmp_path, capsys):
    write_images(tmp_path / "in", 2, 3)
    target = tmp_path / "grid.png"
    assert run(["--input", str(tmp_path / "in"), "--output", str(target), "--per_class"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"6 images drawn into {target}\n"


def test_a_stores_images_are_read_from_their_source_and_gone_ones_are_grey(tmp_path, capsys):
    paths = write_images(tmp_path / "in", 2, 3)
    uris = [path.as_uri() for path in paths]
    store = make_store(tmp_path / "store", numbered(6), ["a"] * 3 + ["b"] * 3, uri=uris)
    paths[0].unlink()
    target = tmp_path / "grid.png"
    run(["--store", store.url, "--output", str(target), "--rows", "2", "--columns", "3"])
    message = f"5 images drawn into {target}; 1 could not be read and are grey\n"
    assert capsys.readouterr().out == message
    shown = cv2.imread(str(target))
    assert shown.shape[1] > 500


def test_an_unreadable_image_is_grey_too(tmp_path, capsys):
    write_images(tmp_path / "in", 1, 2)[0].write_bytes(b"\x89PNG\r\n\x1a\n broken")
    run(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "grid.png")])
    assert "1 could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "--rows must be from 1 to 50, got 0"),
        (["--columns", "51"], "--columns must be from 1 to 50, got 51"),
        (["--rows", "21", "--columns", "20"], "must be 400 at most, got 21 x 20 = 420"),
    ],
)
def test_a_grid_has_places(tmp_path, arguments, message):
    write_images(tmp_path / "in", 1, 1)
    with pytest.raises(UsageError, match=message):
        run(["--input", str(tmp_path / "in"), "--output", "x.png", *arguments])


def test_an_empty_store_shows_nothing(tmp_path):
    store = make_store(tmp_path, np.empty((0, 3), np.float32), [])
    with pytest.raises(UsageError, match="no image to show in"):
        run(["--store", store.url, "--output", str(tmp_path / "grid.png")])


def tiles_drawn(monkeypatch):
    """Keeps what the grid is made of: (tiles, rows, columns)."""
    drawn = []
    grid_figure = grids.grid_figure
    monkeypatch.setattr(
        "classifier.figures.grids.grid_figure", lambda *a: drawn.append(a) or grid_figure(*a)
    )
    return drawn


def varied(folder, count=3):
    """Writes images on which a rotation shows."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(folder / "class0" / f"{number}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(paths[-1]), random.integers(0, 256, (9, 12, 3), np.uint8))
    return paths


def test_each_row_is_an_image_and_its_views(tmp_path, capsys, monkeypatch):
    drawn = tiles_drawn(monkeypatch)
    varied(tmp_path / "in")
    target = str(tmp_path / "grid.png")
    flags = ["--input", str(tmp_path / "in"), "--output", target, "--augment", "rotation=0.1"]
    run([*flags, "--views", "3", "--rows", "2", "--seed", "4"])
    (tiles, rows, columns), *_ = drawn
    assert (rows, columns) == (2, 3)
    assert [label for _, label in tiles] == ["class0", "view 1", "view 2"] * 2
    assert tiles[0][0].shape == (224, 224, 3) and (tiles[0][0] != tiles[1][0]).any()
    assert capsys.readouterr().out == f"6 images drawn into {target}\n"
    run(flags)
    assert drawn[1][1:] == (3, 6), "as many views as columns"


def test_a_stores_views_are_those_it_holds(tmp_path, monkeypatch):
    drawn = tiles_drawn(monkeypatch)
    paths = varied(tmp_path / "in")
    spec = spec_of((3,), views=2, augment="flip,rotation=0.2", seed=9)
    uris = [path.as_uri() for path in paths]
    store = make_store(tmp_path / "store", numbered(3), ["a"] * 3, spec=spec, uri=uris)
    run(["--store", store.url, "--output", str(tmp_path / "grid.png"), "--views", "3"])
    (tiles, rows, columns), *_ = drawn
    assert (rows, columns) == (3, 3)
    data = paths[1].read_bytes()
    pixels, content_hash = decode(data, spec.pixels).pixels, hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(tiles[3][0], pixels)
    expected = Views.of(spec).make(pixels, content_hash, 1)
    np.testing.assert_array_equal(tiles[4][0], expected)
    paths[0].unlink()
    run(["--store", store.url, "--output", str(tmp_path / "grid.png"), "--augment", "flip"])
    assert drawn[1][2] == 2, "as many as the store has"
    assert [pixels is None for pixels, _ in drawn[1][0]] == [True, True] + [False] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "1"], "--views must be 2 or more, got 1: the first one is the image itself"),
        (["--views", "51"], "--views must be from 1 to 50, got 51"),
        (["--views", "41", "--rows", "10"], "--rows times --views must be 400 at most"),
        (["--augment", "spin"], "--augment: unknown value 'spin'"),
    ],
)
def test_views_that_cannot_be_shown(tmp_path, arguments, message):
    write_images(tmp_path / "in", 1, 1)
    with pytest.raises(UsageError, match=message):
        run(["--input", str(tmp_path / "in"), "--output", "x.png", *arguments])


def test_the_views_of_one_image_fill_a_square(tmp_path, monkeypatch):
    drawn = tiles_drawn(monkeypatch)
    varied(tmp_path / "in")
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "grid.png")]
    run([*flags, "--views", "9", "--rows", "3", "--columns", "3"])
    (tiles, rows, columns), *_ = drawn
    assert (rows, columns) == (3, 3)
    assert [label for _, label in tiles] == ["class0", *(f"view {n}" for n in range(1, 9))]
    run([*flags, "--views", "5", "--rows", "4", "--columns", "3"])
    tiles, rows, columns = drawn[1]
    assert (rows, columns) == (4, 3)
    assert [label for _, label in tiles[5:7]] == [None, "class0"], "each image begins a row"
    with pytest.raises(UsageError, match="--rows must be at least 3 for an image of 9 views"):
        run([*flags, "--views", "9", "--columns", "3", "--rows", "2"])


def test_labels_come_from_a_table(tmp_path, monkeypatch):
    drawn = tiles_drawn(monkeypatch)
    varied(tmp_path / "in")
    (tmp_path / "t.csv").write_text("id,breed\n0,pug\n2,beagle\n")
    flags = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "grid.png")]
    run([*flags, "--labels", str(tmp_path / "t.csv"), "--label_column", "breed"])
    assert [label for _, label in drawn[0][0]] == ["pug", "(no label)", "beagle"]
    store = make_store(tmp_path / "store", numbered(1), ["a"])
    with pytest.raises(UsageError, match="--labels is for an --input.*relabel"):
        run(["--store", store.url, "--output", "x.png", "--labels", "t.csv"])
