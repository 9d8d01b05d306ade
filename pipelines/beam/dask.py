"""Beam's DaskRunner: whether its cluster answers, and into how many tasks it divides the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from featurestore.cli.command import say
from featurestore.errors import RunFailed, one_line
from featurestore.io.cores import cores

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# A thread that gets a slow task leaves the others to the rest. More tasks would hold one chunk
# each, so that a thread would compute nothing while it commits a chunk.
TASKS_PER_THREAD = 8
# The workers of a cluster that has none yet come while the job runs.
TASKS_OF_NO_THREADS = 64
CONNECT_SECONDS = 10


def divide(options: PipelineOptions) -> None:
    """Sets into how many tasks a step is divided.

    Beam would put 128 chunks into a task, so that most threads of a cluster would have none. A
    number of tasks that the user gave stays.

    Args:
      options: of a pipeline that runs on Dask.

    Raises:
      RunFailed: when no scheduler answers.
    """
    from apache_beam.runners.dask.dask_runner import DaskOptions

    dask = options.view_as(DaskOptions)
    threads = _threads(dask) if dask.address or dask.scheduler_file else cores()
    if not (dask.npartitions or dask.partition_size):
        dask.npartitions = TASKS_PER_THREAD * threads or TASKS_OF_NO_THREADS


def require_done(job: Any, after: str) -> None:
    """Refuses to take a job for done whose tasks got lost: Beam waits for them, and asks no more.

    Args:
      job: what Beam returned; of any runner.
      after: what is left, and what to do, for the message.

    Raises:
      RunFailed: when the scheduler went away, or dropped the job.
    """
    lost = [future for future in getattr(job, "futures", ()) if future.status != "finished"]
    if lost:
        raise RunFailed(f"the Dask scheduler went away or dropped the job; {after}")


def _threads(dask: Any) -> int:
    """Asks the scheduler that `DaskOptions` name for the threads of its workers."""
    from distributed import Client

    where = dask.address or dask.scheduler_file
    try:
        if not dask.address and not os.path.exists(where):
            # Dask would wait for the file for ever.
            raise FileNotFoundError("there is no such file")
        timeout = dask.timeout or CONNECT_SECONDS
        with Client(
            dask.address, scheduler_file=dask.scheduler_file, timeout=timeout, set_as_default=False
        ) as client:
            threads = sum(client.nthreads().values())
    except (OSError, ValueError) as error:
        raise RunFailed(
            f"no Dask scheduler answers at {where!r}: {one_line(error)}; start one with 'dask "
            "scheduler', or mend --dask_client_address or --dask_scheduler_file"
        ) from error
    if not threads:
        say(
            f"note: the Dask scheduler at {where} has no workers yet; the job waits for them; "
            "--dask_npartitions should be 8 times the threads to come",
            to_stderr=True,
        )
    return threads
