"""The labelled grid of images."""

import cv2
import numpy as np
import pytest
from test_dataset import make_store, numbered

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
