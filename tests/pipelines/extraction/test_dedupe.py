"""Each distinct content is computed once, and every occurrence is a row."""

import shutil

import pytest
from support.extraction import SMALL, assert_same_rows, make_tar, rows_of, run
from support.images import write_images


@pytest.fixture
def photos(tmp_path):
    """Twenty images, eight of them twice and two of those three times."""
    folder = tmp_path / "photos"
    for number, path in enumerate(write_images(folder, 20)):
        if number < 8:
            shutil.copyfile(path, path.with_name(f"copy-{path.name}"))
        if number < 2:
            shutil.copyfile(path, path.with_name(f"third-{path.name}"))
    return folder


def test_copies_in_folders(photos, tmp_path, counted):
    plain = run("--input", photos, "--output", tmp_path / "plain", *SMALL)
    assert sum(counted) == 30
    counted.clear()
    flags = ("--dedupe", "--chunk_size", 4)
    outcome = run("--input", photos, "--output", tmp_path / "s", *SMALL, *flags)
    assert sum(counted) == 20
    assert_same_rows(plain.store, outcome.store)
    ledger = outcome.record["ledger"]
    assert (ledger["images_in"], ledger["rows"], ledger["duplicates"]) == (30, 30, 10)


def test_copies_in_shards_and_of_stored_images(photos, tmp_path, counted):
    images = sorted(photos.rglob("*.jpeg"))
    make_tar(tmp_path / "0.tar", images[:15])
    make_tar(tmp_path / "1.tar", images[15:])
    shards = ("--input", tmp_path / "*.tar", "--output", tmp_path / "s", *SMALL, "--dedupe")
    outcome = run(*shards)
    assert sum(counted) == 20
    assert len(rows_of(outcome.store)) == outcome.record["ledger"]["rows"] == 30
    counted.clear()
    again = run(*shards)
    assert again.record["ledger"]["images_in"] == 0
    more = write_images(tmp_path / "more", 4, seed=7)
    shutil.copyfile(images[3], more[0])
    outcome = run("--input", tmp_path / "more", *shards[2:])
    assert sum(counted) == 3, "a content that an earlier run stored is not computed again"
    assert len(rows_of(outcome.store)) == 34


def test_a_run_that_died_between_firsts_and_copies_is_completed(photos, tmp_path, monkeypatch):
    images = sorted(photos.rglob("*.jpeg"))
    make_tar(tmp_path / "0.tar", images)
    arguments = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL, "--dedupe")
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.beam.transforms.copies_part", lambda *a: (_ for _ in ()).throw(KeyError)
        )
        with pytest.raises(Exception, match="runner stopped"):
            run(*arguments)
    outcome = run(*arguments)
    assert len(rows_of(outcome.store)) == 30
    assert run(*arguments).record["already_committed"] == 1
