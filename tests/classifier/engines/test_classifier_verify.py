"""Rows of a store are what the base gives for their images today, or the command says what not."""

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_one_line_error
from support.images import write_images
from support.stores import make_spec, make_store
from support.verifying import report_on

from classifier.engines.reextraction import (
    draw_rows,
    find_rows,
    relative_difference,
    tolerance_of,
)
from classifier.verify import load_extractor
from classifier.verify import run as verify_command
from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.errors import CorruptStore
from featurestore.schema import row_table
from pipelines import extract as extract_command
from pipelines.driver import extract

BASE = ("--model", "MobileNetV2", "--weights", "none", "--image_size", "32", "--chunk_size", "16")
BASE += ("--precision", "float32")


def make(folder: Path, *flags: str):
    """Extracts 40 images below `folder`; returns the store."""
    write_images(folder / "photos", 40)
    arguments = ("--input", folder / "photos", "--output", folder / "s", *BASE, *flags)
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    return extract(options, lambda line: None).store


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    make(folder, "--pooling", "avg")
    return folder


@pytest.fixture(scope="module")
def extractor(folder):
    return load_extractor(open_store(str(folder / "s")), False)


def kinds(report) -> list[str]:
    return sorted(finding["kind"] for finding in report.findings)


@pytest.fixture
def copy(folder, tmp_path):
    """A store whose images may be harmed; they are put back afterwards."""
    shutil.copytree(folder / "photos", tmp_path / "kept")
    shutil.copytree(folder / "s", tmp_path / "s")
    yield open_store(str(tmp_path / "s"))
    shutil.rmtree(folder / "photos")
    shutil.move(tmp_path / "kept", folder / "photos")


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 40, 41])
def test_a_sound_store_reproduces(folder, extractor, rows):
    store = open_store(str(folder / "s"))
    report = report_on(store, extractor, rows)
    assert report.sampled == report.compared == min(rows, 40)
    assert report.largest_difference <= 1e-5 and report.tolerance == 1e-5
    assert report.findings == [] and report.exit_code == 0


@pytest.mark.parametrize("flags", [(), ("--pooling", "avg", "--dtype", "float16")])
def test_float16_stores_reproduce(tmp_path, flags):
    store = make(tmp_path, *flags)
    report = report_on(store, load_extractor(store, False))
    assert report.compared == 40 and report.tolerance == 1e-3
    assert report.largest_difference <= 1e-3 and report.exit_code == 0


def test_the_draw_follows_the_seed_and_is_fair(folder):
    store = open_store(str(folder / "s"))
    assert draw_rows(store, 10, 1) == draw_rows(store, 10, 1) != draw_rows(store, 10, 2)
    counts: dict = {}
    for seed in range(400):
        for name in draw_rows(store, 10, seed):
            counts[name] = counts.get(name, 0) + 1
    assert len(counts) == 40 and min(counts.values()) > 60 and max(counts.values()) < 140


def test_drawn_rows_come_with_their_own_features(folder):
    store = open_store(str(folder / "s"))
    loaded = store.load(["key", "features"])
    expected = dict(zip(loaded["key"], loaded["features"], strict=True))
    found = list(find_rows(store, draw_rows(store, 15, 3)))
    assert len(found) == 15
    for row in found:
        np.testing.assert_array_equal(row.features, expected[row.key])


def test_other_features_are_found_and_named(copy, extractor):
    import pyarrow.parquet as pq

    marker = next(iter(copy.markers().values()))
    path = Path(copy.storage.path(f"parts/{marker.part}"))
    rows = pq.read_table(path).to_pylist()
    features = np.array([row["features"] for row in rows], np.float32)
    features[3] *= 1.001
    pq.write_table(row_table(rows, features, copy.spec), path)
    report = report_on(copy, extractor)
    assert kinds(report) == ["difference"] and report.exit_code == 1
    assert report.findings[0]["key"] == report.largest_key == rows[3]["key"]
    assert 5e-4 < report.largest_difference < 2e-3


def test_changed_and_missing_sources_are_findings_of_their_own(copy, folder, extractor):
    images = sorted((folder / "photos").rglob("*.jpeg"))
    images[0].write_bytes(images[1].read_bytes())
    images[2].unlink()
    before = images[4].stat()
    data = bytearray(images[4].read_bytes())
    data[-3] ^= 1
    report = report_on(copy, extractor)
    assert kinds(report) == ["changed_source", "missing_source"]
    assert report.compared == 38 and report.exit_code == 0
    images[4].write_bytes(data)
    os.utime(images[4], ns=(before.st_atime_ns, before.st_mtime_ns))
    report = report_on(copy, extractor)
    assert kinds(report) == ["changed_source", "changed_unnoticed", "missing_source"]
    assert report.exit_code == 1


def test_when_nothing_can_be_compared_the_command_does_not_pass(copy, folder, capsys):
    shutil.rmtree(folder / "photos" / "cat")
    shutil.rmtree(folder / "photos" / "dog")
    assert verify_command(["--store", copy.url, "--rows", "5", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["compared"] == 0 and record["largest_difference"] is None
    assert len(record["findings"]) == 5


@pytest.fixture
def of_shards(folder, tmp_path):
    """A store of two shards, one in each of two formats, and the folder they lie in."""
    images = sorted((folder / "photos").rglob("*.jpeg"))
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for path in images[:5]:
            archive.add(path, str(path.relative_to(folder / "photos")))
    with zipfile.ZipFile(tmp_path / "in" / "b.zip", "w") as archive:
        for path in images[5:9]:
            archive.write(path, str(path.relative_to(folder / "photos")))
    arguments = ("--input", tmp_path / "in", "--output", tmp_path / "s", *BASE, "--pooling", "avg")
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    return extract(options, lambda line: None).store, tmp_path / "in"


def test_images_inside_shards_are_read_again(of_shards):
    store, _ = of_shards
    report = report_on(store, load_extractor(store, False))
    assert (report.sampled, report.compared, report.findings) == (9, 9, [])


def test_shards_that_changed_or_are_gone_are_told(of_shards, folder):
    store, shards = of_shards
    extractor = load_extractor(store, False)
    images = sorted((folder / "photos").rglob("*.jpeg"))
    with tarfile.open(shards / "a.tar", "w") as archive:
        for path in images[:3]:
            archive.add(path, str(path.relative_to(folder / "photos")))
        # The bytes of another image under the name of the fourth.
        archive.add(images[8], str(images[3].relative_to(folder / "photos")))
    (shards / "b.zip").unlink()
    report = report_on(store, extractor)
    kinds = Counter(finding["kind"] for finding in report.findings)
    assert kinds == {"changed_source": 1, "missing_source": 5} and report.compared == 3
    with open(shards / "a.tar", "r+b") as file:
        file.truncate(600)
    report = report_on(store, extractor)
    kinds = Counter(finding["kind"] for finding in report.findings)
    assert kinds == {"unreadable_source": 5, "missing_source": 4} and report.exit_code == 1


def test_a_damaged_or_missing_base_is_told(copy):
    path = Path(copy.storage.path(f"model/{copy.spec.base.weights_hash}.keras"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptStore, match="stored base"):
        load_extractor(copy, False)
    path.unlink()
    with pytest.raises(CorruptStore, match="stored base"):
        load_extractor(copy, False)


def test_tolerances_and_differences():
    for dtype, same, other in (("float16", 1e-3, 1e-2), ("float32", 1e-5, 1e-2)):
        spec = make_spec((4,), dtype, tolerance=1e-2)
        assert tolerance_of(spec, True) == same and tolerance_of(spec, False) == other
    spec = make_spec((4,), "float16")
    row = np.array([1.0001, 2, 3, 4], np.float32)
    assert relative_difference(row, row.astype(np.float16), spec) == 0
    assert relative_difference(np.zeros(4, np.float32), np.zeros(4, np.float32), spec) == 0
    assert relative_difference(np.full(4, 1e6, np.float32), row, spec) == np.inf
    assert relative_difference(np.full(4, np.nan, np.float32), row, spec) == np.inf


def test_the_command_tells_and_keeps_json_pure(folder, command, tmp_path):
    store = str(folder / "s")
    done = command("classifier.verify", "--store", store, "--rows", "6")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("6 of 6 rows extracted again: the largest difference is")
    done = command("classifier.verify", "--store", store, "--rows", "6", "--seed", "1", "--json")
    record = json.loads(done.out)
    assert done.code == 0 and record["compared"] == 6 and record["seed"] == 1
    assert_one_line_error(command("classifier.verify", "--store", store, "--rows", "0"), 2, "rows")
    assert_one_line_error(command("classifier.verify", "--store", "none"), 2, "no feature store")
    make_store(tmp_path / "empty")
    assert_one_line_error(command("classifier.verify", "--store", "empty"), 2, "has no rows")


def damage_part(store) -> None:
    marker = next(iter(store.markers().values()))
    path = Path(store.storage.path(f"parts/{marker.part}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_part(store) -> None:
    store.storage.remove(f"parts/{next(iter(store.markers().values())).part}")


def lose_marker(store) -> None:
    store.storage.remove(f"markers/{next(iter(store.markers()))}.json")


def swap_markers(store) -> None:
    one, two, *_ = (Path(store.storage.path(f"markers/{name}.json")) for name in store.markers())
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@pytest.mark.parametrize("damage", [damage_part, lose_part, lose_marker, swap_markers])
def test_the_printed_fix_and_another_extraction_mend_the_store(folder, copy, damage):
    """The fix is run as it is printed; then the store holds every row again."""
    before = copy.load(["key", "features"])
    assert list(verify_storage(copy.storage)) == []
    damage(copy)
    findings = [finding for finding in verify_storage(copy.storage) if finding.severity == "error"]
    assert findings
    for finding in findings:
        subprocess.run(finding.fix.split("; then")[0], shell=True, check=True)
    arguments = ("--input", folder / "photos", "--output", copy.url, *BASE, "--pooling", "avg")
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    assert extract(options, lambda line: None).exit_code == 0
    assert list(verify_storage(copy.storage)) == []
    after = copy.load(["key", "features"])
    one, two = np.argsort(before["key"]), np.argsort(after["key"])
    assert list(before["key"][one]) == list(after["key"][two])
    np.testing.assert_allclose(after["features"][two], before["features"][one], rtol=1e-4)


def test_a_store_that_lived_has_no_findings(tmp_path):
    """Grown, changed, broken, mended, retried and pruned: whatever counts today is consistent."""
    photos = tmp_path / "photos"
    paths = write_images(photos, 40)
    arguments = ("--input", photos, "--output", tmp_path / "s", *BASE, "--pooling", "avg")

    def go_on(*flags: str):
        parsed, _ = extract_command.parse_options([*map(str, arguments), *flags])
        store = extract(parsed, lambda line: None).store
        assert list(verify_storage(store.storage)) == []
        return store

    go_on()
    paths[0].write_bytes(paths[1].read_bytes())
    paths[2].write_bytes(b"\xff\xd8\xff broken")
    write_images(photos, 3, "PNG", seed=5)
    go_on()
    paths[2].write_bytes(paths[3].read_bytes())
    paths[4].unlink()
    go_on("--retry")
    store = go_on("--prune")
    assert len(store.load(["key"])["key"]) == 42 and not list(store.quarantined())
    report = report_on(store, load_extractor(store, False))
    assert report.compared == 42 and report.findings == []
