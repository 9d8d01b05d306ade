"""The steps of a recipe as commands, with the folders that lead from one to the next."""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from classifier.exporting.options import SUFFIXES
from classifier.recipes.arguments import arguments_of, located
from classifier.recipes.recipe import COMMANDS, Recipe
from classifier.training.flags import options_of
from featurestore.cli.command import Parser, say
from featurestore.errors import UsageError
from pipelines.flags import extract_options

# What each step writes into the folder of a recipe; the name of an export gets its suffix.
RESULTS = {
    "lower": "lower",
    "extract": "store",
    "adopt": "run",
    "train": "run",
    "finetune": "finetuned",
    "export": "model",
    "predict": "predictions.png",
    "show": "images.png",
}
EXTRACTIONS = ("lower", "extract")
# The steps that make a run, in their order; the last run is exported.
RUNS = ("adopt", "train", "finetune")


class Step(NamedTuple):
    """A command to run.

    Attributes:
      section: of the recipe.
      arguments: as you would type them.
      result: what the command writes, "" for an evaluation.
    """

    section: str
    arguments: tuple[str, ...]
    result: str = ""

    @property
    def command(self) -> str:
        """The module to run."""
        return COMMANDS[self.section]

    @property
    def typed(self) -> str:
        """The step as you would type it."""
        return shlex.join(["python", "-m", self.command, *self.arguments])

    def value(self, flag: str) -> str:
        """Returns the value of a flag that it has, such as ``--store``."""
        return self.arguments[self.arguments.index(flag) + 1]


def steps_of(recipe: Recipe, inputs: Sequence[str], output: str) -> list[Step]:
    """Turns a recipe into commands, and checks the flags of all of them.

    Args:
      recipe: to run.
      inputs: addresses of images; none for the built-in sample.
      output: the folder of all results.

    Raises:
      UsageError: for a mistake in any section, so that it is found before the first step runs.
    """
    folder = output.rstrip("/")
    if not set(recipe.sections) & {*EXTRACTIONS, *RUNS}:
        raise UsageError(
            f"--recipe: {recipe.name} has no section to run; it needs extract and train, or adopt"
        )
    steps = []
    for section in recipe.sections:
        result = f"{folder}/{_result(recipe, section)}" if section in RESULTS else ""
        for own in _own(recipe, section, inputs, folder):
            typed = _typed(recipe, section, folder, own)
            steps.append(Step(section, (*own, *_output(section, result), *typed), result))
    return steps


def add_step_flags(parser: Parser, output: str, changes: str) -> None:
    """Adds the flags of a command that runs steps.

    Args:
      parser: of the command.
      output: help of ``--output``.
      changes: help of ``--set``.
    """
    add = parser.add_argument
    text = "images, as for pipelines.extract; default: the built-in handwritten digits"
    add("--input", nargs="+", action="extend", default=[], metavar="URI", help=text)
    add("--output", required=True, metavar="DIR", help=output)
    add("--set", nargs="+", action="extend", default=[], metavar="SECTION.FLAG=VALUE", help=changes)
    add("--plan", action="store_true", help="print the commands and run nothing")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")


def say_plan(steps: Sequence[Step], as_json: bool) -> None:
    """Prints the commands that would run."""
    commands = [step.typed for step in steps]
    for line in [json.dumps({"commands": commands}, indent=2)] if as_json else commands:
        say(line)


def parser_of(section: str) -> Parser:
    """Returns the parser of a section's command, which is found by name, as ``python -m`` does."""
    module = importlib.import_module(COMMANDS[section])
    make = getattr(module, "build_parser", None) or module.parser
    parser: Parser = make()
    return parser


def _result(recipe: Recipe, section: str) -> str:
    if section != "export":
        return RESULTS[section]
    asked = recipe.sections[section].get("format")
    return RESULTS[section] + (SUFFIXES.get(asked.values[0], "") if asked else "")


def _output(section: str, result: str) -> list[str]:
    if not result:
        return []
    return ["--plot" if section == "predict" else "--output", result]


def _own(recipe: Recipe, section: str, inputs: Sequence[str], folder: str) -> list[list[str]]:
    """Returns what leads into a step from earlier ones, for each command that it makes."""
    runs = [name for name in RUNS if name in recipe.sections]
    given = ["--input", *inputs] if inputs else []
    if section in EXTRACTIONS:
        return [[] if "input_store" in recipe.sections[section] else given]
    if section == "evaluate":
        return [[*_run(name, folder), *_store(recipe, name, folder)] for name in runs]
    own = {
        "adopt": [],
        "train": _store(recipe, section, folder),
        "finetune": [*_run("train", folder), *_store(recipe, section, folder)],
        "export": [*(_run(runs[-1], folder) if runs else []), *_checked_on(recipe, inputs)],
        "predict": [*(_run(runs[-1], folder) if runs else []), *given],
        "show": _store(recipe, section, folder),
    }
    return [own[section]]


def _checked_on(recipe: Recipe, inputs: Sequence[str]) -> list[str]:
    """Returns the images that an export is checked on where no store holds some."""
    has_store = any(name in recipe.sections for name in EXTRACTIONS)
    return ["--input", inputs[0]] if inputs and not has_store else []


def _run(name: str, folder: str) -> list[str]:
    return ["--run", f"{folder}/{RESULTS[name]}"]


def _store(recipe: Recipe, section: str, folder: str) -> list[str]:
    is_lower = section == "finetune" and "lower" in recipe.sections
    return ["--store", f"{folder}/{RESULTS['lower' if is_lower else 'extract']}"]


def _typed(recipe: Recipe, section: str, folder: str, own: Sequence[str]) -> list[str]:
    """Returns the settings of a section as arguments, after a check of their values."""
    settings = {
        name: one
        # The name of a step stands for what it writes.
        if name != "input_store"
        else one._replace(
            values=tuple(f"{folder}/{RESULTS.get(value, value)}" for value in one.values)
        )
        for name, one in recipe.sections[section].items()
    }
    parser = parser_of(section)
    with located(settings):
        typed = arguments_of(section, settings, parser)
        try:
            parsed = parser.parse_args([*own, *_output(section, "DIR"), *typed])
        except UsageError as error:
            fix = f"; give it as --set {section}.FLAG=VALUE" if "required" in str(error) else ""
            raise UsageError(f"{error}{fix}") from error
        if section in ("train", "finetune"):
            options_of(parsed, {})
        elif section in EXTRACTIONS:
            extract_options(parsed)
    return typed
