"""Counts what a listing left out: names of files that are not images, and notes for the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_IGNORED_LISTED = 1000
Note = Mapping[str, Any]  # reason, count, first


@dataclass
class Ignored:
    """Counted names, such as files that are images neither by name nor by content.

    Attributes:
      count: number of names.
      names: the first thousand.
      notes: reason -> note for the user, with the number of cases and the first name.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    notes: dict[str, Note] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Counts a name."""
        self.count += 1
        if len(self.names) < MAX_IGNORED_LISTED:
            self.names.append(name)

    def note(self, reason: str, name: str, count: int = 1) -> None:
        """Adds a note that the user must see.

        Args:
          reason: the things concerned (in the plural), what happened to them, and what to do.
          name: of the first one.
          count: number of cases.
        """
        merged = merge_notes([*self.notes.values(), dict(reason=reason, count=count, first=name)])
        self.notes = {note["reason"]: note for note in merged}

    def include(self, other: Ignored) -> None:
        """Adds the names and notes of another."""
        self.count += other.count
        self.names.extend(other.names[: MAX_IGNORED_LISTED - len(self.names)])
        for note in other.notes.values():
            self.note(note["reason"], note["first"], note["count"])

    def leave_out(self, reason: str, name: str) -> None:
        """Counts a name and notes why it was left out."""
        self.add(name)
        self.note(reason, name)


def merge_notes(notes: Iterable[Note]) -> list[Note]:
    """Adds up notes with equal reasons; the first name of each reason stays.

    Example:
      >>> merge_notes([{"reason": "x", "count": 1, "first": "a"},
      ...              {"reason": "x", "count": 2, "first": "b"}])
      [{'reason': 'x', 'count': 3, 'first': 'a'}]
    """
    merged: dict[str, Note] = {}
    for note in notes:
        known = merged.get(note["reason"], {**note, "count": 0})
        merged[note["reason"]] = {**known, "count": known["count"] + note["count"]}
    return list(merged.values())


def note_lines(notes: Iterable[Note]) -> list[str]:
    """Returns each note as a line for the user.

    Example:
      >>> note_lines([{"reason": "links were left out", "count": 1200, "first": "s.tar/a"}])
      ["links were left out: 1,200 of them, the first 's.tar/a'"]
    """
    return [
        f"{note['reason']}: {note['count']:,} of them, the first {note['first']!r}"
        for note in notes
    ]
