"""Streams a store into PyTorch by an IterableDataset and trains a linear layer on it.

python examples/to_pytorch.py STORE

PyTorch is no dependency of Hoarfrost: pip install '.[examples]'.
"""

import sys
from collections.abc import Iterator

import numpy as np

from featurestore import FeatureStore, open_store


def class_names(store: FeatureStore) -> list[str]:
    """Returns the labels that training rows have, sorted."""
    batches = store.scan(["labels"], splits=["train"])
    return sorted({names[0] for batch in batches for names in batch["labels"] if len(names)})


def rows(
    store: FeatureStore, classes: list[str], worker: int = 0, workers: int = 1
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields training rows, features float32 (*feature_shape) and the class's number.

    Args:
      store: to read.
      classes: names.
      worker: of a DataLoader, from 0.
      workers: each reads chunks of its own; together they read every row once.
    """
    number = {name: index for index, name in enumerate(classes)}
    chunks = list(store.markers().values())[worker::workers]
    for batch in store.scan_markers(chunks, ["features", "labels", "split"]):
        for features, labels, split in zip(
            batch["features"], batch["labels"], batch["split"], strict=True
        ):
            if split == "train" and len(labels):
                yield features.astype(np.float32), number[labels[0]]


def main() -> None:
    """Trains for five epochs and prints the last one's loss."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Stored(IterableDataset):
        """The training rows of a store."""

        def __init__(self, url: str, classes: list[str]) -> None:
            self.url, self.classes = url, classes

        def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
            info = get_worker_info()
            worker, workers = (info.id, info.num_workers) if info else (0, 1)
            # Opened here and not in __init__: a store that is open does not cross processes.
            return rows(open_store(self.url), self.classes, worker, workers)

    store = open_store(sys.argv[1])
    classes = class_names(store)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(len(classes)))
    loader = DataLoader(Stored(sys.argv[1], classes), batch_size=64)
    model(next(iter(loader))[0])
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(5):
        for features, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{len(classes)} classes, loss of the last batch {loss.item():.3f}")


if __name__ == "__main__":
    main()
