"""The page's facts on the run, the store's spec and the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifier.features.division import SOURCES
from classifier.reporting.material import Material
from classifier.reporting.sections import Fact, evaluation_facts
from classifier.reporting.tables import count, share
from classifier.reporting.whiskers import interval_text
from classifier.runs.run import ADOPTED, FINETUNED
from featurestore.spec import BaseSpec, StoreSpec

LEDGER = (
    ("images_in", "Images in"),
    ("rows", "Rows"),
    ("quarantined", "Quarantined"),
    ("dead_images", "In dead chunks"),
    ("dead_chunks", "Dead chunks"),
    ("duplicates", "Duplicates among rows"),
    ("ignored", "Files that are not images"),
)


def headline(material: Material) -> dict[str, Any]:
    """Returns the figure at the top: ``accuracy``, ``interval``, ``where`` and ``facts``."""
    best = material.best
    found = next((item for item in material.judged if "accuracy" in item), None)
    if found:
        interval = found.get("interval")
        return {
            "accuracy": share(found["accuracy"]),
            "interval": interval_text(interval) if interval else "",
            "where": f"{best['head_id']} on {found['split']}, {found['rows']:,} images",
            "facts": evaluation_facts(found)[2 if interval else 1 : -1],
        }
    accuracy = best.get("val_accuracy")
    where = " on the validation rows, at its best epoch"
    if best["head"] == ADOPTED:
        where = ", which was not evaluated yet"
    return {
        "accuracy": "–" if accuracy is None else share(accuracy),
        "interval": "",
        "where": f"{best['head_id']}{where}",
        "facts": [],
    }


def run_facts(material: Material) -> list[Fact]:
    """Returns the run's data, settings and time."""
    summary, config = material.summary, material.run.config
    facts = [("Adopted from", summary["adopted"])] if "adopted" in summary else []
    facts += [("Store", config.store_url)] if config.store_url else []
    facts.append(("Classes", count(len(config.classes))))
    for name, heading in (("train_rows", "Training rows"), ("validation_rows", "Validation rows")):
        if name in summary:
            facts.append((heading, count(summary[name])))
    if validation := summary.get("validation"):
        facts.append(("Validation", f"rows {SOURCES.get(validation, validation)}"))
    if "adopted" not in summary:
        facts.append(("Heads trained", count(len(material.board))))
    if failed := summary.get("failed"):
        facts.append(("Heads that diverged", ", ".join(item["head_id"] for item in failed)))
    if "seconds" in summary:
        facts.append(("Trained in", f"{summary['seconds']:,.1f} s"))
    for name, value in config.options.items():
        if name == FINETUNED:
            facts.append(("Fine-tuned", _tuned(value)))
        elif value not in (None, "", []):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.append((f"--{name}", text))
    return [*facts, ("Hoarfrost", config.version)]


def _tuned(record: Mapping[str, Any]) -> str:
    start = f"head {record['head_id']} of {record['run']}"
    if not record["layers"]:
        return f"{start}, on the frozen base"
    return (
        f"{start}, with the last {record['layers']} layers of the base from {record['first']}; "
        f"{record['trained']:,} trained numbers"
    )


def identity_facts(spec: StoreSpec) -> list[Fact]:
    """Returns the identity of the store's features."""
    base, pixels = spec.base, spec.pixels
    height, width = pixels.image_size
    shape = " × ".join(map(str, spec.feature_shape))
    facts = [
        *_base_facts(base),
        ("Pixels", f"{height} × {width}, {pixels.fit}, {pixels.resize}"),
        ("Transparency, EXIF", f"{pixels.alpha}, {pixels.exif}"),
        ("Features", f"{shape}, {spec.dtype}"),
        ("Views", f"{spec.views}" + (f", {spec.augment}" if spec.augment else "")),
    ]
    return [*facts, ("Identity", spec.identity_hash)]


def _base_facts(base: BaseSpec) -> list[Fact]:
    if not base.weights_hash:
        return [("Base", f"none: the images themselves, {base.layer}")]
    return [
        ("Base", f"{base.model}, weights {base.weights}"),
        ("Hash of the weights", base.weights_hash),
        ("Cut at", f"{base.layer}, pooling {base.pooling}"),
        ("Preprocessing", base.preprocess),
    ]


def numerics_facts(spec: StoreSpec) -> list[Fact]:
    """Returns how the features were computed when the store was created."""
    numerics = spec.numerics
    facts = [("Engine, precision", numerics.label), ("Decoder", numerics.decoder)]
    facts += sorted(numerics.versions.items())
    if numerics.model:
        facts.append(("int8 model", numerics.model))
    return [*facts, ("Tolerance", f"{spec.tolerance:g}"), ("Numerics", numerics.hash)]


def ledger_of(material: Material) -> tuple[list[Fact], str]:
    """Returns the store's ledger at the last evaluation, and a sentence on its balance."""
    found = next((item["ledger"] for item in material.evaluations if item.get("ledger")), None)
    if not found:
        return [], ""
    return [(name, count(found[key])) for key, name in LEDGER if key in found], _balance(found)


def _balance(ledger: Mapping[str, int]) -> str:
    out = ledger["rows"] + ledger["quarantined"] + ledger["dead_images"]
    sides = (
        f"{ledger['images_in']:,} images in = {ledger['rows']:,} rows + "
        f"{ledger['quarantined']:,} quarantined + {ledger['dead_images']:,} in dead chunks"
    )
    if ledger["images_in"] == out:
        return f"Every image is accounted for: {sides}."
    return f"The ledger is off: {sides.replace(' = ', ' but ')}."
