"""A store of pixels: what it holds and needs, and that all else treats it as any store."""

import json
import re

import numpy as np
import pytest
from support.commands import ROOT, run_command
from support.extraction import make_tar, rows_of, run
from support.images import write_images

from classifier.pixels.decoder import decode
from classifier.pixels.grey import to_grey
from classifier.pixels.views import Views
from featurestore import open_store
from featurestore.__main__ import run as featurestore_command
from featurestore.compaction.compact import compact
from featurestore.errors import SpecMismatch, UsageError

PIXELS = ("--model", "pixels", "--image_size", "24x32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 60)
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    return run("--input", photos, "--output", tmp_path_factory.mktemp("s") / "s", *PIXELS).store


def pixels_of(path, spec) -> np.ndarray:
    return decode(path.read_bytes(), spec.pixels).pixels


def test_a_row_is_the_decoded_image(store, photos):
    spec = store.spec
    assert (spec.dtype, spec.feature_shape, spec.base.layer) == ("uint8", (24, 32, 3), "rgb")
    assert spec.numerics.label == "identity uint8" and spec.feature_bytes == 24 * 32 * 3
    rows = rows_of(store)
    assert len(rows) == 60
    for key, row in rows.items():
        assert row.dtype == np.uint8
        np.testing.assert_array_equal(row, pixels_of(photos / key, spec))
    assert [row["key"] for row in store.quarantined()] == ["cat/broken.jpg"]
    assert not [file.name for file in store.storage.list("model") if "keras" in file.name]


def test_grey_pixels_have_one_channel(photos, tmp_path):
    store = run("--input", photos, "--output", tmp_path / "s", *PIXELS, "--channels", 1).store
    assert (store.spec.feature_shape, store.spec.base.layer) == ((24, 32, 1), "grey")
    for key, row in rows_of(store).items():
        rgb = pixels_of(photos / key, store.spec)
        np.testing.assert_array_equal(row, to_grey(rgb[None])[0])


def test_views_are_stored_as_pixels(photos, tmp_path):
    flags = (*PIXELS, "--views", 3, "--augment", "flip,rotation=0.1")
    store = run("--input", photos, "--output", tmp_path / "s", *flags).store
    views, loaded = Views.of(store.spec), store.load(["key", "content_hash", "view", "features"])
    assert len(loaded["key"]) == 3 * 60
    for key, content, view, row in zip(*loaded.values(), strict=True):
        expected = views.make(pixels_of(photos / key, store.spec), content, int(view))
        np.testing.assert_array_equal(row, expected)


def test_a_part_is_plain_bytes_for_any_reader(store):
    with store.storage.open_parquet(f"parts/{next(iter(store.markers().values())).part}") as part:
        table = part.read()
    meta = table.schema.field("features").metadata
    assert meta[b"dtype"] == b"uint8"
    pixels = np.frombuffer(b"".join(table["features"].to_pylist()), meta[b"dtype"].decode())
    pixels = pixels.reshape(-1, *json.loads(meta[b"shape"]))
    np.testing.assert_array_equal(pixels[0], rows_of(store)[table["key"][0].as_py()])


def test_a_store_of_pixels_grows_is_compacted_and_verified(photos, tmp_path):
    folder = tmp_path / "photos"
    paths = write_images(folder, 40)
    arguments = ("--input", folder, "--output", tmp_path / "s", *PIXELS, "--chunk_size", 16)
    run(*arguments)
    before = rows_of(open_store(str(tmp_path / "s")))
    again = run(*arguments)
    assert again.record["ledger"]["images_in"] == 0
    # A touched file is read again, and its pixels are found by content.
    paths[0].touch()
    write_images(folder / "new", 5, seed=1)
    assert run(*arguments).record["ledger"]["rows"] == 6
    store = open_store(str(tmp_path / "s"))
    assert len(rows_of(store)) == 45
    assert compact(store).merged > 1
    after = rows_of(store)
    for key, row in before.items():
        np.testing.assert_array_equal(after[key], row)
    assert featurestore_command(["verify", store.url]) == 0


def test_shards_give_the_same_pixels(store, photos, tmp_path):
    make_tar(tmp_path / "a.tar", sorted((photos / "dog").iterdir()))
    packed = run("--input", tmp_path / "a.tar", "--output", tmp_path / "s", *PIXELS).store
    named = {key.rsplit("/", 1)[-1].split(".")[0]: row for key, row in rows_of(store).items()}
    rows = rows_of(packed)
    assert len(rows) == 30
    for key, row in rows.items():
        np.testing.assert_array_equal(row, named[key.rsplit("/", 1)[-1].split(".")[0]])


def test_pixels_never_mix_with_others(store, photos):
    place = ("--input", photos, "--output", store.url)
    with pytest.raises(SpecMismatch, match=r"layer: rgb -> grey.*feature_shape: \[24, 32, 3\]"):
        run(*place, *PIXELS, "--channels", 1)
    with pytest.raises(SpecMismatch, match="image_size: 24x32 -> 32x32"):
        run(*place, "--model", "pixels", "--image_size", 32)
    with pytest.raises(SpecMismatch, match="weights: pixels no base -> MobileNetV2 random"):
        run(*place, "--model", "MobileNetV2", "--weights", "none", "--image_size", 32)


def test_info_and_export_say_what_they_are(store, tmp_path, capsys):
    featurestore_command(["info", store.url])
    assert "base       none: the images themselves, rgb, 24x32 pixels" in capsys.readouterr().out
    featurestore_command(["export", store.url, "--output", str(tmp_path / "e"), "--flatten"])
    vectors = np.load(next((tmp_path / "e" / "img_emb").iterdir()))
    assert vectors.dtype == np.uint8 and vectors.shape == (60, 24 * 32 * 3)


@pytest.mark.parametrize(
    "runner",
    [
        (),
        pytest.param(
            ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_process_starts_tensorflow(photos, tmp_path, runner):
    # Whichever process imported one of them would fail, workers too.
    flags = [*PIXELS, "--input", str(photos), "--output", "s", "--json", "--chunk_size", "16"]
    for name in ("tensorflow", "keras", "openvino"):
        module = tmp_path / "broken" / name / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text("raise SystemError('it was imported')")
    path = f"{tmp_path / 'broken'}:{ROOT}"
    done = run_command("pipelines.extract", *flags, *runner, cwd=tmp_path, PYTHONPATH=path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["ledger"]["rows"] == 60


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], ("--image_size", "--model pixels has no size of its own", "--image_size 180")),
        (["--image_size", "32", "--pooling", "avg"], ("--pooling avg", "leave it out")),
        (["--image_size", "32", "--layer", "conv"], ("--layer conv", "leave it out")),
        (["--image_size", "32", "--weights", "none"], ("--weights none", "leave it out")),
        (["--image_size", "32", "--precision", "int8"], ("--precision int8", "leave it out")),
        (["--image_size", "32", "--engine", "openvino"], ("--engine openvino", "leave it out")),
        (["--image_size", "32", "--dtype", "float16"], ("--dtype float16", "uint8")),
        (["--image_size", "32", "--preprocess", "tf"], ("--preprocess tf", "leave it out")),
        (["--image_size", "32", "--channels", "2"], ("--channels must be 3 (RGB) or 1", "got 2")),
        (["--model", "VGG16", "--channels", "1"], ("--channels 1 is for --model pixels", "VGG16")),
    ],
)
def test_flags_of_a_base_are_refused_by_name(flags, words, tmp_path):
    with pytest.raises(UsageError, match=".*".join(map(re.escape, words))):
        run("--output", tmp_path / "s", "--model", "pixels", *flags)
