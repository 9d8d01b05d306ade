"""What a GPU gives: its batches, its precisions, and how busy an extraction keeps it.

    python -m benchmarks.gpu [--bases VGG16,MobileNetV2] [--images 4000] [--write docs/gpu.md]

Needs a GPU that TensorFlow sees. ``HOARFROST_DEVICE=cpu`` rehearses every step of it on the
processor, which stands in for the GPU; its figures say nothing about a GPU.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, Base, chosen, write_base_apart
from benchmarks.images import write_photographs, write_varied
from benchmarks.processes import module, run_command
from benchmarks.tables import number, publish, table
from classifier.engines.batching import BatchTrial
from classifier.engines.device import CPU, NONE, VARIABLE, asked, sees_gpu
from featurestore.cli.command import main
from featurestore.errors import UsageError

FIRST_BATCH, COMPARED = 16, 64
SMI = "nvidia-smi"
QUERY = "name,memory.total,driver_version"


def require_gpu() -> None:
    """Refuses a machine without a GPU.

    Raises:
      UsageError: in one line.
    """
    if asked() != CPU and not sees_gpu():
        raise UsageError(
            f"benchmarks.gpu: TensorFlow sees no GPU here; {VARIABLE}=cpu rehearses the steps on "
            "the processor"
        )


class Utilisation:
    """Asks nvidia-smi four times a second how busy the GPUs are; used as a context.

    Attributes:
      percent: the answers, averaged over the GPUs.
    """

    def __init__(self) -> None:
        self.percent: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Utilisation:
        if shutil.which(SMI):
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _ask(self) -> None:
        while not self._end.wait(0.25):
            if answers := smi("utilization.gpu"):
                self.percent.append(statistics.fmean(float(answer) for answer in answers))

    @property
    def busiest(self) -> float | None:
        """The 90th percentile, which leaves start-up and end out; None without nvidia-smi."""
        return float(np.percentile(self.percent, 90)) if self.percent else None


def smi(query: str) -> list[str]:
    """Returns what nvidia-smi answers for each GPU; nothing without it."""
    if not shutil.which(SMI):
        return []
    command = [SMI, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def device_lines() -> list[str]:
    """Returns lines about the GPUs, TensorFlow's build and the settings that hold."""
    from classifier.engines.tensorflow import limit_threads
    from classifier.runtime import import_keras
    from featurestore.io.readahead import cores

    import_keras()
    import tensorflow as tf

    limit_threads(cores(), cores())
    found = tf.config.list_physical_devices("GPU")
    grows = [tf.config.experimental.get_memory_growth(one) for one in found]
    build = tf.sysconfig.get_build_info()
    stands_in = f"none; the processor stands in ({VARIABLE}=cpu)"
    return [
        f"* GPUs: {'; '.join(smi(QUERY)) or ', '.join(one.name for one in found) or stands_in}",
        f"* TensorFlow {tf.__version__}, built for CUDA {build.get('cuda_version', 'none')}, "
        f"cuDNN {build.get('cudnn_version', 'none')}",
        f"* Memory growth: {'on' if all(grows) and grows else 'no GPU'}; TF32: "
        f"{'on' if tf.config.experimental.tensor_float_32_execution_enabled() else 'off'}",
    ]


def extraction_row(base: Base, file: Path, folder: Path, name: str, device: str) -> list[str]:
    """Extracts with a device or without one; returns the row of a table."""
    command = module(
        "pipelines.extract",
        *("--input", "photographs", "--output", name, "--engine", "tensorflow", "--json"),
        *base.flags(file),
    )
    with Utilisation() as seen:
        out = run_command(["env", f"{VARIABLE}={device}", *command], folder, 3600).out
    record = json.loads(out)
    time = record["time"]
    there = time["seconds"] - time["to_first_image"] - time["after_last_chunk"]
    busy = time.get("device", {})
    return [
        name.split("-")[-1],
        record["engine"]["precision"],
        number(record["ledger"]["rows"] / max(there, 1e-3)),
        number(record["images_per_second"]),
        *(f"{busy[share]:.0%}" if busy else "-" for share in ("busy", "full")),
        number(seen.busiest, "%"),
        str(time["lanes"]),
        time["bound"],
    ]


def measure_engines(base: Base, file: Path, images: np.ndarray) -> dict[str, Any]:
    """Finds each precision's batch, and compares its features with float32's on the processor.

    Args:
      base: that is measured.
      file: its weights.
      images: uint8 (n, H, W, 3).

    Returns:
      precision -> (trials of batch sizes, closeness to the processor's float32).
    """
    from classifier.engines.batching import fastest_batch
    from classifier.engines.engine import run_padded
    from classifier.engines.hardware import this_machine
    from classifier.engines.precision import closeness
    from classifier.engines.tensorflow import TensorFlowEngine, out_of_memory
    from classifier.runtime import import_keras
    from featurestore.spec import BaseSpec

    keras = import_keras()
    import tensorflow as tf

    model = keras.saving.load_model(file)
    spec = BaseSpec(base.name, "none", "0" * 32, "", base.pooling, base.preprocess, "r")
    size = (base.size, base.size)
    with tf.device("/CPU:0"):
        truth = run_padded(TensorFlowEngine(model, spec, size, FIRST_BATCH), images)
    found = {}
    for precision in ("float32", *this_machine().native["tensorflow"]):
        make = partial(TensorFlowEngine, model, spec, size, precision=precision)
        engine, trials = fastest_batch(make, size, FIRST_BATCH, out_of_memory())
        found[precision] = trials, closeness(run_padded(engine, images), truth)
    return found


def batch_table(found: dict[str, tuple[list[BatchTrial], Any]]) -> list[str]:
    """Returns a table of images/s by batch size and precision; the last doubling did not pay."""
    rates = {
        name: {trial.batch_size: trial.images_per_second for trial in trials}
        for name, (trials, _) in found.items()
    }
    sizes = sorted({size for by_size in rates.values() for size in by_size})
    rows = [[str(size), *(number(rates[name].get(size)) for name in found)] for size in sizes]
    return table(["batch", *(f"{name}, images/s" for name in found)], rows)


def closeness_table(found: dict[str, tuple[list[BatchTrial], Any]]) -> list[str]:
    """Returns a table of the distance of each precision from the processor's float32."""
    rows = []
    for name, (_, close) in found.items():
        cosines = (f"{cosine:.6f}" for cosine in (close.cosine_minimum, close.cosine_median))
        rows.append([name, *cosines, f"{close.error_median:.2e}"])
    return table(["precision", "lowest cosine", "median cosine", "median relative error"], rows)


def base_lines(base: Base, folder: Path, count: int) -> list[str]:
    """Measures one base; returns its part of the report."""
    file = write_base_apart(base, folder)
    device = CPU if asked() == CPU else "auto"
    ways = {"device": device, "processor": NONE}
    rows = [
        extraction_row(base, file, folder, f"{base.name}-{way}", value)
        for way, value in ways.items()
    ]
    header = ["on", "precision", "images/s", "with start-up", "busy", "batches full"]
    header += ["nvidia-smi", "lanes", "bound by"]
    from PIL import Image

    sample = sorted((folder / "sample").glob("*.jpg"))
    size = (base.size, base.size)
    images = np.stack([np.asarray(Image.open(path).resize(size)) for path in sample])
    found = measure_engines(base, file, images)
    return [
        f"### {base.title}",
        "",
        f"An extraction of {count:,} JPEG files, `--precision auto`, start-up apart:",
        "",
        *table(header, rows),
        "",
        "The base alone, by batch size; the batch is doubled until that pays no longer:",
        "",
        *batch_table(found),
        "",
        f"Features of {len(images)} photographs against float32 on the processor:",
        "",
        *closeness_table(found),
        "",
    ]


def run(argv: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = counted_parser("benchmarks.gpu", __doc__, images=4000)
    parser.add_argument("--bases", default=",".join(BASES), help="default %(default)s")
    args = parser.parse_args(argv)
    bases = chosen(args.bases)
    require_gpu()
    with tempfile.TemporaryDirectory(prefix="hoarfrost-gpu-") as name:
        folder, about = Path(name), device_lines()
        write_photographs(folder, args.images).rename(folder / "photographs")
        write_varied(folder / "sample", COMPARED)
        lines = [line for base in bases for line in base_lines(base, folder, args.images)]
    publish("benchmarks.gpu", [*about, "", *lines], args.write)
    return 0


if __name__ == "__main__":
    main(run)
