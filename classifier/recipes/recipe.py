"""A recipe: a YAML file with the flags of each step of a tutorial, and what to know about it.

A section is a step, its keys are flags without their dashes, and its values are texts as you would
type them: YAML's own types are not used, so that ``1e-3`` and ``off`` reach the parser of the
command unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from classifier.training.gridfile import read_text
from featurestore.errors import UsageError, one_line, unknown_choice

if TYPE_CHECKING:
    import yaml

# The steps in the order in which they run, and the command of each.
COMMANDS = {
    "lower": "pipelines.extract",
    "extract": "pipelines.extract",
    "adopt": "classifier.adopt",
    "train": "classifier.train",
    "finetune": "classifier.finetune",
    "evaluate": "classifier.evaluate",
    "export": "classifier.export",
    "predict": "classifier.predict",
    "show": "classifier.show",
}
ABOUT = "about"
# What `about` says, in the order of its lines.
FACTS = ("title", "source", "input", "features", "published", "cost", "deviations", "note")
SUFFIXES = (".yaml", ".yml")
FOLDER = Path(__file__).parent


class Setting(NamedTuple):
    """The value of a flag.

    Attributes:
      values: one text, or several of a list.
      where: it stands, for messages.
    """

    values: tuple[str, ...]
    where: str


Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
      name: of a recipe that comes with Hoarfrost, or the path of a file.
      text: of the file.
      about: name of `FACTS` -> texts.
      sections: name of `COMMANDS` -> its settings, in the order of `COMMANDS`.
    """

    name: str
    text: str
    about: Mapping[str, tuple[str, ...]]
    sections: Mapping[str, Settings]

    def section(self, name: str) -> Settings:
        """Returns the settings of a step.

        Raises:
          UsageError: for a step that the recipe does not have, naming those that it has.
        """
        if name not in self.sections:
            raise UsageError(
                f"--recipe: {self.name} has no section {name!r}; it has {', '.join(self.sections)}"
            )
        return self.sections[name]

    def with_settings(self, texts: Sequence[str]) -> Recipe:
        """Returns the recipe with other settings, such as ``train.epochs=5``.

        Raises:
          UsageError: for a text of another form, or an unknown section.
        """
        sections = {name: dict(settings) for name, settings in self.sections.items()}
        for text in texts:
            place, equals, value = text.partition("=")
            section, dot, flag = place.partition(".")
            if not (equals and dot and flag and value):
                raise UsageError(f"--set: expected SECTION.FLAG=VALUE, got {text!r}")
            if section not in COMMANDS:
                raise unknown_choice(f"--set {text}: section", section, COMMANDS)
            sections.setdefault(section, {})[flag] = Setting((value,), f"--set {text}")
        return replace(self, sections=_in_order(sections))


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with Hoarfrost."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Args:
      name: of a recipe that comes with Hoarfrost, or a YAML file, local or any fsspec URL.

    Raises:
      UsageError: in one line, with the file and the line of the mistake.

    Example:
      >>> read_recipe("vgg16-150").sections["extract"]["image_size"].values
      ('150',)
    """
    if name.endswith(SUFFIXES) or "/" in name:
        return parse_recipe(name, read_text(name, "--recipe", "train: {lr: 1e-3}"))
    if name not in recipe_names():
        raise unknown_choice("--recipe", name, (*recipe_names(), "FILE.yaml"))
    return parse_recipe(name, (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def parse_recipe(name: str, text: str) -> Recipe:
    """Parses the text of a recipe; `name` is its own, or that of its file."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"--recipe: {name} is not YAML: {one_line(error)}") from error
    about: dict[str, tuple[str, ...]] = {}
    sections: dict[str, Settings] = {}
    for section, (node, where) in _mapping(root, name, "a recipe").items():
        if section == ABOUT:
            entries = _mapping(node, name, f"section {section}")
            about = {key: _texts(value, at, key) for key, (value, at) in entries.items()}
            for key, (_, at) in entries.items():
                if key not in FACTS:
                    raise unknown_choice(f"{at}: key of {ABOUT}", key, FACTS)
        elif section in COMMANDS:
            sections[section] = {
                key: Setting(_texts(value, at, f"{section}: {key}"), at)
                for key, (value, at) in _mapping(node, name, f"section {section}").items()
            }
        else:
            raise unknown_choice(f"{where}: section", section, (ABOUT, *COMMANDS))
    return Recipe(name, text, about, _in_order(sections))


def _in_order(sections: Mapping[str, Settings]) -> dict[str, Settings]:
    return {name: sections[name] for name in COMMANDS if name in sections}


def _mapping(node: yaml.Node | None, name: str, what: str) -> dict[str, tuple[yaml.Node, str]]:
    """Returns the entries of a mapping, each with its place; those of an empty value are none."""
    import yaml

    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(
            f"{_place(name, node)}: {what} must be a mapping, such as 'train: {{lr: 1e-3}}'"
        )
    found: dict[str, tuple[yaml.Node, str]] = {}
    for key, value in node.value:
        where = _place(name, key)
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{where}: a key of {what} must be a word")
        if key.value in found:
            raise UsageError(f"{where}: {key.value!r} is given twice in {what}; keep one")
        found[key.value] = value, where
    return found


def _texts(node: yaml.Node, where: str, what: str) -> tuple[str, ...]:
    import yaml

    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for item in nodes:
        if not isinstance(item, yaml.ScalarNode):
            raise UsageError(f"{where}: {what} takes a text or number, or a list of them")
    texts = tuple(str(item.value) for item in nodes)
    if not texts or "" in texts:
        raise UsageError(f"{where}: {what} needs a value; leave the key out for the default")
    return texts


def _place(name: str, node: yaml.Node) -> str:
    label = name if name.endswith(SUFFIXES) else f"recipe {name}"
    return f"{label}, line {node.start_mark.line + 1}"
