"""The recipes as a page of the documentation, docs/recipes.md."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from classifier.recipes.recipe import ABOUT, COMMANDS, Recipe

WIDTH = 100
INTRODUCTION = """\
A recipe is a file with the flags of each step of a tutorial. One command runs all its steps, and
prints each of them as you would type it:

```bash
python -m pipelines.recipe vgg16-180 --input photos --output cats
```

The same command resumes after an interruption. `--set train.epochs=5` changes a setting, and
`--plan` prints the commands and runs nothing. `pipelines.extract`, `classifier.train`,
`classifier.finetune`, `classifier.export` and `classifier.show` take their flags from a recipe with
`--recipe NAME`; flags that you give yourself win. With `--plan`, `pipelines.extract --recipe NAME
--input photos` measures what the extraction would cost on your machine.

`python -m classifier.recipes NAME --copy mine.yaml` writes a recipe to a file of your own, which
you give as `--recipe mine.yaml`. Its sections are the steps, its keys are flags without dashes, and
its values are what you would type. A list gives a flag several values. Where a step reads what an
earlier one wrote, `input_store: lower` names that step.

| section | command | what it does |
|---|---|---|
"""
WORDS = {
    "lower": "stores the maps or pixels that fine-tuning starts from",
    "extract": "stores the features that heads train on",
    "adopt": "takes a complete classifier as it is",
    "train": "trains the heads",
    "finetune": "trains upper layers of the base together with the head",
    "evaluate": "judges every head on the test split, else on the validation rows",
    "export": "writes the last head with its base as one file, and checks it",
    "predict": "classifies the input, with a bar chart",
    "show": "draws images with their labels",
}

NOT_SCALED = (
    "the features are not scaled, as in the tutorial; --standardise channel, the default of "
    "classifier.train, scales each channel by the training rows"
)
STANDARDISE = """\
Most recipes say `standardise: none`, as the tutorials do not scale their features. By default,
`classifier.train` scales each channel by the mean and deviation of the training rows; add `--set
train.standardise=channel` to compare.
"""


def page(recipes: Sequence[Recipe]) -> str:
    """Returns the page as Markdown."""
    rows = "".join(
        f"| `{section}` | `{command}` | {WORDS[section]} |\n"
        for section, command in COMMANDS.items()
    )
    parts = [
        "# Recipes\n",
        "<!-- python -m classifier.recipes --markdown writes this page. -->\n",
        INTRODUCTION + rows,
        STANDARDISE,
        *map(_recipe, recipes),
    ]
    return "\n".join(parts)


def _recipe(recipe: Recipe) -> str:
    about = dict(recipe.about)
    title = " ".join(about.pop("title", ()))
    items = [_item(f"**{fact.capitalize()}:** {' '.join(texts)}") for fact, texts in about.items()]
    sections = recipe.text[recipe.text.index(f"{ABOUT}:") :].splitlines()
    # What belongs to `about` is indented.
    start = next(n for n, line in enumerate(sections[1:], 1) if line and line[0] not in " #")
    code = "\n".join(sections[start:])
    head = textwrap.fill(title[0].upper() + title[1:] + ".", WIDTH)
    return f"## {recipe.name}\n\n{head}\n\n{''.join(items)}\n```yaml\n{code}\n```\n"


def _item(text: str) -> str:
    lines = textwrap.wrap(
        text, WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False
    )
    return "\n".join(lines) + "\n"
