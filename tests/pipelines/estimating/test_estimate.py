"""--plan: says what would run and what it would cost, and leaves no trace."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.images import png_bytes, write_images

from featurestore.commit import Marker
from featurestore.errors import SpecMismatch, UsageError
from featurestore.ledger import Ledger
from pipelines import extract as extract_command
from pipelines.driver import extract
from pipelines.estimating import trial as rehearsal
from pipelines.estimating.estimate import estimate, plan_lines

# With a precision: what `auto` takes hangs on the machine and, where two are close, on the moment.
SMALL = ("--model", "MobileNetV2", "--weights", "none", "--pooling", "avg", "--image_size", "32")
SMALL += ("--precision", "float32")


def options_of(*arguments):
    return extract_command.parse_options([str(argument) for argument in arguments])[0]


def plan(*arguments) -> dict:
    record = estimate(options_of(*arguments, "--plan"), lambda line: None)
    return json.loads(json.dumps(record))


def snapshot(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def write_tar(path: Path, images: list[Path]) -> None:
    with tarfile.open(path, "w") as archive:
        for image in images:
            info = tarfile.TarInfo(image.name)
            info.size = image.stat().st_size
            archive.addfile(info, io.BytesIO(image.read_bytes()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 100)
    return folder


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    """A store of 40 of the photos."""
    output = tmp_path_factory.mktemp("stores") / "s"
    arguments = ("--input", photos, "--output", output, "--limit", 40, *SMALL)
    return extract(options_of(*arguments), lambda line: None).store


def test_a_new_store_is_foreseen_and_not_made(photos, tmp_path):
    record = plan("--input", photos, "--output", tmp_path / "s", *SMALL)
    assert not list(tmp_path.iterdir())
    assert record["listed"] == record["new_images"] == record["images"] == 100
    assert record["new_image_bytes"] == sum(p.stat().st_size for p in photos.rglob("*.jpeg"))
    assert record["feature_shape"] == [1280] and record["dtype"] == "float32"
    assert record["calibration"]["images"] == 64
    ours, million = record["forecast"]
    assert ours["images"] == 100 and million["images"] == 1_000_000
    per_second = record["calibration"]["images_per_second"]
    hours = (record["start_seconds"] + 1e6 / per_second) / 3600
    assert million["hours"] == pytest.approx(hours, rel=1e-3)


def test_the_stored_size_is_that_of_the_run(photos, store):
    forecast = plan("--input", photos, "--output", store.url, *SMALL)
    written = sum(marker.part_bytes for marker in store.markers().values())
    assert forecast["image_bytes"] == pytest.approx(written / 40, rel=0.25)


def test_on_a_store_only_what_is_new_counts_and_no_file_changes(photos, store):
    before = snapshot(Path(store.url))
    record = plan("--input", photos, "--output", store.url, *SMALL)
    assert snapshot(Path(store.url)) == before
    assert (record["listed"], record["already_stored"], record["new_images"]) == (100, 40, 60)
    assert record["forecast"][0]["images"] == 60


def test_when_nothing_is_new_nothing_is_timed(photos, store):
    record = plan("--input", photos, "--output", store.url, "--limit", 40, *SMALL)
    assert record["chunks"] == 0 and "forecast" not in record
    assert "nothing new to extract" in plan_lines(record)[0]


def test_prune_is_foreseen(store, tmp_path):
    write_images(tmp_path / "photos", 2, seed=5)
    (tmp_path / "photos" / "cat" / "00000.jpeg").rename(tmp_path / "photos" / "cat" / "new.jpeg")
    (tmp_path / "photos" / "dog" / "00001.jpeg").rename(tmp_path / "photos" / "dog" / "new.jpeg")
    record = plan("--input", tmp_path / "photos", "--output", store.url, "--prune", *SMALL)
    assert record["pruned"] == 40 and record["new_images"] == 2
    assert len(store.load(["key"])["key"]) == 40


def test_what_may_be_stored_already_makes_the_forecast_a_bound(tmp_path):
    write_images(tmp_path / "before", 4)
    extract(options_of("--input", tmp_path / "before", "--output", tmp_path / "s", *SMALL), print)
    (tmp_path / "before").rename(tmp_path / "after")
    record = plan("--input", tmp_path / "after", "--output", tmp_path / "s", *SMALL)
    assert (record["new_images"], record["perhaps_stored"]) == (4, 4)
    assert plan_lines(record)[-2].startswith("at most: 4 inputs were moved or are tried again")


def test_shards_are_counted_by_their_first(photos, store, tmp_path):
    images = sorted(photos.rglob("*.jpeg"))
    write_tar(tmp_path / "0.tar", images[:30])
    write_tar(tmp_path / "1.tar", images[30:60])
    record = plan("--input", tmp_path / "*.tar", "--output", store.url, *SMALL)
    assert record["new_shards"] == 2 and record["new_images"] == 0
    assert record["images"] == pytest.approx(60, abs=2)
    assert any(line.startswith("  about ") for line in plan_lines(record))


def test_a_shard_longer_than_the_sample_is_not_read_to_its_end(
    photos, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(rehearsal, "SAMPLE_IMAGES", 16)
    monkeypatch.setattr(rehearsal, "SAMPLE_SECONDS", 0.0)
    write_tar(tmp_path / "0.tar", sorted(photos.rglob("*.jpeg")))
    record = plan("--input", tmp_path / "0.tar", "--output", store.url, *SMALL)
    assert record["calibration"]["images"] == 16
    assert 50 < record["images"] < 400  # their headers are not known


def test_a_shard_without_images_leaves_the_costs_open(store, tmp_path):
    (tmp_path / "0.tar").write_bytes(b"this is no archive" * 100)
    record = plan("--input", tmp_path / "0.tar", "--output", store.url, *SMALL)
    assert "forecast" not in record
    assert "no image could be read" in plan_lines(record)[-1]


def test_images_that_are_all_bad_are_sized_by_the_shape(store, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_bytes(b"\xff\xd8\xff cut")
    record = plan("--input", tmp_path / "p", "--output", store.url, *SMALL)
    assert record["image_bytes"] == 1280 * 4 and record["forecast"][0]["images"] == 1


def test_mistakes_are_those_of_the_run(photos, store, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        plan("--input", tmp_path / "missing", "--output", tmp_path / "s", *SMALL)
    with pytest.raises(SpecMismatch) as caught:
        plan("--input", photos, "--output", store.url, *SMALL, "--fit", "crop")
    assert f"the store at {store.url} holds other features" in str(caught.value)


def test_the_command_speaks_to_people_and_programs(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*map(str, ("--input", photos, *SMALL, "--limit", 5)), "--plan"]
    assert extract_command.run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "plan: 5 inputs: extracting 5 images in 1 chunks; nothing was run" in lines
    assert lines[-1].startswith("bound by ")
    assert extract_command.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new_images"] == 5
    assert not list(tmp_path.iterdir())


def test_the_built_in_sample_is_not_left_behind(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan("--output", store.url, *SMALL)["new_images"] == 1797
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "read_seconds, per_second, bound", [(0.0, 20.0, "infer"), (0.2, 5.0, "read")]
)
def test_a_stream_slower_than_the_lanes_is_the_bound(read_seconds, per_second, bound):
    states = {"read": 0.0, "decode": 1.0, "infer": 2.0, "write": 0.0, "idle": 9.0}
    time = {"lane_seconds": states, "lanes": 2, "images": 30, "megapixels": 6.0}
    marker = Marker("0" * 32, "plan", "a", ledger=Ledger(30, 30), time=time)
    timed = rehearsal.rate(marker, read_seconds)
    assert timed["images_per_second"] == per_second and timed["bound"] == bound


def test_black_images_of_any_size_do(store, tmp_path):
    (tmp_path / "p").mkdir()
    for side in (1, 31, 700):
        data = png_bytes(np.zeros((side, side, 3), np.uint8))
        (tmp_path / "p" / f"{side}.png").write_bytes(data)
    assert plan("--input", tmp_path / "p", "--output", store.url, *SMALL)["images"] == 3
