"""Labels by key from a table, joined to images as tolerantly as is safe."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.io.urls import public_url
from featurestore.labels.cells import composed, labels_of, same_text, text_of
from featurestore.labels.columns import (
    IMAGE_SUFFIX,
    SPLIT_COLUMNS,
    find_column,
    is_unnamed,
    key_and_label,
    require_classes,
)
from featurestore.labels.tables import open_table


def stem_of(key: str) -> str:
    """Returns a key's last component without an image suffix.

    Example:
      >>> stem_of("train/000bec180eb1.jpg"), stem_of("img.v2"), stem_of("a.tar/7")
      ('000bec180eb1', 'img.v2', '7')
    """
    return IMAGE_SUFFIX.sub("", posixpath.basename(key))


class LabelTable:
    """Labels by key, from tables such as Kaggle's ``id,breed``.

    An image matches a row by its full key, or by the longest tail of it that is in the table
    (``cat/1.jpg`` for ``train/cat/1.jpg``), with or without the suffix, or by its stem. Each is
    compared as written first, then by `same_text`. A row may match only one image.

    Attributes:
      name: of the table, for messages; without credentials.
      columns: a line about the columns in use; "" for a table that was not read from a file.
    """

    def __init__(self, name: str, labels: Mapping[str, tuple[str, ...]], columns: str = "") -> None:
        self.name, self.columns = name, columns
        self._labels = dict(labels)
        self._by_text: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for key in self._labels:
            if (text := _row_text(key)) != key:
                self._by_text.setdefault(text, []).append(key)
            self._by_stem.setdefault(stem_of(text), []).append(key)
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
        """Reads a table; several rows with one key give several labels.

        Args:
          url: of a CSV with a header line, or of a Parquet file.
          key_column: "" for the default of `key_and_label`.
          label_column: "" for the default of `key_and_label`.
          storage_options: for the file system.

        Raises:
          UsageError: when the table cannot be read, has no such column, or seems to have a column
            for each class.
        """
        shown = public_url(url)
        with open_table(url, "--labels", storage_options) as (names, rows):
            if not names:
                raise UsageError(f"--labels: {shown!r} has no columns")
            key_column, label = key_and_label(shown, names, key_column, label_column)
            found: dict[str, dict[str, None]] = {}
            for row in rows:
                if key := member_name(text_of(row[key_column])):
                    found.setdefault(key, {}).update(dict.fromkeys(labels_of(row[label])))
        if not label_column:
            others = [name for name in names if name != key_column]
            require_classes(shown, others, label, {name for key in found for name in found[key]})
        labels = {key: tuple(labels) for key, labels in found.items()}
        return cls(shown, labels, _columns_line(url, names, key_column, label))

    def match(self, key: str) -> tuple[str, ...] | None:
        """Returns an image's labels, or None when the table has none.

        Raises:
          UsageError: when the key fits several rows, or the row several images.
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
            for candidate in (tail, IMAGE_SUFFIX.sub("", tail)):
                rows = self._rows(candidate)
                if rows:
                    return self._only(rows, key, "as equal text")
            tail = tail.partition("/")[2]
        stem = composed(stem_of(key))
        rows = [row for row in self._by_stem.get(stem, []) if _may_be(row, key)]
        return self._only(rows, key, "by its stem") if rows else None

    def _rows(self, written: str) -> list[str]:
        """Returns the rows of a key: the one that is written the same, or all of equal text."""
        if written in self._labels:
            return [written]
        text = composed(written)
        return [*([text] if text in self._labels else []), *self._by_text.get(text, [])]

    def _only(self, rows: list[str], key: str, how: str) -> str:
        if len(rows) > 1:
            raise UsageError(
                f"--labels: {key!r} fits two rows of {self.name!r} {how}, {rows[0]!r} and "
                f"{rows[1]!r}; give keys with their folders and suffixes"
            )
        return rows[0]

    def without_image(self) -> Ignored:
        """Counts and lists the keys that have matched no image so far."""
        unused = Ignored()
        for key in self._labels:
            if key not in self._joined:
                unused.add(key)
        return unused


def _row_text(key: str) -> str:
    """Returns one text for all spellings of a row's key; Windows separates folders by ``\\``."""
    return same_text(key).replace("\\", "/")


def _may_be(row: str, key: str) -> bool:
    """Whether one of a row's folders and an image's folders is a tail of the other."""
    row_folder, folder = (
        ("/" + posixpath.dirname(path)).rstrip("/") for path in (_row_text(row), composed(key))
    )
    return row_folder.endswith(folder) or folder.endswith(row_folder)


def _columns_line(url: str, names: Sequence[str], key_column: str, label_column: str) -> str:
    """Returns a line about the columns in use, and about unused ones that may surprise you."""
    left = [name for name in names if name not in (key_column, label_column)]
    notes = []
    if any(map(is_unnamed, left)):
        notes.append("the column without a name is not used")
    if split := find_column(left, SPLIT_COLUMNS):
        notes.append(
            f"the column {split!r} is not used here; python -m featurestore relabel --split_column "
            f"{split} sets splits"
        )
    line = (
        f"--labels {public_url(url)!r}: keys of column {key_column!r}, labels of {label_column!r}"
    )
    return "; ".join([line, *notes])


def member_name(path: str) -> str:
    """Returns a path from an archive or a table as part of a key: relative, without ``..``.

    Example:
      >>> member_name("./a//b.png"), member_name("/../etc/x.png"), member_name("a/../../b.png")
      ('a/b.png', 'etc/x.png', 'b.png')
    """
    name = posixpath.normpath("/" + path).lstrip("/")
    return "" if name == "." else name
