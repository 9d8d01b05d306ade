"""Labels images by a table joined on keys, or by a pattern over keys, instead of by folders."""

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
    """Takes labels from names, such as ``cat`` from ``cat.0.jpg``.

    Attributes:
      pattern: a regular expression to search for in the key; the label is its group ``label``, else
        its first group.
    """

    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        r"""Compiles a pattern.

        Raises:
          UsageError: for what is not a regular expression, or has no group.

        Example:
          >>> NamePattern.parse(r"(cat|dog)\.\d+").label("train/cat.0.jpg")
          ('cat',)
        """
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UsageError(
                f"--label_from_name: {text!r} is not a regular expression: {error}"
            ) from error
        if not pattern.groups:
            raise UsageError(
                f"--label_from_name: {text!r} has no group; put the label into parentheses, "
                r"such as '(cat|dog)\.\d+'"
            )
        return cls(pattern)

    def label(self, key: str) -> tuple[str, ...] | None:
        """Returns the label in a key, or None where the pattern does not match."""
        match = self.pattern.search(key)
        if not match:
            return None
        text = match["label"] if "label" in self.pattern.groupindex else match[1]
        return (text,) if text else None


@dataclass(frozen=True)
class LabelOptions:
    """Where labels come from besides folders and shards; small enough to send to workers.

    Attributes:
      table: the URL of a table, or "".
      key_column: its column of keys; default the first.
      label_column: its column of labels; default the one with a usual name, else the second.
      pattern: a regular expression over keys, or "".
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
                "--label_from_name and --label_column exclude each other: labels come from names "
                "or from a column; give one of them"
            )
        if (self.key_column or self.label_column) and not self.table:
            raise UsageError(
                "--key_column and --label_column name columns of --labels; give --labels too"
            )

    def __bool__(self) -> bool:
        return bool(self.table or self.pattern)

    def labeller(self, storage_options: Mapping[str, Any] | None = None) -> Labeller:
        """Reads the table, if there is one.

        Raises:
          UsageError: when the table cannot be read.
        """
        table = None
        if self.table:
            table = LabelTable.read(self.table, self.key_column, self.label_column, storage_options)
        return Labeller(table, NamePattern.parse(self.pattern) if self.pattern else None)


@dataclass
class Labeller:
    """Labels images from a table or from their names, and counts those without a label.

    Attributes:
      table: the table of labels, or None.
      pattern: the pattern over keys, or None.
      without_label: the keys of images that got no label.
    """

    table: LabelTable | None = None
    pattern: NamePattern | None = None
    without_label: Ignored = field(default_factory=Ignored)

    def apply(self, ref: ImageRef) -> ImageRef:
        """Returns an image with its label; without a match it has none, whatever its folder.

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
        """Returns the table's keys that matched no image; none for a pattern."""
        return self.table.without_image() if self.table is not None else Ignored()
