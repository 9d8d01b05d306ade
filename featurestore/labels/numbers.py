"""From the names of classes to numbers, as heads and other learners take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_numbers(names: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """Returns int64 (n,): the index of each row's class, -1 for no class and for unknown classes.

    Example:
      >>> class_numbers(["dog", None, "cat", "cow"], ["cat", "dog"])
      array([ 1, -1,  0, -1])
    """
    index: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(name, -1) for name in names], np.int64)


def several_labels(
    labels: np.ndarray | Sequence[Sequence[str]], classes: Sequence[str]
) -> np.ndarray:
    """Returns uint8 (n, len(classes)): 1 where a row has the class; unknown labels are left out.

    Args:
      labels: n sequences of str.
      classes: names.
    """
    index = {name: number for number, name in enumerate(classes)}
    result = np.zeros((len(labels), len(classes)), np.uint8)
    for row, names in enumerate(labels):
        result[row, [index[name] for name in names if name in index]] = 1
    return result
