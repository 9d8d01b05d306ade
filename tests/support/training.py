"""Training runs on small stores."""

from __future__ import annotations

from classifier.runs.run import load_run
from classifier.train import run as train

SPLITS = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20


def train_into(folder, store, *arguments):
    train(
        ["--store", store.url, "--output", str(folder), "--lr", "0.01", "--epochs", "4", *arguments]
    )
    return load_run(str(folder))
