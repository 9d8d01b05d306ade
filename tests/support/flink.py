"""A Flink cluster on this machine: one JobManager and TaskManagers, each in a JVM of its own.

The jars are those of PyPI's apache-flink-libraries. Flink's start scripts, which would work out the
memory of each JVM, are not in that package, so every size is given here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from support.clusters import await_that, end, free_port, started
from support.commands import ROOT

# What Java 17 must open for Flink: env.java.opts.all in the config.yaml of Flink's distribution.
EXPORTS = (
    "java.base/sun.net.util java.rmi/sun.rmi.registry jdk.compiler/com.sun.tools.javac.api "
    "jdk.compiler/com.sun.tools.javac.file jdk.compiler/com.sun.tools.javac.parser "
    "jdk.compiler/com.sun.tools.javac.tree jdk.compiler/com.sun.tools.javac.util "
    "java.security.jgss/sun.security.krb5"
).split()
OPENS = (
    "java.lang java.net java.io java.nio sun.nio.ch java.lang.reflect java.text java.time "
    "java.util java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks"
).split()
JAVA = [
    "java",
    *(f"--add-exports={name}=ALL-UNNAMED" for name in EXPORTS),
    *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in OPENS),
]
MEMORY = {
    "taskmanager.cpu.cores": "1.0",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "256m",
    "taskmanager.memory.network.max": "256m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}
# Sums of the sizes above, which the start scripts would compute.
HEAP, DIRECT = "-Xmx512m", "-XX:MaxDirectMemorySize=384m"


def minor_of(jar: str) -> str:
    """Returns the minor version of Flink that a job server of Beam is for, by its file's name."""
    found = re.search(r"flink-(\d+\.\d+)-job-server", Path(jar).name)
    assert found, f"not the name of a Flink job server of Beam: {jar}"
    return found[1]


def jars(minor: str) -> Path:
    """Returns the folder with the jars of a minor version of Flink; downloads them once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "hoarfrost-tests" / f"flink-{minor}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as downloaded:
            package = f"apache-flink-libraries~={minor}.0"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, "--dest", downloaded, package], check=True, timeout=900)
            (archive,) = Path(downloaded).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(downloaded, filter="data")
            (found,) = Path(downloaded).glob("*/deps/lib")
            shutil.move(found, folder)
    return folder


class Flink:
    """A running cluster.

    Args:
      minor: version of Flink, such as ``1.20``.
      folder: for configuration, logs and temporary files.
      stack: ends the cluster's processes.
    """

    def __init__(self, minor: str, folder: Path, stack: ExitStack) -> None:
        self._jars, self._folder, self._stack = jars(minor), folder, stack
        self.minor, self.rest, self._rpc = minor, free_port(), free_port()
        (folder / "conf").mkdir(parents=True)
        configuration = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": self._rpc,
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self.rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 1,
            "io.tmp.dirs": str(folder),
            # A dead TaskManager is noticed in seconds, not in a minute.
            "heartbeat.interval": "500 ms",
            "heartbeat.timeout": "5 s",
            # Flink restarts no failed batch job by default.
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 5,
            "restart-strategy.fixed-delay.delay": "1 s",
            **MEMORY,
        }
        text = "".join(f"{name}: {value}\n" for name, value in configuration.items())
        (folder / "conf" / "config.yaml").write_text(text)
        self.jobmanager = self._start_jobmanager()
        self.taskmanagers = {name: self._start_taskmanager(name) for name in ("one", "two")}
        self.await_taskmanagers(2)

    def _start(
        self, name: str, main: str, options: list[str], arguments: list[str], port: int | None
    ) -> subprocess.Popen:
        command = [*JAVA, *options, "-cp", f"{self._jars}/*", f"org.apache.flink.runtime.{main}"]
        command += ["--configDir", str(self._folder / "conf"), *arguments]
        log = self._folder / f"{name}.log"
        # Workers that a TaskManager starts inherit these.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"PYTHONPATH": str(ROOT), "PATH": path}
        return self._stack.enter_context(started(command, port, log, self._folder, variables))

    def _start_jobmanager(self) -> subprocess.Popen:
        main = "entrypoint.StandaloneSessionClusterEntrypoint"
        return self._start("jobmanager", main, ["-Xmx512m"], [], self.rest)

    def _start_taskmanager(self, name: str) -> subprocess.Popen:
        named = ["-D", f"taskmanager.resource-id={name}"]
        main = "taskexecutor.TaskManagerRunner"
        return self._start(f"taskmanager-{name}", main, [HEAP, DIRECT], named, None)

    def ask(self, path: str) -> Any:
        """Returns what Flink's REST answers."""
        with urlopen(f"http://127.0.0.1:{self.rest}{path}", timeout=30) as answer:
            return json.load(answer)

    def await_taskmanagers(self, count: int) -> None:
        """Waits until so many TaskManagers are registered, each with its slot."""

        def registered() -> bool:
            try:
                overview = self.ask("/overview")
                return overview["taskmanagers"] == overview["slots-total"] == count
            except OSError:
                # The port is open before the JobManager leads.
                return False

        await_that(registered, f"{count} TaskManagers; see {self._folder}")

    def kill_taskmanager(self, name: str) -> None:
        """Ends a TaskManager, and the workers that it started, by SIGKILL."""
        end(self.taskmanagers[name])

    def mend(self) -> None:
        """Starts what was killed again."""
        if self.jobmanager.poll() is not None:
            self.jobmanager = self._start_jobmanager()
        for name, process in self.taskmanagers.items():
            if process.poll() is not None:
                self.taskmanagers[name] = self._start_taskmanager(name)
        self.await_taskmanagers(2)

    def workers_of(self, step: str) -> dict[str, int]:
        """Returns which TaskManagers ran a step of any job: name -> records that it read there."""
        records: dict[str, int] = {}
        for job in self.ask("/jobs/overview")["jobs"]:
            for vertex in self.ask(f"/jobs/{job['jid']}")["vertices"]:
                if step in vertex["name"]:
                    path = f"/jobs/{job['jid']}/vertices/{vertex['id']}/taskmanagers"
                    for one in self.ask(path)["taskmanagers"]:
                        name, read = one["taskmanager-id"], one["metrics"]["read-records"]
                        records[name] = records.get(name, 0) + read
        return records
