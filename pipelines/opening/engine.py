"""Chooses the engine and precision of a new store, by measurement if you leave it to `auto`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from classifier.engines import Engine, EngineChoice, StoredBase, load_engine
from classifier.engines.conversion import unpack
from classifier.engines.engine import IDENTITY
from classifier.engines.hardware import Hardware
from classifier.engines.onepass import require_same_alone
from classifier.engines.openvino import OpenVINOEngine
from classifier.engines.options import (
    Candidates,
    EngineOptions,
    candidates,
    for_base,
    require_quantiser,
)
from classifier.engines.precision import (
    Measured,
    choose,
    features_of,
    lowest,
    measure,
    throughput,
)
from classifier.engines.quantisation import (
    CALIBRATION_IMAGES,
    HELD_OUT_IMAGES,
    divide,
    quantise,
    require_close,
)
from featurestore import layout
from featurestore.fields import Tap
from pipelines.extraction.share import lane_count
from pipelines.opening.trials import SAMPLE_IMAGES, Trial, recall, remember, trial_key

# Of a further input, on which a remembered choice of a low precision is checked.
CHECKED_IMAGES = 16
# How many images of the input at most -> uint8 (n, H, W, 3).
Sample = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Chosen:
    """A choice of engine and precision, with its reason.

    Attributes:
      choice: engine and precision.
      line: the choice and its reason, for the user.
      record: the same, JSON-ready, for the run's record.
      quantised: the int8 model, to be stored; or b"".
      engine: the engine itself, if it was loaded for a trial.
    """

    choice: EngineChoice
    line: str
    record: Mapping[str, Any] = field(default_factory=dict)
    quantised: bytes = field(default=b"", repr=False)
    engine: Engine | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, choice: EngineChoice, reason: str, **facts: Any) -> Chosen:
        """Makes the line and the record of a choice."""
        record = {**dataclasses.asdict(choice), "reason": reason, **facts}
        return cls(choice, f"engine: {choice.label}: {reason}", record)


def choose_engine(
    asked: EngineOptions,
    batch_size: int,
    base: StoredBase,
    sample: Sample,
    hardware: Callable[[], Hardware],
) -> Chosen:
    """Chooses the engine and precision of a new store.

    Args:
      asked: the user's flags.
      batch_size: images per call of the base.
      base: with the new store's spec.
      sample: draws images of the input; called only when something is measured.
      hardware: inspects this machine; not called for pixels.

    Raises:
      UsageError: when the engine or precision cannot run here, when int8 is too inexact, or when
        layers are other numbers beside each other than alone.
    """
    if base.spec.is_pixels:
        return Chosen.of(IDENTITY, "pixels are stored as they are")
    chosen = _chosen(for_base(asked, base.spec.base), batch_size, base, sample, hardware)
    require_same_alone(base, chosen.choice)
    return chosen


def _chosen(
    asked: EngineOptions,
    batch_size: int,
    base: StoredBase,
    sample: Sample,
    hardware: Callable[[], Hardware],
) -> Chosen:
    found = candidates(asked, hardware())

    def load(precision: str) -> Engine:
        choice = EngineChoice(found.engine, precision)
        return load_engine(base, choice, batch_size, lane_count(1))

    if found.precisions == ("int8",):
        require_quantiser(hardware())
        images = sample(CALIBRATION_IMAGES + 2 * HELD_OUT_IMAGES)
        return _quantised(asked, batch_size, base, load("float32"), images)
    if found.precisions == ("float32",):
        return Chosen.of(EngineChoice(found.engine), found.reason)
    key, taps = None, base.spec.base.taps
    if not (found.engine == "tensorflow" and hardware().gpu):
        key = trial_key(base.spec, found, batch_size, lane_count(1))
        chosen = None if asked.remeasure else _remembered(found, load, sample, recall(key), taps)
        if chosen:
            return chosen
    return _measured(found, load, sample(SAMPLE_IMAGES), key, taps)


def _remembered(
    found: Candidates,
    load: Callable[[str], Engine],
    sample: Sample,
    trial: Trial | None,
    taps: Sequence[Tap],
) -> Chosen | None:
    """Takes the choice of an earlier trial; None if this input does not clearly bear it out."""
    if trial is None:
        return None
    taken, why = _taken(found, trial)
    checked, engine = "", None
    if len(found.precisions) > 1 and taken.closeness is not None:
        images = sample(CHECKED_IMAGES)
        if not len(images):
            return None
        engine, exact = load(taken.precision), load("float32")
        rows, truth = (features_of(each, images, lane_count(1)) for each in (engine, exact))
        close = lowest(taps, rows, truth)
        here = dataclasses.replace(taken, closeness=close)
        if not (here.is_close and here.is_clear):
            return None
        checked = f"; on {len(images)} images of this input: {close.line}"
    chosen = Chosen.of(
        EngineChoice(found.engine, taken.precision),
        f"{why}; remembered from {trial.day}, on {trial.images} images: {trial.line}{checked}; "
        "--remeasure tries again",
        **_facts(trial),
        remembered=trial.day,
    )
    return dataclasses.replace(chosen, engine=engine)


def _measured(
    found: Candidates,
    load: Callable[[str], Engine],
    images: np.ndarray,
    key: list[Any] | None,
    taps: Sequence[Tap],
) -> Chosen:
    """Measures precisions on images of the input; takes yours, or else the fastest good one."""
    if not len(images):
        return Chosen.of(
            EngineChoice(found.engine, found.precisions[0]),
            f"{found.reason}; no image of the input could be read to try the other precisions",
        )
    tried = {name: load(name) for name in dict.fromkeys(("float32", *found.precisions))}
    trial = Trial.today(len(images), measure(tried, images, lane_count(1), taps))
    if key:
        remember(key, trial)
    taken, why = _taken(found, trial)
    chosen = Chosen.of(
        EngineChoice(found.engine, taken.precision),
        f"{why}; on {len(images)} images of the input: {trial.line}",
        **_facts(trial),
    )
    return dataclasses.replace(chosen, engine=tried[taken.precision])


def _taken(found: Candidates, trial: Trial) -> tuple[Measured, str]:
    """Returns the precision that a trial speaks for, or the one that was asked for, and why."""
    if len(found.precisions) > 1:
        return choose(trial.measured), "the fastest that agrees with float32"
    asked = found.precisions[0]
    return next(each for each in trial.measured if each.precision == asked), found.reason


def _facts(trial: Trial) -> dict[str, Any]:
    return {
        "images": trial.images,
        "measured": [each.to_record() for each in trial.measured],
    }


def _quantised(
    asked: EngineOptions, batch_size: int, base: StoredBase, exact: Engine, images: np.ndarray
) -> Chosen:
    """Makes the int8 model of a new store, and compares it with float32."""
    calibration, held_out = divide(images)
    model = quantise(base.packed(), calibration)
    choice = EngineChoice("openvino", "int8", layout.quantised_hash(model))
    engine = OpenVINOEngine(
        unpack(model, "the int8 model"),
        choice,
        base.spec.pixels.image_size,
        batch_size,
        lane_count(1),
    )
    rows, truth = (features_of(each, held_out, lane_count(1)) for each in (engine, exact))
    pooled = require_close(rows, truth, asked.allow_inexact, base.spec.base.taps)
    rates = throughput({"float32": exact, "int8": engine}, held_out, lane_count(1))
    chosen = Chosen.of(
        choice,
        f"calibrated on {len(calibration)} images of the input; on {len(held_out)} others pooled "
        f"features are {pooled.error_median:.2%} away from float32's (median; cosine at least "
        f"{pooled.cosine_minimum:.4f}); int8 {rates['int8']:,.0f} images/s, float32 "
        f"{rates['float32']:,.0f}",
        calibration_images=len(calibration),
        pooled=dataclasses.asdict(pooled),
        images_per_second={name: round(rate, 1) for name, rate in rates.items()},
    )
    return dataclasses.replace(chosen, quantised=model)
