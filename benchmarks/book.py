"""The textbook's way: predict a frozen base batch by batch, keep arrays, then save or fit them.

    python -m benchmarks.book --folder photos/train --base base.keras --size 160 \\
        --preprocess tf --pooling avg

This is plain Keras, with nothing of Hoarfrost in the loop: `image_dataset_from_directory`,
`model.predict` per batch, `np.concatenate`, `np.save`. The report is printed as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.processes import Stopwatch
from classifier.runtime import import_keras
from featurestore.cli.command import Parser, main, say

# The modules of `keras.applications` whose `preprocess_input` does this.
MODULES = {"caffe": "vgg16", "tf": "mobilenet_v2"}


def extract_features(args, watch: Stopwatch) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 (n, ...) and labels int32 (n,) of a folder of class folders."""
    keras = import_keras()
    dataset = keras.utils.image_dataset_from_directory(
        args.folder, image_size=(args.size, args.size), batch_size=32, verbose=False
    )
    base = keras.saving.load_model(args.base)
    if args.pooling == "avg":
        pooled = keras.layers.GlobalAveragePooling2D()(base.output)
        base = keras.Model(base.input, pooled)
    application = getattr(keras.applications, MODULES[args.preprocess])
    all_features, all_labels = [], []
    for images, labels in dataset:
        all_features.append(base.predict(application.preprocess_input(images), verbose=0))
        all_labels.append(labels)
        watch.batch(len(images))
    return np.concatenate(all_features), np.concatenate(all_labels)


def fit(features: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    """Fits a linear head of two classes on arrays."""
    keras = import_keras()
    head = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(features, labels, epochs=epochs, verbose=0)


def loop_parser(name: str, description: str | None) -> Parser:
    """Returns the parser of a contender that builds its own loop around a base."""
    parser = Parser(prog=f"python -m {name}", description=description)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--preprocess", choices=MODULES, required=True)
    parser.add_argument("--pooling", choices=("none", "avg"), default="none")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the loop; returns the exit code."""
    parser = loop_parser("benchmarks.book", __doc__)
    parser.add_argument(
        "--epochs",
        type=int,
        default=0,
        help="fit a head for so many epochs instead of saving the arrays",
    )
    args = parser.parse_args(argv)
    watch = Stopwatch()
    features, labels = extract_features(args, watch)
    report = {}
    if args.epochs:
        # The second fit counts: it has nothing left to set up.
        for _ in range(2):
            started = time.perf_counter()
            fit(features, labels, args.epochs)
            report["fit_seconds"] = time.perf_counter() - started
    else:
        np.save("features.npy", features)
        np.save("labels.npy", labels)
    say(json.dumps(report | watch.report()))
    return 0


if __name__ == "__main__":
    main(run)
