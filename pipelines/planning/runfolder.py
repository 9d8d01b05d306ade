"""What a run keeps beside its plan, in ``plans/<run_id>/``, until its books are closed. No Beam.

* ``facts.json``: what the driver knew when the workers started.
* ``dead/<chunk_id>.json``: a chunk that failed as a whole.
* ``divided/<chunk_id>.json``: a chunk that `--dedupe` committed in two parts.

Workers write here what a run's books need, because a runner may lose, repeat or reorder what they
return. The markers tell the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from featurestore import layout
from featurestore.io.storage import Storage
from pipelines.planning.plan import Plan


@dataclass(frozen=True)
class DeadChunk:
    """A chunk that failed as a whole; a later run tries it again.

    Attributes:
      chunk_id: 32 hex digits.
      first: key of its first input.
      images: how many are in it; 0 for a shard, whose images are not counted beforehand.
      kind: the class of the error.
      message: the text of the error, in one line.
    """

    chunk_id: str
    first: str
    images: int
    kind: str
    message: str


@dataclass(frozen=True)
class Division:
    """The two parts that ``--dedupe`` makes of a chunk.

    Attributes:
      first: chunk id of the images that are computed; "" when all are copies.
      copies: chunk id of the copies.
    """

    first: str
    copies: str


@dataclass(frozen=True)
class RunFacts:
    """What the driver knows of a run before its workers start.

    Attributes:
      run_id: of the run.
      started: seconds since the epoch.
      plan: what is to be extracted.
      inputs: their addresses without credentials.
      ignored: how many files are not images.
      ignored_names: the first thousand of them.
      steps: seconds that each step of the driver took: name -> seconds.
      workers: processes that share this machine; 0 when the runner decides.
      engine: which one was chosen, why, and what was measured; empty when workers choose.
      detached: whether the driver left without waiting.
    """

    run_id: str
    started: float
    plan: Plan = field(default_factory=Plan)
    inputs: tuple[str, ...] = ()
    ignored: int = 0
    ignored_names: tuple[str, ...] = field(default=(), repr=False)
    steps: Mapping[str, float] = field(default_factory=dict)
    workers: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)
    detached: bool = False


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
      storage: of the store.
      run_id: of the run.
    """

    storage: Storage
    run_id: str

    @property
    def path(self) -> str:
        """The folder, relative to the store."""
        return layout.plan_folder(self.run_id)

    def write_facts(self, facts: RunFacts) -> None:
        """Writes or replaces the facts."""
        self.storage.write(layout.facts_file(self.run_id), json.dumps(asdict(facts)) + "\n")

    def facts(self) -> RunFacts:
        """Reads the facts.

        Raises:
          FileNotFoundError: when the run's books are closed already.
        """
        record = json.loads(self.storage.read(layout.facts_file(self.run_id)))
        plan = record.pop("plan")
        files = tuple((name, count) for name, count in plan.pop("files"))
        facts = RunFacts(**record, plan=Plan(files, **plan))
        return replace(facts, inputs=tuple(facts.inputs), ignored_names=tuple(facts.ignored_names))

    def write_dead(self, chunk: DeadChunk) -> None:
        """Records a failed chunk; if another attempt commits it after all, the marker counts."""
        self._write("dead", chunk.chunk_id, asdict(chunk))

    def dead(self) -> dict[str, DeadChunk]:
        """Reads the failed chunks: chunk id -> its record."""
        return {name: DeadChunk(**record) for name, record in self._read("dead").items()}

    def write_division(self, chunk_id: str, division: Division) -> None:
        """Records the two parts of a planned chunk."""
        self._write("divided", chunk_id, asdict(division))

    def divided(self) -> dict[str, Division]:
        """Reads the divided chunks: planned chunk id -> its parts."""
        return {name: Division(**record) for name, record in self._read("divided").items()}

    def _write(self, folder: str, chunk_id: str, record: Mapping[str, Any]) -> None:
        self.storage.write(f"{self.path}/{folder}/{chunk_id}.json", json.dumps(record))

    def _read(self, folder: str) -> dict[str, Any]:
        listed = self.storage.list(f"{self.path}/{folder}")
        names = [file.name for file in listed if file.name.endswith(".json")]
        texts = self.storage.read_many([f"{self.path}/{folder}/{name}" for name in names])
        return {
            path.rpartition("/")[2].removesuffix(".json"): json.loads(text)
            for path, text in texts.items()
        }
