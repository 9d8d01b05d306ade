"""The page of an audit: pairs, doubtful labels and outliers as pictures, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from classifier.auditing.drift import describe
from classifier.auditing.findings import Findings, Record
from classifier.auditing.points import point_record
from classifier.auditing.rows import image_records
from classifier.reporting.frame import asset, environment, script_hash
from classifier.reporting.pictures import pictures_of
from classifier.reporting.tables import MOST_ROWS, Table, cell, count, share

if TYPE_CHECKING:
    from featurestore import FeatureStore

PACKAGE = "classifier.auditing"
SHOWN = 24
KEYS = ("leaks", "labels", "outliers")


def render(findings: Findings, store: FeatureStore, storage_options: Mapping[str, Any]) -> str:
    """Returns the page.

    Args:
      findings: to show.
      store: at the moment at which its rows were read.
      storage_options: for the images' file systems.

    Raises:
      ReportMissing: without Jinja2.
    """
    templates = environment(PACKAGE)
    tables = dict(
        zip(KEYS, (findings.leaks(), findings.labels(), findings.outlying()), strict=True)
    )
    shown = {name: records[:SHOWN] for name, records in tables.items()}
    wanted = {row for records in shown.values() for item in records for row in item["rows"]}
    records = image_records(store, wanted)
    pictures = pictures_of(list(records.values()), store.spec.pixels, storage_options)
    url, script = findings.store, asset("map.js", PACKAGE)
    return templates.get_template("audit.html").render(
        style=asset("page.css") + asset("map.css", PACKAGE),
        script=script,
        script_hash=script_hash(script),
        kind="audit",
        title=url.rstrip("/").rpartition("/")[2] or url,
        url=url,
        facts=_facts(findings, tables),
        findings=findings,
        shown=shown,
        totals={name: len(records) for name, records in tables.items()},
        hashes={row: record["content_hash"] for row, record in records.items()},
        pictures=pictures,
        points=point_record(findings, wanted),
        drift=_drift(findings.drift),
    )


def _drift(found: Record | None) -> Record | None:
    """Returns a comparison's paragraph and tables."""
    if not found:
        return None
    three = "{:.3f}".format
    classes = [
        [cell(item["label"], str), cell(item["coefficient"], three, item["coefficient"])]
        + [cell(item["p"], three), cell(item["rows"], count), cell(item["other_rows"], count)]
        for item in found["classes"][:MOST_ROWS]
    ]
    directions = [
        [cell(number, str), cell(item["share"], share, item["share"])]
        + [cell(item["shift"], three), cell(item["spread"], three)]
        for number, item in enumerate(found["directions"], 1)
    ]
    columns = ("Class", "Energy distance", "p", "Rows here", "Rows there")
    axes = ("Direction", "Share of variance", "Shift of the mean", "Ratio of spreads")
    left_out = len(found["classes"]) - len(classes)
    note = f"audit.json has {left_out:,} more classes" if left_out else ""
    return {
        "words": describe(found),
        "classes": Table([(name, name != "Class") for name in columns], classes, note),
        "directions": Table([(name, True) for name in axes], directions),
    }


def _facts(findings: Findings, tables: Mapping[str, list[Record]]) -> list[tuple[str, str]]:
    across = sum(record["across_splits"] for record in tables["leaks"])
    facts = [
        ("Images", count(len(findings.rows))),
        ("Copies across splits", count(across)),
        ("Copies within a split", count(len(tables["leaks"]) - across)),
        ("Doubtful labels", count(len(tables["labels"]))),
        ("Outliers", count(len(tables["outliers"]))),
    ]
    for item in findings.restated:
        facts.append((f"Accuracy on {item['split']}", share(item["all"]["estimate"])))
        if item["without"]:
            facts.append(("without leaked rows", share(item["without"]["estimate"])))
    return facts
