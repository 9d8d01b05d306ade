"""How many worker processes share a machine, and how many of its cores each takes."""

from __future__ import annotations

import os
import sys

from classifier.engines.device import may_use_gpu
from featurestore.errors import UsageError
from featurestore.io.cores import cores
from featurestore.io.memory import memory

PROCESSES = "HOARFROST_PROCESSES"
# A process in Python feeds about so many lanes of a fast base; see docs/performance.md, Many cores.
LANES_FED = 8
# What a process with VGG16 took at its peak, rounded up; see docs/performance.md.
PROCESS_BYTES = 2 << 30


def default_processes() -> int:
    """Returns how many worker processes the local runner uses on this machine, if none are asked.

    A GPU gets a single process, whose queue fills its batches.
    """
    return 1 if may_use_gpu() else processes_for(cores(), memory())


def processes_for(lanes: int, held: int) -> int:
    """Returns how many processes it takes to feed lanes, within the memory.

    Args:
      lanes: cores that decode and infer.
      held: bytes that all processes may hold.

    Example:
      >>> [processes_for(lanes, 256 << 30) for lanes in (1, 15, 16, 64)]
      [1, 1, 2, 8]
      >>> processes_for(64, 5 << 30)
      2
    """
    return max(1, min(lanes // LANES_FED, held // PROCESS_BYTES))


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
