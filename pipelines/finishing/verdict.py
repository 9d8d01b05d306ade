"""The verdict on a finished run: the checks that failed, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.ignored import note_lines
from featurestore.store import FeatureStore
from pipelines.options import Limits


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      store: the one with its rows.
      record: the content of ``summary.json``.
      problems: one line for each check that failed.
      exit_code: 0 done, 1 a check failed, 3 dead chunks or damaged shards.
    """

    store: FeatureStore
    record: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    exit_code: int = 0


def judge(store: FeatureStore, record: Mapping[str, Any], limits: Limits) -> Outcome:
    """Checks a finished run against its limits.

    Args:
      store: the one with the run's rows.
      record: of the run.
      limits: what the run may lose.

    Returns:
      The outcome. If several checks fail, exit code 1 takes precedence over 3.
    """
    problems, code = [], 0
    dead = record["ledger"]["dead_chunks"]
    if dead:
        first = record["dead"][0]
        problems.append(
            f"{dead} dead chunk{'s' if dead > 1 else ''}, first at {first['first']!r} "
            f"({first['kind']}: {first['message']}); run the same command again to try them again"
        )
        code = 0 if limits.allow_dead_chunks else 3
    if damaged := record["damaged"]:
        first = damaged[0]
        problems.append(
            f"{len(damaged)} damaged shard{'s' if len(damaged) > 1 else ''}, first "
            f"{first['shard']!r}: {first['damage']}; what could be read of it is stored; "
            "repair the shard and run the same command again"
        )
        code = 3
    whole = record["store_ledger"]
    images, bad = whole["images_in"], whole["quarantined"]
    if images and bad / images > limits.max_bad_fraction:
        problems.append(
            f"{bad} of {images} images in the store are quarantined, {bad / images:.2%}, more than "
            f"--max_bad_fraction {limits.max_bad_fraction:g} allows; look at the reasons in "
            f"{store.url}/quarantine, repair the images, or allow more"
        )
        code = 1
    # Another job at the same time may have committed every chunk of this one.
    stored = record["already_committed"] + record["committed_by_others"]
    if code == 0 and not (images and record["ledger"]["images_in"] + stored):
        problems.append(
            "no image was found in the input: "
            + ("; ".join(note_lines(record["notes"])) or "it holds other files")
        )
        code = 1
    return Outcome(store, record, tuple(problems), code)
