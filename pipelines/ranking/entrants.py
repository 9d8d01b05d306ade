"""The bases of a tournament as recipes, and the sample of images that all of them get."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from classifier.inputs import ImageRef, ShardRef
from classifier.presets.preset import is_preset
from classifier.recipes.recipe import Recipe, Setting
from featurestore.errors import UsageError
from pipelines.flags import extract_options
from pipelines.options import ExtractOptions
from pipelines.planning.listing import Listing
from pipelines.steps import Step, parser_of, steps_of

HEADS = ("ridge", "logistic")
POOLING = "avg"
# The end of a model's file, before a layer, whose name may hold colons and slashes.
_FILE = re.compile(r"\.(onnx|xml|keras|h5):", re.IGNORECASE)


class Entrant(NamedTuple):
    """A base that takes part.

    Attributes:
      name: of its folder in the output.
      typed: the base as the user gave it.
      steps: its extraction and its training.
    """

    name: str
    typed: str
    steps: tuple[Step, ...]

    @property
    def store(self) -> str:
        """Where its features are."""
        return self.steps[0].result

    @property
    def run(self) -> str:
        """Where its heads are."""
        return self.steps[1].result


def entrants_of(
    models: str, inputs: Sequence[str], output: str, changes: Sequence[str], per_class: int = 0
) -> list[Entrant]:
    """Turns a list of bases into the commands that each of them needs.

    Args:
      models: bases, separated by commas, each a value of ``--model``, or ``MODEL:LAYER``.
      inputs: addresses of images.
      output: the folder of all results.
      changes: settings for every base, such as ``extract.image_size=96``.
      per_class: images of each split and class at most; 0 for all.

    Raises:
      UsageError: for a mistake in any of the commands, before the first one runs.

    Example:
      >>> [one.name for one in entrants_of("VGG16,VGG16:block4_pool", ["in"], "out", [])]
      ['VGG16', 'VGG16-block4_pool']
    """
    entrants: list[Entrant] = []
    for typed in models.split(","):
        if not typed:
            raise UsageError(f"--models: a base between commas is empty in {models!r}")
        model, layer = _divided(typed)
        extract = {"model": model, "layer": layer, "pooling": POOLING}
        extract["limit_per_class"] = str(per_class) if per_class else ""
        settings = {
            flag: Setting((value,), f"--models {typed}") for flag, value in extract.items() if value
        }
        heads = {"head": Setting(HEADS, f"--models {typed}")}
        recipe = Recipe(typed, "", {}, {"extract": settings, "train": heads})
        recipe = recipe.with_settings(changes)
        if extra := set(recipe.sections) - {"extract", "train"}:
            raise UsageError(
                f"--set: a tournament has no step {min(extra)!r}; it has extract, train"
            )
        name = model.rstrip("/").rpartition("/")[2] + (f":{layer}" if layer else "")
        name = re.sub(r"[^\w.-]+", "-", name)
        if any(name == other.name for other in entrants):
            raise UsageError(f"--models: {typed!r} would use the folder {name!r} a second time")
        entrants.append(Entrant(name, typed, tuple(steps_of(recipe, inputs, f"{output}/{name}"))))
    return entrants


def _divided(typed: str) -> tuple[str, str]:
    """Returns the base and its layer; addresses, presets and layers may have colons themselves.

    Example:
      >>> _divided("gs://nets/vit.onnx:/blocks.0/Add:mean"), _divided("gs://nets/own.keras")
      (('gs://nets/vit.onnx', '/blocks.0/Add:mean'), ('gs://nets/own.keras', ''))
    """
    if end := _FILE.search(typed):
        return typed[: end.end() - 1], typed[end.end() :]
    model, colon, layer = typed.rpartition(":")
    if not colon or "/" in layer or is_preset(typed) and not is_preset(model):
        return typed, ""
    return model, layer


def sampled(entrant: Entrant, inputs: Sequence[str], sample: int) -> int:
    """Returns how many images of each split and class make up a sample.

    Args:
      entrant: whose flags say how the input is read.
      inputs: addresses of images.
      sample: number of images at most; 0 for all.

    Returns:
      A number for ``--limit_per_class``; 0 for all images.
    """
    if not sample:
        return 0
    options = _options(entrant)
    listing = Listing.open(options, inputs)
    return per_group(group_sizes(listing.refs), sample)


def _options(entrant: Entrant) -> ExtractOptions:
    return extract_options(parser_of("extract").parse_args(entrant.steps[0].arguments))


def group_sizes(refs: Iterable[ImageRef | ShardRef]) -> Counter[tuple]:
    """Counts images by split and labels.

    Raises:
      UsageError: for shards, whose images are known only when they are read.
    """
    sizes: Counter[tuple] = Counter()
    for ref in refs:
        if not isinstance(ref, ImageRef):
            raise UsageError(
                f"--sample counts images, and those of the shard {ref.uri!r} are known only when "
                "it is read; give --sample 0 to take whole shards, and name few of them"
            )
        sizes[ref.split, ref.labels] += 1
    return sizes


def per_group(sizes: Counter[tuple], sample: int) -> int:
    """Returns the largest number per group with which no more than `sample` images are taken.

    Returns:
      At least 1, however many groups there are; 0 if the sample holds them all.

    Example:
      >>> per_group(Counter(a=10, b=2), 8), per_group(Counter(a=10, b=2), 12)
      (6, 0)
    """
    if sum(sizes.values()) <= sample:
        return 0
    low, high = 1, max(sizes.values())
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes.values()) <= sample:
            low = middle
        else:
            high = middle - 1
    return low
