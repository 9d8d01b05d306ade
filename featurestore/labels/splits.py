"""The names of splits in datasets, and their names in stores."""

from __future__ import annotations

import re
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
# What a dataset may write behind a split's name: "training_set", "TestImages".
_SURPLUS = re.compile(r"(?<=.)[ _-]?(set|data|dataset|images|imgs|split)$")
_WORD = re.compile("[a-z]+")
# Parts of a dataset, which say nothing about its images: "fold3", "images_001".
_PART = re.compile(r"(fold|part|batch|chunk|shard|archive|images?)[ _-]?[0-9]+")


def split_of(name: str) -> str | None:
    """Returns the split that a name in any case stands for, or None.

    Example:
      >>> split_of("VAL"), split_of("Testing"), split_of("cat")
      ('validation', 'test', None)
      >>> split_of("training_set"), split_of("Test Images"), split_of("bullet_train")
      ('train', 'test', None)
    """
    return _SPLITS.get(_SURPLUS.sub("", name.lower()))


def may_be_split(name: str) -> bool:
    """Whether a folder may be a split or a part of a dataset rather than a class.

    Example:
      >>> [may_be_split(name) for name in ("seg_train", "fold1", "images_001", "contest", "n01440")]
      [True, True, True, False, False]
    """
    folded = name.lower()
    words = (split_of(word) for word in _WORD.findall(folded))
    return any(words) or bool(_PART.fullmatch(folded))


def split_in_cell(value: Any) -> str | None:
    """Returns the split in a table's cell, under its name in stores.

    Example:
      >>> split_in_cell(b"Val "), split_in_cell("fold3"), split_in_cell(None)
      ('validation', 'fold3', None)
    """
    text = text_of(value)
    return split_of(text) or text or None
