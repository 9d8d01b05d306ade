"""Labels that do not stand in folders: a table joined by key, or a pattern over file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from classifier.inputs.refs import ImageRef
from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.labels.table import LabelTable


@dataclass(frozen=True)
class NamePattern:
    """Takes labels out of names, such as ``cat`` out of ``cat.0.jpg``.

    Attributes:
      pattern: a regular expression, searched in the key; its group ``label``, else its first.
    """

    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        r"""Checks a pattern.

        Raises:
          UsageError: when it is none, or has no group.

        Example:
          >>> NamePattern.parse(r"(cat|dog)\.\d+").label("train/cat.0.jpg")
          ('cat',)
        """
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UsageError(
                f"--label_from_name: {text!r} is no regular expression: {error}"
            ) from error
        if not pattern.groups:
            raise UsageError(
                f"--label_from_name: {text!r} has no group; put what is the label into "
                r"parentheses, such as '(cat|dog)\.\d+'"
            )
        return cls(pattern)

    def label(self, key: str) -> tuple[str, ...] | None:
        """Returns the label in a key, or None when it does not match."""
        match = self.pattern.search(key)
        if not match:
            return None
        text = match["label"] if "label" in self.pattern.groupindex else match[1]
        return (text,) if text else None


def label_from_name(regex: str) -> NamePattern:
    """Returns what takes labels out of names; see `NamePattern.parse`."""
    return NamePattern.parse(regex)


@dataclass(frozen=True)
class LabelOptions:
    """Where labels come from besides folders and shards; small enough to travel.

    Attributes:
      table: URL of a table, or "".
      key_column: of it; default the first.
      label_column: of it; default the one called so, else the second.
      pattern: a regular expression over names, or "".
    """

    table: str = ""
    key_column: str = ""
    label_column: str = ""
    pattern: str = ""

    def __post_init__(self) -> None:
        if self.pattern:
            NamePattern.parse(self.pattern)
        if self.table and self.pattern:
            raise UsageError("--labels and --label_from_name exclude each other; give one of them")
        if self.label_column and self.pattern:
            raise UsageError(
                "--label_from_name and --label_column exclude each other: labels are of names or "
                "of a column; give one of them"
            )
        if (self.key_column or self.label_column) and not self.table:
            raise UsageError(
                "--key_column and --label_column name columns of --labels; give it too"
            )

    def __bool__(self) -> bool:
        return bool(self.table or self.pattern)

    def labeller(self, storage_options: Mapping[str, Any] | None = None) -> Labeller:
        """Reads the table, if there is one.

        Raises:
          UsageError: when it cannot be read.
        """
        table = None
        if self.table:
            table = LabelTable.read(self.table, self.key_column, self.label_column, storage_options)
        return Labeller(table, NamePattern.parse(self.pattern) if self.pattern else None)


@dataclass
class Labeller:
    """Gives images their labels from a table or their names, and keeps count.

    Attributes:
      table: or None.
      pattern: or None.
      without_label: keys of images that got none from there.
    """

    table: LabelTable | None = None
    pattern: NamePattern | None = None
    without_label: Ignored = field(default_factory=Ignored)

    def apply(self, ref: ImageRef) -> ImageRef:
        """Returns an image with its label; an image that gets none has none, whatever its folder.

        Raises:
          UsageError: for an ambiguous join.
        """
        if self.table is None and self.pattern is None:
            return ref
        labels = self.match(ref.key)
        if labels is None:
            self.without_label.add(ref.key)
        return replace(ref, labels=labels or ())

    def match(self, key: str) -> tuple[str, ...] | None:
        """Returns the labels of a key, or None; see `LabelTable.match`."""
        if self.table is not None:
            return self.table.match(key)
        return self.pattern.label(key) if self.pattern is not None else None

    def without_image(self) -> Ignored:
        """Returns the table's keys that no image was matched with; none for a pattern."""
        return self.table.without_image() if self.table is not None else Ignored()
