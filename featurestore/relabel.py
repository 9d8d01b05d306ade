"""Gives stored rows new labels, as a new label version and without another extraction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from featurestore.ignored import Ignored
from featurestore.labels.overlay import write_overlay
from featurestore.store import FeatureStore


class Labels(Protocol):
    """A table of labels by key."""

    def match(self, key: str) -> tuple[str, ...] | None:
        """Returns the labels of a stored key, or None when the table has none."""
        ...

    def without_image(self) -> Ignored:
        """Returns the table's keys that have matched no stored key so far."""
        ...


@dataclass
class Relabelled:
    """The result of joining a label table to a store.

    Attributes:
      version: name of the label version, "" when no label changed.
      labelled: rows whose labels now come from the table.
      changed: those of them that had other labels before.
      without_label: rows that are not in the table; they keep their labels.
      without_label_keys: the first thousand of them.
      without_image: rows of the table that match no stored image.
      without_image_keys: the first thousand of them.
    """

    version: str = ""
    labelled: int = 0
    changed: int = 0
    without_label: int = 0
    without_label_keys: list[str] = field(default_factory=list)
    without_image: int = 0
    without_image_keys: list[str] = field(default_factory=list)


def relabel(store: FeatureStore, table: Labels) -> Relabelled:
    """Joins a label table to a store and writes the result as the newest label version.

    Args:
      store: its rows are matched by key.
      table: the labels.

    Returns:
      The counts, which include everything that did not match.
    """
    result, missing = Relabelled(), Ignored()

    def changes() -> Iterator[tuple[str, list[str], str | None]]:
        names = ("key", "split", "labels")
        for batch in store.scan(names, views=[0]):
            for key, split, stored in zip(*(batch[name] for name in names), strict=True):
                labels = table.match(key)
                if labels is None:
                    missing.add(key)
                    continue
                result.labelled += 1
                if list(labels) != list(stored):
                    result.changed += 1
                    yield key, list(labels), split

    result.version = write_overlay(store.storage, changes())
    unused = table.without_image()
    result.without_image, result.without_image_keys = unused.count, unused.names
    result.without_label, result.without_label_keys = missing.count, missing.names
    return result


def summary_lines(done: Relabelled) -> list[str]:
    """Returns the lines of a readable report."""
    changed = f"{done.changed:,} of them had others before"
    lines = [f"{done.labelled:,} images take labels from the table; {changed}"]
    for count, keys, what in (
        (done.without_label, done.without_label_keys, "images are not in the table"),
        (done.without_image, done.without_image_keys, "rows of the table have no image"),
    ):
        if count:
            lines.append(f"{count:,} {what}, such as {keys[0]!r}")
    return lines
