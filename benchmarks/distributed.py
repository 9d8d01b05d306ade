"""Two workers of a Dask cluster against two processes of the local runner, on the same cores.

    python -m benchmarks.distributed [--images 2000] [--rounds 3]

The base is MobileNetV2 at 160, pooled, in TensorFlow's float32. The cluster is on this machine: a
scheduler, and two workers of one thread. The clock runs from the moment when each worker has
committed a chunk to the last commit, so that the start of the processes does not count.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES
from benchmarks.contenders import TWO_PROCESSES, Bench
from benchmarks.processes import module, run_command
from benchmarks.progress import Curve, under_way
from benchmarks.rounds import Contender, NotRun, Results, Timing, interleave
from benchmarks.tables import number, publish, table
from benchmarks.throughput import Settings, prepared
from featurestore import FeatureStore, open_store
from featurestore.cli.command import main, say

WORKERS = 2
LOCAL, DASK = "DirectRunner, two processes", "DaskRunner, two workers of one thread"
ENGINE = ("--engine", "tensorflow", "--precision", "float32")


def measure(folder: Path, settings: Settings) -> Results:
    """Times both runners on the same images.

    Args:
      folder: where everything is written.
      settings: of the measurement; `only` is not used.
    """
    from distributed import LocalCluster

    bench = prepared(folder, BASES["MobileNetV2"], settings)
    with LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", silence_logs="ERROR"
    ) as cluster:
        ways = {
            LOCAL: TWO_PROCESSES,
            DASK: ("--runner=DaskRunner", f"--dask_client_address={cluster.scheduler_address}"),
        }
        return interleave(
            [Contender(name, partial(timed, bench, flags)) for name, flags in ways.items()],
            settings.rounds,
            lambda line: say(line, to_stderr=True),
        )


def timed(bench: Bench, flags: Sequence[str]) -> Timing:
    """Runs one extraction into a new store, and times it by its commits.

    Args:
      bench: what both runners share.
      flags: of the runner.

    Raises:
      NotRun: if not every worker has committed something.
    """
    shutil.rmtree(bench.folder / "store", ignore_errors=True)
    command = module(
        "pipelines.extract",
        *("--input", bench.classes, "--output", "store", *bench.base.flags(bench.base_file)),
        *(*ENGINE, *flags),
    )
    finished = run_command(command, bench.folder, bench.timeout)
    store = open_store(str(bench.folder / "store"))
    curves = commit_curves(store)
    if len(curves) != WORKERS:
        raise NotRun(f"{len(curves)} of {WORKERS} workers have committed a chunk")
    at, through = under_way(curves)
    last = max(curve[-1][0] for curve in curves)
    rows = store.ledger().rows
    first = min(marker.time["first"] for marker in store.markers().values())
    return Timing(
        rate=(rows - through) / (last - at) if last > at else None,
        whole_rate=rows / finished.seconds,
        first_seconds=first - finished.started,
    )


def commit_curves(store: FeatureStore) -> list[Curve]:
    """Returns the commits of each worker process: (seconds since the epoch, images so far)."""
    commits = defaultdict(list)
    for marker in store.markers().values():
        commits[marker.time["worker"]].append((marker.time["finished"], marker.time["images"]))
    curves = []
    for worker in commits.values():
        total, curve = 0, []
        for finished, images in sorted(worker):
            total += images
            curve.append((finished, total))
        curves.append(curve)
    return curves


def report(results: Results, images: int) -> list[str]:
    """Returns the table, as lines of Markdown."""
    rows = [
        [
            name,
            number(results.median(name, "rate")),
            number(results.ratio(name, LOCAL)),
            number(results.median(name, "whole_rate")),
            number(results.median(name, "first_seconds"), " s"),
        ]
        for name in results.timings
    ]
    lines = [f"MobileNetV2 at 160, pooled by avg, TensorFlow float32, {images:,} JPEG:", ""]
    lines += table(["way", "images/s", f"x {LOCAL}", "with start-up", "first image"], rows)
    return lines + [f"* {name}: not run: {why}" for name, why in results.reasons.items()]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = counted_parser("benchmarks.distributed", __doc__, images=2000, rounds=3, timeout=1800)
    args = parser.parse_args(argv)
    settings = Settings(args.images, args.rounds, timeout=args.timeout)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results = measure(Path(name), settings)
    publish("benchmarks.distributed", report(results, args.images), args.write)
    return 0


if __name__ == "__main__":
    main(run)
