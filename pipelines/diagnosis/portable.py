"""What a portable runner, Flink above all, would stumble over."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from featurestore.errors import cause
from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding
from pipelines.diagnosis.workers import image_findings

# Seconds that a server of the cluster may take to answer.
PATIENCE = 3.0
_LOCAL = ("[local]", "[auto]")
_ENVIRONMENTS = (
    "--environment_type=EXTERNAL --environment_config=HOST:PORT of a worker pool beside each "
    "TaskManager, or --environment_type=PROCESS with the boot program (docs/flink.md has both)"
)
_POOL = "python -m apache_beam.runners.worker.worker_pool_main --service_port=50000 serves one"


def flink_findings(case: Case) -> Iterator[Finding]:
    """Looks at a job on Flink: master, versions, job server, environment."""
    master = case.flag("flink_master") or "[auto]"
    yield from _version_findings(case)
    if not case.flag("job_endpoint"):
        yield from _job_server_findings(case)
    if master in _LOCAL:
        message = "no --flink_master: Beam starts a Flink of its own on this machine"
        yield Finding(WARNING, "flink", message, "--flink_master=HOST:8081 of your cluster")
        return
    yield from master_findings(master, case.flag("flink_version"))
    if case.flag("environment_type") == "LOOPBACK":
        message = "LOOPBACK runs all work on this machine, and TaskManagers must reach it"
        yield Finding(WARNING, "workers", message, _ENVIRONMENTS)
    if (case.flag("parallelism") or -1) < 1:
        message = "without --parallelism, Flink may run everything in one slot"
        yield Finding(ERROR, "flink", message, "--parallelism=N, the number of slots")
    yield from environment_findings(case)


def portable_findings(case: Case) -> Iterator[Finding]:
    """Looks at a job for a job server that runs already."""
    if endpoint := case.flag("job_endpoint"):
        yield from reach_findings("--job_endpoint", endpoint)
    yield from environment_findings(case)


def _version_findings(case: Case) -> Iterator[Finding]:
    version = case.flag("flink_version")
    if case.flink_versions and version not in case.flink_versions:
        message = f"Beam {case.beam_version} has no job server for Flink {version}"
        fix = f"--flink_version={'|'.join(case.flink_versions)}"
        yield Finding(ERROR, "versions", message, fix)


def _job_server_findings(case: Case) -> Iterator[Finding]:
    """Beam starts a job server from a jar, with Java."""
    launcher = case.flag("job_server_java_launcher") or "java"
    if not shutil.which(launcher):
        message = f"Beam starts Flink's job server with {launcher}, which is not on the path"
        yield Finding(ERROR, "packages", message, "install a Java runtime, 11 or 17")
    jar = case.flag("flink_job_server_jar")
    if jar and "://" not in jar and not Path(jar).is_file():
        yield Finding(ERROR, "flink", f"--flink_job_server_jar {jar} does not exist", "correct it")
    elif not jar:
        name = f"beam-runners-flink-{case.flag('flink_version')}-job-server-{case.beam_version}.jar"
        message = f"Beam downloads {name} from Maven Central when it starts"
        yield Finding(OK, "flink", message)


def master_findings(master: str, version: str) -> Iterator[Finding]:
    """Asks a JobManager for its version and its slots.

    Args:
      master: its REST address, with or without ``http://``.
      version: the minor version of Flink that the job server is for.
    """
    address = master if "://" in master else f"http://{master}"
    try:
        with urlopen(f"{address}/overview", timeout=PATIENCE) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        fix = "start the cluster, or correct --flink_master=HOST:REST_PORT"
        yield Finding(ERROR, "flink", f"no answer from {address}: {cause(error)}", fix)
        return
    running, slots = found.get("flink-version", "?"), found.get("slots-total", 0)
    message = f"Flink {running} with {found.get('taskmanagers', 0)} TaskManagers, {slots} slots"
    if not running.startswith(f"{version}."):
        fix = f"--flink_version={'.'.join(running.split('.')[:2])}, with the job server of it"
        yield Finding(ERROR, "versions", f"{message}; the job server is for {version}", fix)
    elif not slots:
        yield Finding(ERROR, "flink", f"{message}: nothing can run", "start TaskManagers")
    else:
        yield Finding(OK, "flink", message)


def environment_findings(case: Case) -> Iterator[Finding]:
    """Says whether the environment of the workers holds Hoarfrost."""
    kind, config = case.flag("environment_type"), case.flag("environment_config") or ""
    if not kind:
        message = "no --environment_type: workers would start Beam's stock image by Docker"
        yield Finding(ERROR, "workers", message, _ENVIRONMENTS)
    elif kind == "DOCKER":
        yield from image_findings(case)
    elif kind == "EXTERNAL" and ":" not in config:
        message = f"--environment_config must be HOST:PORT of a worker pool, got {config!r}"
        yield Finding(ERROR, "workers", message, _POOL)
    elif kind == "PROCESS" and not _is_process(config):
        message = f"--environment_config must be JSON with the boot program, got {config!r}"
        yield Finding(ERROR, "workers", message, """'{"command": "/opt/apache/beam/boot"}'""")
    else:
        yield Finding(OK, "workers", f"{kind} {config}".rstrip())


def _is_process(config: str) -> bool:
    try:
        return "command" in json.loads(config)
    except (ValueError, TypeError):
        return False


def reach_findings(flag: str, endpoint: str) -> Iterator[Finding]:
    """Tries to connect to a server of a cluster.

    Args:
      flag: that names it.
      endpoint: ``HOST:PORT``, perhaps after a protocol.
    """
    host, _, port = endpoint.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE):
            yield Finding(OK, "cluster", f"{flag} {endpoint} answers")
    except (OSError, ValueError, OverflowError) as error:
        message = f"{flag} {endpoint}: no connection: {cause(error)}"
        yield Finding(ERROR, "cluster", message, "start it, or correct HOST:PORT")
