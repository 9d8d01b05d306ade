"""Writes a run's model card: what it learned from, how good it is, what it must be fed.

The card is Markdown, for people and for hubs. Its last section is the reader's own: licences and
purpose are facts that no file of the run holds, so they are filled in by hand and kept when the
card is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from classifier.features.division import SOURCES
from classifier.reporting.facts import identity_facts
from classifier.reporting.material import Material
from classifier.reporting.sections import Fact
from classifier.reporting.tables import count, share
from classifier.reporting.whiskers import interval_text
from classifier.runs.run import ADOPTED, CARD, Run
from featurestore.spec import PixelSpec

OWN = "## Licences and use"
_TO_FILL = f"""{OWN}

Fill in this section by hand. It is kept when the card is written again.

| question | answer |
|---|---|
| Licence of this model | *to fill in* |
| Licence of the base's weights | *to fill in* |
| Licence of the training images | *to fill in* |
| What it is for | *to fill in* |
| What it must not be used for | *to fill in* |
| Contact | *to fill in* |
"""
_SHOWN_CLASSES = 40


def read_card(run: Run) -> str:
    """Returns the run's card; "" if it has none yet."""
    try:
        return run.storage.read(CARD).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def card_of(material: Material, older: str = "", head_id: str = "") -> str:
    """Returns the card of a head.

    Args:
      material: of the run.
      older: an earlier card, whose last section is kept.
      head_id: of the head; "" means the best.
    """
    head_id = head_id or material.best["head_id"]
    run = material.run
    own = older[older.index(OWN) :] if OWN in older else _TO_FILL
    sections = (
        f"# Model card: {head_id}",
        _origin(run, head_id),
        "## What it must be fed",
        *_feeding(run),
        "## What it was trained on",
        _data(material),
        _classes(run.classes),
        "## How good it is",
        _quality(material, head_id),
        "## What its features are",
        _table(identity_facts(run.spec)),
        own.strip(),
    )
    return "\n\n".join(sections) + "\n"


def _origin(run: Run, head_id: str) -> str:
    config = run.config
    what = f"A classifier of images into {len(run.classes):,} classes: "
    if config.heads[head_id] == ADOPTED:
        return (
            f"{what}{run.spec.base.model}, trained elsewhere and adopted as it is by Hoarfrost "
            f"{config.version}."
        )
    return (
        f"{what}a head `{config.heads[head_id]}` on {_taken(run)}, trained by Hoarfrost "
        f"{config.version}."
    )


def _taken(run: Run) -> str:
    if run.spec.is_pixels:
        return "the images themselves, without a base"
    return f"the frozen base {run.spec.base.model}"


def _table(facts: list[Fact]) -> str:
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts)
    return f"| | |\n|---|---|\n{rows}"


def _cell(value: str) -> str:
    """Returns a text that cannot end its cell, or the table."""
    return " ".join(value.split()).replace("|", "\\|")


def _feeding(run: Run) -> Iterator[str]:
    height, width = run.spec.pixels.image_size
    yield (
        f"Pixels: `uint8 (n, {height}, {width}, 3)`, RGB from 0 to 255. Preprocessing is part of "
        "the model, so do not scale or normalise them. Make them from image files as the training "
        "did:"
    )
    yield "\n".join(f"* {line}" for line in _pixel_rules(run.spec.pixels))
    kind = "independent of each other" if run.multi_label else "which add up to 1"
    yield f"It returns `float32 (n, {len(run.classes)})` probabilities, {kind}."


def _pixel_rules(pixels: PixelSpec) -> Iterator[str]:
    transform = 'TensorFlow: `dct_method="INTEGER_ACCURATE"`'
    yield f"JPEG is decoded by libjpeg's accurate integer transform ({transform})"
    fits = {
        "squash": "the whole image is resized, whatever its aspect ratio",
        "crop": "the centre of the target's aspect ratio is cut out, then resized",
        "pad": "the image keeps its aspect ratio and gets black borders",
    }
    shorter = f"the shorter side becomes {pixels.shorter_side}, then the centre is cut out"
    with_or = "with" if pixels.resize.startswith("pillow-") else "without"
    fit = fits.get(pixels.fit, shorter)
    yield f"resized by `{pixels.resize}` {with_or} antialiasing; {fit}"
    behind = "ignored" if pixels.alpha == "drop" else f"replaced by {pixels.alpha}"
    yield f"transparency is {behind}"
    turned = "applied" if pixels.exif == "apply" else "ignored"
    yield f"the orientation that EXIF gives is {turned}"


def _data(material: Material) -> str:
    if not material.run.config.store_url:
        return "Unknown here: it was adopted, and its file does not say. Ask its makers."
    return _table(_data_facts(material))


def _data_facts(material: Material) -> list[Fact]:
    summary, config = material.summary, material.run.config
    facts = [("Feature store", config.store_url), ("Identity", config.spec.identity_hash)]
    if fingerprint := summary.get("store_fingerprint"):
        facts.append(("Fingerprint of its rows", fingerprint))
    if splits := summary.get("splits"):
        rows = (f"{name} {count(number)}" for name, number in sorted(splits.items()))
        facts.append(("Rows by split", ", ".join(rows)))
    for name, heading in (("train_rows", "Training rows"), ("validation_rows", "Validation rows")):
        if name in summary:
            facts.append((heading, count(summary[name])))
    if validation := summary.get("validation"):
        facts.append(("Validation", f"rows {SOURCES.get(validation, validation)}"))
    return facts


def _classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(_cell(name) for name in classes[:_SHOWN_CLASSES])
    rest = len(classes) - _SHOWN_CLASSES
    return f"Classes, in the order of the probabilities: {shown}" + (
        f" and {rest:,} more." if rest > 0 else "."
    )


def _quality(material: Material, head_id: str) -> str:
    found = [item for item in material.evaluations if item["head_id"] == head_id]
    lines = [line for item in found if (line := _judged(item))]
    if not lines:
        return (
            "Not evaluated yet. `python -m classifier.evaluate` measures it on rows that it was "
            "not trained on."
        )
    heading = (
        "| split | images | accuracy | 95% interval | top-5 | loss |\n|---|---|---|---|---|---|"
    )
    return "\n".join([heading, *lines])


def _judged(item: Mapping[str, Any]) -> str:
    if "accuracy" not in item:
        return ""
    interval = interval_text(item["interval"]) if item.get("interval") else ""
    top_5 = share(item["top_5_accuracy"]) if "top_5_accuracy" in item else ""
    return (
        f"| {_cell(item['split'])} | {count(item['rows'])} | {share(item['accuracy'])} | "
        f"{interval} | {top_5} | {item['loss']:.4f} |"
    )
