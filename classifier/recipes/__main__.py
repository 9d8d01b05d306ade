"""Lists recipes, shows one, or copies it for you to change: ``python -m classifier.recipes``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from classifier.recipes.page import NOT_SCALED, page
from classifier.recipes.recipe import Recipe, read_recipe, recipe_names
from featurestore.cli.command import Parser, main, say
from featurestore.errors import UsageError, cannot_write
from featurestore.io.storage import Storage

KEPT = "give the same command again"
EPILOG = """\
examples:
  python -m pipelines.recipe vgg16-180 --input photos --output cats     # all steps
  python -m classifier.train --recipe vgg16-180 --store store --output run --lr 1e-4
  python -m classifier.recipes vgg16-180 --copy mine.yaml               # then --recipe mine.yaml
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.recipes",
        description="Lists the recipes that come with Hoarfrost: tutorials as files of flags.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("name", nargs="?", metavar="NAME", help="a recipe to show, or the path of your own")
    add("--copy", metavar="FILE.yaml", help="write the recipe to a new file, for you to change")
    form = result.add_mutually_exclusive_group().add_argument
    form("--markdown", action="store_true", help="print all recipes as a page, docs/recipes.md")
    form("--json", action="store_true", help="print the facts as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = parser().parse_args(argv)
    if args.copy and not args.name:
        raise UsageError("--copy: name the recipe to copy, such as vgg16-180 --copy mine.yaml")
    recipes = [read_recipe(name) for name in ([args.name] if args.name else recipe_names())]
    if args.copy:
        _copy(recipes[0], args.copy)
    if args.markdown:
        say(page(recipes).rstrip())
    elif args.json:
        say(json.dumps({"recipes": [_facts(recipe) for recipe in recipes]}, indent=2))
    elif args.copy:
        say(f"{args.name} written to {args.copy}; give it as --recipe {args.copy}")
    else:
        for line in _shown(recipes[0]) if args.name else _listed(recipes):
            say(line)
    return 0


def _copy(recipe: Recipe, target: str) -> None:
    folder, _, name = target.rpartition("/")
    if not name.endswith((".yaml", ".yml")):
        raise UsageError(f"--copy: {target!r} must end in .yaml, such as mine.yaml")
    try:
        created = Storage(folder or ("/" if target.startswith("/") else "."), {}).create(
            name, recipe.text
        )
    except (OSError, ValueError) as error:
        raise cannot_write("--copy", target, error) from error
    if not created:
        raise UsageError(f"--copy: {target!r} exists already and is kept; choose another name")


def _facts(recipe: Recipe) -> dict[str, Any]:
    sections = {
        section: {flag: list(setting.values) for flag, setting in settings.items()}
        for section, settings in recipe.sections.items()
    }
    return {
        "name": recipe.name,
        "about": {fact: list(texts) for fact, texts in recipe.about.items()},
        "sections": sections,
    }


def _listed(recipes: Sequence[Recipe]) -> list[str]:
    width = max(len(recipe.name) for recipe in recipes) + 2
    lines = [
        f"{recipe.name:{width}}{' '.join(recipe.about.get('title', ()))}" for recipe in recipes
    ]
    return [*lines, "", "python -m classifier.recipes NAME shows one with its source and settings"]


def _shown(recipe: Recipe) -> list[str]:
    lines = [f"{fact + ':':12} {text}" for fact, texts in recipe.about.items() for text in texts]
    for section, settings in recipe.sections.items():
        flags = " ".join(f"--{flag} {','.join(one.values)}" for flag, one in settings.items())
        lines.append(f"{section + ':':12} {flags or 'with its defaults'}")
    standardise = recipe.sections.get("train", {}).get("standardise")
    if standardise and standardise.values == ("none",):
        lines.append(f"{'note:':12} {NOT_SCALED}")
    return [*lines, "", f"python -m pipelines.recipe {recipe.name} --input URI --output DIR"]


if __name__ == "__main__":
    main(run, kept=KEPT)
