"""Labels that do not stand in folders: a table joined by key, or a pattern over file names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from classifier.inputs.ignored import Ignored
from classifier.inputs.parquet import labels_of
from classifier.inputs.refs import ImageRef, member_name
from classifier.inputs.tables import choose_column, open_table
from featurestore.errors import UsageError
from featurestore.storage import public_url

# Suffixes that a table's keys come without; of other dots a key may be full.
_STEM = re.compile(r"\.(jpe?g|jpe|jfif|png|gif|bmp|dib|webp|tiff?)$", re.IGNORECASE)


def stem_of(key: str) -> str:
    """Returns the last component without an image's suffix.

    Example:
      >>> stem_of("train/000bec180eb1.jpg"), stem_of("img.v2"), stem_of("a.tar/7")
      ('000bec180eb1', 'img.v2', '7')
    """
    return _STEM.sub("", posixpath.basename(key))


class LabelTable:
    """Labels by key, as tables such as Kaggle's ``id,breed`` give them.

    Matched is by the full key, else by the longest tail of it that the table has (``cat/1.jpg`` for
    ``train/cat/1.jpg``), with and without the suffix, else by the stem. A row that is joined by
    less than the full key belongs to one image only.

    Attributes:
      name: of the table, for messages; without credentials.
    """

    def __init__(self, name: str, labels: Mapping[str, tuple[str, ...]]) -> None:
        self.name = name
        self._labels = dict(labels)
        self._by_stem: dict[str, list[str]] = {}
        for key in self._labels:
            self._by_stem.setdefault(stem_of(key), []).append(key)
        self._joined: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    @classmethod
    def read(
        cls,
        url: str,
        key_column: str = "",
        label_column: str = "",
        storage_options: Mapping[str, Any] | None = None,
    ) -> LabelTable:
        """Reads a table; several rows of one key give several labels.

        Args:
          url: of a CSV with a header line, or of a Parquet file.
          key_column: default the first.
          label_column: default the second.
          storage_options: for its file system.

        Raises:
          UsageError: when it cannot be read, or a column is not there.
        """
        with open_table(url, "--labels", storage_options) as (names, rows):
            key_column = choose_column(key_column, "--key_column", names, names[0])
            rest = [name for name in names if name != key_column]
            if not rest and not label_column:
                raise UsageError(
                    f"--labels: {public_url(url)!r} has the one column {key_column!r}; it needs a "
                    "column of keys and one of labels"
                )
            label_column = choose_column(label_column, "--label_column", names, (rest or [""])[0])
            found: dict[str, dict[str, None]] = {}
            for row in rows:
                key = member_name(_key(row[key_column]))
                if key:
                    labels = labels_of(row[label_column], ())
                    found.setdefault(key, {}).update(dict.fromkeys(labels))
        return cls(public_url(url), {key: tuple(labels) for key, labels in found.items()})

    def match(self, key: str) -> tuple[str, ...] | None:
        """Returns the labels of an image, or None when the table has none for it.

        Args:
          key: of the image.

        Raises:
          UsageError: when more than one row, or more than one image, fits.
        """
        row = self._row(key)
        if row is None:
            return None
        joined = self._joined.setdefault(row, key)
        if joined != key:
            raise UsageError(
                f"--labels: {row!r} in {self.name!r} fits two images, {joined!r} and {key!r}; give "
                "keys with their folders"
            )
        return self._labels[row] or None

    def _row(self, key: str) -> str | None:
        tail = key
        while tail:
            for candidate in (tail, _STEM.sub("", tail)):
                if candidate in self._labels:
                    return candidate
            tail = tail.partition("/")[2]
        rows = [row for row in self._by_stem.get(stem_of(key), []) if _may_be(row, key)]
        if len(rows) > 1:
            raise UsageError(
                f"--labels: {key!r} fits two rows of {self.name!r} by its stem, {rows[0]!r} and "
                f"{rows[1]!r}; give keys with their folders and suffixes"
            )
        return rows[0] if rows else None

    def without_image(self) -> Ignored:
        """Returns the keys that no image was matched with so far, counted and listed."""
        unused = Ignored()
        for key in self._labels:
            if key not in self._joined:
                unused.add(key)
        return unused


def _may_be(row: str, key: str) -> bool:
    """Whether a row's folders and an image's can be the same, one of them told less fully."""
    row_folder, folder = "/" + posixpath.dirname(row), "/" + posixpath.dirname(key)
    return row_folder.endswith(folder.rstrip("/")) or folder.endswith(row_folder.rstrip("/"))


def _key(value: Any) -> str:
    return "" if value is None else str(value).strip()


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
      label_column: of it; default the second.
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
        labels = self.table.match(ref.key) if self.table is not None else None
        if self.pattern is not None:
            labels = self.pattern.label(ref.key)
        if labels is None:
            self.without_label.add(ref.key)
        return replace(ref, labels=labels or ())
