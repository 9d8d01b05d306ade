"""The dataset itself; importing this module imports PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from featurestore.epochs import Epochs, Shard
from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import StoreSpec

DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")


def torch_dtype(asked: torch.dtype | str | None, spec: StoreSpec) -> torch.dtype:
    """Returns the type that a user asked for by name or otherwise; see `featurestore.torch`.

    Raises:
      UsageError: for an unknown name.
    """
    if isinstance(asked, torch.dtype):
        return asked
    name = asked or ("uint8" if spec.is_pixels else "float32")
    if name not in DTYPES:
        raise unknown_choice("dtype", name, DTYPES)
    return getattr(torch, name)


def shard_of(asked: tuple[int, int] | None, even: bool) -> Shard:
    """Returns the share of this process: as asked, else by `torch.distributed`, else all."""
    if asked is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        asked = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, ranks = asked or (0, 1)
    return Shard(rank, ranks, even)


class Stored(IterableDataset):
    """The labelled rows of a store; see `featurestore.torch.dataset`.

    Attributes:
      classes: names, in the order of their numbers.
      left_out: rows that were left out, by reason.
    """

    def __init__(
        self, epochs: Epochs, batch_size: int | None, dtype: torch.dtype, shard: Shard
    ) -> None:
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, or None for rows, got {batch_size!r}")
        self.classes, self.left_out = epochs.classes, dict(epochs.left_out)
        self._epochs, self._batch_size, self._dtype, self._shard = epochs, batch_size, dtype, shard
        # In shared memory, because persistent workers hold a copy of the dataset.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the rows in the next iteration; epochs are counted from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Returns the batches, or the rows without `batch_size`, of this process's share."""
        rows = len(self._shard.rows(len(self._epochs)))
        return -(-rows // (self._batch_size or 1))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        info, epochs, shard = get_worker_info(), self._epochs, self._shard
        if info is not None:
            # A forked worker must not use the connection of its parent.
            epochs = epochs.reconnected()
            shard = replace(shard, worker=info.id, workers=info.num_workers)
        alone = self._batch_size is None
        for features, labels in epochs.batches(self._batch_size or 1, int(self._epoch), shard):
            batch = self._tensors(features, labels)
            yield (batch[0][0], batch[1][0]) if alone else batch

    def _tensors(
        self, features: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Stored rows may be read-only, which tensors cannot be.
        given = torch.from_numpy(np.require(features, requirements=["C", "W"])).to(self._dtype)
        kind = torch.float32 if labels.ndim > 1 else torch.int64
        return given, torch.from_numpy(np.ascontiguousarray(labels)).to(kind)
