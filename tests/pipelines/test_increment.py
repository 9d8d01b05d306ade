"""Grown, changed, renamed, deleted and relabelled inputs: what counts afterwards."""

import os
import shutil

import fsspec
import numpy as np
import pytest
from support.extraction import SMALL, distance, make_tar, rows_of, run
from support.images import png_bytes, write_images

from classifier.inputs.lister import Lister
from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.labels.overlay import Overlay
from featurestore.relabel import relabel


def solid(level: int) -> bytes:
    return png_bytes(np.full((40, 40, 3), level, np.uint8))


@pytest.fixture
def world(tmp_path):
    """Four images stored, and the flags that stored them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(solid(50 * number))
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL)
    run(*arguments)
    return folder, arguments


def ledger_of(outcome):
    ledger = outcome.record["ledger"]
    return ledger["images_in"], ledger["rows"], ledger["quarantined"]


def assert_balanced(outcome):
    whole = outcome.record["store_ledger"]
    assert whole["rows"] == len(rows_of(outcome.store))
    assert whole["quarantined"] == len(list(outcome.store.quarantined()))
    assert whole["images_in"] == whole["rows"] + whole["quarantined"]


def test_a_changed_image_supersedes_its_row(world):
    folder, arguments = world
    before = rows_of(run(*arguments).store)
    (folder / "2.png").write_bytes(solid(222))
    outcome = run(*arguments)
    after = rows_of(outcome.store)
    assert ledger_of(outcome) == (1, 1, 0)
    assert after.keys() == before.keys()
    assert distance(after["2.png"], before["2.png"]) > 1e-3
    np.testing.assert_array_equal(after["1.png"], before["1.png"])
    assert_balanced(outcome)
    assert ledger_of(run(*arguments)) == (0, 0, 0)


def test_an_image_changed_and_restored_is_as_it_was(world):
    folder, arguments = world
    before = rows_of(run(*arguments).store)
    kept = shutil.copy2(folder / "2.png", folder.parent / "kept.png")
    (folder / "2.png").write_bytes(solid(222))
    run(*arguments)
    shutil.copy2(kept, folder / "2.png")
    outcome = run(*arguments)
    np.testing.assert_array_equal(rows_of(outcome.store)["2.png"], before["2.png"])
    assert_balanced(outcome)


def test_an_image_changed_into_a_broken_one_has_no_row_any_more(world):
    folder, arguments = world
    (folder / "2.png").write_bytes(b"broken")
    outcome = run(*arguments, "--max_bad_fraction", 1)
    assert "2.png" not in rows_of(outcome.store)
    assert [row["key"] for row in outcome.store.quarantined()] == ["2.png"]
    assert_balanced(outcome)
    (folder / "2.png").write_bytes(solid(7))
    outcome = run(*arguments)
    assert "2.png" in rows_of(outcome.store) and not list(outcome.store.quarantined())
    assert_balanced(outcome)


def test_touched_and_renamed_images_keep_their_features_uncomputed(world, monkeypatch):
    folder, arguments = world
    before = rows_of(run(*arguments).store)
    os.utime(folder / "1.png")
    (folder / "3.png").rename(folder / "third.png")

    monkeypatch.setattr("pipelines.extraction.chunk.run_padded", never)
    outcome = run(*arguments)
    after = rows_of(outcome.store)
    assert ledger_of(outcome) == (2, 2, 0)
    np.testing.assert_array_equal(after["1.png"], before["1.png"])
    np.testing.assert_array_equal(after["third.png"], before["3.png"])
    np.testing.assert_array_equal(after["3.png"], before["3.png"])
    assert_balanced(outcome)


def test_deleted_images_stay_until_pruned(world):
    folder, arguments = world
    (folder / "0.png").unlink()
    assert "0.png" in rows_of(run(*arguments).store)
    outcome = run(*arguments, "--prune")
    assert sorted(rows_of(outcome.store)) == ["1.png", "2.png", "3.png"]
    assert outcome.record["superseded"]["rows"] == 1
    assert_balanced(outcome)
    (folder / "0.png").write_bytes(solid(0))
    outcome = run(*arguments)
    assert sorted(rows_of(outcome.store)) == ["0.png", "1.png", "2.png", "3.png"]
    assert_balanced(outcome)
    with pytest.raises(UsageError, match="--prune needs the whole input"):
        run(*arguments, "--prune", "--limit", 1)


def test_retry_tries_quarantined_images_again(world, monkeypatch):
    folder, arguments = world
    (folder / "bad.png").write_bytes(b"broken")
    run(*arguments, "--max_bad_fraction", 1)
    assert ledger_of(run(*arguments, "--max_bad_fraction", 1)) == (0, 0, 0)
    outcome = run(*arguments, "--retry", "--max_bad_fraction", 1)
    assert ledger_of(outcome) == (1, 0, 1)
    assert_balanced(outcome)
    # What was bad may be read by a later release: pretend that it is an image now.
    from classifier.pixels import decoder as pixels

    decode = pixels.decode
    monkeypatch.setattr(
        "pipelines.extraction.group.decode", lambda data, spec: decode(solid(9), spec, 10**6)
    )
    outcome = run(*arguments, "--retry")
    assert ledger_of(outcome) == (1, 1, 0)
    assert not list(outcome.store.quarantined()) and "bad.png" in rows_of(outcome.store)
    assert_balanced(outcome)


def never(*arguments):
    raise AssertionError("a stored content was computed again")


def test_a_folder_that_moved_and_a_second_input_are_not_new(world, tmp_path, monkeypatch):
    folder, arguments = world
    moved = tmp_path / "moved"
    folder.rename(moved)
    arguments = ("--input", moved, *arguments[2:])
    monkeypatch.setattr("pipelines.extraction.chunk.run_padded", never)
    outcome = run(*arguments)
    assert ledger_of(outcome) == (4, 4, 0), "read again, for the new address, but not computed"
    assert set(outcome.store.load(["uri"])["uri"]) == {f"file://{p}" for p in moved.iterdir()}
    assert_balanced(outcome)
    assert ledger_of(run(*arguments)) == (0, 0, 0)
    monkeypatch.undo()
    write_images(tmp_path / "more", 2)
    outcome = run("--input", moved, tmp_path / "more", *arguments[2:])
    assert ledger_of(outcome) == (2, 2, 0) and outcome.record["already_committed"] == 4
    assert_balanced(outcome)


def test_other_images_under_stored_keys_are_refused(world, tmp_path):
    """Same names, sizes and times, as archives and image layers make them; other content."""
    folder, arguments = world
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes()[::-1])
        os.utime(other / path.name, ns=(path.stat().st_mtime_ns,) * 2)
    with pytest.raises(UsageError, match="has the key .* still there; give both folders"):
        run("--input", other, *arguments[2:])
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert ledger_of(run("--input", link, *arguments[2:]))[2] == 0


@pytest.mark.parametrize("gone", [("0.png",), ("3.png",), ("0.png", "1.png", "2.png")])
def test_one_original_in_place_is_enough_to_refuse(world, tmp_path, gone):
    """Judged is every clash, not the first: of a folder some images may be deleted."""
    folder, arguments = world
    other = tmp_path / "other"
    other.mkdir()
    for number, path in enumerate(folder.iterdir()):
        (other / path.name).write_bytes(solid(20 + 50 * number))
    for name in gone:
        (folder / name).unlink()
    before = rows_of(run("--input", folder, *arguments[2:]).store)
    with pytest.raises(UsageError, match="still there; give both folders"):
        run("--input", other, *arguments[2:])
    after = rows_of(run("--input", folder, *arguments[2:]).store)
    assert {key: list(row) for key, row in after.items()} == {
        key: list(row) for key, row in before.items()
    }


def test_images_that_moved_bit_by_bit_are_welcome(world, tmp_path, monkeypatch):
    folder, arguments = world
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("1.png", "3.png"):
        (folder / name).rename(moved / name)
    monkeypatch.setattr("pipelines.extraction.chunk.run_padded", never)
    assert ledger_of(run("--input", moved, *arguments[2:])) == (2, 2, 0)


def test_an_original_that_cannot_be_asked_for_is_not_taken_for_moved(world, tmp_path, monkeypatch):
    folder, arguments = world
    moved = tmp_path / "moved"
    folder.rename(moved)

    class Failing(Lister):
        def kind(self, path):
            raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pipelines.planning.keyclashes.Lister", Failing)
    with pytest.raises(UsageError, match="nothing says whether that has moved: .*denied"):
        run("--input", moved, *arguments[2:])


def test_one_image_by_two_patterns_is_listed_twice(tmp_path):
    write_images(tmp_path / "photos", 4)
    pattern = tmp_path / "photos" / "*"
    outcome = run("--input", pattern, pattern, "--output", tmp_path / "s", *SMALL)
    assert ledger_of(outcome) == (4, 4, 0)
    assert (outcome.record["listed_twice"], outcome.record["already_committed"]) == (4, 0)


def test_a_folder_inside_another_input_adds_no_rows(tmp_path):
    write_images(tmp_path / "photos" / "cat", 3)
    outcome = run(
        "--input", tmp_path / "photos", tmp_path / "photos" / "cat", "--output", tmp_path / "s",
        *SMALL,
    )  # fmt: skip
    assert ledger_of(outcome) == (3, 3, 0) and outcome.record["listed_twice"] == 3


def test_two_images_of_one_key_are_refused_and_never_taken_for_one(tmp_path):
    """Two lists in one folder share their keys."""
    write_images(tmp_path / "a", 1)
    key = next((tmp_path / "a").iterdir()).name
    fsspec.filesystem("memory").pipe_file(f"/a/{key}", solid(50))
    (tmp_path / "a.csv").write_text(f"path\na/{key}\n")
    (tmp_path / "b.csv").write_text(f"path\nmemory://a/{key}\n")
    with pytest.raises(UsageError, match="has the key .* of another image of this command"):
        run("--input", tmp_path / "a.csv", tmp_path / "b.csv", "--output", tmp_path / "s", *SMALL)


def test_what_could_not_be_read_is_tried_again(world, monkeypatch):
    folder, arguments = world
    (folder / "4.png").write_bytes(solid(99))

    def refused(refs, options):
        return [PermissionError("no") for _ in refs]

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.extraction.source.read_many", refused)
        outcome = run(*arguments, "--max_bad_fraction", 1)
        assert [row["kind"] for row in outcome.store.quarantined()] == ["unreadable"]
    outcome = run(*arguments)
    assert ledger_of(outcome) == (1, 1, 0) and not list(outcome.store.quarantined())
    assert_balanced(outcome)


def test_a_changed_shard_supersedes_its_images(tmp_path):
    images = write_images(tmp_path / "photos", 12)
    make_tar(tmp_path / "0.tar", images[:8])
    arguments = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL)
    run(*arguments)
    make_tar(tmp_path / "0.tar", images[4:])
    outcome = run(*arguments)
    assert ledger_of(outcome) == (8, 8, 0)
    assert len(rows_of(outcome.store)) == 12, "members that are gone stay until pruned"
    assert outcome.record["superseded"]["rows"] == 4
    assert_balanced(outcome)
    assert ledger_of(run(*arguments)) == (0, 0, 0)


def test_a_shard_cut_in_the_middle_gives_what_can_be_read(tmp_path):
    images = write_images(tmp_path / "photos", 20)
    make_tar(tmp_path / "0.tar", images)
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 2])
    arguments = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL)
    outcome = run(*arguments)
    assert outcome.exit_code == 3
    assert "1 damaged shard, first '0.tar'" in outcome.problems[0]
    assert "from byte" in outcome.problems[0]
    read = len(rows_of(outcome.store))
    assert 5 < read < 20
    assert run(*arguments).exit_code == 3, "it stays damaged until it is mended"
    (tmp_path / "0.tar").write_bytes(whole)
    outcome = run(*arguments)
    assert outcome.exit_code == 0 and len(rows_of(outcome.store)) == 20
    assert_balanced(outcome)


def test_retry_of_a_shard_takes_only_its_quarantined_images(tmp_path):
    images = write_images(tmp_path / "photos", 6)
    images[3].write_bytes(b"broken")
    make_tar(tmp_path / "0.tar", images)
    arguments = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL)
    arguments += ("--max_bad_fraction", 1)
    assert ledger_of(run(*arguments)) == (6, 5, 1)
    outcome = run(*arguments, "--retry")
    assert ledger_of(outcome) == (1, 0, 1)
    assert_balanced(outcome)


class Table:
    """Labels by key, in memory."""

    def __init__(self, labels):
        self._labels, self._used = labels, set()

    def match(self, key):
        self._used.add(key)
        return self._labels.get(key)

    def without_image(self):
        unused = Ignored()
        for key in sorted(self._labels.keys() - self._used):
            unused.add(key)
        return unused


def test_labels_that_come_later_are_read_and_filtered_by(world):
    _, arguments = world
    store = run(*arguments).store
    done = relabel(store, Table({"0.png": ("cat",), "1.png": ("dog", "big"), "9.png": ("x",)}))
    assert (done.labelled, done.without_label, done.without_image) == (2, 2, 1)
    assert done.without_image_keys == ["9.png"] and done.without_label_keys == ["2.png", "3.png"]
    loaded = store.load(["key", "labels"])
    found = dict(zip(loaded["key"], map(list, loaded["labels"]), strict=True))
    assert found == {"0.png": ["cat"], "1.png": ["dog", "big"], "2.png": [], "3.png": []}
    assert list(store.load(["key"], labels=["big"])["key"]) == ["1.png"]
    relabel(store, Table({"0.png": ("lynx",)}))
    assert list(store.load(["key"], labels=["lynx"])["key"]) == ["0.png"]
    assert list(store.load(["key"], labels=["dog"])["key"]) == ["1.png"]
    assert relabel(store, Table({})).version == ""
    overlay = Overlay.read(store.storage, store.label_versions())
    assert [len(columns["digest"]) for columns in overlay.keys] == [2, 1]


def test_two_jobs_with_different_chunks_leave_each_key_once(world, tmp_path):
    """Both planned before either committed: what races is settled when a run ends."""
    folder, arguments = world
    other = ("--input", folder, "--output", tmp_path / "s2", *SMALL)
    run(*other, "--chunk_size", 2)
    # The second job's commits arrive in the first job's store.
    for kind in ("parts", "markers"):
        for name in os.listdir(tmp_path / "s2" / kind):
            target = tmp_path / "s" / kind / name
            if not target.exists():
                shutil.copy(tmp_path / "s2" / kind / name, target)
    outcome = run(*arguments)
    assert sorted(rows_of(outcome.store)) == ["0.png", "1.png", "2.png", "3.png"]
    assert_balanced(outcome)
