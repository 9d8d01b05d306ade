"""The settings of a recipe as arguments of a command, before those that the user typed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from classifier.recipes.recipe import Setting, Settings, read_recipe
from featurestore.cli.command import Parser
from featurestore.errors import UsageError, unknown_choice

HELP = "take flags from this recipe (python -m classifier.recipes lists them); given flags win"
METAVAR = "NAME|FILE.yaml"
# What YAML 1.1 reads as booleans.
_ON, _OFF = ("true", "yes", "on"), ("false", "no", "off")
# Flags that make no sense in a file.
_NEVER = ("help", "recipe")


@contextmanager
def with_recipe(section: str, parser: Parser, argv: Sequence[str]) -> Iterator[list[str]]:
    """Replaces ``--recipe`` by the flags of a section, without those that the user gave.

    Args:
      section: of the recipe.
      parser: of the command.
      argv: of the user.

    Yields:
      The arguments to parse. A `UsageError` that is raised inside the ``with`` statement and names
      a flag from the recipe gets the place of that flag.
    """
    asked = Parser(prog=parser.prog, add_help=False)
    asked.add_argument("--recipe")
    known, typed = asked.parse_known_args(argv)
    if known.recipe is None:
        yield list(argv)
        return
    settings = without(read_recipe(known.recipe).section(section), typed)
    with located(settings):
        yield [*arguments_of(section, settings, parser), *typed]


def without(settings: Settings, typed: Iterable[str]) -> dict[str, Setting]:
    """Returns the settings whose flags are not among typed arguments."""
    given = {text.partition("=")[0] for text in typed}
    return {name: setting for name, setting in settings.items() if f"--{name}" not in given}


@contextmanager
def located(settings: Settings) -> Iterator[None]:
    """Adds to a `UsageError` about a flag where a recipe sets the flag."""
    try:
        yield
    except UsageError as error:
        for flag in re.findall(r"--(\w+)", str(error)):
            if flag in settings:
                raise UsageError(f"{settings[flag].where}: {error}") from error
        raise


def arguments_of(section: str, settings: Settings, parser: Parser) -> list[str]:
    """Returns settings as arguments.

    Raises:
      UsageError: for a flag that the command does not have, with the nearest one.
    """
    options = {name: one for name, one in parser.options().items() if name not in _NEVER}
    result: list[str] = []
    for name, setting in settings.items():
        if name not in options:
            raise unknown_choice(f"{setting.where}: key of {section}", name, tuple(options))
        result += _typed(name, setting, options[name])
    return result


def _typed(name: str, setting: Setting, action: argparse.Action) -> list[str]:
    values = setting.values
    if action.nargs == 0:
        word = values[0].lower()
        if len(values) != 1 or word not in (*_ON, *_OFF):
            raise UsageError(
                f"{setting.where}: {name} is a switch and takes true or false, got "
                f"{', '.join(values)!r}"
            )
        return [f"--{name}"] if word in _ON else []
    if action.nargs == "+":
        return [f"--{name}", *values]
    # A flag such as --head is repeated; others take several values with commas.
    is_repeated = isinstance(action, argparse._AppendAction)
    texts = values if is_repeated else (",".join(values),)
    return [part for text in texts for part in _pair(name, text)]


def _pair(name: str, value: str) -> tuple[str, ...]:
    # argparse would take a value with a dash for a flag.
    return (f"--{name}={value}",) if value.startswith("-") else (f"--{name}", value)
