"""The map of the audit's page: its data, its size, and what a browser draws."""

import base64
import hashlib
import json
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import chromium
from support.features import clusters, hash_of, make_store
from support.images import encode
from support.optional import unrequired
from support.training import SPLITS, train_into

from classifier.audit import run as audit_command
from classifier.auditing.places import check_way, places_of
from classifier.auditing.points import drawn_rows
from classifier.auditing.rows import read_rows
from featurestore import UsageError

COUNT, WRONG = 120, 10
EVIL = "</script><script>alert(1)</script>"
KIND = {"x": np.float32, "y": np.float32, "row": np.uint32}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The store of an audit, with one picture and a run, and the folder of the audit."""
    folder = tmp_path_factory.mktemp("mapped")
    features, labels = clusters(COUNT, 3, channels=24)
    labels = [EVIL if label == "class 2" else label for label in labels]
    labels[WRONG] = "class 0" if labels[WRONG] != "class 0" else "class 1"
    picture = encode(np.full((48, 48, 3), (200, 30, 30), np.uint8), "PNG")
    (folder / "wrong.png").write_bytes(picture)
    uris = [f"file:///nowhere/{number}.png" for number in range(COUNT)]
    uris[WRONG] = (folder / "wrong.png").as_uri()
    contents = [hash_of(number) for number in range(COUNT)]
    contents[WRONG] = hashlib.sha256(picture).hexdigest()
    columns = {"uri": uris, "content_hash": contents}
    store = make_store(folder / "store", features, labels, SPLITS, **columns)
    train_into(folder / "run", store, "--head", "ridge")
    flags = ["--store", store.url, "--run", str(folder / "run"), "--compare", "0"]
    assert audit_command([*flags, "--output", str(folder / "out")]) == 0
    return store, folder / "out"


def points_in(folder):
    text = (folder / "audit.html").read_text()
    (found,) = re.findall(r'<script type="application/json" id="points">(.*?)</script>', text)
    points = json.loads(found)
    return points | {name: decoded(points[name], kind) for name, kind in KIND.items()}


def decoded(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_each_image_is_a_point_where_its_features_are(mapped):
    store, folder = mapped
    points = points_in(folder)
    assert sorted(points["row"]) == list(range(COUNT)) and len(points["x"]) == COUNT
    assert [f"{row:05d}.png" for row in points["row"]] == points["key"]
    with read_rows(store) as rows:
        places = places_of(rows)
    drawn = np.stack([points["x"], points["y"]], 1)
    np.testing.assert_array_equal(drawn, places.xy[points["row"]])
    assert 0.2 < places.share <= 1


def test_points_have_a_class_a_split_a_finding_and_a_mistake(mapped):
    store, folder = mapped
    points = points_in(folder)
    ways = {way["title"]: way for way in points["colourings"]}
    assert list(ways) == ["class", "split", "finding", "mistake of the run"]
    stored = store.load(["labels", "split"])
    names = {"class": [row[0] for row in stored["labels"]], "split": list(stored["split"])}
    for title, expected in names.items():
        way = ways[title]
        named = [way["names"][code] for code in decoded(way["codes"], np.uint16)]
        assert named == [expected[row] for row in points["row"]]
        assert way["counts"] == sorted(way["counts"], reverse=True) and sum(way["counts"]) == COUNT
    place = list(points["row"]).index(WRONG)
    for title, expected in (("finding", "doubtful label"), ("mistake of the run", "wrong")):
        codes = decoded(ways[title]["codes"], np.uint16)
        assert ways[title]["names"][codes[place]] == expected


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 80), st.data())
def test_the_drawn_rows_hold_the_wanted_ones(count, most, data):
    wanted = data.draw(st.sets(st.integers(0, count - 1)))
    drawn = drawn_rows(count, wanted, most).tolist()
    assert len(set(drawn)) == len(drawn) == min(count, most)
    assert wanted <= set(drawn) or set(drawn) <= wanted


@pytest.mark.parametrize("channels", [1, 2])
def test_rows_of_one_value_have_a_map(tmp_path, channels):
    features, labels = clusters(20, 2, channels=channels)
    with read_rows(make_store(tmp_path / "store", features, labels)) as rows:
        places = places_of(rows)
    assert places.xy.shape == (20, 2) and places.share == pytest.approx(1)
    assert (places.xy[:, 1] == 0).all() == (channels == 1)


@pytest.mark.slow
def test_umap_keeps_classes_together(mapped, tmp_path):
    unrequired("umap")
    store, _ = mapped
    flags = ["--store", store.url, "--compare", "0", "--output", str(tmp_path)]
    assert audit_command([*flags, "--map", "umap"]) == 0
    assert "by UMAP" in (tmp_path / "audit.html").read_text()
    points = points_in(tmp_path)
    xy = np.stack([points["x"], points["y"]], 1)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(COUNT)
    classes = decoded(points["colourings"][0]["codes"], np.uint16)
    assert (classes[apart.argmin(axis=1)] == classes).mean() > 0.9


def test_umap_is_refused_without_its_package_and_for_many_images(monkeypatch):
    monkeypatch.setattr("classifier.auditing.places.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--map umap needs umap-learn.*hoarfrost\[umap\]"):
        check_way("umap", 10)
    check_way("pca", 10**9)
    monkeypatch.setattr("classifier.auditing.places.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="up to 100,000 images, and the store has 100,001"):
        check_way("umap", 100_001)


# What the canvas shows: how many pixels of each opaque colour.
COLOURS = """(() => {
  const canvas = document.querySelector("#map canvas"), found = {};
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] < 255) continue;
    const name = `${data[i]},${data[i + 1]},${data[i + 2]}`;
    found[name] = (found[name] || 0) + 1;
  }
  return found;
})()"""
# Goes over the map until the image with a key is shown; returns what is shown of it.
POINT = """(() => {
  const canvas = document.querySelector("#map canvas"), box = canvas.getBoundingClientRect();
  const shown = document.querySelector("#map .shown");
  for (let y = 0; y < box.height; y += 6) {
    for (let x = 0; x < box.width; x += 6) {
      const at = { clientX: box.left + x, clientY: box.top + y };
      canvas.dispatchEvent(new PointerEvent("pointermove", at));
      if (shown.textContent.includes("%s")) {
        return [shown.textContent, shown.querySelectorAll("img").length];
      }
    }
  }
})()"""
CHOOSE = """(() => {
  const select = document.querySelector("#map select");
  select.selectedIndex = %d;
  select.dispatchEvent(new Event("change"));
})()"""
PRESS = "document.querySelectorAll('#map .legend button')[1].click()"
KEY = """document.querySelector('#map canvas').dispatchEvent(
  new KeyboardEvent('keydown', { key: '%s' }))"""
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
WARM = {"light": "185,80,26", "dark": "242,154,94"}
FIRST = {"light": "10,106,148", "dark": "98,194,236"}


async def colours(tab, is_expected):
    """What the canvas shows as soon as it is as expected, or at the deadline."""
    deadline = time.monotonic() + 30
    while True:
        found = await tab.evaluate(COLOURS)
        if is_expected(found) or time.monotonic() > deadline:
            return found


@pytest.mark.skipif(chromium.find_browser() is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_map_and_shows_what_is_pointed_at(mapped, tmp_path):
    async def visit(tab):
        for width, scheme in ((1280, "light"), (390, "dark")):
            await tab.look(width, scheme)
            await tab.evaluate(CHOOSE % 0)
            first, second = FIRST[scheme], WARM[scheme]
            found = await colours(tab, lambda seen, first=first: seen.get(first, 0) > 100)
            assert min(found.get(first, 0), found.get(second, 0)) > 100, found
            assert await tab.evaluate(OVERFLOW) == 0
            text, pictures = await tab.evaluate(POINT % f"{WRONG:05d}.png")
            assert "doubtful label" in text and pictures == 1
            await tab.evaluate(PRESS)
            alone = await colours(tab, lambda seen, first=first: first not in seen)
            assert first not in alone and alone[second] > 100
            await tab.evaluate(CHOOSE % 2)
            found = await colours(tab, lambda seen, second=second: 0 < seen.get(second, 0) < 200)
            assert 0 < found[second] < 200
            await tab.evaluate(KEY % "+")
            larger = await colours(tab, lambda seen, old=found: seen != old)
            assert larger != found
            await tab.evaluate(KEY % "0")
            assert await colours(tab, lambda seen, old=found: seen == old) == found
        return list(tab.complaints)

    page = (mapped[1] / "audit.html").as_uri()
    assert not chromium.visit(page, visit, tmp_path / "profile")
