"""A derived store equals a direct extraction, without an image being read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.engines import small_base
from support.extraction import distance, make_tar, run
from support.extraction import rows_of as features_of
from support.images import write_images
from support.optional import optional

from featurestore import open_store
from featurestore.__main__ import run as featurestore_command
from featurestore.compaction.compact import compact
from featurestore.errors import UsageError
from pipelines import extract as extract_command
from pipelines.deriver import derive

keras = optional("keras")
COLUMNS = ("key", "uri", "size", "etag", "content_hash", "labels", "split", "view", "width")
# Rounding the maps to float16 changes a row by at most this; see `test_deriving_from_maps`.
ROUNDING = 2e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("derived")
    small_base(folder)
    for split in ("train", "test"):
        write_images(folder / "photos" / split, 40, seed=len(split))
    (folder / "photos" / "train" / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


def flags_of(folder: Path, layer: str, *more: object) -> list:
    base = ["--model", folder / "small.keras", "--preprocess", "unit", "--image_size", 32]
    base += ["--layer", layer]
    return [*base, "--engine", "tensorflow", "--precision", "float32", "--chunk_size", 16, *more]


def extract_into(store: Path, folder: Path, *flags: object):
    return run("--input", folder / "photos", "--output", store, *flags)


def derive_into(store: Path, source: object, *flags: object):
    arguments = ["--input_store", source, "--output", store, *flags]
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    return derive(options, lambda line: None)


def rows_of(store) -> dict:
    """Returns (key, view) -> (the columns, the features)."""
    loaded = store.load([*COLUMNS, "features"])
    names = zip(loaded["key"], loaded["view"], strict=True)
    columns = zip(*(map(str, loaded[name]) for name in COLUMNS), strict=True)
    return dict(zip(names, zip(columns, loaded["features"], strict=True), strict=True))


def assert_same(derived, direct, limit: float):
    ours, theirs = rows_of(derived), rows_of(direct)
    assert ours.keys() == theirs.keys()
    for name, (columns, features) in theirs.items():
        assert ours[name][0] == columns
        assert distance(ours[name][1], features) <= limit
    bad = [sorted(map(str, store.quarantined())) for store in (derived, direct)]
    assert bad[0] == bad[1]
    assert derived.ledger() == direct.ledger()


def test_deriving_from_pixels_equals_an_extraction_exactly(folder, tmp_path):
    views = ("--views", 2, "--augment", "flip")
    pixels = ("--model", "pixels", "--image_size", 32, *views)
    source = extract_into(tmp_path / "pixels", folder, *pixels, "--chunk_size", 16).store
    direct = extract_into(tmp_path / "direct", folder, *flags_of(folder, "last"), *views).store
    # The images are gone: nothing reads them.
    moved = (folder / "photos").rename(folder / "elsewhere")
    derived = derive_into(tmp_path / "derived", source.url, *flags_of(folder, "last")).store
    moved.rename(folder / "photos")
    assert_same(derived, direct, 0.0)
    assert (tmp_path / "derived" / "store.json").read_bytes() == (
        tmp_path / "direct" / "store.json"
    ).read_bytes()
    kinds = [{json.dumps(m.numerics) for m in s.markers().values()} for s in (derived, direct)]
    assert kinds[0] == kinds[1]
    # An extraction of the same images has nothing to do.
    again = extract_into(tmp_path / "derived", folder, *flags_of(folder, "last"), *views)
    assert again.record["ledger"]["images_in"] == 0
    assert featurestore_command(["verify", derived.url]) == 0


@pytest.mark.parametrize(
    "layer", ["first", "inner/inside", pytest.param("inner", marks=pytest.mark.slow)]
)
def test_deriving_from_maps_agrees_within_their_rounding(folder, tmp_path, layer):
    source = extract_into(tmp_path / "maps", folder, *flags_of(folder, layer)).store
    direct = extract_into(tmp_path / "direct", folder, *flags_of(folder, "last")).store
    derived = derive_into(tmp_path / "derived", source.url, *flags_of(folder, "last")[:8]).store
    assert_same(derived, direct, ROUNDING)
    assert derived.spec.to_json() == direct.spec.to_json()
    notes = {marker.numerics["derived"] for marker in derived.markers().values()}
    assert notes == {f"maps of {layer} rounded to float16, by tensorflow float32"}


@pytest.mark.slow
def test_float32_maps_are_continued_exactly(folder, tmp_path):
    exact = ("--dtype", "float32")
    source = extract_into(tmp_path / "maps", folder, *flags_of(folder, "first"), *exact).store
    direct = extract_into(tmp_path / "direct", folder, *flags_of(folder, "last"), *exact).store
    derived = derive_into(tmp_path / "d", source.url, *flags_of(folder, "last")[:8], *exact).store
    assert_same(derived, direct, 1e-6)


def test_pooling_alone_is_a_derivation(folder, tmp_path):
    source = extract_into(tmp_path / "maps", folder, *flags_of(folder, "last")).store
    pooled = derive_into(
        tmp_path / "pooled", source.url, *flags_of(folder, "last")[:8], "--pooling", "avg"
    ).store
    expected = {key: row.astype(np.float32).mean(axis=(0, 1)) for key, row in
                features_of(source).items()}  # fmt: skip
    for key, row in features_of(pooled).items():
        np.testing.assert_allclose(row, expected[key], rtol=1e-5, atol=1e-6)


def test_an_interrupted_derivation_goes_on(folder, tmp_path, monkeypatch):
    source = extract_into(tmp_path / "maps", folder, *flags_of(folder, "first")).store
    arguments = (tmp_path / "derived", source.url, *flags_of(folder, "last")[:8])
    left = len(source.markers()) // 2

    def failing(scanner, marker):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("the network is gone")
        yield from ()

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.deriving.worker.live_quarantined", failing)
        stopped = derive_into(*arguments)
    assert stopped.exit_code == 3 and stopped.record["ledger"]["dead_chunks"] > 0
    done = stopped.record["ledger"]["rows"]
    assert 0 < done < 80
    finished = derive_into(*arguments)
    assert finished.exit_code == 0 and finished.record["ledger"]["rows"] == 80 - done
    assert finished.record["already_committed"] > 0
    assert derive_into(*arguments).record["chunks"] == 0
    assert featurestore_command(["verify", finished.store.url]) == 0


def test_what_changes_in_the_source_is_derived_once(folder, tmp_path):
    photos = shutil.copytree(folder / "photos", tmp_path / "photos")
    pixels = ("--model", "pixels", "--image_size", 32, "--chunk_size", 16)
    arguments = (tmp_path / "derived", tmp_path / "pixels", *flags_of(folder, "last"))
    source = extract_into(tmp_path / "pixels", tmp_path, *pixels).store
    derive_into(*arguments)
    # One image is replaced by another, some are added, and the source is compacted meanwhile.
    write_images(photos / "train", 1, seed=7)
    write_images(photos / "new", 3, seed=8)
    extract_into(tmp_path / "pixels", tmp_path, *pixels)
    grown = derive_into(*arguments)
    assert grown.record["ledger"]["rows"] == 4
    next((photos / "new").rglob("*.jpeg")).unlink()
    extract_into(tmp_path / "pixels", tmp_path, *pixels, "--prune")
    assert derive_into(*arguments).record["chunks"] == 1
    assert compact(source).merged > 1
    assert derive_into(*arguments).record["chunks"] == 0
    direct = extract_into(tmp_path / "direct", tmp_path, *flags_of(folder, "last")).store
    assert_same(open_store(str(tmp_path / "derived")), direct, 0.0)


def test_commits_that_were_merged_before_all_were_derived_replace_their_rows(folder, tmp_path):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    pixels = ("--model", "pixels", "--image_size", 32, "--chunk_size", 16)
    source = extract_into(tmp_path / "pixels", tmp_path, *pixels).store
    arguments = (tmp_path / "derived", source.url, *flags_of(folder, "last"))
    derive_into(*arguments)
    first = next(iter(open_store(str(tmp_path / "derived")).markers().values()))
    for place in ("markers", "manifest", "index"):
        # As if the run had been killed before its last commit.
        for path in (tmp_path / "derived" / place).rglob("*"):
            if path.is_file() and (place != "markers" or path.stem == first.chunk_id):
                path.unlink()
    assert compact(source).merged > 1
    assert derive_into(*arguments).exit_code == 0
    derived = open_store(str(tmp_path / "derived"))
    assert len(rows_of(derived)) == 80 == derived.ledger().rows
    assert featurestore_command(["verify", derived.url]) == 0


def test_shards_and_later_labels_carry_over(folder, tmp_path):
    make_tar(tmp_path / "a.tar", sorted((folder / "photos" / "test").rglob("*.jpeg")))
    arguments = ("--input", tmp_path / "a.tar", "--output")
    source = run(*arguments, tmp_path / "s", "--model", "pixels", "--image_size", 32).store
    keys = sorted(features_of(source))
    (tmp_path / "labels.csv").write_text(f"key,label\n{keys[0]},bird\n")
    featurestore_command(["relabel", source.url, "--labels", str(tmp_path / "labels.csv")])
    derived = derive_into(tmp_path / "d", source.url, *flags_of(folder, "last")).store
    loaded = derived.load(["key", "labels"])
    assert dict(zip(loaded["key"], loaded["labels"], strict=True))[keys[0]] == ["bird"]
    again = run(*arguments, tmp_path / "d", *flags_of(folder, "last"))
    assert again.record["chunks"] == 0


@pytest.fixture(scope="module")
def sources(folder, tmp_path_factory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("sources")
    flags = {
        "maps": flags_of(folder, "first"),
        "pooled": [*flags_of(folder, "first"), "--pooling", "avg"],
        "grey": ["--model", "pixels", "--image_size", 32, "--channels", 1],
    }
    made = {n: extract_into(place / n, folder, *each, "--limit", 20) for n, each in flags.items()}
    return {name: outcome.store.url for name, outcome in made.items()}


@pytest.mark.parametrize(
    "source, flags, words",
    [
        ("maps", ["--layer", "first"], "holds the maps of first already; give a later --layer"),
        ("maps", ["--layer", "last", "--image_size", "48"], "--image_size 48x48.*made with 32x32"),
        ("maps", ["--layer", "last", "--fit", "crop"], "--fit crop.*made with squash"),
        ("maps", ["--layer", "last", "--views", "2"], "--views 2.*made with 1"),
        ("maps", ["--layer", "last", "--limit", "3"], "--limit: is for images"),
        ("maps", ["--layer", "last", "--precision", "int8"], "--precision int8.*leave the flag"),
        ("maps", ["--layer", "last", "--preprocess", "tf"], "preprocessed by unit.*this base's by"),
        ("maps", ["--layer", "last", "--weights", "none"], "maps of small.keras.*at no layer"),
        ("pooled", ["--layer", "last"], "its maps were pooled"),
        ("grey", ["--layer", "last"], "grey pixels, and this base takes colours"),
        ("grey", ["--model", "pixels", "--image_size", "32"], "--channels 3.*grey pixels"),
        ("maps", ["--model", "pixels", "--image_size", "32"], "no pixels can be made"),
    ],
)
def test_what_cannot_be_derived_is_refused_and_leaves_nothing(
    folder, sources, tmp_path, source, flags, words
):
    base = [] if "--model" in flags else flags_of(folder, "last")[:6]
    with pytest.raises(UsageError, match=words):
        derive_into(tmp_path / "d", sources[source], *base, *flags)
    assert not (tmp_path / "d").exists()
