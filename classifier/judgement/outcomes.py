"""Collects the outcome of each row during an evaluation.

Kept are one bit per row, the log-probabilities of a sample within a budget, and the worst mistakes
with the addresses of their images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from classifier.features.sample import ContentSample, content_numbers
from classifier.heads.probabilities import log_probabilities

# The columns that lead from a mistake to its image.
ROW_COLUMNS = ("key", "uri", "size", "etag", "content_hash", "width", "height")
MOST_MISTAKES = 12


@dataclass(frozen=True)
class Mistake:
    """A row that a head classified wrongly.

    Attributes:
      label: the true class.
      predicted: the class that the head predicted.
      confidence: probability of the predicted class.
      key, uri, size, etag, content_hash, width, height: the store's columns.
    """

    label: str
    predicted: str
    confidence: float
    key: str
    uri: str
    size: int
    etag: str
    content_hash: str
    width: int
    height: int

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)


@dataclass
class Outcomes:
    """The outcomes of rows with one label each.

    Attributes:
      classes: names, in the head's order.
      most_mistakes: the largest number to keep, those of the highest confidence.
      logs: log-probabilities and labels of the rows, or of a sample within bounded memory.
    """

    classes: tuple[str, ...]
    most_mistakes: int = MOST_MISTAKES
    logs: ContentSample = field(default_factory=ContentSample)
    _right: list[np.ndarray] = field(default_factory=list)
    _content: list[np.ndarray] = field(default_factory=list)
    _mistakes: dict[str, Mistake] = field(default_factory=dict)

    @property
    def right(self) -> np.ndarray:
        """bool (n,): whether each row was classified correctly, in stored order."""
        return np.concatenate([np.empty(0, bool), *self._right])

    @property
    def content(self) -> np.ndarray:
        """uint32 (n,): `content_numbers` of the rows, to check that two heads saw the same rows."""
        return np.concatenate([np.empty(0, np.uint32), *self._content])

    @property
    def mistakes(self) -> list[Mistake]:
        """The worst mistakes, highest confidence first; equal images appear once."""
        return list(self._mistakes.values())

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 (m, k) log-probabilities and int64 (m,) labels, within the budget."""
        if columns := self.logs.columns():
            logs, labels = columns
            return logs, labels
        return np.empty((0, max(2, len(self.classes))), np.float32), np.empty(0, np.int64)

    def update(
        self, logits: np.ndarray, labels: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> None:
        """Adds rows.

        Args:
          logits: float (n, 1) for two classes, else (n, k).
          labels: int (n,) class indices.
          columns: at least `ROW_COLUMNS` of the rows.
        """
        logs = log_probabilities(logits)
        content = content_numbers(columns["content_hash"])
        self._right.append(logs.argmax(axis=1) == labels)
        self._content.append(content)
        self._note_mistakes(logs, labels, columns)
        # A row without a finite prediction has no confidence to calibrate.
        finite = np.isfinite(logs).all(axis=1)
        self.logs.add(content[finite], logs[finite].astype(np.float32), labels[finite])

    def _note_mistakes(
        self, logs: np.ndarray, labels: np.ndarray, columns: Mapping[str, np.ndarray]
    ) -> None:
        guesses = logs.argmax(axis=1)
        confidence = np.exp(logs[np.arange(len(labels)), guesses])
        wrong = np.flatnonzero((guesses != labels) & np.isfinite(confidence))
        for row in wrong[np.argsort(-confidence[wrong], kind="stable")][: self.most_mistakes]:
            mistake = Mistake(
                self.classes[labels[row]],
                self.classes[guesses[row]],
                float(confidence[row]),
                **{name: _plain(columns[name][row]) for name in ROW_COLUMNS},
            )
            self._mistakes.setdefault(mistake.content_hash, mistake)
        worst = sorted(self._mistakes.items(), key=lambda item: -item[1].confidence)
        self._mistakes = dict(worst[: self.most_mistakes])


def _plain(value: Any) -> Any:
    """Converts a NumPy scalar to a Python value."""
    return value.item() if isinstance(value, np.generic) else value
