"""One step of an extraction alone, on all cores: the bound for the whole path.

    python -m benchmarks.alone decode --folder photos/train --size 160
    python -m benchmarks.alone engine --folder photos/train --size 160 --store store
    python -m benchmarks.alone openvino --folder photos/train --size 160 --base base.keras \\
        --preprocess tf --pooling avg --precision float32

`engine` is the store's own engine, called by one thread and by one thread per core; the faster of
the two counts. `openvino` is OpenVINO through its own interface, with one stream and with one per
core: a bound that does not depend on our code. The report is printed as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.pixels.decoder import decode
from classifier.runtime import keep_freed_memory
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.errors import UsageError
from featurestore.io.cores import cores
from featurestore.spec import PixelSpec

if TYPE_CHECKING:
    from classifier.engines import Engine

BATCH = 16
BATCHES = 4  # distinct ones
CAPABILITIES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def steady(work: Callable[[int], Any], threads: int, seconds: float) -> float:
    """Returns calls per second of `work` when several threads call it at once.

    Args:
      work: takes the number of its call.
      threads: number of callers.
      seconds: after which no further call begins.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))  # the first calls set things up
        started = time.perf_counter()

        def caller(thread: int) -> int:
            calls = 0
            while not calls or time.perf_counter() - started < seconds:
                work(thread + calls * threads)
                calls += 1
            return calls

        total = sum(pool.map(caller, range(threads)))
        return total / (time.perf_counter() - started)


def decode_rates(args) -> dict[str, Any]:
    """Reads and decodes files with one thread per core."""
    paths, spec = _files(args.folder), PixelSpec((args.size, args.size))
    first_at = _after(lambda: decode(paths[0].read_bytes(), spec))

    def work(call: int) -> None:
        decode(paths[call % len(paths)].read_bytes(), spec)

    rates = {f"{cores()} threads": steady(work, cores(), args.seconds)}
    return {"first_at": first_at, "rates": rates}


def engine_rates(args) -> dict[str, Any]:
    """Runs the engine that made a store, on batches in memory."""
    keep_freed_memory()  # as every command of Hoarfrost does
    batches, rates = _batches(args.folder, args.size), {}
    first_at = 0.0
    for callers, engine in _engines(str(args.store)):

        def work(call: int, engine=engine) -> None:
            engine(batches[call % BATCHES])

        work(0)
        first_at = first_at or time.time()
        rates[f"{callers} callers"] = BATCH * steady(work, callers, args.seconds)
        numerics = engine.numerics
    return {
        "first_at": first_at,
        "rates": rates,
        "numerics": [numerics.engine, numerics.precision],
    }


def _engines(store_url: str) -> Iterator[tuple[int, Engine]]:
    """Yields the engine of a store for one caller per core, then for one caller."""
    from classifier.engines import EngineChoice, StoredBase, load_engine
    from featurestore import open_store

    store = open_store(store_url)
    base, choice = StoredBase(store.storage, store.spec), EngineChoice.of(store.spec.numerics)
    # The larger number first, because TensorFlow keeps the threads that it started with.
    for callers in sorted({cores(), 1}, reverse=True):
        yield callers, load_engine(base, choice, BATCH, callers, cores())


def openvino_rates(args) -> dict[str, Any]:
    """Runs the base through OpenVINO's own interface, on batches in memory."""
    import openvino

    model = _converted(args)
    core, batches, rates = openvino.Core(), _batches(args.folder, args.size), {}
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[args.precision] not in able:
        raise UsageError(f"this CPU has no {args.precision}; it has {', '.join(able)}")
    first_at = 0.0
    for streams in sorted({1, cores()}):
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": HINTS[args.precision],
            "ENABLE_CPU_PINNING": False,
        }
        queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings), streams)

        def push(call: int, queue=queue) -> None:
            queue.start_async({0: batches[call % BATCHES]}, share_inputs=True)

        push(0)
        queue.wait_all()
        first_at = first_at or time.time()
        rates[f"{streams} streams"] = BATCH * _queued(push, queue, args.seconds)
    return {
        "first_at": first_at,
        "rates": rates,
        "numerics": ["openvino", args.precision],
    }


def _queued(push: Callable[[int], None], queue: Any, seconds: float) -> float:
    """Returns calls per second of a queue, which itself waits for room."""
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        push(calls)
        calls += 1
    queue.wait_all()
    return calls / (time.perf_counter() - started)


def _converted(args) -> Any:
    """Returns OpenVINO's model of preprocessing, base and pooling, for uint8 batches."""
    import openvino

    from classifier.base.preprocess import pool_graph, preprocess_graph
    from classifier.runtime import import_keras

    keras = import_keras()
    import tensorflow as tf

    model = keras.saving.load_model(args.base)
    preprocess = preprocess_graph(args.preprocess)
    pool = pool_graph(args.pooling, len(model.output_shape))
    shape = (BATCH, args.size, args.size, 3)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)])
    def graph(batch):
        return pool(model(preprocess(tf.cast(batch, tf.float32)), training=False))

    return openvino.convert_model(graph.get_concrete_function())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.jpg"))


def _batches(folder: Path, size: int) -> list[np.ndarray]:
    """Returns uint8 (BATCH, size, size, 3) batches of the folder's first images, repeated."""
    paths, spec = _files(folder), PixelSpec((size, size))
    pixels = [decode(path.read_bytes(), spec).pixels for path in paths[: BATCH * BATCHES]]
    return [
        np.stack([pixels[(start + index) % len(pixels)] for index in range(BATCH)])
        for start in range(0, BATCH * BATCHES, BATCH)
    ]


def _after(work: Callable[[], Any]) -> float:
    """Calls `work` once; returns the time after it, in seconds since the epoch."""
    work()
    return time.time()


STEPS = {"decode": decode_rates, "engine": engine_rates, "openvino": openvino_rates}


def run(argv: Sequence[str]) -> int:
    """Measures one step; returns the exit code."""
    parser = Parser(prog="python -m benchmarks.alone", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="how long each setting is measured (default 6)"
    )
    parser.add_argument("--store", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--preprocess", default="none")
    parser.add_argument("--pooling", default="none")
    parser.add_argument("--precision", choices=HINTS, default="float32")
    args = parser.parse_args(argv)
    quiet_libraries()
    say(json.dumps(STEPS[args.step](args)))
    return 0


if __name__ == "__main__":
    main(run)
