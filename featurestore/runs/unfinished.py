"""Runs of a store whose books are not closed: under way, left to a cluster, or broken off."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass

from featurestore import layout
from featurestore.store import FeatureStore


@dataclass(frozen=True)
class UnfinishedRun:
    """How far a run is.

    Attributes:
      run_id: of the run.
      started: seconds since the epoch.
      detached: whether its driver left without waiting (``--no_wait``).
      chunks: number of chunks of its plan.
      committed: how many chunks it has committed.
    """

    run_id: str
    started: float
    detached: bool
    chunks: int
    committed: int

    @property
    def line(self) -> str:
        """The facts in a line for the user."""
        moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.started))
        how = "submitted without waiting" if self.detached else "started"
        return (
            f"run {self.run_id}, {how} at {moment}: {self.committed:,} of {self.chunks:,} chunks "
            "are committed"
        )


def unfinished_runs(store: FeatureStore) -> list[UnfinishedRun]:
    """Lists the runs of a store that have a plan, oldest first."""
    storage = store.storage
    names = [file.name for file in storage.list("plans") if file.name.endswith("/facts.json")]
    texts = storage.read_many([f"plans/{name}" for name in names])
    if not texts:
        return []
    committed = Counter(marker.run_id for marker in store.markers().values())
    runs = []
    for text in texts.values():
        facts = json.loads(text)
        if storage.exists(layout.run_file(facts["run_id"])):
            continue
        runs.append(
            UnfinishedRun(
                run_id=facts["run_id"],
                started=facts["started"],
                detached=facts["detached"],
                chunks=facts["plan"]["chunks"],
                # With --dedupe a chunk may be committed in two parts.
                committed=min(facts["plan"]["chunks"], committed[facts["run_id"]]),
            )
        )
    return sorted(runs, key=lambda run: run.run_id)
