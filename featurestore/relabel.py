"""Gives stored rows other labels, as a new label version; nothing is extracted again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from featurestore.overlay import write_overlay
from featurestore.store import FeatureStore

LISTED = 1000


class Labels(Protocol):
    """A table of labels by key."""

    def match(self, key: str) -> tuple[str, ...] | None:
        """Returns the labels of a stored key, or None when the table has none for it."""
        ...

    def unused(self) -> list[str]:
        """Returns the table's keys that no stored key matched so far."""
        ...


@dataclass
class Relabelled:
    """What became of a label table.

    Attributes:
      version: name of the label version, "" when no row was matched.
      labelled: rows that have labels of the table now.
      without_label: rows for which the table has none; they keep what they had.
      without_label_keys: the first thousand of them.
      without_image: rows of the table that match no stored image.
      without_image_keys: the first thousand of them.
    """

    version: str = ""
    labelled: int = 0
    without_label: int = 0
    without_label_keys: list[str] = field(default_factory=list)
    without_image: int = 0
    without_image_keys: list[str] = field(default_factory=list)

    def to_record(self) -> dict[str, Any]:
        """Returns it JSON-ready."""
        return asdict(self)


def relabel(store: FeatureStore, table: Labels) -> Relabelled:
    """Joins a label table to a store and writes the result as its newest label version.

    Args:
      store: whose rows are matched by key.
      table: the labels.

    Returns:
      The counts: nothing that does not match is passed over in silence.
    """
    result = Relabelled()

    def changes() -> Iterator[tuple[str, list[str], str | None]]:
        for batch in store.scan(["key", "split"], views=[0]):
            for key, split in zip(batch["key"], batch["split"], strict=True):
                labels = table.match(key)
                if labels is None:
                    result.without_label += 1
                    if len(result.without_label_keys) < LISTED:
                        result.without_label_keys.append(key)
                    continue
                result.labelled += 1
                yield key, list(labels), split

    result.version = write_overlay(store.storage, changes())
    unused = table.unused()
    result.without_image, result.without_image_keys = len(unused), unused[:LISTED]
    return result
