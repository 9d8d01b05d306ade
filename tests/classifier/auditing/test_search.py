"""Search: the nearest stored images of an image, and the command."""

import json

import numpy as np
import pytest
from support.commands import assert_one_line_error, run_command
from support.extraction import SMALL
from support.extraction import run as extract
from support.features import clusters, make_store
from support.images import write_images

from classifier.auditing.rows import read_rows
from classifier.auditing.search import search
from classifier.search import run as search_command
from featurestore import UsageError


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A store of ten real images, and their folder."""
    folder = tmp_path_factory.mktemp("searched")
    write_images(folder / "images", 10)
    extract("--input", folder / "images", "--output", folder / "store", *SMALL)
    return folder


def test_matches_are_those_of_all_cosines(tmp_path):
    features, labels = clusters(50, 3)
    store = make_store(tmp_path / "store", features, labels, ["train"] * 25 + ["test"] * 25)
    with read_rows(store) as rows:
        units = rows.units(slice(None))
    expected = np.sort(units @ units[4])[::-1]
    for most in (1, 3, 50, 60):
        found = search(store, features[4], most)
        cosines = [match.cosine for match in found]
        np.testing.assert_allclose(cosines, expected[: min(most, 50)], atol=1e-5)
        assert found[0].columns["key"] == "00004.png"
    chosen = search(store, features[4], 60, ["class 2"], ["test"])
    assert {(match.columns["split"], *match.columns["labels"]) for match in chosen} == {
        ("test", "class 2")
    }
    assert len(chosen) == sum(label == "class 2" for label in labels[25:])


def test_an_image_of_the_store_finds_itself_first(extracted, capsys):
    image = sorted((extracted / "images" / "dog").iterdir())[1]
    flags = ["--store", str(extracted / "store"), str(image), "--top", "3"]
    picture = extracted / "found.png"
    assert search_command([*flags, "--plot", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert len(found) == 3 and found[0]["key"] == f"dog/{image.name}"
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert search_command([*flags, "--label", "cat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("(cat" in line for line in lines[:3])


def test_unknown_labels_and_splits_are_refused(extracted):
    image = str(next((extracted / "images" / "dog").iterdir()))
    flags = ["--store", str(extracted / "store"), image]
    with pytest.raises(UsageError, match="--label: unknown value 'cow'"):
        search_command([*flags, "--label", "cow"])
    with pytest.raises(UsageError, match="--split"):
        search_command([*flags, "--split", "test"])


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ["IMAGE"]),
        (["gone.png"], ["IMAGE", "gone.png"]),
        (["text.png"], ["text.png", "not a usable image"]),
        (["text.png", "--top", "0"], ["--top", "0"]),
    ],
)
def test_mistakes_are_one_line(extracted, tmp_path, flags, words):
    (tmp_path / "text.png").write_text("no image")
    store = str(extracted / "store")
    done = run_command("classifier.search", "--store", store, *flags, cwd=tmp_path)
    assert_one_line_error(done, 2, *words)
