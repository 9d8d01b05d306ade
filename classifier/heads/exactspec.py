"""Heads that are not trained by gradient steps, as `--head` spells them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore.errors import UsageError, unknown_choice

EXACT = ("ridge", "logistic", "knn")
METRICS = ("cosine", "euclidean")
VOTES = ("weighted", "majority")
# Per row, beside the mean squared error of targets 0 and 1 and features of deviation 1.
RIDGE_PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e4, 50))
LOGISTIC_PENALTIES = tuple(float(value) for value in np.geomspace(1e-6, 1, 7))
SPELLED_PENALTIES = 4


@dataclass(frozen=True)
class ExactSpec:
    """A head with one solution: no learning rate, no epochs, no seed.

    Attributes:
      kind: ``ridge``, ``logistic`` or ``knn``.
      neighbours: of ``knn``.
      metric: of ``knn``, ``cosine`` or ``euclidean``.
      vote: of ``knn``: ``weighted`` by similarity, or ``majority``.
      l2: penalties that ``ridge`` or ``logistic`` is to choose from, instead of its own.
    """

    kind: str
    neighbours: int = 0
    metric: str = "cosine"
    vote: str = "weighted"
    l2: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for penalty in self.l2:
            if not 0 <= penalty < math.inf:
                raise UsageError(f"--head: {self.kind}: l2 must be 0 or more, got {penalty}")

    def __str__(self) -> str:
        if self.kind != "knn":
            l2 = ",".join(repr(value) for value in self.l2)
            return f"{self.kind}:l2={l2}" if l2 else self.kind
        return f"knn:{self.neighbours}:{self.metric}:{self.vote}"

    @property
    def slug(self) -> str:
        """The spelling as a file name, such as ``knn-20-cosine-weighted`` or ``ridge-l20.1-1.0``.

        Many penalties are spelled by their number and a checksum, as file names are short.
        """
        if len(self.l2) > SPELLED_PENALTIES:
            checksum = hashlib.sha256(str(self).encode()).hexdigest()[:8]
            return f"{self.kind}-{len(self.l2)}l2-{checksum}"
        return str(self).replace(":", "-").replace("=", "").replace(",", "-")

    @property
    def penalties(self) -> tuple[float, ...]:
        """The penalties that ``ridge`` or ``logistic`` is to choose from."""
        return self.l2 or (RIDGE_PENALTIES if self.kind == "ridge" else LOGISTIC_PENALTIES)


def parse_exact(kind: str, options: Sequence[str], text: str) -> ExactSpec:
    """Reads one `--head` that is exact.

    Args:
      kind: one of `EXACT`.
      options: what follows it.
      text: all of it, for messages.

    Raises:
      UsageError: naming the part that is not understood.

    Example:
      >>> str(parse_exact("knn", ["20", "euclidean"], "knn:20:euclidean"))
      'knn:20:euclidean:weighted'
    """
    if kind != "knn":
        return ExactSpec(kind, l2=_own_penalties(kind, options, text))
    if not options or not re.fullmatch(r"[1-9][0-9]{0,4}", options[0]):
        raise UsageError(
            f"--head: knn needs its number of neighbours, such as knn:20, got {text!r}"
        )
    settings: dict[str, Any] = {}
    for option in options[1:]:
        if option not in (*METRICS, *VOTES):
            raise unknown_choice(f"--head: {text!r}", option, (*METRICS, *VOTES))
        name = "metric" if option in METRICS else "vote"
        if name in settings:
            raise UsageError(f"--head: the {name} is given twice in {text!r}")
        settings[name] = option
    return ExactSpec("knn", int(options[0]), **settings)


def _own_penalties(kind: str, options: Sequence[str], text: str) -> tuple[float, ...]:
    if not options:
        return ()
    example = f"such as {kind}:l2=1e-3,1e-1"
    name, _, values = options[0].partition("=")
    if len(options) > 1 or name != "l2":
        raise UsageError(
            f"--head: {kind} takes no options, got {text!r}; only penalties of its own, {example}"
        )
    try:
        return tuple(dict.fromkeys(float(value) for value in values.split(",")))
    except ValueError:
        raise UsageError(f"--head: l2 must be numbers, {example}, got {text!r}") from None
