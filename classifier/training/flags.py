"""The flags of hyperparameters: their help, their readers, and the grid file beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from classifier.features.division import VALIDATION
from classifier.heads.options import (
    CLASS_WEIGHTS,
    DEFAULT_MEMORY,
    MULTI_LABEL,
    OPTIMIZERS,
    STANDARDISE,
    TrainOptions,
)
from classifier.heads.spec import parse_head
from classifier.heads.stacked.checkpoint import SECONDS
from classifier.training.gridfile import read_grid
from featurestore import UsageError
from featurestore.cli.command import Parser
from featurestore.units import parse_size

T = TypeVar("T")


class Flag(NamedTuple):
    """A flag of hyperparameters.

    Attributes:
      read: turns the texts of its values, and its name, into a field of `TrainOptions`.
      single: whether it takes one value only.
      help: for the user; the default is added.
    """

    read: Callable[[Sequence[str], str], Any]
    single: bool
    help: str


def _numbers(texts: Sequence[str], flag: str, example: str = "1e-3,1e-4") -> tuple[float, ...]:
    """Reads numbers separated by commas.

    Raises:
      UsageError: for anything else.

    Example:
      >>> _numbers(["1e-3", "1,10"], "--lr")
      (0.001, 1.0, 10.0)
    """
    return _separated(float, "numbers", texts, flag, example)


def _wholes(texts: Sequence[str], flag: str) -> tuple[int, ...]:
    return _separated(int, "whole numbers", texts, flag, "0,1,2")


def _separated(
    read: Callable[[str], T], what: str, texts: Sequence[str], flag: str, example: str
) -> tuple[T, ...]:
    text = ",".join(texts)
    try:
        return tuple(read(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag}: expected {what} separated by commas, such as {example}, got {text!r}"
        ) from None


def _penalties(texts: Sequence[str], flag: str) -> tuple[float, ...]:
    """Reads `--l2`; nothing means what each head takes by default."""
    return _numbers(texts, flag, "1e-3,1e-1") if ",".join(texts) else ()


def _number(texts: Sequence[str], flag: str) -> float:
    try:
        return float(texts[0])
    except ValueError:
        raise UsageError(f"{flag}: expected a number, got {texts[0]!r}") from None


def _whole(texts: Sequence[str], flag: str) -> int:
    try:
        return int(texts[0])
    except ValueError:
        raise UsageError(f"{flag}: expected a whole number, got {texts[0]!r}") from None


def _names(texts: Sequence[str], flag: str) -> tuple[str, ...]:
    return tuple(",".join(texts).split(","))


def _text(texts: Sequence[str], flag: str) -> str:
    return texts[0]


FLAGS = {
    "head": Flag(
        lambda texts, flag: tuple(map(parse_head, texts)),
        False,
        "a head to train, see below; repeatable (default linear)",
    ),
    "lr": Flag(_numbers, False, "learning rates"),
    "l2": Flag(
        _penalties,
        False,
        "penalties of linear and mlp heads; ridge and logistic take them in a run without those",
    ),
    "dropout": Flag(_numbers, False, "dropout of every mlp head, instead of that in its --head"),
    "label_smoothing": Flag(_numbers, False, "label smoothing, from 0 to below 1"),
    "optimizer": Flag(_names, False, "|".join(OPTIMIZERS)),
    "momentum": Flag(_number, True, "momentum of sgd, from 0 to below 1"),
    "seed": Flag(_wholes, False, "seeds of weights and dropout; the first also orders the rows"),
    "epochs": Flag(_whole, True, "passes over the training rows"),
    "patience": Flag(
        _whole, True, "epochs without a lower validation loss after which a head ends; 0: never"
    ),
    "batch_size": Flag(_whole, True, "rows per step"),
    "class_weight": Flag(
        _text,
        True,
        f"{'|'.join(CLASS_WEIGHTS)}: balanced weighs each class inversely to its number of rows",
    ),
    "standardise": Flag(
        _text,
        True,
        f"{'|'.join(STANDARDISE)}: channel scales by the training rows' mean and deviation",
    ),
    "folds": Flag(
        _whole,
        True,
        "folds of the cross-validation that chooses ridge's penalty; 0: the validation rows choose",
    ),
    "multi_label": Flag(
        _text,
        True,
        f"{'|'.join(MULTI_LABEL)}: whether a row may have several labels; auto: on if one has",
    ),
    "validation": Flag(
        _text,
        True,
        f"{'|'.join(VALIDATION)}: auto takes the validation split, or a fifth of the training "
        "rows; train sets no rows aside, and validates on the training rows",
    ),
    "memory": Flag(
        lambda texts, flag: parse_size(texts[0], flag),
        True,
        "memory for features; if they need more, every epoch streams them from the store, its "
        "blocks in another order and their rows mixed in a pool",
    ),
    "augment": Flag(
        _text,
        True,
        "transforms of pixels, drawn afresh in each epoch, for heads that Keras trains, such as "
        "flip,rotation=0.1,zoom=0.2",
    ),
    "keep": Flag(
        _whole, True, "number of best linear and mlp heads to save; others are always saved"
    ),
}


def add_flags(
    result: Parser, names: Iterable[str] = tuple(FLAGS), own: Mapping[str, str] | None = None
) -> None:
    """Adds flags of hyperparameters; a flag that is not given becomes None, or its `own` default.

    Args:
      result: the parser.
      names: of the flags.
      own: defaults that differ from those of `TrainOptions`, as the user would type them.
    """
    own = own or {}
    defaults = {**TrainOptions().to_record(), "memory": DEFAULT_MEMORY, **own}
    for name in names:
        flag = FLAGS[name]
        if name == "head":
            result.add_argument("--head", action="append", metavar="HEAD", help=flag.help)
            continue
        default = defaults[name]
        shown = ",".join(map(str, default)) if isinstance(default, list) else default
        notes = [f"default {shown}"] if shown != "" else []
        notes += [] if flag.single else ["separate several with commas"]
        tail = f" ({'; '.join(notes)})" if notes else ""
        result.add_argument(
            f"--{name}", default=own.get(name), metavar=name.upper(), help=f"{flag.help}{tail}"
        )


def add_run_flags(result: Parser) -> None:
    """Adds what every command takes that trains into a new run."""
    add = result.add_argument
    add(
        "--checkpoint",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="time between two checkpoints; after a kill, the same command resumes from the last "
        "one (default %(default)g)",
    )
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    add("--overwrite", action="store_true", help="replace a run that is in --output")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")


def options_of(arguments: Any, file_system: Mapping[str, Any], **fixed: Any) -> TrainOptions:
    """Builds the options from parsed arguments and the grid file that they name.

    Args:
      arguments: of the flags of `add_flags`, and perhaps `--grid`.
      file_system: options of the file system of the grid file.
      fixed: fields of `TrainOptions` that have no flag here.

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
        **fixed,
        **{
            fields.get(name, name): FLAGS[name].read(texts, f"{where[name]}{name}")
            for name, texts in values.items()
        },
    )
