"""Flags that several benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from featurestore.cli.command import Parser
from featurestore.errors import unknown_choice

HELP = {
    "epochs": "epochs of each fit",
    "features": "length of a row",
    "images": "number of images",
    "image_size": "height and width of the base's input, in pixels",
    "per_class": "training images per class",
    "photographs": "number of photographs to compare on",
    "rounds": "rounds, each of all contenders",
    "rows": "number of rows",
    "seconds": "how long each way is measured",
    "seeds": "number of seeds",
    "timeout": "seconds that one command may take",
    "times": "factor of the long run's images",
}


def positive(text: str) -> int:
    """Reads a whole number of at least 1.

    Raises:
      ArgumentTypeError: if it is not one; the parser turns this into a one-line error.

    Example:
      >>> positive("12")
      12
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def counted_parser(name: str, description: str | None, **defaults: int) -> Parser:
    """Returns a parser with ``--write FILE`` and flags that take a number of at least 1.

    Args:
      name: of the command's module.
      description: of the command, for ``--help``.
      **defaults: flag, a key of `HELP` -> its default.
    """
    parser = Parser(prog=f"python -m {name}", description=description)
    for flag, default in defaults.items():
        text = f"{HELP[flag]} (default {default})"
        parser.add_argument(f"--{flag}", type=positive, default=default, metavar="N", help=text)
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also write the tables into this document"
    )
    return parser


def add_sets(parser: Parser, known: Collection[str], default: str = "") -> None:
    """Adds ``--sets``, whose value is a list of names.

    Args:
      parser: of a benchmark.
      known: names of all sets.
      default: those that are measured without the flag; "" for all.
    """

    def names(text: str) -> list[str]:
        # Another error than those of argparse, which would not list the choices.
        for name in text.split(","):
            if name not in known:
                raise unknown_choice("--sets", name, tuple(known))
        return text.split(",")

    default = default or ",".join(known)
    text = "sets of images, separated by commas (default %(default)s)"
    parser.add_argument("--sets", type=names, default=default, metavar="A,B", help=text)
