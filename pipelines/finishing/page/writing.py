"""Writes ``STORE/runs/<run_id>.html``; a page that fails must not fail a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from classifier.reporting.frame import Tell, asset, environment, page_or_note
from featurestore import layout
from featurestore.errors import RunFailed
from featurestore.store import FeatureStore

PACKAGE = "pipelines.finishing.page"


def write_run_page(
    store: FeatureStore, record: Mapping[str, Any], storage_options: Mapping[str, Any], tell: Tell
) -> bool:
    """Writes the page of a finished run, or reports in one line why it was skipped.

    Args:
      store: with the run's commits.
      record: of the run.
      storage_options: for the images in quarantine, which are read again for the page.
      tell: takes one line for the user.

    Returns:
      Whether the page was written.
    """
    name = layout.run_page(record["run_id"])
    return page_or_note(partial(_write, store, record, storage_options, name), name, tell)


def _write(
    store: FeatureStore, record: Mapping[str, Any], storage_options: Mapping[str, Any], name: str
) -> str:
    templates = environment(PACKAGE)  # Reports a missing Jinja2 before anything is read.
    from jinja2 import TemplateError

    from pipelines.finishing.page.material import gather, started_at
    from pipelines.finishing.page.sections import content
    from pipelines.finishing.page.thumbnails import thumbnails

    material = gather(store, record)
    images = [image for some in material.bad.values() for image in some]
    pictures = thumbnails(images, storage_options) if images else {}
    try:
        page = templates.get_template("run.html").render(
            style=asset("page.css"),
            script="",
            kind="run report",
            title=started_text(started_at(record)),
            url=f"{store.url}/{name}",
            **content(record, material, pictures),
        )
    except TemplateError as error:
        raise RunFailed(f"its template and its content do not fit: {error}") from error
    store.storage.write(name, page)
    return f"{store.url}/{name}"


def started_text(seconds: float) -> str:
    """Returns the page's title.

    Args:
      seconds: since the epoch.

    Example:
      >>> started_text(0)
      'Run of 1 January 1970, 00:00 UTC'
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"Run of {moment.day} {moment:%B %Y, %H:%M} UTC"
