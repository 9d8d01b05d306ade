"""Labels by key from a table, joined as forgivingly as is safe."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.tables import choose_column, open_table
from featurestore.urls import public_url

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
                    labels = _labels(row[label_column])
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


def _labels(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, list):
        return tuple(label for item in value for label in _labels(item))
    return (str(value),)


def member_name(path: str) -> str:
    """Returns a path inside an archive or a table as part of a key: relative, never leading out.

    Example:
      >>> member_name("./a//b.png"), member_name("/../etc/x.png"), member_name("a/../../b.png")
      ('a/b.png', 'etc/x.png', 'b.png')
    """
    name = posixpath.normpath("/" + path).lstrip("/")
    return "" if name == "." else name
