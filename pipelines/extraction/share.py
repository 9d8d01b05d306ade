"""How many of its machine's cores one worker process takes."""

from __future__ import annotations

import os
import sys

from featurestore.errors import UsageError
from featurestore.io.cores import cores

PROCESSES = "HOARFROST_PROCESSES"


def lane_count(processes: int) -> int:
    """Returns how many threads of this process decode and infer.

    A Dask worker has as many as its ``nthreads``: Dask divides a machine by them. Any other process
    has an equal share of the cores that it may use.

    Args:
      processes: that share this machine, as far as the driver knows. The environment variable
        ``HOARFROST_PROCESSES`` of this machine knows better.

    Raises:
      UsageError: when the variable is no number of processes.
    """
    return min(cores(), _dask_threads() or max(1, cores() // max(1, _processes(processes))))


def _processes(known: int) -> int:
    """Returns the number of worker processes on this machine."""
    text = os.environ.get(PROCESSES, "")
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(
            f"{PROCESSES} must be the number of worker processes on this machine, 1 or more, "
            f"got {text!r}"
        )
    return int(text or known)


def _dask_threads() -> int:
    """Returns the threads of the Dask worker that runs this thread's task; 0 outside of one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return 0
    try:
        return distributed.get_worker().state.nthreads
    except ValueError:
        return 0
