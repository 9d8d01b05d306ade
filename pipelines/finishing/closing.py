"""Closes the books of a run where its driver may be gone: on a worker, or by a later command."""

from __future__ import annotations

from collections.abc import Callable

from featurestore import layout
from pipelines.finishing.page.writing import write_run_page
from pipelines.finishing.record import Opening, finish_run, opened
from pipelines.planning.runfolder import RunFolder


def close_books(folder: RunFolder, tell: Callable[[str], None], opening: Opening = opened) -> None:
    """Finishes a run; of one that nobody waits for, also writes the page and removes the plan.

    Args:
      folder: of the run.
      tell: takes one line for the user, if the page cannot be written.
      opening: opens the store.

    Raises:
      RunFailed: when a chunk or an image is unaccounted for.
    """
    storage = folder.storage
    try:
        facts = folder.facts()
    except FileNotFoundError:
        if storage.exists(layout.run_file(folder.run_id)):
            return  # The runner repeats a step that has succeeded.
        raise
    record = finish_run(storage, facts, opening)
    if facts.detached:
        write_run_page(opening(storage), record, storage.options, tell)
        storage.remove(folder.path)
