"""What does ONNX Runtime cost on a CPU, against OpenVINO, for one ONNX graph?

    python -m benchmarks.onnxengines [--images 256] [--rounds 7]

MobileNetV2 at 160, with the real weights that ``make install`` brings, becomes an ONNX file by
tf2onnx. Both engines compute its pooled features of the same photographs in float32, with as many
lanes as there are cores, in this process and in turn; every other round runs backwards. Processor
time counts, which other programs of the machine change least: of all threads, for decoded images.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base
from benchmarks.images import write_varied
from benchmarks.tables import publish, table
from classifier.base.build import build_base
from classifier.base.request import BaseRequest
from classifier.engines import Engine, EngineChoice, StoredBase, load_engine
from classifier.engines.engine import relative_distances
from classifier.engines.precision import features_of
from classifier.pixels.decoder import decode
from classifier.runtime import import_keras, standard_error_held
from featurestore.cli.command import main, quiet_libraries
from featurestore.io.cores import cores
from featurestore.io.storage import Storage
from featurestore.numerics import UNDECIDED
from featurestore.spec import PixelSpec, StoreSpec

BASE = BASES["MobileNetV2"]
ENGINES = ("openvino", "onnxruntime")
BATCH = 16


def write_onnx(folder: Path) -> Path:
    """Writes the base as an ONNX file, by way of a file of Keras."""
    write_base(BASE, folder / "base.keras")
    keras = import_keras()
    import tensorflow as tf
    import tf2onnx

    model = keras.models.load_model(folder / "base.keras")
    signature = (tf.TensorSpec((None, BASE.size, BASE.size, 3), tf.float32, name="image"),)
    with standard_error_held():
        tf2onnx.convert.from_keras(model, signature, 18, output_path=str(folder / "base.onnx"))
    return folder / "base.onnx"


def engines_of(file: Path) -> dict[str, Engine]:
    """Returns both engines of an ONNX file."""
    side = BASE.size
    built = build_base(
        BaseRequest(str(file), pooling="avg", image_size=(side, side), preprocess=BASE.preprocess)
    )
    pixels = PixelSpec(built.image_size)
    spec = StoreSpec(built.spec, pixels, built.feature_shape, "float32", UNDECIDED)
    base = StoredBase(Storage(str(file.parent)), spec, model=built.model)
    return {name: load_engine(base, EngineChoice(name), BATCH, cores()) for name in ENGINES}


def measure(
    engines: Mapping[str, Engine], images: np.ndarray, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Returns (processor seconds, seconds) of each round: engine -> rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for number in range(rounds):
        for name in list(engines)[:: -1 if number % 2 else 1]:
            started = time.process_time(), time.perf_counter()
            features_of(engines[name], images, cores())
            ended = time.process_time(), time.perf_counter()
            found[name].append((ended[0] - started[0], ended[1] - started[1]))
    return found


def report(count: int, rounds: int) -> list[str]:
    """Measures both engines; returns the table, as lines of Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        folder = Path(work)
        (folder / "images").mkdir()
        write_varied(folder / "images", count)
        files = sorted((folder / "images").rglob("*.jpg"))
        pixels = PixelSpec((BASE.size, BASE.size))
        images = np.stack([decode(file.read_bytes(), pixels).pixels for file in files])
        engines = engines_of(write_onnx(folder))
        # The first calls allocate.
        rows = {name: features_of(engine, images, cores()) for name, engine in engines.items()}
        found = measure(engines, images, rounds)
    rows_apart = relative_distances(rows["onnxruntime"], rows["openvino"]).max()
    lines = []
    for name, spent in found.items():
        pairs = zip(spent, found["openvino"], strict=True)
        ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
        processor, wall = (statistics.median(column) for column in zip(*spent, strict=True))
        cells = [f"{1000 * processor / len(images):.2f} ms", f"{ratio:.2f}"]
        lines.append([name, *cells, f"{len(images) / wall:,.0f} images/s"])
    head = ["engine", "processor time per image", "of OpenVINO's", "rate"]
    versions = engines["onnxruntime"].numerics.versions
    release = next(f"{name} {got}" for name, got in versions.items() if "onnx" in name)
    note = f"{release}; the rows differ by {rows_apart:.1e} at most (relative L2 distance)."
    return [*table(head, lines), "", note]


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = counted_parser("benchmarks.onnxengines", __doc__, images=256, rounds=7)
    args = parser.parse_args(argv)
    given = f"--images {args.images} --rounds {args.rounds}"
    publish(f"benchmarks.onnxengines {given}", report(args.images, args.rounds), args.write)
    return 0


if __name__ == "__main__":
    main(run)
