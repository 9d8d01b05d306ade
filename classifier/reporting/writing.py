"""Writes ``RUN/report.html`` and ``RUN/card.md``; if they fail, a finished run must not fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.reporting.card import card_of, read_card
from classifier.reporting.frame import TROUBLE, Tell, environment, page_or_note, trouble_line
from classifier.reporting.material import Material, gather
from classifier.runs.run import CARD, REPORT, Run, dump_json, load_run

if TYPE_CHECKING:
    from classifier.reporting.pictures import Picture
    from featurestore import FeatureStore
    from featurestore.io.storage import Storage


def write_page(run: Run) -> str:
    """Writes the card and the page, with the images of mistakes if they can be read.

    Returns:
      The page's address.

    Raises:
      ReportMissing: without Jinja2.
      OSError: when the run cannot be written to.
    """
    from classifier.reporting.page import render

    material = gather(run)
    run.storage.write(CARD, card_of(material, read_card(run)))
    environment()  # Reports a missing Jinja2 before images are read.
    run.storage.write(REPORT, render(material, _pictures(run, material)))
    return f"{run.url}/{REPORT}"


def _pictures(run: Run, material: Material) -> dict[str, Picture]:
    mistakes = [image for found in material.judged for image in found.get("mistakes", [])]
    if not mistakes:
        return {}
    from classifier.reporting.pictures import pictures_of

    return pictures_of(mistakes, run.spec.pixels, run.storage.options)


def renew_page(run: Run, tell: Tell) -> bool:
    """Writes the page again, or reports in one line why it was skipped.

    Returns:
      Whether the page was written.
    """
    return page_or_note(lambda: write_page(run), REPORT, tell)


def judge_on_validation(run: Run, store: FeatureStore) -> None:
    """Evaluates the run's best head on the validation rows, and writes the result into the run."""
    from classifier.judgement.judge import VALIDATION, file_name, judge, save_temperature

    head_id = run.head_id()
    record = judge(run, head_id, store, VALIDATION).record
    save_temperature(run, record)
    run.storage.write(f"evaluation/{file_name(VALIDATION, head_id)}.json", dump_json(record))


def report_training(storage: Storage, store: FeatureStore, tell: Tell) -> None:
    """Judges a finished run on its validation rows and writes its page; reports errors as notes.

    Args:
      storage: the run's folder.
      store: it was trained on.
      tell: takes lines for the user.
    """
    run = load_run(storage.url, storage.options)
    try:
        judge_on_validation(run, store)
    except TROUBLE as error:
        tell(f"note: the best head was not judged on the validation rows: {trouble_line(error)}")
    renew_page(run, tell)
