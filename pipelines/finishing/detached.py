"""Jobs that were submitted without waiting: how far they are, and closing their books."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from featurestore import layout
from featurestore.runs.unfinished import UnfinishedRun, unfinished_runs
from featurestore.store import FeatureStore
from pipelines.finishing.closing import close_books
from pipelines.finishing.outcomes import chunk_outcomes
from pipelines.planning.runfolder import RunFolder


@dataclass(frozen=True)
class Submitted:
    """Jobs that go on without this command.

    Attributes:
      runs: the jobs, oldest first.
    """

    runs: tuple[UnfinishedRun, ...]

    @property
    def lines(self) -> list[str]:
        """What the user can do now."""
        return [
            *(run.line for run in self.runs),
            "the same command shows how far it is, and finishes its books; after a job has failed, "
            "add --resubmit",
        ]


def detached_runs(store: FeatureStore) -> list[UnfinishedRun]:
    """Lists the jobs without a driver whose books are open."""
    return [run for run in unfinished_runs(store) if run.detached]


def still_running(
    store: FeatureStore, resubmit: bool, say: Callable[[str], None]
) -> Submitted | None:
    """Closes the books of jobs that are done.

    Args:
      store: of the jobs.
      resubmit: whether the others are given up.
      say: shows one line to the user.

    Returns:
      The jobs that are not done; None when there are none.
    """
    left, storage = [], store.storage
    for run in detached_runs(store):
        folder = RunFolder(storage, run.run_id)
        if not chunk_outcomes(storage, folder.facts(), store.markers()).missing:
            close_books(folder, say)
            say(f"run {run.run_id} is done, and its books are closed")
        elif resubmit:
            storage.remove(layout.plan_folder(run.run_id))
            say(f"given up: {run.line}; this run extracts the rest")
        else:
            left.append(run)
    return Submitted(tuple(left)) if left else None
