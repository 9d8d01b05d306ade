"""The audit of a store: copies, labels, outliers, accuracy, drift, and the command's files."""

import csv
import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import assert_one_line_error, run_command
from support.features import clusters, make_store, spec_of
from support.images import encode
from support.pages import Page
from support.training import SPLITS, train_into

from classifier.audit import run as audit_command
from classifier.auditing.doubts import find_doubts
from classifier.auditing.drift import drift
from classifier.auditing.leaks import EXACT, Pair
from classifier.auditing.likeness import SIDE, likeness
from classifier.auditing.neighbours import nearest
from classifier.auditing.outliers import find_outliers
from classifier.auditing.restated import leaked_rows
from classifier.auditing.rows import image_records, read_rows, reduced
from featurestore import UsageError, open_store
from featurestore.__main__ import run as featurestore_command

EVIL = "<script>alert(1)</script>"
COUNT = 120
# Rows that are changed on purpose: a copy of each, and labels.
NEAR, SAME, MIRRORED, WRONG, FAR = (3, 83), (4, 84), (5, 105), 10, 20


def smooth(number, size=48):
    """A picture of soft blobs, unlike that of any other number."""
    from PIL import Image

    coarse = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """120 rows of three classes with an image each, and planted faults."""
    folder = tmp_path_factory.mktemp("audited")
    features, labels = clusters(COUNT, 3, channels=24)
    rng, files = np.random.default_rng(1), {}
    for number in range(COUNT):
        files[number] = encode(smooth(number), "PNG")
    for one, other in (NEAR, SAME, MIRRORED):
        features[other] = features[one] + rng.normal(0, 0.3, 24)
        labels[other] = labels[one]
    files[NEAR[1]] = encode(smooth(NEAR[0]), "JPEG", quality=70)
    files[SAME[1]], features[SAME[1]] = files[SAME[0]], features[SAME[0]]
    files[MIRRORED[1]] = encode(smooth(MIRRORED[0])[:, ::-1], "PNG")
    features[FAR] += 8 * rng.normal(size=24)
    labels[WRONG] = f"class {(WRONG + 1) % 3}"
    labels = [EVIL if label == "class 2" else label for label in labels]
    columns = {"uri": [], "content_hash": [], "width": [48] * COUNT, "height": [48] * COUNT}
    for number, data in files.items():
        path = folder / f"{number}.img"
        path.write_bytes(data)
        columns["uri"].append(path.as_uri())
        columns["content_hash"].append(hashlib.sha256(data).hexdigest())
    return make_store(folder / "store", features, labels, SPLITS, **columns)


@pytest.fixture(scope="module")
def audited(store, tmp_path_factory):
    """The folder of an audit with a run, and its record."""
    folder = tmp_path_factory.mktemp("audit")
    train_into(folder / "run", store, "--head", "ridge")
    where = ["--store", store.url, "--output", str(folder / "out"), "--run", str(folder / "run")]
    assert audit_command([*where, "--against", store.url]) == 0
    return folder / "out", json.loads((folder / "out" / "audit.json").read_text())


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key(number):
    return f"{number:05d}.png"


def test_planted_copies_are_found_with_their_kind_and_split(audited):
    found = {(row["key"], row["other_key"]): row for row in table(audited[0] / "leaks.csv")}
    assert set(found) == {(key(one), key(other)) for one, other in (NEAR, SAME, MIRRORED)}
    assert [found[key(a), key(b)]["kind"] for a, b in (NEAR, SAME)] == ["near copy", "exact copy"]
    mirrored = found[key(MIRRORED[0]), key(MIRRORED[1])]
    assert (mirrored["mirrored"], mirrored["other_split"]) == ("yes", "test")
    assert all(row["across_splits"] == "yes" for row in found.values())


def test_accuracy_is_restated_without_leaked_rows(audited):
    by_split = {item["split"]: item for item in audited[1]["restated"]}
    assert set(by_split) == {"test", "validation"}
    assert by_split["validation"]["leaked"] == 2
    assert by_split["validation"]["without"]["rows"] == 18
    assert by_split["test"]["all"]["rows"] == 20 == by_split["test"]["without"]["rows"] + 1


def test_the_wrong_label_comes_first_and_relabel_takes_the_table(audited, store, tmp_path):
    rows = table(audited[0] / "labels.csv")
    assert rows[0]["key"] == key(WRONG) and rows[0]["label"] != rows[0]["given_label"]
    shutil.copytree(store.storage.path(""), tmp_path / "copy")
    labels = ["--labels", str(audited[0] / "labels.csv")]
    assert featurestore_command(["relabel", str(tmp_path / "copy"), *labels]) == 0
    after = open_store(str(tmp_path / "copy")).load(["key", "labels"])
    assert list(dict(zip(*after.values(), strict=True))[key(WRONG)]) == [rows[0]["label"]]


def test_the_outlier_comes_first(audited):
    rows = table(audited[0] / "outliers.csv")
    assert rows[0]["key"] == key(FAR) and float(rows[0]["ratio"]) > 2


def test_a_store_has_not_drifted_from_itself(audited):
    found = audited[1]["drift"]
    assert found["shift"] < 1e-6 and found["beyond"] <= 2 / COUNT


def test_the_page_shows_pairs_and_escapes_names(audited):
    text = (audited[0] / "audit.html").read_text()
    page = Page(text)
    assert EVIL not in text and EVIL in page.text
    assert [attributes.get("id") for attributes in page.all("script")] == ["points", None]
    assert "Copies across splits 3" in page.text
    assert len(page.all("img")) >= 6


def test_features_decide_where_images_are_gone(tmp_path, capsys):
    features, labels = clusters(60, 3, channels=24)
    features[50] = features[7]
    store = make_store(tmp_path / "store", features, labels, ["train"] * 40 + ["test"] * 20)
    where = ["--store", store.url, "--output", str(tmp_path / "out"), "--json"]
    assert audit_command(where) == 0
    leaks = json.loads(capsys.readouterr().out)["leaks"]
    assert leaks["images_not_read"] == leaks["candidates"] > 0
    assert "where images cannot be read, cosine of at least" in leaks["rule"]
    pair = leaks["first"][0]
    assert (pair["key"], pair["other_key"], pair["likeness"]) == (key(7), key(50), None)


def test_the_user_may_decide_by_cosine_alone(store, tmp_path, capsys):
    where = ["--store", store.url, "--output", str(tmp_path / "out"), "--json"]
    assert audit_command([*where, "--duplicate_cosine", "0.9"]) == 0
    leaks = json.loads(capsys.readouterr().out)["leaks"]
    assert leaks["pairs"] >= 3 and leaks["exact"] == 1
    assert all(pair["cosine"] >= 0.9 and pair["likeness"] is None for pair in leaks["first"])


def test_the_carve_of_a_run_makes_two_splits_of_one(tmp_path, capsys):
    features, labels = clusters(60, 3, channels=24)
    store = make_store(tmp_path / "store", features, labels)
    train_into(tmp_path / "run", store, "--head", "ridge")
    capsys.readouterr()
    where = ["--store", store.url, "--output", str(tmp_path / "out"), "--json"]
    assert audit_command([*where, "--run", str(tmp_path / "run"), "--compare", "0"]) == 0
    (restated,) = json.loads(capsys.readouterr().out)["restated"]
    assert restated["split"] == "validation" and 0 < restated["all"]["rows"] < 30


def test_a_moved_store_is_found_to_have_drifted(store, tmp_path):
    rows = store.load(["features", "labels"])
    labels = [row[0] for row in rows["labels"]]
    other = make_store(tmp_path / "moved", rows["features"] + 3, labels)
    with read_rows(store) as own:
        found = drift(own, other)
    assert found["shift"] > 0.5 and found["beyond"] > 0.5


@pytest.mark.parametrize("shape", [(2, 2, 6), (6,)])
def test_maps_are_audited_by_their_means(tmp_path, shape):
    features, labels = clusters(30, 2, channels=6)
    wide = np.broadcast_to(features.reshape(30, *([1] * (len(shape) - 1)), 6), (30, *shape))
    store = make_store(tmp_path / "store", np.ascontiguousarray(wide), labels)
    with read_rows(store) as rows:
        np.testing.assert_allclose(rows.vectors[:], features, rtol=1e-6)
        doubts = find_doubts(rows)
        assert (doubts.margin > 0).mean() > 0.9
        outliers = find_outliers(rows, doubts.own, 2)
        assert np.isfinite(outliers.ratio).all()


def test_pixels_are_audited_by_a_grid():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    expected = pixels.reshape(2, 8, 2, 8, 3, 3).mean(axis=(2, 4)).reshape(2, -1)
    np.testing.assert_allclose(reduced(pixels, is_pixels=True), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 30])
def test_neighbours_are_those_of_all_products(count):
    rng = np.random.default_rng(count)
    units = rng.normal(size=(count, 5)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    found = nearest(lambda part: units[part], count, 3, block=8)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    for row in range(count):
        order = np.argsort(-cosines[row])[: min(3, count - 1)]
        np.testing.assert_allclose(found.cosine[row][: len(order)], cosines[row][order], atol=1e-6)
        assert (found.row[row][len(order) :] == -1).all()
        assert row not in found.row[row]


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1.0), st.floats(0, 60))
def test_likeness_ignores_light_and_contrast(seed, contrast, light):
    one, other = (
        np.random.default_rng(seed + n).uniform(0, 150, (SIDE, SIDE, 3)) for n in (0, 20_000)
    )
    value, mirrored = likeness(one, one * contrast + light)
    assert value == pytest.approx(1, abs=1e-6) and not mirrored
    assert likeness(one, one[:, ::-1])[1]
    assert likeness(one, other)[0] < 0.5


def test_flat_images_are_alike_by_colour():
    grey, white = (np.full((SIDE, SIDE, 3), value, np.float32) for value in (100, 255))
    assert likeness(grey, grey + 1) == (1.0, False)
    assert likeness(grey, white) == (0.0, False)


def test_copies_of_leaked_copies_leak_and_rows_without_a_split_do_not():
    sides = np.array(["train", "test", "", "test"], object)
    pairs = [Pair(EXACT, rows, 1.0) for rows in ((0, 1), (0, 2), (1, 3))]
    assert leaked_rows(pairs, sides).tolist() == [True, True, False, True]
    assert not leaked_rows(pairs[1:], sides).any()
    assert not leaked_rows([], sides).any()


def test_records_lead_to_the_rows_that_were_asked_for(store):
    records = image_records(store, [119, 0, 41])
    assert {row: record["key"] for row, record in records.items()} == {
        row: key(row) for row in (0, 41, 119)
    }


def test_one_class_and_no_label_are_said(tmp_path):
    features, _ = clusters(12, 2)
    store = make_store(tmp_path / "store", features, ["only"] * 11 + [[]])
    with read_rows(store) as rows:
        doubts = find_doubts(rows)
    assert "fewer than two classes" in doubts.note and not len(doubts.ranked)


def test_a_store_without_rows_is_refused(tmp_path):
    store = make_store(tmp_path / "store", np.zeros((0, 4), np.float32), [], spec=spec_of((4,)))
    with pytest.raises(UsageError, match="no rows to look at"), read_rows(store):
        pass


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--duplicate_cosine", "95"], ["--duplicate_cosine", "95"]),
        (["--compare", "-1"], ["--compare"]),
        (["--exact_rows", "0"], ["--exact_rows", "0"]),
        (["--head_id", "x"], ["--head_id", "--run"]),
        (["--output", "store/inside"], ["--output", "lies inside"]),
        (["--against", "nowhere"], ["no feature store"]),
        (["--run", "nowhere"], ["--run", "no finished training run"]),
    ],
)
def test_mistakes_are_one_line(store, tmp_path, flags, words):
    (tmp_path / "store").symlink_to(store.storage.path(""))
    done = run_command("classifier.audit", "--store", "store", *flags, cwd=tmp_path)
    assert_one_line_error(done, 2, *words)
