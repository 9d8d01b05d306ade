"""The names of splits, as datasets spell them."""

from __future__ import annotations

from collections.abc import Mapping

SPLIT_NAMES: Mapping[str, str] = {
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
    """Returns the split that a name stands for, in any case, or None.

    Example:
      >>> split_of("VAL"), split_of("Testing"), split_of("cat")
      ('validation', 'test', None)
    """
    return SPLIT_NAMES.get(name.lower())
