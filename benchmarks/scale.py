"""A store of a million parts and a hundred million images: seconds and memory of what reads it.

It makes the metadata of such a store: markers, manifests, and the index of its images. The parts of
its last commits are real; the others are files that have a size but no content, because no measured
step opens them. Each step then runs in a process of its own, whose peak of anonymous memory is
measured.

Usage: python -m benchmarks.scale FOLDER [--parts N] [--images_per_part N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scalestore import Scale, make_store
from featurestore.cli.command import say
from featurestore.store import FeatureStore, open_store
from featurestore.units import size_text

POLL_SECONDS = 0.02


def measured(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """Runs `work`; returns its result, its seconds and the peak of anonymous memory in bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return result, seconds, max(peak[0], anonymous_bytes())


def anonymous_bytes() -> int:
    """Returns the resident memory of this process that no file backs (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def open_it(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Reads the commits, as every command does first."""
    return {"commits": len(store.at_this_moment().markers())}


def inventory(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Reads what the store holds, as every plan does first."""
    from pipelines.planning.inventory import Inventory

    Inventory.read(store)
    return {}


def listing(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Lists the images alone, which planning includes."""
    return {"listed": sum(1 for _ in scale.refs(scale.images - scale.listed, scale.images))}


def plan(store: FeatureStore, scale: Scale, new: int = 0) -> dict[str, Any]:
    """Plans with `new` images besides the stored ones."""
    from pipelines.planning.inventory import Inventory
    from pipelines.planning.plan import write_plan

    refs = scale.refs(scale.images - scale.listed, scale.images + new)
    run_id = f"plan-{new}"
    try:
        made = write_plan(store.storage, run_id, refs, Inventory.read(store), lambda listed: 1024)
    finally:
        store.storage.remove(f"plans/{run_id}")
    assert made.images == new and made.committed == scale.listed
    return {"listed": made.listed, "new": made.images}


def plan_more(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Plans with one image in a hundred new."""
    return plan(store, scale, scale.listed // 100)


def verify_quick(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Compares commits with the list of files."""
    from featurestore.checking.verify import verify_storage

    return {"findings": sum(1 for _ in verify_storage(store.storage, quick=True))}


def finishing(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Closes the books of a run that had nothing new."""
    from pipelines.finishing.record import finish_run
    from pipelines.planning.runfolder import RunFacts

    run_id = time.strftime("%Y%m%dT%H%M%S000000Z-abc123", time.gmtime())
    record = finish_run(store.storage, RunFacts(run_id, time.time()))
    return {"rows": record["store_ledger"]["rows"]}


def compaction(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Merges the parts that hold rows; the others count as large."""
    from featurestore.compaction.compact import compact

    done = compact(store)
    assert done.merged == scale.real_parts
    return {"merged": done.merged, "parts": done.parts}


def commits(store: FeatureStore, scale: Scale) -> dict[str, Any]:
    """Commits a thousand markers as workers do, one after the other."""
    from featurestore.commit import Marker, commit

    for number in range(1000):
        commit(store.storage, Marker(f"c{number:031x}", "20270101T000000000000Z-abc123", "z"))
    return {}


STEPS: dict[str, Callable[[FeatureStore, Scale], dict[str, Any]]] = {
    "opening": open_it,
    "inventory": inventory,
    "listing": listing,
    "plan_nothing_new": plan,
    "plan_one_percent_new": plan_more,
    "verify_quick": verify_quick,
    "finishing": finishing,
    "compaction": compaction,
    "commits": commits,
}


def measure(folder: Path, scale: Scale, name: str) -> dict[str, Any]:
    """Runs one step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", str(folder), "--step", name]
    command += ["--parts", str(scale.parts), "--images_per_part", str(scale.images_per_part)]
    command += ["--listed", str(scale.listed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def run_step(folder: Path, scale: Scale, name: str) -> dict[str, Any]:
    store = open_store(str(folder))
    facts, seconds, peak = measured(lambda: STEPS[name](store, scale))
    cpu = round(time.process_time(), 2)
    return {"step": name, "seconds": round(seconds, 2), "cpu": cpu, "peak_bytes": peak, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--images_per_part", type=int, default=100)
    parser.add_argument("--real_parts", type=int, default=1000, help="parts that hold rows")
    text = "make no marker files and empty parts"
    parser.add_argument("--manifests_only", action="store_true", help=text)
    parser.add_argument("--listed", type=int, default=1_000_000, help="images that are listed")
    parser.add_argument(
        "--steps", nargs="+", default=["making", *STEPS], choices=["making", *STEPS]
    )
    parser.add_argument("--step", choices=STEPS, help="run one step in this process")
    args = parser.parse_args()
    images = args.parts * args.images_per_part
    real, listed = min(args.parts, args.real_parts), min(images, args.listed)
    scale = Scale(args.parts, args.images_per_part, real, listed, not args.manifests_only)
    if args.step:
        say(json.dumps(run_step(args.folder, scale, args.step)))
        return
    if "making" in args.steps:
        _, seconds, peak = measured(lambda: make_store(args.folder, scale))
        say(f"made in {seconds:.0f} s, {size_text(peak)}")
    say(f"{scale.parts:,} parts, {scale.images:,} images")
    say("| step | seconds | of processor | peak memory |\n|---|---|---|---|")
    for name in STEPS if "making" in args.steps else args.steps:
        facts = measure(args.folder, scale, name)
        cells = (name, facts["seconds"], facts["cpu"], size_text(facts["peak_bytes"]))
        say("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
