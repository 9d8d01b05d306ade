"""The names of splits in datasets, and their names in stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.labels.cells import text_of

_SPLITS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> str | None:
    """Returns the split that a name in any case stands for, or None.

    Example:
      >>> split_of("VAL"), split_of("Testing"), split_of("cat")
      ('validation', 'test', None)
    """
    return _SPLITS.get(name.lower())


def split_in_cell(value: Any) -> str | None:
    """Returns the split in a table's cell, under its name in stores.

    Example:
      >>> split_in_cell(b"Val "), split_in_cell("fold3"), split_in_cell(None)
      ('validation', 'fold3', None)
    """
    text = text_of(value)
    return split_of(text) or text or None
