"""Batches for all heads at once: drawn, converted and standardised once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import repeat

import numpy as np

from classifier.features.order import Rows
from classifier.heads.head import Standard
from featurestore.io.readahead import in_order

# Batches that a group sees in a row, so that its weights stay in the cache: at most this many, and
# bytes of features.
BLOCK_BATCHES = 16
BLOCK_BYTES = 32 << 20

Batch = tuple[np.ndarray, np.ndarray]


def prepared(batches: Iterable[Rows], standard: Standard | None) -> Iterator[Batch]:
    """Yields (float32 (n, features), labels) of each batch: standardised and flattened.

    Args:
      batches: features of any float dtype (n, *feature_shape).
      standard: statistics by channel, None to leave features as they are.
    """
    for rows in batches:
        features = rows.features.astype(np.float32)
        if standard is not None:
            features -= standard.mean
            features /= standard.deviation
        yield features.reshape(len(features), -1), rows.labels


def blocks(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Gathers batches in order, as many as a group takes in a row."""
    block: list[Batch] = []
    held = 0
    for batch in batches:
        block.append(batch)
        held += batch[0].nbytes
        if len(block) >= BLOCK_BATCHES or held >= BLOCK_BYTES:
            yield block
            block, held = [], 0
    if block:
        yield block


def ahead(batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    """Yields blocks of batches, the next ones drawn in a thread meanwhile."""
    source = blocks(batches)
    for block in in_order(repeat(partial(next, source, None)), threads=1):
        if block is None:
            return
        yield block
