"""Labels as a store has them."""

from __future__ import annotations


def labels_in(store):
    loaded = store.load(["key", "labels"])
    return {k: list(v) for k, v in zip(loaded["key"], loaded["labels"], strict=True)}
