"""The flags of hyperparameters: their help, how each is read, and what a grid file adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from classifier.heads.head import parse_head
from classifier.heads.options import (
    CLASS_WEIGHTS,
    DEFAULT_MEMORY,
    MULTI_LABEL,
    OPTIMIZERS,
    STANDARDISE,
    TrainOptions,
)
from classifier.training.gridfile import read_grid
from featurestore import UsageError
from featurestore.cli.command import Parser
from featurestore.units import parse_size


class Flag(NamedTuple):
    """A flag of hyperparameters.

    Attributes:
      read: turns its values, texts, into a field of `TrainOptions`.
      single: whether it takes one value only.
      help: for the user; the default is added.
    """

    read: Callable[[Sequence[str], str], Any]
    single: bool
    help: str


def _numbers(texts: Sequence[str], flag: str) -> tuple[float, ...]:
    return numbers_of(",".join(texts), flag, "1e-3,1e-4")


def numbers_of(text: str, flag: str, example: str) -> tuple[float, ...]:
    """Reads numbers separated by commas.

    Raises:
      UsageError: for anything else.

    Example:
      >>> numbers_of("1e-3,1", "--lr", "1e-3,1e-4")
      (0.001, 1.0)
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag}: expected numbers separated by commas, such as {example}, got {text!r}"
        ) from None


def penalties_of(text: str) -> tuple[float, ...]:
    """Reads `--l2`; nothing means what each head takes by itself."""
    return numbers_of(text, "--l2", "1e-3,1e-1") if text else ()


def _wholes(texts: Sequence[str], flag: str) -> tuple[int, ...]:
    text = ",".join(texts)
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag}: expected whole numbers separated by commas, such as 0,1,2, got {text!r}"
        ) from None


def _whole(texts: Sequence[str], flag: str) -> int:
    try:
        return int(texts[0])
    except ValueError:
        raise UsageError(f"{flag}: expected a whole number, got {texts[0]!r}") from None


def _names(texts: Sequence[str], flag: str) -> tuple[str, ...]:
    return tuple(",".join(texts).split(","))


FLAGS = {
    "head": Flag(
        lambda texts, flag: tuple(map(parse_head, texts)), False, "repeatable; default linear"
    ),
    "lr": Flag(_numbers, False, "learning rates"),
    "l2": Flag(
        lambda texts, flag: penalties_of(",".join(texts)),
        False,
        "penalties of linear and mlp heads; of ridge and logistic where there are no others",
    ),
    "dropout": Flag(_numbers, False, "of every mlp head, instead of its own"),
    "label_smoothing": Flag(_numbers, False, "of the targets, from 0 to below 1"),
    "optimizer": Flag(_names, False, "|".join(OPTIMIZERS)),
    "seed": Flag(_wholes, False, "of weights and dropout; the first is that of the rows' order"),
    "epochs": Flag(_whole, True, "over the training rows"),
    "patience": Flag(
        _whole, True, "epochs without a lower validation loss after which a head ends; 0: never"
    ),
    "batch_size": Flag(_whole, True, "rows"),
    "class_weight": Flag(lambda texts, flag: texts[0], True, "|".join(CLASS_WEIGHTS)),
    "standardise": Flag(
        lambda texts, flag: texts[0],
        True,
        f"{'|'.join(STANDARDISE)}: scale features by the training rows' mean and deviation",
    ),
    "folds": Flag(
        _whole,
        True,
        "of the cross-validation for ridge, by content; 0: the validation rows choose the penalty",
    ),
    "multi_label": Flag(
        lambda texts, flag: texts[0],
        True,
        f"{'|'.join(MULTI_LABEL)}: whether a row may have several labels; auto: if one has",
    ),
    "memory": Flag(
        lambda texts, flag: parse_size(texts[0], flag),
        True,
        "for features: where they need more, they are streamed from the store, its blocks in "
        "another order every epoch and their rows mixed in a pool",
    ),
    "keep": Flag(_whole, True, "how many of the best heads are saved; exact ones always are"),
}


def add_flags(result: Parser, names: Iterable[str] = tuple(FLAGS)) -> None:
    """Adds flags of hyperparameters; one that is not given is None."""
    defaults = TrainOptions().to_record() | {"memory": DEFAULT_MEMORY}
    for name in names:
        flag = FLAGS[name]
        if name == "head":
            result.add_argument("--head", action="append", metavar="HEAD", help=flag.help)
            continue
        default = defaults[name]
        shown = ",".join(map(str, default)) if isinstance(default, list) else default
        commas = "" if flag.single else ", by commas"
        tail = f" (default {shown})" if shown != "" else ""
        result.add_argument(f"--{name}", metavar=name.upper(), help=f"{flag.help}{commas}{tail}")


def options_of(arguments: Any, file_system: Mapping[str, Any]) -> TrainOptions:
    """Builds the options from parsed arguments and the grid file they name.

    Args:
      arguments: as `add_flags` made them, and perhaps `grid`.
      file_system: options of the grid file's.

    Raises:
      UsageError: naming the flag, or the key of the file.
    """
    values: dict[str, Sequence[str]] = {}
    where = dict.fromkeys(FLAGS, "--")
    if getattr(arguments, "grid", None):
        singles = {name: flag.single for name, flag in FLAGS.items()}
        values |= read_grid(arguments.grid, singles, file_system)
        where |= dict.fromkeys(values, f"--grid {arguments.grid}: ")
    for name in FLAGS:
        given = getattr(arguments, name, None)
        if given is not None:
            values[name], where[name] = given if isinstance(given, list) else [given], "--"
    fields = {"head": "heads"}
    return TrainOptions(
        **{
            fields.get(name, name): FLAGS[name].read(texts, f"{where[name]}{name}")
            for name, texts in values.items()
        }
    )
