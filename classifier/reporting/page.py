"""Renders a run's page with Jinja2 as one file that loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifier.reporting import facts, sections
from classifier.reporting.frame import asset, environment, script_hash
from classifier.reporting.material import Material
from classifier.reporting.pictures import Picture
from classifier.reporting.tables import leaderboard_table
from featurestore.errors import HoarfrostError


class ReportFailed(HoarfrostError):
    """A file of the run lacks something that the page needs."""


def render(material: Material, pictures: Mapping[str, Picture]) -> str:
    """Returns the page.

    Args:
      material: of the run.
      pictures: content hash -> picture, of the mistakes.

    Raises:
      ReportMissing: without Jinja2.
      ReportFailed: when a file of the run has other content than its name says.
    """
    templates = environment()
    from jinja2 import TemplateError

    try:
        content = _content(material)
        return templates.get_template("page.html").render(pictures=pictures, **content)
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ReportFailed(
            f"{material.run.url}: a file of the run was changed or damaged "
            f"({type(error).__name__}: {error}); evaluate the head again"
        ) from error


def _content(material: Material) -> dict[str, Any]:
    """Returns the template's variables."""
    style, script = (asset(name) for name in ("page.css", "page.js"))
    ledger, balance = facts.ledger_of(material)
    url, spec = material.run.url, material.run.spec
    return {
        "style": style,
        "script": script,
        "script_hash": script_hash(script),
        "kind": "training report",
        "title": url.rstrip("/").rpartition("/")[2] or url,
        "url": url,
        "best": material.best,
        "headline": facts.headline(material),
        "run_facts": facts.run_facts(material),
        "notes": material.summary.get("notes", []),
        "board": leaderboard_table(material.board),
        "curves": sections.curves(material),
        "evaluations": sections.evaluations(material),
        "accuracies": sections.accuracy_whiskers(material),
        "differences": sections.difference_whiskers(material),
        "identity": facts.identity_facts(spec),
        "numerics": facts.numerics_facts(spec),
        "ledger": ledger,
        "balance": balance,
    }
