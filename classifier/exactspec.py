"""Heads that are not trained by gradient steps, as `--head` spells them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.errors import UsageError, unknown_choice

EXACT = ("ridge", "logistic", "knn")
METRICS = ("cosine", "euclidean")
VOTES = ("weighted", "majority")
# Per row, beside the mean squared error of targets 0 and 1 and features of deviation 1.
RIDGE_PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e4, 50))
LOGISTIC_PENALTIES = tuple(float(value) for value in np.geomspace(1e-6, 1, 7))


@dataclass(frozen=True)
class ExactSpec:
    """A head with one solution: no learning rate, no epochs, no seed.

    Attributes:
      kind: ``ridge``, ``logistic`` or ``knn``.
      neighbours: of ``knn``.
      metric: of ``knn``, ``cosine`` or ``euclidean``.
      vote: of ``knn``: ``weighted`` by similarity, or ``majority``.
    """

    kind: str
    neighbours: int = 0
    metric: str = "cosine"
    vote: str = "weighted"

    def __str__(self) -> str:
        if self.kind != "knn":
            return self.kind
        return f"knn:{self.neighbours}:{self.metric}:{self.vote}"

    @property
    def slug(self) -> str:
        """The spelling as a file name, such as ``knn-20-cosine-weighted``."""
        return str(self).replace(":", "-")

    @property
    def penalties(self) -> tuple[float, ...]:
        """The penalties to choose from when none are given."""
        return RIDGE_PENALTIES if self.kind == "ridge" else LOGISTIC_PENALTIES


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
        if options:
            raise UsageError(f"--head: {kind} takes no options, got {text!r}; penalties are --l2")
        return ExactSpec(kind)
    if not options or not re.fullmatch(r"[1-9][0-9]{0,4}", options[0]):
        raise UsageError(
            f"--head: knn needs its number of neighbours, such as knn:20, got {text!r}"
        )
    settings: dict[str, str] = {}
    for option in options[1:]:
        if option not in (*METRICS, *VOTES):
            raise unknown_choice(f"--head: {text!r}", option, (*METRICS, *VOTES))
        name = "metric" if option in METRICS else "vote"
        if name in settings:
            raise UsageError(f"--head: the {name} is given twice in {text!r}")
        settings[name] = option
    return ExactSpec("knn", int(options[0]), **settings)
