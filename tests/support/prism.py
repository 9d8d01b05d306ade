"""Beam's Prism with its workers: in a worker pool, or started by Prism itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.clusters import descendants, free_port, started
from support.commands import ROOT

# The folder of the programs `prism` and `container`, which `make prism-test` builds.
BINARIES = "HOARFROST_GO_PROGRAMS"


@dataclass(frozen=True)
class Prism:
    """A running Prism.

    Attributes:
      process: of the server.
      flags: of Beam, for a command that runs on it.
      job_port: of its job service.
      parent: of the workers' processes.
    """

    process: int
    flags: tuple[str, ...]
    job_port: int
    parent: int

    def workers(self) -> list[int]:
        """The ids of the Python processes that work now."""
        return [
            process for process in descendants(self.parent) if b"sdk_worker" in _command(process)
        ]


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def prism(folder: Path, workers: str, env: Mapping[str, str] | None = None) -> Iterator[Prism]:
    """Starts Prism and what it needs.

    Args:
      folder: for logs, and for the workers' own folder, which is not the command's.
      workers: ``pool`` for a worker pool, ``boot`` for processes that Prism starts by
        ``deploy/boot.sh``, or the path of another program that it is to start.
      env: variables of the workers.
    """
    programs = Path(os.environ[BINARIES])
    own = folder / "workers"
    own.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"PYTHONPATH": str(ROOT), "PATH": path, "HOARFROST_BOOT": programs / "container"}
    variables = {name: str(value) for name, value in (variables | (env or {})).items()}
    job_port, log = free_port(), folder / "prism.log"
    server = [programs / "prism", "-job_port", job_port, "-serve_http=false"]
    flags = ("--runner=PortableRunner", f"--job_endpoint=localhost:{job_port}")
    with started(server, job_port, log, folder, variables) as process:
        if workers != "pool":
            boot = ROOT / "deploy" / "boot.sh" if workers == "boot" else workers
            config = json.dumps({"command": str(boot)})
            flags += ("--environment_type=PROCESS", f"--environment_config={config}")
            yield Prism(process.pid, flags, job_port, process.pid)
            return
        port = free_port()
        module = "apache_beam.runners.worker.worker_pool_main"
        pool = [sys.executable, "-m", module, "--service_port", port]
        with started(pool, port, folder / "pool.log", own, variables) as parent:
            flags += ("--environment_type=EXTERNAL", f"--environment_config=localhost:{port}")
            yield Prism(process.pid, flags, job_port, parent.pid)
