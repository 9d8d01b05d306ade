"""A live run keeps its plan and its attempts; those of dead runs are removed."""

import subprocess
import sys
import time

from support.commands import ROOT

from featurestore.io.storage import Storage
from pipelines.watching.lease import lease, sweep_dead_runs


def test_a_live_run_keeps_its_plan_and_attempts(tmp_path):
    storage = Storage(str(tmp_path))
    with lease(storage, "live"):
        storage.write("plans/live/000000.parquet", b"x")
        storage.write("tmp/live-chunk-1/part", b"x")
        storage.write("plans/dead/000000.parquet", b"x")
        storage.write("plans/dead/driver.lock", b"")
        storage.write("tmp/dead-chunk-1/part", b"x")
        # Another process looks: within one process flock does not exclude other handles.
        script = (
            "import sys, time; from featurestore.io.storage import Storage\n"
            "from pipelines.watching.lease import sweep_dead_runs\n"
            "print(sweep_dead_runs(Storage(sys.argv[1]), time.time()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "['dead']"
        assert [file.name for file in storage.list("tmp")] == ["live-chunk-1/part"]
        assert storage.exists("plans/live/000000.parquet")
    assert storage.list("plans") == []


def test_plans_elsewhere_die_of_age(tmp_path):
    storage = Storage(f"memory://{tmp_path.name}")
    storage.write("plans/old/000000.parquet", b"x")
    assert sweep_dead_runs(storage, time.time() + 3600) == []
    assert sweep_dead_runs(storage, time.time() + 8 * 24 * 3600) == ["old"]
