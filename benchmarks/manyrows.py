"""How the audit's time and memory grow with the rows of a store, for `benchmarks.auditing`."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.opening import write_store
from benchmarks.tables import table
from featurestore.cli.command import say
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec

FEATURES, BLOCK = 512, 10_000
ROWS_PER_KIND, DIMENSIONS = 1000, 24
# Near copies, as a share of the rows, and their cosines with their originals.
SHARE, COSINES = 0.005, (0.98, 0.95, 0.9)
# A process of its own that tells what it needed at the end.
SCRIPT = """
import json, resource, sys
from pathlib import Path
{work}
used = resource.getrusage(resource.RUSAGE_SELF)
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps([used.ru_utime + used.ru_stime, peak * 1024]))
"""
AUDIT = "from classifier.audit import run; run(sys.argv[1:])"
SEARCH = """
from classifier.auditing.search import search
from featurestore import open_store
store = open_store(sys.argv[1])
wanted = next(iter(store.scan(["features"])))["features"][7]
found = search(store, wanted, 12)
assert found[0].columns["key"] == "000007.jpg", found[0]
"""


def write_rows(path: Path, count: int, is_noise: bool) -> np.ndarray:
    """Writes float32 (count, FEATURES); returns int64 (m, 2), the rows of the planted pairs.

    A thousand rows each are of one kind. Those of a kind differ in 24 directions of its own, and
    all have noise; or they are noise alone, where no row is near another one. The last rows are the
    planted copies: in turn of each of `COSINES`.
    """
    random = np.random.default_rng(count)
    number = -(-count // ROWS_PER_KIND)
    centres = random.standard_normal((number, FEATURES), np.float32)
    basis = random.standard_normal((number, DIMENSIONS, FEATURES), np.float32) / DIMENSIONS**0.5
    rows = np.memmap(path, np.float32, "w+", shape=(count, FEATURES))
    copies = round(SHARE * count)
    for start in range(0, count, BLOCK):
        block = rows[start : start + BLOCK]
        block[:] = random.standard_normal(block.shape, np.float32)
        if not is_noise:
            kinds = np.sort(random.integers(0, number, len(block)))
            block *= 0.3
            block += centres[kinds]
            within = random.standard_normal((len(block), DIMENSIONS), np.float32)
            for kind in np.unique(kinds):
                of = kinds == kind
                block[of] += within[of] @ basis[kind]
    originals = random.choice(count - copies, copies, replace=False)
    for place, original in enumerate(originals):
        cosine = COSINES[place % len(COSINES)]
        noise = random.standard_normal(FEATURES, np.float32)
        length = np.linalg.norm(rows[original]) * (cosine**-2 - 1) ** 0.5
        copy = rows[original] + noise * length / np.linalg.norm(noise)
        rows[count - copies + place] = copy
    rows.flush()
    return np.stack([originals, np.arange(count - copies, count)], axis=1)


def measure(folder: Path, count: int, is_noise: bool) -> list[str]:
    """Makes a store with planted copies, and audits it; returns the cells of a table."""
    planted = write_rows(folder / "rows", count, is_noise)
    rows = np.memmap(folder / "rows", np.float32, "r", shape=(count, FEATURES))
    spec = StoreSpec(
        base=BaseSpec("made", "none", "0" * 32, "top", "avg", "none"),
        pixels=PixelSpec((32, 32)),
        feature_shape=(FEATURES,),
        dtype="float32",
        numerics=Numerics("tensorflow", "float32", "made"),
    )
    write_store(folder / "store", spec, rows, [f"class {number}" for number in range(10)])
    del rows
    (folder / "rows").unlink()
    where = ["--store", str(folder / "store"), "--output", str(folder / "audit")]
    needed = _needed(AUDIT, *where, "--compare", "0") + _needed(SEARCH, str(folder / "store"))
    recall = json.loads((folder / "audit" / "audit.json").read_text())["leaks"]["recall"]
    found = _found(folder / "audit" / "leaks.csv", planted, recall)
    return [*found, *needed]


def _needed(work: str, *arguments: str) -> list[str]:
    """Runs a script; returns its processor seconds and its peak memory in GB."""
    # One thread computes: several would spend processor time waiting for each other.
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.replace("{work}", work), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return [f"{seconds:,.0f}", f"{peak / 1e9:.2f}"]


def _found(path: Path, planted: np.ndarray, recall: dict[str, Any] | None) -> list[str]:
    """Returns how many planted copies were found, and how many others; and the measured recall."""
    with path.open(newline="", encoding="utf-8") as file:
        found = {(row["key"], row["other_key"]) for row in csv.DictReader(file)}
    keys = [tuple(f"{row:06d}.jpg" for row in pair) for pair in planted.tolist()]
    shares = []
    for number in range(len(COSINES)):
        of = keys[number :: len(COSINES)]
        shares.append(f"{sum(pair in found for pair in of) / max(len(of), 1):.3f}")
    cells = f"{recall['probed']} of {recall['cells']:,}" if recall else "all pairs"
    measured = f"{recall['nearest']:.3f}" if recall else "1"
    return [f"{len(keys):,}", *shares, f"{len(found - set(keys)):,}", cells, measured]


def report_rows(counts: Sequence[int], is_noise: bool) -> list[str]:
    """Measures stores of all sizes; returns the table, as lines of Markdown."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rows.append([f"{count:,}", *measure(Path(folder), count, is_noise)])
        say(f"  {' | '.join(rows[-1])}", to_stderr=True)
    header = ["rows", "planted", *(f"found of cosine {cosine}" for cosine in COSINES)]
    header += ["others", "cells looked through", "nearest found, as reported"]
    for what in ("audit", "search"):
        header += [f"{what}: processor s", "peak GB"]
    return table(header, rows)
