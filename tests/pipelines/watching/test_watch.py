"""What workers tell of their work: JSON lines in the log, and a file for Prometheus."""

import json
import logging
import os
import re
import time
from threading import Thread

import pytest
from support.commands import assert_one_line_error
from support.extraction import SMALL
from support.images import write_images

from featurestore import open_store
from featurestore.cli import logs
from featurestore.errors import UsageError
from pipelines.options import WatchOptions
from pipelines.watching import metrics
from pipelines.watching.metrics import BUCKETS, STALE_SECONDS, Metrics

# A line of Prometheus's text format: a name, labels, a value.
SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)\{(?P<labels>[a-z]+="[^"]*"(,[a-z]+="[^"]*")*)\} (?P<value>\S+)'
)


def samples(text: str) -> dict[str, float]:
    """Reads the text format as strictly as a collector does: name and own labels -> value."""
    found, described = {}, set()
    for line in text.splitlines():
        if line.startswith("# "):
            described.add(line.split()[2])
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        family = re.sub("_(bucket|sum|count)$", "", match["name"])
        assert family in described, line
        labels = dict(re.findall(r'([a-z]+)="([^"]*)"', match["labels"]))
        own = "".join(f" {labels[name]}" for name in ("state", "le") if name in labels)
        assert match["name"] + own not in found, "a metric twice"
        found[match["name"] + own] = float(match["value"])
    return found


def test_the_file_of_metrics_adds_up(tmp_path):
    folder = tmp_path / "new" / "metrics"
    counts = Metrics(str(folder), {"run": "r", "worker": "w"})
    counts.group(16, 1, [0.02, 0.3])
    counts.group(10, 0, [99.0])
    counts.dead_chunk()
    counts.chunk({"retries": 3, "lane_seconds": {"infer": 1.5, "idle": 0.5}})
    counts.chunk({})
    assert [file.name for file in folder.iterdir()] == ["hoarfrost-w.prom"]
    found = samples((folder / "hoarfrost-w.prom").read_text())
    assert found["hoarfrost_images_total"] == 26 and found["hoarfrost_quarantined_total"] == 1
    assert found["hoarfrost_chunks_total"] == 2 and found["hoarfrost_dead_chunks_total"] == 1
    assert found["hoarfrost_retries_total"] == 3
    assert found["hoarfrost_lane_seconds_total infer"] == 1.5
    assert found["hoarfrost_batch_seconds_count"] == 3
    assert found["hoarfrost_batch_seconds_sum"] == pytest.approx(99.32)
    # Buckets count everything up to their bound.
    shown = [found[f"hoarfrost_batch_seconds_bucket {bound}"] for bound in (*BUCKETS, "+Inf")]
    assert shown == sorted(shown) and shown[1:6] == [1, 1, 1, 1, 2] and shown[-2:] == [2, 3]


def test_threads_lose_no_count_and_a_reader_sees_whole_files(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "WRITE_SECONDS", 0.0)
    counts = Metrics(str(tmp_path), {"worker": "w"})

    def work():
        for _ in range(100):
            counts.group(2, 1, [0.1])

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(samples((tmp_path / "hoarfrost-w.prom").read_text())) == 18
    assert samples((tmp_path / "hoarfrost-w.prom").read_text())["hoarfrost_images_total"] == 800


def test_files_of_yesterday_are_removed_and_those_of_others_stay(tmp_path):
    old, new, other = (tmp_path / f"{name}.prom" for name in ("hoarfrost-a", "hoarfrost-b", "x"))
    for file in (old, new, other):
        file.write_text("")
    for file in (old, other):
        os.utime(file, (time.time() - STALE_SECONDS - 60,) * 2)
    Metrics(str(tmp_path), {"worker": "w"})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "hoarfrost-b.prom",
        "hoarfrost-w.prom",
        "x.prom",
    ]


def test_a_name_cannot_break_the_format(tmp_path):
    Metrics(str(tmp_path), {"worker": "w", "run": 'a"b\\c\nd'})
    line = (tmp_path / "hoarfrost-w.prom").read_text().splitlines()[2]
    assert line == r'hoarfrost_images_total{worker="w",run="a\"b\\c\nd"} 0'


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--metrics_folder: the worker on .* cannot write"):
        Metrics(str(tmp_path / "file" / "below"), {"worker": "w"})
    with pytest.raises(UsageError, match="a folder on each worker's machine"):
        WatchOptions("s3://bucket/metrics")
    Metrics("", {"worker": "w"}).group(1, 1, [1.0])


def test_a_disk_that_fills_up_ends_no_run(tmp_path):
    counts = Metrics(str(tmp_path / "m"), {"worker": "w"})
    (tmp_path / "m").rename(tmp_path / "gone")
    counts.chunk({"lane_seconds": {}})
    counts.dead_chunk()


def json_lines(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert list(line)[:3] == ["time", "level", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return found


@pytest.mark.parametrize("processes", [(), ("--direct_running_mode", "multi_processing")])
def test_workers_and_driver_log_json_lines(tmp_path, command, processes):
    write_images(tmp_path / "photos", 40)
    (tmp_path / "photos/dog/bad.jpg").write_bytes(b"nothing")
    (tmp_path / "broken.tar").write_bytes(b"no archive" * 100)
    done = command(
        "pipelines.extract", "--input", "photos", "broken.tar", "--output", "store", *SMALL,
        "--chunk_size", "16", "--metrics_folder", "prom", "--direct_num_workers", "2", *processes,
        HOARFROST_LOG="json",
    )  # fmt: skip
    assert done.code == 3, done
    lines = json_lines(done.err)
    store = open_store(tmp_path / "store")
    (run,) = {line["run"] for line in lines if "run" in line}
    messages = [line["message"] for line in lines]
    assert messages[0] == "run started" and "run finished" in messages
    committed = [line for line in lines if line["message"].endswith("rows")]
    assert {line["chunk"] for line in committed} == set(store.markers())
    assert {line["worker"] for line in committed} == {
        marker.time["worker"] for marker in store.markers().values()
    }
    assert sum(line["rows"] for line in committed) == 40
    (dead,) = [line for line in lines if line["level"] == "warning"]
    assert "broken.tar failed" in dead["message"] and dead["run"] == run and dead["chunk"]
    assert lines[-1]["level"] == "error" and "1 dead chunk" in lines[-1]["message"]
    files = list((tmp_path / "prom").glob("*.prom"))
    total = [samples(file.read_text()) for file in files]
    assert sum(found["hoarfrost_images_total"] for found in total) == 41
    assert sum(found["hoarfrost_chunks_total"] for found in total) == len(committed)
    assert sum(found["hoarfrost_dead_chunks_total"] for found in total) == 1


def test_without_the_variable_lines_stay_as_they_are(tmp_path, command):
    wrong = command("featurestore", "info", "nowhere")
    assert_one_line_error(wrong, 2, "no feature store")
    (line,) = json_lines(command("featurestore", "info", "nowhere", HOARFROST_LOG="json").err)
    assert line["level"] == "error" and f"error: {line['message']}\n" == wrong.err
    unknown = command("featurestore", "info", "nowhere", HOARFROST_LOG="xml")
    assert_one_line_error(unknown, 2, "HOARFROST_LOG", "'xml'", "json")


def test_a_record_without_fields_is_a_line_too(monkeypatch, capsys):
    monkeypatch.setenv(logs.VARIABLE, "json")
    logger = logging.getLogger("pipelines")
    before = logger.level
    logs.start()
    logs.start()
    try:
        logging.getLogger("pipelines.some.module").warning("%d of %s", 3, "four")
        logs.event(logging.getLogger("pipelines"), "there", run="", chunk="c", path=logs)
    finally:
        logger.setLevel(before)
        for name in logs.PACKAGES:
            logging.getLogger(name).handlers.clear()
    first, second = json_lines(capsys.readouterr().err)
    assert (first["level"], first["message"]) == ("warning", "3 of four")
    assert second["chunk"] == "c" and "run" not in second and "module" in second["path"]
