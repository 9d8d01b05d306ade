"""Optional packages stay out of a command until something needs them."""

import datetime
import importlib
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import run_command
from support.optional import optional

from featurestore.cli.absent import absent


def test_a_package_is_hidden_from_one_thread_and_for_a_while():
    found = []

    def look():
        found.append(importlib.util.find_spec("json.tool"))

    with absent("json.tool", "wave"):
        for name in ("json.tool", "wave"):
            with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
                importlib.util.find_spec(name)
        # A name that only begins like a hidden one, and what is loaded already.
        assert importlib.util.find_spec("json.decoder") and importlib.import_module("json")
        other = threading.Thread(target=look)
        other.start()
        other.join()
    look()
    assert all(found) and len(found) == 2


def test_a_command_goes_without_pandas_until_a_data_frame_is_made(tmp_path):
    optional("pandas")
    script = (
        "import sys, pyarrow as pa\n"
        "from featurestore.cli.command import main\n"
        "def run(argv):\n"
        "    table = pa.table({'n': [1, 2]})\n"
        "    assert table.to_pylist() == [{'n': 1}, {'n': 2}] and 'pandas' not in sys.modules\n"
        "    assert list(table.to_pandas().n) == [1, 2]\n"
        "main(run)"
    )
    (tmp_path / "script.py").write_text(script)
    done = run_command("script", cwd=tmp_path)
    assert done.code == 0, done.err


def test_labels_that_are_times_in_nanoseconds_stay_whole(tmp_path):
    optional("pandas")
    times = pa.array([1_577_836_800_123_456_789, 1_577_836_800_000_000_000], pa.timestamp("ns"))
    pq.write_table(pa.table({"key": ["a", "b"], "taken": times}), tmp_path / "labels.parquet")
    script = (
        "from featurestore.cli.command import main, say\n"
        "from featurestore.labels.cells import text_of\n"
        "from featurestore.labels.tables import open_table\n"
        "def run(argv):\n"
        "    with open_table('labels.parquet', '--labels') as (_, rows):\n"
        "        for row in rows: say(text_of(row['taken']))\n"
        "main(run)"
    )
    (tmp_path / "script.py").write_text(script)
    done = run_command("script", cwd=tmp_path)
    assert done.code == 0, done.err
    day = datetime.date(2020, 1, 1).isoformat()
    assert done.out.split("\n")[:2] == [f"{day} 00:00:00.123456789", day]
