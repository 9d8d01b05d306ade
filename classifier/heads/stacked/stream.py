"""Batches for all heads at once: standardised once, and read ahead in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import repeat

import numpy as np

from featurestore.io.readahead import in_order

# A group takes a block of batches in a row, so that its weights stay in the cache: at most so many
# batches, and about so many bytes of features.
BLOCK_BATCHES = 16
BLOCK_BYTES = 32 << 20

Batch = tuple[np.ndarray, np.ndarray]


def blocks(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Gathers batches into blocks, in order."""
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
    """Yields blocks of batches, while a thread draws the next ones."""
    source = blocks(batches)
    for block in in_order(repeat(partial(next, source, None)), threads=1):
        if block is None:
            return
        yield block
