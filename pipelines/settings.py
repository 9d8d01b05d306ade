"""What the workers of an extraction need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from classifier.engines import EngineChoice
from classifier.engines.options import EngineOptions
from pipelines.options import SplitFractions, WatchOptions


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know; travels with the pipeline, and must stay small.

    Attributes:
      store_url: of the store.
      storage_options: for inputs and output.
      run_id: of this run.
      batch_size: images per call of the base.
      processes: number of worker processes that share this machine's cores.
      splits: shares for inputs without splits.
      progress_folder: where a worker on the driver's machine reports; or "".
      trust_model: whether a stored base may hold Python code (Lambda layers).
      dedupe: whether each distinct content is computed once.
      engine: the engine and precision of every worker; None when each worker's machine decides,
        see `pipelines.opening.settling`.
      asked: the user's choice of engine and precision.
      watching: where workers tell of their work.
    """

    store_url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    run_id: str = ""
    batch_size: int = 16
    processes: int = 1
    splits: SplitFractions = field(default_factory=SplitFractions, hash=False)
    progress_folder: str = ""
    trust_model: bool = False
    dedupe: bool = False
    engine: EngineChoice | None = None
    asked: EngineOptions = field(default_factory=EngineOptions)
    watching: WatchOptions = field(default_factory=WatchOptions)


@dataclass(frozen=True)
class DeriveSettings(WorkerSettings):
    """What a worker needs to know that derives features from another store's rows.

    Attributes:
      source_url: of that store; `MOMENT` in the run's folder names its commits.
      source_tap: of that store, if it has several; else "".
      layer: the path, in the base of `store_url`, of the layer whose maps it holds; "" for pixels.
    """

    source_url: str = ""
    source_tap: str = ""
    layer: str = ""


@dataclass(frozen=True)
class ScoreSettings(WorkerSettings):
    """What a worker needs to know that scores: `store_url` is the folder of the scores.

    Attributes:
      run_url: of the training run, which has the heads and the base.
      source_url: of the store whose rows are scored; "" for images.
    """

    run_url: str = ""
    source_url: str = ""
