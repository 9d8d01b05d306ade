"""A head on a frozen base: extraction once, or the base in every epoch?

    python -m benchmarks.frozen [--images 3000] [--epochs 20]

Two thirds of the images are for training, the others for validation. All are distinct JPEG files of
500 by 375 pixels. The base is VGG16 at 180, and the head is that of the recipe ``vgg16-180``. End
to end, plain Keras computes the base for every image in each epoch: two epochs are measured, and
the second is scaled. Hoarfrost runs two commands from the shell, ``pipelines.extract`` with a base
that this machine never saw, and ``classifier.train`` for all epochs. Start-up is part of both.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import write_photographs
from benchmarks.processes import Finished, module, run_command
from benchmarks.rounds import NotRun
from benchmarks.tables import number, publish, table
from classifier.cachefolder import CACHE_VARIABLE
from featurestore.cli.command import main, say

END_TO_END = """
import json, sys, time, keras
folder, file, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
training, validation = (
    keras.utils.image_dataset_from_directory(
        f"{folder}/{split}", image_size=(size, size), batch_size=32, label_mode="binary"
    )
    for split in ("train", "validation")
)
base = keras.saving.load_model(file)
base.trainable = False
image = keras.Input((size, size, 3))
maps = base(keras.applications.vgg16.preprocess_input(image), training=False)
hidden = keras.layers.Dense(256)(keras.layers.Flatten()(maps))
dropped = keras.layers.Dropout(0.5)(hidden)
model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(dropped))
model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
seconds = []
for _ in range(2):
    started = time.perf_counter()
    history = model.fit(training, validation_data=validation, verbose=0).history
    seconds.append(time.perf_counter() - started)
print(json.dumps({"seconds": seconds, "accuracy": history["val_accuracy"][-1]}))
"""
TIMEOUT = 7200


def write_images(folder: Path, count: int) -> None:
    """Writes ``train/CLASS/*.jpg``, then moves every third image to ``validation/CLASS``."""
    for index, file in enumerate(sorted(write_photographs(folder, count).glob("*/*.jpg"))):
        if index % 3 == 2:
            target = folder / "validation" / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)


def measure(folder: Path, images: int, epochs: int) -> list[str]:
    """Runs both ways; returns the table, as lines of Markdown."""
    base = BASES["VGG16"]
    write_images(folder / "photos", images)
    file = write_base_apart(base, folder)
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    script = [sys.executable, "-c", END_TO_END, folder / "photos", file, base.size]
    looped = _finish(list(map(str, script)), folder)
    report = looped.report()
    first, epoch = report["seconds"]
    start = looped.seconds - first - epoch
    say(f"end to end: {report}, {number(looped.seconds)} s", to_stderr=True)
    where = ("--input", "photos", "--output", "store")
    stored = _finish(module("pipelines.extract", *where, *base.flags(file)), folder)
    say(stored.out, to_stderr=True)
    head = ("--recipe", "vgg16-180", "--epochs", epochs)
    command = module("classifier.train", "--store", "store", "--output", "run", *head)
    trained = _finish(command, folder)
    say(trained.out, to_stderr=True)
    ours = stored.seconds + trained.seconds
    loop = start + epochs * epoch
    even = (ours - start) / epoch
    rows = [
        ["end to end, base in the loop", number(start), number(epoch), number(loop), "1.00"],
        [
            "Hoarfrost: extract, then train",
            number(stored.seconds),
            number(trained.seconds / epochs),
            number(ours),
            number(loop / ours),
        ],
    ]
    header = ["way", "before the first epoch, s", "an epoch, s", f"{epochs} epochs, s", "times"]
    closing = f"The two commands cost less from epoch {math.ceil(even)} on."
    return [*table(header, rows), "", closing]


def _finish(command: Sequence[str], folder: Path) -> Finished:
    finished = run_command(command, folder, TIMEOUT)
    if finished.code:
        raise NotRun(finished.err)
    return finished


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.frozen", __doc__, images=3000, epochs=20)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        lines = measure(Path(name), args.images, args.epochs)
    title = (
        f"{args.images:,} JPEG of 500x375, a third of them for validation, "
        f"{BASES['VGG16'].title}, {args.epochs} epochs (end to end 2 measured, scaled):"
    )
    publish("benchmarks.frozen", [title, "", *lines], args.write)
    return 0


if __name__ == "__main__":
    main(run)
