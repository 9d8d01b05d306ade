"""Reads the files of a run for its page; damaged files count as missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier.judgement.judge import learning_file
from classifier.runs.run import SUMMARY, Run, history_file
from featurestore.io.storage import Storage

CURVES = 4
# The order in which a reader wants the splits.
_ORDER = ("test", "validation")


@dataclass(frozen=True)
class Material:
    """The content of a page.

    Attributes:
      run: the run that the page shows.
      board: the leaderboard, best first.
      summary: of the training.
      histories: head_id -> history, for the first heads of the leaderboard.
      evaluations: of all heads, those of the best head first, test before validation.
      learning: (split, head_id) -> points of a learning curve.
    """

    run: Run
    board: list[dict[str, Any]]
    summary: Mapping[str, Any]
    histories: Mapping[str, Mapping[str, Any]]
    evaluations: list[dict[str, Any]]
    learning: Mapping[tuple[str, str], list[dict[str, Any]]]

    @property
    def best(self) -> dict[str, Any]:
        """The first record of the leaderboard."""
        return self.board[0]

    @property
    def judged(self) -> list[dict[str, Any]]:
        """Evaluations of the best head."""
        return [found for found in self.evaluations if found["head_id"] == self.best["head_id"]]


def gather(run: Run) -> Material:
    """Reads the content of a page.

    Raises:
      CorruptStore: when the leaderboard cannot be read.
    """
    board = run.leaderboard()
    histories = {}
    for record in board[:CURVES]:
        found = read_record(run.storage, history_file(record["head_id"]))
        if isinstance(found, dict):
            histories[record["head_id"]] = found
    evaluations = _evaluations(run, board[0]["head_id"])
    names = [(found["split"], found["head_id"]) for found in evaluations]
    curves = {name: read_record(run.storage, learning_file(*name)) for name in names}
    learning = {name: points for name, points in curves.items() if isinstance(points, list)}
    return Material(
        run, board, read_record(run.storage, SUMMARY) or {}, histories, evaluations, learning
    )


def _evaluations(run: Run, best: str) -> list[dict[str, Any]]:
    files = [file.name for file in run.storage.list("evaluation") if file.name.endswith(".json")]
    found = [read_record(run.storage, f"evaluation/{name}") for name in files]
    known = [item for item in found if isinstance(item, dict) and "head_id" in item]

    def order(item: Mapping[str, Any]) -> tuple[Any, ...]:
        split = item["split"]
        place = _ORDER.index(split) if split in _ORDER else len(_ORDER)
        return item["head_id"] != best, item["head_id"], place, split

    return sorted(known, key=order)


def read_record(storage: Storage, name: str) -> Any:
    """Returns the content of a JSON file of a run; None if it is missing or damaged."""
    try:
        return json.loads(storage.read(name))
    except (OSError, ValueError):
        return None
