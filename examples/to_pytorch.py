"""Trains a linear layer of PyTorch on a store, in batches that loader workers read.

python examples/to_pytorch.py STORE

PyTorch is no dependency of Hoarfrost: pip install '.[torch]'.
"""

import sys

import featurestore.torch
from featurestore import open_store


def main() -> None:
    """Trains for five epochs and prints the last one's loss."""
    import torch
    from torch.utils.data import DataLoader

    store = open_store(sys.argv[1])
    data = featurestore.torch.dataset(store, splits=["train"], batch_size=64)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(store.spec.feature_size, len(data.classes))
    )
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(5):
        data.set_epoch(epoch)
        for features, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{len(data.classes)} classes, loss of the last batch {loss.item():.3f}")


if __name__ == "__main__":
    main()
