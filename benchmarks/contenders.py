"""The contenders of a throughput measurement: each processes the same images with the same base."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bases import Base
from benchmarks.machine import cpu_flags, installed
from benchmarks.processes import module, run_command
from benchmarks.progress import Progress, extraction_timing
from benchmarks.raydata import require_ray
from benchmarks.rounds import Contender, NotRun, Timing
from featurestore.io.cores import cores

# (engine, precision) for which `pipelines.extract` is measured; "auto" is its own choice.
VARIANTS = (
    ("auto", "auto"),
    ("tensorflow", "float32"),
    ("tensorflow", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
TEXTBOOK, RAY, DECODE = "textbook loop", "Ray Data", "decode alone"
OURS, TWO = "Hoarfrost", "Hoarfrost, two processes"
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@dataclass(frozen=True)
class Bench:
    """What the contenders share.

    Attributes:
      folder: where they write everything.
      classes: the folder that holds the class folders.
      base: the base that runs.
      base_file: the file of its model.
      images: number of images.
      timeout: seconds that one run may take.
      has_engines: whether this Hoarfrost has --engine and --precision.
    """

    folder: Path
    classes: Path
    base: Base
    base_file: Path
    images: int
    timeout: float
    has_engines: bool

    def keras_flags(self) -> list[object]:
        """Returns the flags of a contender that builds its own loop around the base."""
        base = self.base
        return [
            *("--folder", self.classes, "--base", self.base_file, "--size", base.size),
            *("--preprocess", base.preprocess, "--pooling", base.pooling),
        ]


def variant_name(engine: str, precision: str) -> str:
    """Returns the name of a variant of our command in the tables."""
    if "auto" in (engine, precision):
        return OURS
    return f"{OURS}, {engine} {precision}"


def has_engines(folder: Path) -> bool:
    """Returns whether ``pipelines.extract`` knows --engine and --precision."""
    told = run_command(module("pipelines.extract", "--help"), folder, 60).out
    return "--engine" in told and "--precision" in told


def contenders(bench: Bench) -> list[Contender]:
    """Returns every contender; one that cannot run here says so when it is run."""
    found = [
        Contender(TEXTBOOK, lambda: reported(bench, "benchmarks.book")),
        Contender(RAY, lambda: _ray(bench)),
        Contender(DECODE, lambda: alone(bench, "decode")),
    ]
    for engine, precision in VARIANTS:
        found.append(_variant(bench, engine, precision))
        if engine != "auto":
            found.append(_engine_alone(bench, engine, precision))
    found += [_openvino_alone(bench, precision) for precision in ("float32", "float16", "bfloat16")]
    if cores() > 1:
        found.append(
            Contender(
                TWO,
                lambda: extraction(
                    bench, "two", [*engine_flags(bench, "auto", "auto"), *TWO_PROCESSES]
                ),
            )
        )
    return found


def contender_names(base: Base) -> tuple[str, ...]:
    """Returns the names of all contenders, without preparing anything."""
    nowhere = Path()
    bench = Bench(nowhere, nowhere, base, nowhere, 0, 0.0, False)
    return tuple(contender.name for contender in contenders(bench))


def engine_alone_name(engine: str, precision: str) -> str:
    """Returns the name of our engine alone in the tables."""
    return f"base alone, {engine} {precision}"


def openvino_alone_name(precision: str) -> str:
    """Returns the name, in the tables, of OpenVINO through its own interface."""
    return f"base alone, OpenVINO's own {precision}"


def reported(bench: Bench, name: str) -> Timing:
    """Runs a module that prints the report of a `Stopwatch` as its last line."""
    for leftover in ("features", "first.json"):
        _remove(bench.folder / leftover)
    finished = run_command(module(name, *bench.keras_flags()), bench.folder, bench.timeout)
    report = finished.report()
    if report["images"] != bench.images:
        raise NotRun(f"it did {report['images']} of {bench.images} images")
    rest, seconds = (
        report["images"] - report["first_images"],
        report["last_at"] - report["first_at"],
    )
    return Timing(
        rate=rest / seconds if rest and seconds > 0 else None,
        whole_rate=bench.images / finished.seconds,
        first_seconds=report["first_at"] - finished.started,
        peak_bytes=finished.peak_bytes,
    )


def extraction(bench: Bench, name: str, flags: Sequence[str]) -> Timing:
    """Runs Hoarfrost's whole command into a new store.

    Args:
      bench: what the contenders share.
      name: of the store, which is in the folder ``store-NAME``.
      flags: those besides input, output and base.
    """
    store = bench.folder / f"store-{name}"
    command = module(
        "pipelines.extract",
        *("--input", bench.classes, "--output", store.name),
        *(*bench.base.flags(bench.base_file), *flags),
    )
    return timed(bench, store, command)


def timed(bench: Bench, output: Path, command: Sequence[str]) -> Timing:
    """Runs a command of ours that commits chunks into a new folder, and times it.

    Args:
      bench: what the contenders share.
      output: the command's folder, which is removed first.
      command: with its arguments.
    """
    _remove(output)
    progress = Progress(bench.folder)
    finished = run_command(command, bench.folder, bench.timeout, progress.look)
    return extraction_timing(finished, progress, output)


def _ray(bench: Bench) -> Timing:
    require_ray()
    return reported(bench, "benchmarks.raydata")


def alone(bench: Bench, step: str, *flags: object) -> Timing:
    """Runs one step of ``benchmarks.alone`` on the images of a measurement."""
    command = module(
        "benchmarks.alone", step, "--folder", bench.classes, "--size", bench.base.size, *flags
    )
    finished = run_command(command, bench.folder, bench.timeout)
    report = finished.report()
    rate, start = max(report["rates"].values()), report["first_at"] - finished.started
    numerics = report.get("numerics")
    return Timing(
        rate=rate,
        whole_rate=bench.images / (start + bench.images / rate),
        first_seconds=start,
        peak_bytes=finished.peak_bytes,
        numerics=tuple(numerics) if numerics else None,
    )


def engine_flags(bench: Bench, engine: str, precision: str) -> list[str]:
    """Returns the flags of a variant.

    Raises:
      NotRun: when this Hoarfrost, or this machine, has no such engine.
    """
    if engine == "openvino" and not installed("openvino"):
        raise NotRun("OpenVINO is not installed; pip install 'hoarfrost[openvino]' brings it")
    if (engine, precision) == ("tensorflow", "bfloat16") and not BFLOAT16 & cpu_flags():
        raise NotRun("this CPU has no bfloat16; TensorFlow would imitate it, slowly")
    if bench.has_engines:
        return ["--engine", engine, "--precision", precision]
    if (engine, precision) in (("auto", "auto"), ("tensorflow", "float32")):
        return []
    raise NotRun("this version has no --engine and --precision")


def _variant(bench: Bench, engine: str, precision: str) -> Contender:
    def extract() -> Timing:
        timing = extraction(bench, f"{engine}-{precision}", engine_flags(bench, engine, precision))
        if engine != "auto" and timing.numerics != (engine, precision):
            raise NotRun(f"it ran as {timing.numerics}")
        return timing

    return Contender(variant_name(engine, precision), extract)


def _engine_alone(bench: Bench, engine: str, precision: str) -> Contender:
    def measure() -> Timing:
        store = bench.folder / f"store-{engine}-{precision}"
        if not (store / "summary.json").is_file():
            raise NotRun("its extraction was not run")
        return alone(bench, "engine", "--store", store)

    return Contender(engine_alone_name(engine, precision), measure)


def _openvino_alone(bench: Bench, precision: str) -> Contender:
    def measure() -> Timing:
        if not installed("openvino"):
            raise NotRun("OpenVINO is not installed; pip install 'hoarfrost[openvino]' brings it")
        base = bench.base
        return alone(
            bench,
            "openvino",
            *("--base", bench.base_file, "--preprocess", base.preprocess),
            *("--pooling", base.pooling, "--precision", precision),
        )

    return Contender(openvino_alone_name(precision), measure)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
