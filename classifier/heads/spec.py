"""What a head is, as `--head` spells it: one spec for every kind, and its parser."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore.errors import UsageError, unknown_choice
from featurestore.units import shortest

SPELLINGS = {
    "linear": "linear",
    "mlp": "mlp:UNITS",
    "conv": "conv:FILTERS,FILTERS...",
    "file": "FILE.yaml|FILE.keras",
    "ridge": "ridge",
    "logistic": "logistic",
    "knn": "knn:K",
}
ACTIVATIONS = ("relu", "linear")
METRICS = ("cosine", "euclidean")
VOTES = ("weighted", "majority")
CHOICES = {"mlp": {"activation": ACTIVATIONS}, "knn": {"metric": METRICS, "vote": VOTES}}
# What ridge and logistic choose from by default. A penalty is added to the mean loss of a row: for
# ridge, the squared error of targets 0 and 1 on features of deviation 1.
PENALTIES = {
    "ridge": tuple(float(value) for value in np.geomspace(1e-4, 1e4, 50)),
    "logistic": tuple(float(value) for value in np.geomspace(1e-6, 1, 7)),
}
MOST_UNITS = 1 << 20
FILES = (".yaml", ".yml", ".keras")
SPELLED_PENALTIES = 4


@dataclass(frozen=True)
class HeadSpec:
    """What a head is made of.

    ``linear``, ``mlp``, ``conv`` and ``file`` heads are trained by gradient steps. The other kinds
    are exact: they have one solution, and so no learning rate, no epochs and no seed.

    Attributes:
      kind: a key of `SPELLINGS`.
      units: hidden units of ``mlp``; 0 for all other kinds.
      activation: of the hidden layer of ``mlp``.
      dropout: fraction of the hidden values of ``mlp``, of the features of ``linear``, or of the
        last values of ``conv``, that training drops.
      neighbours: how many training rows vote in ``knn``.
      metric: of ``knn``: ``cosine`` or ``euclidean``.
      vote: of ``knn``: ``weighted`` by similarity, or ``majority``.
      l2: penalties that ``ridge`` or ``logistic`` chooses from, instead of `PENALTIES`.
      filters: of each convolution of ``conv``.
      file: of ``file``, the layers of a head.
    """

    kind: str = "linear"
    units: int = 0
    activation: str = "relu"
    dropout: float = 0.0
    neighbours: int = 0
    metric: str = "cosine"
    vote: str = "weighted"
    l2: tuple[float, ...] = ()
    filters: tuple[int, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        if self.kind not in SPELLINGS:
            raise unknown_choice("--head", self.kind, SPELLINGS.values())
        if self.kind == "mlp" and not 1 <= self.units <= MOST_UNITS:
            raise UsageError(f"--head: units must be 1 to {MOST_UNITS}, got {self.units}")
        if self.activation not in ACTIVATIONS:
            raise unknown_choice("--head: activation", self.activation, ACTIVATIONS)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--head: dropout must be from 0 to below 1, got {self.dropout}")
        for penalty in self.l2:
            if not 0 <= penalty < math.inf:
                raise UsageError(f"--head: {self.kind}: l2 must be 0 or more, got {penalty}")

    def __str__(self) -> str:
        if self.file:
            return self.file
        parts = [self.kind]
        if self.filters:
            parts.append(",".join(map(str, self.filters)))
        if self.kind == "mlp":
            parts += [str(self.units), self.activation]
        elif self.kind == "knn":
            parts += [str(self.neighbours), self.metric, self.vote]
        elif self.l2:
            parts.append(f"l2={','.join(map(repr, self.l2))}")
        parts += [f"dropout={shortest(self.dropout)}"] if self.dropout else []
        return ":".join(parts)

    @property
    def is_exact(self) -> bool:
        """Whether the head has one solution, instead of being trained by gradient steps."""
        return not (self.is_stacked or self.is_network)

    @property
    def is_stacked(self) -> bool:
        """Whether the head is trained beside others, over one stream."""
        return self.kind in ("linear", "mlp")

    @property
    def is_network(self) -> bool:
        """Whether Keras trains the head."""
        return self.kind in ("conv", "file")

    @property
    def slug(self) -> str:
        """The spelling as a file name, such as ``mlp-256-relu-dropout0.5`` or ``ridge-l20.1-1.0``.

        File names are short, so a number and a checksum stand for many penalties.
        """
        if self.file:
            checksum = hashlib.sha256(self.file.encode()).hexdigest()[:8]
            return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.file.rpartition('/')[2])}-{checksum}"
        if len(self.l2) > SPELLED_PENALTIES:
            checksum = hashlib.sha256(str(self).encode()).hexdigest()[:8]
            return f"{self.kind}-{len(self.l2)}l2-{checksum}"
        return str(self).replace(":", "-").replace("=", "").replace(",", "-")


def parse_head(text: str) -> HeadSpec:
    """Reads one `--head`.

    Args:
      text: ``linear[:dropout=P]``, ``mlp:UNITS[:relu|linear][:dropout=P]``, ``ridge[:l2=L,L]``,
        ``logistic[:l2=L,L]``, ``knn:K[:cosine|euclidean][:weighted|majority]``,
        ``conv:FILTERS,FILTERS[:dropout=P]``, or the name of a file.

    Raises:
      UsageError: naming the part that is wrong.

    Example:
      >>> parse_head("mlp:256:dropout=0.5").dropout
      0.5
      >>> str(parse_head("knn:20:euclidean"))
      'knn:20:euclidean:weighted'
    """
    if text.endswith(FILES):
        return HeadSpec("file", file=text)
    kind, *options = text.split(":")
    if kind not in SPELLINGS or kind == "file":
        raise unknown_choice("--head", kind, SPELLINGS.values())
    if kind == "linear":
        return HeadSpec(kind, **_settings(kind, options, text))
    if kind == "conv":
        return HeadSpec(kind, filters=_filters(options, text), **_settings(kind, options[1:], text))
    if kind not in CHOICES:
        return HeadSpec(kind, l2=_penalties(kind, options, text))
    counted, digits, example = ("units", 7, 256) if kind == "mlp" else ("neighbours", 5, 20)
    if not options or not re.fullmatch(rf"[1-9][0-9]{{0,{digits - 1}}}", options[0]):
        raise UsageError(
            f"--head: {kind} needs its number of {counted}, such as {kind}:{example}, got {text!r}"
        )
    counts: dict[str, Any] = {counted: int(options[0])}
    return HeadSpec(kind, **counts, **_settings(kind, options[1:], text))


def _filters(options: list[str], text: str) -> tuple[int, ...]:
    counts = options[0].split(",") if options else []
    if not counts or not all(re.fullmatch("[1-9][0-9]{0,4}", count) for count in counts):
        raise UsageError(
            "--head: conv needs the filters of each convolution, such as conv:32,64,128, got "
            f"{text!r}"
        )
    return tuple(map(int, counts))


def _settings(kind: str, options: list[str], text: str) -> dict[str, Any]:
    """Returns the fields that the options of ``linear``, ``mlp`` or ``knn`` set."""
    settings: dict[str, Any] = {}
    for option in options:
        name, value = _setting(kind, option, text)
        if name in settings:
            raise UsageError(f"--head: the {name} is given twice in {text!r}")
        settings[name] = value
    return settings


def _setting(kind: str, option: str, text: str) -> tuple[str, str | float]:
    """Returns (field, value) of one option."""
    name, equals, value = option.partition("=")
    if kind != "knn" and equals:
        if name != "dropout":
            raise unknown_choice(f"--head: {text!r}", name, ("dropout",))
        try:
            return name, float(value)
        except ValueError:
            raise UsageError(
                f"--head: dropout must be a number, got {value!r} in {text!r}"
            ) from None
    choices = CHOICES.get(kind, {})
    fields = {choice: field for field, names in choices.items() for choice in names}
    if option not in fields:
        more = ("dropout=P",) if kind != "knn" else ()
        raise unknown_choice(f"--head: {text!r}", option, (*fields, *more))
    return fields[option], option


def _penalties(kind: str, options: list[str], text: str) -> tuple[float, ...]:
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
