"""A store as a dataset of PyTorch, which is imported when you ask for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.epochs import EpochOptions, Epochs
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import torch

    from featurestore.store import FeatureStore
    from featurestore.torch.stored import Stored


def dataset(
    store: FeatureStore,
    *,
    batch_size: int | None = None,
    dtype: torch.dtype | str | None = None,
    shard: tuple[int, int] | None = None,
    even: bool = False,
    **rows: Any,
) -> Stored:
    """Returns an `IterableDataset` of (features, label) over the rows of a store.

    A `DataLoader` may have any number of workers, by fork or spawn: each reads row groups of its
    own. Call `set_epoch` before every epoch, also with persistent workers, and the rows come in
    another order.

    Args:
      store: to read, as it is now.
      batch_size: yields whole batches, which is faster than single rows that a `DataLoader` joins;
        give the loader `batch_size=None`. None yields single rows.
      dtype: of the features, such as ``float16``; None for float32, or uint8 of a store of pixels.
      shard: (rank, ranks) of this process; None asks `torch.distributed` now, if it is initialised.
      even: gives every rank as many rows; see `featurestore.epochs.Shard`.
      **rows: splits, views, classes, multi_label, shuffle, seed and memory, as for
        `featurestore.epochs.EpochOptions`.

    Returns:
      A dataset of features (*feature_shape) and an int64 number of the class, or float32 (classes,)
      of 0 and 1 with `multi_label`. With `batch_size` both have a first axis of rows. Its `classes`
      are the names, and its `left_out` counts rows without a label or of other classes.

    Raises:
      UsageError: when PyTorch is missing, for an unknown dtype, or without any labelled row.
    """
    try:
        from featurestore.torch import stored
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError(
            "featurestore.torch needs PyTorch, which is not installed; pip install "
            "'hoarfrost[torch]', or read NumPy arrays with featurestore.epochs"
        ) from error
    kind = stored.torch_dtype(dtype, store.spec)
    share = stored.shard_of(shard, even)
    return stored.Stored(Epochs.of(store, EpochOptions(**rows)), batch_size, kind, share)
