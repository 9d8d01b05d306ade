"""What the benchmarks' command lines share."""

from __future__ import annotations

import argparse
from pathlib import Path

from featurestore.cli.command import Parser


def positive(text: str) -> int:
    """Reads a whole number from 1.

    Raises:
      ArgumentTypeError: which the parser turns into a one-line error.

    Example:
      >>> positive("12")
      12
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def counted_parser(name: str, description: str | None, **defaults: int) -> Parser:
    """Returns a parser of ``--write FILE`` and of counts from 1.

    Args:
      name: of the module.
      description: of the command.
      **defaults: of a count each, by its flag's name.
    """
    parser = Parser(prog=f"python -m {name}", description=description)
    for flag, default in defaults.items():
        parser.add_argument(
            f"--{flag}", type=positive, default=default, metavar="N", help=f"default {default}"
        )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables into this document too"
    )
    return parser
