"""The page of an extraction: what it shows, that it stands alone, and that it never fails a run."""

import builtins
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import chromium
from support.extraction import SMALL, make_tar, run
from support.images import write_images
from support.pages import Page
from support.stores import add_chunk, make_rows, make_store

from featurestore import layout
from featurestore.commit import write_manifest
from featurestore.runs.finished import list_runs
from pipelines.finishing.page.material import MOST_FILES, PER_KIND, BadImage, gather, started_at
from pipelines.finishing.page.sections import MOST_WORKERS, content
from pipelines.finishing.page.thumbnails import look, thumbnails
from pipelines.finishing.page.timeline import BINS, Timeline
from pipelines.finishing.page.writing import write_run_page
from pipelines.watching.timing import STATES

EVIL = "<script>alert(1)</script>"
STARTED = 1_000_000.0


def times(worker="a", span=(10.0, 20.0), lanes=2, images=40, **states):
    begin, end = (STARTED + moment for moment in span)
    return {
        "worker": worker,
        "lanes": lanes,
        "started": begin,
        "first": begin + 0.25 * (end - begin) if images else 0.0,
        "finished": end,
        "lane_seconds": dict.fromkeys(STATES, 0.0) | states,
        "images": images,
        "megapixels": 1.0,
    }


def test_what_chunks_did_is_spread_over_their_time_and_nothing_is_lost():
    timeline = Timeline(STARTED, 120.0)
    timeline.add(times(span=(0, 30), images=90, infer=30.0, idle=30.0))
    timeline.add(times(span=(29.5, 29.6), images=7, decode=0.2))
    timeline.add(times("b", span=(119.9, 121.0), images=5, read=1.0))
    timeline.add(times("b", span=(60, 60), images=0))
    assert timeline.images.sum() == pytest.approx(102)
    assert timeline.states["infer"].sum() == pytest.approx(30)
    assert timeline.states["infer"][:30] == pytest.approx(np.ones(30))
    # Images appear from the first one on.
    assert timeline.images[:7].sum() == 0 and timeline.images[8] == pytest.approx(4)
    assert timeline.images[-1] == pytest.approx(5) and timeline.rates.shape == (BINS,)


def test_a_steady_worker_is_one_stretch_and_a_gap_is_two():
    timeline = Timeline(STARTED, 120.0)
    for begin in range(0, 60, 10):
        timeline.add(times(span=(begin, begin + 10), infer=10.0, decode=9.0, idle=1.0))
    timeline.add(times(span=(90, 120), infer=15.0, idle=45.0))
    (worker,) = timeline.by_start()
    assert list(worker.runs()) == [(0, 60, 1.0), (90, 30, 0.25)]
    assert worker.chunks == 7 and worker.busy == pytest.approx((6 * 19 + 15) / 240)


def test_any_number_of_chunks_takes_bounded_memory():
    timeline = Timeline(STARTED, 10_000.0)
    for number in range(5_000):
        timeline.add(times(f"w{number % 50}", span=(number, number + 20), infer=30.0, read=10.0))
    assert len(timeline.workers) == 50
    assert all(worker.working.shape == (BINS,) for worker in timeline.workers.values())
    assert timeline.images.sum() == pytest.approx(200_000)


def jpeg(width=64, height=48):
    y, x = np.mgrid[0:height, 0:width]
    sink = io.BytesIO()
    Image.fromarray(np.stack([x * 4, y * 5, x + y], -1).astype(np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good images, some that cannot be used, one with a hostile name, and a broken shard."""
    folder = tmp_path_factory.mktemp("page")
    write_images(folder / "photos", 40)
    bad = folder / "photos/dog"
    (bad / "cut.jpg").write_bytes(jpeg()[:-200])
    (bad / "a <b>bold<b> name.jpg").write_bytes(EVIL.encode())
    (bad / "empty.png").write_bytes(b"")
    for number in range(PER_KIND + 3):
        (bad / f"page{number}.jpg").write_bytes(b"<html>not found" + bytes([number]))
    make_tar(folder / "one.tar", [bad / "cut.jpg", *sorted((folder / "photos/cat").iterdir())[:5]])
    (folder / "broken.tar").write_bytes(b"no archive at all" * 100)
    return folder


@pytest.fixture(scope="module")
def outcome(folder):
    return run("--input", folder / "photos", "--output", folder / "store", *SMALL)


def page_of(outcome) -> Page:
    text = outcome.store.storage.read(layout.run_page(outcome.record["run_id"])).decode()
    return Page(text)


def test_a_run_leaves_a_page_that_stands_alone(outcome):
    page = page_of(outcome)
    assert "40 images stored in" in page.text and "not_an_image 10 images" in page.text
    assert len(page.all("svg", role="img")) == 3
    assert all(svg["aria-label"] for svg in page.all("svg", role="img"))
    assert not page.all("script") and not page.all("link")
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "script-src" not in policy["content"]
    ours = {found.get("src", "data:")[:5] for _, found in page.elements}
    assert ours == {"data:"}
    assert {found["href"][0] for found in page.all("a")} == {"#"}


def test_names_are_words_and_quarantined_images_are_seen(outcome):
    page = page_of(outcome)
    assert "a <b>bold<b> name.jpg" in page.text and not page.all("b")
    # Of the cut JPEG there is a picture; of the others their first bytes.
    assert len(page.all("img")) == 1
    assert "16 bytes: 3c 68 74 6d 6c 3e" in page.text and "0 bytes" in page.text
    shown = sum(text.strip().endswith(".jpg") for text in page.texts)
    assert shown == 1 + PER_KIND, "a page shows a few examples of each kind"


def test_images_of_an_archive_and_dead_chunks_are_shown(folder):
    inputs = [folder / "one.tar", folder / "broken.tar"]
    outcome = run("--input", *inputs, "--output", folder / "shards", *SMALL)
    page = page_of(outcome)
    assert outcome.record["ledger"]["dead_chunks"] == 1 and len(page.all("img")) == 1
    assert "Dead chunks" in page.text and "broken.tar" in page.text


def test_a_run_without_news_has_a_page_without_charts(folder, outcome):
    again = run("--input", folder / "photos", "--output", folder / "store", *SMALL)
    page = page_of(again)
    assert "0 images stored in" in page.text and not page.all("svg", role="img")


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_a_run_says_so_in_one_line(outcome, monkeypatch, missing):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith(missing):
            raise ImportError(name)
        return real(name, *arguments, **options)

    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        assert not write_run_page(outcome.store, outcome.record, {}, lines.append)
    assert len(lines) == 1 and lines[0].startswith("note: runs/"), lines
    assert "pip install 'hoarfrost[report]'" in lines[0]


def test_chunks_in_another_runs_manifest_are_found(tmp_path):
    store = make_store(tmp_path)
    record = {
        "run_id": "20261125T100000250000Z-abcdef",
        "started": "2026-11-25T10:00:00Z",
        "seconds": 60.0,
        "chunks": 3,
        "dead": [],
        "quarantined_by_kind": {},
    }
    assert started_at(record) % 1 == 0.25
    for number in range(3):
        begin = started_at(record) - STARTED
        time = times(span=(begin + number, begin + number + 1), images=10)
        features = np.zeros((1, 8), np.float32)
        add_chunk(store, make_rows(1, number), features, run_id=record["run_id"], time=time)
    markers = list(store.markers().values())
    for run_id, some in (("other", markers[:1]), (record["run_id"], markers[1:])):
        write_manifest(store.storage, run_id, some)
    timeline = gather(store, record).timeline
    assert timeline.images.sum() == pytest.approx(30)
    assert timeline.workers["a"].chunks == 3


def test_a_bad_run_is_sampled(tmp_path):
    """Of many files in quarantine a page reads a few."""
    store = make_store(tmp_path)
    row = {"uri": "file:///gone.jpg", "size": 1, "etag": "1", "kind": "empty", "message": "m"}
    run_id = "20261125T100000250000Z-abcdef"
    for number in range(3):
        bad = [row | {"key": f"{number}-{place}"} for place in range(PER_KIND)]
        add_chunk(store, [], np.zeros((0, 8), np.float32), bad, run_id=run_id)
    record = {
        "run_id": run_id,
        "started": "2026-11-25T10:00:00Z",
        "seconds": 60.0,
        "chunks": 3,
        "dead": [],
        "quarantined_by_kind": {"empty": 3 * PER_KIND},
    }
    found = gather(store, record).bad
    assert [bad.row["key"] for bad in found["empty"]] == [f"0-{n}" for n in range(PER_KIND)]
    assert MOST_FILES < 1000


def test_files_that_would_hurt_are_not_opened(tmp_path):
    sink = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(sink, "PNG")
    assert look(sink.getvalue()).reason == "9,000 x 9,000 pixels"
    assert look(jpeg(2000, 1000)).width <= 240
    assert look(b"\xff\xd8\xff").reason == "3 bytes: ff d8 ff"
    columns = {"key": "k", "uri": (tmp_path / "k").as_uri(), "etag": ""}
    found = thumbnails([BadImage(columns | {"size": 1 << 40})], {})
    assert found[columns["uri"]].reason == "not read: it has 1.0 TiB"
    gone = thumbnails([BadImage(columns | {"size": 1})], {})[columns["uri"]]
    assert gone.reason.endswith("is gone")


def large_run(outcome):
    """The material of a run of 40 workers, and its record."""
    material = gather(outcome.store, outcome.record)
    material.timeline = Timeline(STARTED, 7200.0)
    random = np.random.default_rng(0)
    for worker in range(40):
        moment = 60.0 + 3 * worker
        while moment < 7000 - 20 * worker:
            end = moment + random.uniform(40, 90)
            spent = {"infer": end - moment, "decode": 0.6 * (end - moment), "idle": 5.0}
            material.timeline.add(
                times(f"{worker:08x}", (moment, end), 2, int(end - moment) * 9, **spent)
            )
            moment = end if random.uniform() < 0.97 else end + 600
    return outcome.record | {"seconds": 7200.0}, material


def test_many_workers_fit_on_a_page(outcome):
    record, material = large_run(outcome)
    pictures = dict.fromkeys(b.row["uri"] for some in material.bad.values() for b in some)
    shown = content(record, material, pictures)
    assert f"{MOST_WORKERS} workers over" in shown["lanes"].svg
    assert len(shown["workers"].rows) == 40
    assert sum(len(chart.svg) for chart in (*shown["charts"], shown["lanes"])) < 400_000


OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.skipif(chromium.find_browser() is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_well(outcome, tmp_path):
    async def visit(tab):
        found = {}
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                await tab.look(width, scheme)
                await tab.screenshot(tmp_path / f"{width}-{scheme}.png")
                found[width, scheme] = [await tab.evaluate(e) for e in (OVERFLOW, BACKGROUND)]
        return found, list(tab.complaints)

    page = Path(outcome.store.storage.path(layout.run_page(outcome.record["run_id"]))).as_uri()
    found, complaints = chromium.visit(page, visit, tmp_path / "profile")
    assert not complaints
    for width in (1280, 390):
        assert found[width, "light"] == [0, "rgb(246, 248, 250)"]
        assert found[width, "dark"] == [0, "rgb(14, 19, 24)"]


def test_runs_lists_the_page(outcome, command):
    done = command("featurestore", "runs", outcome.store.url, "--json")
    first = json.loads(done.out)["runs"][0]
    assert first["page"] == layout.run_page(first["run_id"]) and first["retries"] == 0


def test_a_store_in_a_bucket_has_pages_too(folder, bucket):
    url, options = bucket
    settings = [f"{name}={value}" for name, value in options.items()]
    flags = ("--storage_options", *settings, *SMALL, "--limit", "8")
    outcome = run("--input", folder / "photos/cat", "--output", f"{url}/store", *flags)
    page = page_of(outcome)
    assert "8 images stored in" in page.text and len(page.all("svg", role="img")) == 3
    (line,) = list_runs(outcome.store.storage)
    assert line.page and line.images == 8
