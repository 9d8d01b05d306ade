"""The parts of a loop that augments end to end: pixels, the best head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.features.division import single_labels
from classifier.pixels.decoder import decode
from featurestore import FeatureStore
from featurestore.labels.numbers import class_numbers


class BestHead:
    """Keeps a head's weights from the epoch with the least validation loss."""

    def __init__(self, head, validation: tuple[np.ndarray, np.ndarray]) -> None:
        self._head, self._validation = head, validation
        self._least = float("inf")
        self.weights: list[np.ndarray] = []

    def look(self, epoch: int, logs: Any) -> None:
        """Evaluates the head at the end of an epoch, and keeps its weights if it is the best."""
        loss = self._head.evaluate(*self._validation, verbose=0)[0]
        if loss < self._least:
            self._least, self.weights = loss, self._head.get_weights()


def read_images(
    folder: Path, store: FeatureStore, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 (n, H, W, 3) pixels and int64 (n,) classes of a folder of class folders."""
    paths = sorted(folder.glob("*/*"))
    pixels = [decode(path.read_bytes(), store.spec.pixels).pixels for path in paths]
    return np.stack(pixels), class_numbers([path.parent.name for path in paths], classes)


def stored_rows(
    store: FeatureStore, split: str, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 (n, d) features and int64 (n,) classes of a split."""
    rows = store.load(["features", "labels"], splits=[split])
    return rows["features"], class_numbers(single_labels(rows["labels"]), classes)
