"""Writes ``RUN/report.html`` and ``RUN/card.md``; if they fail, a finished run must not fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from classifier.reporting.card import card_of, read_card
from classifier.reporting.material import Material, gather
from classifier.runs.run import CARD, REPORT, Run, dump_json, load_run
from featurestore.errors import HoarfrostError, one_line

if TYPE_CHECKING:
    from classifier.reporting.pictures import Picture
    from featurestore import FeatureStore
    from featurestore.io.storage import Storage

Tell = Callable[[str], None]
# Errors of judging and writing: files, rows, folders, memory.
TROUBLE = (HoarfrostError, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)


def write_page(run: Run) -> None:
    """Writes the card and the page, with the images of mistakes if they can be read.

    Raises:
      ReportMissing: without Jinja2.
      OSError: when the run cannot be written to.
    """
    from classifier.reporting.page import environment, render

    material = gather(run)
    run.storage.write(CARD, card_of(material, read_card(run)))
    environment()  # Reports a missing Jinja2 before images are read.
    run.storage.write(REPORT, render(material, _pictures(run, material)))


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
    try:
        write_page(run)
    except TROUBLE as error:
        tell(f"note: {REPORT} was skipped: {_line(error)}")
        return False
    tell(f"report: {run.url}/{REPORT}")
    return True


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
        tell(f"note: the best head was not judged on the validation rows: {_line(error)}")
    renew_page(run, tell)


def _line(error: BaseException) -> str:
    text = one_line(error)
    return text if isinstance(error, HoarfrostError) else f"{type(error).__name__}: {text}"
