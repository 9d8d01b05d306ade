"""The extraction end to end: nothing lost, refused what must be, the same rows on every runner."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_one_line_error
from support.extraction import SMALL, assert_same_rows, distance, make_tar, rows_of, run
from support.images import encode, png_bytes, write_images
from support.stores import find_orphans

from featurestore import open_store
from featurestore.errors import RunFailed, SpecMismatch, UsageError
from pipelines import extract as extract_command
from pipelines.finishing.verdict import Outcome


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 150)
    return folder


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """An undisturbed run over `photos`."""
    return run("--input", photos, "--output", tmp_path_factory.mktemp("r") / "s", *SMALL).store


def test_every_image_is_a_row_with_its_facts(reference, photos):
    loaded = reference.load(["key", "uri", "labels", "split", "width", "height", "size", "view"])
    assert sorted(loaded["key"]) == sorted(
        str(path.relative_to(photos)) for path in photos.rglob("*.jpeg")
    )
    assert {tuple(labels) for labels in loaded["labels"]} == {("cat",), ("dog",)}
    assert set(loaded["width"]) == {64} and set(loaded["height"]) == {48}
    assert set(loaded["view"]) == {0} and set(loaded["split"]) == {None}
    path = photos / loaded["key"][0]
    assert loaded["uri"][0] == f"file://{path}" and loaded["size"][0] == path.stat().st_size
    summary = reference.last_summary()
    assert summary["ledger"]["images_in"] == summary["ledger"]["rows"] == 150
    assert not list(reference.storage.list("tmp")) and not list(reference.storage.list("plans"))


def test_a_run_says_where_its_time_went(reference):
    time = reference.last_summary()["time"]
    spent = sum(time["lane_seconds"].values())
    begin = min(marker.time["started"] for marker in reference.markers().values())
    end = max(marker.time["finished"] for marker in reference.markers().values())
    # Five states, each rounded to a millisecond.
    assert spent == pytest.approx(time["lanes"] * (end - begin), abs=0.003)
    assert 0 < time["to_first_image"] <= time["seconds"]
    assert list(time["steps"]) == ["listing", "base", "planning", "workers"]
    assert time["megapixels"] == pytest.approx(64 * 48 / 1e6, abs=1e-3)
    assert all(time["lane_seconds"][state] > 0 for state in ("decode", "infer"))
    lines = extract_command.summary_lines(Outcome(reference, reference.last_summary()))
    assert any(line.startswith("time: ") for line in lines)


@pytest.mark.parametrize(
    "dtype, pooling, limit", [("float32", "avg", 1e-5), ("auto", "none", 1e-3)]
)
def test_rows_equal_the_base_on_the_same_pixels(photos, tmp_path, dtype, pooling, limit):
    import keras

    from classifier.pixels.decoder import decode

    flags = ["--model", "VGG16", "--weights", "none", "--image_size", "64", "--dtype", dtype]
    flags += ["--precision", "float32"]
    store = run("--input", photos, "--output", tmp_path / "s", "--pooling", pooling, *flags).store
    with store.local_model() as path:
        base = keras.models.load_model(path, compile=False)
    rows = rows_of(store)
    keys = sorted(rows)[:20]
    pixels = np.stack([decode((photos / k).read_bytes(), store.spec.pixels).pixels for k in keys])
    preprocessed = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32))
    expected = np.asarray(base(preprocessed, training=False))
    if pooling == "avg":
        expected = expected.mean(axis=(1, 2))
    assert store.spec.feature_shape == expected.shape[1:]
    for key, row in zip(keys, expected, strict=True):
        assert distance(rows[key], row) < limit


def test_a_thousand_images_fifty_of_them_broken(tmp_path):
    folder = tmp_path / "photos"
    paths = write_images(folder, 1000)
    whole = paths[-1].read_bytes()
    random = np.random.default_rng(0)
    for index, path in enumerate(paths[::20]):
        kind = index % 4
        if kind == 0:
            path.write_bytes(whole[: random.integers(30, len(whole) - 20)])
        elif kind == 1:
            path.write_bytes(b"")
        elif kind == 2:
            path.write_bytes(b"this is a text, whatever its name says")
        else:
            header = bytearray(encode(np.zeros((4, 4, 3), np.uint8), "BMP"))
            header[18:26] = bytes(8)  # width and height of a BMP
            path.write_bytes(header)
    png_named_jpg = paths[1]
    png_named_jpg.write_bytes(png_bytes(np.full((9, 9, 3), 200, np.uint8)))
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "labels.csv").write_text("id,label\n")
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL)

    outcome = run(*arguments)
    assert outcome.exit_code == 0 and not outcome.problems
    ledger = outcome.record["ledger"]
    assert (ledger["images_in"], ledger["rows"], ledger["quarantined"]) == (1000, 950, 50)
    assert sorted(outcome.record["ignored"]) == [".DS_Store", "labels.csv"]
    assert str(png_named_jpg.relative_to(folder)) in rows_of(outcome.store)
    quarantined = list(outcome.store.quarantined())
    assert {row["key"] for row in quarantined} == {
        str(path.relative_to(folder)) for path in paths[::20]
    }
    kinds = {row["kind"] for row in quarantined}
    assert {"truncated", "empty", "not_an_image"} < kinds
    assert all(row["message"] for row in quarantined)

    strict = run(*arguments, "--max_bad_fraction", 0.01)
    assert strict.record["ledger"]["images_in"] == 0, "nothing is tried again"
    assert strict.exit_code == 1
    assert "50 of 1000" in strict.problems[0] and "--max_bad_fraction 0.01" in strict.problems[0]


def test_a_second_run_extracts_only_what_is_new(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL)
    run(*arguments)
    write_images(folder / "cat", 3, "PNG", seed=1)
    outcome = run(*arguments)
    assert outcome.record["ledger"]["images_in"] == 3
    assert outcome.record["store_ledger"]["rows"] == 153 == len(rows_of(outcome.store))


def test_duplicates_are_rows_and_counted(tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "p" / name).write_bytes(png_bytes(np.full((40, 40, 3), 7, np.uint8)))
    arguments = ("--input", tmp_path / "p", "--output", tmp_path / "s", *SMALL)
    assert run(*arguments).record["ledger"]["duplicates"] == 2
    shutil.copy(tmp_path / "p" / "a.png", tmp_path / "p" / "d.png")
    assert run(*arguments).record["ledger"]["duplicates"] == 1


def test_splits_by_content_and_limits(photos, tmp_path):
    shares = "train=.5,test=.5"
    arguments = ("--input", photos, "--output", tmp_path / "s", *SMALL, "--split_fractions", shares)
    store = run(*arguments, "--limit_per_class", 40).store
    counts = store.split_counts()
    assert sum(counts.values()) == 80 and counts.keys() == {"train", "test"}
    assert min(counts.values()) > 20
    # The first 90 are all 75 cats and 15 dogs; 40 of each are there.
    assert run(*arguments, "--limit", 90).record["store_ledger"]["rows"] == 80 + 35
    assert run(*arguments).record["store_ledger"]["rows"] == 150


def test_another_base_is_refused_with_the_difference(reference, photos):
    with pytest.raises(SpecMismatch) as caught:
        run("--input", photos, "--output", reference.url, "--model", "VGG16", "--weights", "none")
    for words in ("-> VGG16", "layer: out_relu -> block5_pool", "image_size: 32x32 -> 180x180"):
        assert words in str(caught.value)
    with pytest.raises(SpecMismatch, match="fit: squash -> crop"):
        run("--input", photos, "--output", reference.url, *SMALL, "--fit", "crop")
    with pytest.raises(SpecMismatch, match="dtype: float32 -> float16"):
        run("--input", photos, "--output", reference.url, *SMALL, "--dtype", "float16")


def test_foreign_numerics_join_only_when_the_probes_agree(reference, photos, tmp_path, monkeypatch):
    store = shutil.copytree(reference.url, tmp_path / "s")
    monkeypatch.setattr("classifier.pixels.decoder.decoder_label", lambda: "another decoder")
    monkeypatch.setattr("pipelines.extraction.worker._ENGINES", {})
    write_images(tmp_path / "more", 2, seed=5)
    outcome = run("--input", photos, tmp_path / "more", "--output", store, *SMALL)
    assert outcome.record["numerics"][0]["decoder"] == "another decoder"
    monkeypatch.setattr("classifier.engines.probes.largest_difference", lambda *arguments: 0.5)
    with pytest.raises(SpecMismatch, match="0.5 away from those of the store"):
        run("--input", photos, "--output", store, *SMALL)


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
        ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
    ],
    ids=["processes", "threads", "portable"],
)
def test_the_same_rows_on_every_local_runner(reference, photos, tmp_path, flags):
    outcome = run("--input", photos, "--output", tmp_path / "s", *SMALL, *flags)
    assert outcome.exit_code == 0
    assert_same_rows(reference, outcome.store)


def test_the_local_runner_is_fn_api_and_never_prism(photos, tmp_path, monkeypatch):
    from apache_beam.runners.portability import prism_runner
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    used = []
    for runner in (prism_runner.PrismRunner, fn_runner.FnApiRunner):
        original = runner.run_pipeline

        def spy(self, *arguments, _original=original, _name=runner.__name__):
            used.append(_name)
            return _original(self, *arguments)

        monkeypatch.setattr(runner, "run_pipeline", spy)
    run("--input", photos, "--output", tmp_path / "s", *SMALL, "--limit", 2)
    assert used == ["FnApiRunner"]


def test_output_to_memory_and_s3(reference, photos, bucket):
    url, options = bucket
    assert_same_rows(reference, run("--input", photos, "--output", "memory://s", *SMALL).store)
    settings = ["--storage_options", *(f"{k}={v}" for k, v in options.items())]
    outcome = run("--input", photos, "--output", f"{url}/store", *SMALL, *settings)
    assert_same_rows(reference, outcome.store)
    again = run("--input", photos, "--output", f"{url}/store", *SMALL, *settings)
    assert again.record["already_committed"] == 150
    text = "".join(
        outcome.store.storage.read(file.name).decode(errors="replace")
        for file in outcome.store.storage.list("")
    )
    assert "test-secret" not in text and options["endpoint_url"] not in text


def test_tar_shards_give_the_same_features(reference, photos, tmp_path):
    images = sorted(photos.rglob("*.jpeg"))
    for number in range(3):
        make_tar(tmp_path / f"{number}.tar", images[number::3])
    arguments = ("--input", tmp_path / "*.tar", "--output", tmp_path / "s", *SMALL)
    store = run(*arguments).store
    expected = {Path(key).stem: (key, row) for key, row in rows_of(reference).items()}
    labels = dict(zip(*store.load(["key", "labels"]).values(), strict=True))
    for key, row in rows_of(store).items():
        original, features = expected.pop(Path(key).stem)
        assert distance(row, features) < 1e-4
        assert labels[key] == [Path(original).parent.name]
    assert not expected
    assert run(*arguments).record["already_committed"] == 3


def test_a_dead_shard_is_told_and_tried_again(photos, tmp_path):
    images = sorted(photos.rglob("*.jpeg"))
    make_tar(tmp_path / "0.tar", images[:20])
    make_tar(tmp_path / "1.tar", images[20:40])
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(b"this is no archive" * 100)
    arguments = ("--input", tmp_path / "*.tar", "--output", tmp_path / "s", *SMALL)
    outcome = run(*arguments)
    assert outcome.exit_code == 3
    assert "1 dead chunk, first at '1.tar' (ShardDamaged" in outcome.problems[0]
    assert outcome.record["ledger"]["rows"] == 20
    assert run(*arguments, "--allow_dead_chunks").exit_code == 0
    (tmp_path / "1.tar").write_bytes(whole)
    outcome = run(*arguments)
    assert outcome.exit_code == 0 and outcome.record["store_ledger"]["rows"] == 40


@pytest.fixture(scope="module")
def scaling_model(tmp_path_factory) -> Path:
    """A model whose features are the pixels times 1e38: black stays 0, white is infinite."""
    import keras

    image = keras.Input((32, 32, 3))
    path = tmp_path_factory.mktemp("model") / "scaling.keras"
    layer = keras.layers.Conv2D(1, 1, kernel_initializer=keras.initializers.Constant(1e38))
    keras.Model(image, layer(image)).save(path)
    return path


def test_features_that_are_not_finite_are_quarantined(scaling_model, tmp_path):
    (tmp_path / "p").mkdir()
    for name, level in (("black.png", 0), ("white.png", 255)):
        data = png_bytes(np.full((32, 32, 3), level, np.uint8))
        (tmp_path / "p" / name).write_bytes(data)
    flags = ("--model", scaling_model, "--preprocess", "none", "--max_bad_fraction", 1)
    outcome = run("--input", tmp_path / "p", "--output", tmp_path / "s", *flags)
    assert list(rows_of(outcome.store)) == ["black.png"]
    (bad,) = outcome.store.quarantined()
    assert (bad["key"], bad["kind"]) == ("white.png", "non_finite")


def test_finite_values_beyond_float16_fail_the_run_in_one_line(scaling_model, tmp_path, command):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "dim.png").write_bytes(png_bytes(np.full((32, 32, 3), 1, np.uint8)))
    flags = ("--model", scaling_model, "--preprocess", "none")
    with pytest.raises(RunFailed, match="beyond float16's largest, 65504; .* --dtype float32"):
        run("--input", tmp_path / "p", "--output", tmp_path / "s", *flags)
    run("--input", tmp_path / "p", "--output", tmp_path / "s32", *flags, "--dtype", "float32")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--inptu", "x"], "unknown flag '--inptu'; did you mean --input?"),
        (["--direct_num_worker=2"], "did you mean --direct_num_workers?"),
        (["--limit", "1", "photos"], "unknown argument 'photos'"),
        (["--input", "missing"], "'missing' does not exist"),
        (["--input", "empty"], "no images in 'empty'; it is empty"),
        (["--input", "texts"], "1 other files are there, such as 'a.txt'; give images, shards ("),
        (["--model", "VGG61"], "did you mean VGG16"),
        (["--model", "gone.keras"], "gone.keras"),
        (["--dtype", "float64"], "float64"),
        (["--image_size", "x"], "--image_size"),
        (["--batch_size", "many"], "--batch_size"),
        (["--pooling", "median"], "(all: avg, cls, gem, "),
        (["--output", "broken"], "not a store's spec"),
        (["--output", "nope://x"], "nope://x"),
        (["--model", "MobileNetV2", "--image_size", "16"], "at least 32"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, arguments, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "texts", "broken", "good"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "broken" / "store.json").write_text("{}")
    (tmp_path / "good" / "a.png").write_bytes(png_bytes(np.zeros((40, 40, 3), np.uint8)))
    if "--input" not in arguments and "--inptu" not in arguments:
        arguments = ["--input", "good", *arguments]
    with pytest.raises(Exception) as caught:
        run("--weights", "none", *arguments)
    assert words in str(caught.value)
    assert caught.value.exit_code in (1, 2)
    assert "\n" not in str(caught.value).strip()


def test_the_command_prints_one_line_and_exits_with_2(command):
    assert_one_line_error(command("pipelines.extract", "--inptu", "x"), 2, "did you mean --input?")
    assert_one_line_error(command("pipelines.extract", "--input", "missing"), 2, "does not exist")


def test_imagenet_is_never_replaced_on_the_users_own_images(photos, tmp_path, monkeypatch):
    import keras

    def no_network(*arguments, **settings):
        raise Exception("URL fetch failure on https://example.invalid: None -- no route")

    monkeypatch.setattr(keras.utils, "get_file", no_network)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", no_network)
    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", no_network)
    with pytest.raises(UsageError, match="--weights"):
        run("--input", photos, "--output", tmp_path / "s", "--model", "MobileNetV2")
    assert not (tmp_path / "s" / "store.json").exists()


def test_the_command_is_quiet_and_speaks_json(photos, tmp_path, command):
    flags = ("--input", photos, "--output", "s", *SMALL, "--limit", "5")
    done = command("pipelines.extract", *map(str, flags), "--json")
    assert done.code == 0 and done.err == "", done.err
    record = json.loads(done.out)
    assert record["ledger"]["rows"] == 5 and record["problems"] == []
    assert find_orphans(open_store(str(tmp_path / "s")).storage, {}) != set()
    again = command("pipelines.extract", *map(str, flags))
    assert again.err == "" and "nothing new to extract" in again.out
