"""Training heads on a frozen base: the textbook's two ways beside Hoarfrost's.

    python -m benchmarks.textbook [--images 600] [--epochs 10]

All ways use the same JPEG files (500 by 375 pixels), the same MobileNetV2 at 160 pixels and the
same epochs. They run one after another in processes of their own, start-up included:

* end to end: the base is inside the trained model, as in transfer learning with augmentation;
* features in memory: `image_dataset_from_directory`, `model.predict` into arrays, then `fit`;
* Hoarfrost: ``pipelines.extract`` into a store, then one ``classifier.train`` of all the heads.

For several heads, the time of the first way is that of one run times the heads. For the second way,
the further fits on the arrays are added up. Hoarfrost really trains them, as learning rates of one
command. The command prints the table that README.md quotes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import write_photographs
from benchmarks.processes import Finished, module, run_command
from benchmarks.tables import publish, table
from featurestore.cli.command import main

END_TO_END = """
import sys, keras
folder, file, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = keras.utils.image_dataset_from_directory(folder, image_size=(160, 160), batch_size=32)
base = keras.saving.load_model(file)
base.trainable = False
image = keras.Input((160, 160, 3))
features = base(keras.applications.mobilenet_v2.preprocess_input(image), training=False)
pooled = keras.layers.GlobalAveragePooling2D()(features)
model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data, epochs=epochs, verbose=0)
"""
HEADS = (1, 10, 100)
TIMEOUT = 3600  # seconds per way


def measure(folder: Path, images: int, epochs: int) -> dict[str, list[float]]:
    """Runs the three ways; returns way -> seconds for each of `HEADS`."""
    classes = write_photographs(folder / "photos", images)
    base = BASES["MobileNetV2"]
    file = write_base_apart(base, folder)

    def finish(command: Sequence[str]) -> Finished:
        return run_command(command, folder, TIMEOUT)

    script = [sys.executable, "-c", END_TO_END, str(classes), str(file), str(epochs)]
    end_to_end = finish(script).seconds
    loop = ["--folder", classes, "--base", file, "--size", base.size, "--epochs", epochs]
    flags = ["--preprocess", base.preprocess, "--pooling", base.pooling]
    book = finish(module("benchmarks.book", *loop, *flags))
    further = book.report()["fit_seconds"]
    extract = ["--input", "photos", "--output", "store", *base.flags(file)]
    first = finish(module("pipelines.extract", *extract)).seconds
    train = ["--store", "store", "--epochs", epochs, "--output"]
    ours = []
    for heads in HEADS:
        rates = ",".join(f"{rate:.3g}" for rate in np.geomspace(1e-4, 1e-2, heads))
        command = module("classifier.train", *train, f"run-{heads}", "--lr", rates)
        ours.append(first + finish(command).seconds)
    return {
        "end to end, base in the loop": [heads * end_to_end for heads in HEADS],
        # One run of the program fits two heads.
        "`predict` into arrays, then `fit`": [
            book.seconds + (heads - 2) * further for heads in HEADS
        ],
        "Hoarfrost: extract, then train": ours,
    }


def report(measured: Mapping[str, Sequence[float]]) -> list[str]:
    """Returns the table, as lines of Markdown."""
    slowest = next(iter(measured.values()))
    rows = [
        [
            way,
            *(
                f"{own:,.0f} s ({most / own:.1f}x)"
                for own, most in zip(taken, slowest, strict=True)
            ),
        ]
        for way, taken in measured.items()
    ]
    names = [f"{heads} head{'s' if heads > 1 else ''}" for heads in HEADS]
    return table(["way", *names], rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.textbook", __doc__, images=600, epochs=10)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        lines = report(measure(Path(name), args.images, args.epochs))
    title = f"{args.images:,} JPEG of 500x375, MobileNetV2 at 160, {args.epochs} epochs per head:"
    publish("benchmarks.textbook", [title, "", *lines], args.write)
    return 0


if __name__ == "__main__":
    main(run)
