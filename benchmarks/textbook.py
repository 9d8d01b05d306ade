"""Training a head on a frozen base: the textbook's two ways beside Hoarfrost's.

    python -m benchmarks.textbook [--images 600] [--epochs 10]

The same JPEG files (500 by 375 pixels), the same MobileNetV2 at 160 pixels with random weights, the
same epochs, one after another in processes of their own, start-up included:

* end to end: the base inside the trained model, as in transfer learning with augmentation;
* features in memory: `image_dataset_from_directory`, `model.predict` into arrays, then `fit`;
* Hoarfrost: ``pipelines.extract`` into a store, then ``classifier.train`` from it.

Prints the table that README.md quotes.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featurestore.command import Parser, main, say

END_TO_END = """
import sys, keras
folder, epochs = sys.argv[1], int(sys.argv[2])
data = keras.utils.image_dataset_from_directory(folder, image_size=(160, 160), batch_size=32)
base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(160, 160, 3))
base.trainable = False
image = keras.Input((160, 160, 3))
features = base(keras.applications.mobilenet_v2.preprocess_input(image), training=False)
pooled = keras.layers.GlobalAveragePooling2D()(features)
model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data, epochs=epochs, verbose=0)
"""
IN_MEMORY = """
import sys, keras, numpy as np
folder, epochs = sys.argv[1], int(sys.argv[2])
data = keras.utils.image_dataset_from_directory(folder, image_size=(160, 160), batch_size=32)
base = keras.applications.MobileNetV2(
    weights=None, include_top=False, input_shape=(160, 160, 3), pooling="avg")
features, labels = [], []
for images, classes in data:
    images = keras.applications.mobilenet_v2.preprocess_input(images)
    features.append(base.predict(images, verbose=0))
    labels.append(classes)
features, labels = np.concatenate(features), np.concatenate(labels)
head = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
head.fit(features, labels, epochs=epochs, verbose=0)
"""


def write_photographs(folder: Path, count: int) -> None:
    """Writes distinct JPEG files of 500 by 375 pixels in two classes, cut from two photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for index in range(count):
        label = index % 2
        photograph = load_sample_images().images[label]
        top, left = random.integers(0, 427 - 375), random.integers(0, 640 - 500)
        crop = photograph[top : top + 375, left : left + 500]
        noisy = np.clip(crop + random.normal(0, 4, crop.shape), 0, 255).astype(np.uint8)
        path = folder / "train" / ("china", "flower")[label] / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def seconds(command: Sequence[str], cwd: Path) -> float:
    """Runs a command and returns how long it took."""
    started = time.monotonic()
    subprocess.run(
        command,
        cwd=cwd,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return time.monotonic() - started


def machine() -> str:
    """Describes the processor and the cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = found[0] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}"


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m benchmarks.textbook", description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    python = sys.executable
    flags = "--model MobileNetV2 --weights none --pooling avg --image_size 160".split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "photos", args.images)
        classes = str(folder / "photos" / "train")
        epochs = str(args.epochs)
        end_to_end = seconds([python, "-c", END_TO_END, classes, epochs], folder)
        in_memory = seconds([python, "-c", IN_MEMORY, classes, epochs], folder)
        extract = [python, "-m", "pipelines.extract", "--input", "photos", "--output", "store"]
        first = seconds([*extract, *flags], folder)
        train = [python, "-m", "classifier.train", "--store", "store", "--epochs", epochs]
        head = seconds([*train, "--output", "run"], folder)
    ours = first + head
    say(f"{args.images:,} JPEG of 500x375, MobileNetV2 at 160, {args.epochs} epochs; {machine()}\n")
    say("| way | first head | each further head | 10 heads, by sum |")
    say("|---|---|---|---|")
    for way, one, more in (
        ("end to end, base in the loop", end_to_end, end_to_end),
        ("predict into arrays, fit", in_memory, in_memory),
        ("Hoarfrost: extract, then train", ours, head),
    ):
        ten = one + 9 * more
        ratio = (end_to_end * 10) / ten
        say(f"| {way} | {one:.0f} s | {more:.0f} s | {ten:.0f} s ({ratio:.1f}x) |")
    return 0


if __name__ == "__main__":
    main(run)
