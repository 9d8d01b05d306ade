"""Gives stored rows new labels and splits, as a new label version, without another extraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.io.urls import public_url
from featurestore.labels.columns import key_and_label, require_column
from featurestore.labels.overlay import write_overlay
from featurestore.labels.splits import split_in_cell
from featurestore.labels.table import LabelTable
from featurestore.labels.tables import open_table
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
      moved: rows that had another split before.
      without_label: rows of which the table says nothing; they keep their labels and splits.
      without_label_keys: the first thousand of them.
      without_image: rows of the table that match no stored image.
      without_image_keys: the first thousand of them.
    """

    version: str = ""
    labelled: int = 0
    changed: int = 0
    moved: int = 0
    without_label: int = 0
    without_label_keys: list[str] = field(default_factory=list)
    without_image: int = 0
    without_image_keys: list[str] = field(default_factory=list)


def read_tables(
    url: str, columns: tuple[str, str, str], storage_options: Mapping[str, Any]
) -> tuple[LabelTable | None, LabelTable | None, str]:
    """Reads a table of labels, of splits, or of both.

    Args:
      url: of a CSV with a header line, or of a Parquet file.
      columns: of keys, labels and splits, each "" for the default; splits have none.
      storage_options: for the file system.

    Returns:
      (labels, splits, a line about the columns in use). There are no labels if the table has no
      other column than keys and splits.

    Raises:
      UsageError: when the table cannot be read or has no such column.
    """
    key, label, split = columns
    if not split:
        table = LabelTable.read(url, key, label, storage_options)
        return table, None, table.columns
    with open_table(url, "--labels", storage_options) as (names, _):
        require_column(split, "--split_column", names)
        key, label = key_and_label(public_url(url), names, key, label)
    splits = LabelTable.read(url, key, split, storage_options)
    line = f"--labels {public_url(url)!r}: keys of column {key!r}, splits of {split!r}"
    if label == split:
        return None, splits, line
    labels = LabelTable.read(url, key, label, storage_options)
    return labels, splits, f"{line}, labels of {label!r}"


def relabel(store: FeatureStore, table: Labels | None, splits: Labels | None = None) -> Relabelled:
    """Joins a label table to a store and writes the result as the newest label version.

    Args:
      store: its rows are matched by key.
      table: the labels; None to leave them as they are.
      splits: a table with splits in place of labels; None to leave them as they are.

    Returns:
      The counts, which include everything that did not match.
    """
    result, missing = Relabelled(), Ignored()

    def changes() -> Iterator[tuple[str, list[str], str | None]]:
        names = ("key", "split", "labels")
        for batch in store.scan(names, views=[0]):
            for key, split, stored in zip(*(batch[name] for name in names), strict=True):
                labels, named = table.match(key) if table else None, _split(splits, key)
                if labels is None and named is None:
                    missing.add(key)
                    continue
                result.labelled += labels is not None
                change = list(stored if labels is None else labels), named or split
                result.changed += change[0] != list(stored)
                result.moved += change[1] != split
                if change != (list(stored), split):
                    yield key, *change

    result.version = write_overlay(store.storage, changes())
    joined = table or splits
    unused = joined.without_image() if joined else Ignored()
    result.without_image, result.without_image_keys = unused.count, unused.names
    result.without_label, result.without_label_keys = missing.count, missing.names
    return result


def _split(splits: Labels | None, key: str) -> str | None:
    """Returns the split that a table gives a key, under its name in stores."""
    found = (splits.match(key) if splits else None) or ()
    names = {split_in_cell(text) for text in found}
    if len(names) > 1:
        raise UsageError(
            f"--split_column: {key!r} has {len(names)} splits in the table: "
            f"{', '.join(map(repr, found))}; give each image one"
        )
    return names.pop() if names else None


def summary_lines(done: Relabelled) -> list[str]:
    """Returns the lines of a readable report."""
    changed = f"{done.changed:,} of them had others before"
    lines = [f"{done.labelled:,} images take labels from the table; {changed}"]
    lines += [f"{done.moved:,} images move to another split"] if done.moved else []
    for count, keys, what in (
        (done.without_label, done.without_label_keys, "images are not in the table"),
        (done.without_image, done.without_image_keys, "rows of the table have no image"),
    ):
        if count:
            lines.append(f"{count:,} {what}, such as {keys[0]!r}")
    return lines
