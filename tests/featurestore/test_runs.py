"""`featurestore runs`: one line of 80 columns per run, whatever its record holds."""

import json

import numpy as np
import pytest
from support.commands import ROOT, assert_one_line_error
from support.stores import add_chunk, make_rows, make_store, memory_growth

from featurestore import layout
from featurestore.io.storage import Storage
from featurestore.runs.finished import format_runs, list_runs, runs_record


def write_run(storage, number: int, *, time=None, **ledger):
    """Writes a run's record as an extraction does; returns the run's id."""
    run_id = f"20261125T{number:06d}000000Z-abcdef"
    counts = dict.fromkeys(("rows", "quarantined", "dead_images", "dead_chunks"), 0) | ledger
    record = {
        "run_id": run_id,
        "started": f"2026-11-25T10:{number % 60:02d}:00Z",
        "seconds": 7200.0,
        "images_per_second": counts["rows"] / 7200,
        "ledger": counts,
        "numerics": [{"engine": "tensorflow", "precision": "bfloat16"}] if counts["rows"] else [],
        "time": time or {},
    }
    storage.write(layout.run_file(run_id), json.dumps(record))
    return run_id


TIME = {"workers": 128, "retries": 12345, "to_first_image": 1200.0, "after_last_chunk": 0.0}
LARGEST = {"rows": 123_456_789, "quarantined": 99_950, "dead_chunks": 9_999}


def test_a_run_is_one_line_of_at_most_80_columns(tmp_path):
    storage = make_store(tmp_path).storage
    write_run(storage, 1, time=TIME, **LARGEST)
    write_run(storage, 2, rows=7, time={"workers": 1})
    write_run(storage, 3)
    priced = list(format_runs(storage, 0.25))
    for lines in (priced, list(format_runs(storage))):
        assert len(lines) == 1 + 3 + 1
        assert max(map(len, lines[:-1])) <= 80, lines
    heading, largest, small, empty, total = priced
    words = ["2026-11-25", "10:01", "2h00m", "123M", "17.1k", "100k", "9999", "12.3k", "128"]
    assert largest.split() == [*words, "64.00", "tensorflow", "bf16"]
    assert small.split()[-4:] == ["1", "0.50", "tensorflow", "bf16"]
    assert empty.split()[-2:] == ["-", "0.00"]
    assert total == (
        "3 runs: 123,456,796 images in 6h00m, 99,950 quarantined, 9,999 dead chunks, cost 64.50"
    )
    assert "cost" not in list(format_runs(storage))[0]


def test_the_rate_beyond_start_up_leaves_start_up_out(tmp_path):
    storage = make_store(tmp_path).storage
    write_run(storage, 1, rows=6_000, time=TIME)
    write_run(storage, 2, rows=6_000)
    first, second = list_runs(storage)
    assert (first.steady_images_per_second, second.steady_images_per_second) == (1.0, 0.0)


def test_a_damaged_record_and_an_unfinished_run_are_named(tmp_path):
    storage = make_store(tmp_path).storage
    good = write_run(storage, 1, rows=5)
    storage.write(layout.run_page(good), "<html>")
    storage.write("runs/broken.json", '{"run_id": ')
    storage.write("plans/later/000000.parquet", b"")
    lines = list(format_runs(storage))
    assert any(line.startswith("broken: the record cannot be read") for line in lines)
    assert "at work or interrupted: later" in lines
    assert lines[-1] == f"page of the newest run that has one: runs/{good}.html"
    record = runs_record(storage, 2.0)
    assert record["unfinished"] == ["later"]
    assert [run["cost"] for run in record["runs"]] == [0.0, None]
    assert record["runs"][1]["unreadable"].startswith("JSONDecodeError")


def test_large_records_are_read_a_few_at_a_time(tmp_path):
    store = make_store(tmp_path)
    add_chunk(store, make_rows(1), np.zeros((1, 8), np.float32))
    for number in range(100):
        run_id = write_run(store.storage, number, rows=1)
        record = json.loads(store.storage.read(layout.run_file(run_id)))
        record["ignored"] = ["a file that is not an image" * 4] * 10_000
        store.storage.write(layout.run_file(run_id), json.dumps(record))
    load = "from featurestore.runs.finished import list_runs"
    statement = f"{load}\nfor line in list_runs(store.storage): pass"
    # All records together are 110 MB.
    assert memory_growth(store, statement) < 80e6


def test_the_command(tmp_path, command):
    storage = make_store(tmp_path / "store").storage
    assert command("featurestore", "runs", "store").out.splitlines()[1:] == [
        "0 runs: 0 images in 0.0s, 0 quarantined, 0 dead chunks"
    ]
    run_id = write_run(storage, 1, rows=5, time={"workers": 2})
    done = command("featurestore", "runs", "store", "--json", "--price_per_hour", "1.5")
    facts = json.loads(done.out)
    assert facts["runs"][0]["run_id"] == run_id and facts["runs"][0]["cost"] == 6.0
    for price in ("-1", "nan"):
        wrong = command("featurestore", "runs", "store", "--price_per_hour", price)
        assert_one_line_error(wrong, 2, "--price_per_hour", price)
    assert_one_line_error(command("featurestore", "runs", "nowhere"), 2, "no feature store")


@pytest.mark.parametrize("name", ["embeddings", "maps"])
def test_records_of_older_versions_lack_what_was_added_later(name):
    lines = list(list_runs(Storage(str(ROOT / "tests/data/golden" / name)), 1.0))
    assert lines and not any(line.unreadable for line in lines)
