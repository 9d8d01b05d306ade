"""Remembers the trials of precisions: a machine makes one once for a base.

A trial takes longer than some hundred images, and another one of the same base on the same machine
measures the same speeds. What it says of closeness to float32 holds for its images only. So a trial
is kept if it had a full sample and every verdict was clear, and a choice other than float32 is
checked on a few images of each further input; see `pipelines.opening.engine`.
"""

from __future__ import annotations

import datetime
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from classifier.base.stored import zipped
from classifier.cachefolder import CacheFolder
from classifier.engines import EngineChoice
from classifier.engines.hardware import processor
from classifier.engines.options import Candidates
from classifier.engines.precision import Measured
from featurestore import __version__
from featurestore.spec import StoreSpec

SAMPLE_IMAGES = 64
_FACTS = "trial.json"
CACHE = CacheFolder("trials", (_FACTS,), most=64)


@dataclass(frozen=True)
class Trial:
    """A trial of precisions on a sample of an input.

    Attributes:
      images: of the sample.
      measured: one measurement per precision, float32 among them.
      day: when it was made, such as ``2026-11-26``.
    """

    images: int
    measured: tuple[Measured, ...]
    day: str

    @classmethod
    def today(cls, images: int, measured: Sequence[Measured]) -> Trial:
        """Makes the record of a trial that was made just now."""
        return cls(images, tuple(measured), datetime.date.today().isoformat())

    @property
    def is_clear(self) -> bool:
        """Whether it had a full sample, and no precision was near the bound."""
        return self.images == SAMPLE_IMAGES and all(each.is_clear for each in self.measured)

    @property
    def line(self) -> str:
        """The measurements in words, for the user."""
        return ", ".join(each.line for each in self.measured)


def trial_key(spec: StoreSpec, found: Candidates, batch_size: int, lanes: int) -> list[Any]:
    """Returns what a trial depends on: base, size, settings, processor, releases.

    Args:
      spec: of the new store.
      found: the engine, and the precisions to try.
      batch_size: images per call.
      lanes: concurrent calls.
    """
    # The same network under another name is the same network.
    named = ("model", "weights", "request")
    base = {name: value for name, value in asdict(spec.base).items() if name not in named}
    settings = (found.engine, found.precisions, batch_size, lanes)
    releases = {"hoarfrost": __version__, **EngineChoice(found.engine).numerics.versions}
    return [1, base, spec.pixels.image_size, settings, processor(), releases]


def recall(key: Sequence[Any]) -> Trial | None:
    """Returns the trial that this machine remembers, or None.

    Args:
      key: of `trial_key`.
    """
    kept = CACHE.read(key)
    if kept is None:
        return None
    with zipfile.ZipFile(io.BytesIO(kept)) as archive:
        facts = json.loads(archive.read(_FACTS))
    return Trial(facts["images"], tuple(map(Measured.from_record, facts["measured"])), facts["day"])


def remember(key: Sequence[Any], trial: Trial) -> None:
    """Keeps a trial, if it is clear, for later stores on this machine."""
    if trial.is_clear:
        measured = [each.to_record() for each in trial.measured]
        facts = {"images": trial.images, "measured": measured, "day": trial.day}
        CACHE.keep(key, zipped([(_FACTS, json.dumps(facts).encode())]))
