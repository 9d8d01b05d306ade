"""What keeping freed memory gains: the same base with and without `classifier.runtime`.

    python -m benchmarks.allocation [--seconds 6] [--rounds 3]

MobileNetV2 at 160 runs in TensorFlow, float32, in batches of 16. Each run has a process of its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.processes import module, run_command
from benchmarks.tables import number, publish, table
from classifier.runtime import keep_freed_memory
from featurestore.cli.command import main, say

BATCH = 16
WAYS = {"returned": "freed memory goes back (glibc's default)", "kept": "freed memory is kept"}
Figures = dict[str, float]


def measure_here(seconds: float) -> Figures:
    """Runs the base in this process for a while.

    Returns:
      rate (images/s), faults (minor page faults per second), kernel (its share of CPU time).
    """
    from classifier.runtime import import_keras

    keras = import_keras()
    import tensorflow as tf

    base = keras.applications.MobileNetV2(
        input_shape=(160, 160, 3), include_top=False, weights=None, pooling="avg"
    )
    step = tf.function(lambda batch: base(tf.cast(batch, tf.float32) / 127.5 - 1, training=False))
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 160, 160, 3), np.uint8)
    batch = tf.constant(pixels)
    step(batch)
    before, started, images = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step(batch).numpy()
        images += BATCH
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    kernel, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    return {
        "rate": images / taken,
        "faults": (after.ru_minflt - before.ru_minflt) / taken,
        "kernel": kernel / (kernel + user),
    }


def report(rounds: Sequence[dict[str, Figures]]) -> list[str]:
    """Returns a table of medians, and of the median of the ratios within a round."""
    rows = []
    for way, title in WAYS.items():
        middle = {
            name: statistics.median(figures[way][name] for figures in rounds)
            for name in ("rate", "faults", "kernel")
        }
        ratio = statistics.median(
            figures[way]["rate"] / figures["returned"]["rate"] for figures in rounds
        )
        cells = [middle["rate"], ratio, middle["faults"], middle["kernel"]]
        rows.append([title, *map(number, cells)])
    header = ["way", "images/s", "x glibc's default", "page faults/s", "share in the kernel"]
    title = f"MobileNetV2 at 160, TensorFlow float32, batches of {BATCH}, {len(rounds)} rounds:"
    return [title, "", *table(header, rows)]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.allocation", __doc__, seconds=6, rounds=3)
    parser.add_argument(
        "--here", choices=WAYS, help="measure one way in this process, and print JSON"
    )
    args = parser.parse_args(argv)
    if args.here:
        if args.here == "kept":
            keep_freed_memory()
        say(json.dumps(measure_here(args.seconds)))
        return 0
    rounds = []
    for _ in range(args.rounds):
        figures = {}
        for way in WAYS:
            command = module("benchmarks.allocation", "--here", way, "--seconds", args.seconds)
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                figures[way] = run_command(command, Path(folder), 300).report()
        rounds.append(figures)
    publish("benchmarks.allocation", report(rounds), args.write)
    return 0


if __name__ == "__main__":
    main(run)
