"""Trains ten heads over one stream of a store, and prints the leaderboard.

python examples/ten_heads.py STORE RUN

From a shell the same is

    python -m classifier.train --store STORE --output RUN --head linear --head mlp:64 \
        --lr 1e-4,3e-4,1e-3,3e-3,1e-2
"""

import json
import sys
from pathlib import Path

from classifier.train import run

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def main() -> None:
    """Trains, then reads what the training wrote."""
    store, output = sys.argv[1:3]
    heads = ["--head", "linear", "--head", "mlp:64"]
    rates = ["--lr", ",".join(map(str, RATES))]
    run(["--store", store, "--output", output, *heads, *rates, "--epochs", "20"])
    for entry in json.loads((Path(output) / "leaderboard.json").read_text()):
        print(f"{entry['rank']:>2} {entry['val_accuracy']:.3f} {entry['head_id']}")


if __name__ == "__main__":
    main()
