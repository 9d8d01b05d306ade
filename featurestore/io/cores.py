"""How many cores this process may use: its affinity, and the limits of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """Returns the number of cores that this process may use.

    A part of a core counts as one: with a limit of 2.5 cores, three threads use all of it.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, container_limit())))


@cache
def container_limit(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Returns the cores that Linux control groups grant this process; infinity without a limit.

    Each group that holds the process may set a limit, and the lowest one counts. A container sees
    its own group as the topmost one, but may still be told its name on the host.

    Args:
      groups: where the control groups are mounted.
      own: file that names the groups of this process, one hierarchy a line.
    """
    with suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
        return min(_limit(folder) for line in lines for folder in _folders(groups, line))
    return math.inf


def _folders(groups: Path, line: list[str]) -> Iterator[Path]:
    """Yields the folders of a group and of those around it, in one hierarchy."""
    _, controllers, name = line
    mounts = ["", "unified"] if not controllers else [controllers, *controllers.split(",")]
    for mount in mounts:
        path = groups / mount / name.strip("/")
        yield path
        yield from (folder for folder in path.parents if folder.is_relative_to(groups / mount))


def _limit(folder: Path) -> float:
    """Returns the cores that one group grants: by version 2's file, or by version 1's."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        # "max" stands for no limit, and is no number.
        return float(quota) / float(period)
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf
