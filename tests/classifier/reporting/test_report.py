"""The page of a run: what is on it, that it stands alone, and what a browser makes of it."""

import builtins
import hashlib
import json
import re
import shutil
import tarfile
import threading
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from support import chromium
from support.features import clusters, make_store
from support.images import encode
from support.pages import Page
from support.training import train_into

from classifier.evaluate import run as evaluate_command
from classifier.judgement.intervals import accuracy_interval
from classifier.report import run as report_command
from classifier.reporting import pictures
from classifier.reporting.diagrams import (
    history_chart,
    learning_chart,
    penalty_chart,
    reliability_chart,
)
from classifier.reporting.material import gather
from classifier.reporting.pictures import Picture, pictures_of
from classifier.reporting.tables import class_table, leaderboard_table, matrix_of
from classifier.reporting.writing import renew_page
from classifier.runs.run import load_run
from featurestore import PixelSpec, UsageError
from featurestore.io.storage import Storage

EVIL = "<script>alert(1)</script>"


def page_of(run):
    return Page(run.storage.read("report.html").decode())


def image_store(folder, classes=3, count=120, noise=2.5, names=None):
    """A store of overlapping classes with an image file a row, in three splits."""
    features, labels = clusters(count, classes, channels=4)
    features += np.random.default_rng(5).normal(0, noise, features.shape).astype(np.float32)
    named = {f"class {number}": name for number, name in enumerate(names or [])}
    columns = {"uri": [], "content_hash": [], "width": [], "height": []}
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        width, height = 20 + number % 5, 30
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        path = folder / "images" / f"{number}.png"
        path.write_bytes(encode(pixels, "PNG"))
        columns["uri"].append(path.as_uri())
        columns["content_hash"].append(hashlib.sha256(path.read_bytes()).hexdigest())
        columns["width"].append(width)
        columns["height"].append(height)
    splits = ["train", "train", "validation", "test"] * (count // 4)
    labels = [named.get(label, label) for label in labels]
    return make_store(folder / "store", features, labels, splits, **columns)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three classes, one of a hostile name."""
    return image_store(tmp_path_factory.mktemp("stores"), names=["tabby & cat", EVIL])


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run with a linear and a ridge head."""
    folder = tmp_path_factory.mktemp("runs") / "run <b>one</b>"
    return train_into(folder, store, "--head", "linear", "--head", "ridge")


@pytest.fixture(scope="module")
def judged(store, trained):
    """The same run with an evaluation of the test rows, a comparison and a learning curve."""
    best, other = (row["head_id"] for row in trained.leaderboard())
    evaluate_command(["--run", trained.url, "--store", store.url, "--compare", other])
    points = [
        {
            "fraction": share,
            "images": n,
            "rows": 30,
            "accuracy": accuracy_interval(n, 80).to_record(),
        }
        for share, n in ((0.1, 20), (0.5, 40), (1.0, 60))
    ] + [{"fraction": 0.05, "images": 2, "reason": "every head <b>diverged</b>"}]
    trained.storage.write(f"learning/test-{best}.json", json.dumps(points))
    assert renew_page(trained, lambda line: None)
    return trained


def test_training_writes_a_page_from_its_validation_rows(store, tmp_path, capsys):
    trained = train_into(tmp_path / "run", store)
    assert f"report: {trained.url}/report.html" in capsys.readouterr().out
    page = page_of(trained)
    assert "accuracy of linear on validation, 30 images" in page.text
    assert [found["id"] for found in page.all("section")] == [
        "heads",
        "curves",
        "split-1",
        "intervals",
        "run",
        "store",
    ]
    record = json.loads(trained.storage.read("evaluation/validation-linear.json"))
    assert record["accuracy"] == pytest.approx(trained.leaderboard()[0]["val_accuracy"])
    # Another run may take its place.
    again = train_into(tmp_path / "run", store, "--overwrite")
    assert again.storage.exists("report.html")


def test_an_evaluation_renews_the_page(judged):
    page = page_of(judged)
    best, other = (row["head_id"] for row in judged.leaderboard())
    assert f"accuracy of {best} on test, 30 images" in page.text
    for words in (
        "Confusion matrix",
        "Most confused pairs",
        "Worst mistakes",
        "Reliability",
        "Learning curve",
        f"{best} − {other} on test",
        "Every image is accounted for: 120 images in = 120 rows + 0 quarantined",
        "Identity",
        judged.spec.identity_hash,
        judged.spec.numerics.hash,
        "the head could not be judged: every head <b>diverged</b>.",
    ):
        assert words in page.text, words
    assert len(page.all("details")) == 1  # the validation rows


def test_the_page_stands_alone(judged):
    text = judged.storage.read("report.html").decode()
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href"):
            allowed = ("#", "data:image/", "card.md")
            assert attributes.get(name, "#").startswith(allowed), attributes
    assert "url(" not in text and "@import" not in text
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    ids = {found["id"] for _, found in page.elements if "id" in found}
    assert {found["href"] for found in page.all("a")} <= {f"#{name}" for name in ids} | {"card.md"}
    assert len(text) < 300_000


def test_names_are_words_and_never_markup(judged):
    text = judged.storage.read("report.html").decode()
    page = Page(text)
    assert len(page.all("script")) == 1
    assert EVIL in page.text and EVIL not in text and "alert(1)" in text
    assert "run <b>one</b>" in page.text


def test_the_page_is_accessible(judged):
    page = page_of(judged)
    assert page.all("html")[0]["lang"] == "en" and page.all("title") and page.all("main")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.all("th") and all(th["scope"] in ("row", "col") for th in page.all("th"))
    assert page.all("img") and all(img["alt"] for img in page.all("img"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    scrolling = page.all("div", role="region")
    assert scrolling and all(box["tabindex"] == "0" and box["aria-label"] for box in scrolling)


def test_mistakes_show_their_images(judged):
    page = page_of(judged)
    record = json.loads(judged.storage.read(f"evaluation/test-{judged.head_id()}.json"))
    own = [img for img in page.all("img")]
    assert len(own) >= len(record["mistakes"]) > 0
    # In their own proportions, not in the base's square.
    assert {img["height"] for img in own} == {"30"} and len({img["width"] for img in own}) > 1
    assert all(img["class"] == "small" for img in own)


def images_of(store_folder, count, shard=None):
    """Records of mistakes whose images lie in a folder, or in an archive."""
    found = []
    for number in range(count):
        path = store_folder / "images" / f"{number}.png"
        found.append(
            {
                "key": path.name,
                "uri": path.as_uri() if shard is None else f"{shard['uri']}/{path.name}",
                "size": path.stat().st_size,
                "etag": "",
                "content_hash": hashlib.sha256(path.read_bytes()).hexdigest(),
                "width": 20 + number % 5,
                "height": 30,
                "shard": shard,
            }
        )
    return found


def test_images_that_are_gone_are_named(tmp_path):
    image_store(tmp_path)
    images = images_of(tmp_path, 4)
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"other bytes")
    images[3]["uri"] = "nosuchprotocol://x/3.png"
    found = list(pictures_of(images, PixelSpec((8, 8)), {}).values())
    assert found[0].source.startswith("data:image/png;base64,") and found[0].small
    assert (found[0].width, found[0].height, found[0].reason) == (20, 30, "")
    assert found[1].reason.endswith("1.png is gone") and not found[1].source
    assert "has changed since" in found[2].reason
    assert "nosuchprotocol" in found[3].reason.lower()


def test_images_of_an_archive_are_read_in_one_go(tmp_path):
    image_store(tmp_path)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as file:
        for number in range(3):
            file.add(tmp_path / "images" / f"{number}.png", f"{number}.png")
    shard = {"key": "a.tar", "uri": archive.as_uri(), "size": 1, "etag": ""}
    images = images_of(tmp_path, 3, shard)
    for image in images:
        image["key"] = f"a.tar/{image['key']}"
    found = pictures_of(images, PixelSpec((8, 8), exif="apply"), {})
    assert [bool(picture.source) for picture in found.values()] == [True] * 3
    archive.unlink()
    gone = pictures_of(images, PixelSpec((8, 8)), {})
    assert all("is gone" in picture.reason for picture in gone.values())


def test_a_source_that_hangs_costs_no_more_than_the_limit(monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(pictures, "_read_all", lambda *_: held.wait(60))
    image = dict.fromkeys(("key", "uri", "etag", "content_hash"), "x") | {"size": 1}
    found = pictures_of([image], PixelSpec((8, 8)), {}, seconds=0.01)
    held.set()
    assert found == {"x": Picture(reason="not read within 0.01 seconds")}


def test_large_images_become_small_jpegs(tmp_path):
    pixels = np.zeros((500, 1000, 3), np.uint8)
    path = tmp_path / "images" / "0.png"
    path.parent.mkdir()
    path.write_bytes(encode(pixels, "PNG"))
    (image,) = images_of(tmp_path, 1)
    image |= {"width": 1000, "height": 500}
    (found,) = pictures_of([image], PixelSpec((8, 8)), {}).values()
    assert (found.width, found.height) == (240, 120) and not found.small
    assert found.source.startswith("data:image/jpeg;base64,")


def test_a_gone_source_is_told_on_the_page(tmp_path):
    store = image_store(tmp_path)
    shutil.rmtree(tmp_path / "images")
    page = page_of(train_into(tmp_path / "run", store))
    assert not page.all("img") and "is gone" in page.text


def test_without_jinja_training_goes_on(store, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    trained = train_into(tmp_path / "run", store)
    out = capsys.readouterr().out
    assert "note: report.html was skipped: the report page needs Jinja2, which is not" in out
    assert "pip install 'hoarfrost[report]'" in out and "best: linear" in out
    assert not trained.storage.exists("report.html")
    assert trained.storage.exists("evaluation/validation-linear.json")
    with pytest.raises(UsageError, match="the report page needs Jinja2"):
        report_command(["--run", trained.url])


def test_the_command_writes_the_page_again(store, trained, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(trained.storage.path(""), folder)
    for name in ("report.html", "evaluation", "calibration", "history", "summary.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert report_command(["--run", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("report: ")
    page = page_of(load_run(str(folder)))
    # Nothing but the leaderboard is known of it.
    assert "on the validation rows, at its best epoch" in page.text
    assert "Confusion" not in page.text and "Ledger" not in page.text
    assert report_command(["--run", str(folder), "--store", store.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"].endswith("copy/report.html")
    assert "Confusion matrix" in page_of(load_run(str(folder))).text


def test_evaluations_of_older_releases_and_damaged_files_are_no_obstacle(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.storage.path(""), folder)
    run = load_run(str(folder))
    name = f"evaluation/validation-{run.head_id()}.json"
    record = json.loads(run.storage.read(name))
    for later in ("interval", "calibration", "confused", "mistakes", "ledger"):
        del record[later]
    run.storage.write(name, json.dumps(record))
    run.storage.write("evaluation/x.json", "{")
    run.storage.write("history/ridge.json", "[]")
    assert renew_page(run, print)
    assert "Confusion matrix" in page_of(run).text


def test_figures_that_need_one_label_a_row_are_left_out_with_a_line(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.storage.path(""), folder)
    shutil.rmtree(folder / "evaluation")
    run = load_run(str(folder))
    names = ("class", "precision", "recall", "f1", "support")
    record = {
        "head_id": run.head_id(),
        "split": "validation",
        "rows": 30,
        "loss": 0.25,
        "classes": ["a", "b"],
        "per_class": [dict(zip(names, ("a", 0.5, 0.5, 0.5, 9), strict=True))],
    }
    run.storage.write(f"evaluation/validation-{run.head_id()}.json", json.dumps(record))
    assert renew_page(run, print)
    page = page_of(run)
    assert "several labels: figures that need one per row are left out" in page.text
    assert "Per class" in page.text and "Confusion matrix" not in page.text
    run.storage.write(f"evaluation/validation-{run.head_id()}.json", json.dumps([record]))
    assert renew_page(run, print)
    assert "has not been evaluated on stored rows yet" in page_of(run).text
    record["classes"], record["confusion"] = 5, [[1]]
    run.storage.write(f"evaluation/validation-{run.head_id()}.json", json.dumps(record))
    lines = []
    assert not renew_page(run, lines.append)
    assert "a file of the run was changed or damaged" in lines[0]


def test_a_run_that_cannot_be_written_to_is_one_line(trained, tmp_path, monkeypatch):
    def refuse(self, name, data):
        raise PermissionError("read-only")

    monkeypatch.setattr(Storage, "write", refuse)
    lines = []
    assert not renew_page(trained, lines.append)
    assert lines == ["note: report.html was skipped: PermissionError: read-only"]
    with pytest.raises(
        UsageError, match="--run: cannot write to .*: read-only; the page is a file"
    ):
        report_command(["--run", trained.url])


def board_of(count):
    return [
        {
            "rank": n + 1, "head_id": f"linear-{n}", "head": "linear", "lr": 0.1 if n else None,
            "l2": None, "loss": None, "accuracy": float("nan"), "val_loss": n / 10,
            "val_accuracy": 0.5, "best_epoch": 3, "parameters": 9, "seconds": 1.0, "seed": n,
        }
        for n in range(count)
    ]  # fmt: skip


def test_the_leaderboard_shows_what_there_is():
    table = leaderboard_table(board_of(2))
    names = [name for name, _ in table.columns]
    assert "L2" not in names and "Seed" in names and "Optimizer" not in names
    cells = dict(zip(names, table.rows[0], strict=True))
    assert (cells["Training accuracy"].text, cells["Training accuracy"].order) == ("–", "")
    # An exact head has no epochs.
    assert cells["Best epoch"].text == "–" and table.rows[1][names.index("Best epoch")].text == "3"
    assert "Seed" not in [name for name, _ in leaderboard_table(board_of(1)).columns]


@pytest.mark.parametrize("count", [2, 20, 21, 100])
def test_the_matrix_stays_legible(count):
    confusion = np.eye(count, dtype=int) * 9
    confusion[0, 1] = 3
    found = matrix_of(confusion, [f"class {n}" for n in range(count)])
    assert len(found.names) == len(found.rows) == min(count, 20)
    assert bool(found.others) == bool(found.note) == (count > 20)
    assert found.rows[0][1][0] == 3 and not found.rows[0][1][2] and found.rows[0][0][2]
    assert all(0 <= depth <= 60 for row in found.rows for _, depth, _, _ in row)
    assert "class 0 predicted as class 1: 3 of 12" in found.rows[0][1][3]


def test_classes_come_weakest_first_and_the_table_ends_somewhere():
    names = ("class", "precision", "recall", "f1", "support")
    rows = [dict(zip(names, (f"c{n}", None, 0.5, n / 2000, 3), strict=True)) for n in range(1200)]
    rows[1100]["f1"] = None
    table = class_table(rows)
    assert len(table.rows) == 1000 and table.rows[0][0].text == "c1100"
    assert table.note.startswith("The 1,000 weakest of 1,200 classes")
    rows = [{**row, "support": n % 2} for n, row in enumerate(rows[:4])]
    table = class_table(rows)
    assert [row[0].text for row in table.rows] == ["c1", "c3", "c0", "c2"]
    assert table.note == "2 have no rows in this split and come last."


def parsed(chart):
    """The texts, the titles and the number of points on lines of a chart's SVG."""
    root = ElementTree.fromstring(chart.svg)
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(found.itertext()).strip() for found in root.iter(f"{space}text")]
    titles = [found.text for found in root.iter(f"{space}title")]
    # Room for what is drawn: no text begins outside the picture.
    width, height = map(float, root.get("viewBox").split()[2:])
    assert {root.get("role"), bool(root.get("aria-label"))} == {"img", True}
    for element in root.iter(f"{space}text"):
        place = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform") or "")
        x, y = map(float, place.groups()) if place else (element.get("x"), element.get("y"))
        assert 0 <= float(x) <= width and 0 <= float(y) <= height
    return texts, titles, chart.svg.count("L ")


@pytest.mark.parametrize("epochs", [1, 2, 3, 50, 5000])
@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_histories_of_any_length(epochs, name):
    curve = np.linspace(0.9, 0.1, epochs).tolist()
    best = max(1, epochs - 1)
    texts, titles, points = parsed(history_chart(name, curve, curve, best))
    assert titles == [f"best epoch {best}: {curve[best - 1]:.3f}"] and "Epoch" in texts
    numbers = [text for text in texts if re.fullmatch("[0-9]+", text)]
    assert all(float(text) >= 0 for text in numbers)
    assert points <= 2 * 403 + 100


def test_wild_and_missing_epochs():
    curve = [1e6, None, 0.5, float("inf"), *np.linspace(0.5, 0.1, 30)]
    texts, titles, _ = parsed(history_chart("loss", curve, [None, *curve[1:]], 34))
    assert titles == ["best epoch 34: 0.100"]
    # A logarithmic axis.
    assert {"1", "100", "10000", "1e+06"} <= set(texts)
    parsed(history_chart("loss", [0.0, 0.0], [0.0, 0.0], 1))
    assert not parsed(history_chart("accuracy", [None], [None], 1))[1]


def test_charts_of_penalties_learning_and_reliability():
    chart = penalty_chart([(1e-4, 0.5), (1.0, 0.9), (1e4, 0.2)], 1.0)
    assert parsed(chart)[1] == ["90.0%"]
    interval = accuracy_interval(3, 4).to_record()
    parsed(learning_chart([{"images": 1, "accuracy": interval}]))
    points = [{"images": n, "accuracy": interval} for n in (90, 9)]
    texts, titles, _ = parsed(learning_chart(points))
    assert [text for text in texts if text in ("9", "90")] == ["9", "90"]
    assert titles == ["9 images: 75.0%", "90 images: 75.0%"]
    bins = [
        {"rows": 3, "confidence": 0.8, "accuracy": 1.0},
        {"rows": 0, "confidence": None, "accuracy": None},
    ]
    titles = parsed(reliability_chart("As trained", {"ece": 0.2, "bins": bins}))[1]
    assert titles == ["3 rows: confidence 80.0%, accuracy 100.0%"]


def test_charts_take_the_colours_and_the_font_of_the_page():
    svg = history_chart("loss", [0.5, 0.4], [0.6, 0.5], 2).svg
    assert "var(--cool)" in svg and "var(--warm)" in svg and "var(--soft)" in svg
    assert "DejaVu" not in svg and "<style" not in svg and "metadata" not in svg
    # Only places within the page itself are referred to.
    assert all(found.startswith("#") for found in re.findall(r'href="([^"]*)"', svg))


def test_the_material_is_sorted_for_a_reader(judged):
    material = gather(judged)
    assert [found["split"] for found in material.judged] == ["test", "validation"]
    assert material.best["head_id"] == judged.head_id()


SORT = """(() => {
  const table = document.querySelector("#heads table");
  table.querySelectorAll("th button")[%d].click();
  return [...table.tBodies[0].rows].map((row) => row.cells[%d].dataset.order);
})()"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"


@pytest.mark.skipif(chromium.find_browser() is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_well(judged, tmp_path):
    async def visit(tab):
        found = {}
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                await tab.look(width, scheme)
                await tab.evaluate(
                    "document.querySelectorAll('details').forEach(d => d.open = true)"
                )
                await tab.screenshot(tmp_path / f"{width}-{scheme}.png")
                found[width, scheme] = [await tab.evaluate(e) for e in (OVERFLOW, BACKGROUND)]
        first, second = [await tab.evaluate(SORT % (2, 2)) for _ in range(2)]
        return found, first, second, list(tab.complaints)

    page = Path(judged.storage.path("report.html")).as_uri()
    found, first, second, complaints = chromium.visit(page, visit, tmp_path / "profile")
    assert not complaints
    assert {overflow for overflow, _ in found.values()} == {0}
    for width in (1280, 390):
        assert found[width, "light"][1] == "rgb(246, 248, 250)"
        assert found[width, "dark"][1] == "rgb(14, 19, 24)"
        assert (tmp_path / f"{width}-dark.png").read_bytes().startswith(b"\x89PNG")
    losses = sorted(map(float, first))
    assert list(map(float, first)) == losses[::-1] and list(map(float, second)) == losses
