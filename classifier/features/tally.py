"""Counts rows by label, and notes what the counts mean for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Tally:
    """Images of a selection by label.

    Attributes:
      labels: images by label.
      combinations: images by all of their labels.
      unlabelled: images without a label.
      rows: labelled rows, in all views that the selection takes.
      pending: key -> number of views, for the images that lack some of their views.
      first_hash: the smallest content hash, "" without rows.
      last_hash: the largest content hash, "" without rows.
    """

    labels: Counter[str] = field(default_factory=Counter)
    combinations: Counter[tuple[str, ...]] = field(default_factory=Counter)
    unlabelled: int = 0
    rows: int = 0
    pending: dict[str, int] = field(default_factory=dict)
    first_hash: str = ""
    last_hash: str = ""

    @property
    def several(self) -> bool:
        """Whether any row has several labels."""
        return any(len(names) > 1 for names in self.combinations)

    def rows_of(self, classes: Sequence[str]) -> int:
        """Returns how many images have one of `classes`."""
        known = set(classes)
        return sum(images for names, images in self.combinations.items() if known & set(names))

    def counts(self, classes: Sequence[str]) -> np.ndarray:
        """Returns int64 (len(classes),) images by class."""
        return np.array([self.labels[name] for name in classes], np.int64)


def note_views(pending: dict[str, int], keys: Iterable[str], views: int) -> None:
    """Counts the views of images, and forgets images that have all of them, as nearly all do."""
    for key in keys:
        found = pending.pop(key, 0) + 1
        if found < views:
            pending[key] = found


def notes_on(classes: Sequence[str], trained: Tally, validated: Tally) -> list[str]:
    """Returns one line each on rows that are left out, and on classes without rows."""
    notes = []
    if trained.unlabelled:
        notes.append(f"{trained.unlabelled} training rows without a label are left out")
    if validated.unlabelled:
        notes.append(f"{validated.unlabelled} validation rows without a label are left out")
    unknown = sorted(set(validated.labels) - set(classes))
    if unknown:
        rows = sum(validated.labels[name] for name in unknown)
        notes.append(f"{rows} validation rows are of classes never trained: {shorten(unknown)}")
    for name, there in (("training", trained), ("validation", validated)):
        missing = [label for label in classes if not there.labels[label]]
        if missing:
            notes.append(f"no {name} rows of {shorten(missing)}")
    return notes


def shorten(names: Sequence[str], most: int = 5) -> str:
    """Joins names; of many, only the first few.

    Example:
      >>> shorten(["a", "b", "c"], most=2)
      'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
