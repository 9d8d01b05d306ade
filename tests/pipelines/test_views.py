"""Augmented views in the store: the right rows, whatever the way to them, counted as images."""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import assert_one_line_error
from support.extraction import SMALL, distance, make_tar, run
from support.images import encode, png_bytes, write_images
from support.kills import FLAGS as KILLED_FLAGS
from support.kills import start_and_kill
from support.verifying import report_on

from classifier.pixels.decoder import decode
from classifier.pixels.views import BOOK, Views
from classifier.verify import load_extractor
from featurestore.checking.verify import verify_storage
from featurestore.errors import SpecMismatch, UsageError
from featurestore.info import describe, format_info
from pipelines.extract import parse_options, summary_lines
from pipelines.options import ViewOptions

VIEWS = ("--views", 3, "--augment", "flip,rotation=0.1,zoom=0.2", "--seed", 5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty training images, six to validate and six to test with, in folders of their splits."""
    folder = tmp_path_factory.mktemp("views") / "photos"
    for seed, (split, count) in enumerate((("train", 20), ("val", 6), ("test", 6))):
        write_images(folder / split, count, seed=seed)
    return folder


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """An undisturbed run."""
    return run("--input", photos, "--output", tmp_path_factory.mktemp("v") / "s", *SMALL, *VIEWS)


@pytest.fixture
def world(photos, tmp_path):
    """Ten training images and six test images of one's own, stored, and the flags."""
    folder = tmp_path / "photos"
    shutil.copytree(photos / "test", folder / "test")
    for path in sorted((photos / "train").rglob("*.jpeg"))[:10]:
        (folder / "train" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / "train" / path.parent.name)
    arguments = ("--input", folder, "--output", tmp_path / "s", *SMALL, *VIEWS)
    run(*arguments)
    return folder, arguments


def rows_of(store) -> dict[tuple[str, int], np.ndarray]:
    loaded = store.load(["key", "view", "features"])
    names = list(zip(loaded["key"], loaded["view"].tolist(), strict=True))
    assert len(set(names)) == len(names), "a view twice"
    return dict(zip(names, loaded["features"], strict=True))


def assert_same(one, other):
    one, other = rows_of(one), rows_of(other)
    assert one.keys() == other.keys()
    for name, features in one.items():
        assert distance(other[name], features) < 1e-4, name


def assert_sound(outcome, images, rows):
    """The store's ledger counts images, whatever happened before."""
    whole = outcome.record["store_ledger"]
    stored = rows_of(outcome.store)
    assert whole["rows"] == images == sum(view == 0 for _, view in stored)
    assert len(stored) == rows
    assert list(verify_storage(outcome.store.storage)) == []


def test_training_images_have_all_views_and_others_one(reference, photos):
    assert reference.exit_code == 0
    views = Counter(key for key, _ in rows_of(reference.store))
    assert len(views) == 32
    for key, count in views.items():
        assert count == (3 if key.startswith("train/") else 1), key
    assert_sound(reference, images=32, rows=20 * 3 + 12)
    assert reference.record["ledger"]["images_in"] == reference.record["ledger"]["rows"] == 32
    assert reference.record["augmented"] == 40
    assert "32 rows and 40 augmented of (1280) float32" in summary_lines(reference)[0]
    assert reference.record["ledger"]["duplicates"] == 0
    assert sum(marker.time["images"] for marker in reference.store.markers().values()) == 32


def test_a_part_holds_image_by_image_and_view_by_view(reference):
    for marker in reference.store.markers().values():
        part = pq.read_table(reference.store.storage.path(f"parts/{marker.part}"))
        keys, views = part["key"].to_pylist(), part["view"].to_pylist()
        expected = [view for key in dict.fromkeys(keys) for view in range(keys.count(key))]
        assert views == expected and keys == sorted(keys)


def test_a_views_features_are_those_of_its_uint8_image(reference, photos):
    store = reference.store
    extract, _ = load_extractor(store, False)
    loaded = store.load(["key", "content_hash", "view", "features"])
    views, images = Views.of(store.spec), []
    for key, content_hash, view in zip(*list(loaded.values())[:3], strict=True):
        pixels = decode((photos / key).read_bytes(), store.spec.pixels).pixels
        images.append(views.make(pixels, content_hash, int(view)))
    for got, expected in zip(loaded["features"], extract(np.stack(images)), strict=True):
        assert distance(got, expected) < 1e-5


def test_batches_chunks_and_processes_do_not_show(reference, photos, tmp_path):
    flags = ("--batch_size", 5, "--chunk_size", 7)
    other = run("--input", photos, "--output", tmp_path / "s", *SMALL, *VIEWS, *flags)
    assert_same(reference.store, other.store)
    flags = ("--direct_num_workers", 2, "--direct_running_mode", "multi_processing")
    other = run("--input", photos, "--output", tmp_path / "p", *SMALL, *VIEWS, *flags)
    assert_same(reference.store, other.store)


def test_killed_runs_keep_an_images_views_together(tmp_path):
    write_images(tmp_path / "photos", 300)
    arguments = ("--input", tmp_path / "photos", *VIEWS, "--output")
    undisturbed = run(*arguments, tmp_path / "undisturbed", *KILLED_FLAGS)
    store = tmp_path / "store"
    for number in range(2):
        start_and_kill((*arguments, store), store, 1 + number, 0.05, whole_group=number == 0)
    outcome = run(*arguments, store, *KILLED_FLAGS)
    assert_same(undisturbed.store, outcome.store)
    ledger = outcome.store.ledger()
    assert (ledger.images_in, ledger.rows) == (300, 300)


def test_an_image_is_decoded_once_and_the_base_gets_whole_batches(
    photos, tmp_path, monkeypatch, counted
):
    from pipelines.extraction import group

    decoded = []
    decode = group.decode
    monkeypatch.setattr(
        "pipelines.extraction.group.decode",
        lambda data, spec: decoded.append(1) or decode(data, spec),
    )
    run("--input", photos / "train", "--output", tmp_path / "s", *SMALL, *VIEWS)
    assert len(decoded) == 20
    # Groups of 16 and 4 images: 48 and 12 rows, in batches of 16.
    assert sorted(counted) == [12, 16, 16, 16]


def test_without_splits_every_image_has_all_views(photos, tmp_path):
    outcome = run("--input", photos / "test", "--output", tmp_path / "s", *SMALL, "--views", 2)
    assert outcome.store.spec.augment == BOOK
    assert_sound(outcome, images=6, rows=12)
    shares = ("--split_fractions", "train=.5,test=.5")
    outcome = run("--input", photos / "train", "--output", tmp_path / "f", *SMALL, *VIEWS, *shares)
    counts = outcome.store.split_counts()
    assert counts["train"] + counts["test"] == 20 and 0 < counts["train"] < 20
    assert_sound(outcome, images=20, rows=3 * counts["train"] + counts["test"])


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ((), r"views: 3 -> 1; augment: flip,rotation=0.1,zoom=0.2 -> none; seed: 5 -> 0"),
        (("--views", 4, "--seed", 5), r"\(stored -> asked for\): views: 3 -> 4\. "),
        ((*VIEWS[:3], "flip", *VIEWS[4:]), r"augment: flip,rotation=0.1,zoom=0.2 -> flip\. "),
        ((*VIEWS[:4], "--seed", 6), r"\(stored -> asked for\): seed: 5 -> 6\. "),
    ],
)
def test_other_views_are_refused_field_by_field(reference, photos, flags, difference):
    # Given weights make the same base whatever the seed is.
    model = reference.store.storage.path(f"model/{reference.store.spec.base.weights_hash}.keras")
    flags = ("--model", model, "--preprocess", "tf", "--pooling", "avg", *flags)
    with pytest.raises(SpecMismatch, match=difference):
        run("--input", photos, "--output", reference.store.storage.url, *flags)


def test_a_plain_store_refuses_views_and_keeps_any_seed(photos, tmp_path):
    flags = ("--input", photos / "test", "--output", tmp_path / "s", *SMALL)
    run(*flags)
    with pytest.raises(SpecMismatch, match="views: 1 -> 2; augment: none -> flip"):
        run(*flags, "--views", 2, "--augment", "flip")


def test_changed_renamed_and_deleted_images_keep_their_views_together(world, counted):
    folder, arguments = world
    train = sorted((folder / "train").rglob("*.jpeg"))
    before = rows_of(run(*arguments).store)
    assert not counted
    changed, renamed, deleted = train[0], train[1], train[2]
    changed.write_bytes(encode(np.full((40, 40, 3), 90, np.uint8), "JPEG"))
    renamed.rename(renamed.with_name("renamed.jpeg"))
    deleted.unlink()
    outcome = run(*arguments, "--prune")
    assert sum(counted) == 3, "only the changed image's views are computed"
    assert_sound(outcome, images=15, rows=9 * 3 + 6)
    # The row that changed, and two keys that are gone.
    assert outcome.record["superseded"]["rows"] == 3
    after, names = rows_of(outcome.store), [str(p.relative_to(folder)) for p in train[:3]]
    for view in range(3):
        assert (names[2], view) not in after and (names[1], view) not in after
        assert distance(after[names[0], view], before[names[0], view]) > 1e-3
        moved = names[1].replace(renamed.name, "renamed.jpeg")
        np.testing.assert_array_equal(after[moved, view], before[names[1], view])


def test_an_image_that_moves_into_training_gets_the_views_it_lacks(world, counted):
    folder, arguments = world
    before = rows_of(run(*arguments).store)
    path = sorted((folder / "test").rglob("*.jpeg"))[0]
    shutil.move(path, folder / "train" / path.parent.name / "moved.jpeg")
    outcome = run(*arguments, "--prune")
    assert sum(counted) == 2, "view 0 is known"
    assert_sound(outcome, images=16, rows=11 * 3 + 5)
    after, key = rows_of(outcome.store), str(path.relative_to(folder))
    moved = f"train/{path.parent.name}/moved.jpeg"
    np.testing.assert_array_equal(after[moved, 0], before[key, 0])


def test_copies_are_computed_once_with_their_views(photos, tmp_path, counted):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "train", folder)
    for number, path in enumerate(sorted(folder.rglob("*.jpeg"))[:4]):
        shutil.copyfile(path, path.with_name(f"copy-{number}.jpeg"))
    arguments = ("--input", folder, "--output")
    plain = run(*arguments, tmp_path / "plain", *SMALL, *VIEWS)
    counted.clear()
    flags = ("--dedupe", "--chunk_size", 5)
    outcome = run(*arguments, tmp_path / "s", *SMALL, *VIEWS, *flags)
    assert sum(counted) == 20 * 3
    assert_same(plain.store, outcome.store)
    assert outcome.record["ledger"]["duplicates"] == 4
    assert outcome.record["augmented"] == 48
    assert_sound(outcome, images=24, rows=72)


def test_a_quarantined_image_is_retried_with_its_views(world, monkeypatch):
    folder, arguments = world
    (folder / "train" / "cat" / "bad.jpeg").write_bytes(b"broken")
    outcome = run(*arguments)
    assert outcome.record["ledger"]["quarantined"] == 1
    data = png_bytes(np.full((40, 40, 3), 9, np.uint8))
    monkeypatch.setattr("pipelines.extraction.group.decode", lambda _, spec: decode(data, spec))
    outcome = run(*arguments, "--retry")
    ledger = outcome.record["ledger"]
    assert (ledger["images_in"], ledger["rows"], outcome.record["augmented"]) == (1, 1, 2)
    assert_sound(outcome, images=17, rows=11 * 3 + 6)


def test_one_view_that_is_not_finite_quarantines_its_image(photos, tmp_path, monkeypatch):
    from classifier.engines import run_padded

    calls = []

    def poisoned(engine, images):
        features = run_padded(engine, images)
        if not calls:
            features[4] = np.nan  # view 1 of the second image
        calls.append(1)
        return features

    monkeypatch.setattr("pipelines.extraction.chunk.run_padded", poisoned)
    monkeypatch.setattr("pipelines.extraction.worker.lane_count", lambda processes: 1)
    flags = ("--input", photos / "train", "--output", tmp_path / "s", *SMALL, *VIEWS)
    outcome = run(*flags, "--chunk_size", 20)
    (bad,) = outcome.store.quarantined()
    assert bad["kind"] == "non_finite"
    assert bad["key"] not in {key for key, _ in rows_of(outcome.store)}
    ledger = outcome.record["ledger"]
    assert (ledger["images_in"], ledger["rows"], ledger["quarantined"]) == (20, 19, 1)
    assert_sound(outcome, images=19, rows=57)


def test_views_of_shards_and_their_verification(photos, tmp_path):
    images = sorted((photos / "train").rglob("*.jpeg"))
    make_tar(tmp_path / "0.tar", images)
    flags = ("--input", tmp_path / "0.tar", "--output", tmp_path / "s", *SMALL, *VIEWS)
    outcome = run(*flags)
    assert_sound(outcome, images=20, rows=60)
    report = report_on(outcome.store, load_extractor(outcome.store, False))
    assert report.sampled == report.compared == 60 and report.findings == []
    make_tar(tmp_path / "0.tar", images[5:])
    outcome = run(*flags)
    assert outcome.record["superseded"]["rows"] == 15, "members that are gone stay until pruned"
    assert_sound(outcome, images=20, rows=60)


def test_views_are_made_again_and_compared(reference, photos):
    store = reference.store
    extractor = load_extractor(store, False)
    report = report_on(store, extractor)
    assert report.sampled == report.compared == 72
    assert report.largest_difference <= 1e-5 and report.findings == []


def test_a_wrong_view_is_named(world, tmp_path):
    folder, arguments = world
    store = run(*arguments).store
    extract, numerics = load_extractor(store, False)
    black = extract(np.zeros((1, 32, 32, 3), np.uint8))[0]

    def other_views(images):
        # As if another Hoarfrost made the views otherwise: the first image of each batch is black.
        features = extract(images)
        features[0] = black
        return features

    report = report_on(store, (other_views, numerics), rows=200)
    assert {finding["kind"] for finding in report.findings} == {"difference"}
    assert len(report.findings) == 2, "36 rows are two batches"


def test_info_says_what_the_views_are(reference):
    facts = describe(reference.store)
    assert facts["views"] == {"count": 3, "augment": "flip,rotation=0.1,zoom=0.2", "seed": 5}
    assert (facts["rows"], facts["augmented"], sum(facts["splits"].values())) == (32, 40, 32)
    text = format_info(facts)
    assert "views      3 of a training image: flip,rotation=0.1,zoom=0.2, seed 5" in text
    assert "rows       32 and 40 augmented in " in text


def test_a_plan_forecasts_images_with_their_views(photos, tmp_path):
    from pipelines.estimating.estimate import estimate, plan_lines

    records = []
    for flags in ((), ("--views", 4)):
        wanted = ("--input", photos / "train", "--output", tmp_path / "s", *SMALL, *flags)
        options, _ = parse_options([str(flag) for flag in (*wanted, "--plan")])
        records.append(estimate(options, lambda line: None))
    one, four = records
    assert four["views"] == 4 and four["images"] == one["images"] == 20
    assert 3 < four["image_bytes"] / one["image_bytes"] < 5
    assert f"views: 4 per training image: {BOOK}" in plan_lines(four)
    assert not any(line.startswith("views") for line in plan_lines(one))


@pytest.mark.parametrize(
    ("views", "augment", "message"),
    [
        (0, "", "--views must be 1 .the unaugmented image. to 128, got 0"),
        (129, "", "--views must be 1 .the unaugmented image. to 128, got 129"),
        (1, "flip", "--augment flip makes further views, and --views 1 is the image as it is"),
        (2, "flop", "--augment: unknown value 'flop'; did you mean flip"),
    ],
)
def test_options_are_checked(views, augment, message):
    with pytest.raises(UsageError, match=message):
        ViewOptions(views, augment)


def test_options_have_one_spelling():
    assert ViewOptions(128, "rotation=.10, flip").augment == "rotation=0.1,flip"
    assert ViewOptions(2).augment == BOOK and ViewOptions().augment == ""


def test_a_crop_that_does_not_fit_is_one_line(photos, tmp_path, command):
    flags = ("--input", photos, "--output", "s", *SMALL, "--views", "2", "--augment", "crop=32")
    finished = command("pipelines.extract", *flags)
    assert_one_line_error(finished, 2, "--augment crop=32x32", "which is 32x32 pixels")
    assert not (tmp_path / "s" / "store.json").exists()


def test_markers_of_older_stores_are_read(reference):
    from featurestore.commit import Marker

    marker = next(iter(reference.store.markers().values()))
    record = json.loads(marker.to_json())
    del record["augmented"]
    assert Marker.from_json(json.dumps(record), "old").augmented == 0
