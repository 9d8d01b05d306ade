"""The cache of decoded parts: equal to the parts, bounded, and nothing depends on it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT, assert_one_line_error
from support.stores import add_chunk, make_rows, make_spec, make_store

from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.commit import commit
from featurestore.errors import CorruptStore, UsageError
from featurestore.io.drafts import draft_name
from featurestore.labels.overlay import write_overlay
from featurestore.reading.cache import DecodedCache, cache_usage, parse_limit
from featurestore.schema import ROW_COLUMNS


def features_of(count: int, start: int = 0) -> np.ndarray:
    return np.random.default_rng(start).normal(size=(count, 8)).astype(np.float32)


def filled(path, parts: int = 3, rows: int = 10):
    """Returns a store of some parts."""
    store = make_store(path)
    for start in range(0, parts * rows, rows):
        add_chunk(store, make_rows(rows, start), features_of(rows, start))
    return store


def assert_same(one, other, **filters) -> None:
    """Every column of both reads the same."""
    first, second = one.load(ROW_COLUMNS, **filters), other.load(ROW_COLUMNS, **filters)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        np.testing.assert_array_equal(values, second[name], name)


def files_of(store) -> list[str]:
    return sorted(file.name.split("/")[-1] for file in store.storage.list("cache"))


def cached_names(store) -> list[str]:
    return sorted(marker.part.replace(".parquet", ".arrow") for marker in store.markers().values())


@pytest.mark.parametrize(
    "filters",
    [{}, {"splits": ["train", None]}, {"labels": ["1"]}, {"views": [0]}, {"splits": ["none"]}],
)
@pytest.mark.parametrize("rows", [1, 256, 257, 1025])
def test_a_cached_store_reads_as_its_parts(tmp_path, rows, filters):
    store = filled(tmp_path / "s", 2, rows)
    assert_same(store, store.with_cache(), **filters)
    assert files_of(store) == cached_names(store)
    again = store.with_cache()
    assert_same(store, again, **filters)
    assert again.cache.made_bytes == 0


def test_growth_adds_files(tmp_path):
    store = filled(tmp_path / "s", 2)
    store.with_cache().load()
    before = {name: os.stat(store.storage.path("cache")).st_ino for name in files_of(store)}
    add_chunk(store, make_rows(5, 20), features_of(5))
    grown = store.with_cache()
    assert_same(store, grown)
    assert set(before) < set(files_of(store)) and files_of(store) == cached_names(store)
    _, size = cache_usage(store.storage)
    assert 0 < grown.cache.made_bytes < size


def test_what_newer_commits_supersede_is_left_out(tmp_path):
    store = filled(tmp_path / "s", 2)
    store.with_cache().load()
    marker = next(iter(store.markers().values()))
    keys = tuple(row["key"] for row in make_rows(3, 8))
    newer = dataclasses.replace(
        marker, chunk_id="f" * 32, run_id="run2", part="", part_sha256="", supersedes=keys
    )
    commit(store.storage, newer)
    assert_same(store, store.with_cache())
    assert len(store.with_cache().load(["key"])["key"]) == 17


def test_later_labels_count(tmp_path):
    store = filled(tmp_path / "s", 1)
    store.with_cache().load()
    write_overlay(store.storage, iter([("00003.png", ["new"], "test")]))
    assert_same(store, store.with_cache())
    assert list(store.with_cache().load(["key"], labels=["new"])["key"]) == ["00003.png"]


def test_it_may_be_deleted_while_it_is_read(tmp_path):
    store = filled(tmp_path / "s", 8, 300)
    store.with_cache().load()
    expected, cached = store.load(["features"])["features"], store.with_cache()
    batches = []
    for batch in cached.scan(["features"]):
        batches.append(batch["features"])
        shutil.rmtree(tmp_path / "s" / "cache", ignore_errors=True)
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    assert_same(store, cached)


@pytest.mark.parametrize("damage", ["empty", "half", "other part", "other bytes"])
def test_damaged_files_are_made_anew(tmp_path, damage):
    store = filled(tmp_path / "s", 2)
    store.with_cache().load()
    folder = tmp_path / "s" / "cache" / store.spec.identity_hash
    path, other = sorted(folder.iterdir())
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": content[: len(content) // 2],
            "other part": other.read_bytes(),
            "other bytes": b"\0" * len(content),
        }[damage]
    )
    assert_same(store, store.with_cache())
    assert path.read_bytes() == content


def test_a_damaged_part_is_not_cached(tmp_path):
    store = make_store(tmp_path / "s")
    marker = add_chunk(store, make_rows(300), features_of(300))
    part = tmp_path / "s" / "parts" / marker.part
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(CorruptStore, match="bytes have changed; python -m featurestore verify"):
        store.with_cache().load()
    assert files_of(store) == []


def test_the_bound_holds_and_the_longest_unused_goes_first(tmp_path):
    store = filled(tmp_path / "s", 4)
    store.with_cache().load()
    files = sorted((tmp_path / "s" / "cache").rglob("*.arrow"))
    size = max(file.stat().st_size for file in files)
    for age, file in zip((3, 1, 4, 2), files, strict=True):
        os.utime(file, (1e9 - age, 1e9 - age))
    DecodedCache(store.storage, store.spec, 2 * size)
    assert [file.exists() for file in files] == [False, True, False, True]
    # What is used in this pass is never thrown out for what comes later in it.
    bounded = store.with_cache(2 * size)
    for _ in range(2):
        assert_same(store, bounded)
        assert cache_usage(store.storage)[1] <= 2 * size
    assert len(files_of(store)) == 2
    made = bounded.cache.made_bytes
    assert_same(store, bounded)
    assert bounded.cache.made_bytes == made


def test_a_bound_below_one_part_caches_nothing(tmp_path):
    store = filled(tmp_path / "s", 2)
    assert_same(store, store.with_cache(1))
    assert files_of(store) == []


def test_no_cache_for_maps_remote_stores_and_zero(tmp_path):
    maps = make_store(tmp_path / "maps", make_spec((2, 2, 3), "float16"))
    add_chunk(maps, make_rows(4), np.zeros((4, 2, 2, 3), np.float32))
    remote = make_store(f"memory://{tmp_path.name}")
    add_chunk(remote, make_rows(4), features_of(4))
    for store, limit in ((maps, None), (remote, None), (filled(tmp_path / "s"), 0)):
        cached = store.with_cache(limit)
        assert cached.cache is None
        assert len(cached.load()["key"]) >= 4
        assert cache_usage(store.storage) == (0, 0)


def test_a_file_in_its_place_does_no_harm(tmp_path):
    store = filled(tmp_path / "s")
    (tmp_path / "s" / "cache").write_text("not a folder")
    assert_same(store, store.with_cache())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX users")
def test_a_store_one_may_only_read(tmp_path):
    store = filled(tmp_path / "s")
    # pytest's own folders are closed to other users.
    copy = shutil.copytree(tmp_path / "s", Path(tempfile.mkdtemp()) / "s")
    os.chmod(copy.parent, 0o755)
    script = (
        "import os, sys\n"
        "from featurestore import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "store.load()\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "print(len(store.with_cache().load()['key']))\n"
    )
    try:
        os.chmod(copy, 0o555)
        done = subprocess.run(
            [sys.executable, "-c", script, str(copy)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout.strip() == "30", done.stderr
        assert not (copy / "cache").exists()
    finally:
        os.chmod(copy, 0o755)
        shutil.rmtree(copy.parent)
    assert len(store.load()["key"]) == 30


def test_a_crash_leaves_drafts_that_are_swept(tmp_path):
    store = filled(tmp_path / "s")
    folder = tmp_path / "s" / "cache" / store.spec.identity_hash
    folder.mkdir(parents=True)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from featurestore.io.drafts import draft_name; print(draft_name())",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    dead, alive = folder / done.stdout.strip(), folder / draft_name()
    dead.write_bytes(b"half a")
    alive.write_bytes(b"half a")
    assert_same(store, store.with_cache())
    assert not dead.exists() and alive.exists()


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    store = filled(tmp_path / "s")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("featurestore.io.storage.os.fsync", full)
    assert_same(store, store.with_cache())
    assert files_of(store) == []


def test_writers_at_once_agree(tmp_path):
    store = filled(tmp_path / "s", 6, 50)
    expected = store.load()["features"]
    barrier, found = threading.Barrier(4), []

    def read() -> None:
        cached = store.with_cache()
        barrier.wait()
        found.append(cached.load()["features"])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for features in found:
        np.testing.assert_array_equal(features, expected)
    assert files_of(store) == cached_names(store)


def test_verify_and_info_know_it(tmp_path, command):
    store = filled(tmp_path / "s")
    store.with_cache().load()
    assert not [
        finding for finding in verify_storage(store.storage) if finding.path.startswith("cache")
    ]
    assert not [finding for finding in verify_storage(store.storage) if finding.kind == "orphan"]
    facts = json.loads(command("featurestore", "info", "s", "--json").out)
    assert facts["cache"] == {"files": 3, "bytes": cache_usage(store.storage)[1]}
    assert "cache      3 decoded parts" in command("featurestore", "info", "s").out


@pytest.mark.parametrize(
    "text, limit",
    [
        ("auto", None),
        ("off", 0),
        ("0", 0),
        ("500MB", 500 << 20),
        ("2g", 2 << 30),
        ("1 TiB", 1 << 40),
    ],
)
def test_bounds_are_read(text, limit):
    assert parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "on", "-1", "5 apples", "GB", 400 * "9"])
def test_other_bounds_are_refused(text):
    with pytest.raises(UsageError, match="--cache: expected auto, off or a size such as 500MB"):
        parse_limit(text)


def test_training_refuses_a_wrong_bound_in_one_line(tmp_path, command):
    filled(tmp_path / "s")
    for arguments, environment in ((["--cache", "on"], {}), ([], {"HOARFROST_CACHE": "on"})):
        done = command(
            "classifier.train", "--store", "s", "--output", "run", *arguments, **environment
        )
        assert_one_line_error(done, 2, "--cache", "'on'")


def test_training_makes_and_uses_it(tmp_path, command):
    filled(tmp_path / "s", 2, 40)
    store = open_store(str(tmp_path / "s"))
    from classifier.features.dataset import load_rows
    from classifier.features.division import divide

    division = divide(store)
    expected = load_rows(store, division.classes, division.train, 40)
    cached = store.with_cache()
    assert dataclasses.asdict(divide(cached).train) == dataclasses.asdict(division.train)
    got = load_rows(cached, division.classes, division.train, 40)
    np.testing.assert_array_equal(got.features, expected.features)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert files_of(store) == cached_names(store)
