"""Labelled rows of a store, epoch by epoch, for any learner that takes NumPy arrays."""

from featurestore.epochs.epochs import EpochOptions, Epochs
from featurestore.epochs.shards import Shard

__all__ = ["EpochOptions", "Epochs", "Shard"]
