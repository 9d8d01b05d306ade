"""A Dask cluster on this machine: a scheduler and workers, each a process as a user starts it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from support.clusters import await_that, descendants, end, free_port, kill, listens, started
from support.commands import ROOT

WORKERS = 2


@dataclass
class DaskCluster:
    """A running cluster.

    Attributes:
      folder: for logs; `folder`/elsewhere is the workers' own.
      env: variables of the scheduler and the workers.
      port: of the scheduler.
      scheduler: its process.
      workers: their nannies' processes; each has its worker as a child.
    """

    folder: Path
    env: Mapping[str, str]
    port: int = field(default_factory=free_port)
    workers: list[Popen] = field(default_factory=list)

    @property
    def flags(self) -> tuple[str, str]:
        """What a command needs to run here."""
        return "--runner=DaskRunner", f"--dask_client_address={self.address}"

    @property
    def address(self) -> str:
        """The scheduler's."""
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts what does not run, and waits until all workers are there."""
        if not listens(self.port):
            self.stop()
            self._stack = ExitStack()
            flags = ("--port", self.port, "--host", "127.0.0.1")
            self.scheduler = self._start("scheduler", *flags, port=self.port)
        for nanny in [nanny for nanny in self.workers if nanny.poll() is not None]:
            self.workers.remove(nanny)
        while len(self.workers) < WORKERS:
            flags = ("--nthreads", 1, "--nworkers", 1, "--local-directory", self.folder / "scratch")
            self.workers.append(self._start("worker", self.address, *flags))
        await_that(lambda: self.threads() == WORKERS, f"{WORKERS} workers register")

    def stop(self) -> None:
        """Ends all processes."""
        if hasattr(self, "_stack"):
            self._stack.close()
        self.workers.clear()

    def threads(self) -> int:
        """Counts the threads of the workers that the scheduler knows."""
        from distributed import Client

        with Client(self.address, timeout=60, set_as_default=False) as client:
            return sum(client.nthreads().values())

    def kill_worker(self, machine: bool) -> None:
        """Kills the first worker by SIGKILL; its nanny starts another one, unless it dies too."""
        if machine:
            end(self.workers[0])
        else:
            kill(*descendants(self.workers[0].pid))

    def kill_scheduler(self) -> None:
        """Kills the scheduler; workers end when they notice."""
        end(self.scheduler)

    def _start(self, program: str, *arguments: object, port: int | None = None) -> Popen:
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "dask", program, *arguments, "--no-dashboard"]
        log = self.folder / f"{program}.log"
        return self._stack.enter_context(started(command, port, log, elsewhere, self.env))


@contextmanager
def dask_cluster(folder: Path, **env: str) -> Iterator[DaskCluster]:
    """Runs a scheduler and two workers of one thread, in another folder than the driver's.

    Args:
      folder: new, for their logs and files.
      **env: variables besides this process's own.
    """
    folder.mkdir()
    cluster = DaskCluster(folder, {"PYTHONPATH": str(ROOT), **env})
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
