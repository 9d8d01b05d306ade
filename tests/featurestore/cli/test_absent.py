"""Optional packages stay out of a command until something needs them."""

import importlib
import importlib.util
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import run_command
from support.optional import optional

from featurestore.cli.absent import absent


def test_a_package_is_hidden_from_one_thread_and_for_a_while(tmp_path, monkeypatch):
    # Packages of its own: what a process has loaded already cannot be hidden.
    for name in ("hidden_away", "hidden_away_not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "part.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = []

    def look():
        found.append(importlib.util.find_spec("hidden_away"))

    with absent("hidden_away", "hidden_away_not.part"):
        for name in ("hidden_away", "hidden_away_not.part"):
            with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
                importlib.util.find_spec(name)
        # A name that only begins like a hidden one, and what is loaded already.
        assert importlib.util.find_spec("hidden_away_not") and importlib.import_module("json")
        other = threading.Thread(target=look)
        other.start()
        other.join()
    look()
    assert all(found) and len(found) == 2


def said_by(folder: Path, *lines: str) -> list[str]:
    """Runs lines of Python as a command, in a process of its own; returns the lines it prints."""
    optional("pandas")
    script = ["from featurestore.cli.command import main, say", "def run(argv):"]
    script += [f"    {line}" for line in lines]
    (folder / "script.py").write_text("\n".join([*script, "main(run)"]))
    done = run_command("script", cwd=folder)
    assert done.code == 0, done.err
    return done.out.splitlines()


def test_a_command_goes_without_pandas_until_a_data_frame_is_made(tmp_path):
    assert said_by(
        tmp_path,
        "import sys, pyarrow as pa",
        "table = pa.table({'n': [1, 2]})  # of a list",
        "say('present' if 'pandas' in sys.modules else 'absent')",
        "say(str(list(table.to_pandas().n)))",
    ) == ["absent", "[1, 2]"]


def test_labels_that_are_times_in_nanoseconds_stay_whole(tmp_path):
    times = pa.array([1_577_836_800_123_456_789, 1_577_836_800_000_000_000], pa.timestamp("ns"))
    pq.write_table(pa.table({"key": ["a", "b"], "taken": times}), tmp_path / "labels.parquet")
    assert said_by(
        tmp_path,
        "from featurestore.labels.cells import text_of",
        "from featurestore.labels.tables import open_table",
        "with open_table('labels.parquet', '--labels') as (_, rows):",
        "    for row in rows: say(text_of(row['taken']))",
    ) == ["2020-01-01 00:00:00.123456789", "2020-01-01"]
