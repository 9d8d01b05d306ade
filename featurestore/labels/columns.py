"""Finds a table's columns of keys, labels and splits, by the user's choice or by usual names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from featurestore.errors import UsageError, unknown_choice
from featurestore.labels.cells import text_of

LABEL_COLUMNS = ("labels", "label", "class", "class_name", "target", "category")
SPLIT_COLUMNS = ("split",)
# Usual names of key columns, for tables whose first column is not the key.
KEY_COLUMNS = (
    *("key", "id", "image_id", "imageid", "image", "img", "image_name", "name"),
    *("filename", "file_name", "file", "fname", "path", "filepath", "image_path", "uri", "url"),
)
# Image suffixes, which a table's keys may lack; other dots in a key are part of its name.
IMAGE_SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|png|gif|bmp|dib|webp|tiff?)$", re.IGNORECASE)
# Names that pandas gives an index without a name: `to_csv`, `read_csv` and `to_parquet`.
_UNNAMED = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_\d+")


def is_unnamed(name: str) -> bool:
    """Whether a column has no name of its own.

    Example:
      >>> [is_unnamed(name) for name in ("", "Unnamed: 0", "__index_level_0__", "id")]
      [True, True, True, False]
    """
    return bool(_UNNAMED.fullmatch(name))


def find_column(names: Iterable[str], wanted: Sequence[str]) -> str:
    """Returns the first wanted column that exists, whatever its case and blanks, or "".

    Example:
      >>> find_column(["id", " Label", "class"], LABEL_COLUMNS)
      ' Label'
    """
    by_fold: dict[str, str] = {}
    for name in names:
        fold = text_of(name).lower()
        if fold == name:
            by_fold[fold] = name  # an exact match precedes other spellings
        by_fold.setdefault(fold, name)
    return next((by_fold[name] for name in wanted if name in by_fold), "")


def require_column(wanted: str, flag: str, names: Collection[str]) -> str:
    """Returns the column that the user named.

    Args:
      wanted: name of the column; "" is accepted too.
      flag: the flag that gave the name.
      names: all columns of the table.

    Raises:
      UsageError: when the table has no such column, or two of them.
    """
    if wanted and wanted not in names:
        raise unknown_choice(flag, wanted, [name for name in names if name])
    if wanted and list(names).count(wanted) > 1:
        raise UsageError(f"{flag}: two columns are called {wanted!r}; rename one of them")
    return wanted


def key_and_label(
    where: str, names: Sequence[str], key_column: str, label_column: str
) -> tuple[str, str]:
    """Returns the key column and the label column of a label table.

    By default these are the first and the second column. But a split is neither, a column with the
    name of a label is not the key, and columns without a name are never used.

    Args:
      where: the table's address, for messages.
      names: all columns, in order.
      key_column: the user's choice, or "".
      label_column: the user's choice, or "".

    Raises:
      UsageError: when a named column is missing, or no choice is safe.

    Example:
      >>> key_and_label("t", ["id", "breed"], "", "")
      ('id', 'breed')
      >>> key_and_label("t", ["", "filename", "width", "height", "class"], "", "")
      ('filename', 'class')
    """
    require_column(key_column, "--key_column", names)
    require_column(label_column, "--label_column", names)
    named = [name for name in names if not is_unnamed(name) and name != label_column]
    key = key_column or _key_column(where, names, named)
    rest = [name for name in named if name != key]
    label = label_column or find_column(rest, LABEL_COLUMNS) or _first_but_split(rest)
    if not label:
        raise UsageError(
            f"--labels: {where!r} has only the column {key!r}; it needs a column of keys and one "
            "of labels"
        )
    for name, flag in ((key, "--key_column"), (label, "--label_column")):
        require_column(name, flag, names)
    if not key_column and (IMAGE_SUFFIX.search(key) or (key.isdigit() and not label.isdigit())):
        raise UsageError(
            f"--labels: the first line of {where!r} must name the columns, but looks like a row: "
            f"{key!r} and {label!r}; put a line such as id,label before it, or choose the columns "
            "with --key_column and --label_column"
        )
    return key, label


def require_classes(
    where: str, names: Sequence[str], label_column: str, labels: Collection[str]
) -> None:
    """Refuses a table with a column for each class, which is marked with 0 and 1.

    Args:
      where: the table's address, for messages.
      names: all columns but that of keys.
      label_column: the one that was taken, and not named by the user.
      labels: that were found in it.

    Raises:
      UsageError: when the labels are only 0 and 1, and there are further columns.
    """
    others = [name for name in names if name != label_column and not is_unnamed(name)]
    others = [name for name in others if not find_column([name], SPLIT_COLUMNS)]
    known = find_column([label_column], LABEL_COLUMNS)
    if others and not known and {*labels} <= {"0", "1"}:
        raise UsageError(
            f"--labels: a single column of {where!r} must hold the labels, but {label_column!r} "
            f"holds only 0 and 1, as if each class had a column ({', '.join(others[:3])} ...); "
            "write the classes into one column, a row for each, or name it with --label_column"
        )


def _key_column(where: str, names: Sequence[str], named: Sequence[str]) -> str:
    known = find_column(named, KEY_COLUMNS)
    first = names[0]
    if is_unnamed(first) or (first.lower() == "index" and known):
        if known:
            return known
        raise UsageError(
            f"--labels: the first column of {where!r} has no name ({first!r}), like an index that "
            f"pandas wrote, and no other column clearly holds keys: {', '.join(named)}; name a "
            "column with --key_column, or give the first one a name in the table"
        )
    if first in named and not find_column([first], (*LABEL_COLUMNS, *SPLIT_COLUMNS)):
        return first
    if known or (len(named) == 1):
        return known or named[0]
    raise UsageError(
        f"--labels: the first column of {where!r} is {first!r}, which does not hold keys; name the "
        f"column of keys with --key_column: {', '.join(named)}"
    )


def _first_but_split(names: Sequence[str]) -> str:
    no_split = [name for name in names if not find_column([name], SPLIT_COLUMNS)]
    return next(iter(no_split or names), "")
