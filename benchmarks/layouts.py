"""How Parquet should hold features: every layout beside `np.save` and `np.load` of the same bytes.

    python -m benchmarks.layouts [--images 256] [--rows 2048] [--rounds 5] [--write FILE]

The features are those of real photographs from the bases that ``make install`` brings: VGG16's maps
of (5, 5, 512) as float16, and MobileNetV2's embeddings of (1280,) as float32. A few hundred images
are extracted. More rows are made from theirs by flips and rotations of the map, which are maps of
flipped images except at the borders, and by a gain of some per cent, so that no bytes repeat.

Rows are written and scanned with pyarrow, every value is touched, and the rounds interleave.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, Base, write_base
from benchmarks.images import write_varied
from benchmarks.rounds import paired_ratio
from benchmarks.tables import number, publish, table
from featurestore import open_store
from featurestore.cli.command import main

PLAIN, SPLIT = "plain", "byte-stream-split"
COMPRESSIONS = {"none": ("none", None), "lz4": ("lz4", None), "zstd:1": ("zstd", 1)}
GROUPS = (256, 1024)
BASELINE = "np.save, np.load"
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Layout:
    """One way to store features in Parquet.

    Attributes:
      kind: ``list`` (fixed_size_list) or ``binary`` (fixed_size_binary).
      encoding: `PLAIN` or `SPLIT`.
      compression: a key of `COMPRESSIONS`.
      group: rows per row group.
    """

    kind: str
    encoding: str
    compression: str
    group: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.encoding}, {self.compression}, {self.group}"


def layouts() -> Iterator[Layout]:
    """Yields the layouts worth measuring, without byte streams of whole maps."""
    for kind, encoding in (("list", PLAIN), ("list", SPLIT), ("binary", PLAIN)):
        for compression, group in itertools.product(COMPRESSIONS, GROUPS):
            yield Layout(kind, encoding, compression, group)


def real_features(base: Base, images: int, folder: Path) -> np.ndarray:
    """Extracts photographs with a real base; float16 or float32 (images, *shape)."""
    file = folder / f"{base.name}.keras"
    write_base(base, file)
    command = [sys.executable, "-m", "pipelines.extract", "--input", str(folder / "photographs")]
    command += ["--output", str(folder / base.name), *base.flags(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return open_store(str(folder / base.name)).load(["features"])["features"]


def more_rows(features: np.ndarray, count: int) -> np.ndarray:
    """Makes more rows from real ones: turns and mirrors maps, scales values by a few per cent.

    Args:
      features: (n, *shape).
      count: number of rows wanted.

    Returns:
      (count, *shape) of the same dtype.
    """
    random = np.random.default_rng(0)
    result = np.empty((count, *features.shape[1:]), features.dtype)
    for turn, start in enumerate(range(0, count, len(features))):
        block = features.astype(np.float32)
        if block.ndim == 4:
            block = np.rot90(block, turn % 4, axes=(1, 2))
            block = block[:, :, ::-1] if turn % 8 >= 4 else block
        gain = random.uniform(0.95, 1.05, (len(block), *[1] * (block.ndim - 2), block.shape[-1]))
        rows = min(len(block), count - start)
        result[start : start + rows] = (block * gain)[:rows]
    return result


def column(features: np.ndarray, kind: str) -> pa.Table:
    """Returns features as a table of one column, without a copy."""
    width = features[0].size
    if kind == "binary":
        blocks = [None, pa.py_buffer(features)]
        item: pa.DataType = pa.binary(features[0].nbytes)
        values = pa.Array.from_buffers(item, len(features), blocks)
    else:
        element = pa.field("element", pa.from_numpy_dtype(features.dtype), nullable=False)
        item = pa.list_(element, width)
        values = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), type=item)
    return pa.Table.from_arrays([values], schema=pa.schema([pa.field("f", item, nullable=False)]))


def write(features: np.ndarray, layout: Layout, path: Path) -> None:
    """Writes features in one layout."""
    compression, level = COMPRESSIONS[layout.compression]
    leaf = "f.list.element" if layout.kind == "list" else "f"
    pq.write_table(
        column(features, layout.kind),
        path,
        row_group_size=layout.group,
        use_dictionary=False,
        use_byte_stream_split=[leaf] if layout.encoding == SPLIT else False,
        compression=compression,
        compression_level=level,
    )


def scan(path: Path, layout: Layout, width: int) -> int:
    """Reads a file row group by row group and touches every byte."""
    total = 0
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            values = file.read_row_group(group)["f"].combine_chunks()
            if layout.kind == "list":
                total += touch(values.flatten().to_numpy())
            else:
                start = values.offset * width
                block = values.buffers()[1][start : start + len(values) * width]
                total += touch(np.frombuffer(block, np.uint8))
    return total


def touch(values: np.ndarray) -> int:
    """Reads every byte, so that lazily mapped pages are loaded."""
    return int(np.bitwise_xor.reduce(values.reshape(-1).view(np.uint64)))


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that `work` took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def load(path: Path) -> int:
    """Loads a file of `np.save` and touches all of it."""
    return touch(np.load(path))


def measure(features: np.ndarray, rounds: int, folder: Path) -> tuple[Seconds, Seconds, dict]:
    """Times every layout once a round.

    Returns:
      (seconds to write, seconds to scan, bytes), each by the layout's name, with
      ``np.save``, ``np.load`` as one of them.
    """
    width = features[0].nbytes
    found = {str(layout): layout for layout in layouts()}
    written: Seconds = {name: [] for name in (BASELINE, *found)}
    scanned: Seconds = {name: [] for name in (BASELINE, *found)}
    sizes: dict[str, int] = {}
    for turn in range(rounds):
        names = [BASELINE, *found]
        for name in names if turn % 2 == 0 else names[::-1]:
            path = folder / ("features.npy" if name == BASELINE else "features.parquet")
            if name == BASELINE:
                written[name].append(timed(partial(np.save, path, features)))
                scanned[name].append(timed(partial(load, path)))
            else:
                way = found[name]
                written[name].append(timed(partial(write, features, way, path)))
                scanned[name].append(timed(partial(scan, path, way, width)))
            sizes[name] = path.stat().st_size
            path.unlink()
    return written, scanned, sizes


def report(features: np.ndarray, rounds: int, folder: Path) -> list[str]:
    """Measures one kind of features; returns a Markdown table with median rates."""
    written, scanned, sizes = measure(features, rounds, folder)
    megabytes = features.nbytes / 1e6
    rows = []
    for name in written:
        pair = []
        for seconds in (written, scanned):
            rate = megabytes / statistics.median(seconds[name])
            ratio = paired_ratio(seconds[BASELINE], seconds[name])
            pair.append(f"{number(rate)} ({number(ratio)})")
        rows.append([name, *pair, f"{sizes[name] / features.nbytes:.1%}"])
    return table(["layout", "write MB/s (ratio)", "scan MB/s (ratio)", "size"], rows)


def feature_sets(images: int, rows: int, folder: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (base, heading, features) of every base; their stores stay in `folder`."""
    write_varied(folder / "photographs", images)
    for base in BASES.values():
        count = rows * (1 if base.pooling == "none" else 10)
        features = more_rows(real_features(base, images, folder), count)
        shape = "x".join(map(str, features.shape))
        zeros = float((features == 0).mean())
        heading = (
            f"{base.title}: {shape} {features.dtype}, {features.nbytes / 1e6:,.0f} MB, "
            f"{zeros:.0%} zeros"
        )
        yield base.name, heading, features


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    counts = {"images": 256, "rows": 2048, "rounds": 5}
    args = counted_parser("benchmarks.layouts", __doc__, **counts).parse_args(argv)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for _, heading, features in feature_sets(args.images, args.rows, Path(name)):
            lines += [heading, "", *report(features, args.rounds, Path(name)), ""]
    publish("benchmarks.layouts", lines[:-1], args.write)
    return 0


if __name__ == "__main__":
    main(run)
