"""Training a head on a frozen base: the textbook's two ways beside Hoarfrost's.

    python -m benchmarks.textbook [--images 600] [--epochs 10]

The same JPEG files (500 by 375 pixels), the same MobileNetV2 at 160 pixels, the
same epochs, one after another in processes of their own, start-up included:

* end to end: the base inside the trained model, as in transfer learning with augmentation;
* features in memory: `image_dataset_from_directory`, `model.predict` into arrays, then `fit`;
* Hoarfrost: ``pipelines.extract`` into a store, then ``classifier.train`` from it.

Prints the table that README.md quotes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import write_photographs
from benchmarks.processes import module, run_command
from benchmarks.tables import publish, table
from featurestore.command import main

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
TIMEOUT = 3600  # seconds a way


def measure(folder: Path, images: int, epochs: int) -> dict[str, tuple[float, float]]:
    """Runs the three ways: way -> (seconds of the first head, of each further one)."""
    classes = write_photographs(folder / "photos", images)
    base = BASES["MobileNetV2"]
    file = write_base_apart(base, folder)

    def seconds(command: Sequence[str]) -> float:
        return run_command(command, folder, TIMEOUT).seconds

    end_to_end = seconds([sys.executable, "-c", END_TO_END, str(classes), str(file), str(epochs)])
    loop = ["--folder", classes, "--base", file, "--size", base.size, "--epochs", epochs]
    flags = ["--preprocess", base.preprocess, "--pooling", base.pooling]
    in_memory = seconds(module("benchmarks.book", *loop, *flags))
    extract = ["--input", "photos", "--output", "store", *base.flags(file)]
    first = seconds(module("pipelines.extract", *extract))
    train = ["--store", "store", "--output", "run", "--epochs", epochs]
    head = seconds(module("classifier.train", *train))
    return {
        "end to end, base in the loop": (end_to_end, end_to_end),
        "`predict` into arrays, then `fit`": (in_memory, in_memory),
        "Hoarfrost: extract, then train": (first + head, head),
    }


def report(measured: Mapping[str, tuple[float, float]]) -> list[str]:
    """Lays out what was measured; ten heads are added up, not run."""
    rows, slowest = [], 0.0
    for way, (first, further) in measured.items():
        ten = first + 9 * further
        slowest = slowest or ten
        cells = [f"{first:.0f} s", f"{further:.0f} s", f"{ten:.0f} s ({slowest / ten:.1f}x)"]
        rows.append([way, *cells])
    return table(["way", "first head", "each further head", "10 heads, by sum"], rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.textbook", __doc__, images=600, epochs=10)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        lines = report(measure(Path(name), args.images, args.epochs))
    title = f"{args.images:,} JPEG of 500x375, MobileNetV2 at 160, {args.epochs} epochs a head:"
    publish("benchmarks.textbook", [title, "", *lines], args.write)
    return 0


if __name__ == "__main__":
    main(run)
